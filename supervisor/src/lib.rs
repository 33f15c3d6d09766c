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

pub mod sys;

pub mod change;
pub mod desired;
mod options;
pub mod reconcile;
pub mod store;

pub use options::{Options, Output};
pub use sys::{LockError, RunError, Running, StartError, Stopper, Supervisor};
