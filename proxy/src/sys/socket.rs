//! A client's TCP socket.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, BorrowedFd};

use mio::net::TcpStream;

use super::gate::Pass;
use crate::engine::port::Socket;

/// The socket, with its place among the connections.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: TcpStream,
    address: IpAddr,
    _pass: Pass,
}

impl Client {
    pub(super) fn new(stream: TcpStream, address: IpAddr, pass: Pass) -> Self {
        Self { stream, address, _pass: pass }
    }
}

impl Socket for Client {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.write(from)
    }

    fn shutdown_write(&mut self) {
        // Fails where the client is gone, which the next read says as well.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.address)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
