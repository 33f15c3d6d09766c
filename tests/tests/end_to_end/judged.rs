//! The whole life of a deployment under constant load, one thing after the other: not one failed request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use decurion_api::status::{DeploymentState, ReplicaState, ReplicaStatus};
use decurion_tests::{Load, Tally, World, eventually, library};
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

const CLIENTS: usize = 8;

/// Does something under load, and says how long the longest wait for one answer was.
#[expect(clippy::print_stdout, reason = "the figure that this is judged by")]
fn under_load(world: &mut World, what: &str, act: impl FnOnce(&mut World)) -> Tally {
    let load = Load::start(world.address(), "/held", CLIENTS);
    load.answer_more(100);
    act(world);
    load.answer_more(100);
    let tally = load.stop();
    println!("{what}: {} answers, the longest wait {:?}", tally.good(), tally.longest);
    tally
}

/// The same, and nothing may fail.
fn lossless(world: &mut World, what: &str, act: impl FnOnce(&mut World)) -> Duration {
    let tally = under_load(world, what, act);
    assert_eq!(tally.failures(), Vec::<String>::new(), "{what}");
    tally.longest
}

/// A kill closes the connections of who is killed: a client that had a request on one has lost that request with its
/// connection, as RFC 9112 (9.3.1) describes it, and asks again. So each client may find its connection broken once.
/// Nobody is refused, nobody gets an answer other than 200, and nothing fails after that.
fn proxy_kill(world: &mut World) -> Duration {
    let tally = under_load(world, "a proxy kill", |world| {
        let pid = world.status().proxy.pid.expect("a proxy");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
        another_proxy(world, pid);
    });
    let failures = tally.failures();
    assert!(failures.len() <= CLIENTS, "{failures:?}");
    assert!(failures.iter().all(|failure| failure.starts_with("request: ")), "{failures:?}");
    tally.longest
}

fn another_proxy(world: &World, than: i32) {
    // While one program takes the other's place, nobody answers on the control socket.
    eventually("another proxy", || {
        world.admin().status().is_ok_and(|it| it.proxy.ready && it.proxy.pid.is_some_and(|pid| pid != than))
    });
}

#[test]
#[expect(clippy::print_stdout, reason = "the figure that this is judged by")]
fn a_whole_life_under_load_loses_nothing() {
    let mut world = World::start_copied();
    let _ = world.deploy(&held(&world, "1", 5, "a")).ok();
    let mut waits = vec![
        lossless(&mut world, "an update", |world| {
            let _ = world.deploy(&held(world, "2", 5, "a")).ok();
        }),
        lossless(&mut world, "a reconfigure", |world| {
            let _ = world.run(&["reconfigure", "held", "\"b\""]).ok();
        }),
        lossless(&mut world, "a scale up", |world| {
            let _ = world.run(&["scale", "held", "8"]).ok();
        }),
        lossless(&mut world, "a scale down", |world| {
            let _ = world.run(&["scale", "held", "2"]).ok();
            settled(world, 2);
        }),
        lossless(&mut world, "a restart", |world| {
            let _ = world.run(&["restart", "held"]).ok();
        }),
    ];
    assert_eq!(world.get("/held").text(), "b b");
    let replicas = world.pids("held");
    waits.push(proxy_kill(&mut world));
    waits.push(lossless(&mut world, "a supervisor kill", |world| {
        let proxy = world.status().proxy.pid;
        assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
        world.start_supervisor();
        settled(world, 2);
        assert_eq!(world.status().proxy.pid, proxy);
    }));
    waits.push(lossless(&mut world, "an upgrade", |world| {
        let (supervisor, proxy) = (world.supervisor_pid(), world.status().proxy.pid.expect("a proxy"));
        world.install();
        kill(supervisor, Signal::SIGUSR2).expect("a supervisor");
        another_proxy(world, proxy);
        settled(world, 2);
        assert_eq!(world.status().pid, supervisor.as_raw());
    }));
    assert_eq!(world.pids("held"), replicas, "the same replicas have seen all of the last three");
    println!("the longest wait of all: {:?}", waits.into_iter().max());
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
                let mut ran = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    let status = admin.status().expect("a supervisor");
                    let replicas = &status.deployments[0].replicas;
                    // One that has run, and gives no sign of life for a while, is shown as one that is to be
                    // available yet: the machine is slow, and the update has taken nothing away.
                    let silent =
                        |it: &ReplicaStatus| it.state == ReplicaState::Starting && ran.contains(&it.id);
                    let running = replicas.iter().filter(|it| it.state.can_serve() || silent(it)).count();
                    ran.extend(replicas.iter().filter(|it| it.state.can_serve()).map(|it| it.id.clone()));
                    seen.fetch_min(running, Ordering::Relaxed);
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
         graceful_shutdown_timeout = \"1s\"\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config.replace("CLASS", "Stubborn")).ok();
    let first = world.pids("d");
    // The time may be up before a handler has the request: each has twice that of the one before, until one was in time.
    let has_one = || {
        let deployment = world.deployment("d");
        let news = |it: &ReplicaStatus| it.ongoing > 0 || !first.contains(&it.pid);
        !deployment.ended.is_empty() || deployment.replicas.iter().any(news)
    };
    let mut seconds = 0.5;
    while !has_one() {
        seconds *= 2.0;
        let mut client = world.connect();
        let headers = [("x-request-timeout-seconds", &*seconds.to_string())];
        client.request("GET", "/d/forever", &headers, b"").expect("sent");
        assert_eq!(client.read().expect("an answer").status, 504);
    }
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
