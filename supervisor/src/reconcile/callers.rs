//! Who sends requests to replicas, and which views they go by. From here comes the knowledge whether a replica is
//! known to everyone, and whether somebody may still send to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::Generation;
use decurion_ipc::epoch::Epoch;

use crate::reconcile::fact::CallerId;
use crate::reconcile::severed::Severed;

/// Everybody who sends requests.
#[derive(Clone, Debug, Default)]
pub struct Callers {
    /// By who they are.
    pub all: BTreeMap<CallerId, Caller>,
}

/// One of them.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Replicas that it was joined with.
    pub attached: BTreeSet<ReplicaId>,
    /// Those of them that it has cut off, or had.
    pub severed: Severed,
    /// What it was told: of one deployment each, or of all (`None`), as the proxy is.
    pub interests: BTreeMap<Option<DeploymentName>, Interest>,
    /// No request of its own that is under way has entered before this.
    pub oldest: Epoch,
}

/// What a caller was told of one deployment, or of all.
#[derive(Clone, Debug, Default)]
pub struct Interest {
    /// Of the newest view that it was sent.
    pub sent: Option<Generation>,
    /// It has acknowledged a view.
    acknowledged: bool,
    /// Of the newest view that it has acknowledged.
    applied: Generation,
    /// Replicas in the view that it goes by.
    standing: BTreeSet<ReplicaId>,
    /// Views that it has not acknowledged, oldest first; at most [`VIEWS_PENDING_MAX`].
    pending: VecDeque<(Generation, BTreeSet<ReplicaId>, Instant)>,
}

/// Views that a caller may leave unacknowledged before it is sent no newer one.
pub const VIEWS_PENDING_MAX: usize = 8;
/// After so long without an acknowledgement, nobody waits any more for a caller that is not the proxy.
pub const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(2);
/// Deployments that one caller may ask for.
pub const INTERESTS_MAX: usize = 1_000;

impl Caller {
    /// Whether it has a channel to this replica, as far as it says.
    #[must_use]
    pub fn is_joined(&self, replica: &ReplicaId) -> bool {
        self.attached.contains(replica) && !self.severed.is_apart(replica)
    }
}

impl Interest {
    /// Of a caller that goes by a view of the supervisor before us: it uses `standing`, and may yet send to all that it
    /// is joined with, until it acknowledges a view of ours.
    #[must_use]
    pub fn adopted(
        generation: Generation,
        standing: BTreeSet<ReplicaId>,
        attached: &BTreeSet<ReplicaId>,
        now: Instant,
    ) -> Self {
        let all = standing.union(attached).cloned().collect();
        let pending = [(generation, all, now)].into();
        Self { sent: None, acknowledged: true, applied: Generation::default(), standing, pending }
    }

    /// Notes that a view was sent.
    pub fn sent(&mut self, generation: Generation, replicas: BTreeSet<ReplicaId>, now: Instant) {
        self.sent = Some(generation);
        self.pending.push_back((generation, replicas, now));
    }

    /// Notes an acknowledgement: of this view and of all that came before it.
    pub fn applied(&mut self, generation: Generation) {
        while let Some((oldest, ..)) = self.pending.front()
            && *oldest <= generation
        {
            if let Some((of, replicas, _)) = self.pending.pop_front() {
                self.applied = of;
                self.standing = replicas;
                self.acknowledged = true;
            }
        }
    }

    /// Whether it can take a further view.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pending.len() < VIEWS_PENDING_MAX
    }

    /// Whether it has acknowledged at least one view, and each that it was sent.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.sent.is_some() && self.pending.is_empty()
    }

    /// Whether it has acknowledged at least one view.
    #[must_use]
    pub fn has_applied(&self) -> bool {
        self.acknowledged
    }

    /// Whether a new request of it may go to this replica.
    #[must_use]
    pub fn may_use(&self, replica: &ReplicaId) -> bool {
        self.standing.contains(replica)
            || self.pending.iter().any(|(_, replicas, _)| replicas.contains(replica))
    }

    /// Whether it is known to use this replica.
    #[must_use]
    pub fn uses(&self, replica: &ReplicaId) -> bool {
        self.standing.contains(replica)
            && self.pending.iter().all(|(_, replicas, _)| replicas.contains(replica))
    }

    /// When the oldest view without acknowledgement was sent.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        self.pending.front().map(|(_, _, since)| *since)
    }

    fn is_late(&self, now: Instant) -> bool {
        self.waiting_since().is_some_and(|since| since + ACKNOWLEDGE_MAX <= now)
    }
}

impl Callers {
    /// Whether some proxy, and every caller of the deployment, knows this replica and uses it.
    #[must_use]
    pub fn all_use(&self, replica: &ReplicaId, deployment: &DeploymentName, now: Instant) -> bool {
        let mut proxied = false;
        for (id, interest) in self.interested(deployment) {
            match id {
                CallerId::Proxy(_) => proxied |= interest.uses(replica),
                _ if !interest.uses(replica) && !interest.is_late(now) => return false,
                _ => {}
            }
        }
        proxied
    }

    /// Whether every caller of the deployment that answers goes by the newest view it was sent.
    #[must_use]
    pub fn all_settled(&self, deployment: &DeploymentName, now: Instant) -> bool {
        self.interested(deployment).all(|(id, interest)| match id {
            CallerId::Proxy(_) => true,
            _ => interest.is_settled() || interest.is_late(now),
        })
    }

    /// Whether every caller of the deployment that answers goes by this view, or a later one.
    #[must_use]
    pub fn all_have(&self, deployment: &DeploymentName, generation: Generation, now: Instant) -> bool {
        self.interested(deployment).all(|(id, interest)| match id {
            CallerId::Proxy(_) => interest.applied >= generation,
            _ => interest.applied >= generation || interest.is_late(now),
        })
    }

    /// Whether no caller that answers has a request under way that entered up to this epoch.
    #[must_use]
    pub fn all_past(&self, epoch: Epoch, now: Instant) -> bool {
        self.all.values().all(|caller| {
            caller.oldest > epoch || caller.interests.values().all(|interest| interest.is_late(now))
        })
    }

    /// Whether nobody may send this replica a new request. Otherwise: when the patience with those who may is over
    /// (`None`: it is not bounded, for a proxy is among them).
    ///
    /// # Errors
    /// The time, where somebody may.
    pub fn released(
        &self,
        replica: &ReplicaId,
        deployment: &DeploymentName,
        now: Instant,
    ) -> Result<(), Option<Instant>> {
        let mut until = Some(now);
        for (id, interest) in self.interested(deployment) {
            if !interest.may_use(replica) {
                continue;
            }
            let patience = match id {
                CallerId::Proxy(_) => None,
                // It was told by a view that waits here, or will be as soon as there is room for one.
                _ => Some(interest.waiting_since().unwrap_or(now) + ACKNOWLEDGE_MAX),
            };
            until = until.zip(patience).map(|(until, patience)| until.max(patience));
        }
        if until.is_some_and(|until| until <= now) { Ok(()) } else { Err(until) }
    }

    /// Forgets a replica as a caller and as a called one.
    pub fn forget(&mut self, replica: &ReplicaId) {
        self.all.remove(&CallerId::Replica(replica.clone()));
    }

    /// The replicas that have handles to a deployment.
    pub fn replicas_calling<'a>(
        &'a self,
        deployment: &'a DeploymentName,
    ) -> impl Iterator<Item = &'a ReplicaId> {
        self.interested(deployment).filter_map(|(id, _)| match id {
            CallerId::Replica(replica) => Some(replica),
            _ => None,
        })
    }

    fn interested<'a>(
        &'a self,
        deployment: &'a DeploymentName,
    ) -> impl Iterator<Item = (&'a CallerId, &'a Interest)> {
        self.all
            .iter()
            .flat_map(|(id, caller)| {
                caller.interests.iter().map(move |(name, interest)| (id, name, interest))
            })
            .filter(move |(_, name, _)| name.as_ref().is_none_or(|name| name == deployment))
            .map(|(id, _, interest)| (id, interest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::fact::ProxyInstance;
    use crate::reconcile::world::moment;

    fn replica(n: u32) -> ReplicaId {
        ReplicaId::new(format!("a-{n}")).unwrap()
    }

    fn set(numbers: &[u32]) -> BTreeSet<ReplicaId> {
        numbers.iter().map(|n| replica(*n)).collect()
    }

    fn with(id: CallerId, scope: Option<&DeploymentName>) -> Callers {
        let mut callers = Callers::default();
        let mut caller = Caller::default();
        caller.interests.insert(scope.cloned(), Interest::default());
        callers.all.insert(id, caller);
        callers
    }

    fn interest<'a>(
        callers: &'a mut Callers,
        id: &CallerId,
        scope: Option<&DeploymentName>,
    ) -> &'a mut Interest {
        callers.all.get_mut(id).unwrap().interests.get_mut(&scope.cloned()).unwrap()
    }

    #[test]
    fn a_replica_counts_once_the_view_with_it_is_acknowledged() {
        let (now, name) = (moment(), DeploymentName::new("a").unwrap());
        let proxy = CallerId::Proxy(ProxyInstance(1));
        let mut callers = with(proxy.clone(), None);
        interest(&mut callers, &proxy, None).sent(Generation(1), set(&[1]), now);
        assert!(!callers.all_use(&replica(1), &name, now));
        interest(&mut callers, &proxy, None).applied(Generation(1));
        assert!(callers.all_use(&replica(1), &name, now));
    }

    #[test]
    fn a_replica_is_released_once_the_view_without_it_is_acknowledged() {
        let (now, name) = (moment(), DeploymentName::new("a").unwrap());
        let proxy = CallerId::Proxy(ProxyInstance(1));
        let mut callers = with(proxy.clone(), None);
        interest(&mut callers, &proxy, None).sent(Generation(1), set(&[1, 2]), now);
        interest(&mut callers, &proxy, None).applied(Generation(1));
        interest(&mut callers, &proxy, None).sent(Generation(2), set(&[2]), now);
        assert_eq!(callers.released(&replica(1), &name, now), Err(None));
        assert!(!callers.all_use(&replica(1), &name, now));
        interest(&mut callers, &proxy, None).applied(Generation(2));
        assert_eq!(callers.released(&replica(1), &name, now), Ok(()));
        assert!(callers.all_use(&replica(2), &name, now));
    }

    #[test]
    fn nobody_waits_for_ever_for_a_caller_that_is_not_the_proxy() {
        let (now, name) = (moment(), DeploymentName::new("a").unwrap());
        let client = CallerId::Client(1);
        let mut callers = with(client.clone(), Some(&name));
        interest(&mut callers, &client, Some(&name)).sent(Generation(1), set(&[1]), now);
        let late = now + ACKNOWLEDGE_MAX;
        assert_eq!(callers.released(&replica(1), &name, now), Err(Some(late)));
        assert_eq!(callers.released(&replica(1), &name, late), Ok(()));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
        let mut interest = Interest::default();
        interest.applied(Generation(99));
        assert!(!interest.is_settled());
        interest.sent(Generation(3), set(&[1]), moment());
        interest.applied(Generation(2));
        assert!(!interest.uses(&replica(1)));
    }
}
