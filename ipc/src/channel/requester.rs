//! The caller's end of a lane.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};

use super::lane::{Age, Half, Lane};
use super::ring::Shared;
use super::slot::{Block, Frame, Slot};
use super::{BLOCK_MAX, Busy, Fault, Geometry, InBlock, NoRoom, OutBlock, ResetCode, StreamId};
use crate::sys::bell::BellReader;

/// What comes from the callee. Heads are borrowed for the callback: copy what is kept.
#[derive(Debug)]
pub enum Event<'a> {
    /// The response begins.
    Head {
        /// Of which request.
        stream: StreamId,
        /// A private copy of the record.
        head: &'a [u8],
        /// The first of the body.
        body: Option<InBlock>,
        /// That is the whole body.
        end: bool,
    },
    /// More of the response's body.
    Data {
        /// Of which request.
        stream: StreamId,
        /// The bytes.
        block: InBlock,
        /// The body ends with them.
        end: bool,
    },
    /// The response's body has ended.
    End(StreamId),
    /// The stream is over without (all of) a response.
    Reset {
        /// Which.
        stream: StreamId,
        /// Why.
        code: ResetCode,
        /// For [`ResetCode::NotTaken`] of a request that was not cancelled: what was sent of its body, to send
        /// it elsewhere. Empty otherwise.
        body: &'a [u8],
    },
    /// [`Requester::block`] may work again for this stream.
    Room(StreamId),
    /// [`Requester::open`] may work again.
    Vacancy,
}

/// How far a request had come when the callee died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The callee had not begun with it: it can be sent elsewhere, whatever its method.
    NotTaken,
    /// The callee may have begun with it.
    Taken,
}

/// A request that lost its callee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Which.
    pub stream: StreamId,
    /// How far it had come.
    pub phase: Phase,
    /// The caller had given it up already.
    pub cancelled: bool,
    /// For [`Phase::NotTaken`]: everything of its body that was sent.
    pub body: Vec<u8>,
}

/// The caller's end of one lane. It belongs to one thread at a time.
#[derive(Debug)]
pub struct Requester {
    pub(super) lane: Lane,
    bell: BellReader,
    /// Places of the stream table that are free; the last one is used next.
    vacant: Vec<u16>,
    one_thread: PhantomData<Cell<()>>,
}

impl Requester {
    pub(crate) fn new(shared: Shared, geometry: &Geometry, bell: BellReader) -> Requester {
        Requester {
            lane: Lane::new(shared, geometry),
            bell,
            vacant: (0..geometry.streams).rev().collect(),
            one_thread: PhantomData,
        }
    }

    /// Sends a request's head and what of its body stands ready; with `end`, that is the whole body.
    ///
    /// # Errors
    /// [`Busy`]: nothing was sent.
    pub fn open(&mut self, head: &[u8], body: &[u8], end: bool) -> Result<StreamId, Busy> {
        if self.lane.is_dead() {
            return Err(Busy::Dead);
        }
        if head.len().saturating_add(body.len()) > BLOCK_MAX {
            return Err(Busy::TooLarge);
        }
        let Some(&index) = self.vacant.last() else {
            self.lane.starved = true;
            return Err(Busy::Streams);
        };
        let last = self.lane.streams.get(usize::from(index)).map_or(0, |stream| stream.generation);
        let id = StreamId::new(index, next_generation(last));
        self.lane.clear_claim(id);
        self.lane.begin(id, if end { Half::Done } else { Half::Body }, Half::Head);
        if self.lane.put_open(id, head, body, end).is_none() {
            self.lane.abandon(id, last);
            self.lane.starved = true;
            self.lane.wish();
            return Err(Busy::Arena);
        }
        self.vacant.pop();
        self.swept();
        Ok(id)
    }

    /// Room for more of a request's body: at least 1 byte, at most `want` and [`BLOCK_MAX`].
    ///
    /// # Errors
    /// [`NoRoom::Later`] until [`Event::Room`] comes; [`NoRoom::Gone`] for a stream that is over or has ended.
    pub fn block(&mut self, stream: StreamId, want: usize) -> Result<OutBlock, NoRoom> {
        self.lane.block(stream, want)
    }

    /// Appends bytes to a block: how many found room.
    pub fn fill(&mut self, block: &mut OutBlock, bytes: &[u8]) -> usize {
        self.lane.fill(block, bytes)
    }

    /// Appends to a block what one `read(2)` yields: how many bytes.
    ///
    /// # Errors
    /// Of the `read`.
    pub fn fill_from(&mut self, block: &mut OutBlock, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.lane.fill_from(block, fd)
    }

    /// Sends a block; with `end`, the request's body ends with it. Dropped where the stream is over.
    pub fn send(&mut self, stream: StreamId, block: OutBlock, end: bool) {
        if self.lane.live(stream).is_none_or(|live| live.ours != Half::Body) {
            self.lane.discard(block);
            return;
        }
        match (end, self.lane.send(stream, block, end)) {
            (true, true) => self.ended(stream),
            (true, false) => self.end(stream),
            (false, _) => {}
        }
        self.swept();
    }

    /// Frees a block that is not sent.
    pub fn discard(&mut self, block: OutBlock) {
        self.lane.discard(block);
    }

    /// Ends a request's body.
    pub fn end(&mut self, stream: StreamId) {
        if self.lane.live(stream).is_some_and(|live| live.ours == Half::Body) {
            self.lane.put(Frame::End { stream });
            self.ended(stream);
        }
    }

    /// Gives a request up. Unless its response has ended, exactly one [`Event::Reset`] follows, and nothing
    /// else.
    pub fn cancel(&mut self, stream: StreamId) {
        let Some(live) = self.lane.live(stream) else { return };
        if live.cancelled {
            return;
        }
        live.cancelled = true;
        live.ours = Half::Done;
        let over = live.theirs == Half::Done;
        self.lane.roomier = true;
        self.lane.put(Frame::Reset { stream, code: ResetCode::Cancelled });
        if over {
            self.vacate(stream);
        }
        self.swept();
    }

    /// Takes a request back that the callee has not begun with, without its help: true where it never will, and the
    /// request can be sent elsewhere at once. Then, as after [`Requester::cancel`], exactly one [`Event::Reset`]
    /// follows. False: it may have begun, and nothing has changed; it answers, or says that it has not after all.
    pub fn withdraw(&mut self, stream: StreamId) -> bool {
        let waits = |live: &mut super::lane::Stream| live.theirs == Half::Head && !live.cancelled;
        let back = self.lane.live(stream).is_some_and(waits) && self.lane.unclaim(stream);
        if back {
            self.cancel(stream);
        }
        back
    }

    /// Reads up to `budget` slots and calls `f` with what they say: whether there is more.
    ///
    /// # Errors
    /// [`Fault`]: the callee broke the rules, and the lane is dead; [`Requester::died`] settles what is open.
    pub fn poll(&mut self, budget: u32, f: &mut dyn FnMut(Event<'_>)) -> Result<bool, Fault> {
        self.lane.check()?;
        let polled = self.read(budget, f);
        // Also after a fault: what was read has been read.
        self.lane.publish_head();
        let more = polled.map_err(|fault| self.lane.fail(fault))?;
        self.tell_of_room(f);
        self.swept();
        self.lane.check()?;
        Ok(more)
    }

    /// Whether a poll would yield something: one cheap look.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.lane.has_news()
    }

    /// Whether somebody has been refused room since the sleeper armed, and it has come: nobody rings for that, so
    /// that the sleeper is to be woken. Asked before another thread waits while one sleeps.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.lane.is_unheard()
    }

    /// Copies bytes out of a block, from `at` in it: how many.
    pub fn copy_to(&self, block: &InBlock, at: usize, to: &mut [u8]) -> usize {
        self.lane.copy_to(block, at, to)
    }

    /// Writes private bytes and then blocks, each from a place in it on, with one `writev(2)`: how many bytes.
    ///
    /// # Errors
    /// Of the `writev`.
    pub fn write_to(
        &self,
        fd: BorrowedFd<'_>,
        prefix: &[IoSlice<'_>],
        blocks: &[(&InBlock, usize)],
    ) -> io::Result<usize> {
        self.lane.write_to(fd, prefix, blocks)
    }

    /// Gives a block back that was read.
    pub fn give_back(&mut self, block: InBlock) {
        self.lane.give_back(block, false);
    }

    /// Rings if the callee may sleep over news; once per batch. Blocks that were given back go along when they are
    /// many or wanted, and otherwise with the next frame.
    pub fn flush(&mut self) {
        self.lane.flush();
    }

    /// Flushes and asks to be rung: true where nothing is there, so that it is safe to sleep.
    pub fn arm(&mut self) -> bool {
        self.lane.arm()
    }

    /// Quiets the bell after waking, before polling: for who is told of it as long as it is not read. A sleeper of
    /// [`sys::sleeper`](crate::sys::sleeper) sees to its bells by itself.
    pub fn disarm(&mut self) {
        self.bell.drain();
    }

    /// Readable when the callee has rung. An eventfd bell is never read: register it edge-triggered.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The bell for a sleeper.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn bell_reader(&self) -> io::Result<BellReader> {
        self.bell.try_clone()
    }

    /// Streams in use, those given up and not yet confirmed included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lane.streams.len() - self.vacant.len()
    }

    /// Settles everything after the callee's death or fault: what it had published is delivered, then each
    /// stream that is still open comes back. Once, at the end: nothing can be sent afterwards, but blocks that
    /// were received can still be read, since a response that is complete may be on its way to a slow client.
    pub fn died(&mut self, f: &mut dyn FnMut(Event<'_>)) -> Vec<Orphan> {
        let slots = self.lane.shared.peer_layout.slots();
        if self.lane.check().is_ok()
            && let Err(fault) = self.read(slots, f)
        {
            self.lane.fail(fault);
        }
        let open: Vec<StreamId> = (0u16..)
            .zip(&self.lane.streams)
            .filter(|(_, stream)| stream.active && stream.theirs != Half::Done)
            .map(|(index, stream)| StreamId::new(index, stream.generation))
            .collect();
        self.lane.gone = true;
        open.into_iter().map(|stream| self.orphan(stream)).collect()
    }

    fn orphan(&self, stream: StreamId) -> Orphan {
        let state = &self.lane.streams[stream.index()];
        let taken = state.theirs != Half::Head || !state.intact || self.lane.peer_took(stream);
        let (phase, body) =
            if taken { (Phase::Taken, Vec::new()) } else { (Phase::NotTaken, self.lane.sent_body(stream)) };
        Orphan { stream, phase, cancelled: state.cancelled, body }
    }

    fn read(&mut self, budget: u32, f: &mut dyn FnMut(Event<'_>)) -> Result<bool, Fault> {
        let available = self.lane.available()?;
        for _ in 0..available.min(budget) {
            let Slot { frame, freed } = self.lane.take_slot()?;
            if let Some(freed) = freed {
                self.lane.take_back(freed)?;
            }
            self.frame(frame, f)?;
        }
        Ok(available > budget)
    }

    fn frame(&mut self, frame: Frame, f: &mut dyn FnMut(Event<'_>)) -> Result<(), Fault> {
        let (stream, block) = match frame {
            Frame::Open { stream, block, .. } | Frame::Data { stream, block, .. } => (stream, Some(block)),
            Frame::End { stream } | Frame::Reset { stream, .. } => (stream, None),
            Frame::Free => return Ok(()),
        };
        if self.lane.age(stream)? == Age::Stale {
            self.lane.drop_stale(block);
            return Ok(());
        }
        let expected = match frame {
            Frame::Open { .. } => &[Half::Head][..],
            Frame::Data { .. } | Frame::End { .. } => &[Half::Body],
            Frame::Reset { .. } | Frame::Free => &[Half::Head, Half::Body],
        };
        let live = self.lane.live(stream).ok_or(Fault::Stream)?;
        if !expected.contains(&live.theirs) {
            return Err(Fault::Stream);
        }
        let cancelled = live.cancelled;
        match frame {
            Frame::Open { block, head, end, .. } => {
                live.theirs = Half::Body;
                self.head(stream, block, head, end, cancelled, f)?;
            }
            Frame::Data { block, end, .. } => {
                let block = self.lane.accept(stream, block)?;
                if cancelled {
                    self.lane.give_back(block, false);
                } else {
                    f(Event::Data { stream, block, end });
                }
                self.finish_theirs(stream, end, cancelled, f);
            }
            Frame::End { .. } => {
                if !cancelled {
                    f(Event::End(stream));
                }
                self.finish_theirs(stream, true, cancelled, f);
            }
            Frame::Reset { code, .. } => self.reset(stream, code, f),
            Frame::Free => {}
        }
        Ok(())
    }

    fn head(
        &mut self,
        stream: StreamId,
        block: Block,
        head: u32,
        end: bool,
        cancelled: bool,
        f: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Fault> {
        let mut body = self.lane.accept(stream, block)?;
        body.skip = head;
        if cancelled {
            self.lane.give_back(body, false);
        } else {
            self.lane.copy_head(block, head);
            let body = if body.is_empty() {
                self.lane.give_back(body, false);
                None
            } else {
                Some(body)
            };
            f(Event::Head { stream, head: &self.lane.scratch[..head as usize], body, end });
        }
        self.finish_theirs(stream, end, cancelled, f);
        Ok(())
    }

    /// Their half has ended, if `end`: with ours, the stream is over.
    fn finish_theirs(&mut self, stream: StreamId, end: bool, cancelled: bool, f: &mut dyn FnMut(Event<'_>)) {
        let Some(live) = self.lane.live(stream).filter(|_| end) else { return };
        live.theirs = Half::Done;
        let over = live.ours == Half::Done;
        if over {
            self.vacate(stream);
        }
        if cancelled {
            f(Event::Reset { stream, code: ResetCode::Cancelled, body: &[] });
        }
    }

    fn reset(&mut self, stream: StreamId, code: ResetCode, f: &mut dyn FnMut(Event<'_>)) {
        let Some(live) = self.lane.live(stream) else { return };
        let (cancelled, untouched) = (live.cancelled, live.theirs == Half::Head && live.intact);
        let (code, body) = match code {
            ResetCode::NotTaken if cancelled => (code, Vec::new()),
            ResetCode::NotTaken if untouched => (code, self.lane.sent_body(stream)),
            // It says that it has not begun, but has given back, or answered, part of it.
            ResetCode::NotTaken => (ResetCode::Failed, Vec::new()),
            _ if cancelled => (ResetCode::Cancelled, Vec::new()),
            code => (code, Vec::new()),
        };
        self.vacate(stream);
        f(Event::Reset { stream, code, body: &body });
    }

    /// Our half has ended: with theirs, the stream is over.
    fn ended(&mut self, stream: StreamId) {
        let Some(live) = self.lane.live(stream) else { return };
        live.ours = Half::Done;
        let over = live.theirs == Half::Done;
        // It needs no granule any more.
        self.lane.roomier = true;
        if over {
            self.vacate(stream);
        }
    }

    fn vacate(&mut self, stream: StreamId) {
        self.lane.finish(stream);
        if let Ok(index) = u16::try_from(stream.index()) {
            self.vacant.push(index);
        }
    }

    fn tell_of_room(&mut self, f: &mut dyn FnMut(Event<'_>)) {
        if !std::mem::take(&mut self.lane.roomier) {
            return;
        }
        let mut looked_at = 0;
        while let Some(stream) = self.lane.next_with_room(&mut looked_at) {
            f(Event::Room(stream));
        }
        if std::mem::take(&mut self.lane.starved) {
            f(Event::Vacancy);
        }
    }

    fn swept(&self) {
        #[cfg(debug_assertions)]
        {
            self.lane.check_invariants();
            let active = self.lane.streams.iter().filter(|stream| stream.active).count();
            assert_eq!(active, self.in_flight(), "every place is either vacant or active");
        }
    }
}

/// Generations count up and leave zero out, which stands for "never used".
fn next_generation(last: u16) -> u16 {
    match last.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}
