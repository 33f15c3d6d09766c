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
use super::board::{BoardReader, BoardWriter};
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
    let mut joining = Joining::new(lanes, geometry, up);
    joining.attempt(attach, timeout)
}

/// Joining as the caller, in as many attempts as it takes.
#[derive(Debug)]
pub struct Joining {
    lanes: u16,
    geometry: Geometry,
    up: UpBell,
    state: Progress,
}

/// How far it has come.
#[derive(Debug)]
enum Progress {
    /// Nothing was sent.
    Begins,
    /// What was sent stands until it is answered: the callee takes one wish from a socket.
    Offered(Box<Offer>),
    /// It was answered.
    Over,
}

impl Joining {
    /// Sends nothing yet.
    #[must_use]
    pub fn new(lanes: u16, geometry: Geometry, up: UpBell) -> Self {
        Self { lanes, geometry, up, state: Progress::Begins }
    }

    /// Asks for the channel, where that was not done, and waits for the answer.
    ///
    /// # Errors
    /// [`AttachError`]: nothing was joined; [`may_go_on`](Self::may_go_on) knows whether another attempt may help.
    pub fn attempt(&mut self, attach: &Link, timeout: Duration) -> Result<Connected, AttachError> {
        if let Progress::Begins = self.state {
            let offer = Offer::send(attach, self.lanes, self.geometry, self.up)?;
            self.state = Progress::Offered(Box::new(offer));
        }
        let Some((welcome, fds)) = attach.recv_timeout(Some(timeout))? else {
            return Err(AttachError::TimedOut);
        };
        match std::mem::replace(&mut self.state, Progress::Over) {
            Progress::Offered(offer) => offer.complete(welcome, fds),
            Progress::Begins | Progress::Over => Err(AttachError::Protocol("a second answer")),
        }
    }

    /// Whether another attempt after this error may succeed: there was no answer yet.
    #[must_use]
    pub fn may_go_on(&self, error: &AttachError) -> bool {
        match error {
            AttachError::TimedOut => !matches!(self.state, Progress::Over),
            _ => false,
        }
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
    let (near, far, _) = local_with_board(lanes, geometry, up)?;
    Ok((near, far))
}

/// The same, with the callee's end of its board.
///
/// # Errors
/// As [`local`].
pub fn local_with_board(
    lanes: u16,
    geometry: Geometry,
    up: UpBell,
) -> Result<(Connected, Accepted, BoardWriter), AttachError> {
    let (near, far) = Link::pair()?;
    let (writer, board) = BoardWriter::create()?;
    let offer = Offer::send(&near, lanes, geometry, up)?;
    let accepted = accept(&far, &CallerKind::Proxy, board.as_fd())?;
    let (welcome, fds) = near.try_recv()?.ok_or(AttachError::NotYet)?;
    Ok((offer.complete(welcome, fds)?, accepted, writer))
}

/// What a caller keeps between its packet and the answer.
#[derive(Debug)]
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
                    heard: bell.heard_by(),
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
                heard: bell.heard_by(),
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::super::board::BoardWriter;
    use super::*;

    const SMALL: Duration = Duration::from_millis(20);

    fn hello() -> Hello {
        Hello { version: VERSION, lanes: 1, geometry: Geometry::small(), up: UpBell::Pipe }
    }

    fn down_segment() -> OwnedFd {
        segment(&Geometry::small(), Direction::Down, 1).unwrap().1
    }

    fn bell() -> OwnedFd {
        Ringer::pipe().unwrap().1
    }

    fn unsealed(length: usize) -> OwnedFd {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let fd = memfd_create("unsealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&fd, i64::try_from(length).unwrap()).unwrap();
        fd
    }

    /// What a callee makes of such a first packet, and what it tells the caller.
    fn accepted(hello: Hello, fds: &[OwnedFd], kind: CallerKind) -> (Result<Accepted, AttachError>, Welcome) {
        let (near, far) = Link::pair().unwrap();
        let (_, board) = BoardWriter::create().unwrap();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        near.send(&hello, &fds).unwrap();
        let accepted = accept(&far, &kind, board.as_fd());
        (accepted, near.try_recv::<Welcome>().unwrap().unwrap().0)
    }

    fn refused(hello: Hello, fds: &[OwnedFd]) -> AttachError {
        let (accepted, welcome) = accepted(hello, fds, CallerKind::Client { pid: 1 });
        assert!(matches!(welcome, Welcome::Refused(_)), "{welcome:?}");
        accepted.unwrap_err()
    }

    #[test]
    fn a_caller_joins_with_a_lane_per_thread() {
        for up in [UpBell::EventFd, UpBell::Pipe] {
            let (connected, accepted) = local(3, Geometry::default(), up).unwrap();
            assert_eq!((connected.lanes.len(), accepted.lanes.len()), (3, 3));
        }
    }

    #[test]
    fn an_answer_that_comes_late_still_joins() {
        let (near, far) = Link::pair().unwrap();
        let (_, board) = BoardWriter::create().unwrap();
        let mut joining = Joining::new(1, Geometry::small(), UpBell::Pipe);
        for _ in 0..2 {
            let error = joining.attempt(&near, SMALL).unwrap_err();
            assert!(matches!(error, AttachError::TimedOut) && joining.may_go_on(&error), "{error}");
        }
        let accepted = accept(&far, &CallerKind::Client { pid: 1 }, board.as_fd()).unwrap();
        assert!(matches!(far.try_recv::<Hello>(), Ok(None)), "it asked once");
        assert_eq!((joining.attempt(&near, SMALL).unwrap().lanes.len(), accepted.lanes.len()), (1, 1));
    }

    #[test]
    fn a_callee_that_hangs_up_is_not_waited_for() {
        let (near, far) = Link::pair().unwrap();
        let mut joining = Joining::new(1, Geometry::small(), UpBell::Pipe);
        let _ = joining.attempt(&near, SMALL);
        drop(far);
        let error = joining.attempt(&near, SMALL).unwrap_err();
        assert!(
            matches!(error, AttachError::Link(LinkError::Closed)) && !joining.may_go_on(&error),
            "{error}"
        );
    }

    #[test]
    fn lanes_of_one_attachment_do_not_mix() {
        use crate::channel::Request;
        let (mut connected, mut accepted) = local(2, Geometry::small(), UpBell::EventFd).unwrap();
        connected.lanes[1].open(b"second", b"", true).unwrap();
        let mut heads = Vec::new();
        for lane in &mut accepted.lanes {
            lane.poll(9, &mut |request| {
                let Request::Open { head, .. } = request else { panic!("{request:?}") };
                heads.push(head.to_vec());
            })
            .unwrap();
            heads.push(b"-".to_vec());
        }
        assert_eq!(heads, [&b"-"[..], b"second", b"-"]);
    }

    #[test]
    fn a_callee_refuses_memory_that_is_not_sealed_or_not_a_channel() {
        let size = Layout::segment_bytes(&Geometry::small(), Direction::Down, 1);
        let refuse = |memory| refused(hello(), &[memory, bell()]);
        assert!(matches!(refuse(unsealed(size)), AttachError::Memory(MemoryError::Seals)));
        assert!(matches!(refuse(bell()), AttachError::Memory(MemoryError::Seals)));
        let directory = OwnedFd::from(std::fs::File::open("/").unwrap());
        assert!(matches!(refuse(directory), AttachError::Memory(MemoryError::Seals)));
        let shorter = Writable::create("short", size - 4096).unwrap().1;
        assert!(matches!(refuse(shorter), AttachError::Memory(MemoryError::Size { .. })));
        let empty = Writable::create("empty", size).unwrap().1;
        assert!(matches!(refuse(empty), AttachError::Protocol(_)));
    }

    #[test]
    fn a_callee_refuses_another_number_of_descriptors() {
        assert!(matches!(refused(hello(), &[]), AttachError::Protocol(_)));
        assert!(matches!(refused(hello(), &[down_segment()]), AttachError::Protocol(_)));
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut fds = vec![down_segment(), bell(), writer];
        fds.extend((0..100).map(|_| bell()));
        assert!(matches!(refused(hello(), &fds), AttachError::Protocol(_)));
        // What was too much has been closed: without ours, nobody holds the writing end.
        drop(fds);
        assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_callee_refuses_an_impossible_hello() {
        let fds = || [down_segment(), bell()];
        assert!(matches!(refused(Hello { version: 9, ..hello() }, &fds()), AttachError::Protocol(_)));
        assert!(matches!(refused(Hello { lanes: 0, ..hello() }, &fds()), AttachError::Protocol(_)));
        assert!(matches!(refused(Hello { lanes: u16::MAX, ..hello() }, &fds()), AttachError::Protocol(_)));
        let geometry = Geometry { down_arena: u32::MAX, up_arena: u32::MAX, ..Geometry::small() };
        assert!(matches!(refused(Hello { geometry, ..hello() }, &fds()), AttachError::Geometry(_)));
        assert!(matches!(refused(hello(), &[down_segment(), down_segment()]), AttachError::Io(_)));
    }

    #[test]
    fn only_the_proxy_may_ask_for_an_eventfd() {
        let event = || BellReader::event_fd().unwrap().1;
        let hello = Hello { up: UpBell::EventFd, ..hello() };
        assert!(matches!(refused(hello, &[down_segment(), bell(), event()]), AttachError::Protocol(_)));
        let (ok, _) = accepted(hello, &[down_segment(), bell(), event()], CallerKind::Proxy);
        assert_eq!(ok.unwrap().lanes.len(), 1);
    }

    #[test]
    fn junk_on_the_attach_socket_is_refused() {
        let (near, far) = Link::pair().unwrap();
        let (_, board) = BoardWriter::create().unwrap();
        let accept = || accept(&far, &CallerKind::Proxy, board.as_fd());
        assert!(matches!(accept(), Err(AttachError::NotYet)));
        near.send(&"junk", &[]).unwrap();
        assert!(matches!(accept(), Err(AttachError::Link(LinkError::Malformed(_)))));
    }

    /// What a caller makes of such an answer.
    fn connected(answer: impl FnOnce(&Link)) -> Result<Connected, AttachError> {
        let (near, far) = Link::pair().unwrap();
        answer(&far);
        connect(&near, 1, Geometry::small(), UpBell::Pipe, SMALL)
    }

    #[test]
    fn a_caller_refuses_a_callee_that_does_not_keep_the_rules() {
        let up = || segment(&Geometry::small(), Direction::Up, 1).unwrap().1;
        let board = || BoardWriter::create().unwrap().1;
        let answer = |fds: &[OwnedFd]| {
            connected(|link| {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                link.send(&Welcome::Accepted, &fds).unwrap();
            })
        };
        assert!(answer(&[up(), board(), bell()]).is_ok());
        assert!(matches!(answer(&[up(), board()]), Err(AttachError::Protocol(_))));
        assert!(matches!(answer(&[up()]), Err(AttachError::Protocol(_))));
        assert!(matches!(answer(&[up(), board(), bell(), bell()]), Err(AttachError::Protocol(_))));
        let size = Layout::segment_bytes(&Geometry::small(), Direction::Up, 1);
        assert!(matches!(answer(&[unsealed(size), board(), bell()]), Err(AttachError::Memory(_))));
        assert!(matches!(answer(&[up(), unsealed(4096), bell()]), Err(AttachError::Memory(_))));
        assert!(matches!(answer(&[up(), board(), board()]), Err(AttachError::Io(_))));
    }

    #[test]
    fn a_caller_does_not_wait_for_ever() {
        assert!(matches!(connected(|_| ()), Err(AttachError::TimedOut)));
        let hung_up = {
            let (near, far) = Link::pair().unwrap();
            drop(far);
            connect(&near, 1, Geometry::small(), UpBell::Pipe, Duration::from_secs(60))
        };
        assert!(matches!(hung_up, Err(AttachError::Link(LinkError::Closed))));
        let junk = connected(|link| link.send(&"no", &[]).unwrap());
        assert!(matches!(junk, Err(AttachError::Link(LinkError::Malformed(_)))));
        let why = connected(|link| link.send(&Welcome::Refused("full".into()), &[]).unwrap());
        assert_eq!(why.unwrap_err().to_string(), "the other side refused: full");
    }

    #[test]
    fn nobody_else_can_write_or_cut_a_segment() {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let (memory, fd) = Writable::create("own", 4096).unwrap();
        let length = std::num::NonZeroUsize::new(4096).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice, never used.
        let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &fd, 0) };
        assert!(mapped.is_err());
        assert!(nix::unistd::ftruncate(&fd, 0).is_err());
        assert!(nix::unistd::ftruncate(&fd, 8192).is_err());
        assert!(nix::sys::uio::pwrite(&fd, b"x", 0).is_err());
        // SAFETY: plain system call on a descriptor that is open.
        let punched = unsafe {
            libc::fallocate(fd.as_raw_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4096)
        };
        assert_eq!(punched, -1);
        memory.word(0).store(7, Ordering::Relaxed);
        let seen = ReadOnly::open(&fd, 4096).unwrap();
        assert_eq!(seen.word(0).load(Ordering::Relaxed), 7);
    }
}
