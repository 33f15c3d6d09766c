//! When a replica has done its part.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// After so much a replica is replaced by a fresh one, one at a time and without losing a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecycleSpec {
    /// Requests answered.
    pub max_requests: Option<u64>,
    /// Resident memory, in bytes.
    pub max_memory: Option<u64>,
    /// Time since it became ready.
    pub max_age: Option<Duration>,
}
