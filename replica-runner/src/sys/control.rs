//! The control thread: it speaks with the supervisor, lets callers in, and notices when they are gone.
//!
//! It is the process's first thread, and the only one that reads the link. The constructor runs on the first
//! handler thread, and `reconfigure` and `check_health` on one of their own, so that nothing of the library's can
//! hold up a caller's channel or an order to drain.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use decurion_abi::{Bytes, Context};
use decurion_api::ReplicaId;
use decurion_ipc::attach::{self, AttachError, UpBell};
use decurion_ipc::board::BoardWriter;
use decurion_ipc::channel::Geometry;
use decurion_ipc::control::{
    CallerKind, CallerOrder, ReplicaOrder, ReplicaReport, ReplicaStart, StartFailure,
};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::sys::child;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::engine::{ClassShape, Engine};
use crate::gate::Entry;
use crate::slab::Key;
use crate::sys::host;
use crate::sys::library::{self, Instance};
use crate::sys::outbox::Outbox;
use crate::sys::runner::Runner;
use crate::sys::sleeper::{BellKey, Sleeper};

/// How long a replica goes on serving after its supervisor is gone, before it drains and exits.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);
/// How long a callee may take to answer a handle's wish for a channel.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(2);
/// Channels of handles are smaller than the proxy's: edges are many.
const HANDLE_GEOMETRY: Geometry =
    Geometry { down_arena: 128 * 1024, up_arena: 128 * 1024, window: 64 * 1024, streams: 64 };

/// One caller of this replica.
struct CallerEnd {
    kind: CallerKind,
    attach: Link,
    pidfd: Option<OwnedFd>,
    lanes: Vec<Key>,
    bell: Option<BellKey>,
}

/// A replica that this one calls.
struct PeerEnd {
    pidfd: Option<OwnedFd>,
    bell: Option<BellKey>,
    /// Held open: its hang-up tells the callee that we are gone.
    _attach: Arc<Link>,
}

/// What other threads tell the control thread.
enum Notice {
    /// A channel to a replica is made, or not.
    Attached(ReplicaId, Option<attach::Connected>, Arc<Link>, Option<OwnedFd>),
    /// The library is loaded and constructed, or not.
    Started(Result<(), StartFailure>),
}

/// What `reconfigure` and `check_health` run on.
enum Task {
    Reconfigure { sequence: u64, user_config: String },
    CheckHealth { sequence: u64 },
}

struct Control {
    link: Arc<Link>,
    runner: &'static Runner,
    board: OwnedFd,
    callers: Vec<CallerEnd>,
    peers: HashMap<ReplicaId, PeerEnd>,
    notices: Receiver<Notice>,
    notify: Notify,
    instance: Arc<OnceLock<Instance>>,
    handlers: Arc<Mutex<Vec<JoinHandle<()>>>>,
    tasks: Option<Sender<Task>>,
    hung_up: Option<Instant>,
}

/// Wakes the control thread with a notice.
#[derive(Clone)]
struct Notify {
    notices: Sender<Notice>,
    bell: Arc<EventFd>,
}

impl Notify {
    fn send(&self, notice: Notice) {
        if self.notices.send(notice).is_ok() {
            let _ = self.bell.write(1);
        }
    }
}

/// What ends the control thread's loop.
enum End {
    /// Finish what there is, then leave.
    Drain,
    /// Leave now: the constructor failed, or the link speaks another language.
    Now(ExitCode),
}

/// The whole process. What goes wrong before there is a supervisor to tell goes to standard error, where it reads.
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
    let (board, board_fd) = BoardWriter::create()?;
    let engine = Engine::new(start.max_ongoing_requests.max(1), board);
    let outbox = Outbox::new(Arc::clone(&link));
    let runner: &'static Runner = Box::leak(Box::new(Runner::new(engine, Sleeper::new()?, outbox)));
    let (sender, notices) = channel();
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let notify = Notify { notices: sender, bell: Arc::new(bell) };
    let mut control = Control {
        link,
        runner,
        board: board_fd,
        callers: Vec::new(),
        peers: HashMap::new(),
        notices,
        notify,
        instance: Arc::default(),
        handlers: Arc::default(),
        tasks: None,
        hung_up: None,
    };
    control.start(*start)?;
    match control.serve() {
        End::Drain => Ok(control.drain()),
        End::Now(code) => Ok(code),
    }
}

impl Control {
    /// Loads and constructs on the first handler thread, which then serves.
    fn start(&mut self, start: ReplicaStart) -> io::Result<()> {
        let (runner, notify) = (self.runner, self.notify.clone());
        let (instance, handlers) = (Arc::clone(&self.instance), Arc::clone(&self.handlers));
        let first = spawn_handler(0, move || {
            let outcome = construct(runner, &start, &instance);
            let started = outcome.is_ok();
            if started {
                let more = (1..start.threads.max(1)).filter_map(|number| {
                    let instance = Arc::clone(&instance);
                    spawn_handler(number, move || serve(runner, &instance)).ok()
                });
                handlers.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
            }
            notify.send(Notice::Started(outcome));
            if started {
                serve(runner, &instance);
            }
        })?;
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner).push(first);
        Ok(())
    }

    fn serve(&mut self) -> End {
        loop {
            let backlog = self.runner.outbox.flush();
            let ready = self.sleep(backlog);
            if let Some(end) = self.take_notices() {
                return end;
            }
            self.drop_dead_peers(&ready);
            self.look_at_callers(&ready);
            if self.hung_up.is_none()
                && ready.link
                && let Some(end) = self.take_orders()
            {
                return end;
            }
            if self.hung_up.is_some_and(|since| since.elapsed() >= ORPHAN_GRACE) {
                return End::Drain;
            }
        }
    }

    /// Waits for anything to happen; what did.
    fn sleep(&self, backlog: bool) -> Ready {
        let input = PollFlags::POLLIN;
        let mut fds = vec![PollFd::new(self.notify.bell.as_fd(), input)];
        if self.hung_up.is_none() {
            let wanted = if backlog { input | PollFlags::POLLOUT } else { input };
            fds.push(PollFd::new(self.link.as_fd(), wanted));
        }
        let first_caller = fds.len();
        for caller in &self.callers {
            fds.push(PollFd::new(caller.attach.as_fd(), input));
            fds.push(PollFd::new(pidfd_or(caller.pidfd.as_ref(), caller.attach.as_fd()), input));
        }
        let first_peer = fds.len();
        let peers: Vec<&ReplicaId> =
            self.peers.iter().filter(|(_, it)| it.pidfd.is_some()).map(|(id, _)| id).collect();
        for id in &peers {
            if let Some(pidfd) = self.peers.get(*id).and_then(|peer| peer.pidfd.as_ref()) {
                fds.push(PollFd::new(pidfd.as_fd(), input));
            }
        }
        let timeout = match self.hung_up {
            Some(since) => {
                let left = ORPHAN_GRACE.saturating_sub(since.elapsed()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        // An interrupted call has nothing ready, and the loop comes round again.
        let _ = nix::poll::poll(&mut fds, timeout);
        let hit = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        if hit(&fds[0]) {
            let _ = self.notify.bell.read();
        }
        Ready {
            link: first_caller == 2 && hit(&fds[1]),
            callers: fds[first_caller..first_peer]
                .chunks(2)
                .map(|pair| (hit(&pair[0]), hit(&pair[1])))
                .collect(),
            peers: peers
                .into_iter()
                .zip(&fds[first_peer..])
                .filter(|(_, fd)| hit(fd))
                .map(|(id, _)| id.clone())
                .collect(),
        }
    }

    fn take_orders(&mut self) -> Option<End> {
        loop {
            match self.link.try_recv::<ReplicaOrder>() {
                Ok(Some((order, fds))) => {
                    if let Some(end) = self.obey(order, fds) {
                        return Some(end);
                    }
                }
                Ok(None) => return None,
                Err(LinkError::Closed) => {
                    // Requests keep flowing while the supervisor is dead.
                    self.hung_up = Some(Instant::now());
                    return None;
                }
                Err(error) => {
                    eprintln!("the supervisor's link speaks another language: {error}");
                    return Some(End::Now(ExitCode::FAILURE));
                }
            }
        }
    }

    fn obey(&mut self, order: ReplicaOrder, fds: Vec<OwnedFd>) -> Option<End> {
        match order {
            ReplicaOrder::Start(_) => {
                self.runner.outbox.log(
                    decurion_abi::level::WARN,
                    "decurion",
                    None,
                    "started twice".to_owned(),
                );
            }
            ReplicaOrder::Accept(kind) => {
                let mut fds = fds.into_iter();
                if let Some(attach) = fds.next().map(Link::from_fd) {
                    let pidfd = fds.next();
                    self.callers.push(CallerEnd { kind, attach, pidfd, lanes: Vec::new(), bell: None });
                }
            }
            ReplicaOrder::Reconfigure { sequence, user_config } => {
                self.run_task(Task::Reconfigure { sequence, user_config });
            }
            ReplicaOrder::CheckHealth { sequence } => self.run_task(Task::CheckHealth { sequence }),
            ReplicaOrder::Limit(limit) => self.runner.nudge(|engine| engine.set_limit(limit.max(1))),
            ReplicaOrder::Drain => return Some(End::Drain),
            ReplicaOrder::Caller(order) => self.handle_caller_order(order, fds),
        }
        None
    }

    fn handle_caller_order(&mut self, order: CallerOrder, fds: Vec<OwnedFd>) {
        let Some(replica) = self.runner.nudge(|engine| engine.calls.handle(order)) else {
            let gone: Vec<ReplicaId> = self.peers.keys().cloned().collect();
            for replica in gone {
                if self.runner.look(|engine| engine.calls.bell(&replica).is_none()) {
                    self.forget_peer(&replica);
                }
            }
            return;
        };
        let mut fds = fds.into_iter();
        let Some(attach) = fds.next().map(Link::from_fd).map(Arc::new) else {
            return self.runner.nudge(|engine| engine.calls.attached(replica, None));
        };
        let pidfd = fds.next();
        let notify = self.notify.clone();
        // A thread of its own: two replicas that attach to each other must not wait for each other's control thread.
        let spawned =
            std::thread::Builder::new().name("attach".to_owned()).stack_size(64 * 1024).spawn(move || {
                let made = attach::connect(&attach, 1, HANDLE_GEOMETRY, UpBell::Pipe, ATTACH_TIMEOUT);
                notify.send(Notice::Attached(replica, made.ok(), attach, pidfd));
            });
        if let Err(error) = spawned {
            eprintln!("can't start a thread to attach with: {error}");
        }
    }

    fn take_notices(&mut self) -> Option<End> {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Attached(replica, made, attach, pidfd) => {
                    let connected = made.is_some();
                    self.forget_peer(&replica);
                    let bell = self.runner.nudge(|engine| {
                        engine.calls.attached(replica.clone(), made);
                        engine.calls.bell(&replica).and_then(|bell| self.runner.sleeper.watch(bell).ok())
                    });
                    if connected {
                        self.peers.insert(replica, PeerEnd { pidfd, bell, _attach: attach });
                    }
                }
                Notice::Started(Ok(())) => {
                    let board = [self.board.as_fd()];
                    if let Err(error) = self.link.send(&ReplicaReport::Ready, &board) {
                        eprintln!("can't tell the supervisor that this replica is ready: {error}");
                    }
                }
                Notice::Started(Err(failure)) => {
                    eprintln!("{failure}");
                    let _ = self.link.send(&ReplicaReport::StartFailed(failure), &[]);
                    return Some(End::Now(ExitCode::FAILURE));
                }
            }
        }
        None
    }

    fn look_at_callers(&mut self, ready: &Ready) {
        let mut place = 0;
        let (runner, board) = (self.runner, self.board.as_fd());
        self.callers.retain_mut(|caller| {
            let (attach, death) = ready.callers.get(place).copied().unwrap_or_default();
            place += 1;
            let gone = if attach { !accept(runner, board, caller) } else { death };
            if gone {
                runner.nudge(|engine| caller.lanes.drain(..).for_each(|lane| engine.drop_lane(lane)));
                caller.bell.take().into_iter().for_each(|bell| runner.sleeper.remove(bell));
            }
            !gone
        });
    }

    fn drop_dead_peers(&mut self, ready: &Ready) {
        for replica in &ready.peers {
            self.runner.nudge(|engine| engine.calls.died(replica));
            self.forget_peer(replica);
        }
    }

    fn forget_peer(&mut self, replica: &ReplicaId) {
        if let Some(bell) = self.peers.remove(replica).and_then(|peer| peer.bell) {
            self.runner.sleeper.remove(bell);
        }
    }

    fn run_task(&mut self, task: Task) {
        let (runner, instance) = (self.runner, Arc::clone(&self.instance));
        let tasks = self.tasks.get_or_insert_with(|| {
            let (sender, tasks) = channel::<Task>();
            let thread = std::thread::Builder::new().name("lifecycle".to_owned());
            let spawned = thread.spawn(move || {
                for task in tasks {
                    if let Some(instance) = instance.get() {
                        run_task(runner, instance, task);
                    }
                }
            });
            if let Err(error) = spawned {
                eprintln!("can't start a thread for reconfigure and health: {error}");
            }
            sender
        });
        let _ = tasks.send(task);
    }

    /// Finishes what there is, destroys the instance, and says so.
    fn drain(&mut self) -> ExitCode {
        self.runner.wait(0, |engine, now| {
            engine.poll(now);
            engine.is_idle().then_some(())
        });
        self.runner.nudge(Engine::stop);
        self.tasks = None;
        let handlers = std::mem::take(&mut *self.handlers.lock().unwrap_or_else(PoisonError::into_inner));
        let all_ended = handlers.into_iter().all(|handler| handler.join().is_ok());
        if let Some(instance) = self.instance.get().filter(|_| all_ended) {
            instance.destroy();
        }
        let _ = self.link.send(&ReplicaReport::Drained, &[]);
        self.runner.outbox.flush();
        ExitCode::SUCCESS
    }
}

/// What is ready, after a sleep.
struct Ready {
    link: bool,
    /// For each caller: its attach link, its process's end.
    callers: Vec<(bool, bool)>,
    peers: Vec<ReplicaId>,
}

fn pidfd_or<'a>(pidfd: Option<&'a OwnedFd>, other: BorrowedFd<'a>) -> BorrowedFd<'a> {
    pidfd.map_or(other, AsFd::as_fd)
}

/// Lets a caller in by its lanes; `false` where it is gone.
fn accept(runner: &Runner, board: BorrowedFd<'_>, caller: &mut CallerEnd) -> bool {
    match attach::accept(&caller.attach, &caller.kind, board) {
        Ok(accepted) => {
            caller.bell = runner.sleeper.add(accepted.bell).ok();
            let kind = caller.kind.clone();
            let lanes = runner.nudge(|engine| {
                let lanes = accepted.lanes.into_iter();
                lanes.map(|lane| engine.add_lane(lane, kind.clone())).collect::<Vec<_>>()
            });
            caller.lanes.extend(lanes);
            true
        }
        Err(AttachError::NotYet) => true,
        // It is gone; that is its right.
        Err(AttachError::Link(LinkError::Closed)) => false,
        Err(error) => {
            let (caller, fault) = (caller.kind.clone(), error.to_string());
            runner.outbox.send(ReplicaReport::CallerFault { caller, fault });
            false
        }
    }
}

fn spawn_handler(number: u16, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("handler-{number}")).spawn(work)
}

fn serve(runner: &'static Runner, instance: &OnceLock<Instance>) {
    if let Some(instance) = instance.get() {
        runner.serve(instance);
    }
}

/// Loads the library, runs the constructor and the first `reconfigure`, and opens for requests.
fn construct(
    runner: &'static Runner,
    start: &ReplicaStart,
    instance: &OnceLock<Instance>,
) -> Result<(), StartFailure> {
    let class = library::load(Path::new(&start.library), start.class.as_str())?;
    let host = host::table(runner, context(start));
    let made = Instance::create(class, host, &start.args).map_err(StartFailure::Constructor)?;
    if let Some(config) = &start.user_config {
        made.reconfigure(config).map_err(StartFailure::Constructor)?;
    }
    let methods = class.methods().into_iter().map(|(name, flags)| (name, Entry::from_flags(flags))).collect();
    let shape = ClassShape { call: class.call_entry(), methods };
    let _ = instance.set(made);
    runner.nudge(|engine| engine.open(shape));
    Ok(())
}

/// The context lives as long as the process: the library may hold on to it.
fn context(start: &ReplicaStart) -> &'static Context {
    let keep = |text: &str| Bytes::from_slice(Box::leak(text.to_owned().into_boxed_str()).as_bytes());
    Box::leak(Box::new(Context {
        size: u32::try_from(size_of::<Context>()).unwrap_or(u32::MAX),
        rank: start.rank,
        world_size: start.world_size,
        threads: u32::from(start.threads),
        deployment: keep(start.deployment.as_str()),
        replica: keep(start.replica.as_str()),
        version: keep(&start.version),
        application: keep(start.application.as_str()),
    }))
}

fn run_task(runner: &Runner, instance: &Instance, task: Task) {
    match task {
        Task::Reconfigure { sequence, user_config } => {
            // Requests in flight finish with the old configuration, and none runs during an exclusive one.
            let entry = instance.class().reconfigure_entry().unwrap_or(Entry::Shared);
            runner.nudge(|engine| engine.gate().hold());
            runner.wait(0, |engine, _| engine.gate().enter(entry).then_some(()));
            let result = instance.reconfigure(&user_config);
            runner.nudge(|engine| {
                engine.gate().leave(entry);
                engine.gate().release();
            });
            runner.outbox.send(ReplicaReport::Reconfigured { sequence, result });
        }
        Task::CheckHealth { sequence } => {
            // An exclusive entry is running: the instance is busy, which is no failure. The check looks again later.
            let entered = runner.look(|engine| engine.gate().enter(Entry::Shared));
            let result = if entered { instance.check_health() } else { Ok(()) };
            if entered {
                runner.nudge(|engine| engine.gate().leave(Entry::Shared));
            }
            runner.outbox.send(ReplicaReport::Health { sequence, result });
        }
    }
}
