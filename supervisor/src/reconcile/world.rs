//! A simulated machine for the reconciler's tests: it carries out orders, in its own time, and reports facts. It keeps
//! its own books of who can serve and who may still send, and checks every order against them.

pub(crate) mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use decurion_api::spec::{
    Amount, DeploymentSpec, HttpSpec, LibraryRef, ResourcesSpec, RolloutSpec, RuntimeEnvSpec, Share,
};
use decurion_api::status::{DeploymentState, DeploymentStatus, RolloutOutcome};
use decurion_api::{ApplicationName, ClassName, DeploymentName, ReplicaId};
use decurion_ipc::control::{Generation, StartFailure};
use serde_json::Value;

use crate::capacity::{Capacity, Reservation};
use crate::change::{Changer, Libraries, Proposal, Refusal, StoredLibrary, library_key};
use crate::desired::{ClassInfo, Desired};
use crate::reconcile::adopt::{AdoptedProxy, AdoptedReplica, AdoptedStage, Counts};
use crate::reconcile::order::Why;
use crate::reconcile::proxy::ProxyPhase;
use crate::reconcile::{CallerId, Core, Exit, Fact, Now, Order, ProxyInstance, PutBack, Work};

/// How replicas of one version behave.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// From spawn to ready; `None`: never.
    pub(crate) start: Option<Duration>,
    /// Refuses to be constructed, with this.
    pub(crate) refuses: Option<&'static str>,
    /// From ready to a crash.
    pub(crate) crashes_after: Option<Duration>,
    /// From drain to exit; `None`: never.
    pub(crate) drain: Option<Duration>,
    /// Refuses this `user_config`.
    pub(crate) refuses_config: Option<Value>,
    /// Answers health checks.
    pub(crate) health: Option<Result<(), &'static str>>,
    /// From a probe to its answer; `None`: hangs.
    pub(crate) lives: Option<Duration>,
    /// What it says of its requests.
    pub(crate) work: Work,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            start: Some(Duration::from_millis(10)),
            refuses: None,
            crashes_after: None,
            drain: Some(Duration::from_millis(5)),
            refuses_config: None,
            health: Some(Ok(())),
            lives: Some(Duration::from_millis(1)),
            work: Work::default(),
        }
    }
}

#[derive(Clone, Debug)]
struct Process {
    deployment: DeploymentName,
    version: String,
    ready: bool,
    told_to_go: bool,
    has: Reservation,
}

type SentView = (Generation, BTreeSet<ReplicaId>);

/// Some moment to reckon from.
#[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
pub(crate) fn moment() -> Instant {
    Instant::now()
}

/// The machine.
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Instant,
    pub(crate) behaviours: BTreeMap<String, Behaviour>,
    /// From a view's arrival at the proxy to its acknowledgement; `None`: never.
    pub(crate) proxy_answers: Option<Duration>,
    /// From a probe of the proxy to its answer; `None`: it hangs.
    pub(crate) proxy_lives: Option<Duration>,
    /// From the order to drain the proxy to its end; `None`: it has connections that do not end.
    pub(crate) proxy_drains: Option<Duration>,
    /// From a view's arrival at handles in replicas to its acknowledgement; `None`: never.
    pub(crate) handles_answer: Option<Duration>,
    /// Every order, with its time.
    pub(crate) log: Vec<(Instant, Order)>,
    queue: BTreeMap<(Instant, u64), Fact>,
    queued: u64,
    processes: BTreeMap<ReplicaId, Process>,
    used_ids: BTreeSet<ReplicaId>,
    attached: BTreeSet<(CallerId, ReplicaId)>,
    /// What each caller goes by, and the views on their way to it.
    views: BTreeMap<(CallerId, Option<DeploymentName>), VecDeque<SentView>>,
    pub(crate) requests: requests::Requests,
    spawns: BTreeMap<DeploymentName, VecDeque<Instant>>,
    changes: VecDeque<Instant>,
    start: Instant,
    /// Of the supervisor.
    lives: u32,
}

pub(crate) fn name(text: &str) -> DeploymentName {
    DeploymentName::new(text).unwrap()
}

pub(crate) fn spec(name_of: &str, version: &str, replicas: u32) -> DeploymentSpec {
    DeploymentSpec {
        name: name(name_of),
        library: LibraryRef::Digest("d".repeat(64)),
        class: None,
        route_prefix: Some(decurion_api::RoutePrefix::new(format!("/{name_of}")).unwrap()),
        num_replicas: replicas,
        autoscaling: None,
        args: Value::Null,
        graph: None,
        user_config: None,
        version: Some(version.to_owned()),
        prev_version: None,
        max_ongoing_requests: None,
        max_queued_requests: Some(1024),
        threads: 1,
        request_timeout: None,
        graceful_shutdown_timeout: Duration::from_secs(20),
        health_check_period: Duration::from_secs(10),
        health_check_timeout: Duration::from_secs(30),
        startup_timeout: Duration::from_secs(300),
        rollout: RolloutSpec::default(),
        recycle: None,
        resources: ResourcesSpec::default(),
        runtime_env: RuntimeEnvSpec::default(),
    }
}

pub(crate) fn libraries() -> Libraries {
    let class = ClassInfo {
        name: ClassName::new("Model").unwrap(),
        http: true,
        exclusive: false,
        reconfigures: true,
        checks_health: true,
        batch_max: 0,
        methods: vec!["predict".to_owned()],
        streams: Vec::new(),
        encodings: 2,
    };
    let digest = "d".repeat(64);
    let key = library_key(&LibraryRef::Digest(digest.clone()));
    Libraries::from([(key, StoredLibrary { digest, classes: vec![class] })])
}

impl World {
    pub(crate) fn new() -> Self {
        let start = moment();
        Self {
            core: Core::new(Desired { http: HttpSpec::default(), ..Desired::default() }, 0),
            now: start,
            behaviours: BTreeMap::new(),
            proxy_answers: Some(Duration::from_millis(1)),
            proxy_lives: Some(Duration::from_millis(1)),
            proxy_drains: Some(Duration::from_millis(5)),
            handles_answer: Some(Duration::from_millis(1)),
            log: Vec::new(),
            queue: BTreeMap::new(),
            queued: 0,
            processes: BTreeMap::new(),
            used_ids: BTreeSet::new(),
            attached: BTreeSet::new(),
            views: BTreeMap::new(),
            requests: requests::Requests::default(),
            spawns: BTreeMap::new(),
            changes: VecDeque::new(),
            start,
            lives: 0,
        }
    }

    /// A world on a machine that has so much.
    pub(crate) fn on(capacity: Capacity) -> Self {
        let mut world = Self::new();
        world.core.set_capacity(capacity);
        world
    }

    /// A world in which these deployments are rolled out.
    pub(crate) fn with(specs: &[DeploymentSpec]) -> Self {
        let mut world = Self::new();
        for spec in specs {
            world.deploy(spec.clone()).unwrap();
        }
        world.settle();
        world
    }

    pub(crate) fn behave(&mut self, version: &str, behaviour: Behaviour) {
        self.behaviours.insert(version.to_owned(), behaviour);
    }

    pub(crate) fn deploy(&mut self, spec: DeploymentSpec) -> Result<u64, Refusal> {
        let application = ApplicationName::new("test").unwrap();
        self.change(|changer| changer.deployment(application, spec, &libraries()))
    }

    pub(crate) fn scale(&mut self, of: &str, replicas: u32) {
        self.change(|changer| changer.configure(&name(of), |spec| spec.num_replicas = replicas)).unwrap();
    }

    pub(crate) fn reconfigure(&mut self, of: &str, config: Value) -> u64 {
        self.change(|changer| changer.configure(&name(of), |spec| spec.user_config = Some(config))).unwrap()
    }

    pub(crate) fn change(
        &mut self,
        change: impl FnOnce(Changer<'_>) -> Result<Proposal, Refusal>,
    ) -> Result<u64, Refusal> {
        let standing = |name: &DeploymentName| self.core.standing(name);
        let changer = Changer::new(self.core.desired(), None, &standing)?.on(&self.core.observed().capacity);
        let proposal = change(changer)?;
        let revision = proposal.desired.revision;
        self.core.accept(proposal.desired);
        self.changes.push_back(self.now);
        self.turn();
        Ok(revision)
    }

    pub(crate) fn status(&self, of: &str) -> DeploymentStatus {
        let of = name(of);
        self.core.deployment_statuses(self.now).into_iter().find(|status| status.name == of).unwrap()
    }

    pub(crate) fn state(&self, of: &str) -> DeploymentState {
        self.status(of).status
    }

    pub(crate) fn outcome(&self, of: &str) -> RolloutOutcome {
        self.status(of).rollout.outcome
    }

    pub(crate) fn ids(&self, of: &str) -> Vec<ReplicaId> {
        self.status(of).replicas.into_iter().map(|replica| replica.id).collect()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    /// Puts a fact into the world, at once.
    pub(crate) fn fact(&mut self, fact: Fact) {
        self.observe(&fact);
        self.core.handle(fact, Now { at: self.now, unix_ms: 0 });
        self.turn();
    }

    pub(crate) fn later(&mut self, after: Duration, fact: Fact) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), fact);
    }

    /// Every replica of a deployment that can serve is working on so many requests.
    pub(crate) fn burden(&mut self, of: &str, each: u64) {
        let serving: Vec<ReplicaId> = self
            .processes
            .iter()
            .filter(|(_, process)| process.deployment.as_str() == of && process.ready)
            .map(|(id, _)| id.clone())
            .collect();
        for replica in serving {
            let board = crate::reconcile::Board { ongoing: each, ..Default::default() };
            self.fact(Fact::Board { replica, board });
        }
    }

    /// So many requests wait in the proxy.
    pub(crate) fn waiting(&mut self, of: &str, count: u64) {
        let caller = CallerId::Proxy(self.current_proxy().expect("a proxy"));
        self.fact(Fact::Waiting { caller, deployment: name(of), count });
    }

    /// Kills a replica from outside.
    pub(crate) fn kill(&mut self, id: &ReplicaId) {
        self.fact(Fact::Exited { replica: id.clone(), exit: Exit::Signal(9), last_words: Vec::new() });
    }

    /// Goes on until nothing is under way but what only time of its own accord brings up (health checks).
    pub(crate) fn settle(&mut self) {
        self.until(|world| world.statuses_settled());
    }

    fn statuses_settled(&self) -> bool {
        self.core.deployment_statuses(self.now).iter().all(|status| {
            matches!(status.status, DeploymentState::Healthy | DeploymentState::DeployFailed)
                && status.replicas.iter().all(|r| r.state.can_serve())
        })
    }

    /// Goes on until this holds.
    pub(crate) fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        for _ in 0..20_000 {
            if holds(self) {
                return;
            }
            assert!(self.step(), "nothing is left to happen: {:#?}", self.core.deployment_statuses(self.now));
        }
        panic!("it never came to that: {:#?}", self.core.deployment_statuses(self.now));
    }

    /// Goes on for this long.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
        self.turn();
    }

    fn next_at(&self) -> Option<Instant> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        [queued, self.core.poll_timeout()].into_iter().flatten().min()
    }

    /// The next thing that happens. False: there is none.
    pub(crate) fn step(&mut self) -> bool {
        let Some(at) = self.next_at() else { return false };
        self.now = self.now.max(at);
        if let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let fact = entry.remove();
            if self.is_possible(&fact) {
                self.observe(&fact);
                self.core.handle(fact, Now { at: self.now, unix_ms: 0 });
            }
        }
        self.turn();
        true
    }

    /// Asks for orders and carries them out.
    pub(crate) fn turn(&mut self) {
        self.note_wanted();
        let orders = self.core.turn(self.now);
        assert!(self.core.poll_timeout() != Some(self.now), "a plan did not come to an end");
        // Carrying out may change what is wanted.
        let wanted = self.wanted();
        for order in &orders {
            self.check(order);
            self.carry_out(order);
            self.log.push((self.now, order.clone()));
        }
        self.check_after(&orders, &wanted);
    }

    /// How many replicas each deployment is to have, and how many of them may be down.
    fn wanted(&self) -> BTreeMap<DeploymentName, (u32, u32)> {
        let observed = self.core.observed();
        let of = |(name, wanted): (&DeploymentName, &crate::desired::Wanted)| {
            let number = observed.deployments[name].number();
            (name.clone(), (number, wanted.spec.rollout.max_unavailable.floor_of(number)))
        };
        self.core.desired().deployments.iter().map(of).collect()
    }

    pub(crate) fn processes_of(&self, of: &str) -> usize {
        self.processes.values().filter(|process| process.deployment.as_str() == of).count()
    }

    pub(crate) fn random_process(&self, pick: usize) -> Option<ReplicaId> {
        self.processes.keys().nth(pick % self.processes.len().max(1)).cloned()
    }

    pub(crate) fn current_proxy(&self) -> Option<ProxyInstance> {
        self.core.observed().proxies.current().map(|(instance, _)| instance)
    }

    /// A process that has ended reports nothing more.
    fn is_possible(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Spawned { replica, .. }
            | Fact::Ready { replica }
            | Fact::StartFailed { replica, .. }
            | Fact::Reconfigured { replica, .. }
            | Fact::Health { replica, .. }
            | Fact::Alive { replica, .. }
            | Fact::Drained { replica }
            | Fact::Exited { replica, .. } => self.processes.contains_key(replica),
            Fact::ProxyStarted { instance }
            | Fact::ProxyAlive { instance, .. }
            | Fact::ProxyExited { instance, .. } => self.core.observed().proxies.all.contains_key(instance),
            Fact::ViewApplied { caller, deployment, .. } => {
                self.views.contains_key(&(caller.clone(), deployment.clone()))
            }
            _ => true,
        }
    }

    /// Keeps the books.
    fn observe(&mut self, fact: &Fact) {
        match fact {
            Fact::Ready { replica } => {
                if let Some(process) = self.processes.get_mut(replica) {
                    process.ready = true;
                }
                let crash = self.behaviour_of(replica).crashes_after;
                if let Some(after) = crash {
                    let exit = Exit::Signal(11);
                    self.later(
                        after,
                        Fact::Exited { replica: replica.clone(), exit, last_words: Vec::new() },
                    );
                }
            }
            Fact::Exited { replica, .. } => {
                self.processes.remove(replica);
                self.views.retain(|(caller, _), _| *caller != CallerId::Replica(replica.clone()));
                self.requests.forget(&CallerId::Replica(replica.clone()));
            }
            Fact::ProxyExited { instance, .. } => {
                self.views.retain(|(caller, _), _| *caller != CallerId::Proxy(*instance));
                self.attached.retain(|(caller, _)| *caller != CallerId::Proxy(*instance));
                self.requests.forget(&CallerId::Proxy(*instance));
            }
            Fact::ViewApplied { caller, deployment, generation } => {
                if let Some(views) = self.views.get_mut(&(caller.clone(), deployment.clone())) {
                    // The one that it goes by stays, those before it are history.
                    while views.get(1).is_some_and(|(next, _)| next <= generation) {
                        views.pop_front();
                    }
                }
                self.requests.applied(caller, deployment.as_ref(), *generation);
                self.tell_oldest(caller);
            }
            _ => {}
        }
    }

    fn behaviour_of(&self, id: &ReplicaId) -> Behaviour {
        self.processes
            .get(id)
            .and_then(|process| self.behaviours.get(&process.version))
            .cloned()
            .unwrap_or_default()
    }

    fn carry_out(&mut self, order: &Order) {
        match order {
            Order::Spawn(spawn) => self.spawn(spawn),
            Order::Reconfigure { replica, sequence, user_config, .. } => {
                let config: Value = serde_json::from_str(user_config).unwrap();
                let refused = self.behaviour_of(replica).refuses_config == Some(config);
                let result = if refused { Err("not that".to_owned()) } else { Ok(()) };
                let fact = Fact::Reconfigured { replica: replica.clone(), sequence: *sequence, result };
                self.later(Duration::from_millis(3), fact);
            }
            Order::CheckHealth { replica, sequence } => {
                if let Some(result) = self.behaviour_of(replica).health {
                    let result = result.map_err(str::to_owned);
                    let fact = Fact::Health { replica: replica.clone(), sequence: *sequence, result };
                    self.later(Duration::from_millis(1), fact);
                }
            }
            Order::Probe { replica, sequence } => {
                if let Some(after) = self.behaviour_of(replica).lives {
                    self.later(
                        after,
                        Fact::Alive {
                            replica: replica.clone(),
                            sequence: *sequence,
                            work: self.behaviour_of(replica).work,
                        },
                    );
                }
            }
            Order::Drain { replica, .. } => self.drain(replica),
            Order::Kill { replica, .. } => {
                let fact =
                    Fact::Exited { replica: replica.clone(), exit: Exit::Signal(9), last_words: Vec::new() };
                self.later(Duration::from_millis(1), fact);
            }
            Order::Attach { caller, replica, .. } => {
                self.attached.insert((caller.clone(), replica.clone()));
            }
            Order::PublishRoutes { instance, view } => {
                let replicas = view.deployments.iter().flat_map(|d| d.replicas.iter().cloned()).collect();
                let caller = CallerId::Proxy(*instance);
                self.requests.sent(caller.clone(), None, view.generation, view.deployments.clone());
                self.publish(caller, None, view.generation, replicas, self.proxy_answers);
            }
            Order::PublishView { caller, deployment, generation, view, .. } => {
                let replicas = view.iter().flat_map(|view| view.replicas.iter().cloned()).collect();
                let scope = Some(deployment.clone());
                let views = view.iter().map(|view| (**view).clone()).collect();
                self.requests.sent(caller.clone(), scope.clone(), *generation, views);
                self.publish(caller.clone(), scope, *generation, replicas, self.handles_answer);
            }
            Order::SpawnProxy { instance, .. } => {
                self.later(Duration::from_millis(1), Fact::ProxySpawned { instance: *instance, pid: 1 });
                self.later(Duration::from_millis(2), Fact::ProxyStarted { instance: *instance });
            }
            Order::ProbeProxy { instance, sequence } => {
                if let Some(after) = self.proxy_lives {
                    self.later(after, Fact::ProxyAlive { instance: *instance, sequence: *sequence });
                }
            }
            Order::ConfigureProxy { instance, sequence, .. } => {
                if let Some(after) = self.proxy_answers {
                    let fact = Fact::ProxyConfigured { instance: *instance, sequence: *sequence };
                    self.later(after, fact);
                }
            }
            Order::DrainProxy { instance, .. } => {
                let fact = Fact::ProxyExited { instance: *instance, exit: Exit::Code(0) };
                if let Some(after) = self.proxy_drains {
                    self.later(after, fact);
                }
            }
            Order::KillProxy { instance } => {
                let fact = Fact::ProxyExited { instance: *instance, exit: Exit::Signal(9) };
                self.later(Duration::from_millis(1), fact);
            }
            Order::PutBack { deployment, what, why, .. } => self.put_back(deployment, *what, why),
            Order::Limit { .. }
            | Order::Retire { .. }
            | Order::RememberSets(_)
            | Order::Detach { .. }
            | Order::ListenProxy { .. }
            | Order::Finished => {}
        }
    }

    fn spawn(&mut self, spawn: &crate::reconcile::Spawn) {
        let start = &spawn.start;
        assert!(self.used_ids.insert(start.replica.clone()), "{} was used before", start.replica);
        self.processes.insert(
            start.replica.clone(),
            Process {
                deployment: start.deployment.clone(),
                version: start.version.clone(),
                ready: false,
                told_to_go: false,
                has: spawn.reservation.clone(),
            },
        );
        let replica = start.replica.clone();
        self.later(Duration::ZERO, Fact::Spawned { replica: replica.clone(), pid: 7 });
        let behaviour = self.behaviour_of(&replica);
        let config = start.user_config.as_ref().map(|text| serde_json::from_str::<Value>(text).unwrap());
        let refusal = match behaviour.refuses {
            None if config.is_some() && config == behaviour.refuses_config => Some("not that"),
            refusal => refusal,
        };
        match (behaviour.start, refusal) {
            (Some(after), Some(why)) => {
                let failure = StartFailure::Constructor(why.to_owned());
                self.later(after, Fact::StartFailed { replica: replica.clone(), failure });
                let exit = Exit::Code(1);
                self.later(after * 2, Fact::Exited { replica, exit, last_words: Vec::new() });
            }
            (Some(after), None) => self.later(after, Fact::Ready { replica }),
            (None, _) => {}
        }
    }

    fn drain(&mut self, id: &ReplicaId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.told_to_go = true;
        }
        if let Some(after) = self.behaviour_of(id).drain {
            self.later(after, Fact::Drained { replica: id.clone() });
            let exit = Exit::Code(0);
            self.later(after * 2, Fact::Exited { replica: id.clone(), exit, last_words: Vec::new() });
        }
    }

    fn publish(
        &mut self,
        caller: CallerId,
        deployment: Option<DeploymentName>,
        generation: Generation,
        replicas: BTreeSet<ReplicaId>,
        answers: Option<Duration>,
    ) {
        for replica in &replicas {
            let known = self.attached.contains(&(caller.clone(), replica.clone()));
            assert!(known, "{caller} is told of {replica} and was never joined with it");
        }
        self.views.entry((caller.clone(), deployment.clone())).or_default().push_back((generation, replicas));
        if let Some(after) = answers {
            self.later(after, Fact::ViewApplied { caller, deployment, generation });
        }
    }

    fn put_back(&mut self, of: &DeploymentName, what: PutBack, why: &str) {
        let standing = |name: &DeploymentName| self.core.standing(name);
        let changer = Changer::new(self.core.desired(), None, &standing).unwrap();
        let proposal = match what {
            PutBack::Everything => changer.put_back(of, why.to_owned()),
            PutBack::UserConfig => changer.put_config_back(of, why.to_owned()),
        };
        self.core.accept(proposal.unwrap().desired);
        self.changes.push_back(self.now);
        self.later(
            Duration::ZERO,
            Fact::Board { replica: ReplicaId::new("nudge-0").unwrap(), board: Default::default() },
        );
    }

    /// Replicas that can serve what enters now and are in the view that a proxy goes by, whatever is on its way.
    fn serving(&self, of: &DeploymentName) -> usize {
        let observed = self.core.observed();
        let is_entered = |id: &ReplicaId| observed.replicas.get(id).is_some_and(|it| observed.is_entered(it));
        self.processes
            .iter()
            .filter(|(id, process)| {
                process.deployment == *of
                    && process.ready
                    && !process.told_to_go
                    && is_entered(id)
                    && self.views.iter().any(|((caller, _), views)| {
                        matches!(caller, CallerId::Proxy(_))
                            && views.iter().all(|(_, view)| view.contains(*id))
                    })
            })
            .count()
    }

    /// What must hold of each order.
    fn check(&self, order: &Order) {
        if let Order::Spawn(spawn) = order {
            self.check_room(&spawn.reservation);
        }
        if let Order::Drain { replica, .. } = order {
            for ((caller, _), views) in &self.views {
                if matches!(caller, CallerId::Proxy(_)) {
                    let may_send = views.iter().any(|(_, view)| view.contains(replica));
                    assert!(!may_send, "{replica} is to drain, and {caller} may still send to it");
                }
            }
        }
    }

    /// Nothing is given to two, and all of them fit.
    fn check_room(&self, next: &Reservation) {
        let capacity = &self.core.observed().capacity;
        let live = || self.processes.values().map(|process| &process.has).chain([next]);
        let number = |amount: Option<Amount>| amount.unwrap_or_default().as_f64();
        // Halves and quarters: their sums are exact.
        let cpus = live().map(|has| number(has.resources.cpus)).sum::<f64>();
        assert!(capacity.cpus.is_none_or(|most| cpus <= most.as_f64()), "{cpus} of {capacity}");
        let memory = live().map(|has| has.resources.memory.unwrap_or(0)).sum::<u64>();
        assert!(capacity.memory.is_none_or(|most| memory <= most), "{memory} of {capacity}");
        let mut own = BTreeSet::new();
        assert!(live().flat_map(|has| &has.cpu_ids).all(|id| own.insert(*id)), "a CPU is given to two");
        let mut gpus: BTreeMap<&str, f64> = BTreeMap::new();
        for has in live() {
            for id in has.gpus.iter().flatten() {
                *gpus.entry(id).or_default() += number(has.resources.gpus).min(1.0);
            }
        }
        assert!(gpus.values().all(|used| *used <= 1.0), "{gpus:?}");
    }

    /// What must hold after each turn, by what was `wanted` when its orders were made.
    fn check_after(&mut self, orders: &[Order], wanted: &BTreeMap<DeploymentName, (u32, u32)>) {
        for order in orders {
            let Order::Retire { replica, why } = order else { continue };
            let least = match why {
                Why::Update | Why::Scale => 0,
                Why::Recycle(why) if !why.contains("no room for both") => 0,
                // For want of room one may always be down.
                Why::Recycle(_) | Why::Room(_) => 1,
                Why::Delete | Why::Shutdown | Why::Failed(_) => continue,
            };
            self.check_retired(replica);
            let Some(process) = self.processes.get(replica) else { continue };
            // Of a set, one that no request enters by is missed by none.
            let observed = self.core.observed();
            if observed.replicas.get(replica).is_some_and(|replica| !observed.is_entered(replica)) {
                continue;
            }
            let Some((number, down_max)) = wanted.get(&process.deployment) else { continue };
            let floor = number.saturating_sub(*down_max.max(&least));
            let serving = self.serving(&process.deployment);
            assert!(
                serving >= floor as usize,
                "{serving} serve after {replica} was taken down, at least {floor} must"
            );
        }
        for order in orders {
            if let Order::Spawn(spawn) = order {
                self.spawns.entry(spawn.start.deployment.clone()).or_default().push_back(self.now);
            }
        }
        let minute_ago = self.now.checked_sub(Duration::from_secs(60)).unwrap_or(self.start);
        self.changes.retain(|at| *at >= minute_ago);
        for (name, spawns) in &mut self.spawns {
            spawns.retain(|at| *at >= minute_ago);
            let Some(wanted) = self.core.desired().deployments.get(name) else { continue };
            let places = wanted.replicas_max().max(1) as usize;
            let bound = STARTS_A_MINUTE * 2 * places * (1 + self.changes.len());
            assert!(spawns.len() <= bound, "{} starts of {name} in a minute", spawns.len());
        }
    }
}

/// Starts of one place that only fails, in a minute: 9 until the delay is at its cap, then 6, and some for luck.
const STARTS_A_MINUTE: usize = 20;

/// A share of replicas, by count.
pub(crate) fn count(share: u32) -> Share {
    Share::Count(share)
}

impl World {
    /// The supervisor dies, and the next one adopts what lives on.
    pub(crate) fn succeed(&mut self) {
        self.lives += 1;
        let before = std::mem::replace(&mut self.core, Core::new(Desired::default(), 0));
        self.core.accept(before.desired().clone());
        let observed = before.observed();
        self.core.set_capacity(observed.capacity.clone());
        let counts = Counts {
            life: self.lives,
            replica: observed.replica_number.max(self.lives << 12),
            proxy: observed.proxies.newest,
        };
        self.core.resume(counts);
        let kept = Fact::SetsKept(Box::new(observed.sets.remembered.clone()));
        self.core.handle(kept, Now { at: self.now, unix_ms: 0 });
        let mut facts = Vec::new();
        for (id, process) in &self.processes {
            let replica = &observed.replicas[id];
            let stage = match (process.told_to_go, process.ready) {
                (true, _) => AdoptedStage::Draining(replica.leaving_why().cloned().unwrap_or(Why::Update)),
                (false, true) => AdoptedStage::Serving,
                (false, false) => AdoptedStage::Starting,
            };
            facts.push(Fact::Adopted(Box::new(AdoptedReplica {
                replica: id.clone(),
                wanted: *observed.deployments[&process.deployment].wanted.alone(),
                template: replica.template.clone(),
                version: replica.version.clone(),
                place: replica.place,
                restarts: replica.restarts,
                pid: 7,
                age: self.now.duration_since(replica.spawned_at),
                config: replica.config.clone(),
                reservation: replica.reservation.clone(),
                stage,
            })));
        }
        for (instance, proxy) in &observed.proxies.all {
            let caller = CallerId::Proxy(*instance);
            let views = self.views.get(&(caller.clone(), None));
            let draining = match proxy.phase {
                ProxyPhase::Draining(until) => Some(until.saturating_duration_since(self.now)),
                _ => None,
            };
            let current =
                views.and_then(|views| views.front()).map(|(_, view)| view.clone()).unwrap_or_default();
            let everywhere =
                |id: &ReplicaId| views.is_some_and(|views| views.iter().all(|(_, view)| view.contains(id)));
            facts.push(Fact::ProxyAdopted(Box::new(AdoptedProxy {
                instance: *instance,
                pid: 1,
                age: self.now.duration_since(proxy.spawned_at),
                settings: proxy.settings.clone(),
                listening: proxy.listening,
                draining,
                routed: current.into_iter().filter(everywhere).collect(),
                attached: self.attached_by(&caller),
                outdated: false,
            })));
        }
        for (caller, scope) in self.views.keys() {
            if let (CallerId::Replica(_), Some(deployment)) = (caller, scope) {
                let replicas = self.attached_by(caller).into_iter().collect();
                let (caller, deployment) = (caller.clone(), deployment.clone());
                facts.push(Fact::Rejoined { caller, deployment, replicas });
            }
        }
        for fact in facts {
            self.core.handle(fact, Now { at: self.now, unix_ms: 0 });
        }
        self.turn();
    }

    fn attached_by(&self, caller: &CallerId) -> BTreeSet<ReplicaId> {
        let attached = self.attached.iter().filter(|(other, _)| other == caller);
        attached.map(|(_, replica)| replica.clone()).filter(|id| self.processes.contains_key(id)).collect()
    }
}
