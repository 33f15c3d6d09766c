//! Why a call of the admin API did not do what was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use decurion_api::admin::{Problem, problem};

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Nobody answers on the socket. Nothing was changed.
    #[error("no supervisor answers on {}", socket.display())]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The supervisor refused, and says why. Nothing was changed.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The connection broke before the answer was whole. What was asked may have happened.
    #[error("the connection to the supervisor on {} broke", socket.display())]
    Broken {
        /// Where.
        socket: PathBuf,
        /// What HTTP said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time. What was asked may have happened.
    #[error("the supervisor on {} did not answer within {} s", socket.display(), after.as_secs())]
    Silent {
        /// Where.
        socket: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// An answer that is none of the admin API's. Whoever listens there is something else, or another version.
    #[error("the answer on {} is not the admin API's: {what}", socket.display())]
    Strange {
        /// Where.
        socket: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A file to upload can't be read. Nothing was changed.
    #[error("{} can't be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something of this process's own, such as no more descriptors. Nothing was changed.
    #[error("{what} failed")]
    Local {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl AdminError {
    /// The supervisor's own words, where it refused.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            AdminError::Refused(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether nobody answers on the socket.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, AdminError::Unreachable { .. })
    }

    /// Whether what was named does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is_of(problem::NOT_FOUND, 404)
    }

    /// Whether the desired state is at another revision than was expected.
    #[must_use]
    pub fn is_revision_mismatch(&self) -> bool {
        self.is_of(problem::REVISION_MISMATCH, 412)
    }

    /// Whether it is certain that nothing was changed.
    #[must_use]
    pub fn changed_nothing(&self) -> bool {
        !matches!(self, AdminError::Broken { .. } | AdminError::Silent { .. } | AdminError::Strange { .. })
    }

    fn is_of(&self, kind: &str, status: u16) -> bool {
        self.problem().is_some_and(|problem| problem.kind == kind || problem.status == status)
    }
}
