//! Bounds of everything that grows, each with its name. What a user may set has its range beside its field.

/// Deployments that one supervisor holds.
pub const DEPLOYMENTS_MAX: usize = 1_000;
/// Replicas of one deployment.
pub const REPLICAS_MAX: u32 = 1_000;
/// Handler threads of one replica.
pub const THREADS_MAX: u16 = 256;
/// Bytes of memory that a replica may be bounded to: none could even start in less.
pub const REPLICA_MEMORY_MIN: u64 = 1 << 20;
/// Bytes of memory that a replica may be bounded to: more than any machine has.
pub const REPLICA_MEMORY_MAX: u64 = 1 << 50;
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
/// Requests in flight that one replica may be given.
pub const MAX_ONGOING_REQUESTS_MAX: u32 = 65_535;
/// Requests that may wait for a replica, where there is a bound.
pub const MAX_QUEUED_REQUESTS_MAX: u32 = 1_000_000;
/// Requests that wait for a replica where the file says nothing.
pub const MAX_QUEUED_REQUESTS_DEFAULT: u32 = 1_024;
/// Bytes of a version's name.
pub const VERSION_MAX: usize = 128;
/// Environment variables of a deployment.
pub const ENV_VARS_MAX: usize = 256;
/// Bytes of a deployment's environment variables, names and values together.
pub const ENV_BYTES_MAX: usize = 64 * 1024;
/// Folders in a deployment's `library_path`.
pub const LIBRARY_PATH_MAX: usize = 64;
/// Bytes of one folder's path.
pub const FOLDER_BYTES_MAX: usize = 4_096;
/// Longest duration that a setting takes: seven days.
pub const DURATION_MAX: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);
/// Shortest period of a health check, and shortest limit on a step of a replica's life.
pub const DURATION_MIN: std::time::Duration = std::time::Duration::from_millis(10);
/// Bytes of a request's head, at most: it travels to the replica in one block.
pub const HTTP_HEAD_MAX: u64 = 64 * 1024;
/// Bytes of a request's head that every client needs.
pub const HTTP_HEAD_MIN: u64 = 1024;
/// Bytes of a request target, at least.
pub const HTTP_URI_MIN: u64 = 64;
/// Header fields of a request, at most: as many as the proxy has room for.
pub const HTTP_HEADERS_MAX: u32 = 256;
/// Bytes of a request's body.
pub const HTTP_BODY_MAX: u64 = 1 << 40;
/// Bytes a second that a body may be asked for, at most.
pub const HTTP_RATE_MAX: u64 = 1 << 30;
/// Connections open at a time.
pub const CONNECTIONS_MAX: u32 = 1_000_000;
/// Bytes of a file with certificates or a key.
pub const PEM_FILE_MAX: u64 = 1024 * 1024;
/// Worker threads of the proxy.
pub const WORKERS_MAX: u32 = 256;
