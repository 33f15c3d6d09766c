//! Which replicas a process with handles is joining with, and how long it goes on.
//!
//! A replica that does not answer in time holds nothing up: views become current without it. It may still be busy
//! with its start, so it is waited for again, each time longer, until it answers or nobody wants it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use decurion_api::ReplicaId;

/// How long a replica may take to answer before views do without it.
pub const JOIN_FIRST: Duration = Duration::from_secs(2);
/// The longest wait before it is asked again whether the replica is still wanted.
pub const JOIN_MAX: Duration = Duration::from_secs(16);

/// Names one order to join with a replica; the next order for the same one has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JoinKey(u64);

/// See the module. At most one for each replica.
#[derive(Debug, Default)]
pub(super) struct Joins {
    under_way: BTreeMap<ReplicaId, Join>,
    /// Those of them that views wait for.
    awaited: BTreeSet<ReplicaId>,
    last: u64,
}

#[derive(Debug)]
struct Join {
    key: JoinKey,
    patience: Duration,
    /// A view has named it.
    named: bool,
}

impl Joins {
    /// A new order takes the place of one that is under way.
    pub(super) fn begin(&mut self, replica: &ReplicaId) {
        self.last += 1;
        let join = Join { key: JoinKey(self.last), patience: JOIN_FIRST, named: false };
        self.under_way.insert(replica.clone(), join);
        self.awaited.insert(replica.clone());
    }

    /// It is joined, or is not to be.
    pub(super) fn end(&mut self, replica: &ReplicaId) {
        self.under_way.remove(replica);
        self.awaited.remove(replica);
    }

    /// What views wait for.
    pub(super) fn awaited(&self) -> &BTreeSet<ReplicaId> {
        &self.awaited
    }

    pub(super) fn key(&self, replica: &ReplicaId) -> Option<JoinKey> {
        self.under_way.get(replica).map(|join| join.key)
    }

    /// It has not answered in time: how long to wait for it again; `None`: it is not wanted any more. One that no
    /// view has named yet is joined for a view that is on its way.
    pub(super) fn unanswered(&mut self, replica: &ReplicaId, key: JoinKey, named: bool) -> Option<Duration> {
        let join = self.under_way.get_mut(replica).filter(|join| join.key == key)?;
        self.awaited.remove(replica);
        if join.named && !named {
            self.under_way.remove(replica);
            return None;
        }
        join.named |= named;
        join.patience = (join.patience * 2).min(JOIN_MAX);
        Some(join.patience)
    }
}

#[cfg(test)]
mod tests {
    use decurion_api::DeploymentName;

    use super::*;

    fn replica() -> ReplicaId {
        ReplicaId::numbered(&DeploymentName::new("model").unwrap(), 1)
    }

    fn begun() -> (Joins, JoinKey) {
        let mut joins = Joins::default();
        joins.begin(&replica());
        let key = joins.key(&replica()).unwrap();
        (joins, key)
    }

    #[test]
    fn each_wait_is_longer_up_to_a_bound_and_views_wait_for_the_first_only() {
        let (mut joins, key) = begun();
        assert!(joins.awaited().contains(&replica()));
        let seconds: Vec<u64> = (0..5)
            .map(|_| joins.unanswered(&replica(), key, true).expect("it is wanted").as_secs())
            .collect();
        assert_eq!(seconds, [4, 8, 16, 16, 16]);
        assert!(joins.awaited().is_empty());
    }

    #[test]
    fn one_that_is_not_wanted_any_more_is_given_up() {
        let (mut joins, key) = begun();
        assert!(joins.unanswered(&replica(), key, false).is_some(), "its view is on its way");
        assert!(joins.unanswered(&replica(), key, true).is_some());
        assert_eq!(joins.unanswered(&replica(), key, false), None);
        assert_eq!(joins.key(&replica()), None);
        joins.begin(&replica());
        joins.end(&replica());
        assert_eq!(joins.key(&replica()), None);
        assert!(joins.awaited().is_empty());
    }

    #[test]
    fn a_new_order_ends_the_wait_for_the_one_before_and_begins_anew() {
        let (mut joins, before) = begun();
        assert!(joins.unanswered(&replica(), before, true).is_some());
        joins.begin(&replica());
        assert_eq!(joins.unanswered(&replica(), before, true), None);
        assert!(joins.awaited().contains(&replica()), "views wait for the new one");
        let key = joins.key(&replica()).unwrap();
        assert_eq!(joins.unanswered(&replica(), key, true), Some(JOIN_FIRST * 2));
    }
}
