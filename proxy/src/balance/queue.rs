//! Who waits for a replica of a deployment, and who is next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decurion_api::DeploymentName;

use super::{Backends, LaneIndex, Replica};
use crate::time::Nanos;

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
    pub(super) fn wake(&self, now: Nanos, post: &dyn Post) {
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
