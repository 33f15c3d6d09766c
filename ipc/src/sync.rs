//! The one place that atomics come from, so that loom can put its own in their stead.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};

/// A place in the event-index protocol without which it fails. The loom models leave each out in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// The fence between publishing and looking whether the other side sleeps.
    Publish,
    /// The fence between saying that we sleep and the last look.
    Sleep,
    /// That last look.
    SecondLook,
    /// A quiet publication leaves its span open, so that a later loud one still rings.
    OpenSpan,
    /// Whoever waits for room says so before it sleeps.
    Wish,
    /// The fence between taking a request and looking whether it was withdrawn.
    Take,
    /// The fence between withdrawing a request and looking whether it was taken.
    Withdraw,
}

/// The full fence of one site.
#[inline]
pub(crate) fn fence(site: Site) {
    if present(site) {
        #[cfg(not(loom))]
        core::sync::atomic::fence(Ordering::SeqCst);
        #[cfg(loom)]
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Whether the protocol has this site: always, but for the models that show why.
#[cfg(not(loom))]
#[inline]
pub(crate) fn present(_: Site) -> bool {
    true
}

#[cfg(loom)]
pub(crate) use mutation::{present, without};

#[cfg(loom)]
mod mutation {
    use std::cell::Cell;

    use super::Site;

    std::thread_local! {
        static MISSING: Cell<Option<Site>> = const { Cell::new(None) };
    }

    /// Whether the protocol has this site.
    pub(crate) fn present(site: Site) -> bool {
        MISSING.get() != Some(site)
    }

    /// Runs a model with one site left out. Loom runs a model's threads on the thread that called it.
    pub(crate) fn without(site: Site, model: impl FnOnce()) {
        MISSING.set(Some(site));
        model();
    }
}
