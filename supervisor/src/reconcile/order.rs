//! What the reconciler wants done. The one who carries it out has no choice left, and reports by facts.

use std::time::Duration;

use decurion_api::spec::{HttpSpec, RuntimeEnvSpec};
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::{DeploymentView, Generation, ReplicaStart, RouteView};

use serde::{Deserialize, Serialize};

use crate::capacity::Reservation;
use crate::desired::{ConfigId, TemplateId};
use crate::reconcile::fact::{CallerId, ProxyInstance};
use crate::reconcile::together::SetsRecord;

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Start a replica. Answered with `Spawned` or `SpawnFailed`.
    Spawn(Box<Spawn>),
    /// Ask a replica to take a `user_config`. Answered with `Reconfigured`.
    Reconfigure {
        /// Which.
        replica: ReplicaId,
        /// Comes back in the answer.
        sequence: u64,
        /// JSON.
        user_config: String,
        /// Its name.
        config: ConfigId,
    },
    /// Tell a replica its new bound of requests in flight.
    Limit {
        /// Which.
        replica: ReplicaId,
        /// The bound.
        limit: u32,
    },
    /// Ask a replica for its health. Answered with `Health`.
    CheckHealth {
        /// Which.
        replica: ReplicaId,
        /// Comes back in the answer.
        sequence: u64,
    },
    /// Ask a replica for a sign of life. Answered with `Alive`.
    Probe {
        /// Which.
        replica: ReplicaId,
        /// Comes back in the answer.
        sequence: u64,
    },
    /// Take a replica out of the views; nothing is to be done outside.
    Retire {
        /// Which.
        replica: ReplicaId,
        /// Why.
        why: Why,
    },
    /// Ask a replica to finish and exit: nobody sends it new requests.
    Drain {
        /// Which.
        replica: ReplicaId,
        /// What it has for that.
        grace: Duration,
    },
    /// Kill a replica.
    Kill {
        /// Which.
        replica: ReplicaId,
        /// Why, where it was not yet on its way out.
        why: Why,
    },
    /// Join a caller and a replica.
    Attach {
        /// Who calls.
        caller: CallerId,
        /// Who is called.
        replica: ReplicaId,
        /// Of which deployment.
        deployment: DeploymentName,
    },
    /// Tell a caller that a replica is gone.
    Detach {
        /// Who called.
        caller: CallerId,
        /// Who was called.
        replica: ReplicaId,
        /// Of which deployment.
        deployment: DeploymentName,
    },
    /// Tell the proxy the whole truth. Answered with `ViewApplied`.
    PublishRoutes {
        /// Which.
        instance: ProxyInstance,
        /// All of it.
        view: RouteView,
    },
    /// Tell a caller the truth of one deployment. Answered with `ViewApplied`.
    PublishView {
        /// Who.
        caller: CallerId,
        /// Of which deployment.
        deployment: DeploymentName,
        /// Of the view.
        generation: Generation,
        /// `None`: there is no such deployment.
        view: Option<Box<DeploymentView>>,
        /// Where there is none: the names that exist.
        known: Vec<DeploymentName>,
    },
    /// Start a proxy on this address. Answered with `ProxySpawned` or `ProxySpawnFailed`.
    SpawnProxy {
        /// Which.
        instance: ProxyInstance,
        /// With these settings.
        settings: HttpSpec,
    },
    /// Let a proxy take connections: it knows its routes.
    ListenProxy {
        /// Which.
        instance: ProxyInstance,
    },
    /// Give a proxy new settings, and the newest certificates. Answered with `ProxyConfigured`.
    ConfigureProxy {
        /// Which.
        instance: ProxyInstance,
        /// All of them.
        settings: HttpSpec,
        /// Comes back in the answer.
        sequence: u64,
    },
    /// Ask a proxy for a sign of life. Answered with `ProxyAlive`.
    ProbeProxy {
        /// Which.
        instance: ProxyInstance,
        /// Comes back in the answer.
        sequence: u64,
    },
    /// Ask a proxy to finish and exit.
    DrainProxy {
        /// Which.
        instance: ProxyInstance,
        /// What it has for that.
        timeout: Duration,
    },
    /// Kill a proxy.
    KillProxy {
        /// Which.
        instance: ProxyInstance,
    },
    /// Put the desired state back: store a revision, then `accept` it. Repeated until that has happened.
    PutBack {
        /// Of which deployment.
        deployment: DeploymentName,
        /// The revision that failed: stale where the deployment has a newer one.
        revision: u64,
        /// How much of it.
        what: PutBack,
        /// Why.
        why: String,
    },
    /// Keep this for a supervisor after this one, before anything further is done.
    RememberSets(Box<SetsRecord>),
    /// Everything is stopped, and nothing is left to do.
    Finished,
}

/// How much of a deployment's desired state is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// To the form before.
    Everything,
    /// The `user_config` alone.
    UserConfig,
}

/// How a replica is to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct Spawn {
    /// What it is told first. `library` is the digest: the one who carries it out knows the path.
    pub start: ReplicaStart,
    /// Environment beside the usual.
    pub runtime_env: RuntimeEnvSpec,
    /// What it has of the machine.
    pub reservation: Reservation,
    /// What it runs.
    pub template: TemplateId,
    /// What it starts with.
    pub config: ConfigId,
}

/// Why a replica goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Another version or setting takes its place.
    Update,
    /// The same, and it goes before its successor starts, for there is no room for both; this is how.
    Room(String),
    /// Fewer are wanted.
    Scale,
    /// Its deployment is deleted.
    Delete,
    /// It has done its part; this is how much.
    Recycle(String),
    /// The supervisor stops.
    Shutdown,
    /// It failed; this is how.
    Failed(String),
}

impl Why {
    /// For the list of ended replicas.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Why::Update => "stopped for an update",
            Why::Scale => "stopped because fewer replicas are wanted",
            Why::Delete => "stopped because its deployment was deleted",
            Why::Shutdown => "stopped with the supervisor",
            Why::Room(how) | Why::Recycle(how) | Why::Failed(how) => how,
        }
    }

    /// Whether it ends against our will.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Why::Failed(_))
    }
}
