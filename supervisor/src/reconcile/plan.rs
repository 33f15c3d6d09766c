//! The plan of one turn: what to do next, given what is wanted and what is observed; and what is held back, and why.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::{Generation, ReplicaStart};

use crate::desired::{Desired, Wanted};
use crate::reconcile::backoff::GOOD_LIFE;
use crate::reconcile::callers::{ACKNOWLEDGE_MAX, Caller};
use crate::reconcile::deployment::{Deployment, Outcome};
use crate::reconcile::fact::{CallerId, ProxyInstance};
use crate::reconcile::observed::{Observed, Stopping};
use crate::reconcile::order::{Order, PutBack, Spawn, Why};
use crate::reconcile::proxy::{PROXY_ANSWER_MAX, PROXY_START_MAX, ProxyPhase};
use crate::reconcile::replica::{LEAVING_MAX, LOST_MAX, Phase, Replica};
use crate::reconcile::takedown::{Standing, TakeDown, Verdict};

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub orders: Vec<Order>,
    /// When there may be more to do, if nothing happens before.
    pub wake: Option<Instant>,
}

/// Why more was not done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps held back.
    pub held: Vec<Held>,
}

/// A step held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of which deployment.
    pub deployment: DeploymentName,
    /// About which replica, if one.
    pub replica: Option<ReplicaId>,
    /// One sentence.
    pub reason: String,
}

/// What is to be done now, to bring what is observed nearer to what is wanted. The same input has the same plan, and
/// an empty one once nothing is left to do before `wake`.
#[must_use]
pub fn plan(desired: &Desired, observed: &Observed, now: Instant) -> (Plan, Report) {
    let mut planner = Planner {
        desired,
        observed,
        now,
        plan: Plan::default(),
        report: Report::default(),
        doomed: BTreeSet::new(),
        spawns: 0,
    };
    planner.condemned();
    match observed.stopping {
        Some(stopping) => planner.stop(stopping),
        None => {
            for (name, wanted) in &desired.deployments {
                if let Some(deployment) = observed.deployments.get(name) {
                    planner.deployment(wanted, deployment);
                }
            }
            planner.unwanted(|deployment| deployment.deleted, &Why::Delete);
            planner.proxy();
        }
    }
    planner.leaving();
    // Views follow once the life of the replicas is settled for this turn, so that no half-way view is sent.
    if planner.plan.orders.is_empty() {
        planner.views();
    }
    (planner.plan, planner.report)
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    now: Instant,
    plan: Plan,
    report: Report,
    /// Replicas that this plan already takes away.
    doomed: BTreeSet<ReplicaId>,
    /// Replicas that this plan starts.
    spawns: u32,
}

impl<'a> Planner<'a> {
    fn order(&mut self, order: Order) {
        self.plan.orders.push(order);
    }

    /// Whether a time has come; if not, the plan is made again then.
    fn due(&mut self, at: Instant) -> bool {
        if at <= self.now {
            return true;
        }
        self.plan.wake = Some(self.plan.wake.map_or(at, |wake| wake.min(at)));
        false
    }

    fn hold(&mut self, deployment: &DeploymentName, replica: Option<&ReplicaId>, reason: String) {
        self.report.held.push(Held { deployment: deployment.clone(), replica: replica.cloned(), reason });
    }

    fn take_away(&mut self, replica: &Replica, why: Why) {
        self.doomed.insert(replica.id.clone());
        let id = replica.id.clone();
        // What does not serve has nothing to finish.
        self.order(if replica.is_serving() {
            Order::Retire { replica: id, why }
        } else {
            Order::Kill { replica: id, why }
        });
    }

    /// Active replicas of a deployment that this plan leaves alone.
    fn active(&self, name: &'a DeploymentName) -> Vec<&'a Replica> {
        self.observed.replicas_of(name).filter(|r| r.is_active() && !self.doomed.contains(&r.id)).collect()
    }

    /// Replicas that a fact has doomed.
    fn condemned(&mut self) {
        for replica in self.observed.replicas.values().filter(|replica| replica.is_active()) {
            let (how, at_once) = match (&replica.condemned, &replica.lost) {
                (Some(condemned), _) => (condemned.how.clone(), condemned.at_once),
                (None, Some((since, how))) if self.due(*since + LOST_MAX) => (how.clone(), true),
                (None, _) => continue,
            };
            let (id, why) = (replica.id.clone(), Why::Failed(how));
            self.doomed.insert(id.clone());
            self.order(match at_once {
                false if replica.is_serving() => Order::Retire { replica: id, why },
                _ => Order::Kill { replica: id, why },
            });
        }
    }

    fn deployment(&mut self, wanted: &'a Wanted, deployment: &'a Deployment) {
        self.put_back(wanted, deployment);
        self.slow_starts(wanted);
        self.roll(wanted, deployment);
        if !deployment.is_halted() {
            self.reconfigure(wanted, deployment);
        }
        self.look_after(wanted, deployment);
    }

    fn put_back(&mut self, wanted: &Wanted, deployment: &Deployment) {
        let found = match (&deployment.rollout.outcome, &deployment.config_refused) {
            (Outcome::Failed(why), _) if wanted.spec.rollout.auto_rollback && wanted.before.is_some() => {
                Some((PutBack::Everything, why))
            }
            (_, Some((config, why))) if *config == wanted.config => Some((PutBack::UserConfig, why)),
            _ => None,
        };
        let Some((what, why)) = found else { return };
        if deployment.put_back_at.is_none_or(|at| self.due(at)) {
            let (name, revision, why) = (wanted.spec.name.clone(), wanted.revision, why.clone());
            self.order(Order::PutBack { deployment: name, revision, what, why });
        }
    }

    fn slow_starts(&mut self, wanted: &'a Wanted) {
        let timeout = wanted.spec.startup_timeout;
        for replica in self.active(&wanted.spec.name) {
            let (since, what) = match &replica.phase {
                Phase::Starting => (replica.spawned_at, "was not ready"),
                Phase::Serving { taking: Some(taking), .. } => {
                    (taking.since, "did not return from reconfigure")
                }
                _ => continue,
            };
            if self.due(since + timeout) {
                let how = format!("{what} within {} s (startup_timeout_s)", timeout.as_secs_f64());
                self.doomed.insert(replica.id.clone());
                self.order(Order::Kill { replica: replica.id.clone(), why: Why::Failed(how) });
            }
        }
    }

    /// Brings number and template of a deployment's replicas to what is wanted, by starting some and retiring some.
    fn roll(&mut self, wanted: &'a Wanted, deployment: &'a Deployment) {
        let name = &wanted.spec.name;
        let number = wanted.spec.num_replicas;
        let fallback = deployment.fallback();
        let halted = deployment.is_halted();
        // Where the update has stopped, whatever serves may stay.
        let is_kept = |replica: &Replica| {
            (replica.template == wanted.template && (!halted || replica.is_serving()))
                || fallback.is_some_and(|form| form.template == replica.template)
        };
        let (kept, old): (Vec<&Replica>, Vec<&Replica>) =
            self.active(name).into_iter().partition(|r| is_kept(r));
        let (down_max, surge) = limits(wanted);
        let available = |replica: &Replica| self.observed.is_available(replica, self.now);
        let count = to_number(kept.iter().chain(&old).filter(|r| available(r)).count());
        // Until one of the new template serves, the surge alone is used: a bad version costs nothing then.
        let proven = kept.iter().any(|replica| available(replica));
        let down_max = if proven || surge == 0 || old.is_empty() { down_max } else { 0 };

        let standing: Vec<(Standing, &Replica)> =
            victims(&kept, &old, number).into_iter().map(|r| (standing_of(r, available(r)), r)).collect();
        let why = if old.is_empty() { Why::Scale } else { Why::Update };
        let mut takedown = TakeDown::new(number, count, down_max);
        let mut active = to_number(kept.len() + old.len());
        let mut kept_left = to_number(kept.len());
        for (standing, replica) in standing {
            match takedown.ask(standing) {
                Verdict::Granted => {
                    active -= 1;
                    kept_left -= u32::from(is_kept(replica));
                    let why = if is_kept(replica) { Why::Scale } else { why.clone() };
                    self.take_away(replica, why);
                }
                Verdict::Held { available, floor } => {
                    let reason = format!("{available} replicas are available, and at least {floor} must be");
                    self.hold(name, Some(&replica.id), reason);
                }
            }
        }

        let Some(form) = (if halted { fallback } else { Some(wanted) }) else { return };
        let room = (number + if old.is_empty() { 0 } else { surge }).saturating_sub(active);
        let missing = number.saturating_sub(kept_left);
        self.start(form, number, deployment, room.min(missing));
    }

    /// Starts up to `count` replicas in free places.
    fn start(&mut self, form: &'a Wanted, number: u32, deployment: &'a Deployment, count: u32) {
        let name = &form.spec.name;
        let taken: BTreeSet<u32> = self
            .active(name)
            .iter()
            .filter(|replica| replica.template == form.template)
            .map(|replica| replica.place)
            .collect();
        let mut started = 0;
        for place in (0..number).filter(|place| !taken.contains(place)) {
            if started == count {
                return;
            }
            if let Some(at) = deployment.start_at(place, &form.template)
                && !self.due(at)
            {
                let how = deployment.rollout.last_failure.as_deref().unwrap_or("failed");
                self.hold(
                    name,
                    None,
                    format!("place {place} waits before its next start; the last replica {how}"),
                );
                // A replica that waits for its place is on its way: it takes the room that it will need.
                started += 1;
                continue;
            }
            self.spawns += 1;
            let replica = ReplicaId::numbered(name, self.observed.replica_number.wrapping_add(self.spawns));
            self.order(Order::Spawn(Box::new(spawn(form, replica, place, number))));
            started += 1;
        }
    }

    /// Brings the `user_config` of running replicas to what is wanted: one first, then a few at a time.
    fn reconfigure(&mut self, wanted: &'a Wanted, deployment: &'a Deployment) {
        let Some(config) = &wanted.spec.user_config else { return };
        if deployment.config_refused.as_ref().is_some_and(|(refused, _)| *refused == wanted.config) {
            return;
        }
        let (down_max, _) = limits(wanted);
        let replicas = self.active(&wanted.spec.name);
        let serving =
            || replicas.iter().filter(|replica| replica.is_serving() && replica.template == wanted.template);
        let accepted = serving().any(|r| r.config == wanted.config && r.taking().is_none());
        let busy = serving().filter(|replica| replica.taking().is_some()).count();
        let mut room = if accepted { down_max.max(1) } else { 1 }.saturating_sub(to_number(busy));
        for replica in serving().filter(|r| r.config != wanted.config && r.taking().is_none()) {
            if room == 0 {
                let reason = "others take their user_config first".to_owned();
                self.hold(&wanted.spec.name, Some(&replica.id), reason);
                continue;
            }
            room -= 1;
            let sequence = self.next_sequence();
            self.order(Order::Reconfigure {
                replica: replica.id.clone(),
                sequence,
                user_config: config.to_string(),
                config: wanted.config.clone(),
            });
        }
    }

    /// Settings of running replicas, their health, and times to look again.
    fn look_after(&mut self, wanted: &'a Wanted, deployment: &'a Deployment) {
        let limit = wanted.max_ongoing_requests();
        let awaits_proof = !deployment.has_run(&wanted.template);
        for replica in self.active(&wanted.spec.name) {
            let Some(since) = replica.good_since() else { continue };
            if replica.limit != limit {
                self.order(Order::Limit { replica: replica.id.clone(), limit });
            }
            if awaits_proof {
                self.due(since + GOOD_LIFE);
            }
            match replica.health.asked {
                Some((asked, _)) => {
                    self.due(asked + wanted.spec.health_check_timeout);
                }
                None if self.due(replica.health.next_at) => {
                    let sequence = self.next_sequence();
                    self.order(Order::CheckHealth { replica: replica.id.clone(), sequence });
                }
                None => {}
            }
        }
    }

    fn next_sequence(&self) -> u64 {
        // Every order of the plan counts, so that no two of one plan are alike.
        self.observed.sequence + 1 + self.plan.orders.len() as u64
    }

    /// Deployments that are to go: those that others of them call go last, so that what runs can finish.
    fn unwanted(&mut self, is_unwanted: impl Fn(&Deployment) -> bool, why: &Why) {
        let unwanted: BTreeSet<&DeploymentName> =
            self.observed.deployments.iter().filter(|(_, d)| is_unwanted(d)).map(|(name, _)| name).collect();
        let is_called = |name: &DeploymentName| {
            self.observed.callers.replicas_calling(name).any(|caller| {
                self.observed
                    .replicas
                    .get(caller)
                    .is_some_and(|caller| caller.deployment != *name && unwanted.contains(&caller.deployment))
            })
        };
        let active: Vec<&Replica> = self
            .observed
            .replicas
            .values()
            .filter(|replica| unwanted.contains(&replica.deployment) && replica.is_active())
            .collect();
        let leaving = self
            .observed
            .replicas
            .values()
            .any(|replica| unwanted.contains(&replica.deployment) && !replica.is_active());
        let free: Vec<&&Replica> =
            active.iter().filter(|r| !r.is_serving() || !is_called(&r.deployment)).collect();
        // Deployments that call one another in a circle have no first one.
        let circle = free.is_empty() && !leaving;
        let chosen: Vec<&Replica> = if circle { active.clone() } else { free.into_iter().copied().collect() };
        for replica in chosen {
            if !self.doomed.contains(&replica.id) {
                self.take_away(replica, why.clone());
            }
        }
    }

    /// Replicas on their way out, each step when its time has come.
    fn leaving(&mut self) {
        for replica in self.observed.replicas.values() {
            let grace = self
                .observed
                .deployments
                .get(&replica.deployment)
                .map_or(Duration::ZERO, |deployment| deployment.wanted.spec.graceful_shutdown_timeout);
            let id = replica.id.clone();
            match &replica.phase {
                Phase::Starting | Phase::Serving { .. } | Phase::Killed { .. } => {}
                Phase::Retiring { why, .. } => self.release(replica, grace, why),
                Phase::Draining { since, why } => {
                    if self.due(*since + grace) {
                        self.order(Order::Kill { replica: id, why: why.clone() });
                    }
                }
                Phase::Leaving { since, why } => {
                    if self.due(*since + LEAVING_MAX) {
                        self.order(Order::Kill { replica: id, why: why.clone() });
                    }
                }
            }
        }
    }

    fn release(&mut self, replica: &Replica, grace: Duration, why: &Why) {
        let id = replica.id.clone();
        match self.observed.callers.released(&id, &replica.deployment, self.now) {
            Ok(()) if grace.is_zero() => self.order(Order::Kill { replica: id, why: why.clone() }),
            Ok(()) => self.order(Order::Drain { replica: id }),
            Err(until) => {
                if let Some(until) = until {
                    self.due(until);
                }
                let reason = "a caller has not yet acknowledged that it is gone".to_owned();
                self.hold(&replica.deployment, Some(&id), reason);
            }
        }
    }

    /// Everything goes: the proxies first, so that what they have accepted is still answered.
    fn stop(&mut self, stopping: Stopping) {
        let grace = self.longest_grace();
        let deadline = stopping.since + grace;
        let at_once = stopping.at_once || self.due(deadline);
        for (instance, proxy) in &self.observed.proxies.all {
            let instance = *instance;
            match proxy.phase {
                ProxyPhase::Killed => {}
                _ if at_once => self.order(Order::KillProxy { instance }),
                ProxyPhase::Starting => self.order(Order::KillProxy { instance }),
                ProxyPhase::Running => {
                    let timeout = deadline.saturating_duration_since(self.now);
                    self.order(Order::DrainProxy { instance, timeout });
                }
                ProxyPhase::Draining(_) => {}
            }
        }
        if at_once {
            for replica in self.observed.replicas.values() {
                if !matches!(replica.phase, Phase::Killed { .. }) && self.doomed.insert(replica.id.clone()) {
                    self.order(Order::Kill { replica: replica.id.clone(), why: Why::Shutdown });
                }
            }
        } else if self.observed.proxies.all.is_empty() {
            self.unwanted(|_| true, &Why::Shutdown);
        }
        let empty = self.observed.replicas.is_empty() && self.observed.proxies.all.is_empty();
        if empty && !self.observed.finished {
            self.order(Order::Finished);
        }
    }

    fn longest_grace(&self) -> Duration {
        self.observed
            .deployments
            .values()
            .map(|deployment| deployment.wanted.spec.graceful_shutdown_timeout)
            .max()
            .unwrap_or(IDLE_PROXY_GRACE)
    }

    fn proxy(&mut self) {
        let settings = &self.desired.http;
        let proxies = &self.observed.proxies;
        match proxies.current() {
            Some((_, proxy)) if proxy.can_take(settings) && proxy.settings == *settings => {}
            Some((_, proxy)) if !proxy.can_take(settings) => self.start_proxy(),
            None => self.start_proxy(),
            Some((instance, _)) => self.order(Order::ConfigureProxy { instance, settings: settings.clone() }),
        }
        let Some((current, proxy)) = proxies.current() else { return };
        let ready = proxy.phase == ProxyPhase::Running
            && proxy.listening
            && self.interest_of(&CallerId::Proxy(current)).is_some_and(|interest| interest.is_settled());
        let grace = self.longest_grace();
        for (instance, proxy) in &proxies.all {
            let instance = *instance;
            let hung = match proxy.phase {
                ProxyPhase::Starting => self.due(proxy.spawned_at + PROXY_START_MAX),
                ProxyPhase::Running => self
                    .interest_of(&CallerId::Proxy(instance))
                    .and_then(|interest| interest.waiting_since())
                    .is_some_and(|since| self.due(since + PROXY_ANSWER_MAX)),
                ProxyPhase::Draining(until) => self.due(until + LEAVING_MAX),
                ProxyPhase::Killed => false,
            };
            let knows = |interest: &crate::reconcile::callers::Interest| interest.has_applied();
            if hung {
                self.order(Order::KillProxy { instance });
            } else if proxy.phase == ProxyPhase::Running
                && !proxy.listening
                && self.interest_of(&CallerId::Proxy(instance)).is_some_and(knows)
            {
                // Not before: what it does not know yet, it would answer with 404.
                self.order(Order::ListenProxy { instance });
            } else if instance != current && ready && proxy.phase == ProxyPhase::Running {
                self.order(Order::DrainProxy { instance, timeout: grace });
            } else if instance != current && proxy.phase == ProxyPhase::Starting {
                self.order(Order::KillProxy { instance });
            }
        }
    }

    fn start_proxy(&mut self) {
        let proxies = &self.observed.proxies;
        if proxies.next_start.is_none_or(|at| self.due(at)) {
            let instance = ProxyInstance(proxies.newest + 1);
            self.order(Order::SpawnProxy { instance, settings: self.desired.http.clone() });
        }
    }

    fn interest_of(&self, caller: &CallerId) -> Option<&'a crate::reconcile::callers::Interest> {
        self.observed.callers.all.get(caller).and_then(|caller| caller.interests.get(&None))
    }

    /// Tells each caller what it does not know yet: replicas first, then the view that names them.
    fn views(&mut self) {
        for (id, caller) in &self.observed.callers.all {
            self.detach_gone(id, caller);
            let ready = match id {
                CallerId::Proxy(instance) => self.observed.proxies.all.get(instance).is_some_and(|proxy| {
                    matches!(proxy.phase, ProxyPhase::Running | ProxyPhase::Draining(_))
                }),
                _ => true,
            };
            for (scope, interest) in caller.interests.iter().filter(|_| ready) {
                // One that is late is told on, as far as there is room; look again when its time is over.
                if let Some(since) = interest.waiting_since() {
                    self.due(since + ACKNOWLEDGE_MAX);
                }
                if !interest.has_room() {
                    continue;
                }
                match (scope, id) {
                    (None, CallerId::Proxy(instance)) => {
                        self.publish_routes(*instance, caller, interest.sent)
                    }
                    (Some(name), _) => self.publish_view(id, caller, name, interest.sent),
                    (None, _) => {}
                }
            }
        }
    }

    fn detach_gone(&mut self, id: &CallerId, caller: &Caller) {
        for replica in &caller.attached {
            let held = self.observed.replicas.get(replica);
            if held.is_none_or(|replica| matches!(replica.phase, Phase::Killed { .. })) {
                let deployment = deployment_of(replica, held);
                if let Some(deployment) = deployment {
                    self.order(Order::Detach { caller: id.clone(), replica: replica.clone(), deployment });
                }
            }
        }
    }

    fn publish_routes(&mut self, instance: ProxyInstance, caller: &Caller, sent: Option<Generation>) {
        let Some(routes) = &self.observed.routes else { return };
        if sent == Some(routes.generation) {
            return;
        }
        let id = CallerId::Proxy(instance);
        for view in &routes.deployments {
            self.attach(&id, caller, &view.name, &view.replicas);
        }
        self.order(Order::PublishRoutes { instance, view: routes.clone() });
    }

    fn publish_view(
        &mut self,
        id: &CallerId,
        caller: &Caller,
        name: &DeploymentName,
        sent: Option<Generation>,
    ) {
        let held = self.observed.views.get(name);
        let (generation, view) = match held {
            Some((generation, view)) => (*generation, view.as_ref()),
            // Asked for, and not there: said once.
            None => (sent.unwrap_or(self.observed.generation), None),
        };
        if sent == Some(generation) {
            return;
        }
        if let Some(view) = view {
            self.attach(id, caller, name, &view.replicas);
        }
        let known =
            if view.is_none() { self.desired.deployments.keys().cloned().collect() } else { Vec::new() };
        self.order(Order::PublishView {
            caller: id.clone(),
            deployment: name.clone(),
            generation,
            view: view.cloned().map(Box::new),
            known,
        });
    }

    fn attach(&mut self, id: &CallerId, caller: &Caller, name: &DeploymentName, replicas: &[ReplicaId]) {
        for replica in replicas.iter().filter(|replica| !caller.attached.contains(replica)) {
            self.order(Order::Attach {
                caller: id.clone(),
                replica: replica.clone(),
                deployment: name.clone(),
            });
        }
    }
}

/// What an idle proxy has to stop, where no deployment says otherwise.
const IDLE_PROXY_GRACE: Duration = Duration::from_secs(20);

/// `max_unavailable` and `max_surge` of a deployment, of which at least one is not zero.
fn limits(wanted: &Wanted) -> (u32, u32) {
    let number = wanted.spec.num_replicas;
    let down = wanted.spec.rollout.max_unavailable.floor_of(number);
    let surge = wanted.spec.rollout.max_surge.ceil_of(number);
    (down, if down == 0 { surge.max(1) } else { surge })
}

/// Who is to go, in this order: those of other templates, and what is beyond the number; of each those first that
/// did not start yet, then the youngest.
fn victims<'a>(kept: &[&'a Replica], old: &[&'a Replica], number: u32) -> Vec<&'a Replica> {
    let by_age = |replicas: &[&'a Replica]| {
        let mut replicas = replicas.to_vec();
        replicas.sort_by_key(|r| (r.is_serving(), std::cmp::Reverse((r.spawned_at, r.place, r.id.clone()))));
        replicas
    };
    let beyond = kept.len().saturating_sub(number as usize);
    by_age(old).into_iter().chain(by_age(kept).into_iter().take(beyond)).collect()
}

fn standing_of(replica: &Replica, available: bool) -> Standing {
    match (replica.is_serving(), available) {
        (_, true) => Standing::Available,
        (true, false) => Standing::Serving,
        (false, false) => Standing::Idle,
    }
}

fn spawn(form: &Wanted, replica: ReplicaId, place: u32, number: u32) -> Spawn {
    let spec = &form.spec;
    Spawn {
        start: ReplicaStart {
            replica,
            deployment: spec.name.clone(),
            application: form.application.clone(),
            version: form.version.clone(),
            library: form.library.clone(),
            class: form.class.name.clone(),
            args: spec.args.to_string(),
            user_config: spec.user_config.as_ref().map(ToString::to_string),
            threads: spec.threads,
            max_ongoing_requests: form.max_ongoing_requests(),
            rank: place,
            world_size: number,
        },
        env_vars: spec.runtime_env.env_vars.clone(),
        template: form.template.clone(),
        config: form.config.clone(),
    }
}

/// Of which deployment a replica is, or was: its id begins with the name.
fn deployment_of(id: &ReplicaId, held: Option<&Replica>) -> Option<DeploymentName> {
    if let Some(replica) = held {
        return Some(replica.deployment.clone());
    }
    let (name, _) = id.as_str().rsplit_once('-')?;
    DeploymentName::new(name).ok()
}

fn to_number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
