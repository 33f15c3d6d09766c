//! Reaching the adoption socket.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::link::Link;

/// Connects to a SEQPACKET socket, without waiting where nobody takes connections.
///
/// # Errors
/// Nobody listens there, or what the system says.
pub fn reach(path: &str) -> io::Result<Link> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(Link::from_fd(fd))
}
