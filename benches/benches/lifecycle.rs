//! `cargo xtask bench lifecycle [ROUNDS]`: what a life costs. Real processes: starts, updates and deaths under load, memory,
//! and what wakes up while nothing is asked. Loopback only; the figures mean something on an idle machine alone.

use std::fs;
use std::time::{Duration, Instant};

use decurion_benches::contest::say;
use decurion_tests::{Load, Tally, World, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Of the load that everything happens under; every fourth opens a connection for each request.
const CLIENTS: usize = 8;
/// Replicas that idle, and for how long they are watched.
const IDLE: usize = 100;
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

    fn tell(mut self) {
        self.took.sort_unstable();
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        let median = self.took.get(self.took.len() / 2).copied().map_or_else(String::new, ms);
        let worst = self.took.last().copied().map_or_else(String::new, ms);
        say(&format!("| {} | {median} | {worst} | {} | {} |", self.what, self.failed, ms(self.longest)));
    }
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(5);
    say("| what | median | worst | failed requests | longest wait of one |");
    say("|---|---|---|---|---|");
    let mut world = World::start();
    let _ = world.deploy(&hello("0", 5)).ok();
    update(&mut world, rounds);
    let _ = world.run(&["scale", "hello", "4"]).ok();
    death(&mut world, rounds);
    supervisor_death(&mut world, rounds);
    starts(&world);
    memory(&world);
    idle(&world);
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

fn update(world: &mut World, rounds: usize) {
    let mut row = Row::new("update of 5, to the end of `deploy`");
    for round in 1..=rounds {
        row.add(under_load(world, |world| {
            let _ = world.deploy(&hello(&round.to_string(), 5)).ok();
        }));
    }
    row.tell();
}

fn death(world: &mut World, rounds: usize) {
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
    row.tell();
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
    row.tell();
}

/// From fork to ready, as the supervisor's own events tell.
fn starts(world: &World) {
    let mut row = Row::new("start of a replica, one at a time, fork to ready");
    for replicas in 5..15 {
        let _ = world.run(&["scale", "hello", &replicas.to_string()]).ok();
    }
    let events = world.admin().events().unwrap_or_default();
    let ready = events.iter().filter(|event| event.kind == "replica-ready");
    let took = ready.filter_map(|event| event.message.split(' ').find_map(|word| word.parse().ok()));
    row.took.extend(took.map(Duration::from_millis));
    row.tell();
}

fn memory(world: &World) {
    let of = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map_or(f64::NAN, |kib| kib / 1024.0)
    };
    let replica = world.pids("hello").first().copied().map_or(f64::NAN, of);
    let proxy = world.status().proxy.pid.map_or(f64::NAN, of);
    let supervisor = of(world.supervisor_pid().as_raw());
    say(&format!(
        "\nPSS: a replica of 14 {replica:.1} MiB, the proxy {proxy:.1} MiB, the supervisor {supervisor:.1} MiB (goal: 3, 12, 25)"
    ));
}

fn idle(world: &World) {
    let _ = world.run(&["scale", "hello", &IDLE.to_string()]).ok();
    let mut pids = world.roster();
    pids.push(world.supervisor_pid().as_raw());
    // What the last start has set going is over by then.
    pass(WATCHED);
    let before = sleeps(&pids);
    pass(WATCHED);
    let each_second = (sleeps(&pids) - before) as f64 / WATCHED.as_secs_f64();
    say(&format!(
        "{IDLE} idle replicas: {each_second:.1} wake-ups/s of all {} processes (goal: 10)",
        pids.len()
    ));
}

#[expect(clippy::disallowed_methods, reason = "nothing happens: that is what is measured")]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// How often threads of these processes have gone to sleep.
fn sleeps(pids: &[i32]) -> u64 {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
    let statuses =
        tasks.flatten().flatten().filter_map(|it| fs::read_to_string(it.path().join("status")).ok());
    let count = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    statuses.filter_map(count).sum()
}
