//! What the library reads of its environment.

/// The level from which on events become lines, if the deployment's `runtime_env` says.
pub(crate) fn log_level() -> Option<String> {
    std::env::var("RUST_LOG").ok()
}

/// Whether this is a replica's process, and not a test's.
pub(crate) fn is_replica() -> bool {
    std::env::var_os("DECURION_REPLICA").is_some()
}
