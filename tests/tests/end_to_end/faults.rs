//! Faults: what replicas do to themselves, and what is done to processes.

use std::process::Command;

use decurion_client::metrics::parse;
use decurion_tests::{Connection, Load, World, eventually, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn deployment(name: &str, class: &str, more: &str) -> String {
    format!(
        "application = \"faults\"\n[[deployment]]\nname = \"{name}\"\nlibrary = \"{}\"\nclass = \"{class}\"\n{more}\n",
        library("fixtures").display()
    )
}

fn hit(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a replica of ours that runs");
}

#[test]
fn a_killed_replica_is_replaced_and_status_says_why() {
    let world = World::start();
    let _ = world.deploy(&deployment("who", "Who", "num_replicas = 4")).ok();
    let pids = world.pids("who");
    let load = Load::start(world.address(), "/who", 8);
    load.answer_more(200);
    hit(pids[0], Signal::SIGKILL);
    let status = world.until("replaced", |status| {
        let replicas = &status.deployments[0].replicas;
        replicas.iter().filter(|it| it.state.can_serve()).count() == 4
            && replicas.iter().all(|it| it.pid != pids[0])
    });
    load.answer_more(200);
    // GET is idempotent: what the victim had taken was asked again elsewhere.
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    let ended = &status.deployments[0].ended;
    assert!(
        ended.iter().any(|it| it.pid == pids[0] && it.failed && it.reason.contains("SIGKILL")),
        "{ended:#?}"
    );
    let shown = world.run(&["status", "who"]).ok();
    assert!(shown.stdout.contains("who"), "{}", shown.stdout);
}

#[test]
fn a_proxy_without_descriptors_says_so_and_serves_again_once_it_has_some() {
    // One worker: another could serve a client by the descriptor that this one gives up to refuse the next.
    let world = World::start_with("workers = 1");
    let _ = world.deploy(&deployment("who", "Who", "")).ok();
    let proxy = world.status().proxy.pid.expect("a proxy");
    let in_use = std::fs::read_dir(format!("/proc/{proxy}/fd")).expect("a proxy").count();
    let limit = format!("--nofile={0}:{0}", in_use + 8);
    let limited = Command::new("prlimit").args(["--pid", &proxy.to_string(), &limit]).status();
    assert!(limited.is_ok_and(|status| status.success()), "prlimit of util-linux is needed");
    let mut served: Vec<Connection> = Vec::new();
    let refusal = loop {
        let mut client = world.connect();
        let answer = client.get("/who").expect("an answer");
        if answer.status != 200 {
            break answer;
        }
        served.push(client);
        assert!(served.len() < 20, "the limit is not kept");
    };
    for _ in 0..50 {
        let answer = world.get("/who");
        let fields = ["connection", "retry-after"].map(|name| answer.header(name));
        assert_eq!((answer.status, fields), (503, [Some("close"), Some("1")]), "{refusal:?}");
    }
    // Whoever has a connection is none the worse for it.
    for client in &mut served {
        assert_eq!(client.get("/who").expect("an answer").status, 200);
    }
    drop(served);
    eventually("it serves again", || world.get("/who").status == 200);
    assert_eq!(world.status().proxy.restarts, 0);
    let line = "no file descriptors are left";
    eventually("the log says it", || world.log().contains(line));
    // Not once for each of them.
    assert!(world.log().matches(line).count() <= 4, "{}", world.log());
    eventually("the metrics count them", || {
        let metrics = world.admin().metrics().expect("metrics");
        let refused = metrics.lines().find_map(|line| {
            line.strip_prefix("decurion_http_connections_refused_total ")?.trim().parse::<u64>().ok()
        });
        refused.is_some_and(|count| count >= 51)
    });
}

#[test]
fn a_stopped_replica_is_found_and_replaced_and_status_says_why() {
    let world = World::start();
    let _ = world.deploy(&deployment("who", "Who", "num_replicas = 2")).ok();
    let pids = world.pids("who");
    let load = Load::start(world.address(), "/who", 8);
    load.answer_more(200);
    hit(pids[0], Signal::SIGSTOP);
    // What is not idempotent and was given to the one that is stopped ends when its time is over.
    for _ in 0..4 {
        let mut client = world.connect();
        let headers = [("x-request-timeout-seconds", "0.5")];
        client.request("POST", "/who", &headers, b"").expect("sent");
        let status = client.read().expect("an answer").status;
        assert!(status == 200 || status == 504, "{status}");
    }
    let status = world.until("replaced", |status| {
        let replicas = &status.deployments[0].replicas;
        replicas.iter().filter(|it| it.state.can_serve()).count() == 2
            && replicas.iter().all(|it| it.pid != pids[0])
    });
    load.answer_more(200);
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    let ended = &status.deployments[0].ended;
    let why = "hung: no sign of life for";
    assert!(
        ended.iter().any(|it| it.pid == pids[0] && it.failed && it.reason.starts_with(why)),
        "{ended:#?}"
    );
    assert!(world.run(&["events"]).ok().stdout.contains("it gets no new requests"));
}

#[test]
fn a_handler_that_blocks_does_not_make_a_replica_hang() {
    let world = World::start();
    let _ = world.deploy(&deployment("gate", "Gate", &format!("args = [{:?}]", world.path()))).ok();
    let pids = world.pids("gate");
    let mut client = world.connect();
    client.request("GET", "/gate", &[("x-request-id", "blocked")], b"").expect("sent");
    world.until("entered", |_| world.path().join("entered-blocked").exists());
    // Longer than it takes to find one that hangs.
    world.until("some time", |status| status.deployments[0].replicas.iter().all(|it| it.uptime_s >= 10));
    std::fs::write(world.path().join("open"), "").expect("open the gate");
    assert_eq!(client.read().expect("an answer").status, 200);
    assert_eq!(world.pids("gate"), pids);
}

#[test]
fn every_kind_of_end_is_told_apart() {
    let world = World::start();
    let _ = world.deploy(&deployment("fail", "Fail", "num_replicas = 2")).ok();
    for (path, reason) in [("/fail/abort", "SIGABRT"), ("/fail/exit", "exited with code 3")] {
        // A POST is not asked again: the client hears that its replica died.
        assert_eq!(world.post(path, b"{}").status, 502);
        world.until(reason, |status| {
            let deployment = &status.deployments[0];
            deployment.ended.iter().any(|it| it.reason.contains(reason))
                && deployment.replicas.iter().filter(|it| it.state.can_serve()).count() == 2
        });
    }
}

#[test]
fn what_a_handler_gets_wrong_stays_with_it() {
    let world = World::start();
    let _ = world.deploy(&deployment("fail", "Fail", "")).ok();
    let pids = world.pids("fail");
    let mut connection = world.connect();
    for path in ["/fail/panic", "/fail/error"] {
        let answer = connection.get(path).expect("an answer");
        assert_eq!((answer.status, answer.text()), (500, "Internal Server Error".to_owned()), "{path}");
    }
    let answer = connection.get("/fail/status").expect("an answer");
    assert_eq!((answer.status, answer.text()), (422, "not that".to_owned()));
    assert_eq!(world.pids("fail"), pids);
    world.until("the detail is logged", |_| {
        world.run(&["logs", "fail"]).ok().stdout.contains("a secret detail")
    });
}

#[test]
fn a_header_that_smuggles_another_is_a_500() {
    let world = World::start();
    let _ = world.deploy(&deployment("bad", "BadHeader", "")).ok();
    let answer = world.get("/bad");
    assert_eq!(answer.status, 500);
    assert_eq!(answer.header("set-cookie"), None);
}

#[test]
fn a_killed_proxy_is_back_and_no_replica_noticed() {
    let world = World::start();
    let _ = world.deploy(&deployment("who", "Who", "num_replicas = 2")).ok();
    let pids = world.pids("who");
    let proxy = world.status().proxy.pid.expect("a proxy");
    hit(proxy, Signal::SIGKILL);
    // The listening socket is the supervisor's: nobody is refused, they wait for the next proxy.
    assert_eq!(world.get("/who").status, 200);
    let status = world.until("a new proxy", |status| status.proxy.ready && status.proxy.pid != Some(proxy));
    assert_eq!(status.proxy.restarts, 1);
    assert_eq!(world.pids("who"), pids);
}

#[test]
fn a_constructor_that_recovers_is_served() {
    let world = World::start();
    let mark = world.path().join("model-is-there");
    let more = format!("args = {{ how = \"error\", unless = {:?} }}", mark);
    std::fs::write(&mark, "").expect("write");
    let _ = world.deploy(&deployment("late", "Stillborn", &more)).ok();
    assert_eq!(world.get("/late").text(), "alive after all");
}

#[test]
fn the_limit_of_requests_in_flight_is_exact() {
    let world = World::start();
    let more = format!(
        "args = [{:?}]\nnum_replicas = 1\nthreads = 6\nmax_ongoing_requests = 3\nmax_queued_requests = 4",
        world.path()
    );
    let _ = world.deploy(&deployment("gate", "Gate", &more)).ok();
    // Three are let in, four wait, and the eighth is refused.
    let mut clients: Vec<_> = (0..7).map(|_| world.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let id = format!("request-{number}");
        client.request("GET", "/gate", &[("x-request-id", &id)], b"").expect("sent");
    }
    let entered = || {
        let names = std::fs::read_dir(world.path()).expect("a folder").flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with("entered-")).count()
    };
    world.until("three inside", |_| entered() == 3);
    let waiting = || {
        // The proxy tells how many wait with what it has counted, so there has to be something to count.
        assert_eq!(world.get("/-/healthz").status, 200);
        let metrics = parse(&world.admin().metrics().expect("metrics")).expect("as it is written");
        let queued = metrics.into_iter().find(|it| it.name == "decurion_deployment_queued_requests");
        queued.map(|family| family.samples.iter().map(|sample| sample.value).sum::<f64>())
    };
    world.until("four wait", |_| waiting() == Some(4.0));
    let refused = world.get("/gate?until=never");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    std::fs::write(world.path().join("open"), "").expect("open the gate");
    for client in &mut clients {
        assert_eq!(client.read().expect("an answer").status, 200);
    }
    let most = world.run(&["call", "gate.most"]).ok();
    assert_eq!(most.stdout.trim(), "3");
}

#[test]
fn a_deadline_is_told_to_client_and_handler() {
    let world = World::start();
    let more = format!("args = [{:?}]\nmax_ongoing_requests = 1", world.path());
    let _ = world.deploy(&deployment("gate", "Gate", &more)).ok();
    let has = |what: &str, id: u32| world.path().join(format!("{what}-late-{id}")).exists();
    // The time may be up before a handler has the request: each has twice that of the one before, until one was in time.
    let late = (0..).find_map(|id| {
        let (seconds, name) = (0.2 * f64::from(1 << id), format!("late-{id}"));
        let headers = [("x-request-timeout-seconds", &*seconds.to_string()), ("x-request-id", &name)];
        let mut client = world.connect();
        client.request("GET", "/gate?until=never&stay=told", &headers, b"").expect("sent");
        // From the proxy, since the handler says nothing yet.
        assert_eq!(client.read().expect("an answer").status, 504);
        (0..=id).find(|id| has("entered", *id))
    });
    let late = late.expect("one was in time");
    world.until("the handler knows", |_| has("cancelled", late));
    std::fs::write(world.path().join("told"), "").expect("let it go");
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let world = World::start();
    let more = format!("args = [{:?}]", world.path());
    let _ = world.deploy(&deployment("gate", "Gate", &more)).ok();
    let mut client = world.connect();
    client.request("GET", "/gate?until=never", &[("x-request-id", "gone")], b"").expect("sent");
    world.until("entered", |_| world.path().join("entered-gone").exists());
    drop(client);
    world.until("the handler knows", |_| world.path().join("cancelled-gone").exists());
}

#[test]
fn what_replicas_write_is_labelled_and_bounded() {
    let world = World::start();
    let _ = world.deploy(&deployment("chatter", "Chatter", "")).ok();
    assert_eq!(world.get("/chatter?one").status, 200);
    world.until("logged", |_| {
        let logs = world.run(&["logs", "chatter"]).stdout;
        logs.contains("out one") && logs.contains("err one")
    });
    let logs = world.run(&["-o", "jsonl", "logs", "chatter"]).ok();
    let lines: Vec<serde_json::Value> =
        logs.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let id = world.deployment("chatter").replicas[0].id.to_string();
    assert!(
        lines
            .iter()
            .any(|it| it["text"] == "out one" && it["stream"] == "stdout" && it["replica"] == id.as_str())
    );
    assert!(lines.iter().any(|it| it["text"] == "err one" && it["stream"] == "stderr"));
}

#[test]
fn events_of_tracing_are_log_lines_of_their_request() {
    let world = World::start();
    let _ = world.deploy(&deployment("chatter", "Chatter", "")).ok();
    let mut connection = world.connect();
    let logged = |text: &str| {
        let lines = world.run(&["logs", "chatter"]).stdout;
        lines.lines().find(|line| line.contains(text)).map(str::to_owned)
    };
    connection.request("GET", "/chatter?one", &[("x-request-id", "asked")], b"").expect("sent");
    assert_eq!(connection.read().expect("an answer").status, 200);
    world.until("the event is logged", |_| logged("event one").is_some());
    let line = logged("event one").expect("it is there");
    assert!(line.contains("WARN fixtures: event one rows=3 kind=odd request=asked"), "{line}");
    // The level is a setting of the deployment's environment.
    assert_eq!(logged("a detail"), None);
    let more = "runtime_env = { env_vars = { RUST_LOG = \"debug\" } }";
    let _ = world.deploy(&deployment("chatter", "Chatter", more)).ok();
    assert_eq!(world.get("/chatter?two").status, 200);
    world.until("the detail is logged", |_| logged("a detail").is_some());
}

/// Replicas die one after the other while updates roll: `DECURION_DEATHS` of them (12 in the suite), every fourth with
/// an update.
#[test]
fn deaths_and_updates_together_lose_no_get() {
    let world = World::start();
    let version =
        |number: u32| deployment("who", "Who", &format!("num_replicas = 3\nversion = \"v{number}\""));
    let _ = world.deploy(&version(0)).ok();
    let proxy = world.status().proxy.pid;
    let load = Load::start(world.address(), "/who", 6);
    for number in 1..=deaths() {
        load.answer_more(50);
        // None that is under way has met a death: each meets one at most, after which it is asked again once.
        load.answer_each();
        if number % 4 == 0 {
            let _ = world.deploy(&version(number)).ok();
        }
        let serving = |replica: &&decurion_api::status::ReplicaStatus| replica.state.can_serve();
        let replicas = world.deployment("who").replicas;
        let victim = replicas.iter().find(serving).expect("one that serves").pid;
        hit(victim, Signal::SIGKILL);
        world.until("replaced", |status| {
            let replicas = &status.deployments[0].replicas;
            replicas.iter().filter(serving).count() == 3 && replicas.iter().all(|it| it.pid != victim)
        });
    }
    assert_eq!(load.stop().failures(), Vec::<String>::new());
    assert_eq!(world.status().proxy.pid, proxy);
}

/// How long the campaign is.
#[expect(clippy::disallowed_methods, reason = "a campaign by hand is longer than the suite's")]
fn deaths() -> u32 {
    std::env::var("DECURION_DEATHS").ok().and_then(|number| number.parse().ok()).unwrap_or(12)
}
