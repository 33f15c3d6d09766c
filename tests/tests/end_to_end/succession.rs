//! The supervisor dies, and the next one takes over what lives on.

use decurion_api::status::DeploymentState;
use decurion_client::Client;
use decurion_tests::{Load, World, eventually, is_running, library};
use nix::sys::signal::{Signal, kill};

fn who(version: &str, replicas: u32) -> String {
    format!(
        "application = \"demo\"\n[[deployment]]\nname = \"who\"\nlibrary = \"{}\"\nclass = \"Who\"\n\
         num_replicas = {replicas}\nversion = \"{version}\"\nargs = [\"{version}\"]\n",
        library("fixtures").display()
    )
}

/// Kills the supervisor, and starts the next one.
fn succeed(world: &mut World) {
    assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
    world.start_supervisor();
}

#[test]
fn a_killed_supervisor_is_not_missed_and_the_next_one_adopts_all() {
    let mut world = World::start();
    let _ = world.deploy(&who("a", 3)).ok();
    let (pids, proxy) = (world.pids("who"), world.status().proxy.pid);
    let load = Load::start(world.address(), "/who", 8);
    for _ in 0..3 {
        load.answer_more(100);
        assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
        load.answer_more(200);
        world.start_supervisor();
        world.until("healthy", |status| {
            status.deployments.len() == 1 && status.deployments[0].status == DeploymentState::Healthy
        });
        assert_eq!((world.pids("who"), world.status().proxy.pid), (pids.clone(), proxy));
    }
    // What is adopted is led on as before.
    let _ = world.run(&["scale", "who", "4"]).ok();
    assert_eq!(world.pids("who").iter().filter(|pid| pids.contains(pid)).count(), 3);
    let _ = world.deploy(&who("b", 4)).ok();
    assert!(world.pids("who").iter().all(|pid| !pids.contains(pid)));
    load.answer_more(100);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    let left = world.roster();
    assert_eq!(left.len(), 5);
    assert_eq!(world.end_supervisor(Signal::SIGTERM), 0);
    for pid in left {
        assert!(!is_running(pid), "{pid} is left");
    }
}

#[test]
fn what_dies_without_a_supervisor_is_replaced_by_the_next_one() {
    let mut world = World::start();
    let _ = world.deploy(&who("a", 3)).ok();
    let pids = world.pids("who");
    let load = Load::start(world.address(), "/who", 4);
    assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
    kill(nix::unistd::Pid::from_raw(pids[1]), Signal::SIGKILL).expect("a replica");
    load.answer_more(100);
    world.start_supervisor();
    let status = world.until("three again", |status| {
        let replicas = &status.deployments[0].replicas;
        replicas.iter().filter(|it| it.state.can_serve() && it.pid != pids[1]).count() == 3
    });
    load.answer_more(100);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    let now = world.pids("who");
    assert!(now.contains(&pids[0]) && now.contains(&pids[2]));
    assert!(status.deployments[0].ended.iter().any(|it| it.pid == pids[1] && it.failed));
    succeed(&mut world);
    assert_eq!(world.pids("who"), now);
}

/// A supervisor that is killed again and again, at any moment of an update, under load: nobody notices, and the target
/// is reached. `DECURION_SUCCESSIONS` says how often.
#[test]
fn killed_at_any_moment_of_an_update_it_is_not_missed() {
    let mut world = World::start();
    let _ = world.deploy(&who("v0", 3)).ok();
    let load = Load::start(world.address(), "/who", 6);
    for round in 1..=successions() {
        let version = format!("v{round}");
        let before = world.pids("who");
        std::fs::write(world.path().join("next.toml"), who(&version, 3)).expect("write");
        let _ = world.run(&["deploy", "--no-wait", "next.toml"]).ok();
        // Anywhere between the first start and the last end.
        load.answer_more(round * 17 % 240);
        assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
        load.answer_more(20);
        world.start_supervisor();
        world.until("the target", |status| {
            let deployment = &status.deployments[0];
            deployment.version == version
                && deployment.status == DeploymentState::Healthy
                && deployment.replicas.len() == 3
                && deployment.replicas.iter().all(|it| it.version == version && it.state.can_serve())
        });
        assert!(world.pids("who").iter().all(|pid| !before.contains(pid)));
        eventually("the old ones are gone", || before.iter().all(|pid| !is_running(*pid)));
    }
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    let left = world.roster();
    assert_eq!(left.len(), 4);
    assert_eq!(world.end_supervisor(Signal::SIGTERM), 0);
    assert!(left.iter().all(|pid| !is_running(*pid)));
}

#[expect(clippy::disallowed_methods, reason = "how many there are comes from the environment")]
fn successions() -> u64 {
    std::env::var("DECURION_SUCCESSIONS").ok().and_then(|number| number.parse().ok()).unwrap_or(6)
}

#[test]
fn an_upgrade_keeps_the_pids_and_loses_nothing() {
    let world = World::start_copied();
    let _ = world.deploy(&who("a", 3)).ok();
    let (supervisor, pids) = (world.supervisor_pid(), world.pids("who"));
    let load = Load::start(world.address(), "/who", 8);
    for _ in 0..3 {
        load.answer_more(100);
        let proxy = world.status().proxy.pid;
        world.install();
        kill(supervisor, Signal::SIGUSR2).expect("a supervisor");
        // While the one program takes the other's place, nobody answers here.
        eventually("another proxy", || {
            world.admin().status().is_ok_and(|it| it.proxy.ready && it.proxy.pid != proxy)
        });
        assert_eq!((world.status().pid, world.pids("who")), (supervisor.as_raw(), pids.clone()));
        load.answer_more(100);
    }
    assert_eq!(load.stop().failures(), Vec::<String>::new());
}

#[test]
fn a_program_that_cannot_take_over_is_refused_and_nothing_happens() {
    let world = World::start_copied();
    let _ = world.deploy(&who("a", 1)).ok();
    let (supervisor, pids, proxy) = (world.supervisor_pid(), world.pids("who"), world.status().proxy.pid);
    for (text, why) in [
        ("no program\n", "can't be started"),
        ("#!/bin/sh\necho it is broken >&2; exit 1\n", "it is broken"),
        ("#!/bin/sh\necho hello\n", "is not this program"),
        ("#!/bin/sh\necho decurion-control-version 99999\n", "version 99999 of the control protocol"),
    ] {
        world.install_command(text);
        kill(supervisor, Signal::SIGUSR2).expect("a supervisor");
        world.until(why, |_| world.log().contains(why));
    }
    let status = world.status();
    assert_eq!((status.pid, world.pids("who"), status.proxy.pid), (supervisor.as_raw(), pids, proxy));
    assert_eq!(world.get("/who").status, 200);
}

#[test]
fn a_handle_outlives_the_supervisor_and_learns_of_changes_from_the_next_one() {
    let mut world = World::start();
    let _ = world.deploy(&who("a", 2)).ok();
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a handle socket");
    let handle = client.deployment("who").expect("it exists").handle();
    let call = || handle.call::<String>("who", ()).expect("a result");
    assert!(call().ends_with(" a"));
    assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
    for _ in 0..100 {
        assert!(call().ends_with(" a"));
    }
    world.start_supervisor();
    let before = world.pids("who");
    let _ = world.deploy(&who("b", 2)).ok();
    for _ in 0..100 {
        assert!(call().ends_with(" b"));
    }
    assert!(before.iter().all(|pid| !is_running(*pid)));
}
