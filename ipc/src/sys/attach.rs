//! How a caller and a replica join: one packet each way over a socket pair that the supervisor made.
//!
//! ```text
//!   caller                                        callee
//!     Hello { lanes, geometry, up bell }    -->     its segment, the down bell, an eventfd per lane if so
//!     Welcome                               <--     its segment, its board, a pipe per lane if so
//! ```
//!
//! Each makes its own segment and seals it before it is sent; each checks the other's. The socket pair stays
//! open for nothing but its hang-up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bell::{BellReader, Ringer};
use super::board::BoardReader;
use super::link::{Link, LinkError};
use super::memory::{MemoryError, ReadOnly, Writable};
use crate::channel::{
    Direction, Geometry, GeometryError, LANES_MAX, Layout, MAGIC, Requester, Responder, Shared, VERSION,
};
use crate::control::CallerKind;
use crate::event_index::Load;
use crate::sync::Ordering;

/// What a callee rings a lane's caller with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBell {
    /// An eventfd per lane, made by the caller, registered edge-triggered and never read. For the proxy only:
    /// whoever shares it could make it block the one that rings.
    EventFd,
    /// A pipe per lane, made by the callee.
    Pipe,
}

/// The caller's first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    version: u32,
    lanes: u16,
    geometry: Geometry,
    up: UpBell,
}

/// The callee's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Welcome {
    Accepted,
    Refused(String),
}

/// Why two sides did not join.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing has come yet.
    #[error("nothing has come over the attach socket yet")]
    NotYet,
    /// The other side took too long.
    #[error("the other side did not answer in time")]
    TimedOut,
    /// The attach socket failed.
    #[error("the attach socket failed: {0}")]
    Link(#[from] LinkError),
    /// The system has no memory or descriptors for it.
    #[error("the channel could not be made")]
    Io(#[from] io::Error),
    /// The other side's memory is not as it must be.
    #[error("the other side's memory is refused: {0}")]
    Memory(#[from] MemoryError),
    /// Measures out of range.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// What the other side sent is not what belongs here.
    #[error("the other side sent {0}")]
    Protocol(&'static str),
    /// The callee refused, with why.
    #[error("the other side refused: {0}")]
    Refused(String),
}

/// A caller's ends.
#[derive(Debug)]
pub struct Connected {
    /// As many as were asked for.
    pub lanes: Vec<Requester>,
    /// What the replica says of itself.
    pub board: BoardReader,
}

/// A callee's ends.
#[derive(Debug)]
pub struct Accepted {
    /// As many as the caller asked for.
    pub lanes: Vec<Responder>,
    /// Rung for all of them.
    pub bell: BellReader,
}

/// Joins as the caller, with as many lanes as it has threads.
///
/// # Errors
/// [`AttachError`]: nothing was joined.
pub fn connect(
    attach: &Link,
    lanes: u16,
    geometry: Geometry,
    up: UpBell,
    timeout: Duration,
) -> Result<Connected, AttachError> {
    let offer = Offer::send(attach, lanes, geometry, up)?;
    match attach.recv_timeout(Some(timeout))? {
        Some((welcome, fds)) => offer.complete(welcome, fds),
        None => Err(AttachError::TimedOut),
    }
}

/// Joins as the callee, when something has come over the attach socket. `board` goes to the caller.
///
/// # Errors
/// [`AttachError::NotYet`] where nothing has come; for anything else nothing was joined, and the caller was told.
pub fn accept(attach: &Link, kind: &CallerKind, board: BorrowedFd<'_>) -> Result<Accepted, AttachError> {
    let (hello, fds) = attach.try_recv()?.ok_or(AttachError::NotYet)?;
    let answered = answer(&hello, fds, kind).and_then(|answer| {
        let up = answer.up_memory.as_fd();
        let pipes = answer.pipes.iter().map(AsFd::as_fd);
        let fds: Vec<_> = [up, board].into_iter().chain(pipes).collect();
        attach.send(&Welcome::Accepted, &fds)?;
        Ok(answer.accepted)
    });
    if let Err(error) = &answered {
        // It learns of the refusal by the hang-up otherwise.
        let _ = attach.send(&Welcome::Refused(error.to_string()), &[]);
    }
    answered
}

/// Both ends within one process, for tests and benches.
///
/// # Errors
/// As [`connect`] and [`accept`].
pub fn local(lanes: u16, geometry: Geometry, up: UpBell) -> Result<(Connected, Accepted), AttachError> {
    let (near, far) = Link::pair()?;
    let (_, board) = super::board::BoardWriter::create()?;
    let offer = Offer::send(&near, lanes, geometry, up)?;
    let accepted = accept(&far, &CallerKind::Proxy, board.as_fd())?;
    let (welcome, fds) = near.try_recv()?.ok_or(AttachError::NotYet)?;
    Ok((offer.complete(welcome, fds)?, accepted))
}

/// What a caller keeps between its packet and the answer.
struct Offer {
    geometry: Geometry,
    lanes: u16,
    down: Arc<Writable>,
    ringer: Ringer,
    /// One per lane with eventfds, none with pipes.
    bells: Vec<BellReader>,
    up: UpBell,
}

impl Offer {
    fn send(attach: &Link, lanes: u16, geometry: Geometry, up: UpBell) -> Result<Offer, AttachError> {
        check(lanes, &geometry)?;
        let (down, down_memory) = segment(&geometry, Direction::Down, lanes)?;
        let (ringer, down_bell) = Ringer::pipe()?;
        let (mut bells, mut fds) = (Vec::new(), vec![down_memory, down_bell]);
        if up == UpBell::EventFd {
            for _ in 0..lanes {
                let (bell, fd) = BellReader::event_fd()?;
                bells.push(bell);
                fds.push(fd);
            }
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        attach.send(&Hello { version: VERSION, lanes, geometry, up }, &borrowed)?;
        Ok(Offer { geometry, lanes, down: Arc::new(down), ringer, bells, up })
    }

    fn complete(mut self, welcome: Welcome, fds: Vec<OwnedFd>) -> Result<Connected, AttachError> {
        if let Welcome::Refused(why) = welcome {
            return Err(AttachError::Refused(why));
        }
        let mut fds = fds.into_iter();
        let (Some(up_memory), Some(board)) = (fds.next(), fds.next()) else {
            return Err(AttachError::Protocol("too few descriptors"));
        };
        if self.up == UpBell::Pipe {
            for fd in fds.by_ref().take(usize::from(self.lanes)) {
                self.bells.push(BellReader::received(&fd)?);
            }
        }
        if self.bells.len() != usize::from(self.lanes) || fds.next().is_some() {
            return Err(AttachError::Protocol("another number of descriptors than belongs there"));
        }
        let up = Arc::new(peer_segment(&up_memory, &self.geometry, Direction::Up, self.lanes)?);
        let board = BoardReader::open(board)?;
        let lanes = (0..self.lanes)
            .zip(self.bells)
            .map(|(lane, bell)| {
                let shared = Shared {
                    own: self.down.clone(),
                    peer: up.clone(),
                    own_layout: Layout::new(&self.geometry, Direction::Down, lane),
                    peer_layout: Layout::new(&self.geometry, Direction::Up, lane),
                    ringer: self.ringer.clone(),
                };
                Requester::new(shared, &self.geometry, bell)
            })
            .collect();
        Ok(Connected { lanes, board })
    }
}

/// What a callee makes for an offer.
struct Answer {
    accepted: Accepted,
    up_memory: OwnedFd,
    pipes: Vec<OwnedFd>,
}

fn answer(hello: &Hello, fds: Vec<OwnedFd>, kind: &CallerKind) -> Result<Answer, AttachError> {
    let &Hello { version, lanes, geometry, up } = hello;
    if version != VERSION {
        return Err(AttachError::Protocol("another version of the channel"));
    }
    check(lanes, &geometry)?;
    let mut fds = fds.into_iter();
    let (Some(down_memory), Some(down_bell)) = (fds.next(), fds.next()) else {
        return Err(AttachError::Protocol("too few descriptors"));
    };
    let (mut ringers, mut pipes) = (Vec::new(), Vec::new());
    match up {
        UpBell::EventFd if *kind == CallerKind::Proxy => {
            ringers.extend(fds.by_ref().take(usize::from(lanes)).map(|fd| Ringer::EventFd(Arc::new(fd))));
        }
        UpBell::EventFd => return Err(AttachError::Protocol("an eventfd, which only the proxy may")),
        UpBell::Pipe => {
            for _ in 0..lanes {
                let (ringer, pipe) = Ringer::pipe()?;
                ringers.push(ringer);
                pipes.push(pipe);
            }
        }
    }
    if ringers.len() != usize::from(lanes) || fds.next().is_some() {
        return Err(AttachError::Protocol("another number of descriptors than belongs there"));
    }
    let bell = BellReader::received(&down_bell)?;
    let down = Arc::new(peer_segment(&down_memory, &geometry, Direction::Down, lanes)?);
    let (own, up_memory) = segment(&geometry, Direction::Up, lanes)?;
    let own = Arc::new(own);
    let lanes = (0..lanes)
        .zip(ringers)
        .map(|(lane, ringer)| {
            let shared = Shared {
                own: own.clone(),
                peer: down.clone(),
                own_layout: Layout::new(&geometry, Direction::Up, lane),
                peer_layout: Layout::new(&geometry, Direction::Down, lane),
                ringer,
            };
            Responder::new(shared, &geometry)
        })
        .collect();
    Ok(Answer { accepted: Accepted { lanes, bell }, up_memory, pipes })
}

fn check(lanes: u16, geometry: &Geometry) -> Result<(), AttachError> {
    geometry.check()?;
    if (1..=LANES_MAX).contains(&lanes) {
        Ok(())
    } else {
        Err(AttachError::Protocol("an impossible number of lanes"))
    }
}

/// Our own segment, with its constants written.
fn segment(geometry: &Geometry, direction: Direction, lanes: u16) -> io::Result<(Writable, OwnedFd)> {
    let name = match direction {
        Direction::Down => "decurion-down",
        Direction::Up => "decurion-up",
    };
    let (memory, fd) = Writable::create(name, Layout::segment_bytes(geometry, direction, lanes))?;
    for lane in 0..lanes {
        let at = Layout::new(geometry, direction, lane).constants();
        for (place, value) in constants(geometry, lane).into_iter().enumerate() {
            memory.word(at + 4 * place).store(value, Ordering::Relaxed);
        }
    }
    Ok((memory, fd))
}

/// The other side's segment, if it is of the size and for the lanes that both agreed on.
fn peer_segment(
    fd: &OwnedFd,
    geometry: &Geometry,
    direction: Direction,
    lanes: u16,
) -> Result<ReadOnly, AttachError> {
    let memory = ReadOnly::open(fd, Layout::segment_bytes(geometry, direction, lanes))?;
    for lane in 0..lanes {
        let at = Layout::new(geometry, direction, lane).constants();
        let found = [0, 4, 8, 12].map(|place| memory.word(at + place).load(Ordering::Relaxed));
        if found != constants(geometry, lane) {
            return Err(AttachError::Protocol("memory that is not a channel's"));
        }
    }
    Ok(memory)
}

fn constants(geometry: &Geometry, lane: u16) -> [u32; 4] {
    [MAGIC, VERSION, u32::from(lane), geometry.slots()]
}
