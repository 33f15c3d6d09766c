//! The supervisor: holds the desired state, keeps it true, starts and watches every process, and answers the admin
//! API. It is never on a request's path.
//!
//! A program that embeds it (the command's `supervise` and `run`) does this:
//!
//! ```no_run
//! use decurion_supervisor::{Options, Supervisor};
//!
//! let running = Supervisor::start(Options::new("/var/lib/decurion", "/run/decurion/control.sock"))?;
//! // From here on the admin API answers on the socket. `run` deploys through it, like any other client.
//! running.wait()?; // until SIGTERM, SIGINT, `POST /v1/shutdown` or `running.stopper().stop()`
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "the one place of this crate that touches the machine: syscalls, clocks, threads, environment"
)]
pub mod sys;

pub mod admin;
pub mod capacity;
pub mod change;
pub mod desired;
mod lines;
mod logbook;
pub mod metrics;
mod options;
pub mod reconcile;
mod roster;
pub mod store;

pub use capacity::CapacityOverride;
pub use options::{ORPHAN_TIMEOUT, Options, Output, Program};
pub use sys::{
    ArtifactError, ConfigError, LockError, RunError, Running, SocketError, StartError, Stopper, Supervisor,
    TlsError,
};
