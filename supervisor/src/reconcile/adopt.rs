//! What a supervisor before us has left: replicas, proxies and callers that live on become part of what is observed,
//! as if this life had started them. All of them are told before the first plan is made, so that no view is made of a
//! part of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use decurion_api::spec::HttpSpec;
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::Generation;

use crate::capacity::Reservation;
use crate::desired::{ConfigId, TemplateId, Wanted};
use crate::reconcile::autoscale::Autoscaler;
use crate::reconcile::callers::{INTERESTS_MAX, Interest};
use crate::reconcile::core::Core;
use crate::reconcile::deployment::Deployment;
use crate::reconcile::fact::{Board, CallerId, ProxyInstance};
use crate::reconcile::liveness::Liveness;
use crate::reconcile::order::Why;
use crate::reconcile::progress::Progress;
use crate::reconcile::proxy::{Proxy, ProxyPhase};
use crate::reconcile::replica::{Health, Phase, Replica, jittered};

/// A replica that lives on.
#[derive(Clone, Debug, PartialEq)]
pub struct AdoptedReplica {
    /// Which.
    pub replica: ReplicaId,
    /// What its deployment was to be when it was started.
    pub wanted: Wanted,
    /// What it runs.
    pub template: TemplateId,
    /// The version of that.
    pub version: String,
    /// Which of the deployment's places it fills.
    pub place: u32,
    /// How many came before it in its place because they failed.
    pub restarts: u64,
    /// Its process id.
    pub pid: i32,
    /// Since its start.
    pub age: Duration,
    /// The `user_config` that it has.
    pub config: ConfigId,
    /// What it has of the machine.
    pub reservation: Reservation,
    /// How far it is.
    pub stage: AdoptedStage,
}

/// How far in its life a replica is that lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdoptedStage {
    /// Not yet ready.
    Starting,
    /// Ready.
    Serving,
    /// On its way out, for this reason.
    Draining(Why),
}

/// A proxy that lives on.
#[derive(Clone, Debug, PartialEq)]
pub struct AdoptedProxy {
    /// Which.
    pub instance: ProxyInstance,
    /// Its process id.
    pub pid: i32,
    /// Since its start.
    pub age: Duration,
    /// The settings that it goes by.
    pub settings: HttpSpec,
    /// It takes connections.
    pub listening: bool,
    /// It was told to drain, and has so long for that yet.
    pub draining: Option<Duration>,
    /// Replicas that new requests go to.
    pub routed: BTreeSet<ReplicaId>,
    /// Replicas that it is joined with.
    pub attached: BTreeSet<ReplicaId>,
    /// It runs another program than one that was started now would.
    pub outdated: bool,
}

/// Where counting goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Of this supervisor's life: views and orders of different lives have different numbers.
    pub life: u32,
    /// Highest number of a replica that somebody may still know.
    pub replica: u32,
    /// Highest number of a proxy.
    pub proxy: u32,
}

impl Core {
    /// Counts on where the supervisor before us has stopped.
    pub fn resume(&mut self, counts: Counts) {
        let first = u64::from(counts.life) << 32;
        self.observed.generation = Generation(first);
        self.observed.sequence = first;
        self.observed.replica_number = counts.replica;
        self.observed.proxies.newest = counts.proxy;
    }

    pub(super) fn adopt_replica(&mut self, adopted: AdoptedReplica, now: Instant) {
        let name = adopted.wanted.spec.name.clone();
        let deployment = self.observed.deployments.entry(name.clone()).or_insert_with(|| {
            // Deleted while it was going: only its replicas are still to go.
            Deployment { deleted: true, ..Deployment::new(&adopted.wanted) }
        });
        let period = deployment.wanted.spec.health_check_period;
        let spawned_at = now.checked_sub(adopted.age).unwrap_or(now);
        let (phase, how) = match adopted.stage {
            AdoptedStage::Starting => (Phase::Starting, "it is not yet ready"),
            AdoptedStage::Serving => (Phase::Serving { since: spawned_at, taking: None }, "it serves"),
            AdoptedStage::Draining(why) => (Phase::Draining { since: now, why }, "it is on its way out"),
        };
        let id = adopted.replica;
        let span = self.observed.adopted_span(&id, &adopted.template, &name);
        let mut health = Health::new(now);
        health.next_at = now + jittered(period, &id, 0);
        self.observed.replicas.insert(
            id.clone(),
            Replica {
                id: id.clone(),
                deployment: name.clone(),
                template: adopted.template,
                version: adopted.version,
                place: adopted.place,
                restarts: adopted.restarts,
                spawned_at,
                pid: Some(adopted.pid),
                phase,
                config: adopted.config,
                reservation: adopted.reservation,
                // Not known: it is told again.
                limit: 0,
                health,
                liveness: Liveness::new(now),
                progress: Progress::default(),
                board: Board::default(),
                condemned: None,
                lost: None,
                over_since: span.is_over().then_some(now),
                span,
            },
        );
        self.count_places(&name);
        let message = format!("pid {} is adopted from the supervisor before: {how}", adopted.pid);
        self.observed.tell((&name, Some(&id)), "replica-adopted", message);
    }

    /// What the load has brought the number of replicas to is not forgotten.
    fn count_places(&mut self, name: &DeploymentName) {
        let active = self.observed.replicas_of(name).filter(|replica| replica.is_active());
        let places = active.map(|replica| replica.place).collect::<BTreeSet<u32>>().len();
        if let Some(deployment) = self.observed.deployments.get_mut(name)
            && let (Some(spec), Some(scaler)) =
                (&deployment.wanted.spec.autoscaling, &mut deployment.autoscaler)
        {
            *scaler = Autoscaler::new(spec, u32::try_from(places).unwrap_or(u32::MAX));
        }
    }

    pub(super) fn adopt_proxy(&mut self, adopted: AdoptedProxy, now: Instant) {
        let phase = match adopted.draining {
            Some(left) => ProxyPhase::Draining(now + left),
            None => ProxyPhase::Running,
        };
        let proxy = Proxy {
            pid: Some(adopted.pid),
            spawned_at: now.checked_sub(adopted.age).unwrap_or(now),
            settings: adopted.settings,
            certificates: None,
            configuring: None,
            phase,
            listening: adopted.listening,
            outdated: adopted.outdated,
            liveness: Liveness::of_proxy(now),
            hung: false,
        };
        self.observed.proxies.all.insert(adopted.instance, proxy);
        let interest = Interest::adopted(self.observed.generation, adopted.routed, &adopted.attached, now);
        let caller = self.observed.add_caller(CallerId::Proxy(adopted.instance));
        caller.attached = adopted.attached;
        caller.interests.insert(None, interest);
        let message = format!("the proxy, pid {}, is adopted from the supervisor before", adopted.pid);
        self.tell_of_proxy("proxy-adopted", message);
    }

    /// A caller that has channels from before asks for a deployment. What it says of replicas that are not the
    /// deployment's, or are gone, is of no account.
    pub(super) fn rejoin(
        &mut self,
        caller: CallerId,
        deployment: DeploymentName,
        replicas: Vec<ReplicaId>,
        now: Instant,
    ) {
        self.resolve(caller.clone(), deployment.clone());
        let known: BTreeSet<ReplicaId> = replicas
            .into_iter()
            .filter(|id| self.observed.replicas.get(id).is_some_and(|it| it.deployment == deployment))
            .collect();
        let generation = self.observed.generation;
        let Some(held) = self.observed.callers.all.get_mut(&caller) else { return };
        let room = held.interests.len() <= INTERESTS_MAX;
        if let Some(interest) =
            held.interests.get_mut(&Some(deployment)).filter(|it| room && it.sent.is_none())
        {
            *interest = Interest::adopted(generation, known.clone(), &known, now);
            held.attached.extend(known);
        }
    }
}
