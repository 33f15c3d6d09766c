//! Who calls this replica: letting callers in, and noticing that they are gone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use decurion_abi::level;
use decurion_ipc::attach::{self, Accepted, AttachError};
use decurion_ipc::control::{CallerKind, ReplicaReport};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::sys::sleeper::BellKey;

use super::pidfd_or;
use crate::slab::Key;
use crate::sys::runner::Runner;

/// Callers of one replica, at most.
const CALLERS_MAX: usize = 1024;

/// See the module.
pub(super) struct Callers {
    runner: &'static Runner,
    board: OwnedFd,
    ends: Vec<CallerEnd>,
}

/// One caller.
struct CallerEnd {
    kind: CallerKind,
    attach: Link,
    pidfd: Option<OwnedFd>,
    lanes: Vec<Key>,
    bell: Option<BellKey>,
}

impl Callers {
    pub(super) fn new(runner: &'static Runner, board: OwnedFd) -> Self {
        Self { runner, board, ends: Vec::new() }
    }

    /// The supervisor announces a caller: its attach socket, its pidfd.
    pub(super) fn expect(&mut self, kind: CallerKind, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let Some(attach) = fds.next().map(Link::from_fd) else { return };
        if self.ends.len() >= CALLERS_MAX {
            let message = format!("{kind:?} is turned away, since there are {CALLERS_MAX} callers already");
            return self.runner.outbox.log(level::WARN, "decurion", None, message);
        }
        self.ends.push(CallerEnd { kind, attach, pidfd: fds.next(), lanes: Vec::new(), bell: None });
    }

    /// For each caller two: its attach socket, and its process's end.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ends.iter().flat_map(|end| {
            let attach = end.attach.as_fd();
            [attach, pidfd_or(end.pidfd.as_ref(), attach)]
        })
    }

    /// Looks at those whose descriptors are ready.
    pub(super) fn look(&mut self, ready: &[bool]) {
        let mut pairs = ready.chunks(2);
        let (runner, board) = (self.runner, self.board.as_fd());
        self.ends.retain_mut(|end| {
            let stays = match pairs.next() {
                Some([true, _]) => end.accept(runner, board),
                Some([_, died]) => !died,
                _ => true,
            };
            if !stays {
                end.leave(runner);
            }
            stays
        });
    }

    /// Hangs up on callers that were cut off for a fault: that tells them, and their other lanes end with it.
    pub(super) fn drop_cut_off(&mut self) {
        let runner = self.runner;
        self.ends.retain_mut(|end| {
            let whole = runner.look(|engine| end.lanes.iter().all(|lane| engine.has_lane(*lane)));
            if !whole {
                end.leave(runner);
            }
            whole
        });
    }
}

impl CallerEnd {
    /// Something is there on the attach socket: lets the caller in by its lanes; `false` where it is gone.
    fn accept(&mut self, runner: &Runner, board: BorrowedFd<'_>) -> bool {
        if !self.lanes.is_empty() {
            // Nothing but a hang-up belongs here any more.
            return false;
        }
        match attach::accept(&self.attach, &self.kind, board) {
            Ok(Accepted { lanes, bell }) => match runner.sleeper.add(bell, self.kind.to_string()) {
                Ok(bell) => {
                    self.bell = Some(bell);
                    let kind = &self.kind;
                    self.lanes = runner.nudge(|engine| {
                        lanes.into_iter().map(|lane| engine.add_lane(lane, kind.clone())).collect()
                    });
                    true
                }
                Err(error) => {
                    let message = format!("{:?} can't be heard: {error}", self.kind);
                    runner.outbox.log(level::ERROR, "decurion", None, message);
                    false
                }
            },
            Err(AttachError::NotYet) => true,
            // It is gone; that is its right.
            Err(AttachError::Link(LinkError::Closed)) => false,
            Err(error) => {
                let (caller, fault) = (self.kind.clone(), error.to_string());
                runner.outbox.send(ReplicaReport::CallerFault { caller, fault });
                false
            }
        }
    }

    fn leave(&mut self, runner: &Runner) {
        let lanes = std::mem::take(&mut self.lanes);
        runner.nudge(|engine| lanes.into_iter().for_each(|lane| engine.drop_lane(lane)));
        if let Some(bell) = self.bell.take() {
            runner.sleeper.remove(bell);
        }
    }
}
