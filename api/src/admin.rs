//! The admin API's messages: JSON over HTTP/1.1 on the control socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{DeploymentName, ReplicaId};

/// An error, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`, or a name under `decurion:` that a program can hold on to.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in a few words, the same for every problem of this type.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened here: where, what now, and whether anything was changed.
    pub detail: String,
}

/// What `PUT /v1/applications/{name}` and `PATCH /v1/deployments/{name}` answer: what will change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Revision of the desired state that holds the change (the one before where nothing changed).
    pub revision: u64,
    /// Whether nothing was stored because it was asked for as a rehearsal.
    pub dry_run: bool,
    /// One for each deployment touched or left alone.
    pub changes: Vec<Change>,
}

/// What happens to one deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub deployment: DeploymentName,
    /// What.
    pub action: ChangeAction,
    /// Fields that differ.
    pub fields: Vec<String>,
}

/// Kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAction {
    /// Nothing differs.
    Unchanged,
    /// New.
    Create,
    /// Every replica is replaced, step by step.
    Roll,
    /// Replicas take new settings without a restart.
    Configure,
    /// Goes.
    Delete,
}

/// Body of `POST /v1/deployments/{name}:scale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRequest {
    /// How many replicas are wanted.
    pub num_replicas: u32,
}

/// Body of `POST /v1/deployments/{name}:rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Revision whose form of the deployment comes back; absent: the last one that was rolled out whole.
    #[serde(default)]
    pub revision: Option<u64>,
}

/// What `POST /v1/artifacts` answers: the library is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    pub digest: String,
    /// Names of the classes it holds.
    pub classes: Vec<crate::ClassName>,
}

/// What `GET /v1/version` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Of the supervisor.
    pub version: String,
    /// Process id of the supervisor.
    pub pid: i32,
    /// Versions of the plugin ABI that it loads: `1.0`.
    pub abi: String,
}

/// Body of `POST /v1/shutdown`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// Kill at once instead of letting requests finish.
    #[serde(default)]
    pub now: bool,
}

/// Body of `POST /v1/deployments/{name}:call`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallRequest {
    /// Method of the class; absent: the class's only one, or its `call`.
    pub method: Option<String>,
    /// Arguments: an array by position, an object by name, or one value alone.
    #[serde(default)]
    pub args: Value,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 in one supervisor's life.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Which deployment, if one.
    pub deployment: Option<DeploymentName>,
    /// Which replica, if one.
    pub replica: Option<ReplicaId>,
    /// A short name for the kind of event: `replica-exited`, `rollout-done`.
    pub kind: String,
    /// One sentence.
    pub message: String,
}

/// One line that a replica or the supervisor wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counts up from 1 in one supervisor's life.
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Which deployment.
    pub deployment: DeploymentName,
    /// Which replica.
    pub replica: ReplicaId,
    /// `stdout`, `stderr`, or `log` for what came through the ABI's `log`.
    pub stream: String,
    /// The line without its end, cut at [`LOG_LINE_MAX`](crate::limits::LOG_LINE_MAX) bytes.
    pub text: String,
}
