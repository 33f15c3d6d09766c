//! A descriptor kept for bad times: where the process may have no more of them, whoever wants to connect can still be
//! told so, instead of waiting for nothing.

use std::fs::File;
use std::time::Duration;

use crate::time::Nanos;

/// From one line about it in the log to the next.
const TELL_PERIOD: Duration = Duration::from_secs(10);

/// One worker's.
#[derive(Debug)]
pub(super) struct Reserve {
    held: Option<File>,
    /// Connections that were turned away for want of descriptors, and not told of.
    turned_away: u64,
    tell_at: Nanos,
}

impl Reserve {
    pub(super) fn new() -> Self {
        Self { held: open(), turned_away: 0, tell_at: Nanos(0) }
    }

    /// Frees a descriptor for the moment. Whether there was one to be freed.
    pub(super) fn spend(&mut self) -> bool {
        self.held.take().or_else(open).is_some()
    }

    /// Takes it back. Another thread may have been faster; then the next [`spend`](Self::spend) tries again.
    pub(super) fn renew(&mut self) {
        self.held = open();
    }

    /// Counts one that was turned away. Gives how many there were since the last time, where it is time to tell.
    pub(super) fn note(&mut self, now: Nanos) -> Option<u64> {
        self.turned_away += 1;
        if now < self.tell_at {
            return None;
        }
        self.tell_at = now.after(TELL_PERIOD);
        Some(std::mem::take(&mut self.turned_away))
    }
}

fn open() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_tells_of_many() {
        let mut reserve = Reserve::new();
        let second = |seconds| Nanos(0).after(Duration::from_secs(seconds));
        assert_eq!(reserve.note(second(1)), Some(1));
        assert_eq!([2, 5, 10].map(|at| reserve.note(second(at))), [None; 3]);
        assert_eq!(reserve.note(second(11)), Some(4));
        assert_eq!(reserve.note(second(12)), None);
    }

    #[test]
    fn it_can_be_spent_again_once_it_is_renewed() {
        let mut reserve = Reserve::new();
        for _ in 0..2 {
            assert!(reserve.spend());
            assert!(reserve.held.is_none());
            reserve.renew();
            assert!(reserve.held.is_some());
        }
    }
}
