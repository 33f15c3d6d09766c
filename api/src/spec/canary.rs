//! A new version that is first tried on a part of the requests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a new version is tried before it takes the place of the old one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanarySpec {
    /// The share of requests that it gets, in percent: 1 to 99.
    pub weight: u8,
    /// For so long.
    pub duration: Duration,
    /// The share of its answers that may be server errors, 0 to 1.
    pub max_error_rate: f64,
    /// What 99 of 100 of its answers may take; `None`: not looked at.
    pub max_p99: Option<Duration>,
}

/// Server errors among all answers, where the file says nothing: one in a hundred.
pub const CANARY_ERROR_RATE_DEFAULT: f64 = 0.01;
/// How long, where the file says nothing.
pub const CANARY_DURATION_DEFAULT: Duration = Duration::from_secs(120);
