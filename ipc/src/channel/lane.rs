//! What both ends of a lane have in common: rings, arenas, windows, and the table of streams.
//!
//! A stream has two halves, ours and theirs. Which frames each half allows is decided by the two ends; how bytes
//! are lent, counted and given back is decided here, the same way for both.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use super::ring::{Incoming, Outgoing, Shared};
use super::slot::{Block, Frame, Freed, Slot};
use super::{BLOCK_BYTES, BLOCK_MAX, Fault, GRANULE, Geometry, InBlock, NoRoom, OutBlock, StreamId, Use};
use crate::claim;
use crate::sync::{Ordering, Site, fence};

/// A block of a stream that already has some lent is not worth less than this: many small ones cost more than
/// waiting for room.
const BLOCK_SMALL: u32 = 8 * 1024;

/// A head up to this size may take what is kept for streams to come: it is one of them.
const HEAD_SMALL: u32 = 4 * 1024;

/// Blocks to give back are not kept for a slot to ride on once they count so much, or are so many.
const RETURNS_MANY: u32 = 32 * 1024;
const RETURNS_LONG: usize = 8;

/// One half of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Half {
    /// Its head has not been sent.
    Head,
    /// Its head has been sent, its end has not.
    Body,
    /// It has ended, one way or the other.
    #[default]
    Done,
}

/// One place of the stream table.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) generation: u16,
    /// Of its current use.
    serial: u64,
    pub(super) active: bool,
    /// What we send.
    pub(super) ours: Half,
    /// What they send.
    pub(super) theirs: Half,
    /// The caller wants it no more.
    pub(super) cancelled: bool,
    /// Callee: the handler has it.
    pub(super) taken: bool,
    /// Caller: nothing of the body has come back, so that it can still be sent elsewhere.
    pub(super) intact: bool,
    /// Bytes that a writer waits for, or 0.
    waits_for: u32,
    /// Bytes of ours that are taken or lent.
    ours_lent: u32,
    /// Bytes of theirs that are lent. Both count whole granules.
    theirs_lent: u32,
    /// Callee: blocks to give back once it is clear that the body need not go elsewhere.
    held: Vec<Held>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    freed: Freed,
    charged: u32,
}

/// Which use of a place a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// The current one, or the last one where the place is free.
    Current,
    /// One before.
    Stale,
}

/// One end of a lane.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) shared: Shared,
    outgoing: Outgoing,
    incoming: Incoming,
    pub(super) arena: super::arena::Arena,
    pub(super) streams: Vec<Stream>,
    last_serial: u64,
    window: u32,
    /// Bytes of theirs that are lent, of all streams and of those that are over.
    theirs_lent: u32,
    /// Blocks to give back with the next slots, and what they count in all.
    returns: VecDeque<Held>,
    returned: u32,
    returns_max: usize,
    /// Streams whose writers wait for room, in the order in which they asked.
    waiting: VecDeque<StreamId>,
    /// Something that waiting writers could use has come back.
    pub(super) roomier: bool,
    /// A stream could not be opened: say so when that may work.
    pub(super) starved: bool,
    /// Frames of streams that were over, dropped.
    stale: u64,
    fault: Option<Fault>,
    /// The other side is known to be dead.
    pub(super) gone: bool,
    /// Where heads are copied to.
    pub(super) scratch: Vec<u8>,
}

impl Lane {
    pub(super) fn new(shared: Shared, geometry: &Geometry) -> Lane {
        let mut streams = Vec::new();
        streams.resize_with(usize::from(geometry.streams), Stream::default);
        Lane {
            arena: super::arena::Arena::new(shared.own_layout.arena_bytes()),
            returns_max: (shared.peer_layout.arena_bytes() / GRANULE) as usize,
            shared,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            streams,
            last_serial: 0,
            window: geometry.window / GRANULE * GRANULE,
            theirs_lent: 0,
            returns: VecDeque::new(),
            returned: 0,
            waiting: VecDeque::new(),
            roomier: false,
            starved: false,
            stale: 0,
            fault: None,
            gone: false,
            scratch: Vec::new(),
        }
    }

    // Faults.

    pub(super) fn check(&self) -> Result<(), Fault> {
        self.fault.map_or(Ok(()), Err)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.gone || self.fault.is_some()
    }

    /// Remembers the first fault: from then on nothing is sent and nothing is believed.
    pub(super) fn fail(&mut self, fault: Fault) -> Fault {
        *self.fault.get_or_insert(fault)
    }

    // Streams.

    /// The stream, while it is active and of this generation.
    pub(super) fn live(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams
            .get_mut(id.index())
            .filter(|stream| stream.active && stream.generation == id.generation())
    }

    /// The use of its place that a live stream is.
    fn use_of(&self, id: StreamId) -> Option<Use> {
        let stream = self.streams.get(id.index())?;
        let lives = stream.active && stream.generation == id.generation();
        lives.then(|| Use { index: id.place(), serial: stream.serial })
    }

    /// The stream of a block, while it is active.
    fn live_use(&mut self, user: Use) -> Option<&mut Stream> {
        self.streams
            .get_mut(usize::from(user.index))
            .filter(|stream| stream.active && stream.serial == user.serial)
    }

    /// Which use of its place a frame is about; neither: a fault.
    pub(super) fn age(&self, id: StreamId) -> Result<Age, Fault> {
        let stream = self.streams.get(id.index()).ok_or(Fault::Stream)?;
        let behind = stream.generation.wrapping_sub(id.generation());
        match behind {
            _ if stream.generation == 0 => Err(Fault::Stream),
            0 => Ok(Age::Current),
            // Half of the numbers are the past. Generation 0 is never used.
            1..=0x7fff if id.generation() != 0 => Ok(Age::Stale),
            _ => Err(Fault::Stream),
        }
    }

    /// Begins a new use of a place.
    pub(super) fn begin(&mut self, id: StreamId, ours: Half, theirs: Half) {
        self.last_serial += 1;
        if let Some(stream) = self.streams.get_mut(id.index()) {
            let held = std::mem::take(&mut stream.held);
            *stream = Stream {
                generation: id.generation(),
                serial: self.last_serial,
                active: true,
                ours,
                theirs,
                intact: true,
                held,
                ..Stream::default()
            };
        }
    }

    /// Frees a place. Blocks that are still held for it go back.
    pub(super) fn finish(&mut self, id: StreamId) {
        self.release_held(id);
        self.roomier = true;
        if let Some(stream) = self.live(id) {
            stream.active = false;
            stream.ours = Half::Done;
            stream.waits_for = 0;
        }
    }

    /// Takes a use back that the other side has not seen.
    pub(super) fn abandon(&mut self, id: StreamId, last_generation: u16) {
        if let Some(stream) = self.live(id) {
            stream.active = false;
            stream.generation = last_generation;
        }
    }

    pub(super) fn drop_stale(&mut self, block: Option<Block>) {
        self.stale += 1;
        if let Some(block) = block {
            self.give_back_now(Held { freed: block.freed(), charged: charge(block.length) });
        }
    }

    /// Whether streams that wait for room, or others, depend on blocks that come back.
    fn wants_room(&self) -> bool {
        self.starved || !self.waiting.is_empty()
    }

    /// Lets the other side see at once that blocks are wanted: it may hold some back. It learns that they are not
    /// any more when we go to sleep.
    pub(super) fn wish(&self) {
        self.shared.own.word(self.shared.own_layout.want_room()).store(1, Ordering::Relaxed);
    }

    /// Whether blocks that somebody waits for have come back while another thread sleeps on this lane: it had gone to
    /// sleep before they were wanted, so that nobody rings for them. A full fence between the wish and the look, as
    /// between the other side's frame and its look at the wish: one of the two sees the other.
    pub(super) fn is_unheard(&self) -> bool {
        self.wants_room() && {
            fence(Site::Sleep);
            self.has_news()
        }
    }

    // Writing.

    /// Publishes one frame; a block to give back rides along.
    pub(super) fn put(&mut self, frame: Frame) {
        if self.is_dead() {
            return;
        }
        let slot = Slot { frame, freed: self.next_return() };
        self.put_slot(slot);
    }

    fn put_slot(&mut self, slot: Slot) {
        if let Err(fault) = self.outgoing.put(&self.shared, slot) {
            self.fail(fault);
        }
    }

    /// Sends a head with what of the body fits behind it, in one block. `None`: no room.
    pub(super) fn put_open(&mut self, stream: StreamId, head: &[u8], body: &[u8], end: bool) -> Option<()> {
        let length = u32::try_from(head.len() + body.len()).ok()?;
        let user = self.use_of(stream)?;
        let small = length <= HEAD_SMALL;
        if charge(length) > self.least_spare() && charge(length) > self.spare(stream, !small) {
            return None;
        }
        let offset = self.arena.take_exact(length)?;
        let at = self.shared.own_layout.arena(offset);
        self.shared.own.copy_in(at, head);
        if !body.is_empty() {
            self.shared.own.copy_in(at + head.len(), body);
        }
        let head = u32::try_from(head.len()).ok()?;
        let block = self.arena.lend(user, offset, length, head);
        if let Some(live) = self.live(stream) {
            live.ours_lent += charge(length);
        }
        self.put(Frame::Open { stream, block, head, end });
        Some(())
    }

    /// Bytes that a stream may take now, up to `want`; 0: it has to wait.
    ///
    /// A stream may hold as much as is left, so that however many are slow, room for others remains.
    fn grant(&self, id: StreamId, want: u32) -> u32 {
        let Some(stream) = self.streams.get(id.index()) else { return 0 };
        let (lent, window) = (stream.ours_lent, self.window.saturating_sub(stream.ours_lent));
        let granted_of = |spare: u32| want.min(window).min(spare.saturating_sub(lent) / 2);
        let mut granted = granted_of(self.least_spare());
        if granted < want {
            granted = granted_of(self.spare(id, true));
        }
        match lent {
            // One granule is always kept for it.
            0 => granted.max(want.min(GRANULE)).min(self.arena.free_bytes()),
            _ if granted >= want.min(BLOCK_SMALL) => granted,
            _ => 0,
        }
    }

    /// Bytes that are free beyond one granule for each other stream that may write and holds nothing and, with
    /// `newcomers`, for streams to come.
    ///
    /// Without it, requests that wait untaken with their bodies could take all there is, while the one request
    /// that runs, and that they all wait for, needs a granule to get on.
    fn spare(&self, id: StreamId, newcomers: bool) -> u32 {
        let (mut kept, mut vacant) = (0, 0);
        for (index, stream) in self.streams.iter().enumerate() {
            let poor = stream.active && stream.ours != Half::Done && stream.ours_lent == 0;
            kept += u32::from(poor && index != id.index());
            vacant += u32::from(!stream.active);
        }
        if newcomers {
            kept += vacant.min(self.newcomers_max());
        }
        self.arena.free_bytes().saturating_sub(kept * GRANULE)
    }

    /// What [`Lane::spare`] is at least, without counting.
    fn least_spare(&self) -> u32 {
        let all = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
        self.arena.free_bytes().saturating_sub(all.saturating_mul(GRANULE))
    }

    /// Streams to come that a granule is kept for: a quarter of the arena for them all.
    fn newcomers_max(&self) -> u32 {
        self.shared.own_layout.arena_bytes() / GRANULE / 4
    }

    /// Takes room for a stream that may write.
    pub(super) fn block(&mut self, id: StreamId, want: usize) -> Result<OutBlock, NoRoom> {
        let want = u32::try_from(want.clamp(1, BLOCK_MAX)).unwrap_or(GRANULE);
        let dead = self.is_dead();
        let stream = self.streams.get(id.index()).ok_or(NoRoom::Gone)?;
        let writable = stream.active && stream.generation == id.generation() && stream.ours != Half::Done;
        if dead || !writable || stream.cancelled {
            return Err(NoRoom::Gone);
        }
        let granted = self.grant(id, want);
        let taken = if granted == 0 { None } else { self.arena.take_up_to(granted) };
        let Some((offset, capacity)) = taken else {
            self.wait(id, want);
            return Err(NoRoom::Later);
        };
        // Whole granules are taken; what the window does not cover of the last one stays unused.
        let capacity = capacity.min(granted);
        self.streams[id.index()].ours_lent += charge(capacity);
        let user = Use { index: id.place(), serial: self.streams[id.index()].serial };
        Ok(OutBlock { stream: user, offset, capacity, length: 0 })
    }

    /// Puts a stream among those that a `Room` event wakes.
    pub(super) fn wait(&mut self, id: StreamId, want: u32) {
        let Some(stream) = self.live(id) else { return };
        if stream.waits_for == 0 {
            self.waiting.push_back(id);
            self.wish();
        }
        if let Some(stream) = self.live(id) {
            stream.waits_for = want.max(1);
        }
    }

    /// Appends to a block.
    pub(super) fn fill(&mut self, block: &mut OutBlock, bytes: &[u8]) -> usize {
        let count = bytes.len().min(block.room());
        if count > 0 {
            self.shared
                .own
                .copy_in(self.shared.own_layout.arena(block.offset + block.length), &bytes[..count]);
            block.length += u32::try_from(count).unwrap_or(0);
        }
        count
    }

    /// Appends to a block from a descriptor.
    pub(super) fn fill_from(&mut self, block: &mut OutBlock, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let at = self.shared.own_layout.arena(block.offset + block.length);
        let count = self.shared.own.read_from(fd, at, block.room())?;
        block.length += u32::try_from(count.min(block.room())).unwrap_or(0);
        Ok(count)
    }

    /// Sends what is in a block: whether there was something. The caller has checked that the stream may.
    pub(super) fn send(&mut self, id: StreamId, block: OutBlock, end: bool) -> bool {
        if block.length == 0 || self.use_of(id) != Some(block.stream) {
            self.discard(block);
            return false;
        }
        let (taken, used) = (charge(block.capacity), charge(block.length));
        if used < taken {
            self.arena.release(block.offset + used, taken - used);
        }
        if let Some(stream) = self.live(id) {
            stream.ours_lent -= taken - used;
        }
        let block = self.arena.lend(block.stream, block.offset, block.length, 0);
        self.put(Frame::Data { stream: id, block, end });
        true
    }

    /// Frees a block that will not be sent.
    pub(super) fn discard(&mut self, block: OutBlock) {
        self.arena.release(block.offset, block.capacity);
        if let Some(stream) = self.live_use(block.stream) {
            stream.ours_lent -= charge(block.capacity);
        }
        self.roomier = true;
    }

    /// A block of ours has come back.
    pub(super) fn take_back(&mut self, freed: Freed) -> Result<(), Fault> {
        let lent = self.arena.take_back(freed)?;
        if let Some(stream) = self.live_use(lent.stream) {
            stream.ours_lent -= charge(lent.length);
            stream.intact &= lent.length == lent.head;
        }
        self.roomier = true;
        Ok(())
    }

    /// The streams that waited and may go on now, one at a time.
    pub(super) fn next_with_room(&mut self, looked_at: &mut usize) -> Option<StreamId> {
        while *looked_at < self.waiting.len() {
            let id = self.waiting[*looked_at];
            let state = self.streams.get(id.index()).map(|stream| {
                let waits = stream.active && stream.generation == id.generation() && stream.waits_for > 0;
                (waits, waits && self.grant(id, stream.waits_for) > 0)
            });
            match state {
                Some((true, false)) => *looked_at += 1,
                state => {
                    self.waiting.remove(*looked_at);
                    if let Some((true, true)) = state {
                        self.streams[id.index()].waits_for = 0;
                        return Some(id);
                    }
                }
            }
        }
        None
    }

    /// Bytes of the body that a stream has sent and that have not come back, in order.
    pub(super) fn sent_body(&self, id: StreamId) -> Vec<u8> {
        let mut body = Vec::new();
        let sent = self.use_of(id).map(|user| self.arena.lent_of(user)).unwrap_or_default();
        for lent in sent {
            let start = body.len();
            body.resize(start + (lent.length - lent.head) as usize, 0);
            self.shared
                .own
                .copy_out(self.shared.own_layout.arena(lent.offset + lent.head), &mut body[start..]);
        }
        body
    }

    // Reading.

    pub(super) fn available(&mut self) -> Result<u32, Fault> {
        self.incoming.available(&self.shared)
    }

    pub(super) fn take_slot(&mut self) -> Result<Slot, Fault> {
        self.incoming.take(&self.shared)
    }

    pub(super) fn publish_head(&mut self) {
        self.incoming.publish(&self.shared);
    }

    pub(super) fn has_news(&self) -> bool {
        self.has_to_tell() || self.incoming.has_news(&self.shared)
    }

    /// The same without blocks that were only given back.
    pub(super) fn has_loud_news(&self) -> bool {
        self.is_dead() || self.incoming.has_loud_news(&self.shared)
    }

    /// Whether a poll would tell something that did not come over the ring: a dead lane has its fault, and who waits
    /// for room that has come is to be told of it.
    fn has_to_tell(&self) -> bool {
        self.is_dead() || (self.roomier && self.wants_room())
    }

    /// Counts a block that has come in against the window.
    pub(super) fn accept(&mut self, id: StreamId, block: Block) -> Result<InBlock, Fault> {
        let (window, arena) = (self.window, self.shared.peer_layout.arena_bytes());
        let all = self.theirs_lent + charge(block.length);
        let stream = self.live(id).ok_or(Fault::Stream)?;
        let lent = stream.theirs_lent + charge(block.length);
        if lent > window || all > arena {
            return Err(Fault::Window);
        }
        stream.theirs_lent = lent;
        let serial = stream.serial;
        self.theirs_lent = all;
        Ok(InBlock {
            stream: Use { index: id.place(), serial },
            offset: block.offset,
            generation: block.generation,
            lent: block.length,
            skip: 0,
        })
    }

    /// Copies the head at the start of a block into the scratch memory.
    pub(super) fn copy_head(&mut self, block: Block, head: u32) {
        let head = head.min(BLOCK_BYTES) as usize;
        if self.scratch.len() < head {
            self.scratch.resize(head.next_power_of_two(), 0);
        }
        self.shared.peer.copy_out(self.shared.peer_layout.arena(block.offset), &mut self.scratch[..head]);
    }

    /// Copies out of a block, from `at` in it: how many bytes.
    pub(super) fn copy_to(&self, block: &InBlock, at: usize, to: &mut [u8]) -> usize {
        let count = block.len().saturating_sub(at).min(to.len());
        if count > 0 {
            let from = self.shared.peer_layout.arena(block.offset + block.skip) + at;
            self.shared.peer.copy_out(from, &mut to[..count]);
        }
        count
    }

    /// Writes private bytes and then blocks, each from a place in it on, with one system call.
    pub(super) fn write_to(
        &self,
        fd: BorrowedFd<'_>,
        prefix: &[IoSlice<'_>],
        blocks: &[(&InBlock, usize)],
    ) -> io::Result<usize> {
        let parts = blocks.iter().map(|&(block, skip)| {
            let skip = skip.min(block.len());
            (self.shared.peer_layout.arena(block.offset + block.skip) + skip, block.len() - skip)
        });
        self.shared.peer.write_to(fd, prefix, parts)
    }

    /// Gives a block back with the next slot, or once its stream is taken.
    pub(super) fn give_back(&mut self, block: InBlock, holds: bool) {
        let freed = Freed { offset: block.offset, generation: block.generation };
        let charged = charge(block.lent);
        match self.live_use(block.stream) {
            Some(stream) if holds && !stream.taken => {
                stream.held.push(Held { freed, charged });
                return;
            }
            Some(stream) => stream.theirs_lent = stream.theirs_lent.saturating_sub(charged),
            None => {}
        }
        self.theirs_lent = self.theirs_lent.saturating_sub(charged);
        self.give_back_now(Held { freed, charged });
    }

    /// Gives back what was held for a stream.
    pub(super) fn release_held(&mut self, id: StreamId) {
        let Some(stream) = self.live(id) else { return };
        let mut held = std::mem::take(&mut stream.held);
        let charged: u32 = held.iter().map(|held| held.charged).sum();
        stream.theirs_lent = stream.theirs_lent.saturating_sub(charged);
        self.theirs_lent = self.theirs_lent.saturating_sub(charged);
        for held in held.drain(..) {
            self.give_back_now(held);
        }
        // The vector goes back for its memory's sake.
        self.streams[id.index()].held = held;
    }

    fn give_back_now(&mut self, held: Held) {
        if self.returns.len() >= self.returns_max {
            // More blocks than the arena has granules: some were lent twice.
            self.fail(Fault::Window);
        } else {
            self.returned += held.charged;
            self.returns.push_back(held);
        }
    }

    fn next_return(&mut self) -> Option<Freed> {
        let Held { freed, charged } = self.returns.pop_front()?;
        self.returned -= charged;
        Some(freed)
    }

    // Waking and sleeping.

    /// Rings where that is due. Blocks to give back wait for a slot to ride on, unless they are many, or wanted.
    pub(super) fn flush(&mut self) {
        let many = self.returned >= RETURNS_MANY || self.returns.len() >= RETURNS_LONG;
        if many || (!self.returns.is_empty() && Outgoing::is_wanted(&self.shared)) {
            self.put_returns();
        }
        self.outgoing.flush(&self.shared);
    }

    fn put_returns(&mut self) {
        while !self.is_dead()
            && let Some(freed) = self.next_return()
        {
            self.put_slot(Slot { frame: Frame::Free, freed: Some(freed) });
        }
    }

    pub(super) fn arm(&mut self) -> bool {
        // Nobody may sleep on what the other side could wait for.
        self.put_returns();
        self.outgoing.flush(&self.shared);
        !self.has_to_tell() && self.incoming.arm(&self.shared, self.wants_room())
    }

    // The words that say what was taken, and what was withdrawn.

    /// Callee: takes a request, unless its caller has withdrawn it.
    pub(super) fn claim(&self, id: StreamId) -> bool {
        let taken = self.shared.own.word(self.shared.own_layout.claim(id.index()));
        let withdrawn = self.shared.peer.word(self.shared.peer_layout.claim(id.index()));
        claim::take(u32::from(id.generation()), taken, &withdrawn)
    }

    /// Caller: takes a request back, unless its callee may have taken it.
    pub(super) fn unclaim(&self, id: StreamId) -> bool {
        let withdrawn = self.shared.own.word(self.shared.own_layout.claim(id.index()));
        let taken = self.shared.peer.word(self.shared.peer_layout.claim(id.index()));
        claim::withdraw(u32::from(id.generation()), withdrawn, &taken)
    }

    /// Makes sure that our own word says nothing of a new use of a place: it may be left from a use 65,535 uses ago.
    pub(super) fn clear_claim(&self, id: StreamId) {
        let word = self.shared.own.word(self.shared.own_layout.claim(id.index()));
        if word.load(Ordering::Relaxed) == u32::from(id.generation()) {
            word.store(0, Ordering::Release);
        }
    }

    pub(super) fn peer_took(&self, id: StreamId) -> bool {
        use crate::event_index::Load;
        let at = self.shared.peer_layout.claim(id.index());
        // SYNC POINT: taken.
        self.shared.peer.word(at).load(Ordering::Acquire) == u32::from(id.generation())
    }

    /// Every invariant of the books that does not depend on the other side.
    #[cfg(debug_assertions)]
    pub(super) fn check_invariants(&self) {
        let in_use: u32 = self.streams.iter().filter(|stream| stream.active).map(|s| s.ours_lent).sum();
        let taken = self.shared.own_layout.arena_bytes() - self.arena.free_bytes();
        assert!(in_use <= taken, "streams account for {in_use} bytes of {taken} that are taken");
        assert!(self.streams.iter().all(|stream| stream.theirs_lent <= self.window), "no window is passed");
        assert!(self.returns.len() <= self.returns_max, "returns are bounded");
    }
}

/// What a block counts: the granules that it takes of its arena, so that windows also bound how many there are.
fn charge(bytes: u32) -> u32 {
    bytes.div_ceil(GRANULE).max(1) * GRANULE
}
