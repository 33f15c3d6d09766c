//! `cargo xtask bench goals [ROUNDS]`: our lane beside its alternatives in interleaved rounds, and what the goals say.
//!
//! Both sides are threads of this process, pinned to one processor or to two, so that nothing but the way between
//! them differs. Medians; a ratio above 1 says that the lane is so many times better. iceoryx2 takes part with
//! `--features iceoryx2`, which `cargo xtask bench goals` asks for. System calls are counted by `perf stat` or by
//! `strace`, whichever is there.

use std::process::Command;
use std::time::Duration;

use decurion_benches::contest::{Contest, say};
use decurion_benches::lane::Wait;
use decurion_benches::pipeline::{self, Depth};
use decurion_benches::place::Place;
use decurion_benches::rivals;
use decurion_ipc::sys::spin::{measure_wake_up, wake_up};

/// Each contender runs so long in each round.
const LASTS: Duration = Duration::from_millis(120);
const SIZES: [usize; 5] = [64, 1 << 10, 16 << 10, 64 << 10, 1 << 20];
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
    round_trips(rounds);
    wake_ups(rounds);
    depths(rounds);
    bodies(rounds);
    measure_wake_up();
    spinning(rounds);
    system_calls();
}

fn place_name(place: Place) -> &'static str {
    match place {
        Place::Same => "one cpu",
        Place::Split => "two cpus",
    }
}

/// Prints one line: each contender's figure, and how many times better the first is.
fn line(case: &str, medians: &[(&'static str, f64)], smaller_is_better: bool, unit: f64) {
    let ours = medians.first().map_or(f64::NAN, |(_, figure)| *figure);
    let cells = medians.iter().enumerate().map(|(at, (name, figure))| {
        let ratio = if smaller_is_better { figure / ours } else { ours / figure };
        let ratio = if at == 0 { String::new() } else { format!(" (x{ratio:.2})") };
        format!("{name} {:.2}{ratio}", figure / unit)
    });
    say(&format!("| {case} | {} |", cells.collect::<Vec<_>>().join(" | ")));
}

fn round_trips(rounds: usize) {
    say(
        "\nround trip, p50 in us; G3: unix >= x1.5 at 64 B, >= x1.8 above, one cpu; G5: iceoryx2 >= x3 with events, \
         >= x1 polled on two cpus; G6: ipc-channel >= x1.7 at 64 B, >= x2 at 1 MiB, one cpu",
    );
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
            line(&format!("{size} B, {}", place_name(place)), &contest.medians(rounds), true, 1e3);
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
        line(&format!("{size} B, two cpus, polled"), &contest.medians(rounds), true, 1e3);
    }
}

fn wake_ups(rounds: usize) {
    say(
        "\n64 B beside what nothing can beat, p50 in us; G1: the eventfd >= x0.67 (ours <= 1.5 times it), one cpu; \
         G2: the spin >= x0.5 (ours <= 2 times it)",
    );
    for place in [Place::Same, Place::Split] {
        let contest = Contest::default()
            .with("lane asleep", move || rivals::lane(place, 64, Wait::Sleep, LASTS))
            .with("bare eventfd", move || rivals::bare_eventfd(place, LASTS));
        line(&format!("asleep, {}", place_name(place)), &contest.medians(rounds), true, 1e3);
    }
    let contest = Contest::default()
        .with("lane polled", || rivals::lane(Place::Split, 64, Wait::Poll, LASTS))
        .with("bare spin", || rivals::bare_spin(Place::Split, LASTS));
    line("polled, two cpus", &contest.medians(rounds), true, 1e3);
}

fn depths(rounds: usize) {
    say(
        "\nthousands of answers a second; G4: unix stream over mio, one cpu >= x1.8 at 1 and 8, >= x1.2 at 64; two \
         cpus adaptive >= x3, asleep >= x0.9 at 64 B, >= x1.2 at 1 KiB, >= x1.3 at 16 KiB; G6: ipc-channel >= x3 at 64",
    );
    for place in [Place::Same, Place::Split] {
        for size in [64, 1 << 10, 16 << 10] {
            for messages in [1, 8, 64] {
                // As many as have room in both arenas at once.
                let messages = messages.min((192 << 10) / (size + 1024));
                let depth = Depth { messages, size, place };
                let contest = |wait| {
                    Contest::default()
                        .with("lane", move || pipeline::lane(depth, wait, LASTS))
                        .with("unix stream", move || pipeline::unix_stream(depth, LASTS))
                        .with("ipc-channel", move || pipeline::ipc_channel(depth, LASTS))
                        .medians(rounds)
                };
                for (name, wait) in [("asleep", Wait::Sleep), ("adaptive", Wait::Adaptive)] {
                    let case = format!("{size} B, {messages} at once, {}, {name}", place_name(place));
                    line(&case, &contest(wait), false, 1e3);
                }
            }
        }
    }
}

fn bodies(rounds: usize) {
    say(
        "\none body in blocks of 64 KiB, MB/s; G9: unix stream >= x3, two cpus; one thread that copies and sums <= x0.5",
    );
    for place in [Place::Same, Place::Split] {
        let contest = Contest::default()
            .with("lane", move || pipeline::lane_body(place, LASTS))
            .with("unix stream", move || pipeline::unix_body(place, LASTS))
            .with("one thread", move || pipeline::copied_body(LASTS));
        line(place_name(place), &contest.medians(rounds), false, 1e6);
    }
}

fn spinning(rounds: usize) {
    say(&format!(
        "\n64 B, p50 in us, a wake-up takes {:?}; G8: adaptive <= 1.2 times the better of the others",
        wake_up()
    ));
    for place in [Place::Same, Place::Split] {
        for gap in [Duration::ZERO, Duration::from_micros(200)] {
            let run = move |wait| rivals::lane_with_gaps(place, 64, wait, gap, LASTS);
            let contest = Contest::default()
                .with("adaptive", move || run(Wait::Adaptive))
                .with("asleep", move || run(Wait::Sleep))
                .with("spins for one wake-up", move || run(Wait::Fixed));
            let case = format!("{}, pauses of {} us", place_name(place), gap.as_micros());
            line(&case, &contest.medians(rounds), true, 1e3);
        }
    }
}

/// How long the counted run lasts: what starting up takes does not show.
const COUNTED: Duration = Duration::from_secs(2);

/// The program as it is run to be counted: one pipeline, and how many answers it came to.
fn count(place: &str, depth: &str, wait: &str) {
    let place = if place == "same" { Place::Same } else { Place::Split };
    let wait = if wait == "asleep" { Wait::Sleep } else { Wait::Adaptive };
    let depth = Depth { messages: depth.parse().unwrap_or(1), size: 64, place };
    let rate = pipeline::lane(depth, wait, COUNTED);
    say(&format!("{}", rate * COUNTED.as_secs_f64()));
}

fn system_calls() {
    say(
        "\nsystem calls for each answer, both sides; G7: at 1 <= 2.5 (one cpu), <= 4 (two); at 8 <= 0.6; at 64 <= 0.1",
    );
    let Some(counter) = COUNTERS.into_iter().find(|counter| counts(counter)) else {
        return say("neither perf nor strace can count here: left out");
    };
    say(&format!("counted by {}", counter[0]));
    for place in ["same", "split"] {
        for wait in ["asleep", "adaptive"] {
            let each = [1, 8, 64].map(|depth| calls(counter, &["--count", place, &depth.to_string(), wait]));
            let [one, eight, many] = each.map(|it| it.map_or("-".to_owned(), |it| format!("{it:.3}")));
            say(&format!("| {place}, {wait} | 1: {one} | 8: {eight} | 64: {many} |"));
        }
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
