//! What operators are shown.

use std::time::Instant;

use decurion_api::status::{
    DeploymentState, DeploymentStatus, ProxyStatus, ReplicaStatus, RolloutOutcome, RolloutStatus,
};

use crate::reconcile::autoscale::Autoscaler;
use crate::reconcile::callers::Caller;
use crate::reconcile::core::Core;
use crate::reconcile::deployment::{Deployment, Outcome, RolloutKind};
use crate::reconcile::fact::CallerId;
use crate::reconcile::proxy::ProxyPhase;
use crate::reconcile::replica::Replica;
use crate::reconcile::together::set_of;

impl Core {
    /// Every deployment's status, by name. Memory is for the one who can measure it to fill in.
    #[must_use]
    pub fn deployment_statuses(&self, now: Instant) -> Vec<DeploymentStatus> {
        self.observed().deployments.values().map(|deployment| self.status_of(deployment, now)).collect()
    }

    /// The proxy's status.
    #[must_use]
    pub fn proxy_status(&self) -> ProxyStatus {
        let observed = self.observed();
        let current = observed.proxies.current();
        let told =
            |caller: &Caller| caller.interests.get(&None).is_some_and(|interest| interest.has_applied());
        let settings = current.map_or(&self.desired().http, |(_, proxy)| &proxy.settings);
        ProxyStatus {
            pid: current.and_then(|(_, proxy)| proxy.pid),
            listen: settings.listen.clone(),
            tls: settings.tls.is_some(),
            ready: current.is_some_and(|(instance, proxy)| {
                proxy.phase == ProxyPhase::Running
                    && proxy.listening
                    && observed.callers.all.get(&CallerId::Proxy(instance)).is_some_and(told)
            }),
            up_to_date: current.is_some_and(|(_, proxy)| {
                proxy.phase == ProxyPhase::Running
                    && proxy.configuring.is_none()
                    && observed.proxies.has_been_given(proxy, &self.desired().http)
            }),
            restarts: observed.proxies.restarts,
        }
    }

    fn status_of(&self, deployment: &Deployment, now: Instant) -> DeploymentStatus {
        let wanted = &deployment.wanted;
        let mut replicas: Vec<&Replica> = self.observed().replicas_of(&wanted.spec.name).collect();
        replicas.sort_by_key(|replica| (replica.place, replica.spawned_at, replica.id.clone()));
        let available: Vec<bool> =
            replicas.iter().map(|replica| self.observed().is_available(replica, now)).collect();
        let serving = replicas.iter().filter(|replica| replica.is_in_rotation()).count();
        let updated = replicas
            .iter()
            .zip(&available)
            .filter(|(r, available)| **available && r.template == wanted.template && r.has_config_of(wanted))
            .count();
        let status = state_of(deployment, serving);
        let message = self.message_of(deployment, status, (serving, updated), now);
        DeploymentStatus {
            name: wanted.spec.name.clone(),
            application: wanted.application.clone(),
            status,
            message,
            version: wanted.version.clone(),
            revision: wanted.revision,
            class: wanted.class.name.as_str().to_owned(),
            library: wanted.library.clone(),
            route_prefix: wanted.spec.route_prefix.clone(),
            target_replicas: if deployment.deleted { 0 } else { deployment.number() },
            replicas: replicas
                .iter()
                .zip(&available)
                .map(|(r, available)| replica_status(r, *available, now))
                .collect(),
            ended: deployment.ended.iter().cloned().collect(),
            rollout: self.rollout_of(deployment, updated),
        }
    }

    fn rollout_of(&self, deployment: &Deployment, updated: usize) -> RolloutStatus {
        let wanted = &deployment.wanted;
        let updated = u32::try_from(updated).unwrap_or(u32::MAX);
        if let Some(undone) = &wanted.rolled_back {
            let (outcome, message) = self.way_back_of(deployment, &undone.message);
            let (revision, version) = (undone.revision, undone.version.clone());
            let blocked = deployment.deleted && self.observed().is_blocked(deployment);
            return RolloutStatus { revision, version, outcome, updated, message, blocked };
        }
        let (outcome, message) = match &deployment.rollout.outcome {
            Outcome::Progressing => (RolloutOutcome::InProgress, self.waits_for(deployment)),
            Outcome::Done => (RolloutOutcome::Done, String::new()),
            Outcome::Failed(why) => (RolloutOutcome::Failed, why.clone()),
        };
        RolloutStatus {
            revision: wanted.revision,
            version: wanted.version.clone(),
            outcome,
            updated,
            message,
            blocked: (deployment.deleted || outcome == RolloutOutcome::InProgress)
                && self.observed().is_blocked(deployment),
        }
    }

    /// How it goes with what is put back for this reason: it is undone only when everything is as it was.
    fn way_back_of(&self, deployment: &Deployment, failure: &str) -> (RolloutOutcome, String) {
        match &deployment.rollout.outcome {
            Outcome::Done => (RolloutOutcome::RolledBack, failure.to_owned()),
            Outcome::Progressing => {
                let message = match self.waits_for(deployment) {
                    why if why.is_empty() => format!("it is being undone: {failure}"),
                    why => format!("it is being undone: {failure}; {why}"),
                };
                (RolloutOutcome::InProgress, message)
            }
            Outcome::Failed(why) => {
                let message = format!("{failure}; what was put back has failed as well: {why}");
                (RolloutOutcome::Failed, message)
            }
        }
    }

    fn message_of(
        &self,
        deployment: &Deployment,
        status: DeploymentState,
        (serving, updated): (usize, usize),
        now: Instant,
    ) -> String {
        let wanted = &deployment.wanted;
        match (status, &deployment.rollout.outcome) {
            (_, Outcome::Failed(why)) if serving > 0 => format!("{why}; what served before serves on"),
            (_, Outcome::Failed(why)) => why.clone(),
            (DeploymentState::Deleting, _) => self.farewell_of(deployment, now),
            (DeploymentState::Healthy, _) => match &wanted.rolled_back {
                Some(undone) => format!("revision {} was put back: {}", undone.revision, undone.message),
                None => scaling_of(deployment),
            },
            (_, _) => {
                let count = format!("{updated} of {} replicas are as wanted", deployment.number());
                match self.waits_for(deployment) {
                    why if why.is_empty() => count,
                    why => format!("{count}; {why}"),
                }
            }
        }
    }

    /// What a deployment that is deleted still waits for.
    fn farewell_of(&self, deployment: &Deployment, now: Instant) -> String {
        let key = set_of(&deployment.wanted).filter(|_| self.observed().is_blocked(deployment));
        match key.and_then(|key| Some((key.1, self.observed().missing_of_set(key, now)?))) {
            Some((set, missing)) => format!("it is called until the set '{set}' changes over: {missing}"),
            None => "its replicas finish what they have".to_owned(),
        }
    }

    /// What holds a deployment back: its last failure first, then what the plan said.
    fn waits_for(&self, deployment: &Deployment) -> String {
        if let Some(failure) = &deployment.rollout.last_failure {
            let times = deployment.rollout.failures;
            return match times {
                0 | 1 => format!("a replica {failure}"),
                _ => format!("{times} starts have failed; the last replica {failure}"),
            };
        }
        let name = &deployment.wanted.spec.name;
        if !self.proxy_status().ready {
            return "the proxy is not ready".to_owned();
        }
        self.report()
            .held
            .iter()
            .find(|held| held.deployment == *name)
            .map_or_else(String::new, |held| held.reason.clone())
    }
}

/// Why there are as many replicas as there are, where the load decides.
fn scaling_of(deployment: &Deployment) -> String {
    let leaning = deployment.leaning.as_ref().map(|(_, why)| why.as_str());
    let decided = deployment.autoscaler.as_ref().and_then(Autoscaler::last_decision);
    leaning.or(decided).map_or_else(String::new, |why| format!("autoscaling {why}"))
}

fn state_of(deployment: &Deployment, serving: usize) -> DeploymentState {
    if deployment.deleted {
        return DeploymentState::Deleting;
    }
    let wanted = deployment.number() as usize;
    let failing = deployment.rollout.last_failure.is_some();
    match (&deployment.rollout.outcome, deployment.rollout.kind) {
        (Outcome::Failed(_), _) => DeploymentState::DeployFailed,
        (Outcome::Progressing, RolloutKind::Upscale | RolloutKind::Downscale) if failing => {
            DeploymentState::Unhealthy
        }
        (Outcome::Progressing, RolloutKind::Upscale) => DeploymentState::Upscaling,
        (Outcome::Progressing, RolloutKind::Downscale) => DeploymentState::Downscaling,
        (Outcome::Progressing, _) => DeploymentState::Updating,
        (Outcome::Done, _) if serving < wanted && deployment.moving => DeploymentState::Upscaling,
        (Outcome::Done, _) if serving > wanted && deployment.moving => DeploymentState::Downscaling,
        (Outcome::Done, _) if serving < wanted => DeploymentState::Unhealthy,
        (Outcome::Done, _) => DeploymentState::Healthy,
    }
}

fn replica_status(replica: &Replica, available: bool, now: Instant) -> ReplicaStatus {
    ReplicaStatus {
        id: replica.id.clone(),
        pid: replica.pid.unwrap_or_default(),
        state: replica.state(available),
        version: replica.version.clone(),
        ongoing: replica.board.ongoing,
        processed: replica.board.processed,
        restarts: replica.restarts,
        uptime_s: now.duration_since(replica.spawned_at).as_secs(),
        rss_bytes: 0,
        oldest_request_ms: replica
            .progress
            .oldest(now)
            .filter(|_| replica.board.ongoing > 0)
            .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
    }
}
