//! The supervisor's shell: facts go into the real core, its orders are carried out in the world's own time, and the next
//! life adopts what the one before has left. It does what `supervisor/src/sys/machine` does.

use std::collections::BTreeSet;
use std::time::Duration;

use decurion_api::ReplicaId;
use decurion_ipc::control::{CallerOrder, ProxySettings, RouteView, StartFailure};
use decurion_proxy::routing::Applied;
use decurion_proxy::stats::Level;
use decurion_proxy::time::Nanos;
use decurion_supervisor::capacity::Reservation;
use decurion_supervisor::change::Changer;
use decurion_supervisor::desired::{ConfigId, Desired, TemplateId, Wanted};
use decurion_supervisor::reconcile::canary::Answers;
use decurion_supervisor::reconcile::{
    AdoptedProxy, AdoptedReplica, AdoptedStage, Board, CallerId, Core, Counts, Exit, Fact, Now, Order,
    ProxyInstance, PutBack, Spawn, Why, Work,
};
use serde_json::Value;

use crate::planted::Planted;
use crate::proxy::{FromWorker, Mail, Proxy};
use crate::replica::{Replica, Stage};
use crate::shadow::Cut;
use crate::world::{Channel, Event, World};

/// Turns of the core between two waits, at most.
const TURNS_MAX: usize = 16;
/// Replica numbers of one life.
const NUMBERS_A_LIFE: u32 = 1 << 12;
/// After so long without an answer a replica may count as silent.
const SILENT: Duration = Duration::from_secs(2);

/// An order for a proxy's control thread.
#[derive(Debug)]
pub(crate) enum ProxyDo {
    Listen,
    Configure {
        sequence: u64,
        settings: Box<ProxySettings>,
    },
    Attach {
        replica: ReplicaId,
        version: String,
    },
    View(RouteView),
    Detach(ReplicaId),
    Drain {
        limit: Duration,
        gently: bool,
    },
    Probe(u64),
    /// The next supervisor has taken it.
    Returned,
}

/// An order for a replica.
#[derive(Debug)]
pub(crate) enum Tell {
    Limit(u32),
    Reconfigure {
        sequence: u64,
        user_config: String,
    },
    CheckHealth(u64),
    Probe(u64),
    /// For its end of handles.
    Caller(CallerOrder),
    Drain(Why),
}

/// What the next supervisor has to know of a replica.
#[derive(Clone, Debug)]
pub(crate) struct RosterEntry {
    wanted: Wanted,
    template: TemplateId,
    version: String,
    place: u32,
    restarts: u64,
    config: ConfigId,
    reservation: Reservation,
    spawned_at: Nanos,
    leaving: Option<Why>,
}

impl World {
    fn wall(&self) -> Now {
        Now { at: self.instant(), unix_ms: self.now.0 / 1_000_000 }
    }

    /// The supervisor is told facts, and then takes a turn.
    pub(crate) fn told(&mut self, facts: Vec<Fact>) {
        let wall = self.wall();
        for fact in facts {
            self.note(|| format!("the supervisor hears {}", short(&fact)));
            self.books.told(&fact, self.now);
            if let Fact::Exited { replica, .. } = &fact {
                self.roster.remove(replica);
            }
            if let Some(core) = &mut self.core {
                core.handle(fact, wall);
            }
        }
        self.turn();
    }

    /// Asks the core for orders, and carries them out, until it has none.
    pub(crate) fn turn(&mut self) {
        for _ in 0..TURNS_MAX {
            let now = self.instant();
            let Some(core) = &mut self.core else { return };
            let orders = core.turn(now);
            core.take_notes();
            if orders.is_empty() {
                return;
            }
            assert!(core.poll_timeout() != Some(now), "a plan did not come to an end: {orders:?}");
            self.books.about_to(&orders, core, self.now);
            for order in orders {
                self.note(|| format!("order: {}", shorter(&order)));
                self.check_order(&order);
                self.carry_out(order);
            }
        }
        panic!("the supervisor's orders did not come to an end");
    }

    fn check_order(&mut self, order: &Order) {
        match order {
            Order::Drain { replica, .. } => self.check_drain(replica),
            Order::Retire { replica, why: Why::Update | Why::Scale | Why::Recycle(_) } => {
                // Of a set, one that no request enters by is missed by none.
                let observed = self.core.as_ref().map(Core::observed);
                let held = observed.and_then(|it| it.replicas.get(replica).map(|held| it.is_entered(held)));
                if held == Some(false) {
                    return;
                }
                self.books.check_floor(replica, &self.proxies);
            }
            Order::PublishRoutes { instance, view } => {
                let Some(core) = &self.core else { return };
                let alive: BTreeSet<&ReplicaId> = self.replicas.keys().collect();
                self.books.check_view(view, core.desired(), &alive, (self.now, SILENT));
                self.books.published(instance.0, view);
            }
            _ => {}
        }
    }

    /// Nobody may send it anything new.
    fn check_drain(&self, replica: &ReplicaId) {
        for (number, proxy) in &self.proxies {
            assert!(
                !proxy.may_send(replica),
                "{replica} is to drain, and proxy {number} may still send to it"
            );
            let sent = self.books.view_of(*number).is_some_and(|view| view.contains(replica));
            assert!(!sent, "{replica} is to drain, and proxy {number} was last told of it");
        }
    }

    fn carry_out(&mut self, order: Order) {
        let soon = self.dice.skewed(100, 3_000);
        match order {
            Order::Spawn(spawn) => self.spawn(*spawn),
            Order::Reconfigure { replica, sequence, user_config, .. } => {
                self.tell(&replica, soon, Tell::Reconfigure { sequence, user_config });
            }
            Order::Limit { replica, limit } => self.tell(&replica, soon, Tell::Limit(limit)),
            Order::CheckHealth { replica, sequence } => {
                self.tell(&replica, soon, Tell::CheckHealth(sequence));
            }
            Order::Probe { replica, sequence } => self.tell(&replica, soon, Tell::Probe(sequence)),
            Order::Drain { replica, .. } => {
                let observed = self.core.as_ref().and_then(|core| core.observed().replicas.get(&replica));
                let why = observed.and_then(|it| it.leaving_why()).cloned().unwrap_or(Why::Update);
                if let Some(entry) = self.roster.get_mut(&replica) {
                    entry.leaving = Some(why.clone());
                }
                self.tell(&replica, soon, Tell::Drain(why));
            }
            Order::Kill { replica, .. } => self.push(soon, Event::Exit(replica, Exit::Signal(9))),
            Order::Attach { caller: CallerId::Proxy(instance), replica, .. } => {
                let observed = self.core.as_ref().and_then(|core| core.observed().replicas.get(&replica));
                let version = observed.map(|it| it.version.clone()).unwrap_or_default();
                if self.replicas.contains_key(&replica) {
                    self.order(instance, soon, ProxyDo::Attach { replica, version });
                }
            }
            Order::Detach { caller: CallerId::Proxy(instance), replica, .. } => {
                self.order(instance, soon, ProxyDo::Detach(replica));
            }
            Order::PublishRoutes { instance, view } => self.order(instance, soon, ProxyDo::View(view)),
            Order::SpawnProxy { instance, settings } => self.spawn_proxy(instance, settings),
            Order::ListenProxy { instance } => self.order(instance, soon, ProxyDo::Listen),
            Order::ConfigureProxy { instance, settings, sequence } => {
                let settings = Box::new(settings);
                self.order(instance, soon, ProxyDo::Configure { sequence, settings });
            }
            Order::ProbeProxy { instance, sequence } => self.order(instance, soon, ProxyDo::Probe(sequence)),
            Order::DrainProxy { instance, timeout } => {
                let stopping = self.core.as_ref().is_some_and(|core| core.observed().stopping.is_some());
                self.order(instance, soon, ProxyDo::Drain { limit: timeout, gently: !stopping });
            }
            Order::KillProxy { instance } => {
                self.push(soon, Event::ProxyExit(instance.0, Exit::Signal(9)));
            }
            Order::PutBack { deployment, revision, what, why } => {
                if self.desired.deployments.get(&deployment).is_none_or(|it| it.revision != revision) {
                    return;
                }
                let Some(core) = &self.core else { return };
                let standing = |name: &_| core.standing(name);
                let changer = Changer::new(&self.desired, None, &standing).expect("the present revision");
                let proposal = match what {
                    PutBack::Everything => changer.put_back(&deployment, why),
                    PutBack::UserConfig => changer.put_config_back(&deployment, why),
                };
                self.commit(proposal.expect("what was there before can be put back").desired);
            }
            Order::Finished => self.finished = true,
            Order::Attach { caller: CallerId::Replica(caller), replica, deployment } => {
                let requests = Default::default();
                let order = CallerOrder::Attach { deployment, replica, requests };
                self.tell(&caller, soon, Tell::Caller(order));
            }
            Order::Detach { caller: CallerId::Replica(caller), replica, deployment } => {
                self.tell(&caller, soon, Tell::Caller(CallerOrder::Detach { deployment, replica }));
            }
            Order::PublishView { caller: CallerId::Replica(caller), deployment, generation, view, known } => {
                let order = CallerOrder::View { generation, view, deployment, known };
                self.tell(&caller, soon, Tell::Caller(order));
            }
            Order::RememberSets(record) => self.sets = *record,
            // Other processes with handles are not of this world.
            Order::Attach { .. }
            | Order::Detach { .. }
            | Order::PublishView { .. }
            | Order::Retire { .. } => {}
        }
    }

    /// A revision is durable, and then acted on.
    pub(crate) fn commit(&mut self, desired: Desired) {
        for (name, wanted) in &desired.deployments {
            let spec = &wanted.spec;
            let timeout = spec.request_timeout.unwrap_or(desired.http.request_timeout);
            self.shadow.bounded(name, timeout, spec.max_queued_requests);
            self.books.bounded(name, wanted.max_ongoing_requests(), spec.max_queued_requests);
        }
        let versions = desired.deployments.iter().map(|(name, it)| (name.clone(), it.version.clone()));
        self.shadow.wanted(versions.collect());
        self.desired = desired.clone();
        if let Some(core) = &mut self.core {
            core.accept(desired);
        }
    }

    fn tell(&mut self, replica: &ReplicaId, after: Duration, tell: Tell) {
        let event = Event::Tell { replica: replica.clone(), tell };
        self.send(Channel::ToReplica(replica.clone()), after, event);
    }

    fn order(&mut self, instance: ProxyInstance, after: Duration, order: ProxyDo) {
        let proxy = instance.0;
        self.send(Channel::ToProxy(proxy), after, Event::Order { proxy, order });
    }

    fn spawn(&mut self, spawn: Spawn) {
        let start = spawn.start;
        let id = start.replica.clone();
        let channel = Channel::FromReplica(id.clone());
        if !self.calm && self.dice.one_in(60) {
            let why = "no process could be made".to_owned();
            return self.say(channel, Duration::ZERO, Fact::SpawnFailed { replica: id, why });
        }
        let Some(core) = &self.core else { return };
        let observed = &core.observed().replicas[&id];
        let entry = RosterEntry {
            wanted: *core.observed().deployments[&observed.deployment].wanted.alone(),
            template: observed.template.clone(),
            version: observed.version.clone(),
            place: observed.place,
            restarts: observed.restarts,
            config: observed.config.clone(),
            reservation: spawn.reservation,
            spawned_at: self.now,
            leaving: None,
        };
        self.roster.insert(id.clone(), entry);
        let temper = self.tempers.get(&start.version).cloned().unwrap_or_default();
        let limit = start.max_ongoing_requests;
        let mut replica =
            Replica::new(id.clone(), start.version.clone(), limit, start.user_config, temper.clone());
        if self.plan.sets {
            replica.callee = crate::fate::callee_of(&start.deployment);
            replica.forgets_epochs = self.plan.planted == Planted::EpochForgotten;
        }
        assert!(self.replicas.insert(id.clone(), replica).is_none(), "{id} was there already");
        self.books.spawned(&id, &start.deployment);
        self.say(channel, Duration::ZERO, Fact::Spawned { replica: id.clone(), pid: 7 });
        if temper.dies_young {
            let after = self.dice.micros(500, 50_000);
            self.push(after, Event::Exit(id, Exit::Signal(11)));
        } else if let Some(most) = temper.start_ms {
            let after = self.dice.micros(500, 500 + most * 1_000);
            self.push(after, Event::Constructed(id));
        }
    }

    pub(crate) fn constructed(&mut self, id: &ReplicaId) {
        self.note(|| format!("{id} is constructed"));
        let Some(replica) = self.replicas.get_mut(id) else { return };
        let refused = replica.temper.refuses || refuses(&replica.temper, replica.config.as_deref());
        let channel = Channel::FromReplica(id.clone());
        let after = self.dice.skewed(50, 1_000);
        if refused {
            let failure = StartFailure::Constructor("not that".to_owned());
            self.say(channel, after, Fact::StartFailed { replica: id.clone(), failure });
            let after = self.dice.micros(500, 5_000);
            return self.push(after, Event::Exit(id.clone(), Exit::Code(1)));
        }
        if replica.stage == Stage::Starting {
            replica.stage = Stage::Serving;
        }
        if let Some(after) = replica.temper.crashes_after {
            self.push(after, Event::Exit(id.clone(), Exit::Signal(11)));
        }
        self.say(channel, after, Fact::Ready { replica: id.clone() });
        self.wake_replica(id);
    }

    pub(crate) fn replica_told(&mut self, id: &ReplicaId, tell: Tell) {
        let Some(replica) = self.replicas.get_mut(id) else { return };
        let channel = Channel::FromReplica(id.clone());
        let soon = self.dice.skewed(100, 2_000);
        let (replica_id, work) = (id.clone(), Work::default());
        match tell {
            Tell::Limit(limit) => {
                replica.limit = limit;
                self.wake_replica(id);
            }
            Tell::Reconfigure { sequence, user_config } => {
                let refused = refuses(&replica.temper, Some(&user_config));
                if !refused {
                    replica.config = Some(user_config);
                }
                let result = if refused { Err("not that".to_owned()) } else { Ok(()) };
                self.say(channel, soon, Fact::Reconfigured { replica: replica_id, sequence, result });
            }
            Tell::CheckHealth(sequence) => {
                let result = if replica.temper.ill { Err("ill".to_owned()) } else { Ok(()) };
                self.say(channel, soon, Fact::Health { replica: replica_id, sequence, result });
            }
            Tell::Probe(sequence) => {
                self.say(channel, soon, Fact::Alive { replica: replica_id, sequence, work });
            }
            Tell::Caller(order) => {
                if let Some(callee) = replica.caller.handle(order) {
                    let after = self.dice.skewed(300, 10_000);
                    self.push(after, Event::Meet { caller: id.clone(), callee });
                }
                self.caller_moved(id);
            }
            Tell::Drain(why) => {
                self.note(|| format!("{id} drains"));
                if let Some(replica) = self.replicas.get_mut(id) {
                    replica.stage = Stage::Draining(why);
                }
                self.may_have_drained(id);
            }
        }
    }

    fn spawn_proxy(&mut self, instance: ProxyInstance, settings: ProxySettings) {
        let number = instance.0;
        let channel = Channel::FromProxy(number);
        let proxy = Proxy::new(number, self.plan.workers, &settings, self.plan.planted, self.now);
        self.proxies.insert(number, proxy);
        self.say(channel, Duration::ZERO, Fact::ProxySpawned { instance, pid: 1 });
        let after = self.dice.micros(200, 10_000);
        self.push(after, Event::ProxyStarts(number));
    }

    pub(crate) fn proxy_starts(&mut self, number: u32) {
        let instance = ProxyInstance(number);
        self.say(Channel::FromProxy(number), Duration::from_micros(50), Fact::ProxyStarted { instance });
    }

    pub(crate) fn proxy_ordered(&mut self, number: u32, order: ProxyDo) {
        let (now, instant) = (self.now, self.instant());
        let workers = self.plan.workers;
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        match order {
            ProxyDo::Listen => {
                (proxy.listener, proxy.listening) = (!proxy.draining, !proxy.draining);
                proxy.listen();
                self.deliver_mail(number);
                self.knock();
            }
            ProxyDo::Configure { sequence, settings } => {
                proxy.settings = (*settings).clone();
                proxy.configured = Some((sequence, workers));
                proxy.mail.post_all(|| Mail::Configure { sequence, settings: settings.clone() });
            }
            ProxyDo::Attach { replica, version } => {
                let attempt = proxy.routing.attach(replica.clone(), version, ());
                let after = match self.replicas.get(&replica) {
                    Some(held) if held.hung_until > now => Duration::from_secs(5),
                    _ => self.dice.skewed(300, 10_000),
                };
                self.push(after, Event::Join { proxy: number, replica, attempt });
            }
            ProxyDo::View(mut view) => {
                if self.plan.planted == Planted::LimitDoubled {
                    view.deployments.iter_mut().for_each(|view| view.max_ongoing_requests *= 2);
                }
                proxy.published = Some(view.generation);
                proxy.routing.view(view, now);
                self.settle_routes(number);
            }
            ProxyDo::Detach(replica) => {
                self.books.detached.insert(replica.clone());
                proxy.routing.detach(&replica, &*proxy.mail);
                self.settle_routes(number);
            }
            ProxyDo::Drain { limit, gently } => self.proxy_drains(number, limit, gently),
            ProxyDo::Probe(sequence) => {
                proxy.probe = Some((sequence, workers));
                proxy.mail.post_all(|| Mail::Probe(sequence));
            }
            ProxyDo::Returned => {
                proxy.gathered.begin_anew(instant);
                self.proxy_starts(number);
                self.plan_proxy_timer(number);
            }
        }
        self.deliver_mail(number);
    }

    fn proxy_drains(&mut self, number: u32, limit: Duration, gently: bool) {
        let now = self.now;
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        if !std::mem::replace(&mut proxy.draining, true) || !gently {
            proxy.mail.post_all(|| Mail::Drain { gently });
            (proxy.listener, proxy.listening) = (false, false);
        }
        proxy.deadline = Some(now.after(limit));
        self.plan_proxy_timer(number);
    }

    pub(crate) fn worker_said(&mut self, number: u32, what: FromWorker) {
        let (instant, workers) = (self.instant(), self.plan.workers);
        let channel = Channel::FromProxy(number);
        let soon = self.dice.skewed(100, 3_000);
        let (instance, caller) = (ProxyInstance(number), CallerId::Proxy(ProxyInstance(number)));
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        match what {
            FromWorker::Applied(generation) => {
                let Some(Applied { generation, unreachable }) = proxy.routing.applied(generation) else {
                    return;
                };
                // One message: who can't be reached counts at no moment as one that the proxy uses.
                let mut facts = vec![Fact::ViewApplied { caller, deployment: None, generation }];
                facts.extend(unreachable.into_iter().map(|(replica, why)| {
                    let how = format!("could not be reached by the proxy: {why}");
                    Fact::Lost { replica, how }
                }));
                self.say_all(channel, soon, facts);
            }
            FromWorker::Oldest(worker, epoch) => {
                if let Some(epoch) = proxy.routing.oldest(worker, epoch, workers) {
                    self.say(channel, soon, Fact::Oldest { caller, epoch });
                }
            }
            FromWorker::Fault { replica, fault } => {
                proxy.routing.detach(&replica, &*proxy.mail);
                self.say(channel, soon, Fact::Fault { replica, fault });
                self.deliver_mail(number);
            }
            FromWorker::LaneFreed(lane) => proxy.routing.freed(lane, workers),
            FromWorker::Stats(traffic) => {
                proxy.gathered.add(traffic, instant);
                self.plan_proxy_timer(number);
            }
            FromWorker::Starved => {
                proxy.gathered.hurry(instant);
                self.plan_proxy_timer(number);
            }
            FromWorker::Turned(sequence) => {
                if counted(&mut proxy.probe, sequence) {
                    self.say(channel, soon, Fact::ProxyAlive { instance, sequence });
                }
            }
            FromWorker::Configured(sequence) => {
                if counted(&mut proxy.configured, sequence) {
                    self.say(channel, soon, Fact::ProxyConfigured { instance, sequence });
                }
            }
            FromWorker::Drained => {
                proxy.drained += 1;
                if proxy.drained == workers {
                    self.proxy_ends(number, Exit::Code(0));
                }
            }
        }
    }

    pub(crate) fn proxy_timer(&mut self, number: u32) {
        let (now, instant) = (self.now, self.instant());
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        proxy.routing.expire(&*proxy.mail, now);
        proxy.listen();
        if proxy.gathered.due().is_some_and(|at| at <= instant) {
            self.send_stats(number);
        }
        self.deliver_mail(number);
        let due = self.proxies.get(&number).and_then(|proxy| proxy.deadline).is_some_and(|at| at <= now);
        if due {
            for client in &mut self.clients {
                if client.home.is_some_and(|home| home.proxy == number) {
                    client.fate.get_or_insert(Cut::DrainEnded);
                }
            }
            self.proxy_ends(number, Exit::Code(0));
        }
    }

    fn send_stats(&mut self, number: u32) {
        let instant = self.instant();
        let Some(proxy) = self.proxies.get_mut(&number) else { return };
        if self.core.is_none() {
            return proxy.gathered.postpone(instant + Duration::from_secs(1));
        }
        let levels: Vec<Level> = proxy
            .routing
            .deployments()
            .map(|deployment| Level {
                name: deployment.name.clone(),
                waiting: u32::try_from(deployment.told_waiting()).unwrap_or(u32::MAX),
                in_flight: deployment.in_flight(),
            })
            .collect();
        let reports = proxy.gathered.take(levels.into_iter(), Default::default(), instant);
        let caller = CallerId::Proxy(ProxyInstance(number));
        let mut facts = Vec::new();
        for report in reports {
            facts.extend(report.waiting.into_iter().map(|(deployment, count)| Fact::Waiting {
                caller: caller.clone(),
                deployment,
                count: u64::from(count),
            }));
            facts.extend(report.in_flight.into_iter().map(|(deployment, count)| Fact::InFlight {
                caller: caller.clone(),
                deployment,
                count: u64::from(count),
            }));
            for traffic in report.traffic.into_iter().filter(|traffic| !traffic.key.version.is_empty()) {
                let Some(deployment) = traffic.key.deployment else { continue };
                let (version, answers) = (traffic.key.version, Box::new(Answers::from(&traffic.counts)));
                facts.push(Fact::Answered { deployment, version, answers });
            }
        }
        let soon = self.dice.skewed(100, 3_000);
        for fact in facts {
            self.say(Channel::FromProxy(number), soon, fact);
        }
    }

    pub(crate) fn look_at_boards(&mut self) {
        if !self.finished {
            self.push(Duration::from_secs(1), Event::Boards);
        }
        let wall = self.wall();
        let Some(core) = &mut self.core else { return };
        for (id, replica) in self.replicas.iter().filter(|(_, replica)| replica.stage != Stage::Starting) {
            let board = Board {
                heartbeat: replica.heartbeat,
                ongoing: u64::from(replica.running()),
                processed: replica.processed,
                resident: 0,
            };
            core.handle(Fact::Board { replica: id.clone(), board }, wall);
        }
        self.turn();
    }

    /// The supervisor's process is killed.
    pub(crate) fn supervisor_dies(&mut self) {
        if self.core.take().is_none() {
            return;
        }
        self.note(|| "the supervisor dies".to_owned());
        // Claims are made once the last orders of the dead have been read.
        let after = self.all_delivered().until(self.now) + self.dice.micros(10_000, 2_000_000);
        self.push(after, Event::Adopt);
    }

    /// The next supervisor has heard of every child that comes back; those that do not are dead, or are killed.
    pub(crate) fn adopt(&mut self) {
        let adopted_at = self.now;
        self.life += 1;
        self.note(|| "the next supervisor takes over".to_owned());
        let wall = self.wall();
        let mut core = Core::new(self.desired.clone(), 0);
        let sets = self.sets.clone();
        let numbers = self.roster.keys().filter_map(|id| {
            let (_, number) = id.as_str().rsplit_once('-')?;
            u32::from_str_radix(number, 16).ok()
        });
        let counts = Counts {
            life: self.life,
            replica: numbers.fold((self.life - 1).wrapping_mul(NUMBERS_A_LIFE), u32::max),
            proxy: self.books.proxies_newest,
        };
        core.resume(counts);
        core.handle(Fact::SetsKept(Box::new(sets)), wall);
        let proxies = &self.proxies;
        self.books.begin_life(|number| proxies.contains_key(number));
        let mut facts = Vec::new();
        for (id, entry) in self.roster.clone() {
            let returns = self.replicas.get(&id).filter(|replica| replica.hung_until <= adopted_at);
            let partial = self.plan.planted == Planted::PartialAdoption && self.dice.one_in(3);
            let stage = match returns.map(|replica| &replica.stage) {
                Some(Stage::Starting) => AdoptedStage::Starting,
                Some(Stage::Serving) => AdoptedStage::Serving,
                Some(Stage::Draining(_)) => {
                    AdoptedStage::Draining(entry.leaving.clone().unwrap_or(Why::Update))
                }
                None => entry.leaving.clone().map_or(AdoptedStage::Serving, AdoptedStage::Draining),
            };
            let config = match returns {
                Some(replica) if stage != AdoptedStage::Starting => {
                    let config: Option<Value> =
                        replica.config.as_deref().and_then(|text| serde_json::from_str(text).ok());
                    ConfigId::of(config.as_ref())
                }
                _ => entry.config.clone(),
            };
            let lives = returns.is_some();
            if lives && !partial {
                self.books.adopted(&id, &entry.wanted.spec.name, &stage);
            }
            if partial && lives && stage == AdoptedStage::Serving {
                self.books.adopted(&id, &entry.wanted.spec.name, &stage);
                continue;
            }
            facts.push(Fact::Adopted(Box::new(AdoptedReplica {
                replica: id.clone(),
                wanted: entry.wanted,
                template: entry.template,
                version: entry.version,
                place: entry.place,
                restarts: entry.restarts,
                pid: 7,
                age: adopted_at.until(entry.spawned_at),
                config,
                reservation: entry.reservation,
                stage,
            })));
            if !lives {
                let fact = Fact::Exited { replica: id.clone(), exit: Exit::Unknown, last_words: Vec::new() };
                facts.push(fact);
                self.roster.remove(&id);
                self.push(Duration::from_micros(10), Event::Exit(id, Exit::Signal(9)));
            }
        }
        for (number, proxy) in &self.proxies {
            if proxy.hung_until > adopted_at {
                continue;
            }
            facts.push(Fact::ProxyAdopted(Box::new(AdoptedProxy {
                instance: ProxyInstance(*number),
                pid: 1,
                age: adopted_at.until(proxy.spawned_at),
                settings: proxy.settings.clone(),
                listening: proxy.listening,
                draining: proxy
                    .draining
                    .then(|| proxy.deadline.map_or(Duration::from_secs(20), |at| at.until(adopted_at))),
                routed: proxy.routing.routed().cloned().collect(),
                attached: proxy.routing.attached().cloned().collect(),
                outdated: false,
            })));
        }
        let hung: Vec<u32> = self
            .proxies
            .iter()
            .filter(|(_, proxy)| proxy.hung_until > adopted_at)
            .map(|(number, _)| *number)
            .collect();
        for number in hung {
            self.proxy_ends(number, Exit::Signal(9));
        }
        for fact in facts {
            core.handle(fact, wall);
        }
        self.core = Some(core);
        for number in self.proxies.keys().copied().collect::<Vec<u32>>() {
            self.order(ProxyInstance(number), Duration::from_micros(20), ProxyDo::Returned);
        }
        for id in self.replicas.keys().cloned().collect::<Vec<ReplicaId>>() {
            let Some(replica) = self.replicas.get_mut(&id) else { continue };
            // What it had to say before says it as a whole.
            let _ = replica.caller.take_reports();
            let reports = replica.caller.rejoin();
            self.caller_says(&id, reports);
        }
        self.turn();
    }
}

/// Counts a worker that has done what was asked last: whether it was the last one.
fn counted(asked: &mut Option<(u64, usize)>, sequence: u64) -> bool {
    let Some((_, left)) = asked.as_mut().filter(|(asked, _)| *asked == sequence) else { return false };
    *left -= 1;
    let last = *left == 0;
    if last {
        *asked = None;
    }
    last
}

fn refuses(temper: &crate::replica::Temper, config: Option<&str>) -> bool {
    let config = config.and_then(|text| serde_json::from_str::<u64>(text).ok());
    temper.refuses_config.is_some() && temper.refuses_config == config
}

/// For the trace.
fn short(fact: &Fact) -> String {
    if let Fact::Answered { deployment, version, answers } = fact {
        return format!("that {deployment} {version} has answered {}", answers.count);
    }
    let mut text = format!("{fact:?}");
    text.truncate(160);
    text
}

fn shorter(order: &Order) -> String {
    match order {
        Order::PublishRoutes { instance, view } => {
            let replicas: Vec<&str> = view
                .deployments
                .iter()
                .flat_map(|view| view.replicas.iter().map(ReplicaId::as_str))
                .collect();
            format!("publish {} to proxy {}: {}", view.generation.0, instance.0, replicas.join(" "))
        }
        Order::Spawn(spawn) => format!("spawn {} of version {}", spawn.start.replica, spawn.start.version),
        order => {
            let mut text = format!("{order:?}");
            text.truncate(160);
            text
        }
    }
}
