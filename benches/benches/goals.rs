//! `cargo xtask bench goals [PART..] [ROUNDS]`: our lane beside its alternatives in interleaved rounds, and what the goals say.
//!
//! Both sides are threads of this process, pinned to one processor or to two, so that nothing but the way between
//! them differs. Medians; a ratio above 1 says that the lane is so many times better. iceoryx2 takes part with
//! `--features iceoryx2`, which `cargo xtask bench goals` asks for. System calls are counted by `perf stat` or by
//! `strace`, whichever is there.

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use decurion_benches::contest::{Contest, rate, say};
use decurion_benches::goal::Goals;
use decurion_benches::goal::Wanted::{AtLeast, AtMost};
use decurion_benches::http::servers::status_kib;
use decurion_benches::lane::{Wait, echo};
use decurion_benches::pipeline::{self, Depth};
use decurion_benches::place::Place;
use decurion_benches::rivals;
use decurion_ipc::channel::{check_slots, sample_slots};
use decurion_ipc::sys::spin::{measure_wake_up, wake_up};

/// Each contender runs so long in each round.
const LASTS: Duration = Duration::from_millis(120);
const SIZES: [usize; 5] = [64, 1 << 10, 16 << 10, 64 << 10, LARGEST];
const LARGEST: usize = 1 << 20;
/// A program that counts the system calls of what it runs, and with what.
const COUNTERS: [&[&str]; 2] =
    [&["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter"], &["strace", "-f", "-c", "-S", "calls"]];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, place, depth, wait] = &arguments[..]
        && first == "--count"
    {
        return count(place, depth, wait);
    }
    let rounds = arguments.iter().find_map(|it| it.parse().ok()).unwrap_or(5);
    // What is neither a number nor cargo's `--bench`.
    let parts: Vec<&str> = (arguments.iter().map(String::as_str))
        .filter(|it| !it.starts_with('-') && it.parse::<usize>().is_err())
        .collect();
    // As a replica does when it starts.
    measure_wake_up();
    let mut goals = Goals::default();
    for (name, part) in PARTS {
        if parts.is_empty() || parts.contains(&name) {
            part(rounds, &mut goals);
        }
    }
    goals.tell();
}

type Part = fn(usize, &mut Goals);
const PARTS: [(&str, Part); 8] = [
    ("round_trips", round_trips),
    ("wake_ups", wake_ups),
    ("depths", depths),
    ("bodies", bodies),
    ("spinning", spinning),
    ("calls", system_calls),
    ("checks", checks),
    ("memory", idle_lanes),
];

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Same => "one cpu",
        Place::Split => "two cpus",
    }
}

/// What each contender came to.
struct Medians(Vec<(&'static str, f64)>);

impl Medians {
    /// How many times that of the other one this one's figure is.
    fn ratio(&self, one: &str, other: &str) -> f64 {
        self.of(one) / self.of(other)
    }

    fn of(&self, contender: &str) -> f64 {
        self.0.iter().find(|(name, _)| *name == contender).map_or(f64::NAN, |(_, figure)| *figure)
    }
}

/// Runs a contest and prints one line: each contender's figure, and how many times better the first is.
fn line(case: &str, contest: &Contest<'_>, rounds: usize, smaller_is_better: bool, unit: f64) -> Medians {
    let medians = contest.medians(rounds);
    let ours = medians.first().map_or(f64::NAN, |(_, figure)| *figure);
    let cells = medians.iter().enumerate().map(|(at, (name, figure))| {
        let ratio = if smaller_is_better { figure / ours } else { ours / figure };
        let ratio = if at == 0 { String::new() } else { format!(" (x{ratio:.2})") };
        format!("{name} {:.2}{ratio}", figure / unit)
    });
    say(&format!("| {case} | {} |", cells.collect::<Vec<_>>().join(" | ")));
    Medians(medians)
}

fn round_trips(rounds: usize, goals: &mut Goals) {
    say("\nround trip, p50 in us");
    for place in [Place::Same, Place::Split] {
        for size in SIZES {
            let contest = Contest::default()
                .with("lane asleep", move || rivals::lane(place, size, Wait::Sleep, LASTS))
                .with("lane adaptive", move || rivals::lane(place, size, Wait::Adaptive, LASTS))
                .with("unix stream", move || rivals::unix_stream(place, size, LASTS))
                .with("pipes", move || rivals::pipes(place, size, LASTS))
                .with("ipc-channel", move || rivals::ipc_channel(place, size, LASTS));
            #[cfg(feature = "iceoryx2")]
            let contest = contest.with("iceoryx2 events", move || {
                decurion_benches::iceoryx::round_trip(place, size, true, LASTS)
            });
            let case = format!("{size} B, {}", place_name(place));
            let medians = line(&case, &contest, rounds, true, 1e3);
            if place == Place::Same {
                judge_round_trip(size, &case, &medians, goals);
            }
        }
    }
    for size in SIZES {
        let contest = Contest::default()
            .with("lane polled", move || rivals::lane(Place::Split, size, Wait::Poll, LASTS))
            .with("unix stream", move || rivals::unix_stream(Place::Split, size, LASTS));
        #[cfg(feature = "iceoryx2")]
        let contest = contest.with("iceoryx2 polled", move || {
            decurion_benches::iceoryx::round_trip(Place::Split, size, false, LASTS)
        });
        let case = format!("{size} B, two cpus, polled");
        let medians = line(&case, &contest, rounds, true, 1e3);
        let ratio = medians.ratio("iceoryx2 polled", "lane polled");
        goals.add("G5", &format!("{case}: iceoryx2 / lane"), ratio, AtLeast(1.0));
    }
}

fn judge_round_trip(size: usize, case: &str, medians: &Medians, goals: &mut Goals) {
    let mut judge = |goal, rival: &str, wanted| {
        let ratio = medians.ratio(rival, "lane asleep");
        goals.add(goal, &format!("{case}, asleep: {rival} / lane"), ratio, AtLeast(wanted));
    };
    judge("G3", "unix stream", if size == 64 { 1.5 } else { 1.8 });
    match size {
        64 => {
            judge("G5", "iceoryx2 events", 3.0);
            judge("G6", "ipc-channel", 1.7);
        }
        LARGEST => judge("G6", "ipc-channel", 2.0),
        _ => {}
    }
}

fn wake_ups(rounds: usize, goals: &mut Goals) {
    say("\n64 B beside what nothing can beat, p50 in us");
    for place in [Place::Same, Place::Split] {
        let contest = Contest::default()
            .with("lane asleep", move || rivals::lane(place, 64, Wait::Sleep, LASTS))
            .with("bare eventfd", move || rivals::bare_eventfd(place, LASTS));
        let medians = line(&format!("asleep, {}", place_name(place)), &contest, rounds, true, 1e3);
        if place == Place::Same {
            let ratio = medians.ratio("lane asleep", "bare eventfd");
            goals.add("G1", "64 B, one cpu, asleep: lane / bare eventfd", ratio, AtMost(1.5));
        }
    }
    let contest = Contest::default()
        .with("lane polled", || rivals::lane(Place::Split, 64, Wait::Poll, LASTS))
        .with("bare spin", || rivals::bare_spin(Place::Split, LASTS));
    let medians = line("polled, two cpus", &contest, rounds, true, 1e3);
    let ratio = medians.ratio("lane polled", "bare spin");
    goals.add("G2", "64 B, two cpus, polled: lane / bare spin", ratio, AtMost(2.0));
}

fn depths(rounds: usize, goals: &mut Goals) {
    say("\nthousands of answers a second");
    for place in [Place::Same, Place::Split] {
        for size in [64, 1 << 10, 16 << 10] {
            for messages in [1, 8, 64] {
                // As many as have room in both arenas at once.
                let depth = Depth { messages: messages.min((192 << 10) / (size + 1024)), size, place };
                let contest = |wait| {
                    Contest::default()
                        .with("lane", move || pipeline::lane(depth, wait, LASTS))
                        .with("unix stream", move || pipeline::unix_stream(depth, LASTS))
                        .with("ipc-channel", move || pipeline::ipc_channel(depth, LASTS))
                };
                for (name, wait) in [("asleep", Wait::Sleep), ("adaptive", Wait::Adaptive)] {
                    let case = format!("{size} B, {} at once, {}, {name}", depth.messages, place_name(place));
                    let medians = line(&case, &contest(wait), rounds, false, 1e3);
                    let mut judge = |goal, rival: &str, wanted| {
                        let ratio = medians.ratio("lane", rival);
                        goals.add(goal, &format!("{case}: lane / {rival}"), ratio, AtLeast(wanted));
                    };
                    if let Some(wanted) = wanted_at_depth(place, wait, messages, size) {
                        judge("G4", "unix stream", wanted);
                    }
                    if (messages, size) == (64, 64) {
                        judge("G6", "ipc-channel", 3.0);
                    }
                }
            }
        }
    }
}

/// What G4 wants of the lane, in answers a second of a Unix stream over mio.
fn wanted_at_depth(place: Place, wait: Wait, messages: usize, size: usize) -> Option<f64> {
    match (place, wait) {
        (Place::Same, Wait::Sleep) if messages < 64 => Some(1.8),
        (Place::Same, Wait::Sleep) => Some(1.2),
        (Place::Split, Wait::Adaptive) => Some(3.0),
        (Place::Split, Wait::Sleep) => Some(if size == 64 {
            0.9
        } else if size == 1 << 10 {
            1.2
        } else {
            1.3
        }),
        _ => None,
    }
}

fn bodies(rounds: usize, goals: &mut Goals) {
    say("\none body in blocks of 64 KiB, MB/s");
    for place in [Place::Same, Place::Split] {
        let contest = Contest::default()
            .with("lane", move || pipeline::lane_body(place, LASTS))
            .with("unix stream", move || pipeline::unix_body(place, LASTS))
            .with("one thread", move || pipeline::copied_body(LASTS));
        let medians = line(place_name(place), &contest, rounds, false, 1e6);
        if place == Place::Split {
            let mut judge = |rival: &str, wanted| {
                let what = format!("one body, two cpus: lane / {rival}");
                goals.add("G9", &what, medians.ratio("lane", rival), AtLeast(wanted));
            };
            judge("unix stream", 3.0);
            judge("one thread", 0.5);
        }
    }
}

fn spinning(rounds: usize, goals: &mut Goals) {
    say(&format!("\n64 B, p50 in us, a wake-up takes {:?}", wake_up()));
    for place in [Place::Same, Place::Split] {
        for gap in [Duration::ZERO, Duration::from_micros(200)] {
            let run = move |wait| rivals::lane_with_gaps(place, 64, wait, gap, LASTS);
            let contest = Contest::default()
                .with("adaptive", move || run(Wait::Adaptive))
                .with("asleep", move || run(Wait::Sleep))
                .with("spins for one wake-up", move || run(Wait::Fixed));
            let case = format!("{}, pauses of {} us", place_name(place), gap.as_micros());
            let medians = line(&case, &contest, rounds, true, 1e3);
            let better = medians.of("asleep").min(medians.of("spins for one wake-up"));
            let what = format!("64 B, {case}: adaptive / the better of sleeping and spinning");
            goals.add("G8", &what, medians.of("adaptive") / better, AtMost(1.2));
        }
    }
}

/// What it costs to check the form and the ranges of a slot, beside one answer when many are under way.
fn checks(rounds: usize, goals: &mut Goals) {
    say("\nchecks of a slot, millions a second");
    let (slots, arena) = sample_slots();
    let contest = Contest::default()
        .with("checked", || rate(LASTS, || check_slots(black_box(&slots), arena)))
        .with("copied", || rate(LASTS, || black_box(copy_slots(black_box(&slots)))));
    let medians = line("slots in the cache", &contest, rounds, false, 1e6);
    let cost = 1e9 / medians.of("checked") - 1e9 / medians.of("copied");
    goals.add("G10", "checks of one slot, ns", cost, AtMost(5.0));
    let depth = Depth { messages: 64, size: 64, place: Place::Same };
    let answers = pipeline::lane(depth, Wait::Sleep, LASTS);
    // Two slots are checked for each: the request's and the answer's.
    let part = 2.0 * cost * answers / 1e9 * 100.0;
    goals.add("G10", "their part of an answer, 64 B, 64 at once, one cpu, %", part, AtMost(3.0));
}

/// Memory that is really there of lanes that have carried one small request. Both ends map it here.
fn idle_lanes(_: usize, goals: &mut Goals) {
    const LANES: u32 = 64;
    let resident = || status_kib(std::process::id(), "RssShmem") as f64;
    let before = resident();
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let (mut client, mut server) = echo(Wait::Sleep);
            client.ask_here(&mut server, &[1; 64], &mut [0; 64]);
            (client, server)
        })
        .collect();
    let each = (resident() - before) / 2.0 / f64::from(LANES);
    drop(lanes);
    goals.add("G13", "resident memory of an idle lane, KiB", each, AtMost(70.0));
}

/// Reads them, and trusts what they say.
fn copy_slots(slots: &[[u32; 8]]) -> usize {
    slots.iter().filter(|slot| black_box(**slot)[0] != 0).count()
}

/// How long the counted run lasts: what starting up takes does not show.
const COUNTED: Duration = Duration::from_secs(2);

/// The program as it is run to be counted: one pipeline, and how many answers it came to.
fn count(place: &str, depth: &str, wait: &str) {
    let place = if place == "same" { Place::Same } else { Place::Split };
    let wait = match wait {
        "asleep" => Wait::Sleep,
        "polled" => Wait::Poll,
        _ => Wait::Adaptive,
    };
    let depth = Depth { messages: depth.parse().unwrap_or(1), size: 64, place };
    let rate = pipeline::lane(depth, wait, COUNTED);
    say(&format!("{}", rate * COUNTED.as_secs_f64()));
}

fn system_calls(_: usize, goals: &mut Goals) {
    say("\nsystem calls for each answer, both sides");
    let Some(counter) = COUNTERS.into_iter().find(|counter| counts(counter)) else {
        return say("neither perf nor strace can count here: left out");
    };
    say(&format!("counted by {}", counter[0]));
    let ways = [("same", "asleep"), ("same", "adaptive"), ("split", "asleep"), ("split", "adaptive")];
    for (place, wait) in ways.into_iter().chain([("split", "polled")]) {
        let mut cells = Vec::new();
        for depth in [1, 8, 64] {
            let calls = calls(counter, &["--count", place, &depth.to_string(), wait]);
            cells.push(format!("{depth}: {}", calls.map_or("-".to_owned(), |it| format!("{it:.3}"))));
            let wanted = match (place, wait, depth) {
                (_, "polled", _) => 0.02,
                ("same", _, 1) => 2.5,
                (_, _, 1) => 4.0,
                (_, _, 8) => 0.6,
                _ => 0.1,
            };
            let what = format!("system calls for an answer, {depth} at once, {place} cpu, {wait}");
            goals.add("G7", &what, calls.unwrap_or(f64::NAN), AtMost(wanted));
        }
        say(&format!("| {place}, {wait} | {} |", cells.join(" | ")));
    }
}

fn counts(counter: &[&str]) -> bool {
    let run = Command::new(counter[0]).args(&counter[1..]).arg("true").output();
    run.is_ok_and(|output| output.status.success() && total(&output.stderr).is_some())
}

fn calls(counter: &[&str], arguments: &[&str]) -> Option<f64> {
    let own = std::env::current_exe().ok()?;
    let output = Command::new(counter[0]).args(&counter[1..]).arg(own).args(arguments).output().ok()?;
    let answers: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().ok()?;
    Some(total(&output.stderr)? / answers)
}

/// `123,,raw_syscalls:sys_enter,..` of perf; `100.00 0.1 8 123 2 total` of strace.
fn total(text: &[u8]) -> Option<f64> {
    let text = String::from_utf8_lossy(text);
    let perf = text.lines().find(|line| line.contains("raw_syscalls"));
    let strace = text.lines().find(|line| line.trim_end().ends_with("total"));
    match (perf, strace) {
        (Some(line), _) => line.split(',').next()?.parse().ok(),
        (None, Some(line)) => line.split_whitespace().nth(3)?.parse().ok(),
        (None, None) => None,
    }
}
