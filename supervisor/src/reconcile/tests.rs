//! The reconciler, driven by facts: one behaviour each.

use std::time::Duration;

use decurion_api::ApplicationName;
use decurion_api::status::{DeploymentState, ReplicaState, RolloutOutcome};
use serde_json::json;

use super::world::{Behaviour, World, count, libraries, name, spec};
use super::{Board, CallerId, Exit, Fact, Order, Work};
use crate::reconcile::order::Why;

fn versions(world: &World, of: &str) -> Vec<String> {
    world.status(of).replicas.into_iter().map(|replica| replica.version).collect()
}

fn spawns(world: &World) -> usize {
    world.log.iter().filter(|(_, order)| matches!(order, Order::Spawn(_))).count()
}

#[test]
fn a_new_deployment_gets_its_replicas_and_is_healthy_once_the_proxy_knows_them() {
    let mut world = World::new();
    world.proxy_answers = None;
    world.deploy(spec("a", "1", 3)).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.state("a"), DeploymentState::Updating);
    assert!(world.status("a").replicas.iter().all(|replica| replica.state == ReplicaState::Starting));

    let mut world = World::with(&[spec("a", "1", 3)]);
    assert_eq!(world.outcome("a"), RolloutOutcome::Done);
    assert!(world.status("a").replicas.iter().all(|replica| replica.state == ReplicaState::Running));
    world.pass(Duration::from_secs(100));
    assert_eq!(spawns(&world), 3);
}

#[test]
fn what_callers_are_to_be_told_is_done_once_the_proxy_goes_by_it() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let answers = world.proxy_answers.take();
    let mut patient = spec("a", "1", 2);
    patient.request_timeout = Some(Duration::from_secs(7));
    world.deploy(patient.clone()).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.outcome("a"), RolloutOutcome::InProgress);

    let mut world = World::with(&[spec("a", "1", 2)]);
    world.proxy_answers = answers;
    world.deploy(patient).unwrap();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.outcome("a"), RolloutOutcome::Done);
}

#[test]
fn the_same_version_again_changes_nothing() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let ids = world.ids("a");
    let before = world.core.desired().revision;
    assert_eq!(world.deploy(spec("a", "1", 2)).unwrap(), before);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.ids("a"), ids);
}

#[test]
fn an_update_starts_one_first_and_never_has_too_few() {
    for replicas in [1, 4, 5, 10, 25] {
        let mut world = World::with(&[spec("a", "1", replicas)]);
        let old = world.ids("a");
        world.log.clear();
        world.deploy(spec("a", "2", replicas)).unwrap();
        let first = world.log.iter().find(|(_, o)| matches!(o, Order::Spawn(_) | Order::Retire { .. }));
        assert!(matches!(first, Some((_, Order::Spawn(_)))));
        let floor = [1, 4, 4, 8, 20][[1, 4, 5, 10, 25].iter().position(|n| *n == replicas).unwrap()];
        while world.state("a") != DeploymentState::Healthy {
            let running =
                world.status("a").replicas.iter().filter(|r| r.state == ReplicaState::Running).count();
            assert!(running >= floor, "{running} of {replicas} run");
            assert!(world.step());
        }
        assert!(world.ids("a").iter().all(|id| !old.contains(id)));
        assert_eq!(world.processes_of("a"), replicas as usize);
    }
}

#[test]
fn without_a_surge_one_is_taken_down_first() {
    let rolling = |version| {
        let mut spec = spec("a", version, 5);
        spec.rollout.max_surge = count(0);
        spec
    };
    let mut world = World::with(&[rolling("1")]);
    world.log.clear();
    world.deploy(rolling("2")).unwrap();
    while world.state("a") != DeploymentState::Healthy {
        assert!(world.ids("a").len() <= 6, "one that is on its way out, and its successor");
        assert!(world.step());
    }
    assert_eq!(versions(&world, "a"), ["2"; 5]);
}

#[test]
fn a_version_that_never_starts_is_put_back_and_costs_no_replica() {
    let mut world = World::with(&[spec("a", "1", 5)]);
    let old = world.ids("a");
    world.behave("2", Behaviour { refuses: Some("no such model"), ..Behaviour::default() });
    let revision = world.deploy(spec("a", "2", 5)).unwrap();
    world.until(|world| world.outcome("a") == RolloutOutcome::RolledBack);
    let status = world.status("a");
    assert_eq!((status.version.as_str(), status.rollout.revision), ("1", revision));
    assert!(status.rollout.message.contains("no such model"), "{}", status.rollout.message);
    assert_eq!(world.ids("a"), old, "the last one that was tried is gone as well");
    assert_eq!(spawns(&world), 5 + 15, "3 tries for each replica");
}

#[test]
fn an_update_is_undone_once_the_old_version_is_whole_again() {
    let mut world = World::with(&[spec("a", "1", 5)]);
    let revision = world.deploy(spec("a", "2", 5)).unwrap();
    world.until(|world| versions(world, "a").iter().filter(|version| *version == "1").count() <= 3);
    world.behave("2", Behaviour { refuses: Some("no such model"), ..Behaviour::default() });
    for replica in world.status("a").replicas.iter().filter(|replica| replica.version == "2") {
        world.kill(&replica.id);
    }
    world.until(|world| world.status("a").version == "1");
    let status = world.status("a");
    assert!(status.replicas.iter().filter(|r| r.state.can_serve()).count() < 5, "{:?}", status.replicas);
    assert_eq!((status.rollout.revision, status.rollout.outcome), (revision, RolloutOutcome::InProgress));
    assert!(status.rollout.message.starts_with("it is being undone: "), "{}", status.rollout.message);
    world.until(|world| world.outcome("a") == RolloutOutcome::RolledBack);
    assert_eq!(
        (world.state("a"), versions(&world, "a")),
        (DeploymentState::Healthy, vec!["1".to_owned(); 5])
    );
    assert_eq!(world.processes_of("a"), 5);
}

#[test]
fn a_failed_update_without_rollback_stops_and_the_old_version_serves_on() {
    let kept = |version| {
        let mut spec = spec("a", version, 2);
        spec.rollout.auto_rollback = false;
        spec
    };
    let mut world = World::with(&[kept("1")]);
    world.behave("2", Behaviour { refuses: Some("no"), ..Behaviour::default() });
    world.deploy(kept("2")).unwrap();
    world.until(|world| world.outcome("a") == RolloutOutcome::Failed);
    world.settle();
    assert_eq!(world.state("a"), DeploymentState::DeployFailed);
    assert_eq!(versions(&world, "a"), ["1", "1"]);
    let victim = world.ids("a")[0].clone();
    world.kill(&victim);
    world.settle();
    assert_eq!(versions(&world, "a"), ["1", "1"], "what dies is replaced by what was good");
    world.behave("2", Behaviour::default());
    world.deploy(kept("2")).unwrap();
    world.settle();
    assert_eq!(
        (world.state("a"), versions(&world, "a")),
        (DeploymentState::Healthy, vec!["2".to_owned(); 2])
    );
}

#[test]
fn a_first_version_that_fails_says_so_where_nothing_serves() {
    let mut world = World::new();
    world.behave("1", Behaviour { refuses: Some("bad args"), ..Behaviour::default() });
    world.deploy(spec("a", "1", 1)).unwrap();
    world.until(|world| world.state("a") == DeploymentState::DeployFailed);
    world.pass(Duration::from_secs(600));
    assert_eq!(spawns(&world), 3);
    let routes = world.core.observed().routes.clone().unwrap();
    let decurion_ipc::control::Availability::Failed(why) = &routes.deployments[0].availability else {
        panic!("{routes:?}");
    };
    assert!(why.contains("bad args"), "{why}");
}

#[test]
fn a_constructor_that_hangs_is_killed_after_its_time() {
    let mut world = World::new();
    world.behave("1", Behaviour { start: None, ..Behaviour::default() });
    world.deploy(spec("a", "1", 1)).unwrap();
    world.pass(Duration::from_secs(301));
    let ended = &world.status("a").ended[0];
    assert!(ended.failed && ended.reason.contains("startup_timeout_s"), "{ended:?}");
}

#[test]
fn a_crash_is_replaced_at_once_and_named() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let victim = world.ids("a")[0].clone();
    let before = spawns(&world);
    world.kill(&victim);
    assert_eq!(spawns(&world), before + 1);
    assert_eq!(world.state("a"), DeploymentState::Unhealthy);
    world.settle();
    let status = world.status("a");
    assert_eq!(status.ended[0].reason, "killed by SIGKILL from outside");
    assert!(status.ended[0].failed);
    assert_eq!(status.replicas.iter().map(|replica| replica.restarts).sum::<u64>(), 1);
}

#[test]
fn a_lost_link_is_a_reason_only_for_one_that_lives_on() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let [dies, lives] = [0, 1].map(|at| world.ids("a")[at].clone());
    for replica in [&dies, &lives] {
        world.fact(Fact::Lost { replica: replica.clone(), how: "lost its control link".to_owned() });
    }
    world.fact(Fact::Exited { replica: dies.clone(), exit: Exit::Signal(11), last_words: Vec::new() });
    world.pass(Duration::from_secs(2));
    let reasons: Vec<(decurion_api::ReplicaId, String)> =
        world.status("a").ended.into_iter().map(|ended| (ended.id, ended.reason)).collect();
    let failed = "lost its control link".to_owned();
    assert_eq!(reasons, [(lives, failed), (dies, "killed by SIGSEGV".to_owned())]);
}

#[test]
fn all_replicas_killed_at_once_are_all_replaced_at_once() {
    let mut world = World::with(&[spec("a", "1", 4)]);
    let before = spawns(&world);
    for victim in world.ids("a") {
        world.kill(&victim);
    }
    assert_eq!(spawns(&world), before + 4);
}

#[test]
fn a_crash_loop_slows_down_and_recovers() {
    let mut world = World::with(&[spec("a", "1", 1)]);
    world.pass(Duration::from_secs(20));
    world.behave("1", Behaviour { crashes_after: Some(Duration::ZERO), ..Behaviour::default() });
    let victim = world.ids("a")[0].clone();
    world.kill(&victim);
    let before = spawns(&world);
    world.pass(Duration::from_secs(600));
    let starts = spawns(&world) - before;
    assert!((60..=75).contains(&starts), "{starts} starts in 10 minutes");
    world.behave("1", Behaviour::default());
    world.settle();
    world.pass(Duration::from_secs(11));
    let (victim, before) = (world.ids("a")[0].clone(), spawns(&world));
    world.kill(&victim);
    assert_eq!(spawns(&world), before + 1, "after a good life the first restart is immediate again");
}

#[test]
fn scaling_down_takes_the_youngest_and_first_those_that_did_not_start() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let old = world.ids("a");
    world.behave("1", Behaviour { start: None, ..Behaviour::default() });
    world.scale("a", 4);
    assert_eq!(world.state("a"), DeploymentState::Upscaling);
    world.scale("a", 1);
    assert_eq!(world.state("a"), DeploymentState::Downscaling);
    world.settle();
    assert_eq!(world.ids("a"), &old[..1]);
}

#[test]
fn a_change_of_the_number_restarts_nobody() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let old = world.ids("a");
    world.scale("a", 5);
    world.settle();
    assert!(old.iter().all(|id| world.ids("a").contains(id)));
    assert_eq!(world.ids("a").len(), 5);
}

#[test]
fn an_update_during_an_update_drops_the_middle_version() {
    let mut world = World::with(&[spec("a", "1", 5)]);
    world.behave("2", Behaviour { start: None, ..Behaviour::default() });
    world.deploy(spec("a", "2", 5)).unwrap();
    world.pass(Duration::from_secs(1));
    world.deploy(spec("a", "3", 5)).unwrap();
    world.settle();
    assert_eq!(versions(&world, "a"), ["3"; 5]);
    let middle = world.status("a").ended.into_iter().find(|ended| ended.version == "2").unwrap();
    assert_eq!((middle.reason.as_str(), middle.failed), ("stopped for an update", false));
}

#[test]
fn a_smaller_new_version_shrinks_first() {
    let mut world = World::with(&[spec("a", "1", 10)]);
    world.log.clear();
    world.deploy(spec("a", "2", 5)).unwrap();
    let retired = world.log.iter().filter(|(_, order)| matches!(order, Order::Retire { .. })).count();
    assert_eq!(retired, 5);
    world.settle();
    assert_eq!(versions(&world, "a"), ["2"; 5]);
}

#[test]
fn a_user_config_goes_to_one_first_and_then_to_the_rest_without_a_restart() {
    let mut with_config = spec("a", "1", 5);
    with_config.user_config = Some(json!({"threshold": 0.01}));
    let mut world = World::with(&[with_config]);
    let old = world.ids("a");
    world.reconfigure("a", json!({"threshold": 0.99}));
    assert_eq!(world.state("a"), DeploymentState::Updating);
    while world.state("a") != DeploymentState::Healthy {
        let busy = world.status("a").replicas.iter().filter(|r| r.state == ReplicaState::Updating).count();
        assert!(busy <= 1);
        assert!(world.step());
    }
    assert_eq!(world.ids("a"), old);
    let orders = world.log.iter().filter(|(_, order)| matches!(order, Order::Reconfigure { .. })).count();
    assert_eq!(orders, 5);
}

#[test]
fn a_refused_user_config_reaches_one_replica_only_and_is_put_back() {
    let mut with_config = spec("a", "1", 5);
    with_config.user_config = Some(json!(1));
    let mut world = World::with(&[with_config]);
    let old = world.ids("a");
    world.behave("1", Behaviour { refuses_config: Some(json!(2)), ..Behaviour::default() });
    let revision = world.reconfigure("a", json!(2));
    world.until(|world| world.outcome("a") == RolloutOutcome::RolledBack);
    world.settle();
    let status = world.status("a");
    assert_eq!(status.rollout.revision, revision);
    assert!(status.rollout.message.contains("not that"), "{}", status.rollout.message);
    assert_eq!(world.core.desired().deployments[&name("a")].spec.user_config, Some(json!(1)));
    assert_eq!(world.ids("a"), old);
    let orders = world.log.iter().filter(|(_, order)| matches!(order, Order::Reconfigure { .. })).count();
    assert_eq!(orders, 1);
}

#[test]
fn a_user_config_that_is_taken_away_is_gone_from_every_replica() {
    let mut world = World::with(&[spec("a", "1", 3)]);
    world.reconfigure("a", json!(1));
    world.settle();
    let ids = world.ids("a");
    world.deploy(spec("a", "1", 3)).unwrap();
    assert_eq!(world.state("a"), DeploymentState::Updating);
    world.settle();
    let left = world.ids("a");
    assert!(left.len() == 3 && left.iter().all(|id| !ids.contains(id)), "{left:?}");
    let without = world.core.desired().deployments[&name("a")].clone();
    assert!(world.core.observed().replicas.values().all(|replica| replica.config == without.config));
    // The same again is no change.
    world.deploy(spec("a", "1", 3)).unwrap();
    world.settle();
    assert_eq!(world.ids("a"), left);
}

#[test]
fn a_replica_that_dies_of_its_user_config_has_refused_it() {
    let mut with_config = spec("a", "1", 3);
    with_config.user_config = Some(json!(1));
    let mut world = World::with(&[with_config]);
    world.reconfigure("a", json!(2));
    let taking = world.status("a").replicas.into_iter().find(|r| r.state == ReplicaState::Updating).unwrap();
    world.kill(&taking.id);
    world.settle();
    assert_eq!(world.outcome("a"), RolloutOutcome::RolledBack);
    assert_eq!(world.core.desired().deployments[&name("a")].spec.user_config, Some(json!(1)));
}

#[test]
fn health_checks_that_fail_three_times_replace_the_replica() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    world.behave("1", Behaviour { health: Some(Err("disk gone")), ..Behaviour::default() });
    world.pass(Duration::from_secs(25));
    assert_eq!(world.status("a").ended.len(), 0);
    world.pass(Duration::from_secs(10));
    world.behave("1", Behaviour::default());
    world.settle();
    let ended = &world.status("a").ended[0];
    assert!(ended.failed && ended.reason.contains("disk gone"), "{ended:?}");
}

#[test]
fn a_class_without_a_check_is_asked_only_while_it_has_requests() {
    let (mut world, mut libraries) = (World::new(), libraries());
    libraries.values_mut().for_each(|library| library.classes[0].checks_health = false);
    let application = ApplicationName::new("test").unwrap();
    world.change(|changer| changer.deployment(application, spec("a", "1", 1), &libraries)).unwrap();
    world.settle();
    let asked = |world: &World| {
        world.log.iter().filter(|(_, order)| matches!(order, Order::CheckHealth { .. })).count()
    };
    world.pass(Duration::from_secs(60));
    assert_eq!(asked(&world), 0);
    let replica = world.ids("a")[0].clone();
    world.fact(Fact::Board { replica: replica.clone(), board: Board::from((1, 1, 0)) });
    world.pass(Duration::from_secs(30));
    assert!(asked(&world) >= 2);
    world.fact(Fact::Board { replica, board: Board::from((2, 0, 1)) });
    world.pass(Duration::from_secs(1));
    let before = asked(&world);
    world.pass(Duration::from_secs(60));
    assert_eq!(asked(&world), before);
}

#[test]
fn a_health_check_that_flaps_replaces_nobody() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let ids = world.ids("a");
    // Two failures in a row, then one success, over and over: only those in a row count.
    for _ in 0..20 {
        world.behave("1", Behaviour { health: Some(Err("disk gone")), ..Behaviour::default() });
        world.until(|world| world.core.observed().replicas.values().all(|it| it.health.failures == 2));
        world.behave("1", Behaviour::default());
        world.until(|world| world.core.observed().replicas.values().all(|it| it.health.failures == 0));
    }
    assert_eq!((world.ids("a"), world.status("a").ended.len()), (ids, 0));
}

#[test]
fn a_replica_that_takes_no_requests_is_replaced_and_one_that_is_slow_is_told_of() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let ids = world.ids("a");
    let oldest = Duration::from_secs(3);
    let says = |work| Behaviour { work, ..Behaviour::default() };
    world.behave("1", says(Work { oldest, queued: true, ..Work::default() }));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.ids("a"), ids);
    let notes = world.core.take_notes();
    assert_eq!(notes.iter().filter(|note| note.kind == "replica-slow").count(), 2, "{notes:?}");
    world.behave("1", says(Work { queued: true, ..Work::default() }));
    world.until(|world| !world.ids("a").iter().any(|id| ids.contains(id)));
    world.behave("1", says(Work::default()));
    world.settle();
    let ended = &world.status("a").ended;
    assert!(ended.iter().all(|it| it.failed && it.reason.starts_with("stalled: requests wait")), "{ended:?}");
}

#[test]
fn a_replica_that_hangs_is_found_and_one_that_is_busy_is_left_alone() {
    let mut world = World::with(&[spec("a", "1", 1)]);
    world.behave("1", Behaviour { health: None, ..Behaviour::default() });
    let busy = world.ids("a")[0].clone();
    for beat in 1..=300 {
        world.fact(Fact::Board { replica: busy.clone(), board: Board::from((beat, 1, 0)) });
        world.pass(Duration::from_secs(1));
    }
    assert_eq!(world.ids("a"), [busy]);
    world.pass(Duration::from_secs(130));
    let ended = &world.status("a").ended[0];
    assert!(ended.reason.contains("no answer to 3 health checks"), "{ended:?}");
}

#[test]
fn a_hung_replica_is_out_of_rotation_first_and_then_replaced() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let start = world.now;
    let stuck = world.ids("a");
    world.behave("1", Behaviour { lives: None, ..Behaviour::default() });
    world.until(|world| !world.core.observed().replicas[&stuck[0]].is_in_rotation());
    assert!(world.now.duration_since(start) <= Duration::from_secs(5));
    let routes = world.core.observed().routes.clone().unwrap();
    assert!(!routes.deployments[0].replicas.contains(&stuck[0]));
    // A handle would let go of its channel, and the replica may come back.
    let view = world.core.observed().views[&name("a")].1.clone().unwrap();
    assert!(view.replicas.contains(&stuck[0]));
    assert_eq!(world.state("a"), DeploymentState::Unhealthy);
    world.until(|world| !world.ids("a").iter().any(|id| stuck.contains(id)));
    world.behave("1", Behaviour::default());
    world.settle();
    assert!(world.now.duration_since(start) <= Duration::from_secs(10));
    let ended = &world.status("a").ended;
    assert!(ended.iter().all(|it| it.failed && it.reason == "hung: no sign of life for 6 s"), "{ended:?}");
}

#[test]
fn a_replica_that_was_silent_for_a_while_comes_back() {
    let mut world = World::with(&[spec("a", "1", 1)]);
    let ids = world.ids("a");
    world.behave("1", Behaviour { lives: Some(Duration::from_secs(4)), ..Behaviour::default() });
    world.until(|world| !world.core.observed().replicas[&ids[0]].is_in_rotation());
    world.behave("1", Behaviour::default());
    world.settle();
    world.pass(Duration::from_secs(60));
    assert_eq!((world.ids("a"), world.state("a")), (ids, DeploymentState::Healthy));
}

#[test]
fn deleting_takes_the_route_first_and_then_drains() {
    let mut world = World::with(&[spec("a", "1", 2), spec("b", "1", 1)]);
    world.change(|changer| changer.delete(&name("a"))).unwrap();
    assert_eq!(world.state("a"), DeploymentState::Deleting);
    let routes = world.core.observed().routes.clone().unwrap();
    assert_eq!(routes.deployments.len(), 1);
    world.until(|world| world.core.deployment_statuses(world.now).len() == 1);
    assert_eq!((world.processes_of("a"), world.processes_of("b")), (0, 1));
}

#[test]
fn a_replica_that_does_not_drain_is_killed_after_its_grace() {
    let mut world = World::with(&[spec("a", "1", 1)]);
    world.behave("1", Behaviour { drain: None, ..Behaviour::default() });
    let before = world.elapsed();
    world.deploy(spec("a", "2", 1)).unwrap();
    world.settle();
    assert!(world.elapsed() - before >= Duration::from_secs(20));
    assert!(world.status("a").ended[0].reason.contains("had not finished in time"));
}

#[test]
fn a_proxy_that_dies_is_back_at_once_and_knows_everyone() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let ids = world.ids("a");
    let dead = world.current_proxy().unwrap();
    world.fact(Fact::ProxyExited { instance: dead, exit: Exit::Signal(9) });
    assert_ne!(world.current_proxy(), Some(dead));
    world.until(|world| world.core.proxy_status().ready);
    assert_eq!((world.ids("a"), world.core.proxy_status().restarts), (ids, 1));
}

#[test]
fn a_proxy_that_hangs_is_killed_and_replaced() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let (ids, hung) = (world.ids("a"), world.current_proxy().unwrap());
    world.pass(Duration::from_secs(60));
    assert_eq!(world.current_proxy(), Some(hung), "one that answers stays");
    world.proxy_lives = None;
    let since = world.elapsed();
    world.until(|world| world.current_proxy() != Some(hung));
    let took = world.elapsed() - since;
    assert!((Duration::from_secs(5)..Duration::from_secs(8)).contains(&took), "{took:?}");
    world.proxy_lives = Some(Duration::from_millis(1));
    world.until(|world| world.core.proxy_status().ready);
    world.pass(Duration::from_secs(60));
    assert_eq!((world.ids("a"), world.core.proxy_status().restarts), (ids, 1));
    let kills = world.log.iter().filter(|(_, order)| matches!(order, Order::KillProxy { .. }));
    assert_eq!(kills.count(), 1);
}

#[test]
fn a_proxy_that_answers_late_stays() {
    let mut world = World::with(&[spec("a", "1", 1)]);
    let proxy = world.current_proxy();
    world.proxy_lives = Some(Duration::from_millis(4500));
    world.pass(Duration::from_secs(60));
    assert_eq!((world.current_proxy(), world.core.proxy_status().restarts), (proxy, 0));
}

#[test]
fn while_the_proxy_is_away_an_update_waits() {
    let mut world = World::with(&[spec("a", "1", 5)]);
    world.proxy_answers = None;
    let dead = world.current_proxy().unwrap();
    world.fact(Fact::ProxyExited { instance: dead, exit: Exit::Signal(9) });
    world.deploy(spec("a", "2", 5)).unwrap();
    world.log.clear();
    world.pass(Duration::from_secs(5));
    assert!(!world.log.iter().any(|(_, order)| matches!(order, Order::Retire { why: Why::Update, .. })));
}

#[test]
fn settings_and_certificates_count_once_every_worker_goes_by_them() {
    let mut world = World::with(&[spec("a", "1", 1)]);
    assert!(world.core.proxy_status().up_to_date);
    let told = |world: &World| {
        let orders = world.log.iter().filter(|(_, order)| matches!(order, Order::ConfigureProxy { .. }));
        orders.count()
    };
    world.proxy_answers = None;
    let mut desired = world.core.desired().clone();
    desired.http.max_connections = 7;
    world.core.accept(desired);
    world.turn();
    let proxy = world.current_proxy().unwrap();
    let sequence = world.core.observed().proxies.all[&proxy].configuring.unwrap();
    world.fact(Fact::CertificatesChanged);
    // The settings alone are not all that is wanted by now.
    world.fact(Fact::ProxyConfigured { instance: proxy, sequence });
    assert!(world.core.proxy_status().ready && !world.core.proxy_status().up_to_date);
    world.pass(Duration::from_secs(10));
    assert_eq!(told(&world), 2, "once each");
    let sequence = world.core.observed().proxies.all[&proxy].configuring.unwrap();
    world.fact(Fact::ProxyConfigured { instance: proxy, sequence });
    assert!(world.core.proxy_status().up_to_date);
    assert_eq!(world.current_proxy(), Some(proxy));
}

#[test]
fn a_new_address_gets_a_new_proxy_before_the_old_one_goes() {
    let mut world = World::with(&[spec("a", "1", 1)]);
    let old = world.current_proxy().unwrap();
    world.log.clear();
    let mut desired = world.core.desired().clone();
    desired.http.listen = "127.0.0.1:9000".to_owned();
    world.core.accept(desired);
    world.turn();
    world.until(|world| world.core.observed().proxies.all.len() == 1);
    assert_ne!(world.current_proxy(), Some(old));
    let acts: Vec<&str> = world
        .log
        .iter()
        .filter_map(|(_, order)| match order {
            Order::SpawnProxy { .. } => Some("spawn"),
            Order::PublishRoutes { .. } => Some("publish"),
            Order::ListenProxy { .. } => Some("listen"),
            Order::DrainProxy { .. } => Some("drain"),
            _ => None,
        })
        .collect();
    assert_eq!(acts, ["spawn", "publish", "listen", "drain"]);
}

#[test]
fn a_handle_that_does_not_answer_holds_nothing_up_for_long() {
    let mut world = World::with(&[spec("a", "1", 1), spec("b", "1", 1)]);
    let caller = CallerId::Replica(world.ids("b")[0].clone());
    world.fact(Fact::Resolve { caller: caller.clone(), deployment: name("a") });
    world.pass(Duration::from_millis(10));
    world.handles_answer = None;
    let before = world.elapsed();
    world.deploy(spec("a", "2", 1)).unwrap();
    world.settle();
    let took = world.elapsed() - before;
    assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[test]
fn a_handle_that_has_cut_off_a_replica_is_joined_with_it_anew_and_nobody_is_killed() {
    let mut world = World::with(&[spec("a", "1", 1), spec("b", "1", 1)]);
    let caller = CallerId::Replica(world.ids("b")[0].clone());
    let callee = world.ids("a")[0].clone();
    let cut_off =
        || Fact::CutOff { caller: caller.clone(), replica: callee.clone(), fault: "a bad slot".to_owned() };
    world.log.clear();
    world.fact(cut_off());
    assert!(world.log.is_empty(), "it never had a channel to it");
    world.fact(Fact::Resolve { caller: caller.clone(), deployment: name("a") });
    world.pass(Duration::from_millis(10));
    let (start, ids) = (world.now, world.ids("a"));
    world.log.clear();
    // It says so for ever, as often as it can.
    for _ in 0..6_000 {
        world.fact(cut_off());
        world.pass(Duration::from_millis(10));
    }
    let joined: Vec<u128> = (world.log.iter())
        .filter_map(|(at, order)| match order {
            Order::Attach { caller: of, replica, .. } if (of, replica) == (&caller, &callee) => {
                Some(at.duration_since(start).as_millis())
            }
            Order::Kill { .. } | Order::Retire { .. } | Order::Spawn(_) => panic!("{order:?}"),
            _ => None,
        })
        .collect();
    assert_eq!(joined.first(), Some(&0), "the first time at once");
    assert!((10..=16).contains(&joined.len()), "{joined:?}");
    assert_eq!(world.ids("a"), ids);
    let told = world.core.take_notes().into_iter().filter(|note| note.kind == "handle-cut-off").count();
    assert!((joined.len()..=joined.len() + 1).contains(&told), "{told} of {joined:?}");
}

#[test]
fn a_handle_that_has_no_channel_to_a_replica_gets_another_and_it_is_told_why() {
    let mut world = World::with(&[spec("a", "1", 1), spec("b", "1", 1)]);
    let caller = CallerId::Replica(world.ids("b")[0].clone());
    let callee = world.ids("a")[0].clone();
    let lost = || Fact::Unjoined {
        caller: caller.clone(),
        replica: callee.clone(),
        why: "it has hung up".to_owned(),
    };
    world.fact(lost());
    world.fact(Fact::Resolve { caller: caller.clone(), deployment: name("a") });
    world.pass(Duration::from_millis(10));
    let _ = world.core.take_notes();
    let ids = world.ids("a");
    world.log.clear();
    world.fact(lost());
    world.pass(Duration::from_secs(1));
    let orders: Vec<&Order> = world.log.iter().map(|(_, order)| order).collect();
    let anew = |order: &&&Order| matches!(order, Order::Attach { caller: of, replica, .. } if (of, replica) == (&caller, &callee));
    assert_eq!(orders.iter().filter(anew).count(), 1, "{orders:?}");
    assert_eq!(world.ids("a"), ids, "nobody is killed");
    let told: Vec<_> = world.core.take_notes();
    assert!(
        told.iter().any(|note| note.kind == "handle-joined-anew" && note.message.ends_with("it has hung up")),
        "{told:?}"
    );
}

#[test]
fn who_loses_its_channel_since_the_replica_died_is_not_joined_with_it_anew() {
    let mut world = World::with(&[spec("a", "1", 1), spec("b", "1", 1)]);
    let caller = CallerId::Replica(world.ids("b")[0].clone());
    let callee = world.ids("a")[0].clone();
    world.fact(Fact::Resolve { caller: caller.clone(), deployment: name("a") });
    world.pass(Duration::from_millis(10));
    world.log.clear();
    // The hang-up is heard before the death.
    world.fact(Fact::Unjoined { caller, replica: callee.clone(), why: "it has hung up".to_owned() });
    world.kill(&callee);
    world.pass(Duration::from_secs(5));
    let anew = |order: &Order| matches!(order, Order::Attach { replica, .. } if *replica == callee);
    assert!(!world.log.iter().any(|(_, order)| anew(order)));
    let told = world.core.take_notes();
    assert!(told.iter().all(|note| note.kind != "handle-joined-anew"), "{told:?}");
}

#[test]
fn a_replica_that_is_on_its_way_out_is_not_joined_anew() {
    let mut world = World::with(&[spec("a", "1", 1), spec("b", "1", 1)]);
    world.behave("1", Behaviour { drain: None, ..Behaviour::default() });
    let caller = CallerId::Replica(world.ids("b")[0].clone());
    let callee = world.ids("a")[0].clone();
    world.fact(Fact::Resolve { caller: caller.clone(), deployment: name("a") });
    world.pass(Duration::from_millis(10));
    world.deploy(spec("a", "2", 1)).unwrap();
    world.pass(Duration::from_secs(1));
    world.log.clear();
    world.fact(Fact::CutOff { caller, replica: callee.clone(), fault: "a bad slot".to_owned() });
    world.pass(Duration::from_secs(5));
    let anew = |order: &Order| matches!(order, Order::Attach { replica, .. } if *replica == callee);
    assert!(!world.log.iter().any(|(_, order)| anew(order)));
}

#[test]
fn a_handle_to_what_is_not_there_is_told_and_later_told_again() {
    let mut world = World::with(&[spec("b", "1", 1)]);
    let caller = CallerId::Replica(world.ids("b")[0].clone());
    world.log.clear();
    world.fact(Fact::Resolve { caller, deployment: name("a") });
    let told = |world: &World| {
        world
            .log
            .iter()
            .filter_map(|(_, order)| match order {
                Order::PublishView { view, known, .. } => Some((view.is_some(), known.len())),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&world), [(false, 1)]);
    world.deploy(spec("a", "1", 1)).unwrap();
    world.settle();
    assert!(told(&world).last().unwrap().0);
}

#[test]
fn stopping_drains_the_proxy_then_callers_then_those_they_call() {
    let mut world = World::with(&[spec("a", "1", 1), spec("b", "1", 1)]);
    let caller = CallerId::Replica(world.ids("b")[0].clone());
    world.fact(Fact::Resolve { caller, deployment: name("a") });
    world.pass(Duration::from_millis(10));
    world.log.clear();
    world.fact(Fact::Stop { at_once: false });
    world.until(|world| world.core.observed().finished);
    let acts: Vec<String> = world
        .log
        .iter()
        .filter_map(|(_, order)| match order {
            Order::DrainProxy { .. } => Some("proxy".to_owned()),
            Order::Drain { replica, .. } => Some(replica.as_str()[..1].to_owned()),
            Order::Spawn(_) | Order::Kill { .. } => Some("never".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(acts, ["proxy", "b", "a"]);
}

#[test]
fn stopping_at_once_kills() {
    let mut world = World::with(&[spec("a", "1", 3)]);
    world.fact(Fact::Stop { at_once: false });
    world.fact(Fact::Stop { at_once: true });
    world.until(|world| world.core.observed().finished);
    assert_eq!(world.processes_of("a"), 0);
}

#[test]
fn stopping_takes_no_longer_than_the_grace() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    world.behave("1", Behaviour { drain: None, ..Behaviour::default() });
    let before = world.elapsed();
    world.fact(Fact::Stop { at_once: false });
    world.until(|world| world.core.observed().finished);
    assert!(world.elapsed() - before <= Duration::from_secs(21));
}

/// A websocket's replica ends it, and not the proxy: it has to hear of the end in time to say so, and to be destroyed.
#[test]
fn connections_that_do_not_end_are_told_before_all_is_killed() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    world.proxy_drains = None;
    world.log.clear();
    let before = world.now;
    world.fact(Fact::Stop { at_once: false });
    world.until(|world| world.core.observed().finished);
    let replicas: Vec<(Duration, bool)> = world
        .log
        .iter()
        .filter_map(|(at, order)| match order {
            Order::Drain { grace, .. } => Some((*at - before, grace.is_zero())),
            Order::Kill { .. } => Some((*at - before, false)),
            _ => None,
        })
        .collect();
    assert_eq!(replicas.len(), 2, "{:?}", world.log);
    for (at, says_goodbye) in replicas {
        assert!(says_goodbye && (17_000..17_100).contains(&at.as_millis()), "{at:?}");
    }
}

#[test]
fn limits_and_routes_change_without_a_restart() {
    let mut world = World::with(&[spec("a", "1", 2)]);
    let old = world.ids("a");
    world
        .change(|changer| {
            changer.configure(&name("a"), |spec| {
                spec.max_ongoing_requests = Some(17);
                spec.route_prefix = None;
            })
        })
        .unwrap();
    world.settle();
    assert_eq!(world.ids("a"), old);
    let limits = world.log.iter().filter(|(_, o)| matches!(o, Order::Limit { limit: 17, .. })).count();
    assert_eq!(limits, 2);
    assert_eq!(world.core.observed().routes.as_ref().unwrap().deployments[0].route_prefix, None);
}
