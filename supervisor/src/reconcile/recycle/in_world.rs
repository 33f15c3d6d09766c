//! Recycling, and replicas that are stuck, with the whole reconciler around them.

use std::collections::BTreeSet;
use std::time::Duration;

use decurion_api::ReplicaId;
use decurion_api::spec::{DeploymentSpec, RecycleSpec};
use decurion_api::status::DeploymentState;

use crate::reconcile::world::{Behaviour, World, count, spec};
use crate::reconcile::{Board, Exit, Fact, Work};

const SECOND: Duration = Duration::from_secs(1);

fn recycled(replicas: u32, recycle: RecycleSpec) -> DeploymentSpec {
    DeploymentSpec { recycle: Some(recycle), ..spec("a", "1", replicas) }
}

fn ids(world: &World) -> BTreeSet<ReplicaId> {
    world.ids("a").into_iter().collect()
}

fn says(world: &mut World, replica: &ReplicaId, processed: u64, resident: u64) {
    let board = Board { processed, resident, ..Board::default() };
    world.fact(Fact::Board { replica: replica.clone(), board });
}

#[test]
fn who_has_answered_enough_is_replaced_by_one_that_serves_first() {
    let mut world =
        World::with(&[recycled(3, RecycleSpec { max_requests: Some(100), ..RecycleSpec::default() })]);
    let first = ids(&world);
    let worn = first.iter().next().unwrap().clone();
    says(&mut world, &worn, 99, 0);
    world.pass(SECOND);
    assert_eq!(ids(&world), first);
    says(&mut world, &worn, 100, 0);
    assert_eq!(world.processes_of("a"), 4, "the fresh one starts before the worn one goes");
    world.until(|world| world.processes_of("a") == 3);
    let now = ids(&world);
    assert_eq!(now.intersection(&first).count(), 2);
    assert!(!now.contains(&worn));
    let ended = world.status("a").ended;
    assert_eq!(ended[0].reason, "recycled after 100 requests (max_requests = 100)");
    assert!(!ended[0].failed);
    assert_eq!(world.state("a"), DeploymentState::Healthy);
}

#[test]
fn they_go_one_at_a_time_and_also_without_a_surge() {
    for surge in [1, 0] {
        let mut spec = recycled(4, RecycleSpec { max_age: Some(SECOND * 100), ..RecycleSpec::default() });
        spec.rollout.max_surge = count(surge);
        spec.rollout.max_unavailable = count(1);
        let mut world = World::with(&[spec]);
        let first = ids(&world);
        let mut fewest = usize::MAX;
        while ids(&world).intersection(&first).count() > 0 {
            assert!(world.step());
            let status = world.status("a");
            fewest = fewest.min(status.replicas.iter().filter(|it| it.state.can_serve()).count());
            assert!(status.replicas.len() <= 5, "{status:?}");
        }
        assert!(fewest >= if surge == 0 { 3 } else { 4 }, "{fewest}");
        assert!(world.elapsed() < SECOND * 200);
    }
}

#[test]
fn a_single_replica_without_a_surge_is_replaced_as_well() {
    let mut spec = recycled(1, RecycleSpec { max_requests: Some(1), ..RecycleSpec::default() });
    spec.rollout.max_surge = count(0);
    spec.rollout.max_unavailable = count(1);
    let mut world = World::with(&[spec]);
    let worn = world.ids("a")[0].clone();
    says(&mut world, &worn, 1, 0);
    world.until(|world| world.ids("a").iter().all(|id| *id != worn) && !world.ids("a").is_empty());
    world.settle();
}

#[test]
fn memory_is_looked_at_after_a_good_life() {
    let mut world =
        World::with(&[recycled(1, RecycleSpec { max_memory: Some(1_000), ..RecycleSpec::default() })]);
    let worn = world.ids("a")[0].clone();
    says(&mut world, &worn, 0, 1_001);
    world.pass(SECOND * 5);
    assert!(world.ids("a").contains(&worn));
    world.pass(SECOND * 6);
    assert!(!world.ids("a").contains(&worn));
    assert!(world.status("a").ended[0].reason.contains("with 1001 bytes of memory"));
}

#[test]
fn a_replica_that_is_stuck_is_replaced_and_finishes_the_rest() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    world.behave("1", Behaviour { drain: None, ..Behaviour::default() });
    let stuck = world.ids("a")[0].clone();
    let alive = |overdue| {
        let work = Work { overdue, oldest: overdue, queued: false };
        Fact::Alive { replica: stuck.clone(), sequence: 0, work }
    };
    world.fact(alive(SECOND * 4));
    assert_eq!(world.processes_of("a"), 2);
    world.fact(alive(SECOND * 5));
    world.until(|world| world.status("a").replicas.iter().filter(|it| it.state.can_serve()).count() == 2);
    assert!(world.ids("a").contains(&stuck), "it has its time for the others");
    world.until(|world| !world.ids("a").contains(&stuck));
    assert!(
        world.status("a").ended[0].reason.starts_with("stuck: a request still runs 5 s after its deadline")
    );
}

#[test]
fn every_end_is_told_apart() {
    let ended = |exit: Exit| {
        let mut world = World::with(&[spec("a", "1", 1)]);
        let replica = world.ids("a")[0].clone();
        world.fact(Fact::Exited { replica, exit, last_words: Vec::new() });
        let ended = world.status("a").ended.remove(0);
        assert!(ended.failed);
        ended.reason
    };
    assert_eq!(ended(Exit::Code(3)), "exited with code 3");
    assert_eq!(ended(Exit::Signal(11)), "killed by SIGSEGV");
    assert_eq!(ended(Exit::Signal(9)), "killed by SIGKILL from outside");
    assert_eq!(ended(Exit::OutOfMemory), "killed by the kernel's OOM killer");
}
