//! What an operator wants: the checked form of a configuration file, and of what stands in the desired state.
//!
//! The file's own form, with its many spellings, is read in `supervisor`'s and the command's one reader,
//! [`mod@file`]; what comes out of it is this.

mod autoscaling;
mod canary;
pub mod file;
pub mod graph;
mod recycle;
mod resources;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ApplicationName, ClassName, DeploymentName, RoutePrefix, SetName};

pub use autoscaling::AutoscalingSpec;
pub use canary::{CANARY_DURATION_DEFAULT, CANARY_ERROR_RATE_DEFAULT, CanarySpec};
pub use graph::{GraphBuilder, GraphError, GraphSpec};
pub use recycle::RecycleSpec;
pub use resources::{Amount, Bytes, ResourcesSpec};

/// Everything one configuration file asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApplicationSpec {
    /// What owns the deployments: those of this application that the next file leaves out are deleted.
    pub application: ApplicationName,
    /// The proxy's settings, where the file has an `[http]` table.
    pub http: Option<HttpSpec>,
    /// In the order of the file.
    pub deployments: Vec<DeploymentSpec>,
}

/// Where a library is to be found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LibraryRef {
    /// A file on the machine of whoever reads the configuration. Relative to the file's own folder.
    Path(String),
    /// In the supervisor's store: SHA-256 of the bytes, 64 lower-case hexadecimal digits.
    Digest(String),
    /// The supervisor's own, which runs graphs.
    Graph,
}

/// One deployment, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploymentSpec {
    /// Unique on one supervisor.
    pub name: DeploymentName,
    /// The code.
    pub library: LibraryRef,
    /// Which class of the library; `None`: the only one it holds.
    pub class: Option<ClassName>,
    /// `None`: reached by handle only.
    pub route_prefix: Option<RoutePrefix>,
    /// How many replicas, at least 1; with `autoscaling`: how many to begin with, where none ran before.
    pub num_replicas: u32,
    /// How the number follows the load; `None`: it does not.
    #[serde(default)]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Constructor arguments: an object by name, an array by position, or null.
    pub args: Value,
    /// What a deployment is made of that is a graph; it has no code, class or arguments of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<GraphSpec>,
    /// For `reconfigure`; an empty table counts as set.
    pub user_config: Option<Value>,
    /// As the operator named it; `None`: made from the content.
    pub version: Option<String>,
    /// A condition on the deploy, and no part of what is wanted: the live version is this one, or already `version`.
    #[serde(default)]
    pub prev_version: Option<String>,
    /// Requests in flight per replica; `None`: 1 where `call` is exclusive, else max(5, 2 x threads).
    pub max_ongoing_requests: Option<u32>,
    /// Requests waiting for a replica; `None`: unbounded (-1 in the file).
    pub max_queued_requests: Option<u32>,
    /// Handler threads per replica.
    pub threads: u16,
    /// The whole request, queueing included; `None`: that of `[http]`. Zero: no limit.
    pub request_timeout: Option<Duration>,
    /// How long requests in flight may take to end before a replica is killed.
    pub graceful_shutdown_timeout: Duration,
    /// From one health check's start to the next one's.
    pub health_check_period: Duration,
    /// After this a health check has failed.
    pub health_check_timeout: Duration,
    /// From fork to ready.
    pub startup_timeout: Duration,
    /// How updates proceed.
    pub rollout: RolloutSpec,
    /// When a replica is replaced by a fresh one; `None`: never.
    #[serde(default)]
    pub recycle: Option<RecycleSpec>,
    /// What each replica needs of the machine.
    #[serde(default)]
    pub resources: ResourcesSpec,
    /// Environment of the replicas.
    pub runtime_env: RuntimeEnvSpec,
}

/// How a rolling update proceeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutSpec {
    /// At most this part of the replicas is down at any instant; rounded down.
    pub max_unavailable: Share,
    /// At most this many more than wanted; rounded up.
    pub max_surge: Share,
    /// Whether a failed update goes back by itself.
    pub auto_rollback: bool,
    /// How a new version is tried first; `None`: it is not.
    #[serde(default)]
    pub canary: Option<CanarySpec>,
    /// The set of this application's deployments that it changes over with; `None`: it is in none. A request that has
    /// entered the one version of a set meets no other of it.
    #[serde(default)]
    pub together: Option<SetName>,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            max_unavailable: Share::Percent(20),
            max_surge: Share::Percent(20),
            auto_rollback: true,
            canary: None,
            together: None,
        }
    }
}

/// A number of replicas, or a percentage of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// So many.
    Count(u32),
    /// 0 to 100.
    Percent(u8),
}

impl Share {
    /// The share of `total`, a percentage rounded down.
    #[must_use]
    pub fn floor_of(self, total: u32) -> u32 {
        match self {
            Share::Count(count) => count.min(total),
            Share::Percent(percent) => {
                u32::try_from(u64::from(total) * u64::from(percent) / 100).unwrap_or(total)
            }
        }
    }

    /// The share of `total`, a percentage rounded up.
    #[must_use]
    pub fn ceil_of(self, total: u32) -> u32 {
        match self {
            Share::Count(count) => count,
            Share::Percent(percent) => {
                u32::try_from((u64::from(total) * u64::from(percent)).div_ceil(100)).unwrap_or(total)
            }
        }
    }
}

/// Environment of a deployment's replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeEnvSpec {
    /// Variables to set.
    pub env_vars: BTreeMap<String, String>,
    /// Folders that the loader looks for libraries in before all others. Relative to the file's own folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub library_path: Vec<String>,
    /// The folder that replicas run in; `None`: the supervisor's. Relative to the file's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
}

impl RuntimeEnvSpec {
    /// Every folder, to be looked at or changed.
    pub fn folders_mut(&mut self) -> impl Iterator<Item = &mut String> {
        self.library_path.iter_mut().chain(&mut self.working_dir)
    }

    /// Every folder with the name of its field.
    pub fn folders(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let libraries = self.library_path.iter().map(|path| ("library_path", path.as_str()));
        libraries.chain(self.working_dir.iter().map(|path| ("working_dir", path.as_str())))
    }
}

/// The proxy's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpSpec {
    /// Address and port.
    pub listen: String,
    /// The whole request, queueing included; zero: no limit.
    pub request_timeout: Duration,
    /// Idle between requests.
    pub keep_alive_timeout: Duration,
    /// The whole head must be there.
    pub header_timeout: Duration,
    /// Without a byte of the body.
    pub body_timeout: Duration,
    /// Of an upgraded connection (a websocket): without a byte either way; zero: no limit.
    #[serde(default = "upgrade_idle")]
    pub upgrade_idle_timeout: Duration,
    /// Bytes of the request line and the header section together.
    pub max_head: u32,
    /// Header fields.
    pub max_headers: u32,
    /// Bytes of the request target.
    pub max_uri: u32,
    /// Bytes of a request's body.
    pub max_body: u64,
    /// Connections open at a time.
    pub max_connections: u32,
    /// The same from one address; 0: no limit of its own.
    pub max_connections_per_address: u32,
    /// Requests of one connection, which then closes; 0: no limit.
    #[serde(default)]
    pub max_requests_per_connection: u32,
    /// Bytes a second that a body must have, in either direction, once `body_timeout` has passed; 0: any.
    #[serde(default = "slowest")]
    pub min_body_rate: u32,
    /// Worker threads; 0: from the machine's CPUs.
    pub workers: u32,
    /// A line for each request.
    #[serde(default)]
    pub access_log: AccessLog,
    /// The part of the requests that has a line, 0 to 1.
    #[serde(default = "all")]
    pub access_log_sample: f64,
    /// Where the lines go, an absolute path; `None`: to the proxy's stderr, which the supervisor logs.
    #[serde(default)]
    pub access_log_file: Option<String>,
    /// Who is told where the time of a request went.
    #[serde(default)]
    pub server_timing: ServerTiming,
    /// TLS in place of plain HTTP.
    #[serde(default)]
    pub tls: Option<TlsSpec>,
}

/// Where what TLS needs lies: PEM files. They are read again on SIGHUP and at each deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSpec {
    /// The certificate, with those up to an authority that clients know.
    pub cert: String,
    /// Its private key.
    pub key: String,
    /// Authorities of the certificates that clients must show; `None`: they are not asked for one.
    #[serde(default)]
    pub client_ca: Option<String>,
}

impl TlsSpec {
    /// Every path, to be looked at or changed.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut String> {
        [&mut self.cert, &mut self.key].into_iter().chain(&mut self.client_ca)
    }
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// None is written.
    #[default]
    Off,
    /// As Ray Serve has it.
    Text,
    /// One object a line.
    Json,
    /// As nginx and Apache have it.
    Combined,
}

/// Which answers have a `Server-Timing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerTiming {
    /// None.
    Off,
    /// Those to requests that ask for it with `X-Server-Timing`.
    #[default]
    Asked,
    /// All.
    Always,
}

impl ServerTiming {
    /// Whether an answer has one.
    #[must_use]
    pub fn applies(self, asked: bool) -> bool {
        match self {
            ServerTiming::Off => false,
            ServerTiming::Asked => asked,
            ServerTiming::Always => true,
        }
    }
}

fn upgrade_idle() -> Duration {
    Duration::from_secs(300)
}

/// As HTTP.sys and Kestrel have it.
fn slowest() -> u32 {
    240
}

fn all() -> f64 {
    1.0
}

impl Default for HttpSpec {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8000".to_owned(),
            request_timeout: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(90),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            upgrade_idle_timeout: upgrade_idle(),
            max_head: 64 * 1024,
            max_headers: 100,
            max_uri: 8 * 1024,
            max_body: 64 * 1024 * 1024,
            max_connections: 20_000,
            max_connections_per_address: 0,
            max_requests_per_connection: 0,
            min_body_rate: slowest(),
            workers: 0,
            access_log: AccessLog::Off,
            access_log_sample: all(),
            access_log_file: None,
            server_timing: ServerTiming::Asked,
            tls: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_as_the_rollout_needs() {
        let share = Share::Percent(20);
        assert_eq!([1, 4, 5, 9, 10, 25].map(|n| share.floor_of(n)), [0, 0, 1, 1, 2, 5]);
        assert_eq!([1, 4, 5, 6, 10, 25].map(|n| share.ceil_of(n)), [1, 1, 1, 2, 2, 5]);
        assert_eq!(Share::Count(3).floor_of(2), 2);
    }
}
