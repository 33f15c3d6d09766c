//! The machine: processes, sockets, signals, timers, the loop that turns them into facts, and the threads.

mod affinity;
pub(crate) mod api;
mod artifacts;
mod capacity;
mod children;
mod clock;
mod entry;
mod folder;
mod hall;
mod heritage;
mod journal;
mod lock;
mod machine;
mod mailbox;
mod notify;
mod oom;
mod process;
mod sockets;
mod tls;

pub use artifacts::{ArtifactError, ConfigError};
pub use entry::{RunError, Running, StartError, Stopper, Supervisor};
pub use lock::LockError;
pub use sockets::SocketError;
pub use tls::TlsError;
