//! The proxy's machine: sockets, threads, clocks, the control channel.

pub mod clock;
pub mod control;
mod gate;
mod lane;
mod mailbox;
mod socket;
mod worker;
