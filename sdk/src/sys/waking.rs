//! Rust's wakers as the ABI has them. The host may call one late, or at the very moment when it is taken back; so what
//! it gets is a number, never an address, and a number that nobody listens under is ignored.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard};
use std::task::Waker;

use decurion_abi as abi;

static LISTENERS: Mutex<Listeners> = Mutex::new(Listeners { places: Vec::new(), free: Vec::new() });

/// Who listens. As many places as there were operations under way at once.
struct Listeners {
    places: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Place {
    /// Counts who has had this place.
    generation: usize,
    waker: Option<Waker>,
    fired: bool,
}

/// A number's lower half is its place, the upper one the place's generation.
const HALF: u32 = usize::BITS / 2;
const LOWER: usize = (1 << HALF) - 1;

impl Listeners {
    fn add(&mut self) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        self.places[index].generation << HALF | index
    }

    /// Gives the place to others. What it held.
    fn remove(&mut self, number: usize) -> Option<Waker> {
        let place = self.at(number)?;
        place.generation = place.generation.wrapping_add(1);
        place.fired = false;
        let waker = place.waker.take();
        self.free.push(number & LOWER);
        waker
    }

    fn at(&mut self, number: usize) -> Option<&mut Place> {
        let place = self.places.get_mut(number & LOWER)?;
        (place.generation & LOWER == number >> HALF).then_some(place)
    }
}

/// One place to be woken from. Dropped, it is deaf.
#[derive(Debug)]
pub(crate) struct HostWaker {
    number: usize,
}

impl HostWaker {
    pub(crate) fn new() -> Self {
        Self { number: listeners().add() }
    }

    /// Wakes `waker` at the host's next call; what to give to the host.
    pub(crate) fn listen(&self, waker: &Waker) -> abi::Waker {
        self.has_fired(waker);
        abi::Waker { wake: Some(wake), data: ptr::without_provenance_mut(self.number) }
    }

    /// Whether the host has called since the last time. Where it has not, it wakes `waker`.
    pub(crate) fn has_fired(&self, waker: &Waker) -> bool {
        let mut listeners = listeners();
        let Some(place) = listeners.at(self.number) else { return false };
        // What was there before may be the last share of a task, whose drop takes the lock again.
        let before = match &mut place.waker {
            Some(known) if known.will_wake(waker) => None,
            other => other.replace(waker.clone()),
        };
        let fired = std::mem::take(&mut place.fired);
        drop(listeners);
        drop(before);
        fired
    }
}

impl Drop for HostWaker {
    fn drop(&mut self) {
        let held = listeners().remove(self.number);
        // As above: not under the lock.
        drop(held);
    }
}

unsafe extern "C" fn wake(data: *mut c_void) {
    let waker = listeners().at(data.addr()).and_then(|place| {
        place.fired = true;
        place.waker.take()
    });
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn listeners() -> MutexGuard<'static, Listeners> {
    LISTENERS.lock().unwrap_or_else(|broken| broken.into_inner())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
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

    #[test]
    fn who_has_a_place_after_another_is_not_woken_by_its_calls() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut listeners = Listeners { places: Vec::new(), free: Vec::new() };
        let [first, other] = [listeners.add(), listeners.add()];
        listeners.at(first).unwrap().waker = Some(waker);
        assert!(listeners.remove(first).is_some() && listeners.remove(first).is_none());
        let second = listeners.add();
        assert_eq!((second & LOWER, listeners.places.len()), (first & LOWER, 2));
        assert!(listeners.at(first).is_none() && listeners.at(second).is_some());
        assert!(listeners.at(other).is_some() && listeners.at(usize::MAX).is_none());
    }
}
