//! The threads of a process with handles: one that listens to the supervisor, and those that wait for calls.
//!
//! One waiting thread at a time leads: it sleeps on every bell, for all; the others follow, each on a condition variable of
//! its own. Whoever finds that something has become of a call wakes the one that waits for it; whoever stops leading wakes
//! one to lead. Nobody else is woken.
//!
//! Tasks wait without a thread: while there are any, one thread of ours is among those that lead or follow, for them all.

#![cfg_attr(not(feature = "tokio"), allow(dead_code, reason = "tasks wait with the feature alone"))]

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use decurion_api::ReplicaId;
use decurion_ipc::adoption::Retries;
use decurion_ipc::attach::{AttachError, Connected, Joining, UpBell};
use decurion_ipc::caller::{CallKey, Caller, HUNG_UP, JOIN_FIRST, JoinKey, NO_SOCKET};
use decurion_ipc::channel::Geometry;
use decurion_ipc::control::{CallerOrder, CallerReport};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::sys::adoption::reach;
use decurion_ipc::sys::sleeper::{BellKey, Sleeper};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::handle::CallFailed;
use crate::sys::machine::now_ns;

/// The listening thread looks so often whether its client is still there.
const LISTEN_PERIOD_MS: u16 = 1_000;

/// What a waiting thread's look found.
pub(crate) enum Step<T> {
    /// Nothing yet.
    Wait,
    /// What it waited for.
    Done(T),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    turn: Mutex<Turn>,
    /// Where the leader sleeps.
    sleeper: Sleeper,
    /// Told when there is a task to wait for.
    has_tasks: Condvar,
    /// To the supervisor; tied anew with the next one where that dies.
    link: Link,
    socket: String,
}

#[derive(Debug)]
struct Turn {
    caller: Caller,
    /// One leads: the call that it waits for itself, and when it wakes by itself.
    leader: Option<Leader>,
    followers: Vec<Follower>,
    last_follower: u64,
    /// Tasks that wait for calls.
    tasks: HashMap<CallKey, Waker>,
    /// Tasks that wait for views.
    onlookers: Vec<Onlooker>,
    /// Those that are to be woken, as soon as nothing is locked: a waker may be the last share of its task.
    woken: Vec<Waker>,
    /// A thread waits for all tasks.
    driven: bool,
    peers: Vec<Peer>,
}

/// A task that waits for a view.
#[derive(Debug)]
struct Onlooker {
    number: u64,
    due_ns: u64,
    waker: Waker,
}

#[derive(Clone, Copy, Debug)]
struct Leader {
    awaits: Option<CallKey>,
    due_ns: u64,
}

#[derive(Debug)]
struct Follower {
    number: u64,
    awaits: Option<CallKey>,
    wake: Arc<Condvar>,
}

impl Turn {
    /// Wakes those whose calls something has become of, and who is to lead where nobody does; whether a sleeping leader
    /// is to be woken. `all`: views and channels have changed, which may concern everybody.
    fn tell(&mut self, all: bool) -> bool {
        let touched = self.caller.take_touched();
        let concerned = |awaits: Option<CallKey>| match awaits {
            Some(call) => touched.contains(&call),
            None => all,
        };
        self.woken.extend(touched.iter().filter_map(|call| self.tasks.remove(call)));
        if all {
            self.woken.extend(self.onlookers.drain(..).map(|onlooker| onlooker.waker));
        }
        let mut woken = 0;
        for follower in self.followers.iter().filter(|follower| concerned(follower.awaits)) {
            follower.wake.notify_one();
            woken += 1;
        }
        match self.leader {
            Some(Leader { awaits, due_ns }) => {
                all || concerned(awaits)
                    || self.caller.next_timer().is_some_and(|timer| timer < due_ns)
                    || self.caller.is_unheard()
            }
            None => {
                if woken == 0
                    && let Some(next) = self.followers.first()
                {
                    next.wake.notify_one();
                }
                false
            }
        }
    }
}

/// What belongs to a replica beside its lane.
#[derive(Debug)]
struct Peer {
    replica: ReplicaId,
    pidfd: Option<OwnedFd>,
    bell: Option<BellKey>,
    /// Its hang-up tells the replica that we are gone, and us that it is, or wants no more of us.
    attach: Link,
}

/// What it takes to join with a replica that has not answered yet.
#[derive(Debug)]
struct Join {
    replica: ReplicaId,
    key: JoinKey,
    joining: Joining,
    attach: Link,
    pidfd: Option<OwnedFd>,
}

impl Engine {
    /// Connects, and starts to listen.
    pub(crate) fn connect(path: &Path) -> Result<Arc<Self>, CallFailed> {
        let unreachable =
            |error: nix::Error| CallFailed::Unreachable { socket: path.to_owned(), error: error.into() };
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(unreachable)?;
        let address = UnixAddr::new(path).map_err(unreachable)?;
        connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(unreachable)?;
        let sleeper =
            Sleeper::new().map_err(|error| CallFailed::Unreachable { socket: path.to_owned(), error })?;
        let turn = Turn {
            caller: Caller::new(),
            leader: None,
            followers: Vec::new(),
            last_follower: 0,
            tasks: HashMap::new(),
            onlookers: Vec::new(),
            woken: Vec::new(),
            driven: false,
            peers: Vec::new(),
        };
        let link = Link::from_fd(fd);
        let socket = path.to_string_lossy().into_owned();
        let has_tasks = Condvar::new();
        let engine = Arc::new(Self { turn: Mutex::new(turn), sleeper, has_tasks, link, socket });
        let weak = Arc::downgrade(&engine);
        let thread = std::thread::Builder::new().name("decurion-client".to_owned());
        let spawned = thread.spawn(move || listen(&weak));
        spawned.map_err(|error| CallFailed::Unreachable { socket: path.to_owned(), error })?;
        Ok(engine)
    }

    /// Works on the calls, and sends what came of it on its way.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Caller, u64) -> T) -> T {
        self.work(false, work)
    }

    /// The same for what may concern everybody who waits: a view, a channel, a death.
    fn change<T>(&self, work: impl FnOnce(&mut Caller, u64) -> T) -> T {
        self.work(true, work)
    }

    fn work<T>(&self, all: bool, work: impl FnOnce(&mut Caller, u64) -> T) -> T {
        let mut turn = self.lock();
        let result = work(&mut turn.caller, now_ns());
        self.leave(turn, all);
        result
    }

    /// Waits until `look` finds something, or the deadline (0: none) has passed: `None`. With `awaits` it looks again when
    /// something has become of that call; else when a view has come.
    pub(crate) fn wait<T>(
        &self,
        awaits: Option<CallKey>,
        deadline_ns: u64,
        mut look: impl FnMut(&mut Caller) -> Step<T>,
    ) -> Option<T> {
        let mut turn = self.lock();
        loop {
            if let Step::Done(found) = look(&mut turn.caller) {
                self.leave(turn, false);
                return Some(found);
            }
            if deadline_ns != 0 && now_ns() >= deadline_ns {
                self.leave(turn, false);
                return None;
            }
            if let Some(call) = awaits {
                turn.caller.watch(call);
            }
            turn = match turn.leader {
                Some(_) => self.follow(turn, awaits, deadline_ns),
                None => self.lead(turn, awaits, deadline_ns),
            };
            turn = self.wake_tasks(turn);
        }
    }

    /// [`wait`](Self::wait) for a task. Dropped, it waits no more; what it waited for is its owner's to give up.
    pub(crate) async fn wait_async<T>(
        self: &Arc<Self>,
        awaits: Option<CallKey>,
        deadline_ns: u64,
        mut look: impl FnMut(&mut Caller) -> Step<T>,
    ) -> Option<T> {
        let number = {
            let mut turn = self.lock();
            turn.last_follower += 1;
            turn.last_follower
        };
        let place = Place { engine: self, awaits, number };
        std::future::poll_fn(|cx| place.poll(deadline_ns, &mut look, cx)).await
    }

    /// Wakes tasks that something has become of.
    fn wake_tasks<'a>(&'a self, mut turn: MutexGuard<'a, Turn>) -> MutexGuard<'a, Turn> {
        if turn.woken.is_empty() {
            return turn;
        }
        let woken = std::mem::take(&mut turn.woken);
        drop(turn);
        woken.into_iter().for_each(Waker::wake);
        self.lock()
    }

    /// Has a thread wait for the tasks. Whether there is one.
    fn drive(self: &Arc<Self>, turn: &mut Turn) -> bool {
        if turn.driven {
            self.has_tasks.notify_one();
            return true;
        }
        let engine = Arc::clone(self);
        let thread = std::thread::Builder::new().name("decurion-tasks".to_owned());
        turn.driven = thread.spawn(move || engine.wait_for_tasks()).is_ok();
        turn.driven
    }

    /// The life of the thread that waits for tasks; it ends when there have been none for a while.
    fn wait_for_tasks(&self) {
        let mut turn = self.lock();
        loop {
            let idle = |turn: &Turn| turn.tasks.is_empty() && turn.onlookers.is_empty();
            if idle(&turn) {
                let waited = self.has_tasks.wait_timeout(turn, DRIVER_IDLE);
                let (back, over) = waited.unwrap_or_else(PoisonError::into_inner);
                turn = back;
                if idle(&turn) && over.timed_out() {
                    turn.driven = false;
                    return;
                }
                continue;
            }
            let due_ns = turn.onlookers.iter().map(|onlooker| onlooker.due_ns).min().unwrap_or(0);
            turn = match turn.leader {
                Some(_) => self.follow(turn, None, due_ns),
                None => self.lead(turn, None, due_ns),
            };
            let now_ns = now_ns();
            let late = turn.onlookers.extract_if(.., |onlooker| onlooker.due_ns <= now_ns);
            let late: Vec<Waker> = late.map(|onlooker| onlooker.waker).collect();
            turn.woken.extend(late);
            turn = self.wake_tasks(turn);
        }
    }

    fn follow<'a>(
        &'a self,
        mut turn: MutexGuard<'a, Turn>,
        awaits: Option<CallKey>,
        deadline_ns: u64,
    ) -> MutexGuard<'a, Turn> {
        turn.last_follower += 1;
        let (number, wake) = (turn.last_follower, Arc::new(Condvar::new()));
        turn.followers.push(Follower { number, awaits, wake: Arc::clone(&wake) });
        let left = if deadline_ns == 0 { FOLLOW_MAX } else { until(deadline_ns) };
        let (mut turn, _) = wake.wait_timeout(turn, left).unwrap_or_else(PoisonError::into_inner);
        turn.followers.retain(|follower| follower.number != number);
        turn
    }

    fn lead<'a>(
        &'a self,
        mut turn: MutexGuard<'a, Turn>,
        awaits: Option<CallKey>,
        deadline_ns: u64,
    ) -> MutexGuard<'a, Turn> {
        if turn.caller.poll(now_ns()) {
            // Led by nobody meanwhile, but by this thread as soon as it has looked.
            turn.leader = Some(Leader { awaits: None, due_ns: 0 });
            turn.tell(false);
            turn.leader = None;
            return turn;
        }
        turn.caller.flush();
        self.sleeper.arming();
        if turn.caller.arm() {
            let deadline = (deadline_ns != 0).then_some(deadline_ns);
            let ends = turn.caller.next_timer().into_iter().chain(deadline);
            let due_ns = ends.fold(now_ns() + TICK_NS, u64::min);
            turn.leader = Some(Leader { awaits, due_ns });
            drop(turn);
            self.sleeper.sleep(Some(until(due_ns)));
            turn = self.lock();
        }
        turn.caller.poll(now_ns());
        turn.leader = Some(Leader { awaits: None, due_ns: 0 });
        turn.tell(false);
        turn.leader = None;
        turn
    }

    fn leave(&self, mut turn: MutexGuard<'_, Turn>, all: bool) {
        turn.caller.flush();
        let wakes_leader = turn.tell(all);
        self.part(turn, wakes_leader);
    }

    /// Lets go of the lock, and then says what there is to say.
    fn part(&self, mut turn: MutexGuard<'_, Turn>, wakes_leader: bool) {
        let reports = turn.caller.take_reports();
        let woken = std::mem::take(&mut turn.woken);
        drop(turn);
        woken.into_iter().for_each(Waker::wake);
        if wakes_leader {
            self.sleeper.wake();
        }
        for report in reports {
            self.report(&report);
        }
    }

    fn report(&self, report: &CallerReport) {
        // A supervisor that is gone, or does not read, is no reason to hold up a call: views are levels, and a
        // rollout waits for a silent caller only so long.
        let _ = self.link.send(report, &[]);
    }

    /// Reaches the next supervisor, if it is there, and tells it what calls go on. Those never notice.
    fn return_home(&self) -> bool {
        let Ok(link) = reach(&self.socket) else { return false };
        if self.link.replace(link).is_err() {
            return false;
        }
        for report in self.with(|caller, _| caller.rejoin()) {
            self.report(&report);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_order(self: &Arc<Self>, order: CallerOrder, fds: Vec<OwnedFd>) {
        let requests = if let CallerOrder::Attach { requests, .. } = &order { *requests } else { 0 };
        let join = self.change(|caller, _| {
            let replica = caller.handle(order)?;
            caller.joining(&replica).map(|key| (replica, key))
        });
        let Some((replica, key)) = join else {
            let mut turn = self.lock();
            let Turn { caller, peers, .. } = &mut *turn;
            self.forget(peers, |replica| !caller.has_channel(replica));
            return;
        };
        let mut fds = fds.into_iter();
        let Some(attach) = fds.next().map(Link::from_fd) else {
            return self.change(|caller, _| caller.attached(replica, Err(NO_SOCKET.to_owned())));
        };
        let joining = Joining::new(1, Geometry::of_handle(requests), UpBell::Pipe);
        let mut join = Join { replica, key, joining, attach, pidfd: fds.next() };
        let made = join.joining.attempt(&join.attach, JOIN_FIRST);
        if let Some((join, patience)) = self.settle(join, made) {
            let (client, replica) = (Arc::downgrade(self), join.replica.clone());
            let thread = std::thread::Builder::new().name("decurion-attach".to_owned());
            if let Err(error) = thread.spawn(move || wait_for(&client, join, patience)) {
                let why = format!("can't start a thread to attach with: {error}");
                self.change(|caller, _| caller.attached(replica, Err(why)));
            }
        }
    }

    /// What came of waiting for a replica's answer: how long to wait once more, where there was none.
    fn settle(&self, join: Join, made: Result<Connected, AttachError>) -> Option<(Join, Duration)> {
        match made {
            Err(error) if join.joining.may_go_on(&error) => {
                let patience = self.change(|caller, _| caller.unanswered(&join.replica, join.key))?;
                Some((join, patience))
            }
            made => {
                self.joined(join, made.map_err(|error| error.to_string()));
                None
            }
        }
    }

    /// A replica has answered, or never will.
    fn joined(&self, join: Join, made: Result<Connected, String>) {
        let Join { replica, key, attach, pidfd, .. } = join;
        let mut turn = self.lock();
        if turn.caller.joining(&replica) != Some(key) {
            // Not wanted any more, or joined anew meanwhile.
            return;
        }
        turn.caller.attached(replica.clone(), made);
        let bell = turn.caller.bell(&replica);
        let bell = bell.and_then(|bell| self.sleeper.add(bell, format!("replica {replica}")).ok());
        self.forget(&mut turn.peers, |known| *known == replica);
        turn.peers.push(Peer { replica, pidfd, bell, attach });
        self.leave(turn, true);
        self.sleeper.wake();
    }

    /// Lets go of what belongs to such replicas beside their lanes.
    fn forget(&self, peers: &mut Vec<Peer>, is_gone: impl Fn(&ReplicaId) -> bool) {
        for gone in peers.extract_if(.., |peer| is_gone(&peer.replica)) {
            gone.bell.into_iter().for_each(|bell| self.sleeper.remove(bell));
        }
    }

    /// Descriptors whose readiness means that a replica is dead, or has hung up.
    fn deaths(&self) -> Vec<(ReplicaId, Farewell, OwnedFd)> {
        let turn = self.lock();
        let watched = turn.peers.iter().flat_map(|peer| {
            let died = peer.pidfd.as_ref().map(|pidfd| (Farewell::Died, pidfd.as_fd()));
            let both = died.into_iter().chain([(Farewell::HungUp, peer.attach.as_fd())]);
            both.map(|(how, fd)| (peer.replica.clone(), how, fd))
        });
        watched.filter_map(|(replica, how, fd)| Some((replica, how, fd.try_clone_to_owned().ok()?))).collect()
    }
}

/// How a replica leaves.
#[derive(Clone, Copy, Debug)]
enum Farewell {
    Died,
    HungUp,
}

/// Where a task waits.
struct Place<'e> {
    engine: &'e Arc<Engine>,
    awaits: Option<CallKey>,
    /// Where it waits for no call.
    number: u64,
}

impl Place<'_> {
    fn poll<T>(
        &self,
        deadline_ns: u64,
        look: &mut impl FnMut(&mut Caller) -> Step<T>,
        cx: &Context<'_>,
    ) -> Poll<Option<T>> {
        let mut turn = self.engine.lock();
        if let Step::Done(found) = look(&mut turn.caller) {
            self.engine.leave(turn, false);
            return Poll::Ready(Some(found));
        }
        if deadline_ns != 0 && now_ns() >= deadline_ns {
            return Poll::Ready(None);
        }
        // What `look` has sent goes on its way, and what it has found out is told now: it is no news for this task.
        turn.caller.flush();
        let wakes_leader = turn.tell(false);
        let waker = cx.waker().clone();
        let before = match self.awaits {
            Some(call) => {
                turn.caller.watch(call);
                turn.tasks.insert(call, waker)
            }
            None => {
                let due_ns = if deadline_ns == 0 { u64::MAX } else { deadline_ns };
                turn.onlookers.retain(|onlooker| onlooker.number != self.number);
                turn.onlookers.push(Onlooker { number: self.number, due_ns, waker });
                None
            }
        };
        let driven = self.engine.drive(&mut turn);
        self.engine.part(turn, wakes_leader);
        drop(before);
        if driven { Poll::Pending } else { Poll::Ready(None) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut turn = self.engine.lock();
        let waker = self.awaits.and_then(|call| turn.tasks.remove(&call));
        let number = self.number;
        let gone: Vec<Onlooker> =
            turn.onlookers.extract_if(.., |onlooker| onlooker.number == number).collect();
        drop(turn);
        drop((waker, gone));
    }
}

/// The thread that waits for tasks ends when there have been none for so long.
const DRIVER_IDLE: Duration = Duration::from_secs(1);

/// Who waits for a call looks so often by itself: a bell that a replica withholds costs that long, and no hang.
const TICK_NS: u64 = 50_000_000;

/// A follower without a deadline looks up so often; only a bound for the system call, nothing hangs on it.
const FOLLOW_MAX: Duration = Duration::from_secs(3600);

fn until(at_ns: u64) -> Duration {
    Duration::from_nanos(at_ns.saturating_sub(now_ns()))
}

/// Waits for the answer of a replica that is late, as long as it is wanted; the listening thread can't, since others'
/// deaths and views must not wait for it.
fn wait_for(client: &Weak<Engine>, mut join: Join, mut patience: Duration) {
    loop {
        // The client is not kept for the sake of an answer.
        let made = join.joining.attempt(&join.attach, patience);
        let Some(engine) = client.upgrade() else { return };
        match engine.settle(join, made) {
            Some(again) => (join, patience) = again,
            None => return,
        }
    }
}

/// The listening thread: takes the supervisor's words, and notices deaths, until the client is gone.
fn listen(client: &Weak<Engine>) {
    let mut link_open = true;
    let mut retries = Retries::default();
    while let Some(engine) = client.upgrade() {
        let deaths = engine.deaths();
        let mut fds: Vec<BorrowedFd<'_>> = deaths.iter().map(|(_, _, fd)| fd.as_fd()).collect();
        if link_open {
            fds.push(engine.link.as_fd());
        }
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let patience = match link_open {
            true => PollTimeout::from(LISTEN_PERIOD_MS),
            false => {
                PollTimeout::try_from(retries.next_delay()).unwrap_or(PollTimeout::from(LISTEN_PERIOD_MS))
            }
        };
        let _ = nix::poll::poll(&mut polled, patience);
        let dead = deaths.iter().zip(&polled).filter(|(_, fd)| fd.any().unwrap_or(false));
        for ((replica, how, _), _) in dead {
            engine.change(|caller, _| match how {
                Farewell::Died => caller.died(replica),
                Farewell::HungUp => caller.lost(replica, HUNG_UP),
            });
            engine.forget(&mut engine.lock().peers, |known| known == replica);
        }
        if !link_open && engine.return_home() {
            link_open = true;
            retries = Retries::default();
        }
        while link_open {
            match engine.link.try_recv::<CallerOrder>() {
                Ok(Some((order, fds))) => engine.take_order(order, fds),
                Ok(None) => break,
                Err(LinkError::WouldBlock) => break,
                // The supervisor is gone: what is attached goes on.
                Err(_) => link_open = false,
            }
        }
    }
}
