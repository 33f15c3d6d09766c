//! Bounds of everything that grows, each with its name. What a user may set has its range beside its field.

/// Deployments that one supervisor holds.
pub const DEPLOYMENTS_MAX: usize = 1_000;
/// Replicas of one deployment.
pub const REPLICAS_MAX: u32 = 1_000;
/// Handler threads of one replica.
pub const THREADS_MAX: u16 = 256;
/// Bytes of `args` as JSON.
pub const ARGS_MAX: usize = 64 * 1024;
/// Bytes of `user_config` as JSON.
pub const USER_CONFIG_MAX: usize = 64 * 1024;
/// Bytes of a library.
pub const LIBRARY_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes of a configuration file.
pub const CONFIG_FILE_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one line of a replica's output; what is longer is cut and marked.
pub const LOG_LINE_MAX: usize = 8 * 1024;
/// Lines of log kept in memory per deployment.
pub const LOG_LINES_MAX: usize = 2_000;
/// Events kept in memory.
pub const EVENTS_MAX: usize = 1_000;
/// Revisions of the desired state kept on disk.
pub const REVISIONS_MAX: usize = 20;
