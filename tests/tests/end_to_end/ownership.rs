//! Who owns a request when its replica dies, as a table: not taken, it goes elsewhere whatever its method; taken and
//! idempotent, once; else the client hears of it.

use std::collections::BTreeSet;

use decurion_tests::{Connection, World, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn gates() -> World {
    let world = World::start();
    let config = format!(
        "application = \"ownership\"\n[[deployment]]\nname = \"gate\"\nlibrary = \"{}\"\nclass = \"Gate\"\nargs = [{:?}]\nthreads = 1\nnum_replicas = 2\nmax_ongoing_requests = 2\n",
        library("fixtures").display(),
        world.path(),
    );
    let _ = world.deploy(&config).ok();
    until_whole(&world, &[]);
    world
}

fn send(world: &World, method: &str, id: &str, until: &str) -> Connection {
    let mut client = world.connect();
    let body: &[u8] = if matches!(method, "GET" | "HEAD" | "OPTIONS") { b"" } else { b"some body" };
    client.request(method, &format!("/gate?until={until}"), &[("x-request-id", id)], body).expect("sent");
    client
}

/// Who holds it: the process id of the last replica that it entered.
fn holder(world: &World, id: &str) -> Option<i32> {
    std::fs::read_to_string(world.path().join(format!("entered-{id}"))).ok()?.parse().ok()
}

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a replica of ours that runs");
}

/// Waits until two replicas answer, none of them one of these.
fn until_whole(world: &World, without: &[i32]) {
    std::fs::write(world.path().join("free"), "").expect("a gate that is open");
    world.until("two serve", |status| {
        let answers: BTreeSet<String> = (0..8).map(|_| world.get("/gate?until=free").text()).collect();
        let idle = status.deployments[0].replicas.iter().all(|it| it.ongoing == 0);
        idle && answers.len() == 2 && without.iter().all(|pid| !answers.contains(&pid.to_string()))
    });
}

#[test]
fn what_becomes_of_a_request_whose_replica_dies() {
    let world = gates();
    // Method, and what the client gets where it had been taken.
    let rows = [("GET", 200), ("POST", 502), ("PUT", 200), ("PATCH", 502), ("DELETE", 200), ("OPTIONS", 200)];
    for (method, taken_status) in rows {
        let until = format!("open-{method}");
        let name = |part: &str, number: usize| format!("{part}-{method}-{number}");
        // One is inside each of the two replicas, and one more waits at each.
        let mut taken: Vec<Connection> =
            (0..2).map(|number| send(&world, method, &name("taken", number), &until)).collect();
        let holders = |world: &World| [0, 1].map(|number| holder(world, &name("taken", number)));
        world.until("both are held", |_| holders(&world).iter().all(Option::is_some));
        let [first, second] = holders(&world).map(|pid| pid.expect("it is held"));
        assert_ne!(first, second, "the least loaded one is chosen");
        let mut waiting: Vec<Connection> =
            (0..2).map(|number| send(&world, method, &name("waiting", number), &until)).collect();
        // Whoever comes next is queued in the proxy: so the two are with the replicas.
        let late = [("x-request-timeout-seconds", "0.2")];
        let mut probe = world.connect();
        probe.request("GET", "/gate", &late, b"").expect("sent");
        assert_eq!(probe.read().expect("an answer").status, 504);
        end(first);
        world.until("replaced", |status| {
            let replicas = &status.deployments[0].replicas;
            replicas.iter().filter(|it| it.state.can_serve()).count() == 2
                && replicas.iter().all(|it| it.pid != first)
        });
        std::fs::write(world.path().join(&until), "").expect("let go");
        let answer = taken[0].read().expect("an answer");
        assert_eq!(answer.status, taken_status, "{method}, taken: {}", answer.text());
        assert_eq!(taken[1].read().expect("an answer").text(), second.to_string());
        for client in &mut waiting {
            let answer = client.read().expect("an answer");
            assert_eq!(answer.status, 200, "{method}, not taken: {}", answer.text());
            assert_ne!(answer.text(), first.to_string());
        }
        until_whole(&world, &[first]);
    }
}

#[test]
fn a_request_that_was_taken_is_asked_again_once_and_not_twice() {
    let world = gates();
    let mut client = send(&world, "GET", "twice", "never");
    world.until("held", |_| holder(&world, "twice").is_some());
    let first = holder(&world, "twice").expect("it is held");
    end(first);
    world.until("held elsewhere", |_| holder(&world, "twice").is_some_and(|pid| pid != first));
    let second = holder(&world, "twice").expect("it is held");
    end(second);
    assert_eq!(client.read().expect("an answer").status, 502);
    until_whole(&world, &[first, second]);
}
