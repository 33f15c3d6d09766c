//! Handles, from the command, from another process, and from replica to replica.

use decurion_client::{CallFailed, Client};
use decurion_tests::{World, library};

fn world() -> World {
    let world = World::start();
    let library = library("fixtures");
    let config = format!(
        "application = \"handles\"\n\
         [[deployment]]\nname = \"echo\"\nlibrary = \"{0}\"\nclass = \"Echo\"\nroute_prefix = \"\"\nnum_replicas = 2\n\
         [[deployment]]\nname = \"who\"\nlibrary = \"{0}\"\nclass = \"Who\"\nargs = [\"here\"]\n",
        library.display()
    );
    let _ = world.deploy(&config).ok();
    world
}

fn client(world: &World) -> Client {
    Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("the handle socket answers")
}

#[test]
fn the_command_calls_a_method() {
    let world = world();
    let pid = world.pids("who")[0];
    let called = world.run(&["call", "who.who"]).ok();
    assert_eq!(called.json(), serde_json::json!(format!("{pid} here")));
    let wrong = world.run(&["call", "who.whom"]);
    assert_ne!(wrong.code, 0);
    assert!(wrong.stderr.contains("whom") && wrong.stderr.contains("who"), "{}", wrong.stderr);
    let _ = world.run(&["call", "nobody.x"]).code(5);
}

#[test]
fn another_process_calls_typed_methods() {
    let world = world();
    let handle = client(&world).deployment("echo").expect("it exists").handle();
    let value: Vec<u8> = (0..=255).collect();
    for _ in 0..200 {
        assert_eq!(handle.call::<Vec<u8>>("echo", (&value,)).expect("a result"), value);
    }
}

#[test]
fn types_that_would_be_misread_travel_as_json() {
    let world = world();
    let handle = client(&world).deployment("echo").expect("it exists").handle();
    // The callee takes a `Vec<u8>`; eight bytes an element would be read as garbage in bincode.
    assert_eq!(handle.call::<Vec<u64>>("echo", (vec![1u64, 2, 300 % 256],)).expect("a result"), [1, 2, 44]);
    let wrong = handle.call::<Vec<u8>>("echo", ("text",));
    assert!(matches!(wrong, Err(CallFailed::Callee { .. })), "{wrong:?}");
}

#[test]
fn arguments_and_results_larger_than_the_channel_stream_through() {
    let world = world();
    let handle = client(&world).deployment("echo").expect("it exists").handle();
    let value: Vec<u8> = (0..3_000_000u32).map(|number| number.to_le_bytes()[1]).collect();
    assert!(handle.call::<Vec<u8>>("echo", (&value,)).expect("a result") == value);
}

#[test]
fn many_threads_share_one_client() {
    let world = world();
    let handle = client(&world).deployment("echo").expect("it exists").handle();
    let threads: Vec<_> = (0..8u8)
        .map(|number| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                for count in 0..100u8 {
                    let value = vec![number, count];
                    assert_eq!(handle.call::<Vec<u8>>("echo", (&value,)).expect("a result"), value);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no thread fails"));
}

#[test]
fn what_does_not_exist_is_named() {
    let world = world();
    let client = client(&world);
    match client.deployment("nobody") {
        Err(CallFailed::Call(error)) => assert!(error.to_string().contains("echo, who"), "{error}"),
        other => panic!("{other:?}"),
    }
    let handle = client.deployment("who").expect("it exists").handle();
    match handle.call::<String>("whom", ()) {
        Err(CallFailed::Callee { status: 404, message }) => assert!(message.contains("whom"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handle_outlives_an_update_of_its_callee() {
    let world = world();
    let handle = client(&world).deployment("who").expect("it exists").handle();
    let before: String = handle.call("who", ()).expect("a result");
    let _ = world.run(&["restart", "who"]).ok();
    world.until("restarted", |status| {
        let who = status.deployments.iter().find(|it| it.name.as_str() == "who").expect("it exists");
        who.replicas.len() == 1 && !before.starts_with(&who.replicas[0].pid.to_string())
    });
    let after: String = handle.call("who", ()).expect("a result");
    assert_ne!(before, after);
}
