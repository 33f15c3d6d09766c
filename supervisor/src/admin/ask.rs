//! What the admin API's thread asks of the loop.

use decurion_api::admin::{Applied, Description, HistoryEntry};
use decurion_api::spec::file::FileError;
use decurion_api::spec::{ApplicationSpec, DeploymentSpec};
use decurion_api::status::SystemStatus;
use decurion_api::{ApplicationName, DeploymentName};
use serde_json::Value;

use crate::change::{Libraries, Refusal};
use crate::desired::Desired;
use crate::metrics::Snapshot;
use crate::store::StoreError;
use crate::sys::TlsError;

/// A question. All may be asked at any time; changes are refused while the supervisor stops.
#[derive(Clone, Debug)]
pub enum Ask {
    /// What is.
    Status,
    /// What is wanted.
    Desired,
    /// What was counted and measured.
    Metrics,
    /// Which revisions have changed a deployment.
    History(DeploymentName),
    /// Everything about one, but what the journal holds.
    Describe(DeploymentName),
    /// Change what is wanted.
    Change {
        /// Only at this revision.
        if_revision: Option<u64>,
        /// Say what would change, and change nothing.
        dry_run: bool,
        /// How.
        change: Box<Change>,
    },
    /// Read the certificates again that are wanted already.
    RenewCertificates,
    /// Drain and stop, or stop at once.
    Shutdown {
        /// Without letting anything finish.
        at_once: bool,
    },
}

/// A change of what is wanted.
#[derive(Clone, Debug)]
pub enum Change {
    /// Declare an application.
    Application(Box<ApplicationSpec>, Libraries),
    /// Delete an application.
    DeleteApplication(ApplicationName),
    /// Deploy one deployment by itself.
    Deployment(ApplicationName, Box<DeploymentSpec>, Libraries),
    /// Change some fields of one, in the file's JSON form.
    Patch(DeploymentName, Value),
    /// Change the number of its replicas.
    Scale(DeploymentName, u32),
    /// Replace its replicas.
    Restart(DeploymentName),
    /// Let its update go no further, or go on.
    Pause(DeploymentName, bool),
    /// Bring back an earlier form of it.
    Rollback(DeploymentName, Option<u64>),
    /// Delete one.
    Delete(DeploymentName),
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Status`.
    Status(Box<SystemStatus>),
    /// To `Desired`.
    Desired(Box<Desired>),
    /// To `Metrics`.
    Metrics(Box<Snapshot>),
    /// To `History`.
    History(Vec<HistoryEntry>),
    /// To `Describe`.
    Description(Box<Description>),
    /// To `Change`.
    Applied(Applied),
    /// To `RenewCertificates`.
    Renewed,
    /// To `Shutdown`.
    Stopping,
}

/// Why something asked for is not done. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It can't be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not well formed.
    #[error("{0}")]
    File(#[from] FileError),
    /// A patch of what a patch can't change.
    #[error("'{0}' is changed by deploying, not by a patch")]
    NotByPatch(String),
    /// The address can't be listened on.
    #[error("the address {listen} can't be listened on: {why}")]
    Listen {
        /// As it was asked for.
        listen: String,
        /// The system's word.
        why: String,
    },
    /// Its certificate can't serve.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// It can't be made durable.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The supervisor is stopping.
    #[error("the supervisor is stopping")]
    Stopping,
    /// Too many are asking.
    #[error("too many requests wait for the supervisor's loop; try again")]
    Busy,
}
