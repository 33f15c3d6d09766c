//! For callers and tools: handles to deployments, and the admin API.

#[cfg(feature = "admin")]
pub mod admin;

mod handle;
#[expect(clippy::disallowed_methods, reason = "the clock, the environment and the socket are read here")]
mod sys;

pub use handle::{Call, CallFailed, Client, Deployment, Handle};
