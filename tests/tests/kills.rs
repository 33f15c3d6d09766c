//! The kill campaign: SIGKILL at random instants for replicas, the proxy, and a process with handles, under load. Every
//! request is accounted for, no byte is another's, and who survives holds in the end what it held in the beginning.
//! `DECURION_KILLS` says how many (40 in the suite; thousands by hand). In a program of its own: what its process maps is
//! compared, and other tests map channels as well.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use decurion_client::{CallFailed, Client};
use decurion_tests::processes::status_kib;
use decurion_tests::verified::{bytes_of, length_of};
use decurion_tests::{Account, Held, Verified, World, eventually, library, pause};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// So many that one is seldom killed twice within a second: a replica that fails again and again is started again after
/// longer and longer delays, which would make a long campaign a slow one.
const REPLICAS: u32 = 8;
const CLIENTS: u32 = 3;
const LOOKS: usize = 100;
const SOCKET: &str = "DECURION_TESTS_HANDLE_SOCKET";

#[expect(clippy::disallowed_methods, reason = "a campaign by hand is longer than the suite's")]
fn kills() -> u64 {
    std::env::var("DECURION_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(40)
}

/// Calls with bytes of its own, and what became of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Calls {
    right: u64,
    broken: u64,
    wrong: u64,
}

fn call_on(socket: &Path, number: u32, stop: &AtomicBool, right: &AtomicU64) -> Calls {
    let client = Client::connect_to(socket).expect("the handle socket answers");
    let echo = client.deployment("echo").expect("it exists").handle();
    let mut calls = Calls::default();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let bytes = bytes_of(number, turn, length_of(turn));
        match echo.call::<Vec<u8>>("echo", (&bytes,)) {
            Ok(answer) if answer == bytes => {
                calls.right += 1;
                right.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => calls.wrong += 1,
            // Its replica died while it ran: the caller is told.
            Err(CallFailed::Call(_)) => calls.broken += 1,
            Err(other) => panic!("{other}"),
        }
    }
    calls
}

/// Not a test by itself: a process with handles that is killed.
#[test]
#[ignore = "run by the campaign, as a process that is killed"]
#[expect(clippy::disallowed_methods, reason = "the campaign tells it where to call")]
fn client_process() {
    let Ok(socket) = std::env::var(SOCKET) else { return };
    let calls = call_on(Path::new(&socket), 99, &AtomicBool::new(false), &AtomicU64::new(0));
    panic!("it ends by being killed only: {calls:?}");
}

fn start_client(world: &World) -> Child {
    Command::new(std::env::current_exe().expect("this test's own path"))
        .args(["--exact", "client_process", "--ignored", "--nocapture"])
        .env(SOCKET, world.socket().with_file_name("handle.sock"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test starts itself")
}

fn until_whole(world: &World, without: i32) {
    world.until("whole again", |status| {
        let echo = &status.deployments[0].replicas;
        status.proxy.ready
            && status.proxy.pid.is_some_and(|pid| pid != without)
            && echo.iter().filter(|it| it.state.can_serve()).count() == REPLICAS as usize
            && echo.iter().all(|it| it.pid != without)
    });
}

/// Supervisor, proxy, and each replica.
fn everybody(world: &World) -> Vec<i32> {
    let pids = [world.supervisor_pid().as_raw(), world.status().proxy.pid.unwrap_or(0)];
    pids.into_iter().chain(world.pids("echo")).collect()
}

/// What each of them holds.
fn held(pids: &[i32]) -> Vec<Held> {
    pids.iter().map(|pid| Held::by(*pid)).collect()
}

/// The same, once nothing is going on any more: the least of many looks, since whoever has asked the supervisor who there
/// is may still be a connection there.
fn held_at_rest(pids: &[i32]) -> Vec<Held> {
    let looks = std::iter::repeat_with(|| held(pids)).inspect(|_| pause()).take(LOOKS);
    looks
        .min_by_key(|all| all.iter().flat_map(|it| it.descriptors.values()).sum::<usize>())
        .unwrap_or_default()
}

#[test]
fn killed_at_random_instants_every_request_is_accounted_for_and_nothing_leaks() {
    let world = World::start_with("workers = 2");
    let config = format!(
        "application = \"kills\"\n[[deployment]]\nname = \"echo\"\nlibrary = \"{}\"\nclass = \"Echo\"\nnum_replicas = {REPLICAS}\nmax_ongoing_requests = 4\nthreads = 2\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    // What a killed part leaves undone at others is done by the time that these are equal again.
    let socket = world.socket().with_file_name("handle.sock");
    let caller = Client::connect_to(&socket).expect("the handle socket answers");
    assert!(
        caller.deployment("echo").expect("it exists").handle().call::<Vec<u8>>("echo", (vec![1u8],)).is_ok()
    );
    assert_eq!(world.get("/echo").status, 200);
    world.until_alone("that connection is closed at the proxy, too", |_| {
        let metrics = world.admin().metrics().expect("metrics");
        let line = |start: &str| metrics.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        let open = line("decurion_http_connections ");
        // Told once a second: also that there was one.
        let seen =
            line("decurion_http_connections_accepted_total ").is_some_and(|line| !line.ends_with(" 0"));
        if seen && open.as_deref() == Some("decurion_http_connections 0") { Ok(()) } else { Err(metrics) }
    });
    let before = held_at_rest(&everybody(&world));
    let own_before = Held::by(std::process::id().cast_signed()).mappings;

    let gets = Verified::start(world.address(), "/echo", "GET", CLIENTS);
    let posts = Verified::start(world.address(), "/echo", "POST", CLIENTS);
    let (stop, called) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    let mut chance = 0x2545_f491_4f6c_dd1du64;
    let mut killed = [0u64; 3];
    let calls = std::thread::scope(|scope| {
        let callers: Vec<_> = (50..)
            .zip(&called)
            .map(|(number, called)| {
                let (socket, stop) = (&socket, &stop);
                scope.spawn(move || call_on(socket, number, stop, called))
            })
            .collect();
        let mut client = start_client(&world);
        for _ in 0..kills() {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            // A GET that has lost its replica is asked once more, and no more: who was at it when the last one died has its
            // answer by now.
            gets.answer_each();
            // A random instant: after so many more requests.
            gets.answer_more(1 + chance % 20);
            posts.answer_more(1 + chance / 32 % 8);
            match chance / 1024 % 16 {
                0 => {
                    let proxy = world.status().proxy.pid.expect("a proxy");
                    kill(Pid::from_raw(proxy), Signal::SIGKILL).expect("a proxy that runs");
                    killed[0] += 1;
                    until_whole(&world, proxy);
                }
                1 => {
                    let ended = client.try_wait().expect("our own child");
                    assert!(ended.is_none(), "the process with handles ended by itself: {ended:?}");
                    client.kill().expect("our own child");
                    client.wait().expect("our own child");
                    client = start_client(&world);
                    killed[1] += 1;
                }
                _ => {
                    let pids = world.pids("echo");
                    let victim = pids[usize::try_from(chance >> 32).unwrap_or(0) % pids.len()];
                    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("a replica that runs");
                    killed[2] += 1;
                    until_whole(&world, victim);
                }
            }
        }
        eventually("each caller has had an answer", || {
            called.iter().all(|right| right.load(Ordering::Relaxed) > 0)
        });
        assert!(
            client.try_wait().expect("our own child").is_none(),
            "the process with handles ended by itself"
        );
        client.kill().expect("our own child");
        client.wait().expect("our own child");
        stop.store(true, Ordering::Relaxed);
        let calls: Vec<Calls> = callers.into_iter().map(|it| it.join().expect("no call panics")).collect();
        calls
    });
    let (gets, posts) = (gets.stop(), posts.stop());
    let [proxies, clients, replicas] = killed;
    let shown = format!("{killed:?} of proxy, client, replica; {gets:?}; {posts:?}; {calls:?}");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{shown}\n").as_bytes());
    assert_eq!(proxies + clients + replicas, kills());
    // A proxy's death ends the connections that it had, and those that it accepts while it dies; nothing else ends one.
    let cut_most = 2 * proxies * u64::from(CLIENTS);
    assert_eq!(gets, Account { right: gets.right, cut: gets.cut, ..Account::default() }, "{shown}");
    assert!(gets.cut <= cut_most && posts.cut <= cut_most, "{shown}");
    // What a replica had taken is lost with it, as one clean 502 each.
    assert!(posts.wrong.is_empty() && posts.refused.keys().all(|status| *status == 502), "{shown}");
    let lost: u64 = posts.refused.values().sum();
    assert!(lost <= replicas * u64::from(CLIENTS), "{shown}");
    assert!(
        calls.iter().all(|calls| calls.wrong == 0 && calls.broken <= replicas && calls.right > 0),
        "{shown}"
    );

    // No slot is lost: as many as are allowed run at once, and all are free afterwards.
    let all = Verified::start(world.address(), "/echo", "POST", 4 * REPLICAS);
    all.answer_more(u64::from(8 * REPLICAS));
    let all = all.stop();
    assert_eq!(all, Account { right: all.right, ..Account::default() });
    // Who follows events for a test that has stopped listening finds out by the next one.
    let last = world.pids("echo")[0];
    kill(Pid::from_raw(last), Signal::SIGKILL).expect("a replica that runs");
    world.until_alone("nothing is left", |status| {
        let echo = &status.deployments[0].replicas;
        let busy = echo.len() != REPLICAS as usize || echo.iter().any(|it| it.ongoing > 0 || it.pid == last);
        let after = (held(&everybody(&world)), Held::by(std::process::id().cast_signed()).mappings);
        let before = (before.clone(), own_before.clone());
        if busy || after != before { Err(format!("{before:?}\n{after:?}")) } else { Ok(()) }
    });
    drop(caller);
    assert!(status_kib(world.supervisor_pid().as_raw(), "RssShmem") < 1024, "the supervisor maps no channel");
}
