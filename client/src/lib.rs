//! For callers and tools: handles to deployments, and the admin API.

#[cfg(feature = "admin")]
pub mod admin;
