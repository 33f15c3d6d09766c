//! One deployment brought nearer to what is wanted: replicas started, retired, reconfigured and looked after.

use std::collections::BTreeSet;
use std::time::Instant;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::ReplicaStart;

use crate::capacity::Reservation;
use crate::desired::{Wanted, constructor_args};
use crate::reconcile::backoff::GOOD_LIFE;
use crate::reconcile::deployment::{Deployment, Outcome};
use crate::reconcile::liveness::probe_period;
use crate::reconcile::order::{Order, PutBack, Spawn, Why};
use crate::reconcile::plan::Planner;
use crate::reconcile::plan::room::{Crowded, first_down};
use crate::reconcile::plan::stage::{Numbers, stage};
use crate::reconcile::recycle::{Wear, wear};
use crate::reconcile::replica::{Phase, Replica, jittered};
use crate::reconcile::takedown::{Standing, TakeDown, Verdict};

impl<'a> Planner<'a> {
    pub(super) fn deployment(&mut self, wanted: &'a Wanted, deployment: &'a Deployment) {
        self.put_back(wanted, deployment);
        self.autoscaled(wanted, deployment);
        self.tried(wanted, deployment);
        self.slow_starts(wanted);
        self.past(wanted);
        self.roll(wanted, deployment);
        if !deployment.is_halted() {
            self.reconfigure(wanted, deployment);
        }
        self.look_after(wanted, deployment);
        self.probe(&wanted.spec.name);
    }

    fn put_back(&mut self, wanted: &Wanted, deployment: &Deployment) {
        let found = match (&deployment.rollout.outcome, &deployment.config_refused) {
            (Outcome::Failed(why), _) if wanted.spec.rollout.auto_rollback && wanted.before.is_some() => {
                Some((PutBack::Everything, why))
            }
            (_, Some((config, why))) if *config == wanted.config => Some((PutBack::UserConfig, why)),
            _ => None,
        };
        let of_its_set = || self.failure_of_set(wanted, deployment).map(|why| (PutBack::Everything, why));
        let Some((what, why)) = found.map(|(what, why)| (what, why.clone())).or_else(of_its_set) else {
            return;
        };
        if self.fellow_goes_back(wanted) {
            return;
        }
        if deployment.put_back_at.is_none_or(|at| self.due(at)) {
            let (name, revision) = (wanted.spec.name.clone(), wanted.revision);
            self.order(Order::PutBack { deployment: name, revision, what, why });
        }
    }

    /// Looks again when the load may have another word, and says which it may be.
    fn autoscaled(&mut self, wanted: &Wanted, deployment: &Deployment) {
        let (Some(spec), Some(scaler)) = (&wanted.spec.autoscaling, &deployment.autoscaler) else { return };
        if let Some((until, why)) = &deployment.leaning {
            self.due(*until);
            self.hold(&wanted.spec.name, None, format!("autoscaling {why}"));
        }
        // Without replicas nothing changes by itself.
        if self.observed.replicas_of(&wanted.spec.name).any(Replica::is_serving) {
            self.due(scaler.next_at(spec, self.now));
        }
    }

    /// Looks again when a trial may be over, and says how it goes.
    fn tried(&mut self, wanted: &Wanted, deployment: &Deployment) {
        let Some((why, until)) = deployment.trial.as_ref().filter(|_| deployment.is_trying()) else { return };
        if let Some(until) = until
            && !wanted.paused
        {
            self.due(*until);
        }
        self.hold(&wanted.spec.name, None, why.clone());
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
        let number = deployment.number();
        let fallback = deployment.fallback();
        let halted = deployment.is_halted();
        let taken_back = deployment.is_taken_back();
        // Where the update has stopped, whatever serves may stay, but for a version that was tried and is no good.
        let is_kept = |replica: &Replica| {
            // What its set has never changed over to is of no use then.
            if halted && replica.span.is_awaited() {
                return false;
            }
            (replica.template == wanted.template && (!halted || (replica.is_serving() && !taken_back)))
                || fallback.is_some_and(|form| form.template == replica.template)
        };
        let (mut kept, mut old): (Vec<&Replica>, Vec<&Replica>) =
            self.active(name).into_iter().filter(|r| !r.span.is_over()).partition(|r| is_kept(r));
        let strays: Vec<&Replica> = old.extract_if(.., |replica| replica.span.is_awaited()).collect();
        for stray in strays {
            self.take_away(stray, Why::Update);
        }
        if old.is_empty()
            && self.may_recycle(name, number, &kept)
            && let Some((place, why)) = self.worn(wanted, &kept)
        {
            // From here on it is treated as one of an old version is.
            let replica = kept.remove(place);
            self.worn.insert(replica.id.clone(), why);
            old.push(replica);
        }
        let (down_max, mut surge) = limits(wanted, number);
        let (observed, now) = (self.observed, self.now);
        let available = |replica: &Replica| observed.is_available(replica, now);
        // One that waits for its set to change over gets no requests: it is no substitute for one that does.
        let counts = |replica: &Replica| !replica.span.is_awaited() && available(replica);
        let count = to_number(kept.iter().chain(&old).filter(|r| counts(r)).count());
        // Until one of the new template serves, the surge alone is used: a bad version costs nothing then.
        let proven = kept.iter().any(|replica| available(replica));
        // Nothing is wrong with one that has done its part: it serves until another does.
        let proven = proven && !old.iter().any(|replica| self.worn.contains_key(&replica.id));
        let form = if halted { fallback } else { Some(wanted) };
        let crowded = form.map_or(Crowded::No, |form| self.crowded(form, deployment, (&kept, &old)));
        let down_max = match &crowded {
            Crowded::No if proven || surge == 0 || old.is_empty() => down_max,
            Crowded::No | Crowded::InVain => 0,
            // As with no surge at all, but that one may always go.
            Crowded::Yes(_) if proven => down_max.max(1),
            Crowded::Yes(_) => 1,
        };
        if let Crowded::Yes(_) = crowded {
            surge = 0;
        }

        let (new, others) = (to_number(kept.len()), to_number(old.len()));
        let numbers = Numbers { number, down_max, surge, new, old: others };
        let is_crowded = matches!(crowded, Crowded::Yes(_));
        let stage = stage(wanted, deployment, numbers)
            .or_else(|| self.set_stage(wanted, deployment, numbers, is_crowded));
        let (new_max, old_max) = stage.as_ref().map_or((number, 0), |stage| (stage.new, stage.old));
        if let Some(stage) = &stage {
            self.hold(name, None, stage.why.clone());
        }
        let standing: Vec<(Standing, &Replica)> = victims((&kept, new_max), (&old, old_max))
            .into_iter()
            .map(|r| (standing_of(r, counts(r)), r))
            .collect();
        let why = if old.is_empty() { Why::Scale } else { Why::Update };
        let mut takedown = TakeDown::new(number, count, down_max);
        let (mut kept_left, mut old_left) = (new, others);
        for (standing, replica) in standing {
            match takedown.ask(standing) {
                Verdict::Granted => {
                    let goes_as_old = !is_kept(replica) || self.worn.contains_key(&replica.id);
                    let left = if goes_as_old { &mut old_left } else { &mut kept_left };
                    *left -= 1;
                    let worn = self.worn.get(&replica.id);
                    let why = match (worn, &crowded) {
                        (None, _) if is_kept(replica) => Why::Scale,
                        (Some(worn), Crowded::Yes(how)) if standing != Standing::Idle => {
                            Why::Recycle(first_down(worn, how, &takedown))
                        }
                        (None, Crowded::Yes(how)) if standing != Standing::Idle => {
                            Why::Room(first_down(why.reason(), how, &takedown))
                        }
                        (Some(worn), _) => Why::Recycle(worn.clone()),
                        (None, _) => why.clone(),
                    };
                    self.take_away(replica, why);
                }
                Verdict::Held { available, floor } => {
                    let reason = format!("{available} replicas are available, and at least {floor} must be");
                    self.hold(name, Some(&replica.id), reason);
                }
            }
        }

        let Some(form) = form else { return };
        // Of a set both versions are there at once.
        let surge = if deployment.awaits_turn() { surge.max(number) } else { surge };
        let beyond = if old.is_empty() && stage.is_none() { 0 } else { surge };
        let mut room = (number + beyond).saturating_sub(kept_left + old_left);
        let before = wanted.before.as_deref().filter(|before| deployment.may_run(&before.template));
        if let (Some(stage), Some(before)) = (&stage, before) {
            // Meanwhile the old version holds the field.
            let missing = stage.old.saturating_sub(old_left).min(room);
            self.start(before, number, deployment, missing);
            room -= missing;
        }
        let missing = new_max.saturating_sub(kept_left);
        self.start(form, number, deployment, room.min(missing));
    }

    /// One is replaced at a time: whoever takes its place may be there already; else all that are wanted are.
    fn may_recycle(&self, name: &DeploymentName, number: u32, kept: &[&Replica]) -> bool {
        let going = self.observed.replicas_of(name).any(|r| matches!(r.leaving_why(), Some(Why::Recycle(_))));
        let available = || kept.iter().all(|replica| self.observed.is_available(replica, self.now));
        match to_number(kept.len()).cmp(&number) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => !going && available(),
            std::cmp::Ordering::Greater => !going,
        }
    }

    /// The one of these that is to be replaced next, for it has done its part: the one that has served longest.
    fn worn(&mut self, wanted: &Wanted, kept: &[&Replica]) -> Option<(usize, String)> {
        let spec = wanted.spec.recycle.as_ref()?;
        let mut worn: Option<(Instant, usize, String)> = None;
        for (place, replica) in kept.iter().enumerate() {
            let Some(since) = replica.good_since() else { continue };
            match wear(spec, replica, since, self.now) {
                Wear::Fit(Some(at)) => {
                    self.due(at);
                }
                Wear::Fit(None) => {}
                Wear::Worn(why) if worn.as_ref().is_none_or(|(first, ..)| since < *first) => {
                    worn = Some((since, place, why));
                }
                Wear::Worn(_) => {}
            }
        }
        worn.map(|(_, place, why)| (place, why))
    }

    /// Starts up to `count` replicas in free places.
    fn start(&mut self, form: &'a Wanted, number: u32, deployment: &'a Deployment, count: u32) {
        let name = &form.spec.name;
        let taken: BTreeSet<u32> = self
            .active(name)
            .iter()
            .filter(|replica| replica.template == form.template && !replica.span.is_over())
            .filter(|replica| !self.worn.contains_key(&replica.id))
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
                self.set_aside(form);
                started += 1;
                continue;
            }
            let Some(reservation) = self.set_aside(form) else { return };
            self.spawns += 1;
            let replica = ReplicaId::numbered(name, self.observed.replica_number.wrapping_add(self.spawns));
            self.order(Order::Spawn(Box::new(spawn(form, replica, (place, number), reservation))));
            started += 1;
        }
    }

    /// Brings the `user_config` of running replicas to what is wanted: one first, then a few at a time.
    fn reconfigure(&mut self, wanted: &'a Wanted, deployment: &'a Deployment) {
        let Some(config) = &wanted.spec.user_config else { return };
        if deployment.config_refused.as_ref().is_some_and(|(refused, _)| *refused == wanted.config) {
            return;
        }
        let (down_max, _) = limits(wanted, deployment.number());
        let replicas = self.active(&wanted.spec.name);
        let serving =
            || replicas.iter().filter(|replica| replica.is_serving() && replica.template == wanted.template);
        let accepted = serving().any(|r| r.config == wanted.config && r.taking().is_none());
        let busy = serving().filter(|replica| replica.taking().is_some()).count();
        let mut room = if accepted { down_max.max(1) } else { 1 }.saturating_sub(to_number(busy));
        for replica in
            serving().filter(|r| r.config != wanted.config && r.taking().is_none() && r.is_in_rotation())
        {
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
                // Idle, and with nothing to say: nobody is woken for that.
                None if !wanted.class.checks_health && replica.board.ongoing == 0 => {}
                None if self.due(replica.health.next_at) => {
                    let sequence = self.next_sequence();
                    self.order(Order::CheckHealth { replica: replica.id.clone(), sequence });
                }
                None => {}
            }
        }
    }

    /// Asks for signs of life, and looks again when one has not come.
    fn probe(&mut self, name: &'a DeploymentName) {
        let replicas = self.active(name);
        // Whoever hangs does not move: that others of its kind do, says that requests may wait for it.
        let busy = replicas
            .iter()
            .any(|replica| replica.liveness.is_busy(self.now) || replica.progress.is_watched());
        let period = probe_period(busy, self.observed.replicas.len());
        for replica in replicas.into_iter().filter(|replica| replica.is_serving()) {
            let liveness = &replica.liveness;
            let sequence = self.next_sequence();
            let period = jittered(period, &replica.id, 0);
            if self.due(liveness.next_at(period)) && liveness.asked.is_none() {
                self.order(Order::Probe { replica: replica.id.clone(), sequence });
            }
        }
    }

    pub(super) fn next_sequence(&self) -> u64 {
        // Every order of the plan counts, so that no two of one plan are alike.
        self.observed.sequence + 1 + self.plan.orders.len() as u64
    }
}

/// `max_unavailable` and `max_surge` of a deployment, of which at least one is not zero.
pub(crate) fn limits(wanted: &Wanted, number: u32) -> (u32, u32) {
    let down = wanted.spec.rollout.max_unavailable.floor_of(number);
    let surge = wanted.spec.rollout.max_surge.ceil_of(number);
    (down, if down == 0 { surge.max(1) } else { surge })
}

/// Who is to go, in this order: those of other templates that are beyond what these may have, and those of the wanted
/// one that are; of each those first that did not start yet, then the youngest.
fn victims<'a>(
    (kept, kept_max): (&[&'a Replica], u32),
    (old, old_max): (&[&'a Replica], u32),
) -> Vec<&'a Replica> {
    let by_age = |replicas: &[&'a Replica]| {
        let mut replicas = replicas.to_vec();
        replicas.sort_by_key(|r| (r.is_serving(), std::cmp::Reverse((r.spawned_at, r.place, r.id.clone()))));
        replicas
    };
    let beyond = |replicas: &[&'a Replica], most: u32| replicas.len().saturating_sub(most as usize);
    let old_beyond = beyond(old, old_max);
    let kept_beyond = beyond(kept, kept_max);
    by_age(old).into_iter().take(old_beyond).chain(by_age(kept).into_iter().take(kept_beyond)).collect()
}

fn standing_of(replica: &Replica, available: bool) -> Standing {
    match (replica.is_serving() && !replica.span.is_awaited(), available) {
        (_, true) => Standing::Available,
        (true, false) => Standing::Serving,
        (false, false) => Standing::Idle,
    }
}

fn spawn(form: &Wanted, replica: ReplicaId, (place, number): (u32, u32), reservation: Reservation) -> Spawn {
    let spec = &form.spec;
    Spawn {
        start: ReplicaStart {
            replica,
            deployment: spec.name.clone(),
            application: form.application.clone(),
            version: form.version.clone(),
            library: form.library.clone(),
            class: form.class.name.clone(),
            args: constructor_args(spec).to_string(),
            user_config: spec.user_config.as_ref().map(ToString::to_string),
            threads: spec.threads,
            max_ongoing_requests: form.max_ongoing_requests(),
            rank: place,
            world_size: number,
        },
        runtime_env: spec.runtime_env.clone(),
        reservation,
        template: form.template.clone(),
        config: form.config.clone(),
    }
}

fn to_number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
