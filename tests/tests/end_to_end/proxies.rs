//! The proxy goes, in one way or another, and the next one serves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use decurion_tests::{Connection, Load, World, eventually, is_running, library, own_address};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn who(replicas: u32) -> String {
    format!(
        "application = \"demo\"\n[[deployment]]\nname = \"who\"\nlibrary = \"{}\"\nclass = \"Who\"\n\
         num_replicas = {replicas}\nversion = \"1\"\nargs = [\"1\"]\n",
        library("fixtures").display()
    )
}

fn proxy(world: &World) -> i32 {
    world.status().proxy.pid.expect("a proxy")
}

/// Whether every thread of a process is stopped.
fn is_stopped(pid: i32) -> bool {
    let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process that is there");
    tasks.all(|task| {
        let status = std::fs::read_to_string(task.expect("a thread").path().join("status"));
        status.is_ok_and(|status| status.contains("State:\tT"))
    })
}

#[test]
fn a_proxy_that_hangs_is_found_and_replaced_and_who_waits_is_served() {
    let world = World::start_with("workers = 2");
    let _ = world.deploy(&who(2)).ok();
    let (hung, pids) = (proxy(&world), world.pids("who"));
    kill(Pid::from_raw(hung), Signal::SIGSTOP).expect("a proxy");
    eventually("it is stopped", || is_stopped(hung));
    // Nobody has accepted this one: it is answered by the next proxy.
    assert_eq!(world.get("/who").status, 200);
    let status =
        world.until("another proxy", |it| it.proxy.ready && it.proxy.pid.is_some_and(|pid| pid != hung));
    eventually("the one that hung is gone", || !is_running(hung));
    assert_eq!((status.proxy.restarts, world.pids("who")), (1, pids));
    let events = world.run(&["events"]).ok().stdout;
    let why = format!("the proxy, pid {hung}, hangs: no sign of life for ");
    assert!(events.contains("proxy-hung") && events.contains(&why), "{events}");
    assert!(world.log().contains(&why), "{}", world.log());
}

/// Sockets that a process has open, by the kernel's numbers.
fn sockets(pid: i32) -> BTreeSet<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process that runs").flatten();
    let links = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).filter(|link| link.starts_with("socket:")).collect()
}

#[test]
fn what_is_started_inherits_no_socket_of_the_supervisor() {
    let world = World::start();
    let _ = world.deploy(&who(2)).ok();
    kill(Pid::from_raw(proxy(&world)), Signal::SIGKILL).expect("a proxy that runs");
    let _ = world.deploy(&who(3)).ok();
    world.until("another proxy", |it| it.proxy.ready && it.proxy.restarts == 1);
    let shared = |pid: i32| sockets(world.supervisor_pid().as_raw()).intersection(&sockets(pid)).count();
    // What one hands the other is closed when it has been sent, which the other may have acted upon already.
    eventually("both listen on one, and share no other", || shared(proxy(&world)) == 1);
    for pid in world.pids("who") {
        eventually("a replica shares none", || shared(pid) == 0);
    }
}

#[test]
fn an_address_that_is_given_up_refuses_who_comes() {
    let world = World::start();
    let _ = world.deploy(&who(1)).ok();
    let next = own_address();
    let _ = world.deploy(&format!("application = \"rig\"\n[http]\nlisten = \"{next}\"\n")).ok();
    let answer = Connection::open(next).and_then(|mut connection| connection.get("/who"));
    assert_eq!(answer.expect("an answer").status, 200);
    // Who connected there would wait for nobody.
    eventually("nobody listens there", || Connection::open(world.address()).is_err());
}

#[expect(clippy::disallowed_methods, reason = "how many there are comes from the environment")]
fn replacements() -> u64 {
    std::env::var("DECURION_REPLACEMENTS").ok().and_then(|number| number.parse().ok()).unwrap_or(3)
}

#[test]
fn a_planned_replacement_closes_nothing_without_a_word() {
    /// Of [`Load`], every fourth of which opens a connection for each request: 64 others keep theirs.
    const CLIENTS: usize = 85;
    const IDLE: usize = 16;
    let world = World::start_copied();
    let _ = world.deploy(&who(3)).ok();
    let pids = world.pids("who");
    let load = Load::start(world.address(), "/who", CLIENTS);
    for _ in 0..replacements() {
        let before = proxy(&world);
        let mut idle: Vec<Connection> = (0..IDLE).map(|_| world.connect()).collect();
        for connection in &mut idle {
            assert_eq!(connection.get("/who").expect("an answer").status, 200);
        }
        load.answer_more(200);
        world.install();
        kill(world.supervisor_pid(), Signal::SIGUSR2).expect("a supervisor");
        // While the one program takes the other's place, nobody answers here.
        eventually("another proxy", || {
            world
                .admin()
                .status()
                .is_ok_and(|it| it.proxy.ready && it.proxy.pid.is_some_and(|pid| pid != before))
        });
        load.answer_more(200);
        // Who was idle all the while has its answer, too.
        for connection in &mut idle {
            assert_eq!(connection.get("/who").expect("an answer").status, 200);
        }
    }
    assert_eq!(world.pids("who"), pids);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
}

#[expect(clippy::disallowed_methods, reason = "how many there are comes from the environment")]
fn proxy_kills() -> u64 {
    std::env::var("DECURION_PROXY_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(4)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it took is shown, and judged by people")]
fn a_proxy_that_is_killed_loses_what_was_in_flight_and_refuses_nobody() {
    const CLIENTS: usize = 16;
    let world = World::start_with("workers = 2");
    let _ = world.deploy(&who(3)).ok();
    let pids = world.pids("who");
    let load = Load::start(world.address(), "/who", CLIENTS);
    let mut gaps = Vec::new();
    for killed in 1..=proxy_kills() {
        let before = proxy(&world);
        // Who dies more often is started with a delay: that is no part of this.
        let starts = Instant::now();
        eventually("it has lived for a second", || starts.elapsed() > Duration::from_secs(1));
        // A different moment each time.
        load.answer_more(50 + killed * 37 % 100);
        let began = Instant::now();
        kill(Pid::from_raw(before), Signal::SIGKILL).expect("a proxy that runs");
        eventually("its connections are gone", || !is_running(before));
        // Whoever comes now waits for the next proxy.
        assert_eq!(world.get("/who").status, 200);
        gaps.push(began.elapsed());
        let status = world
            .until("another proxy", |it| it.proxy.ready && it.proxy.pid.is_some_and(|pid| pid != before));
        assert_eq!((status.proxy.restarts, world.pids("who")), (killed, pids.clone()));
    }
    load.answer_more(500);
    let tally = load.stop();
    gaps.sort_unstable();
    let (middle, longest) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    let shown = format!(
        "{} answers, {} lost; served again after {middle:?}, {longest:?} at the longest",
        tally.good(),
        tally.errors.len()
    );
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{shown}\n").as_bytes());
    let (cut, others): (Vec<_>, Vec<_>) =
        tally.failures().into_iter().partition(|failure| failure.starts_with("request: "));
    assert_eq!(others, Vec::<String>::new(), "nobody is refused, and every answer is right");
    // One at a time is what a client has in flight.
    assert!(cut.len() as u64 <= CLIENTS as u64 * proxy_kills(), "{shown}: {cut:?}");
    let own = |body: &str| pids.iter().any(|pid| body == format!("{pid} 1"));
    assert!(tally.answers.keys().all(|(_, body)| own(body)), "{:?}", tally.answers);
}
