//! Websockets through the real proxy and a real replica, byte by byte and with a client of another's making.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use decurion_api::status::ReplicaState;
use decurion_tests::{World, eventually, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Enough threads for all that talk at once.
fn talk(more: &str) -> World {
    let world = World::start();
    let config = format!(
        "application = \"talk\"\n[[deployment]]\nname = \"talk\"\nlibrary = \"{}\"\nclass = \"Talk\"\n\
         threads = 8\n{more}",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    world
}

const FIELDS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A websocket by hand.
struct Raw {
    stream: TcpStream,
}

/// What came: opcode with the flags of its first byte, and payload.
type Frame = (u8, Vec<u8>);

impl Raw {
    fn open(world: &World, path: &str) -> Self {
        let stream = world.connect().stream().try_clone().expect("a stream");
        let mut raw = Self { stream };
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{FIELDS}\r\n").as_bytes());
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        raw
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.take(1)[0]);
        }
        String::from_utf8(head).expect("text")
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).expect("more bytes");
        bytes
    }

    /// The next frame, which a server must not mask.
    fn frame(&mut self) -> Frame {
        let head = self.take(2);
        let len = match head[1] {
            126 => usize::from(u16::from_be_bytes(self.take(2).try_into().expect("two"))),
            127 => {
                usize::try_from(u64::from_be_bytes(self.take(8).try_into().expect("eight"))).expect("fits")
            }
            len => usize::from(len),
        };
        (head[0], self.take(len))
    }

    /// The code of a close frame that is next.
    fn closed(&mut self) -> u16 {
        let (first, payload) = self.frame();
        assert_eq!(first, 0x88, "{payload:?}");
        payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code))
    }

    /// Nothing more comes, and the connection ends.
    fn assert_ended(&mut self) {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
}

/// A frame with this first byte (FIN, the reserved bits, the opcode), masked as a client must.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | u8::try_from(len).expect("small")),
        len @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).expect("16 bits").to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// What comes back, in order.
enum Back {
    Text(&'static str),
    Bytes(Vec<u8>),
    Pong(Vec<u8>),
    /// Closed with this code, and then the connection ends.
    Closed(u16),
}
use Back::{Bytes, Closed, Pong, Text};

/// First bytes of frames: FIN is the top bit.
const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const MORE: u8 = 0x00;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const FIN: u8 = 0x80;

/// So many bytes as one frame says it has, and none of them.
fn header_only(first: u8, len: u64) -> Vec<u8> {
    [&[first, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// Name, what is sent, what comes back. After RFC 6455; the order is that of the Autobahn suite.
fn cases() -> Vec<(String, Vec<u8>, Vec<Back>)> {
    let mut cases = Vec::new();
    let mut case =
        |name: &str, sent: &[Vec<u8>], back: Vec<Back>| cases.push((name.to_owned(), sent.concat(), back));
    let text = |text: &str| frame(FIN | TEXT, text.as_bytes());
    let hello = || frame(FIN | TEXT, b"hello");
    let bye = || close(1000, b"");
    case("5.6 text", &[hello()], vec![Text("hello")]);
    case("5.6 empty text", &[text("")], vec![Text("")]);
    case("5.6 empty bytes", &[frame(FIN | BINARY, b"")], vec![Bytes(vec![])]);
    for len in [1, 125, 126, 127, 128, 65_535, 65_536, 1 << 20] {
        case(&format!("5.2 {len} bytes"), &[frame(FIN | BINARY, &vec![7; len])], vec![Bytes(vec![7; len])]);
    }
    case("5.5.2 ping", &[frame(PING, b"p")], vec![Pong(b"p".to_vec())]);
    case("5.5.2 empty ping", &[frame(PING, b"")], vec![Pong(vec![])]);
    case("5.5.2 ping of 125", &[frame(PING, &[0xfe; 125])], vec![Pong(vec![0xfe; 125])]);
    case("5.5 ping of 126", &[frame(PING, &[0; 126])], vec![Closed(1002)]);
    case("5.5.3 pong", &[frame(PONG, b"x"), hello()], vec![Text("hello")]);
    let pings: Vec<Vec<u8>> = (0..10u8).map(|number| frame(PING, &[number])).collect();
    let last = vec![Pong(vec![9])];
    case("5.5.2 many pings, of which the last may be answered alone", &pings, last);
    for bits in [0x40, 0x20, 0x10, 0x70] {
        case(
            &format!("5.2 reserved bits {bits:#x} of text"),
            &[frame(FIN | TEXT | bits, b"x")],
            vec![Closed(1002)],
        );
        case(&format!("5.2 reserved bits {bits:#x} of ping"), &[frame(PING | bits, b"")], vec![Closed(1002)]);
    }
    for opcode in [0x83, 0x84, 0x85, 0x86, 0x87, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f] {
        case(&format!("5.2 opcode {opcode:#x}"), &[frame(opcode, b"")], vec![Closed(1002)]);
        case(
            &format!("5.2 opcode {opcode:#x} after text"),
            &[hello(), frame(opcode, b"x")],
            vec![Text("hello"), Closed(1002)],
        );
    }
    let parts = |ping: Option<&[u8]>| {
        let mut parts = vec![frame(TEXT, b"he"), frame(MORE, b""), frame(MORE, b"l")];
        parts.extend(ping.map(|payload| frame(PING, payload)));
        parts.push(frame(FIN | MORE, b"lo"));
        parts
    };
    case("5.4 fragments", &parts(None), vec![Text("hello")]);
    case("5.4 fragments with a ping between", &parts(Some(b"!")), vec![Pong(b"!".to_vec()), Text("hello")]);
    case(
        "5.4 one fragment and an empty end",
        &[frame(TEXT, b"hello"), frame(FIN | MORE, b"")],
        vec![Text("hello")],
    );
    case(
        "5.4 only empty fragments",
        &[frame(TEXT, b""), frame(MORE, b""), frame(FIN | MORE, b"")],
        vec![Text("")],
    );
    case("5.4 fragmented ping", &[frame(0x09, b"a"), frame(FIN | MORE, b"b")], vec![Closed(1002)]);
    case("5.4 fragmented close", &[frame(0x08, b"\x03\xe8")], vec![Closed(1002)]);
    case("5.4 an end without a beginning", &[frame(FIN | MORE, b"x")], vec![Closed(1002)]);
    case("5.4 a middle without a beginning", &[frame(MORE, b"x"), hello()], vec![Closed(1002)]);
    case("5.4 a beginning within a message", &[frame(TEXT, b"a"), hello()], vec![Closed(1002)]);
    case(
        "5.4 an end after the end",
        &[frame(TEXT, b"hel"), frame(FIN | MORE, b"lo"), frame(FIN | MORE, b"x")],
        vec![Text("hello"), Closed(1002)],
    );
    case("5.1 not masked", &[vec![FIN | TEXT, 1, b'a']], vec![Closed(1002)]);
    case("5.1 a close that is not masked", &[vec![CLOSE, 2, 3, 0xe8]], vec![Closed(1002)]);
    case(
        "8.1 text of all lengths of characters",
        &[text("a\u{e9}\u{20ac}\u{1f600}")],
        vec![Text("a\u{e9}\u{20ac}\u{1f600}")],
    );
    let euro = "\u{20ac}".as_bytes();
    case(
        "8.1 a character in three fragments",
        &[frame(TEXT, &euro[..1]), frame(MORE, &euro[1..2]), frame(FIN | MORE, &euro[2..])],
        vec![Text("\u{20ac}")],
    );
    for (name, bytes) in [
        ("a byte that is none", &b"a\xff"[..]),
        ("a surrogate", b"\xed\xa0\x80"),
        ("longer than it need be", b"\xc0\xaf"),
        ("beyond the last character", b"\xf4\x90\x80\x80"),
        ("cut short", b"\xe2\x82"),
        ("a continuation alone", b"\x80"),
    ] {
        case(&format!("8.1 {name}"), &[frame(FIN | TEXT, bytes)], vec![Closed(1007)]);
        let halves = [frame(TEXT, &bytes[..1]), frame(FIN | MORE, &bytes[1..])];
        case(&format!("8.1 {name}, in fragments"), &halves, vec![Closed(1007)]);
        case(&format!("8.1 {name}, as bytes"), &[frame(FIN | BINARY, bytes)], vec![Bytes(bytes.to_vec())]);
    }
    case(
        "10.4 a frame that says it is too large",
        &[header_only(FIN | BINARY, (1 << 20) + 1)],
        vec![Closed(1009)],
    );
    case(
        "10.4 a frame that says it is huge",
        &[header_only(FIN | BINARY, u64::MAX >> 1)],
        vec![Closed(1009)],
    );
    case(
        "10.4 fragments that are too large together",
        &[frame(BINARY, &[1; 600_000]), frame(FIN | MORE, &[1; 600_000])],
        vec![Closed(1009)],
    );
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        case(&format!("7.4 close {code}"), &[close(code, b"why")], vec![Closed(code)]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        case(&format!("7.4 close {code}"), &[close(code, b"")], vec![Closed(1002)]);
    }
    case("7.1 close without a code", &[frame(CLOSE, b"")], vec![Closed(1005)]);
    case("7.1 close with half a code", &[frame(CLOSE, b"\x03")], vec![Closed(1002)]);
    case("5.5.1 a reason of 123", &[close(1000, &[b'x'; 123])], vec![Closed(1000)]);
    case("5.5.1 a reason of 124", &[close(1000, &[b'x'; 124])], vec![Closed(1002)]);
    case("8.1 a reason that is not UTF-8", &[close(1000, b"\xff")], vec![Closed(1007)]);
    case("5.5.1 what follows a close is not heard", &[bye(), hello(), frame(PING, b"")], vec![Closed(1000)]);
    case("5.5.1 two closes", &[bye(), close(3000, b"")], vec![Closed(1000)]);
    case("7.1 a close within a message", &[frame(TEXT, b"a"), bye()], vec![Closed(1000)]);
    case("9.1 what looks like HTTP", &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()], vec![Closed(1002)]);
    cases
}

fn check(raw: &mut Raw, name: &str, back: Vec<Back>) {
    for expected in back {
        let expected = match expected {
            Text(text) => (FIN | TEXT, text.as_bytes().to_vec()),
            Bytes(bytes) => (FIN | BINARY, bytes),
            Pong(payload) => {
                // Where several pings were sent, an answer to the last is enough (RFC 6455, 5.5.3).
                let mut seen = raw.frame();
                while seen.0 == PONG && seen.1 != payload {
                    seen = raw.frame();
                }
                assert_eq!(seen, (PONG, payload), "{name}");
                continue;
            }
            Closed(code) => {
                assert_eq!(raw.closed(), code, "{name}");
                return raw.assert_ended();
            }
        };
        let seen = raw.frame();
        assert!(seen == expected, "{name}: {:#x} and {} bytes came", seen.0, seen.1.len());
    }
    raw.send(&close(1000, b""));
    assert_eq!(raw.closed(), 1000, "{name}");
    raw.assert_ended();
}

#[test]
fn frames_as_the_rfc_has_them() {
    let world = talk("");
    let cases = cases();
    assert!(cases.len() > 90, "{}", cases.len());
    for (name, sent, back) in cases {
        let mut raw = Raw::open(&world, "/talk");
        // What follows the last word is not read for long: what comes back says whether enough of it was.
        let _ = raw.stream.write_all(&sent);
        check(&mut raw, &name, back);
    }
}

#[test]
fn frames_that_come_byte_by_byte() {
    let world = talk("");
    for (name, sent, back) in cases().into_iter().filter(|(_, sent, _)| sent.len() < 40) {
        let mut raw = Raw::open(&world, "/talk");
        for byte in &sent {
            // What follows the last word is not read any more.
            if raw.stream.write_all(&[*byte]).is_err() {
                break;
            }
        }
        check(&mut raw, &name, back);
    }
}

#[test]
fn the_handshake() {
    let world = talk("");
    for (fields, status) in [
        (FIELDS.to_owned(), 101),
        (FIELDS.replace("Upgrade: websocket", "upgrade: h2c, WebSocket"), 101),
        (FIELDS.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade"), 101),
        (String::new(), 426),
        (FIELDS.replace("Connection: Upgrade\r\n", ""), 426),
        (FIELDS.replace("Upgrade: websocket\r\n", ""), 426),
        (FIELDS.replace("Upgrade: websocket", "Upgrade: h2c"), 426),
        (FIELDS.replace("Version: 13", "Version: 12"), 426),
        (FIELDS.replace("Key: dGhl", "Key: dG"), 400),
        (FIELDS.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        (format!("{FIELDS}Content-Length: 1\r\n"), 426),
    ] {
        let stream = world.connect().stream().try_clone().expect("a stream");
        let mut raw = Raw { stream };
        let body = if fields.contains("Content-Length") { "x" } else { "" };
        raw.send(format!("GET /talk HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}").as_bytes());
        let head = raw.head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}{head}");
        if status == 426 {
            assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
            assert!(head.contains("\r\nsec-websocket-version: 13\r\n"), "{head}");
        }
    }
}

#[test]
fn an_offer_that_the_handler_does_not_take_is_an_ordinary_request() {
    let world = talk("");
    let mut connection = world.connect();
    for _ in 0..2 {
        let wire = format!("GET /talk/plain HTTP/1.1\r\nHost: a\r\n{FIELDS}\r\n");
        connection.send(wire.as_bytes()).expect("sent");
        let answer = connection.read().expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "0 bytes"));
    }
}

#[test]
fn a_client_of_another_s_making_talks() {
    let world = talk("");
    let stream = world.connect().stream().try_clone().expect("a stream");
    let (mut socket, _) = tungstenite::client("ws://decurion/talk", stream).expect("a websocket");
    let large: Vec<u8> =
        (0..1_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    for round in 0..20 {
        socket.send(format!("round {round}").into()).expect("sent");
        socket.send(tungstenite::Message::Ping(vec![1, 2, 3].into())).expect("sent");
        socket.send(large.clone().into()).expect("sent");
        assert_eq!(socket.read().expect("text").to_text().expect("text"), format!("round {round}"));
        assert!(socket.read().expect("a pong").is_pong());
        assert!(socket.read().expect("bytes").into_data() == large, "round {round}");
    }
    socket.close(None).expect("sent");
    while let Ok(message) = socket.read() {
        assert!(message.is_close(), "{message:?}");
    }
}

#[test]
fn a_handler_that_fails_says_so_and_its_replica_lives_on() {
    let world = talk("");
    let pids = world.pids("talk");
    for path in ["/talk/panic", "/talk/error"] {
        let mut raw = Raw::open(&world, path);
        let (first, payload) = raw.frame();
        assert_eq!((first, &payload[..]), (CLOSE, &1011u16.to_be_bytes()[..]), "and no detail");
        raw.assert_ended();
    }
    assert_eq!(world.pids("talk"), pids);
    world.until("both reasons are in the log", |_| {
        let log = world.run(&["logs", "talk"]).ok().stdout;
        log.contains("panicked: as asked") && log.contains("a secret detail")
    });
}

#[test]
fn the_death_of_a_replica_ends_its_websockets() {
    let world = talk("num_replicas = 2\n");
    let first = world.pids("talk");
    Raw::open(&world, "/talk/abort").assert_ended();
    let mut raw = Raw::open(&world, "/talk");
    raw.send(&frame(FIN | TEXT, b"hello"));
    assert_eq!(raw.frame(), (FIN | TEXT, b"hello".to_vec()));
    // Until then the one that died may be counted among them.
    world.until("another takes its place", |status| {
        let replicas = &status.deployments[0].replicas;
        replicas.iter().filter(|it| it.state.can_serve()).count() == 2
            && replicas.iter().any(|it| !first.contains(&it.pid))
    });
    for pid in world.pids("talk") {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a replica of ours that runs");
    }
    raw.assert_ended();
}

#[test]
fn a_client_that_leaves_is_noticed_by_a_handler_that_says_nothing() {
    let world = talk("");
    let idle = |world: &World| {
        world.until("nobody talks", |status| {
            status.deployments[0].replicas.iter().all(|replica| replica.ongoing == 0)
        })
    };
    let raw = Raw::open(&world, "/talk/silent");
    // Reset: at once. (An orderly end of what it sends may mean that it wants to listen: the handler reads that.)
    // What was sent to a socket and not read makes its end a reset.
    raw.stream.peek(&mut [0; 1]).expect("a message");
    drop(raw);
    let _ = idle(&world);
    let raw = Raw::open(&world, "/talk");
    drop(raw);
    let _ = idle(&world);
}

#[test]
fn all_is_said_goodbye_to_and_destroyed_when_the_supervisor_stops() {
    let world = talk("graceful_shutdown_timeout_s = 16\n");
    let mut talking = Raw::open(&world, "/talk");
    kill(world.supervisor_pid(), Signal::SIGTERM).expect("a supervisor");
    eventually("who comes now is refused", || TcpStream::connect(world.address()).is_err());
    talking.send(&frame(FIN | TEXT, b"still there"));
    assert_eq!(talking.frame(), (FIN | TEXT, b"still there".to_vec()));
    assert_eq!(talking.closed(), 1001);
    talking.assert_ended();
    eventually("it ends in order", || world.log().contains("the proxy ended: exited with code 0"));
}

#[test]
fn a_replica_that_leaves_says_goodbye_when_its_grace_is_nearly_over() {
    let more = |version: &str| format!("graceful_shutdown_timeout_s = 16\nversion = \"{version}\"\n");
    let world = talk(&more("1"));
    let mut talking = Raw::open(&world, "/talk");
    let mut silent = Raw::open(&world, "/talk/silent");
    assert_eq!(silent.frame(), (FIN | TEXT, b"now silent".to_vec()));
    let mut pushed = Raw::open(&world, "/talk/push");
    let old = world.pids("talk");
    let config = fs::read_to_string(world.path().join("decurion.toml")).expect("the file");
    fs::write(world.path().join("decurion.toml"), config.replace(&more("1"), &more("2"))).expect("write");
    let _ = world.run(&["deploy", "decurion.toml", "--no-wait"]).ok();
    world.until("the old one drains", |status| {
        let replicas = &status.deployments[0].replicas;
        replicas.iter().any(|it| old.contains(&it.pid) && it.state == ReplicaState::Draining)
    });
    for _ in 0..3 {
        talking.send(&frame(FIN | TEXT, b"still there"));
        assert_eq!(talking.frame(), (FIN | TEXT, b"still there".to_vec()));
    }
    for raw in [&mut talking, &mut silent] {
        assert_eq!(raw.closed(), 1001);
        raw.assert_ended();
    }
    let last = std::iter::repeat_with(|| pushed.frame()).find(|(first, _)| *first != FIN | TEXT);
    assert_eq!(last, Some((CLOSE, 1001u16.to_be_bytes().to_vec())));
    pushed.assert_ended();
    // By itself, not by force.
    let status = world.until("the old one is gone", |status| !status.deployments[0].ended.is_empty());
    let ended = &status.deployments[0].ended[0];
    assert_eq!((ended.failed, ended.reason.as_str()), (false, "stopped for an update"));
}
