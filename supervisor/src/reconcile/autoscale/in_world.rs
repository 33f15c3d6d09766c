//! Autoscaling with the whole reconciler around it.

use std::time::Duration;

use decurion_api::spec::{AutoscalingSpec, DeploymentSpec};
use decurion_api::status::DeploymentState;

use crate::change::Refusal;
use crate::reconcile::world::{Behaviour, World, name, spec};

const SECOND: Duration = Duration::from_secs(1);

fn scaled(version: &str, min: u32, max: u32) -> DeploymentSpec {
    let scaling = AutoscalingSpec {
        min_replicas: min,
        max_replicas: max,
        upscale_delay: SECOND * 10,
        downscale_delay: SECOND * 20,
        look_back_period: SECOND * 5,
        ..AutoscalingSpec::default()
    };
    DeploymentSpec { autoscaling: Some(scaling), ..spec("a", version, min) }
}

fn target(world: &World) -> u32 {
    world.status("a").target_replicas
}

#[test]
fn the_number_follows_the_load_up_and_down_and_says_why() {
    let mut world = World::with(&[scaled("1", 1, 8)]);
    world.burden("a", 6);
    world.pass(SECOND * 9);
    assert_eq!((target(&world), world.state("a")), (1, DeploymentState::Healthy));
    let message = world.status("a").message;
    assert_eq!(message, "autoscaling 1 -> 3: 6.0 ongoing against a target of 2, once that has held for 10 s");
    world.until(|world| target(world) == 3);
    assert_eq!((target(&world), world.state("a")), (3, DeploymentState::Upscaling));
    world.settle();
    assert_eq!(world.ids("a").len(), 3);
    world.burden("a", 2);
    world.pass(SECOND * 60);
    assert_eq!(target(&world), 3);
    world.burden("a", 0);
    world.pass(SECOND * 60);
    assert_eq!((target(&world), world.ids("a").len(), world.state("a")), (1, 1, DeploymentState::Healthy));
}

#[test]
fn from_zero_and_back_to_zero() {
    let mut world = World::with(&[scaled("1", 0, 4)]);
    assert_eq!((world.ids("a").len(), world.state("a")), (0, DeploymentState::Healthy));
    world.waiting("a", 1);
    // It is the first try of this version.
    assert_eq!((target(&world), world.state("a")), (1, DeploymentState::Updating));
    world.settle();
    world.waiting("a", 0);
    world.burden("a", 1);
    world.pass(SECOND * 60);
    assert_eq!(target(&world), 1);
    world.burden("a", 0);
    world.pass(SECOND * 60);
    assert_eq!((target(&world), world.processes_of("a")), (0, 0));
    world.waiting("a", 1);
    assert_eq!((target(&world), world.state("a")), (1, DeploymentState::Upscaling));
    world.settle();
    world.pass(SECOND * 60);
    // It waits with the proxy for whatever reason: the replica stays.
    assert_eq!(target(&world), 1);
    // What waits with a proxy that is gone waits no more.
    let instance = world.current_proxy().unwrap();
    world.fact(crate::reconcile::Fact::ProxyExited { instance, exit: crate::reconcile::Exit::Signal(9) });
    world.settle();
    world.pass(SECOND * 60);
    assert_eq!(target(&world), 0);
}

#[test]
fn a_version_that_never_ran_fails_when_it_is_first_needed() {
    let mut world = World::new();
    world.behave("bad", Behaviour { refuses: Some("no"), ..Behaviour::default() });
    world.deploy(scaled("bad", 0, 4)).unwrap();
    world.settle();
    assert_eq!(world.state("a"), DeploymentState::Healthy);
    world.waiting("a", 1);
    world.until(|world| world.state("a") == DeploymentState::DeployFailed);
    assert!(world.status("a").message.contains("3 starts in a row have failed"));
}

#[test]
fn an_update_keeps_the_number_that_the_load_has_asked_for() {
    let mut world = World::with(&[scaled("1", 1, 8)]);
    world.burden("a", 8);
    world.until(|world| target(world) == 4);
    world.settle();
    world.burden("a", 2);
    assert_eq!(target(&world), 4);
    world.deploy(scaled("2", 1, 8)).unwrap();
    world.settle();
    assert_eq!((target(&world), world.ids("a").len()), (4, 4));
    world.deploy(scaled("2", 1, 3)).unwrap();
    world.settle();
    assert_eq!(target(&world), 3);
    let refused = world.change(|changer| changer.scale(&name("a"), 5)).unwrap_err();
    assert!(matches!(refused, Refusal::Autoscaled { max: 3, .. }));
    world.deploy(spec("a", "2", 2)).unwrap();
    world.settle();
    assert_eq!(target(&world), 2);
}
