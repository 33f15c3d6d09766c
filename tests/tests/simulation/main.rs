//! The whole system in one process and one thread: the real supervisor core, the real proxy cores and the real channels
//! between proxies and replicas, in a world whose replicas, clients, operator, time and luck come from one seed.
//!
//! After each step the world's own books say what must hold (the invariants of `ARCHITECTURE.md`), and a shadow model
//! what each client may have received. A failure prints its seed, what happened last, and the command that replays it:
//!
//! ```text
//! DECURION_SEED=72 cargo test -p decurion-tests --test simulation
//! DECURION_SEEDS=10000 cargo test -p decurion-tests --test simulation whatever
//! ```
//!
//! ```text
//!   operator, fate          clients
//!        |                     | bytes
//!   +----v-----+ orders  +-----v----+  shared memory  +----------+
//!   | Core     |-------->| Routing, |<--------------->| replicas |   `Core`, `Routing`, `Engine`, `Requester` and
//!   |          |<--------| Engines  |                 | (fake)   |   `Responder` are those of the product
//!   +----------+  facts  +----------+                 +----------+
//! ```

mod books;
mod client;
mod clients;
mod dice;
mod fate;
mod handles;
mod planted;
mod proxy;
mod replica;
mod shadow;
mod supervisor;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use planted::Planted;
use shadow::Counts;
use world::{Plan, World};

/// Steps in which the world must come to rest after luck has turned, at most.
const REST_MAX: u64 = 400_000;
/// What it may take until all stands as it is wanted: replicas that failed are started again more and more seldom.
const SETTLE_MAX: Duration = Duration::from_secs(900);
/// What it may take until every request is answered, and until everything has stopped.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Runs need many descriptors: one at a time.
static ONE_RUN: Mutex<()> = Mutex::new(());

/// What a run came to.
struct Outcome {
    steps: u64,
    digest: u64,
    counts: Counts,
}

fn run(plan: Plan) -> Result<Outcome, String> {
    let _one = ONE_RUN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = World::new(plan);
    let ran = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let outcome = Outcome { steps: world.steps, digest: world.digest, counts: world.shadow.counts };
    match ran {
        Ok(()) => Ok(outcome),
        Err(panic) => {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned()));
            Err(format!("{}\n{}", world.trace(), why.unwrap_or_default()))
        }
    }
}

fn live(world: &mut World) {
    while world.acts_left > 0 {
        assert!(world.step(), "nothing is left to happen");
    }
    world.calm_down();
    rest(world, ("all stands as it is wanted", SETTLE_MAX), |world| world.is_settled());
    world.quiet = true;
    rest(world, ("every request is answered", ANSWER_MAX), |world| !world.clients_wait());
    let open: Vec<String> = world
        .shadow
        .open()
        .map(|(id, asked)| format!("{id} {asked:?}: {}", world.shadow.story(id)))
        .collect();
    assert!(open.is_empty(), "requests that nobody waits for are open: {open:#?}");
    rest(world, ("all stands as it is wanted", SETTLE_MAX), |world| world.is_settled());
    world.stop();
    rest(world, ("everything has stopped", ANSWER_MAX), |world| world.finished);
    assert!(world.replicas.is_empty() && world.proxies.is_empty(), "a process was left behind");
}

/// Goes on until this holds.
fn rest(world: &mut World, (what, most): (&str, Duration), holds: impl Fn(&World) -> bool) {
    let (begun, first) = (world.now, world.steps);
    while !holds(world) {
        let took = world.now.until(begun);
        let patient = world.steps - first < REST_MAX && took < most;
        assert!(
            patient && world.step(),
            "it does not come to it that {what}, after {took:?}; {} wait; {}",
            world.shadow.open().count(),
            world.standing()
        );
    }
}

fn number(variable: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a seed to replay comes from the environment")]
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[expect(clippy::print_stderr, reason = "what a campaign has come to, for `--nocapture`")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn run_seed(seed: u64) -> Outcome {
    run(fate::plan(seed)).unwrap_or_else(|why| {
        panic!(
            "{why}\nreplay with: DECURION_SEED={seed} cargo test -p decurion-tests --test simulation whatever\n"
        )
    })
}

#[test]
fn whatever_happens_each_client_gets_what_it_must() {
    if let Some(seed) = number("DECURION_SEED") {
        let outcome = run_seed(seed);
        say(&format!("{} steps: {:?}", outcome.steps, outcome.counts));
        return;
    }
    let seeds = number("DECURION_SEEDS").unwrap_or(24);
    let mut steps = 0;
    let mut all = Counts::default();
    for seed in 0..seeds {
        let outcome = run_seed(seed);
        steps += outcome.steps;
        all.add(&outcome.counts);
    }
    say(&format!("{steps} steps: {all:?}"));
    if seeds >= 24 {
        assert!(steps >= 100_000, "only {steps} steps in all: too little happened");
        assert!(all.is_of_all_kinds(), "something never happened: {all:?}");
    }
}

#[test]
fn a_seed_is_replayed_to_the_bit() {
    let digests = [(); 2].map(|()| run_seed(7)).map(|outcome| (outcome.steps, outcome.digest));
    assert_eq!(digests[0], digests[1]);
}

/// Runs seeds with a mistake planted until one shows it.
fn finds(planted: Planted, words: &[&str]) {
    for seed in 0..60 {
        if let Err(why) = run(Plan { planted, ..fate::plan(seed) }) {
            let right = words.iter().any(|word| why.contains(word));
            assert!(right, "{planted:?} was found by something else, with seed {seed}: {why}");
            return;
        }
    }
    panic!("{planted:?} was not found");
}

#[test]
fn a_drain_before_every_worker_goes_by_the_view_is_found() {
    finds(Planted::EarlyAcknowledgement, &["may still send to it", "was taken down, at least"]);
}

#[test]
fn a_post_that_is_run_twice_is_found() {
    // What was taken comes back without its body.
    finds(Planted::TakenCountsAsUntaken, &["is run", "its body came otherwise"]);
}

#[test]
fn answers_that_are_crossed_are_found() {
    finds(Planted::AnswersCrossed, &["bytes of another"]);
}

#[test]
fn a_request_that_waits_for_ever_is_found() {
    finds(Planted::GrantLost, &["it does not come to it that every request is answered"]);
}

#[test]
fn a_proxy_that_sends_too_many_requests_is_found() {
    finds(Planted::LimitDoubled, &["requests with"]);
}

#[test]
fn a_request_that_meets_two_versions_of_a_set_is_found() {
    finds(Planted::EpochForgotten, &["were never wanted together"]);
}

#[test]
fn a_view_of_a_part_of_the_replicas_is_found() {
    finds(Planted::PartialAdoption, &["a view was published without"]);
}
