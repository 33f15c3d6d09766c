//! When to start again what has failed: the first time at once, then after a delay that doubles up to a cap.

use std::time::Duration;

/// Delay before the second restart in a row.
pub const DELAY_FIRST: Duration = Duration::from_millis(100);
/// Longest delay between two starts of what has been good before: at most 6 starts a minute.
pub const DELAY_MAX: Duration = Duration::from_secs(10);
/// Longest delay between two starts of a version that never ran: the number of its starts is bounded, and somebody
/// waits for the verdict.
pub const DELAY_UNPROVEN_MAX: Duration = Duration::from_secs(1);
/// After so long a life a failure counts as the first one again, and the version as good.
pub const GOOD_LIFE: Duration = Duration::from_secs(10);
/// So much of a good life takes one failure back: what is killed now and then is no crash loop.
pub const LIFE_OF_ONE_FAILURE: Duration = Duration::from_secs(1);
/// Failures in a row that are counted, at most: the delay is at its cap by then.
const FAILURES_MAX: u32 = 10;
/// Failed starts of a version that never ran, at most, whatever the number of replicas.
pub const START_FAILURES_MAX: u32 = 20;

/// The delay after this many failures in a row.
#[must_use]
pub fn delay(failures: u32, cap: Duration) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        // 2^16 times the first delay is beyond every cap.
        more => (DELAY_FIRST * 2u32.pow((more - 2).min(16))).min(cap),
    }
}

/// How many failures in a row there are, with one more after a good life of this length.
#[must_use]
pub fn failures_after(failures: u32, life: Duration) -> u32 {
    let taken_back = life.as_nanos() / LIFE_OF_ONE_FAILURE.as_nanos();
    let taken_back = u32::try_from(taken_back).unwrap_or(u32::MAX);
    (failures.saturating_sub(taken_back) + 1).min(FAILURES_MAX)
}

/// After how many failed starts the update of a deployment of this size stops.
#[must_use]
pub fn start_failures_max(replicas: u32) -> u32 {
    replicas.saturating_mul(3).clamp(1, START_FAILURES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_rest_doubles_up_to_the_cap() {
        let millis: Vec<u128> = (1..=10).map(|n| delay(n, DELAY_MAX).as_millis()).collect();
        assert_eq!(millis, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(delay(u32::MAX, DELAY_MAX), DELAY_MAX);
    }

    #[test]
    fn a_good_life_takes_failures_back() {
        let seconds = Duration::from_secs;
        assert_eq!(failures_after(3, seconds(0)), 4);
        assert_eq!(failures_after(3, seconds(2)), 2);
        assert_eq!(failures_after(u32::MAX - 1, seconds(0)), FAILURES_MAX);
        assert_eq!(failures_after(FAILURES_MAX, GOOD_LIFE), 1);
        assert_eq!(delay(FAILURES_MAX, DELAY_MAX), DELAY_MAX);
    }

    #[test]
    fn tries_are_three_for_each_replica_up_to_twenty() {
        assert_eq!([1, 5, 7, 100, u32::MAX].map(start_failures_max), [3, 15, 20, 20, 20]);
    }
}
