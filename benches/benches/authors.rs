//! What authors pay: a batched method against the same one alone, and a handle's call from replica to replica against the
//! bare ring. Real replicas under a real supervisor; ratios of interleaved rounds.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::error::Error;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use decurion_benches::lane::{Wait, echo};
use decurion_client::{Client, Handle};
use decurion_tests::{World, library};

const ROUNDS: usize = 7;
/// Calls under way at once: a full batch.
const BATCH: u64 = 32;
/// What each run of the costly method takes.
const COST: Duration = Duration::from_millis(5);
const ROUND_TRIPS: usize = 5_000;
/// A handle call of Ray Serve on a like machine.
const RAY_SERVE_NS: u64 = 3_800_000;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --benches` passes flags; this bench has none.
    if std::env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    let world = World::start();
    let library = library("fixtures").display().to_string();
    let deployment = |name: &str, cost: u128, partner: &str| {
        format!(
            "[[deployment]]\nname = \"{name}\"\nlibrary = \"{library}\"\nclass = \"Costly\"\nroute_prefix = \"\"\n\
             threads = 1\nargs = {{ cost_us = {cost}{partner} }}\n"
        )
    };
    let config = format!(
        "application = \"costs\"\n{}{}{}",
        deployment("costly", COST.as_micros(), ""),
        deployment("partner", 0, ""),
        deployment("caller", 0, ", partner = \"@partner\"")
    );
    let _ = world.deploy(&config).ok();
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock"))?;
    batching(&client.deployment("costly")?.handle())?;
    handle_calls(&client.deployment("caller")?.handle())
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

fn handle_calls(caller: &Handle) -> Result<(), Box<dyn Error>> {
    let (mut rings, mut handles) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rings.push(ring_round_trip());
        handles.push(Duration::from_nanos(caller.call("round_trip_ns", (ROUND_TRIPS,))?));
    }
    let (ring, handle) = (median(rings), median(handles));
    let mut out = io::stdout().lock();
    writeln!(out, "64 bytes there and back, one at a time, medians of {ROUNDS} rounds")?;
    writeln!(out, "  bare ring        {ring:>12.1?}")?;
    writeln!(out, "  handle's call    {handle:>12.1?}   {:.2} x the ring", ratio(handle, ring))?;
    let ray = Duration::from_nanos(RAY_SERVE_NS);
    writeln!(out, "  Ray Serve's      {ray:>12.1?}   {:.0} x ours", ratio(ray, handle))?;
    Ok(())
}

/// The median round trip over a lane and nothing else, to a thread that echoes.
fn ring_round_trip() -> Duration {
    let (mut client, mut server) = echo(Wait::Adaptive);
    let serving = thread::spawn(move || server.run());
    let (body, mut answer) = ([7u8; 64], [0u8; 64]);
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        client.ask(&body, &mut answer);
        times.push(start.elapsed());
    }
    client.stop();
    serving.join().expect("the echo ends when it is told to");
    median(times)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64().max(f64::MIN_POSITIVE)
}
