//! The truth of each deployment as callers are to know it, renewed from what is observed.

use std::collections::{BTreeMap, BTreeSet};

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::{Availability, CanaryView, DeploymentView, Generation, MethodView, RouteView};

use crate::desired::{Desired, Wanted};
use crate::reconcile::deployment::{Deployment, Outcome};
use crate::reconcile::observed::Observed;
use crate::reconcile::replica::Replica;

/// Bytes of the reason why a deployment failed, as callers are told it; `status` has all of it.
pub const REASON_IN_VIEW_MAX: usize = 480;

impl Observed {
    /// Gives each view that says something new a new generation.
    pub(super) fn renew_views(&mut self, desired: &Desired) {
        let mut fresh = BTreeMap::new();
        for (name, deployment) in &self.deployments {
            let serving: Vec<ReplicaId> =
                self.replicas_of(name).filter(|r| r.is_serving()).map(|r| r.id.clone()).collect();
            if !deployment.deleted || !serving.is_empty() {
                fresh.insert(name.clone(), self.view_of(deployment, serving));
            }
        }
        let next = Generation(self.generation.0 + 1);
        let mut changed = false;
        for (name, view) in &fresh {
            if self.views.get(name).and_then(|(_, view)| view.as_ref()) != Some(view) {
                self.views.insert(name.clone(), (next, Some(view.clone())));
                changed = true;
            }
        }
        for (name, (generation, view)) in &mut self.views {
            if view.is_some() && !fresh.contains_key(name) {
                (*generation, *view) = (next, None);
                changed = true;
            }
        }
        let asked: BTreeSet<&DeploymentName> =
            self.callers.all.values().flat_map(|caller| caller.interests.keys().flatten()).collect();
        self.views.retain(|name, (_, view)| view.is_some() || asked.contains(name));
        let deployments: Vec<DeploymentView> = fresh
            .into_iter()
            .filter(|(name, _)| desired.deployments.contains_key(name))
            .map(|(_, view)| Self::in_rotation(view))
            .collect();
        if self.routes.as_ref().is_none_or(|routes| routes.deployments != deployments) {
            self.routes = Some(RouteView { generation: next, deployments });
            changed = true;
        }
        if changed {
            self.generation = next;
        }
    }

    /// A view without those that are silent, for the proxy. Handles let go of a channel to whom no view names, so they
    /// are told of them beside the others until it is certain that nobody comes back.
    fn in_rotation(mut view: DeploymentView) -> DeploymentView {
        let spans = view.in_rotation().map(|id| view.span(id)).collect();
        if let Some(set) = &mut view.set {
            set.spans = spans;
        }
        view.replicas = view.in_rotation().cloned().collect();
        view.silent = Vec::new();
        view.canary = view.canary.take().and_then(|mut canary| {
            canary.replicas.retain(|id| view.replicas.contains(id));
            (!canary.replicas.is_empty()).then_some(canary)
        });
        view
    }

    fn view_of(&self, deployment: &Deployment, serving: Vec<ReplicaId>) -> DeploymentView {
        let wanted = &deployment.wanted;
        let class = &self.class_in_service(deployment).class;
        let availability = match &deployment.rollout.outcome {
            Outcome::Failed(why) if serving.is_empty() && deployment.fallback().is_none() => {
                let why: String = why.chars().take(REASON_IN_VIEW_MAX / 4).collect();
                Availability::Failed(format!("deployment '{}' failed to deploy: {why}", wanted.spec.name))
            }
            _ => Availability::Expected,
        };
        let silent = |id: &&ReplicaId| !self.replicas.get(*id).is_some_and(Replica::is_in_rotation);
        DeploymentView {
            name: wanted.spec.name.clone(),
            route_prefix: wanted.spec.route_prefix.clone(),
            availability,
            silent: serving.iter().filter(silent).cloned().collect(),
            canary: self.canary_of(deployment, &serving),
            entry: self.sets.entry,
            set: self.set_view(deployment, &serving),
            replicas: serving,
            max_ongoing_requests: wanted.max_ongoing_requests(),
            max_queued_requests: wanted.spec.max_queued_requests,
            request_timeout: wanted.spec.request_timeout,
            http: class.http,
            methods: class.methods.iter().map(|name| MethodView { name: name.clone() }).collect(),
            encodings: class.encodings,
        }
    }

    /// Who is tried, beside others.
    fn canary_of(&self, deployment: &Deployment, serving: &[ReplicaId]) -> Option<CanaryView> {
        let spec = deployment.wanted.spec.rollout.canary.as_ref().filter(|_| deployment.is_trying())?;
        let is_new = |id: &&ReplicaId| {
            self.replicas.get(*id).is_some_and(|replica| replica.template == deployment.wanted.template)
        };
        let replicas: Vec<ReplicaId> = serving.iter().filter(is_new).cloned().collect();
        let beside = !replicas.is_empty() && replicas.len() < serving.len();
        beside.then_some(CanaryView { replicas, weight: spec.weight })
    }

    /// The form whose class callers are told of: the wanted one as soon as it serves, the one before until then.
    fn class_in_service<'a>(&self, deployment: &'a Deployment) -> &'a Wanted {
        let wanted = &deployment.wanted;
        let serves = |form: &Wanted| {
            let mut replicas = self.replicas_of(&wanted.spec.name);
            replicas.any(|r| r.is_serving() && r.template == form.template && !r.span.is_awaited())
        };
        match wanted.before.as_deref() {
            Some(before) if !serves(wanted) && serves(before) => before,
            _ => wanted,
        }
    }
}
