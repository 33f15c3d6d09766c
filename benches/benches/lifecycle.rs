//! `cargo xtask bench lifecycle [ROUNDS]`: what a life costs. Real processes: starts, updates and deaths under load, memory,
//! and what wakes up while nothing is asked. Loopback only; the figures mean something on an idle machine alone.

use std::fs;
use std::time::{Duration, Instant};

use decurion_benches::contest::say;
use decurion_benches::goal::Goals;
use decurion_benches::goal::Wanted::AtMost;
use decurion_tests::{Load, Tally, World, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Of the load that everything happens under; every fourth opens a connection for each request.
const CLIENTS: usize = 8;
/// Replicas that idle, and for how long they are watched.
const IDLE: usize = 100;
const FEW_IDLE: usize = 15;
const WATCHED: Duration = Duration::from_secs(20);

/// One line of the table.
struct Row {
    what: &'static str,
    took: Vec<Duration>,
    failed: usize,
    longest: Duration,
}

impl Row {
    fn new(what: &'static str) -> Self {
        Self { what, took: Vec::new(), failed: 0, longest: Duration::ZERO }
    }

    fn add(&mut self, (took, tally): (Duration, Tally)) {
        self.took.push(took);
        self.failed += tally.failures().len();
        self.longest = self.longest.max(tally.longest);
    }

    /// Prints it; the median, in milliseconds.
    fn tell(&mut self) -> f64 {
        self.took.sort_unstable();
        let median = self.took.get(self.took.len() / 2).copied().map_or(f64::NAN, ms);
        let worst = self.took.last().copied().map_or(f64::NAN, ms);
        let (what, failed, longest) = (self.what, self.failed, ms(self.longest));
        say(&format!("| {what} | {median:.1} ms | {worst:.1} ms | {failed} | {longest:.1} ms |"));
        median
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(5);
    say("| what | median | worst | failed requests | longest wait of one |");
    say("|---|---|---|---|---|");
    let mut world = World::start();
    let _ = world.deploy(&hello("0", 5)).ok();
    let mut goals = Goals::default();
    update(&mut world, rounds, &mut goals);
    let _ = world.run(&["scale", "hello", "4"]).ok();
    death(&mut world, rounds, &mut goals);
    supervisor_death(&mut world, rounds);
    starts(&world, &mut goals);
    memory(&world, &mut goals);
    idle(&world, &mut goals);
    goals.tell();
}

fn hello(version: &str, replicas: usize) -> String {
    format!(
        "application = \"bench\"\n[[deployment]]\nname = \"hello\"\nlibrary = \"{}\"\nversion = \"{version}\"\n\
         num_replicas = {replicas}\n",
        library("hello").display()
    )
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// How long something takes under load, and what came back meanwhile.
fn under_load(world: &mut World, act: impl FnOnce(&mut World)) -> (Duration, Tally) {
    let load = Load::start(world.address(), "/hello", CLIENTS);
    load.answer_more(500);
    let begin = now();
    act(world);
    let took = begin.elapsed();
    load.answer_more(500);
    (took, load.stop())
}

fn update(world: &mut World, rounds: usize, goals: &mut Goals) {
    let mut row = Row::new("update of 5, to the end of `deploy`");
    for round in 1..=rounds {
        row.add(under_load(world, |world| {
            let _ = world.deploy(&hello(&round.to_string(), 5)).ok();
        }));
    }
    let median = row.tell();
    goals.add("H10", "update of 5, ms", median, AtMost(1000.0));
    goals.add("H10", "failed requests in all of these updates", row.failed as f64, AtMost(0.0));
    goals.add("H10", "longest wait of one request in them, ms", ms(row.longest), AtMost(50.0));
}

fn death(world: &mut World, rounds: usize, goals: &mut Goals) {
    let mut row = Row::new("kill -9 of one of 4, until 4 are running again");
    for _ in 0..rounds {
        row.add(under_load(world, |world| {
            let victim = world.pids("hello")[0];
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
            world.until("four others", |status| {
                let replicas = status.deployments.iter().flat_map(|it| &it.replicas);
                replicas.filter(|it| it.pid != victim && it.state.can_serve()).count() == 4
            });
        }));
    }
    let median = row.tell();
    goals.add("H11", "kill -9 of one of 4: failed requests", row.failed as f64, AtMost(0.0));
    goals.add("H11", "kill -9 of one of 4, until 4 run again, ms", median, AtMost(100.0));
}

fn supervisor_death(world: &mut World, rounds: usize) {
    let mut row = Row::new("kill -9 of the supervisor, until the next one has adopted all");
    for _ in 0..rounds {
        let pids = world.pids("hello");
        row.add(under_load(world, |world| {
            world.end_supervisor(Signal::SIGKILL);
            world.start_supervisor();
        }));
        if world.pids("hello") != pids {
            say("kill -9 of the supervisor: the replicas are not the same any more");
        }
    }
    let _ = row.tell();
}

/// From fork to ready, as the supervisor's own events tell.
fn starts(world: &World, goals: &mut Goals) {
    let mut row = Row::new("start of a replica, one at a time, fork to ready");
    for replicas in 5..15 {
        let _ = world.run(&["scale", "hello", &replicas.to_string()]).ok();
    }
    let events = world.admin().events().unwrap_or_default();
    let ready = events.iter().filter(|event| event.kind == "replica-ready");
    let took = ready.filter_map(|event| event.message.split(' ').find_map(|word| word.parse().ok()));
    row.took.extend(took.map(Duration::from_millis));
    let median = row.tell();
    goals.add("H10", "start of a hello replica, fork to ready, ms", median, AtMost(15.0));
}

fn memory(world: &World, goals: &mut Goals) {
    let of = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map_or(f64::NAN, |kib| kib / 1024.0)
    };
    let replica = world.pids("hello").first().copied().map_or(f64::NAN, of);
    let proxy = world.status().proxy.pid.map_or(f64::NAN, of);
    let supervisor = of(world.supervisor_pid().as_raw());
    goals.add("H12", "PSS of a hello replica of 14, MiB", replica, AtMost(3.0));
    goals.add("H12", "PSS of the proxy, MiB", proxy, AtMost(12.0));
    goals.add("H12", "PSS of the supervisor, MiB", supervisor, AtMost(25.0));
}

fn idle(world: &World, goals: &mut Goals) {
    let (few, _) = wake_ups(world, FEW_IDLE);
    let (all, part) = wake_ups(world, IDLE);
    let what = |what: &str| format!("{IDLE} idle replicas: {what}");
    goals.add("H14", &what("wake-ups/s of all processes"), all, AtMost(10.0));
    goals.add("H14", &what("all processes, % of one processor"), part * 100.0, AtMost(0.5));
    // What there is without lanes is the same for few and for many.
    let each = (all - few) / (IDLE - FEW_IDLE) as f64;
    goals.add("G13", &what("wake-ups/s for each one more, its lanes included"), each, AtMost(0.01));
}

/// So many idle replicas: how often in a second threads of all processes go to sleep, and what part of one processor they
/// take.
fn wake_ups(world: &World, replicas: usize) -> (f64, f64) {
    let _ = world.run(&["scale", "hello", &replicas.to_string()]).ok();
    let mut pids = world.roster();
    pids.push(world.supervisor_pid().as_raw());
    // What the last start has set going is over by then.
    pass(WATCHED);
    let before = (sleeps(&pids), ran_ns(&pids));
    pass(WATCHED);
    let (slept, ran) = (sleeps(&pids) - before.0, ran_ns(&pids) - before.1);
    (slept as f64 / WATCHED.as_secs_f64(), ran as f64 / WATCHED.as_nanos() as f64)
}

#[expect(clippy::disallowed_methods, reason = "nothing happens: that is what is measured")]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// How often threads of these processes have gone to sleep.
fn sleeps(pids: &[i32]) -> u64 {
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    of_threads(pids, "status", count)
}

/// How many nanoseconds they have run.
fn ran_ns(pids: &[i32]) -> u64 {
    of_threads(pids, "schedstat", |text| text.split(' ').next()?.parse().ok())
}

/// The sum of a figure over all threads of these processes.
fn of_threads(pids: &[i32], file: &str, figure: impl Fn(String) -> Option<u64>) -> u64 {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
    let texts = tasks.flatten().flatten().filter_map(|it| fs::read_to_string(it.path().join(file)).ok());
    texts.filter_map(figure).sum()
}
