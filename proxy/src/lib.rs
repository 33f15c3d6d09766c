//! HTTP in, descriptors out: the proxy.
//!
//! Everything that decides is pure: [`http1`] the protocol, [`route`] the table, balancing and the exchange. The
//! machine is touched under `sys/` alone.

pub mod balance;
pub mod http1;
pub mod route;
pub mod time;
