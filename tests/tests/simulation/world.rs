//! The world: one queue of things that happen, ordered by time, and the processes that they happen to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::channel::Geometry;
use decurion_proxy::engine::Ready;
use decurion_proxy::routing::Ends;
use decurion_proxy::time::Nanos;
use decurion_supervisor::desired::Desired;
use decurion_supervisor::reconcile::together::SetsRecord;
use decurion_supervisor::reconcile::{Core, Exit, Fact, ProxyInstance};

use crate::books::Books;
use crate::client::{Client, Home};
use crate::dice::Dice;
use crate::planted::Planted;
use crate::proxy::{FromWorker, Proxy};
use crate::replica::{JobKey, LaneKey, Replica, Stage, Temper, Worked};
use crate::shadow::{Cut, Ended, RequestId, Shadow};
use crate::supervisor::{ProxyDo, RosterEntry, Tell};
use crate::wire::{LaneNotes, SimLane, SimLoad, Touched};

/// One thing that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// The supervisor of this life is told: all that is in one message, and then it takes a turn.
    Facts { life: u32, facts: Vec<Fact> },
    /// A proxy's control thread gets an order.
    Order { proxy: u32, order: ProxyDo },
    /// A replica gets an order.
    Tell { replica: ReplicaId, tell: Tell },
    /// A replica is constructed.
    Constructed(ReplicaId),
    /// A replica's loop takes a turn.
    ReplicaTurn(ReplicaId),
    /// A handler goes on.
    GoOn(ReplicaId, JobKey),
    /// A replica's process ends.
    Exit(ReplicaId, Exit),
    /// Proxy and replica have met, or can't.
    Join { proxy: u32, replica: ReplicaId, attempt: u64 },
    /// A replica with a handle and one that it calls have met, or can't.
    Meet { caller: ReplicaId, callee: ReplicaId },
    /// A replica with a handle sees that one that it calls has died.
    PeerDied { caller: ReplicaId, callee: ReplicaId },
    /// A worker's loop takes a turn.
    WorkerTurn { proxy: u32, worker: usize },
    /// A proxy's control thread hears of a worker.
    FromWorker { proxy: u32, what: FromWorker },
    /// A worker sees that a replica has died.
    HangUp { proxy: u32, worker: usize, replica: ReplicaId },
    /// A proxy's control thread looks at its clock.
    ProxyTimer(u32),
    /// A proxy says that it is there.
    ProxyStarts(u32),
    /// A proxy's process ends.
    ProxyExit(u32, Exit),
    /// A client does its next thing.
    Client(usize),
    /// A client goes, if it is still on this connection.
    Leave { client: usize, connection: u64 },
    /// An operator, or fate, does something.
    Act,
    /// The supervisor looks at the replicas' boards.
    Boards,
    /// The next supervisor takes over.
    Adopt,
}

/// Something on which messages keep their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Channel {
    FromReplica(ReplicaId),
    ToReplica(ReplicaId),
    FromProxy(u32),
    ToProxy(u32),
    FromWorker(u32, usize),
}

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) planted: Planted,
    /// Of each proxy.
    pub(crate) workers: usize,
    /// Handlers take so long that nothing is sent ahead.
    pub(crate) slow: bool,
    /// Some replicas do not keep the rules.
    pub(crate) liars: bool,
    /// Two deployments are a set, and requests of the one call the other.
    pub(crate) sets: bool,
    /// Queues have no bound.
    pub(crate) unbounded: bool,
    /// Things that an operator, or fate, does.
    pub(crate) acts: u64,
    pub(crate) clients: usize,
}

/// Lines of the trace that a failure shows.
const TRACE_MAX: usize = 100;
/// Nanoseconds at which a run begins: no moment in it is before the clock's zero.
const BEGINNING: u64 = 3_600_000_000_000;
/// How long a proxy may take to see that a client is gone.
const GHOSTS_FOR_NS: u64 = 10_000_000_000;

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) now: Nanos,
    base: Instant,
    queue: BTreeMap<(Nanos, u64), Event>,
    queued: u64,
    channels: BTreeMap<Channel, Nanos>,
    /// `None`: it is dead.
    pub(crate) core: Option<Core>,
    /// What is durable.
    pub(crate) desired: Desired,
    /// What the next supervisor has to know of sets.
    pub(crate) sets: SetsRecord,
    pub(crate) life: u32,
    pub(crate) roster: BTreeMap<ReplicaId, RosterEntry>,
    pub(crate) replicas: BTreeMap<ReplicaId, Replica>,
    pub(crate) proxies: BTreeMap<u32, Proxy>,
    /// Connections that nobody has taken yet: the listening socket is the supervisor's, and outlives proxies.
    pub(crate) hall: VecDeque<Rc<RefCell<crate::wire::Wire>>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) touched: Touched,
    pub(crate) shadow: Shadow,
    pub(crate) books: Books,
    lane_notes: LaneNotes,
    /// Requests of clients that went, which their proxy may not know yet.
    pub(crate) ghosts: Vec<(Nanos, RequestId)>,
    /// When a client went last.
    pub(crate) left_at: Nanos,
    pub(crate) tempers: BTreeMap<String, Temper>,
    pub(crate) versions: u64,
    pub(crate) requests: u64,
    pub(crate) acts_left: u64,
    /// Luck has turned: nothing bad happens any more.
    pub(crate) calm: bool,
    /// Clients make no further requests.
    pub(crate) quiet: bool,
    pub(crate) finished: bool,
    pub(crate) steps: u64,
    /// Of everything that happened.
    pub(crate) digest: u64,
    trace: VecDeque<String>,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant can be had in no other way; all that counts is the difference"
    )]
    pub(crate) fn new(plan: Plan) -> Self {
        let mut world = Self {
            plan,
            dice: Dice::new(plan.seed),
            now: Nanos(BEGINNING),
            base: Instant::now(),
            queue: BTreeMap::new(),
            queued: 0,
            channels: BTreeMap::new(),
            core: None,
            desired: Desired::default(),
            sets: SetsRecord::default(),
            life: 0,
            roster: BTreeMap::new(),
            replicas: BTreeMap::new(),
            proxies: BTreeMap::new(),
            hall: VecDeque::new(),
            clients: (0..plan.clients).map(|_| Client::default()).collect(),
            touched: Touched::default(),
            shadow: Shadow::default(),
            books: Books::default(),
            lane_notes: LaneNotes::default(),
            ghosts: Vec::new(),
            left_at: Nanos(0),
            tempers: BTreeMap::new(),
            versions: 0,
            requests: 0,
            acts_left: plan.acts,
            calm: false,
            quiet: false,
            finished: false,
            steps: 0,
            digest: 0,
            trace: VecDeque::new(),
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.shadow.client_patience = Duration::from_secs(5);
        self.desired.http.request_timeout = Duration::ZERO;
        self.desired.http.keep_alive_timeout = Duration::from_secs(3);
        self.desired.http.header_timeout = Duration::from_secs(5);
        self.desired.http.body_timeout = Duration::from_secs(5);
        self.desired.http.min_body_rate = 0;
        let desired = self.desired.clone();
        self.core = Some(Core::new(desired, 0));
        self.push(Duration::ZERO, Event::Act);
        self.push(Duration::from_secs(1), Event::Boards);
        for client in 0..self.clients.len() {
            self.plan_client(client, Duration::from_millis(50));
        }
        self.turn();
    }

    /// The same moment, as the supervisor reckons.
    pub(crate) fn instant(&self) -> Instant {
        self.instant_of(self.now)
    }

    fn instant_of(&self, at: Nanos) -> Instant {
        self.base + Duration::from_nanos(at.0)
    }

    fn nanos_of(&self, at: Instant) -> Nanos {
        Nanos(0).after(at.saturating_duration_since(self.base))
    }

    /// Something happens after a while.
    pub(crate) fn push(&mut self, after: Duration, event: Event) {
        self.push_at(self.now.after(after), event);
    }

    fn push_at(&mut self, at: Nanos, event: Event) {
        self.queued += 1;
        self.queue.insert((at, self.queued), event);
    }

    /// Something happens after a while, and not before what was sent on the same channel earlier.
    pub(crate) fn send(&mut self, channel: Channel, after: Duration, event: Event) {
        let at = self.now.after(after);
        let last = self.channels.entry(channel).or_insert(at);
        let at = at.max(*last);
        *last = at;
        self.push_at(at, event);
    }

    /// When everything that is under way has come.
    pub(crate) fn all_delivered(&self) -> Nanos {
        self.channels.values().copied().max().unwrap_or(self.now).max(self.now)
    }

    /// The supervisor is told something, if it lives by then.
    pub(crate) fn say(&mut self, channel: Channel, after: Duration, fact: Fact) {
        self.say_all(channel, after, vec![fact]);
    }

    /// The supervisor is told what one message says, if it lives by then.
    pub(crate) fn say_all(&mut self, channel: Channel, after: Duration, facts: Vec<Fact>) {
        let life = self.life;
        if self.core.is_some() {
            self.send(channel, after, Event::Facts { life, facts });
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        for byte in line.bytes() {
            self.digest = self.digest.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte));
        }
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        let micros = (self.now.0 - BEGINNING) / 1_000;
        self.trace.push_back(format!("{:>6} {:>12} us  {line}", self.steps, micros));
    }

    /// The last things that happened.
    pub(crate) fn trace(&self) -> String {
        self.trace.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// The next thing that happens. False: there is none.
    pub(crate) fn step(&mut self) -> bool {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let wake = self.core.as_ref().and_then(Core::poll_timeout).map(|at| self.nanos_of(at));
        match (queued, wake) {
            (None, None) => return false,
            (Some(at), wake) if wake.is_none_or(|wake| at <= wake) => {
                self.now = self.now.max(at);
                let Some(((at, _), event)) = self.queue.pop_first() else { return false };
                self.happen(event, at);
            }
            (_, Some(wake)) => {
                self.now = self.now.max(wake);
                self.steps += 1;
                self.note(|| "the supervisor looks again".to_owned());
                self.turn();
            }
            (Some(_), None) => {}
        }
        self.listen_to_clients();
        true
    }

    /// Time passes in one leap, as in a suspend: whatever was due meanwhile happens late.
    pub(crate) fn leap(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.books.leapt = self.now;
    }

    fn happen(&mut self, event: Event, at: Nanos) {
        if let Some(again) = self.is_put_off(&event) {
            return self.put_off(again, event, at);
        }
        if self.is_void(&event, at) {
            return;
        }
        self.steps += 1;
        match event {
            Event::Facts { facts, .. } => self.told(facts),
            Event::Order { proxy, order } => self.proxy_ordered(proxy, order),
            Event::Tell { replica, tell } => self.replica_told(&replica, tell),
            Event::Constructed(replica) => self.constructed(&replica),
            Event::ReplicaTurn(replica) => self.replica_turn(&replica),
            Event::GoOn(replica, job) => self.go_on(&replica, job),
            Event::Exit(replica, exit) => self.replica_ends(&replica, exit),
            Event::Join { proxy, replica, attempt } => self.join(proxy, &replica, attempt),
            Event::Meet { caller, callee } => self.meet(&caller, callee),
            Event::PeerDied { caller, callee } => self.peer_died(&caller, &callee),
            Event::WorkerTurn { proxy, worker } => self.worker_turn(proxy, worker),
            Event::FromWorker { proxy, what } => self.worker_said(proxy, what),
            Event::HangUp { proxy, worker, replica } => self.hang_up(proxy, worker, replica),
            Event::ProxyTimer(proxy) => self.proxy_timer(proxy),
            Event::ProxyStarts(proxy) => self.proxy_starts(proxy),
            Event::ProxyExit(proxy, exit) => self.proxy_ends(proxy, exit),
            Event::Client(client) => self.client_acts(client),
            Event::Leave { client, connection } => self.client_leaves(client, connection),
            Event::Act => self.act(),
            Event::Boards => self.look_at_boards(),
            Event::Adopt => self.adopt(),
        }
    }

    /// Whoever is stopped does it later.
    fn is_put_off(&self, event: &Event) -> Option<Nanos> {
        let until = match event {
            Event::Tell { replica, .. }
            | Event::Constructed(replica)
            | Event::ReplicaTurn(replica)
            | Event::Meet { caller: replica, .. }
            | Event::PeerDied { caller: replica, .. }
            | Event::GoOn(replica, _) => self.replicas.get(replica)?.hung_until,
            Event::Order { proxy, .. }
            | Event::WorkerTurn { proxy, .. }
            | Event::FromWorker { proxy, .. }
            | Event::ProxyTimer(proxy)
            | Event::Join { proxy, .. }
            | Event::ProxyStarts(proxy) => self.proxies.get(proxy)?.hung_until,
            _ => return None,
        };
        (until > self.now).then_some(until)
    }

    fn put_off(&mut self, until: Nanos, event: Event, at: Nanos) {
        match &event {
            Event::ReplicaTurn(id) => {
                let replica = self.replicas.get_mut(id);
                match replica.filter(|it| it.turn_at == Some(at)) {
                    Some(replica) => replica.turn_at = Some(until),
                    None => return,
                }
            }
            Event::GoOn(id, job) => {
                let replica = self.replicas.get_mut(id);
                if !replica.is_some_and(|it| it.is_planned(*job, at) && it.move_job(*job, until)) {
                    return;
                }
            }
            Event::WorkerTurn { proxy, worker } => {
                let worker = self.proxies.get_mut(proxy).map(|proxy| &mut proxy.workers[*worker]);
                match worker.filter(|it| it.turn_at == Some(at)) {
                    Some(worker) => worker.turn_at = Some(until),
                    None => return,
                }
            }
            _ => {}
        }
        self.push_at(until, event);
    }

    /// It was to happen to somebody who is gone, or was moved.
    fn is_void(&self, event: &Event, at: Nanos) -> bool {
        match event {
            Event::Facts { life, .. } => self.core.is_none() || *life != self.life,
            Event::ReplicaTurn(id) => self.replicas.get(id).is_none_or(|it| it.turn_at != Some(at)),
            Event::Tell { replica, .. }
            | Event::Constructed(replica)
            | Event::Meet { caller: replica, .. }
            | Event::PeerDied { caller: replica, .. }
            | Event::Exit(replica, _) => !self.replicas.contains_key(replica),
            Event::GoOn(replica, job) => self.replicas.get(replica).is_none_or(|it| !it.is_planned(*job, at)),
            Event::WorkerTurn { proxy, worker } => {
                self.proxies.get(proxy).is_none_or(|it| it.workers[*worker].turn_at != Some(at))
            }
            Event::Order { proxy, .. }
            | Event::Join { proxy, .. }
            | Event::FromWorker { proxy, .. }
            | Event::HangUp { proxy, .. }
            | Event::ProxyTimer(proxy)
            | Event::ProxyStarts(proxy)
            | Event::ProxyExit(proxy, _) => !self.proxies.contains_key(proxy),
            Event::Client(client) => self.clients[*client].act_at != Some(at),
            Event::Leave { client, connection } => self.clients[*client].connection != *connection,
            Event::Act | Event::Boards | Event::Adopt => false,
        }
    }

    // Replicas.

    /// A replica's loop wakes up after a while.
    pub(crate) fn wake_replica(&mut self, id: &ReplicaId) {
        let after = self.dice.skewed(80, 2_000);
        self.plan_replica(id, self.now.after(after));
    }

    pub(crate) fn plan_replica(&mut self, id: &ReplicaId, at: Nanos) {
        let Some(replica) = self.replicas.get_mut(id) else { return };
        if replica.turn_at.is_none_or(|planned| planned <= self.now || at < planned) {
            replica.turn_at = Some(at);
            self.push_at(at, Event::ReplicaTurn(id.clone()));
        }
    }

    fn replica_turn(&mut self, id: &ReplicaId) {
        let Some(replica) = self.replicas.get_mut(id) else { return };
        replica.turn_at = None;
        let worked = replica.take_turn(&mut self.dice, self.now);
        let (running, limit) = (replica.running(), replica.limit);
        let more = replica.has_news();
        if !worked.taken.is_empty() {
            assert!(running <= limit, "{id} runs {running} requests, and may run {limit}");
        }
        self.books.check_arrived(replica, self.plan.slow);
        let took = worked.taken.len();
        self.note(|| format!("{id} turns: takes {took}, runs {running}"));
        self.worked(id, worked);
        if more {
            self.wake_replica(id);
        }
    }

    fn go_on(&mut self, id: &ReplicaId, job: JobKey) {
        let Some(replica) = self.replicas.get_mut(id) else { return };
        let worked = replica.go_on(job, &mut self.dice, self.now);
        let may_take = replica.may_take();
        let ended: Vec<String> =
            worked.ended.iter().map(|(request, how)| format!("{request} {how:?}")).collect();
        self.note(|| format!("{id} goes on: {}", ended.join(", ")));
        let ends = !ended.is_empty();
        self.worked(id, worked);
        if ends || may_take {
            self.wake_replica(id);
        }
    }

    fn worked(&mut self, id: &ReplicaId, worked: Worked) {
        assert_eq!(worked.fault, None, "{id} has found that a proxy broke the rules");
        for (request, job, after) in worked.taken {
            self.shadow.taken(request, id);
            self.shadow.met((request, id), self.is_of(id));
            self.plan_job(id, job, after);
        }
        for (request, caller) in worked.nested {
            self.shadow.met((request, &caller), self.is_of(id));
        }
        for request in worked.sent {
            self.shadow.sent(request, id);
        }
        for (request, how) in worked.ended {
            self.shadow.ended(request, id, how);
        }
        for (job, after) in worked.again {
            self.plan_job(id, job, after);
        }
        self.wake_callers(id);
        self.caller_moved(id);
        self.may_have_drained(id);
    }

    /// Deployment and version of a replica.
    fn is_of(&self, id: &ReplicaId) -> (DeploymentName, String) {
        let version = self.replicas.get(id).map(|replica| replica.version.clone()).unwrap_or_default();
        (self.books.deployment_of(id).clone(), version)
    }

    pub(crate) fn plan_job(&mut self, id: &ReplicaId, job: JobKey, after: Duration) {
        let at = self.now.after(after);
        if self.replicas.get_mut(id).is_some_and(|replica| replica.plan_job(job, at)) {
            self.push_at(at, Event::GoOn(id.clone(), job));
        }
    }

    /// Workers whose lanes have news take a turn.
    fn wake_callers(&mut self, id: &ReplicaId) {
        let Some(replica) = self.replicas.get(id) else { return };
        for lane in replica.lanes.keys().cloned().collect::<Vec<LaneKey>>() {
            match lane {
                LaneKey::Worker(proxy, worker) => self.wake_worker(proxy, worker),
                LaneKey::Replica(caller) => self.wake_replica(&caller),
            }
        }
    }

    pub(crate) fn may_have_drained(&mut self, id: &ReplicaId) {
        let Some(replica) = self.replicas.get(id) else { return };
        if matches!(replica.stage, Stage::Draining(_)) && replica.is_idle() && !self.books.has_drained(id) {
            self.books.drained(id);
            self.note(|| format!("{id} has drained"));
            let after = self.dice.micros(10, 500);
            self.say(Channel::FromReplica(id.clone()), after, Fact::Drained { replica: id.clone() });
            let after = self.dice.micros(500, 5_000);
            self.push(after, Event::Exit(id.clone(), Exit::Code(0)));
        }
    }

    fn replica_ends(&mut self, id: &ReplicaId, exit: Exit) {
        let Some(replica) = self.replicas.remove(id) else { return };
        self.note(|| format!("{id} ends: {exit}, with {} requests", replica.taken().len()));
        for request in replica.taken() {
            self.shadow.ended(request, id, Ended::Interrupted);
        }
        drop(replica);
        for proxy in self.proxies.keys().copied().collect::<Vec<u32>>() {
            for worker in 0..self.plan.workers {
                let after = self.dice.skewed(100, 3_000);
                self.push(after, Event::HangUp { proxy, worker, replica: id.clone() });
            }
        }
        for other in self.replicas.keys().cloned().collect::<Vec<ReplicaId>>() {
            let Some(held) = self.replicas.get_mut(&other) else { continue };
            held.drop_lane_of(id);
            // Its calls have left their places to others.
            let may_take = held.may_take();
            if held.caller.has_channel(id) {
                let after = self.dice.skewed(100, 3_000);
                self.push(after, Event::PeerDied { caller: other.clone(), callee: id.clone() });
            }
            if may_take {
                self.wake_replica(&other);
            }
            self.may_have_drained(&other);
        }
        let after = self.dice.skewed(200, 5_000);
        let fact = Fact::Exited { replica: id.clone(), exit, last_words: Vec::new() };
        self.say(Channel::FromReplica(id.clone()), after, fact);
    }

    // Proxies.

    /// A worker takes a turn after a while.
    pub(crate) fn wake_worker(&mut self, proxy: u32, worker: usize) {
        let after = self.dice.skewed(60, 1_500);
        self.plan_worker(proxy, worker, self.now.after(after));
    }

    fn plan_worker(&mut self, proxy: u32, worker: usize, at: Nanos) {
        let Some(held) = self.proxies.get_mut(&proxy).map(|proxy| &mut proxy.workers[worker]) else { return };
        if held.turn_at.is_none_or(|planned| planned <= self.now || at < planned) {
            held.turn_at = Some(at);
            self.push_at(at, Event::WorkerTurn { proxy, worker });
        }
    }

    /// Workers that have mail take a turn.
    pub(crate) fn deliver_mail(&mut self, proxy: u32) {
        let Some(woken) = self.proxies.get(&proxy).map(|proxy| proxy.mail.woken()) else { return };
        for worker in woken {
            self.wake_worker(proxy, worker);
        }
    }

    fn worker_turn(&mut self, number: u32, index: usize) {
        let replicas = &self.replicas;
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        let worker = &mut proxy.workers[index];
        worker.turn_at = None;
        let before = worker.view.generation;
        let is_alive = |id: &ReplicaId| replicas.contains_key(id);
        let turned = worker.take_turn(index, &proxy.mail, &mut self.hall, &is_alive, self.now);
        let changed = worker.view.generation != before
            || turned.said.iter().any(|said| matches!(said, FromWorker::Applied(_)));
        let (connections, said) = (worker.engine.connections(), turned.said.len());
        self.note(|| format!("proxy {number} worker {index} turns: {connections} connections, says {said}"));
        for (client, id) in turned.accepted {
            self.clients[client].home = Some(Home { proxy: number, worker: index, id });
        }
        for replica in turned.stillborn {
            let after = self.dice.micros(1, 100);
            self.push(after, Event::HangUp { proxy: number, worker: index, replica });
        }
        for what in turned.said {
            if let FromWorker::Fault { replica, .. } = &what {
                self.books.faulted.insert(replica.clone());
            }
            let after = self.dice.skewed(50, 2_000);
            self.send(Channel::FromWorker(number, index), after, Event::FromWorker { proxy: number, what });
        }
        for (request, replica) in self.lane_notes.take_lost() {
            self.books.check_lost(&replica, self.replicas.contains_key(&replica));
            self.shadow.lost(request, &replica);
        }
        if changed {
            self.routes_changed();
        }
        if let Some(at) = turned.next {
            let at = at.max(self.now.after(Duration::from_nanos(1_000 + self.dice.below(4_000))));
            self.plan_worker(number, index, at);
        }
        self.deliver_mail(number);
        let with_news = self.replicas.iter().filter(|(_, replica)| replica.has_news());
        for id in with_news.map(|(id, _)| id.clone()).collect::<Vec<ReplicaId>>() {
            self.wake_replica(&id);
        }
        self.check_queues();
    }

    fn hang_up(&mut self, proxy: u32, worker: usize, replica: ReplicaId) {
        if let Some(held) = self.proxies.get_mut(&proxy) {
            held.workers[worker].hang_ups.push(replica);
            self.wake_worker(proxy, worker);
        }
    }

    fn join(&mut self, number: u32, id: &ReplicaId, attempt: u64) {
        let workers = self.plan.workers;
        let result = match self.replicas.get_mut(id) {
            Some(replica) if replica.hung_until <= self.now => {
                let streams = [2, 4, 8, 32][self.dice.index(4)];
                let geometry = Geometry { streams, ..Geometry::small() };
                let lanes = u16::try_from(workers).expect("few workers");
                let (near, far) =
                    attach::local(lanes, geometry, UpBell::EventFd).expect("memory and descriptors");
                for (worker, lane) in far.lanes.into_iter().enumerate() {
                    replica.lanes.insert(LaneKey::Worker(number, worker), lane);
                }
                let planted = self.plan.planted;
                let lane = |requester| SimLane {
                    requester,
                    replica: id.clone(),
                    notes: self.lane_notes.clone(),
                    requests: BTreeMap::new(),
                    planted,
                };
                let load: SimLoad = replica.load.clone();
                Ok(Ends { lanes: near.lanes.into_iter().map(lane).collect(), load: Box::new(load) })
            }
            Some(_) => Err("the other side did not answer in time".to_owned()),
            None => Err("the attach socket failed: closed".to_owned()),
        };
        self.note(|| format!("proxy {number} and {id} join: {}", result.is_ok()));
        if let Some(proxy) = self.proxies.get_mut(&number) {
            proxy.routing.joined(id, attempt, result);
        }
        self.settle_routes(number);
    }

    /// The newest view is used, if it can be.
    pub(crate) fn settle_routes(&mut self, number: u32) {
        let now = self.now;
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        proxy.routing.settle(&*proxy.mail, now);
        proxy.listen();
        if self.plan.planted == Planted::EarlyAcknowledgement
            && let Some(generation) = proxy.published
        {
            let caller = decurion_supervisor::reconcile::CallerId::Proxy(ProxyInstance(number));
            let fact = Fact::ViewApplied { caller, deployment: None, generation };
            self.say(Channel::FromProxy(number), Duration::from_micros(1), fact);
        }
        self.deliver_mail(number);
        self.plan_proxy_timer(number);
    }

    pub(crate) fn plan_proxy_timer(&mut self, number: u32) {
        let Some(proxy) = self.proxies.get(&number) else { return };
        let due = proxy.gathered.due().map(|at| self.nanos_of(at));
        let times = [due, proxy.routing.partial_at(), proxy.deadline];
        if let Some(at) = times.into_iter().flatten().min() {
            self.push_at(at.max(self.now), Event::ProxyTimer(number));
        }
    }

    pub(crate) fn proxy_ends(&mut self, number: u32, exit: Exit) {
        let Some(proxy) = self.proxies.remove(&number) else { return };
        self.note(|| format!("proxy {number} ends: {exit}"));
        for client in &mut self.clients {
            if client.home.is_some_and(|home| home.proxy == number) {
                client.fate.get_or_insert(Cut::ProxyDied);
            }
        }
        drop(proxy);
        for id in self.replicas.keys().cloned().collect::<Vec<ReplicaId>>() {
            let Some(replica) = self.replicas.get_mut(&id) else { continue };
            for (request, how) in replica.drop_lanes(number) {
                self.shadow.ended(request, &id, how);
            }
            self.wake_replica(&id);
            self.may_have_drained(&id);
        }
        self.routes_changed();
        let after = self.dice.skewed(200, 5_000);
        let fact = Fact::ProxyExited { instance: ProxyInstance(number), exit };
        self.say(Channel::FromProxy(number), after, fact);
    }

    /// Tells a worker what its epoll would.
    pub(crate) fn notify(&mut self, home: Home, ready: Ready) {
        if let Some(proxy) = self.proxies.get_mut(&home.proxy) {
            proxy.workers[home.worker].ready.push((home.id, ready));
            self.wake_worker(home.proxy, home.worker);
        }
    }

    /// Some worker that takes connections takes a turn.
    pub(crate) fn knock(&mut self) {
        let mut takers: Vec<(u32, usize)> = Vec::new();
        for (number, proxy) in &self.proxies {
            let accepting = (0..proxy.workers.len()).filter(|worker| proxy.is_accepting(*worker));
            takers.extend(accepting.map(|worker| (*number, worker)));
        }
        if !takers.is_empty() {
            let (proxy, worker) = takers[self.dice.index(takers.len())];
            self.wake_worker(proxy, worker);
        }
    }

    /// What the shadow model has to know of what workers go by.
    fn routes_changed(&mut self) {
        let mut routed = crate::shadow::Routed::default();
        let wanted: BTreeSet<DeploymentName> = crate::fate::names().into_iter().collect();
        for worker in self.proxies.values().flat_map(|proxy| &proxy.workers) {
            if !worker.view.is_known() {
                continue;
            }
            let mut known = BTreeSet::new();
            for (_, route) in worker.view.routes.iter() {
                let name = &route.deployment.name;
                known.insert(name.clone());
                if matches!(route.availability, decurion_ipc::control::Availability::Failed(_)) {
                    routed.failed.insert(name.clone());
                }
                let replicas = route.backends.replicas.iter();
                routed.replicas.extend(replicas.map(|it| (it.id.clone(), it.version.clone())));
            }
            routed.absent.extend(wanted.difference(&known).cloned());
        }
        self.shadow.routed(self.now, routed);
    }

    /// No queue is longer than it may be, but for those who come back from a replica that they were sent to.
    fn check_queues(&mut self) {
        let long_ago = Nanos(self.now.0.saturating_sub(GHOSTS_FOR_NS));
        self.ghosts.retain(|(left, _)| *left >= long_ago);
        let outstanding = self.clients.iter().flat_map(|client| &client.outstanding);
        let returning = outstanding.filter(|id| self.lane_notes.was_sent(**id)).count() + self.ghosts.len();
        for proxy in self.proxies.values() {
            for deployment in proxy.routing.deployments() {
                let Some(most) = self.books.queue_max(&deployment.name) else { continue };
                let (name, waiting) = (&deployment.name, deployment.waiting());
                assert!(
                    waiting <= most + returning,
                    "{waiting} requests wait for {name}, at most {most} may"
                );
            }
        }
    }
}
