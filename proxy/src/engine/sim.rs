//! An engine in a simulated world: scripted clients, replicas that answer when and how chance has it, and die.
//!
//! Whatever happens, each request of a client that stays is answered once, in order, with its own bytes; every slot
//! and every block comes back. A failure names its seed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId, RoutePrefix};
use decurion_ipc::channel::{Busy, Fault, NoRoom, ResetCode};
use decurion_ipc::control::{Availability, Generation};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::record::{RequestHead, ResponseHead};

use super::port::{Happened, Lane, Lost, News, Socket};
use super::{ConnectionId, Engine, Ready};
use crate::balance::{Backends, Deployment, Grant, LaneIndex, Load, Post, Replica};
use crate::route::RouteTable;
use crate::time::Nanos;
use crate::view::{Route, View};

/// Repeatable chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % bound.max(1)
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

/// One client's end.
#[derive(Debug, Default)]
struct Wire {
    to_proxy: VecDeque<u8>,
    /// How many of them have arrived.
    arrived: usize,
    /// It sends no more.
    closed: bool,
    from_proxy: Vec<u8>,
    /// How many more bytes the kernel takes.
    room: usize,
    /// The proxy will say no more.
    ended: bool,
}

#[derive(Debug)]
struct FakeSocket(Rc<RefCell<Wire>>);

impl Drop for FakeSocket {
    fn drop(&mut self) {
        self.0.borrow_mut().ended = true;
    }
}

impl Socket for FakeSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let count = wire.arrived.min(into.len());
        if count == 0 {
            let end = wire.closed && wire.to_proxy.is_empty();
            return if end { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        wire.arrived -= count;
        for (place, byte) in into.iter_mut().zip(wire.to_proxy.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let count = wire.room.min(from.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.room -= count;
        wire.from_proxy.extend_from_slice(&from[..count]);
        Ok(count)
    }

    fn shutdown_write(&mut self) {
        self.0.borrow_mut().ended = true;
    }
}

type StreamId = (usize, u32);

#[derive(Debug, Default)]
struct FakeStream {
    generation: u32,
    active: bool,
    /// What the callee has not read yet.
    record: Vec<u8>,
    unread: VecDeque<u8>,
    ours_done: bool,
    theirs_done: bool,
    cancelled: bool,
    wants_room: bool,
    /// The callee's side.
    taken: bool,
    head_sent: bool,
    end_queued: bool,
    body: Vec<u8>,
    /// Everything sent, for an orphan.
    sent: Vec<u8>,
}

#[derive(Debug)]
enum Queued {
    Head(StreamId, Vec<u8>, Option<Vec<u8>>, bool),
    Data(StreamId, Vec<u8>, bool),
    End(StreamId),
    Reset(StreamId, ResetCode),
}

#[derive(Debug, Default)]
struct LaneState {
    streams: Vec<FakeStream>,
    queue: VecDeque<Queued>,
    lent: usize,
    dead: bool,
    roomier: bool,
}

/// Streams of a lane and bytes of a window: few, so that both run out.
const STREAMS: usize = 3;
const WINDOW: usize = 50;

#[derive(Debug)]
struct FakeLane(Rc<RefCell<LaneState>>);

impl LaneState {
    fn live(&mut self, stream: StreamId) -> Option<&mut FakeStream> {
        self.streams.get_mut(stream.0).filter(|s| s.active && s.generation == stream.1)
    }

    fn settle(&mut self, stream: StreamId) {
        if let Some(live) = self.live(stream)
            && live.ours_done
            && live.theirs_done
        {
            live.active = false;
            self.roomier = true;
        }
    }
}

impl Lane<FakeSocket> for FakeLane {
    type Stream = StreamId;
    type Out = (usize, Vec<u8>);
    type In = Vec<u8>;

    fn index(stream: StreamId) -> usize {
        stream.0
    }

    fn open(&mut self, head: &[u8], body: &[u8], end: bool) -> Result<StreamId, Busy> {
        let mut lane = self.0.borrow_mut();
        if lane.dead {
            return Err(Busy::Dead);
        }
        let index = (0..STREAMS).find(|at| !lane.streams[*at].active).ok_or(Busy::Streams)?;
        let generation = lane.streams[index].generation + 1;
        lane.streams[index] = FakeStream {
            generation,
            active: true,
            record: head.to_vec(),
            unread: body.iter().copied().collect(),
            sent: body.to_vec(),
            ours_done: end,
            ..FakeStream::default()
        };
        Ok((index, generation))
    }

    fn block(&mut self, stream: StreamId, want: usize) -> Result<Self::Out, NoRoom> {
        let mut lane = self.0.borrow_mut();
        let live = lane.live(stream).filter(|live| !live.ours_done).ok_or(NoRoom::Gone)?;
        let room = WINDOW.saturating_sub(live.unread.len()).min(want);
        live.wants_room = room == 0;
        if room == 0 { Err(NoRoom::Later) } else { Ok((room, Vec::new())) }
    }

    fn fill(&mut self, block: &mut Self::Out, bytes: &[u8]) -> usize {
        let count = bytes.len().min(block.0 - block.1.len());
        block.1.extend_from_slice(&bytes[..count]);
        count
    }

    fn fill_from(&mut self, block: &mut Self::Out, socket: &mut FakeSocket) -> io::Result<usize> {
        let mut bytes = vec![0; block.0 - block.1.len()];
        let count = socket.read(&mut bytes)?;
        block.1.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn send(&mut self, stream: StreamId, block: Self::Out, end: bool) {
        let mut lane = self.0.borrow_mut();
        if let Some(live) = lane.live(stream) {
            live.unread.extend(&block.1);
            live.sent.extend_from_slice(&block.1);
            live.ours_done = end;
        }
        lane.settle(stream);
    }

    fn discard(&mut self, _: Self::Out) {}

    fn end(&mut self, stream: StreamId) {
        let mut lane = self.0.borrow_mut();
        if let Some(live) = lane.live(stream) {
            live.ours_done = true;
        }
        lane.settle(stream);
    }

    fn cancel(&mut self, stream: StreamId) {
        let mut lane = self.0.borrow_mut();
        let Some(live) = lane.live(stream) else { return };
        live.ours_done = true;
        live.cancelled = true;
        lane.settle(stream);
    }

    fn withdraw(&mut self, stream: StreamId) -> bool {
        let untaken = self.0.borrow_mut().live(stream).is_some_and(|live| !live.taken && !live.cancelled);
        if untaken {
            self.cancel(stream);
        }
        untaken
    }

    fn has_news(&self) -> bool {
        let lane = self.0.borrow();
        !lane.queue.is_empty() || lane.roomier
    }

    fn poll(&mut self, budget: u32, news: &mut News<StreamId, Vec<u8>>) -> Result<bool, Fault> {
        let mut lane = self.0.borrow_mut();
        for _ in 0..budget.min(3) {
            let Some(queued) = lane.queue.pop_front() else { break };
            let (stream, end) = match &queued {
                Queued::Head(stream, _, _, end) | Queued::Data(stream, _, end) => (*stream, *end),
                Queued::End(stream) | Queued::Reset(stream, _) => (*stream, true),
            };
            let live = lane.live(stream).expect("the callee speaks of streams that are open");
            let (cancelled, sent) = (live.cancelled, live.sent.clone());
            live.theirs_done = end;
            if let Queued::Reset(..) = queued {
                live.ours_done = true;
            }
            lane.settle(stream);
            if cancelled {
                if end {
                    let code = ResetCode::Cancelled;
                    news.events.push(Happened::Reset { stream, code, body: vec![] });
                }
                continue;
            }
            news.events.push(match queued {
                Queued::Head(stream, head, body, end) => {
                    lane.lent += usize::from(body.is_some());
                    let start = news.heads.len();
                    news.heads.extend_from_slice(&head);
                    Happened::Head { stream, head: start..news.heads.len(), body, end }
                }
                Queued::Data(stream, block, end) => {
                    lane.lent += 1;
                    Happened::Data { stream, block, end }
                }
                Queued::End(stream) => Happened::End(stream),
                Queued::Reset(stream, code) => {
                    let body = if code == ResetCode::NotTaken { sent } else { vec![] };
                    Happened::Reset { stream, code, body }
                }
            });
        }
        if std::mem::take(&mut lane.roomier) {
            for (at, stream) in lane.streams.iter_mut().enumerate() {
                if stream.active && std::mem::take(&mut stream.wants_room) {
                    news.events.push(Happened::Room((at, stream.generation)));
                }
            }
            news.events.push(Happened::Vacancy);
        }
        Ok(!lane.queue.is_empty())
    }

    fn len(block: &Vec<u8>) -> usize {
        block.len()
    }

    fn copy_to(&self, block: &Vec<u8>, at: usize, to: &mut [u8]) -> usize {
        let count = to.len().min(block.len() - at);
        to[..count].copy_from_slice(&block[at..at + count]);
        count
    }

    fn write_to(
        &self,
        socket: &mut FakeSocket,
        prefix: &[u8],
        blocks: &[(&Vec<u8>, usize)],
    ) -> io::Result<usize> {
        let mut all = prefix.to_vec();
        blocks.iter().for_each(|(block, at)| all.extend_from_slice(&block[*at..]));
        socket.write(&all)
    }

    fn give_back(&mut self, _: Vec<u8>) {
        self.0.borrow_mut().lent -= 1;
    }

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        !self.has_news()
    }

    fn in_flight(&self) -> usize {
        self.0.borrow().streams.iter().filter(|stream| stream.active).count()
    }

    fn die(&mut self, news: &mut News<StreamId, Vec<u8>>) -> Vec<Lost<StreamId>> {
        while !self.0.borrow().queue.is_empty() {
            let _ = self.poll(3, news);
        }
        let mut lane = self.0.borrow_mut();
        lane.dead = true;
        let open = lane.streams.iter().enumerate().filter(|(_, stream)| stream.active && !stream.theirs_done);
        let lost = open.map(|(at, stream)| Lost {
            stream: (at, stream.generation),
            taken: stream.taken,
            body: if stream.taken { vec![] } else { stream.sent.clone() },
        });
        lost.collect()
    }
}

#[derive(Debug)]
struct Nothing;
impl Load for Nothing {
    fn ongoing(&self) -> u64 {
        0
    }
}

#[derive(Default)]
struct Grants(Mutex<Vec<Grant>>);
impl Post for Grants {
    fn grant(&self, grant: Grant) {
        self.0.lock().unwrap().push(grant);
    }
}

struct World {
    chance: Chance,
    engine: Engine<FakeSocket, FakeLane>,
    grants: Arc<Grants>,
    deployment: Arc<Deployment>,
    replicas: Vec<(Arc<Replica>, Rc<RefCell<LaneState>>)>,
    clients: Vec<(ConnectionId, Rc<RefCell<Wire>>)>,
    generation: u64,
    max_ongoing: u32,
    now: Nanos,
}

impl World {
    fn new(seed: u64) -> Self {
        let grants = Arc::new(Grants::default());
        let settings = decurion_ipc::control::ProxySettings { max_body: 1 << 20, ..Default::default() };
        let mut engine = Engine::new(0, seed, settings, Arc::clone(&grants) as Arc<dyn Post + Send + Sync>);
        engine.set_date(b"now");
        Self {
            chance: Chance(seed | 1),
            engine,
            grants,
            deployment: Arc::new(Deployment::new(DeploymentName::new("d").unwrap())),
            replicas: vec![],
            clients: vec![],
            generation: 0,
            max_ongoing: 4,
            now: Nanos(1),
        }
    }

    fn add_replica(&mut self) {
        let lane = LaneIndex(u32::try_from(self.replicas.len()).unwrap());
        let id = ReplicaId::numbered(&self.deployment.name, lane.0);
        let replica = Arc::new(Replica::new(id, lane, Arc::clone(&self.deployment), Box::new(Nothing)));
        let mut state = LaneState::default();
        state.streams.resize_with(STREAMS, FakeStream::default);
        let state = Rc::new(RefCell::new(state));
        self.engine.attach(Arc::clone(&replica), FakeLane(Rc::clone(&state)));
        self.replicas.push((replica, state));
        self.set_view();
    }

    fn set_view(&mut self) {
        self.generation += 1;
        let alive = self.replicas.iter().filter(|(replica, _)| !replica.is_gone());
        let replicas = alive.map(|(replica, _)| Arc::clone(replica)).collect();
        let (max_ongoing, max_queued) = (self.max_ongoing, None);
        let backends = Arc::new(Backends { replicas, canary: None, max_ongoing, max_queued });
        self.deployment.set_backends(Arc::clone(&backends), self.now, &*self.grants);
        let route = Route {
            place: 0,
            deployment: Arc::clone(&self.deployment),
            backends,
            availability: Availability::Expected,
            request_timeout: Some(Duration::ZERO),
            http: true,
        };
        let routes = RouteTable::new([(RoutePrefix::new("/d").unwrap(), route)].into_iter());
        let view = View { generation: Generation(self.generation), entry: Epoch::default(), routes };
        self.engine.set_view(Arc::new(view), self.now);
    }

    fn add_client(&mut self, bytes: Vec<u8>) {
        let wire = Rc::new(RefCell::new(Wire { to_proxy: bytes.into(), ..Wire::default() }));
        let id = self.engine.accept(FakeSocket(Rc::clone(&wire)), self.now);
        self.clients.push((id, wire));
    }

    fn turn(&mut self) {
        // Replicas are quick, so that they are sent requests ahead; now and then nothing moves for a while.
        let passes = if self.chance.one_in(50) { 20_000_000 } else { 1 + self.chance.below(5_000) as u64 };
        self.now = self.now.after(Duration::from_nanos(passes));
        self.deliver();
        self.engine.serve_clients(self.now);
        let _ = self.engine.hear_replicas(self.now);
        self.deliver();
        self.engine.even_out(self.now);
        self.engine.serve_clients(self.now);
    }

    fn deliver(&mut self) {
        let granted = std::mem::take(&mut *self.grants.0.lock().unwrap());
        for grant in granted {
            self.engine.grant(grant, self.now);
        }
    }

    /// Some bytes arrive, or some room to write does.
    fn nudge_client(&mut self, at: usize, steps: usize) {
        let (id, wire) = &self.clients[at];
        let mut ready = Ready::default();
        {
            let mut wire = wire.borrow_mut();
            let more = self.chance.below(steps) + 1;
            if self.chance.one_in(2) {
                wire.room += more;
                ready.writable = true;
            } else {
                wire.arrived = (wire.arrived + more).min(wire.to_proxy.len());
                ready.readable = true;
            }
        }
        self.engine.ready(*id, ready, self.now);
    }

    /// A replica takes a step with one of its streams.
    fn serve(&mut self, at: usize, refuses: bool) {
        let mut lane = self.replicas[at].1.borrow_mut();
        let index = self.chance.below(STREAMS);
        let stream = &mut lane.streams[index];
        let id = (index, stream.generation);
        if !stream.active || stream.end_queued || lane_is_dead(&self.replicas[at].0) {
            return;
        }
        if stream.cancelled {
            stream.end_queued = true;
            lane.queue.push_back(Queued::Reset(id, ResetCode::Cancelled));
            return;
        }
        if !stream.taken && refuses && self.chance.one_in(8) {
            stream.end_queued = true;
            lane.queue.push_back(Queued::Reset(id, ResetCode::NotTaken));
            return;
        }
        stream.taken = true;
        let count = self.chance.below(WINDOW) + 1;
        for byte in stream.unread.drain(..count.min(stream.unread.len())) {
            stream.body.push(byte);
        }
        let done = stream.ours_done && stream.unread.is_empty();
        let (record, _) = RequestHead::parse(&stream.record).unwrap();
        let mut answer = record.path.to_vec();
        answer.push(b'=');
        let queued = if !stream.head_sent {
            stream.head_sent = true;
            let mut head = Vec::new();
            // Some handlers announce less than they send, or a status that is none.
            let (status, content_length) = match refuses.then(|| self.chance.below(40)) {
                Some(0) => (200, Some(1)),
                Some(1) => (150, None),
                _ => (200, None),
            };
            ResponseHead { status, content_length, encoding: 0 }.encode([].into_iter(), &mut head);
            answer.append(&mut stream.body);
            Some(Queued::Head(id, head, Some(answer), done))
        } else if !stream.body.is_empty() {
            Some(Queued::Data(id, std::mem::take(&mut stream.body), done))
        } else if done {
            Some(Queued::End(id))
        } else {
            None
        };
        stream.end_queued = done && queued.is_some();
        lane.queue.extend(queued);
        lane.roomier = true;
    }

    fn kill(&mut self, at: usize) {
        self.engine.detach(LaneIndex(u32::try_from(at).unwrap()), self.now);
    }

    /// Until every client has been answered, or is gone.
    fn run(&mut self, faults: bool) {
        for step in 0..200_000 {
            let alive: Vec<usize> =
                (0..self.replicas.len()).filter(|at| !lane_is_dead(&self.replicas[*at].0)).collect();
            match self.chance.below(10) {
                0..4 => {
                    let at = self.chance.below(self.clients.len());
                    self.nudge_client(at, 300);
                }
                4..8 => {
                    if let Some(at) = alive.get(self.chance.below(alive.len())) {
                        self.serve(*at, faults);
                    }
                }
                8 if faults && step < 3_000 && self.chance.one_in(60) && alive.len() > 1 => {
                    let victim = alive[self.chance.below(alive.len())];
                    self.kill(victim);
                    self.add_replica();
                }
                _ => self.turn(),
            }
            if step % 64 == 0 && self.clients.iter().all(|(_, wire)| wire.borrow().ended) {
                return;
            }
        }
        panic!(
            "clients are still waiting: {:?}",
            self.clients.iter().map(|c| c.1.borrow().ended).collect::<Vec<_>>()
        );
    }

    fn assert_nothing_is_held(&mut self) {
        self.engine.abort_all();
        for _ in 0..200 {
            self.turn();
            for at in 0..self.replicas.len() {
                for _ in 0..20 {
                    self.serve(at, false);
                }
            }
        }
        self.turn();
        assert_eq!(self.engine.connections(), 0);
        assert_eq!(self.deployment.waiting(), 0);
        for (replica, lane) in &self.replicas {
            assert_eq!(replica.in_flight(), 0, "slots of {}", replica.id);
            if !replica.is_gone() {
                assert_eq!(lane.borrow().lent, 0, "blocks of {}", replica.id);
            }
        }
    }
}

fn lane_is_dead(replica: &Replica) -> bool {
    replica.is_gone()
}

/// A client's pipelined requests, the last one asking to close, and the answers that belong to them.
fn script(chance: &mut Chance, client: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut wire, mut answers) = (Vec::new(), Vec::new());
    let count = chance.below(6) + 1;
    for at in 0..count {
        let path = format!("/d/{client}/{at}");
        let sizes = [10, 300, 3_000, 20_000];
        let most = sizes[chance.below(4)];
        let size = chance.below(most);
        let body: Vec<u8> = (0..size).map(|n| b'a' + u8::try_from((n + at + client) % 26).unwrap()).collect();
        let close = if at + 1 == count { "Connection: close\r\n" } else { "" };
        let head = format!("PUT {path} HTTP/1.1\r\nHost: h\r\n{close}");
        wire.extend_from_slice(head.as_bytes());
        if chance.one_in(2) {
            wire.extend_from_slice(format!("Content-Length: {size}\r\n\r\n").as_bytes());
            wire.extend_from_slice(&body);
        } else {
            wire.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(chance.below(900) + 1) {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
        }
        answers.push([path.as_bytes(), b"=", &body].concat());
    }
    (wire, answers)
}

/// Splits what a client received into statuses and bodies, as far as they are whole; and what is left.
fn responses(bytes: &[u8]) -> (Vec<(u16, Vec<u8>)>, &[u8]) {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Some((status, body, behind)) = response(rest) {
        all.push((status, body));
        rest = behind;
    }
    (all, rest)
}

fn response(bytes: &[u8]) -> Option<(u16, Vec<u8>, &[u8])> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let status = head[9..12].parse().unwrap();
    let mut rest = &bytes[end..];
    let mut body = Vec::new();
    if let Some(at) = head.find("content-length: ") {
        let length: usize = head[at + 16..].split("\r\n").next().unwrap().parse().unwrap();
        let (whole, behind) = rest.split_at_checked(length)?;
        return Some((status, whole.to_vec(), behind));
    }
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut decoder = crate::http1::Chunked::default();
    while !decoder.is_done() {
        let step = decoder.step(rest).unwrap();
        body.extend_from_slice(step.data);
        rest = &rest[step.consumed..];
        if step.consumed == 0 {
            return None;
        }
    }
    Some((status, body, rest))
}

fn simulate(seed: u64, faults: bool) {
    let mut world = World::new(seed);
    for _ in 0..world.chance.below(3) + 1 {
        world.add_replica();
    }
    let mut expected = Vec::new();
    for client in 0..world.chance.below(12) + 1 {
        let (wire, answers) = script(&mut world.chance, client);
        world.add_client(wire);
        expected.push(answers);
    }
    world.run(faults);
    for (client, answers) in expected.iter().enumerate() {
        let received = world.clients[client].1.borrow().from_proxy.clone();
        if !faults {
            let (got, rest) = responses(&received);
            let want: Vec<(u16, Vec<u8>)> = answers.iter().map(|answer| (200, answer.clone())).collect();
            assert!(got == want && rest.is_empty(), "seed {seed}, client {client}");
        } else {
            assert_only_own_answers(&received, answers, seed, client);
        }
    }
    world.assert_nothing_is_held();
}

/// With deaths, an answer may be a 502, or be cut as the last one; what comes is the client's own, in order.
fn assert_only_own_answers(received: &[u8], answers: &[Vec<u8>], seed: u64, client: usize) {
    let (got, _) = responses(received);
    for ((status, body), answer) in got.iter().zip(answers) {
        let fits = match status {
            200 => body == answer,
            500 | 502 | 503 => true,
            _ => false,
        };
        assert!(fits, "seed {seed}, client {client}: {status}");
    }
}

#[test]
fn every_request_is_answered_once_in_order_with_its_own_bytes() {
    for seed in 1..80 {
        simulate(seed * 7919, false);
    }
}

#[test]
fn deaths_and_refusals_lose_nothing_that_can_be_kept() {
    for seed in 1..80 {
        simulate(seed * 104_729, true);
    }
}

#[test]
fn a_replica_that_is_stuck_keeps_only_what_it_may_run() {
    for seed in 1..40 {
        let mut world = World::new(seed);
        world.max_ongoing = 1;
        world.add_replica();
        world.add_replica();
        for (replica, _) in &world.replicas {
            world.now = replica.pretend_quick(world.now);
        }
        for client in 0..6 {
            let request = format!("PUT /d/{client} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab");
            world.add_client(request.into_bytes());
            world.clients[client].1.borrow_mut().room = 10_000;
            let some_are_missing = |wire: &Wire| wire.arrived < wire.to_proxy.len();
            while some_are_missing(&world.clients[client].1.borrow()) {
                world.nudge_client(client, 300);
            }
        }
        world.turn();
        let there = world.replicas[0].1.borrow().streams.iter().filter(|stream| stream.active).count();
        assert!(there > 1, "seed {seed}: some wait where they are stuck");
        let answered = |world: &World| {
            let whole = |wire: &Rc<RefCell<Wire>>| !responses(&wire.borrow().from_proxy).0.is_empty();
            world.clients.iter().filter(|(_, wire)| whole(wire)).count()
        };
        for _ in 0..2_000 {
            world.serve(1, false);
            world.turn();
        }
        assert_eq!(answered(&world), 5, "seed {seed}: but for the one that it may run");
        for _ in 0..2_000 {
            world.serve(0, false);
            world.turn();
        }
        assert_eq!(answered(&world), 6, "seed {seed}");
        world.assert_nothing_is_held();
    }
}

/// What a client has for its head and its body is over long before: it has done its part.
#[test]
fn a_request_that_waits_for_a_replica_has_no_other_limit_than_its_own() {
    for chunked in [false, true] {
        let mut world = World::new(1);
        world.max_ongoing = 1;
        world.add_replica();
        for client in 0..2 {
            let framed = if chunked { "Transfer-Encoding: chunked\r\n\r\n" } else { "\r\n" };
            let mut bytes = format!("PUT /d/{client} HTTP/1.1\r\nHost: h\r\n{framed}").into_bytes();
            if chunked {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            let all = bytes.len();
            world.add_client(bytes);
            let (id, wire) = &world.clients[client];
            (wire.borrow_mut().arrived, wire.borrow_mut().room) = (all, 10_000);
            world.engine.ready(*id, Ready { readable: true, ..Ready::default() }, world.now);
            world.turn();
        }
        assert_eq!(world.deployment.waiting(), 1);
        for _ in 0..10 {
            world.now = world.now.after(Duration::from_secs(60));
            world.engine.expire(world.now);
            world.turn();
        }
        for _ in 0..200 {
            world.serve(0, false);
            world.turn();
        }
        for (_, wire) in &world.clients {
            assert_eq!(responses(&wire.borrow().from_proxy).0.len(), 1, "chunked: {chunked}");
        }
    }
}

#[test]
fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    for seed in 1..80u64 {
        let mut world = World::new(seed * 15_485_863);
        world.add_replica();
        world.add_replica();
        for client in 0..8 {
            let (mut wire, _) = script(&mut world.chance, client);
            wire.truncate(world.chance.below(wire.len()) + 1);
            world.add_client(wire);
        }
        for _ in 0..world.chance.below(4_000) {
            match world.chance.below(8) {
                0..4 => {
                    let at = world.chance.below(8);
                    world.nudge_client(at, 2_000);
                }
                4..6 => {
                    let at = world.chance.below(2);
                    world.serve(at, true);
                }
                6 if world.chance.one_in(40) => {
                    let (id, wire) = &world.clients[world.chance.below(8)];
                    wire.borrow_mut().closed = true;
                    let broken = world.chance.0.is_multiple_of(2);
                    let ready = Ready { half_closed: true, broken, ..Ready::default() };
                    world.engine.ready(*id, ready, world.now);
                }
                6 if world.chance.one_in(40) => {
                    world.now = world.now.after(Duration::from_secs(3));
                    world.engine.expire(world.now);
                }
                _ => world.turn(),
            }
        }
        world.assert_nothing_is_held();
    }
}

impl World {
    /// One slot; each of these clients has sent all that it will, and said so. The first has the slot.
    fn half_closed(clients: &[&str]) -> Self {
        let mut world = World::new(1);
        world.max_ongoing = 1;
        world.add_replica();
        for bytes in clients {
            world.add_client(bytes.as_bytes().to_vec());
            let (id, wire) = world.clients.last().unwrap();
            let id = *id;
            (wire.borrow_mut().arrived, wire.borrow_mut().room) = (bytes.len(), 10_000);
            world.engine.ready(id, Ready { readable: true, ..Ready::default() }, world.now);
            world.engine.serve_clients(world.now);
            world.clients.last().unwrap().1.borrow_mut().closed = true;
            world.engine.ready(id, Ready { half_closed: true, ..Ready::default() }, world.now);
            world.engine.serve_clients(world.now);
        }
        world
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        self.engine.expire(self.now);
        self.engine.serve_clients(self.now);
    }

    /// The replica says this of the first request.
    fn say(&mut self, body: Option<&[u8]>, end: bool) {
        let mut lane = self.replicas[0].1.borrow_mut();
        let stream = (0, lane.streams[0].generation);
        lane.streams[0].taken = true;
        let queued = match body.map(<[u8]>::to_vec) {
            Some(body) if std::mem::replace(&mut lane.streams[0].head_sent, true) => {
                Queued::Data(stream, body, end)
            }
            Some(body) => {
                let mut head = Vec::new();
                ResponseHead { status: 200, content_length: None, encoding: 0 }
                    .encode([].into_iter(), &mut head);
                Queued::Head(stream, head, Some(body), end)
            }
            None => Queued::End(stream),
        };
        lane.queue.push_back(queued);
        drop(lane);
        let _ = self.engine.hear_replicas(self.now);
        self.engine.serve_clients(self.now);
    }

    /// What a client has got so far, and whether it has heard the end of it.
    fn got(&self, client: usize) -> (String, bool) {
        let wire = self.clients[client].1.borrow();
        (String::from_utf8(wire.from_proxy.clone()).unwrap(), wire.ended)
    }
}

#[test]
fn who_sends_no_more_is_waited_for() {
    let mut world = World::half_closed(&["GET /d HTTP/1.0\r\n\r\n", "GET /d HTTP/1.0\r\n\r\n"]);
    world.pass(999);
    assert_eq!((world.got(0), world.got(1)), Default::default());
    world.pass(1);
    assert_eq!((world.got(0), world.got(1)), ((String::new(), true), (String::new(), true)));
    world.assert_nothing_is_held();
}

#[test]
fn an_answer_goes_on_to_who_only_sends_no_more() {
    let mut world = World::half_closed(&["GET /d HTTP/1.1\r\nHost: a\r\n\r\n"]);
    for _ in 0..20 {
        world.say(Some(b"piece"), false);
        world.pass(999);
    }
    let (text, ended) = world.got(0);
    assert!(text.matches("piece").count() == 20 && !ended, "{text}");
    // Who reads slowly is judged by that alone.
    world.clients[0].1.borrow_mut().room = 0;
    world.say(Some(b"piece"), false);
    world.pass(20_000);
    world.clients[0].1.borrow_mut().room = 10_000;
    world.engine.ready(world.clients[0].0, Ready { writable: true, ..Ready::default() }, world.now);
    world.engine.serve_clients(world.now);
    world.pass(999);
    let (text, ended) = world.got(0);
    assert!(text.matches("piece").count() == 21 && !ended, "{text}");
    world.pass(1);
    assert!(world.got(0).1, "nothing more has come");
    world.assert_nothing_is_held();
}

/// Two workers and one slot: what is queued in one starts when what runs in the other ends, at the same instant, without
/// a tick: the worker in which it waits has nothing in flight, and so no timer to wake by.
#[test]
fn what_waits_in_one_worker_starts_when_another_worker_s_request_ends() {
    let mut first = World::new(1);
    first.max_ongoing = 1;
    first.add_replica();
    let mut second = World::new(2);
    second.engine.worker = 1;
    second.max_ongoing = 1;
    second.deployment = Arc::clone(&first.deployment);
    // Its own lane to the same replica, and the same counts.
    let (replica, _) = first.replicas[0].clone();
    let mut state = LaneState::default();
    state.streams.resize_with(STREAMS, FakeStream::default);
    let state = Rc::new(RefCell::new(state));
    second.engine.attach(Arc::clone(&replica), FakeLane(Rc::clone(&state)));
    second.replicas.push((replica, state));
    second.set_view();

    let arrive = |world: &mut World| {
        world.add_client(b"GET /d HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
        let (id, wire) = world.clients.last().expect("just added");
        let all = wire.borrow().to_proxy.len();
        wire.borrow_mut().arrived = all;
        world.engine.ready(*id, Ready { readable: true, ..Ready::default() }, world.now);
        world.engine.serve_clients(world.now);
    };
    let in_flight =
        |world: &World| world.replicas[0].1.borrow().streams.iter().filter(|it| it.active).count();
    arrive(&mut first);
    arrive(&mut second);
    assert_eq!((in_flight(&first), in_flight(&second)), (1, 0));
    assert!(!second.engine.has_work_in_flight() && second.grants.0.lock().unwrap().is_empty());

    while in_flight(&first) == 1 {
        first.serve(0, false);
        let _ = first.engine.hear_replicas(first.now);
    }
    let granted = std::mem::take(&mut *first.grants.0.lock().unwrap());
    assert_eq!(granted.iter().map(|grant| grant.waiter.worker).collect::<Vec<_>>(), [1]);
    for grant in granted {
        second.engine.grant(grant, second.now);
    }
    assert_eq!((in_flight(&second), second.now), (1, first.now));
}
