//! Bodies that nobody reads: the answer comes, the rest of the body is dropped, and the connection goes on; or it ends
//! so that the answer is not lost.

mod rig;

use std::io::{Read, Write};
use std::time::Duration;

use decurion_ipc::control::ProxySettings;
use rig::client::Client;
use rig::replica::{Behaviour, FakeReplica};
use rig::tls::{Authority, connect};
use rig::{Rig, settings};
use rustls::version::TLS13;

const MIB: usize = 1 << 20;

/// A deployment `/a` that answers without a look at the body.
fn deaf(settings: ProxySettings) -> (Rig, FakeReplica) {
    let mut rig = Rig::with(settings);
    let replica = rig.replica("a", 1, Behaviour::Hello);
    rig.deployment("a", &[&replica], |_| {});
    assert_eq!(rig.apply(), []);
    (rig, replica)
}

fn post(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunks(bytes: usize, size: usize) -> Vec<u8> {
    let chunk = [format!("{size:x}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
    chunk.repeat(bytes / size)
}

#[test]
fn a_connection_goes_on_after_bodies_that_nobody_has_read() {
    let (rig, _replica) = deaf(settings());
    let mut client = rig.client();
    for (size, path, status) in
        [(MIB, "/a", 200), (MIB, "/nowhere", 404), (16 * MIB, "/a", 200), (20_000, "/a", 200)]
    {
        let response = client.request("POST", path, "", &vec![b'x'; size]).response();
        assert_eq!((response.status, response.header("connection")), (status, None), "{size} bytes");
    }
    for size in [1, 100, 5_000, 300_000] {
        let body = [chunks(2 * 300_000, size), b"0\r\nX-Trailer: 1\r\n\r\n".to_vec()].concat();
        client.send(post("/a", "Transfer-Encoding: chunked\r\n")).send(body);
        let response = client.response();
        assert_eq!((response.status, response.header("connection")), (200, None), "chunks of {size}");
    }
    assert_eq!(client.get("/a").text(), "Hello world!");
}

#[test]
fn the_answer_comes_first_and_what_is_pipelined_behind_the_body_is_answered() {
    let (rig, _replica) = deaf(settings());
    let mut client = rig.client();
    let next = "GET /a/next HTTP/1.1\r\nHost: a\r\n\r\n";
    // The client has its answer before it goes on with its body.
    client.send(post("/a", &format!("Content-Length: {MIB}\r\n"))).send(vec![b'x'; 100_000]);
    assert_eq!(client.response().status, 200);
    client.send([&vec![b'x'; MIB - 100_000], next.as_bytes()].concat());
    assert_eq!(client.response().status, 200);

    client.send(post("/a", "Transfer-Encoding: chunked\r\n")).send(chunks(100_000, 1000));
    assert_eq!(client.response().status, 200);
    let rest = [chunks(MIB, 1000), b"0\r\n\r\n".to_vec(), next.repeat(3).into_bytes()].concat();
    client.send(rest);
    for _ in 0..3 {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(client.get("/a").status, 200);
}

#[test]
fn a_body_over_the_limit_ends_the_connection_but_takes_no_answer_with_it() {
    let (rig, _replica) = deaf(ProxySettings { max_body: MIB as u64, ..settings() });
    for (path, status) in [("/a", 413), ("/nowhere", 404)] {
        let mut client = rig.client();
        // More than the kernel keeps: all is sent only because it is read.
        let response = client.request("POST", path, "", &vec![b'x'; 16 * MIB]).response();
        assert_eq!((response.status, response.header("connection")), (status, Some("close")), "{path}");
        client.assert_closed();
    }
    // Of chunks nobody knows beforehand how many they are.
    for bad in ["fffff\r\n", "no chunk\r\n"] {
        let mut client = rig.client();
        client.send(post("/a", "Transfer-Encoding: chunked\r\n")).send(chunks(1000, 1000));
        assert_eq!(client.response().status, 200);
        client.send(bad).send(vec![b'x'; 16 * MIB]);
        client.assert_closed();
    }
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let (rig, _replica) = deaf(ProxySettings { body_timeout: Duration::from_millis(50), ..settings() });
    for form in ["Content-Length: 100000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = rig.client();
        client.send(post("/nowhere", form));
        assert_eq!(client.response().status, 404);
        client.assert_closed();
    }
}

#[test]
fn a_proxy_that_drains_waits_for_no_body() {
    let (rig, _replica) = deaf(settings());
    let mut client = rig.client();
    client.send(post("/nowhere", "Content-Length: 100000\r\n"));
    assert_eq!(client.response().status, 404);
    rig.order(decurion_ipc::control::ProxyOrder::Drain(rig::WATCHDOG), vec![]);
    client.assert_closed();
}

#[test]
fn the_same_holds_over_tls() {
    let authority = Authority::new();
    let (mut rig, _replica) = deaf(settings());
    rig.configure(&settings(), Some(authority.texts(None)));
    let mut stream = connect(rig.address, authority.client(&[&TLS13], None));
    for _ in 0..3 {
        stream.write_all(post("/a", &format!("Content-Length: {MIB}\r\n")).as_bytes()).unwrap();
        stream.write_all(&vec![b'x'; MIB]).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"Hello world!") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        assert!(!String::from_utf8_lossy(&answer).contains("connection: close"));
    }
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing() {
    let (rig, _replica) = deaf(settings());
    for _ in 0..20 {
        let mut client = rig.client();
        client.send(post("/a", &format!("Content-Length: {MIB}\r\n"))).send(vec![b'x'; 50_000]);
        assert_eq!(client.response().status, 200);
    }
    let mut client: Client = rig.client();
    assert_eq!(client.get("/a").status, 200);
}
