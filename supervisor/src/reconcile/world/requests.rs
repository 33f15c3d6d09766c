//! Requests in the simulated machine: they enter at the proxy and go from replica to replica, each by the views that its
//! caller goes by, and remember the versions that they meet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::{DeploymentView, Generation};
use decurion_ipc::epoch::Epoch;

use super::{World, name};
use crate::reconcile::callers::ACKNOWLEDGE_MAX;
use crate::reconcile::{CallerId, Fact};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Journey {
    entered: CallerId,
    epoch: Epoch,
    /// Where it is.
    at: ReplicaId,
    /// By deployment: the version that it met there.
    met: BTreeMap<DeploymentName, BTreeSet<String>>,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Made,
    Waits,
    /// The replica that it was at is gone.
    Broken,
    /// Nobody serves it any more.
    Past,
}

type Sent = (Generation, Vec<DeploymentView>);

/// Views as callers have them, and the requests that go by them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    views: BTreeMap<(CallerId, Option<DeploymentName>), VecDeque<Sent>>,
    pub(crate) under_way: Vec<Journey>,
    /// Versions that were wanted at the same time.
    wanted: BTreeSet<BTreeMap<DeploymentName, String>>,
    pub(crate) done: usize,
}

impl Requests {
    pub(super) fn sent(
        &mut self,
        caller: CallerId,
        scope: Option<DeploymentName>,
        generation: Generation,
        views: Vec<DeploymentView>,
    ) {
        self.views.entry((caller, scope)).or_default().push_back((generation, views));
    }

    pub(super) fn applied(
        &mut self,
        caller: &CallerId,
        scope: Option<&DeploymentName>,
        generation: Generation,
    ) {
        let Some(views) = self.views.get_mut(&(caller.clone(), scope.cloned())) else { return };
        while views.get(1).is_some_and(|(next, _)| *next <= generation) {
            views.pop_front();
        }
    }

    pub(super) fn forget(&mut self, caller: &CallerId) {
        self.views.retain(|(held, _), _| held != caller);
        self.under_way.retain(|journey| journey.entered != *caller);
    }

    fn view(&self, caller: &CallerId, of: &DeploymentName) -> Option<DeploymentView> {
        let scopes = [None, Some(of.clone())];
        let found = scopes.into_iter().find_map(|scope| self.views.get(&(caller.clone(), scope)));
        found?.front()?.1.iter().find(|view| view.name == *of).cloned()
    }

    /// What a caller would say.
    fn oldest(&self, caller: &CallerId) -> Option<Epoch> {
        let views = self.views.iter().filter(|((held, _), _)| held == caller);
        let entries = views.filter_map(|(_, views)| views.front()?.1.iter().map(|view| view.entry).min());
        let own = self.under_way.iter().filter(|journey| journey.entered == *caller);
        entries.chain(own.map(|journey| journey.epoch)).min().filter(|oldest| *oldest > Epoch(0))
    }
}

impl World {
    /// Remembers what is wanted together.
    pub(super) fn note_wanted(&mut self) {
        let wanted = self.core.desired().deployments.iter();
        let versions = wanted.map(|(name, wanted)| (name.clone(), wanted.version.clone())).collect();
        self.requests.wanted.insert(versions);
    }

    pub(super) fn tell_oldest(&mut self, caller: &CallerId) {
        if let Some(epoch) = self.requests.oldest(caller) {
            let fact = Fact::Oldest { caller: caller.clone(), epoch };
            self.later(Duration::from_millis(1), fact);
        }
    }

    /// Who serves a request by this view, if somebody does.
    fn candidate(&self, view: &DeploymentView, epoch: Epoch, pick: usize) -> Option<ReplicaId> {
        let serves = |id: &&ReplicaId| self.processes.get(*id).is_some_and(|process| process.ready);
        let candidates: Vec<&ReplicaId> = view.in_rotation_at(epoch).filter(serves).collect();
        candidates.get(pick % candidates.len().max(1)).map(|id| (*id).clone())
    }

    /// A request enters; `false`: it waits.
    pub(crate) fn enter(&mut self, of: &str, pick: usize) -> bool {
        let Some(instance) = self.current_proxy() else { return false };
        let entered = CallerId::Proxy(instance);
        let Some(view) = self.requests.view(&entered, &name(of)) else { return false };
        let Some(at) = self.candidate(&view, view.entry, pick) else { return false };
        let mut journey = Journey { entered, epoch: view.entry, at, met: BTreeMap::new() };
        self.meet(&mut journey, &name(of));
        self.requests.under_way.push(journey);
        true
    }

    fn meet(&self, journey: &mut Journey, of: &DeploymentName) {
        let process = &self.processes[&journey.at];
        assert!(!process.told_to_go, "{journey:?} has come to one that was told to go");
        journey.met.entry(of.clone()).or_default().insert(process.version.clone());
    }

    /// A request goes on to another deployment.
    pub(crate) fn hop(&mut self, index: usize, to: &str, pick: usize) -> Hop {
        let mut journey = self.requests.under_way[index].clone();
        let to = name(to);
        let caller = CallerId::Replica(journey.at.clone());
        if !self.processes.contains_key(&journey.at) {
            return self.leave(index, Hop::Broken);
        }
        let Some(view) = self.requests.view(&caller, &to) else {
            self.fact(Fact::Resolve { caller, deployment: to });
            return Hop::Waits;
        };
        if view.is_past(journey.epoch) {
            return self.leave(index, Hop::Past);
        }
        if !view.knows(journey.epoch) {
            return Hop::Waits;
        }
        let Some(at) = self.candidate(&view, journey.epoch, pick) else { return Hop::Waits };
        if self.processes[&at].told_to_go && self.is_late(&caller, &to) {
            // Nobody has waited for it to hear that this one goes.
            return self.leave(index, Hop::Broken);
        }
        journey.at = at;
        self.meet(&mut journey, &to);
        self.requests.under_way[index] = journey;
        Hop::Made
    }

    /// Whether a caller has left a view unacknowledged for longer than it is waited for; a supervisor that takes over
    /// reckons anew.
    fn is_late(&self, caller: &CallerId, of: &DeploymentName) -> bool {
        let scope = Some(of.clone());
        let held = self.core.observed().callers.all.get(caller).and_then(|it| it.interests.get(&scope));
        let late =
            held.and_then(|it| it.waiting_since()).is_some_and(|since| since + ACKNOWLEDGE_MAX <= self.now);
        let behind = self.requests.views.get(&(caller.clone(), scope)).is_some_and(|views| views.len() > 1);
        late || (behind && self.lives > 0)
    }

    /// Whoever may still come to a replica is waited for, but not for ever.
    pub(super) fn check_retired(&self, replica: &ReplicaId) {
        let Some(held) = self.core.observed().replicas.get(replica) else { return };
        let Some(since) = held.over_since else { return };
        if since + self.core.observed().deployments[&held.deployment].wanted.spec.graceful_shutdown_timeout
            <= self.now
        {
            return;
        }
        let comes = |journey: &&Journey| held.span.holds(journey.epoch);
        let comes = self.requests.under_way.iter().find(comes);
        assert!(comes.is_none(), "{replica} was taken down, and may yet get {comes:?}");
    }

    fn leave(&mut self, index: usize, how: Hop) -> Hop {
        let journey = self.requests.under_way.swap_remove(index);
        self.tell_oldest(&journey.entered);
        how
    }

    /// A request is done: whatever it met was wanted together once.
    pub(crate) fn arrive(&mut self, index: usize) {
        let journey = self.requests.under_way[index].clone();
        let met: Option<BTreeMap<&DeploymentName, &String>> = journey
            .met
            .iter()
            .map(|(name, versions)| Some((name, versions.first().filter(|_| versions.len() == 1)?)))
            .collect();
        let Some(met) = met else { panic!("one deployment, two versions: {journey:?}") };
        let together = self
            .requests
            .wanted
            .iter()
            .any(|wanted| met.iter().all(|(name, version)| wanted.get(*name) == Some(*version)));
        assert!(together, "never wanted together: {journey:#?}\n{:#?}", self.requests.wanted);
        self.requests.done += 1;
        let _ = self.leave(index, Hop::Made);
    }
}
