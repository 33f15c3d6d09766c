//! A callee that is killed at any instruction, in a process of its own: what the caller gets is whole and true.
//!
//! The test binary runs itself again as the callee. It dies either at the n-th store to shared memory, for every
//! n of a range, or when the caller kills it at a random moment. Every byte that arrives is compared.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::attach::{self, AttachError, UpBell};
use super::board::BoardWriter;
use super::link::{Link, LinkError};
use crate::channel::model::bytes;
use crate::channel::{
    BLOCK_MAX, Event, Geometry, InBlock, NoRoom, Phase, Request, Requester, ResetCode, Responder, StreamId,
};
use crate::control::CallerKind;

/// Stores that are left to this process; then it dies.
static STORES_LEFT: AtomicU64 = AtomicU64::new(u64::MAX);
const FOR_EVER: u64 = u64::MAX;
const WATCHDOG: Duration = Duration::from_secs(60);
const IN_FLIGHT: usize = 12;
const RUNNING: usize = 4;

/// Called before each store to shared memory.
pub(super) fn before_store() {
    if STORES_LEFT.load(Ordering::Relaxed) != FOR_EVER && STORES_LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        // SAFETY: a signal to ourselves, which ends this process.
        unsafe { libc::raise(libc::SIGKILL) };
    }
}

/// The length of the response to a request.
fn response_length(number: u32) -> usize {
    match number % 5 {
        0 => 0,
        1 => 200_000 + number as usize % 1000,
        _ => number as usize * 7919 % 9_000,
    }
}

fn request_length(number: u32) -> usize {
    match number % 7 {
        0 => 150_000 + number as usize % 1000,
        1 => 0,
        _ => number as usize * 104_729 % 20_000,
    }
}

// The callee.

struct Answering {
    number: u32,
    received: usize,
    ended: bool,
    answered: bool,
    sent: usize,
}

/// Not a test by itself: what the tests below run in a process of its own.
#[test]
#[ignore = "run by the other tests of this module, as a process that is killed"]
fn callee_process() {
    let link = Link::from_fd(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    // Run by hand, it has nothing to do: its standard input is no link.
    let Ok(Some((stores, _))) = link.recv_timeout::<u64>(Some(WATCHDOG)) else { return };
    let (_board, board_fd) = BoardWriter::create().unwrap();
    let accepted = loop {
        match attach::accept(&link, &CallerKind::Proxy, board_fd.as_fd()) {
            Err(AttachError::NotYet) => wait(&[link.as_fd()]),
            accepted => break accepted.unwrap(),
        }
    };
    STORES_LEFT.store(stores, Ordering::Relaxed);
    let (mut lanes, bell) = (accepted.lanes, accepted.bell);
    let mut streams = HashMap::new();
    loop {
        let lane = &mut lanes[0];
        answer(lane, &mut streams);
        if lane.arm() {
            wait(&[bell.as_fd(), link.as_fd()]);
            bell.drain();
            if matches!(link.try_recv::<u64>(), Err(LinkError::Closed)) {
                return;
            }
        }
    }
}

fn answer(lane: &mut Responder, streams: &mut HashMap<StreamId, Answering>) {
    let mut blocks = Vec::new();
    let more = lane.poll(16, &mut |request| match request {
        Request::Open { stream, head, body, end } => {
            let number = u32::from_le_bytes(head.try_into().unwrap());
            let state = Answering { number, received: 0, ended: end, answered: false, sent: 0 };
            streams.insert(stream, state);
            blocks.extend(body.map(|block| (stream, block)));
        }
        Request::Data { stream, block, end } => {
            blocks.push((stream, block));
            streams.get_mut(&stream).unwrap().ended = end;
        }
        Request::End(stream) => streams.get_mut(&stream).unwrap().ended = true,
        Request::Cancel(stream) => drop(streams.remove(&stream)),
        Request::Room(_) => {}
    });
    more.unwrap();
    for (stream, block) in blocks {
        let mut got = vec![0; block.len()];
        lane.copy_to(&block, 0, &mut got);
        lane.give_back(block);
        if let Some(state) = streams.get_mut(&stream) {
            assert_eq!(got, bytes(state.number, false, state.received, got.len()));
            state.received += got.len();
        }
    }
    // A few at a time are taken, the oldest first; the others wait with what of their bodies has come.
    let mut order: Vec<StreamId> = streams.keys().copied().collect();
    order.sort_by_key(|stream| streams[stream].number);
    let mut running = 0;
    for stream in order {
        let state = streams.get_mut(&stream).unwrap();
        if !lane.take(stream) || (state.ended && respond(lane, stream, state)) {
            streams.remove(&stream);
        } else {
            running += 1;
        }
        if running == RUNNING {
            break;
        }
    }
    lane.flush();
}

/// Sends what there is room for: whether that was all.
fn respond(lane: &mut Responder, stream: StreamId, state: &mut Answering) -> bool {
    assert_eq!(state.received, request_length(state.number), "the whole body has come");
    let total = response_length(state.number);
    if !state.answered {
        let first = total.min(3_000);
        let body = bytes(state.number, true, 0, first);
        if lane.head(stream, &state.number.to_le_bytes(), &body, first == total).is_err() {
            return false;
        }
        state.answered = true;
        state.sent = first;
    }
    while state.sent < total {
        match lane.block(stream, total - state.sent) {
            Ok(mut block) => {
                let part = bytes(state.number, true, state.sent, block.room().min(total - state.sent));
                state.sent += lane.fill(&mut block, &part);
                lane.send(stream, block, state.sent == total);
            }
            Err(NoRoom::Later) => return false,
            Err(gone) => panic!("{gone}"),
        }
    }
    true
}

// The caller.

#[derive(Debug)]
struct Asking {
    number: u32,
    sent: usize,
    head_seen: bool,
    received: usize,
}

struct World {
    child: Child,
    link: Link,
    lane: Requester,
    streams: HashMap<StreamId, Asking>,
    next: u32,
    finished: u32,
}

enum Came {
    Head(StreamId, Vec<u8>, Option<InBlock>, bool),
    Data(StreamId, InBlock, bool),
    End(StreamId),
    Reset(StreamId, ResetCode),
}

impl World {
    fn start(stores: u64, geometry: Geometry) -> World {
        let (link, far) = Link::pair().unwrap();
        let this = std::env::current_exe().unwrap();
        let child = Command::new(this)
            .args(["--ignored", "--exact", "sys::kill::callee_process", "--test-threads", "1"])
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        link.send(&stores, &[]).unwrap();
        let connected = attach::connect(&link, 1, geometry, UpBell::Pipe, WATCHDOG).unwrap();
        let lane = connected.lanes.into_iter().next().unwrap();
        World { child, link, lane, streams: HashMap::new(), next: 0, finished: 0 }
    }

    /// One turn: reads, opens, feeds, and sleeps where there is nothing. False: the callee has hung up.
    fn turn(&mut self) -> bool {
        let mut came = Vec::new();
        self.lane.poll(32, &mut |event| came.extend(copy(event))).unwrap();
        self.read(came);
        while self.streams.len() < IN_FLIGHT && self.open() {}
        let mut open: Vec<StreamId> = self.streams.keys().copied().collect();
        open.sort_by_key(|stream| self.streams[stream].number);
        for stream in open {
            self.feed(stream);
        }
        if !self.lane.arm() {
            return true;
        }
        wait(&[self.lane.bell(), self.link.as_fd()]);
        self.lane.disarm();
        !matches!(self.link.try_recv::<u64>(), Err(LinkError::Closed))
    }

    fn open(&mut self) -> bool {
        let number = self.next;
        let total = request_length(number);
        let body = bytes(number, false, 0, total.min(2_000));
        let whole = body.len() == total;
        let Ok(stream) = self.lane.open(&number.to_le_bytes(), &body, whole) else { return false };
        self.next += 1;
        self.streams.insert(stream, Asking { number, sent: body.len(), head_seen: false, received: 0 });
        true
    }

    fn feed(&mut self, stream: StreamId) {
        let state = self.streams.get_mut(&stream).unwrap();
        let total = request_length(state.number);
        while state.sent < total {
            let Ok(mut block) = self.lane.block(stream, BLOCK_MAX) else { return };
            let part = bytes(state.number, false, state.sent, block.room().min(total - state.sent));
            state.sent += self.lane.fill(&mut block, &part);
            self.lane.send(stream, block, state.sent == total);
        }
    }

    /// Compares what came, byte for byte.
    fn read(&mut self, came: Vec<Came>) {
        for came in came {
            let (stream, block, end) = match came {
                Came::Head(stream, head, body, end) => {
                    let state = self.streams.get_mut(&stream).unwrap();
                    assert_eq!(head, state.number.to_le_bytes());
                    assert!(!std::mem::replace(&mut state.head_seen, true));
                    (stream, body, end)
                }
                Came::Data(stream, block, end) => (stream, Some(block), end),
                Came::End(stream) => (stream, None, true),
                Came::Reset(stream, code) => panic!("{stream:?} was reset: {code:?}"),
            };
            let state = self.streams.get_mut(&stream).expect("nothing comes after the end");
            if let Some(block) = block {
                let mut got = vec![0; block.len()];
                self.lane.copy_to(&block, 0, &mut got);
                self.lane.give_back(block);
                assert_eq!(got, bytes(state.number, true, state.received, got.len()));
                state.received += got.len();
            }
            if end {
                let state = self.streams.remove(&stream).unwrap();
                assert_eq!(state.received, response_length(state.number));
                self.finished += 1;
            }
        }
    }

    /// After the death: what was published is delivered, and every other request comes back as what it is.
    fn bury(mut self) -> u32 {
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the callee found a fault: {status}");
        let mut came = Vec::new();
        let orphans = self.lane.died(&mut |event| came.extend(copy(event)));
        self.read(came);
        for orphan in orphans {
            let state = self.streams.remove(&orphan.stream).expect("an orphan is open");
            match orphan.phase {
                Phase::NotTaken => {
                    assert!(!state.head_seen);
                    assert_eq!(orphan.body, bytes(state.number, false, 0, state.sent));
                }
                Phase::Taken => assert!(orphan.body.is_empty()),
            }
        }
        assert!(self.streams.is_empty(), "neither answered nor orphaned: {:?}", self.streams);
        self.finished
    }
}

fn copy(event: Event<'_>) -> Option<Came> {
    Some(match event {
        Event::Head { stream, head, body, end } => Came::Head(stream, head.to_vec(), body, end),
        Event::Data { stream, block, end } => Came::Data(stream, block, end),
        Event::End(stream) => Came::End(stream),
        Event::Reset { stream, code, .. } => Came::Reset(stream, code),
        Event::Room(_) | Event::Vacancy => return None,
    })
}

/// Sleeps until one of them is readable or hung up. A wake-up that never comes fails the test.
fn wait(fds: &[std::os::fd::BorrowedFd<'_>]) {
    let mut fds: Vec<_> = fds.iter().map(|&fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(WATCHDOG.as_millis()).unwrap();
    assert!(poll(&mut fds, timeout).unwrap() > 0, "a bell was lost");
}

#[test]
fn killed_at_any_store_the_callee_leaves_the_truth_behind() {
    for stores in 1..200 {
        let mut world = World::start(stores, Geometry::small());
        while world.turn() {}
        world.bury();
    }
}

#[test]
fn killed_at_any_moment_the_callee_leaves_the_truth_behind() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut finished = 0;
    for round in 0..40 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let turns = (random >> 33) % 150;
        let geometry = if round % 2 == 0 { Geometry::small() } else { Geometry::default() };
        let mut world = World::start(FOR_EVER, geometry);
        for _ in 0..turns {
            assert!(world.turn(), "nobody but us kills it");
        }
        world.child.kill().unwrap();
        finished += world.bury();
    }
    assert!(finished > 0, "some requests were answered");
}
