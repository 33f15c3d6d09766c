//! For callers and tools: handles to deployments, and the admin API.

#[cfg(feature = "admin")]
pub mod admin;

mod handle;
pub mod metrics;
#[expect(clippy::disallowed_methods, reason = "the clock, the environment and the socket are read here")]
mod sys;

pub use decurion_ipc::caller::CallError;
pub use handle::{Answer, Call, CallFailed, Client, Deployment, Handle, OfReplica, Stream};
pub use sys::socket::{SOCKET_VARIABLE, SocketError, default_socket, own_runtime_dir};
