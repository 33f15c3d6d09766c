//! Both clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::reconcile::Now;

/// The time.
pub(crate) fn now() -> Now {
    Now { at: Instant::now(), unix_ms: unix_ms() }
}

/// Unix time in milliseconds.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
