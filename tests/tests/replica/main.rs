//! A replica alone: the real runner and a real library, with the test as its supervisor and its callers.

mod callers;
mod life;
mod native;
mod requests;
#[expect(clippy::disallowed_methods, reason = "a rig reads the clock for its watchdogs")]
mod rig;
mod threads;
