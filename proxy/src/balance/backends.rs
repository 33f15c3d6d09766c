//! Which of a deployment's replicas a request goes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use decurion_ipc::control::CanaryView;

use super::{LaneIndex, Replica};
use crate::time::Nanos;

/// How often the least loaded is looked for anew where another worker's choice came between: two that choose at the
/// same instant go to different replicas.
const CHOICES_MAX: usize = 4;

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
    pub(super) fn reserve_ahead(&self, turn: usize, now: Nanos) -> Option<&Arc<Replica>> {
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
    pub(super) fn ahead(&self) -> usize {
        let beyond = self.replicas.iter().map(|it| it.in_flight().saturating_sub(self.max_ongoing));
        beyond.fold(0, |sum, beyond| sum + beyond as usize)
    }

    pub(super) fn has_room(&self) -> bool {
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
            if model != 0 && !replica.holds_model(model) {
                continue;
            }
            // What it says itself may be old: it has answered, and has not counted that yet. Ours is not.
            let weight = (u64::from(had).max(replica.ongoing()), had);
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
