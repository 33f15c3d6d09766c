//! What belongs to each child beside its process: its link or channel, what it writes, and what waits to be sent.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use decurion_api::DeploymentName;
use decurion_ipc::board::BoardReader;
use decurion_ipc::control::{CallerOrder, ProxyOrder, ReplicaOrder};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::proxy_control::{ControlError, OrderSender};
use mio::Token;
use serde::Serialize;

use crate::lines::Lines;
use crate::metrics::Measured;
use crate::reconcile::Board;
use crate::sys::process::Process;

/// One replica's process.
#[derive(Debug)]
pub(crate) struct ReplicaChild {
    pub(crate) process: Process,
    pub(crate) deployment: DeploymentName,
    pub(crate) post: Post<ReplicaOrder>,
    pub(crate) board: Option<BoardReader>,
    /// What its library measures.
    pub(crate) measured: Measured,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
    /// The last lines that it wrote to stderr.
    pub(crate) last_words: VecDeque<String>,
    pub(crate) tokens: Vec<Token>,
}

/// One proxy's process.
#[derive(Debug)]
pub(crate) struct ProxyChild {
    pub(crate) process: Process,
    pub(crate) orders: OrderSender,
    /// Orders that wait for room in the channel.
    pub(crate) backlog: VecDeque<(ProxyOrder, Vec<OwnedFd>)>,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
    pub(crate) tokens: Vec<Token>,
}

/// One client of the handle socket.
#[derive(Debug)]
pub(crate) struct ClientEnd {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) post: Post<CallerOrder>,
    pub(crate) token: Token,
}

/// A link and what waits to be sent over it.
#[derive(Debug)]
pub(crate) struct Post<T> {
    pub(crate) link: Link,
    waiting: VecDeque<(T, Vec<OwnedFd>)>,
}

/// Output of a child, read as it comes.
#[derive(Debug)]
pub(crate) struct Pipe {
    file: Option<std::fs::File>,
    lines: Lines,
}

/// Lines of stderr that are kept for the reason of an end.
pub(crate) const LAST_WORDS_MAX: usize = 5;
/// Orders that wait for somebody who does not read, at most.
const WAITING_MAX: usize = 1024;
/// Reads from one pipe before others have their turn.
const READS_MAX: usize = 16;

impl<T: Serialize> Post<T> {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, waiting: VecDeque::new() }
    }

    /// Sends, or keeps it for later. An error: it is full of what nobody reads, or gone.
    pub(crate) fn send(&mut self, message: T, fds: Vec<OwnedFd>) -> Result<(), LinkError> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(LinkError::WouldBlock);
        }
        self.waiting.push_back((message, fds));
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        while let Some((message, fds)) = self.waiting.front() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match self.link.send(message, &fds) {
                Ok(()) => self.waiting.pop_front(),
                Err(LinkError::WouldBlock) => return Ok(()),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }
}

impl Pipe {
    pub(crate) fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(fd) = &fd {
            crate::sys::process::set_nonblocking(fd.as_fd())?;
        }
        Ok(Self { file: fd.map(std::fs::File::from), lines: Lines::default() })
    }

    pub(crate) fn raw(&self) -> Option<RawFd> {
        self.file.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Reads what is there. True: there is more, for the next turn.
    pub(crate) fn read(&mut self, mut on_line: impl FnMut(String)) -> bool {
        let Some(file) = &mut self.file else { return false };
        let mut buffer = [0; 16 * 1024];
        for _ in 0..READS_MAX {
            match file.read(&mut buffer) {
                Ok(count) if count > 0 => self.lines.take(&buffer[..count], &mut on_line),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Ok(_) | Err(_) => {
                    self.file = None;
                    self.lines.finish(&mut on_line);
                    return false;
                }
            }
        }
        true
    }

    /// A second is over.
    pub(crate) fn next_period(&mut self, on_line: impl FnOnce(String)) {
        self.lines.next_period(on_line);
    }

    /// Reads what is left of one whose writer has ended, but no more than a bound: somebody else may hold it.
    pub(crate) fn read_rest(&mut self, mut on_line: impl FnMut(String)) {
        self.read(&mut on_line);
        self.file = None;
        self.lines.finish(&mut on_line);
    }
}

impl ReplicaChild {
    /// What its board says.
    pub(crate) fn board(&self) -> Option<Board> {
        let board = self.board.as_ref()?;
        Some(Board::from((board.heartbeat(), board.ongoing(), board.processed())))
    }

    /// Keeps a line that it wrote to stderr.
    pub(crate) fn remember(&mut self, line: &str) {
        if self.last_words.len() == LAST_WORDS_MAX {
            self.last_words.pop_front();
        }
        self.last_words.push_back(line.to_owned());
    }
}

impl ProxyChild {
    /// Sends, or keeps it for later. A proxy that is gone reports its end by itself.
    pub(crate) fn send(&mut self, order: ProxyOrder, fds: Vec<OwnedFd>) {
        self.backlog.push_back((order, fds));
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self) {
        while let Some((order, fds)) = self.backlog.pop_front() {
            // The queue takes them or not, and gives nothing back: copies stay here until it has.
            let copies: io::Result<Vec<OwnedFd>> = fds.iter().map(OwnedFd::try_clone).collect();
            let Ok(copies) = copies else {
                self.backlog.push_front((order, fds));
                return;
            };
            match self.orders.send(order.clone(), copies) {
                Ok(()) => {}
                Err(ControlError::Full) => {
                    self.backlog.push_front((order, fds));
                    return;
                }
                Err(error) => {
                    tracing::debug!("the proxy takes no orders: {error}");
                    self.backlog.clear();
                    return;
                }
            }
        }
    }
}
