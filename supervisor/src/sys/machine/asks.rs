//! Questions and changes of the admin API, of the configuration file, and of the core itself.

use std::collections::BTreeSet;

use decurion_api::admin::{Applied, Description, HeldStep, HistoryEntry, Undone};
use decurion_api::spec::ApplicationSpec;
use decurion_api::spec::file::{deployment_to_json, patch_deployment};
use decurion_api::status::SystemStatus;
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::stats::TrafficKey;

use crate::admin::{Answer, Ask, AskError, Change};
use crate::change::{Changer, Libraries, Refusal, differing_fields, replicas_of};
use crate::desired::{Desired, Wanted, fields_of};
use crate::metrics::{ProcessUse, Snapshot};
use crate::reconcile::{Note, PutBack};
use crate::store::DesiredStore;
use crate::sys::artifacts::{ConfigError, read_config};
use crate::sys::clock;
use crate::sys::machine::Machine;
use crate::sys::process;
use crate::sys::tls;

/// Fields that come with code, which only a deployment brings.
const NOT_BY_PATCH: [&str; 5] = ["library", "class", "args", "version", "graph"];

impl Machine {
    pub(super) fn answer(&mut self, ask: Ask) -> Result<Answer, AskError> {
        match ask {
            Ask::Status => Ok(Answer::Status(Box::new(self.status()))),
            Ask::Metrics => Ok(Answer::Metrics(Box::new(self.snapshot()))),
            Ask::Desired => Ok(Answer::Desired(Box::new(self.desired.clone()))),
            Ask::History(name) => self.history(&name).map(Answer::History),
            Ask::Describe(name) => Ok(Answer::Description(Box::new(self.describe(&name)?))),
            Ask::Change { if_revision, dry_run, change } => {
                self.change(if_revision, dry_run, *change).map(Answer::Applied)
            }
            Ask::RenewCertificates => self.renew_tls().map(|_| Answer::Renewed),
            Ask::Shutdown { at_once } => {
                self.stop(at_once);
                Ok(Answer::Stopping)
            }
        }
    }

    fn status(&mut self) -> SystemStatus {
        self.sample_boards();
        let now = clock::now();
        for fact in std::mem::take(&mut self.facts) {
            self.lives.note(&fact, self.core.observed());
            self.core.handle(fact, now);
        }
        let mut deployments = self.core.deployment_statuses(now.at);
        for replica in deployments.iter_mut().flat_map(|deployment| &mut deployment.replicas) {
            replica.rss_bytes =
                self.replicas.get(&replica.id).map_or(0, |child| child.process.resident_bytes());
        }
        let mut proxy = self.core.proxy_status();
        // Where any free port was asked for, the one that was given is the useful answer.
        if let Some(address) = self.listeners.get(&proxy.listen).and_then(|l| l.local_addr().ok()) {
            proxy.listen = address.to_string();
        }
        SystemStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or_default(),
            uptime_s: now.at.duration_since(self.started_at).as_secs(),
            revision: self.desired.revision,
            proxy,
            deployments,
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let status = self.status();
        self.forget_counts();
        let mut processes = vec![use_of(std::process::id().cast_signed(), "supervisor", None)];
        processes.extend(self.proxies.values().map(|child| use_of(child.process.pid(), "proxy", None)));
        processes.extend(self.replicas.iter().map(|(id, child)| {
            use_of(child.process.pid(), "replica", Some((child.deployment.clone(), id.clone())))
        }));
        let measured = self.replicas.iter().filter(|(_, child)| !child.measured.is_empty());
        let measured = measured
            .map(|(id, child)| ((child.deployment.clone(), id.clone()), child.measured.clone()))
            .collect();
        let (traffic, lives) = (self.traffic.clone(), self.lives.clone());
        Snapshot { status, traffic, lives, processes, measured }
    }

    /// Forgets what was counted of deployments and versions that are gone.
    pub(super) fn forget_counts(&mut self) {
        let observed = self.core.observed();
        let versions = observed.replicas.values().map(|replica| (&replica.deployment, &replica.version));
        let wanted = observed.deployments.values().map(|d| (&d.wanted.spec.name, &d.wanted.version));
        let none = String::new();
        let exists = versions.chain(wanted).chain(observed.deployments.keys().map(|name| (name, &none)));
        let exists = exists
            .map(|(name, version)| TrafficKey { deployment: Some(name.clone()), version: version.clone() });
        self.traffic.forget(&exists.collect(), clock::now().at);
        self.lives.forget(observed);
    }

    fn change(
        &mut self,
        if_revision: Option<u64>,
        dry_run: bool,
        change: Change,
    ) -> Result<Applied, AskError> {
        if self.core.observed().stopping.is_some() {
            return Err(AskError::Stopping);
        }
        let earlier = match &change {
            Change::Rollback(name, Some(revision)) => Some(self.earlier(name, *revision)?),
            _ => None,
        };
        let brings_http = matches!(&change, Change::Application(spec, _) if spec.http.is_some());
        let standing = |name: &DeploymentName| self.core.standing(name);
        let capacity = &self.core.observed().capacity;
        let changer = Changer::new(&self.desired, if_revision, &standing)?.on(capacity);
        let proposal = match change {
            Change::Application(spec, libraries) => changer.application(*spec, &libraries)?,
            Change::DeleteApplication(name) => changer.delete_application(&name)?,
            Change::Deployment(application, spec, libraries) => {
                changer.deployment(application, *spec, &libraries)?
            }
            Change::Patch(name, patch) => {
                let held = self.desired.deployments.get(&name).map(|wanted| &wanted.spec);
                let patched = held.map(|held| patch_deployment(held, &patch)).transpose()?;
                if let (Some(held), Some(patched)) = (held, &patched) {
                    let (held, patched) = (fields_of(held), fields_of(patched));
                    let changed = |field: &&str| held.get(*field) != patched.get(*field);
                    if let Some(field) = NOT_BY_PATCH.iter().find(|field| changed(field)) {
                        return Err(AskError::NotByPatch((*field).to_owned()));
                    }
                }
                changer.configure(&name, |spec| {
                    if let Some(patched) = patched {
                        *spec = patched;
                    }
                })?
            }
            Change::Scale(name, replicas) => changer.scale(&name, replicas)?,
            Change::Restart(name) => changer.restart(&name)?,
            Change::Pause(name, paused) => changer.pause(&name, paused)?,
            Change::Rollback(name, _) => changer.rollback(&name, earlier)?,
            Change::Delete(name) => changer.delete(&name)?,
        };
        let mut applied = proposal.applied;
        // Also where nothing else has changed: a certificate is renewed in its place.
        let tls = brings_http.then(|| tls::read(proposal.desired.http.tls.as_ref())).transpose()?;
        if dry_run {
            applied.dry_run = true;
            return Ok(applied);
        }
        if proposal.desired.revision != self.desired.revision {
            self.commit(proposal.desired)?;
        }
        if let Some(tls) = tls {
            self.use_tls(tls);
        }
        Ok(applied)
    }

    /// Revisions that are kept and have changed a deployment, oldest first.
    fn history(&mut self, name: &DeploymentName) -> Result<Vec<HistoryEntry>, AskError> {
        let current = self.wanted(name)?.clone();
        let mut entries = Vec::new();
        let mut before: Option<Wanted> = None;
        for revision in self.store.revisions()? {
            // One that can't be read is none to go back to.
            let Ok(mut desired) = self.store.read(revision) else { continue };
            let Some(wanted) = desired.deployments.remove(name) else { continue };
            if wanted.revision != revision {
                continue;
            }
            let fields = before.as_ref().map_or_else(Vec::new, |it| differing_fields(&it.spec, &wanted.spec));
            entries.push(HistoryEntry {
                revision,
                version: wanted.version.clone(),
                replicas: replicas_of(&wanted),
                library: wanted.library.clone(),
                fields,
                undid: wanted
                    .rolled_back
                    .as_ref()
                    .map(|undone| Undone { revision: undone.revision, message: undone.message.clone() }),
                current: wanted.revision == current.revision,
            });
            before = Some(wanted);
        }
        Ok(entries)
    }

    fn describe(&mut self, name: &DeploymentName) -> Result<Description, AskError> {
        let wanted = self.wanted(name)?;
        let (spec, paused) = (deployment_to_json(&wanted.spec), wanted.paused);
        let status = self.status().deployments.into_iter().find(|status| status.name == *name);
        let status = status.ok_or_else(|| self.no_such(name))?;
        let held = self.core.report().held.iter().filter(|held| held.deployment == *name);
        let held = held.map(|held| HeldStep { replica: held.replica.clone(), reason: held.reason.clone() });
        let held = held.collect();
        Ok(Description { status, spec, paused, held, events: Vec::new(), last_words: Vec::new() })
    }

    fn wanted(&self, name: &DeploymentName) -> Result<&Wanted, AskError> {
        self.desired.deployments.get(name).ok_or_else(|| self.no_such(name))
    }

    fn no_such(&self, name: &DeploymentName) -> AskError {
        let known = self.desired.deployments.keys().cloned().collect();
        Refusal::NoSuchDeployment { name: name.clone(), known }.into()
    }

    /// A deployment's form in an earlier revision.
    fn earlier(&mut self, name: &DeploymentName, revision: u64) -> Result<Wanted, AskError> {
        let mut desired = self.store.read(revision)?;
        let known = desired.deployments.keys().cloned().collect();
        desired
            .deployments
            .remove(name)
            .ok_or_else(|| Refusal::NoSuchDeployment { name: name.clone(), known }.into())
    }

    /// Makes a revision durable, and acts on it.
    fn commit(&mut self, desired: Desired) -> Result<(), AskError> {
        let effective = self.effective(&desired);
        let listen = effective.http.listen.clone();
        self.bind(&listen).map_err(|error| AskError::Listen { listen, why: error.to_string() })?;
        self.store.save(&desired)?;
        self.tell_of_revision(&desired);
        self.named.insert(desired.revision, libraries_of(&desired));
        let kept: BTreeSet<u64> = self.store.revisions()?.into_iter().collect();
        self.named.retain(|revision, _| kept.contains(revision));
        self.artifacts.collect(&self.named.values().flatten().cloned().collect());
        self.desired = desired;
        self.core.accept(effective);
        Ok(())
    }

    fn tell_of_revision(&self, desired: &Desired) {
        let about = |name: &DeploymentName, message: String| {
            let deployment = Some(name.clone());
            self.journal.event(Note { deployment, replica: None, kind: "revision", message });
        };
        let revision = desired.revision;
        for (name, wanted) in desired.deployments.iter().filter(|(_, wanted)| wanted.revision == revision) {
            let version = &wanted.version;
            let count = match &wanted.spec.autoscaling {
                Some(scaling) => format!("{} to {}", scaling.min_replicas, scaling.max_replicas),
                None => wanted.spec.num_replicas.to_string(),
            };
            about(name, format!("revision {revision} wants {count} replicas of version {version}"));
        }
        for name in self.desired.deployments.keys().filter(|name| !desired.deployments.contains_key(*name)) {
            about(name, format!("revision {revision} wants it gone"));
        }
    }

    /// What is wanted, with what the one who started us wants otherwise.
    pub(super) fn effective(&self, desired: &Desired) -> Desired {
        let mut effective = desired.clone();
        if let Some(listen) = &self.options.listen {
            effective.http.listen.clone_from(listen);
        }
        effective
    }

    pub(super) fn put_back(&mut self, name: &DeploymentName, revision: u64, what: PutBack, why: String) {
        // What was changed meanwhile by somebody is theirs.
        if self.desired.deployments.get(name).is_none_or(|wanted| wanted.revision != revision) {
            return;
        }
        let standing = |name: &DeploymentName| self.core.standing(name);
        let proposal = Changer::new(&self.desired, None, &standing).and_then(|changer| match what {
            PutBack::Everything => changer.put_back(name, why),
            PutBack::UserConfig => changer.put_config_back(name, why),
        });
        let done = proposal.map_err(AskError::from).and_then(|proposal| self.commit(proposal.desired));
        if let Err(error) = done {
            tracing::error!("deployment {name} could not be put back: {error}");
        }
    }

    /// Reads the certificates again that are wanted already. Whether there are any.
    fn renew_tls(&mut self) -> Result<bool, AskError> {
        let texts = tls::read(self.desired.http.tls.as_ref())?;
        let found = texts.is_some();
        self.use_tls(texts);
        Ok(found)
    }

    /// Reads the configuration file again, on a thread of its own: libraries may be large.
    pub(super) fn reload(&mut self) {
        let Some(path) = self.options.config.clone() else {
            return match self.renew_tls() {
                Ok(false) => tracing::info!("SIGHUP: there is no configuration file to read again"),
                Ok(true) => tracing::info!("SIGHUP: the certificates were read again"),
                Err(error) => tracing::error!("SIGHUP: {error}; nothing was changed"),
            };
        };
        let (artifacts, mailbox, desired) =
            (self.artifacts.clone(), self.mailbox.clone(), self.desired.clone());
        let run = move || {
            let read = || -> Result<(ApplicationSpec, Libraries), ConfigError> {
                let spec = read_config(&path)?;
                let libraries = artifacts.resolve_all(&spec.deployments, |spec| is_live(&desired, spec))?;
                Ok((spec, libraries))
            };
            let (spec, libraries) = match read() {
                Ok(read) => read,
                Err(error) => return tracing::error!("SIGHUP: {error}; nothing was changed"),
            };
            // Else the certificates are read with the change.
            let silent_on_http = spec.http.is_none();
            let change = Box::new(Change::Application(Box::new(spec), libraries));
            match mailbox.ask_blocking(Ask::Change { if_revision: None, dry_run: false, change }) {
                Ok(_) => tracing::info!("SIGHUP: {} was read again", path.display()),
                Err(error) => return tracing::error!("SIGHUP: {error}; nothing was changed"),
            }
            if silent_on_http && let Err(error) = mailbox.ask_blocking(Ask::RenewCertificates) {
                tracing::error!("SIGHUP: {error}; the certificates are those from before");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("reload".to_owned()).spawn(run) {
            tracing::error!("SIGHUP: no thread to read the configuration on: {error}");
        }
    }
}

fn use_of(pid: i32, kind: &'static str, replica: Option<(DeploymentName, ReplicaId)>) -> ProcessUse {
    let (cpu, resident) = process::usage(pid);
    ProcessUse { kind, replica, cpu, resident }
}

/// Whether a request names the live version, whose code stays as it is.
pub(crate) fn is_live(desired: &Desired, spec: &decurion_api::spec::DeploymentSpec) -> bool {
    spec.version.is_some()
        && desired.deployments.get(&spec.name).is_some_and(|wanted| wanted.spec.version == spec.version)
}

/// Libraries that a revision names, forms to go back to included.
pub(super) fn libraries_of(desired: &Desired) -> BTreeSet<String> {
    desired
        .deployments
        .values()
        .flat_map(|wanted| [Some(wanted), wanted.before.as_deref()])
        .flatten()
        .map(|wanted| wanted.library.clone())
        .collect()
}
