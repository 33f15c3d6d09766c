//! When to ring, and when it is safe to sleep: virtio's event index, with quiet publications.
//!
//! Each word has one writer. Whoever publishes stores `tail`, then looks at the other side's `wake_at`; whoever
//! sleeps stores `wake_at`, then looks at `tail`. A full fence stands between the two steps on both sides, so at
//! least one of them sees the other: nobody sleeps over news.
//!
//! A slot that only gives blocks back is *quiet*: it rings for nobody but a side that waits for room
//! (`want_room`). Its index stays in the open span, so that a sleeper whose `wake_at` it passed is still rung
//! when something loud follows.

use crate::sync::{Ordering, Site, fence, present};

/// A word that the other side, or a model, holds.
pub(crate) trait Load {
    /// Its value now.
    fn load(&self, order: Ordering) -> u32;
}

/// A word of our own.
pub(crate) trait Store {
    /// Lets the other side see `value`.
    fn store(&self, value: u32, order: Ordering);
}

/// The publisher's private account of what the other side may have slept through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Publisher {
    /// One past the last published slot.
    pub(crate) tail: u32,
    /// The first slot that no decision about the bell has covered.
    settled: u32,
    /// Something in `settled..tail` is worth a bell by itself.
    loud: bool,
}

impl Publisher {
    /// Publishes the slot that was just written at `self.tail`.
    #[inline]
    pub(crate) fn publish(&mut self, tail: &impl Store, loud: bool) {
        self.tail = self.tail.wrapping_add(1);
        self.loud |= loud;
        // SYNC POINT: slots. Pairs with the reader's acquiring load of `tail`.
        tail.store(self.tail, Ordering::Release);
    }

    /// Whether to ring, once for all that was published since the last time.
    #[inline]
    pub(crate) fn must_ring(&mut self, wake_at: &impl Load, want_room: &impl Load) -> bool {
        if self.tail == self.settled {
            return false;
        }
        fence(Site::Publish);
        if !self.loud && want_room.load(Ordering::Relaxed) == 0 {
            if !present(Site::OpenSpan) {
                self.settled = self.tail;
            }
            return false;
        }
        let span = self.tail.wrapping_sub(self.settled);
        let from_wake = self.tail.wrapping_sub(wake_at.load(Ordering::Relaxed)).wrapping_sub(1);
        self.settled = self.tail;
        self.loud = false;
        from_wake < span
    }
}

/// Says that this side sleeps once it has read everything before `head`, and looks a last time. True: nothing is
/// there, and whoever publishes next will ring.
#[inline]
pub(crate) fn arm(
    head: u32,
    wants_room: bool,
    wake_at: &impl Store,
    want_room: &impl Store,
    tail: &impl Load,
) -> bool {
    want_room.store(u32::from(wants_room && present(Site::Wish)), Ordering::Relaxed);
    wake_at.store(head, Ordering::Relaxed);
    fence(Site::Sleep);
    !present(Site::SecondLook) || tail.load(Ordering::Relaxed) == head
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Default)]
    struct Word(Cell<u32>);

    impl Load for Word {
        fn load(&self, _: Ordering) -> u32 {
            self.0.get()
        }
    }

    impl Store for Word {
        fn store(&self, value: u32, _: Ordering) {
            self.0.set(value);
        }
    }

    #[derive(Default)]
    struct Words {
        tail: Word,
        wake_at: Word,
        want_room: Word,
    }

    impl Words {
        fn rings(&self, publisher: &mut Publisher, loud: bool) -> bool {
            publisher.publish(&self.tail, loud);
            publisher.must_ring(&self.wake_at, &self.want_room)
        }

        fn sleeps(&self, head: u32, wants_room: bool) -> bool {
            arm(head, wants_room, &self.wake_at, &self.want_room, &self.tail)
        }
    }

    #[test]
    fn a_sleeper_is_rung_once() {
        let (words, mut publisher) = (Words::default(), Publisher::default());
        assert!(words.sleeps(0, false));
        assert!(words.rings(&mut publisher, true));
        assert!(!words.rings(&mut publisher, true));
        assert!(!words.sleeps(1, false));
        assert!(words.sleeps(2, false));
        assert!(words.rings(&mut publisher, true));
    }

    #[test]
    fn a_quiet_slot_rings_only_for_who_waits_for_room() {
        let (words, mut publisher) = (Words::default(), Publisher::default());
        assert!(words.sleeps(0, false));
        assert!(!words.rings(&mut publisher, false));
        assert!(words.sleeps(1, true));
        assert!(words.rings(&mut publisher, false));
    }

    #[test]
    fn a_loud_slot_after_a_quiet_one_still_rings() {
        let (words, mut publisher) = (Words::default(), Publisher::default());
        assert!(words.sleeps(0, false));
        assert!(!words.rings(&mut publisher, false));
        assert!(words.rings(&mut publisher, true));
    }

    #[test]
    fn indices_wrap_around() {
        let words = Words::default();
        let mut publisher = Publisher { tail: u32::MAX, settled: u32::MAX, loud: false };
        words.tail.0.set(u32::MAX);
        assert!(words.sleeps(u32::MAX, false));
        assert!(words.rings(&mut publisher, true));
        assert_eq!(words.tail.0.get(), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_models;
