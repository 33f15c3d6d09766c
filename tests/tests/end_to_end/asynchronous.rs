//! Async handlers in a real replica: entries that return at once and answer later, from threads of the library.

use decurion_tests::{Connection, World, library};

const AT_ONCE: usize = 1000;

/// One handler thread, so that whatever waits has to wait elsewhere.
fn lobby(more: &str) -> World {
    lobby_of(1, more)
}

fn lobby_of(threads: usize, more: &str) -> World {
    let world = World::start();
    let (library, folder) = (library("fixtures").display().to_string(), world.path().display().to_string());
    let config = format!(
        "application = \"lobby\"\n\
         [[deployment]]\nname = \"echo\"\nlibrary = \"{library}\"\nclass = \"Echo\"\n\
         [[deployment]]\nname = \"lobby\"\nlibrary = \"{library}\"\nclass = \"Lobby\"\nthreads = {threads}\n\
         args = {{ folder = \"{folder}\", echo = \"@echo\" }}\n{more}"
    );
    let _ = world.deploy(&config).ok();
    world
}

fn enter(world: &World, numbers: std::ops::Range<usize>) -> Vec<Connection> {
    let connections = numbers.map(|number| {
        let mut connection = world.connect();
        let id = format!("guest-{number}");
        connection.request("GET", "/lobby", &[("x-request-id", &id)], b"").expect("sent");
        connection
    });
    connections.collect()
}

fn until_inside(world: &World, count: usize) {
    world.until("they are inside", |_| world.get("/lobby/inside").text() == count.to_string());
}

#[test]
fn one_thread_holds_many_requests_at_once() {
    let world = lobby("max_ongoing_requests = 2000\n");
    let guests = enter(&world, 0..AT_ONCE);
    until_inside(&world, AT_ONCE);
    assert_eq!(world.get("/lobby/open").text(), "open");
    for mut guest in guests {
        assert_eq!(guest.read().expect("an answer").status, 200);
    }
    until_inside(&world, 0);
}

#[test]
fn the_bound_of_requests_in_flight_holds_and_a_place_that_is_freed_is_used() {
    let world = lobby("max_ongoing_requests = 2\n");
    let inside = enter(&world, 0..2);
    let entered = || {
        let entries = std::fs::read_dir(world.path()).expect("a folder").flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("lobby-")).count()
    };
    world.until("two are inside", |_| entered() == 2);
    // The others wait, and so does whoever would let them in. Those who leave make room for the next.
    let others = enter(&world, 2..20);
    drop(inside);
    world.until("two more are inside", |_| entered() == 4);
    drop(others);
    // One that waited may yet go in for a moment, until it is known that it has left as well.
    let _ = world.until("nobody is inside for those who left", |status| {
        let lobby = status.deployments.iter().find(|it| it.name.as_str() == "lobby");
        lobby.is_some_and(|it| it.replicas.iter().all(|replica| replica.ongoing == 0))
            && world.get("/lobby/inside").text() == "0"
    });
}

#[test]
fn a_future_that_blocks_its_thread_stalls_neither_health_nor_others() {
    let world = lobby_of(2, "health_check_period_s = 0.05\nhealth_check_timeout_s = 60\n");
    let mut blocked = world.connect();
    blocked.request("GET", "/lobby/block", &[], b"").expect("sent");
    world.until("it blocks", |status| {
        let lobby = status.deployments.iter().find(|it| it.name.as_str() == "lobby");
        lobby.is_some_and(|it| it.replicas.iter().any(|replica| replica.ongoing > 0))
    });
    let checks = || world.get("/lobby/checks").text().parse::<usize>().expect("a number");
    let before = checks();
    world.until("it was checked again", |_| checks() > before + 2);
    std::fs::write(world.path().join("unblock"), "").expect("write");
    assert_eq!(blocked.read().expect("an answer").text(), "unblocked");
}

#[test]
fn a_future_begins_where_its_request_was_found_and_goes_on_where_it_is_woken() {
    let world = lobby("");
    // Who looks for the reply may have been another thread, when this one was busy.
    world.until("the handler thread goes on with it", |_| {
        let threads = world.get("/lobby/threads").text();
        assert!(threads.starts_with("handler-0 ") && threads.ends_with(" decurion-async"), "{threads}");
        threads.starts_with("handler-0 handler-0 ")
    });
}

#[test]
fn a_client_that_leaves_drops_the_future() {
    let world = lobby("");
    let guests = enter(&world, 0..2);
    until_inside(&world, 2);
    drop(guests);
    until_inside(&world, 0);
}

#[test]
fn a_panic_is_an_answer_and_the_replica_lives_on() {
    let world = lobby("");
    let pids = world.pids("lobby");
    let answer = world.get("/lobby/panic");
    assert_eq!((answer.status, answer.text()), (500, "Internal Server Error".to_owned()));
    assert_eq!(world.get("/lobby/inside").text(), "0");
    assert_eq!(world.pids("lobby"), pids);
}

#[test]
fn bodies_stream_both_ways_and_calls_are_awaited() {
    let world = lobby("");
    let body: Vec<u8> =
        (0..5_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let mut connection = world.connect();
    let mut sending = connection.stream().try_clone().expect("a second descriptor");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            let head =
                format!("POST /lobby/echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            sending.write_all(head.as_bytes()).and_then(|()| sending.write_all(&body)).expect("sent");
        });
        let answer = connection.read().expect("an answer");
        assert!(answer.status == 200 && answer.body == body, "{} bytes came back", answer.body.len());
    });
    assert_eq!(world.post("/lobby/forward", b"by handle").text(), "by handle");
    assert_eq!(world.post("/lobby/forward", &body[..300_000]).body, &body[..300_000]);
}

fn until_ongoing(world: &World, pids: &[i32], count: u64) {
    world.until("so many are held by those replicas", |status| {
        let mut replicas = status.deployments.iter().flat_map(|deployment| &deployment.replicas);
        replicas.any(|replica| pids.contains(&replica.pid) && replica.ongoing == count)
    });
}

#[test]
fn a_replica_that_drains_waits_for_its_futures() {
    let world = lobby("");
    let mut guests = enter(&world, 0..2);
    until_inside(&world, 2);
    let old = world.pids("lobby");
    // A restart that can only end when both are answered: those who are inside must be let go by the old replica.
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| world.run(&["restart", "lobby"]));
        world.until("the old one drains", |status| {
            let lobby = status.deployments.iter().find(|it| it.name.as_str() == "lobby");
            lobby.is_some_and(|it| it.replicas.iter().any(|replica| !old.contains(&replica.pid)))
        });
        let last = guests.pop().expect("two");
        drop(guests);
        until_ongoing(&world, &old, 1);
        drop(last);
        let _ = restart.join().expect("it ran").ok();
    });
    assert!(world.pids("lobby").iter().all(|pid| !old.contains(pid)));
}
