//! `cargo xtask bench faults [ROUNDS]`: what a replica that dies, or that is in the way, costs those who have nothing to do
//! with it. Real processes, loopback only. How many requests are lost is for the campaigns in `CONTRIBUTING.md`.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use decurion_benches::contest::{median, say};
use decurion_benches::goal::Goals;
use decurion_benches::goal::Wanted::AtMost;
use decurion_benches::http::steady::drive;
use decurion_tests::{Connection, World, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Killed in each round, one after the other, and requests that each of them holds then.
const REPLICAS: usize = 10;
const HELD: usize = 4;
/// Of the load beside a replica that is in the way.
const CONNECTIONS: usize = 8;
const RATE: f64 = 1_000.0;
const LASTS: Duration = Duration::from_secs(3);
/// What a library may do to its host; the first does nothing, the second nothing but take a processor, as others do besides.
const DEEDS: [&str; 10] =
    ["", "/burn", "/scribble", "/replay", "/lie", "/close", "/close-some", "/junk", "/flood", "/fork"];
/// Between two looks whether the offender was replaced.
const PAUSE: Duration = Duration::from_millis(20);
/// Bodies that nobody reads, each larger than a window.
const UNREAD: usize = 32;
const BODY: usize = 1 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` passes flags; this bench has none.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let rounds = arguments.iter().find_map(|it| it.parse().ok()).unwrap_or(5);
    let mut goals = Goals::default();
    deaths(rounds, &mut goals);
    nuisances(rounds, &mut goals);
    misdeeds(rounds, &mut goals);
    goals.tell();
}

/// From SIGKILL until the client has the answer to the last request that the replica held: a 502, since these were taken
/// and may not be asked twice.
fn deaths(rounds: usize, goals: &mut Goals) {
    let world = World::start();
    let mut took = Vec::new();
    let (mut answered, mut others) = (0, 0);
    for round in 0..rounds {
        let _ = world.deploy(&gates(&world, round)).ok();
        let mut held = hold(&world, round);
        while let Some(victim) = held.first().map(|(holder, _)| *holder) {
            let begin = Instant::now();
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
            for (_, client) in held.extract_if(.., |(holder, _)| *holder == victim) {
                let mut client = client;
                match client.read().map(|answer| answer.status) {
                    Ok(502) => answered += 1,
                    _ => others += 1,
                }
            }
            took.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        let _ = fs::write(world.path().join(format!("open-{round}")), "");
    }
    took.sort_by(f64::total_cmp);
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or(f64::NAN);
    say(&format!(
        "{} kills of replicas with {HELD} requests each: {answered} answered with 502, {others} otherwise",
        took.len()
    ));
    let what = |what: &str| format!("SIGKILL until the last request held was answered, {what}, ms");
    goals.add("G11", &what("p50"), at(50), AtMost(1.0));
    goals.add("G11", &what("p99"), at(99), AtMost(20.0));
    goals.add("G11", "requests held that got no 502", f64::from(others), AtMost(0.0));
}

fn gates(world: &World, version: usize) -> String {
    format!(
        "application = \"deaths\"\n[[deployment]]\nname = \"gate\"\nlibrary = \"{}\"\nclass = \"Gate\"\nargs = [{:?}]\n\
         threads = {HELD}\nmax_ongoing_requests = {HELD}\nnum_replicas = {REPLICAS}\nversion = \"{version}\"\n",
        library("fixtures").display(),
        world.path(),
    )
}

/// Fills all replicas; each request with the process that is in it.
fn hold(world: &World, round: usize) -> Vec<(i32, Connection)> {
    let sent = (0..REPLICAS * HELD).map(|number| {
        let id = format!("{round}-{number}");
        let mut client = world.connect();
        let head = [("x-request-id", id.as_str())];
        client.request("POST", &format!("/gate?until=open-{round}"), &head, b"x").expect("sent");
        let entered = world.path().join(format!("entered-{id}"));
        (entered, client)
    });
    let sent: Vec<_> = sent.collect();
    let holder = |(entered, client)| {
        decurion_tests::eventually("every request is taken", || fs::metadata(&entered).is_ok());
        let pid = fs::read_to_string(&entered).expect("it is there");
        (pid.parse().expect("a process id"), client)
    };
    sent.into_iter().map(holder).collect()
}

/// What others wait for their answers beside one that floods its bells, or holds all blocks that it can get; and beside
/// one that only burns the processor that the flood burns as well.
fn nuisances(rounds: usize, goals: &mut Goals) {
    let mut p99: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        for (figures, deed) in p99.iter_mut().zip(["", "/burn", "/ring", "held"]) {
            figures.push(beside(deed));
        }
    }
    let [quiet, burning, ringing, holding] = p99.map(|mut figures| median(&mut figures));
    say(&format!(
        "p99 at {RATE} requests/s, in us: alone {quiet:.0}, beside one that burns a processor {burning:.0}, that rings \
         without end {ringing:.0}, that holds {UNREAD} bodies {holding:.0}"
    ));
    goals.add("G14", "p99 beside one that holds blocks / alone", holding / quiet, AtMost(1.3));
    let what = "p99 beside one that floods its bells / beside one that burns as much and rings nobody";
    goals.add("G14", what, ringing / burning, AtMost(1.3));
    goals.add("G14", "p99 beside one that floods its bells / alone", ringing / quiet, AtMost(1.3));
}

fn beside(deed: &str) -> f64 {
    let world = World::start();
    let (library, folder) = (library("fixtures").display().to_string(), world.path());
    let config = format!(
        "application = \"nuisances\"\n\
         [[deployment]]\nname = \"good\"\nlibrary = \"{library}\"\nclass = \"Who\"\nargs = [\"good\"]\n\
         [[deployment]]\nname = \"bad\"\nlibrary = \"{library}\"\nclass = \"Hostile\"\n\
         [[deployment]]\nname = \"gate\"\nlibrary = \"{library}\"\nclass = \"Gate\"\nargs = [{folder:?}]\n\
         threads = {UNREAD}\nmax_ongoing_requests = {UNREAD}\n"
    );
    let _ = world.deploy(&config).ok();
    let mut held = Vec::new();
    match deed {
        "held" => held.extend((0..UNREAD).map(|number| send_unread(&world, number))),
        "" => {}
        deed => drop(world.get(&format!("/bad{deed}"))),
    }
    let figures = drive(world.address(), "/good", CONNECTIONS, RATE, LASTS).expect("all are answered");
    drop(held);
    figures.p99_us
}

/// The longest that any request to others waits while a replica breaks every rule that it can, is killed for it, and is
/// asked for it again.
fn misdeeds(rounds: usize, goals: &mut Goals) {
    let mut seen = [const { (0, Vec::new()) }; DEEDS.len()];
    for _ in 0..rounds {
        for ((replicas, figures), deed) in seen.iter_mut().zip(DEEDS) {
            let (offenders, longest_us) = beside_misdeeds(deed);
            *replicas += offenders;
            figures.push(longest_us);
        }
    }
    for ((offenders, mut figures), deed) in seen.into_iter().zip(DEEDS) {
        let who =
            if deed.is_empty() { "nobody".into() } else { format!("{offenders} replicas that do {deed}") };
        let what = format!("the longest wait of {RATE} requests/s to others, beside {who}, ms");
        goals.add("G12", &what, median(&mut figures) / 1e3, AtMost(50.0));
    }
}

/// How many replicas were asked for the deed, one after the other, and the longest wait beside them.
fn beside_misdeeds(deed: &str) -> (usize, f64) {
    let world = World::start();
    let library = library("fixtures").display().to_string();
    let config = format!(
        "application = \"misdeeds\"\n\
         [[deployment]]\nname = \"good\"\nlibrary = \"{library}\"\nclass = \"Who\"\nargs = [\"good\"]\n\
         [[deployment]]\nname = \"bad\"\nlibrary = \"{library}\"\nclass = \"Hostile\"\nrequest_timeout_s = 1\n"
    );
    let _ = world.deploy(&config).ok();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let offender = scope.spawn(|| {
            let (mut provoked, mut offenders) = (String::new(), 0);
            while !deed.is_empty() && !over.load(Ordering::Relaxed) {
                // Whatever comes of it: an answer, a 502, a 504, a cut. Each replica is asked for its deed once.
                let at_work = world.connect().get("/bad").map(|answer| answer.text()).unwrap_or_default();
                if at_work != provoked {
                    let _ = world.connect().get(&format!("/bad{deed}"));
                    (provoked, offenders) = (at_work, offenders + 1);
                }
                std::thread::sleep(PAUSE);
            }
            offenders
        });
        let figures = drive(world.address(), "/good", CONNECTIONS, RATE, LASTS);
        over.store(true, Ordering::Relaxed);
        (offender.join().expect("it ends"), figures.expect("all are answered").longest_us)
    })
}

/// A body that fills what the lane has for it, and then the socket.
fn send_unread(world: &World, number: usize) -> Connection {
    let mut client = world.connect();
    let id = format!("unread-{number}");
    let head = format!(
        "POST /gate?until=never HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\ncontent-length: {BODY}\r\n\r\n"
    );
    client.send(head.as_bytes()).expect("sent");
    let entered = world.path().join(format!("entered-{id}"));
    decurion_tests::eventually("it is taken", || fs::metadata(&entered).is_ok());
    let stream = client.stream();
    stream.set_nonblocking(true).expect("a socket");
    let bytes = vec![0; BODY];
    let _ = std::io::Write::write(&mut &*stream, &bytes);
    client
}
