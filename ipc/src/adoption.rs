//! How a child finds a supervisor again: the words between a process whose supervisor died, and the next one.
//!
//! ```text
//!   child                                   next supervisor
//!     | -- Claim, with its descriptors ------> |   over the adoption socket, a SEQPACKET
//!     | <------------------------- Verdict --- |
//!     | == orders and reports, as before ====> |   over the same connection, which is the link from now on
//! ```
//!
//! A child says what it is and how it stands; nothing of it is believed that the supervisor does not know from its own
//! record of children and from the kernel.

use std::time::Duration;

use decurion_api::spec::HttpSpec;
use decurion_api::{DeploymentName, ReplicaId};
use serde::{Deserialize, Serialize};

/// Counts up with each change of the control messages that an older child would not understand.
pub const CONTROL_VERSION: u32 = 2;
/// Between the first two tries to reach the next supervisor.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The longest time between two tries.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Where a child finds the next supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptionSocket {
    /// Path of the socket.
    pub path: String,
    /// How long the child serves on without a supervisor. Then it drains and leaves.
    pub patience: Duration,
}

/// A child's first word on the adoption socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// [`CONTROL_VERSION`] of the child. This field stays the first one.
    pub protocol: u32,
    /// Who it is, and how it stands.
    pub child: ClaimedChild,
}

/// Who claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClaimedChild {
    /// A replica (3 descriptors: its board, and the reading ends of its standard output and standard error).
    Replica(ReplicaClaim),
    /// A proxy (up to 1 descriptor: its listening socket, where it still has one).
    Proxy(Box<ProxyClaim>),
}

/// How a replica stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaClaim {
    /// Which.
    pub replica: ReplicaId,
    /// How far it is.
    pub stage: ReplicaStage,
    /// The `user_config` that it has, as JSON; `None` where it has none, or it fits no message.
    pub user_config: Option<String>,
}

/// How far in its life a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaStage {
    /// Not yet ready.
    Starting,
    /// Ready.
    Serving,
    /// Told to drain.
    Draining,
}

/// How a proxy stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyClaim {
    /// Which start of a proxy, as its supervisor numbered them.
    pub instance: u32,
    /// The settings that it goes by.
    pub settings: HttpSpec,
    /// It was given the listening socket.
    pub listening: bool,
    /// What is left of the time to drain, if it was told to.
    pub draining: Option<Duration>,
    /// Replicas that new requests go to.
    pub routed: Vec<ReplicaId>,
    /// Replicas that it is joined with.
    pub attached: Vec<ReplicaId>,
}

/// A supervisor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is adopted; orders follow.
    Welcome,
    /// It is not: it is to finish what it has, and leave.
    Refused(String),
}

/// What a process with handles has of one deployment, told to the next supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Of which.
    pub deployment: DeploymentName,
    /// Replicas that its calls may go to.
    pub replicas: Vec<ReplicaId>,
}

/// When to try next to reach a supervisor: soon at first, then more seldom.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    delay: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { delay: RETRY_FIRST }
    }
}

impl Retries {
    /// The time until the next try.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(RETRY_MAX);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_seldom_and_never_end() {
        let mut retries = Retries::default();
        let millis: Vec<u128> = (0..7).map(|_| retries.next_delay().as_millis()).collect();
        assert_eq!(millis, [20, 40, 80, 160, 320, 500, 500]);
    }
}
