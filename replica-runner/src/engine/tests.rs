//! The engine with callers in the same process: real lanes, no other process, no clock.

use decurion_abi::Waker;
use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::board::BoardReader;
use decurion_ipc::channel::{Event, Geometry, NoRoom, Requester};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::record::{RequestHead, ResponseHead};

use super::*;

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Head(StreamId, u16),
    Bytes(StreamId, usize),
    End(StreamId),
    Reset(StreamId, ResetCode),
}

/// One engine and its callers.
pub(super) struct Scene {
    pub(super) engine: Engine,
    board: BoardReader,
    pub(super) callers: Vec<Requester>,
    lanes: Vec<Key>,
}

impl Scene {
    /// `call` is shared, `one` exclusive.
    pub(super) fn new(limit: u32, callers: usize) -> Self {
        let (writer, fd) = BoardWriter::create().unwrap();
        let mut engine = Engine::new(limit, writer);
        engine.open(ClassShape {
            call: Some(Entry::Shared),
            methods: vec![("many".to_owned(), Entry::Shared), ("one".to_owned(), Entry::Exclusive)],
        });
        let board = BoardReader::open(fd).unwrap();
        let mut scene = Self { engine, board, callers: Vec::new(), lanes: Vec::new() };
        (0..callers).for_each(|_| scene.add_caller());
        scene
    }

    fn add_caller(&mut self) {
        let (mut near, mut far) = attach::local(1, Geometry::default(), UpBell::Pipe).unwrap();
        self.callers.push(near.lanes.remove(0));
        self.lanes.push(self.engine.add_lane(far.lanes.remove(0), CallerKind::Proxy));
    }

    /// Another one in the place of a caller that dies.
    pub(super) fn replace_caller(&mut self, caller: usize) {
        self.engine.drop_lane(self.lanes[caller]);
        self.add_caller();
        self.callers.swap_remove(caller);
        self.lanes.swap_remove(caller);
    }

    fn open(&mut self, caller: usize, method: &str, deadline_ns: u64, body: &[u8], end: bool) -> StreamId {
        self.try_open(caller, method, deadline_ns, body, end).expect("room")
    }

    pub(super) fn try_open(
        &mut self,
        caller: usize,
        method: &str,
        deadline_ns: u64,
        body: &[u8],
        end: bool,
    ) -> Option<StreamId> {
        self.try_open_as(caller, method, deadline_ns, None, body, end)
    }

    fn try_open_as(
        &mut self,
        caller: usize,
        method: &str,
        deadline_ns: u64,
        content_length: Option<u64>,
        body: &[u8],
        end: bool,
    ) -> Option<StreamId> {
        let kind = if method == "GET" { Kind::Http } else { Kind::Call };
        let head = RequestHead {
            kind,
            id: "id-1",
            method,
            path: b"/",
            query: b"",
            route_prefix: "",
            traceparent: "",
            model_id: "",
            deadline_ns,
            content_length,
            encoding: 0,
            method_index: u32::MAX,
            epoch: Epoch::default(),
        };
        let mut record = Vec::new();
        head.encode(std::iter::empty(), &mut record);
        let stream = self.callers[caller].open(&record, body, end).ok();
        self.callers[caller].flush();
        stream
    }

    fn get(&mut self, caller: usize) -> StreamId {
        self.open(caller, "GET", 0, b"", true)
    }

    /// The next request that the engine takes, after a look.
    pub(super) fn next(&mut self) -> Option<Key> {
        self.engine.poll(1);
        self.engine.next(1).map(|job| job.key)
    }

    fn answer(&mut self, key: Key, body: &[u8]) -> Wrote {
        let head = ResponseHead { status: 200, content_length: Some(body.len() as u64), encoding: 0 };
        let wrote = self.engine.respond(key, head, &[], body);
        self.engine.flush();
        wrote
    }

    fn finish(&mut self, key: Key) {
        assert_eq!(self.answer(key, b"done"), Wrote::Done(4));
        assert!(self.engine.entry_returned(key, false));
    }

    /// Everything that a caller is told now; what it is lent goes back at once.
    pub(super) fn told(&mut self, caller: usize) -> Vec<Told> {
        self.engine.flush();
        let lane = &mut self.callers[caller];
        let (mut told, mut blocks) = (Vec::new(), Vec::new());
        lane.poll(256, &mut |event| match event {
            Event::Head { stream, head, body, end } => {
                told.push(Told::Head(stream, ResponseHead::parse(head).unwrap().0.status));
                told.extend(body.as_ref().map(|block| Told::Bytes(stream, block.len())));
                told.extend(end.then_some(Told::End(stream)));
                blocks.extend(body);
            }
            Event::Data { stream, block, end } => {
                told.push(Told::Bytes(stream, block.len()));
                told.extend(end.then_some(Told::End(stream)));
                blocks.push(block);
            }
            Event::End(stream) => told.push(Told::End(stream)),
            Event::Reset { stream, code, .. } => told.push(Told::Reset(stream, code)),
            Event::Room(_) | Event::Vacancy => {}
        })
        .expect("the replica keeps the rules");
        blocks.into_iter().for_each(|block| lane.give_back(block));
        // As a caller that is about to sleep: nothing is kept back.
        let _ = lane.arm();
        told
    }

    /// Nothing is left of anything.
    pub(super) fn assert_clean(&mut self) {
        self.engine.poll(1);
        let engine = &self.engine;
        assert!(engine.is_idle() && engine.waiting.is_empty() && engine.woken.is_empty());
        assert_eq!((engine.ongoing, engine.sending, engine.unsent, engine.held_calls.len()), (0, 0, 0, 0));
        assert!(engine.gate.admits(Entry::Exclusive), "{:?}", engine.gate);
        assert_eq!(self.board.ongoing(), 0);
        for caller in 0..self.callers.len() {
            self.told(caller);
            assert_eq!(self.callers[caller].in_flight(), 0, "caller {caller}");
        }
    }

    /// Sends more of a body, as far as there is room; how much.
    pub(super) fn send(
        &mut self,
        caller: usize,
        stream: StreamId,
        bytes: &[u8],
        end: bool,
    ) -> Result<usize, NoRoom> {
        let lane = &mut self.callers[caller];
        let mut block = lane.block(stream, bytes.len())?;
        let count = lane.fill(&mut block, bytes);
        lane.send(stream, block, end && count == bytes.len());
        lane.flush();
        Ok(count)
    }
}

/// A waker; how many are to be called is what [`called`] counts.
const WAKER: SendWaker = SendWaker(Waker { wake: None, data: std::ptr::null_mut() });

fn called(engine: &mut Engine) -> usize {
    engine.take_messages().wakers.len()
}

#[test]
fn the_limit_is_exact_over_all_callers() {
    let mut scene = Scene::new(5, 3);
    for caller in [0, 1, 2, 0, 1, 2, 0, 1, 2] {
        scene.get(caller);
    }
    let taken: Vec<Key> = std::iter::from_fn(|| scene.next()).collect();
    assert_eq!((taken.len(), scene.board.ongoing()), (5, 5));
    assert!(!scene.engine.has_work());
    scene.finish(taken[3]);
    assert!(scene.engine.has_work());
    let sixth = scene.next().expect("a place is free");
    assert_eq!(scene.next(), None);
    scene.engine.set_limit(6);
    let seventh = scene.next().expect("there is one more");
    for key in taken.into_iter().filter(|key| scene.engine.exchange(*key).is_some()).collect::<Vec<_>>() {
        scene.finish(key);
    }
    scene.finish(sixth);
    scene.finish(seventh);
    while let Some(key) = scene.next() {
        scene.finish(key);
    }
    assert_eq!(scene.board.processed(), 9);
    scene.assert_clean();
}

#[test]
fn requests_are_taken_in_the_order_they_came() {
    let mut scene = Scene::new(1, 1);
    let streams: Vec<StreamId> = (0..4).map(|_| scene.get(0)).collect();
    let mut order = Vec::new();
    while let Some(key) = scene.next() {
        order.push(scene.engine.exchange(key).unwrap().stream);
        scene.finish(key);
    }
    assert_eq!(order, streams);
    scene.assert_clean();
}

#[test]
fn an_exclusive_method_runs_alone_and_is_not_overtaken() {
    let mut scene = Scene::new(9, 1);
    for method in ["many", "GET", "one", "many"] {
        scene.open(0, method, 0, b"", true);
    }
    let shared = [scene.next().unwrap(), scene.next().unwrap()];
    assert_eq!(scene.next(), None, "the exclusive one waits, and what came later with it");
    shared.into_iter().for_each(|key| scene.finish(key));
    let alone = scene.next().unwrap();
    assert_eq!(scene.next(), None);
    scene.finish(alone);
    let last = scene.next().unwrap();
    scene.finish(last);
    scene.assert_clean();
}

#[test]
fn a_held_gate_lets_the_life_cycle_go_first() {
    let mut scene = Scene::new(9, 1);
    scene.get(0);
    let running = scene.next().unwrap();
    scene.engine.hold_gate();
    scene.get(0);
    assert_eq!(scene.next(), None);
    assert!(!scene.engine.enter_gate(Entry::Exclusive));
    scene.engine.take_news();
    scene.finish(running);
    assert!(scene.engine.take_news(), "whoever waits for the gate is told");
    assert!(scene.engine.enter_gate(Entry::Exclusive));
    scene.engine.release_gate();
    assert_eq!(scene.next(), None, "none runs during it");
    scene.engine.gate_left(Entry::Exclusive);
    let key = scene.next().unwrap();
    scene.finish(key);
    scene.assert_clean();
}

#[test]
fn what_is_cancelled_before_it_was_taken_never_reaches_the_library() {
    let mut scene = Scene::new(1, 1);
    scene.get(0);
    let running = scene.next().unwrap();
    let withdrawn = scene.get(0);
    scene.engine.poll(1);
    scene.callers[0].cancel(withdrawn);
    assert_eq!(scene.next(), None);
    assert_eq!(scene.told(0), [Told::Reset(withdrawn, ResetCode::NotTaken)]);
    scene.finish(running);
    assert_eq!(scene.next(), None);
    scene.assert_clean();
    assert_eq!(scene.board.processed(), 1);
}

#[test]
fn what_is_withdrawn_while_it_waits_never_reaches_the_library() {
    let mut scene = Scene::new(1, 1);
    let first = scene.get(0);
    let running = scene.next().unwrap();
    let (second, third) = (scene.get(0), scene.get(0));
    assert_eq!(scene.next(), None, "both wait");
    assert!(!scene.callers[0].withdraw(first) && scene.callers[0].withdraw(second));
    // The engine is asked for the next before it has looked at the lane again.
    assert_eq!(called(&mut scene.engine), 0);
    scene.finish(running);
    let next = scene.engine.next(1).map(|job| job.key).unwrap();
    assert_eq!(scene.engine.exchange(next).unwrap().stream, third);
    scene.finish(next);
    let told = scene.told(0);
    assert!(told.contains(&Told::Reset(second, ResetCode::NotTaken)), "{told:?}");
    scene.assert_clean();
}

#[test]
fn a_farewell_ends_what_has_no_end_of_its_own_and_lets_it_answer() {
    let mut scene = Scene::new(2, 1);
    let tunnel = scene.try_open_as(0, "GET", 0, Some(0), b"", false).unwrap();
    let request = scene.open(0, "many", 0, b"body", false);
    let (talking, asking) = (scene.next().unwrap(), scene.next().unwrap());
    assert_eq!(scene.engine.exchange(talking).unwrap().stream, tunnel);
    assert_eq!(scene.engine.respond_start(talking, start(101), &[], 1), Wrote::Done(0));
    assert_eq!(scene.engine.read(talking, &mut [0; 9], 1), Read::Wait);
    scene.engine.set_waker(talking, Pending::Read, Some(WAKER), 1);
    scene.engine.say_farewell();
    assert_eq!(called(&mut scene.engine), 1);
    assert_eq!(scene.engine.read(talking, &mut [0; 9], 1), Read::End);
    assert!(scene.engine.is_cancelled(talking, 1) && !scene.engine.is_cancelled(asking, 1));
    assert_eq!(scene.engine.read(asking, &mut [0; 9], 1), Read::Some(4));
    assert_eq!(scene.engine.read(asking, &mut [0; 9], 1), Read::Wait, "{request:?}");
    assert_eq!(scene.engine.write(talking, b"goodbye", 1), Wrote::Done(7));
}

#[test]
fn what_is_cancelled_while_it_runs_learns_of_it_and_ends() {
    let mut scene = Scene::new(1, 1);
    let stream = scene.open(0, "GET", 0, b"body", false);
    let key = scene.next().unwrap();
    scene.engine.set_waker(key, Pending::Cancel, Some(WAKER), 1);
    scene.callers[0].cancel(stream);
    assert!(!scene.engine.is_cancelled(key, 1));
    scene.engine.poll(1);
    assert!(scene.engine.is_cancelled(key, 1));
    assert_eq!(called(&mut scene.engine), 1);
    scene.engine.set_waker(key, Pending::Cancel, Some(WAKER), 1);
    assert_eq!(called(&mut scene.engine), 1, "one that comes too late is called at once");
    assert_eq!(scene.engine.read(key, &mut [0; 9], 1), Read::Cancelled);
    assert_eq!(scene.told(0), [], "its caller waits for the library");
    assert_eq!(scene.answer(key, b"nobody reads this"), Wrote::Cancelled);
    assert_eq!(scene.board.ongoing(), 1, "the entry has not returned");
    assert!(scene.engine.entry_returned(key, false));
    assert_eq!(scene.told(0), [Told::Reset(stream, ResetCode::Cancelled)]);
    scene.assert_clean();
}

#[test]
fn a_late_request_is_not_run() {
    let mut scene = Scene::new(1, 1);
    let stream = scene.open(0, "GET", 10, b"", true);
    scene.engine.poll(10);
    assert_eq!(scene.engine.next(10), None);
    assert_eq!(scene.told(0), [Told::Reset(stream, ResetCode::Deadline)]);
    scene.assert_clean();
}

#[test]
fn a_deadline_wakes_and_cancels() {
    let mut scene = Scene::new(1, 1);
    scene.open(0, "GET", 10, b"", false);
    let key = scene.next().unwrap();
    assert_eq!(scene.engine.next_timer(), None);
    scene.engine.set_waker(key, Pending::Read, Some(WAKER), 1);
    assert_eq!(scene.engine.next_timer(), Some(10));
    scene.engine.expire(9);
    assert_eq!(called(&mut scene.engine), 0);
    scene.engine.expire(10);
    assert_eq!(called(&mut scene.engine), 1);
    assert_eq!(scene.engine.read(key, &mut [0; 9], 10), Read::Cancelled);
    scene.finish(key);
    let stream = scene.told(0).iter().find_map(|told| match told {
        Told::End(stream) => Some(*stream),
        _ => None,
    });
    scene.callers[0].cancel(stream.expect("answered all the same"));
    scene.assert_clean();
}

#[test]
fn a_large_answer_goes_as_room_comes_and_holds_no_place() {
    let mut scene = Scene::new(1, 1);
    let stream = scene.get(0);
    let key = scene.next().unwrap();
    let body = vec![7; 3_000_000];
    assert_eq!(scene.answer(key, &body), Wrote::Done(body.len()));
    assert!(scene.engine.entry_returned(key, false));
    assert_eq!(scene.board.ongoing(), 0, "a slow caller holds no place");
    assert!(scene.engine.needs_care() && !scene.engine.is_idle());
    let (mut received, mut ended) = (0, false);
    while !ended {
        for told in scene.told(0) {
            match told {
                Told::Head(of, 200) => assert_eq!((of, received), (stream, 0)),
                Told::Bytes(_, count) => received += count,
                Told::End(_) => ended = true,
                other => panic!("{other:?}"),
            }
        }
        assert!(scene.engine.poll(1) || ended, "it goes on without being asked");
    }
    assert_eq!(received, body.len());
    assert!(!scene.engine.needs_care());
    scene.assert_clean();
}

#[test]
fn what_waits_for_slow_callers_is_bounded_by_places() {
    let mut scene = Scene::new(2, 1);
    let slow = scene.get(0);
    let key = scene.next().unwrap();
    let _ = scene.answer(key, &vec![0; UNSENT_MAX + 1_000_000]);
    scene.engine.entry_returned(key, false);
    assert_eq!(scene.board.ongoing(), 1, "it keeps its place");
    scene.callers[0].cancel(slow);
    scene.engine.poll(1);
    assert_eq!(scene.board.ongoing(), 0);
    scene.assert_clean();
}

#[test]
fn an_answer_that_nobody_wants_any_more_is_dropped_half_way() {
    let mut scene = Scene::new(1, 1);
    for round in 0..100 {
        let stream = scene.get(0);
        let key = scene.next().unwrap();
        let _ = scene.answer(key, &vec![1; 1_000_000]);
        assert!(scene.engine.entry_returned(key, false), "round {round}");
        scene.told(0);
        scene.callers[0].cancel(stream);
        scene.engine.poll(1);
        assert!(scene.told(0).contains(&Told::Reset(stream, ResetCode::Cancelled)));
        scene.assert_clean();
    }
}

#[test]
fn an_answer_before_the_body_was_read_gives_the_body_back() {
    let mut scene = Scene::new(1, 1);
    for _ in 0..300 {
        let stream = scene.open(0, "GET", 0, &[1; 40_000], false);
        let key = scene.next().unwrap();
        assert_eq!(scene.engine.read(key, &mut [0; 100], 1), Read::Some(100));
        scene.finish(key);
        assert!(scene.told(0).contains(&Told::End(stream)));
        // It does not know yet, or goes on for its own reasons.
        for _ in 0..4 {
            scene.send(0, stream, &[2; 40_000], false).expect("all came back");
            scene.engine.poll(1);
            let _ = scene.engine.arm();
            scene.told(0);
        }
        scene.callers[0].end(stream);
        scene.assert_clean();
    }
}

#[test]
fn a_body_streams_in_and_out() {
    let mut scene = Scene::new(1, 1);
    let stream = scene.open(0, "GET", 0, b"", false);
    let key = scene.next().unwrap();
    let (mut sent, mut read, mut echoed, mut ended) = (0, 0, 0, false);
    let body = vec![3; 1_000_000];
    let head = ResponseHead { status: 200, content_length: None, encoding: 0 };
    assert_eq!(scene.engine.respond_start(key, head, &[], 1), Wrote::Done(0));
    let mut buffer = vec![0; 50_000];
    while !ended {
        if sent < body.len() {
            sent += scene.send(0, stream, &body[sent..], true).unwrap_or(0);
        }
        scene.engine.poll(1);
        match scene.engine.read(key, &mut buffer, 1) {
            Read::Some(count) => {
                read += count;
                let mut rest = count;
                while rest > 0 {
                    match scene.engine.write(key, &buffer[..rest], 1) {
                        Wrote::Done(count) => rest -= count,
                        Wrote::Wait => {}
                        other => panic!("{other:?}"),
                    }
                    for told in scene.told(0) {
                        echoed += if let Told::Bytes(_, count) = told { count } else { 0 };
                    }
                    scene.engine.poll(1);
                }
            }
            Read::End => {
                assert_eq!(scene.engine.finish(key), Wrote::Done(0));
                ended = true;
            }
            Read::Wait => {
                let _ = scene.engine.arm();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((read, echoed), (body.len(), body.len()));
    scene.engine.entry_returned(key, false);
    scene.assert_clean();
}

/// The head of a streamed answer.
fn start(status: u16) -> ResponseHead {
    ResponseHead { status, content_length: None, encoding: 0 }
}

#[test]
fn a_change_of_protocol_opens_the_stream_both_ways_and_lifts_the_deadline() {
    let mut scene = Scene::new(10, 1);
    let stream = scene.try_open_as(0, "GET", 50, Some(0), b"", false).unwrap();
    let key = scene.next().unwrap();
    let mut buffer = [0; 16];
    assert_eq!(scene.engine.read(key, &mut buffer, 1), Read::End, "the request itself has no body");
    scene.engine.set_waker(key, Pending::Cancel, Some(WAKER), 1);
    assert_eq!(scene.engine.next_timer(), Some(50));
    assert_eq!(scene.engine.respond_start(key, start(101), &[], 1), Wrote::Done(0));
    assert_eq!(scene.engine.next_timer(), None);
    assert_eq!(scene.told(0), [Told::Head(stream, 101)]);
    assert_eq!(scene.engine.read(key, &mut buffer, 1000), Read::Wait, "late, and not cancelled");
    scene.send(0, stream, b"ping", false).unwrap();
    scene.engine.poll(1);
    assert_eq!(scene.engine.read(key, &mut buffer, 1000), Read::Some(4));
    assert_eq!(scene.engine.write(key, b"pong!", 1000), Wrote::Done(5));
    assert_eq!(scene.told(0), [Told::Bytes(stream, 5)]);
    scene.callers[0].end(stream);
    scene.callers[0].flush();
    scene.engine.poll(1);
    assert_eq!(scene.engine.read(key, &mut buffer, 1000), Read::End);
    assert_eq!(scene.engine.finish(key), Wrote::Done(0));
    assert!(scene.engine.entry_returned(key, false));
    assert_eq!(scene.told(0), [Told::End(stream)]);
    scene.assert_clean();
}

#[test]
fn an_offer_to_change_the_protocol_need_not_be_taken() {
    let mut scene = Scene::new(10, 1);
    let stream = scene.try_open_as(0, "GET", 0, Some(0), b"", false).unwrap();
    let key = scene.next().unwrap();
    scene.finish(key);
    assert_eq!(scene.told(0), [Told::Head(stream, 200), Told::Bytes(stream, 4), Told::End(stream)]);
    scene.callers[0].cancel(stream);
    scene.callers[0].flush();
    scene.assert_clean();
}

#[test]
fn only_an_offer_is_answered_with_a_change_of_protocol() {
    let mut scene = Scene::new(10, 1);
    scene.get(0);
    let key = scene.next().unwrap();
    assert_eq!(scene.engine.respond_start(key, start(101), &[], 1), Wrote::Invalid);
    scene.finish(key);
    scene.assert_clean();
}

#[test]
fn what_the_class_does_not_have_is_answered_without_it() {
    let mut scene = Scene::new(1, 1);
    let stream = scene.open(0, "none", 0, b"[]", true);
    assert_eq!(scene.next(), None);
    let told = scene.told(0);
    assert_eq!(told[0], Told::Head(stream, 404));
    scene.assert_clean();
}

#[test]
fn a_caller_that_breaks_the_rules_is_cut_off_alone() {
    let mut scene = Scene::new(9, 2);
    scene.get(0);
    scene.get(1);
    let running = [scene.next().unwrap(), scene.next().unwrap()];
    scene.callers[0].open(b"this is no head", b"", true).expect("room");
    scene.get(1);
    let other = scene.next().unwrap();
    let cut_off = scene.engine.take_messages().cut_off;
    assert_eq!(cut_off.len(), 1);
    assert!(cut_off[0].fault.contains("malformed"), "{cut_off:?}");
    assert!(!scene.engine.has_lane(scene.lanes[0]) && scene.engine.has_lane(scene.lanes[1]));
    assert!(scene.engine.is_cancelled(running[0], 1) && !scene.engine.is_cancelled(running[1], 1));
    assert_eq!(scene.answer(running[0], b"x"), Wrote::Cancelled);
    scene.engine.entry_returned(running[0], false);
    scene.finish(running[1]);
    scene.finish(other);
    scene.callers.remove(0);
    scene.assert_clean();
}

#[test]
fn a_caller_that_dies_leaves_nothing_behind() {
    let mut scene = Scene::new(3, 2);
    let taken: Vec<Key> = (0..3)
        .map(|_| {
            scene.open(0, "GET", 0, b"some of a body", false);
            scene.next().unwrap()
        })
        .collect();
    scene.get(0);
    scene.get(1);
    scene.engine.poll(1);
    // One is being sent, one streams, one runs, one waits.
    let _ = scene.answer(taken[0], &[0; 1_000_000]);
    scene.engine.entry_returned(taken[0], false);
    let head = ResponseHead { status: 200, content_length: None, encoding: 0 };
    assert_eq!(scene.engine.respond_start(taken[1], head, &[], 1), Wrote::Done(0));
    scene.callers.remove(0);
    scene.engine.drop_lane(scene.lanes[0]);
    assert_eq!(scene.engine.write(taken[1], b"x", 1), Wrote::Cancelled);
    assert_eq!(scene.engine.finish(taken[1]), Wrote::Cancelled);
    scene.engine.entry_returned(taken[1], false);
    assert!(!scene.engine.entry_returned(taken[2], false), "left open: ended for it");
    let other = scene.next().unwrap();
    scene.finish(other);
    scene.assert_clean();
}

#[test]
fn an_answer_from_another_thread_after_the_entry_returned_frees_its_place() {
    let mut scene = Scene::new(1, 1);
    for how in 0..3 {
        scene.get(0);
        let key = scene.next().unwrap();
        assert!(scene.engine.entry_returned(key, true));
        assert_eq!(scene.board.ongoing(), 1);
        match how {
            0 => assert_eq!(scene.answer(key, b"later"), Wrote::Done(5)),
            1 => assert_eq!(scene.engine.fail(key, 500, "later"), Wrote::Done(5)),
            _ => {
                let head = ResponseHead { status: 200, content_length: None, encoding: 0 };
                assert_eq!(scene.engine.respond_start(key, head, &[], 1), Wrote::Done(0));
                assert_eq!(scene.engine.finish(key), Wrote::Done(0));
            }
        }
        scene.assert_clean();
    }
}

#[test]
fn an_ended_exchange_can_be_used_no_more() {
    let mut scene = Scene::new(1, 1);
    scene.get(0);
    let key = scene.next().unwrap();
    assert_eq!(scene.engine.write(key, b"x", 1), Wrote::Invalid);
    assert_eq!(scene.engine.finish(key), Wrote::Invalid);
    assert_eq!(scene.answer(key, b"once"), Wrote::Done(4));
    assert_eq!(scene.answer(key, b"twice"), Wrote::Invalid);
    assert!(scene.engine.in_use(key).is_none());
    assert_eq!(scene.engine.read(key, &mut [0; 4], 1), Read::Invalid);
    scene.engine.entry_returned(key, false);
    assert_eq!(scene.engine.fail(key, 500, ""), Wrote::Invalid);
    assert_eq!(scene.engine.read(key, &mut [0; 4], 1), Read::Invalid);
    scene.get(0);
    let next = scene.next().unwrap();
    assert_eq!(scene.answer(key, b"another's"), Wrote::Invalid);
    scene.finish(next);
    scene.assert_clean();
}

#[test]
fn a_head_that_is_too_large_is_refused_and_the_exchange_stays_open() {
    let mut scene = Scene::new(1, 1);
    scene.get(0);
    let key = scene.next().unwrap();
    let long = vec![b'x'; 70_000];
    let head = ResponseHead { status: 200, content_length: None, encoding: 0 };
    assert_eq!(scene.engine.respond(key, head, &[(b"x-long", &long)], b""), Wrote::Invalid);
    assert_eq!(scene.engine.respond_start(key, head, &[(b"x-long", &long)], 1), Wrote::Invalid);
    scene.finish(key);
    scene.assert_clean();
}

#[test]
fn a_streamed_answer_that_is_left_is_cut_off() {
    let mut scene = Scene::new(1, 1);
    let stream = scene.get(0);
    let key = scene.next().unwrap();
    let head = ResponseHead { status: 200, content_length: None, encoding: 0 };
    assert_eq!(scene.engine.respond_start(key, head, &[], 1), Wrote::Done(0));
    assert!(!scene.engine.entry_returned(key, false));
    assert_eq!(scene.told(0), [Told::Head(stream, 200), Told::Reset(stream, ResetCode::Failed)]);
    scene.assert_clean();
}

#[test]
fn blocks_that_come_back_to_a_sleeper_are_no_requests_that_wait() {
    let mut scene = Scene::new(1, 1);
    scene.get(0);
    assert!(scene.engine.is_queued(), "it lies in its lane");
    let key = scene.next().unwrap();
    assert!(!scene.engine.is_queued());
    scene.finish(key);
    assert!(scene.engine.arm());
    scene.told(0);
    assert!(scene.engine.has_news() && !scene.engine.is_queued(), "the answer's block is back");
    scene.get(0);
    assert!(scene.engine.is_queued());
    scene.engine.poll(1);
    assert!(scene.engine.is_queued(), "it waits to be taken");
}

#[test]
fn it_is_drained_when_the_last_answer_is_sent() {
    let mut scene = Scene::new(1, 1);
    let (first, _) = (scene.get(0), scene.get(0));
    let key = scene.next().unwrap();
    scene.engine.drain();
    let _ = scene.answer(key, &[0; 500_000]);
    scene.engine.entry_returned(key, false);
    let last = scene.next().expect("what had come is still run");
    scene.finish(last);
    assert!(!scene.engine.take_messages().drained);
    while !scene.told(0).contains(&Told::End(first)) {
        scene.engine.poll(1);
    }
    assert!(scene.engine.take_messages().drained);
    scene.assert_clean();
}

#[test]
fn after_the_stop_nothing_is_taken() {
    let mut scene = Scene::new(1, 1);
    scene.engine.stop();
    scene.engine.open(ClassShape::default());
    let stream = scene.get(0);
    assert_eq!(scene.next(), None);
    assert!(scene.engine.has_work(), "threads are to see that they end");
    let orphans = scene.callers[0].died(&mut |_| {});
    assert_eq!(orphans.iter().map(|orphan| orphan.stream).collect::<Vec<_>>(), [stream]);
    assert_eq!(orphans[0].phase, decurion_ipc::channel::Phase::NotTaken);
}

#[test]
fn a_call_ends_with_the_request_it_was_made_for() {
    let mut scene = Scene::new(1, 1);
    let stream = scene.get(0);
    let key = scene.next().unwrap();
    let call = decurion_ipc::caller::NewCall {
        deployment: "other".parse().unwrap(),
        kind: Kind::Call,
        method: "m",
        target: "",
        headers: &[],
        encoding: 1,
        body: Vec::new(),
        id: "",
        traceparent: "",
        deadline_ns: 0,
        model_id: "",
        replica: None,
        epoch: None,
    };
    let held = scene.engine.start_call(call.clone(), Some(key), 1).unwrap();
    let freed = scene.engine.start_call(call.clone(), Some(key), 1).unwrap();
    scene.engine.free_call(freed);
    assert!(matches!(scene.engine.call_state(freed), CallState::Invalid));
    assert!(matches!(scene.engine.call_state(held), CallState::Pending));
    scene.callers[0].cancel(stream);
    scene.engine.poll(1);
    assert!(matches!(
        scene.engine.call_state(held),
        CallState::Failed(decurion_ipc::caller::CallError::Cancelled)
    ));
    assert!(scene.engine.start_call(call, Some(key), 1).is_err());
    scene.engine.free_call(held);
    scene.engine.entry_returned(key, false);
    scene.assert_clean();
}
