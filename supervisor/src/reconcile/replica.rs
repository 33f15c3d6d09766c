//! One replica as it is observed, and the phases of its life.

use std::time::{Duration, Instant};

use decurion_api::status::ReplicaState;
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::epoch::Span;

use crate::capacity::Reservation;
use crate::desired::{ConfigId, TemplateId, Wanted};
use crate::reconcile::fact::Board;
use crate::reconcile::liveness::Liveness;
use crate::reconcile::observed::Condemned;
use crate::reconcile::order::Why;
use crate::reconcile::progress::Progress;

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its id.
    pub id: ReplicaId,
    /// Of which deployment.
    pub deployment: DeploymentName,
    /// What it runs.
    pub template: TemplateId,
    /// The version of that.
    pub version: String,
    /// Which of the deployment's places it fills, from 0.
    pub place: u32,
    /// How many replicas came before it in its place because they failed.
    pub restarts: u64,
    /// When its start was ordered.
    pub spawned_at: Instant,
    /// Its process id, once it is known.
    pub pid: Option<i32>,
    /// Where in its life it is.
    pub phase: Phase,
    /// The `user_config` that it has.
    pub config: ConfigId,
    /// What it has of the machine.
    pub reservation: Reservation,
    /// The bound of requests in flight that it knows.
    pub limit: u32,
    /// Its health.
    pub health: Health,
    /// Its signs of life.
    pub liveness: Liveness,
    /// How its requests get on.
    pub progress: Progress,
    /// What its board said last.
    pub board: Board,
    /// Why it is to go, not yet carried out.
    pub condemned: Option<Condemned>,
    /// It can't be spoken with or reached: since when, and how that showed. Its end, which most likely follows, tells
    /// more.
    pub lost: Option<(Instant, String)>,
    /// The requests that it serves.
    pub span: Span,
    /// Since when its set has changed over to another version.
    pub over_since: Option<Instant>,
}

/// Where in its life a replica is. Edges go downwards only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Being forked, loaded, constructed.
    Starting,
    /// In the views.
    Serving {
        /// When it became ready.
        since: Instant,
        /// The `user_config` that it is taking.
        taking: Option<Taking>,
    },
    /// Out of the views; callers may still use an older one.
    Retiring {
        /// When it was taken out.
        since: Instant,
        /// Why.
        why: Why,
    },
    /// Nobody sends it new requests; it finishes those it has.
    Draining {
        /// When it was asked to.
        since: Instant,
        /// Why.
        why: Why,
    },
    /// It has finished, or failed to start, and exits by itself.
    Leaving {
        /// When it said so.
        since: Instant,
        /// Why.
        why: Why,
    },
    /// Killed; its end is to be seen yet.
    Killed {
        /// Why.
        why: Why,
        /// Its time to finish was over.
        overdue: bool,
    },
}

/// A `user_config` on its way into a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taking {
    /// Of the order.
    pub sequence: u64,
    /// When it was ordered.
    pub since: Instant,
    /// Its name.
    pub config: ConfigId,
}

/// A replica's health checks.
#[derive(Clone, Debug)]
pub struct Health {
    /// When the next check starts.
    pub next_at: Instant,
    /// Of the last order.
    pub sequence: u64,
    /// When the check that has no answer yet was ordered, and the heartbeat then.
    pub asked: Option<(Instant, u64)>,
    /// Failures in a row.
    pub failures: u32,
}

/// Failures in a row that make a replica unhealthy.
pub const HEALTH_FAILURES_MAX: u32 = 3;
/// What a replica whose link is gone has for ending, before that is the reason to kill it.
pub const LOST_MAX: Duration = Duration::from_secs(1);
/// What a replica that says that it exits has for doing so.
pub const LEAVING_MAX: Duration = Duration::from_secs(5);

impl Replica {
    /// Whether new requests are sent to it: it serves, and gives signs of life.
    #[must_use]
    pub fn is_in_rotation(&self) -> bool {
        self.is_serving() && self.liveness.silent_since.is_none()
    }

    /// Whether it is ready, and not on its way out.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving { .. })
    }

    /// Whether it is there to stay: starting or serving.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Serving { .. })
    }

    /// Whether it has the wanted `user_config`. Where none is wanted there is nothing to give it.
    #[must_use]
    pub fn has_config_of(&self, wanted: &Wanted) -> bool {
        self.config == wanted.config || wanted.spec.user_config.is_none()
    }

    /// Whether it may have so much memory and no more.
    #[must_use]
    pub fn has_memory_bound(&self) -> bool {
        self.reservation.resources.memory.is_some()
    }

    /// Since when it has been good; `None`: it is not.
    #[must_use]
    pub fn good_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Serving { since, .. } => Some(since),
            _ => None,
        }
    }

    /// What it is taking just now.
    #[must_use]
    pub fn taking(&self) -> Option<&Taking> {
        match &self.phase {
            Phase::Serving { taking, .. } => taking.as_ref(),
            _ => None,
        }
    }

    /// Why it is on its way out; `None`: it is not.
    #[must_use]
    pub fn leaving_why(&self) -> Option<&Why> {
        match &self.phase {
            Phase::Starting | Phase::Serving { .. } => None,
            Phase::Retiring { why, .. }
            | Phase::Draining { why, .. }
            | Phase::Leaving { why, .. }
            | Phase::Killed { why, .. } => Some(why),
        }
    }

    /// As `status` shows it; `available`: every caller knows it.
    #[must_use]
    pub fn state(&self, available: bool) -> ReplicaState {
        match &self.phase {
            Phase::Starting => ReplicaState::Starting,
            Phase::Serving { taking: Some(_), .. } => ReplicaState::Updating,
            Phase::Serving { .. } if available => ReplicaState::Running,
            Phase::Serving { .. } => ReplicaState::Starting,
            Phase::Retiring { .. } | Phase::Draining { .. } => ReplicaState::Draining,
            Phase::Leaving { .. } | Phase::Killed { .. } => ReplicaState::Stopping,
        }
    }
}

impl Health {
    /// Of a replica that is ready now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { next_at: now, sequence: 0, asked: None, failures: 0 }
    }
}

/// A period with up to a tenth taken off or put on, the same for the same replica and check: replicas that started
/// together are not all asked at one instant.
#[must_use]
pub fn jittered(period: Duration, replica: &ReplicaId, sequence: u64) -> Duration {
    let seed = replica.as_str().bytes().fold(sequence ^ 0x9e37_79b9, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let permille = 900 + u32::try_from(seed % 201).unwrap_or(100);
    period * permille / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth_and_differs() {
        let period = Duration::from_secs(10);
        let delays: Vec<Duration> =
            (0..50).map(|n| jittered(period, &ReplicaId::new(format!("a-{n:06x}")).unwrap(), n)).collect();
        assert!(delays.iter().all(|delay| (period * 9 / 10..=period * 11 / 10).contains(delay)));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }
}
