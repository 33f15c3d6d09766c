//! Sets of deployments that change over as one (`rollout.together`): which of their replicas serve which requests.
//!
//! ```text
//!   new replicas start beside the old ones          span: awaited, nobody is sent to them
//!   all that a change needs are there  -> announce  spans: old until E-1, new since E; requests still enter with E-1
//!   every caller has heard             -> turn      requests enter with E
//!   no caller has a request before E   -> go        the old ones are retired as ever
//! ```
//!
//! One number counts the turns of all sets, and one turn is under way at a time. What was announced is turned to in any
//! case: a change of mind is the next turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use decurion_api::{ApplicationName, DeploymentName, ReplicaId, SetName};
use decurion_ipc::control::Generation;
use decurion_ipc::epoch::{Epoch, SetView, Span};
use serde::{Deserialize, Serialize};

use crate::desired::{Desired, TemplateId, Wanted};
use crate::reconcile::deployment::Deployment;
use crate::reconcile::observed::Observed;
use crate::reconcile::replica::Replica;

/// How far all sets are.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// What requests carry that enter by the newest views.
    pub entry: Epoch,
    /// What the spans take into account.
    pub known: Epoch,
    /// The turn that is announced.
    turning: Option<Turning>,
    /// What a supervisor after us would find.
    pub remembered: SetsRecord,
}

#[derive(Clone, Debug)]
struct Turning {
    set: SetName,
    /// Deployments that change.
    changed: Vec<DeploymentName>,
    /// Of the first views that tell of it.
    told: Option<Generation>,
}

/// What the requests of a deployment meet that enter now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// What is run.
    pub template: TemplateId,
    /// Since when.
    pub since: Epoch,
}

/// What has to outlive a supervisor so that the next one mixes nothing up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetsRecord {
    /// What the spans take into account.
    pub known: Epoch,
    /// Of each deployment that is one of a set.
    pub forms: BTreeMap<DeploymentName, Form>,
    /// Replicas whose set has changed over.
    pub over: BTreeMap<ReplicaId, Span>,
}

type SetKey<'a> = (&'a ApplicationName, &'a SetName);

/// Of which set a deployment is one.
pub(super) fn set_of(wanted: &Wanted) -> Option<SetKey<'_>> {
    wanted.spec.rollout.together.as_ref().map(|set| (&wanted.application, set))
}

impl Deployment {
    /// Whether requests are to meet something else than they do.
    #[must_use]
    pub fn awaits_turn(&self) -> bool {
        set_of(&self.wanted).is_some() && self.form.template != self.wanted.template
    }

    /// Whether a version that is not the wanted one may be run: in a set, the one that requests meet.
    #[must_use]
    pub fn may_run(&self, template: &TemplateId) -> bool {
        set_of(&self.wanted).is_none() || self.form.template == *template
    }

    /// What a new replica of this template serves.
    #[must_use]
    pub fn span_of(&self, template: &TemplateId) -> Span {
        match set_of(&self.wanted) {
            None => Span::ALL,
            Some(_) if *template == self.form.template => {
                Span { since: self.form.since, until: Epoch::NEVER }
            }
            Some(_) => Span::AWAITED,
        }
    }
}

impl Observed {
    /// Brings the sets forward, as far as what is observed allows.
    pub(super) fn turn_sets(&mut self, desired: &Desired, now: Instant) {
        self.free_those_outside();
        if self.sets.turning.as_ref().is_some_and(|turning| self.have_heard(turning, now)) {
            self.turn();
        }
        if self.sets.turning.is_none()
            && let Some((set, changed)) = self.ready_set(desired, now)
        {
            self.announce(set, changed, now);
        }
    }

    /// Deployments that are in no set serve every request.
    fn free_those_outside(&mut self) {
        for (name, deployment) in &mut self.deployments {
            if set_of(&deployment.wanted).is_some() {
                continue;
            }
            if deployment.form.template != deployment.wanted.template || deployment.form.since != Epoch(0) {
                deployment.form =
                    Form { template: deployment.wanted.template.clone(), since: Epoch::default() };
            }
            let replicas = self.replicas.values_mut().filter(|replica| replica.deployment == *name);
            replicas.for_each(|replica| replica.span = Span::ALL);
        }
    }

    /// Deployments that are new wait for their set where the others of it are to change: requests that meet these as they
    /// are would meet what was never wanted beside them.
    pub(super) fn join_sets(&mut self, new: &[DeploymentName]) {
        for name in new {
            let waits = self.deployments.get(name).and_then(|it| set_of(&it.wanted)).is_some_and(|key| {
                let mut others = self.members(key).filter(|(other, _)| !new.contains(other));
                others.any(|(other, deployment)| self.has_to_change(other, deployment))
            });
            if let Some(deployment) = self.deployments.get_mut(name).filter(|_| waits) {
                deployment.form = Form { template: TemplateId::none(), since: self.sets.known };
            }
        }
    }

    /// The first set of which something is to change, and can.
    fn ready_set(&self, desired: &Desired, now: Instant) -> Option<(SetName, Vec<DeploymentName>)> {
        let sets: BTreeSet<SetKey<'_>> = desired.deployments.values().filter_map(set_of).collect();
        sets.into_iter().find_map(|key| {
            let changed: Vec<DeploymentName> = self
                .members(key)
                .filter(|(name, deployment)| self.has_to_change(name, deployment))
                .map(|(name, _)| name.clone())
                .collect();
            let ready = !changed.is_empty() && self.missing_of_set(key, now).is_none();
            ready.then(|| (key.1.clone(), changed))
        })
    }

    fn members<'a>(&'a self, key: SetKey<'a>) -> impl Iterator<Item = (&'a DeploymentName, &'a Deployment)> {
        self.deployments.iter().filter(move |(_, deployment)| set_of(&deployment.wanted) == Some(key))
    }

    fn has_to_change(&self, name: &DeploymentName, deployment: &Deployment) -> bool {
        match deployment.deleted {
            true => self.replicas_of(name).any(|replica| !replica.span.is_over()),
            false => deployment.awaits_turn(),
        }
    }

    /// Whether a deployment that is to go is called by requests that have entered before its set changes over.
    #[must_use]
    pub fn is_kept_by_its_set(&self, name: &DeploymentName, now: Instant) -> bool {
        let Some(deployment) = self.deployments.get(name) else { return false };
        let Some(key) = set_of(&deployment.wanted) else { return false };
        let goes_on = self.members(key).any(|(_, other)| !other.deleted);
        goes_on && self.replicas_of(name).any(|replica| !self.is_past(replica, now).0)
    }

    /// Whether its set can't change over before somebody deploys again: one of it has failed, and is left so.
    #[must_use]
    pub fn is_blocked(&self, deployment: &Deployment) -> bool {
        let changes = self.has_to_change(&deployment.wanted.spec.name, deployment);
        let Some(key) = set_of(&deployment.wanted).filter(|_| changes) else { return false };
        self.members(key).any(|(_, other)| {
            let needed = other.awaits_turn() || !other.has_run(&other.wanted.template);
            !other.deleted && needed && other.is_halted() && !other.wanted.spec.rollout.auto_rollback
        })
    }

    /// What a set waits for before it changes over; one phrase.
    #[must_use]
    pub fn missing_of_set(&self, key: SetKey<'_>, now: Instant) -> Option<String> {
        self.members(key).filter(|(_, deployment)| !deployment.deleted).find_map(|(name, deployment)| {
            let wanted = &deployment.wanted;
            // What stays as it is and has run before is needed by no change.
            if !deployment.awaits_turn() && deployment.has_run(&wanted.template) {
                return None;
            }
            if wanted.paused {
                return Some(format!("'{name}' is paused; `decurion rollout resume {name}` goes on"));
            }
            if deployment.is_halted() && !wanted.spec.rollout.auto_rollback {
                return Some(format!(
                    "'{name}' has failed and is not undone (auto_rollback = false); deploy a version of it that works, or the \
                     whole set as it was"
                ));
            }
            if deployment.is_halted() {
                return Some(format!("'{name}' has failed"));
            }
            let number = deployment.number() as usize;
            let ready = self.replicas_of(name).filter(|replica| {
                replica.template == wanted.template
                    && !replica.span.is_over()
                    && self.is_available(replica, now)
            });
            let ready = ready.count();
            // As many as there is room for: the others follow when the old ones have gone.
            let starts = self.replicas_of(name).any(|replica| {
                replica.template == wanted.template && !replica.is_serving() && replica.is_active()
            });
            let needed = if deployment.short_of_room && !starts { number.min(1) } else { number };
            (ready < needed)
                .then(|| format!("'{name}' has {ready} of {number} replicas of version {}", wanted.version))
        })
    }

    fn announce(&mut self, set: SetName, changed: Vec<DeploymentName>, now: Instant) {
        let epoch = self.sets.known.next();
        self.sets.known = epoch;
        for name in &changed {
            let Some(deployment) = self.deployments.get_mut(name) else { continue };
            let template = deployment.wanted.template.clone();
            let deleted = deployment.deleted;
            let replicas = self.replicas.values_mut().filter(|replica| replica.deployment == *name);
            for replica in replicas.filter(|replica| !replica.span.is_over()) {
                match (replica.template == template && !deleted, replica.span.is_awaited()) {
                    (true, true) => replica.span = Span { since: epoch, until: Epoch::NEVER },
                    (false, false) => {
                        replica.span.until = epoch.before();
                        replica.over_since = Some(now);
                    }
                    (true, false) | (false, true) => {}
                }
            }
            if !deleted {
                deployment.form = Form { template, since: epoch };
            }
        }
        self.sets.turning = Some(Turning { set, changed, told: None });
    }

    /// The views tell of it now.
    pub(super) fn note_told(&mut self) {
        let generation = self.generation;
        if let Some(turning) = &mut self.sets.turning {
            turning.told.get_or_insert(generation);
        }
    }

    /// Whether everyone who calls what changes knows of it.
    fn have_heard(&self, turning: &Turning, now: Instant) -> bool {
        let Some(told) = turning.told else { return false };
        turning.changed.iter().all(|name| self.callers.all_have(name, told, now))
    }

    fn turn(&mut self) {
        let Some(Turning { set, changed, .. }) = self.sets.turning.take() else { return };
        self.sets.entry = self.sets.known;
        for name in changed {
            let Some(deployment) = self.deployments.get(&name).filter(|it| !it.deleted) else { continue };
            let version = &deployment.wanted.version;
            let message = format!("the set '{set}' has changed over; new requests meet version {version}");
            self.tell((&name, None), "set-turned", message);
        }
    }

    /// Whether no request comes any more that is for a replica whose set has changed over; if not, when it is waited for
    /// no longer.
    #[must_use]
    pub fn is_past(&self, replica: &Replica, now: Instant) -> (bool, Option<Instant>) {
        let Some(since) = replica.over_since.filter(|_| replica.span.is_over()) else { return (false, None) };
        let Some(deployment) = self.deployments.get(&replica.deployment) else { return (true, None) };
        let until = since + deployment.wanted.spec.graceful_shutdown_timeout;
        let entered = self.sets.entry > replica.span.until;
        let quiet = entered && self.callers.all_past(replica.span.until, now);
        (quiet || (entered && until <= now), entered.then_some(until))
    }

    /// Whether requests that enter now may go to this replica.
    #[must_use]
    pub fn is_entered(&self, replica: &Replica) -> bool {
        replica.span.holds(self.sets.entry)
    }

    /// How the replicas of a deployment stand in its set.
    pub(super) fn set_view(&self, deployment: &Deployment, serving: &[ReplicaId]) -> Option<SetView> {
        set_of(&deployment.wanted)?;
        let span = |id: &ReplicaId| self.replicas.get(id).map_or(Span::AWAITED, |replica| replica.span);
        Some(SetView { known: self.sets.known, spans: serving.iter().map(span).collect() })
    }

    /// What a supervisor after us has to know.
    #[must_use]
    pub fn sets_record(&self) -> SetsRecord {
        let forms: BTreeMap<DeploymentName, Form> = self
            .deployments
            .iter()
            .filter(|(_, deployment)| set_of(&deployment.wanted).is_some())
            .map(|(name, deployment)| (name.clone(), deployment.form.clone()))
            .collect();
        if forms.is_empty() && self.sets.known == Epoch::default() {
            return SetsRecord::default();
        }
        let over = self.replicas.values().filter(|replica| replica.span.is_over());
        let over = over.map(|replica| (replica.id.clone(), replica.span)).collect();
        SetsRecord { known: self.sets.known, forms, over }
    }

    /// Goes on where the supervisor before us has stopped. What it had announced counts as turned to: who has not heard
    /// of it waits for our word.
    pub(super) fn resume_sets(&mut self, record: SetsRecord) {
        self.sets.entry = record.known;
        self.sets.known = record.known;
        for (name, form) in &record.forms {
            if let Some(deployment) = self.deployments.get_mut(name) {
                deployment.form = form.clone();
            }
        }
        self.sets.remembered = record;
    }

    /// What a replica serves that the supervisor before us has started.
    pub(super) fn adopted_span(&self, id: &ReplicaId, template: &TemplateId, of: &DeploymentName) -> Span {
        let found = self.sets.remembered.over.get(id).copied();
        found.unwrap_or_else(|| self.deployments.get(of).map_or(Span::ALL, |it| it.span_of(template)))
    }
}

#[cfg(test)]
mod in_world;
