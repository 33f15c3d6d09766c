//! What carries a connection's bytes: the plain socket, or TLS over it.
//!
//! An enum and not a trait object: which one it is costs a plain connection one predictable branch, and its bytes go
//! between the socket and shared memory without a stop here.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;

use decurion_ipc::channel::{InBlock, OutBlock, Requester};
use mio::net::TcpStream;
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use super::tls::Tls;

/// One connection's transport.
#[derive(Debug)]
pub(super) enum Transport {
    /// The socket itself.
    Plain(TcpStream),
    /// Boxed: plain connections are not to pay for its size.
    Tls(Box<Tls>),
}

impl Transport {
    /// What the event loop watches.
    pub(super) fn stream(&mut self) -> &mut TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(tls) => &mut tls.stream,
        }
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.read(into),
            Transport::Tls(tls) => tls.read(into),
        }
    }

    pub(super) fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.write(from),
            Transport::Tls(tls) => tls.write(from),
        }
    }

    /// Reads once into a block of shared memory.
    pub(super) fn read_into(&mut self, lane: &mut Requester, block: &mut OutBlock) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => lane.fill_from(block, stream.as_fd()),
            Transport::Tls(tls) => tls.read_into(lane, block),
        }
    }

    /// Writes bytes, then blocks of shared memory, each from a place in it on.
    pub(super) fn write_from(
        &mut self,
        lane: &Requester,
        prefix: &[u8],
        blocks: &[(&InBlock, usize)],
    ) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => lane.write_to(stream.as_fd(), &[IoSlice::new(prefix)], blocks),
            Transport::Tls(tls) => tls.write_from(lane, prefix, blocks),
        }
    }

    pub(super) fn shutdown_write(&mut self) {
        match self {
            // Fails where the client is gone, which the next read says as well.
            Transport::Plain(stream) => drop(stream.shutdown(Shutdown::Write)),
            Transport::Tls(tls) => tls.shutdown_write(),
        }
    }

    /// Whether a short read has emptied it.
    pub(super) fn short_read_drains(&self) -> bool {
        matches!(self, Transport::Plain(_))
    }

    pub(super) fn is_flushed(&self) -> bool {
        match self {
            Transport::Plain(_) => true,
            Transport::Tls(tls) => tls.is_flushed(),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(_) => Ok(()),
            Transport::Tls(tls) => tls.flush(),
        }
    }

    /// The status of an answer that it has given by itself.
    pub(super) fn answered(&self) -> Option<u16> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(tls) => tls.answered(),
        }
    }

    /// The last word before the close.
    pub(super) fn finish(&mut self) {
        if let Transport::Tls(tls) = self {
            tls.close_notify();
        }
    }

    /// The close that follows is a reset.
    pub(super) fn break_off(&mut self) {
        let at_once = linger { l_onoff: 1, l_linger: 0 };
        let _ = setsockopt(self.stream(), sockopt::Linger, &at_once);
    }
}
