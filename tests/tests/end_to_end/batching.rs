//! Batches in a real replica: one handler thread collects them, and holds none of its own for a member that waits.

use decurion_client::Client;
use decurion_tests::{Connection, World, library};

fn world(more: &str) -> World {
    let world = World::start();
    let config = format!(
        "application = \"batching\"\n\
         [[deployment]]\nname = \"batches\"\nlibrary = \"{}\"\nclass = \"Batches\"\nthreads = 1\n{more}",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    world
}

fn post(world: &World, bodies: &[&str]) -> Vec<Connection> {
    let send = |body: &&str| {
        let mut connection = world.connect();
        connection.request("POST", "/batches", &[], body.as_bytes()).expect("sent");
        connection
    };
    bodies.iter().map(send).collect()
}

#[test]
fn one_thread_collects_a_whole_batch() {
    let world = world("");
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a socket");
    let handle = client.deployment("batches").expect("it exists").handle();
    for round in 1..=3usize {
        let calls: Vec<_> =
            (0..32u32).map(|row| handle.start("together", (row,)).expect("there is room")).collect();
        for (row, call) in (0..32u32).zip(calls) {
            assert_eq!(call.wait::<(u32, usize)>().expect("a result"), (row, 32));
        }
        assert_eq!(handle.call::<usize>("runs", ()).expect("a result"), round);
    }
}

#[test]
fn requests_run_together_and_a_panic_is_an_answer_for_each() {
    let world = world("");
    for mut connection in post(&world, &["a", "b", "panic", "d"]) {
        let answer = connection.read().expect("an answer");
        assert_eq!((answer.status, answer.text()), (500, "Internal Server Error".to_owned()));
    }
    for (mut connection, body) in post(&world, &["a", "b", "c", "d"]).into_iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(connection.read().expect("an answer").text(), format!("{body} of 4"));
    }
}

#[test]
fn who_left_is_not_in_the_batch() {
    let world = world("");
    let ongoing = |count: u64| {
        world.until("so many wait", |status| {
            status.deployments.iter().flat_map(|it| &it.replicas).any(|it| it.ongoing == count)
        });
    };
    let gone = post(&world, &["gone"]);
    ongoing(1);
    let first = post(&world, &["a", "b"]);
    ongoing(3);
    drop(gone);
    // It has given its place back, although nothing has run.
    ongoing(2);
    let rest = post(&world, &["c", "d"]);
    for mut connection in first.into_iter().chain(rest) {
        let text = connection.read().expect("an answer").text();
        assert!(text.ends_with("of 4"), "{text}");
    }
}

#[test]
fn the_limits_of_batches_change_without_a_restart() {
    let world = world("user_config = { batch = { call = { max = 2 } } }\n");
    let pids = world.pids("batches");
    for mut connection in post(&world, &["a", "b"]) {
        assert!(connection.read().expect("an answer").text().ends_with("of 2"));
    }
    let _ = world.run(&["reconfigure", "batches", r#"{"batch": {"call": {"max": 1}}}"#]).ok();
    assert_eq!(world.post("/batches", b"alone").text(), "alone of 1");
    assert_eq!(world.pids("batches"), pids);
    let refused = world.run(&["reconfigure", "batches", r#"{"batch": {"cal": {"max": 1}}}"#]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("there is no such batched method"), "{}", refused.stderr);
}

#[test]
fn a_bound_below_the_batch_is_said_at_deploy_and_check_shows_batches() {
    let world = World::start();
    let library = library("fixtures").display().to_string();
    let config = format!(
        "application = \"batching\"\n[[deployment]]\nname = \"batches\"\nlibrary = \"{library}\"\n\
         class = \"Batches\"\nmax_ongoing_requests = 8\n"
    );
    let deployed = world.deploy(&config).ok();
    assert!(deployed.stderr.contains("is never full"), "{}", deployed.stderr);
    let checked = world.run(&["check", &library]).ok();
    assert!(checked.stdout.contains("up to 32 together"), "{}", checked.stdout);
}
