//! One connection without a machine, for the conformance table, property tests and fuzzing: a client's bytes go in, in
//! pieces as told, and out come the requests that a deployment gets and every byte that the client gets.
//!
//! The deployment answers a whole request at once, as its path says: see [`answer_to`]. No time passes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId, RoutePrefix};
use decurion_ipc::channel::{Busy, Fault, NoRoom, ResetCode};
use decurion_ipc::control::{Availability, Generation, ProxySettings};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::record::{RequestHead, ResponseHead};

use super::port::{Happened, Lane, Lost, News, Socket};
use super::{Engine, Ready};
use crate::balance::{Backends, Deployment, Grant, LaneIndex, Load, Post, Replica};
use crate::conformance::statuses;
use crate::route::RouteTable;
use crate::time::Nanos;
use crate::view::{Route, View};

/// What came of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// What the deployment got, in order, each whole.
    pub requests: Vec<Forwarded>,
    /// Every byte to the client.
    pub answer: Vec<u8>,
    /// The client was told that no more comes.
    pub closed: bool,
}

/// A request as a deployment gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// As it was written.
    pub method: String,
    /// Normalised.
    pub path: Vec<u8>,
    /// Behind the `?`.
    pub query: Vec<u8>,
    /// Those that are passed on.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Settings of [`speak`]: small limits, so that they are reached.
#[must_use]
pub fn settings() -> ProxySettings {
    ProxySettings {
        max_head: 4096,
        max_headers: 32,
        max_uri: 1024,
        max_body: 64 * 1024,
        ..Default::default()
    }
}

/// Lets a client say its bytes in these pieces, each once all came of the one before, and then wait.
#[must_use]
pub fn speak<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Spoken {
    speak_at(settings(), Pace { wait: Duration::ZERO, room: usize::MAX }, pieces)
}

/// How fast a client is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time that passes after each piece.
    pub wait: Duration,
    /// Bytes that it takes with each piece.
    pub room: usize,
}

/// The same in time, and under other settings.
#[must_use]
pub fn speak_at<'p>(
    settings: ProxySettings,
    pace: Pace,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Spoken {
    let state = Rc::new(RefCell::new(State::default()));
    let mut engine: Engine<Wire, Pipe> = Engine::new(0, 1, settings, Arc::new(Nobody));
    engine.set_date(b"Sun, 06 Nov 1994 08:49:37 GMT");
    let deployment = Arc::new(Deployment::new(DeploymentName::new("d").expect("a name")));
    let id = ReplicaId::numbered(&deployment.name, 1);
    let replica = Arc::new(Replica::new(id, LaneIndex(0), Arc::clone(&deployment), Box::new(Nothing)));
    engine.attach(Arc::clone(&replica), Pipe(Rc::clone(&state)));
    let backends =
        Arc::new(Backends { replicas: vec![replica], canary: None, max_ongoing: 1000, max_queued: None });
    deployment.set_backends(Arc::clone(&backends), Nanos(1), &Nobody);
    let (shared, availability) = (Arc::clone(&deployment), Availability::Expected);
    let route = Route { place: 0, deployment, backends, availability, request_timeout: None, http: true };
    let routes = RouteTable::new([(RoutePrefix::new("/").expect("a prefix"), route)].into_iter());
    let mut now = Nanos(1);
    engine.set_view(Arc::new(View { generation: Generation(1), entry: Epoch::default(), routes }), now);

    let wire = Rc::new(RefCell::new(Ends::default()));
    let client = engine.accept(Wire(Rc::clone(&wire)), now);
    for piece in pieces {
        wire.borrow_mut().to_proxy.extend(piece);
        wire.borrow_mut().room = pace.room;
        engine.ready(client, Ready { readable: true, writable: true, ..Ready::default() }, now);
        loop {
            engine.serve_clients(now);
            let more = engine.hear_replicas(now);
            if !more && !engine.has_work() && state.borrow().queue.is_empty() {
                break;
            }
        }
        now = now.after(pace.wait);
        engine.expire(now);
    }
    engine.serve_clients(now);
    // A deployment and its replicas hold each other: millions of runs would not give their memory back.
    shared.set_backends(Arc::default(), Nanos(1), &Nobody);
    let wire = wire.borrow();
    let requests = std::mem::take(&mut state.borrow_mut().requests);
    Spoken { requests, answer: wire.from_proxy.clone(), closed: wire.ended }
}

/// Lets a client say arbitrary bytes, at once and in pieces: both must come to the same end.
///
/// # Panics
/// Where they do not.
#[must_use]
pub fn fuzz_connection(bytes: &[u8]) -> Spoken {
    let whole = speak([bytes]);
    // The pieces are as long as the bytes themselves have it: short, and different each time.
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let (piece, tail) = rest.split_at((usize::from(*first) % 37 + 1).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    let cut = speak(pieces);
    assert_eq!(whole.requests, cut.requests, "cutting the input changed what was forwarded");
    assert_eq!(whole.closed, cut.closed, "cutting the input changed how the connection ends");
    assert_eq!(finals(&whole), finals(&cut), "cutting the input changed what was answered");
    whole
}

/// Interim responses depend on what was there already.
fn finals(spoken: &Spoken) -> Vec<u16> {
    statuses(spoken).into_iter().filter(|status| *status >= 200).collect()
}

/// What the deployment answers: `/204`, `/304` and the like that status; `/stream` a body of no known length; `/large`
/// one of 3,000 bytes; `/split` a header that would be two; `/hop` headers that are none of its business; all else 200
/// and `ok`.
fn answer_to(path: &[u8]) -> (u16, Option<u64>, Fields, Vec<&'static [u8]>) {
    match path {
        b"/stream" => (200, None, &[], vec![b"one", b"", b"two"]),
        b"/large" => (200, Some(3000), &[], vec![&[b'x'; 3000]]),
        b"/split" => (200, Some(2), &[(b"x", b"a\r\nset-cookie: b")], vec![b"ok"]),
        b"/null" => (200, Some(2), &[(b"x", b"a\0b")], vec![b"ok"]),
        b"/name" => (200, Some(2), &[(b"x y", b"a")], vec![b"ok"]),
        b"/hop" => (200, Some(2), HOP, vec![b"ok"]),
        b"/dated" => (200, Some(2), &[(b"Date", b"then")], vec![b"ok"]),
        b"/100" => (100, Some(2), &[], vec![b"ok"]),
        b"/199" => (199, Some(2), &[], vec![b"ok"]),
        b"/600" => (600, Some(2), &[], vec![b"ok"]),
        b"/204" => (204, Some(2), &[], vec![b"ok"]),
        b"/205" => (205, Some(2), &[], vec![b"ok"]),
        b"/304" => (304, Some(2), &[], vec![b"ok"]),
        _ => (200, Some(2), &[], vec![b"ok"]),
    }
}

type Fields = &'static [(&'static [u8], &'static [u8])];

const HOP: Fields = &[
    (b"Connection", b"keep-alive, x-secret"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Proxy-Connection", b"keep-alive"),
    (b"TE", b"trailers"),
    (b"Trailer", b"x"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Upgrade", b"h2c"),
    (b"Content-Length", b"5"),
    (b"X-Kept", b"yes"),
];

#[derive(Debug, Default)]
struct Ends {
    to_proxy: VecDeque<u8>,
    from_proxy: Vec<u8>,
    /// Bytes that it still takes.
    room: usize,
    ended: bool,
}

/// The proxy's end of the client's connection.
#[derive(Debug)]
struct Wire(Rc<RefCell<Ends>>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.borrow_mut().ended = true;
    }
}

impl Socket for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        let count = ends.to_proxy.len().min(into.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for (place, byte) in into.iter_mut().zip(ends.to_proxy.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        assert!(!ends.ended, "nothing is said after the end");
        let count = from.len().min(ends.room);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        ends.room -= count;
        ends.from_proxy.extend_from_slice(&from[..count]);
        Ok(count)
    }

    fn shutdown_write(&mut self) {
        self.0.borrow_mut().ended = true;
    }
}

#[derive(Debug, Default)]
struct State {
    /// Of those that are open: what came so far.
    open: Vec<Option<Forwarded>>,
    requests: Vec<Forwarded>,
    queue: VecDeque<Queued>,
}

#[derive(Debug)]
enum Queued {
    Head(usize, Vec<u8>),
    Data(usize, Vec<u8>),
    End(usize),
    Reset(usize),
}

impl Queued {
    fn stream(&self) -> usize {
        match self {
            Queued::Head(stream, _)
            | Queued::Data(stream, _)
            | Queued::End(stream)
            | Queued::Reset(stream) => *stream,
        }
    }
}

impl State {
    fn take(&mut self, stream: usize, bytes: &[u8], end: bool) {
        let Some(request) = &mut self.open[stream] else { return };
        request.body.extend_from_slice(bytes);
        if end && let Some(request) = self.open[stream].take() {
            self.answer(stream, &request);
            self.requests.push(request);
        }
    }

    fn answer(&mut self, stream: usize, request: &Forwarded) {
        let (status, content_length, fields, body) = answer_to(&request.path);
        let mut head = Vec::new();
        ResponseHead { status, content_length, encoding: 0 }.encode(fields.iter().copied(), &mut head);
        self.queue.push_back(Queued::Head(stream, head));
        self.queue.extend(body.into_iter().map(|block| Queued::Data(stream, block.to_vec())));
        self.queue.push_back(Queued::End(stream));
    }
}

/// A channel whose replica answers at once.
#[derive(Debug)]
struct Pipe(Rc<RefCell<State>>);

impl Lane<Wire> for Pipe {
    type Stream = usize;
    type Out = (usize, Vec<u8>);
    type In = Vec<u8>;

    fn index(stream: usize) -> usize {
        stream
    }

    fn open(&mut self, head: &[u8], body: &[u8], end: bool) -> Result<usize, Busy> {
        let mut state = self.0.borrow_mut();
        let (parsed, fields) = RequestHead::parse(head).expect("the engine writes records that can be read");
        let request = Forwarded {
            method: parsed.method.to_owned(),
            path: parsed.path.to_vec(),
            query: parsed.query.to_vec(),
            fields: fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            body: Vec::new(),
        };
        // Who offers another protocol says no more until it is answered.
        let offers = request.fields.iter().any(|(name, _)| name == b"upgrade");
        state.open.push(Some(request));
        let stream = state.open.len() - 1;
        state.take(stream, body, end || offers);
        Ok(stream)
    }

    fn block(&mut self, _: usize, want: usize) -> Result<Self::Out, NoRoom> {
        Ok((want, Vec::new()))
    }

    fn fill(&mut self, block: &mut Self::Out, bytes: &[u8]) -> usize {
        let count = bytes.len().min(block.0 - block.1.len());
        block.1.extend_from_slice(&bytes[..count]);
        count
    }

    fn fill_from(&mut self, block: &mut Self::Out, socket: &mut Wire) -> io::Result<usize> {
        let mut bytes = vec![0; block.0 - block.1.len()];
        let count = socket.read(&mut bytes)?;
        block.1.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn send(&mut self, stream: usize, block: Self::Out, end: bool) {
        self.0.borrow_mut().take(stream, &block.1, end);
    }

    fn discard(&mut self, _: Self::Out) {}

    fn end(&mut self, stream: usize) {
        self.0.borrow_mut().take(stream, b"", true);
    }

    fn cancel(&mut self, stream: usize) {
        let mut state = self.0.borrow_mut();
        state.open[stream] = None;
        state.queue.retain(|queued| queued.stream() != stream);
        state.queue.push_back(Queued::Reset(stream));
    }

    /// All is taken at once.
    fn withdraw(&mut self, _: usize) -> bool {
        false
    }

    fn has_news(&self) -> bool {
        !self.0.borrow().queue.is_empty()
    }

    fn poll(&mut self, _: u32, news: &mut News<usize, Vec<u8>>) -> Result<bool, Fault> {
        for queued in self.0.borrow_mut().queue.drain(..) {
            news.events.push(match queued {
                Queued::Head(stream, head) => {
                    let start = news.heads.len();
                    news.heads.extend_from_slice(&head);
                    Happened::Head { stream, head: start..news.heads.len(), body: None, end: false }
                }
                Queued::Data(stream, block) => Happened::Data { stream, block, end: false },
                Queued::End(stream) => Happened::End(stream),
                Queued::Reset(stream) => {
                    Happened::Reset { stream, code: ResetCode::Cancelled, body: Vec::new() }
                }
            });
        }
        Ok(false)
    }

    fn len(block: &Vec<u8>) -> usize {
        block.len()
    }

    fn copy_to(&self, block: &Vec<u8>, at: usize, to: &mut [u8]) -> usize {
        let count = to.len().min(block.len() - at);
        to[..count].copy_from_slice(&block[at..at + count]);
        count
    }

    fn write_to(&self, socket: &mut Wire, prefix: &[u8], blocks: &[(&Vec<u8>, usize)]) -> io::Result<usize> {
        let mut all = prefix.to_vec();
        blocks.iter().for_each(|(block, at)| all.extend_from_slice(&block[*at..]));
        socket.write(&all)
    }

    fn give_back(&mut self, _: Vec<u8>) {}

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        !self.has_news()
    }

    fn in_flight(&self) -> usize {
        let state = self.0.borrow();
        state.open.iter().flatten().count() + state.queue.len()
    }

    fn die(&mut self, _: &mut News<usize, Vec<u8>>) -> Vec<Lost<usize>> {
        Vec::new()
    }
}

#[derive(Debug)]
struct Nothing;

impl Load for Nothing {
    fn ongoing(&self) -> u64 {
        0
    }
}

#[derive(Debug)]
struct Nobody;

impl Post for Nobody {
    fn grant(&self, _: Grant) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Notice;

    #[test]
    fn a_replica_without_a_channel_is_told_of_by_name_and_keeps_no_place() {
        let mut engine: Engine<Wire, Pipe> = Engine::new(3, 1, settings(), Arc::new(Nobody));
        let deployment = Arc::new(Deployment::new(DeploymentName::new("d").expect("a name")));
        let id = ReplicaId::numbered(&deployment.name, 1);
        let replica = Arc::new(Replica::new(id, LaneIndex(0), Arc::clone(&deployment), Box::new(Nothing)));
        let replicas = vec![Arc::clone(&replica)];
        let backends = Arc::new(Backends { replicas, canary: None, max_ongoing: 1, max_queued: Some(0) });
        deployment.set_backends(Arc::clone(&backends), Nanos(1), &Nobody);
        let (shared, availability) = (Arc::clone(&deployment), Availability::Expected);
        let route = Route { place: 0, deployment, backends, availability, request_timeout: None, http: true };
        let routes = RouteTable::new([(RoutePrefix::new("/").expect("a prefix"), route)].into_iter());
        let view = View { generation: Generation(1), entry: Epoch::default(), routes };
        engine.set_view(Arc::new(view), Nanos(1));
        let wire = Rc::new(RefCell::new(Ends { room: usize::MAX, ..Ends::default() }));
        let client = engine.accept(Wire(Rc::clone(&wire)), Nanos(1));
        // The second finds the place free again.
        for _ in 0..2 {
            wire.borrow_mut().to_proxy.extend(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: i\r\n\r\n");
            engine.ready(client, Ready { readable: true, ..Ready::default() }, Nanos(1));
            engine.serve_clients(Nanos(1));
            let answer =
                String::from_utf8_lossy(&std::mem::take(&mut wire.borrow_mut().from_proxy)).into_owned();
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            let message =
                "request i: deployment 'd' gave it to replica d-000001, to which worker 3 has no channel";
            let log = Notice::Log { level: super::super::LEVEL_WARN, message: message.to_owned() };
            assert_eq!(engine.take_notices(), [log]);
        }
        shared.set_backends(Arc::default(), Nanos(1), &Nobody);
    }
}
