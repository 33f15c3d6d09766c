//! What is bounded, shared and ended: concurrency, connections, draining, clients that leave.

mod rig;

use std::time::Duration;

use decurion_ipc::adoption::AdoptionSocket;
use decurion_ipc::control::{Availability, ProxyOrder, ProxyReport, ProxySettings};
use rig::replica::{Behaviour, Command, FakeReplica, Seen};
use rig::{Rig, WATCHDOG, settings};

#[test]
fn max_ongoing_requests_is_exact_across_workers() {
    const LIMIT: u32 = 3;
    const CLIENTS: usize = 40;
    let mut rig = Rig::new();
    let replica = rig.replica("a", 1, Behaviour::Hold);
    rig.deployment("a", &[&replica], |view| view.max_ongoing_requests = LIMIT);
    rig.apply();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.request("GET", "/a", "", b"");
    }
    for _ in 0..LIMIT {
        replica.next_open();
    }
    // A fourth comes only as one of the three is answered.
    for _ in 0..CLIENTS - LIMIT as usize {
        assert!(replica.seen.try_recv().is_err());
        replica.command(&Command::Answer(1));
        replica.next_open();
    }
    replica.command(&Command::Answer(LIMIT as usize));
    for client in &mut clients {
        assert_eq!(client.response().text(), "held");
    }
}

#[test]
fn requests_go_to_the_least_loaded_replica() {
    let mut rig = Rig::new();
    let held = rig.replica("a", 1, Behaviour::Hold);
    let free = rig.replica("a", 2, Behaviour::Name);
    rig.deployment("a", &[&held, &free], |view| view.max_ongoing_requests = 10);
    rig.apply();
    // The first goes to either.
    let _stuck = loop {
        let mut client = rig.client();
        client.request("GET", "/a", "", b"");
        if is_seen_by(&held, &free) {
            break client;
        }
        let _ = client.response();
    };
    for _ in 0..20 {
        assert_eq!(rig.client().get("/a").text(), free.id.as_str());
    }
}

/// Whether a request has come to the first of two replicas, and not to the other.
fn is_seen_by(one: &FakeReplica, other: &FakeReplica) -> bool {
    loop {
        let soon = Duration::from_millis(1);
        if matches!(one.seen.recv_timeout(soon), Ok(Seen::Open(_))) {
            return true;
        }
        if matches!(other.seen.recv_timeout(soon), Ok(Seen::Open(_))) {
            return false;
        }
    }
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let (rig, replica) = Rig::serving("a", Behaviour::Hold);
    let mut client = rig.client();
    client.request("GET", "/a", "", b"");
    replica.next_open();
    drop(client);
    replica.next_cancel();
    let mut sending = rig.client();
    sending.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc");
    replica.next_open();
    drop(sending);
    replica.next_cancel();
}

#[test]
fn who_leaves_the_queue_never_reaches_a_replica() {
    let mut rig = Rig::new();
    let replica = rig.replica("a", 1, Behaviour::Hold);
    rig.deployment("a", &[&replica], |view| view.max_ongoing_requests = 1);
    rig.apply();
    let mut first = rig.client();
    first.request("GET", "/a/first", "", b"");
    assert_eq!(replica.next_open(), "/a/first");
    let timed =
        rig.client().request("GET", "/a/timed", "x-request-timeout-seconds: 0.02\r\n", b"").response();
    assert_eq!(timed.status, 504);
    let mut last = rig.client();
    last.request("GET", "/a/last", "", b"");
    replica.command(&Command::Answer(1));
    assert_eq!(replica.next_open(), "/a/last");
    replica.command(&Command::Answer(1));
    assert_eq!((first.response().status, last.response().status), (200, 200));
}

#[test]
fn more_requests_than_a_channel_has_streams_are_all_answered() {
    let mut rig = Rig::with(ProxySettings { workers: 1, ..settings() });
    let replica = rig.replica("a", 1, Behaviour::Hold);
    rig.deployment("a", &[&replica], |view| {
        view.max_ongoing_requests = 1000;
        view.max_queued_requests = None;
    });
    rig.apply();
    let mut clients: Vec<_> = (0..300).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.request("GET", "/a", "", b"");
    }
    for _ in 0..clients.len() {
        replica.next_open();
        replica.command(&Command::Answer(1));
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "held");
    }
}

#[test]
fn a_worker_has_as_many_requests_at_a_replica_as_that_takes() {
    const REQUESTS: u32 = 1500;
    // As long as it takes: the machine may have other things to do.
    let request_timeout = Duration::ZERO;
    let mut rig = Rig::with(ProxySettings { workers: 1, request_timeout, ..settings() });
    rig.requests = REQUESTS;
    let replica = rig.replica("a", 1, Behaviour::Hold);
    rig.deployment("a", &[&replica], |view| view.max_ongoing_requests = REQUESTS);
    rig.apply();
    let ask = |_| {
        let mut client = rig.client();
        client.request("POST", "/a", "", b"some body");
        client
    };
    let mut clients: Vec<_> = (0..REQUESTS).map(ask).collect();
    // None is answered before all of them are with the replica.
    for _ in 0..REQUESTS {
        replica.next_open();
    }
    replica.command(&Command::Answer(REQUESTS as usize));
    for client in &mut clients {
        assert_eq!(client.response().text(), "held");
    }
}

#[test]
fn a_thousand_deployments_are_routed() {
    let mut rig = Rig::new();
    let replica = rig.replica("d999", 1, Behaviour::Hello);
    for number in 0..999 {
        rig.deployment(&format!("d{number}"), &[], |view| {
            let why = format!("deployment 'd{number}' failed to deploy: {}", "why ".repeat(100));
            view.availability = Availability::Failed(why);
        });
    }
    rig.deployment("d999", &[&replica], |_| {});
    assert_eq!(rig.apply(), []);
    let routes: serde_json::Value = serde_json::from_str(rig.client().get("/-/routes").text()).unwrap();
    assert_eq!(routes.as_object().map(serde_json::Map::len), Some(1000));
    assert_eq!(rig.client().get("/d999").text(), "Hello world!");
    assert!(rig.client().get("/d500").text().contains("'d500'"));
}

#[test]
fn connections_are_bounded_in_all_and_by_address() {
    for (max_connections, max_connections_per_address) in [(3, 0), (100, 3)] {
        let mut rig = Rig::with(ProxySettings { max_connections, max_connections_per_address, ..settings() });
        rig.apply();
        let mut clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
        for client in &mut clients {
            assert_eq!(client.get("/-/healthz").status, 200);
        }
        let mut refused = rig.client();
        assert_eq!(refused.response().status, 503);
        refused.assert_closed();
        drop(clients);
        // Their places are free as soon as the workers have seen them go.
        while rig.client().request("GET", "/-/healthz", "", b"").head().is_none_or(|head| head.status != 200)
        {
        }
    }
}

#[test]
fn a_drain_finishes_what_there_is_and_ends() {
    // One worker: whoever sees the idle connection end knows that the busy one's worker drains as well.
    let mut rig = Rig::with(ProxySettings { workers: 1, ..settings() });
    let replica = rig.replica("a", 1, Behaviour::Hold);
    rig.deployment("a", &[&replica], |_| {});
    rig.apply();
    let mut idle = rig.client();
    assert_eq!(idle.get("/-/healthz").status, 200);
    let mut busy = rig.client();
    busy.request("GET", "/a", "", b"");
    replica.next_open();
    rig.order(ProxyOrder::Drain(WATCHDOG), vec![]);
    idle.assert_closed();
    replica.command(&Command::Answer(1));
    let response = busy.response();
    assert_eq!((response.text(), response.header("connection")), ("held", Some("close")));
    busy.assert_closed();
    assert_eq!(rig.report(), ProxyReport::Drained);
    assert_eq!(rig.ended.recv_timeout(WATCHDOG), Ok(Ok(())));
    rig.orders = None;
}

#[test]
fn a_drain_ends_when_its_time_is_up() {
    let (rig, replica) = Rig::serving("a", Behaviour::Hold);
    let mut busy = rig.client();
    busy.request("GET", "/a", "", b"");
    replica.next_open();
    rig.order(ProxyOrder::Drain(Duration::from_millis(30)), vec![]);
    assert_eq!(rig.report(), ProxyReport::Drained);
    assert_eq!(rig.ended.recv_timeout(WATCHDOG), Ok(Ok(())));
    busy.assert_closed();
}

#[test]
fn a_replica_that_never_joins_holds_up_nobody_else() {
    let mut rig = Rig::new();
    let absent = rig.replica("absent", 1, Behaviour::Absent);
    let hello = rig.replica("hello", 1, Behaviour::Hello);
    rig.deployment("hello", &[&hello], |_| {});
    assert_eq!(rig.apply(), []);
    assert_eq!(rig.client().get("/hello").status, 200);
    drop(absent);
}

#[test]
fn a_first_view_is_used_without_a_replica_that_hangs() {
    let mut rig = Rig::new();
    let absent = rig.replica("a", 1, Behaviour::Absent);
    let hello = rig.replica("a", 2, Behaviour::Hello);
    rig.deployment("a", &[&absent, &hello], |_| {});
    let mut client = rig.client();
    client.request("GET", "/a", "", b"");
    let unreachable = rig.apply();
    assert_eq!(
        unreachable.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        [&absent.id],
        "told when it is sure"
    );
    assert_eq!(client.response().status, 200);
}

#[test]
fn serving_goes_on_without_a_supervisor() {
    let (mut rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    let socket = AdoptionSocket { path: "/nowhere/adopt.sock".to_owned(), patience: 10 * WATCHDOG };
    rig.order(ProxyOrder::Await { socket, instance: 1 }, vec![]);
    // Orders come in order: that it has this one shows in the answer to the next.
    rig.apply();
    rig.orders = None;
    let mut client = rig.client();
    for _ in 0..10 {
        assert_eq!(client.get("/hello").status, 200);
    }
}

#[test]
fn a_slow_reader_does_not_make_the_proxy_collect_its_answer() {
    let (rig, replica) = Rig::serving("large", Behaviour::Large(1 << 30));
    let mut slow = rig.client();
    slow.request("GET", "/large", "", b"");
    replica.next_open();
    assert_eq!(slow.head().unwrap().status, 200);
    // Others are not held up by it, and it can leave at any time.
    let mut other = rig.client();
    for _ in 0..10 {
        assert_eq!(other.get("/-/healthz").status, 200);
    }
    drop(slow);
    replica.next_cancel();
}
