//! A client's TCP socket.

use std::io;
use std::net::IpAddr;

use super::gate::Pass;
use super::transport::Transport;
use crate::engine::port::Socket;

/// The socket, with its place among the connections.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) transport: Transport,
    address: IpAddr,
    _pass: Pass,
}

impl Client {
    pub(super) fn new(transport: Transport, address: IpAddr, pass: Pass) -> Self {
        Self { transport, address, _pass: pass }
    }
}

impl Socket for Client {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.transport.read(into)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.transport.write(from)
    }

    fn shutdown_write(&mut self) {
        self.transport.shutdown_write();
    }

    fn break_off(&mut self) {
        self.transport.break_off();
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.address)
    }
}
