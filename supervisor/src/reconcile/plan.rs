//! The plan of one turn: what to do next, given what is wanted and what is observed; and what is held back, and why.

mod farewell;
mod proxy;
mod roll;
mod room;
mod set;
mod stage;
mod views;

pub(crate) use roll::limits;
pub(crate) use stage::canary_replicas;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use decurion_api::{DeploymentName, ReplicaId};

use crate::capacity::{Reservation, Room};
use crate::desired::Desired;
use crate::reconcile::observed::Observed;
use crate::reconcile::order::{Order, Why};
use crate::reconcile::replica::{LOST_MAX, Replica};

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
    /// Deployments that need more room than there is or is about to be, with one sentence each.
    pub short_of_room: BTreeMap<DeploymentName, String>,
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
        worn: BTreeMap::new(),
        spawns: 0,
        room: observed.room_beside(|_| true),
        reserved: Vec::new(),
        earmarked: BTreeMap::new(),
    };
    planner.remember_sets();
    planner.condemned();
    match observed.stopping {
        Some(stopping) => planner.stop(stopping),
        None => {
            let known = |(name, wanted)| Some((wanted, observed.deployments.get(name)?));
            let mut deployments: Vec<_> = desired.deployments.iter().filter_map(known).collect();
            deployments.sort_by_key(|(_, deployment)| deployment.asks_for_more());
            planner.earmark(&deployments);
            for (wanted, deployment) in deployments {
                planner.deployment(wanted, deployment);
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
    /// Replicas that have done their part and are being replaced, with why.
    worn: BTreeMap<ReplicaId, String>,
    /// Replicas that this plan starts.
    spawns: u32,
    /// What nobody has of the machine.
    room: Room<'a>,
    /// What this plan has set aside.
    reserved: Vec<Reservation>,
    /// Of it, what is for the first new one of a deployment that has made room for it.
    earmarked: BTreeMap<DeploymentName, Reservation>,
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

    /// What a supervisor after us has to know is kept before anybody is told.
    fn remember_sets(&mut self) {
        let record = self.observed.sets_record();
        if record != self.observed.sets.remembered {
            self.order(Order::RememberSets(Box::new(record)));
        }
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
}
