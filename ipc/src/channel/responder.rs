//! The callee's end of a lane.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use super::lane::{Age, Half, Lane};
use super::ring::Shared;
use super::slot::{Block, Frame, Slot};
use super::{BLOCK_MAX, Fault, Geometry, InBlock, NoRoom, OutBlock, ResetCode, StreamId};

/// What comes from the caller. Heads are borrowed for the callback: copy what is kept.
#[derive(Debug)]
pub enum Request<'a> {
    /// A request begins. It is not taken yet.
    Open {
        /// Its stream.
        stream: StreamId,
        /// A private copy of the record.
        head: &'a [u8],
        /// The first of the body.
        body: Option<InBlock>,
        /// That is the whole body.
        end: bool,
    },
    /// More of the request's body.
    Data {
        /// Of which request.
        stream: StreamId,
        /// The bytes.
        block: InBlock,
        /// The body ends with them.
        end: bool,
    },
    /// The request's body has ended.
    End(StreamId),
    /// The caller gave it up. One that was not taken is over; one that was is to be finished or reset.
    Cancel(StreamId),
    /// [`Responder::block`] or [`Responder::head`] may work again for this stream.
    Room(StreamId),
}

/// The callee's end of one lane. It belongs to one thread at a time.
#[derive(Debug)]
pub struct Responder {
    pub(super) lane: Lane,
    /// Streams in use.
    active: usize,
    one_thread: PhantomData<Cell<()>>,
}

impl Responder {
    pub(crate) fn new(shared: Shared, geometry: &Geometry) -> Responder {
        Responder { lane: Lane::new(shared, geometry), active: 0, one_thread: PhantomData }
    }

    /// Reads up to `budget` slots and calls `f` with what they say: whether there is more.
    ///
    /// # Errors
    /// [`Fault`]: the caller broke the rules, and the lane is dead.
    pub fn poll(&mut self, budget: u32, f: &mut dyn FnMut(Request<'_>)) -> Result<bool, Fault> {
        self.lane.check()?;
        let polled = self.read(budget, f);
        self.lane.publish_head();
        let more = polled.map_err(|fault| self.lane.fail(fault))?;
        if std::mem::take(&mut self.lane.roomier) {
            let mut looked_at = 0;
            while let Some(stream) = self.lane.next_with_room(&mut looked_at) {
                f(Request::Room(stream));
            }
        }
        self.swept();
        self.lane.check()?;
        Ok(more)
    }

    /// Says, before the handler runs, that the request is taken: from now on it is not sent elsewhere. False:
    /// it was withdrawn meanwhile, and is over.
    #[must_use = "a request that was withdrawn must not reach the handler"]
    pub fn take(&mut self, stream: StreamId) -> bool {
        let Some(live) = self.lane.live(stream) else { return false };
        if live.taken {
            return true;
        }
        if !self.lane.claim(stream) {
            // Its caller may not know yet whether we have begun: that we have not is what the reset says.
            self.lane.clear_claim(stream);
            self.reset(stream, ResetCode::NotTaken);
            return false;
        }
        if let Some(live) = self.lane.live(stream) {
            live.taken = true;
        }
        self.lane.release_held(stream);
        true
    }

    /// Says that the request will not be taken: it goes elsewhere.
    pub fn refuse(&mut self, stream: StreamId) {
        if self.lane.live(stream).is_some() {
            let taken = self.lane.live(stream).is_some_and(|live| live.taken);
            self.reset(stream, if taken { ResetCode::Failed } else { ResetCode::NotTaken });
        }
    }

    /// Sends the head of the response and what of its body stands ready; with `end`, that is the whole body.
    /// Takes the request, if it was not.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing was sent.
    pub fn head(&mut self, stream: StreamId, head: &[u8], body: &[u8], end: bool) -> Result<(), NoRoom> {
        let length = head.len().saturating_add(body.len());
        if length > BLOCK_MAX {
            return Err(NoRoom::TooLarge);
        }
        if self.lane.is_dead() || !self.take(stream) {
            return Err(NoRoom::Gone);
        }
        if self.lane.live(stream).is_none_or(|live| live.ours != Half::Head) {
            return Err(NoRoom::Gone);
        }
        if self.lane.put_open(stream, head, body, end).is_none() {
            self.lane.wait(stream, u32::try_from(length).unwrap_or(u32::MAX));
            return Err(NoRoom::Later);
        }
        if let Some(live) = self.lane.live(stream) {
            live.ours = Half::Body;
        }
        if end {
            self.finish(stream);
        }
        self.swept();
        Ok(())
    }

    /// Room for more of a response's body: at least 1 byte, at most `want` and [`BLOCK_MAX`].
    ///
    /// # Errors
    /// [`NoRoom::Later`] until [`Request::Room`] comes; [`NoRoom::Gone`] for a stream that is over, or that
    /// nobody waits for any more.
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

    /// Sends a block, after the head; with `end`, the response ends with it. Dropped where the stream is over.
    pub fn send(&mut self, stream: StreamId, block: OutBlock, end: bool) {
        if self.lane.live(stream).is_none_or(|live| live.ours != Half::Body) {
            self.lane.discard(block);
            return;
        }
        match (end, self.lane.send(stream, block, end)) {
            (true, true) => self.finish(stream),
            (true, false) => self.end(stream),
            (false, _) => {}
        }
        self.swept();
    }

    /// Frees a block that is not sent.
    pub fn discard(&mut self, block: OutBlock) {
        self.lane.discard(block);
    }

    /// Ends a response, after its head.
    pub fn end(&mut self, stream: StreamId) {
        if self.lane.live(stream).is_some_and(|live| live.ours == Half::Body) {
            self.lane.put(Frame::End { stream });
            self.finish(stream);
        }
    }

    /// Ends a stream without (the rest of) a response.
    pub fn reset(&mut self, stream: StreamId, code: ResetCode) {
        if self.lane.live(stream).is_some() {
            self.lane.put(Frame::Reset { stream, code });
            // Only now, behind the reset, do blocks go back that were held: see `Event::Reset`.
            self.finish(stream);
            self.swept();
        }
    }

    /// Whether a poll would yield something: one cheap look.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.lane.has_news()
    }

    /// Whether a poll would yield more than room: blocks that were given back ring for nobody, and lie there until
    /// something else comes.
    #[must_use]
    pub fn has_loud_news(&self) -> bool {
        self.lane.has_loud_news()
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

    /// Gives a block back that was read. The caller sees it once the request is taken or over.
    pub fn give_back(&mut self, block: InBlock) {
        self.lane.give_back(block, true);
    }

    /// Rings if the caller may sleep over news; once per batch. Blocks that were given back go along when they are
    /// many or wanted, and otherwise with the next frame.
    pub fn flush(&mut self) {
        self.lane.flush();
    }

    /// Flushes and asks to be rung: true where nothing is there, so that it is safe to sleep.
    pub fn arm(&mut self) -> bool {
        self.lane.arm()
    }

    /// Requests that have come and are not over.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.active
    }

    fn finish(&mut self, stream: StreamId) {
        if self.lane.live(stream).is_some() {
            self.lane.finish(stream);
            self.active -= 1;
        }
    }

    fn read(&mut self, budget: u32, f: &mut dyn FnMut(Request<'_>)) -> Result<bool, Fault> {
        let available = self.lane.available()?;
        for _ in 0..available.min(budget) {
            let Slot { frame, freed } = self.lane.take_slot()?;
            if let Some(freed) = freed {
                self.lane.take_back(freed)?;
            }
            match frame {
                Frame::Open { stream, block, head, end } => self.opened(stream, block, head, end, f)?,
                Frame::Free => {}
                Frame::Data { stream, block, end } => self.data(stream, block, end, f)?,
                Frame::End { stream } => {
                    if self.advances(stream, None)? && self.finish_theirs(stream) {
                        f(Request::End(stream));
                    }
                }
                Frame::Reset { stream, code } => self.cancelled(stream, code, f)?,
            }
        }
        Ok(available > budget)
    }

    fn opened(
        &mut self,
        stream: StreamId,
        block: Block,
        head: u32,
        end: bool,
        f: &mut dyn FnMut(Request<'_>),
    ) -> Result<(), Fault> {
        let place = self.lane.streams.get(stream.index()).ok_or(Fault::Stream)?;
        // Generations count up. Zero is never used, but for a place that never was.
        let ahead = stream.generation().wrapping_sub(place.generation);
        if place.active || stream.generation() == 0 || !(1..=0x7fff).contains(&ahead) {
            return Err(Fault::Stream);
        }
        self.lane.clear_claim(stream);
        self.lane.begin(stream, Half::Head, if end { Half::Done } else { Half::Body });
        self.active += 1;
        let mut body = self.lane.accept(stream, block)?;
        body.skip = head;
        self.lane.copy_head(block, head);
        let body = if body.is_empty() {
            // Nothing of it need be kept for another replica: the caller has the head.
            self.lane.give_back(body, false);
            None
        } else {
            Some(body)
        };
        f(Request::Open { stream, head: &self.lane.scratch[..head as usize], body, end });
        Ok(())
    }

    fn data(
        &mut self,
        stream: StreamId,
        block: Block,
        end: bool,
        f: &mut dyn FnMut(Request<'_>),
    ) -> Result<(), Fault> {
        if !self.advances(stream, Some(block))? {
            return Ok(());
        }
        let live = if end { self.finish_theirs(stream) } else { self.lane.live(stream).is_some() };
        if live {
            let block = self.lane.accept(stream, block)?;
            f(Request::Data { stream, block, end });
        } else {
            self.lane.drop_stale(Some(block));
        }
        Ok(())
    }

    fn cancelled(
        &mut self,
        stream: StreamId,
        code: ResetCode,
        f: &mut dyn FnMut(Request<'_>),
    ) -> Result<(), Fault> {
        if code != ResetCode::Cancelled {
            return Err(Fault::Slot);
        }
        if self.lane.age(stream)? == Age::Stale {
            self.lane.drop_stale(None);
            return Ok(());
        }
        let place = self.lane.streams.get_mut(stream.index()).ok_or(Fault::Stream)?;
        if std::mem::replace(&mut place.cancelled, true) {
            return Err(Fault::Stream);
        }
        place.theirs = Half::Done;
        if let Some(live) = self.lane.live(stream) {
            if !live.taken {
                self.reset(stream, ResetCode::NotTaken);
            }
            f(Request::Cancel(stream));
        }
        Ok(())
    }

    /// Whether a frame of the body is one of the current use, and its body has not ended. Those of earlier uses
    /// are dropped.
    fn advances(&mut self, stream: StreamId, block: Option<Block>) -> Result<bool, Fault> {
        if self.lane.age(stream)? == Age::Stale {
            self.lane.drop_stale(block);
            return Ok(false);
        }
        match self.lane.streams.get(stream.index()) {
            Some(place) if place.theirs == Half::Body => Ok(true),
            _ => Err(Fault::Stream),
        }
    }

    /// Their half has ended: whether ours has not.
    fn finish_theirs(&mut self, stream: StreamId) -> bool {
        if let Some(place) = self.lane.streams.get_mut(stream.index()) {
            place.theirs = Half::Done;
        }
        self.lane.live(stream).is_some()
    }

    fn swept(&self) {
        #[cfg(debug_assertions)]
        {
            self.lane.check_invariants();
            let active = self.lane.streams.iter().filter(|stream| stream.active).count();
            assert_eq!(active, self.active, "active streams are counted");
        }
    }
}
