//! What callers are told: replicas first, then the views that name them, then who is gone.

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::Generation;

use crate::reconcile::callers::{ACKNOWLEDGE_MAX, Caller};
use crate::reconcile::fact::{CallerId, ProxyInstance};
use crate::reconcile::order::Order;
use crate::reconcile::plan::Planner;
use crate::reconcile::proxy::ProxyPhase;
use crate::reconcile::replica::{Phase, Replica};

impl Planner<'_> {
    /// Tells each caller what it does not know yet: replicas first, then the view that names them.
    pub(super) fn views(&mut self) {
        for (id, caller) in &self.observed.callers.all {
            self.detach_gone(id, caller);
            self.join_anew(id, caller);
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

    /// Joins a caller with those that it has cut off, when it is time and calls may go there.
    fn join_anew(&mut self, id: &CallerId, caller: &Caller) {
        for (replica, at) in caller.severed.apart() {
            let Some(held) = self.observed.replicas.get(replica) else { continue };
            let name = &held.deployment;
            let view = self.observed.views.get(name).and_then(|(_, view)| view.as_ref());
            let wanted = caller.interests.contains_key(&Some(name.clone()))
                && view.is_some_and(|view| view.replicas.contains(replica));
            if wanted && self.due(at) {
                self.order(Order::Attach {
                    caller: id.clone(),
                    replica: replica.clone(),
                    deployment: name.clone(),
                });
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

/// Of which deployment a replica is, or was: its id begins with the name.
fn deployment_of(id: &ReplicaId, held: Option<&Replica>) -> Option<DeploymentName> {
    if let Some(replica) = held {
        return Some(replica.deployment.clone());
    }
    let (name, _) = id.as_str().rsplit_once('-')?;
    DeploymentName::new(name).ok()
}
