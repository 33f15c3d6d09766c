//! Clock, environment, ids.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::time::{ClockId, clock_gettime};

use crate::handle::CallFailed;
use crate::sys::socket::default_socket;

/// CLOCK_MONOTONIC in nanoseconds, the same for every process of the machine.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()));
    u64::try_from(now).unwrap_or(0)
}

/// `handle.sock` beside the control socket.
pub(crate) fn default_handle_socket() -> Result<PathBuf, CallFailed> {
    let control = default_socket().map_err(|error| CallFailed::NoSocket(error.to_string()))?;
    Ok(control.with_file_name("handle.sock"))
}

/// An id for a request that nobody gave one: unique on this machine.
pub(crate) fn new_request_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:x}-{:x}-{:x}", std::process::id(), now_ns(), COUNT.fetch_add(1, Ordering::Relaxed))
}
