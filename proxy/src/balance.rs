//! Which replica gets a request, and who waits for one: shared by all workers.
//!
//! Counts are exact, since they are ours: a replica's requests in flight are reserved by compare-and-swap before a
//! worker sends anything, from the very count it was chosen by, so that two workers that choose at the same instant do
//! not both choose the same one. Whoever finds no slot waits in its deployment's queue, first come first served across
//! workers, and is handed a slot the moment one frees; nobody polls. Knows no sockets and no channels.
//!
//! Some of those who wait do so at a replica: a replica that answers quickly is sent more than it may run at once, so
//! that its next request is there when it is done with one, and one doorbell serves many. How many follows from how
//! fast it answers ([`Pace`]): one that lies there is not held up by much more than [`AHEAD_SPAN`]. It runs no more than
//! it may, which the replica itself sees to, and those beyond count as waiting. Where they would wait longer than
//! elsewhere, workers take them back (`Engine::even_out`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::CanaryView;
use decurion_ipc::epoch::{Epoch, Span};

use crate::time::Nanos;

/// Place of a replica's channel in each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneIndex(pub u32);

impl LaneIndex {
    /// As an index.
    #[must_use]
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// What a replica says of its own load: requests of callers elsewhere are known from there only.
pub trait Load: Send + Sync + fmt::Debug {
    /// Requests it is working on.
    fn ongoing(&self) -> u64;

    /// Whether it says that it holds a model, by the model's hash.
    fn holds_model(&self, _model: u64) -> bool {
        false
    }
}

/// One replica, as all workers share it. On a line of its own, since every request writes to it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Replica {
    in_flight: AtomicU32,
    gone: AtomicBool,
    /// Its id.
    pub id: ReplicaId,
    /// What it runs.
    pub version: String,
    /// Its channel, the same place in each worker.
    pub lane: LaneIndex,
    deployment: Arc<Deployment>,
    load: Box<dyn Load>,
    pace: Pace,
    /// The requests that it serves, as of the newest view.
    since: AtomicU64,
    until: AtomicU64,
}

/// What a replica has ahead of itself is to take it no longer than this.
pub const AHEAD_SPAN: Duration = Duration::from_millis(1);
/// Requests that a replica is sent beyond its limit: none with which it would have more than this.
const AHEAD_TOTAL: u32 = 64;
/// A replica that has not answered for so long is sent nothing beyond its limit.
pub const AHEAD_FRESH: Duration = Duration::from_millis(10);
/// How often the least loaded is looked for anew where another worker's choice came between: two that choose at the
/// same instant go to different replicas.
const CHOICES_MAX: usize = 4;
/// Answers over which the pace is taken.
const PACE_SAMPLE: u32 = 32;

/// How quickly a replica answers, by all workers' requests together. Approximate where two workers meet; nothing but
/// how much is sent ahead hangs on it.
#[derive(Debug, Default)]
struct Pace {
    last: AtomicU64,
    since: AtomicU64,
    count: AtomicU32,
    /// From one answer to the next; 0: not known yet.
    mean_ns: AtomicU64,
}

impl Pace {
    fn answered(&self, now: Nanos) {
        self.last.store(now.0, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count >= PACE_SAMPLE {
            self.count.store(0, Ordering::Relaxed);
            let began = self.since.swap(now.0, Ordering::Relaxed);
            self.mean_ns.store(now.0.saturating_sub(began) / u64::from(count), Ordering::Relaxed);
        }
    }

    /// How many requests it may have ahead of itself.
    fn ahead(&self, now: Nanos) -> u32 {
        let mean = self.mean_ns.load(Ordering::Relaxed);
        if mean == 0 || now >= Nanos(self.last.load(Ordering::Relaxed)).after(AHEAD_FRESH) {
            return 0;
        }
        u32::try_from(Nanos(0).after(AHEAD_SPAN).0 / mean).unwrap_or(AHEAD_TOTAL)
    }
}

impl Replica {
    /// A replica with nothing in flight.
    #[must_use]
    pub fn new(id: ReplicaId, lane: LaneIndex, deployment: Arc<Deployment>, load: Box<dyn Load>) -> Self {
        let (in_flight, gone, pace) = (AtomicU32::new(0), AtomicBool::new(false), Pace::default());
        let (since, until) = (AtomicU64::new(Span::ALL.since.0), AtomicU64::new(Span::ALL.until.0));
        Self { in_flight, gone, id, version: String::new(), lane, deployment, load, pace, since, until }
    }

    /// The requests that it serves.
    #[must_use]
    pub fn span(&self) -> Span {
        let (since, until) = (self.since.load(Ordering::SeqCst), self.until.load(Ordering::SeqCst));
        Span { since: Epoch(since), until: Epoch(until) }
    }

    /// Says which requests it serves. Before a view is sent by which others enter.
    pub fn set_span(&self, span: Span) {
        self.since.store(span.since.0, Ordering::SeqCst);
        self.until.store(span.until.0, Ordering::SeqCst);
    }

    /// The same, of this version.
    #[must_use]
    pub fn of_version(self, version: String) -> Self {
        Self { version, ..self }
    }

    /// Of which deployment it is one.
    #[must_use]
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// Requests that this process has with it, those included that it may not run yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// It is dead, or has been cut off: nobody chooses it any more. Says whether that is news.
    pub fn leave(&self) -> bool {
        !self.gone.swap(true, Ordering::SeqCst)
    }

    /// Whether it has left.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Gives a slot back, and hands it to whoever has waited longest.
    pub fn release(&self, now: Nanos, post: &dyn Post) {
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a slot was given back that nobody held");
        self.pace.answered(now);
        self.deployment.wake(now, post);
    }

    /// Makes it one that has answered often and quickly.
    #[cfg(test)]
    pub(crate) fn pretend_quick(&self, mut now: Nanos) -> Nanos {
        for _ in 0..3 * PACE_SAMPLE {
            now = now.after(Duration::from_micros(20));
            self.pace.answered(now);
        }
        now
    }

    /// How many requests may be with it, those included that it may not run yet.
    fn room(&self, max_ongoing: u32, now: Nanos) -> u32 {
        max_ongoing + self.pace.ahead(now).min(AHEAD_TOTAL.saturating_sub(max_ongoing))
    }

    /// Reserves a slot where it has as many requests as it was chosen for, and not one more or less.
    fn reserve_after(&self, had: u32) -> bool {
        self.in_flight.compare_exchange(had, had + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn reserve(&self, max: u32) -> bool {
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now < max).then_some(now + 1))
            .is_ok()
    }
}

/// The replicas of one deployment, and its limits, as one view has them.
#[derive(Debug, Default)]
pub struct Backends {
    /// Those that may get new requests; those of a version that is being tried come last.
    pub replicas: Vec<Arc<Replica>>,
    /// Which of them are tried, and with what share of the requests.
    pub canary: Option<Canary>,
    /// Requests in flight per replica, at most.
    pub max_ongoing: u32,
    /// Requests waiting, at most; `None`: unbounded.
    pub max_queued: Option<u32>,
}

/// A version that gets a share of the requests of its own.
#[derive(Debug)]
pub struct Canary {
    /// From this place on, `replicas` are of it.
    from: usize,
    /// Percent.
    weight: u8,
    /// Requests that were given to either.
    drawn: AtomicU64,
}

impl Canary {
    /// The replicas from this place on get a share in percent.
    #[must_use]
    pub fn new(from: usize, weight: u8) -> Self {
        Self { from, weight, drawn: AtomicU64::new(0) }
    }
}

impl Backends {
    /// Reserves a slot at the least loaded replica. `turn` says where to start looking, so that equals take turns;
    /// `except` was tried already, and is taken only where there is no other.
    ///
    /// With a `model` (its hash; 0: none) those that hold it come first. Where none of them has room, the least loaded
    /// loads it too; among equals that is the same one for each who asks, so that few load the same.
    ///
    /// Where a version is being tried, each request belongs to it or to the others, by the share that it is to get: what
    /// is the others' never goes to it while one of them lives, and nobody waits for it.
    #[must_use]
    pub fn reserve(&self, turn: usize, except: Option<LaneIndex>, model: u64) -> Option<&Arc<Replica>> {
        let turn = if model == 0 { turn } else { usize::try_from(model >> 1).unwrap_or(turn) };
        let Some(canary) = &self.canary else {
            return self.reserve_among(&self.replicas, turn, except, model);
        };
        let (stable, tried) = self.replicas.split_at(canary.from.min(self.replicas.len()));
        if except.is_some() {
            // It has had its turn, and comes back from a replica that was lost.
            return self
                .reserve_among(stable, turn, except, model)
                .or_else(|| self.reserve_among(tried, turn, except, model));
        }
        let number = canary.drawn.fetch_add(1, Ordering::Relaxed);
        let found = if CanaryView::draws(canary.weight, number) {
            self.reserve_among(tried, turn, None, model)
                .or_else(|| self.reserve_among(stable, turn, None, model))
        } else if stable.iter().all(|replica| replica.is_gone()) {
            self.reserve_among(tried, turn, None, model)
        } else {
            self.reserve_among(stable, turn, None, model)
        };
        if found.is_none() {
            // The turn is for whoever gets a slot next.
            canary.drawn.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    fn reserve_among<'a>(
        &self,
        replicas: &'a [Arc<Replica>],
        turn: usize,
        except: Option<LaneIndex>,
        model: u64,
    ) -> Option<&'a Arc<Replica>> {
        // Where only a free slot is asked for, a lost race means that one was taken: as many attempts as there are
        // replicas.
        for attempt in 0..=CHOICES_MAX + replicas.len() {
            let holder = (model != 0).then(|| self.least_loaded(replicas, turn, except, model)).flatten();
            let (best, had) = holder
                .or_else(|| self.least_loaded(replicas, turn, except, 0))
                .or_else(|| except.and_then(|_| self.least_loaded(replicas, turn, None, 0)))?;
            let reserved = match attempt {
                0..CHOICES_MAX => best.reserve_after(had),
                _ => best.reserve(self.max_ongoing),
            };
            if reserved {
                return Some(best);
            }
        }
        None
    }

    /// Reserves a place at a replica that may be sent more than it may run, the one that has the least.
    /// While a version is being tried, none: which version a request belongs to is decided where it gets a place.
    fn reserve_ahead(&self, turn: usize, now: Nanos) -> Option<&Arc<Replica>> {
        if self.canary.is_some() {
            return None;
        }
        let start = turn % self.replicas.len().max(1);
        let (after, before) = self.replicas.split_at(start);
        for _ in 0..=self.replicas.len() {
            let fits = |replica: &&Arc<Replica>| {
                !replica.is_gone() && replica.in_flight() < replica.room(self.max_ongoing, now)
            };
            let best = before.iter().chain(after).filter(fits).min_by_key(|replica| replica.in_flight())?;
            if best.reserve(best.room(self.max_ongoing, now)) {
                return Some(best);
            }
        }
        None
    }

    /// Requests that are with replicas which may not run them yet.
    fn ahead(&self) -> usize {
        let beyond = self.replicas.iter().map(|it| it.in_flight().saturating_sub(self.max_ongoing));
        beyond.fold(0, |sum, beyond| sum + beyond as usize)
    }

    fn has_room(&self) -> bool {
        self.replicas.iter().any(|replica| !replica.is_gone() && replica.in_flight() < self.max_ongoing)
    }

    /// The one with the least to do, and how many requests of ours it had.
    fn least_loaded<'a>(
        &self,
        replicas: &'a [Arc<Replica>],
        turn: usize,
        except: Option<LaneIndex>,
        model: u64,
    ) -> Option<(&'a Arc<Replica>, u32)> {
        let start = turn % replicas.len().max(1);
        let (after, before) = replicas.split_at(start);
        let mut best = None;
        let mut least = (u64::MAX, u32::MAX);
        for replica in before.iter().chain(after) {
            let had = replica.in_flight();
            if replica.is_gone() || Some(replica.lane) == except || had >= self.max_ongoing {
                continue;
            }
            if model != 0 && !replica.load.holds_model(model) {
                continue;
            }
            // What it says itself may be old: it has answered, and has not counted that yet. Ours is not.
            let weight = (u64::from(had).max(replica.load.ongoing()), had);
            if weight.0 == 0 {
                return Some((replica, had));
            }
            if weight < least {
                (best, least) = (Some((replica, had)), weight);
            }
        }
        best
    }
}

/// Somebody in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Which worker it belongs to.
    pub worker: u16,
    /// What the worker knows it by.
    pub ticket: u64,
    /// Hash of the model that it asks for; 0: none.
    pub model: u64,
    /// May wait at a replica: it is small, and can be sent again.
    pub light: bool,
}

/// A place in a queue; smaller is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(i64);

/// A slot for somebody who waited. Whoever gets it must use it or release it.
#[derive(Clone, Debug)]
#[must_use = "a slot that is neither used nor released is lost"]
pub struct Grant {
    /// For whom.
    pub waiter: Waiter,
    /// The place that he had.
    pub place: Place,
    /// Where a slot is reserved.
    pub replica: Arc<Replica>,
    /// The replica may not run it yet.
    pub ahead: bool,
}

/// Brings grants to workers. Called with a queue locked: it must not come back here.
pub trait Post {
    /// Delivers, and wakes the worker where it is another.
    fn grant(&self, grant: Grant);

    /// Whether there are more workers than one.
    fn has_others(&self) -> bool {
        false
    }

    /// Has the workers but this one look whether requests of theirs wait at one replica while another has room.
    fn look(&self, _worker: u16) {}
}

/// What became of a request that wants a slot.
#[derive(Debug)]
#[must_use]
pub enum Admission {
    /// A slot is reserved there.
    Granted(LaneIndex),
    /// It waits, but there, until the replica may run it.
    Ahead(LaneIndex),
    /// It waits; a [`Grant`] with this place will come.
    Queued(Place),
    /// The queue is full.
    Full,
}

/// What is to become of requests that wait at a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Prospects {
    /// It has no more than it may run.
    Theirs,
    /// Another one has room.
    Elsewhere,
    /// There are others, which have no room now.
    Waiting,
    /// There is no other.
    Alone,
}

/// The queue of one deployment. Lives as long as the deployment is known, over all its views.
#[derive(Debug)]
pub struct Deployment {
    /// Its name.
    pub name: DeploymentName,
    /// Length of the queue, so that nobody takes the lock to find it empty.
    waiting: AtomicUsize,
    /// That requests wait where there are no replicas has been told, and not yet been passed on.
    told: AtomicBool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: BTreeMap<Place, Waiter>,
    next: i64,
    first: i64,
    backends: Arc<Backends>,
}

impl Deployment {
    /// A deployment with no replicas yet.
    #[must_use]
    pub fn new(name: DeploymentName) -> Self {
        Self { name, waiting: AtomicUsize::new(0), told: AtomicBool::new(false), queue: Mutex::default() }
    }

    /// Requests in the queue now, over all workers.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Requests that this process has running at the replicas that may get new ones.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        let backends = Arc::clone(&self.lock().backends);
        backends.replicas.iter().map(|replica| replica.in_flight().min(backends.max_ongoing)).sum()
    }

    /// Requests waiting now, over all workers: in the queue, and at replicas that may not run them yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.waiting() + self.lock().backends.ahead()
    }

    /// A request has begun to wait where there are no replicas: whether somebody has to be told.
    pub fn tell_of_waiting(&self) -> bool {
        // SYNC POINT: waiting-told. Who was told marks that first and counts then: whoever waits already is counted.
        !self.told.swap(true, Ordering::SeqCst)
    }

    /// Requests waiting now, for whoever was told of them; the next one is told again.
    #[must_use]
    pub fn told_waiting(&self) -> usize {
        // SYNC POINT: waiting-told.
        self.told.store(false, Ordering::SeqCst);
        self.queued()
    }

    /// What those who wait at a replica are to do.
    pub fn prospects(&self, replica: &Replica) -> Prospects {
        let queue = self.lock();
        let backends = &queue.backends;
        if replica.in_flight() <= backends.max_ongoing {
            Prospects::Theirs
        } else if backends.has_room() {
            Prospects::Elsewhere
        } else if backends.replicas.iter().any(|other| other.lane != replica.lane) {
            Prospects::Waiting
        } else {
            Prospects::Alone
        }
    }

    /// Whether some wait at one replica while another has room.
    #[must_use]
    pub fn is_uneven(&self) -> bool {
        let queue = self.lock();
        queue.backends.has_room() && queue.backends.ahead() > 0
    }

    /// Takes a new set of replicas; whoever waits gets the slots that are free there.
    pub fn set_backends(&self, backends: Arc<Backends>, now: Nanos, post: &dyn Post) {
        let mut queue = self.lock();
        queue.backends = backends;
        self.pump(&mut queue, now, post);
    }

    /// Asks for a slot among these backends, or for a place in the queue, or at a replica. `again`: it had been
    /// admitted before, so it goes to the front and is never refused.
    pub fn admit(
        &self,
        backends: &Backends,
        turn: usize,
        waiter: Waiter,
        again: Option<LaneIndex>,
        now: Nanos,
        post: &dyn Post,
    ) -> Admission {
        if self.waiting() == 0
            && let Some(replica) = backends.reserve(turn, again, waiter.model)
        {
            return Admission::Granted(replica.lane);
        }
        let mut queue = self.lock();
        let queued = |queue: &Queue| queue.waiters.len() + queue.backends.ahead();
        let full = queue.backends.max_queued.is_some_and(|max| queued(&queue) >= max as usize);
        if full && again.is_none() {
            return Self::last_chance(&queue, backends, turn, waiter.model);
        }
        // Under the lock, so that no two take the last place of the queue. Among those that the caller knows: the queue
        // may have heard of others already.
        if waiter.light
            && again.is_none()
            && queue.waiters.is_empty()
            && let Some(replica) = backends.reserve_ahead(turn, now)
        {
            return Admission::Ahead(replica.lane);
        }
        let place = queue.place(again.is_some());
        queue.waiters.insert(place, waiter);
        // SYNC POINT: queue-or-slot. The count is visible before free slots are looked for, and whoever frees one
        // looks at the count after: one of the two sees the other.
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        self.pump(&mut queue, now, post);
        Admission::Queued(place)
    }

    /// A queue of no length still lets through what finds a slot.
    fn last_chance(queue: &Queue, backends: &Backends, turn: usize, model: u64) -> Admission {
        match queue.waiters.is_empty().then(|| backends.reserve(turn, None, model)).flatten() {
            Some(replica) => Admission::Granted(replica.lane),
            None => Admission::Full,
        }
    }

    /// Leaves the queue. `false`: a grant is on its way already, and has to be released when it comes.
    pub fn withdraw(&self, place: Place) -> bool {
        let mut queue = self.lock();
        let was_there = queue.waiters.remove(&place).is_some();
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
        was_there
    }

    /// Hands out slots, where somebody waits.
    fn wake(&self, now: Nanos, post: &dyn Post) {
        // SYNC POINT: queue-or-slot.
        if self.waiting() > 0 {
            self.pump(&mut self.lock(), now, post);
        }
    }

    fn pump(&self, queue: &mut Queue, now: Nanos, post: &dyn Post) {
        let backends = Arc::clone(&queue.backends);
        while let Some(entry) = queue.waiters.first_entry() {
            let turn = usize::try_from(entry.key().0.unsigned_abs()).unwrap_or(0);
            let free = backends.reserve(turn, None, entry.get().model).map(|replica| (replica, false));
            let ahead = || backends.reserve_ahead(turn, now).map(|replica| (replica, true));
            let light = entry.get().light;
            let Some((replica, ahead)) = free.or_else(|| light.then(ahead).flatten()) else { break };
            let place = *entry.key();
            post.grant(Grant { waiter: entry.remove(), place, replica: Arc::clone(replica), ahead });
        }
        self.waiting.store(queue.waiters.len(), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing under this lock panics half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn place(&mut self, in_front: bool) -> Place {
        let counter = if in_front { &mut self.first } else { &mut self.next };
        *counter += if in_front { -1 } else { 1 };
        Place(*counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const NOW: Nanos = Nanos(1_000_000_000);

    #[derive(Debug, Default)]
    struct Board(Arc<AtomicU64>);
    impl Load for Board {
        fn ongoing(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[derive(Default)]
    struct Mail(RefCell<Vec<Grant>>);
    impl Post for Mail {
        fn grant(&self, grant: Grant) {
            self.0.borrow_mut().push(grant);
        }
    }
    impl Mail {
        fn tickets(&self) -> Vec<u64> {
            self.0.borrow().iter().map(|grant| grant.waiter.ticket).collect()
        }
    }

    fn deployment() -> Arc<Deployment> {
        Arc::new(Deployment::new(DeploymentName::new("d").unwrap()))
    }

    fn backends(
        deployment: &Arc<Deployment>,
        replicas: u32,
        max_ongoing: u32,
        max_queued: u32,
    ) -> Arc<Backends> {
        let replica = |n| {
            let id = ReplicaId::numbered(&deployment.name, n);
            Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(deployment), Box::new(Board::default())))
        };
        let replicas = (0..replicas).map(replica).collect();
        Arc::new(Backends { replicas, canary: None, max_ongoing, max_queued: Some(max_queued) })
    }

    fn waiter(ticket: u64) -> Waiter {
        Waiter { worker: 0, ticket, model: 0, light: false }
    }

    fn granted(admission: Admission, backends: &Backends) -> Arc<Replica> {
        match admission {
            Admission::Granted(lane) => Arc::clone(&backends.replicas[lane.at()]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_least_loaded_replica_is_chosen_and_equals_take_turns() {
        let deployment = deployment();
        let backends = backends(&deployment, 3, 5, 0);
        let lanes: Vec<u32> = (0..6).map(|turn| backends.reserve(turn, None, 0).unwrap().lane.0).collect();
        assert_eq!(lanes, [0, 1, 2, 0, 1, 2]);
        backends.replicas[1].release(NOW, &Mail::default());
        assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(1));
    }

    #[test]
    fn a_version_that_is_tried_gets_its_share_exactly() {
        let deployment = deployment();
        for weight in [1_u8, 5, 20, 50, 99] {
            let mut backends = Arc::into_inner(backends(&deployment, 4, 1_000, 0)).unwrap();
            backends.canary = Some(Canary::new(3, weight));
            let tried =
                (0..1_000).filter(|turn| backends.reserve(*turn, None, 0).unwrap().lane.0 == 3).count();
            assert_eq!(tried, usize::from(weight) * 10);
        }
    }

    #[test]
    fn nobody_waits_for_a_version_that_is_tried_and_it_takes_nobody_elses() {
        let deployment = deployment();
        let mut backends = Arc::into_inner(backends(&deployment, 2, 2, 0)).unwrap();
        backends.canary = Some(Canary::new(1, 50));
        let lanes: Vec<Option<u32>> =
            (0..4).map(|turn| backends.reserve(turn, None, 0).map(|replica| replica.lane.0)).collect();
        assert_eq!(lanes, [Some(0), Some(1), Some(0), Some(1)]);
        backends.replicas[1].release(NOW, &Mail::default());
        // The next one is the other version's, which is full: the free slot is not its.
        assert!(backends.reserve(0, None, 0).is_none());
        backends.replicas[0].release(NOW, &Mail::default());
        assert_eq!(backends.reserve(0, None, 0).unwrap().lane.0, 0);
        // One that comes back from the version that is tried goes to the other where it can.
        assert_eq!(backends.reserve(0, Some(LaneIndex(1)), 0).unwrap().lane.0, 1);
        backends.replicas[0].leave();
        backends.replicas[1].release(NOW, &Mail::default());
        assert_eq!(backends.reserve(0, None, 0).unwrap().lane.0, 1);
    }

    #[test]
    fn load_of_other_callers_counts() {
        let deployment = deployment();
        let busy = Arc::new(AtomicU64::new(4));
        let replica = |n, board: Board| {
            let id = ReplicaId::numbered(&deployment.name, n);
            Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(board)))
        };
        let replicas = vec![replica(0, Board(Arc::clone(&busy))), replica(1, Board::default())];
        let backends = Backends { replicas, canary: None, max_ongoing: 5, max_queued: None };
        assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(1));
        assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(1));
    }

    /// A replica of which another worker takes a slot while it is looked at, so many times.
    #[derive(Debug)]
    struct Contended {
        replicas: Arc<Mutex<Vec<Arc<Replica>>>>,
        at: usize,
        times: AtomicU32,
    }
    impl Load for Contended {
        fn ongoing(&self) -> u64 {
            if self
                .times
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                assert!(self.replicas.lock().unwrap()[self.at].reserve(u32::MAX));
            }
            0
        }
    }

    fn contended(times: u32) -> Backends {
        let (deployment, shared) = (deployment(), Arc::new(Mutex::new(Vec::new())));
        let replica = |n: u32| {
            let load = Contended {
                replicas: Arc::clone(&shared),
                at: n as usize,
                times: AtomicU32::new(if n == 0 { times } else { 0 }),
            };
            let id = ReplicaId::numbered(&deployment.name, n);
            Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(load)))
        };
        let replicas: Vec<Arc<Replica>> = (0..2).map(replica).collect();
        shared.lock().unwrap().clone_from(&replicas);
        Backends { replicas, canary: None, max_ongoing: 100, max_queued: None }
    }

    #[test]
    fn two_workers_that_choose_at_once_choose_different_replicas() {
        let backends = contended(1);
        let lane = backends.reserve(0, None, 0).unwrap().lane;
        let counts = [0, 1].map(|at: usize| backends.replicas[at].in_flight());
        assert_eq!((lane, counts), (LaneIndex(1), [1, 1]), "the other worker took the first one meanwhile");
    }

    #[test]
    fn a_slot_is_found_however_often_others_come_between() {
        let backends = contended(u32::MAX);
        // The second one is made busier, so that the first one stays the least loaded.
        for _ in 0..90 {
            assert!(backends.replicas[1].reserve(u32::MAX));
        }
        assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(0));
    }

    #[test]
    fn what_a_replica_has_not_counted_yet_makes_it_no_busier_than_one_that_works() {
        let deployment = deployment();
        let stale = Arc::new(AtomicU64::new(1));
        let replica = |n, board: Board| {
            let id = ReplicaId::numbered(&deployment.name, n);
            Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(board)))
        };
        let replicas = vec![replica(0, Board::default()), replica(1, Board(stale))];
        let backends = Backends { replicas, canary: None, max_ongoing: 2, max_queued: None };
        let lanes = [0, 0, 0].map(|turn| backends.reserve(turn, None, 0).unwrap().lane.0);
        assert_eq!(lanes, [0, 1, 0]);
    }

    #[test]
    fn a_replica_that_left_or_was_tried_is_passed_over() {
        let deployment = deployment();
        let backends = backends(&deployment, 2, 5, 0);
        assert_eq!(backends.reserve(0, Some(LaneIndex(0)), 0).unwrap().lane, LaneIndex(1));
        assert!(backends.replicas[1].leave() && !backends.replicas[1].leave());
        assert_eq!(
            backends.reserve(0, Some(LaneIndex(0)), 0).unwrap().lane,
            LaneIndex(0),
            "there is no other"
        );
        backends.replicas[0].leave();
        assert!(backends.reserve(0, None, 0).is_none());
    }

    #[derive(Debug)]
    struct Holder(u64);
    impl Load for Holder {
        fn ongoing(&self) -> u64 {
            0
        }
        fn holds_model(&self, model: u64) -> bool {
            model == self.0
        }
    }

    #[test]
    fn who_holds_the_model_comes_first_while_there_is_room() {
        let deployment = deployment();
        let replica = |n, holds| {
            let id = ReplicaId::numbered(&deployment.name, n);
            Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(Holder(holds))))
        };
        let replicas = vec![replica(0, 7), replica(1, 8), replica(2, 0)];
        let backends = Backends { replicas, canary: None, max_ongoing: 2, max_queued: None };
        let lane = |model| backends.reserve(0, None, model).map(|replica| replica.lane.0);
        assert_eq!([lane(8), lane(8)], [Some(1), Some(1)], "although others have less to do");
        assert_eq!(lane(7), Some(0));
        // The holder is full: the least loaded of the others, and that one again while it is equal to none.
        assert_eq!(lane(8), Some(2));
        assert_eq!([lane(9), lane(9), lane(9)].iter().filter(|lane| lane.is_some()).count(), 2);
    }

    #[test]
    fn equals_are_the_same_for_one_model() {
        let deployment = deployment();
        let backends = backends(&deployment, 4, 100, 0);
        let first = backends.reserve(0, None, 6).unwrap().lane;
        backends.replicas[first.at()].release(NOW, &Mail::default());
        assert_eq!(backends.reserve(3, None, 6).unwrap().lane, first);
    }

    #[test]
    fn a_freed_slot_goes_to_whoever_waited_longest() {
        let (deployment, mail) = (deployment(), Mail::default());
        let backends = backends(&deployment, 1, 1, 10);
        deployment.set_backends(Arc::clone(&backends), NOW, &mail);
        let first = granted(deployment.admit(&backends, 0, waiter(1), None, NOW, &mail), &backends);
        for ticket in [2, 3, 4] {
            assert!(matches!(
                deployment.admit(&backends, 0, waiter(ticket), None, NOW, &mail),
                Admission::Queued(_)
            ));
        }
        assert!(matches!(
            deployment.admit(&backends, 0, waiter(5), Some(LaneIndex(9)), NOW, &mail),
            Admission::Queued(_)
        ));
        for _ in 0..4 {
            first.release(NOW, &mail);
        }
        assert_eq!(mail.tickets(), [5, 2, 3, 4]);
        assert_eq!((first.in_flight(), deployment.waiting()), (1, 0));
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let (deployment, mail) = (deployment(), Mail::default());
        let old = backends(&deployment, 0, 1, 10);
        deployment.set_backends(Arc::clone(&old), NOW, &mail);
        assert!(matches!(deployment.admit(&old, 0, waiter(1), None, NOW, &mail), Admission::Queued(_)));
        let new = backends(&deployment, 1, 1, 10);
        assert!(matches!(deployment.admit(&new, 0, waiter(2), None, NOW, &mail), Admission::Queued(_)));
        deployment.set_backends(new, NOW, &mail);
        assert_eq!(mail.tickets(), [1]);
    }

    #[test]
    fn the_queue_is_bounded_and_can_be_left() {
        let (deployment, mail) = (deployment(), Mail::default());
        let backends = backends(&deployment, 1, 1, 1);
        deployment.set_backends(Arc::clone(&backends), NOW, &mail);
        let held = granted(deployment.admit(&backends, 0, waiter(1), None, NOW, &mail), &backends);
        let Admission::Queued(place) = deployment.admit(&backends, 0, waiter(2), None, NOW, &mail) else {
            panic!()
        };
        assert!(matches!(deployment.admit(&backends, 0, waiter(3), None, NOW, &mail), Admission::Full));
        assert!(deployment.withdraw(place) && !deployment.withdraw(place));
        assert!(matches!(deployment.admit(&backends, 0, waiter(3), None, NOW, &mail), Admission::Queued(_)));
        held.release(NOW, &mail);
        assert_eq!(mail.tickets(), [3]);
    }

    fn light(ticket: u64) -> Waiter {
        Waiter { light: true, ..waiter(ticket) }
    }

    #[test]
    fn a_replica_that_answers_quickly_is_sent_more_than_it_may_run() {
        let (deployment, mail) = (deployment(), Mail::default());
        let backends = backends(&deployment, 1, 1, 100);
        deployment.set_backends(Arc::clone(&backends), NOW, &mail);
        let replica = Arc::clone(&backends.replicas[0]);
        let now = replica.pretend_quick(NOW);
        let ask = |ticket, waiter: fn(u64) -> Waiter| {
            deployment.admit(&backends, 0, waiter(ticket), None, now, &mail)
        };
        assert!(matches!(ask(0, light), Admission::Granted(_)));
        // A millisecond's worth of 20 us each.
        for ticket in 1..=50 {
            assert!(matches!(ask(ticket, light), Admission::Ahead(_)), "{ticket}");
        }
        assert!(matches!(ask(51, light), Admission::Queued(_)));
        assert!(matches!(ask(52, waiter), Admission::Queued(_)));
        assert_eq!((replica.in_flight(), deployment.queued(), deployment.waiting()), (51, 52, 2));
        // A place that frees goes to the first in the queue, at the replica again; the second is not to wait there.
        replica.release(now, &mail);
        assert_eq!(mail.tickets(), [51]);
        assert!(mail.0.borrow()[0].ahead);
        replica.release(now, &mail);
        assert_eq!(mail.tickets(), [51]);
        (0..50).for_each(|_| replica.release(now, &mail));
        assert_eq!((mail.tickets(), replica.in_flight()), (vec![51, 52], 1));
    }

    #[test]
    fn nobody_is_sent_to_a_replica_that_only_the_queue_has_heard_of() {
        for max_queued in [0, 100] {
            let (deployment, mail) = (deployment(), Mail::default());
            let newer = backends(&deployment, 2, 1, max_queued);
            let known = Backends {
                replicas: newer.replicas[..1].to_vec(),
                canary: None,
                max_ongoing: 1,
                max_queued: Some(max_queued),
            };
            deployment.set_backends(Arc::clone(&newer), NOW, &mail);
            let ask = |ticket| deployment.admit(&known, 0, light(ticket), None, NOW, &mail);
            assert!(matches!(ask(0), Admission::Granted(LaneIndex(0))));
            // Its own has no room; the other one is reached by a grant, which is looked at before it is used.
            assert!(matches!(ask(1), Admission::Full | Admission::Queued(_)), "{max_queued}");
            assert_eq!(mail.tickets().len(), usize::from(max_queued > 0));
        }
    }

    #[test]
    fn those_who_wait_at_a_replica_count_as_queued() {
        let (deployment, mail) = (deployment(), Mail::default());
        let backends = backends(&deployment, 1, 1, 2);
        deployment.set_backends(Arc::clone(&backends), NOW, &mail);
        let now = backends.replicas[0].pretend_quick(NOW);
        let ask = |ticket| deployment.admit(&backends, 0, light(ticket), None, now, &mail);
        assert!(matches!(ask(0), Admission::Granted(_)));
        assert!(matches!(ask(1), Admission::Ahead(_)));
        assert!(matches!(ask(2), Admission::Ahead(_)));
        assert!(matches!(ask(3), Admission::Full));
    }

    #[test]
    fn a_replica_that_is_slow_or_does_not_answer_is_sent_nothing_ahead() {
        let (deployment, mail) = (deployment(), Mail::default());
        let backends = backends(&deployment, 2, 1, 100);
        deployment.set_backends(Arc::clone(&backends), NOW, &mail);
        let [slow, silent] = [&backends.replicas[0], &backends.replicas[1]];
        let now = silent.pretend_quick(NOW).after(AHEAD_FRESH);
        for at in 0..u64::from(2 * PACE_SAMPLE) {
            slow.pace.answered(now.after(Duration::from_millis(2 * at)));
        }
        let now = now.after(Duration::from_millis(2 * u64::from(2 * PACE_SAMPLE)));
        let ask = |ticket| deployment.admit(&backends, 0, light(ticket), None, now, &mail);
        assert!(matches!((ask(0), ask(1)), (Admission::Granted(_), Admission::Granted(_))));
        assert!(matches!(ask(2), Admission::Queued(_)));
    }

    #[test]
    fn those_who_wait_at_a_replica_are_told_where_they_are_better_off() {
        let (deployment, mail) = (deployment(), Mail::default());
        let backends = backends(&deployment, 2, 1, 100);
        let [first, second] = [&backends.replicas[0], &backends.replicas[1]];
        let alone = Arc::new(Backends {
            replicas: vec![Arc::clone(first)],
            canary: None,
            max_ongoing: 1,
            max_queued: None,
        });
        deployment.set_backends(Arc::clone(&alone), NOW, &mail);
        let now = first.pretend_quick(NOW);
        let ask = |ticket| deployment.admit(&alone, 0, light(ticket), None, now, &mail);
        assert!(matches!(ask(0), Admission::Granted(_)));
        assert_eq!(deployment.prospects(first), Prospects::Theirs);
        assert!(matches!(ask(1), Admission::Ahead(_)));
        assert_eq!(deployment.prospects(first), Prospects::Alone);
        deployment.set_backends(Arc::clone(&backends), now, &mail);
        assert_eq!(deployment.prospects(first), Prospects::Elsewhere);
        assert!(deployment.is_uneven());
        // Whoever has been elsewhere is not to wait at a replica again.
        let moved = deployment.admit(&backends, 0, light(1), Some(first.lane), now, &mail);
        assert!(matches!(moved, Admission::Granted(lane) if lane == second.lane));
        assert_eq!(deployment.prospects(first), Prospects::Waiting);
        assert!(!deployment.is_uneven());
    }

    #[test]
    fn limits_hold_under_contention_and_nobody_is_forgotten() {
        struct Inboxes(Vec<Mutex<Vec<Grant>>>);
        impl Post for Inboxes {
            fn grant(&self, grant: Grant) {
                self.0[usize::from(grant.waiter.worker)].lock().unwrap().push(grant);
            }
        }
        const ROUNDS: u64 = 2_000;
        const LIMIT: u32 = 3;
        let deployment = deployment();
        let backends = backends(&deployment, 2, LIMIT, 1_000);
        let inboxes = Inboxes((0..4).map(|_| Mutex::default()).collect());
        deployment.set_backends(Arc::clone(&backends), NOW, &inboxes);
        let most = AtomicU32::new(0);
        let work = |worker: u16| {
            let mut served = 0;
            let use_slot = |replica: &Replica| {
                most.fetch_max(replica.in_flight(), Ordering::SeqCst);
                std::thread::yield_now();
                replica.release(NOW, &inboxes);
            };
            for ticket in 0..ROUNDS {
                match deployment.admit(
                    &backends,
                    0,
                    Waiter { worker, ticket, model: 0, light: false },
                    None,
                    NOW,
                    &inboxes,
                ) {
                    Admission::Granted(lane) | Admission::Ahead(lane) => {
                        use_slot(&backends.replicas[lane.at()]);
                        served += 1;
                    }
                    Admission::Queued(_) => {}
                    Admission::Full => panic!("the queue is long enough for all"),
                }
                while served <= ticket {
                    let grants = std::mem::take(&mut *inboxes.0[usize::from(worker)].lock().unwrap());
                    served += grants.len() as u64;
                    for grant in grants {
                        use_slot(&grant.replica);
                    }
                    std::thread::yield_now();
                }
            }
        };
        let work = &work;
        std::thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || work(worker));
            }
        });
        assert!(most.load(Ordering::SeqCst) <= LIMIT);
        assert!(backends.replicas.iter().all(|replica| replica.in_flight() == 0));
        assert_eq!(deployment.waiting(), 0);
    }
}
