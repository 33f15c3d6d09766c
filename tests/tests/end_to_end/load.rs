//! How many requests run at once, whoever calls: exactly as many as are allowed.

use decurion_client::Client;
use decurion_tests::{World, library};

/// Files in the world's folder whose name begins so.
pub(crate) fn marks(world: &World, prefix: &str) -> usize {
    let entries = std::fs::read_dir(world.path()).expect("the world's folder").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix) && !name.ends_with(".part")).count()
}

#[test]
fn eight_callers_and_a_limit_of_three_never_see_a_fourth_and_reach_three() {
    let world = World::start_with("workers = 4");
    let config = format!(
        "application = \"load\"\n\
         [[deployment]]\nname = \"gate\"\nlibrary = \"{0}\"\nclass = \"Gate\"\nargs = [{1:?}]\nmax_ongoing_requests = 3\nthreads = 8\n\
         [[deployment]]\nname = \"relay\"\nlibrary = \"{0}\"\nclass = \"Relay\"\nargs = [\"@gate\"]\nthreads = 2\nnum_replicas = 2\n",
        library("fixtures").display(),
        world.path(),
    );
    let _ = world.deploy(&config).ok();
    let round = |until: &str, times: usize| {
        std::thread::scope(|scope| {
            for caller in 0..8 {
                let (world, until) = (&world, until);
                scope.spawn(move || match caller {
                    // A process with handles of its own.
                    0..3 => {
                        let socket = world.socket().with_file_name("handle.sock");
                        let client = Client::connect_to(&socket).expect("the handle socket answers");
                        let gate = client.deployment("gate").expect("it exists").handle();
                        for number in 0..times {
                            let id = format!("{until}-{caller}-{number}");
                            assert!(gate.call::<bool>("hold", (id, until)).expect("a result"));
                        }
                    }
                    // The workers, and handles in replicas.
                    _ => {
                        let path = if caller < 6 { "gate" } else { "relay" };
                        let path = format!("/{path}?until={until}");
                        let mut connection = world.connect();
                        for number in 0..times {
                            let id = format!("{until}-{caller}-{number}");
                            connection.request("GET", &path, &[("x-request-id", &id)], b"").expect("sent");
                            assert_eq!(connection.read().expect("an answer").status, 200);
                        }
                    }
                });
            }
            world.until("three are inside", |_| marks(&world, &format!("entered-{until}")) >= 3);
            // Those that wait have had every opportunity by the time that the file is there.
            assert_eq!(world.run(&["status", "gate"]).code, 0);
            std::fs::write(world.path().join(until), "").expect("let go");
        });
        assert_eq!(marks(&world, &format!("entered-{until}")), 8 * times);
    };
    round("first", 1);
    round("often", 60);
    let most = world.run(&["call", "gate.most"]).ok();
    assert_eq!(most.stdout.trim(), "3");
}

#[test]
fn no_client_starves_where_one_request_runs_at_a_time() {
    let world = World::start_with("workers = 4");
    let config = format!(
        "application = \"load\"\n[[deployment]]\nname = \"counter\"\nlibrary = \"{}\"\nclass = \"Counter\"\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let (clients, each) = (24, 40);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut connection = world.connect();
                for _ in 0..each {
                    let answer = connection.get("/counter").expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
    assert_eq!(world.get("/counter").text(), (clients * each + 1).to_string());
}

#[test]
fn what_waits_and_is_given_up_never_reaches_the_handler() {
    // One worker: by the time that it answers whoever comes last, it has seen who has gone before.
    let world = World::start_with("workers = 1");
    let config = format!(
        "application = \"load\"\n[[deployment]]\nname = \"gate\"\nlibrary = \"{}\"\nclass = \"Gate\"\nargs = [{:?}]\nthreads = 1\nmax_ongoing_requests = 2\n",
        library("fixtures").display(),
        world.path(),
    );
    let _ = world.deploy(&config).ok();
    let mut held = world.connect();
    held.request("GET", "/gate", &[("x-request-id", "held")], b"").expect("sent");
    world.until("one is inside", |_| marks(&world, "entered-held") == 1);
    // One waits at the replica, untaken, and all others in the proxy: each of the first sort makes place for the next.
    for number in 0..6 {
        let headers = [("x-request-timeout-seconds", "0.1")];
        let mut late = [world.connect(), world.connect()];
        for client in &mut late {
            client.request("POST", "/gate", &headers, b"x").expect("sent");
        }
        for client in &mut late {
            assert_eq!(client.read().expect("an answer").status, 504, "{number}");
        }
        let mut gone = [world.connect(), world.connect()];
        for client in &mut gone {
            client.request("GET", "/-/healthz", &[], b"").expect("sent");
            client.request("POST", "/gate", &[], b"x").expect("sent");
            // Closed with an answer unread, a connection is reset: its client is gone, and not only done with sending.
            client.stream().peek(&mut [0]).expect("an answer");
        }
        drop(gone);
    }
    let mut probe = world.connect();
    probe.request("POST", "/gate", &[("x-request-timeout-seconds", "0.1")], b"x").expect("sent");
    assert_eq!(probe.read().expect("an answer").status, 504);
    let socket = world.socket().with_file_name("handle.sock");
    let gate =
        Client::connect_to(&socket).expect("it answers").deployment("gate").expect("it exists").handle();
    let late =
        gate.with_timeout(std::time::Duration::from_millis(100)).call::<bool>("hold", ("late", "open"));
    assert!(late.is_err(), "{late:?}");
    let mut last = world.connect();
    last.request("GET", "/gate", &[("x-request-id", "last")], b"").expect("sent");
    std::fs::write(world.path().join("open"), "").expect("open the gate");
    assert_eq!((held.read().expect("an answer").status, last.read().expect("an answer").status), (200, 200));
    // Exactly these two, and the call that asks.
    assert_eq!(world.run(&["call", "gate.entered"]).ok().stdout.trim(), "2");
}
