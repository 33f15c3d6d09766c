//! The supervisor with real processes, sockets and files. The replicas and the proxy are stand-ins (`examples/`) that
//! misbehave as they are told; the real ones are tested in `tests/`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use decurion_api::admin::problem;
use decurion_api::spec::{ApplicationSpec, DeploymentSpec, LibraryRef, file};
use decurion_api::status::{DeploymentState, DeploymentStatus, RolloutOutcome, SystemStatus};
use decurion_api::{ApplicationName, DeploymentName};
use decurion_client::admin::{Admin, AdminError, Condition, LogQuery};
use decurion_supervisor::{Options, Output, Running, StartError, Supervisor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// After this a test has hung.
const WATCHDOG: Duration = Duration::from_secs(60);

struct Rig {
    folder: tempfile::TempDir,
}

struct Live {
    running: Running,
    admin: Admin,
    events: Receiver<()>,
}

fn examples() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples")
}

fn name(text: &str) -> DeploymentName {
    text.parse().unwrap()
}

fn deployment(name: &str, replicas: u32, args: &Value) -> DeploymentSpec {
    let library = examples().join("libtiny.so");
    let text = json!({"name": name, "library": library, "num_replicas": replicas, "args": args}).to_string();
    file::read_deployment_json(text.as_bytes()).unwrap()
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("programs");
        fs::create_dir(&programs).unwrap();
        symlink(examples().join("fake-proxy"), programs.join("decurion-proxy")).unwrap();
        symlink(examples().join("fake-replica"), programs.join("decurion-replica-runner")).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.path().join("state"), self.path().join("run/control.sock"));
        options.listen = Some("127.0.0.1:0".to_owned());
        options.executables = Some(self.path().join("programs"));
        options.output = Output::Quiet;
        options.signals = false;
        options
    }

    fn start(&self) -> Live {
        Live::new(Supervisor::start(self.options()).unwrap())
    }
}

impl Live {
    fn new(running: Running) -> Self {
        let admin = Admin::new(running.socket());
        let (news, events) = channel();
        let follow = admin.follow_events().unwrap();
        std::thread::spawn(move || follow.map_while(|_| news.send(()).ok()).for_each(drop));
        Self { running, admin, events }
    }

    /// Waits until this holds, looking after each event, and now and then for what has none.
    fn until(&self, what: &str, holds: impl Fn(&SystemStatus) -> bool) -> SystemStatus {
        let deadline = moment() + WATCHDOG;
        loop {
            let status = self.admin.status().unwrap();
            if holds(&status) {
                return status;
            }
            assert!(moment() < deadline, "{what} never came: {status:#?}");
            if self.events.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Disconnected) {
                panic!("the supervisor ended before {what}");
            }
        }
    }

    fn deploy(&self, spec: &DeploymentSpec) -> u64 {
        self.admin.put_deployment(spec, Condition::default()).unwrap().revision
    }

    fn settled(&self, of: &str, revision: u64) -> DeploymentStatus {
        let decided = |status: &SystemStatus| {
            let rollout = &of_status(status, of).rollout;
            rollout.revision >= revision && rollout.outcome != RolloutOutcome::InProgress
        };
        of_status(&self.until("the rollout's end", decided), of).clone()
    }

    /// Stops, and checks that nothing is left.
    fn stop(self, rig: &Rig) {
        let status = self.admin.status().unwrap();
        let pids: Vec<i32> = status
            .deployments
            .iter()
            .flat_map(|deployment| deployment.replicas.iter().map(|replica| replica.pid))
            .chain(status.proxy.pid)
            .collect();
        self.running.stopper().stop();
        self.running.wait().unwrap();
        for pid in pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
        }
        assert_eq!(fs::read_dir(rig.path().join("run")).unwrap().count(), 0, "a socket is left");
    }
}

#[expect(clippy::disallowed_methods, reason = "a watchdog needs a clock")]
fn moment() -> Instant {
    Instant::now()
}

fn of_status<'a>(status: &'a SystemStatus, of: &str) -> &'a DeploymentStatus {
    status.deployments.iter().find(|deployment| deployment.name.as_str() == of).unwrap()
}

fn pids(status: &DeploymentStatus) -> BTreeSet<i32> {
    status.replicas.iter().map(|replica| replica.pid).collect()
}

fn problem_of<T: std::fmt::Debug>(answer: Result<T, AdminError>) -> (String, String) {
    match answer.unwrap_err() {
        AdminError::Refused(problem) => (problem.kind, problem.detail),
        other => panic!("{other}"),
    }
}

#[test]
fn what_was_deployed_is_back_after_a_stop_and_a_start() {
    let rig = Rig::new();
    let live = rig.start();
    let revision = live.deploy(&deployment("a", 3, &json!({})));
    let status = live.settled("a", revision);
    assert_eq!((status.status, status.replicas.len()), (DeploymentState::Healthy, 3));
    let (library, before) = (status.library.clone(), pids(&status));
    live.stop(&rig);

    let live = rig.start();
    let status = live.settled("a", revision);
    assert_eq!((status.status, &status.library), (DeploymentState::Healthy, &library));
    assert!(pids(&status).is_disjoint(&before));
    live.stop(&rig);
}

#[test]
fn a_killed_replica_is_replaced_and_named() {
    let rig = Rig::new();
    let live = rig.start();
    let status = live.settled("a", live.deploy(&deployment("a", 2, &json!({}))));
    let victim = status.replicas[0].pid;
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let status = live.until("the replacement", |status| {
        let status = of_status(status, "a");
        status.status == DeploymentState::Healthy && !pids(status).contains(&victim)
    });
    let ended = &of_status(&status, "a").ended[0];
    assert_eq!(
        (ended.pid, ended.reason.as_str(), ended.failed),
        (victim, "killed by SIGKILL from outside", true)
    );
    live.stop(&rig);
}

#[test]
fn a_new_version_takes_over_whole_and_a_scale_restarts_nobody() {
    let rig = Rig::new();
    let live = rig.start();
    let old = pids(&live.settled("a", live.deploy(&deployment("a", 5, &json!({})))));
    let status = live.settled("a", live.deploy(&deployment("a", 5, &json!({}))));
    let new = pids(&status);
    assert!(new.is_disjoint(&old) && new.len() == 5, "without a version each deploy is a new one");
    let applied = live.admin.scale(&name("a"), 2, Condition::default()).unwrap();
    let left = pids(&live.settled("a", applied.revision));
    assert!(left.is_subset(&new) && left.len() == 2);
    live.stop(&rig);
}

#[test]
fn a_version_that_fails_is_put_back_with_its_last_words() {
    let rig = Rig::new();
    let live = rig.start();
    let old = live.settled("a", live.deploy(&deployment("a", 2, &json!({}))));
    for (start, words) in [("refuse", "no such model"), ("exit", "the disk is on fire")] {
        let status = live.settled("a", live.deploy(&deployment("a", 2, &json!({"start": start}))));
        assert_eq!(status.rollout.outcome, RolloutOutcome::RolledBack);
        assert!(status.rollout.message.contains(words), "{}", status.rollout.message);
        assert_eq!((pids(&status), &status.version), (pids(&old), &old.version));
    }
    live.stop(&rig);
}

#[test]
fn a_user_config_is_taken_without_a_restart_or_refused_whole() {
    let rig = Rig::new();
    let live = rig.start();
    let old = pids(&live.settled("a", live.deploy(&deployment("a", 3, &json!({})))));
    let patch = |config: &str| {
        live.admin
            .patch_deployment(&name("a"), &json!({"user_config": config}), Condition::default())
            .unwrap()
    };
    let status = live.settled("a", patch("good").revision);
    assert_eq!((status.rollout.outcome, pids(&status)), (RolloutOutcome::Done, old.clone()));
    let status = live.settled("a", patch("bad").revision);
    assert_eq!((status.rollout.outcome, pids(&status)), (RolloutOutcome::RolledBack, old));
    assert!(status.rollout.message.contains("not that"), "{}", status.rollout.message);
    assert_eq!(live.admin.deployment(&name("a")).unwrap().value["user_config"], "good");
    live.stop(&rig);
}

#[test]
fn a_dead_proxy_is_back_and_the_replicas_are_the_same() {
    let rig = Rig::new();
    let live = rig.start();
    let old = pids(&live.settled("a", live.deploy(&deployment("a", 2, &json!({})))));
    let before = live.admin.status().unwrap().proxy;
    kill(Pid::from_raw(before.pid.unwrap()), Signal::SIGKILL).unwrap();
    let status = live.until("the proxy", |status| status.proxy.ready && status.proxy.pid != before.pid);
    assert_eq!((status.proxy.restarts, &status.proxy.listen), (1, &before.listen));
    assert_eq!(pids(of_status(&status, "a")), old);
    live.stop(&rig);
}

#[test]
fn handles_are_told_of_each_change() {
    let rig = Rig::new();
    let live = rig.start();
    live.settled("a", live.deploy(&deployment("a", 1, &json!({}))));
    live.settled("b", live.deploy(&deployment("b", 1, &json!({"resolve": "a", "say": "hello"}))));
    live.settled("a", live.admin.scale(&name("a"), 3, Condition::default()).unwrap().revision);
    let query = LogQuery { deployment: Some(name("b")), ..LogQuery::default() };
    let lines = live.admin.follow_logs(&query).unwrap();
    let mut texts = Vec::new();
    for line in lines {
        texts.push(line.unwrap().text);
        if texts.last().unwrap() == "a has 3" {
            break;
        }
    }
    assert_eq!(texts[..2], ["hello", "a has 1"]);
    live.stop(&rig);
}

#[test]
fn an_application_is_declared_whole_and_rehearsed_first() {
    let rig = Rig::new();
    let live = rig.start();
    let application: ApplicationName = "demo".parse().unwrap();
    let declare = |names: &[&str], condition| {
        let deployments = names.iter().map(|name| deployment(name, 1, &json!({}))).collect();
        let spec = ApplicationSpec { application: application.clone(), http: None, deployments };
        live.admin.put_application(&spec, condition)
    };
    let rehearsed = declare(&["a", "b"], Condition { dry_run: true, if_revision: None }).unwrap();
    assert!(rehearsed.dry_run && live.admin.deployments().unwrap().is_empty());
    let first = declare(&["a", "b"], Condition::default()).unwrap();
    live.settled("b", first.revision);
    assert_eq!(declare(&["a", "b"], Condition::default()).unwrap().revision, first.revision);
    let stale = declare(&["a"], Condition { if_revision: Some(first.revision + 7), dry_run: false });
    assert_eq!(problem_of(stale).0, problem::REVISION_MISMATCH);
    declare(&["a"], Condition::default()).unwrap();
    live.until("the deletion", |status| status.deployments.len() == 1);
    assert_eq!(live.admin.application(&application).unwrap().value["deployment"][0]["name"], "a");
    live.stop(&rig);
}

#[test]
fn what_is_refused_says_why_and_changes_nothing() {
    let rig = Rig::new();
    let live = rig.start();
    let nobody = problem_of(live.admin.scale(&name("nobody"), 2, Condition::default()));
    assert_eq!(nobody.0, problem::NOT_FOUND);
    assert!(nobody.1.contains("nothing was changed"), "{}", nobody.1);
    let text = rig.path().join("text.so");
    fs::write(&text, "just words").unwrap();
    assert_eq!(problem_of(live.admin.upload(&text)).0, problem::REFUSED);
    let mut spec = deployment("a", 1, &json!({}));
    spec.library = LibraryRef::Path(text.display().to_string());
    let refused = problem_of(live.admin.put_deployment(&spec, Condition::default()));
    assert!(refused.0 == problem::REFUSED && refused.1.contains("'a'"), "{refused:?}");
    live.settled("a", live.deploy(&deployment("a", 1, &json!({}))));
    let patch = json!({"library": "/else.so"});
    let refused = problem_of(live.admin.patch_deployment(&name("a"), &patch, Condition::default()));
    assert_eq!(refused.0, problem::REFUSED);
    let revision = live.admin.status().unwrap().revision;
    assert_eq!(revision, 1);
    live.stop(&rig);
}

#[test]
fn the_library_in_the_store_is_what_was_uploaded() {
    let rig = Rig::new();
    let live = rig.start();
    let copy = rig.path().join("copy.so");
    fs::copy(examples().join("libtiny.so"), &copy).unwrap();
    let artifact = live.admin.upload(&copy).unwrap();
    assert_eq!(artifact.classes[0].as_str(), "Tiny");
    let mut spec = deployment("a", 1, &json!({}));
    spec.library = LibraryRef::Digest(artifact.digest.clone());
    let status = live.settled("a", live.deploy(&spec));
    assert_eq!(status.library, artifact.digest);
    let stored = rig.path().join(format!("state/libraries/{}.so", artifact.digest));
    assert_eq!(fs::read(&stored).unwrap(), fs::read(&copy).unwrap());
    fs::write(&copy, "overwritten").unwrap();
    assert_ne!(fs::read(&stored).unwrap(), fs::read(&copy).unwrap());
    assert!(fs::metadata(&stored).unwrap().permissions().readonly());
    live.stop(&rig);
}

#[test]
fn a_second_supervisor_is_refused_with_the_pid_of_the_first() {
    let rig = Rig::new();
    let live = rig.start();
    let refused = Supervisor::start(rig.options()).unwrap_err();
    assert!(matches!(refused, StartError::Lock(_)));
    assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
    let mut elsewhere = rig.options();
    elsewhere.state_dir = rig.path().join("other");
    assert!(matches!(Supervisor::start(elsewhere), Err(StartError::Socket(_))));
    live.stop(&rig);
}

#[test]
fn an_address_in_use_is_refused_and_leaves_nothing_behind() {
    let rig = Rig::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = rig.options();
    options.listen = Some(taken.local_addr().unwrap().to_string());
    assert!(matches!(Supervisor::start(options), Err(StartError::Listen { .. })));
    assert_eq!(fs::read_dir(rig.path().join("run")).unwrap().count(), 0);
    rig.start().stop(&rig);
}

#[test]
fn stopping_twice_does_not_wait_for_one_that_never_drains() {
    let rig = Rig::new();
    let live = rig.start();
    let mut spec = deployment("a", 1, &json!({"drain": "hang"}));
    spec.graceful_shutdown_timeout = Duration::from_secs(3600);
    live.settled("a", live.deploy(&spec));
    live.running.stopper().stop();
    live.stop(&rig);
}

#[test]
fn the_configuration_file_is_deployed_at_the_start() {
    let rig = Rig::new();
    fs::copy(examples().join("libtiny.so"), rig.path().join("tiny.so")).unwrap();
    let config = rig.path().join("decurion.toml");
    let text = "application = \"demo\"\n[[deployment]]\nname = \"a\"\nlibrary = \"tiny.so\"\n";
    fs::write(&config, text).unwrap();
    let mut options = rig.options();
    options.config = Some(config.clone());
    let live = Live::new(Supervisor::start(options.clone()).unwrap());
    let status = live.settled("a", 1);
    assert_eq!((status.status, status.application.as_str()), (DeploymentState::Healthy, "demo"));
    live.stop(&rig);
    fs::write(&config, "application = \"demo\"\nnonsense = 1\n").unwrap();
    let refused = Supervisor::start(options).unwrap_err().to_string();
    assert!(refused.contains("nonsense"), "{refused}");
}

#[test]
fn a_restart_keeps_the_form_and_a_rollback_brings_an_earlier_one() {
    let rig = Rig::new();
    let live = rig.start();
    let first = live.settled("a", live.deploy(&deployment("a", 1, &json!({"say": "first"}))));
    let second = live.settled("a", live.deploy(&deployment("a", 2, &json!({"say": "second"}))));
    let applied = live.admin.restart(&name("a"), Condition::default()).unwrap();
    let restarted = live.settled("a", applied.revision);
    assert_eq!((&restarted.version, restarted.replicas.len()), (&second.version, 2));
    assert!(pids(&restarted).is_disjoint(&pids(&second)));
    let applied = live.admin.rollback(&name("a"), Some(first.revision), Condition::default()).unwrap();
    let undone = live.settled("a", applied.revision);
    assert_eq!((&undone.version, undone.replicas.len()), (&first.version, 1));
    let unkept = live.admin.rollback(&name("a"), Some(4711), Condition::default());
    assert_eq!(problem_of(unkept).0, problem::NOT_FOUND);
    let kinds: Vec<String> = live.admin.events().unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "rollout-done").count(), 4, "{kinds:?}");
    live.stop(&rig);
}

#[test]
fn deployments_that_others_call_are_deleted_after_them() {
    let rig = Rig::new();
    let live = rig.start();
    let application: ApplicationName = "default".parse().unwrap();
    live.settled("a", live.deploy(&deployment("a", 1, &json!({}))));
    live.settled("b", live.deploy(&deployment("b", 1, &json!({"resolve": "a"}))));
    live.admin.delete_application(&application, Condition::default()).unwrap();
    live.until("the deletion", |status| status.deployments.is_empty());
    let gone: Vec<String> = live
        .admin
        .events()
        .unwrap()
        .into_iter()
        .filter(|event| event.kind == "deleted")
        .map(|event| event.deployment.unwrap().to_string())
        .collect();
    assert_eq!(gone, ["b", "a"]);
    live.stop(&rig);
}
