//! Updates that are tried first, held, and looked at.

use std::fs;
use std::thread;

use decurion_api::status::{RolloutOutcome, SystemStatus};
use decurion_tests::{World, library};

fn class(class: &str, replicas: u32, canary: &str) -> String {
    let canary = if canary.is_empty() { String::new() } else { format!("canary = {{ {canary} }}") };
    format!(
        "application = \"demo\"\n[[deployment]]\nname = \"d\"\nlibrary = \"{}\"\nclass = \"{class}\"\n\
         num_replicas = {replicas}\nrollout = {{ {canary} }}\n",
        library("fixtures").display()
    )
}

fn of_version(status: &SystemStatus, version: &str) -> usize {
    let serves = |replica: &&decurion_api::status::ReplicaStatus| replica.state.can_serve();
    status.deployments[0].replicas.iter().filter(serves).filter(|it| it.version == version).count()
}

#[test]
fn a_new_version_gets_exactly_its_share_and_is_promoted_once_it_has_shown_itself() {
    let world = World::start();
    let _ = world.deploy(&class("Who", 4, "")).ok();
    let old = world.deployment("d").version;
    let trial = "weight = \"20%\", duration = \"1h\"";
    fs::write(world.path().join("next.toml"), class("Fail", 4, trial)).expect("write");
    let plan = world.run(&["plan", "next.toml"]).ok().stdout;
    assert!(plan.contains("d: first 1 of the new version with 20% of the requests for 3600 s"), "{plan}");
    let _ = world.run(&["deploy", "next.toml", "--no-wait"]).ok();
    let new = world.deployment("d").version;
    assert_ne!(old, new);
    world.until("the trial", |status| status.deployments[0].message.contains("gets 20% of the requests"));
    let mut connection = world.connect();
    let answers: Vec<String> =
        (0..200).map(|_| connection.get("/d/here").expect("an answer").text()).collect();
    assert_eq!(answers.iter().filter(|answer| answer.ends_with("/here")).count(), 40, "{answers:?}");
    let status = world.status();
    assert_eq!((of_version(&status, &old), of_version(&status, &new)), (4, 1));
    let told = world.run(&["describe", "d"]).ok().stdout;
    assert!(told.contains("held back:") && told.contains("gets 20% of the requests"), "{told}");
    let rows = |name: &str| told.lines().filter(|line| line.trim_start().starts_with(name)).count();
    assert_eq!((rows("revision "), rows("rollout ")), (1, 1), "{told}");
    // It has seen enough for its time to be over.
    let shorter = class("Fail", 4, "weight = \"20%\", duration = \"0s\"");
    let _ = world.deploy(&shorter).ok();
    let status = world.status();
    assert_eq!((of_version(&status, &old), of_version(&status, &new)), (0, 4));
    assert!(world.run(&["events"]).ok().stdout.contains("canary-promoted"));
}

#[test]
fn a_new_version_that_fails_is_taken_back_and_the_old_one_has_never_gone() {
    let world = World::start();
    let _ = world.deploy(&class("Who", 3, "")).ok();
    let (old, pids) = (world.deployment("d").version, world.pids("d"));
    fs::write(
        world.path().join("next.toml"),
        class("Fail", 3, "weight = \"50%\", duration = \"1h\", max_error_rate = \"10%\""),
    )
    .expect("write");
    thread::scope(|scope| {
        let deploy = scope.spawn(|| world.run(&["deploy", "next.toml"]));
        let mut connection = world.connect();
        while !deploy.is_finished() {
            let _ = connection.get("/d/panic").expect("an answer");
        }
        let failed = deploy.join().expect("a thread").code(3);
        assert!(failed.stderr.contains("the canary of version"), "{}", failed.stderr);
        assert!(failed.stderr.contains("at most 10% may fail"), "{}", failed.stderr);
    });
    world.until("the old version alone", |status| status.deployments[0].replicas.len() == 3);
    assert_eq!((world.deployment("d").version, world.pids("d")), (old, pids));
    assert_eq!(world.deployment("d").rollout.outcome, RolloutOutcome::RolledBack);
    let history = world.run(&["rollout", "history", "d"]).ok().stdout;
    assert!(history.contains("undid 3:"), "{history}");
}

#[test]
fn an_update_is_paused_looked_at_and_resumed() {
    let world = World::start();
    let _ = world.deploy(&class("Who", 3, "")).ok();
    let (old, pids) = (world.deployment("d").version, world.pids("d"));
    let _ = world.run(&["rollout", "pause", "d"]).ok();
    fs::write(world.path().join("next.toml"), class("Echo", 3, "")).expect("write");
    let _ = world.run(&["deploy", "next.toml", "--no-wait"]).ok();
    let told = world.run(&["rollout", "status", "d", "--no-wait"]).ok();
    assert!(told.stderr.contains("decurion rollout resume d"), "{}", told.stderr);
    let _ = world.run(&["rollout", "status", "d", "--timeout", "10ms"]).code(4);
    assert_eq!(world.pids("d"), pids);
    let described = world.run(&["-o", "json", "describe", "d"]).ok().stdout;
    let described: serde_json::Value = serde_json::from_str(&described).expect("JSON");
    assert_eq!(described["paused"], true);
    assert!(described["held"][0]["reason"].as_str().expect("a reason").contains("paused"), "{described}");
    let _ = world.run(&["rollout", "resume", "d"]).ok();
    assert_ne!(world.deployment("d").version, old);
    assert!(pids.iter().all(|pid| !world.pids("d").contains(pid)));
    let _ = world.run(&["rollout", "status", "d"]).ok();
    let history = world.run(&["-o", "json", "rollout", "history", "d"]).ok().stdout;
    let history: serde_json::Value = serde_json::from_str(&history).expect("JSON");
    let versions = history.as_array().expect("a list");
    assert_eq!(versions.iter().filter(|entry| entry["current"] == true).count(), 1);
    let first = versions[0]["revision"].to_string();
    let _ = world.run(&["rollout", "undo", "d", "--to", &first]).ok();
    assert_eq!(world.deployment("d").version, old);
    let _ = world.run(&["rollout", "pause", "nobody"]).code(5);
    let _ = world.run(&["rollout", "history", "nobody"]).code(5);
    let _ = world.run(&["describe", "nobody"]).code(5);
    let _ = world.run(&["rollout", "pause", "d", "--if-revision", "1"]).code(6);
}
