//! One replica, as all workers share it: its slots, and how quickly it answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use decurion_api::ReplicaId;
use decurion_ipc::epoch::{Epoch, Span};

use super::{Deployment, Post};
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

    /// Requests that it says it is working on, whoever sent them.
    pub(super) fn ongoing(&self) -> u64 {
        self.load.ongoing()
    }

    /// Whether it says that it holds a model.
    pub(super) fn holds_model(&self, model: u64) -> bool {
        self.load.holds_model(model)
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
    pub(crate) fn pretend_quick(&self, now: Nanos) -> Nanos {
        self.pretend_paced(now, Duration::from_micros(20))
    }

    /// Makes it one that has answered often, with this time between two answers. Until when that took.
    #[cfg(test)]
    pub(super) fn pretend_paced(&self, mut now: Nanos, between: Duration) -> Nanos {
        for _ in 0..3 * PACE_SAMPLE {
            now = now.after(between);
            self.pace.answered(now);
        }
        now
    }

    /// How many requests may be with it, those included that it may not run yet.
    pub(super) fn room(&self, max_ongoing: u32, now: Nanos) -> u32 {
        max_ongoing + self.pace.ahead(now).min(AHEAD_TOTAL.saturating_sub(max_ongoing))
    }

    /// Reserves a slot where it has as many requests as it was chosen for, and not one more or less.
    pub(super) fn reserve_after(&self, had: u32) -> bool {
        self.in_flight.compare_exchange(had, had + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub(super) fn reserve(&self, max: u32) -> bool {
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now < max).then_some(now + 1))
            .is_ok()
    }
}
