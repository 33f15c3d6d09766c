//! Arbitrary memory: one honest end against a peer whose segment says whatever the input makes it say.
//!
//! The input is a script. Each step scribbles over the peer's segment, or lets the honest end do something. The
//! findings are panics: of the mapping's bounds checks, of the lane's own invariants, or of the bounds below.

use std::sync::Arc;

use super::slot::{Block, Frame, Freed, Slot, Words};
use super::{Event, Geometry, InBlock, Layout, OutBlock, Request, Requester, ResetCode, Responder, StreamId};
use crate::attach::{self, UpBell};
use crate::sync::Ordering;
use crate::sys::memory::Writable;

/// Steps of one script, at most.
const STEPS_MAX: usize = 2_000;

/// Runs a script against a caller or a callee.
///
/// # Panics
/// Where the other side's memory gets through a check: that is the finding.
pub fn fuzz_consumer(bytes: &[u8]) {
    let mut script = Script(bytes);
    let (mut connected, mut accepted) = attach::local(1, Geometry::small(), UpBell::EventFd)
        .expect("a channel within one process can be made");
    let (caller, callee) = (connected.lanes.remove(0), accepted.lanes.remove(0));
    if script.byte().is_multiple_of(2) {
        let peer = Peer::new(&callee.lane.shared.own, callee.lane.shared.own_layout);
        run(&mut script, peer, Honest::Caller(Box::new(caller)));
    } else {
        let peer = Peer::new(&caller.lane.shared.own, caller.lane.shared.own_layout);
        run(&mut script, peer, Honest::Callee(Box::new(callee)));
    }
}

fn run(script: &mut Script<'_>, mut peer: Peer, mut honest: Honest) {
    let mut kept = Kept::default();
    for _ in 0..STEPS_MAX {
        if script.0.is_empty() {
            break;
        }
        match script.byte() % 16 {
            0 => peer.put_words(script.words()),
            1 => peer.word(peer.layout.tail(), script.u32()),
            2 => peer.word(peer.layout.head(), script.u32()),
            3 => peer.word(peer.layout.wake_at(), script.u32()),
            4 => peer.word(peer.layout.want_room(), script.u32()),
            5 => {
                let at = peer.layout.claim(usize::from(script.byte() % 32));
                peer.word(at, script.u32());
            }
            6..=9 => peer.put(script, &kept),
            10 => honest.poll(script, &mut kept),
            11 => honest.write(script, &mut kept),
            12 => honest.act(script, &mut kept),
            13 => honest.give_back(script, &mut kept),
            14 => honest.settle(),
            _ => peer.follow(&honest),
        }
    }
    honest.end(&mut kept);
}

/// What the honest end holds.
#[derive(Default)]
struct Kept {
    streams: Vec<StreamId>,
    blocks: Vec<InBlock>,
    rooms: Vec<(StreamId, OutBlock)>,
    /// Blocks that the honest end has sent: what a peer could return.
    sent: u32,
}

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn words(&mut self) -> Words {
        std::array::from_fn(|_| self.u32())
    }

    /// Zeroes after the end.
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let count = N.min(self.0.len());
        let (now, rest) = self.0.split_at(count);
        taken[..count].copy_from_slice(now);
        self.0 = rest;
        taken
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let place = usize::from(self.byte());
        (!from.is_empty()).then(|| from[place % from.len()])
    }
}

/// The side that writes what it likes.
struct Peer {
    memory: Arc<Writable>,
    layout: Layout,
    tail: u32,
    generation: u32,
}

impl Peer {
    fn new(memory: &Arc<Writable>, layout: Layout) -> Peer {
        Peer { memory: memory.clone(), layout, tail: 0, generation: 1 }
    }

    fn word(&self, at: usize, value: u32) {
        self.memory.word(at).store(value, Ordering::Release);
    }

    fn put_words(&mut self, words: Words) {
        self.memory.store_words(self.layout.slot(self.tail), words);
        self.tail = self.tail.wrapping_add(1);
        self.word(self.layout.tail(), self.tail);
    }

    /// A slot that is likely to be believed.
    fn put(&mut self, script: &mut Script<'_>, kept: &Kept) {
        let stream = match script.byte() {
            byte @ 0..128 => StreamId::new(u16::from(byte % 4), u16::from(byte / 4 % 4)),
            _ => script.pick(&kept.streams).unwrap_or(StreamId(1)),
        };
        let length = u32::from(script.byte()) * 64;
        let offset = u32::from(script.byte() % 64) * 1024;
        let block = Block { offset, length, generation: self.generation };
        self.generation += 1;
        let end = script.byte().is_multiple_of(2);
        let frame = match script.byte() % 8 {
            0 | 1 => Frame::Open { stream, block, head: u32::from(script.byte()).min(length), end },
            2 | 3 => Frame::Data { stream, block, end },
            4 => Frame::End { stream },
            5 => Frame::Reset { stream, code: ResetCode::Cancelled },
            6 => Frame::Reset { stream, code: ResetCode::NotTaken },
            _ => Frame::Free,
        };
        let returns = frame == Frame::Free || script.byte().is_multiple_of(4);
        let freed = returns.then(|| Freed {
            offset: u32::from(script.byte() % 8) * 1024,
            generation: u32::from(script.byte()) % (kept.sent + 2),
        });
        self.put_words(Slot { frame, freed }.to_words());
    }

    /// Reads everything, as a peer that lives would.
    fn follow(&self, honest: &Honest) {
        let (memory, layout) = match honest {
            Honest::Caller(caller) => (&caller.lane.shared.own, caller.lane.shared.own_layout),
            Honest::Callee(callee) => (&callee.lane.shared.own, callee.lane.shared.own_layout),
        };
        self.word(self.layout.head(), memory.word(layout.tail()).load(Ordering::Relaxed));
    }
}

enum Honest {
    Caller(Box<Requester>),
    Callee(Box<Responder>),
}

impl Honest {
    fn poll(&mut self, script: &mut Script<'_>, kept: &mut Kept) {
        let budget = u32::from(script.byte());
        let mut events = 0;
        let streams = match self {
            Honest::Caller(caller) => {
                let _ = caller.poll(budget, &mut |event| {
                    events += 1;
                    match event {
                        Event::Head { head, body, .. } => {
                            std::hint::black_box(head.iter().map(|&byte| u64::from(byte)).sum::<u64>());
                            kept.blocks.extend(body);
                        }
                        Event::Data { block, .. } => kept.blocks.push(block),
                        _ => {}
                    }
                });
                caller.lane.streams.len()
            }
            Honest::Callee(callee) => {
                let _ = callee.poll(budget, &mut |request| {
                    events += 1;
                    match request {
                        Request::Open { stream, body, .. } => {
                            kept.streams.push(stream);
                            kept.blocks.extend(body);
                        }
                        Request::Data { block, .. } => kept.blocks.push(block),
                        _ => {}
                    }
                });
                callee.lane.streams.len()
            }
        };
        // A slot says at most two things; rooms and a vacancy come at most once for each poll.
        assert!(events <= 2 * budget as usize + streams + 1, "{events} events from {budget} slots");
        kept.streams.truncate(64);
    }

    fn write(&mut self, script: &mut Script<'_>, kept: &mut Kept) {
        let Some(stream) = script.pick(&kept.streams) else { return };
        let want = usize::from(script.byte()) * 64;
        let bytes = vec![0x5a; want];
        let end = script.byte().is_multiple_of(4);
        let made = match self {
            Honest::Caller(caller) => caller.block(stream, want),
            Honest::Callee(callee) => callee.block(stream, want),
        };
        let Ok(mut block) = made else { return };
        assert!(block.room() > 0, "a block has room");
        match self {
            Honest::Caller(caller) => caller.fill(&mut block, &bytes),
            Honest::Callee(callee) => callee.fill(&mut block, &bytes),
        };
        kept.sent += 1;
        match self {
            _ if script.byte().is_multiple_of(4) => kept.rooms.push((stream, block)),
            Honest::Caller(caller) => caller.send(stream, block, end),
            Honest::Callee(callee) => callee.send(stream, block, end),
        }
    }

    fn act(&mut self, script: &mut Script<'_>, kept: &mut Kept) {
        let stream = script.pick(&kept.streams).unwrap_or(StreamId(0));
        let body = vec![1; usize::from(script.byte())];
        let end = script.byte().is_multiple_of(2);
        match (self, script.byte() % 5) {
            (Honest::Caller(caller), 0) => caller.end(stream),
            (Honest::Caller(caller), 1) => caller.cancel(stream),
            (Honest::Caller(caller), _) => {
                kept.streams.extend(caller.open(b"head", &body, end));
                kept.sent += 1;
            }
            (Honest::Callee(callee), 0) => {
                let _ = callee.take(stream);
            }
            (Honest::Callee(callee), 1) => callee.refuse(stream),
            (Honest::Callee(callee), 2) => callee.end(stream),
            (Honest::Callee(callee), 3) => callee.reset(stream, ResetCode::Failed),
            (Honest::Callee(callee), _) => {
                let _ = callee.head(stream, b"head", &body, end);
                kept.sent += 1;
            }
        }
    }

    fn give_back(&mut self, script: &mut Script<'_>, kept: &mut Kept) {
        if kept.blocks.is_empty() {
            return;
        }
        let block = kept.blocks.swap_remove(usize::from(script.byte()) % kept.blocks.len());
        let mut bytes = vec![0; block.len()];
        match self {
            Honest::Caller(caller) => {
                assert_eq!(caller.copy_to(&block, 0, &mut bytes), bytes.len());
                caller.give_back(block);
            }
            Honest::Callee(callee) => {
                assert_eq!(callee.copy_to(&block, 0, &mut bytes), bytes.len());
                callee.give_back(block);
            }
        }
    }

    fn settle(&mut self) {
        match self {
            Honest::Caller(caller) => {
                caller.arm();
            }
            Honest::Callee(callee) => {
                callee.arm();
            }
        }
    }

    /// Everything comes home, or the lane dies, and nothing is left of either.
    fn end(self, kept: &mut Kept) {
        match self {
            Honest::Caller(mut caller) => {
                for (stream, block) in kept.rooms.drain(..) {
                    caller.send(stream, block, true);
                }
                for block in kept.blocks.drain(..) {
                    caller.give_back(block);
                }
                caller.flush();
                let in_flight = caller.in_flight();
                let orphans = caller.died(&mut |_| {});
                assert!(orphans.len() <= in_flight, "an orphan for each stream in flight, at most");
            }
            Honest::Callee(mut callee) => {
                for (_, block) in kept.rooms.drain(..) {
                    callee.discard(block);
                }
                callee.flush();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::model::cases;

    proptest! {
        #![proptest_config(cases(400))]
        #[test]
        fn no_script_gets_through(script in prop::collection::vec(any::<u8>(), 0..3000)) {
            fuzz_consumer(&script);
        }
    }

    /// Found by fuzzing: room taken for a stream was counted for a later one of the same name.
    #[test]
    fn a_caller_that_runs_through_generations_confuses_nobody() {
        let (connected, mut accepted) = attach::local(1, Geometry::small(), UpBell::EventFd).unwrap();
        let (caller, mut callee) = (&connected.lanes[0], accepted.lanes.remove(0));
        let mut peer = Peer::new(&caller.lane.shared.own, caller.lane.shared.own_layout);
        let mut room = None;
        for (turn, generation) in [1, 0x8000, 0xffff, 1].into_iter().enumerate() {
            let stream = StreamId::new(0, generation);
            let block = Block { offset: 0, length: 1, generation: 1 };
            let frame = Frame::Open { stream, block, head: 1, end: false };
            peer.put_words(Slot { frame, freed: None }.to_words());
            callee.poll(1, &mut |_| {}).unwrap();
            room = room.or_else(|| callee.block(stream, 5_000).ok());
            if turn < 3 {
                callee.reset(stream, ResetCode::Failed);
            }
        }
        callee.discard(room.unwrap());
        assert_eq!(callee.lane.arena.free_bytes(), Geometry::small().up_arena);
        let room = callee.block(StreamId::new(0, 1), 5_000).unwrap();
        callee.discard(room);
    }

    /// Memory that changes between any two looks.
    #[test]
    fn memory_that_changes_all_the_time_does_no_harm() {
        let mut random = numbers(7);
        for round in 0..200 {
            let (mut connected, mut accepted) = attach::local(1, Geometry::small(), UpBell::EventFd).unwrap();
            let (mut caller, mut callee) = (connected.lanes.remove(0), accepted.lanes.remove(0));
            let victim_is_caller = round % 2 == 0;
            let (memory, layout) = {
                let lane = if victim_is_caller { &callee.lane } else { &caller.lane };
                (lane.shared.own.clone(), lane.shared.own_layout)
            };
            let seed = random();
            let streams: Vec<_> = (0..8).filter_map(|_| caller.open(b"head", b"body", false).ok()).collect();
            std::thread::scope(|scope| {
                scope.spawn(move || scribble(&memory, layout, seed));
                for turn in 0..300u32 {
                    let mut blocks = Vec::new();
                    let polled = if victim_is_caller {
                        caller.poll(64, &mut |event| match event {
                            Event::Head { body, .. } => blocks.extend(body),
                            Event::Data { block, .. } => blocks.push(block),
                            _ => {}
                        })
                    } else {
                        callee.poll(64, &mut |request| match request {
                            Request::Open { body, .. } => blocks.extend(body),
                            Request::Data { block, .. } => blocks.push(block),
                            _ => {}
                        })
                    };
                    for block in blocks {
                        let mut bytes = [0; 64];
                        if victim_is_caller {
                            caller.copy_to(&block, 0, &mut bytes);
                            caller.give_back(block);
                        } else {
                            callee.copy_to(&block, 0, &mut bytes);
                            callee.give_back(block);
                        }
                    }
                    if polled.is_err() {
                        break;
                    }
                    if victim_is_caller {
                        caller.cancel(streams[turn as usize % streams.len()]);
                        caller.arm();
                    } else {
                        callee.arm();
                    }
                }
            });
            caller.died(&mut |_| {});
        }
    }

    /// Writes plausible and implausible words all over the control part of a segment.
    fn scribble(memory: &Writable, layout: Layout, seed: u32) {
        let mut random = numbers(seed);
        let mut tail = 0u32;
        for _ in 0..2_000 {
            for _ in 0..random() % 4 {
                let mut words: Words = std::array::from_fn(|_| random());
                if !random().is_multiple_of(8) {
                    // Of a known kind, on a known stream, mostly within the arena.
                    words[0] = (1 + random() % 5) | if random().is_multiple_of(3) { 0x100 } else { 0 };
                    words[1] = (random() % 8) | 1 << 16;
                    words[2] = random() % 64 * 1024;
                    words[3] = random() % 2048;
                    words[4] = 0;
                    words[5] = 0;
                    words[6] = if words[0] & 0xff == 1 { random() % (words[3] + 1) } else { 0 };
                    if words[0] & 0xff > 2 {
                        words[2] = 0;
                        words[3] = 0;
                        words[7] = 0;
                    }
                    if words[0] & 0xff == 4 {
                        words[0] = 4 | (1 + random() % 5) << 16;
                    }
                }
                memory.store_words(layout.slot(random() % 1024), words);
            }
            tail = tail.wrapping_add(random() % 3);
            memory.word(layout.tail()).store(tail, Ordering::Release);
            memory.word(layout.head()).store(random() % 64, Ordering::Release);
            memory.word(layout.wake_at()).store(random(), Ordering::Release);
            memory.word(layout.claim((random() % 32) as usize)).store(random() % 3, Ordering::Release);
        }
    }

    /// A small generator: the same numbers for the same seed.
    fn numbers(seed: u32) -> impl FnMut() -> u32 {
        let mut state = u64::from(seed) + 0x9e37_79b9_7f4a_7c15;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        }
    }
}
