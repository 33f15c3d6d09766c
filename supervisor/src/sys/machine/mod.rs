//! The loop: descriptors that are ready, words of other threads and time become facts; the core's orders are carried
//! out. One thread does all of it, and every fork comes from that thread.

pub(crate) mod adopt;
pub(crate) mod asks;
mod orders;
mod reports;
pub(crate) mod upgrade;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use decurion_api::ReplicaId;
use decurion_api::status::DeploymentState;
use decurion_ipc::control::ProxyOrder;
use decurion_ipc::control::TlsTexts;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook_mio::v1_0::Signals;

use adopt::Awaited;
pub(crate) use asks::is_live;

use crate::Options;
use crate::desired::Desired;
use crate::metrics::{Lives, TrafficLog};
use crate::reconcile::replica::Replica;
use crate::reconcile::{Core, Fact, ProxyInstance};
use crate::roster::{Entry, Roster};
use crate::store::{DesiredStore, Revisions};
use crate::sys::artifacts::Artifacts;
use crate::sys::capacity;
use crate::sys::children::{ClientEnd, ProxyChild, ReplicaChild};
use crate::sys::clock;
use crate::sys::entry::RunError;
use crate::sys::folder::Folder;
use crate::sys::hall::Hall;
use crate::sys::journal::Journal;
use crate::sys::lock::StateLock;
use crate::sys::mailbox::{Mailbox, Message};
use crate::sys::notify::Notify;
use crate::sys::oom::OomWatch;
use crate::sys::process::Executables;
use crate::sys::sockets::{Guard, SocketFile};

/// Everything the loop owns.
pub(crate) struct Machine {
    poll: Poll,
    mailbox: Mailbox,
    inbox: Receiver<Message>,
    signals: Option<Signals>,
    sources: HashMap<Token, Source>,
    last_token: usize,
    /// Sources that had more than their share of this turn.
    again: Vec<Token>,
    core: Core,
    facts: Vec<Fact>,
    /// As it is stored; the core's differs by what [`Options`] override.
    desired: Desired,
    store: Revisions<Folder>,
    /// Libraries that each revision names.
    named: BTreeMap<u64, BTreeSet<String>>,
    /// What `desired` serves TLS with, as it was last read.
    tls: Option<TlsTexts>,
    artifacts: Artifacts,
    executables: Executables,
    replicas: BTreeMap<ReplicaId, ReplicaChild>,
    proxies: BTreeMap<ProxyInstance, ProxyChild>,
    clients: BTreeMap<u64, ClientEnd>,
    last_client: u64,
    last_fd_token: u64,
    listeners: BTreeMap<String, TcpListener>,
    handles: OwnedFd,
    _handles_file: SocketFile,
    /// A copy of the admin API's, for who takes our place.
    control: OwnedFd,
    lock: StateLock,
    guard: Guard,
    journal: Journal,
    options: Options,
    roster: Roster<Folder>,
    hall: Hall,
    /// What the supervisor before us has left, until it is taken over.
    left: Option<Left>,
    notify: Notify,
    started_at: Instant,
    sample_at: Instant,
    lines_at: Instant,
    oom: OomWatch,
    stops_asked: u32,
    traffic: TrafficLog,
    lives: Lives,
}

/// What a machine is made of that was made before, so that each failure has its own words.
pub(crate) struct Parts {
    pub(crate) poll: Poll,
    pub(crate) mailbox: Mailbox,
    pub(crate) inbox: Receiver<Message>,
    pub(crate) signals: Option<Signals>,
    pub(crate) desired: Desired,
    pub(crate) tls: Option<TlsTexts>,
    pub(crate) store: Revisions<Folder>,
    pub(crate) artifacts: Artifacts,
    pub(crate) executables: Executables,
    pub(crate) handles: (OwnedFd, SocketFile),
    pub(crate) control: OwnedFd,
    pub(crate) lock: StateLock,
    /// None: a proxy that lives on has it.
    pub(crate) listeners: BTreeMap<String, TcpListener>,
    pub(crate) guard: Guard,
    pub(crate) journal: Journal,
    pub(crate) options: Options,
    pub(crate) roster: Roster<Folder>,
    pub(crate) hall: Hall,
    pub(crate) left: Left,
}

/// What the supervisor before us has left.
#[derive(Debug)]
pub(crate) struct Left {
    /// The number of this life.
    pub(crate) life: u32,
    pub(crate) alive: Vec<Awaited>,
    pub(crate) dead: Vec<Entry>,
}

/// What is ready.
#[derive(Clone, Debug)]
enum Source {
    Signals,
    Handles,
    Hall,
    Client(u64),
    Link(ReplicaId),
    Pidfd(ReplicaId),
    Stdout(ReplicaId),
    Stderr(ReplicaId),
    ProxyPidfd(ProxyInstance),
    ProxyStdout(ProxyInstance),
    ProxyStderr(ProxyInstance),
}

/// The mailbox's token.
pub(crate) const MAILBOX: Token = Token(0);
/// Between two looks at what replicas have written, and for how long it was held back.
const LINES_PERIOD: Duration = Duration::from_secs(1);
/// Deployments and versions that counts are kept of, beside four for each deployment, before some are forgotten also
/// where nobody asks for metrics.
const COUNTED_MAX: usize = 64;
/// Between two tries to send what a full channel did not take.
const BACKLOG_PERIOD: Duration = Duration::from_millis(5);
/// Messages taken in one turn.
const MESSAGES_A_TURN: usize = 64;
/// Turns of the core before sockets are looked at again.
const TURNS_MAX: usize = 64;

impl Machine {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let now = clock::now().at;
        let (handles, handles_file) = parts.handles;
        let mut machine = Self {
            core: Core::new(Desired::default(), 0),
            facts: Vec::new(),
            poll: parts.poll,
            mailbox: parts.mailbox,
            inbox: parts.inbox,
            signals: parts.signals,
            sources: HashMap::new(),
            last_token: MAILBOX.0,
            again: Vec::new(),
            desired: parts.desired,
            tls: parts.tls,
            store: parts.store,
            named: BTreeMap::new(),
            artifacts: parts.artifacts,
            executables: parts.executables,
            replicas: BTreeMap::new(),
            proxies: BTreeMap::new(),
            clients: BTreeMap::new(),
            last_client: 0,
            last_fd_token: 0,
            listeners: parts.listeners,
            handles,
            _handles_file: handles_file,
            control: parts.control,
            lock: parts.lock,
            guard: parts.guard,
            journal: parts.journal,
            options: parts.options,
            roster: parts.roster,
            hall: parts.hall,
            left: Some(parts.left),
            notify: Notify::new(),
            started_at: now,
            sample_at: now,
            lines_at: now,
            oom: OomWatch::new(),
            stops_asked: 0,
            traffic: TrafficLog::default(),
            lives: Lives::default(),
        };
        for revision in machine.store.revisions().unwrap_or_default() {
            if let Ok(desired) = machine.store.read(revision) {
                machine.named.insert(revision, asks::libraries_of(&desired));
            }
        }
        let capacity = capacity::measure().overridden(&machine.options.capacity);
        tracing::info!("replicas may use {capacity} in sum");
        machine.core.set_capacity(capacity);
        machine.core.accept(machine.effective(&machine.desired));
        let handles = machine.handles.as_raw_fd();
        machine.watch(handles, Interest::READABLE, Source::Handles)?;
        let hall = machine.hall.raw();
        machine.watch(hall, Interest::READABLE, Source::Hall)?;
        if let Some(mut signals) = machine.signals.take() {
            let token = machine.token(Source::Signals);
            machine.poll.registry().register(&mut signals, token, Interest::READABLE)?;
            machine.signals = Some(signals);
        }
        Ok(machine)
    }

    /// Runs until everything has stopped; the lock, to be let go of last.
    pub(crate) fn run(mut self) -> Result<StateLock, RunError> {
        let mut events = Events::with_capacity(256);
        if let Some(Left { life, alive, dead }) = self.left.take() {
            self.adopt(life, alive, dead);
        }
        loop {
            self.turn();
            if self.core.observed().finished {
                return Ok(self.lock);
            }
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(RunError::Poll(source)),
            }
            let mut ready: Vec<Token> = std::mem::take(&mut self.again);
            ready.extend(events.iter().map(mio::event::Event::token));
            for token in ready {
                if token == MAILBOX {
                    self.take_messages();
                } else if let Some(source) = self.sources.get(&token).cloned() {
                    self.ready(token, source);
                }
            }
            self.look_around();
        }
    }

    /// Hands facts to the core and carries out its orders, until it has none.
    fn turn(&mut self) {
        for _ in 0..TURNS_MAX {
            for fact in std::mem::take(&mut self.facts) {
                self.lives.note(&fact, self.core.observed());
                self.core.handle(fact, clock::now());
            }
            let orders = self.core.turn(clock::now().at);
            let idle = orders.is_empty();
            for order in orders {
                self.carry_out(order);
            }
            for note in self.core.take_notes() {
                self.journal.event(note);
            }
            if idle && self.facts.is_empty() {
                break;
            }
        }
        self.tell_system();
    }

    /// Until when to sleep.
    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() || !self.facts.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = clock::now().at;
        let backlog =
            self.proxies.values().any(|proxy| !proxy.backlog.is_empty()).then(|| now + BACKLOG_PERIOD);
        let sample = (!self.replicas.is_empty()).then_some(self.sample_at.min(self.lines_at));
        let times = [self.core.poll_timeout(), backlog, sample, self.notify.next_at()];
        let next = times.into_iter().flatten().min()?;
        // Rounded up, so that the last part of a millisecond is slept and not spun.
        let left = next.saturating_duration_since(now);
        Some(if left.is_zero() { left } else { left + Duration::from_micros(500) })
    }

    fn ready(&mut self, token: Token, source: Source) {
        match source {
            Source::Signals => self.take_signals(),
            Source::Handles => self.take_clients(token),
            Source::Hall => self.look_into_hall(),
            Source::Client(client) => self.client_ready(token, client),
            Source::Link(replica) => self.link_ready(token, &replica),
            Source::Pidfd(replica) => self.replica_ended(&replica),
            Source::Stdout(replica) => self.replica_wrote(token, &replica, false),
            Source::Stderr(replica) => self.replica_wrote(token, &replica, true),
            Source::ProxyPidfd(instance) => self.proxy_ended(instance),
            Source::ProxyStdout(instance) => self.proxy_wrote(token, instance, false),
            Source::ProxyStderr(instance) => self.proxy_wrote(token, instance, true),
        }
    }

    fn take_messages(&mut self) {
        for _ in 0..MESSAGES_A_TURN {
            let Ok(message) = self.inbox.try_recv() else { return };
            match message {
                Message::Ask(ask, answer) => {
                    // Facts come first, so that the answer is not older than what is known.
                    self.turn();
                    let answered = self.answer(ask);
                    self.turn();
                    // Whoever asked may have gone.
                    let _ = answer.send(answered);
                }
                Message::Proxy(instance, received) => self.proxy_reported(instance, received),
                Message::Upgrade(tried) => self.upgrade(tried),
                Message::Stop => self.stop(false),
            }
        }
        self.again.push(MAILBOX);
    }

    /// What needs no event: boards, full channels, the service manager.
    fn look_around(&mut self) {
        let now = clock::now().at;
        if self.sample_at <= now {
            self.sample_at = now + self.core.sample_period();
            self.sample_boards();
            self.count_requests();
        }
        if self.lines_at <= now {
            self.lines_at = now + LINES_PERIOD;
            self.next_period_of_lines();
            let deployments = self.core.observed().deployments.len();
            if self.traffic.len().max(self.lives.starts.len()) > COUNTED_MAX + 4 * deployments {
                self.forget_counts();
            }
            self.look_into_hall();
        }
        for proxy in self.proxies.values_mut() {
            proxy.flush();
        }
    }

    /// Where the load decides how many replicas there are, the proxy is asked for it.
    fn count_requests(&mut self) {
        let scaled = self.core.desired().deployments.iter().filter(|(_, it)| it.spec.autoscaling.is_some());
        let serves =
            scaled.into_iter().any(|(name, _)| self.core.observed().replicas_of(name).next().is_some());
        if let Some((instance, _)) = self.core.observed().proxies.current().filter(|_| serves)
            && let Some(proxy) = self.proxies.get_mut(&instance)
            && proxy.backlog.is_empty()
        {
            proxy.send(ProxyOrder::Count, Vec::new());
        }
    }

    /// Whoever comes now comes too late, or was never awaited.
    fn look_into_hall(&mut self) {
        for arrival in self.hall.arrivals(Duration::ZERO, clock::now().at) {
            self.take_arrival(arrival, &mut BTreeMap::new());
        }
    }

    fn sample_boards(&mut self) {
        for (id, replica) in &self.replicas {
            let wanted = self.core.desired().deployments.get(&replica.deployment);
            let recycle = wanted.and_then(|wanted| wanted.spec.recycle.as_ref());
            let recycled = recycle.is_some_and(|recycle| recycle.max_memory.is_some());
            let bounded = self.core.observed().replicas.get(id).is_some_and(Replica::has_memory_bound);
            // One that is still being constructed has no board, and uses memory all the same.
            let board = if bounded { Some(replica.board().unwrap_or_default()) } else { replica.board() };
            if let Some(mut board) = board {
                if bounded || recycled {
                    board.resident = replica.process.resident_bytes();
                }
                self.facts.push(Fact::Board { replica: id.clone(), board });
            }
        }
    }

    fn tell_system(&mut self) {
        if !self.notify.is_wanted() {
            return;
        }
        let now = clock::now().at;
        let statuses = self.core.deployment_statuses(now);
        let healthy = statuses.iter().filter(|status| status.status == DeploymentState::Healthy).count();
        let words = format!("{healthy}/{} healthy", statuses.len());
        let ready = self.core.proxy_status().ready;
        self.notify.tell(ready, self.core.observed().stopping.is_some(), words, now);
    }

    /// Asked once: drain and stop. Asked twice: now.
    fn stop(&mut self, at_once: bool) {
        self.stops_asked += 1;
        let at_once = at_once || self.stops_asked > 1;
        // Nobody answers who comes now: better refused than kept waiting.
        self.listeners.clear();
        self.facts.push(Fact::Stop { at_once });
    }

    fn take_signals(&mut self) {
        let Some(signals) = &mut self.signals else { return };
        let pending: Vec<i32> = signals.pending().collect();
        for signal in pending {
            match signal {
                signal_hook::consts::SIGHUP => self.reload(),
                signal_hook::consts::SIGUSR1 => {
                    for instance in self.proxies.keys().copied().collect::<Vec<_>>() {
                        self.tell_proxy(instance, ProxyOrder::ReopenLogs, Vec::new());
                    }
                }
                signal_hook::consts::SIGUSR2 => self.try_upgrade(),
                _ => self.stop(false),
            }
        }
    }

    fn token(&mut self, source: Source) -> Token {
        // Never used again, so that what is still on its way from a source that is gone reaches nobody else.
        self.last_token += 1;
        let token = Token(self.last_token);
        self.sources.insert(token, source);
        token
    }

    fn watch(&mut self, fd: RawFd, interest: Interest, source: Source) -> io::Result<Token> {
        let token = self.token(source);
        match self.poll.registry().register(&mut SourceFd(&fd), token, interest) {
            Ok(()) => Ok(token),
            Err(error) => {
                self.sources.remove(&token);
                Err(error)
            }
        }
    }

    fn forget(&mut self, tokens: &[Token]) {
        for token in tokens {
            self.sources.remove(token);
        }
    }
}
