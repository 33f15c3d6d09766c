//! Everything here that touches the machine: sockets, mappings, bells, clocks.

pub mod link;
#[cfg(feature = "proxy-control")]
pub mod proxy_control;
