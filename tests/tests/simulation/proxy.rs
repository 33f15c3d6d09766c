//! A proxy process: the real routing and the real engines of its workers, and in place of threads, wakers and epoll the
//! world's word for whose turn it is. A turn goes as that of `proxy/src/sys/worker.rs` does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decurion_api::ReplicaId;
use decurion_ipc::control::{Generation, ProxySettings};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::stats::Traffic;
use decurion_proxy::balance::{Grant, LaneIndex, Post, Replica};
use decurion_proxy::engine::{ConnectionId, Engine, Notice, Ready, TICK};
use decurion_proxy::routing::{Crew, Routing};
use decurion_proxy::stats::Gathered;
use decurion_proxy::time::Nanos;
use decurion_proxy::view::View;

use crate::planted::Planted;
use crate::wire::{SimLane, SimSocket, Wire};

/// Connections that a worker takes in one turn.
const ACCEPT_BATCH: usize = 4;
/// With the mistake planted, every so manyth grant is lost.
const LOST_GRANT: u64 = 20;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Mail {
    Grant(Grant),
    View(Arc<View>),
    Attach { replica: Arc<Replica>, lane: Box<SimLane> },
    Detach(LaneIndex),
    Configure { sequence: u64, settings: Box<ProxySettings> },
    Listen,
    Drain { gently: bool },
    Probe(u64),
}

/// What a worker tells its control thread.
#[derive(Debug)]
pub(crate) enum FromWorker {
    Applied(Generation),
    /// Of this worker.
    Oldest(usize, Epoch),
    Fault {
        replica: ReplicaId,
        fault: String,
    },
    LaneFreed(LaneIndex),
    Stats(Vec<Traffic>),
    Starved,
    Drained,
    Turned(u64),
    Configured(u64),
}

/// All workers' mail.
#[derive(Debug)]
pub(crate) struct Mailboxes {
    boxes: Vec<Mutex<VecDeque<Mail>>>,
    /// Workers that are to take a turn.
    woken: Mutex<BTreeSet<usize>>,
    planted: Planted,
    grants: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mailboxes {
    fn post(&self, worker: usize, mail: Mail) {
        lock(&self.boxes[worker]).push_back(mail);
        lock(&self.woken).insert(worker);
    }

    pub(crate) fn post_all(&self, mail: impl Fn() -> Mail) {
        for worker in 0..self.boxes.len() {
            self.post(worker, mail());
        }
    }

    /// Workers that are to take a turn.
    pub(crate) fn woken(&self) -> BTreeSet<usize> {
        lock(&self.woken).clone()
    }

    fn take(&self, worker: usize) -> VecDeque<Mail> {
        lock(&self.woken).remove(&worker);
        std::mem::take(&mut lock(&self.boxes[worker]))
    }

    fn is_pending(&self, worker: usize) -> bool {
        lock(&self.woken).contains(&worker)
    }
}

impl Post for Mailboxes {
    fn grant(&self, grant: Grant) {
        let number = self.grants.fetch_add(1, Ordering::Relaxed);
        if self.planted == Planted::GrantLost && number % LOST_GRANT == LOST_GRANT - 1 {
            return;
        }
        self.post(usize::from(grant.waiter.worker), Mail::Grant(grant));
    }

    fn has_others(&self) -> bool {
        self.boxes.len() > 1
    }

    fn look(&self, worker: u16) {
        lock(&self.woken).extend((0..self.boxes.len()).filter(|other| *other != usize::from(worker)));
    }
}

impl Crew<SimLane, ()> for Mailboxes {
    fn count(&self) -> usize {
        self.boxes.len()
    }

    fn attach(&self, worker: usize, replica: &Arc<Replica>, lane: SimLane, (): &()) {
        self.post(worker, Mail::Attach { replica: Arc::clone(replica), lane: Box::new(lane) });
    }

    fn detach(&self, lane: LaneIndex) {
        self.post_all(|| Mail::Detach(lane));
    }

    fn route(&self, view: &Arc<View>) {
        self.post_all(|| Mail::View(Arc::clone(view)));
    }
}

/// One process.
pub(crate) struct Proxy {
    pub(crate) routing: Routing<SimLane, ()>,
    pub(crate) mail: Arc<Mailboxes>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) settings: ProxySettings,
    pub(crate) gathered: Gathered,
    pub(crate) spawned_at: Nanos,
    /// The newest view that it was sent.
    pub(crate) published: Option<Generation>,
    /// Was given the listening socket, and has not handed it on.
    pub(crate) listener: bool,
    /// Was ever given it, and does not drain.
    pub(crate) listening: bool,
    pub(crate) draining: bool,
    /// The end of a drain.
    pub(crate) deadline: Option<Nanos>,
    pub(crate) drained: usize,
    /// A probe, and workers that have not turned since.
    pub(crate) probe: Option<(u64, usize)>,
    /// The newest settings, and workers that do not go by them yet.
    pub(crate) configured: Option<(u64, usize)>,
    /// Takes no turns before this: stopped.
    pub(crate) hung_until: Nanos,
}

/// One worker.
pub(crate) struct Worker {
    pub(crate) engine: Engine<SimSocket, SimLane>,
    /// When its next turn is; the world skips turns that were moved.
    pub(crate) turn_at: Option<Nanos>,
    /// What its epoll would say.
    pub(crate) ready: Vec<(ConnectionId, Ready)>,
    /// Replicas that have died.
    pub(crate) hang_ups: Vec<ReplicaId>,
    /// What it goes by.
    pub(crate) view: Arc<View>,
    lanes: BTreeMap<ReplicaId, LaneIndex>,
    accepts: bool,
    draining: bool,
    told_drained: bool,
}

/// What came of a turn.
#[derive(Debug, Default)]
pub(crate) struct Turned {
    /// Clients whose connections were taken.
    pub(crate) accepted: Vec<(usize, ConnectionId)>,
    pub(crate) said: Vec<FromWorker>,
    /// Replicas whose lane came after their death.
    pub(crate) stillborn: Vec<ReplicaId>,
    /// When to take the next turn; `None`: when something happens.
    pub(crate) next: Option<Nanos>,
}

impl Proxy {
    pub(crate) fn new(
        number: u32,
        workers: usize,
        settings: &ProxySettings,
        planted: Planted,
        now: Nanos,
    ) -> Self {
        let mail = Arc::new(Mailboxes {
            boxes: (0..workers).map(|_| Mutex::default()).collect(),
            woken: Mutex::default(),
            planted,
            grants: AtomicU64::new(0),
        });
        let worker = |index: usize| {
            let post: Arc<dyn Post + Send + Sync> = mail.clone();
            let place = u16::try_from(index).expect("few workers");
            let seed = u64::from(number) * 1_000 + index as u64;
            let mut engine = Engine::new(place, seed, settings.clone(), post);
            engine.set_date(b"Sun, 06 Nov 1994 08:49:37 GMT");
            Worker {
                engine,
                turn_at: None,
                ready: Vec::new(),
                hang_ups: Vec::new(),
                view: Arc::default(),
                lanes: BTreeMap::new(),
                accepts: false,
                draining: false,
                told_drained: false,
            }
        };
        Self {
            routing: Routing::default(),
            workers: (0..workers).map(worker).collect(),
            mail,
            settings: settings.clone(),
            gathered: Gathered::default(),
            spawned_at: now,
            published: None,
            listener: false,
            listening: false,
            draining: false,
            deadline: None,
            drained: 0,
            probe: None,
            configured: None,
            hung_until: Nanos(0),
        }
    }

    /// Hands the listening socket to the workers, once it is there, and routes.
    pub(crate) fn listen(&mut self) {
        if self.routing.is_routed() && std::mem::take(&mut self.listener) {
            self.mail.post_all(|| Mail::Listen);
        }
    }

    /// Whether some worker, by what it goes by now, may send a new request to this replica.
    pub(crate) fn may_send(&self, replica: &ReplicaId) -> bool {
        self.workers.iter().any(|worker| worker.goes_by(replica))
    }

    pub(crate) fn is_accepting(&self, worker: usize) -> bool {
        self.workers[worker].accepts
    }
}

impl Worker {
    pub(crate) fn goes_by(&self, replica: &ReplicaId) -> bool {
        let routes = self.view.routes.iter();
        routes.flat_map(|(_, route)| &route.backends.replicas).any(|it| it.id == *replica)
    }

    pub(crate) fn take_turn(
        &mut self,
        index: usize,
        mail: &Mailboxes,
        hall: &mut VecDeque<Rc<RefCell<Wire>>>,
        is_alive: &dyn Fn(&ReplicaId) -> bool,
        now: Nanos,
    ) -> Turned {
        let mut turned = Turned::default();
        for (id, ready) in std::mem::take(&mut self.ready) {
            self.engine.ready(id, ready, now);
        }
        for replica in std::mem::take(&mut self.hang_ups) {
            if let Some(lane) = self.lanes.remove(&replica) {
                self.engine.detach(lane, now);
            }
        }
        self.read_mail(index, mail, is_alive, &mut turned, now);
        self.engine.expire(now);
        self.accept(hall, &mut turned, now);
        self.engine.serve_clients(now);
        let mut busy = self.engine.hear_replicas(now);
        self.read_mail(index, mail, is_alive, &mut turned, now);
        self.engine.even_out(now);
        self.engine.ring();
        self.engine.serve_clients(now);
        busy |= self.engine.has_work() || (self.accepts && !hall.is_empty());
        self.tell(index, &mut turned, now);
        turned.next = self.next_turn(busy || mail.is_pending(index), now);
        turned
    }

    fn next_turn(&mut self, busy: bool, now: Nanos) -> Option<Nanos> {
        if busy || !self.engine.arm() {
            return Some(now);
        }
        let mut until = self.engine.next_deadline().unwrap_or(Nanos::NEVER).min(self.engine.stats_due());
        if self.engine.has_work_in_flight() {
            until = until.min(now.after(TICK));
        }
        (until != Nanos::NEVER).then_some(until.max(now))
    }

    fn read_mail(
        &mut self,
        index: usize,
        mail: &Mailboxes,
        is_alive: &dyn Fn(&ReplicaId) -> bool,
        turned: &mut Turned,
        now: Nanos,
    ) {
        for mail in mail.take(index) {
            match mail {
                Mail::Grant(grant) => self.engine.grant(grant, now),
                Mail::View(view) => {
                    self.view = Arc::clone(&view);
                    let generation = view.generation;
                    self.engine.set_view(view, now);
                    turned.said.push(FromWorker::Applied(generation));
                }
                Mail::Attach { replica, lane } => {
                    let id = replica.id.clone();
                    self.lanes.insert(id.clone(), replica.lane);
                    self.engine.attach(replica, *lane);
                    if !is_alive(&id) {
                        turned.stillborn.push(id);
                    }
                }
                Mail::Detach(lane) => {
                    self.lanes.retain(|_, held| *held != lane);
                    self.engine.detach(lane, now);
                }
                Mail::Configure { sequence, settings } => {
                    self.engine.configure(*settings);
                    turned.said.push(FromWorker::Configured(sequence));
                }
                Mail::Listen => self.accepts = !self.draining,
                Mail::Drain { gently } => {
                    (self.accepts, self.draining) = (false, true);
                    match gently {
                        true => self.engine.retire(),
                        false => self.engine.drain(now),
                    }
                }
                Mail::Probe(sequence) => turned.said.push(FromWorker::Turned(sequence)),
            }
        }
    }

    fn accept(&mut self, hall: &mut VecDeque<Rc<RefCell<Wire>>>, turned: &mut Turned, now: Nanos) {
        for _ in 0..ACCEPT_BATCH {
            let Some(wire) = self.accepts.then(|| hall.pop_front()).flatten() else { return };
            let client = wire.borrow().client;
            let id = self.engine.accept(SimSocket(wire), now);
            let ready = Ready { readable: true, writable: true, ..Ready::default() };
            self.engine.ready(id, ready, now);
            turned.accepted.push((client, id));
        }
    }

    fn tell(&mut self, index: usize, turned: &mut Turned, now: Nanos) {
        for notice in self.engine.take_notices() {
            match notice {
                Notice::Fault { replica, fault } => turned.said.push(FromWorker::Fault { replica, fault }),
                Notice::Starved => turned.said.push(FromWorker::Starved),
                Notice::Log { .. } => {}
            }
        }
        let oldest = self.engine.oldest_news();
        turned.said.extend(oldest.map(|epoch| FromWorker::Oldest(index, epoch)));
        for (lane, _) in self.engine.take_freed() {
            self.lanes.retain(|_, held| *held != lane);
            turned.said.push(FromWorker::LaneFreed(lane));
        }
        let ends = self.draining && !self.told_drained && self.engine.connections() == 0;
        if let Some(traffic) = self.engine.take_stats(ends, now) {
            turned.said.push(FromWorker::Stats(traffic));
        }
        if ends {
            self.told_drained = true;
            turned.said.push(FromWorker::Drained);
        }
    }
}
