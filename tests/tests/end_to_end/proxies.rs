//! The proxy goes, in one way or another, and the next one serves.

use decurion_tests::{Connection, Load, World, eventually, is_running, library};
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
