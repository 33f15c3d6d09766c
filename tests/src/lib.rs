//! The rig of the end-to-end tests: a real supervisor in a folder, on a socket and at an address of its own, that is
//! gone with everything it started when the test ends, also when it fails.
//!
//! The binaries and libraries are those that `cargo build --workspace` made; `cargo xtask test` sees to that.

pub mod command;
pub mod http;
#[expect(clippy::disallowed_methods, reason = "a rig reads the clock for its watchdogs")]
pub mod load;
pub mod processes;
pub mod verified;
#[expect(clippy::disallowed_methods, reason = "a rig reads the clock for its watchdogs")]
pub mod world;

pub use command::{Output, decurion, library, target_dir};
pub use http::{Connection, Response};
pub use load::{Load, Tally};
pub use processes::Held;
pub use verified::{Account, Verified};
pub use world::{World, eventually, is_running, own_address, pause};
