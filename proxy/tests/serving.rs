//! What a client gets from a proxy that has replicas: the usual cases.

mod rig;

use std::io::Write;
use std::thread;
use std::time::Duration;

use decurion_ipc::control::ProxySettings;
use rig::replica::Behaviour;
use rig::{Rig, settings};

const MIB: usize = 1024 * 1024;

#[test]
fn a_deployment_answers() {
    let (rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    let mut client = rig.client();
    let response = client.get("/hello");
    assert_eq!((response.status, response.text()), (200, "Hello world!"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!(response.header("content-length"), Some("12"));
    assert!(response.header("date").is_some_and(|date| date.ends_with("GMT")));
    assert_eq!(response.header("x-request-id").map(str::len), Some(32));
    assert_eq!(client.get("/hello/x?y").status, 200, "the connection stays");
}

#[test]
fn a_deployment_gets_the_request_as_it_was_sent() {
    let (rig, _replica) = Rig::serving("tell", Behaviour::Tell);
    let mut client = rig.client();
    let fields = "X-Request-ID: my-id\r\nX-A: 1\r\nConnection: x-hop\r\nX-Hop: 2\r\nServe-Multiplexed-Model-Id: m1\r\n";
    let response = client.request("POST", "/tell/a/../b%41?q=%20", fields, b"12345").response();
    assert_eq!(
        response.text(),
        "POST /tell/bA ?q=%20 prefix=/tell id=my-id model=m1 length=Some(5) deadline=true \
         [Host=test,X-Request-ID=my-id,X-A=1,Serve-Multiplexed-Model-Id=m1,Content-Length=5]"
    );
    assert_eq!(response.header("x-request-id"), Some("my-id"));
}

#[test]
fn requests_are_answered_in_order_however_they_arrive() {
    let (mut rig, _tell) = Rig::serving("tell", Behaviour::Tell);
    let hello = rig.replica("hello", 1, Behaviour::Hello);
    rig.deployment("hello", &[&hello], |_| {});
    rig.apply();
    let mut client = rig.client();
    let mut wire = Vec::new();
    for at in 0..200 {
        let (path, body) = match at % 4 {
            0 => (format!("/tell/{at}"), String::new()),
            1 => (format!("/tell/{at}"), "Content-Length: 3\r\n\r\nabc".to_owned()),
            2 => ("/hello".to_owned(), "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned()),
            _ => ("/nowhere".to_owned(), String::new()),
        };
        let end = if body.is_empty() { "\r\n" } else { "" };
        wire.extend_from_slice(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{body}{end}").as_bytes());
    }
    client.send(&wire);
    for at in 0..200 {
        let response = client.response();
        match at % 4 {
            0 | 1 => assert!(response.text().starts_with(&format!("GET /tell/{at} ")), "{}", response.text()),
            2 => assert_eq!(response.text(), "Hello world!"),
            _ => assert_eq!(response.status, 404),
        }
    }
    // The same, byte by byte for a while.
    for byte in wire[..600].chunks(1) {
        client.send(byte);
    }
    assert!(client.response().text().starts_with("GET /tell/0 "));
}

#[test]
fn connections_end_as_both_versions_have_it() {
    let (rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    let mut client = rig.client();
    let response = client.request("GET", "/hello", "Connection: close\r\n", b"").response();
    assert_eq!(response.header("connection"), Some("close"));
    client.assert_closed();

    let mut client = rig.client();
    let response = client.send("GET /hello HTTP/1.0\r\n\r\n").response();
    assert_eq!((response.header("connection"), response.text()), (Some("close"), "Hello world!"));
    client.assert_closed();

    let mut client = rig.client();
    for _ in 0..2 {
        let response = client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response();
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
}

#[test]
fn a_client_that_closes_its_sending_side_gets_its_answer() {
    let (rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    let mut client = rig.client();
    client.request("GET", "/hello", "", b"").request("GET", "/hello", "", b"").half_close();
    assert_eq!(client.response().text(), "Hello world!");
    assert_eq!(client.response().text(), "Hello world!");
    client.assert_closed();
}

#[test]
fn head_has_no_body_and_what_follows_is_in_place() {
    let (rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    let mut client = rig.client();
    client.request("HEAD", "/hello", "", b"");
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("12")));
    assert_eq!(client.get("/hello").text(), "Hello world!");
    client.request("HEAD", "/-/healthz", "", b"");
    assert_eq!(client.head().unwrap().header("content-length"), Some("7"));
    assert_eq!(client.get("/hello").text(), "Hello world!");
}

#[test]
fn answers_without_a_body_have_none() {
    let (rig, _replica) = Rig::serving("none", Behaviour::Status(204));
    let mut client = rig.client();
    let response = client.get("/none");
    assert_eq!((response.status, response.header("content-length")), (204, None));
    assert_eq!(client.get("/none").status, 204);
}

#[test]
fn bodies_of_all_sizes_come_back_as_they_went() {
    let (rig, _replica) = Rig::serving("echo", Behaviour::Echo);
    let mut client = rig.client();
    for size in [1, 100, 4095, 16 * 1024, 16 * 1024 + 1, 65_000, 65_536, 70_000, MIB, MIB + 17] {
        let body: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut writer = client.stream.try_clone().unwrap();
        let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
        let response = thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&[head.as_bytes(), &body].concat()).unwrap());
            client.response()
        });
        assert_eq!(response.header("content-length"), Some(size.to_string().as_str()));
        assert!(response.body == body, "{size} bytes came back otherwise");
    }
}

#[test]
fn chunked_bodies_come_back_as_they_went() {
    let (rig, _replica) = Rig::serving("echo", Behaviour::Echo);
    let mut client = rig.client();
    for (chunks, size) in [(1, 5), (3, 1000), (50, 4001), (20, 100_000)] {
        let body: Vec<u8> = (0..chunks * size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut wire = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(size) {
            wire.extend_from_slice(format!("{:x};ext=1\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\nTrailer: dropped\r\n\r\n");
        let mut writer = client.stream.try_clone().unwrap();
        let response = thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&wire).unwrap());
            client.response()
        });
        assert!(response.body == body, "{chunks} chunks of {size} came back otherwise");
    }
}

#[test]
fn a_body_streams_both_ways_at_once() {
    let (rig, _replica) = Rig::serving("echo", Behaviour::Echo);
    let mut client = rig.client();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("5\r\nfirst\r\n");
    let head = client.head().unwrap();
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(client.take(10), b"5\r\nfirst\r\n", "before the rest of the request is sent");
    client.send("4\r\nlast\r\n0\r\n\r\n");
    assert_eq!(client.take(14), b"4\r\nlast\r\n0\r\n\r\n");
}

#[test]
fn sixty_four_mebibytes_go_through_in_both_directions() {
    // As long as it takes: the machine may have other things to do.
    let request_timeout = Duration::ZERO;
    let mut rig = Rig::with(ProxySettings { max_body: 65 << 20, request_timeout, ..settings() });
    let echo = rig.replica("echo", 1, Behaviour::Echo);
    let large = rig.replica("large", 1, Behaviour::Large(64 << 20));
    let stream = rig.replica("stream", 1, Behaviour::Stream(64 << 20));
    rig.deployment("echo", &[&echo], |_| {});
    rig.deployment("large", &[&large], |_| {});
    rig.deployment("stream", &[&stream], |_| {});
    rig.apply();
    let mut client = rig.client();
    assert_eq!(client.get("/large").body.len(), 64 * MIB);
    assert_eq!(client.get("/stream").body.len(), 64 * MIB);
    let mut writer = client.stream.try_clone().unwrap();
    let block = vec![7u8; MIB];
    let response = thread::scope(|scope| {
        scope.spawn(|| {
            let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 64 * MIB);
            writer.write_all(head.as_bytes()).unwrap();
            (0..64).for_each(|_| writer.write_all(&block).unwrap());
        });
        client.response()
    });
    assert!(response.body.len() == 64 * MIB && response.body.iter().all(|b| *b == 7));
}

#[test]
fn a_client_may_ask_before_it_sends_a_body() {
    let (rig, _replica) = Rig::serving("echo", Behaviour::Echo);
    let mut client = rig.client();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.response().status, 100);
    assert_eq!(client.send("hello").response().text(), "hello");
    client.send("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (404, Some("close")));
    client.assert_closed();
}

#[test]
fn the_proxys_own_pages() {
    let mut rig = Rig::new();
    // Connects at once, and is answered as soon as there are routes.
    let mut client = rig.client();
    client.request("GET", "/-/healthz", "", b"");
    rig.deployment("a", &[], |_| {});
    rig.deployment("b", &[], |view| view.route_prefix = None);
    rig.apply();
    assert_eq!(client.response().text(), "success");
    assert_eq!(client.get("/-/readyz").text(), "success");
    let routes = client.get("/-/routes");
    assert_eq!((routes.header("content-type"), routes.text()), (Some("application/json"), r#"{"/a":"a"}"#));
    assert_eq!(client.request("POST", "/-/healthz", "", b"").response().status, 405);
    assert_eq!(client.get("/-/other").status, 404);
    let options = client.request("OPTIONS", "*", "", b"").response();
    assert_eq!((options.status, options.header("allow").is_some()), (200, true));
}
