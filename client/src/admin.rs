//! The admin API from the caller's side: typed calls over the control socket, blocking.
//!
//! Each call makes a connection of its own, so that a supervisor that was restarted in between is simply found
//! again, and nothing needs to be kept alive. What the paths and messages mean is told in [`decurion_api::admin`].

mod error;
mod http;
mod sse;
mod stream;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use decurion_api::admin::{
    Applied, Artifact, CallRequest, Description, Event, HistoryEntry, LogLine, RollbackRequest, ScaleRequest,
    ShutdownRequest, VersionInfo,
};
use decurion_api::limits::LIBRARY_MAX;
use decurion_api::spec::file::{deployment_to_json, to_json};
use decurion_api::spec::{ApplicationSpec, DeploymentSpec};
use decurion_api::status::{DeploymentStatus, SystemStatus};
use decurion_api::{ApplicationName, DeploymentName, ReplicaId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use http::{Ask, Body, Method};

pub use error::AdminError;
pub use stream::Follow;

/// How long an ordinary request may take. A supervisor answers within milliseconds; this is for one that hangs.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the upload of a library may take.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(600);

/// A supervisor's admin API.
#[derive(Debug)]
pub struct Admin {
    socket: PathBuf,
}

/// Under what condition a change is made, and whether it is only rehearsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Refuse unless the desired state is at this revision.
    pub if_revision: Option<u64>,
    /// Say what would change, and change nothing.
    pub dry_run: bool,
}

/// Something read together with the revision of the desired state that it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Revisioned<T> {
    /// For [`Condition::if_revision`]; `None` where the supervisor gave none.
    pub revision: Option<u64>,
    /// What was read.
    pub value: T,
}

/// Which lines of log are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Of one deployment.
    pub deployment: Option<DeploymentName>,
    /// Of one replica.
    pub replica: Option<ReplicaId>,
    /// Not older than this, in Unix milliseconds.
    pub since_ms: Option<u64>,
}

impl Admin {
    /// The supervisor at this control socket. Connects with the first call.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where the supervisor is expected.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who answers.
    ///
    /// # Errors
    /// [`AdminError`], as for every call here.
    pub fn version(&self) -> Result<VersionInfo, AdminError> {
        self.get("/v1/version")
    }

    /// Everything there is.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn status(&self) -> Result<SystemStatus, AdminError> {
        self.get("/v1/status")
    }

    /// Everything that is counted and measured, as Prometheus reads it; see [`crate::metrics`].
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn metrics(&self) -> Result<String, AdminError> {
        http::send(&self.socket, Ask::new(Method::GET, "/metrics".to_owned()))?.text()
    }

    /// Every deployment.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn deployments(&self) -> Result<Vec<DeploymentStatus>, AdminError> {
        self.get("/v1/deployments")
    }

    /// The configuration of every application, each in its file's JSON form.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn applications(&self) -> Result<Revisioned<Vec<Value>>, AdminError> {
        self.get_revisioned("/v1/applications")
    }

    /// The configuration of one application in its file's JSON form.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn application(&self, name: &ApplicationName) -> Result<Revisioned<Value>, AdminError> {
        self.get_revisioned(&format!("/v1/applications/{name}"))
    }

    /// The configuration of one deployment in its file's JSON form.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn deployment(&self, name: &DeploymentName) -> Result<Revisioned<Value>, AdminError> {
        self.get_revisioned(&deployment_path(name, ""))
    }

    /// Declares a whole application: what it leaves out is deleted. Libraries are to be digests already, see
    /// [`upload`](Self::upload).
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn put_application(
        &self,
        spec: &ApplicationSpec,
        condition: Condition,
    ) -> Result<Applied, AdminError> {
        let path = format!("/v1/applications/{}", spec.application);
        self.change(Method::PUT, &path, &to_json(spec), condition)
    }

    /// Deletes an application with all its deployments.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn delete_application(
        &self,
        name: &ApplicationName,
        condition: Condition,
    ) -> Result<Applied, AdminError> {
        self.change(Method::DELETE, &format!("/v1/applications/{name}"), &(), condition)
    }

    /// Deploys one deployment by itself: always a new version, unless it names the live one.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn put_deployment(&self, spec: &DeploymentSpec, condition: Condition) -> Result<Applied, AdminError> {
        self.change(Method::PUT, &deployment_path(&spec.name, ""), &deployment_to_json(spec), condition)
    }

    /// Changes some fields of a deployment; `patch` is an object in the file's form.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn patch_deployment(
        &self,
        name: &DeploymentName,
        patch: &Value,
        condition: Condition,
    ) -> Result<Applied, AdminError> {
        self.change(Method::PATCH, &deployment_path(name, ""), patch, condition)
    }

    /// Deletes a deployment.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn delete_deployment(
        &self,
        name: &DeploymentName,
        condition: Condition,
    ) -> Result<Applied, AdminError> {
        self.change(Method::DELETE, &deployment_path(name, ""), &(), condition)
    }

    /// Changes the number of replicas.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn scale(
        &self,
        name: &DeploymentName,
        num_replicas: u32,
        condition: Condition,
    ) -> Result<Applied, AdminError> {
        self.change(Method::POST, &deployment_path(name, ":scale"), &ScaleRequest { num_replicas }, condition)
    }

    /// Replaces every replica, step by step, with one of the same form.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn restart(&self, name: &DeploymentName, condition: Condition) -> Result<Applied, AdminError> {
        self.change(Method::POST, &deployment_path(name, ":restart"), &(), condition)
    }

    /// Brings back an earlier form: that of `revision`, or the last one that was rolled out whole.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn rollback(
        &self,
        name: &DeploymentName,
        revision: Option<u64>,
        condition: Condition,
    ) -> Result<Applied, AdminError> {
        let request = RollbackRequest { revision };
        self.change(Method::POST, &deployment_path(name, ":rollback"), &request, condition)
    }

    /// Lets the update of a deployment go no further.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn pause(&self, name: &DeploymentName, condition: Condition) -> Result<Applied, AdminError> {
        self.change(Method::POST, &deployment_path(name, ":pause"), &(), condition)
    }

    /// Lets the update of a deployment go on.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn resume(&self, name: &DeploymentName, condition: Condition) -> Result<Applied, AdminError> {
        self.change(Method::POST, &deployment_path(name, ":resume"), &(), condition)
    }

    /// Revisions that have changed a deployment, oldest first, as far as they are kept.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn history(&self, name: &DeploymentName) -> Result<Vec<HistoryEntry>, AdminError> {
        self.get(&deployment_path(name, "/history"))
    }

    /// Everything about one deployment.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn describe(&self, name: &DeploymentName) -> Result<Description, AdminError> {
        self.get(&deployment_path(name, "/description"))
    }

    /// Calls a method through the supervisor's handle. Takes as long as the deployment's own limits allow.
    ///
    /// # Errors
    /// [`AdminError`]; the handler's own error comes as a problem of the type
    /// [`CALL_FAILED`](decurion_api::admin::problem::CALL_FAILED).
    pub fn call(&self, name: &DeploymentName, request: &CallRequest) -> Result<Value, AdminError> {
        let ask = Ask::new(Method::POST, deployment_path(name, ":call")).json(request)?.timeout(None);
        http::send(&self.socket, ask)?.json()
    }

    /// Puts a library into the supervisor's store. The file is streamed, never held whole.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn upload(&self, library: &Path) -> Result<Artifact, AdminError> {
        let unreadable = |source| AdminError::File { path: library.to_owned(), source };
        let file = File::open(library).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(io::Error::other("it is not a regular file")));
        }
        if metadata.len() > LIBRARY_MAX {
            let words = format!("it has {} bytes, and at most {LIBRARY_MAX} are taken", metadata.len());
            return Err(unreadable(io::Error::other(words)));
        }
        let ask = Ask::new(Method::POST, "/v1/artifacts".to_owned())
            .body("application/octet-stream", Body::file(file, metadata.len()))
            .timeout(Some(UPLOAD_TIMEOUT));
        http::send(&self.socket, ask)?.json()
    }

    /// Events kept in memory, oldest first.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn events(&self) -> Result<Vec<Event>, AdminError> {
        self.get("/v1/events")
    }

    /// Events kept in memory, then those to come, until the supervisor ends.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn follow_events(&self) -> Result<Follow<Event>, AdminError> {
        Follow::open(&self.socket, "/v1/events?follow=1".to_owned())
    }

    /// Lines kept in memory, oldest first.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn logs(&self, query: &LogQuery) -> Result<Vec<LogLine>, AdminError> {
        self.get(&query.path(false))
    }

    /// Lines kept in memory, then those to come, until the supervisor ends.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn follow_logs(&self, query: &LogQuery) -> Result<Follow<LogLine>, AdminError> {
        Follow::open(&self.socket, query.path(true))
    }

    /// Asks the supervisor to drain and stop, or to stop at once. Returns as soon as it has agreed.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn shutdown(&self, now: bool) -> Result<(), AdminError> {
        let ask = Ask::new(Method::POST, "/v1/shutdown".to_owned()).json(&ShutdownRequest { now })?;
        http::send(&self.socket, ask).map(|_| ())
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        http::send(&self.socket, Ask::new(Method::GET, path.to_owned()))?.json()
    }

    fn get_revisioned<T: DeserializeOwned>(&self, path: &str) -> Result<Revisioned<T>, AdminError> {
        let answer = http::send(&self.socket, Ask::new(Method::GET, path.to_owned()))?;
        Ok(Revisioned { revision: answer.revision, value: answer.json()? })
    }

    fn change(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        condition: Condition,
    ) -> Result<Applied, AdminError> {
        let path = if condition.dry_run { format!("{path}?dry_run=1") } else { path.to_owned() };
        let ask = Ask::new(method, path).json(body)?.if_match(condition.if_revision);
        http::send(&self.socket, ask)?.json()
    }
}

impl LogQuery {
    /// Names need no escaping: they are checked to be made of unreserved characters.
    fn path(&self, follow: bool) -> String {
        let mut parameters = Vec::new();
        if follow {
            parameters.push("follow=1".to_owned());
        }
        if let Some(deployment) = &self.deployment {
            parameters.push(format!("deployment={deployment}"));
        }
        if let Some(replica) = &self.replica {
            parameters.push(format!("replica={replica}"));
        }
        if let Some(since_ms) = self.since_ms {
            parameters.push(format!("since_ms={since_ms}"));
        }
        if parameters.is_empty() {
            "/v1/logs".to_owned()
        } else {
            format!("/v1/logs?{}", parameters.join("&"))
        }
    }
}

fn deployment_path(name: &DeploymentName, verb: &str) -> String {
    format!("/v1/deployments/{name}{verb}")
}

#[cfg(test)]
mod tests;
