//! A simulated client: what it sends, how fast, and how it reads what comes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use decurion_proxy::engine::ConnectionId;
use decurion_proxy::http1::Chunked;
use decurion_proxy::time::Nanos;

use crate::dice::Dice;
use crate::shadow::{Cut, RequestId};
use crate::wire::Wire;

/// How it behaves on one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Style {
    /// Requests that it makes at most.
    pub(crate) requests: u64,
    /// It asks for the end of the connection with the last one.
    pub(crate) closes: bool,
    /// It sends its next requests before it has an answer.
    pub(crate) pipelines: bool,
    /// Bytes that it sends at a time; `None`: all.
    pub(crate) piece: Option<usize>,
    /// Bytes that it reads at a time; `None`: all.
    pub(crate) gulp: Option<usize>,
    /// It goes without a word before it has its answer.
    pub(crate) leaves: bool,
    /// Between two requests, at most.
    pub(crate) think_us: u64,
}

impl Style {
    pub(crate) fn any(dice: &mut Dice) -> Self {
        let slow = dice.one_in(8);
        Self {
            requests: if dice.one_in(3) { 1 } else { 1 + dice.below(30) },
            closes: dice.one_in(2),
            pipelines: dice.one_in(4),
            piece: (slow || dice.one_in(10)).then(|| 20 + dice.index(2_000)),
            gulp: slow.then(|| 200 + dice.index(8_000)),
            leaves: dice.one_in(10),
            think_us: if dice.one_in(4) { 600_000 } else { 40_000 },
        }
    }
}

/// Where its connection was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    pub(crate) proxy: u32,
    pub(crate) worker: usize,
    pub(crate) id: ConnectionId,
}

/// One client.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) style: Style,
    pub(crate) wire: Option<Rc<RefCell<Wire>>>,
    pub(crate) home: Option<Home>,
    /// Sent, at least in part, and not answered.
    pub(crate) outstanding: VecDeque<RequestId>,
    pub(crate) unsent: VecDeque<u8>,
    pub(crate) buffer: Vec<u8>,
    /// Made on this connection.
    pub(crate) made: u64,
    /// Tells this connection from others of the same client.
    pub(crate) connection: u64,
    /// The last answer was said to be the last one.
    pub(crate) announced: bool,
    /// Since when nothing is asked.
    pub(crate) idle_since: Nanos,
    /// What the world has done to its connection.
    pub(crate) fate: Option<Cut>,
    /// Its next step, if one is planned.
    pub(crate) act_at: Option<Nanos>,
}

/// An answer as it stands in the bytes.
pub(crate) struct Parsed {
    pub(crate) status: u16,
    pub(crate) close: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) used: usize,
}

/// The first answer in these bytes, if all of it is there.
pub(crate) fn parse(bytes: &[u8]) -> Option<Parsed> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(at) = head.parse(bytes).expect("an answer that can be read") else {
        return None;
    };
    let status = head.code.expect("an answer has a status");
    let field = |name: &str| {
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let rest = &bytes[at..];
    if let Some(length) = field("content-length") {
        let length: usize = length.parse().expect("a length is a number");
        let body = rest.get(..length)?.to_vec();
        return Some(Parsed { status, close, body, used: at + length });
    }
    assert!(field("transfer-encoding").is_some(), "an answer to HTTP/1.1 has a length or is chunked");
    let (mut decoder, mut body, mut used) = (Chunked::default(), Vec::new(), 0);
    while !decoder.is_done() {
        let step = decoder.step(&rest[used..]).expect("well-formed chunks");
        body.extend_from_slice(step.data);
        used += step.consumed;
        if step.consumed == 0 {
            return None;
        }
    }
    Some(Parsed { status, close, body, used: at + used })
}

/// The bytes of a request.
pub(crate) fn request(
    path: &str,
    method: &str,
    body: &[u8],
    (close, chunked): (bool, bool),
    dice: &mut Dice,
) -> Vec<u8> {
    let end = if close { "connection: close\r\n" } else { "" };
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: h\r\n{end}").into_bytes();
    if method == "GET" {
        bytes.extend_from_slice(b"\r\n");
    } else if !chunked {
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
    } else {
        bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        for chunk in body.chunks(1 + dice.index(2_000)) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    bytes
}
