//! How one revision of the desired state follows from another: every request of an operator, and what is put back
//! after a failure. Pure; the result is stored before anything acts on it.

mod graph;
mod preview;
mod refusal;

use std::collections::BTreeMap;

use decurion_api::admin::{Applied, Change, ChangeAction};
use decurion_api::limits::{DEPLOYMENTS_MAX, REPLICAS_MAX};
use decurion_api::spec::{ApplicationSpec, DeploymentSpec, LibraryRef};
use decurion_api::{ApplicationName, ClassName, DeploymentName};
use decurion_ipc::codec::MESSAGE_MAX;

use crate::capacity::Capacity;
use crate::desired::{ClassInfo, Desired, RESTART_FIELDS, RolledBack, Wanted, fields_of};
use crate::reconcile::REASON_IN_VIEW_MAX;

pub(crate) use preview::replicas_of;
pub use refusal::Refusal;

/// A revision that could be stored next, and what it would change.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The whole of it. Its revision is the present one where nothing changes.
    pub desired: Desired,
    /// For whoever asked.
    pub applied: Applied,
}

/// What is known of how a deployment stands, at the time of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The present form was rolled out whole.
    pub whole: bool,
    /// The present form failed and stopped.
    pub failed: bool,
    /// A replica of the present template has taken the present `user_config`.
    pub config_taken: bool,
}

/// A library in the store, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLibrary {
    /// SHA-256 of its bytes.
    pub digest: String,
    /// At least one.
    pub classes: Vec<ClassInfo>,
}

/// The libraries that a request refers to.
pub type Libraries = BTreeMap<LibraryRefKey, StoredLibrary>;

/// A library as a request names it.
pub type LibraryRefKey = String;

/// The key of a reference.
#[must_use]
pub fn library_key(library: &LibraryRef) -> LibraryRefKey {
    match library {
        LibraryRef::Path(path) => format!("path:{path}"),
        LibraryRef::Digest(digest) => format!("digest:{digest}"),
        LibraryRef::Graph => "graph".to_owned(),
    }
}

/// Changes a desired state, knowing how its deployments stand.
pub struct Changer<'a> {
    current: &'a Desired,
    standing: &'a dyn Fn(&DeploymentName) -> Standing,
    /// What there is for replicas; `None`: it is not looked at.
    capacity: Option<&'a Capacity>,
    next: Desired,
    changes: Vec<Change>,
}

impl std::fmt::Debug for Changer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changer").field("next", &self.next).finish_non_exhaustive()
    }
}

impl<'a> Changer<'a> {
    /// Starts from the present state, refusing where it is not of the revision that the caller expects.
    ///
    /// # Errors
    /// [`Refusal::RevisionMismatch`].
    pub fn new(
        current: &'a Desired,
        expected: Option<u64>,
        standing: &'a dyn Fn(&DeploymentName) -> Standing,
    ) -> Result<Self, Refusal> {
        if let Some(expected) = expected
            && expected != current.revision
        {
            return Err(Refusal::RevisionMismatch { expected, found: current.revision });
        }
        let next = Desired { revision: current.revision + 1, ..current.clone() };
        Ok(Self { current, standing, capacity: None, next, changes: Vec::new() })
    }

    /// Refuses what would never fit a machine that has so much.
    #[must_use]
    pub fn on(self, capacity: &'a Capacity) -> Self {
        Self { capacity: Some(capacity), ..self }
    }

    /// Declares a whole application: what it leaves out is deleted.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn application(mut self, spec: ApplicationSpec, libraries: &Libraries) -> Result<Proposal, Refusal> {
        if let Some(http) = spec.http {
            self.next.http = http;
        }
        let mut named = Vec::new();
        for deployment in &spec.deployments {
            if named.contains(&deployment.name) {
                return Err(Refusal::Twice(deployment.name.clone()));
            }
            named.push(deployment.name.clone());
            if let Some(held) = self.current.deployments.get(&deployment.name)
                && held.application != spec.application
            {
                let (name, owner) = (deployment.name.clone(), held.application.clone());
                return Err(Refusal::OtherOwner { name, owner });
            }
        }
        let gone: Vec<DeploymentName> = self
            .next
            .deployments
            .iter()
            .filter(|(name, wanted)| wanted.application == spec.application && !named.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.remove(&name);
        }
        // Graphs come after what they may call.
        let (graphs, code): (Vec<_>, Vec<_>) =
            spec.deployments.into_iter().partition(|deployment| deployment.graph.is_some());
        for deployment in code {
            self.put(spec.application.clone(), deployment, libraries, false)?;
        }
        let siblings: Vec<DeploymentName> = graphs.iter().map(|graph| graph.name.clone()).collect();
        for mut deployment in graphs {
            graph::resolve(&mut deployment, &self.next, &siblings)?;
            self.put(spec.application.clone(), deployment, libraries, false)?;
        }
        self.finish()
    }

    /// Deletes a whole application.
    ///
    /// # Errors
    /// [`Refusal::NoSuchApplication`].
    pub fn delete_application(mut self, application: &ApplicationName) -> Result<Proposal, Refusal> {
        let of = |wanted: &Wanted| wanted.application == *application;
        let names: Vec<_> =
            self.next.deployments.iter().filter(|(_, w)| of(w)).map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return Err(Refusal::NoSuchApplication(application.clone()));
        }
        names.iter().for_each(|name| self.remove(name));
        self.finish()
    }

    /// Deploys one deployment by itself: always a new version, unless the operator names the live one.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn deployment(
        mut self,
        application: ApplicationName,
        mut spec: DeploymentSpec,
        libraries: &Libraries,
    ) -> Result<Proposal, Refusal> {
        graph::resolve(&mut spec, &self.next, &[])?;
        let owner = self.current.deployments.get(&spec.name).map_or(application, |w| w.application.clone());
        self.put(owner, spec, libraries, true)?;
        self.finish()
    }

    /// Changes fields that running replicas can take.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn configure(
        mut self,
        name: &DeploymentName,
        change: impl FnOnce(&mut DeploymentSpec),
    ) -> Result<Proposal, Refusal> {
        let held = self.held(name)?.clone();
        let mut next = held.clone();
        change(&mut next.spec);
        self.settle(&held, next);
        self.finish()
    }

    /// Changes the number of replicas.
    ///
    /// # Errors
    /// [`Refusal::Autoscaled`] where the load decides it.
    pub fn scale(self, name: &DeploymentName, replicas: u32) -> Result<Proposal, Refusal> {
        if let Some(scaling) = &self.held(name)?.spec.autoscaling {
            let (name, min, max) = (name.clone(), scaling.min_replicas, scaling.max_replicas);
            return Err(Refusal::Autoscaled { name, min, max });
        }
        self.configure(name, |spec| spec.num_replicas = replicas)
    }

    /// Replaces every replica, step by step, with one of the same form.
    ///
    /// # Errors
    /// [`Refusal::NoSuchDeployment`].
    pub fn restart(mut self, name: &DeploymentName) -> Result<Proposal, Refusal> {
        let held = self.held(name)?.clone();
        let mut next = held.clone();
        next.attempt += 1;
        self.settle(&held, next);
        self.finish()
    }

    /// Lets the update of a deployment go no further, or go on. Its form stays what it is.
    ///
    /// # Errors
    /// [`Refusal::NoSuchDeployment`].
    pub fn pause(mut self, name: &DeploymentName, paused: bool) -> Result<Proposal, Refusal> {
        let held = self.held(name)?;
        let changes = held.paused != paused;
        let (action, fields) = match changes {
            true => (ChangeAction::Configure, vec!["paused".to_owned()]),
            false => (ChangeAction::Unchanged, Vec::new()),
        };
        self.note(name, action, fields);
        if let Some(next) = self.next.deployments.get_mut(name) {
            next.paused = paused;
        }
        self.finish()
    }

    /// Brings back an earlier form: the one given, or the last that was rolled out whole.
    ///
    /// # Errors
    /// [`Refusal::NothingBefore`].
    pub fn rollback(mut self, name: &DeploymentName, to: Option<Wanted>) -> Result<Proposal, Refusal> {
        let held = self.held(name)?.clone();
        let Some(next) = to.or_else(|| held.before.as_deref().cloned()) else {
            return Err(Refusal::NothingBefore(name.clone()));
        };
        self.settle(&held, next);
        self.finish()
    }

    /// Deletes one.
    ///
    /// # Errors
    /// [`Refusal::NoSuchDeployment`].
    pub fn delete(mut self, name: &DeploymentName) -> Result<Proposal, Refusal> {
        self.held(name)?;
        self.remove(name);
        self.finish()
    }

    /// After a failed update: the last form that was rolled out whole, with a note of what failed. A set goes back as it
    /// came: with those that were changed with it, and those that have not changed over yet.
    ///
    /// # Errors
    /// [`Refusal::NothingBefore`].
    pub fn put_back(mut self, name: &DeploymentName, why: String) -> Result<Proposal, Refusal> {
        let held = self.held(name)?;
        if held.before.is_none() {
            return Err(Refusal::NothingBefore(name.clone()));
        }
        let set = |wanted: &Wanted| {
            wanted.spec.rollout.together.clone().map(|set| (wanted.application.clone(), set))
        };
        let fellows: Vec<&Wanted> = self
            .current
            .deployments
            .values()
            .filter(|other| other.spec.name != *name && set(held).is_some() && set(other) == set(held))
            .filter(|other| other.revision == held.revision || !(self.standing)(&other.spec.name).whole)
            .filter(|other| other.before.as_ref().is_some_and(|before| before.template != other.template))
            .collect();
        self.put_form_back(held, why.clone());
        for fellow in fellows {
            self.put_form_back(fellow, format!("its set goes back with '{name}': {why}"));
        }
        self.conclude()
    }

    fn put_form_back(&mut self, held: &Wanted, message: String) {
        let Some(before) = held.before.as_deref().cloned() else { return };
        let rolled_back = RolledBack { revision: held.revision, version: held.version.clone(), message };
        self.insert(held, Wanted { rolled_back: Some(rolled_back), ..before });
    }

    /// After a refused `user_config`: the one before it, with a note of the refusal.
    ///
    /// # Errors
    /// [`Refusal::NoSuchDeployment`].
    pub fn put_config_back(mut self, name: &DeploymentName, why: String) -> Result<Proposal, Refusal> {
        let held = self.held(name)?.clone();
        let mut next = held.clone();
        next.spec.user_config = held.config_before.clone();
        next.config_before = None;
        next.seal();
        let rolled_back = RolledBack { revision: held.revision, version: held.version.clone(), message: why };
        self.insert(&held, Wanted { rolled_back: Some(rolled_back), ..next });
        self.conclude()
    }

    fn held(&self, name: &DeploymentName) -> Result<&'a Wanted, Refusal> {
        self.current.deployments.get(name).ok_or_else(|| Refusal::NoSuchDeployment {
            name: name.clone(),
            known: self.current.deployments.keys().cloned().collect(),
        })
    }

    fn put(
        &mut self,
        application: ApplicationName,
        mut spec: DeploymentSpec,
        libraries: &Libraries,
        imperative: bool,
    ) -> Result<(), Refusal> {
        let held = self.current.deployments.get(&spec.name);
        if let Some(expected) = spec.prev_version.take() {
            let live = held.map(|held| held.version.clone());
            let applied = live.is_some() && live == spec.version;
            if live.as_ref() != Some(&expected) && !applied {
                return Err(Refusal::VersionMismatch { name: spec.name, expected, live });
            }
        }
        // The operator's word for the live version: the code stays as it is, whatever else the request says of it.
        if let Some(held) = held.filter(|held| spec.version.is_some() && spec.version == held.spec.version) {
            spec.library = held.spec.library.clone();
            spec.class = held.spec.class.clone();
            spec.args = held.spec.args.clone();
            spec.graph = held.spec.graph.clone();
            let mut next = held.clone();
            next.spec = spec;
            self.settle(held, next);
            return Ok(());
        }
        let (library, class) = resolve(&spec, libraries)?;
        let next = Wanted::new(application, spec, library, class, self.next.revision, imperative);
        match held {
            Some(held) => {
                let (attempt, paused) = (same_code_attempt(held, &next), held.paused);
                self.settle(held, Wanted { attempt, paused, ..next });
            }
            None => {
                self.note(&next.spec.name, ChangeAction::Create, Vec::new());
                self.foretell(preview::steps(None, &next));
                self.next.deployments.insert(next.spec.name.clone(), next);
            }
        }
        Ok(())
    }

    /// Puts a changed form in place of the held one, or leaves the held one alone where nothing differs.
    fn settle(&mut self, held: &Wanted, mut next: Wanted) {
        let name = &held.spec.name;
        next.seal();
        let standing = (self.standing)(name);
        if next.template == held.template && standing.failed {
            // Asking for the same again after a failure is asking for another try.
            next.attempt += 1;
            next.seal();
        }
        let config_goes = held.spec.user_config.is_some() && next.spec.user_config.is_none();
        if next.template == held.template && config_goes {
            // No call takes a configuration back: only a fresh instance has none.
            next.attempt += 1;
            next.seal();
        }
        let differing = differing_fields(&held.spec, &next.spec);
        let owner_stays = next.application == held.application;
        if next.template == held.template && differing.is_empty() && owner_stays {
            self.note(name, ChangeAction::Unchanged, Vec::new());
            return;
        }
        let action =
            if next.template == held.template { ChangeAction::Configure } else { ChangeAction::Roll };
        next.config_before = match next.template == held.template {
            true if standing.config_taken => held.spec.user_config.clone(),
            true => held.config_before.clone(),
            false => None,
        };
        next.before = if standing.whole { Some(held.alone()) } else { held.before.clone() };
        next.rolled_back = None;
        next.revision = self.next.revision;
        self.note(name, action, differing);
        self.foretell(preview::steps(Some(held), &next));
        self.next.deployments.insert(name.clone(), next);
    }

    /// Puts a form back as it was; only its revision is new.
    fn insert(&mut self, held: &Wanted, mut next: Wanted) {
        next.revision = self.next.revision;
        let name = held.spec.name.clone();
        let action =
            if next.template == held.template { ChangeAction::Configure } else { ChangeAction::Roll };
        self.note(&name, action, differing_fields(&held.spec, &next.spec));
        self.next.deployments.insert(name, next);
    }

    fn remove(&mut self, name: &DeploymentName) {
        self.next.deployments.remove(name);
        self.note(name, ChangeAction::Delete, Vec::new());
    }

    fn note(&mut self, name: &DeploymentName, action: ChangeAction, fields: Vec<String>) {
        self.changes.push(Change { deployment: name.clone(), action, fields, steps: Vec::new() });
    }

    /// Says of the newest change what is going to happen.
    fn foretell(&mut self, steps: Vec<String>) {
        if let Some(change) = self.changes.last_mut() {
            change.steps = steps;
        }
    }

    /// Checks that every graph still finds what it calls, and the whole.
    fn finish(self) -> Result<Proposal, Refusal> {
        graph::check(&self.next)?;
        self.check_room()?;
        self.conclude()
    }

    /// What is changed has to fit if there was nothing else. What stays as it is has nobody to tell.
    fn check_room(&self) -> Result<(), Refusal> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        for change in self.changes.iter().filter(|change| change.action != ChangeAction::Unchanged) {
            let Some(wanted) = self.next.deployments.get(&change.deployment) else { continue };
            let (needs, replicas) = (&wanted.spec.resources, wanted.replicas_min());
            if !capacity.has_room_for(replicas, needs) {
                return Err(Refusal::NoRoom {
                    name: change.deployment.clone(),
                    replicas,
                    needs: needs.clone(),
                    capacity: capacity.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Checks the whole, and keeps the revision where nothing differs. What is put back after a failure is not held
    /// up by a graph: it finds out when it calls.
    fn conclude(mut self) -> Result<Proposal, Refusal> {
        check(&self.next)?;
        if self.next.http == self.current.http && self.next.deployments == self.current.deployments {
            self.next.revision = self.current.revision;
        }
        let changes = std::mem::take(&mut self.changes);
        let touched = changes.iter().filter_map(|change| self.next.deployments.get(&change.deployment));
        let warnings = touched.flat_map(Wanted::warnings).collect();
        let applied = Applied { revision: self.next.revision, dry_run: false, changes, warnings };
        Ok(Proposal { desired: self.next, applied })
    }
}

/// A restart counts for its template only: a new version starts from none, unless it is the held one's again.
fn same_code_attempt(held: &Wanted, next: &Wanted) -> u64 {
    if held.version == next.version { held.attempt } else { 0 }
}

pub(crate) fn differing_fields(held: &DeploymentSpec, next: &DeploymentSpec) -> Vec<String> {
    let (held, next) = (fields_of(held), fields_of(next));
    let mut fields: Vec<String> = next
        .iter()
        .filter(|(field, value)| held.get(*field) != Some(value))
        .map(|(f, _)| f.clone())
        .collect();
    // What makes a restart comes first.
    fields.sort_by_key(|field| !RESTART_FIELDS.contains(&field.as_str()));
    fields
}

fn resolve(spec: &DeploymentSpec, libraries: &Libraries) -> Result<(String, ClassInfo), Refusal> {
    let name = || spec.name.clone();
    let library = libraries
        .get(&library_key(&spec.library))
        .ok_or_else(|| Refusal::NoLibrary { name: name(), library: library_key(&spec.library) })?;
    let known = || library.classes.iter().map(|class| class.name.clone()).collect::<Vec<_>>();
    let graph = spec.graph.as_ref().and_then(|graph| ClassName::new(graph.class()).ok());
    let class = match (spec.class.as_ref().or(graph.as_ref()), library.classes.as_slice()) {
        (Some(wanted), classes) => classes
            .iter()
            .find(|class| class.name == *wanted)
            .ok_or_else(|| Refusal::NoClass { name: name(), class: wanted.clone(), known: known() })?,
        (None, [only]) => only,
        (None, _) => return Err(Refusal::WhichClass { name: name(), known: known() }),
    };
    Ok((library.digest.clone(), class.clone()))
}

/// Bytes of a view, with room for what stands around the deployments.
const VIEW_MAX: usize = MESSAGE_MAX - 1024;

/// Bytes of a deployment in a view, at most: every word of it, and what bincode and a change of version add.
fn view_bytes(wanted: &Wanted) -> usize {
    const FIXED: usize = 128;
    const LENGTH: usize = 8;
    const SPAN: usize = 16;
    let spec = &wanted.spec;
    let name = spec.name.as_str().len();
    let most = wanted.replicas_max();
    let replicas = most as usize + spec.rollout.max_surge.ceil_of(most) as usize;
    let methods: usize = wanted.class.methods.iter().map(|method| LENGTH + method.len()).sum();
    let prefix = spec.route_prefix.as_ref().map_or(0, |prefix| prefix.as_str().len());
    // Of a set there may be two versions at once, and what each replica of them serves.
    let each = LENGTH + name + 9;
    let replicas = match spec.rollout.together {
        Some(_) => replicas.max(2 * most as usize) * (each + SPAN),
        None => replicas * each,
    };
    // A replica's id is the name, a dash and up to eight digits.
    FIXED + 2 * name + prefix + REASON_IN_VIEW_MAX + methods + replicas
}

fn check(desired: &Desired) -> Result<(), Refusal> {
    if desired.deployments.len() > DEPLOYMENTS_MAX {
        return Err(Refusal::TooManyDeployments);
    }
    let needed = desired.deployments.values().map(view_bytes).sum();
    if needed > VIEW_MAX {
        return Err(Refusal::ViewTooLarge { needed });
    }
    let mut mounted: BTreeMap<&str, &DeploymentName> = BTreeMap::new();
    for (name, wanted) in &desired.deployments {
        let least = u32::from(wanted.spec.autoscaling.is_none());
        if !(least..=REPLICAS_MAX).contains(&wanted.spec.num_replicas) {
            return Err(Refusal::Replicas { name: name.clone(), found: wanted.spec.num_replicas });
        }
        if wanted.spec.user_config.is_some() && !wanted.class.reconfigures {
            return Err(Refusal::TakesNoConfig { name: name.clone(), class: wanted.class.name.clone() });
        }
        if let Some(prefix) = &wanted.spec.route_prefix
            && let Some(holder) = mounted.insert(prefix.as_str(), name)
        {
            return Err(Refusal::RouteTaken {
                prefix: prefix.clone(),
                name: name.clone(),
                holder: holder.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
