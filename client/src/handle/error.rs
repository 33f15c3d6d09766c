//! Why a call has no result, and whose fault that is.

use std::path::PathBuf;
use std::time::Duration;

use decurion_api::NameError;
use decurion_ipc::caller::CallError;
use decurion_ipc::codec::CodecError;

/// Fits "failed to call ...: {error}".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallFailed {
    /// No supervisor to ask.
    #[error("no supervisor answers at {}", socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// Nowhere to look for one.
    #[error("can't tell where the supervisor's socket is: {0}")]
    NoSocket(String),
    /// Not a name.
    #[error(transparent)]
    Name(NameError),
    /// The supervisor, or the replica, did not answer in time.
    #[error("no answer after {after:?}")]
    NoAnswer {
        /// How long was waited.
        after: Duration,
    },
    /// The arguments can't be written as JSON.
    #[error("the arguments can't be encoded: {0}")]
    Arguments(#[source] serde_json::Error),
    /// Arguments or result don't fit bincode, or the bound.
    #[error("the value can't be carried: {0}")]
    Value(#[from] CodecError),
    /// The result is not of the type asked for.
    #[error("the result is not of the type asked for: {0}")]
    Result(#[source] serde_json::Error),
    /// The call never ran, or was cut off.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The callee ran and failed.
    #[error("{message}")]
    Callee {
        /// HTTP-like class of the error: 404 no such method, 400 wrong arguments, 500 the handler failed.
        status: u16,
        /// The callee's words.
        message: String,
    },
}
