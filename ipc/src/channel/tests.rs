//! Both ends in one process: one behaviour each.

use super::*;
use crate::attach::{self, UpBell};
use crate::sys::bell::tests::is_rung as rung;

/// Both ends of a lane.
struct Pair {
    caller: Requester,
    callee: Responder,
}

/// What came, with heads and bodies copied.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Head(StreamId, Vec<u8>, Vec<u8>, bool),
    Data(StreamId, Vec<u8>, bool),
    End(StreamId),
    Reset(StreamId, ResetCode, Vec<u8>),
    Cancel(StreamId),
    Room(StreamId),
    Vacancy,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(Geometry::default())
    }

    fn with(geometry: Geometry) -> Pair {
        let (mut connected, mut accepted) = attach::local(1, geometry, UpBell::EventFd).unwrap();
        Pair { caller: connected.lanes.remove(0), callee: accepted.lanes.remove(0) }
    }

    /// Everything that has come to the caller; blocks are given back.
    fn caller_sees(&mut self) -> Vec<Seen> {
        let mut came = Vec::new();
        while self.caller.poll(256, &mut |event| came.push(hold_event(event))).unwrap() {}
        came.into_iter()
            .map(|held| {
                held.see(|block| {
                    let mut bytes = vec![0; block.len()];
                    assert_eq!(self.caller.copy_to(&block, 0, &mut bytes), bytes.len());
                    self.caller.give_back(block);
                    bytes
                })
            })
            .collect()
    }

    /// Everything that has come to the callee; blocks are given back.
    fn callee_sees(&mut self) -> Vec<Seen> {
        let mut came = Vec::new();
        while self.callee.poll(256, &mut |request| came.push(hold_request(request))).unwrap() {}
        came.into_iter()
            .map(|held| {
                held.see(|block| {
                    let mut bytes = vec![0; block.len()];
                    assert_eq!(self.callee.copy_to(&block, 0, &mut bytes), bytes.len());
                    self.callee.give_back(block);
                    bytes
                })
            })
            .collect()
    }

    /// A request that the callee has seen and taken.
    fn taken(&mut self) -> StreamId {
        let stream = self.caller.open(b"head", b"", true).unwrap();
        self.callee_sees();
        assert!(self.callee.take(stream));
        stream
    }

    /// Both sides let go of everything, as before sleeping.
    fn arm(&mut self) {
        self.caller.arm();
        self.callee.arm();
    }
}

/// What came, with its block still lent.
enum Held {
    Head(StreamId, Vec<u8>, Option<InBlock>, bool),
    Data(StreamId, InBlock, bool),
    Plain(Seen),
}

impl Held {
    fn see(self, mut read: impl FnMut(InBlock) -> Vec<u8>) -> Seen {
        match self {
            Held::Head(stream, head, body, end) => {
                Seen::Head(stream, head, body.map(read).unwrap_or_default(), end)
            }
            Held::Data(stream, block, end) => Seen::Data(stream, read(block), end),
            Held::Plain(seen) => seen,
        }
    }
}

fn hold_event(event: Event<'_>) -> Held {
    match event {
        Event::Head { stream, head, body, end } => Held::Head(stream, head.to_vec(), body, end),
        Event::Data { stream, block, end } => Held::Data(stream, block, end),
        Event::End(stream) => Held::Plain(Seen::End(stream)),
        Event::Reset { stream, code, body } => Held::Plain(Seen::Reset(stream, code, body.to_vec())),
        Event::Room(stream) => Held::Plain(Seen::Room(stream)),
        Event::Vacancy => Held::Plain(Seen::Vacancy),
    }
}

fn hold_request(request: Request<'_>) -> Held {
    match request {
        Request::Open { stream, head, body, end } => Held::Head(stream, head.to_vec(), body, end),
        Request::Data { stream, block, end } => Held::Data(stream, block, end),
        Request::End(stream) => Held::Plain(Seen::End(stream)),
        Request::Cancel(stream) => Held::Plain(Seen::Cancel(stream)),
        Request::Room(stream) => Held::Plain(Seen::Room(stream)),
    }
}

#[test]
fn a_small_request_is_one_slot_each_way() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"body", true).unwrap();
    assert_eq!(pair.callee_sees(), [Seen::Head(stream, b"head".into(), b"body".into(), true)]);
    assert!(pair.callee.take(stream));
    pair.callee.head(stream, b"200", b"answer", true).unwrap();
    assert_eq!(pair.caller_sees(), [Seen::Head(stream, b"200".into(), b"answer".into(), true)]);
    assert_eq!((pair.caller.in_flight(), pair.callee.in_flight()), (0, 0));
}

#[test]
fn a_place_is_used_again_with_another_generation() {
    let mut pair = Pair::new();
    let mut last = None;
    for _ in 0..70_000 {
        let stream = pair.taken();
        assert_ne!(Some(stream), last);
        assert_eq!(stream.index(), 0);
        pair.callee.head(stream, b"200", b"", true).unwrap();
        pair.caller_sees();
        last = Some(stream);
    }
}

#[test]
fn bodies_stream_in_both_directions() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"", false).unwrap();
    let mut block = pair.caller.block(stream, 10).unwrap();
    assert_eq!(pair.caller.fill(&mut block, b"0123456789abc"), 10);
    pair.caller.send(stream, block, false);
    pair.caller.end(stream);
    assert_eq!(
        pair.callee_sees(),
        [
            Seen::Head(stream, b"head".into(), vec![], false),
            Seen::Data(stream, b"0123456789".into(), false),
            Seen::End(stream)
        ]
    );
    pair.callee.head(stream, b"200", b"", false).unwrap();
    let mut block = pair.callee.block(stream, 4).unwrap();
    pair.callee.fill(&mut block, b"last");
    pair.callee.send(stream, block, true);
    assert_eq!(
        pair.caller_sees(),
        [Seen::Head(stream, b"200".into(), vec![], false), Seen::Data(stream, b"last".into(), true)]
    );
    assert_eq!((pair.caller.in_flight(), pair.callee.in_flight()), (0, 0));
}

#[test]
fn an_empty_block_with_the_end_is_just_the_end() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"", false).unwrap();
    let block = pair.caller.block(stream, 10).unwrap();
    pair.caller.send(stream, block, true);
    assert_eq!(pair.callee_sees().last(), Some(&Seen::End(stream)));
}

#[test]
fn one_stream_gets_a_good_part_of_the_arena_and_is_told_of_room() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"", false).unwrap();
    let mut sent = 0;
    while let Ok(mut block) = pair.caller.block(stream, BLOCK_MAX) {
        sent += pair.caller.fill(&mut block, &[7; BLOCK_MAX]);
        pair.caller.send(stream, block, false);
    }
    assert!((90 * 1024..=128 * 1024).contains(&sent), "{sent}");
    assert!(pair.caller.block(stream, 1).is_err());
    let other = pair.caller.open(b"other", &[1; 30_000], true).unwrap();
    pair.callee_sees();
    assert!(pair.callee.take(stream));
    assert!(pair.callee.take(other));
    pair.arm();
    assert!(pair.caller_sees().contains(&Seen::Room(stream)));
    let block = pair.caller.block(stream, 1).unwrap();
    pair.caller.discard(block);
}

#[test]
fn many_slow_streams_leave_room_for_one_more() {
    let mut pair = Pair::new();
    let mut slow: Vec<StreamId> = Vec::new();
    for _ in 0..60 {
        let stream = pair.caller.open(b"head", b"", false).unwrap();
        while let Ok(mut block) = pair.caller.block(stream, BLOCK_MAX) {
            let room = block.room();
            pair.caller.fill(&mut block, &vec![7; room]);
            pair.caller.send(stream, block, false);
        }
        slow.push(stream);
        pair.callee_sees();
        pair.arm();
        pair.caller_sees();
    }
    assert!(pair.caller.open(b"one more", b"body", true).is_ok());
}

#[test]
fn without_a_stream_or_a_block_opening_is_refused_until_there_is_a_vacancy() {
    let mut pair = Pair::with(Geometry { streams: 2, ..Geometry::default() });
    let streams = [pair.caller.open(b"a", b"", true).unwrap(), pair.caller.open(b"b", b"", true).unwrap()];
    assert_eq!(pair.caller.open(b"c", b"", true), Err(Busy::Streams));
    pair.callee_sees();
    pair.callee.head(streams[1], b"200", b"", true).unwrap();
    assert_eq!(pair.caller_sees().last(), Some(&Seen::Vacancy));
    let third = pair.caller.open(b"c", b"", true).unwrap();
    assert_eq!(third.index(), streams[1].index());

    let mut pair = Pair::new();
    for _ in 0..3 {
        pair.caller.open(&[1; 32], &[2; BLOCK_MAX - 32], true).unwrap();
    }
    assert_eq!(pair.caller.open(&[1; 32], &[2; BLOCK_MAX - 32], true), Err(Busy::Arena));
    assert_eq!(pair.caller.open(&[1; BLOCK_MAX], b"e", true), Err(Busy::TooLarge));
    assert_eq!(pair.caller.in_flight(), 3);
    pair.caller.open(b"a small one", b"", true).unwrap();
}

#[test]
fn a_request_cancelled_before_it_is_taken_is_not_taken() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"body", true).unwrap();
    pair.callee_sees();
    pair.caller.cancel(stream);
    pair.caller.cancel(stream);
    assert_eq!(pair.callee_sees(), [Seen::Cancel(stream)]);
    assert!(!pair.callee.take(stream));
    assert_eq!(pair.caller_sees(), [Seen::Reset(stream, ResetCode::NotTaken, vec![])]);
    assert_eq!((pair.caller.in_flight(), pair.callee.in_flight()), (0, 0));
}

#[test]
fn a_taken_request_holds_its_place_until_the_callee_lets_go() {
    let mut pair = Pair::new();
    let stream = pair.taken();
    pair.callee.head(stream, b"200", b"", false).unwrap();
    pair.caller.cancel(stream);
    assert_eq!(pair.callee_sees(), [Seen::Cancel(stream)]);
    assert_eq!(pair.caller_sees(), []);
    assert_eq!(pair.caller.in_flight(), 1);
    assert_eq!(pair.callee.block(stream, 1).unwrap_err(), NoRoom::Gone);
    pair.callee.reset(stream, ResetCode::Failed);
    assert_eq!(pair.caller_sees(), [Seen::Reset(stream, ResetCode::Cancelled, vec![])]);
    assert_eq!((pair.caller.in_flight(), pair.callee.in_flight()), (0, 0));
}

#[test]
fn an_answer_that_crosses_a_cancellation_is_dropped() {
    let mut pair = Pair::new();
    let stream = pair.taken();
    pair.callee.head(stream, b"200", &[1; 5000], true).unwrap();
    pair.caller.cancel(stream);
    assert_eq!(pair.caller_sees(), [Seen::Reset(stream, ResetCode::Cancelled, vec![])]);
    assert_eq!(pair.callee_sees(), []);
    pair.arm();
    pair.callee_sees();
    assert_eq!(pair.callee.lane.arena.free_bytes(), 256 * 1024);
}

#[test]
fn an_answer_before_the_end_of_the_request_leaves_it_to_the_caller() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"", false).unwrap();
    pair.callee_sees();
    pair.callee.head(stream, b"413", b"", true).unwrap();
    assert_eq!(pair.caller_sees(), [Seen::Head(stream, b"413".into(), vec![], true)]);
    assert_eq!((pair.caller.in_flight(), pair.callee.in_flight()), (1, 0));
    let mut block = pair.caller.block(stream, 3000).unwrap();
    pair.caller.fill(&mut block, &[0; 3000]);
    pair.caller.send(stream, block, false);
    pair.caller.cancel(stream);
    assert_eq!(pair.caller.in_flight(), 0);
    assert_eq!(pair.callee_sees(), []);
    pair.arm();
    assert_eq!(pair.caller_sees(), []);
    assert_eq!(pair.caller.lane.arena.free_bytes(), 256 * 1024);
}

#[test]
fn a_refused_request_comes_back_with_its_body() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"one ", false).unwrap();
    let mut block = pair.caller.block(stream, 100).unwrap();
    pair.caller.fill(&mut block, b"two");
    pair.caller.send(stream, block, false);
    // The callee has read and given back everything, but not taken it.
    assert_eq!(pair.callee_sees().len(), 2);
    pair.arm();
    pair.callee.refuse(stream);
    pair.arm();
    assert_eq!(pair.caller_sees(), [Seen::Reset(stream, ResetCode::NotTaken, b"one two".into())]);
    assert_eq!(pair.caller.lane.arena.free_bytes(), 256 * 1024);
}

#[test]
fn death_tells_what_was_taken() {
    let mut pair = Pair::new();
    let untaken = pair.caller.open(b"head", b"one ", false).unwrap();
    let mut block = pair.caller.block(untaken, 100).unwrap();
    pair.caller.fill(&mut block, b"two");
    pair.caller.send(untaken, block, true);
    let taken = pair.caller.open(b"head", b"body", true).unwrap();
    let answered = pair.caller.open(b"head", b"", true).unwrap();
    let begun = pair.caller.open(b"head", b"", true).unwrap();
    let unseen = pair.caller.open(b"head", b"new", true).unwrap();
    let mut came = 0;
    pair.callee.poll(5, &mut |_| came += 1).unwrap();
    assert_eq!(came, 5);
    assert!(pair.callee.take(taken));
    pair.callee.head(answered, b"200", b"", true).unwrap();
    pair.callee.head(begun, b"200", b"", false).unwrap();
    drop(pair.callee);

    let mut drained = Vec::new();
    let orphans = pair.caller.died(&mut |event| drained.push(format!("{event:?}")));
    assert_eq!(drained.len(), 2, "{drained:?}");
    let orphan = |stream, phase, body: &[u8]| Orphan { stream, phase, cancelled: false, body: body.into() };
    assert_eq!(
        orphans,
        [
            orphan(untaken, Phase::NotTaken, b"one two"),
            orphan(taken, Phase::Taken, b""),
            orphan(begun, Phase::Taken, b""),
            orphan(unseen, Phase::NotTaken, b"new"),
        ]
    );
}

#[test]
fn sleepers_are_rung_once_and_returns_ring_nobody() {
    let (mut connected, mut accepted) = attach::local(1, Geometry::default(), UpBell::Pipe).unwrap();
    let (mut caller, mut callee) = (connected.lanes.remove(0), accepted.lanes.remove(0));
    use std::os::fd::AsFd;
    assert!(callee.arm());
    assert!(caller.arm());
    let stream = caller.open(b"head", b"body", true).unwrap();
    assert!(!rung(accepted.bell.as_fd()));
    caller.flush();
    assert!(rung(accepted.bell.as_fd()));
    accepted.bell.drain();
    let mut body = None;
    callee
        .poll(9, &mut |request| {
            if let Request::Open { body: Some(block), .. } = request {
                body = Some(block);
            }
        })
        .unwrap();
    callee.give_back(body.unwrap());
    callee.head(stream, b"200", b"answer", true).unwrap();
    assert!(callee.arm());
    assert!(rung(caller.bell()));
    caller.disarm();
    assert!(!rung(caller.bell()));
    let mut block = None;
    caller
        .poll(9, &mut |event| {
            if let Event::Head { body, .. } = event {
                block = body;
            }
        })
        .unwrap();
    caller.give_back(block.unwrap());
    assert!(caller.arm());
    assert!(!rung(accepted.bell.as_fd()));
    assert!(callee.has_news() && !callee.has_loud_news());
    caller.open(b"head", b"", true).unwrap();
    assert!(callee.has_loud_news());
    assert!(!callee.arm());
}

/// Sends so many blocks of an answer, or as many as there is room for: how many.
fn send_blocks(pair: &mut Pair, stream: StreamId, most: usize) -> usize {
    for sent in 0..most {
        let Ok(mut block) = pair.callee.block(stream, BLOCK_MAX) else { return sent };
        pair.callee.fill(&mut block, &[7; BLOCK_MAX]);
        pair.callee.send(stream, block, false);
    }
    most
}

#[test]
fn room_that_came_before_it_was_wanted_is_not_slept_through() {
    let start = || {
        let mut pair = Pair::new();
        let stream = pair.taken();
        pair.callee.head(stream, b"head", b"", false).unwrap();
        (pair, stream)
    };
    let (mut probe, stream) = start();
    let all = send_blocks(&mut probe, stream, usize::MAX);
    let (mut pair, stream) = start();
    assert_eq!(send_blocks(&mut pair, stream, all), all);
    // One thread goes to sleep while nobody wants room; what comes back then is no reason to ring.
    assert!(pair.callee.arm());
    assert_eq!(pair.caller_sees().len(), 1 + all);
    pair.caller.arm();
    assert!(!pair.callee.is_unheard());
    // Another one is refused room: the sleeper has to look.
    assert!(matches!(pair.callee.block(stream, BLOCK_MAX), Err(NoRoom::Later)));
    assert!(pair.callee.is_unheard());
    assert_eq!(pair.callee_sees(), [Seen::Room(stream)]);
    assert!(!pair.callee.is_unheard());
}

#[test]
fn room_made_by_ourselves_is_told_before_sleeping() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"", false).unwrap();
    let mut blocks = Vec::new();
    while let Ok(block) = pair.caller.block(stream, BLOCK_MAX) {
        blocks.push(block);
    }
    assert!(pair.caller.arm());
    pair.caller.discard(blocks.pop().unwrap());
    assert!(!pair.caller.arm());
    assert!(pair.caller.has_news());
    assert_eq!(pair.caller_sees(), [Seen::Room(stream)]);
    assert!(pair.caller.arm());
}

#[test]
fn untaken_requests_leave_the_running_one_room_to_get_on() {
    for geometry in [Geometry::small(), Geometry::default()] {
        let mut pair = Pair::with(geometry);
        let mut streams = Vec::new();
        let mut sent = std::collections::HashMap::new();
        while let Ok(stream) = pair.caller.open(b"head", &[1; 700], false) {
            streams.push(stream);
            sent.insert(stream, 700);
            feed(&mut pair, &streams, &mut sent);
        }
        assert!(streams.len() > 10);
        pair.callee_sees();
        // One after the other is taken, as with `max_ongoing_requests = 1`; the others wait with their bodies.
        for turn in 0..streams.len() {
            let stream = streams[turn];
            assert!(pair.callee.take(stream));
            for round in 0.. {
                assert!(round < 1000, "{stream:?} is stuck at {}", sent[&stream]);
                feed(&mut pair, &streams[turn..], &mut sent);
                if pair.callee_sees().iter().any(|seen| matches!(seen, Seen::End(id) if *id == stream)) {
                    break;
                }
                if sent[&stream] == 20_000 {
                    pair.caller.end(stream);
                }
                pair.arm();
                pair.caller_sees();
            }
            pair.callee.head(stream, b"200", b"", true).unwrap();
            pair.arm();
            pair.caller_sees();
        }
    }
}

/// Sends of each body what there is room for, up to 20,000 bytes: the first ones are the greediest.
fn feed(pair: &mut Pair, streams: &[StreamId], sent: &mut std::collections::HashMap<StreamId, usize>) {
    for &stream in streams.iter().rev() {
        let sent = sent.get_mut(&stream).unwrap();
        while *sent < 20_000 {
            let Ok(mut block) = pair.caller.block(stream, 20_000 - *sent) else { break };
            let room = block.room();
            *sent += pair.caller.fill(&mut block, &vec![2; room.min(20_000 - *sent)]);
            pair.caller.send(stream, block, false);
        }
    }
}

#[test]
fn blocks_to_give_back_ride_along_unless_they_are_many_or_wanted() {
    let mut pair = Pair::new();
    let news = |pair: &mut Pair, stream, size: usize| {
        pair.caller_sees();
        let mut block = pair.caller.block(stream, size).unwrap();
        pair.caller.fill(&mut block, &vec![0; size]);
        pair.caller.send(stream, block, false);
        pair.callee_sees();
        pair.callee.flush();
        pair.caller.has_news()
    };
    let stream = pair.caller.open(b"head", b"", false).unwrap();
    pair.callee_sees();
    assert!(pair.callee.take(stream));
    pair.callee.arm();
    assert!(!news(&mut pair, stream, 5_000), "a few wait for a slot to ride on");
    assert!(news(&mut pair, stream, 40_000), "many do not");
    while let Ok(mut block) = pair.caller.block(stream, BLOCK_MAX) {
        let room = block.room();
        pair.caller.fill(&mut block, &vec![0; room]);
        pair.caller.send(stream, block, false);
    }
    let mut first = None;
    pair.callee
        .poll(1, &mut |request| {
            if let Request::Data { block, .. } = request {
                first = Some(block);
            }
        })
        .unwrap();
    pair.callee.give_back(first.unwrap());
    pair.callee.flush();
    assert!(pair.caller.has_news(), "what the other side waits for does not");
}

#[test]
fn sides_that_keep_the_rules_never_fill_a_ring() {
    let mut pair = Pair::new();
    // The callee's arena is full of small blocks, and the caller has read them all.
    let up: Vec<StreamId> = (0..3).map(|_| pair.taken()).collect();
    for &stream in &up {
        pair.callee.head(stream, b"200", b"", false).unwrap();
        while let Ok(mut block) = pair.callee.block(stream, 1) {
            pair.callee.fill(&mut block, b"x");
            pair.callee.send(stream, block, false);
        }
    }
    pair.caller_sees();
    // Nobody reads the caller's ring from now on. It opens what it can, ends and gives up all, and takes the places
    // of those that the callee had ended, again with all that a stream can say.
    for &stream in &up {
        pair.callee.end(stream);
    }
    let fill = |pair: &mut Pair| {
        let mut opened = Vec::new();
        while let Ok(stream) = pair.caller.open(b"h", b"", false) {
            opened.push(stream);
        }
        for &stream in &opened {
            while let Ok(mut block) = pair.caller.block(stream, 1) {
                pair.caller.fill(&mut block, b"x");
                pair.caller.send(stream, block, false);
            }
            pair.caller.end(stream);
            pair.caller.cancel(stream);
        }
        pair.caller.arm();
        opened.len()
    };
    assert!(fill(&mut pair) > 60);
    pair.caller_sees();
    assert!(fill(&mut pair) > 0);
    pair.callee_sees();
    pair.callee.arm();
    pair.caller_sees();
    assert_eq!(pair.caller.in_flight(), 0);
}

#[test]
fn bodies_larger_than_the_channel_stream_both_ways_at_once() {
    const TOTAL: usize = 3 << 20;
    let mut pair = Pair::with(Geometry::small());
    let stream = pair.caller.open(b"head", b"", false).unwrap();
    pair.callee_sees();
    assert!(pair.callee.take(stream));
    pair.callee.head(stream, b"200", b"", false).unwrap();
    let (mut down, mut up, mut got_down, mut got_up) = (0, 0, 0, 0);
    let byte = |at: usize| (at % 251).to_le_bytes()[0];
    let part = |from: usize, count: usize| (from..from + count).map(byte).collect::<Vec<u8>>();
    let check = |seen: Vec<Seen>, got: &mut usize| {
        for seen in seen {
            if let Seen::Data(_, bytes, _) = seen {
                assert_eq!(bytes, part(*got, bytes.len()));
                *got += bytes.len();
            }
        }
    };
    for turn in 0.. {
        assert!(turn < 10_000, "stuck at {got_down} and {got_up}");
        while down < TOTAL
            && let Ok(mut block) = pair.caller.block(stream, TOTAL - down)
        {
            down += pair.caller.fill(&mut block, &part(down, (TOTAL - down).min(BLOCK_MAX)));
            pair.caller.send(stream, block, down == TOTAL);
        }
        while up < TOTAL
            && let Ok(mut block) = pair.callee.block(stream, TOTAL - up)
        {
            up += pair.callee.fill(&mut block, &part(up, (TOTAL - up).min(BLOCK_MAX)));
            pair.callee.send(stream, block, false);
        }
        check(pair.callee_sees(), &mut got_down);
        check(pair.caller_sees(), &mut got_up);
        if (got_down, got_up) == (TOTAL, TOTAL) {
            break;
        }
        pair.arm();
    }
    pair.callee.end(stream);
    assert_eq!(pair.caller_sees(), [Seen::End(stream)]);
    assert_eq!((pair.caller.in_flight(), pair.callee.in_flight()), (0, 0));
}

#[test]
fn a_request_that_waits_untaken_can_be_withdrawn_without_the_callee() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"body", true).unwrap();
    pair.callee_sees();
    assert!(pair.caller.withdraw(stream), "the callee has not begun");
    assert!(!pair.caller.withdraw(stream), "only once");
    assert!(!pair.callee.take(stream), "it never reaches the handler");
    assert_eq!(pair.caller_sees(), [Seen::Reset(stream, ResetCode::NotTaken, vec![])]);
    assert_eq!(pair.callee_sees(), [], "the caller's own reset finds it gone");
    assert_eq!((pair.caller.in_flight(), pair.callee.in_flight()), (0, 0));
}

#[test]
fn a_request_that_is_taken_stays_where_it_is() {
    let mut pair = Pair::new();
    let stream = pair.taken();
    assert!(!pair.caller.withdraw(stream));
    assert_eq!(pair.callee_sees(), []);
    pair.callee.head(stream, b"200", b"", true).unwrap();
    assert_eq!(pair.caller_sees(), [Seen::Head(stream, b"200".into(), vec![], true)]);
}

#[test]
fn a_withdrawal_that_comes_first_in_the_ring_is_a_cancellation() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"body", true).unwrap();
    assert!(pair.caller.withdraw(stream));
    let seen = pair.callee_sees();
    assert_eq!(seen.last(), Some(&Seen::Cancel(stream)));
    assert_eq!(pair.caller_sees(), [Seen::Reset(stream, ResetCode::NotTaken, vec![])]);
}

#[test]
fn a_callee_that_took_at_the_same_moment_lets_go_and_says_so() {
    let mut pair = Pair::new();
    let stream = pair.caller.open(b"head", b"body", true).unwrap();
    pair.callee_sees();
    // Both words are written before either side looks: the caller sees the callee's, and waits for its word.
    let word = pair.callee.lane.shared.own_layout.claim(stream.index());
    pair.callee
        .lane
        .shared
        .own
        .word(word)
        .store(u32::from(stream.generation()), crate::sync::Ordering::SeqCst);
    assert!(!pair.caller.withdraw(stream));
    assert!(!pair.callee.take(stream));
    assert_eq!(pair.caller_sees(), [Seen::Reset(stream, ResetCode::NotTaken, b"body".into())]);
}

#[test]
fn a_withdrawal_is_not_taken_for_one_of_a_later_use() {
    let mut pair = Pair::new();
    let first = pair.caller.open(b"head", b"", true).unwrap();
    assert!(pair.caller.withdraw(first));
    pair.callee_sees();
    pair.caller_sees();
    for _ in 0..65_534 {
        let stream = pair.taken();
        pair.callee.head(stream, b"200", b"", true).unwrap();
        pair.caller_sees();
    }
    assert_eq!(pair.taken(), first);
}

#[test]
fn a_block_that_is_kept_for_ever_is_no_part_of_a_later_request() {
    let mut pair = Pair::new();
    let first = pair.caller.open(b"head", b"somebody's secret", true).unwrap();
    let mut kept = None;
    pair.callee
        .poll(1, &mut |request| {
            if let Request::Open { body, .. } = request {
                kept = body;
            }
        })
        .unwrap();
    pair.callee.head(first, b"200", b"", true).unwrap();
    pair.caller_sees();
    // So many uses later, the same place and generation come again.
    for _ in 0..65_534 {
        let stream = pair.taken();
        assert_ne!(stream, first);
        pair.callee.head(stream, b"200", b"", true).unwrap();
        pair.caller_sees();
    }
    let again = pair.caller.open(b"head", b"new", true).unwrap();
    assert_eq!(again, first);
    pair.callee_sees();
    pair.callee.refuse(again);
    assert_eq!(pair.caller_sees(), [Seen::Reset(again, ResetCode::NotTaken, b"new".into())]);
    pair.callee.give_back(kept.unwrap());
    pair.arm();
    pair.caller_sees();
    assert_eq!(pair.caller.lane.arena.free_bytes(), 256 * 1024);
}
