//! The reconciler in a world of bad luck: seeded random workloads and faults, with the world's checks after each turn.
//! `DECURION_SIM_SEED` replays one seed, `DECURION_SIM_SEEDS` says how many are run.

use std::time::Duration;

use decurion_api::Histogram;
use decurion_api::spec::{Amount, AutoscalingSpec, CanarySpec, RecycleSpec, ResourcesSpec};
use serde_json::json;

use super::canary::Answers;
use super::world::{Behaviour, World, name, spec};
use super::{Board, CallerId, Exit, Fact, Work};
use crate::capacity::Capacity;
use crate::change::Refusal;

/// A small generator whose whole state is its seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // SplitMix64, by Sebastiano Vigna; public domain.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// So seldom is a handle parted from what it calls.
const PART_ONE_IN: u64 = 30;
const DEPLOYMENTS: [&str; 3] = ["a", "b", "c"];

fn behaviour(dice: &mut Dice) -> Behaviour {
    Behaviour {
        start: if dice.one_in(12) { None } else { Some(Duration::from_millis(dice.below(3_000))) },
        refuses: dice.one_in(5).then_some("refused"),
        crashes_after: dice.one_in(6).then(|| Duration::from_millis(dice.below(30_000))),
        drain: if dice.one_in(8) { None } else { Some(Duration::from_millis(dice.below(4_000))) },
        refuses_config: dice.one_in(3).then(|| json!(dice.below(4))),
        health: match dice.below(10) {
            0 => None,
            1 => Some(Err("ill")),
            _ => Some(Ok(())),
        },
        lives: if dice.one_in(8) { None } else { Some(Duration::from_millis(dice.below(3_000))) },
        work: Work { queued: dice.one_in(8), ..Work::default() },
    }
}

fn canary(dice: &mut Dice) -> CanarySpec {
    CanarySpec {
        weight: 1 + u8::try_from(dice.below(99)).unwrap(),
        duration: Duration::from_secs(dice.below(60)),
        max_error_rate: 0.1,
        max_p99: None,
    }
}

fn recycle(dice: &mut Dice) -> RecycleSpec {
    RecycleSpec {
        max_requests: dice.one_in(2).then(|| 100 + dice.below(100)),
        max_memory: dice.one_in(2).then_some(1_900),
        max_age: dice.one_in(2).then(|| Duration::from_secs(300 + dice.below(300))),
    }
}

fn resources(dice: &mut Dice) -> ResourcesSpec {
    let quarters = |dice: &mut Dice, most: u64| {
        Amount::thousandths(250 * (1 + u32::try_from(dice.below(most)).unwrap()))
    };
    ResourcesSpec {
        cpus: dice.one_in(2).then(|| quarters(dice, 12)),
        memory: dice.one_in(2).then(|| (1 + dice.below(4)) << 30),
        gpus: dice.one_in(4).then(|| if dice.one_in(2) { Amount::ONE } else { quarters(dice, 3) }),
    }
}

/// What some seeds' machines have: little enough that not everything fits.
fn capacity(dice: &mut Dice) -> Capacity {
    let cpus = 1 + u16::try_from(dice.below(12)).unwrap();
    Capacity {
        cpus: Some(Amount::whole(cpus.into())),
        cpu_ids: (0..cpus).collect(),
        memory: Some((2 + dice.below(30)) << 30),
        gpus: Some((0..dice.below(4)).map(|number| number.to_string()).collect()),
    }
}

fn autoscaling(dice: &mut Dice) -> AutoscalingSpec {
    let min = u32::try_from(dice.below(3)).unwrap();
    AutoscalingSpec {
        min_replicas: min,
        max_replicas: min + 1 + u32::try_from(dice.below(6)).unwrap(),
        upscale_delay: Duration::from_secs(dice.below(10)),
        downscale_delay: Duration::from_secs(dice.below(30)),
        look_back_period: Duration::from_secs(dice.below(10)),
        ..AutoscalingSpec::default()
    }
}

fn act(world: &mut World, dice: &mut Dice, version: &mut u64) {
    let of = DEPLOYMENTS[usize::try_from(dice.below(3)).unwrap()];
    let exists = world.core.desired().deployments.contains_key(&name(of));
    let replicas = 1 + u32::try_from(dice.below(9)).unwrap();
    match dice.below(18) {
        0 | 1 => {
            *version += 1;
            let text = version.to_string();
            let chosen = behaviour(dice);
            world.behave(&text, chosen);
            let mut spec = spec(of, &text, replicas);
            spec.startup_timeout = Duration::from_secs(5);
            spec.rollout.auto_rollback = dice.one_in(2);
            spec.user_config = dice.one_in(2).then(|| json!(dice.below(4)));
            if dice.one_in(3) {
                spec.rollout.max_surge = super::world::count(0);
            }
            spec.rollout.canary = dice.one_in(3).then(|| canary(dice));
            spec.recycle = dice.one_in(4).then(|| recycle(dice));
            if dice.one_in(2) {
                spec.resources = resources(dice);
            }
            if dice.one_in(3) {
                let scaling = autoscaling(dice);
                spec.num_replicas = scaling.initial();
                spec.autoscaling = Some(scaling);
            }
            let deployed = world.deploy(spec);
            assert!(matches!(deployed, Ok(_) | Err(Refusal::NoRoom { .. })), "{deployed:?}");
        }
        2 if exists => {
            let scaled = world.change(|changer| changer.scale(&name(of), replicas));
            assert!(
                matches!(scaled, Ok(_) | Err(Refusal::Autoscaled { .. } | Refusal::NoRoom { .. })),
                "{scaled:?}"
            );
        }
        3 if exists => {
            world.reconfigure(of, json!(dice.below(4)));
        }
        4 if exists && dice.one_in(3) => {
            world.change(|changer| changer.delete(&name(of))).unwrap();
        }
        5 | 6 => {
            if let Some(victim) = world.random_process(usize::try_from(dice.below(1000)).unwrap()) {
                world.kill(&victim);
            }
        }
        7 if dice.one_in(3) => {
            if let Some(instance) = world.current_proxy() {
                world.fact(Fact::ProxyExited { instance, exit: Exit::Signal(9) });
            }
        }
        8 => {
            if let Some(caller) = world.random_process(usize::try_from(dice.below(1000)).unwrap()) {
                let caller = CallerId::Replica(caller);
                world.fact(Fact::Resolve { caller, deployment: name(of) });
            }
        }
        13 if exists => world.burden(of, dice.below(12)),
        14 if exists && world.current_proxy().is_some() => world.waiting(of, dice.below(6)),
        15 if exists => {
            let paused = dice.one_in(2);
            world.change(|changer| changer.pause(&name(of), paused)).unwrap();
        }
        16 if exists => {
            let version = world.core.desired().deployments[&name(of)].version.clone();
            let count = dice.below(100);
            let failed = if dice.one_in(2) { 0 } else { dice.below(count + 1) };
            let answers = Box::new(Answers { count, failed, durations: Histogram::default() });
            world.fact(Fact::Answered { deployment: name(of), version, answers });
        }
        17 => {
            if let Some(replica) = world.random_process(usize::try_from(dice.below(1000)).unwrap()) {
                let board =
                    Board { processed: dice.below(200), resident: dice.below(2_000), ..Board::default() };
                world.fact(Fact::Board { replica, board });
            }
        }
        9 => {
            world.handles_answer =
                if dice.one_in(4) { None } else { Some(Duration::from_millis(dice.below(50))) }
        }
        10 => world.proxy_answers = Some(Duration::from_millis(dice.below(200))),
        11 if dice.one_in(2) => world.succeed(),
        // The clock goes on, sometimes by a leap, as after a suspend.
        _ => {
            let leap = if dice.one_in(20) { 600_000 } else { 2_000 };
            world.pass(Duration::from_millis(dice.below(leap)));
        }
    }
}

/// A caller with handles cuts off one that it calls, or loses its channel to it.
fn part(world: &mut World, dice: &mut Dice) {
    let callers = world.core.observed().callers.all.iter();
    let handles = callers.filter(|(id, _)| !matches!(id, CallerId::Proxy(_)));
    let mut joined =
        handles.flat_map(|(id, caller)| caller.attached.iter().map(move |replica| (id, replica)));
    let count = u64::try_from(joined.clone().count()).unwrap().max(1);
    let Some((caller, replica)) = joined.nth(usize::try_from(dice.below(count)).unwrap()) else { return };
    let (caller, replica, why) = (caller.clone(), replica.clone(), "luck".to_owned());
    world.fact(match dice.one_in(2) {
        true => Fact::CutOff { caller, replica, fault: why },
        false => Fact::Unjoined { caller, replica, why },
    });
}

fn run(seed: u64, acts: usize) -> usize {
    let mut dice = Dice(seed);
    let mut world = if dice.one_in(3) { World::new() } else { World::on(capacity(&mut dice)) };
    let mut version = 0;
    let mut steps = 0;
    for _ in 0..acts {
        act(&mut world, &mut dice, &mut version);
        if dice.one_in(PART_ONE_IN) {
            part(&mut world, &mut dice);
        }
        for _ in 0..dice.below(20) {
            world.step();
            steps += 1;
        }
    }
    // Luck turns: from here on everything behaves, so all must come to what is wanted.
    for version in 1..=version {
        world.behave(&version.to_string(), Behaviour::default());
    }
    for of in DEPLOYMENTS {
        if world.core.desired().deployments.contains_key(&name(of)) {
            world.change(|changer| changer.pause(&name(of), false)).unwrap();
            if world.current_proxy().is_some() {
                world.waiting(of, 0);
            }
        }
    }
    world.handles_answer = Some(Duration::from_millis(1));
    world.proxy_answers = Some(Duration::from_millis(1));
    world.pass(Duration::from_secs(400));
    all_joined(&world, seed);
    for status in world.core.deployment_statuses(world.now) {
        let serving = status.replicas.iter().filter(|replica| replica.state.can_serve()).count();
        let failed_first = status.status == decurion_api::status::DeploymentState::DeployFailed;
        // Not everything that fits alone fits beside the others.
        let short = world.core.report().short_of_room.contains_key(&status.name);
        // One that is being recycled may serve beside the one that takes its place.
        assert!(
            serving >= status.target_replicas as usize || failed_first || short,
            "seed {seed}: {serving} serve: {status:#?}"
        );
    }
    alone(&mut world, seed);
    world.fact(Fact::Stop { at_once: false });
    world.until(|world| world.core.observed().finished);
    assert_eq!(DEPLOYMENTS.map(|of| world.processes_of(of)), [0, 0, 0], "seed {seed}");
    steps
}

/// Each caller has channels to all that it goes by. (Of one that has just started it is yet to be told.)
fn all_joined(world: &World, seed: u64) {
    let observed = world.core.observed();
    for (id, caller) in &observed.callers.all {
        for (name, interest) in &caller.interests {
            let view = name.as_ref().and_then(|name| observed.views.get(name)?.1.as_ref());
            let named = view.into_iter().flat_map(|view| &view.replicas);
            for replica in named.filter(|replica| interest.uses(replica)) {
                assert!(caller.is_joined(replica), "seed {seed}: {id} has no channel to {replica}");
            }
        }
    }
}

/// Whoever waits for room gets it when the others go.
fn alone(world: &mut World, seed: u64) {
    let Some(waits) = world.core.report().short_of_room.keys().next().cloned() else { return };
    for of in DEPLOYMENTS.map(name) {
        if of != waits && world.core.desired().deployments.contains_key(&of) {
            world.change(|changer| changer.delete(&of)).unwrap();
        }
    }
    world.pass(Duration::from_secs(400));
    let status = world.status(waits.as_str());
    let serving = status.replicas.iter().filter(|replica| replica.state.can_serve()).count();
    let fits = world.core.desired().deployments[&waits].replicas_min() as usize;
    let enough = serving >= fits.min(status.target_replicas as usize);
    let failed_first = status.status == decurion_api::status::DeploymentState::DeployFailed;
    assert!(enough || failed_first, "seed {seed}: {serving} serve, alone: {status:#?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a seed to replay comes from the environment")]
fn whatever_happens_the_invariants_hold() {
    if let Ok(seed) = std::env::var("DECURION_SIM_SEED") {
        run(seed.parse().unwrap(), 120);
        return;
    }
    let seeds = std::env::var("DECURION_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let mut steps = 0;
    for seed in 0..seeds {
        steps += std::panic::catch_unwind(|| run(seed, 120))
            .unwrap_or_else(|_| panic!("broken with DECURION_SIM_SEED={seed}"));
    }
    assert!(steps > 100_000, "only {steps} steps in all: too little happened");
}
