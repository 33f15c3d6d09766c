//! The machine: processes, sockets, signals, timers, the loop that turns them into facts, and the threads.

mod entry;
mod lock;

pub use entry::{RunError, Running, StartError, Stopper, Supervisor};
pub use lock::LockError;
