//! What a program that embeds the supervisor may choose.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::capacity::CapacityOverride;

/// How long proxy and replicas wait for the next supervisor, where nothing else is said.
pub const ORPHAN_TIMEOUT: Duration = Duration::from_secs(600);

/// How a supervisor runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Folder of the desired state and the library store; made when missing.
    pub state_dir: PathBuf,
    /// Path of the control socket. Its folder is made when missing, and holds `handle.sock` beside it.
    pub socket: PathBuf,
    /// A configuration file (TOML, or JSON where the name ends so) that is deployed at the start, and again on SIGHUP.
    pub config: Option<PathBuf>,
    /// Address and port to serve HTTP on, whatever the desired state says.
    pub listen: Option<String>,
    /// Address and port to answer `GET /metrics` on, beside the control socket; `None`: there alone.
    pub metrics: Option<String>,
    /// Folder of `decurion-proxy` and `decurion-replica-runner`; `None`: beside our own executable, or in
    /// `../libexec/decurion` from there.
    pub executables: Option<PathBuf>,
    /// Group whose members may use the sockets, beside root and our own user.
    pub group: Option<u32>,
    /// Where replicas' lines go beside the log that `GET /v1/logs` reads.
    pub output: Output,
    /// How long proxy and replicas serve on without a supervisor, if this one dies, until another adopts them. Zero: they
    /// leave at once.
    pub orphan_timeout: Duration,
    /// Whether TERM, INT, HUP and USR2 of this process are ours to act on.
    pub signals: bool,
    /// What replicas may use of this machine, in place of what is measured.
    pub capacity: CapacityOverride,
    /// What takes our place on USR2; `None`: nothing does.
    pub program: Option<Program>,
}

/// A program and how it is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is, at that time.
    pub path: PathBuf,
    /// All its arguments.
    pub arguments: Vec<OsString>,
}

/// Where the lines that replicas write go, beside the log kept in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// To our own stderr, labelled with the replica.
    #[default]
    Stderr,
    /// Nowhere.
    Quiet,
}

impl Options {
    /// The usual choices, with these two places.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>, socket: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            socket: socket.into(),
            config: None,
            listen: None,
            metrics: None,
            executables: None,
            group: None,
            output: Output::default(),
            orphan_timeout: ORPHAN_TIMEOUT,
            signals: true,
            capacity: CapacityOverride::default(),
            program: None,
        }
    }
}
