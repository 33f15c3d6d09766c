//! Whether to look a little longer before going to sleep: a policy, without a clock.
//!
//! To wake a sleeper costs more than a round trip, so looking longer pays where the answer comes at once, and
//! costs a processor where it does not; on one processor it even keeps the answer from coming. So spinning is kept
//! only while it succeeds: a success counts one, a failure four, and a side that has lost the habit tries again
//! once in 64 times.
//!
//! `sys::spin` has the loop with the clock.

use std::time::Duration;

/// The longest that a side spins: about one wake-up.
pub const SPIN_MAX: Duration = Duration::from_micros(20);

/// So many successes are remembered.
const SCORE_MAX: i32 = 16;
const SCORE_MIN: i32 = -4;
const FAILURE: i32 = 4;
/// Without the habit, one of so many sleeps begins with a spin.
const PROBE: u32 = 64;

/// The habit of one sleeper.
#[derive(Clone, Debug)]
pub struct Spin {
    longest: Duration,
    score: i32,
    sleeps: u32,
    allowed: bool,
}

impl Spin {
    /// For a thread that shares `processors` with `partners` that may run at the same time, itself included: with
    /// fewer processors than partners it never spins.
    #[must_use]
    pub fn new(longest: Duration, processors: usize, partners: usize) -> Spin {
        Spin { longest: longest.min(SPIN_MAX), score: 0, sleeps: 0, allowed: processors >= partners }
    }

    /// One that never spins.
    #[must_use]
    pub fn never() -> Spin {
        Spin::new(Duration::ZERO, 0, 1)
    }

    /// How long to look before this sleep; `None`: sleep at once. To be followed by [`Spin::record`] where it is
    /// not `None`.
    #[must_use]
    pub fn plan(&mut self) -> Option<Duration> {
        if !self.allowed {
            return None;
        }
        self.sleeps = self.sleeps.wrapping_add(1);
        let spins = self.score >= 0 || self.sleeps.is_multiple_of(PROBE);
        spins.then_some(self.longest)
    }

    /// Whether something came while looking.
    pub fn record(&mut self, came: bool) {
        let change = if came { 1 } else { -FAILURE };
        self.score = (self.score + change).clamp(SCORE_MIN, SCORE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spins(spin: &mut Spin, turns: usize, came: bool) -> usize {
        (0..turns)
            .filter(|_| {
                let planned = spin.plan().is_some();
                if planned {
                    spin.record(came);
                }
                planned
            })
            .count()
    }

    #[test]
    fn a_spin_that_succeeds_is_kept() {
        let mut spin = Spin::new(SPIN_MAX, 2, 2);
        assert_eq!(spins(&mut spin, 1000, true), 1000);
    }

    #[test]
    fn a_spin_that_fails_is_only_tried_now_and_then() {
        let mut spin = Spin::new(SPIN_MAX, 2, 2);
        let count = spins(&mut spin, 6400, false);
        assert!((100..=106).contains(&count), "{count}");
    }

    #[test]
    fn the_habit_comes_back_when_it_pays_again() {
        let mut spin = Spin::new(SPIN_MAX, 2, 2);
        spins(&mut spin, 100, false);
        spins(&mut spin, 64 * 5, true);
        assert_eq!(spins(&mut spin, 100, true), 100);
    }

    #[test]
    fn with_fewer_processors_than_partners_nobody_spins() {
        assert_eq!(spins(&mut Spin::new(SPIN_MAX, 1, 2), 1000, true), 0);
        assert_eq!(spins(&mut Spin::never(), 1000, true), 0);
    }

    #[test]
    fn nobody_spins_longer_than_the_bound() {
        assert_eq!(Spin::new(Duration::from_secs(1), 2, 2).plan(), Some(SPIN_MAX));
    }
}
