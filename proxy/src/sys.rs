//! The proxy's machine: sockets, threads, clocks, the control channel.

mod access_log;
pub mod clock;
pub mod control;
mod door;
mod gate;
mod home;
mod lane;
mod mailbox;
pub mod process;
mod pulse;
mod reserve;
mod share;
mod socket;
mod tls;
mod transport;
mod worker;
