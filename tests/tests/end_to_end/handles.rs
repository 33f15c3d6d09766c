//! Handles, from the command, from another process, and from replica to replica.

use decurion_client::{CallFailed, Client};
use decurion_tests::{World, eventually, is_running, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    let started = handle.start("echo", (vec![1u64, 2],)).expect("it is on its way");
    assert_eq!(started.wait::<Vec<u64>>().expect("a result"), [1, 2]);
    let everywhere = handle.broadcast::<Vec<u64>>("echo", (vec![1u64, 2],)).expect("replicas");
    assert_eq!(everywhere.len(), 2);
    for (replica, value) in everywhere {
        assert_eq!(value.unwrap_or_else(|error| panic!("{replica}: {error}")), [1, 2]);
    }
    let wrong = handle.call::<Vec<u8>>("echo", ("text",));
    assert!(matches!(wrong, Err(CallFailed::Callee { .. })), "{wrong:?}");
}

#[test]
fn what_a_method_refuses_with_415_is_not_asked_again() {
    let world = World::start();
    let library = library("fixtures");
    let config = format!(
        "application = \"handles\"\n[[deployment]]\nname = \"partner\"\nlibrary = \"{}\"\nclass = \"Partner\"\n",
        library.display()
    );
    let _ = world.deploy(&config).ok();
    let partner = client(&world).deployment("partner").expect("it exists").handle();
    let is_refused =
        |error: Option<CallFailed>| matches!(error, Some(CallFailed::Callee { status: 415, .. }));
    assert!(is_refused(partner.call::<i64>("refuse", (415u16,)).err()));
    let started = partner.start("refuse", (415u16,)).expect("it is on its way");
    assert!(is_refused(started.wait::<i64>().err()));
    assert!(is_refused(partner.stream::<i64>("refuse_items", (415u16,)).err()));
    assert!(is_refused(block_on(partner.call_async::<i64>("refuse", (415u16,))).err()));
    assert!(is_refused(block_on(partner.stream_async::<i64>("refuse_items", (415u16,))).err()));
    assert_eq!(partner.call::<u64>("refused", ()).expect("a result"), 5, "each has run once");
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
    match client.deployment("whoo") {
        Err(CallFailed::Call(error)) => assert!(error.to_string().contains("did you mean 'who'?"), "{error}"),
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
        who.replicas.len() == 1 && before != format!("{} here", who.replicas[0].pid)
    });
    let after: String = handle.call("who", ()).expect("a result");
    assert_ne!(before, after);
}

#[test]
fn a_client_streams_and_broadcasts() {
    let world = World::start();
    let config = format!(
        "application = \"handles\"\n[[deployment]]\nname = \"partner\"\nlibrary = \"{}\"\nclass = \"Partner\"\n\
         num_replicas = 3\nthreads = 2\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let partner = client(&world).deployment("partner").expect("it exists").handle();
    let numbers = partner.stream::<u32>("count", (20_000u32, None::<u32>)).expect("it begins");
    assert!(numbers.map(|number| number.expect("an item")).eq(0..20_000));
    let mut failing = partner.stream::<u32>("count", (9u32, Some(1u32))).expect("it begins");
    assert!(matches!(failing.next(), Some(Ok(0))));
    assert!(matches!(failing.next(), Some(Err(CallFailed::Callee { status: 418, .. }))));
    assert!(failing.next().is_none());
    let early = partner.stream::<u32>("count", (2_000_000u32, None::<u32>));
    assert!(matches!(early, Err(CallFailed::Callee { status: 413, .. })), "{early:?}");
    // One that is let go of ends its method: the replica's threads are free for others.
    for _ in 0..20 {
        let endless = partner.stream::<Vec<u8>>("forever", ()).expect("it begins");
        assert_eq!(
            endless.take(3).filter(|item| item.as_ref().is_ok_and(|item| item.len() == 1000)).count(),
            3
        );
    }
    let results = partner.broadcast::<i64>("double", (4i64,)).expect("it exists");
    assert_eq!(results.len(), 3);
    assert!(results.into_iter().all(|(_, result)| result.is_ok_and(|doubled| doubled == 8)));
}

#[test]
fn thirty_two_mebibytes_go_there_and_back() {
    let world = world();
    let handle = client(&world).deployment("echo").expect("it exists").handle();
    let text: String =
        (0..4u32 << 20).map(|number| format!("{:08x}", number.wrapping_mul(2_654_435_761))).collect();
    assert_eq!(text.len(), 32 << 20);
    assert!(handle.call::<String>("echo_text", (&text,)).expect("a result") == text);
    let back = handle.call_json("echo_text", &serde_json::json!([text])).expect("a result");
    assert!(back.as_str() == Some(&text));
}

/// On this thread alone: none waits for a call.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

/// Has a future look once: it is not through.
async fn poll_once<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) {
    std::future::poll_fn(|cx| {
        assert!(future.as_mut().poll(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
}

#[test]
fn a_thousand_tasks_on_one_thread_share_one_client() {
    let world = world();
    let client = client(&world);
    block_on(async {
        let handle = client.deployment_async("echo").await.expect("it exists").handle();
        let calls: Vec<_> = (0..1000u32)
            .map(|number| {
                let handle = handle.clone();
                tokio::spawn(async move {
                    let value = number.to_le_bytes().to_vec();
                    let answer: Vec<u8> = handle.call_async("echo", (&value,)).await.expect("a result");
                    assert_eq!(answer, value);
                })
            })
            .collect();
        for call in calls {
            call.await.expect("no task fails");
        }
        let started = handle.start("echo", (vec![1u64, 2],)).expect("it is on its way");
        assert_eq!(started.wait_async::<Vec<u64>>().await.expect("a result"), [1, 2]);
        let everywhere = handle.broadcast_async::<Vec<u64>>("echo", (vec![3u64],)).await.expect("replicas");
        let good = everywhere.iter().filter(|(_, value)| value.as_ref().is_ok_and(|it| it == &[3]));
        assert_eq!(good.count(), 2, "{everywhere:?}");
        let wrong = handle.call_async::<Vec<u8>>("ehco", (vec![1u8],)).await;
        assert!(matches!(wrong, Err(CallFailed::Callee { status: 404, .. })), "{wrong:?}");
        let nobody = client.deployment_async("nobody").await.expect_err("there is none");
        assert!(nobody.to_string().contains("echo, who"), "{nobody}");
        let who = client.deployment_async("who").await.expect("it exists").handle();
        let answer = who.request_async("GET", "/", Vec::new(), Vec::new()).await.expect("an answer");
        assert!(answer.status == 200 && answer.body.ends_with(b" here"), "{answer:?}");
    });
}

#[test]
fn a_future_that_is_dropped_cancels_its_call() {
    let world = World::start();
    let config = format!(
        "application = \"handles\"\n[[deployment]]\nname = \"drip\"\nlibrary = \"{}\"\nclass = \"Drip\"\n\
         threads = 2\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let client = client(&world);
    let file = |name: &str| world.path().join(name).display().to_string();
    block_on(async {
        let drip = client.deployment_async("drip").await.expect("it exists").handle();
        let mut call = Box::pin(drip.call_async::<()>("hold", (file("begun"), file("cancelled"))));
        poll_once(&mut call).await;
        eventually("the call to have begun", || world.path().join("begun").exists());
        drop(call);
        eventually("the call to be cancelled", || world.path().join("cancelled").exists());

        let mut items = drip.stream_async::<u32>("count", (3u32, file("gate"))).await.expect("it begins");
        assert!(matches!(items.next_async().await, Some(Ok(1))));
        // Given up half way, it loses nothing.
        poll_once(&mut Box::pin(items.next_async())).await;
        std::fs::write(file("gate"), "").expect("open the gate");
        assert!(matches!(items.next_async().await, Some(Ok(2))));
        assert!(matches!(items.next_async().await, Some(Ok(3))));
        assert!(items.next_async().await.is_none());
    });
}

/// A callee and a deployment that has a handle to it.
fn who_and_front(version: &str) -> String {
    format!(
        "application = \"handles\"\n\
         [[deployment]]\nname = \"who\"\nlibrary = \"{0}\"\nclass = \"Who\"\nroute_prefix = \"\"\nargs = [\"{version}\"]\n\
         [[deployment]]\nname = \"front\"\nlibrary = \"{0}\"\nclass = \"Front\"\nargs = [\"@who\"]\n",
        library("fixtures").display()
    )
}

/// Backpressure is the same to a client that comes through another deployment.
#[test]
fn what_a_full_callee_refuses_is_refused_to_the_client_of_its_caller() {
    let world = World::start();
    let config = format!(
        "application = \"handles\"\n\
         [[deployment]]\nname = \"gate\"\nlibrary = \"{0}\"\nclass = \"Gate\"\nargs = [{1:?}]\n\
         max_ongoing_requests = 1\nmax_queued_requests = 0\n\
         [[deployment]]\nname = \"relay\"\nlibrary = \"{0}\"\nclass = \"Relay\"\nargs = [\"@gate\"]\nthreads = 4\n",
        library("fixtures").display(),
        world.path(),
    );
    let _ = world.deploy(&config).ok();
    let refused = |path: &str| {
        let mut held = world.connect();
        let entered = format!("entered-{}", path.len());
        let id = path.len().to_string();
        held.request("GET", path, &[("x-request-id", &id)], b"").expect("sent");
        world.until("one is inside", |_| world.path().join(&entered).exists());
        let answer = world.get(path);
        std::fs::write(world.path().join("open"), "").expect("open the gate");
        assert_eq!(held.read().expect("an answer").status, 200);
        std::fs::remove_file(world.path().join("open")).expect("close the gate");
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
        answer.text()
    };
    let direct = refused("/gate");
    assert!(direct.contains("queue of this deployment is full"), "{direct}");
    // The place is free when the handler has returned, which is after its client has the answer.
    world.until("there is room again", |status| {
        status.deployments.iter().flat_map(|it| &it.replicas).all(|replica| replica.ongoing == 0)
    });
    let through = refused("/relay");
    assert!(through.contains("gate has no capacity: no replica has room, and 0 calls wait"), "{through}");
}

#[test]
fn handles_survive_updates_deaths_and_upgrades_and_wait_for_their_callee() {
    let mut world = World::start_copied();
    let _ = world.deploy(&who_and_front("a")).ok();
    let front = world.pids("front");
    let handle = client(&world).deployment("who").expect("it exists").handle();
    // From replica to replica, and from this process.
    let both_say = |world: &World, version: &str| {
        for _ in 0..20 {
            let by_replica = world.get("/front");
            assert_eq!(by_replica.status, 200, "{}", by_replica.text());
            assert!(by_replica.text().ends_with(version), "{} is not of {version}", by_replica.text());
            let by_client: String = handle.call("who", ()).expect("a result");
            assert!(by_client.ends_with(version), "{by_client} is not of {version}");
        }
    };
    both_say(&world, " a");
    let _ = world.deploy(&who_and_front("b")).ok();
    both_say(&world, " b");

    // Its only replica dies: calls wait for the next one, and are answered.
    let killed = world.pids("who")[0];
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("killed");
    eventually("it to be dead", || !is_running(killed));
    both_say(&world, " b");

    assert_eq!(world.end_supervisor(Signal::SIGKILL), -1);
    both_say(&world, " b");
    world.start_supervisor();
    both_say(&world, " b");
    let _ = world.deploy(&who_and_front("c")).ok();
    both_say(&world, " c");

    let proxy = world.status().proxy.pid;
    world.install();
    kill(world.supervisor_pid(), Signal::SIGUSR2).expect("a supervisor");
    eventually("another proxy", || {
        world.admin().status().is_ok_and(|it| it.proxy.ready && it.proxy.pid != proxy)
    });
    both_say(&world, " c");
    let _ = world.deploy(&who_and_front("d")).ok();
    both_say(&world, " d");
    assert_eq!(world.pids("front"), front, "the one with the handle was never restarted");
}

#[test]
fn each_replica_has_a_rank_of_its_own_and_hands_it_on_when_it_dies() {
    let world = World::start();
    let config = |version: &str| {
        format!(
            "application = \"a\"\n[[deployment]]\nname = \"who\"\nlibrary = \"{}\"\nclass = \"Who\"\n\
             num_replicas = 4\nversion = \"{version}\"\n",
            library("fixtures").display()
        )
    };
    let _ = world.deploy(&config("1")).ok();
    let handle = client(&world).deployment("who").expect("it exists").handle();
    let places = || {
        let told = handle.broadcast::<(u32, u32)>("place", ()).expect("replicas");
        let mut places: Vec<_> = told.into_iter().map(|(id, place)| (place.ok(), id.to_string())).collect();
        places.sort();
        places
    };
    let all = [0, 1, 2, 3].map(|rank| Some((rank, 4)));
    let ranks =
        |places: &[(Option<(u32, u32)>, String)]| -> Vec<_> { places.iter().map(|it| it.0).collect() };
    let before = places();
    assert_eq!(ranks(&before), all);

    let victim = &before[2].1;
    let replicas = world.deployment("who").replicas;
    let pid = replicas.iter().find(|replica| replica.id.as_str() == victim).expect("it is shown").pid;
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a replica of ours that runs");
    world.until("the rank is another's", |_| {
        let now = places();
        ranks(&now) == all && now[2].1 != *victim
    });
    let after = places();
    let others = |places: &[(_, String)]| [0, 1, 3].map(|at: usize| places[at].1.clone());
    assert_eq!(others(&after), others(&before), "the others keep theirs");

    let _ = world.deploy(&config("2")).ok();
    world.until("the new version has all ranks", |_| {
        let now = places();
        ranks(&now) == all && now.iter().all(|(_, id)| after.iter().all(|(_, old)| old != id))
    });
}
