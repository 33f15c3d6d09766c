//! The world's own books of what the supervisor knows, and what must hold of each of its orders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::RouteView;
use decurion_proxy::time::Nanos;
use decurion_supervisor::desired::Desired;
use decurion_supervisor::reconcile::{AdoptedStage, Core, Fact, Order};

use crate::proxy::Proxy;
use crate::replica::{LaneKey, Replica};

/// More than its limit a replica is sent only as long as it has no more than this.
const AHEAD_TOTAL: usize = 64;

/// What the supervisor has been told of a replica, and has done with it.
#[derive(Clone, Debug)]
struct Known {
    deployment: DeploymentName,
    ready: bool,
    /// It was told, or decided, that it goes.
    goes: bool,
    /// Something is wrong with it.
    suspect: bool,
    /// A probe of it has no answer since then.
    asked: Option<Nanos>,
}

/// Limits of a deployment, the widest that it has had.
#[derive(Clone, Copy, Debug, Default)]
struct Widest {
    ongoing: u32,
    /// `None`: unbounded at some time.
    queue: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Books {
    known: BTreeMap<ReplicaId, Known>,
    deployment_of: BTreeMap<ReplicaId, DeploymentName>,
    /// By proxy: the newest view that it was sent.
    views: BTreeMap<u32, BTreeSet<ReplicaId>>,
    /// The fewest that must be available, by what was wanted when the orders were made.
    floors: BTreeMap<DeploymentName, u32>,
    widest: BTreeMap<DeploymentName, Widest>,
    drained: BTreeSet<ReplicaId>,
    /// Replicas that broke the rules of a lane, proxies say.
    pub(crate) faulted: BTreeSet<ReplicaId>,
    /// Replicas that proxies were told to let go of.
    pub(crate) detached: BTreeSet<ReplicaId>,
    /// Replicas that were ever stopped.
    pub(crate) stopped: BTreeSet<ReplicaId>,
    pub(crate) proxies_newest: u32,
    /// When time has leapt last.
    pub(crate) leapt: Nanos,
}

impl Books {
    pub(crate) fn spawned(&mut self, id: &ReplicaId, deployment: &DeploymentName) {
        self.deployment_of.insert(id.clone(), deployment.clone());
        self.know(id, deployment);
    }

    fn know(&mut self, id: &ReplicaId, deployment: &DeploymentName) -> &mut Known {
        let known =
            Known { deployment: deployment.clone(), ready: false, goes: false, suspect: false, asked: None };
        self.known.entry(id.clone()).insert_entry(known).into_mut()
    }

    /// Another supervisor knows only what it is told.
    pub(crate) fn begin_life(&mut self, lives: impl Fn(&u32) -> bool) {
        self.known.clear();
        self.views.retain(|number, _| lives(number));
    }

    pub(crate) fn adopted(&mut self, id: &ReplicaId, deployment: &DeploymentName, stage: &AdoptedStage) {
        let known = self.know(id, deployment);
        known.ready = *stage == AdoptedStage::Serving;
        known.goes = matches!(stage, AdoptedStage::Draining(_));
    }

    pub(crate) fn has_drained(&self, id: &ReplicaId) -> bool {
        self.drained.contains(id)
    }

    pub(crate) fn drained(&mut self, id: &ReplicaId) {
        self.drained.insert(id.clone());
    }

    pub(crate) fn deployment_of(&self, id: &ReplicaId) -> &DeploymentName {
        &self.deployment_of[id]
    }

    /// A deployment may have these limits from now on.
    pub(crate) fn bounded(&mut self, of: &DeploymentName, ongoing: u32, queue: Option<u32>) {
        match self.widest.get_mut(of) {
            Some(widest) => {
                widest.ongoing = widest.ongoing.max(ongoing);
                widest.queue = widest.queue.zip(queue).map(|(a, b)| a.max(b));
            }
            None => {
                self.widest.insert(of.clone(), Widest { ongoing, queue });
            }
        }
    }

    /// `None`: it has no bound.
    pub(crate) fn queue_max(&self, of: &DeploymentName) -> Option<usize> {
        self.widest.get(of).and_then(|widest| widest.queue).map(|queue| queue as usize)
    }

    /// The supervisor is about to hear this.
    pub(crate) fn told(&mut self, fact: &Fact, _now: Nanos) {
        match fact {
            Fact::Exited { replica, .. } | Fact::SpawnFailed { replica, .. } => {
                self.known.remove(replica);
            }
            Fact::ProxyExited { instance, .. } => {
                self.views.remove(&instance.0);
            }
            Fact::Ready { replica } => self.with(replica, |known| known.ready = true),
            Fact::StartFailed { replica, .. } | Fact::Drained { replica } => {
                self.with(replica, |known| known.goes = true);
            }
            Fact::Fault { replica, .. } | Fact::Lost { replica, .. } | Fact::Deaf { replica } => {
                self.with(replica, |known| known.suspect = true);
            }
            Fact::Alive { replica, .. } => self.with(replica, |known| known.asked = None),
            _ => {}
        }
    }

    fn with(&mut self, id: &ReplicaId, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.known.get_mut(id) {
            change(known);
        }
    }

    /// The supervisor gives these orders.
    pub(crate) fn about_to(&mut self, orders: &[Order], core: &Core, now: Nanos) {
        for order in orders {
            match order {
                Order::Retire { replica, .. }
                | Order::Kill { replica, .. }
                | Order::Drain { replica, .. } => {
                    self.with(replica, |known| known.goes = true);
                }
                Order::Probe { replica, .. } => self.with(replica, |known| known.asked = Some(now)),
                Order::SpawnProxy { instance, .. } => {
                    self.proxies_newest = self.proxies_newest.max(instance.0);
                }
                _ => {}
            }
        }
        self.floors.clear();
        for (name, wanted) in &core.desired().deployments {
            let number = core.observed().deployments[name].number();
            let floor = number - wanted.spec.rollout.max_unavailable.floor_of(number);
            self.floors.insert(name.clone(), floor);
        }
    }

    pub(crate) fn published(&mut self, proxy: u32, view: &RouteView) {
        let replicas = view.deployments.iter().flat_map(|view| view.replicas.iter().cloned()).collect();
        self.views.insert(proxy, replicas);
    }

    pub(crate) fn view_of(&self, proxy: u32) -> Option<&BTreeSet<ReplicaId>> {
        self.views.get(&proxy)
    }

    /// Design invariant 1: with this one gone, and all that were taken down with it, enough are left, as far as the
    /// supervisor can know.
    pub(crate) fn check_floor(&self, replica: &ReplicaId, proxies: &BTreeMap<u32, Proxy>) {
        let Some(name) = self.deployment_of.get(replica) else { return };
        let Some(floor) = self.floors.get(name) else { return };
        let is_used = |id: &ReplicaId| {
            self.views.iter().any(|(number, view)| {
                let goes_by = |proxy: &Proxy| proxy.workers.iter().all(|worker| worker.goes_by(id));
                // A death that it was not told of is not its mistake.
                view.contains(id) && proxies.get(number).is_none_or(goes_by)
            })
        };
        let available = |(id, known): &(&ReplicaId, &Known)| {
            known.deployment == *name && known.ready && !known.goes && !known.suspect && is_used(id)
        };
        let left = self.known.iter().filter(available).count();
        assert!(
            left >= *floor as usize,
            "{left} serve after {replica} was taken down, at least {floor} must"
        );
    }

    /// Design invariant 5, and what a recovery must not do: no view leaves out a replica that serves, nor a deployment
    /// that is wanted.
    pub(crate) fn check_view(
        &self,
        view: &RouteView,
        desired: &Desired,
        alive: &BTreeSet<&ReplicaId>,
        (now, silent): (Nanos, Duration),
    ) {
        for name in desired.deployments.keys() {
            assert!(
                view.deployments.iter().any(|it| it.name == *name),
                "a view was published without {name}"
            );
        }
        let answers = |known: &Known| known.asked.is_none_or(|asked| asked.after(silent) > now);
        let serves = |(id, known): &(&ReplicaId, &Known)| {
            let well = !known.suspect && !self.stopped.contains(*id) && answers(known);
            well && known.ready && !known.goes && alive.contains(id)
        };
        for (id, known) in self.known.iter().filter(serves) {
            if desired.deployments.contains_key(&known.deployment) {
                let named = view.deployments.iter().any(|it| it.replicas.contains(id));
                assert!(named, "a view was published without {id}, which serves");
            }
        }
    }

    /// A proxy sends a replica no more than it may run at once, but for a little that waits there for a quick one.
    pub(crate) fn check_arrived(&self, replica: &Replica, slow: bool) {
        let Some(name) = self.deployment_of.get(&replica.id) else { return };
        let ongoing = self.widest.get(name).map_or(0, |widest| widest.ongoing as usize);
        let most = if slow { ongoing } else { ongoing.max(AHEAD_TOTAL) };
        for lane in replica.lanes.keys() {
            let LaneKey::Worker(proxy, _) = lane else { continue };
            let (id, here) = (&replica.id, replica.of_proxy(*proxy));
            assert!(here <= most, "proxy {proxy} has {here} requests with {id}, and may have {most}");
        }
    }

    /// A lane comes to its end with its replica, or because one of the two broke the rules.
    pub(crate) fn check_lost(&self, replica: &ReplicaId, lives: bool) {
        let known = self.faulted.contains(replica) || self.detached.contains(replica);
        assert!(!lives || known, "a proxy has let go of {replica}, which lives");
    }
}
