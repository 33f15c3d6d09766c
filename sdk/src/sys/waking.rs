//! Rust's wakers as the ABI has them. The host may call one late, or at the very moment when it is taken back; so what
//! it gets is a number, never an address, and a number that nobody listens under is ignored.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::task::Waker;

use decurion_abi as abi;

/// Who listens, by number. As many as there are operations under way.
static LISTENERS: LazyLock<Mutex<HashMap<usize, Listener>>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Listener {
    waker: Option<Waker>,
    fired: bool,
}

/// One place to be woken from. Dropped, it is deaf.
#[derive(Debug)]
pub(crate) struct HostWaker {
    number: usize,
}

impl HostWaker {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        listeners().insert(number, Listener::default());
        Self { number }
    }

    /// Wakes `waker` at the host's next call; what to give to the host.
    pub(crate) fn listen(&self, waker: &Waker) -> abi::Waker {
        self.has_fired(waker);
        abi::Waker { wake: Some(wake), data: ptr::without_provenance_mut(self.number) }
    }

    /// Whether the host has called since the last time. Where it has not, it wakes `waker`.
    pub(crate) fn has_fired(&self, waker: &Waker) -> bool {
        let mut listeners = listeners();
        let listener = listeners.entry(self.number).or_default();
        match &mut listener.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        std::mem::take(&mut listener.fired)
    }
}

impl Drop for HostWaker {
    fn drop(&mut self) {
        let listener = listeners().remove(&self.number);
        // What it holds may be the last share of a task, whose drop takes the lock again.
        drop(listener);
    }
}

unsafe extern "C" fn wake(data: *mut c_void) {
    let waker = listeners().get_mut(&data.addr()).and_then(|listener| {
        listener.fired = true;
        listener.waker.take()
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn listeners() -> MutexGuard<'static, HashMap<usize, Listener>> {
    LISTENERS.lock().unwrap_or_else(|broken| broken.into_inner())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_late_call_wakes_nobody() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let place = HostWaker::new();
        let given = place.listen(&waker);
        let call = || {
            // SAFETY: the function takes any number.
            unsafe { given.wake.unwrap()(given.data) };
        };
        call();
        call();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(place.has_fired(&waker) && !place.has_fired(&waker));
        drop(place);
        call();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
