//! The reconciler in a world of bad luck: seeded random workloads and faults, with the world's checks after each turn.
//! `DECURION_SIM_SEED` replays one seed, `DECURION_SIM_SEEDS` says how many are run.

use std::time::Duration;

use serde_json::json;

use super::world::{Behaviour, World, name, spec};
use super::{CallerId, Exit, Fact};

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
    }
}

fn act(world: &mut World, dice: &mut Dice, version: &mut u64) {
    let of = DEPLOYMENTS[usize::try_from(dice.below(3)).unwrap()];
    let exists = world.core.desired().deployments.contains_key(&name(of));
    let replicas = 1 + u32::try_from(dice.below(9)).unwrap();
    match dice.below(13) {
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
            world.deploy(spec).unwrap();
        }
        2 if exists => world.scale(of, replicas),
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

fn run(seed: u64, acts: usize) -> usize {
    let mut dice = Dice(seed);
    let mut world = World::new();
    let mut version = 0;
    for _ in 0..acts {
        act(&mut world, &mut dice, &mut version);
        for _ in 0..dice.below(20) {
            world.step();
        }
    }
    // Luck turns: from here on everything behaves, so all must come to what is wanted.
    for version in 1..=version {
        world.behave(&version.to_string(), Behaviour::default());
    }
    world.handles_answer = Some(Duration::from_millis(1));
    world.proxy_answers = Some(Duration::from_millis(1));
    world.pass(Duration::from_secs(400));
    for status in world.core.deployment_statuses(world.now) {
        let serving = status.replicas.iter().filter(|replica| replica.state.can_serve()).count();
        let failed_first = status.status == decurion_api::status::DeploymentState::DeployFailed;
        assert!(
            serving == status.target_replicas as usize || failed_first,
            "seed {seed}: {serving} serve: {status:#?}"
        );
    }
    world.fact(Fact::Stop { at_once: false });
    world.until(|world| world.core.observed().finished);
    assert_eq!(DEPLOYMENTS.map(|of| world.processes_of(of)), [0, 0, 0], "seed {seed}");
    world.log.len()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a seed to replay comes from the environment")]
fn whatever_happens_the_invariants_hold() {
    if let Ok(seed) = std::env::var("DECURION_SIM_SEED") {
        run(seed.parse().unwrap(), 120);
        return;
    }
    let seeds = std::env::var("DECURION_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    let mut orders = 0;
    for seed in 0..seeds {
        orders += std::panic::catch_unwind(|| run(seed, 120))
            .unwrap_or_else(|_| panic!("broken with DECURION_SIM_SEED={seed}"));
    }
    assert!(orders > 5_000, "only {orders} orders in all: too little happened");
}
