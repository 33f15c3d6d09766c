//! Answering: whole, streamed, or failed.
//!
//! A whole answer never makes its handler wait: what finds no room is copied, and sent as the caller makes room. A
//! streamed one is written by a handler that waits for room.

use decurion_abi::encoding;
use decurion_ipc::channel::{BLOCK_MAX, NoRoom, ResetCode, Responder, StreamId};
use decurion_ipc::record::{Kind, ResponseHead};

use super::{Engine, Wrote, timer};
use crate::answer::SWITCHING_PROTOCOLS;
use crate::exchange::{Outbound, Phase, Upgrade};
use crate::slab::Key;

/// What became of bytes that were to be sent.
enum Sent {
    /// All are on their way, or nobody wants them any more.
    Over,
    /// There was room for so many.
    Partly(usize),
}

impl Engine {
    /// Answers with a whole body and ends the exchange.
    pub(crate) fn respond(
        &mut self,
        key: Key,
        head: ResponseHead,
        headers: &[(&[u8], &[u8])],
        body: &[u8],
    ) -> Wrote {
        let mut record = std::mem::take(&mut self.scratch);
        record.clear();
        head.encode(headers.iter().copied(), &mut record);
        let wrote = self.respond_with(key, &record, body);
        self.scratch = record;
        wrote
    }

    fn respond_with(&mut self, key: Key, record: &[u8], body: &[u8]) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        if exchange.phase != Phase::Taken || record.len() > BLOCK_MAX {
            return Wrote::Invalid;
        }
        exchange.phase = Phase::Ended;
        let (lane_key, stream) = (exchange.lane, exchange.stream);
        let lane = self.lanes.get_mut(lane_key).filter(|_| !exchange.cancelled);
        let Some(lane) = lane else {
            self.settle(key);
            return Wrote::Cancelled;
        };
        // What was not read goes back with the answer: a caller may read no answer before its body is gone.
        exchange.inbound.at = 0;
        for block in exchange.inbound.blocks.drain(..) {
            lane.responder.give_back(block);
        }
        let inline = if record.len() + body.len() <= BLOCK_MAX { body } else { &[] };
        let rest = match lane.responder.head(stream, record, inline, inline.len() == body.len()) {
            Ok(()) if inline.len() == body.len() => None,
            Ok(()) => match send_body(&mut lane.responder, stream, body) {
                Sent::Over => None,
                Sent::Partly(count) => Some(Outbound { head: None, body: body[count..].to_vec(), sent: 0 }),
            },
            Err(NoRoom::Later) => {
                Some(Outbound { head: Some(record.to_vec()), body: body.to_vec(), sent: 0 })
            }
            Err(NoRoom::Gone | NoRoom::TooLarge) => None,
        };
        if let Some(rest) = rest {
            self.sending += 1;
            self.unsent += rest.body.len();
            exchange.outbound = Some(rest);
        }
        self.touch(lane_key);
        // There may be room for the head alone.
        self.pump(key);
        self.settle(key);
        Wrote::Done(body.len())
    }

    /// Sends what is left of a whole answer, as far as there is room.
    pub(super) fn pump(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let (lane_key, stream) = (exchange.lane, exchange.stream);
        let (Some(outbound), Some(lane)) = (&mut exchange.outbound, self.lanes.get_mut(lane_key)) else {
            return;
        };
        let over = match &outbound.head {
            None => false,
            Some(head) => match lane.responder.head(stream, head, &[], outbound.body.is_empty()) {
                Ok(()) => {
                    outbound.head = None;
                    outbound.body.is_empty()
                }
                Err(NoRoom::Later) => return,
                Err(NoRoom::Gone | NoRoom::TooLarge) => true,
            },
        };
        let over = over
            || match send_body(&mut lane.responder, stream, &outbound.body[outbound.sent..]) {
                Sent::Over => true,
                Sent::Partly(count) => {
                    outbound.sent += count;
                    false
                }
            };
        self.touch(lane_key);
        if over {
            self.drop_outbound(key);
            self.settle(key);
        }
    }

    /// Nothing more of an answer is to be sent.
    pub(super) fn drop_outbound(&mut self, key: Key) {
        let exchange = self.exchanges.get_mut(key);
        if let Some(outbound) = exchange.and_then(|exchange| exchange.outbound.take()) {
            self.sending -= 1;
            self.unsent -= outbound.body.len();
        }
    }

    /// Starts a streamed answer.
    pub(crate) fn respond_start(
        &mut self,
        key: Key,
        head: ResponseHead,
        headers: &[(&[u8], &[u8])],
        now_ns: u64,
    ) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        let switches = head.status == SWITCHING_PROTOCOLS;
        if exchange.phase != Phase::Taken || (switches && exchange.upgrade != Upgrade::Offered) {
            return Wrote::Invalid;
        }
        if exchange.is_cancelled(now_ns) {
            return Wrote::Cancelled;
        }
        let Some(lane) = self.lanes.get_mut(exchange.lane) else { return Wrote::Cancelled };
        self.scratch.clear();
        head.encode(headers.iter().copied(), &mut self.scratch);
        match lane.responder.head(exchange.stream, &self.scratch, &[], false) {
            Ok(()) => {}
            Err(NoRoom::Later) => return Wrote::Wait,
            Err(NoRoom::TooLarge) => return Wrote::Invalid,
            Err(NoRoom::Gone) => return Wrote::Cancelled,
        }
        exchange.phase = Phase::Streaming;
        if switches {
            // The answer was in time; how long the two then talk is theirs.
            self.woken.remove(&(timer(exchange.deadline_ns()), key));
            exchange.upgrade = Upgrade::Done;
        }
        let lane = exchange.lane;
        self.touch(lane);
        Wrote::Done(0)
    }

    /// Sends bytes of a streamed answer; how many found room.
    pub(crate) fn write(&mut self, key: Key, bytes: &[u8], now_ns: u64) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        if exchange.phase != Phase::Streaming {
            return Wrote::Invalid;
        }
        if exchange.is_cancelled(now_ns) {
            return Wrote::Cancelled;
        }
        if bytes.is_empty() {
            return Wrote::Done(0);
        }
        let lane_key = exchange.lane;
        let Some(lane) = self.lanes.get_mut(lane_key) else { return Wrote::Cancelled };
        let mut block = match lane.responder.block(exchange.stream, bytes.len().min(BLOCK_MAX)) {
            Ok(block) => block,
            Err(NoRoom::Later) => return Wrote::Wait,
            Err(NoRoom::Gone | NoRoom::TooLarge) => return Wrote::Cancelled,
        };
        let count = lane.responder.fill(&mut block, bytes);
        lane.responder.send(exchange.stream, block, false);
        self.touch(lane_key);
        self.beat();
        Wrote::Done(count)
    }

    /// Ends a streamed answer.
    pub(crate) fn finish(&mut self, key: Key) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        if exchange.phase != Phase::Streaming {
            return Wrote::Invalid;
        }
        exchange.phase = Phase::Ended;
        let (lane_key, stream, cancelled) = (exchange.lane, exchange.stream, exchange.cancelled);
        let lane = self.lanes.get_mut(lane_key).filter(|_| !cancelled);
        let wrote = if lane.is_some() { Wrote::Done(0) } else { Wrote::Cancelled };
        if let Some(lane) = lane {
            lane.responder.end(stream);
            self.touch(lane_key);
        }
        self.settle(key);
        wrote
    }

    /// Ends an exchange as failed: an answer with `code` and `text`, or a cut where an answer was started.
    pub(crate) fn fail(&mut self, key: Key, code: u16, text: &str) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        match exchange.phase {
            Phase::Taken => {
                let head = ResponseHead {
                    status: code,
                    content_length: Some(text.len() as u64),
                    encoding: encoding::RAW,
                };
                let text_type: (&[u8], &[u8]) = (b"content-type", b"text/plain; charset=utf-8");
                let headers: &[_] = match (exchange.view.kind(), code) {
                    // As the proxy has it: whatever is missing here, or at who is called, is usually back soon.
                    (Kind::Http, 503) => &[text_type, (b"retry-after", b"1")],
                    (Kind::Http, _) => &[text_type],
                    (Kind::Call, _) => &[],
                };
                self.respond(key, head, headers, text.as_bytes())
            }
            Phase::Streaming => {
                exchange.phase = Phase::Ended;
                self.reset(key, ResetCode::Failed);
                self.settle(key);
                Wrote::Done(0)
            }
            Phase::Waiting | Phase::Ended => Wrote::Invalid,
        }
    }
}

/// Sends a body to its end, as far as there is room.
fn send_body(responder: &mut Responder, stream: StreamId, body: &[u8]) -> Sent {
    let mut sent = 0;
    while sent < body.len() {
        let mut block = match responder.block(stream, (body.len() - sent).min(BLOCK_MAX)) {
            Ok(block) => block,
            Err(NoRoom::Later) => return Sent::Partly(sent),
            Err(NoRoom::Gone | NoRoom::TooLarge) => return Sent::Over,
        };
        sent += responder.fill(&mut block, &body[sent..]);
        responder.send(stream, block, sent == body.len());
    }
    Sent::Over
}
