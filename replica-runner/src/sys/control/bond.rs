//! The bond with the supervisor: tied, lost when it dies, and tied anew with the next one.
//!
//! ```text
//!   Tied ──hang-up──> Lost ──reached: claim sent──> Claimed ──welcome──> Tied
//!                      ^ └──patience over──> given up    │ └─refused──> given up
//!                      └───────────hang-up───────────────┘
//! ```
//!
//! While it is lost, requests are served as before. What is written to standard output and error is read here then, so
//! that a library that prints neither blocks nor fails for want of a reader.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use decurion_abi::level;
use decurion_ipc::adoption::{AdoptionSocket, Claim, Retries, Verdict};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::sys::adoption::reach;

use crate::sys::outbox::Outbox;

/// See the module.
pub(super) struct Bond {
    link: Arc<Link>,
    state: State,
    /// Since when there is no supervisor.
    lost_since: Option<Instant>,
    awaited: Option<AdoptionSocket>,
    outputs: Vec<Output>,
}

enum State {
    Tied,
    Lost {
        retries: Retries,
        next_at: Instant,
    },
    Claimed,
    /// Nobody comes back, or nobody wants us.
    GivenUp {
        since: Instant,
    },
}

/// What came over the link before it belonged to orders again.
pub(super) enum Answer {
    /// Orders follow.
    Welcome,
    /// Nothing yet, or nothing any more: the bond has taken note.
    Nothing,
}

/// Standard output or standard error, by its reading end.
struct Output {
    name: &'static str,
    file: File,
    line: Vec<u8>,
}

/// Bytes of one line, at most.
const LINE_MAX: usize = 8 * 1024;
/// Reads from one output before others have their turn.
const READS_MAX: usize = 8;

impl Bond {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, state: State::Tied, lost_since: None, awaited: None, outputs: Vec::new() }
    }

    /// The supervisor says where the next one will be found.
    pub(super) fn expect(&mut self, socket: AdoptionSocket, fds: Vec<OwnedFd>) {
        let outputs = ["stdout", "stderr"].into_iter().zip(fds);
        self.outputs =
            outputs.map(|(name, fd)| Output { name, file: File::from(fd), line: Vec::new() }).collect();
        self.awaited = Some(socket);
    }

    /// The supervisor has hung up.
    pub(super) fn lost(&mut self, now: Instant) {
        self.lost_since.get_or_insert(now);
        let mut retries = Retries::default();
        let next_at = now + retries.next_delay();
        self.state = match self.awaited {
            Some(_) => State::Lost { retries, next_at },
            None => State::GivenUp { since: now },
        };
    }

    /// Whether orders come over the link.
    pub(super) fn is_tied(&self) -> bool {
        matches!(self.state, State::Tied)
    }

    /// Whether a supervisor may yet come.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Lost { .. } | State::Claimed)
    }

    /// How long it has been certain that none comes.
    pub(super) fn given_up_for(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::GivenUp { since } => Some(now.duration_since(since)),
            _ => None,
        }
    }

    /// The link, where something may come over it.
    pub(super) fn link(&self) -> Option<BorrowedFd<'_>> {
        matches!(self.state, State::Tied | State::Claimed).then(|| self.link.as_fd())
    }

    /// The outputs that are to be read here.
    pub(super) fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().filter(|_| self.lost_since.is_some()).map(|output| output.file.as_fd())
    }

    /// When there is something to do without an event.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Lost { next_at, .. } => Some(next_at),
            State::Tied | State::Claimed | State::GivenUp { .. } => None,
        }
    }

    /// Does what time brings: tries to reach the next supervisor, or gives up. True: one is reached, and is owed a
    /// [claim](Self::claim).
    pub(super) fn elapse(&mut self, now: Instant) -> Option<Link> {
        let State::Lost { retries, next_at } = &mut self.state else { return None };
        if now < *next_at {
            return None;
        }
        let socket = self.awaited.as_ref()?;
        if self.lost_since.is_some_and(|since| now.duration_since(since) >= socket.patience) {
            eprintln!("no supervisor has come back within {} s: leaving", socket.patience.as_secs());
            self.state = State::GivenUp { since: now };
            return None;
        }
        *next_at = now + retries.next_delay();
        reach(&socket.path).ok()
    }

    /// Sends a claim to a supervisor that was reached, which has the link from then on.
    pub(super) fn claim(&mut self, reached: Link, mut claim: Claim, board: BorrowedFd<'_>) {
        let fds: Vec<BorrowedFd<'_>> =
            [board].into_iter().chain(self.outputs.iter().map(|output| output.file.as_fd())).collect();
        let mut sent = reached.send(&claim, &fds);
        if let (Err(LinkError::TooLarge), decurion_ipc::adoption::ClaimedChild::Replica(replica)) =
            (&sent, &mut claim.child)
        {
            replica.user_config = None;
            sent = reached.send(&claim, &fds);
        }
        if sent.is_ok() && self.link.replace(reached).is_ok() {
            self.state = State::Claimed;
        }
    }

    /// Takes the answer to a claim.
    pub(super) fn answer(&mut self, now: Instant) -> Answer {
        match self.link.try_recv::<Verdict>() {
            Ok(Some((Verdict::Welcome, _))) => {
                self.state = State::Tied;
                self.lost_since = None;
                return Answer::Welcome;
            }
            Ok(Some((Verdict::Refused(why), _))) => {
                eprintln!("the supervisor does not take this replica: {why}");
                self.state = State::GivenUp { since: now };
            }
            Ok(None) | Err(LinkError::WouldBlock) => {}
            Err(_) => self.lost(now),
        }
        Answer::Nothing
    }

    /// Reads outputs that have something, while nobody else does.
    pub(super) fn read_outputs(&mut self, ready: &[bool], outbox: &Outbox) {
        for (output, _) in self.outputs.iter_mut().zip(ready).filter(|(_, ready)| **ready) {
            output.read(|name, line| outbox.log(level::INFO, name, None, line));
        }
    }
}

impl Output {
    fn read(&mut self, mut on_line: impl FnMut(&str, String)) {
        let mut buffer = [0; 8 * 1024];
        for _ in 0..READS_MAX {
            match self.file.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    for byte in &buffer[..count] {
                        if *byte != b'\n' && self.line.len() < LINE_MAX {
                            self.line.push(*byte);
                            continue;
                        }
                        let line = String::from_utf8_lossy(&self.line).into_owned();
                        self.line.clear();
                        on_line(self.name, line);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Its end can't come while we hold the writing end ourselves.
                Ok(_) | Err(_) => return,
            }
        }
    }
}
