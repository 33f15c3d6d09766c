//! What a worker has counted since it was last asked: one entry for each deployment and version, plain numbers of
//! its own. Knows no clock and no channel; who holds an entry keeps it, so that there are never more than routes,
//! lanes and requests under way.

use std::collections::HashMap;

use decurion_api::DeploymentName;
use decurion_ipc::stats::{Counts, Traffic, TrafficKey};

/// Place of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TallyIndex(u32);

/// Of requests that were routed nowhere. Nobody has to hold it.
pub(super) const UNROUTED: TallyIndex = TallyIndex(0);

/// All entries of one worker.
#[derive(Debug)]
pub(super) struct Tallies {
    all: Vec<Option<Tally>>,
    free: Vec<TallyIndex>,
    by_key: HashMap<TrafficKey, TallyIndex>,
}

/// One entry.
#[derive(Debug, Default)]
pub(super) struct Tally {
    key: TrafficKey,
    /// Routes, lanes and requests that refer to it.
    holders: u32,
    /// Since they were last taken.
    pub(super) counts: Counts,
}

impl Default for Tallies {
    fn default() -> Self {
        Self { all: vec![Some(Tally::default())], free: Vec::new(), by_key: HashMap::new() }
    }
}

impl Tallies {
    /// The entry of a deployment and version, made where there is none; the caller holds it from now on.
    pub(super) fn hold_key(&mut self, deployment: &DeploymentName, version: &str) -> TallyIndex {
        let key = TrafficKey { deployment: Some(deployment.clone()), version: version.to_owned() };
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None => {
                let new = Some(Tally { key: key.clone(), ..Tally::default() });
                let index = self.free.pop().unwrap_or_else(|| {
                    self.all.push(None);
                    TallyIndex(u32::try_from(self.all.len() - 1).expect("fewer entries than 2^32"))
                });
                self.all[index.0 as usize] = new;
                self.by_key.insert(key, index);
                index
            }
        };
        self.hold(index);
        index
    }

    /// One holder more.
    pub(super) fn hold(&mut self, index: TallyIndex) {
        if let Some(tally) = self.at(index) {
            tally.holders += 1;
        }
    }

    /// One holder less. The entry stays until its counts are taken.
    pub(super) fn release(&mut self, index: TallyIndex) {
        if let Some(tally) = self.at(index) {
            tally.holders = tally.holders.saturating_sub(1);
        }
    }

    /// An entry that somebody holds.
    pub(super) fn at(&mut self, index: TallyIndex) -> Option<&mut Tally> {
        self.all.get_mut(index.0 as usize)?.as_mut()
    }

    /// The deployment of an entry.
    pub(super) fn deployment(&self, index: TallyIndex) -> Option<&DeploymentName> {
        self.all.get(index.0 as usize)?.as_ref()?.key.deployment.as_ref()
    }

    /// Takes everything that was counted, and forgets entries that nobody holds.
    pub(super) fn take(&mut self) -> Vec<Traffic> {
        let mut taken = Vec::new();
        for (at, place) in self.all.iter_mut().enumerate() {
            let Some(tally) = place else { continue };
            if !tally.counts.is_empty() {
                taken.push(Traffic { key: tally.key.clone(), counts: std::mem::take(&mut tally.counts) });
            }
            if tally.holders == 0 && at != UNROUTED.0 as usize {
                self.by_key.remove(&tally.key);
                *place = None;
                self.free.push(TallyIndex(u32::try_from(at).expect("an index that was given")));
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> DeploymentName {
        DeploymentName::new(name).unwrap()
    }

    #[test]
    fn an_entry_lives_while_it_is_held_or_has_counts() {
        let mut tallies = Tallies::default();
        let first = tallies.hold_key(&name("a"), "1");
        assert_eq!(tallies.hold_key(&name("a"), "1"), first);
        let other = tallies.hold_key(&name("a"), "2");
        assert_ne!(first, other);
        tallies.release(first);
        tallies.at(first).unwrap().counts.count_status(200);
        tallies.release(first);
        let taken = tallies.take();
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].key.version.as_str(), taken[0].counts.requests()), ("1", 1));
        assert!(tallies.at(first).is_none());
        assert_eq!(tallies.hold_key(&name("b"), ""), first, "its place is used again");
        assert_eq!(tallies.deployment(other), Some(&name("a")));
        assert_eq!(tallies.take(), []);
    }

    #[test]
    fn what_was_routed_nowhere_is_always_counted() {
        let mut tallies = Tallies::default();
        tallies.release(UNROUTED);
        assert_eq!(tallies.take(), []);
        tallies.at(UNROUTED).unwrap().counts.count_status(404);
        assert_eq!(tallies.take()[0].key, TrafficKey::default());
    }
}
