//! Futures that run where they are woken, rather than on a thread that has to be woken for them.
//!
//! A future is polled at once where it begins. What wakes it is, as a rule, something that has come for the replica, and
//! the waker is called by the handler thread that has found it: that one goes on with the future ([`host::run_next`]).
//! Woken from anywhere else (a timer, a socket, another future), it goes on on the runtime's workers.

use std::ffi::c_void;
use std::future::Future;
use std::ptr::NonNull;

use async_task::Runnable;

use super::host;
use crate::runtime::runtime;

/// Runs a future to its end, beginning on this thread. A panic of its first poll is this function's.
pub(crate) fn run(future: impl Future<Output = ()> + Send + 'static) {
    let (first, task) = async_task::spawn(future, go_on);
    task.detach();
    poll(first);
}

/// Once each time that it is woken.
fn go_on(woken: Runnable) {
    let raw = woken.into_raw();
    if !host::run_next(poll_raw, raw.as_ptr().cast()) {
        // SAFETY: made above, and the host has not taken it.
        let woken: Runnable = unsafe { Runnable::from_raw(raw) };
        runtime().spawn(async move { _ = woken.run() });
    }
}

/// With the runtime at hand, for timers, sockets and what is spawned.
fn poll(woken: Runnable) {
    let _runtime = runtime().enter();
    woken.run();
}

unsafe extern "C" fn poll_raw(data: *mut c_void) {
    let Some(raw) = NonNull::new(data.cast()) else { return };
    // SAFETY: `go_on` gave it to the host, which calls this once with it.
    let woken: Runnable = unsafe { Runnable::from_raw(raw) };
    // What panics ends its exchange when it is dropped.
    let _ = super::export::contain(|| {
        poll(woken);
        Ok(())
    });
}
