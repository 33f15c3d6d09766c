//! What authors pay: a batched method against the same one alone, a handle's call from replica to replica against the
//! bare ring, a graph against the same steps composed by hand, and a router of axum against a handler without. Real
//! replicas under a real supervisor; ratios of interleaved rounds. `cargo xtask bench authors graph` runs one part alone.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::error::Error;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use decurion_benches::goal::Goals;
use decurion_benches::goal::Wanted::{AtLeast, AtMost};
use decurion_benches::lane::{self, Wait, echo_apart};
use decurion_benches::place::Place;
use decurion_client::{Client, Handle};
use decurion_tests::{World, library};

const ROUNDS: usize = 7;
/// Calls under way at once: a full batch.
const BATCH: u64 = 32;
/// What each run of the costly method takes.
const COST: Duration = Duration::from_millis(5);
const ROUND_TRIPS: usize = 5_000;
/// Rounds of a handler with and without a router, and requests in each.
const PAIRS: usize = 51;
const REQUESTS: usize = 500;
/// A handle call of Ray Serve on a like machine.
const RAY_SERVE_NS: u64 = 3_800_000;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --benches` passes flags; this bench has none.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    if std::env::args().any(|argument| argument == lane::ECHO) {
        lane::serve_apart(Wait::Adaptive);
        return Ok(());
    }
    // What stands alone is cargo's `--bench`.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let free = Deployed::start()?;
    if wanted("batching") {
        batching(&free.handle("costly")?)?;
    }
    if wanted("handle") {
        handle_calls("all processors", &free.handle("caller")?)?;
    }
    if wanted("graph") {
        graphs("all processors", &free.handle("caller")?)?;
    }
    drop(free);
    // There nobody spins, and nobody waits for another processor: what is left is the work of all sides.
    Place::Same.pin(false);
    let pinned = Deployed::start()?;
    if wanted("handle") {
        handle_calls("one processor", &pinned.handle("caller")?)?;
    }
    if wanted("graph") {
        graphs("one processor", &pinned.handle("caller")?)?;
    }
    if wanted("axum") {
        routers(&pinned.handle("plain")?, &pinned.handle("routed")?)?;
    }
    Ok(())
}

/// What is measured, under a supervisor of its own, on the processors of this thread.
struct Deployed {
    client: Client,
    _world: World,
}

impl Deployed {
    fn start() -> Result<Self, Box<dyn Error>> {
        let world = World::start();
        let _ = world.deploy(&config()).ok();
        let client = Client::connect_to(&world.socket().with_file_name("handle.sock"))?;
        Ok(Self { client, _world: world })
    }

    fn handle(&self, name: &str) -> Result<Handle, Box<dyn Error>> {
        Ok(self.client.deployment(name)?.handle())
    }
}

fn config() -> String {
    let library = library_of("fixtures");
    let deployment = |name: &str, cost: u128, partner: &str| {
        format!(
            "[[deployment]]\nname = \"{name}\"\nlibrary = \"{library}\"\nclass = \"Costly\"\nroute_prefix = \"\"\n\
             threads = 1\nargs = {{ cost_us = {cost}{partner} }}\n"
        )
    };
    let graph = "[[graph]]\nname = \"chain\"\nroute_prefix = \"\"\n[graph.steps]\n\
                 a = { call = \"partner.next\", args = [\"$input\"] }\n\
                 b = { call = \"partner.next\", args = [\"$a\"] }\n\
                 c = { call = \"partner.next\", args = [\"$b\"] }\n";
    let http = |name: &str, file: &str| {
        format!("[[deployment]]\nname = \"{name}\"\nlibrary = \"{}\"\nthreads = 1\n", library_of(file))
    };
    format!(
        "application = \"costs\"\n{}{}{}{}{}{}{graph}",
        deployment("costly", COST.as_micros(), ""),
        deployment("partner", 0, ""),
        deployment("composed", 0, ", partner = \"@partner\""),
        deployment("caller", 0, ", partner = \"@partner\""),
        http("plain", "hello"),
        http("routed", "axum_ingress"),
    )
}

fn library_of(name: &str) -> String {
    library(name).display().to_string()
}

/// Three steps, asked for from inside a replica. Three calls are those of the steps composed by hand, timed where they
/// are made: so both are asked as often, and wait alike, asleep or awake. What it takes to be asked is left out of the
/// graph, as it is of them.
fn graphs(place: &str, caller: &Handle) -> Result<(), Box<dyn Error>> {
    let (mut calls, mut by_hand, mut inside, mut graphs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let ask = |deployment: &str, method: &str| -> Result<Duration, Box<dyn Error>> {
        Ok(Duration::from_nanos(caller.call("call_ns", (deployment, method, ROUND_TRIPS))?))
    };
    for _ in 0..ROUNDS {
        calls.push(ask("partner", "next")?);
        let (all, its_calls): (u64, u64) = caller.call("thrice_ns", ("composed", ROUND_TRIPS))?;
        by_hand.push(Duration::from_nanos(all));
        inside.push(Duration::from_nanos(its_calls));
        graphs.push(ask("chain", "run")?);
    }
    let (call, by_hand, inside, graph) = (median(calls), median(by_hand), median(inside), median(graphs));
    let steps = graph.saturating_sub(by_hand.saturating_sub(inside));
    let mut out = io::stdout().lock();
    writeln!(out, "three steps one after the other on {place}, medians of {ROUNDS} rounds")?;
    writeln!(out, "  one call, alone  {call:>12.1?}")?;
    writeln!(out, "  composed in Rust {by_hand:>12.1?}   {:.2} x four calls", ratio(by_hand, call * 4))?;
    writeln!(out, "  its three calls  {inside:>12.1?}")?;
    writeln!(out, "  a graph          {graph:>12.1?}   {:.2} x composed in Rust", ratio(graph, by_hand))?;
    writeln!(out, "  its three steps  {steps:>12.1?}   {:.2} x three calls", ratio(steps, inside))?;
    Ok(())
}

/// A small GET, without HTTP before it: what the replica does. In short rounds in turn, on one processor: elsewhere it
/// counts for more whether the two sides happen to sleep or to spin.
fn routers(plain: &Handle, routed: &Handle) -> Result<(), Box<dyn Error>> {
    let (mut without, mut with, mut more) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let pair = (request(plain)?, request(routed)?);
        without.push(pair.0);
        with.push(pair.1);
        more.push(pair.1.saturating_sub(pair.0));
    }
    let (without, with, more) = (median(without), median(with), median(more));
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "a small GET by handle on one processor, one at a time, medians of {PAIRS} pairs of rounds"
    )?;
    writeln!(out, "  a handler        {without:>12.1?}")?;
    writeln!(out, "  a router of axum {with:>12.1?}   {more:.1?} more within a pair")?;
    Ok(())
}

fn request(handle: &Handle) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let start = Instant::now();
        let answer = handle.request("GET", "/", Vec::new(), Vec::new())?;
        times.push(start.elapsed());
        assert_eq!(answer.status, 200);
    }
    Ok(median(times))
}

fn batching(costly: &Handle) -> Result<(), Box<dyn Error>> {
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(all_at_once(costly, "alone")?);
        together.push(all_at_once(costly, "together")?);
    }
    let (alone, together) = (median(alone), median(together));
    let mut out = io::stdout().lock();
    writeln!(out, "{BATCH} calls at once of a method whose run takes {COST:?}, one handler thread")?;
    writeln!(out, "  each by itself   {alone:>12.1?}")?;
    writeln!(out, "  in one batch     {together:>12.1?}   {:.1} x the throughput", ratio(alone, together))?;
    Ok(())
}

fn all_at_once(handle: &Handle, method: &str) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let calls = (0..BATCH).map(|row| handle.start(method, (row,))).collect::<Result<Vec<_>, _>>()?;
    for (row, call) in (0..BATCH).zip(calls) {
        assert_eq!(call.wait::<u64>()?, row);
    }
    Ok(start.elapsed())
}

fn handle_calls(place: &str, caller: &Handle) -> Result<(), Box<dyn Error>> {
    let (mut rings, mut handles) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rings.push(ring_round_trip());
        handles.push(Duration::from_nanos(caller.call("round_trip_ns", (ROUND_TRIPS,))?));
    }
    let (ring, handle) = (median(rings), median(handles));
    let mut out = io::stdout().lock();
    writeln!(out, "64 bytes there and back, one at a time, {place}, medians of {ROUNDS} rounds")?;
    writeln!(out, "  bare ring        {ring:>12.1?}")?;
    writeln!(out, "  handle's call    {handle:>12.1?}   {:.2} x the ring", ratio(handle, ring))?;
    let ray = Duration::from_nanos(RAY_SERVE_NS);
    writeln!(out, "  Ray Serve's      {ray:>12.1?}   {:.0} x ours", ratio(ray, handle))?;
    drop(out);
    let mut goals = Goals::default();
    goals.add(
        "H8",
        &format!("a handle's call, 64 B, {place} / the bare ring"),
        ratio(handle, ring),
        AtMost(1.5),
    );
    goals.add("H8", "a handle's call of Ray Serve / ours", ratio(ray, handle), AtLeast(500.0));
    goals.tell();
    Ok(())
}

/// The median round trip over a lane and nothing else, to a process that echoes.
fn ring_round_trip() -> Duration {
    let (mut client, _echo) = echo_apart(Wait::Adaptive);
    let (body, mut answer) = ([7u8; 64], [0u8; 64]);
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        client.ask(&body, &mut answer);
        times.push(start.elapsed());
    }
    median(times)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64().max(f64::MIN_POSITIVE)
}
