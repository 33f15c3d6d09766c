//! The reconciler's doors: facts and revisions go in, orders come out, and so does the time to look again.

use std::time::{Duration, Instant};

use decurion_api::spec::Bytes;
use decurion_api::status::EndedReplica;
use decurion_api::{DeploymentName, ReplicaId};

use crate::capacity::Capacity;
use crate::change::Standing;
use crate::desired::Desired;
use crate::reconcile::callers::INTERESTS_MAX;
use crate::reconcile::deployment::{Deployment, Outcome};
use crate::reconcile::fact::{Board, CallerId, Exit, Fact, ProxyInstance};
use crate::reconcile::liveness::Liveness;
use crate::reconcile::observed::{Condemned, Observed, Stopping};
use crate::reconcile::order::{Order, Why};
use crate::reconcile::plan::{Report, plan};
use crate::reconcile::proxy::ProxyPhase;
use crate::reconcile::replica::{HEALTH_FAILURES_MAX, Health, Phase, Replica, jittered};

pub use crate::reconcile::observed::Note;

/// The time, twice: for reckoning, and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For reckoning.
    pub at: Instant,
    /// Unix time in milliseconds.
    pub unix_ms: u64,
}

/// The reconciler with its two states.
#[derive(Clone, Debug)]
pub struct Core {
    desired: Desired,
    pub(super) observed: Observed,
    report: Report,
    wake: Option<Instant>,
}

/// Between two looks at the replicas' boards, at most.
const SAMPLE_PERIOD: Duration = Duration::from_secs(1);
/// Plans in one turn, at most: each follows from the one before, and all but the last have orders. Reaching this is
/// a mistake of ours, which then costs a further turn and no endless loop.
const PLANS_MAX: usize = 32;

impl Core {
    /// A reconciler that wants what `desired` says and has observed nothing. Replicas are numbered from
    /// `first_replica`.
    #[must_use]
    pub fn new(desired: Desired, first_replica: u32) -> Self {
        let observed = Observed { replica_number: first_replica, ..Observed::default() };
        let mut core = Self { desired: Desired::default(), observed, report: Report::default(), wake: None };
        core.accept(desired);
        core
    }

    /// Takes what there is for replicas.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        self.observed.capacity = capacity;
    }

    /// Takes a newer revision, which is durable by now.
    pub fn accept(&mut self, desired: Desired) {
        let mut new = Vec::new();
        for (name, wanted) in &desired.deployments {
            match self.observed.deployments.get_mut(name) {
                Some(deployment) => deployment.accept(wanted),
                None => {
                    self.observed.deployments.insert(name.clone(), Deployment::new(wanted));
                    new.push(name.clone());
                }
            }
        }
        for (name, deployment) in &mut self.observed.deployments {
            deployment.deleted = !desired.deployments.contains_key(name);
        }
        self.observed.join_sets(&new);
        self.desired = desired;
    }

    /// What is wanted.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What is observed.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Why more was not done in the last turn.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// How a deployment stands, for a change of it.
    #[must_use]
    pub fn standing(&self, name: &DeploymentName) -> Standing {
        let Some(deployment) = self.observed.deployments.get(name).filter(|d| !d.deleted) else {
            return Standing::default();
        };
        let wanted = &deployment.wanted;
        Standing {
            whole: deployment.rollout.outcome == Outcome::Done && !deployment.is_untried(),
            failed: deployment.is_halted(),
            config_taken: self.observed.replicas_of(name).any(|replica| {
                replica.is_serving()
                    && replica.template == wanted.template
                    && replica.config == wanted.config
                    && replica.taking().is_none()
            }),
        }
    }

    /// Takes what is worth telling.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.observed.notes)
    }

    /// What to do now, in this order. To be asked after every fact, revision and timeout.
    #[must_use]
    pub fn turn(&mut self, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        for _ in 0..PLANS_MAX {
            self.observed.elapse(&self.desired, now);
            let (plan, report) = plan(&self.desired, &self.observed, now);
            self.wake = plan.wake;
            self.report = report;
            if plan.orders.is_empty() {
                self.observed.note_shortages(&self.report);
                return orders;
            }
            for order in &plan.orders {
                self.observed.note(order, now);
            }
            orders.extend(plan.orders);
        }
        self.wake = Some(now);
        orders
    }

    /// When to ask for the next turn, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// From one look at the boards to the next: as often as the load of some deployment is to be known.
    #[must_use]
    pub fn sample_period(&self) -> Duration {
        let scaled = self.desired.deployments.values().filter_map(|wanted| wanted.spec.autoscaling.as_ref());
        scaled.map(|spec| spec.metrics_interval).chain([SAMPLE_PERIOD]).min().unwrap_or(SAMPLE_PERIOD)
    }

    /// Takes one fact.
    pub fn handle(&mut self, fact: Fact, now: Now) {
        let at = now.at;
        match fact {
            Fact::Spawned { replica, pid } => self.observed.with(&replica, |replica| replica.pid = Some(pid)),
            Fact::SpawnFailed { replica, why } => {
                self.end(&replica, &format!("could not be started: {why}"), now);
            }
            Fact::Ready { replica } => self.ready(&replica, at),
            Fact::StartFailed { replica, failure } => {
                self.leave(&replica, Why::Failed(format!("failed to start: {failure}")), at);
            }
            Fact::Reconfigured { replica, sequence, result } => {
                self.reconfigured(&replica, sequence, result);
            }
            Fact::Health { replica, sequence, result } => self.health(&replica, sequence, result, at),
            Fact::Alive { replica, sequence, work } => self.observed.alive(&replica, sequence, work, at),
            Fact::Drained { replica } => self.drained(&replica, at),
            Fact::Exited { replica, exit, last_words } => self.exited(&replica, exit, &last_words, now),
            Fact::Lost { replica, how } => self.lost(&replica, how, at),
            Fact::Fault { replica, fault } => {
                self.condemn(&replica, format!("broke the rules of the data plane: {fault}"));
            }
            Fact::CutOff { caller, replica, fault } => self.observed.cut_off(&caller, &replica, &fault, at),
            Fact::Unjoined { caller, replica, why } => self.observed.unjoined(&caller, &replica, why, at),
            Fact::Deaf { replica } => self.condemn(&replica, "did not read its orders".to_owned()),
            Fact::Board { replica, board } => self.observed.with(&replica, |replica| {
                replica.liveness.board(replica.board, board, at);
                replica.board = board;
                let most = replica.reservation.resources.memory.unwrap_or(u64::MAX);
                if board.resident > most {
                    let (has, most) = (Bytes(board.resident), Bytes(most));
                    let how = format!("used {has} of memory, and may have {most} (resources.memory)");
                    replica.condemned.get_or_insert(Condemned { how, at_once: true });
                }
            }),
            Fact::ProxySpawned { instance, pid } => {
                if let Some(proxy) = self.observed.proxies.all.get_mut(&instance) {
                    proxy.pid = Some(pid);
                }
            }
            Fact::ProxySpawnFailed { instance, why } => self.proxy_ended(instance, &why, at),
            Fact::ProxyStarted { instance } => self.proxy_started(instance, at),
            Fact::ProxyConfigured { instance, sequence } => self.proxy_configured(instance, sequence),
            Fact::CertificatesChanged => self.observed.proxies.certificates += 1,
            Fact::ProxyAlive { instance, sequence } => self.observed.proxy_alive(instance, sequence),
            Fact::ProxyExited { instance, exit } => self.proxy_ended(instance, &exit.to_string(), at),
            Fact::ClientJoined { client } => {
                self.observed.add_caller(CallerId::Client(client));
            }
            Fact::ClientLeft { client } => self.observed.forget_caller(&CallerId::Client(client)),
            Fact::InFlight { caller, deployment, count } => {
                self.observed.note_in_flight(caller, &deployment, count);
            }
            Fact::Answered { deployment, version, answers } => {
                self.observed.count_answers(&deployment, &version, &answers);
            }
            Fact::Waiting { caller, deployment, count } => {
                self.observed.note_waiting(caller, &deployment, count);
            }
            Fact::Resolve { caller, deployment } => self.resolve(caller, deployment),
            Fact::Rejoined { caller, deployment, replicas } => self.rejoin(caller, deployment, replicas, at),
            Fact::Adopted(replica) => self.adopt_replica(*replica, at),
            Fact::ProxyAdopted(proxy) => self.adopt_proxy(*proxy, at),
            Fact::Oldest { caller, epoch } => {
                if let Some(caller) = self.observed.callers.all.get_mut(&caller) {
                    caller.oldest = caller.oldest.max(epoch);
                }
            }
            Fact::SetsKept(record) => self.observed.resume_sets(*record),
            Fact::ViewApplied { caller, deployment, generation } => {
                if let Some(caller) = self.observed.callers.all.get_mut(&caller)
                    && let Some(interest) = caller.interests.get_mut(&deployment)
                {
                    interest.applied(generation);
                }
            }
            Fact::Stop { at_once } => self.stop(at_once, at),
        }
    }

    fn ready(&mut self, id: &ReplicaId, now: Instant) {
        let Some(replica) = self.observed.replicas.get_mut(id) else { return };
        if replica.phase != Phase::Starting {
            return;
        }
        replica.phase = Phase::Serving { since: now, taking: None };
        replica.health = Health::new(now);
        replica.liveness = Liveness::new(now);
        let period = self.observed.deployments[&replica.deployment].wanted.spec.health_check_period;
        replica.health.next_at = now + jittered(period, id, 0);
        let (name, took) = (replica.deployment.clone(), now.duration_since(replica.spawned_at));
        self.observed.tell(
            (&name, Some(id)),
            "replica-ready",
            format!("ready after {} ms", took.as_millis()),
        );
    }

    /// A replica says that it fails and exits.
    fn leave(&mut self, id: &ReplicaId, why: Why, now: Instant) {
        self.observed.count_failure(id, &why, now);
        self.observed.with(id, |replica| {
            if !matches!(replica.phase, Phase::Killed { .. }) {
                // Who was on the way out for another reason keeps that reason.
                let why = replica.leaving_why().cloned().unwrap_or(why);
                replica.phase = Phase::Leaving { since: now, why };
            }
        });
    }

    fn drained(&mut self, id: &ReplicaId, now: Instant) {
        match self.observed.replicas.get(id).map(|replica| replica.phase.clone()) {
            Some(Phase::Draining { why, .. }) => self.leave(id, why, now),
            Some(Phase::Starting | Phase::Serving { .. }) => {
                self.leave(id, Why::Failed("stopped without being asked".to_owned()), now);
            }
            _ => {}
        }
    }

    /// It has most likely died, and its end tells how. Only if it lives on is this the reason to kill it.
    fn lost(&mut self, id: &ReplicaId, how: String, now: Instant) {
        self.observed.with(id, |replica| {
            replica.lost.get_or_insert((now, how));
        });
    }

    fn condemn(&mut self, id: &ReplicaId, how: String) {
        self.observed.with(id, |replica| {
            replica.condemned.get_or_insert(Condemned { how, at_once: true });
        });
    }

    fn reconfigured(&mut self, id: &ReplicaId, sequence: u64, result: Result<(), String>) {
        let Some(replica) = self.observed.replicas.get_mut(id) else { return };
        let Phase::Serving { taking, .. } = &mut replica.phase else { return };
        let Some(done) = taking.take_if(|taking| taking.sequence == sequence) else { return };
        let name = replica.deployment.clone();
        match result {
            Ok(()) => {
                replica.config = done.config;
                self.observed.tell(
                    (&name, Some(id)),
                    "replica-reconfigured",
                    "took its user_config".to_owned(),
                );
            }
            Err(why) => self.observed.refuse_config(&name, id, done.config, why),
        }
    }

    fn health(&mut self, id: &ReplicaId, sequence: u64, result: Result<(), String>, now: Instant) {
        let Some(replica) = self.observed.replicas.get_mut(id) else { return };
        if !replica.is_serving() || replica.health.sequence != sequence {
            return;
        }
        let Some((since, _)) = replica.health.asked.take() else { return };
        let period = self.observed.deployments[&replica.deployment].wanted.spec.health_check_period;
        replica.health.next_at = (since + jittered(period, id, sequence)).max(now);
        match result {
            Ok(()) => replica.health.failures = 0,
            Err(why) => {
                replica.health.failures += 1;
                if replica.health.failures >= HEALTH_FAILURES_MAX {
                    let how = format!("failed its health check {HEALTH_FAILURES_MAX} times in a row: {why}");
                    replica.condemned.get_or_insert(Condemned { how, at_once: false });
                }
            }
        }
    }

    fn exited(&mut self, id: &ReplicaId, exit: Exit, last_words: &[String], now: Now) {
        let Some(replica) = self.observed.replicas.get(id) else { return };
        let mut how = end_of(replica, exit);
        if replica.phase == Phase::Starting && !last_words.is_empty() {
            how = format!("{how} before it was ready; its last words: {}", last_words.join(" | "));
        }
        self.end(id, &how, now);
    }

    /// A replica's process is gone, or never was.
    fn end(&mut self, id: &ReplicaId, how: &str, now: Now) {
        let Some(replica) = self.observed.replicas.get(id) else { return };
        let failed =
            replica.leaving_why().is_none_or(|why| why.is_failure() || how != ended_as(why, replica));
        self.observed.count_failure(id, &Why::Failed(how.to_owned()), now.at);
        let Some(replica) = self.observed.replicas.remove(id) else { return };
        self.observed.callers.forget(id);
        self.observed.forget_caller(&CallerId::Replica(id.clone()));
        let message = format!("pid {}: {how}", replica.pid.unwrap_or_default());
        self.observed.tell((&replica.deployment, Some(id)), "replica-ended", message);
        if let Some(deployment) = self.observed.deployments.get_mut(&replica.deployment) {
            deployment.remember(EndedReplica {
                id: id.clone(),
                pid: replica.pid.unwrap_or_default(),
                version: replica.version,
                ended_at_ms: now.unix_ms,
                reason: how.to_owned(),
                failed,
            });
        }
    }

    fn proxy_started(&mut self, instance: ProxyInstance, now: Instant) {
        if let Some(proxy) = self.observed.proxies.all.get_mut(&instance)
            && proxy.phase == ProxyPhase::Starting
        {
            proxy.phase = ProxyPhase::Running;
            proxy.liveness = Liveness::of_proxy(now);
            let message = format!("the proxy takes orders, pid {}", proxy.pid.unwrap_or_default());
            self.observed.add_caller(CallerId::Proxy(instance));
            self.tell_of_proxy("proxy-started", message);
        }
    }

    fn proxy_configured(&mut self, instance: ProxyInstance, sequence: u64) {
        if self.observed.proxies.configured(instance, sequence) {
            let message = "new connections go by the newest settings and certificates".to_owned();
            self.tell_of_proxy("proxy-configured", message);
        }
    }

    fn proxy_ended(&mut self, instance: ProxyInstance, how: &str, now: Instant) {
        self.observed.forget_caller(&CallerId::Proxy(instance));
        let failed = self.observed.proxies.ended(instance, now);
        let kind = if failed { "proxy-failed" } else { "proxy-ended" };
        self.tell_of_proxy(kind, format!("the proxy ended: {how}"));
    }

    pub(super) fn tell_of_proxy(&mut self, kind: &'static str, message: String) {
        self.observed.notes.push(Note { deployment: None, replica: None, kind, message });
    }

    pub(super) fn resolve(&mut self, caller: CallerId, deployment: DeploymentName) {
        let known = match &caller {
            CallerId::Proxy(_) => false,
            CallerId::Replica(id) => self.observed.replicas.contains_key(id),
            CallerId::Client(_) => self.observed.callers.all.contains_key(&caller),
        };
        if !known {
            return;
        }
        let held = self.observed.add_caller(caller);
        // Whoever asks for more names than there may be deployments gets no further answer.
        if held.interests.len() < INTERESTS_MAX {
            held.interests.entry(Some(deployment)).or_default();
        }
    }

    fn stop(&mut self, at_once: bool, now: Instant) {
        let held = self.observed.stopping.get_or_insert(Stopping { since: now, at_once });
        held.at_once |= at_once;
    }
}

/// How a replica ended that goes as it was meant to.
fn ended_as(why: &Why, replica: &Replica) -> String {
    match replica.phase {
        Phase::Killed { overdue: true, .. } => {
            format!("{}; killed, for it had not finished in time", why.reason())
        }
        _ => why.reason().to_owned(),
    }
}

/// What ended a replica, in words.
fn end_of(replica: &Replica, exit: Exit) -> String {
    const SIGKILL: i32 = 9;
    let Some(why) = replica.leaving_why() else {
        return match exit {
            // Not by us.
            Exit::Signal(SIGKILL) => format!("{exit} from outside"),
            exit => exit.to_string(),
        };
    };
    match (&replica.phase, exit) {
        (Phase::Killed { .. }, Exit::Signal(SIGKILL)) => ended_as(why, replica),
        (_, Exit::Code(0) | Exit::Unknown) => ended_as(why, replica),
        (_, _) if why.is_failure() => why.reason().to_owned(),
        (_, exit) => format!("{exit} while it was being stopped"),
    }
}

/// Nothing of a board is believed but its numbers.
impl From<(u64, u64, u64)> for Board {
    fn from((heartbeat, ongoing, processed): (u64, u64, u64)) -> Self {
        Self { heartbeat, ongoing, processed, resident: 0 }
    }
}
