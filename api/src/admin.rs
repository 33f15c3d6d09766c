//! The admin API's messages: JSON over HTTP/1.1 on the control socket.
//!
//! ```text
//! GET    /v1/version                      VersionInfo
//! GET    /v1/status                       SystemStatus
//! GET    /v1/applications                 list of files' JSON forms (spec::file::to_json)
//! GET    /v1/applications/{name}          the file's JSON form
//! PUT    /v1/applications/{name}          the file's JSON form -> Applied
//! DELETE /v1/applications/{name}          Applied
//! POST   /v1/artifacts                    a library's bytes -> Artifact
//! GET    /v1/deployments                  list of DeploymentStatus
//! GET    /v1/deployments/{name}           the deployment's JSON form (spec::file::deployment_to_json)
//! PUT    /v1/deployments/{name}           that form -> Applied: always a new version, unless it names the live one
//! PATCH  /v1/deployments/{name}           some of its fields -> Applied (spec::file::patch_deployment)
//! DELETE /v1/deployments/{name}           Applied
//! POST   /v1/deployments/{name}:scale     ScaleRequest -> Applied
//! POST   /v1/deployments/{name}:restart   nothing -> Applied
//! POST   /v1/deployments/{name}:rollback  RollbackRequest -> Applied
//! POST   /v1/deployments/{name}:pause     nothing -> Applied: its update goes no further
//! POST   /v1/deployments/{name}:resume    nothing -> Applied: its update goes on
//! POST   /v1/deployments/{name}:call      CallRequest -> the method's result as JSON
//! GET    /v1/deployments/{name}/history   list of HistoryEntry, oldest first
//! GET    /v1/deployments/{name}/description   Description
//! GET    /v1/events                       list of Event; ?follow=1: server-sent events, one Event in each `data`
//! GET    /v1/logs                         list of LogLine; the same    [?deployment=] [?replica=] [?since_ms=]
//! POST   /v1/shutdown                     ShutdownRequest -> 202
//! ```
//!
//! What answers `Applied` takes `If-Match` and `?dry_run=1`. A revision in `ETag` and `If-Match` is written `"12"`.
//! `?since_ms=` is Unix time. Whoever is refused gets a [`Problem`] whose type is one of [`problem`]'s.

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

/// Types of [`Problem`] that a program can hold on to.
pub mod problem {
    /// 400: makes no sense as HTTP or JSON.
    pub const BAD_REQUEST: &str = "decurion:bad-request";
    /// 403: this user may not use the socket.
    pub const FORBIDDEN: &str = "decurion:forbidden";
    /// 404: no deployment, application or path of this name.
    pub const NOT_FOUND: &str = "decurion:not-found";
    /// 409: the state of things forbids it, such as nothing to roll back to.
    pub const CONFLICT: &str = "decurion:conflict";
    /// 412: the desired state is at another revision than `If-Match` says.
    pub const REVISION_MISMATCH: &str = "decurion:revision-mismatch";
    /// 413: the body is larger than allowed.
    pub const TOO_LARGE: &str = "decurion:too-large";
    /// 422: understood, and refused; the detail names field and reason.
    pub const REFUSED: &str = "decurion:refused";
    /// 500: our fault.
    pub const INTERNAL: &str = "decurion:internal";
    /// 502: the method of a `:call` failed; the detail holds its error.
    pub const CALL_FAILED: &str = "decurion:call-failed";
    /// 503: no replica can take it now, or the supervisor is stopping.
    pub const UNAVAILABLE: &str = "decurion:unavailable";
    /// 504: no answer within the deployment's request timeout.
    pub const DEADLINE: &str = "decurion:deadline";
}

/// What owns the deployments that were deployed one by one.
pub const DEFAULT_APPLICATION: &str = "default";

/// What `PUT /v1/applications/{name}` and `PATCH /v1/deployments/{name}` answer: what will change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// Revision of the desired state that holds the change (the one before where nothing changed).
    pub revision: u64,
    /// Whether nothing was stored because it was asked for as a rehearsal.
    pub dry_run: bool,
    /// One for each deployment touched or left alone.
    pub changes: Vec<Change>,
    /// What is no mistake, and yet worth a sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
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
    /// What is going to happen, in order, one sentence each.
    #[serde(default)]
    pub steps: Vec<String>,
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

/// A revision that has changed a deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Its number; `rollout undo --to` takes it.
    pub revision: u64,
    /// Version that it wanted.
    pub version: String,
    /// How many replicas: `5`, or `1 to 8` where the load decides.
    pub replicas: String,
    /// SHA-256 of the library.
    pub library: String,
    /// Fields that differ from the entry before; empty for the first that is kept.
    pub fields: Vec<String>,
    /// Where it was put back: the revision that had failed, and why.
    pub undid: Option<Undone>,
    /// It is what is wanted now.
    pub current: bool,
}

/// A change that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// Its revision.
    pub revision: u64,
    /// Why.
    pub message: String,
}

/// Everything about one deployment, as `GET /v1/deployments/{name}/description` gives it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// As in `status`.
    pub status: crate::status::DeploymentStatus,
    /// Its settings, in the file's JSON form.
    pub spec: Value,
    /// Its update is paused.
    pub paused: bool,
    /// Steps that are held back now, with why.
    pub held: Vec<HeldStep>,
    /// Steps that were taken, and what else has happened to it; the newest last, bounded.
    pub events: Vec<Event>,
    /// The last lines of the replica that failed last.
    pub last_words: Vec<LogLine>,
}

/// A step that is held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStep {
    /// About which replica, if one.
    pub replica: Option<ReplicaId>,
    /// Why; one sentence.
    pub reason: String,
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
