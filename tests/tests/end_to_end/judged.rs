//! The whole life of a deployment under constant load, one thing after the other: not one failed request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use decurion_api::status::DeploymentState;
use decurion_tests::{Load, Tally, World, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn held(world: &World, version: &str, replicas: u32, config: &str) -> String {
    format!(
        "application = \"demo\"\n[[deployment]]\nname = \"held\"\nlibrary = \"{}\"\nclass = \"Held\"\nversion = \"{version}\"\n\
         num_replicas = {replicas}\nargs = {{ folder = \"{}\" }}\nuser_config = \"{config}\"\n",
        library("fixtures").display(),
        world.path().display()
    )
}

fn settled(world: &World, replicas: usize) {
    world.until("settled", |status| {
        let deployment = &status.deployments[0];
        deployment.status == DeploymentState::Healthy
            && deployment.replicas.len() == replicas
            && status.proxy.ready
    });
}

/// Does something under load, and says how long the longest wait for one answer was.
#[expect(clippy::print_stdout, reason = "the figure that this is judged by")]
fn under_load(world: &World, what: &str, act: impl FnOnce()) -> Tally {
    let load = Load::start(world.address(), "/held", 8);
    load.answer_more(100);
    act();
    load.answer_more(100);
    let tally = load.stop();
    println!("{what}: {} answers, the longest wait {:?}", tally.good(), tally.longest);
    tally
}

#[test]
#[expect(clippy::print_stdout, reason = "the figure that this is judged by")]
fn a_whole_life_under_load_loses_nothing() {
    let world = World::start();
    let _ = world.deploy(&held(&world, "1", 5, "a")).ok();
    let mut longest = Duration::ZERO;
    let mut lossless = |what: &str, act: &dyn Fn()| {
        let tally = under_load(&world, what, act);
        assert_eq!(tally.failures(), Vec::<String>::new(), "{what}");
        longest = longest.max(tally.longest);
    };
    lossless("an update", &|| {
        let _ = world.deploy(&held(&world, "2", 5, "a")).ok();
    });
    lossless("a reconfigure", &|| {
        let _ = world.run(&["reconfigure", "held", "\"b\""]).ok();
    });
    lossless("a scale up", &|| {
        let _ = world.run(&["scale", "held", "8"]).ok();
    });
    lossless("a scale down", &|| {
        let _ = world.run(&["scale", "held", "2"]).ok();
        settled(&world, 2);
    });
    lossless("a restart", &|| {
        let _ = world.run(&["restart", "held"]).ok();
    });
    println!("the longest wait of all: {longest:?}");
    assert_eq!(world.get("/held").text(), "b b");
    // Who was connected to a proxy that is killed loses that connection, and what it had on it; nobody is refused.
    let replicas = world.pids("held");
    let tally = under_load(&world, "a proxy kill", || {
        let pid = world.status().proxy.pid.expect("a proxy");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        world.until("another proxy", |status| {
            status.proxy.ready && status.proxy.pid.is_some_and(|other| other != pid)
        });
    });
    let failures = tally.failures();
    assert!(failures.len() <= 8, "{failures:?}");
    assert!(failures.iter().all(|failure| failure.starts_with("request: ")), "{failures:?}");
    assert_eq!(world.pids("held"), replicas);
}

#[test]
fn an_update_never_takes_more_than_a_fifth_away() {
    for (replicas, fewest) in [(5, 4), (10, 8), (25, 20)] {
        let world = World::start();
        let _ = world.deploy(&held(&world, "1", replicas, "a")).ok();
        let (done, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(usize::MAX)));
        let watch = std::thread::spawn({
            let (done, seen, admin) = (Arc::clone(&done), Arc::clone(&seen), world.admin());
            move || {
                while !done.load(Ordering::Relaxed) {
                    let status = admin.status().expect("a supervisor");
                    let running = status.deployments[0].replicas.iter().filter(|it| it.state.can_serve());
                    seen.fetch_min(running.count(), Ordering::Relaxed);
                }
            }
        });
        let _ = world.deploy(&held(&world, "2", replicas, "a")).ok();
        done.store(true, Ordering::Relaxed);
        watch.join().expect("the watch ends");
        let seen = seen.load(Ordering::Relaxed);
        assert!(seen >= fewest, "of {replicas} only {seen} were running");
    }
}

#[test]
fn replicas_that_have_done_their_part_are_replaced_without_a_loss() {
    let world = World::start();
    let config = format!("{}recycle = {{ max_requests = 50 }}\n", held(&world, "1", 2, "a"));
    let _ = world.deploy(&config).ok();
    let first = world.pids("held");
    let load = Load::start(world.address(), "/held", 4);
    world.until("both are others", |status| {
        let replicas = &status.deployments[0].replicas;
        replicas.len() >= 2 && replicas.iter().all(|replica| !first.contains(&replica.pid))
    });
    load.answer_more(100);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    let ended = world.deployment("held").ended;
    assert!(ended.iter().all(|it| !it.failed && it.reason.contains("(max_requests = 50)")), "{ended:?}");
}

#[test]
fn a_handler_that_never_returns_costs_its_own_request_and_its_replica() {
    let world = World::start();
    let config = format!(
        "application = \"demo\"\n[[deployment]]\nname = \"d\"\nlibrary = \"{}\"\nclass = \"CLASS\"\nnum_replicas = 2\n\
         request_timeout = \"200ms\"\ngraceful_shutdown_timeout = \"1s\"\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config.replace("CLASS", "Stubborn")).ok();
    let first = world.pids("d");
    assert_eq!(world.get("/d/forever").status, 504);
    let status = world.until("the one that is stuck is replaced", |status| {
        let deployment = &status.deployments[0];
        deployment.status == DeploymentState::Healthy
            && deployment.replicas.len() == 2
            && !deployment.ended.is_empty()
    });
    let ended = &status.deployments[0].ended[0];
    assert!(ended.failed && ended.reason.starts_with("stuck: a request still runs"), "{ended:?}");
    let kept = world.pids("d").into_iter().filter(|pid| first.contains(pid)).count();
    assert_eq!(kept, 1);
    assert_eq!(world.get("/d").status, 200);
}
