//! TLS on the HTTP port: both versions, clients with and without certificates, rotation, and whoever speaks no TLS.

mod rig;

use std::io::{ErrorKind, Read, Write};

use decurion_ipc::control::ProxySettings;
use rig::replica::{Behaviour, FakeReplica};
use rig::tls::{Authority, ask, connect};
use rig::{Rig, settings};
use rustls::version::{TLS12, TLS13};

const CLOSING: &str = "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A proxy that speaks TLS with a certificate of this authority.
fn serving(
    authority: &Authority,
    clients: Option<&Authority>,
    settings: ProxySettings,
    behaviour: Behaviour,
) -> (Rig, FakeReplica) {
    let mut rig = Rig::with(settings.clone());
    rig.configure(&settings, Some(authority.texts(clients)));
    let replica = rig.replica("a", 1, behaviour);
    rig.deployment("a", &[&replica], |_| {});
    assert_eq!(rig.apply(), []);
    (rig, replica)
}

#[test]
fn both_versions_are_spoken_and_the_end_is_announced() {
    let authority = Authority::new();
    let (rig, _replica) = serving(&authority, None, settings(), Behaviour::Hello);
    for version in [&TLS12, &TLS13] {
        let mut config = authority.client(&[version], None);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut stream = connect(rig.address, config);
        let answer = ask(&mut stream, CLOSING).unwrap();
        assert!(answer.ends_with("Hello world!"), "{answer}");
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn a_client_that_speaks_http2_only_is_told_in_the_handshake() {
    let authority = Authority::new();
    let (rig, _replica) = serving(&authority, None, settings(), Behaviour::Hello);
    let mut config = authority.client(&[&TLS13], None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let error = ask(&mut connect(rig.address, config), CLOSING).unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[test]
fn bodies_of_any_size_go_both_ways() {
    let authority = Authority::new();
    let (rig, _replica) = serving(&authority, None, settings(), Behaviour::Echo);
    let mut stream = connect(rig.address, authority.client(&[&TLS13], None));
    for size in [1, 5_000, 100_000, 3 << 20] {
        let body: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[0]).collect();
        let mut got = Vec::new();
        write!(stream, "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n").unwrap();
        // The echo comes while we send: both directions must go on at once, within what the kernel buffers.
        for piece in body.chunks(16 * 1024) {
            stream.write_all(piece).unwrap();
            if got.len() < 4096 || size > 100_000 {
                let mut chunk = vec![0; 16 * 1024];
                let read = stream.read(&mut chunk).unwrap();
                got.extend_from_slice(&chunk[..read]);
            }
        }
        let whole = |bytes: &[u8]| {
            let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
            head.filter(|head| bytes.len() >= head + body.len())
        };
        while whole(&got).is_none() {
            let mut chunk = vec![0; 64 * 1024];
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "{} of {size}", got.len());
            got.extend_from_slice(&chunk[..read]);
        }
        let head = whole(&got).unwrap();
        assert!(got[head..] == body[..], "{size}");
    }
}

#[test]
fn a_large_answer_waits_for_a_slow_reader() {
    let authority = Authority::new();
    let (rig, _replica) = serving(&authority, None, settings(), Behaviour::Stream(8 << 20));
    let mut stream = connect(rig.address, authority.client(&[&TLS13], None));
    let request = CLOSING.replace("HTTP/1.1", "HTTP/1.0");
    stream.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 100];
    stream.read_exact(&mut first).unwrap();
    // Others are served while it does not read.
    let other = ask(
        &mut connect(rig.address, authority.client(&[&TLS13], None)),
        &CLOSING.replace("/a", "/-/healthz"),
    );
    assert!(other.unwrap().contains("200 OK"));
    let mut answer = first.to_vec();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(answer[head..] == *vec![b'x'; 8 << 20], "{} bytes", answer.len() - head);
}

#[test]
fn clients_show_a_certificate_where_it_is_asked_for() {
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (rig, _replica) = serving(&authority, Some(&clients), settings(), Behaviour::Hello);
    for version in [&TLS12, &TLS13] {
        let good = clients.sign("client");
        let answer = ask(&mut connect(rig.address, authority.client(&[version], Some(&good))), CLOSING);
        assert!(answer.unwrap().ends_with("Hello world!"));
        for identity in [None, Some(strangers.sign("client"))] {
            let config = authority.client(&[version], identity.as_ref());
            assert!(ask(&mut connect(rig.address, config), CLOSING).is_err());
        }
    }
}

#[test]
fn a_certificate_is_changed_under_open_connections() {
    let (before, after) = (Authority::new(), Authority::new());
    let (mut rig, _replica) = serving(&before, None, settings(), Behaviour::Hello);
    let mut open = connect(rig.address, before.client(&[&TLS13], None));
    open.write_all(CLOSING.replace("Connection: close\r\n", "").as_bytes()).unwrap();
    let mut first = [0; 15];
    open.read_exact(&mut first).unwrap();
    rig.configure(&settings(), Some(after.texts(None)));
    // So many that both workers take some, and neither by the one before.
    let others = (0..64).map(|_| {
        let mut stream = connect(rig.address, after.client(&[&TLS13], None));
        stream.write_all(CLOSING.replace("Connection: close\r\n", "").as_bytes()).unwrap();
        stream.read_exact(&mut first).unwrap();
        stream
    });
    drop(others.collect::<Vec<_>>());
    assert!(ask(&mut connect(rig.address, before.client(&[&TLS13], None)), CLOSING).is_err());
    let answer = ask(&mut open, CLOSING).unwrap();
    assert_eq!(answer.matches("Hello world!").count(), 2, "{answer}");
}

#[test]
fn what_can_not_serve_leaves_the_one_before() {
    let authority = Authority::new();
    let (mut rig, _replica) = serving(&authority, None, settings(), Behaviour::Hello);
    let mut bad = authority.texts(None);
    bad.key = authority.texts(None).key;
    rig.configure(&settings(), Some(bad));
    let answer = ask(&mut connect(rig.address, authority.client(&[&TLS13], None)), CLOSING).unwrap();
    assert!(answer.ends_with("Hello world!"));
}

#[test]
fn plain_http_where_tls_is_spoken_is_told_so() {
    let authority = Authority::new();
    let (mut rig, _replica) = serving(&authority, None, settings(), Behaviour::Hello);
    let mut client = rig.client();
    let response = client.request("GET", "/a", "", b"").response();
    assert_eq!((response.status, response.header("connection")), (400, Some("close")));
    assert!(response.text().contains("https") && response.header("date").is_some());
    client.assert_closed();
    let mut garbage = rig.client();
    garbage.send(b"\0\x01\x02").assert_closed();
    // What starts as a handshake and is none: an alert at most.
    let mut torn = rig.client();
    torn.send(b"\x16\x03\x01\x00\x05hello");
    assert!(matches!(torn.rest().first(), None | Some(21)));
    // The one that was answered is counted as any other answer.
    let reports = rig.end_with_stats();
    let traffic = reports.iter().flat_map(|report| &report.traffic);
    let statuses: Vec<_> = traffic.flat_map(|traffic| &traffic.counts.statuses).collect();
    assert_eq!(statuses, [&(400, 1)]);
}

#[test]
fn tls_on_the_plain_port_is_refused_at_once() {
    let authority = Authority::new();
    let (rig, _replica) = Rig::serving("a", Behaviour::Hello);
    let error = ask(&mut connect(rig.address, authority.client(&[&TLS13], None)), CLOSING).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
}

#[test]
fn who_does_not_come_to_the_end_of_the_handshake_is_let_go() {
    let authority = Authority::new();
    let short = std::time::Duration::from_millis(50);
    let settings = ProxySettings { header_timeout: short, ..settings() };
    let (rig, _replica) = serving(&authority, None, settings, Behaviour::Hello);
    let mut silent = rig.client();
    silent.rest();
    // The first bytes of a hello, and then nothing.
    let mut begun = rig.client();
    begun.send(b"\x16\x03\x01\x02\x00\x01\x00");
    begun.rest();
}

#[test]
fn an_answer_that_is_cut_is_not_announced_as_whole() {
    let authority = Authority::new();
    let (rig, mut replica) = serving(&authority, None, settings(), Behaviour::Partial);
    let mut stream = connect(rig.address, authority.client(&[&TLS13], None));
    stream.write_all(CLOSING.as_bytes()).unwrap();
    replica.next_open();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    replica.kill();
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(rest.ends_with(b"abc"), "{}", rest.escape_ascii());
}
