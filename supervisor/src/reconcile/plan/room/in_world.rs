//! Room, with the whole reconciler around it.

use std::time::Duration;

use decurion_api::spec::{Amount, DeploymentSpec, RecycleSpec};
use decurion_api::status::{DeploymentState, RolloutOutcome};

use crate::capacity::Capacity;
use crate::reconcile::order::Why;
use crate::reconcile::world::{Behaviour, World, count, name, spec};
use crate::reconcile::{Board, Fact, Order};

fn cpus(count: u32) -> Capacity {
    Capacity {
        cpus: Some(Amount::whole(count)),
        cpu_ids: (0..u16::try_from(count).unwrap()).collect(),
        memory: Some(8 << 30),
        gpus: Some(vec!["0".to_owned(), "1".to_owned()]),
    }
}

fn needy(of: &str, version: &str, replicas: u32, cpus: u32) -> DeploymentSpec {
    let mut spec = spec(of, version, replicas);
    spec.resources.cpus = Some(Amount::whole(cpus));
    spec
}

fn world(capacity: Capacity, specs: &[DeploymentSpec]) -> World {
    let mut world = World::on(capacity);
    for spec in specs {
        world.deploy(spec.clone()).unwrap();
        world.settle();
    }
    world.log.clear();
    world
}

fn first_step(world: &World) -> Order {
    let is_step = |order: &&Order| matches!(order, Order::Spawn(_) | Order::Retire { .. });
    world.log.iter().map(|(_, order)| order).find(is_step).unwrap().clone()
}

/// The fewest that serve from here until it is healthy.
fn fewest(world: &mut World, of: &str) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..20_000 {
        let status = world.status(of);
        fewest = fewest.min(status.replicas.iter().filter(|replica| replica.state.can_serve()).count());
        if status.status == DeploymentState::Healthy {
            return fewest;
        }
        assert!(world.step());
    }
    panic!("it never came to that: {:#?}", world.status(of));
}

fn versions(world: &World, of: &str) -> Vec<String> {
    world.status(of).replicas.into_iter().map(|replica| replica.version).collect()
}

#[test]
fn where_a_surge_fits_one_starts_first() {
    let mut world = world(cpus(3), &[needy("a", "1", 2, 1)]);
    world.deploy(needy("a", "2", 2, 1)).unwrap();
    assert!(matches!(first_step(&world), Order::Spawn(_)));
    assert_eq!(fewest(&mut world, "a"), 2);
}

#[test]
fn where_a_surge_does_not_fit_one_is_taken_down_first() {
    for (replicas, least) in [(1, 0), (2, 1), (5, 4), (10, 8)] {
        let mut world = world(cpus(replicas), &[needy("a", "1", replicas, 1)]);
        world.deploy(needy("a", "2", replicas, 1)).unwrap();
        let Order::Retire { why: Why::Room(how), .. } = first_step(&world) else { panic!("one goes first") };
        assert!(how.contains("there is no room for both: it needs 1 cpu, and 0 of"), "{how}");
        assert_eq!(how.contains("until that one is ready none serves"), replicas == 1, "{how}");
        assert_eq!(fewest(&mut world, "a"), least, "of {replicas}");
        assert_eq!(versions(&world, "a"), vec!["2"; replicas as usize]);
    }
}

#[test]
fn a_single_replica_that_grows_takes_the_room_of_the_one_before_it() {
    let mut world = world(cpus(2), &[needy("a", "1", 1, 1)]);
    world.deploy(needy("a", "2", 1, 2)).unwrap();
    world.settle();
    assert_eq!(versions(&world, "a"), ["2"]);
}

#[test]
fn no_replica_is_taken_down_in_vain() {
    let mut world = world(cpus(4), &[needy("b", "1", 1, 2), needy("a", "1", 2, 1)]);
    world.deploy(needy("a", "2", 1, 4)).unwrap();
    world.pass(Duration::from_secs(60));
    assert_eq!(versions(&world, "a"), ["1"], "one of the two is beyond what is wanted, the other serves on");
    let status = world.status("a");
    assert!(
        status.message.contains("whoever of the old goes: it needs 4 cpus, and 2 of 4 are free"),
        "{status:#?}"
    );
    world.change(|changer| changer.delete(&name("b"))).unwrap();
    world.until(|world| world.core.deployment_statuses(world.now).len() == 1);
    world.settle();
    assert_eq!(versions(&world, "a"), ["2"]);
}

#[test]
fn what_does_not_fit_beside_others_waits_says_so_once_and_starts_when_they_go() {
    let mut world = world(cpus(2), &[needy("a", "1", 1, 2)]);
    world.core.take_notes();
    world.deploy(needy("b", "1", 2, 1)).unwrap();
    world.pass(Duration::from_secs(60));
    let status = world.status("b");
    assert_eq!((status.status, status.replicas.len()), (DeploymentState::Updating, 0));
    let why = "there is no room for another replica: it needs 1 cpu, and 0 of 2 are free";
    assert!(status.message.contains(why), "{}", status.message);
    let told = |world: &mut World| {
        world.core.take_notes().into_iter().filter(|note| note.kind == "waits-for-room").count()
    };
    assert_eq!(told(&mut world), 1);
    world.change(|changer| changer.delete(&name("a"))).unwrap();
    world.until(|world| world.core.deployment_statuses(world.now).len() == 1);
    world.settle();
    assert_eq!(versions(&world, "b"), ["1", "1"]);
}

#[test]
fn room_that_an_update_has_made_is_not_taken_by_who_asks_for_more() {
    let mut world = world(cpus(2), &[needy("z", "1", 2, 1)]);
    world.deploy(needy("a", "1", 1, 1)).unwrap();
    world.behave("2", Behaviour { start: Some(Duration::from_secs(5)), ..Behaviour::default() });
    world.deploy(needy("z", "2", 2, 1)).unwrap();
    world.until(|world| world.state("z") == DeploymentState::Healthy);
    assert_eq!(versions(&world, "z"), ["2", "2"]);
    assert!(versions(&world, "a").is_empty());
}

#[test]
fn a_version_that_fails_leaves_its_room_to_the_one_that_is_put_back() {
    let mut world = world(cpus(1), &[needy("z", "1", 1, 1)]);
    world.deploy(needy("a", "1", 1, 1)).unwrap();
    world.behave("2", Behaviour { refuses: Some("no"), ..Behaviour::default() });
    world.deploy(needy("z", "2", 1, 1)).unwrap();
    world.until(|world| world.outcome("z") == RolloutOutcome::RolledBack);
    world.until(|world| world.state("z") == DeploymentState::Healthy);
    assert_eq!(versions(&world, "z"), ["1"]);
    assert!(versions(&world, "a").is_empty());
}

#[test]
fn a_canary_without_room_beside_the_others_stands_in_the_place_of_one() {
    let canary = |version: &str| {
        let mut spec = needy("a", version, 3, 1);
        spec.rollout.canary = Some(decurion_api::spec::CanarySpec {
            weight: 10,
            duration: Duration::from_secs(60),
            max_error_rate: 0.1,
            max_p99: None,
        });
        spec
    };
    let mut world = world(cpus(3), &[canary("1")]);
    world.deploy(canary("2")).unwrap();
    world.pass(Duration::from_secs(10));
    let mut there = versions(&world, "a");
    there.sort();
    assert_eq!(there, ["1", "1", "2"]);
    let starts = world.log.iter().filter(|(_, order)| matches!(order, Order::Spawn(_))).count();
    assert_eq!(starts, 1, "and that is all that was started");
    world.until(|world| world.state("a") == DeploymentState::Healthy);
    assert_eq!(versions(&world, "a"), ["2", "2", "2"]);
}

#[test]
fn who_is_recycled_without_room_goes_before_its_successor_starts() {
    let mut spec = needy("a", "1", 1, 1);
    spec.recycle = Some(RecycleSpec { max_requests: Some(1), ..RecycleSpec::default() });
    let mut world = world(cpus(1), &[spec]);
    let worn = world.ids("a")[0].clone();
    let board = Board { processed: 1, ..Board::default() };
    world.fact(Fact::Board { replica: worn.clone(), board });
    world.until(|world| !world.ids("a").contains(&worn) && world.state("a") == DeploymentState::Healthy);
    let reason = world.status("a").ended[0].reason.clone();
    assert!(reason.contains("recycled after 1 requests") && reason.contains("no room for both"), "{reason}");
}

#[test]
fn cpus_and_gpus_of_a_replica_are_kept_by_the_next_supervisor() {
    let mut spec = needy("a", "1", 2, 1);
    spec.resources.gpus = Some(Amount::thousandths(500));
    let mut world = world(cpus(3), &[spec]);
    let reservations = |world: &World| {
        let replicas = world.core.observed().replicas.values();
        replicas.map(|it| (it.id.clone(), it.reservation.clone())).collect::<Vec<_>>()
    };
    let before = reservations(&world);
    let own: Vec<&[u16]> = before.iter().map(|(_, has)| has.cpu_ids.as_slice()).collect();
    assert_eq!(own, [&[0], &[1]]);
    assert!(before.iter().all(|(_, has)| has.gpus == Some(vec!["0".to_owned()])), "{before:?}");
    world.succeed();
    assert_eq!(reservations(&world), before);
    world.deploy(needy("b", "1", 1, 1)).unwrap();
    world.settle();
    let third = world.ids("b")[0].clone();
    assert_eq!(world.core.observed().replicas[&third].reservation.cpu_ids, [2]);
}

#[test]
fn who_uses_more_memory_than_it_may_is_killed_and_replaced_and_the_reason_is_told() {
    let mut spec = spec("a", "1", 1);
    spec.resources.memory = Some(1 << 30);
    let mut world = world(cpus(1), &[spec]);
    let first = world.ids("a")[0].clone();
    let says = |resident| Board { resident, ..Board::default() };
    world.fact(Fact::Board { replica: first.clone(), board: says(1 << 30) });
    world.pass(Duration::from_secs(60));
    assert_eq!(world.ids("a"), std::slice::from_ref(&first));
    world.fact(Fact::Board { replica: first.clone(), board: says((1 << 30) + (1 << 29)) });
    world.until(|world| !world.ids("a").contains(&first) && world.state("a") == DeploymentState::Healthy);
    let ended = world.status("a").ended[0].clone();
    assert_eq!(ended.reason, "used 1.5 GiB of memory, and may have 1 GiB (resources.memory)");
    assert!(ended.failed);
}

#[test]
fn with_no_surge_allowed_it_goes_as_it_would_anyway() {
    let rolling = |version: &str| {
        let mut spec = needy("a", version, 5, 1);
        spec.rollout.max_surge = count(0);
        spec
    };
    let mut world = world(cpus(5), &[rolling("1")]);
    world.deploy(rolling("2")).unwrap();
    assert_eq!(fewest(&mut world, "a"), 4);
}
