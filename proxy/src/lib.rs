//! HTTP in, descriptors out: the proxy.
//!
//! Everything that decides is pure: [`http1`] the protocol, [`route`] the table, [`balance`] who gets a request,
//! [`routing`] which view is in use,
//! [`exchange`] what becomes of one that lost its replica, [`engine`] a worker's whole work over abstract sockets
//! and channels. The machine is touched under [`sys`] alone.

pub mod access_log;
pub mod balance;
#[cfg(any(test, feature = "fuzzing"))]
pub mod conformance;
pub mod engine;
pub mod exchange;
pub mod http1;
pub mod route;
pub mod routing;
pub mod stats;
#[expect(clippy::disallowed_methods, reason = "sockets, threads and clocks are touched here alone")]
pub mod sys;
pub mod time;
pub mod view;
