//! The listening socket as one worker has it: open while the worker wants to be told of new connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use mio::net::{TcpListener, TcpStream};
use mio::{Registry, Token};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    epoll: Epoll,
    token: Token,
    open: bool,
}

impl Door {
    /// Of a worker with this epoll; closed at first.
    pub(super) fn new(listener: TcpListener, registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self { listener, epoll: Epoll(registry.as_fd().try_clone_to_owned()?), token, open: false })
    }

    /// Has the worker told of what comes from now on. Not by mio, which would have every worker woken for every
    /// connection.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if !self.open {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLEXCLUSIVE;
            self.epoll.add(self.listener.as_fd(), EpollEvent::new(flags, self.token.0 as u64))?;
            self.open = true;
        }
        Ok(())
    }

    /// Leaves what comes to the others.
    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            let _ = self.epoll.delete(self.listener.as_fd());
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// A connection that waits.
    pub(super) fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.listener.accept()
    }
}
