//! How many connections each worker has, so that all get a fair share of the new ones.
//!
//! The kernel wakes one idle worker for a new connection, which is often the same one. A worker that has many more than
//! the least of them stops listening, and lets that one listen instead; so somebody always does.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Above the least, a worker may have so many connections more...
const SLACK: usize = 8;
/// ...and one more for each of so many.
const SLACK_EACH: usize = 8;

/// The counts, by worker.
#[derive(Debug)]
pub(super) struct Shares(Vec<AtomicUsize>);

impl Shares {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| AtomicUsize::new(0)).collect())
    }

    /// Says how many connections a worker has. Others may see it late: it is about fairness only.
    pub(super) fn set(&self, worker: usize, count: usize) {
        if let Some(place) = self.0.get(worker) {
            place.store(count, Ordering::Relaxed);
        }
    }

    /// Who should listen in a worker's stead, where it has more than its share.
    pub(super) fn successor(&self, worker: usize) -> Option<usize> {
        let count = |at: usize| self.0[at].load(Ordering::Relaxed);
        let least = (0..self.0.len()).min_by_key(|at| count(*at))?;
        let most = count(least) + count(least) / SLACK_EACH + SLACK;
        (self.0.get(worker)?.load(Ordering::Relaxed) > most && least != worker).then_some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_many_more_than_the_least_lets_that_one_go_first() {
        let shares = Shares::new(3);
        assert_eq!(shares.successor(0), None);
        shares.set(0, 8);
        assert_eq!(shares.successor(0), None);
        shares.set(0, 9);
        assert_eq!(shares.successor(0), Some(1));
        shares.set(1, 80);
        shares.set(2, 64);
        shares.set(0, 80);
        assert_eq!([0, 1, 2].map(|worker| shares.successor(worker)), [None; 3]);
        shares.set(0, 81);
        assert_eq!([0, 1, 2].map(|worker| shares.successor(worker)), [Some(2), None, None]);
    }

    #[test]
    fn the_least_never_steps_back() {
        for counts in [[0, 0, 0], [5, 500, 7], [1000, 1, 999]] {
            let shares = Shares::new(3);
            for (worker, count) in counts.into_iter().enumerate() {
                shares.set(worker, count);
            }
            assert!((0..3).any(|worker| shares.successor(worker).is_none()));
        }
        assert_eq!(Shares::new(1).successor(0), None);
    }
}
