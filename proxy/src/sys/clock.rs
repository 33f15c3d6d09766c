//! The clocks.

use std::time::SystemTime;

use nix::time::{ClockId, clock_gettime};

use crate::time::Nanos;

/// Now, on the clock that replicas share with us.
#[must_use]
pub fn now() -> Nanos {
    // The monotonic clock exists on every Linux, and never goes back.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Nanos(0), |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
        Nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    })
}

/// The time of day as `Date` has it.
#[must_use]
pub fn http_date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Random enough to tell lives and workers apart.
#[must_use]
pub fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
