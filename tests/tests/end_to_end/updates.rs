//! Updates that nobody notices.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use decurion_api::status::DeploymentState;
use decurion_tests::{Load, World, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn who(word: &str, replicas: u32, more: &str) -> String {
    format!(
        "application = \"demo\"\n[[deployment]]\nname = \"who\"\nlibrary = \"{}\"\nclass = \"Who\"\nnum_replicas = {replicas}\n\
         args = {{ word = \"{word}\" }}\n{more}\n",
        library("fixtures").display()
    )
}

fn healthy(world: &World, name: &str) {
    world.until("healthy", |status| {
        status.deployments.iter().any(|it| it.name.as_str() == name && it.status == DeploymentState::Healthy)
    });
}

#[test]
fn a_plan_tells_changes_and_undo_takes_them_back() {
    let world = World::start();
    let _ = world.deploy(&who("old", 2, "")).ok();
    let pids = world.pids("who");
    let plan = |word: &str, replicas: u32| {
        fs::write(world.path().join("next.toml"), who(word, replicas, "")).expect("write");
        world.run(&["plan", "next.toml", "--detailed-exitcode"])
    };
    let _ = plan("old", 2).code(0);
    let told = plan("new", 3).code(2);
    assert!(told.stdout.contains("replace") && told.stdout.contains("num_replicas"), "{}", told.stdout);
    assert_eq!(world.pids("who"), pids);
    let version = world.deployment("who").version;
    let _ = world.deploy(&who("new", 3, "")).ok();
    assert_ne!(world.deployment("who").version, version);
    let _ = world.run(&["rollout", "undo", "who"]).ok();
    assert_eq!((world.deployment("who").version, world.pids("who").len()), (version, 2));
}

#[test]
fn a_rolling_update_of_five_loses_nothing() {
    let world = World::start();
    let _ = world.deploy(&who("old", 5, "")).ok();
    let old = world.pids("who");
    assert_eq!(old.len(), 5);
    let load = Load::start(world.address(), "/who", 8);
    load.answer_more(200);

    // Beside the update, somebody watches how many are running at every moment.
    let (done, fewest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(usize::MAX)));
    let watch = std::thread::spawn({
        let (done, fewest, admin) = (Arc::clone(&done), Arc::clone(&fewest), world.admin());
        move || {
            while !done.load(Ordering::Relaxed) {
                let status = admin.status().expect("a supervisor");
                let running = status.deployments[0].replicas.iter().filter(|it| it.state.can_serve()).count();
                fewest.fetch_min(running, Ordering::Relaxed);
            }
        }
    });
    let _ = world.deploy(&who("new", 5, "")).ok();
    done.store(true, Ordering::Relaxed);
    watch.join().expect("the watch ends");

    let new = world.pids("who");
    load.answer_more(200);
    let tally = load.stop();
    assert_eq!(tally.failures(), Vec::<String>::new());
    assert!(fewest.load(Ordering::Relaxed) >= 4, "only {} were running", fewest.load(Ordering::Relaxed));
    assert_eq!(new.len(), 5);
    assert!(old.iter().all(|pid| !new.contains(pid)), "{old:?} {new:?}");
    let mut connection = world.connect();
    for _ in 0..50 {
        let answer = connection.get("/who").expect("an answer").text();
        assert!(answer.ends_with(" new"), "{answer}");
    }
}

#[test]
fn a_single_replica_is_updated_without_a_gap() {
    let world = World::start();
    let _ = world.deploy(&who("old", 1, "")).ok();
    let load = Load::start(world.address(), "/who", 4);
    load.answer_more(50);
    let _ = world.deploy(&who("new", 1, "")).ok();
    load.answer_more(50);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    assert!(world.get("/who").text().ends_with(" new"));
}

#[test]
fn an_unchanged_file_changes_nothing() {
    let world = World::start();
    let _ = world.deploy(&who("same", 2, "")).ok();
    let (pids, revision) = (world.pids("who"), world.status().revision);
    let _ = world.deploy(&who("same", 2, "")).ok();
    assert_eq!(world.pids("who"), pids);
    assert_eq!(world.status().revision, revision);
}

#[test]
fn settings_change_without_a_restart() {
    let world = World::start();
    let _ = world.deploy(&who("same", 2, "")).ok();
    let pids = world.pids("who");
    let more = "route_prefix = \"/moved\"\nmax_ongoing_requests = 7\nmax_queued_requests = 3\nrequest_timeout_s = 40";
    let _ = world.deploy(&who("same", 2, more)).ok();
    assert_eq!(world.pids("who"), pids);
    assert_eq!(world.get("/who").status, 404);
    assert_eq!(world.get("/moved").status, 200);
}

#[test]
fn scaling_up_and_down_loses_nothing() {
    let world = World::start();
    let _ = world.deploy(&who("x", 2, "")).ok();
    let first = world.pids("who");
    let load = Load::start(world.address(), "/who", 6);
    load.answer_more(100);
    let _ = world.run(&["scale", "who", "5"]).ok();
    healthy(&world, "who");
    assert_eq!(world.pids("who").len(), 5);
    load.answer_more(100);
    let _ = world.run(&["scale", "who", "1"]).ok();
    world.until("one replica", |status| status.deployments[0].replicas.len() == 1);
    load.answer_more(100);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    // The youngest go first.
    assert!(first.contains(&world.pids("who")[0]));
}

#[test]
fn the_deployed_file_may_be_overwritten_and_deleted() {
    let world = World::start();
    let copy = world.path().join("libcopy.so");
    fs::copy(library("fixtures"), &copy).expect("copy");
    let config = who("kept", 2, "").replace(&library("fixtures").display().to_string(), "libcopy.so");
    let _ = world.deploy(&config).ok();
    let pids = world.pids("who");
    fs::write(&copy, b"not a library any more").expect("overwrite");
    assert!(world.get("/who").text().ends_with(" kept"));
    fs::remove_file(&copy).expect("delete");
    // Also what starts after that is what was deployed.
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).expect("kill");
    world.until("replaced", |status| {
        let replicas = &status.deployments[0].replicas;
        replicas.len() == 2 && replicas.iter().all(|it| it.pid != pids[0] && it.state.can_serve())
    });
    let mut connection = world.connect();
    for _ in 0..20 {
        assert!(connection.get("/who").expect("an answer").text().ends_with(" kept"));
    }
}

#[test]
fn a_failed_update_is_undone_and_the_old_version_serves_on() {
    let world = World::start();
    let class = |class: &str, args: &str| {
        format!(
            "application = \"demo\"\n[[deployment]]\nname = \"d\"\nlibrary = \"{}\"\nclass = \"{class}\"\nnum_replicas = 2\n{args}\n",
            library("fixtures").display()
        )
    };
    let _ = world.deploy(&class("Who", "args = { word = \"good\" }")).ok();
    let pids: BTreeSet<i32> = world.pids("d").into_iter().collect();
    let load = Load::start(world.address(), "/d", 4);
    load.answer_more(20);
    let failed = world.deploy(&class("Stillborn", "args = { how = \"error\" }")).code(3);
    assert!(failed.stderr.contains("the model is not there"), "{}", failed.stderr);
    load.answer_more(20);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    world.until("back at the old version", |status| {
        let deployment = &status.deployments[0];
        deployment.status == DeploymentState::Healthy && deployment.replicas.len() == 2
    });
    assert_eq!(world.pids("d").into_iter().collect::<BTreeSet<i32>>(), pids);
}

#[test]
fn a_deployment_that_never_starts_answers_503_and_says_why() {
    let world = World::start();
    let config = format!(
        "application = \"demo\"\n[[deployment]]\nname = \"d\"\nlibrary = \"{}\"\nclass = \"Stillborn\"\nargs = [\"exit\"]\n",
        library("fixtures").display()
    );
    let failed = world.deploy(&config).code(1);
    assert!(failed.stderr.contains("exited with code 9"), "{}", failed.stderr);
    assert_eq!(world.deployment("d").status, DeploymentState::DeployFailed);
    let answer = world.get("/d");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[test]
fn a_refused_configuration_changes_nothing_anywhere() {
    let world = World::start();
    let config = |left: &str, right: &str| {
        format!(
            "application = \"demo\"\n[[deployment]]\nname = \"pair\"\nlibrary = \"{}\"\nclass = \"Pair\"\nnum_replicas = 3\n\
             user_config = {{ left = \"{left}\", right = \"{right}\" }}\n",
            library("fixtures").display()
        )
    };
    let _ = world.deploy(&config("a", "a")).ok();
    let pids = world.pids("pair");
    let refused = world.run(&["reconfigure", "pair", "{\"left\": \"b\", \"right\": \"c\"}"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(refused.stderr.contains("do not belong together"), "{}", refused.stderr);
    assert_eq!(world.pids("pair"), pids);
    // What a file asks for is refused with its place.
    let place = |start: &str| format!("decurion.toml:{start}: deployment[0].user_config: ");
    let refused = world.deploy(&config("b", "c")).code(3);
    let told = |stderr: &str, place: &str| {
        let line = stderr.lines().find(|line| line.trim_start().starts_with(place));
        assert!(line.is_some_and(|line| line.contains("do not belong together")), "{place}: {stderr}");
    };
    told(&refused.stderr, &place("7:1"));
    assert_eq!(world.pids("pair"), pids);
    // So is what a new version refuses at its start.
    let refused = world.deploy(&format!("{}version = \"2\"\n", config("b", "c"))).code(3);
    told(&refused.stderr, &place("7:1"));
    assert_eq!(world.pids("pair"), pids);
    let mut connection = world.connect();
    for _ in 0..20 {
        assert!(connection.get("/pair").expect("an answer").text().ends_with(" a a"));
    }
}

#[test]
fn a_deployment_left_out_of_the_file_is_deleted() {
    let world = World::start();
    let two = format!(
        "{}\n[[deployment]]\nname = \"second\"\nlibrary = \"{}\"\nclass = \"Echo\"\n",
        who("x", 1, ""),
        library("fixtures").display()
    );
    let _ = world.deploy(&two).ok();
    assert_eq!(world.get("/second").status, 200);
    let _ = world.deploy(&who("x", 1, "")).ok();
    world.until("deleted", |status| status.deployments.len() == 1);
    assert_eq!(world.get("/second").status, 404);
    let _ = world.run(&["delete", "who"]).ok();
    world.until("nothing left", |status| status.deployments.is_empty());
    assert_eq!(world.get("/who").status, 404);
    let _ = world.run(&["delete", "who"]).code(5);
}
