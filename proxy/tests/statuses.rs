//! Every status that the proxy gives by itself, and what becomes of requests whose replica is lost.

mod rig;

use std::time::Duration;

use decurion_ipc::control::{Availability, ProxyOrder, ProxyReport, ProxySettings};
use rig::replica::{Behaviour, Command};
use rig::{Rig, settings};

#[test]
fn unknown_paths_are_404() {
    let (rig, _replica) = Rig::serving("api", Behaviour::Hello);
    let mut client = rig.client();
    for path in ["/x", "/apiary", "/api/../x", "/API"] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
    assert_eq!(client.get("/x").text(), "Path '/x' not found. See /-/routes for the routes.");
    assert_eq!(client.get("/x/%2e%2e/api").status, 200);
}

#[test]
fn a_class_without_http_is_404() {
    let mut rig = Rig::new();
    let replica = rig.replica("quiet", 1, Behaviour::Hello);
    rig.deployment("quiet", &[&replica], |view| view.http = false);
    rig.apply();
    assert_eq!(rig.client().get("/quiet").status, 404);
}

#[test]
fn what_a_handler_can_not_say_is_500_and_a_log_line() {
    let (rig, _replica) = Rig::serving("bad", Behaviour::BadHeader);
    let mut client = rig.client();
    let response = client.get("/bad");
    assert_eq!((response.status, response.text()), (500, "Internal Server Error"));
    assert_eq!(response.header("set-cookie"), None);
    let logged = rig.reports.iter().find_map(|report| match report {
        ProxyReport::Log { message, .. } => Some(message),
        _ => None,
    });
    assert!(logged.unwrap().contains("header 'x'"));
    assert_eq!(client.get("/bad").status, 500, "the connection lives");
}

#[test]
fn a_handler_that_fails_is_500() {
    let (rig, _replica) = Rig::serving("fail", Behaviour::Fail);
    assert_eq!(rig.client().get("/fail").status, 500);
}

#[test]
fn a_replica_that_breaks_the_rules_is_cut_off_and_reported() {
    let (mut rig, bad) = Rig::serving("a", Behaviour::Garbage);
    assert_eq!(rig.client().get("/a").status, 500);
    let ProxyReport::Fault { replica, .. } = rig.report() else { panic!("no fault was reported") };
    assert_eq!(replica, bad.id);
    let good = rig.replica("a", 2, Behaviour::Hello);
    rig.deployment("a", &[&bad, &good], |_| {});
    let unreachable = rig.apply();
    assert_eq!(unreachable.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&bad.id]);
    for _ in 0..4 {
        assert_eq!(rig.client().get("/a").status, 200);
    }
}

#[test]
fn a_replica_that_dies_over_a_post_is_502() {
    let (rig, mut replica) = Rig::serving("hold", Behaviour::Hold);
    let mut client = rig.client();
    client.request("POST", "/hold", "", b"body");
    replica.next_open();
    replica.kill();
    assert_eq!(client.response().status, 502);
    client.request("GET", "/-/healthz", "", b"");
    assert_eq!(client.response().status, 200, "the connection lives");
}

#[test]
fn a_get_that_a_dead_replica_had_taken_is_answered_elsewhere_once() {
    let (mut rig, mut first) = Rig::serving("hold", Behaviour::Hold);
    let mut client = rig.client();
    client.request("PUT", "/hold", "", b"body");
    first.next_open();
    let mut second = rig.replica("hold", 2, Behaviour::Hold);
    rig.deployment("hold", &[&first, &second], |_| {});
    rig.apply();
    first.kill();
    second.next_open();
    second.kill();
    assert_eq!(client.response().status, 502, "it has been tried twice");

    let mut third = rig.replica("hold", 3, Behaviour::Hold);
    rig.deployment("hold", &[&third], |_| {});
    rig.apply();
    client.request("GET", "/hold", "", b"");
    third.next_open();
    let fourth = rig.replica("hold", 4, Behaviour::Hello);
    rig.deployment("hold", &[&third, &fourth], |_| {});
    rig.apply();
    third.kill();
    assert_eq!(client.response().text(), "Hello world!");
}

#[test]
fn what_a_dead_replica_had_not_taken_goes_elsewhere_whatever_the_method() {
    let (mut rig, mut first) = Rig::serving("a", Behaviour::Ignore);
    let mut clients: Vec<_> = (0..5).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.request("POST", "/a", "", b"posted once");
        first.next_open();
    }
    // One whose body is still on its way, in both forms.
    let mut long = rig.client();
    long.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n").send([b'l'; 30_000]);
    first.next_open();
    let mut chunked = rig.client();
    chunked.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    first.next_open();
    let second = rig.replica("a", 2, Behaviour::Echo);
    rig.deployment("a", &[&first, &second], |_| {});
    rig.apply();
    first.kill();
    for client in &mut clients {
        assert_eq!(client.response().text(), "posted once");
    }
    let response = long.send([b'm'; 10_000]).response();
    assert_eq!(response.body, [vec![b'l'; 30_000], vec![b'm'; 10_000]].concat());
    assert_eq!(chunked.send("3\r\nend\r\n0\r\n\r\n").response().text(), "helloend");
}

#[test]
fn what_a_replica_refuses_goes_elsewhere_and_in_the_end_nowhere() {
    let (mut rig, first) = Rig::serving("a", Behaviour::Refuse);
    assert_eq!(rig.client().request("POST", "/a", "", b"x").response().status, 503);
    let second = rig.replica("a", 2, Behaviour::Echo);
    rig.deployment("a", &[&first, &second], |_| {});
    rig.apply();
    for _ in 0..4 {
        assert_eq!(rig.client().request("POST", "/a", "", b"x").response().text(), "x");
    }
}

#[test]
fn an_answer_that_a_death_cuts_short_is_seen_as_cut() {
    let (rig, mut replica) = Rig::serving("part", Behaviour::Partial);
    let mut client = rig.client();
    client.request("GET", "/part", "", b"");
    let head = client.head().unwrap();
    assert_eq!(head.header("content-length"), Some("10"));
    replica.kill();
    assert_eq!(client.rest(), b"abc");
}

#[test]
fn an_answer_that_was_complete_before_a_death_arrives_whole() {
    let (rig, mut replica) = Rig::serving("large", Behaviour::Large(100_000));
    let mut client = rig.client();
    client.request("GET", "/large", "", b"");
    replica.next_open();
    let head = client.head().unwrap();
    assert_eq!(head.header("content-length"), Some("100000"));
    replica.kill();
    assert_eq!(client.take(100_000), vec![b'x'; 100_000]);
}

#[test]
fn a_full_queue_is_503_and_those_who_wait_are_served_in_order() {
    let mut rig = Rig::new();
    let replica = rig.replica("a", 1, Behaviour::Hold);
    rig.deployment("a", &[&replica], |view| {
        view.max_ongoing_requests = 1;
        view.max_queued_requests = Some(2);
    });
    rig.apply();
    let mut clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
    clients[0].request("GET", "/a/0", "", b"");
    assert_eq!(replica.next_open(), "/a/0");
    clients[1].request("GET", "/a/1", "", b"");
    until_waiting(&rig, 1);
    clients[2].request("GET", "/a/2", "", b"");
    until_waiting(&rig, 2);
    let refused = rig.client().get("/a/probe");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    for (at, client) in clients.iter_mut().enumerate() {
        replica.command(&Command::Answer(1));
        assert_eq!(client.response().text(), "held");
        if at < 2 {
            assert_eq!(replica.next_open(), format!("/a/{}", at + 1));
        }
    }
}

/// Asks for counts until so many requests wait.
fn until_waiting(rig: &Rig, count: u32) {
    loop {
        rig.order(ProxyOrder::Count, vec![]);
        if rig.stats().waiting.iter().any(|(_, waiting)| *waiting == count) {
            return;
        }
    }
}

#[test]
fn a_deployment_that_failed_is_503_also_for_those_who_wait() {
    let mut rig = Rig::new();
    rig.deployment("a", &[], |_| {});
    rig.apply();
    let mut waiting = rig.client();
    waiting.request("GET", "/a", "", b"");
    let mut gone = rig.client();
    rig.deployment("b", &[], |_| {});
    rig.apply();
    gone.request("GET", "/b", "", b"");
    rig.deployment("a", &[], |view| view.availability = Availability::Failed("no such class".to_owned()));
    rig.view.retain(|view| view.name.as_str() == "a");
    rig.apply();
    let response = waiting.response();
    assert_eq!((response.status, response.header("retry-after").is_some()), (503, true));
    assert!(response.text().contains("no such class"));
    assert_eq!(gone.response().status, 404);
}

#[test]
fn requests_wait_for_a_replica_that_is_on_its_way() {
    let mut rig = Rig::new();
    rig.deployment("a", &[], |_| {});
    rig.apply();
    let mut clients: Vec<_> = (0..8).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.request("POST", "/a", "", b"waited");
    }
    let replica = rig.replica("a", 1, Behaviour::Echo);
    rig.deployment("a", &[&replica], |_| {});
    rig.apply();
    for client in &mut clients {
        assert_eq!(client.response().text(), "waited");
    }
}

#[test]
fn a_deadline_is_504_wherever_the_request_is() {
    let (mut rig, replica) = Rig::serving("hold", Behaviour::Hold);
    rig.deployment("empty", &[], |view| view.request_timeout = Some(Duration::from_millis(30)));
    rig.apply();
    let mut client = rig.client();
    assert_eq!(client.get("/empty").status, 504, "in the queue");
    let timed = client.request("GET", "/hold", "x-request-timeout-seconds: 0.03\r\n", b"").response();
    assert_eq!(timed.status, 504, "in a replica's hands");
    replica.next_cancel();
    rig.deployment("hold", &[&replica], |view| view.request_timeout = Some(Duration::from_millis(30)));
    rig.apply();
    assert_eq!(client.get("/hold").status, 504, "by the deployment's own limit");
}

#[test]
fn limits_have_their_own_statuses() {
    let mut rig = Rig::with(ProxySettings {
        max_head: 2048,
        max_headers: 10,
        max_uri: 256,
        max_body: 1000,
        ..settings()
    });
    let replica = rig.replica("a", 1, Behaviour::Echo);
    rig.deployment("a", &[&replica], |_| {});
    rig.apply();
    let status = |raw: String| {
        let mut client = rig.client();
        let response = client.send(raw).response();
        assert_eq!(response.header("connection"), Some("close"));
        client.assert_closed();
        response.status
    };
    let get = |path: &str, fields: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert_eq!(status(get(&format!("/{}", "x".repeat(300)), "")), 414);
    assert_eq!(status(get("/a", &format!("X: {}\r\n", "x".repeat(2048)))), 431);
    assert_eq!(status(get("/a", &"X: 1\r\n".repeat(10))), 431);
    assert_eq!(status(get("/a", "Content-Length: 1001\r\n")), 413);
    let chunks = format!("Transfer-Encoding: chunked\r\n\r\n258\r\n{}\r\n258\r\n", "x".repeat(600));
    assert_eq!(status(format!("GET /a HTTP/1.1\r\nHost: a\r\n{chunks}")), 413);
    assert_eq!(status("FROB / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()), 501);
    assert_eq!(status("GET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned()), 505);
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n".to_owned()), 400);
    assert_eq!(status("\x16\x03\x01\x02\x00\x01".to_owned()), 400, "TLS on the plain port");
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()), 505, "HTTP/2's preface");
    assert_eq!(status(get("/a", "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")), 400);
}

#[test]
fn slow_clients_are_408_or_let_go() {
    // All that a client here has to do in time is to send at once what it has connected for.
    let short = Duration::from_secs(5);
    let mut rig = Rig::with(ProxySettings {
        header_timeout: short,
        body_timeout: short,
        keep_alive_timeout: short,
        ..settings()
    });
    let replica = rig.replica("a", 1, Behaviour::Hello);
    rig.deployment("a", &[&replica], |_| {});
    rig.apply();
    let mut idle = rig.client();
    let mut head = rig.client();
    head.send("GET / HT");
    let mut body = rig.client();
    body.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123");
    let mut kept = rig.client();
    assert_eq!(kept.get("/a").status, 200);
    idle.assert_closed();
    assert_eq!(head.response().status, 408);
    head.assert_closed();
    assert_eq!(body.response().status, 408);
    kept.assert_closed();
}
