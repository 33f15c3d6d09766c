//! Whether to look a little longer before going to sleep: a policy, without a clock.
//!
//! To be woken costs more than a round trip, so looking longer pays where the answer comes at once, and costs a
//! processor where it does not; where the other side needs this very processor it even keeps the answer from coming.
//! So each spin is accounted for. One that succeeds has saved a wake-up; one that fails has cost its time, which
//! counts twice, since others could have used it. One that lasted far longer than was planned has failed, whatever
//! came of it: the processor was taken away meanwhile, perhaps by the very side that was waited for. While the
//! balance is good, a side spins before each sleep; else it tries again now and then, more and more seldom while that
//! fails.
//!
//! `sys::spin` has the loop with the clock, and measures what a wake-up takes.

use std::time::Duration;

/// A side spins a little longer than one wake-up takes, so that the answer of a partner is met that had to be woken
/// itself: half as long again.
const LONGEST_NUMERATOR: u32 = 3;
const LONGEST_DENOMINATOR: u32 = 2;
/// However long a wake-up is said to take.
pub const SPIN_MAX: Duration = Duration::from_micros(30);

/// The balance remembers so many successes, or failures.
const CREDIT: i32 = 16;
const DEBT: i32 = -2;
/// What failed counts so much more.
const FAILURE: i32 = 2;
/// A spin that lasted so many times longer than planned was interrupted.
const INTERRUPTED: u32 = 4;
/// Without a good balance, one of so many sleeps begins with a spin: seldom while these fail, often while they succeed.
const PROBE_FIRST: u32 = 64;
const PROBE_MIN: u32 = 4;
const PROBE_MAX: u32 = 1024;

/// The habit of one sleeper.
#[derive(Clone, Debug)]
pub struct Spin {
    allowed: bool,
    /// What spinning has come to, in wake-ups saved.
    balance: i32,
    /// Sleeps since the last probe, and how many there are between two.
    sleeps: u32,
    probe: u32,
    longest: Duration,
}

impl Spin {
    /// For a thread that shares `processors` with `partners` that may run at the same time, itself included: with
    /// fewer processors than partners it never spins.
    #[must_use]
    pub fn new(processors: usize, partners: usize) -> Spin {
        let allowed = processors >= partners;
        Spin { allowed, balance: 0, sleeps: 0, probe: PROBE_FIRST, longest: Duration::ZERO }
    }

    /// One that never spins.
    #[must_use]
    pub fn never() -> Spin {
        Spin::new(0, 1)
    }

    /// Whether it may ever spin.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// How long to look before this sleep, where a wake-up takes so long; `None`: sleep at once. To be followed by
    /// [`Spin::record`] where it is not `None`.
    #[must_use]
    pub fn plan(&mut self, wake_up: Duration) -> Option<Duration> {
        if !self.allowed {
            return None;
        }
        self.longest = (wake_up * LONGEST_NUMERATOR / LONGEST_DENOMINATOR).min(SPIN_MAX);
        if self.balance < 0 {
            self.sleeps += 1;
            if self.sleeps < self.probe {
                return None;
            }
        }
        self.sleeps = 0;
        Some(self.longest)
    }

    /// What came of it: whether there was news, and how long it took.
    pub fn record(&mut self, came: bool, took: Duration) {
        let succeeded = came && took <= self.longest * INTERRUPTED;
        let (change, probe) =
            if succeeded { (1, self.probe / 4) } else { (-FAILURE, self.probe.saturating_mul(2)) };
        self.balance = (self.balance + change).clamp(DEBT, CREDIT);
        self.probe = probe.clamp(PROBE_MIN, PROBE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAKE_UP: Duration = Duration::from_micros(16);

    /// Sleeps so often, with what comes of each spin from a record that begins anew at its end: how many spins.
    fn spins(spin: &mut Spin, sleeps: usize, outcomes: &[(bool, u64)]) -> usize {
        let mut outcomes = outcomes.iter().cycle();
        (0..sleeps)
            .filter(|_| {
                let planned = spin.plan(WAKE_UP).is_some();
                if planned && let Some(&(came, took)) = outcomes.next() {
                    spin.record(came, Duration::from_micros(took));
                }
                planned
            })
            .count()
    }

    #[test]
    fn a_spin_that_succeeds_is_kept() {
        assert_eq!(spins(&mut Spin::new(2, 2), 1000, &[(true, 1)]), 1000);
    }

    #[test]
    fn one_that_succeeds_three_times_of_four_is_kept() {
        let recorded = [(true, 17), (true, 18), (false, 24), (true, 17)];
        assert_eq!(spins(&mut Spin::new(2, 2), 1000, &recorded), 1000);
    }

    #[test]
    fn one_that_fails_is_tried_more_and_more_seldom() {
        let mut spin = Spin::new(2, 2);
        assert!(spins(&mut spin, 1000, &[(false, 24)]) <= 5);
        assert!(spins(&mut spin, 100_000, &[(false, 24)]) <= 101);
    }

    #[test]
    fn one_that_succeeds_now_and_then_costs_little() {
        let mut spin = Spin::new(2, 2);
        let recorded = [(false, 24), (false, 24), (true, 3), (false, 24), (false, 24)];
        let count = spins(&mut spin, 100_000, &recorded);
        assert!(count <= 1000, "{count}");
    }

    #[test]
    fn where_the_processor_is_taken_away_it_stops_although_news_come() {
        // As recorded where both sides and others share what processors there are.
        let mut spin = Spin::new(2, 2);
        spins(&mut spin, 100, &[(true, 1)]);
        let count = spins(&mut spin, 1000, &[(true, 3_000)]);
        assert!(count <= 20, "{count}");
    }

    #[test]
    fn an_interruption_now_and_then_changes_nothing() {
        let mut recorded = [(true, 1); 100];
        recorded[50] = (true, 3_000);
        assert_eq!(spins(&mut Spin::new(2, 2), 1000, &recorded), 1000);
    }

    #[test]
    fn the_habit_comes_back_when_it_pays_again() {
        let mut spin = Spin::new(2, 2);
        spins(&mut spin, 100_000, &[(false, 24)]);
        spins(&mut spin, 1024 + 256, &[(true, 1)]);
        assert_eq!(spins(&mut spin, 100, &[(true, 1)]), 100);
    }

    #[test]
    fn with_fewer_processors_than_partners_nobody_spins() {
        assert_eq!(spins(&mut Spin::new(1, 2), 1000, &[(true, 1)]), 0);
        assert_eq!(spins(&mut Spin::never(), 1000, &[(true, 1)]), 0);
    }

    #[test]
    fn nobody_spins_much_longer_than_a_wake_up_or_the_bound() {
        assert_eq!(Spin::new(2, 2).plan(Duration::from_micros(4)), Some(Duration::from_micros(6)));
        assert_eq!(Spin::new(2, 2).plan(Duration::from_secs(1)), Some(SPIN_MAX));
    }
}
