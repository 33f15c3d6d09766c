//! The control thread: it speaks with the supervisor, lets callers in, and notices when they are gone.
//!
//! It is the process's first thread, and the only one that reads the link. Everything of the library's runs on other
//! threads: requests and the constructor on handler threads, `reconfigure` and `check_health` on one each, the
//! destructor on one of its own. So nothing of the library's can hold up a caller's channel or the supervisor's word,
//! and what is in flight while the replica drains is looked after until it is over.

mod bond;
mod callers;
mod life;
mod peers;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use decurion_abi::level;
use decurion_api::ReplicaId;
use decurion_ipc::adoption::{CONTROL_VERSION, Claim, ClaimedChild, ReplicaClaim, ReplicaStage};
use decurion_ipc::board::BoardWriter;
use decurion_ipc::control::{ReplicaOrder, ReplicaReport, ReplicaStart, StartFailure};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::sys::child;
use decurion_ipc::sys::sleeper::Sleeper;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::engine::Engine;
use crate::sys::clock::now_ns;
use crate::sys::outbox::Outbox;
use crate::sys::runner::Runner;
use bond::{Answer, Bond};
use callers::Callers;
use life::Life;
use peers::{Attached, Peers};

/// How long it may take to drain once it is certain that no supervisor comes: nobody is left who would end it.
const ORPHAN_DRAIN_MAX: Duration = Duration::from_secs(10);
/// What those who talk over a connection of their own have to say goodbye, at most.
const FAREWELL_MAX: Duration = Duration::from_secs(3);
/// The last words wait so long for room in the link.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// What other threads tell the control thread.
enum Notice {
    /// A channel to a replica is made, or not.
    Attached(Attached),
    /// The library is loaded and constructed, or not.
    Started(Result<(), StartFailure>),
    /// No thread runs the library's code any more, and the instance is destroyed.
    Destroyed,
}

/// Wakes the control thread with a notice.
#[derive(Clone)]
struct Notify {
    notices: Sender<Notice>,
    runner: &'static Runner,
}

impl Notify {
    fn send(&self, notice: Notice) {
        if self.notices.send(notice).is_ok() {
            self.runner.outbox.ring();
        }
    }
}

/// How far the replica is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is not.
    Serving,
    /// What was asked is being answered.
    Draining,
    /// Threads end, and the instance is destroyed.
    Ending,
}

struct Control {
    link: Arc<Link>,
    runner: &'static Runner,
    callers: Callers,
    peers: Peers,
    life: Life,
    notices: Receiver<Notice>,
    notify: Notify,
    stage: Stage,
    /// While it drains: when connections that deployments have taken over are told to end.
    farewell_at: Option<Instant>,
    bond: Bond,
    replica: ReplicaId,
    /// Goes to the supervisor when the replica is ready.
    board: OwnedFd,
    ready: bool,
    /// What to end with, once the supervisor knows why.
    end: Option<ExitCode>,
}

/// A replica's life, with its link as standard input. What goes wrong before the first order goes to standard error,
/// where the supervisor reads it.
pub(crate) fn main() -> ExitCode {
    child::take_link().and_then(run).unwrap_or_else(|error| {
        eprintln!("decurion-replica-runner: {error}");
        ExitCode::FAILURE
    })
}

/// Runs a replica from its first order to its end.
fn run(link: Link) -> io::Result<ExitCode> {
    let link = Arc::new(link);
    let start = match link.recv_timeout::<ReplicaOrder>(None) {
        Ok(Some((ReplicaOrder::Start(start), _))) => start,
        Ok(_) => return Err(io::Error::other("the first order on the link was not to start")),
        // The supervisor was gone before it had said a word.
        Err(LinkError::Closed) => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(io::Error::other(error)),
    };
    let mut control = Control::new(link, &start)?;
    control.life.start(*start)?;
    Ok(control.serve())
}

impl Control {
    fn new(link: Arc<Link>, start: &ReplicaStart) -> io::Result<Self> {
        let (board, board_fd) = BoardWriter::create()?;
        let engine = Engine::new(start.max_ongoing_requests.max(1), board);
        let outbox = Outbox::new(Arc::clone(&link))?;
        let threads = usize::from(start.threads.max(1));
        let runner = Runner::new(engine, threads, Sleeper::new()?, outbox);
        let runner: &'static Runner = Box::leak(Box::new(runner));
        let (sender, notices) = channel();
        let bond = Bond::new(Arc::clone(&link));
        let notify = Notify { notices: sender, runner };
        Ok(Self {
            link,
            runner,
            callers: Callers::new(runner, board_fd.try_clone()?),
            peers: Peers::new(runner, notify.clone()),
            life: Life::new(runner, notify.clone()),
            notices,
            notify,
            stage: Stage::Serving,
            farewell_at: None,
            bond,
            replica: start.replica.clone(),
            board: board_fd,
            ready: false,
            end: None,
        })
    }

    fn serve(&mut self) -> ExitCode {
        loop {
            let backlog = self.runner.outbox.flush();
            let ready = self.sleep(backlog);
            // First what `ready` is about, by its place in the lists as they still are.
            self.callers.look(&ready.callers);
            self.peers.drop_dead(&ready.peers);
            if ready.bell {
                self.runner.outbox.quiet();
                self.look_around();
            }
            self.bond.read_outputs(&ready.outputs, &self.runner.outbox);
            let mut end = self.take_notices();
            if ready.link && end.is_none() {
                end = self.take_orders();
            }
            // Why a start has failed is the next supervisor's to know.
            if !self.bond.is_waiting() {
                end = end.or(self.end);
            }
            if let Some(code) = end {
                self.runner.outbox.flush_within(LAST_WORDS_MAX);
                return code;
            }
            self.find_supervisor();
            self.go_on_ending();
        }
    }

    /// Waits for anything to happen; what did.
    fn sleep(&self, backlog: bool) -> Ready {
        let input = PollFlags::POLLIN;
        let mut fds = vec![PollFd::new(self.runner.outbox.bell(), input)];
        if let Some(link) = self.bond.link() {
            let wanted = if backlog && self.bond.is_tied() { input | PollFlags::POLLOUT } else { input };
            fds.push(PollFd::new(link, wanted));
        }
        let first_output = fds.len();
        fds.extend(self.bond.outputs().map(|fd| PollFd::new(fd, input)));
        let first_caller = fds.len();
        fds.extend(self.callers.fds().map(|fd| PollFd::new(fd, input)));
        let first_peer = fds.len();
        fds.extend(self.peers.fds().map(|fd| PollFd::new(fd, input)));
        // An interrupted call has nothing ready, and the loop comes round again.
        let _ = nix::poll::poll(&mut fds, self.patience());
        let hits: Vec<bool> =
            fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        Ready {
            bell: hits[0],
            link: first_output == 2 && hits[1],
            outputs: hits[first_output..first_caller].to_vec(),
            callers: hits[first_caller..first_peer].to_vec(),
            peers: hits[first_peer..].to_vec(),
        }
    }

    /// Until when to sleep at the longest: what is to be done without an order.
    fn patience(&self) -> PollTimeout {
        let now = Instant::now();
        let given_up = self.bond.given_up_for(now).map(|time| ORPHAN_DRAIN_MAX.saturating_sub(time));
        let due = self.bond.due().map(|at| at.saturating_duration_since(now));
        let farewell = self.farewell_at.map(|at| at.saturating_duration_since(now));
        let Some(left) = given_up.or(due).into_iter().chain(farewell).min() else { return PollTimeout::NONE };
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    /// The runner has rung: what is it?
    fn look_around(&mut self) {
        if self.runner.outbox.take_deputy() {
            let runner = self.runner;
            let thread = std::thread::Builder::new().name("deputy".to_owned());
            if let Err(error) = thread.spawn(move || runner.stand_in()) {
                eprintln!("can't start a thread that looks after callers while all handlers run: {error}");
            }
        }
        self.callers.drop_cut_off();
    }

    fn take_orders(&mut self) -> Option<ExitCode> {
        if !self.bond.is_tied() {
            match self.bond.answer(Instant::now()) {
                Answer::Welcome => self.rejoin(),
                Answer::Nothing => return None,
            }
        }
        loop {
            match self.link.try_recv::<ReplicaOrder>() {
                Ok(Some((order, fds))) => self.obey(order, fds),
                Ok(None) => return None,
                Err(LinkError::Closed) => {
                    // Requests keep flowing while the supervisor is dead.
                    self.bond.lost(Instant::now());
                    return None;
                }
                Err(error) => {
                    eprintln!("can't take orders from the supervisor any more: {error}");
                    return Some(ExitCode::FAILURE);
                }
            }
        }
    }

    fn obey(&mut self, order: ReplicaOrder, fds: Vec<OwnedFd>) {
        match order {
            ReplicaOrder::Start(_) => {
                self.runner.outbox.log(level::WARN, "decurion", None, "started twice".to_owned());
            }
            ReplicaOrder::Accept(kind) => self.callers.expect(kind, fds),
            ReplicaOrder::Reconfigure { sequence, user_config } => {
                self.life.reconfigure(sequence, user_config);
            }
            ReplicaOrder::CheckHealth { sequence } => {
                self.runner.tell_metrics();
                self.life.check_health(sequence);
            }
            ReplicaOrder::Probe { sequence } => {
                self.runner.tell_metrics();
                let report = self.runner.with(|engine| {
                    let now = now_ns();
                    let overdue_ms = engine.overdue_ns(now) / 1_000_000;
                    let oldest_ms = engine.oldest_ns(now) / 1_000_000;
                    ReplicaReport::Alive { sequence, overdue_ms, oldest_ms, queued: engine.is_queued() }
                });
                self.runner.outbox.send(report);
            }
            ReplicaOrder::Limit(limit) => self.runner.with(|engine| engine.set_limit(limit.max(1))),
            ReplicaOrder::Drain { grace } => self.drain(grace),
            ReplicaOrder::Caller(order) => self.peers.obey(order, fds),
            ReplicaOrder::Await(socket) => {
                self.runner.outbox.keep_when_closed();
                self.bond.expect(socket, fds);
            }
        }
    }

    /// Looks for the next supervisor, where the last one is gone.
    fn find_supervisor(&mut self) {
        let Some(reached) = self.bond.elapse(Instant::now()) else { return };
        let stage = match (self.stage, self.ready) {
            (Stage::Serving, false) => ReplicaStage::Starting,
            (Stage::Serving, true) => ReplicaStage::Serving,
            (Stage::Draining | Stage::Ending, _) => ReplicaStage::Draining,
        };
        let claim =
            ReplicaClaim { replica: self.replica.clone(), stage, user_config: self.life.user_config() };
        let claim = Claim { protocol: CONTROL_VERSION, child: ClaimedChild::Replica(claim) };
        self.bond.claim(reached, claim, self.board.as_fd());
    }

    /// Tells a new supervisor what the handles inside know.
    fn rejoin(&self) {
        for report in self.runner.look(|engine| engine.calls.rejoin()) {
            self.runner.outbox.send(ReplicaReport::Caller(report));
        }
        self.runner.tell_all_metrics();
    }

    fn take_notices(&mut self) -> Option<ExitCode> {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Attached(attached) => self.peers.attached(attached),
                Notice::Started(Ok(())) => {
                    self.ready = true;
                    match self.board.try_clone() {
                        Ok(board) => self.runner.outbox.send_with(ReplicaReport::Ready, board),
                        Err(error) => {
                            eprintln!("ready, but there is no descriptor to say so with: {error}");
                            return Some(ExitCode::FAILURE);
                        }
                    }
                }
                Notice::Started(Err(failure)) => {
                    eprintln!("{failure}");
                    self.runner.outbox.send(ReplicaReport::StartFailed(failure));
                    self.end = Some(ExitCode::FAILURE);
                }
                Notice::Destroyed => {
                    self.runner.outbox.send(ReplicaReport::Drained);
                    return Some(ExitCode::SUCCESS);
                }
            }
        }
        None
    }

    /// No new requests come: finish those there are within this time.
    fn drain(&mut self, grace: Duration) {
        if self.stage == Stage::Serving {
            self.stage = Stage::Draining;
            self.farewell_at = Instant::now().checked_add(grace.saturating_sub(farewell_of(grace)));
            // It rings when the last one is over.
            self.runner.with(Engine::drain);
        }
    }

    fn go_on_ending(&mut self) {
        let given_up_for = self.bond.given_up_for(Instant::now());
        if given_up_for.is_some() {
            self.drain(ORPHAN_DRAIN_MAX);
        }
        if self.farewell_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.runner.with(Engine::say_farewell);
        }
        if self.stage == Stage::Draining && self.runner.with(stop_if_idle) {
            self.stage = Stage::Ending;
            self.life.end(self.notify.clone());
        }
        if given_up_for.is_some_and(|time| time >= ORPHAN_DRAIN_MAX) {
            eprintln!("the supervisor is gone, and what runs here does not end: leaving without it");
            // SAFETY: ends the process at once, without running anything of a library that hangs.
            unsafe { libc::_exit(1) };
        }
    }
}

/// What is left of a grace when whoever talks without an end is told to make one.
fn farewell_of(grace: Duration) -> Duration {
    (grace / 4).min(FAREWELL_MAX)
}

/// From one moment to the other: nothing can be taken between the look and the end.
fn stop_if_idle(engine: &mut Engine) -> bool {
    let idle = engine.is_idle();
    if idle {
        engine.stop();
    }
    idle
}

/// What is ready, after a sleep.
struct Ready {
    bell: bool,
    link: bool,
    /// In the order of [`Bond::outputs`].
    outputs: Vec<bool>,
    /// In the order of [`Callers::fds`].
    callers: Vec<bool>,
    /// In the order of [`Peers::fds`].
    peers: Vec<bool>,
}

fn pidfd_or<'a>(pidfd: Option<&'a OwnedFd>, other: BorrowedFd<'a>) -> BorrowedFd<'a> {
    pidfd.map_or(other, AsFd::as_fd)
}
