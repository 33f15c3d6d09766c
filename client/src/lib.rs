//! For callers and tools: handles to deployments, and the admin API.

/// The page on graphs, whose snippet is compiled.
#[cfg(all(doctest, feature = "admin"))]
#[doc = include_str!("../../docs/graphs.md")]
mod guide_to_graphs {}

#[cfg(feature = "admin")]
pub mod admin;

mod handle;
pub mod metrics;
#[expect(clippy::disallowed_methods, reason = "the clock, the environment and the socket are read here")]
mod sys;

/// Graphs made in code: [`Graph::builder`](decurion_api::spec::GraphSpec::builder). Deployed by
/// [`admin::Admin::put_deployment`].
pub use decurion_api::spec::GraphSpec as Graph;
pub use decurion_ipc::caller::CallError;
pub use handle::{Answer, Call, CallFailed, Client, Deployment, Handle, OfReplica, Stream};
pub use sys::socket::{SOCKET_VARIABLE, SocketError, default_socket, own_runtime_dir};
