//! Everything here that touches the machine: sockets, mappings, bells, clocks.

pub mod link;
