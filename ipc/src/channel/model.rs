//! Two honest ends under random use, beside a shadow model that knows what each may see.
//!
//! A seed gives the whole run. After every step: bytes arrive in order, whole and in the right stream; each
//! stream ends once; nothing comes after its end; neither side ever calls the other faulty, so the ring was
//! never full. When all is settled, every block is home. At a random step one side dies.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    Busy, Event, Geometry, InBlock, NoRoom, Orphan, Phase, Request, Requester, ResetCode, Responder, StreamId,
};
use crate::attach::{self, UpBell};

/// What the model knows of one request.
#[derive(Debug, Default)]
struct Shadow {
    number: u32,
    /// Request: bytes sent and seen, and whether the end was.
    sent: usize,
    sent_end: bool,
    seen: usize,
    seen_end: bool,
    cancelled: bool,
    withdrawn: bool,
    /// Callee: has it, has begun, has finished with it.
    opened: bool,
    taken: bool,
    refused: bool,
    answered: bool,
    finished: bool,
    reset: Option<ResetCode>,
    /// Response: bytes sent and seen.
    response_sent: usize,
    response_seen: usize,
    head_seen: bool,
}

/// The byte at a place of a body: another one for every request, direction and place.
fn byte(number: u32, up: bool, at: usize) -> u8 {
    let place = u32::try_from(at).expect("bodies of the model are small");
    let mixed = (place ^ number.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b) ^ u32::from(up);
    mixed.to_le_bytes()[2]
}

pub(crate) fn bytes(number: u32, up: bool, from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| byte(number, up, at)).collect()
}

struct World {
    caller: Requester,
    callee: Responder,
    streams: HashMap<StreamId, Shadow>,
    /// Streams whose response has ended, with the request's body still open.
    late: Vec<StreamId>,
    caller_blocks: Vec<InBlock>,
    callee_blocks: Vec<InBlock>,
    opened: u32,
    random: u64,
}

/// Copies of what came, so that the model can look at it without the lane.
enum Came {
    Head(StreamId, Vec<u8>, Option<InBlock>, bool),
    Data(StreamId, InBlock, bool),
    End(StreamId),
    Reset(StreamId, ResetCode, Vec<u8>),
    Cancel(StreamId),
    Room,
}

fn copy_event(event: Event<'_>) -> Came {
    match event {
        Event::Head { stream, head, body, end } => Came::Head(stream, head.to_vec(), body, end),
        Event::Data { stream, block, end } => Came::Data(stream, block, end),
        Event::End(stream) => Came::End(stream),
        Event::Reset { stream, code, body } => Came::Reset(stream, code, body.to_vec()),
        Event::Room(_) | Event::Vacancy => Came::Room,
    }
}

fn copy_request(request: Request<'_>) -> Came {
    match request {
        Request::Open { stream, head, body, end } => Came::Head(stream, head.to_vec(), body, end),
        Request::Data { stream, block, end } => Came::Data(stream, block, end),
        Request::End(stream) => Came::End(stream),
        Request::Cancel(stream) => Came::Cancel(stream),
        Request::Room(_) => Came::Room,
    }
}

impl World {
    fn new(seed: u64, geometry: Geometry) -> World {
        let (mut connected, mut accepted) = attach::local(1, geometry, UpBell::EventFd).unwrap();
        World {
            caller: connected.lanes.remove(0),
            callee: accepted.lanes.remove(0),
            streams: HashMap::new(),
            late: Vec::new(),
            caller_blocks: Vec::new(),
            callee_blocks: Vec::new(),
            opened: 0,
            random: seed,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below.max(1)
    }

    /// A size as requests have them: mostly small, now and then a whole block and more.
    fn size(&mut self) -> usize {
        match self.random(4) {
            0 => 0,
            1 => self.random(200),
            2 => self.random(5_000),
            _ => self.random(70_000),
        }
    }

    fn pick(&mut self, which: impl Fn(&Shadow) -> bool) -> Option<StreamId> {
        let mut found: Vec<StreamId> =
            self.streams.iter().filter(|(_, shadow)| which(shadow)).map(|(&id, _)| id).collect();
        found.sort_by_key(|id| id.index());
        let place = self.random(found.len());
        found.get(place).copied()
    }

    fn step(&mut self) {
        match self.random(20) {
            0..=2 => self.open(),
            3..=5 => self.write_request(),
            6 => self.end_request(),
            7 if self.random(3) == 0 => self.withdraw(),
            7 => self.cancel(),
            8 | 9 => self.poll_caller(),
            10 | 11 => self.poll_callee(),
            12 | 13 => self.take(),
            14..=16 => self.respond(),
            17 => self.reset(),
            18 => self.give_back(),
            _ => {
                self.caller.arm();
                self.callee.arm();
            }
        }
    }

    fn open(&mut self) {
        let number = self.opened + 1;
        let (size, end) = (self.size().min(60_000), self.random(2) == 0);
        let (head, body) = (number.to_le_bytes(), bytes(number, false, 0, size));
        match self.caller.open(&head, &body, end) {
            Ok(stream) => {
                let shadow = Shadow { number, sent: size, sent_end: end, ..Shadow::default() };
                assert!(self.streams.insert(stream, shadow).is_none(), "{stream:?} is in use");
                self.opened = number;
            }
            Err(busy) => assert!(matches!(busy, Busy::Streams | Busy::Arena), "{busy}"),
        }
    }

    fn write_request(&mut self) {
        let (want, end) = (self.size(), self.random(8) == 0);
        let late = std::mem::take(&mut self.late);
        let stream = late.first().copied().or_else(|| self.pick(|s| !s.sent_end && !s.cancelled));
        let caller = &mut self.caller;
        if let Some(&stream) = late.first() {
            // The response is over already: what is sent now is dropped by the callee.
            if let Ok(mut block) = caller.block(stream, want) {
                caller.fill(&mut block, &vec![0; want]);
                caller.send(stream, block, false);
            }
            if end {
                caller.end(stream);
            } else {
                caller.cancel(stream);
            }
            self.late = late[1..].to_vec();
            return;
        }
        let Some(stream) = stream else { return };
        let Ok(mut block) = caller.block(stream, want) else { return };
        let shadow = self.streams.get_mut(&stream).unwrap();
        let count = caller.fill(&mut block, &bytes(shadow.number, false, shadow.sent, want));
        assert_eq!(count, block.len());
        shadow.sent += count;
        shadow.sent_end = end;
        caller.send(stream, block, end);
    }

    fn end_request(&mut self) {
        if let Some(stream) = self.pick(|s| !s.sent_end && !s.cancelled) {
            self.streams.get_mut(&stream).unwrap().sent_end = true;
            self.caller.end(stream);
        }
    }

    fn cancel(&mut self) {
        if let Some(stream) = self.pick(|s| !s.cancelled) {
            self.streams.get_mut(&stream).unwrap().cancelled = true;
            self.caller.cancel(stream);
        }
    }

    fn withdraw(&mut self) {
        if let Some(stream) = self.pick(|s| !s.cancelled && !s.head_seen) {
            let withdrawn = self.caller.withdraw(stream);
            let shadow = self.streams.get_mut(&stream).unwrap();
            // What the callee has let go of for good needs no withdrawing, and what it has begun with stays there.
            assert_eq!(withdrawn, !shadow.taken, "{shadow:?}");
            shadow.cancelled = withdrawn;
            shadow.withdrawn = withdrawn;
        }
    }

    fn poll_caller(&mut self) {
        let budget = u32::try_from(self.random(40)).unwrap();
        let mut came = Vec::new();
        self.caller.poll(budget, &mut |event| came.push(copy_event(event))).unwrap();
        for came in came {
            self.caller_sees(came);
        }
    }

    fn caller_sees(&mut self, came: Came) {
        let (stream, ends) = match came {
            Came::Head(stream, head, body, end) => {
                let shadow = self.streams.get_mut(&stream).expect("a head of a stream that is open");
                assert!(shadow.answered && !shadow.head_seen && !shadow.cancelled);
                assert_eq!(head, shadow.number.to_be_bytes());
                shadow.head_seen = true;
                self.read_response(stream, body);
                (stream, end)
            }
            Came::Data(stream, block, end) => {
                assert!(self.streams[&stream].head_seen && !self.streams[&stream].cancelled);
                self.read_response(stream, Some(block));
                (stream, end)
            }
            Came::End(stream) => (stream, true),
            Came::Reset(stream, code, body) => {
                let shadow = self.streams.remove(&stream).expect("a reset of a stream that is open");
                Self::check_reset(&shadow, code, &body);
                return;
            }
            Came::Cancel(_) | Came::Room => return,
        };
        if ends {
            let shadow = self.streams.remove(&stream).expect("the end of a stream that is open");
            assert!(shadow.finished && shadow.head_seen && !shadow.cancelled);
            assert_eq!(shadow.response_seen, shadow.response_sent);
            if !shadow.sent_end {
                self.late.push(stream);
            }
        }
    }

    fn check_reset(shadow: &Shadow, code: ResetCode, body: &[u8]) {
        match code {
            ResetCode::NotTaken => {
                assert!(!shadow.taken, "it was taken");
                assert!(shadow.refused || shadow.cancelled);
                let expected = if shadow.cancelled { 0 } else { shadow.sent };
                assert_eq!(body, bytes(shadow.number, false, 0, expected));
            }
            ResetCode::Cancelled => assert!(shadow.cancelled && body.is_empty()),
            code => assert_eq!((Some(code), body), (shadow.reset, &[][..])),
        }
    }

    fn read_response(&mut self, stream: StreamId, block: Option<InBlock>) {
        let Some(block) = block else { return };
        let mut got = vec![0; block.len()];
        self.caller.copy_to(&block, 0, &mut got);
        let shadow = self.streams.get_mut(&stream).unwrap();
        assert_eq!(got, bytes(shadow.number, true, shadow.response_seen, got.len()), "{stream:?}");
        shadow.response_seen += got.len();
        self.caller_blocks.push(block);
    }

    fn poll_callee(&mut self) {
        let budget = u32::try_from(self.random(40)).unwrap();
        let mut came = Vec::new();
        self.callee.poll(budget, &mut |request| came.push(copy_request(request))).unwrap();
        for came in came {
            self.callee_sees(came);
        }
    }

    fn callee_sees(&mut self, came: Came) {
        let (stream, block, end) = match came {
            Came::Head(stream, head, body, end) => {
                let shadow = self.streams.get_mut(&stream).expect("a request that is open");
                assert_eq!(head, shadow.number.to_le_bytes());
                shadow.opened = true;
                (stream, body, end)
            }
            Came::Data(stream, block, end) => (stream, Some(block), end),
            Came::End(stream) => (stream, None, true),
            Came::Cancel(stream) => {
                let shadow = self.streams.get_mut(&stream).expect("a cancelled request is open");
                assert!(shadow.cancelled && !shadow.finished);
                shadow.finished = !shadow.taken;
                return;
            }
            Came::Reset(..) | Came::Room => return,
        };
        let shadow = self.streams.get_mut(&stream).expect("frames of an open request");
        assert!(!shadow.finished && !shadow.seen_end);
        if let Some(block) = block {
            let mut got = vec![0; block.len()];
            self.callee.copy_to(&block, 0, &mut got);
            assert_eq!(got, bytes(shadow.number, false, shadow.seen, got.len()), "{stream:?}");
            shadow.seen += got.len();
            self.callee_blocks.push(block);
        }
        shadow.seen_end = end;
        assert!(!end || shadow.seen == shadow.sent || shadow.cancelled);
    }

    fn take(&mut self) {
        if let Some(stream) = self.pick(|s| s.opened && !s.finished && !s.taken) {
            let taken = self.callee.take(stream);
            let shadow = self.streams.get_mut(&stream).unwrap();
            assert_eq!(taken, !shadow.withdrawn);
            shadow.taken = taken;
            shadow.finished = !taken;
        }
    }

    fn respond(&mut self) {
        let (size, end) = (self.size(), self.random(4) == 0);
        let Some(stream) = self.pick(|s| s.taken && !s.finished) else { return };
        let shadow = self.streams.get_mut(&stream).unwrap();
        if !shadow.answered {
            let body = bytes(shadow.number, true, 0, size.min(30_000));
            match self.callee.head(stream, &shadow.number.to_be_bytes(), &body, end) {
                Ok(()) => {
                    shadow.answered = true;
                    shadow.response_sent = body.len();
                    shadow.finished = end;
                }
                Err(no_room) => assert_eq!(no_room, NoRoom::Later),
            }
            return;
        }
        match self.callee.block(stream, size) {
            Ok(mut block) => {
                let count =
                    self.callee.fill(&mut block, &bytes(shadow.number, true, shadow.response_sent, size));
                shadow.response_sent += count;
                shadow.finished = end;
                self.callee.send(stream, block, end);
            }
            Err(NoRoom::Gone) => {
                assert!(shadow.cancelled);
                shadow.finished = true;
                self.callee.end(stream);
            }
            Err(no_room) => assert_eq!(no_room, NoRoom::Later),
        }
    }

    fn reset(&mut self) {
        let code = [ResetCode::Failed, ResetCode::Deadline, ResetCode::Protocol][self.random(3)];
        if let Some(stream) = self.pick(|s| s.opened && !s.finished) {
            let shadow = self.streams.get_mut(&stream).unwrap();
            shadow.finished = true;
            if shadow.taken {
                shadow.reset = Some(code);
                self.callee.reset(stream, code);
            } else {
                shadow.refused = true;
                self.callee.refuse(stream);
            }
        }
    }

    fn give_back(&mut self) {
        for _ in 0..self.random(8) {
            let (near, far) = (self.random(self.caller_blocks.len()), self.random(self.callee_blocks.len()));
            if !self.caller_blocks.is_empty() {
                let block = self.caller_blocks.swap_remove(near);
                self.caller.give_back(block);
            }
            if !self.callee_blocks.is_empty() {
                self.callee.give_back(self.callee_blocks.swap_remove(far));
            }
        }
    }

    /// Lets everything come to its end: all blocks must be home and all places free.
    fn settle(mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "it does not settle: {:?}", self.streams);
            while let Some(block) = self.caller_blocks.pop() {
                self.caller.give_back(block);
            }
            while let Some(block) = self.callee_blocks.pop() {
                self.callee.give_back(block);
            }
            for stream in std::mem::take(&mut self.late) {
                self.caller.cancel(stream);
            }
            self.take();
            self.respond();
            self.end_request();
            self.poll_caller();
            self.poll_callee();
            let (asleep, idle) = (self.caller.arm(), self.callee.arm());
            // Returns are quiet: the last ones may have come behind the other side's last look.
            let quiet = asleep && idle && !self.caller.has_news();
            let held = self.caller_blocks.len() + self.callee_blocks.len() + self.late.len();
            if self.streams.is_empty() && held == 0 && quiet {
                let caller = &mut self.caller;
                assert_eq!((caller.in_flight(), self.callee.in_flight()), (0, 0));
                for lane in [&caller.lane, &self.callee.lane] {
                    assert_eq!(lane.arena.free_bytes(), lane.shared.own_layout.arena_bytes());
                }
                return;
            }
        }
    }

    /// The callee dies: what it has published is delivered, the rest comes back as what it is.
    fn kill(mut self) {
        let mut came = Vec::new();
        let orphans = self.caller.died(&mut |event| came.push(copy_event(event)));
        for came in came {
            self.caller_sees(came);
        }
        for Orphan { stream, phase, cancelled, body } in orphans {
            let shadow = self.streams.remove(&stream).expect("an orphan is a stream that is open");
            assert_eq!(cancelled, shadow.cancelled);
            let taken = shadow.taken || shadow.head_seen;
            assert_eq!(phase, if taken { Phase::Taken } else { Phase::NotTaken }, "{shadow:?}");
            if !taken {
                assert_eq!(body, bytes(shadow.number, false, 0, shadow.sent));
            }
        }
        assert!(self.streams.is_empty(), "streams that nobody settled: {:?}", self.streams);
    }
}

fn geometries() -> impl Strategy<Value = Geometry> {
    prop_oneof![
        Just(Geometry::default()),
        Just(Geometry::small()),
        Just(Geometry { streams: 2, ..Geometry::small() }),
        Just(Geometry { down_arena: 128 * 1024, up_arena: 512 * 1024, window: 300_000, streams: 64 }),
    ]
}

/// So many cases; those that `PROPTEST_CASES` says, where it says how many.
#[expect(clippy::disallowed_methods, reason = "a campaign by hand is longer than the suite's")]
pub(super) fn cases(usual: u32) -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig::with_cases(usual),
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn whatever_both_sides_do_bytes_arrive_and_all_comes_home(
        seed in any::<u64>(), steps in 0usize..1500, geometry in geometries()
    ) {
        let mut world = World::new(seed, geometry);
        for _ in 0..steps {
            world.step();
        }
        world.settle();
    }

    #[test]
    fn at_any_step_a_death_tells_the_truth(seed in any::<u64>(), steps in 0usize..500, geometry in geometries()) {
        let mut world = World::new(seed, geometry);
        for _ in 0..steps {
            world.step();
        }
        world.kill();
    }
}
