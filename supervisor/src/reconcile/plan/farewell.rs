//! Replicas on their way out, deployments that are to go, and the end of everything.

use std::collections::BTreeSet;
use std::time::Duration;

use decurion_api::DeploymentName;

use crate::reconcile::deployment::Deployment;
use crate::reconcile::observed::Stopping;
use crate::reconcile::order::{Order, Why};
use crate::reconcile::plan::Planner;
use crate::reconcile::proxy::ProxyPhase;
use crate::reconcile::replica::{LEAVING_MAX, Phase, Replica};

impl Planner<'_> {
    /// Deployments that are to go: those that others of them call go last, so that what runs can finish.
    pub(super) fn unwanted(&mut self, is_unwanted: impl Fn(&Deployment) -> bool, why: &Why) {
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
            .filter(|replica| !self.is_kept_by_its_set(replica, why))
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

    /// Requests that entered before its set changes over may still call one that is deleted.
    fn is_kept_by_its_set(&mut self, replica: &Replica, why: &Why) -> bool {
        if *why != Why::Delete || !self.observed.is_kept_by_its_set(&replica.deployment, self.now) {
            return false;
        }
        if let (_, Some(until)) = self.observed.is_past(replica, self.now) {
            self.due(until);
        }
        true
    }

    /// Replicas on their way out, each step when its time has come.
    pub(super) fn leaving(&mut self) {
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
            // Whoever still talks to it has had that time already.
            Ok(()) if self.parts() => self.order(Order::Drain { replica: id, grace: Duration::ZERO }),
            Ok(()) => self.order(Order::Drain { replica: id, grace }),
            Err(until) => {
                if let Some(until) = until {
                    self.due(until);
                }
                let reason = "a caller has not yet acknowledged that it is gone".to_owned();
                self.hold(&replica.deployment, Some(&id), reason);
            }
        }
    }

    /// Whether everything is about to end, and what goes on without an end is to be told so while there is time for an
    /// answer: a proxy has connections that no drain ends (websockets), and their replicas would be killed with it.
    fn parts(&mut self) -> bool {
        let grace = self.longest_grace();
        let left = (grace / 4).min(PARTING_MAX);
        self.observed.stopping.is_some_and(|stopping| self.due(stopping.since + grace.saturating_sub(left)))
    }

    /// Everything goes: the proxies first, so that what they have accepted is still answered.
    pub(super) fn stop(&mut self, stopping: Stopping) {
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
                // One that was replaced has longer than there is now.
                ProxyPhase::Draining(until) if until > deadline => {
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
        } else if self.observed.proxies.all.is_empty() || self.parts() {
            self.unwanted(|_| true, &Why::Shutdown);
        }
        let empty = self.observed.replicas.is_empty() && self.observed.proxies.all.is_empty();
        if empty && !self.observed.finished {
            self.order(Order::Finished);
        }
    }

    pub(super) fn longest_grace(&self) -> Duration {
        self.observed
            .deployments
            .values()
            .map(|deployment| deployment.wanted.spec.graceful_shutdown_timeout)
            .max()
            .unwrap_or(IDLE_PROXY_GRACE)
    }
}

/// What is left of the grace for goodbyes; less, where the grace is short.
const PARTING_MAX: Duration = Duration::from_secs(3);
/// What an idle proxy has to stop, where no deployment says otherwise.
const IDLE_PROXY_GRACE: Duration = Duration::from_secs(20);
