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

    fn short_read_drains(&self) -> bool {
        self.transport.short_read_drains()
    }

    fn is_flushed(&self) -> bool {
        self.transport.is_flushed()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.transport.flush()
    }

    fn finish(&mut self) {
        self.transport.finish();
    }

    fn shutdown_write(&mut self) {
        self.transport.shutdown_write();
    }

    fn break_off(&mut self) {
        self.transport.break_off();
    }

    fn answered(&self) -> Option<u16> {
        self.transport.answered()
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.address)
    }
}
