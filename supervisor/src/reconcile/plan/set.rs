//! Deployments of a set: how far the new version goes before the set changes over, and when the old one goes.

use crate::desired::Wanted;
use crate::reconcile::deployment::{Deployment, Outcome};
use crate::reconcile::order::{Order, Why};
use crate::reconcile::plan::Planner;
use crate::reconcile::plan::stage::{Numbers, Stage};
use crate::reconcile::replica::Replica;
use crate::reconcile::together::set_of;

impl<'a> Planner<'a> {
    /// Replicas whose set has changed over go when no request comes for them any more.
    pub(super) fn past(&mut self, wanted: &'a Wanted) {
        let over = |replica: &&Replica| replica.span.is_over();
        let replicas: Vec<&Replica> = self.active(&wanted.spec.name).into_iter().filter(over).collect();
        for replica in replicas {
            match self.observed.is_past(replica, self.now) {
                (true, _) => self.take_away(replica, Why::Update),
                (false, _) if !replica.is_serving() => self.take_away(replica, Why::Update),
                (false, until) => {
                    if let Some(until) = until {
                        self.due(until);
                    }
                    let reason = "requests that entered before its set changed over are under way".to_owned();
                    self.hold(&wanted.spec.name, Some(&replica.id), reason);
                }
            }
        }
    }

    /// Where a deployment halts until its set changes over: the new version whole beside the old one.
    /// Where there is no room for both, one of the old goes first.
    pub(super) fn set_stage(
        &self,
        wanted: &Wanted,
        deployment: &Deployment,
        numbers: Numbers,
        is_crowded: bool,
    ) -> Option<Stage> {
        let key = set_of(wanted).filter(|_| deployment.awaits_turn() && !deployment.is_halted())?;
        let missing = self.observed.missing_of_set(key, self.now);
        let why = match missing {
            Some(missing) => format!("the set '{}' changes over as one: {missing}", key.1),
            None => format!("the set '{}' changes over", key.1),
        };
        let Numbers { number, new, old, .. } = numbers;
        let old = match is_crowded {
            true if new == 0 && old >= number => number.saturating_sub(1),
            true => old,
            false => number,
        };
        Some(Stage { new: number, old, why })
    }

    /// What one of a set has made room for is its own until its first new one is there: another of the set that took it
    /// would wait with it for the set to change over, for ever.
    pub(super) fn earmark(&mut self, deployments: &[(&'a Wanted, &'a Deployment)]) {
        for (wanted, deployment) in deployments {
            let (name, needs) = (&wanted.spec.name, &wanted.spec.resources);
            let goes_on = deployment.awaits_turn() && !deployment.is_halted() && !wanted.paused;
            if !goes_on || needs.is_empty() {
                continue;
            }
            let there = self.active(name).into_iter().filter(|replica| !replica.span.is_over());
            let (new, old): (Vec<_>, Vec<_>) = there.partition(|replica| replica.template == wanted.template);
            let has_made_room = new.is_empty() && old.len() < deployment.number() as usize;
            if let Some(Ok(reservation)) = has_made_room.then(|| self.room.reserve(needs)) {
                self.reserved.push(reservation.clone());
                self.earmarked.insert(name.clone(), reservation);
            }
        }
    }

    /// Whether the set of a deployment goes back already, for another of it: one word takes all of it back.
    pub(super) fn fellow_goes_back(&self, wanted: &Wanted) -> bool {
        let Some(key) = set_of(wanted) else { return false };
        let fellows = self.observed.deployments.iter().filter(|(name, _)| **name != wanted.spec.name);
        fellows.filter(|(_, other)| set_of(&other.wanted) == Some(key)).any(|(name, other)| {
            let ordered =
                |order: &Order| matches!(order, Order::PutBack { deployment, .. } if deployment == name);
            other.put_back_at.is_some_and(|at| at > self.now) || self.plan.orders.iter().any(ordered)
        })
    }

    /// Why a deployment can't change over, where another of its set has failed that has nothing to go back to.
    pub(super) fn failure_of_set(&self, wanted: &Wanted, deployment: &Deployment) -> Option<String> {
        let key = set_of(wanted).filter(|_| deployment.awaits_turn() && wanted.before.is_some())?;
        self.desired.deployments.iter().filter(|(_, other)| set_of(other) == Some(key)).find_map(
            |(name, other)| {
                let back = other.spec.rollout.auto_rollback && other.before.is_none();
                match &self.observed.deployments.get(name)?.rollout.outcome {
                    Outcome::Failed(why) if back => Some(format!("'{name}' of the set '{}': {why}", key.1)),
                    _ => None,
                }
            },
        )
    }
}
