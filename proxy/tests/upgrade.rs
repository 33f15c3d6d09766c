//! Connections that a deployment takes over (RFC 9110, 7.8): bytes both ways, and nothing of them read as HTTP.

mod rig;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use decurion_ipc::control::{ProxyOrder, ProxySettings};
use rig::client::Client;
use rig::replica::{Behaviour, Command, FakeReplica, Seen};
use rig::{Rig, WATCHDOG, settings};

const OFFER: &str = "Connection: Upgrade\r\nUpgrade: echo, other/2\r\n";

/// A tunnel that echoes.
fn tunnel(rig: &Rig) -> Client {
    let mut client = rig.client();
    let head = client.request("GET", "/echo", OFFER, b"").head().unwrap();
    assert_eq!(
        (head.status, head.header("upgrade"), head.header("connection")),
        (101, Some("echo"), Some("upgrade"))
    );
    assert_eq!((head.header("content-length"), head.header("transfer-encoding")), (None, None));
    client
}

#[test]
fn a_deployment_takes_a_connection_over() {
    let (rig, _replica) = Rig::serving("echo", Behaviour::Switch("echo"));
    let mut client = tunnel(&rig);
    for word in ["hello", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\0\r\n"] {
        assert_eq!(client.send(word).take(word.len()), word.as_bytes());
    }
    client.half_close();
    client.assert_closed();
}

#[test]
fn what_is_sent_ahead_of_the_answer_belongs_to_the_tunnel() {
    let (rig, replica) = Rig::serving("echo", Behaviour::Switch("echo"));
    let ahead = "GET /echo/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = rig.client();
    client.send(format!("GET /echo HTTP/1.1\r\nHost: a\r\n{OFFER}\r\n{ahead}"));
    assert_eq!(client.head().unwrap().status, 101);
    assert_eq!(client.take(ahead.len()), ahead.as_bytes());
    client.half_close();
    client.assert_closed();
    assert_eq!(replica.next_open(), "/echo");
    assert!(replica.seen.try_iter().all(|seen| seen == Seen::Cancel), "one request only");
}

#[test]
fn an_offer_that_is_not_taken_is_a_request_like_any_other() {
    let (rig, _replica) = Rig::serving("tell", Behaviour::Tell);
    let mut client = rig.client();
    for _ in 0..3 {
        let wire = format!("GET /tell HTTP/1.1\r\nHost: a\r\n{OFFER}\r\n").repeat(2);
        client.send(wire);
        for _ in 0..2 {
            let response = client.response();
            assert_eq!(response.status, 200);
            let told = response.text();
            assert!(told.contains("length=Some(0)") && told.contains("connection=upgrade"), "{told}");
        }
    }
    let response = client.request("POST", "/tell", OFFER, b"abc").response();
    assert!(!response.text().contains("pgrade"), "a POST offers nothing: {}", response.text());
}

#[test]
fn only_what_was_offered_is_switched_to() {
    for (behaviour, fields) in [
        (Behaviour::Switch("echo"), ""),
        (Behaviour::Switch("echo"), "Upgrade: echo\r\n"),
        (Behaviour::Switch("echo"), "Connection: upgrade\r\nUpgrade: other\r\n"),
        (Behaviour::Switch("h2c"), OFFER),
        (Behaviour::Switch(""), OFFER),
    ] {
        let (rig, _replica) = Rig::serving("echo", behaviour);
        let mut client = rig.client();
        let response = client.request("GET", "/echo", fields, b"").response();
        assert_eq!(response.status, 500, "{behaviour:?} {fields:?}");
        assert_eq!(client.get("/-/healthz").status, 200, "the connection is still HTTP");
    }
    let (rig, _replica) = Rig::serving("echo", Behaviour::Switch("echo"));
    let mut client = rig.client();
    let old = client.send(format!("GET /echo HTTP/1.0\r\n{OFFER}\r\n")).response();
    assert_eq!(old.status, 500, "HTTP/1.0 can't offer");
}

#[test]
fn a_tunnel_has_flow_control_both_ways_and_loses_nothing() {
    const SIZE: usize = 32 * 1024 * 1024;
    let (rig, _replica) = Rig::serving("echo", Behaviour::Switch("echo"));
    let mut client = tunnel(&rig);
    let mut stream = client.stream.try_clone().unwrap();
    // Nobody reads at first: the writer has to be stopped, and can be.
    let writer = thread::spawn(move || {
        let mut sum = 0u64;
        for block in 0..SIZE / 4096 {
            let bytes: Vec<u8> =
                (0..4096usize).map(|at| u8::try_from((block * 31 + at) % 251).unwrap()).collect();
            sum = bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            stream.write_all(&bytes).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        sum
    });
    let mut sum = 0u64;
    for _ in 0..SIZE / 4096 {
        sum = client
            .take(4096)
            .iter()
            .fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    }
    client.assert_closed();
    assert_eq!(writer.join().unwrap(), sum);
}

#[test]
fn what_a_client_has_not_read_yet_when_its_tunnel_ends_still_comes() {
    const SIZE: usize = 512 * 1024;
    let (rig, _replica) = Rig::serving("echo", Behaviour::Switch("echo"));
    let mut client = tunnel(&rig);
    client.send(vec![b'x'; SIZE]).half_close();
    // The proxy is through with it, and the kernel is not.
    loop {
        rig.order(ProxyOrder::Count, vec![]);
        if rig.stats().connections.open == 0 {
            break;
        }
    }
    assert!(client.take(SIZE) == vec![b'x'; SIZE]);
    client.assert_closed();
}

/// A limit that a tunnel outlives, and that a machine with other things to do keeps to until there is one.
const SHORT: Duration = Duration::from_secs(4);

/// One deployment that switches, by a proxy whose limits are all short but this one.
fn impatient(upgrade_idle_timeout: Duration) -> (Rig, FakeReplica) {
    let settings = ProxySettings {
        request_timeout: SHORT,
        body_timeout: SHORT,
        keep_alive_timeout: SHORT,
        upgrade_idle_timeout,
        ..settings()
    };
    let mut rig = Rig::with(settings);
    let replica = rig.replica("echo", 1, Behaviour::Switch("echo"));
    rig.deployment("echo", &[&replica], |_| {});
    rig.apply();
    (rig, replica)
}

#[test]
fn a_tunnel_outlives_the_deadlines_of_requests() {
    let (rig, _replica) = impatient(Duration::ZERO);
    let mut client = tunnel(&rig);
    client.stream.set_read_timeout(Some(SHORT + SHORT / 2)).unwrap();
    let error = client.stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "silent, and still open");
    client.stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    assert_eq!(client.send("late").take(4), b"late");
}

#[test]
fn an_idle_tunnel_ends() {
    let (rig, replica) = impatient(Duration::from_millis(200));
    let mut client = tunnel(&rig);
    client.assert_closed();
    replica.next_cancel();
}

#[test]
fn the_death_of_a_replica_closes_its_tunnels() {
    let (rig, mut replica) = Rig::serving("echo", Behaviour::Switch("echo"));
    let mut client = tunnel(&rig);
    assert_eq!(client.send("word").take(4), b"word");
    replica.kill();
    client.assert_closed();
}

#[test]
fn an_offer_is_not_made_twice() {
    let mut rig = Rig::new();
    let mut first = rig.replica("echo", 1, Behaviour::Hold);
    rig.deployment("echo", &[&first], |_| {});
    rig.apply();
    let mut client = rig.client();
    client.request("GET", "/echo", OFFER, b"");
    first.next_open();
    let second = rig.replica("echo", 2, Behaviour::Switch("echo"));
    rig.deployment("echo", &[&first, &second], |_| {});
    rig.apply();
    first.kill();
    assert_eq!(client.response().status, 502, "it may have begun with it");
    assert!(second.seen.try_recv().is_err());
}

#[test]
fn a_client_that_leaves_ends_its_tunnel() {
    let (rig, replica) = Rig::serving("hold", Behaviour::Hold);
    let mut client = rig.client();
    client.request("GET", "/hold", OFFER, b"");
    replica.next_open();
    drop(client);
    replica.next_cancel();
    replica.command(&Command::Answer(1));
}

#[test]
fn a_tunnel_may_go_on_while_the_proxy_drains() {
    let (mut rig, _replica) = Rig::serving("echo", Behaviour::Switch("echo"));
    let mut client = tunnel(&rig);
    rig.order(ProxyOrder::Drain(Duration::from_secs(60)), vec![]);
    assert_eq!(client.send("on").take(2), b"on");
    client.half_close();
    client.assert_closed();
    drop(rig.orders.take());
}
