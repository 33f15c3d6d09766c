//! Request bodies: gathered where they are short, streamed where they are not.

use decurion_ipc::channel::{BLOCK_MAX, NoRoom};

use super::connection::{Answer, Connection, Phase, Request, Upgrade};
use super::input::{Fill, Input};
use super::port::{Lane, Socket};
use super::request::GATHER_MAX;
use super::{ConnectionId, Engine, Step};
use crate::balance::LaneIndex;
use crate::http1::{Chunked, Refusal, Scan};
use crate::time::Nanos;

/// Bytes read ahead of a chunked body.
pub(super) const READ_AHEAD: usize = 32 * 1024;
/// What is left of a chunk is read straight into the channel, unless it is so little that what follows may come along.
pub(super) const DIRECT_MIN: u64 = if cfg!(test) { 1 } else { 4 * 1024 };

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// The head is there and not all of the body.
    pub(super) fn gather(&mut self, id: ConnectionId, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Connection { input, request, .. } = conn;
        let start = request.head.end;
        if request.chunked.is_some() {
            // Whatever is there goes on at once: the client may wait for an answer to it.
            request.aside = true;
            return match request.decode(input, self.settings.max_body) {
                Ok(()) => {
                    request.whole = request.complete;
                    self.dispatch(id, None, now)
                }
                Err(refusal) => self.refuse(id, refusal, now),
            };
        }
        let have = input.bytes().len() - start;
        match usize::try_from(request.left) {
            Ok(length) if have >= length => {
                request.taken = start + length;
                request.left = 0;
                request.complete = true;
                return self.dispatch(id, None, now);
            }
            _ if request.left > GATHER_MAX => {
                request.aside = true;
                request.whole = false;
                request.body.extend_from_slice(&input.bytes()[start..]);
                request.left -= have as u64;
                input.remove(start..start + have);
                return self.dispatch(id, None, now);
            }
            _ => {}
        }
        let max = start + usize::try_from(request.left).unwrap_or(0);
        match conn.take_in(&mut self.pool, max) {
            Fill::Bytes { .. } => {
                let read = conn.input.bytes().len() - start - have;
                conn.quiet = conn.body_deadline(read, &self.settings, now);
                Step::Again
            }
            Fill::Later => Step::Wait,
            Fill::Closed | Fill::Broken | Fill::Full => Step::Gone,
        }
    }

    /// A replica has the request: sends it what there is of the body.
    pub(super) fn pump(&mut self, id: ConnectionId, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Phase::Open { lane, stream } = conn.phase else { return Step::Wait };
        match conn.request.upgrade {
            _ if conn.request.ended => return Step::Wait,
            Upgrade::No => {}
            Upgrade::Offered => return Step::Wait,
            Upgrade::Tunnel => return self.pump_tunnel(id, lane, stream, now),
        }
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return Step::Wait };
        let Connection { input, request, .. } = conn;
        let at_hand = request.at_hand(input);
        if !at_hand.is_empty() {
            let last = request.complete;
            return match entry.lane.block(stream, at_hand.len()) {
                Ok(mut block) => {
                    let filled = entry.lane.fill(&mut block, at_hand);
                    request.ended = last && filled == at_hand.len();
                    entry.lane.send(stream, block, request.ended);
                    request.sent += filled;
                    request.forget_sent();
                    self.touch(lane);
                    Step::Again
                }
                Err(no_room) => conn.no_room(no_room),
            };
        }
        if request.complete {
            entry.lane.end(stream);
            request.ended = true;
            self.touch(lane);
            return Step::Wait;
        }
        if request.chunked.is_some() {
            self.pump_chunks(id, lane, stream, now)
        } else {
            self.pump_socket(id, lane, stream, now)
        }
    }

    /// Reads straight from the socket into the channel.
    fn pump_socket(&mut self, id: ConnectionId, lane: LaneIndex, stream: L::Stream, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return Step::Wait };
        if !conn.readable {
            return Step::Wait;
        }
        let want = usize::try_from(conn.request.ahead()).unwrap_or(BLOCK_MAX).min(BLOCK_MAX);
        let mut block = match entry.lane.block(stream, want) {
            Ok(block) => block,
            Err(no_room) => return conn.no_room(no_room),
        };
        match entry.lane.fill_from(&mut block, &mut conn.socket) {
            Ok(0) => {
                entry.lane.discard(block);
                Step::Gone
            }
            Ok(read) => {
                conn.request.passed_by(read as u64);
                conn.request.ended = conn.request.complete;
                entry.lane.send(stream, block, conn.request.ended);
                conn.quiet = conn.body_deadline(read, &self.settings, now);
                self.touch(lane);
                Step::Again
            }
            Err(error) => {
                entry.lane.discard(block);
                match error.kind() {
                    std::io::ErrorKind::Interrupted => Step::Again,
                    std::io::ErrorKind::WouldBlock => {
                        conn.readable = false;
                        conn.quiet = conn.quiet.min(now.limit(self.settings.body_timeout));
                        Step::Wait
                    }
                    _ => Step::Gone,
                }
            }
        }
    }

    fn pump_chunks(&mut self, id: ConnectionId, lane: LaneIndex, stream: L::Stream, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Connection { input, request, .. } = conn;
        request.forget_sent();
        if let Err(refusal) = request.decode(input, self.settings.max_body) {
            self.let_go(id);
            return self.refuse(id, refusal, now);
        }
        let decoded = request.at_hand(input).len();
        if request.complete || decoded > 0 {
            conn.quiet = conn.body_deadline(decoded, &self.settings, now);
            return Step::Again;
        }
        if conn.request.ahead() >= DIRECT_MIN {
            return self.pump_socket(id, lane, stream, now);
        }
        let max = conn.request.taken + READ_AHEAD;
        match conn.take_in(&mut self.pool, max) {
            Fill::Bytes { .. } => Step::Again,
            Fill::Later => {
                conn.quiet = conn.quiet.min(now.limit(self.settings.body_timeout));
                Step::Wait
            }
            Fill::Closed | Fill::Broken | Fill::Full => Step::Gone,
        }
    }
}

impl<S: Socket, L: Lane<S>> Connection<S, L> {
    /// The channel has no room: the client is not to be blamed for waiting, nor read from.
    fn no_room(&mut self, no_room: NoRoom) -> Step {
        match no_room {
            NoRoom::Later => self.quiet = Nanos::NEVER,
            // Nobody reads the rest; the answer, or the reset, says what comes of it.
            NoRoom::Gone | NoRoom::TooLarge => self.request.ended = true,
        }
        Step::Wait
    }

    /// When more of the body must have come, after so many bytes of it.
    pub(super) fn body_deadline(
        &self,
        bytes: usize,
        settings: &decurion_ipc::control::ProxySettings,
        now: Nanos,
    ) -> Nanos {
        match self.request.complete {
            true => Nanos::NEVER,
            false => self.quiet.moved_on(bytes, settings.min_body_rate, settings.body_timeout, now),
        }
    }

    /// Makes ready for the next request's head.
    pub(super) fn next_request(&mut self, now: Nanos, settings: &decurion_ipc::control::ProxySettings) {
        self.input.remove(0..self.request.taken);
        self.scan = Scan::default();
        self.phase = Phase::Head;
        self.request.head = 0..0;
        self.request.taken = 0;
        self.request.answer = Answer::Nothing;
        self.request.upgrade = Upgrade::No;
        let idle = self.input.is_empty();
        self.quiet = now.limit(if idle { settings.keep_alive_timeout } else { settings.header_timeout });
    }
}

impl Request {
    /// Decodes what is in the buffer behind the head, and takes it out of there.
    pub(super) fn decode(&mut self, input: &mut Input, max: u64) -> Result<(), Refusal> {
        let start = self.taken;
        let Some(chunked) = &mut self.chunked else { return Ok(()) };
        let mut at = start;
        while at < input.bytes().len() && !chunked.is_done() {
            let step = chunked.step(&input.bytes()[at..])?;
            at += step.consumed;
            self.body.extend_from_slice(step.data);
            self.body_bytes += step.data.len() as u64;
            if self.body_bytes.saturating_add(chunked.data_ahead()) > max {
                return Err(Refusal::BodyTooLarge);
            }
        }
        self.complete = chunked.is_done();
        input.remove(start..at);
        Ok(())
    }

    /// Bytes of the body that are known to come next: of all of it, or of the chunk at hand.
    pub(super) fn ahead(&self) -> u64 {
        self.chunked.as_ref().map_or(self.left, Chunked::data_ahead)
    }

    /// So many of these have been read past the buffer, in which nothing of the body is left.
    pub(super) fn passed_by(&mut self, read: u64) {
        match &mut self.chunked {
            Some(chunked) => {
                chunked.skip(read);
                self.body_bytes += read;
            }
            None => {
                self.left = self.left.saturating_sub(read);
                self.complete = self.left == 0;
            }
        }
    }

    /// Drops what has been sent and can't be asked for again.
    fn forget_sent(&mut self) {
        if !self.whole && self.aside && self.sent == self.body.len() {
            self.body.clear();
            self.sent = 0;
        }
    }
}
