//! Trials and pauses with the whole reconciler around them.

use std::time::Duration;

use decurion_api::Histogram;
use decurion_api::spec::{Amount, CanarySpec, DeploymentSpec};
use decurion_api::status::{DeploymentState, RolloutOutcome};

use crate::capacity::Capacity;
use crate::reconcile::canary::Answers;
use crate::reconcile::world::{Behaviour, World, count, name, spec};
use crate::reconcile::{Exit, Fact, Order};

const SECOND: Duration = Duration::from_secs(1);

fn tried(version: &str, replicas: u32) -> DeploymentSpec {
    let mut spec = spec("a", version, replicas);
    let duration = SECOND * 60;
    spec.rollout.canary = Some(CanarySpec { weight: 5, duration, max_error_rate: 0.01, max_p99: None });
    spec
}

fn of_version(world: &World, version: &str) -> usize {
    world.status("a").replicas.iter().filter(|replica| replica.version == version).count()
}

fn answered(world: &mut World, version: &str, all: u64, failed: u64) {
    let mut durations = Histogram::default();
    (0..all).for_each(|_| durations.record(Duration::from_millis(1)));
    let answers = Box::new(Answers { count: all, failed, durations });
    world.fact(Fact::Answered { deployment: name("a"), version: version.to_owned(), answers });
}

/// A world where version 2 is being tried beside five replicas of version 1.
fn trying() -> World {
    let mut world = World::with(&[tried("1", 5)]);
    world.deploy(tried("2", 5)).unwrap();
    world.until(|world| world.status("a").rollout.message.contains("gets 5% of the requests"));
    world
}

#[test]
fn a_new_version_is_tried_beside_the_whole_of_the_old_one_and_then_takes_its_place() {
    let mut world = trying();
    world.pass(SECOND * 30);
    assert_eq!((of_version(&world, "1"), of_version(&world, "2")), (5, 1));
    let view = world.core.observed().routes.clone().unwrap().deployments.remove(0);
    let canary = view.canary.unwrap();
    assert_eq!((canary.replicas.len(), canary.weight, view.replicas.len()), (1, 5, 6));
    answered(&mut world, "1", 1_000, 500);
    answered(&mut world, "2", 50, 0);
    assert_eq!(
        world.status("a").rollout.message,
        "the canary gets 5% of the requests for 60 s: 50 answered, 0 failed"
    );
    world.pass(SECOND * 31);
    world.settle();
    assert_eq!((of_version(&world, "2"), world.outcome("a")), (5, RolloutOutcome::Done));
    assert!(world.core.observed().routes.clone().unwrap().deployments[0].canary.is_none());
}

#[test]
fn a_trial_without_room_for_two_goes_on_when_neither_is_there_any_more() {
    let one = Capacity { cpus: Some(Amount::ONE), cpu_ids: vec![0], ..Capacity::default() };
    let mut world = World::on(one);
    let whole = |version: &str| {
        let mut spec = tried(version, 1);
        spec.resources.cpus = Some(Amount::ONE);
        spec
    };
    world.deploy(whole("1")).unwrap();
    world.settle();
    world.behave("2", Behaviour { start: Some(SECOND * 5), ..Behaviour::default() });
    world.deploy(whole("2")).unwrap();
    world.until(|world| (of_version(world, "1"), of_version(world, "2")) == (0, 1));
    let new = world.ids("a").remove(0);
    world.log.clear();
    world.kill(&new);
    world.pass(SECOND * 30);
    let started = world.log.iter().filter(|(_, order)| matches!(order, Order::Spawn(_))).count();
    assert!(started <= 2, "{started} were started");
    assert_eq!(of_version(&world, "2"), 1);
}

#[test]
fn a_version_that_fails_its_trial_goes_and_the_old_one_never_went() {
    let mut world = trying();
    let old = world.status("a").replicas;
    answered(&mut world, "2", 50, 5);
    world.until(|world| world.outcome("a") == RolloutOutcome::RolledBack && of_version(world, "2") == 0);
    world.settle();
    let status = world.status("a");
    assert_eq!((status.version.as_str(), of_version(&world, "1")), ("1", 5));
    assert!(status.rollout.message.contains("failed 5 of 50 requests; at most 1% may fail"), "{status:?}");
    let kept = status.replicas.iter().all(|replica| old.iter().any(|before| before.id == replica.id));
    assert!(kept, "{:?}", status.replicas);
}

#[test]
fn without_automatic_rollback_only_the_old_version_is_left_as_well() {
    let mut world = World::with(&[tried("1", 3)]);
    let mut next = tried("2", 3);
    next.rollout.auto_rollback = false;
    world.deploy(next).unwrap();
    world.until(|world| world.status("a").rollout.message.contains("gets 5%"));
    answered(&mut world, "2", 50, 50);
    world.until(|world| of_version(world, "2") == 0);
    assert_eq!((of_version(&world, "1"), world.state("a")), (3, DeploymentState::DeployFailed));
    world.pass(SECOND * 100);
    assert_eq!((of_version(&world, "1"), of_version(&world, "2")), (3, 0));
}

#[test]
fn a_canary_that_keeps_crashing_is_taken_back_and_old_replicas_that_crash_are_replaced_by_old_ones() {
    let mut world = trying();
    let old = world.ids("a")[0].clone();
    world.kill(&old);
    world.until(|world| {
        of_version(world, "1") == 5 && world.status("a").replicas.iter().all(|r| r.state.can_serve())
    });
    assert_eq!(of_version(&world, "2"), 1);
    for _ in 0..3 {
        world.until(|world| {
            world.status("a").replicas.iter().any(|r| r.version == "2" && r.state.can_serve())
        });
        let canary = world.status("a").replicas.into_iter().find(|replica| replica.version == "2").unwrap();
        world.fact(Fact::Exited { replica: canary.id, exit: Exit::Signal(11), last_words: Vec::new() });
    }
    world.until(|world| world.outcome("a") == RolloutOutcome::RolledBack);
    assert!(world.status("a").rollout.message.contains("lost 3 replicas"), "{:?}", world.status("a"));
}

#[test]
fn a_canary_without_a_surge_takes_one_place_and_one_that_has_no_room_is_not_tried() {
    let without = |version: &str, replicas: u32| {
        let mut spec = tried(version, replicas);
        spec.rollout.max_surge = count(0);
        spec.rollout.max_unavailable = count(1);
        spec
    };
    let mut world = World::with(&[without("1", 3)]);
    world.deploy(without("2", 3)).unwrap();
    world.until(|world| world.status("a").rollout.message.contains("gets 5%"));
    assert_eq!((of_version(&world, "1"), of_version(&world, "2")), (2, 1));
    let mut world = World::with(&[without("1", 1)]);
    world.deploy(without("2", 1)).unwrap();
    world.settle();
    assert_eq!((of_version(&world, "1"), of_version(&world, "2")), (0, 1));
}

#[test]
fn going_back_is_not_tried() {
    let mut world = trying();
    answered(&mut world, "2", 100, 0);
    world.pass(SECOND * 61);
    world.settle();
    world.change(|changer| changer.rollback(&name("a"), None)).unwrap();
    let start = world.elapsed();
    world.settle();
    assert_eq!(of_version(&world, "1"), 5);
    assert!(world.elapsed() - start < SECOND * 30);
}

#[test]
fn a_paused_update_goes_no_further_and_keeps_its_number() {
    let mut world = World::with(&[spec("a", "1", 5)]);
    world.behave("2", Behaviour { start: Some(SECOND), ..Behaviour::default() });
    world.deploy(spec("a", "2", 5)).unwrap();
    world.until(|world| of_version(world, "2") >= 2);
    world.change(|changer| changer.pause(&name("a"), true)).unwrap();
    world.pass(SECOND * 30);
    let (old, new) = (of_version(&world, "1"), of_version(&world, "2"));
    assert!(old > 0 && new > 0 && old + new >= 5, "{old} {new}");
    assert!(
        world.status("a").rollout.message.contains("rollout resume a"),
        "{:?}",
        world.status("a").rollout
    );
    // Whoever dies meanwhile is replaced, and no more of the new version come.
    let victim = world.status("a").replicas.into_iter().find(|replica| replica.version == "1").unwrap();
    world.kill(&victim.id);
    world.pass(SECOND * 30);
    assert_eq!(of_version(&world, "2"), new);
    assert!(of_version(&world, "1") + new >= 5);
    world.change(|changer| changer.pause(&name("a"), false)).unwrap();
    world.settle();
    assert_eq!((of_version(&world, "1"), of_version(&world, "2")), (0, 5));
}

#[test]
fn what_is_deployed_during_a_pause_waits_for_its_end_and_undo_does_not() {
    let mut world = World::with(&[spec("a", "1", 3)]);
    world.change(|changer| changer.pause(&name("a"), true)).unwrap();
    world.deploy(spec("a", "2", 3)).unwrap();
    world.pass(SECOND * 30);
    assert_eq!((of_version(&world, "1"), of_version(&world, "2")), (3, 0));
    world.scale("a", 4);
    world.pass(SECOND * 30);
    assert_eq!((of_version(&world, "1"), of_version(&world, "2")), (4, 0));
    world.change(|changer| changer.rollback(&name("a"), None)).unwrap();
    world.settle();
    assert_eq!((of_version(&world, "1"), world.outcome("a")), (3, RolloutOutcome::Done));
}
