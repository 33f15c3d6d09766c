//! Everything here that touches the machine: sockets, mappings, bells, clocks.

pub mod adoption;
pub mod attach;
pub mod bell;
pub mod board;
pub mod child;
#[cfg(test)]
mod kill;
pub mod link;
pub mod memory;
#[cfg(feature = "proxy-control")]
pub mod proxy_control;
pub mod sleeper;
pub mod spin;
