//! What an operator does, and what fate does to processes.

use std::time::Duration;

use decurion_api::spec::{
    ApplicationSpec, AutoscalingSpec, CanarySpec, DeploymentSpec, LibraryRef, RolloutSpec, RuntimeEnvSpec,
    Share,
};
use decurion_api::status::DeploymentState;
use decurion_api::{ApplicationName, ClassName, DeploymentName, ReplicaId, RoutePrefix, SetName};
use decurion_supervisor::change::{Changer, Libraries, Proposal, Refusal, StoredLibrary, library_key};
use decurion_supervisor::desired::ClassInfo;
use decurion_supervisor::reconcile::{Exit, Fact};
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::replica::Temper;
use crate::world::{Event, Plan, World};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Where there is a set, it is of these; requests of the first call the second.
const SET: [&str; 2] = ["a", "b"];

/// The deployments that there may be.
pub(crate) fn names() -> [DeploymentName; 3] {
    NAMES.map(|name| DeploymentName::new(name).expect("a name"))
}

/// Whom the requests of a deployment call, where there is a set.
pub(crate) fn callee_of(name: &DeploymentName) -> Option<DeploymentName> {
    (name.as_str() == SET[0]).then(|| DeploymentName::new(SET[1]).expect("a name"))
}

/// A shape of a run, from its seed.
pub(crate) fn plan(seed: u64) -> Plan {
    let mut dice = Dice::new(seed ^ 0xdecc);
    Plan {
        seed,
        planted: crate::planted::Planted::Nothing,
        workers: 1 + dice.index(3),
        slow: dice.one_in(3),
        liars: dice.one_in(4),
        unbounded: dice.one_in(5),
        acts: 24,
        clients: 4 + dice.index(10),
        sets: dice.one_in(2),
    }
}

fn temper(plan: &Plan, dice: &mut Dice) -> Temper {
    let most = 200 + dice.below(20_000);
    let service_us = if plan.slow { (8_000 + most / 2, 30_000 + most) } else { (1 + most / 20, most) };
    Temper {
        start_ms: if dice.one_in(15) { None } else { Some(dice.below(400)) },
        refuses: dice.one_in(8),
        dies_young: dice.one_in(12),
        crashes_after: dice.one_in(6).then(|| dice.micros(1_000, 6_000_000)),
        service_us,
        lies: if plan.liars && dice.one_in(2) { 20 + dice.below(200) } else { 0 },
        refuses_config: dice.one_in(3).then(|| dice.below(4)),
        ill: dice.one_in(12),
        answer_max: if dice.one_in(4) { 12_000 } else { 1_000 },
    }
}

fn kind_temper(temper: &Temper, slow: bool) -> Temper {
    let service_us = if slow { temper.service_us } else { Temper::default().service_us };
    Temper { service_us, ..Temper::default() }
}

fn libraries() -> Libraries {
    let class = ClassInfo {
        name: ClassName::new("Model").expect("a name"),
        http: true,
        exclusive: false,
        reconfigures: true,
        checks_health: true,
        batch_max: 0,
        methods: Vec::new(),
        encodings: 2,
        streams: Vec::new(),
    };
    let digest = "d".repeat(64);
    let key = library_key(&LibraryRef::Digest(digest.clone()));
    Libraries::from([(key, StoredLibrary { digest, classes: vec![class] })])
}

fn spec(of: &str, version: &str, plan: &Plan, dice: &mut Dice) -> DeploymentSpec {
    let autoscaling = dice.one_in(5).then(|| {
        let min = u32::try_from(dice.below(2)).unwrap_or(0);
        AutoscalingSpec {
            min_replicas: min,
            max_replicas: min + 1 + u32::try_from(dice.below(3)).unwrap_or(0),
            upscale_delay: Duration::from_millis(dice.below(1_000)),
            downscale_delay: Duration::from_secs(1 + dice.below(5)),
            look_back_period: Duration::from_secs(1),
            ..AutoscalingSpec::default()
        }
    });
    let number = 1 + u32::try_from(dice.below(5)).unwrap_or(0);
    let queue = [0, 1, 3, 10][dice.index(4)];
    DeploymentSpec {
        name: DeploymentName::new(of).expect("a name"),
        library: LibraryRef::Digest("d".repeat(64)),
        class: None,
        route_prefix: Some(RoutePrefix::new(format!("/{of}")).expect("a prefix")),
        num_replicas: autoscaling.as_ref().map_or(number, AutoscalingSpec::initial),
        autoscaling,
        args: Value::Null,
        graph: None,
        user_config: dice.one_in(2).then(|| json!(dice.below(4))),
        version: Some(version.to_owned()),
        prev_version: None,
        max_ongoing_requests: Some(1 + u32::try_from(dice.below(4)).unwrap_or(0)),
        max_queued_requests: (!plan.unbounded).then_some(queue),
        threads: 4,
        request_timeout: dice.one_in(3).then(|| Duration::from_millis(300 + dice.below(3_000))),
        graceful_shutdown_timeout: Duration::from_millis(500 + dice.below(10_000)),
        health_check_period: Duration::from_secs(2),
        health_check_timeout: Duration::from_secs(4),
        startup_timeout: Duration::from_secs(2),
        rollout: RolloutSpec {
            max_surge: if dice.one_in(3) { Share::Count(0) } else { RolloutSpec::default().max_surge },
            auto_rollback: dice.one_in(2),
            canary: dice.one_in(5).then(|| CanarySpec {
                weight: 1 + u8::try_from(dice.below(99)).unwrap_or(0),
                duration: Duration::from_millis(dice.below(4_000)),
                max_error_rate: 0.1,
                max_p99: None,
            }),
            ..RolloutSpec::default()
        },
        recycle: None,
        runtime_env: RuntimeEnvSpec::default(),
        resources: Default::default(),
    }
}

/// The same as one of a set.
fn of_set(mut spec: DeploymentSpec) -> DeploymentSpec {
    spec.rollout.together = Some(SetName::new("set").expect("a name"));
    spec.rollout.canary = None;
    spec.rollout.max_surge = RolloutSpec::default().max_surge;
    if let Some(autoscaling) = &mut spec.autoscaling {
        autoscaling.min_replicas = autoscaling.min_replicas.max(1);
        spec.num_replicas = autoscaling.initial();
    }
    spec
}

impl World {
    fn change(
        &mut self,
        change: impl FnOnce(Changer<'_>) -> Result<Proposal, Refusal>,
    ) -> Option<Result<u64, Refusal>> {
        let core = self.core.as_ref()?;
        let standing = |name: &DeploymentName| core.standing(name);
        let proposal = Changer::new(&self.desired, None, &standing).and_then(change);
        let revision = proposal.map(|proposal| {
            let revision = proposal.desired.revision;
            self.commit(proposal.desired);
            revision
        });
        self.turn();
        Some(revision)
    }

    fn deploy(&mut self, of: &str) {
        let spec = self.next_spec(of);
        let application = ApplicationName::new("test").expect("a name");
        let deployed = self.change(|changer| changer.deployment(application, spec, &libraries()));
        assert!(!matches!(deployed, Some(Err(_))), "{deployed:?}");
    }

    /// A new version of each of the set at once.
    fn deploy_set(&mut self) {
        let mut deployments: Vec<DeploymentSpec> = SET.map(|of| self.next_spec(of)).into();
        let others = self.desired.deployments.values().filter(|it| !SET.contains(&it.spec.name.as_str()));
        deployments.extend(others.map(|other| other.spec.clone()));
        let application = ApplicationName::new("test").expect("a name");
        let spec = ApplicationSpec { application, http: None, deployments };
        let deployed = self.change(|changer| changer.application(spec, &libraries()));
        assert!(!matches!(deployed, Some(Err(_))), "{deployed:?}");
    }

    /// What is to be deployed next in the place of a deployment.
    fn next_spec(&mut self, of: &str) -> DeploymentSpec {
        self.versions += 1;
        let version = self.versions.to_string();
        let plan = self.plan;
        let temper = temper(&plan, &mut self.dice);
        let spec = spec(of, &version, &plan, &mut self.dice);
        let spec = if plan.sets && SET.contains(&of) { of_set(spec) } else { spec };
        self.note(|| format!("deploy {of} {version}: {} replicas, {temper:?}", spec.num_replicas));
        self.tempers.insert(version, temper);
        spec
    }

    /// One thing that somebody does, or that happens to somebody.
    pub(crate) fn act(&mut self) {
        if self.acts_left == 0 {
            return;
        }
        self.acts_left -= 1;
        let most = if self.dice.one_in(6) { 3_000_000 } else { 150_000 };
        let after = self.dice.micros(1_000, most);
        self.push(after, Event::Act);
        // At first there is something of each.
        let begun = usize::try_from(self.versions).unwrap_or(usize::MAX);
        if let Some(first) = NAMES.get(begun) {
            return self.deploy(first);
        }
        let of = NAMES[self.dice.index(NAMES.len())];
        let name = DeploymentName::new(of).expect("a name");
        let exists = self.desired.deployments.contains_key(&name);
        match self.dice.below(22) {
            0..4 if self.plan.sets && SET.contains(&of) && self.dice.one_in(2) => self.deploy_set(),
            0..4 => self.deploy(of),
            4 | 5 if exists => {
                let number = 1 + u32::try_from(self.dice.below(5)).unwrap_or(0);
                self.note(|| format!("scale {of} to {number}"));
                let scaled = self.change(|changer| changer.scale(&name, number));
                assert!(matches!(scaled, None | Some(Ok(_) | Err(Refusal::Autoscaled { .. }))), "{scaled:?}");
            }
            6 if exists => {
                let config = self.dice.below(4);
                self.note(|| format!("reconfigure {of} with {config}"));
                let _ = self.change(|changer| {
                    changer.configure(&name, |spec| spec.user_config = Some(json!(config)))
                });
            }
            7 if exists && self.dice.one_in(3) => {
                self.note(|| format!("delete {of}"));
                let _ = self.change(|changer| changer.delete(&name));
            }
            8 if exists => {
                let paused = self.dice.one_in(3);
                self.note(|| format!("pause {of}: {paused}"));
                let _ = self.change(|changer| changer.pause(&name, paused));
            }
            9 if exists => {
                self.note(|| format!("restart {of}"));
                let _ = self.change(|changer| changer.restart(&name));
            }
            10..13 | 19..21 => self.kill_some_replica(),
            13 => self.stop_some_replica(),
            14 => self.kill_some_proxy(),
            15 if self.dice.one_in(3) => self.stop_some_proxy(),
            21 => self.change_settings(),
            16 | 17 if self.dice.one_in(2) => self.supervisor_dies(),
            18 if self.dice.one_in(4) => {
                let time = self.dice.micros(100_000, 20_000_000);
                self.note(|| format!("time leaps by {time:?}"));
                self.leap(time);
            }
            _ => {}
        }
    }

    fn change_settings(&mut self) {
        let most = [0, 3, 20][self.dice.index(3)];
        self.note(|| format!("connections are to have {most} requests at most"));
        let mut desired = self.desired.clone();
        desired.revision += 1;
        desired.http.max_requests_per_connection = most;
        if self.core.is_some() {
            self.commit(desired);
            self.turn();
        }
    }

    fn some_replica(&mut self) -> Option<ReplicaId> {
        let at = self.dice.index(self.replicas.len());
        self.replicas.keys().nth(at).cloned()
    }

    fn kill_some_replica(&mut self) {
        if let Some(id) = self.some_replica() {
            self.note(|| format!("{id} is killed"));
            self.push(Duration::ZERO, Event::Exit(id, Exit::Signal(11)));
        }
    }

    fn stop_some_replica(&mut self) {
        let time = self.dice.micros(1_000, 12_000_000);
        if let Some(id) = self.some_replica() {
            self.note(|| format!("{id} is stopped for {time:?}"));
            self.books.stopped.insert(id.clone());
            if let Some(replica) = self.replicas.get_mut(&id) {
                replica.hung_until = replica.hung_until.max(self.now.after(time));
            }
        }
    }

    fn some_proxy(&mut self) -> Option<u32> {
        let at = self.dice.index(self.proxies.len());
        self.proxies.keys().nth(at).copied()
    }

    fn kill_some_proxy(&mut self) {
        if let Some(number) = self.some_proxy() {
            self.note(|| format!("proxy {number} is killed"));
            self.proxy_ends(number, Exit::Signal(9));
        }
    }

    fn stop_some_proxy(&mut self) {
        let time = self.dice.micros(1_000, 9_000_000);
        if let Some(number) = self.some_proxy() {
            self.note(|| format!("proxy {number} is stopped for {time:?}"));
            if let Some(proxy) = self.proxies.get_mut(&number) {
                proxy.hung_until = proxy.hung_until.max(self.now.after(time));
            }
        }
    }

    /// Luck turns: from here on everything behaves.
    pub(crate) fn calm_down(&mut self) {
        self.note(|| "luck turns".to_owned());
        self.calm = true;
        self.acts_left = 0;
        for temper in self.tempers.values_mut() {
            *temper = kind_temper(temper, self.plan.slow);
        }
        for replica in self.replicas.values_mut() {
            replica.temper = kind_temper(&replica.temper, self.plan.slow);
        }
        for name in names() {
            if self.desired.deployments.contains_key(&name) {
                let _ = self.change(|changer| changer.pause(&name, false));
            }
        }
    }

    /// Whether everything stands as it is wanted, or has failed for good.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(core) = &self.core else { return false };
        let settled = core.deployment_statuses(self.instant()).iter().all(|status| {
            let serving = status.replicas.iter().filter(|replica| replica.state.can_serve()).count();
            match status.status {
                DeploymentState::DeployFailed => true,
                DeploymentState::Healthy => serving >= status.target_replicas as usize,
                // A set stays with its old version while one of it has failed that is not to go back; and who is deleted
                // of it stays with it, for the old version calls it.
                DeploymentState::Updating | DeploymentState::Deleting => status.rollout.blocked,
                _ => false,
            }
        });
        settled && core.observed().proxies.current().is_some()
    }

    /// How everything stands, for a message.
    pub(crate) fn standing(&self) -> String {
        let statuses = self.core.as_ref().map(|core| core.deployment_statuses(self.instant()));
        format!("{statuses:#?}")
    }

    /// Everything is told to end.
    pub(crate) fn stop(&mut self) {
        self.told(vec![Fact::Stop { at_once: false }]);
    }
}
