//! Time as the proxy's cores take it: nanoseconds of `CLOCK_MONOTONIC`, the clock that replicas share with us.

use std::time::Duration;

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Later than everything.
    pub const NEVER: Nanos = Nanos(u64::MAX);

    /// So much later; [`Nanos::NEVER`] where that can't be said.
    #[must_use]
    pub fn after(self, wait: Duration) -> Nanos {
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.0.saturating_add(wait))
    }

    /// So much later, where zero means no limit.
    #[must_use]
    pub fn limit(self, wait: Duration) -> Nanos {
        if wait.is_zero() { Nanos::NEVER } else { self.after(wait) }
    }

    /// A deadline that bytes move on: each buys its time at so many bytes a second (0: whatever is missing), up to
    /// `wait` from now.
    #[must_use]
    pub fn moved_on(self, bytes: usize, rate: u32, wait: Duration, now: Nanos) -> Nanos {
        let most = now.limit(wait);
        if rate == 0 {
            return if bytes > 0 { most } else { self.min(most) };
        }
        let bought = (bytes as u64).saturating_mul(1_000_000_000) / u64::from(rate);
        most.min(Nanos(self.0.saturating_add(bought)))
    }

    /// From `now` until then; zero where it is past.
    #[must_use]
    pub fn until(self, now: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(now.0))
    }

    /// As records have it: 0 where there is no deadline.
    #[must_use]
    pub fn or_zero(self) -> u64 {
        if self == Nanos::NEVER { 0 } else { self.0 }
    }
}
