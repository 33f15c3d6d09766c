//! Bytes that nobody wants: the rest of a body whose answer is out, and what still comes after our last word.
//!
//! Both are read and dropped, since a socket that is closed with bytes unread is reset, and a reset can take our answer
//! from the client (RFC 9112, 9.6). A body that is within the limits is read to its end, and the connection goes on; where
//! it is not, or takes too long, the connection ends in two steps.

use std::time::Duration;

use super::body::{DIRECT_MIN, READ_AHEAD};
use super::connection::{Close, Connection, Phase};
use super::input::{Fill, Pool, read_once};
use super::port::{Lane, Socket};
use super::{ConnectionId, Engine, Step};
use crate::http1::Refusal;
use crate::time::Nanos;

/// How long the rest of a body is read for, however well it comes.
const DISCARD_TIME: Duration = Duration::from_secs(30);
/// How long a connection that we have ended is read on, from one byte to the next and in all.
const LINGER_QUIET: Duration = Duration::from_secs(2);
const LINGER_TIME: Duration = Duration::from_secs(10);
/// What is dropped goes through one buffer of the worker.
const SCRAP: usize = 64 * 1024;
/// Reads from one connection before the others have their turn.
const READS_PER_TURN: usize = 16;

/// Where unwanted bytes are read to. Nothing is kept in it.
#[derive(Debug, Default)]
pub(super) struct Scrap(Vec<u8>);

impl Scrap {
    fn room(&mut self) -> &mut [u8] {
        if self.0.is_empty() {
            self.0 = vec![0; SCRAP];
        }
        &mut self.0
    }
}

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// The answer is out before the body was all in.
    pub(super) fn discard(&mut self, id: ConnectionId, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Phase::Discard { until } = conn.phase else { return Step::Wait };
        for _ in 0..READS_PER_TURN {
            if conn.drop_at_hand(self.settings.max_body).is_err() {
                conn.end_gently();
                return Step::Wait;
            }
            if conn.request.complete {
                conn.next_request(now, &self.settings);
                return Step::Again;
            }
            match conn.drop_next(&mut self.pool, &mut self.scrap) {
                Ok(bytes) => conn.quiet = conn.body_deadline(bytes, &self.settings, now).min(until),
                Err(Fill::Later) => return Step::Wait,
                Err(_) => return Step::Gone,
            }
        }
        self.mark(id);
        Step::Wait
    }

    /// Reads and drops what a client still sends after our last word.
    pub(super) fn linger(&mut self, id: ConnectionId, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Phase::Linger { until } = conn.phase else { return Step::Wait };
        for _ in 0..READS_PER_TURN {
            match conn.read_off(self.scrap.room()) {
                Ok(_) => conn.quiet = now.after(LINGER_QUIET).min(until),
                Err(Fill::Later) => return Step::Wait,
                Err(_) => return Step::Gone,
            }
        }
        self.mark(id);
        Step::Wait
    }
}

impl<S: Socket, L: Lane<S>> Connection<S, L> {
    /// The answer is out, and the rest of the body is read off; then the connection goes on.
    pub(super) fn begin_discard(&mut self, now: Nanos, settings: &decurion_ipc::control::ProxySettings) {
        let until = now.after(DISCARD_TIME);
        self.phase = Phase::Discard { until };
        self.quiet = now.limit(settings.body_timeout).min(until);
    }

    /// The connection ends once everything is written, so that the client gets to read it.
    pub(super) fn end_gently(&mut self) {
        self.close = Close::Lingering;
        self.phase = Phase::Head;
    }

    /// Everything is written, and our side of the connection ends.
    pub(super) fn begin_linger(&mut self, pool: &mut Pool, now: Nanos) {
        self.socket.shutdown_write();
        self.close = Close::No;
        self.phase = Phase::Linger { until: now.after(LINGER_TIME) };
        self.quiet = now.after(LINGER_QUIET);
        let all = self.input.bytes().len();
        self.input.remove(0..all);
        self.input.rest(pool);
    }

    /// Drops what the buffer holds of the body.
    fn drop_at_hand(&mut self, max: u64) -> Result<(), Refusal> {
        let Self { input, request, .. } = self;
        request.body.clear();
        request.sent = 0;
        if request.chunked.is_some() {
            request.decode(input, max)?;
            request.body.clear();
        } else {
            let have = input.bytes().len() - request.taken;
            let dropped = usize::try_from(request.left).unwrap_or(usize::MAX).min(have);
            input.remove(request.taken..request.taken + dropped);
            request.passed_by(dropped as u64);
        }
        Ok(())
    }

    /// Reads once more of the body: how many bytes. What is known to belong to it is not kept; the buffer gets what has
    /// to be looked at first.
    fn drop_next(&mut self, pool: &mut Pool, scrap: &mut Scrap) -> Result<usize, Fill> {
        let ahead = self.request.ahead();
        if self.request.chunked.is_some() && ahead < DIRECT_MIN {
            let before = self.input.bytes().len();
            return match self.take_in(pool, self.request.taken + READ_AHEAD) {
                Fill::Bytes { .. } => Ok(self.input.bytes().len() - before),
                other => Err(other),
            };
        }
        let room = scrap.room();
        let most = usize::try_from(ahead).unwrap_or(usize::MAX).min(room.len());
        let read = self.read_off(&mut room[..most])?;
        self.request.passed_by(read as u64);
        Ok(read)
    }

    /// Reads once, past the buffer.
    fn read_off(&mut self, into: &mut [u8]) -> Result<usize, Fill> {
        if !self.readable {
            return Err(Fill::Later);
        }
        let read = read_once(&mut self.socket, into);
        match read {
            // The end is still to be read.
            Ok((_, drained)) => self.readable = !drained || self.half_closed,
            Err(Fill::Later) => self.readable = false,
            Err(_) => {}
        }
        read.map(|(read, _)| read)
    }
}
