//! What is: the answers of `status`.

use serde::{Deserialize, Serialize};

use crate::{ApplicationName, DeploymentName, ReplicaId, RoutePrefix};

/// The whole machine's status, as `GET /v1/status` gives it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemStatus {
    /// Version of the supervisor.
    pub version: String,
    /// Process id of the supervisor.
    pub pid: i32,
    /// Seconds since the supervisor started.
    pub uptime_s: u64,
    /// Revision of the desired state.
    pub revision: u64,
    /// The proxy.
    pub proxy: ProxyStatus,
    /// Every deployment, by name.
    pub deployments: Vec<DeploymentStatus>,
}

/// The proxy's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Process id, while it runs.
    pub pid: Option<i32>,
    /// Address that it answers on.
    pub listen: String,
    /// Whether it speaks TLS there.
    #[serde(default)]
    pub tls: bool,
    /// Whether it has taken its routes and accepts connections.
    pub ready: bool,
    /// Whether it takes every new connection by the settings and certificates that are wanted.
    pub up_to_date: bool,
    /// How often it had to be started again.
    pub restarts: u64,
}

/// What a deployment is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeploymentState {
    /// A new version or configuration is on its way.
    Updating,
    /// All replicas wanted are there, with what is wanted.
    Healthy,
    /// Fewer replicas than wanted are able to serve, and not because of an update.
    Unhealthy,
    /// Only the number is growing.
    Upscaling,
    /// Only the number is shrinking.
    Downscaling,
    /// The update failed and stopped; the message says why.
    DeployFailed,
    /// On its way out.
    Deleting,
}

impl DeploymentState {
    /// As it is written on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DeploymentState::Updating => "UPDATING",
            DeploymentState::Healthy => "HEALTHY",
            DeploymentState::Unhealthy => "UNHEALTHY",
            DeploymentState::Upscaling => "UPSCALING",
            DeploymentState::Downscaling => "DOWNSCALING",
            DeploymentState::DeployFailed => "DEPLOY_FAILED",
            DeploymentState::Deleting => "DELETING",
        }
    }
}

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReplicaState {
    /// Forked; its constructor runs, or its first routes are not yet taken.
    Starting,
    /// Serves.
    Running,
    /// Serves, and is taking a new `user_config`.
    Updating,
    /// Gets no new requests, and finishes those it has.
    Draining,
    /// Its destructor runs, or it is being killed.
    Stopping,
}

impl ReplicaState {
    /// As it is written on the wire and in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ReplicaState::Starting => "STARTING",
            ReplicaState::Running => "RUNNING",
            ReplicaState::Updating => "UPDATING",
            ReplicaState::Draining => "DRAINING",
            ReplicaState::Stopping => "STOPPING",
        }
    }

    /// Whether new requests may be sent to it.
    #[must_use]
    pub fn can_serve(self) -> bool {
        matches!(self, ReplicaState::Running | ReplicaState::Updating)
    }
}

/// One deployment's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploymentStatus {
    /// Its name.
    pub name: DeploymentName,
    /// Who owns it.
    pub application: ApplicationName,
    /// What it is doing.
    pub status: DeploymentState,
    /// Why, in one sentence; empty where there is nothing to say.
    pub message: String,
    /// Version wanted.
    pub version: String,
    /// Revision of the desired state that last changed it.
    pub revision: u64,
    /// Class of the library.
    pub class: String,
    /// SHA-256 of the library.
    pub library: String,
    /// Where it is mounted; `None`: by handle only.
    pub route_prefix: Option<RoutePrefix>,
    /// How many replicas are wanted.
    pub target_replicas: u32,
    /// Those that exist.
    pub replicas: Vec<ReplicaStatus>,
    /// How the most recent replicas ended, newest first; bounded.
    pub ended: Vec<EndedReplica>,
    /// What became of the newest change.
    pub rollout: RolloutStatus,
}

/// What became of the newest change of a deployment. Who waits for revision R looks here: the outcome is R's while
/// `revision` is R; a greater `revision` means that a later change has taken R's place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Revision of the desired state that holds the change.
    pub revision: u64,
    /// Version that it asked for.
    pub version: String,
    /// How it goes, or went.
    pub outcome: RolloutOutcome,
    /// Replicas that run what was asked for and get requests.
    pub updated: u32,
    /// Why it failed, with the replica's last words; else what it waits for; else empty.
    pub message: String,
    /// It is on its way, and nothing but another change will bring it further: one of its set has failed and stays so.
    #[serde(default)]
    pub blocked: bool,
}

/// Stands in every message of a `user_config` that a replica did not take, so that its place in a file can be shown.
pub const USER_CONFIG_REFUSED: &str = "refused the user_config";

/// How a change goes, or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutOutcome {
    /// On its way.
    InProgress,
    /// Every replica is as it was asked for, and what was to go is gone.
    Done,
    /// Stopped; what served before serves on.
    Failed,
    /// Stopped and undone: every replica is as it was before, and what was tried is gone.
    RolledBack,
}

/// One replica's status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its id.
    pub id: ReplicaId,
    /// Process id.
    pub pid: i32,
    /// What it is doing.
    pub state: ReplicaState,
    /// Version it runs.
    pub version: String,
    /// Requests in flight.
    pub ongoing: u64,
    /// Requests answered.
    pub processed: u64,
    /// How many replicas came before it in its place because they failed.
    pub restarts: u64,
    /// Seconds since the fork.
    pub uptime_s: u64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// For how long the request has been running that runs longest, as far as the last probe tells; 0: none does.
    #[serde(default)]
    pub oldest_request_ms: u64,
}

/// How a replica ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedReplica {
    /// Its id.
    pub id: ReplicaId,
    /// Its process id.
    pub pid: i32,
    /// Version it ran.
    pub version: String,
    /// Unix time in milliseconds.
    pub ended_at_ms: u64,
    /// What ended it: `exited with code 1`, `killed by SIGKILL`, `stopped for an update`.
    pub reason: String,
    /// Whether it ended by itself, against our will.
    pub failed: bool,
}
