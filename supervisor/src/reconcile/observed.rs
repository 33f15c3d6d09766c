//! Everything that is observed, and how orders that are under way and time that passes change it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use decurion_api::status::USER_CONFIG_REFUSED;
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::{DeploymentView, Generation, RouteView};

use crate::capacity::{Capacity, Room};
use crate::desired::{ConfigId, Desired};
use crate::reconcile::autoscale::{Decision, Load};
use crate::reconcile::backoff::GOOD_LIFE;
use crate::reconcile::callers::{Caller, Callers, Interest};
use crate::reconcile::canary::{Answers, Verdict};
use crate::reconcile::deployment::{Deployment, Outcome};
use crate::reconcile::fact::{Board, CallerId};
use crate::reconcile::liveness::Liveness;
use crate::reconcile::order::{Order, Spawn, Why};
use crate::reconcile::plan::Report;
use crate::reconcile::progress::Progress;
use crate::reconcile::proxy::Proxies;
use crate::reconcile::replica::{HEALTH_FAILURES_MAX, Health, Phase, Replica, Taking, jittered};
use crate::reconcile::together::Sets;

/// What is observed.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Every replica that has a process, or is to get one.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// Every deployment that is wanted, or has replicas.
    pub deployments: BTreeMap<DeploymentName, Deployment>,
    /// Who sends requests.
    pub callers: Callers,
    /// The proxy, and those before it that are on their way out.
    pub proxies: Proxies,
    /// The newest truth of each deployment, for handles; `None`: it is gone.
    pub views: BTreeMap<DeploymentName, (Generation, Option<DeploymentView>)>,
    /// The newest truth of all, for the proxy.
    pub routes: Option<RouteView>,
    /// Of the newest view of any kind.
    pub generation: Generation,
    /// Of the newest order that has one.
    pub sequence: u64,
    /// Of the newest replica.
    pub replica_number: u32,
    /// Since when everything is to stop, and whether at once.
    pub stopping: Option<Stopping>,
    /// What there is for replicas.
    pub capacity: Capacity,
    /// `Finished` was said.
    pub finished: bool,
    /// What is worth telling, not yet fetched.
    pub notes: Vec<Note>,
    /// How far deployments are that change over as one.
    pub sets: Sets,
}

/// A stop that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// When.
    pub since: Instant,
    /// Nothing may finish.
    pub at_once: bool,
}

/// One thing worth telling an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which deployment, if one.
    pub deployment: Option<DeploymentName>,
    /// Which replica, if one.
    pub replica: Option<ReplicaId>,
    /// A short name for its kind.
    pub kind: &'static str,
    /// One sentence.
    pub message: String,
}

impl Observed {
    /// The replicas of a deployment.
    pub fn replicas_of<'a>(&'a self, name: &'a DeploymentName) -> impl Iterator<Item = &'a Replica> {
        self.replicas.values().filter(move |replica| replica.deployment == *name)
    }

    /// Whether a replica may get requests, and everyone who sends some knows it.
    #[must_use]
    pub fn is_available(&self, replica: &Replica, now: Instant) -> bool {
        replica.is_in_rotation()
            && replica.taking().is_none()
            && replica.lost.is_none()
            && self.callers.all_use(&replica.id, &replica.deployment, now)
    }

    /// Keeps a sentence for the event log.
    pub fn tell(
        &mut self,
        about: (&DeploymentName, Option<&ReplicaId>),
        kind: &'static str,
        message: String,
    ) {
        self.notes.push(Note { deployment: Some(about.0.clone()), replica: about.1.cloned(), kind, message });
    }

    /// What is left of the capacity beside these.
    #[must_use]
    pub fn room_beside(&self, holds: impl Fn(&Replica) -> bool) -> Room<'_> {
        let mut room = self.capacity.room();
        for replica in self.replicas.values().filter(|replica| holds(replica)) {
            room.take(&replica.reservation);
        }
        room
    }

    /// Says once of each deployment that it waits for room.
    pub fn note_shortages(&mut self, report: &Report) {
        let mut news = Vec::new();
        for (name, deployment) in &mut self.deployments {
            let short = report.short_of_room.get(name);
            if let Some(why) = short.filter(|_| !deployment.short_of_room) {
                news.push((name.clone(), why.clone()));
            }
            deployment.short_of_room = short.is_some();
        }
        for (name, why) in news {
            self.tell((&name, None), "waits-for-room", why);
        }
    }

    /// Takes what time alone has changed, and renews the views.
    pub fn elapse(&mut self, desired: &Desired, now: Instant) {
        self.miss_signs_of_life(now);
        self.miss_health_checks(now);
        self.autoscale(now);
        self.judge_canaries(now);
        self.turn_sets(desired, now);
        // A change is done when callers go by the view that says it: no change is judged by the view before.
        self.renew_views(desired);
        self.note_told();
        let names: Vec<DeploymentName> = self.deployments.keys().cloned().collect();
        let mut decided = false;
        for name in &names {
            decided |= self.judge(name, now);
            let deployment = &self.deployments[name];
            if deployment.deleted && self.replicas_of(name).next().is_none() {
                self.deployments.remove(name);
                self.tell((name, None), "deleted", "every replica is gone".to_owned());
                decided = true;
            }
        }
        if decided {
            self.renew_views(desired);
        }
    }

    /// Notes an order as under way.
    pub fn note(&mut self, order: &Order, now: Instant) {
        match order {
            Order::Spawn(spawn) => {
                self.tell_step(order);
                self.note_spawn(spawn, now);
            }
            Order::Reconfigure { replica, sequence, config, .. } => {
                self.sequence = *sequence;
                self.with(replica, |replica| {
                    if let Phase::Serving { taking, .. } = &mut replica.phase {
                        *taking = Some(Taking { sequence: *sequence, since: now, config: config.clone() });
                    }
                });
            }
            Order::Limit { replica, limit } => self.with(replica, |replica| replica.limit = *limit),
            Order::CheckHealth { replica, sequence } => {
                self.sequence = *sequence;
                self.with(replica, |replica| {
                    replica.health.asked = Some((now, replica.board.heartbeat));
                    replica.health.sequence = *sequence;
                });
            }
            Order::Probe { replica, sequence } => {
                self.sequence = *sequence;
                self.with(replica, |replica| replica.liveness.probed(*sequence, now));
            }
            Order::Retire { replica, why } => {
                self.tell_step(order);
                self.count_failure(replica, why, now);
                self.with(replica, |replica| {
                    replica.phase = Phase::Retiring { since: now, why: why.clone() };
                });
            }
            Order::Drain { replica, .. } => self.with(replica, |replica| {
                let why = replica.leaving_why().cloned().unwrap_or(Why::Shutdown);
                replica.phase = Phase::Draining { since: now, why };
            }),
            Order::Kill { replica, why } => {
                self.tell_step(order);
                self.count_failure(replica, why, now);
                self.with(replica, |replica| {
                    let overdue = !replica.is_active();
                    let why = replica.leaving_why().unwrap_or(why).clone();
                    replica.phase = Phase::Killed { why, overdue };
                });
            }
            Order::Attach { caller, replica, .. } => {
                let anew = self.callers.all.get_mut(caller).and_then(|caller| {
                    caller.attached.insert(replica.clone());
                    caller.severed.joined(replica, now)
                });
                if let (Some(why), Some(callee)) = (anew, self.replicas.get(replica)) {
                    let name = callee.deployment.clone();
                    let message = format!("{caller} had no channel to it, and gets a new one: {why}");
                    self.tell((&name, Some(replica)), "handle-joined-anew", message);
                }
            }
            Order::Detach { caller, replica, .. } => {
                if let Some(caller) = self.callers.all.get_mut(caller) {
                    caller.attached.remove(replica);
                    caller.severed.forget(replica);
                }
            }
            Order::PublishRoutes { instance, view } => {
                let replicas = view.deployments.iter().flat_map(|d| d.replicas.iter().cloned()).collect();
                self.note_sent(&CallerId::Proxy(*instance), None, view.generation, replicas, now);
            }
            Order::PublishView { caller, deployment, generation, view, .. } => {
                let replicas = view.iter().flat_map(|view| view.replicas.iter().cloned()).collect();
                self.note_sent(caller, Some(deployment.clone()), *generation, replicas, now);
            }
            Order::SpawnProxy { instance, settings } => self.proxies.note_spawn(*instance, settings, now),
            Order::ListenProxy { instance } => self.proxies.note_listen(*instance),
            Order::ConfigureProxy { instance, settings, sequence } => {
                self.sequence = *sequence;
                self.proxies.note_settings(*instance, settings, *sequence);
            }
            Order::DrainProxy { instance, timeout } => self.proxies.note_drain(*instance, now + *timeout),
            Order::KillProxy { instance } => self.proxies.note_kill(*instance, now),
            Order::ProbeProxy { instance, sequence } => {
                self.sequence = *sequence;
                self.proxies.note_probe(*instance, *sequence, now);
            }
            Order::PutBack { deployment, .. } => {
                if let Some(deployment) = self.deployments.get_mut(deployment) {
                    deployment.put_back_at = Some(now + PUT_BACK_RETRY);
                }
            }
            Order::RememberSets(record) => self.sets.remembered = record.as_ref().clone(),
            Order::Finished => self.finished = true,
        }
    }

    /// Says which step is taken, and why.
    fn tell_step(&mut self, order: &Order) {
        let (replica, kind, message) = match order {
            Order::Spawn(spawn) => {
                let start = &spawn.start;
                let message = format!("starts with version {} in place {}", start.version, start.rank);
                self.tell((&start.deployment, Some(&start.replica)), "replica-starting", message);
                return;
            }
            Order::Retire { replica, why } => {
                (replica, "replica-draining", format!("gets no new requests: {}", why.reason()))
            }
            Order::Kill { replica, why } => {
                let held = self.replicas.get(replica).and_then(Replica::leaving_why);
                (replica, "replica-killed", format!("is killed: {}", held.unwrap_or(why).reason()))
            }
            _ => return,
        };
        if let Some(name) = self.replicas.get(replica).map(|held| held.deployment.clone()) {
            self.tell((&name, Some(replica)), kind, message);
        }
    }

    /// Counts a replica that is there to stay as failed, where that is why it goes.
    pub fn count_failure(&mut self, id: &ReplicaId, why: &Why, now: Instant) {
        let Some(replica) = self.replicas.get(id).filter(|replica| replica.is_active()) else {
            return;
        };
        let Why::Failed(how) = why else { return };
        let life = replica.good_since().map_or(Duration::ZERO, |since| now.duration_since(since));
        let (name, place, template) = (replica.deployment.clone(), replica.place, replica.template.clone());
        // One that dies of its new `user_config` has refused it.
        if let Some(config) = replica.taking().map(|taking| taking.config.clone()) {
            self.refuse_config(&name, id, config, format!("it {how} while taking it"));
        }
        if let Some(deployment) = self.deployments.get_mut(&name) {
            let halted = deployment.is_halted();
            deployment.fail(place, &template, life, how, now);
            if deployment.is_halted() && !halted {
                let message = format!("the update was stopped: a replica {how}");
                self.tell((&name, None), "rollout-failed", message);
            }
        }
        self.tell((&name, Some(id)), "replica-failed", how.clone());
    }

    /// Remembers that a replica has refused a `user_config`.
    pub fn refuse_config(&mut self, name: &DeploymentName, id: &ReplicaId, config: ConfigId, why: String) {
        if let Some(deployment) = self.deployments.get_mut(name) {
            deployment.config_refused = Some((config, format!("replica {id} {USER_CONFIG_REFUSED}: {why}")));
        }
        self.tell((name, Some(id)), "reconfigure-refused", why);
    }

    fn note_spawn(&mut self, spawn: &Spawn, now: Instant) {
        let start = &spawn.start;
        self.replica_number = self.replica_number.wrapping_add(1);
        let deployment = &self.deployments[&start.deployment];
        let restarts = deployment.restarts(start.rank, &spawn.template);
        let span = deployment.span_of(&spawn.template);
        self.replicas.insert(
            start.replica.clone(),
            Replica {
                id: start.replica.clone(),
                deployment: start.deployment.clone(),
                template: spawn.template.clone(),
                version: start.version.clone(),
                place: start.rank,
                restarts,
                spawned_at: now,
                pid: None,
                phase: Phase::Starting,
                config: spawn.config.clone(),
                reservation: spawn.reservation.clone(),
                limit: start.max_ongoing_requests,
                health: Health::new(now),
                liveness: Liveness::new(now),
                progress: Progress::default(),
                board: Board::default(),
                condemned: None,
                lost: None,
                span,
                over_since: None,
            },
        );
    }

    fn note_sent(
        &mut self,
        caller: &CallerId,
        scope: Option<DeploymentName>,
        generation: Generation,
        replicas: BTreeSet<ReplicaId>,
        now: Instant,
    ) {
        if let Some(caller) = self.callers.all.get_mut(caller) {
            caller.interests.entry(scope).or_default().sent(generation, replicas, now);
        }
    }

    /// Does something with a replica that is there.
    pub fn with(&mut self, id: &ReplicaId, change: impl FnOnce(&mut Replica)) {
        if let Some(replica) = self.replicas.get_mut(id) {
            change(replica);
        }
    }

    /// Adds a caller that is told of everything, or of what it will ask for.
    pub fn add_caller(&mut self, id: CallerId) -> &mut Caller {
        let caller = self.callers.all.entry(id.clone()).or_default();
        if let CallerId::Proxy(_) = id {
            caller.interests.insert(None, Interest::default());
        }
        caller
    }

    fn miss_health_checks(&mut self, now: Instant) {
        for replica in self.replicas.values_mut().filter(|replica| replica.is_serving()) {
            let Some(deployment) = self.deployments.get(&replica.deployment) else { continue };
            let timeout = deployment.wanted.spec.health_check_timeout;
            let Some((since, heartbeat)) = replica.health.asked.filter(|(since, _)| *since + timeout <= now)
            else {
                continue;
            };
            replica.health.asked = None;
            let period =
                jittered(deployment.wanted.spec.health_check_period, &replica.id, replica.health.sequence);
            replica.health.next_at = (since + period).max(now);
            // A replica that works on requests and moves is busy: `check_health` waits for an exclusive call.
            let busy = replica.board.ongoing > 0 && replica.board.heartbeat != heartbeat;
            if !busy {
                replica.health.failures += 1;
            }
            if replica.health.failures >= HEALTH_FAILURES_MAX {
                let how = format!("gave no answer to {HEALTH_FAILURES_MAX} health checks in a row");
                replica.condemned = Some(Condemned { how, at_once: true });
            }
        }
    }

    /// Lets the load decide, where it is to.
    fn autoscale(&mut self, now: Instant) {
        let mut notes = Vec::new();
        for (name, deployment) in self.deployments.iter_mut().filter(|(_, held)| !held.deleted) {
            let (Some(spec), Some(scaler)) =
                (&deployment.wanted.spec.autoscaling, &mut deployment.autoscaler)
            else {
                continue;
            };
            let mut load = Load { waiting: deployment.waiting.values().sum(), ..Load::default() };
            for replica in self.replicas.values().filter(|r| r.deployment == *name && r.is_serving()) {
                load.serving += u32::from(replica.span.holds(self.sets.entry));
                load.running += replica.board.ongoing;
            }
            // A replica whose threads are all busy does not see what was sent to it beside that; who sent it does.
            load.running = load.running.max(deployment.in_flight.values().sum());
            let before = scaler.number();
            deployment.moving &= load.serving != before;
            match scaler.decide(spec, load, now) {
                Decision::Stay => deployment.leaning = None,
                Decision::Lean { until, why } => deployment.leaning = Some((until, why)),
                Decision::Move { why } => {
                    deployment.leaning = None;
                    deployment.moving = true;
                    if before == 0 {
                        deployment.wake();
                    }
                    notes.push((name.clone(), why));
                }
            }
        }
        for (name, why) in notes {
            self.tell((&name, None), "autoscaled", why);
        }
    }

    /// Lets what new versions have answered decide, where they are tried.
    fn judge_canaries(&mut self, now: Instant) {
        let tried: Vec<DeploymentName> = self
            .deployments
            .iter()
            .filter(|(_, held)| held.is_trying() && !held.wanted.paused && !held.deleted)
            .map(|(name, _)| name.clone())
            .collect();
        for name in tried {
            let template = &self.deployments[&name].wanted.template;
            let serving =
                self.replicas_of(&name).any(|r| r.template == *template && self.is_available(r, now));
            let Some(held) = self.deployments.get_mut(&name) else { continue };
            let (Some(spec), Some(canary)) = (&held.wanted.spec.rollout.canary, &mut held.canary) else {
                continue;
            };
            match canary.judge(spec, serving, now) {
                Verdict::Wait(why, until) => held.trial = Some((why, until)),
                Verdict::Promote(why) => {
                    held.trial = None;
                    self.tell((&name, None), "canary-promoted", why);
                }
                Verdict::TakeBack(why) => {
                    held.trial = None;
                    let version = &held.wanted.version;
                    let why = format!("the canary of version {version} {why}");
                    held.rollout.outcome = Outcome::Failed(why.clone());
                    self.tell((&name, None), "rollout-failed", why);
                }
            }
        }
    }

    /// Counts what a version of a deployment has answered.
    pub fn count_answers(&mut self, name: &DeploymentName, version: &str, answers: &Answers) {
        if let Some(held) = self.deployments.get_mut(name)
            && held.wanted.version == version
            && let Some(canary) = &mut held.canary
        {
            canary.count(answers);
        }
    }

    /// A caller says how many requests wait with it for a deployment.
    pub fn note_waiting(&mut self, caller: CallerId, name: &DeploymentName, count: u64) {
        if let Some(deployment) = self.deployments.get_mut(name) {
            note_level(&mut deployment.waiting, caller, count);
        }
    }

    /// A caller says how many requests it has with replicas of a deployment.
    pub fn note_in_flight(&mut self, caller: CallerId, name: &DeploymentName, count: u64) {
        if let Some(deployment) = self.deployments.get_mut(name) {
            note_level(&mut deployment.in_flight, caller, count);
        }
    }

    /// A caller says that it has cut off a replica.
    pub fn cut_off(&mut self, id: &CallerId, replica: &ReplicaId, fault: &str, now: Instant) {
        let Some(callee) = self.replicas.get(replica) else { return };
        let Some(caller) = self.callers.all.get_mut(id).filter(|caller| caller.is_joined(replica)) else {
            return;
        };
        let Some(apart) = caller.severed.cut(replica, now) else { return };
        let name = callee.deployment.clone();
        let message = format!(
            "{id} says that it broke the rules of the data plane, and gets a new channel to it in {} ms: {fault}",
            apart.as_millis()
        );
        self.tell((&name, Some(replica)), "handle-cut-off", message);
    }

    /// A caller has no channel to a replica that it was joined with, and does not blame it.
    pub fn unjoined(&mut self, id: &CallerId, replica: &ReplicaId, why: String, now: Instant) {
        if let Some(caller) = self.callers.all.get_mut(id).filter(|caller| caller.is_joined(replica)) {
            caller.severed.lost(replica, why, now);
        }
    }

    /// Forgets a caller, with everything that waited there.
    pub fn forget_caller(&mut self, caller: &CallerId) {
        self.callers.all.remove(caller);
        for deployment in self.deployments.values_mut() {
            deployment.waiting.remove(caller);
            deployment.in_flight.remove(caller);
        }
    }

    /// Looks whether a deployment's template is good by now, and its change done: whether either is so.
    fn judge(&mut self, name: &DeploymentName, now: Instant) -> bool {
        let deployment = &self.deployments[name];
        if deployment.deleted || deployment.rollout.outcome != Outcome::Progressing {
            return false;
        }
        let template = &deployment.wanted.template;
        let good = self
            .replicas_of(name)
            .filter(|replica| replica.template == *template && !replica.span.is_awaited())
            .any(|replica| replica.good_since().is_some_and(|since| since + GOOD_LIFE <= now));
        let done = self.is_done(deployment, now);
        let Some(deployment) = self.deployments.get_mut(name) else { return false };
        let number = deployment.number();
        // Without a replica nothing was shown.
        if good || (done && number > 0) {
            deployment.prove();
        }
        if done {
            deployment.rollout.outcome = Outcome::Done;
            deployment.rollout.last_failure = None;
            let version = deployment.wanted.version.clone();
            let message = format!("{number} of {number} replicas run version {version}");
            self.tell((name, None), "rollout-done", message);
        }
        good || done
    }

    /// Whether everything is as wanted, and what was to go is gone: also what has failed on the way, for whoever is
    /// told that a change is done, or undone, looks at what there is then.
    fn is_done(&self, deployment: &Deployment, now: Instant) -> bool {
        let wanted = &deployment.wanted;
        let mut available = 0;
        for replica in self.replicas_of(&wanted.spec.name) {
            let as_wanted = replica.template == wanted.template && replica.has_config_of(wanted);
            if !as_wanted || !self.is_entered(replica) || !self.is_available(replica, now) {
                return false;
            }
            available += 1;
        }
        available == deployment.number()
            && self.callers.all_settled(&wanted.spec.name, now)
            && self.proxies_know_routes()
    }

    fn proxies_know_routes(&self) -> bool {
        let newest = self.routes.as_ref().map(|routes| routes.generation);
        self.callers.all.iter().any(|(id, caller)| {
            matches!(id, CallerId::Proxy(_))
                && caller.interests.get(&None).is_some_and(|i| i.sent == newest && i.is_settled())
        })
    }
}

/// Why a replica is to go, decided by a fact and carried out by the next plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// What it did.
    pub how: String,
    /// It gets no time to finish.
    pub at_once: bool,
}

fn note_level(levels: &mut BTreeMap<CallerId, u64>, caller: CallerId, count: u64) {
    if count == 0 {
        levels.remove(&caller);
    } else if levels.len() < WAITING_CALLERS_MAX || levels.contains_key(&caller) {
        levels.insert(caller, count);
    }
}

/// Callers whose waiting requests count for one deployment.
const WAITING_CALLERS_MAX: usize = 4_096;
/// Between two tries to put the desired state back, where the store refuses.
const PUT_BACK_RETRY: Duration = Duration::from_secs(5);
