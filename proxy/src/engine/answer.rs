//! Answers: from replicas, and our own.

use decurion_ipc::record::ResponseHead;

use super::connection::{Answer, Close, Connection, Phase};
use super::output::{COPY_MAX, PRIVATE_MAX};
use super::pages::Page;
use super::port::{Lane, Socket};
use super::tunnel::SWITCHING_PROTOCOLS;
use super::{ConnectionId, Engine, LEVEL_WARN, Notice, Step};
use crate::balance::LaneIndex;
use crate::http1::answer::{LAST_CHUNK, push_chunk_size};
use crate::http1::{AnswerHead, BodyOut, Length};
use crate::time::Nanos;

/// Why a replica's answer is not passed on.
pub(super) enum BadHead {
    /// It is not a record at all: the data plane's rules are broken.
    Record(String),
    /// The handler's own mistake: a header that can't stand in a response.
    Handler(String),
}

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// Answers a request here. Where an answer has begun already, the connection is cut instead.
    pub(super) fn respond(&mut self, id: ConnectionId, page: Page, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        if conn.request.answer != Answer::Nothing {
            conn.close = Close::Cut;
            return Step::Wait;
        }
        let request = &conn.request;
        // A body that is over the limit is not read to its end.
        let close =
            page.close || !request.keep_alive || self.draining || request.left > self.settings.max_body;
        let head = AnswerHead {
            status: page.status,
            length: Length::Known(page.body.len() as u64),
            version: request.version,
            to_head: request.to_head,
            keep_alive: !close,
            request_id: request.id.as_str(),
            date: &self.date,
        };
        let timing = request.timing(now);
        conn.output.write(|out| {
            if let Ok(BodyOut::Length(_)) = head.write(page.fields().chain(timing_field(&timing)), out) {
                out.extend_from_slice(&page.body);
            }
        });
        let (status, bytes) = (page.status, if conn.request.to_head { 0 } else { page.body.len() as u64 });
        self.note_answered(id, status, bytes, now);
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        if page.close {
            conn.close = Close::Lingering;
            conn.phase = Phase::Head;
            conn.served += 1;
            return Step::Wait;
        }
        conn.answered(!close, now, &self.settings);
        Step::Again
    }

    /// Writes a replica's head to its client.
    pub(super) fn begin_answer(
        &mut self,
        id: ConnectionId,
        record: &[u8],
        known: Option<usize>,
    ) -> Result<(), BadHead> {
        let (head, fields) =
            ResponseHead::parse(record).map_err(|error| BadHead::Record(error.to_string()))?;
        if head.status == SWITCHING_PROTOCOLS {
            return self.switch(id, fields);
        }
        let Some(conn) = self.connections.get_mut(id) else { return Ok(()) };
        let length = match (known, head.content_length) {
            // An answer to HEAD says how long the body would be, and has none.
            (Some(0), Some(length)) if conn.request.to_head || head.status == 304 => Length::Known(length),
            (Some(length), _) => Length::Known(length as u64),
            (None, Some(length)) => Length::Known(length),
            (None, None) => Length::Unknown,
        };
        let keep_alive = conn.request.keep_alive && !self.draining;
        let answer = AnswerHead {
            status: head.status,
            length,
            version: conn.request.version,
            to_head: conn.request.to_head,
            keep_alive,
            request_id: conn.request.id.as_str(),
            date: &self.date,
        };
        let timing = conn.request.timing(self.now);
        let body = conn
            .output
            .write(|out| answer.write(fields.chain(timing_field(&timing)), out))
            .map_err(|error| BadHead::Handler(error.to_string()))?;
        conn.request.keep_alive = keep_alive && body != BodyOut::Close;
        conn.request.answer = Answer::Begun(body);
        conn.request.status = head.status;
        Ok(())
    }

    /// Passes on a block of a replica's body. `false`: more than was announced.
    #[must_use]
    pub(super) fn continue_answer(&mut self, id: ConnectionId, lane: LaneIndex, block: L::In) -> bool {
        let len = L::len(&block);
        let Some(conn) = self.connections.get_mut(id) else {
            self.return_lent(lane, block);
            return true;
        };
        let chunked = match &mut conn.request.answer {
            Answer::Begun(BodyOut::Length(left)) if len as u64 > *left => {
                self.return_lent(lane, block);
                return false;
            }
            Answer::Begun(BodyOut::Length(left)) => {
                *left -= len as u64;
                false
            }
            Answer::Begun(BodyOut::Chunked) => true,
            Answer::Begun(BodyOut::Close) => {
                conn.request.keep_tunnel(&mut conn.quiet, self.now, &self.settings);
                false
            }
            Answer::Begun(BodyOut::None) | Answer::Nothing => {
                self.return_lent(lane, block);
                return true;
            }
        };
        if len == 0 {
            // An empty chunk would be the last one.
            self.return_lent(lane, block);
            return true;
        }
        conn.request.body_sent += len as u64;
        if chunked {
            conn.output.write(|out| push_chunk_size(out, len));
        }
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return true };
        if len <= COPY_MAX && conn.output.private() <= PRIVATE_MAX {
            conn.output.write(|out| {
                let start = out.len();
                out.resize(start + len, 0);
                entry.lane.copy_to(&block, 0, &mut out[start..]);
            });
            entry.lane.give_back(block);
            self.touch(lane);
        } else {
            entry.held += 1;
            conn.output.push(lane, block);
        }
        if chunked && let Some(conn) = self.connections.get_mut(id) {
            conn.output.write(|out| out.extend_from_slice(b"\r\n"));
        }
        true
    }

    /// A replica's answer has ended; the stream is not the connection's any more.
    pub(super) fn end_answer(&mut self, id: ConnectionId, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.phase = Phase::Head;
        match conn.request.answer {
            Answer::Begun(BodyOut::Length(left)) if left > 0 => {
                self.warn(id, "a response ended before its announced length");
                return self.cut(id);
            }
            Answer::Begun(BodyOut::Chunked) => conn.output.write(|out| out.extend_from_slice(LAST_CHUNK)),
            Answer::Begun(_) => {}
            Answer::Nothing => return self.cut(id),
        }
        let (keep_alive, status, bytes) =
            (conn.request.keep_alive, conn.request.status, conn.request.body_sent);
        self.note_answered(id, status, bytes, now);
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.answered(keep_alive, now, &self.settings);
        self.mark(id);
    }

    /// Ends a connection in the middle of an answer: the client sees that it is cut.
    pub(super) fn cut(&mut self, id: ConnectionId) {
        if let Some(conn) = self.connections.get_mut(id) {
            conn.close = Close::Cut;
        }
        self.mark(id);
    }

    pub(super) fn warn(&mut self, id: ConnectionId, what: &str) {
        let request = self.connections.get_mut(id).map(|conn| conn.request.id.as_str().to_owned());
        let message = format!("request {}: {what}", request.unwrap_or_default());
        self.notices.push(Notice::Log { level: LEVEL_WARN, message });
    }
}

fn timing_field(timing: &Option<Vec<u8>>) -> impl Iterator<Item = (&[u8], &[u8])> {
    timing.iter().map(|value| (&b"server-timing"[..], value.as_slice()))
}

impl<S: Socket, L: Lane<S>> Connection<S, L> {
    /// The answer is all written: what comes next on this connection.
    fn answered(&mut self, keep_alive: bool, now: Nanos, settings: &decurion_ipc::control::ProxySettings) {
        self.served += 1;
        // There is nothing left that could be cut: what the kernel has not sent yet stays good.
        self.request.answer = Answer::Nothing;
        let complete = self.request.complete;
        if !keep_alive {
            let quiet = complete && self.input.bytes().len() <= self.request.taken;
            self.close = if quiet { Close::Now } else { Close::Lingering };
            self.phase = Phase::Head;
        } else if complete {
            self.next_request(now, settings);
        } else {
            self.begin_discard(now, settings);
        }
    }
}
