//! What a proxy routes by: which replicas have joined, which view is in use, and which workers go by it.
//!
//! A view waits for the joins of the replicas that it names, and is acknowledged once every worker goes by it. Who
//! joins, and how workers are told, is the machine's: see [`Crew`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::{DeploymentView, Generation, RouteView};
use decurion_ipc::epoch::Epoch;

use crate::balance::{Backends, Canary, Deployment, LaneIndex, Load, Post, Replica};
use crate::route::RouteTable;
use crate::time::Nanos;
use crate::view::{Route, View};

/// How long the first view waits for all of its replicas.
pub const FIRST_VIEW_WAIT: Duration = Duration::from_millis(250);

/// The workers, as far as they are told of replicas and views. What is told to one of them comes in order.
pub trait Crew<L, K>: Post {
    /// How many there are.
    fn count(&self) -> usize;
    /// Gives a worker its lane to a replica.
    fn attach(&self, worker: usize, replica: &Arc<Replica>, lane: L, keep: &K);
    /// Has all let go of a lane, as after a death.
    fn detach(&self, lane: LaneIndex);
    /// Has all route by a view; each says when it does: see [`Routing::applied`].
    fn route(&self, view: &Arc<View>);
}

/// Our ends of a join.
#[derive(Debug)]
pub struct Ends<L> {
    /// One for each worker.
    pub lanes: Vec<L>,
    /// What the replica says of itself.
    pub load: Box<dyn Load>,
}

/// Every worker goes by a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Which.
    pub generation: Generation,
    /// Replicas that it names and that can't be reached, with why.
    pub unreachable: Vec<(ReplicaId, String)>,
}

/// Everything that is routed by. `L` is a lane; `K` is kept for as long as a replica is known.
#[derive(Debug)]
pub struct Routing<L, K> {
    /// The workers have been sent a view.
    routed: bool,
    replicas: BTreeMap<ReplicaId, Known<L, K>>,
    deployments: BTreeMap<DeploymentName, Arc<Deployment>>,
    /// The newest view, while replicas that it names are still joining.
    pending: Option<RouteView>,
    /// When the first view is used without those that are still joining.
    partial_at: Option<Nanos>,
    /// A view that is used so, and workers that have not said so yet.
    partial: Option<(Generation, usize)>,
    /// Acknowledgements that are still to come, by generation, and whom the report will name.
    unacknowledged: BTreeMap<Generation, Applying>,
    /// Replicas of the newest view that every worker goes by.
    acknowledged: BTreeSet<ReplicaId>,
    /// By worker: the oldest epoch of its requests, as far as it is known since the last view.
    oldest: BTreeMap<usize, Epoch>,
    attempts: u64,
    lanes: Lanes,
}

/// A replica that we have been told of.
#[derive(Debug)]
struct Known<L, K> {
    state: Joining<L>,
    version: String,
    /// Tells its join from one before it.
    attempt: u64,
    keep: K,
}

#[derive(Debug)]
enum Joining<L> {
    /// Somebody is at it.
    UnderWay,
    /// Joined, and not yet in a view.
    Joined(Ends<L>),
    /// In use.
    Serving(Arc<Replica>),
    Failed(String),
}

/// A view that not every worker goes by yet.
#[derive(Debug)]
struct Applying {
    workers_left: usize,
    unreachable: Vec<(ReplicaId, String)>,
    replicas: BTreeSet<ReplicaId>,
}

/// Which lane numbers are free: one is used again when no worker refers to it any more.
#[derive(Debug, Default)]
struct Lanes {
    next: u32,
    free: Vec<LaneIndex>,
    /// Workers that have let go of a lane.
    let_go: HashMap<LaneIndex, usize>,
}

impl<L, K> Default for Routing<L, K> {
    fn default() -> Self {
        Self {
            routed: false,
            replicas: BTreeMap::new(),
            deployments: BTreeMap::new(),
            pending: None,
            partial_at: None,
            partial: None,
            unacknowledged: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            oldest: BTreeMap::new(),
            attempts: 0,
            lanes: Lanes::default(),
        }
    }
}

impl<L, K> Routing<L, K> {
    /// A replica is to be joined. The number comes back with [`joined`](Self::joined).
    #[must_use]
    pub fn attach(&mut self, replica: ReplicaId, version: String, keep: K) -> u64 {
        self.attempts += 1;
        let known = Known { state: Joining::UnderWay, version, attempt: self.attempts, keep };
        self.replicas.insert(replica, known);
        self.attempts
    }

    /// What came of a join. A view may have waited for it.
    pub fn joined(&mut self, replica: &ReplicaId, attempt: u64, result: Result<Ends<L>, String>) {
        if let Some(known) = self.replicas.get_mut(replica)
            && known.attempt == attempt
        {
            known.state = match result {
                Ok(ends) => Joining::Joined(ends),
                Err(why) => Joining::Failed(why),
            };
        }
    }

    /// Takes the newest view, which is used as soon as it can be.
    pub fn view(&mut self, view: RouteView, now: Nanos) {
        self.pending = Some(view);
        if !self.routed {
            self.partial_at.get_or_insert(now.after(FIRST_VIEW_WAIT));
        }
    }

    /// Lets go of a replica.
    pub fn detach(&mut self, replica: &ReplicaId, crew: &impl Crew<L, K>) {
        let Some(Known { state: Joining::Serving(shared), .. }) = self.replicas.remove(replica) else {
            return;
        };
        // One that has left by itself has been let go of by each worker, or will be by its death; its lane's number
        // may be another replica's by now.
        if shared.leave() {
            crew.detach(shared.lane);
        }
    }

    /// Applies the newest view, if all that it names have joined, or have failed to.
    pub fn settle(&mut self, crew: &impl Crew<L, K>, now: Nanos) {
        let joining = |replica: &ReplicaId| {
            matches!(self.replicas.get(replica), Some(Known { state: Joining::UnderWay, .. }))
        };
        let waits = |view: &RouteView| view.deployments.iter().flat_map(|d| &d.replicas).any(joining);
        if self.pending.as_ref().is_none_or(waits) {
            return;
        }
        let Some(view) = self.pending.take() else { return };
        let unreachable = self.apply(&view, crew, now);
        let is_reached = |id: &&ReplicaId| !unreachable.iter().any(|(unreached, _)| unreached == *id);
        let replicas =
            view.deployments.iter().flat_map(|it| &it.replicas).filter(is_reached).cloned().collect();
        // Words about the same view while it was not whole are not about this.
        let before = self.partial.take().filter(|(generation, _)| *generation == view.generation);
        let workers_left = crew.count() + before.map_or(0, |(_, left)| left);
        let applying = Applying { workers_left, unreachable, replicas };
        self.unacknowledged.insert(view.generation, applying);
    }

    /// When the first view has waited long enough.
    #[must_use]
    pub fn partial_at(&self) -> Option<Nanos> {
        self.partial_at
    }

    /// The first view has waited long enough: a replica that hangs must not keep all others from being served after a
    /// restart. The view stays pending, and is not acknowledged, until it is whole.
    pub fn expire(&mut self, crew: &impl Crew<L, K>, now: Nanos) {
        if self.partial_at.is_some_and(|at| at <= now) {
            self.partial_at = None;
            if let Some(view) = self.pending.clone() {
                self.apply(&view, crew, now);
                self.partial = Some((view.generation, crew.count()));
            }
        }
    }

    /// A worker goes by a view: says when it was the last one.
    #[must_use]
    pub fn applied(&mut self, generation: Generation) -> Option<Applied> {
        let Some(applying) = self.unacknowledged.get_mut(&generation) else {
            if let Some((_, left)) = self.partial.as_mut().filter(|(partial, _)| *partial == generation) {
                *left = left.saturating_sub(1);
            }
            return None;
        };
        applying.workers_left -= 1;
        if applying.workers_left > 0 {
            return None;
        }
        let Applying { unreachable, replicas, .. } = self.unacknowledged.remove(&generation)?;
        self.acknowledged = replicas;
        Some(Applied { generation, unreachable })
    }

    /// No request of a worker has entered before this epoch: what is true of all of them by that, where that is news. Said
    /// again after each view.
    #[must_use]
    pub fn oldest(&mut self, worker: usize, epoch: Epoch, workers: usize) -> Option<Epoch> {
        let all = |oldest: &BTreeMap<usize, Epoch>| {
            (oldest.len() == workers).then(|| oldest.values().min().copied()).flatten()
        };
        let before = all(&self.oldest);
        self.oldest.insert(worker, epoch);
        all(&self.oldest).filter(|oldest| before != Some(*oldest))
    }

    /// A worker refers to a dead lane no more.
    pub fn freed(&mut self, lane: LaneIndex, workers: usize) {
        self.lanes.freed(lane, workers);
    }

    /// Whether the workers have been sent a view.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.routed
    }

    /// Replicas that are joined with us.
    pub fn attached(&self) -> impl Iterator<Item = &ReplicaId> {
        let is_attached = |known: &Known<L, K>| match &known.state {
            Joining::Joined(_) => true,
            Joining::Serving(replica) => !replica.is_gone(),
            Joining::UnderWay | Joining::Failed(_) => false,
        };
        self.replicas.iter().filter(move |(_, known)| is_attached(known)).map(|(id, _)| id)
    }

    /// Replicas that are joined with us and that every worker sends new requests to, whichever of the views under way
    /// it goes by.
    pub fn routed(&self) -> impl Iterator<Item = &ReplicaId> {
        self.attached().filter(|id| {
            self.acknowledged.contains(*id)
                && self.unacknowledged.values().all(|view| view.replicas.contains(*id))
        })
    }

    /// The queues.
    pub fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.deployments.values()
    }

    /// Routes by a view, as far as its replicas have joined. Gives those that have not, with why.
    fn apply(&mut self, view: &RouteView, crew: &impl Crew<L, K>, now: Nanos) -> Vec<(ReplicaId, String)> {
        self.partial_at = None;
        let mut unreachable = Vec::new();
        let mut routes = Vec::new();
        for deployment in &view.deployments {
            let backends = self.backends(deployment, crew, &mut unreachable);
            let shared = self.deployment(&deployment.name);
            shared.set_backends(Arc::clone(&backends), now, crew);
            let Some(prefix) = &deployment.route_prefix else { continue };
            let route = Route {
                place: routes.len(),
                deployment: shared,
                backends,
                availability: deployment.availability.clone(),
                request_timeout: deployment.request_timeout,
                http: deployment.http,
            };
            routes.push((prefix.clone(), route));
        }
        self.forget_deployments(view, crew, now);
        let generation = view.generation;
        let entry = view.deployments.iter().map(|deployment| deployment.entry).max().unwrap_or_default();
        self.oldest.clear();
        crew.route(&Arc::new(View { generation, entry, routes: RouteTable::new(routes.into_iter()) }));
        self.routed = true;
        unreachable
    }

    /// The replicas of a deployment that can be used; those that are new are handed to the workers.
    fn backends(
        &mut self,
        view: &DeploymentView,
        crew: &impl Crew<L, K>,
        unreachable: &mut Vec<(ReplicaId, String)>,
    ) -> Arc<Backends> {
        let mut replicas = Vec::with_capacity(view.replicas.len());
        for id in &view.replicas {
            match self.serving(id, &view.name, crew) {
                Ok(replica) => {
                    let span = view.span(id);
                    replica.set_span(span);
                    if span.holds(view.entry) {
                        replicas.push(replica);
                    }
                }
                Err(why) => unreachable.push((id.clone(), why)),
            }
        }
        let canary = view.canary.as_ref().map(|canary| {
            // Those that are tried come last, each part in the view's order.
            replicas.sort_by_key(|replica| canary.replicas.contains(&replica.id));
            let from = replicas.iter().take_while(|replica| !canary.replicas.contains(&replica.id)).count();
            Canary::new(from, canary.weight)
        });
        let max_queued = view.max_queued_requests;
        Arc::new(Backends { replicas, canary, max_ongoing: view.max_ongoing_requests.max(1), max_queued })
    }

    fn serving(
        &mut self,
        id: &ReplicaId,
        deployment: &DeploymentName,
        crew: &impl Crew<L, K>,
    ) -> Result<Arc<Replica>, String> {
        let deployment = self.deployment(deployment);
        let known = self.replicas.get_mut(id).ok_or("it was not attached")?;
        match std::mem::replace(&mut known.state, Joining::UnderWay) {
            Joining::Joined(Ends { lanes, load }) => {
                let lane = self.lanes.take();
                let replica = Replica::new(id.clone(), lane, deployment, load);
                let replica = Arc::new(replica.of_version(known.version.clone()));
                for (worker, lane) in lanes.into_iter().enumerate() {
                    crew.attach(worker, &replica, lane, &known.keep);
                }
                known.state = Joining::Serving(Arc::clone(&replica));
                Ok(replica)
            }
            Joining::Serving(replica) => {
                known.state = Joining::Serving(Arc::clone(&replica));
                if replica.is_gone() { Err("it is gone".to_owned()) } else { Ok(replica) }
            }
            Joining::Failed(why) => {
                known.state = Joining::Failed(why.clone());
                Err(why)
            }
            Joining::UnderWay => Err("it has not joined yet".to_owned()),
        }
    }

    fn deployment(&mut self, name: &DeploymentName) -> Arc<Deployment> {
        let new = || Arc::new(Deployment::new(name.clone()));
        Arc::clone(self.deployments.entry(name.clone()).or_insert_with(new))
    }

    /// Lets go of deployments that the view does not name; who waits there is told by the workers.
    fn forget_deployments(&mut self, view: &RouteView, crew: &impl Crew<L, K>, now: Nanos) {
        self.deployments.retain(|name, deployment| {
            let named = view.deployments.iter().any(|d| d.name == *name);
            if !named {
                deployment.set_backends(Arc::default(), now, crew);
            }
            named
        });
    }
}

impl Lanes {
    fn take(&mut self) -> LaneIndex {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            LaneIndex(self.next - 1)
        })
    }

    fn freed(&mut self, lane: LaneIndex, workers: usize) {
        let count = self.let_go.entry(lane).or_default();
        *count += 1;
        if *count == workers {
            self.let_go.remove(&lane);
            self.free.push(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use decurion_api::RoutePrefix;
    use decurion_ipc::control::Availability;
    use decurion_ipc::epoch::{SetView, Span};

    use super::*;
    use crate::balance::Grant;

    #[derive(Debug)]
    struct Nothing;
    impl Load for Nothing {
        fn ongoing(&self) -> u64 {
            0
        }
    }

    /// Two workers; what they were told, in words.
    #[derive(Default)]
    struct Told(RefCell<Vec<String>>);

    impl Post for Told {
        fn grant(&self, _: Grant) {}
    }

    impl Crew<u8, ()> for Told {
        fn count(&self) -> usize {
            2
        }
        fn attach(&self, worker: usize, replica: &Arc<Replica>, lane: u8, (): &()) {
            self.0.borrow_mut().push(format!("attach {worker} {} {lane}", replica.id));
        }
        fn detach(&self, lane: LaneIndex) {
            self.0.borrow_mut().push(format!("detach {}", lane.0));
        }
        fn route(&self, view: &Arc<View>) {
            let (_, route) = view.routes.find(b"/d").expect("the view has it");
            self.0.borrow_mut().push(format!(
                "route {} {}",
                view.generation.0,
                route.backends.replicas.len()
            ));
        }
    }

    impl Told {
        fn take(&self) -> Vec<String> {
            self.0.take()
        }
    }

    const NOW: Nanos = Nanos(1_000_000);

    fn id(number: u32) -> ReplicaId {
        ReplicaId::numbered(&DeploymentName::new("d").unwrap(), number)
    }

    fn ends() -> Result<Ends<u8>, String> {
        Ok(Ends { lanes: vec![0, 1], load: Box::new(Nothing) })
    }

    fn view(generation: u64, replicas: &[u32]) -> RouteView {
        let deployment = DeploymentView {
            name: DeploymentName::new("d").unwrap(),
            route_prefix: Some(RoutePrefix::new("/d").unwrap()),
            availability: Availability::Expected,
            replicas: replicas.iter().map(|number| id(*number)).collect(),
            silent: vec![],
            canary: None,
            max_ongoing_requests: 1,
            max_queued_requests: None,
            request_timeout: None,
            http: true,
            methods: vec![],
            encodings: 0,
            entry: Epoch::default(),
            set: None,
        };
        RouteView { generation: Generation(generation), deployments: vec![deployment] }
    }

    fn serving(crew: &Told) -> Routing<u8, ()> {
        let mut routing = Routing::default();
        let attempt = routing.attach(id(1), "1".to_owned(), ());
        routing.joined(&id(1), attempt, ends());
        routing.view(view(1, &[1]), NOW);
        routing.settle(crew, NOW);
        assert_eq!(routing.applied(Generation(1)), None);
        assert!(routing.applied(Generation(1)).is_some());
        crew.take();
        routing
    }

    #[test]
    fn a_view_waits_for_joins_and_is_acknowledged_by_the_last_worker() {
        let (crew, mut routing) = (Told::default(), Routing::default());
        let attempt = routing.attach(id(1), "1".to_owned(), ());
        routing.view(view(1, &[1]), NOW);
        routing.settle(&crew, NOW);
        assert!(crew.take().is_empty() && !routing.is_routed());
        routing.joined(&id(1), attempt, ends());
        routing.settle(&crew, NOW);
        assert_eq!(crew.take(), ["attach 0 d-000001 0", "attach 1 d-000001 1", "route 1 1"]);
        assert_eq!(routing.applied(Generation(1)), None);
        assert_eq!(routing.routed().count(), 0, "one worker does not go by it yet");
        let applied = Applied { generation: Generation(1), unreachable: vec![] };
        assert_eq!(routing.applied(Generation(1)), Some(applied));
        assert!(routing.routed().eq([&id(1)]));
    }

    #[test]
    fn the_first_view_waits_so_long_and_is_not_acknowledged_before_it_is_whole() {
        let (crew, mut routing) = (Told::default(), Routing::default());
        let there = routing.attach(id(1), "1".to_owned(), ());
        let hangs = routing.attach(id(2), "1".to_owned(), ());
        routing.joined(&id(1), there, ends());
        routing.view(view(1, &[1, 2]), NOW);
        routing.settle(&crew, NOW);
        let later = routing.partial_at().unwrap();
        routing.expire(&crew, later);
        assert_eq!(crew.take(), ["attach 0 d-000001 0", "attach 1 d-000001 1", "route 1 1"]);
        assert_eq!(routing.applied(Generation(1)), None);
        routing.joined(&id(2), hangs, Err("it hangs".to_owned()));
        routing.settle(&crew, later);
        assert_eq!(crew.take(), ["route 1 1"]);
        // What the other worker still says of the part, and both of the whole.
        assert_eq!(routing.applied(Generation(1)), None);
        assert_eq!(routing.applied(Generation(1)), None);
        let unreachable = vec![(id(2), "it hangs".to_owned())];
        assert_eq!(routing.applied(Generation(1)), Some(Applied { generation: Generation(1), unreachable }));
    }

    #[test]
    fn what_a_join_before_brings_is_not_taken() {
        let crew = Told::default();
        let mut routing = Routing::default();
        let first = routing.attach(id(1), "1".to_owned(), ());
        let second = routing.attach(id(1), "1".to_owned(), ());
        routing.joined(&id(1), first, ends());
        routing.view(view(1, &[1]), NOW);
        routing.settle(&crew, NOW);
        assert!(crew.take().is_empty());
        routing.joined(&id(1), second, ends());
        routing.settle(&crew, NOW);
        assert!(routing.is_routed());
    }

    #[test]
    fn a_replica_is_routed_only_where_no_view_under_way_is_without_it() {
        let crew = Told::default();
        let mut routing = serving(&crew);
        routing.view(view(2, &[]), NOW);
        routing.settle(&crew, NOW);
        assert_eq!((routing.routed().count(), routing.attached().count()), (0, 1));
    }

    #[test]
    fn of_a_set_requests_enter_by_the_replicas_of_their_epoch_and_all_are_joined() {
        let crew = Told::default();
        let mut routing = serving(&crew);
        let attempt = routing.attach(id(2), "2".to_owned(), ());
        routing.joined(&id(2), attempt, ends());
        let span = |since, until| Span { since: Epoch(since), until: Epoch(until) };
        let mut turned = view(2, &[1, 2]);
        let deployment = &mut turned.deployments[0];
        deployment.set = Some(SetView { known: Epoch(5), spans: vec![span(0, 4), span(5, Epoch::NEVER.0)] });
        for (entry, enters) in [(4, 1), (5, 2)] {
            turned.deployments[0].entry = Epoch(entry);
            routing.view(turned.clone(), NOW);
            routing.settle(&crew, NOW);
            let of = |known: &Known<u8, ()>| match &known.state {
                Joining::Serving(replica) => replica.span().entering(Epoch(entry)).is_some(),
                _ => false,
            };
            let entered: Vec<&ReplicaId> =
                routing.replicas.iter().filter(|(_, known)| of(known)).map(|(id, _)| id).collect();
            assert!(entered.contains(&&id(enters)));
            assert!(crew.take().last().expect("it was told").ends_with(" 1"), "one of both is chosen");
            turned.generation = Generation(3);
        }
        assert_eq!(routing.attached().count(), 2);
    }

    #[test]
    fn the_oldest_epoch_is_that_of_the_worker_that_is_behind_and_told_again_with_each_view() {
        let crew = Told::default();
        let mut routing = serving(&crew);
        assert_eq!(routing.oldest(0, Epoch(5), 2), None);
        assert_eq!(routing.oldest(1, Epoch(4), 2), Some(Epoch(4)));
        assert_eq!(routing.oldest(1, Epoch(5), 2), Some(Epoch(5)));
        routing.view(view(2, &[1]), NOW);
        routing.settle(&crew, NOW);
        assert_eq!(routing.oldest(1, Epoch(5), 2), None);
        assert_eq!(routing.oldest(0, Epoch(5), 2), Some(Epoch(5)));
    }

    #[test]
    fn a_lane_s_number_is_used_again_once_all_have_let_go() {
        let crew = Told::default();
        let mut routing = serving(&crew);
        routing.detach(&id(1), &crew);
        routing.detach(&id(1), &crew);
        assert_eq!(crew.take(), ["detach 0"]);
        for (number, freed) in [(2, 1), (3, 0)] {
            let attempt = routing.attach(id(number), "1".to_owned(), ());
            routing.joined(&id(number), attempt, ends());
            routing.view(view(u64::from(number), &[number]), NOW);
            if freed == 0 {
                routing.freed(LaneIndex(0), 2);
            }
            routing.settle(&crew, NOW);
            routing.freed(LaneIndex(0), if freed == 1 { 2 } else { 9 });
        }
        routing.detach(&id(2), &crew);
        routing.detach(&id(3), &crew);
        let told = crew.take();
        assert!(told.contains(&"detach 1".to_owned()) && told.contains(&"detach 0".to_owned()), "{told:?}");
    }
}
