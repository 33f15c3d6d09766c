//! The supervisor dies, and the next one takes over what lives on.

use decurion_api::status::DeploymentState;
use decurion_tests::{Load, World, is_running, library};
use nix::sys::signal::Signal;

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
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pids[1]), Signal::SIGKILL).expect("a replica");
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
