//! One client's connection, and the request on it.

use std::sync::Arc;
use std::time::Duration;

use decurion_ipc::board::model_hash;
use decurion_ipc::epoch::Epoch;

use super::input::Input;
use super::output::Output;
use super::port::Lane;
use super::tally::{TallyIndex, UNROUTED};
use crate::balance::{Deployment, LaneIndex, Place, Replica};
use crate::http1::head::REQUEST_ID_MAX;
use crate::http1::{BodyOut, Chunked, Framing, Head, Scan, Version, method};
use crate::time::Nanos;

/// A connection. Requests are handled one after the other, in order; what is pipelined waits in `input`.
#[derive(Debug)]
pub(super) struct Connection<S, L: Lane<S>> {
    pub(super) socket: S,
    /// Bytes, or the end, may be there to read.
    pub(super) readable: bool,
    /// The kernel may take bytes.
    pub(super) writable: bool,
    /// The client has said that it will send no more; bytes from before may still be there.
    pub(super) half_closed: bool,
    pub(super) input: Input,
    pub(super) scan: Scan,
    pub(super) output: Output<L::In>,
    pub(super) phase: Phase<L::Stream>,
    pub(super) request: Request,
    pub(super) close: Close,
    /// Is on the list of connections to look after.
    pub(super) dirty: bool,
    /// When the client must have done what we wait for.
    pub(super) quiet: Nanos,
    /// When the client must have taken some of what we write.
    pub(super) stall: Nanos,
    /// Earliest timer that is set for it.
    pub(super) scheduled: Nanos,
    /// Requests answered.
    pub(super) served: u64,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) enum Phase<Stream> {
    /// Between requests, or within a head.
    Head,
    /// A short body is gathered before anything is sent, so that a slow client occupies no replica.
    Body,
    /// Waits for a slot.
    Queued { place: Place, deployment: Arc<Deployment> },
    /// Has a slot, and waits for room in the channel.
    Parked { replica: Arc<Replica> },
    /// A replica has it.
    Open { lane: LaneIndex, stream: Stream },
    /// Is answered; the rest of its body is read and dropped, until then at the latest.
    Discard { until: Nanos },
    /// Nothing more is said; what still comes is dropped, so that our last words are not lost by a reset.
    Linger { until: Nanos },
}

/// What happens once everything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// The next request.
    No,
    /// The connection ends; the client has nothing more under way.
    Now,
    /// The connection ends in the middle of an answer, as the client has to see.
    Cut,
    /// The connection ends; the client may be sending still.
    Lingering,
}

/// How far a request's answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing has gone out.
    Nothing,
    /// The head has; so the body goes on. For a length: bytes to come.
    Begun(BodyOut),
}

/// Whether a request's connection becomes something else than HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// The client has not offered it.
    No,
    /// The client has, and the deployment may take it up. Nothing more is read until it has answered.
    Offered,
    /// The deployment has: bytes go both ways as they come, until either side ends.
    Tunnel,
}

/// The current request. Its head stays in `input` until it is answered, so that it can be sent again.
#[derive(Debug)]
pub(super) struct Request {
    /// The head in `input`.
    pub(super) head: std::ops::Range<usize>,
    /// Bytes of `input` that belong to this request: head, and body where it is kept there.
    pub(super) taken: usize,
    /// Of a body with a length: bytes that are still to come from the client.
    pub(super) left: u64,
    /// Of a chunked body.
    pub(super) chunked: Option<Chunked>,
    /// Body bytes so far.
    pub(super) body_bytes: u64,
    /// Everything has come from the client.
    pub(super) complete: bool,
    /// The whole body is kept, here or in `input`, and can be sent again.
    pub(super) whole: bool,
    /// The body, or what is to be sent next of it, stands here and not in `input`.
    pub(super) aside: bool,
    pub(super) body: Vec<u8>,
    /// Bytes of what is at hand that have been sent.
    pub(super) sent: usize,
    /// The replica knows the body's end.
    pub(super) ended: bool,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) to_head: bool,
    pub(super) upgrade: Upgrade,
    pub(super) idempotent: bool,
    pub(super) id: RequestId,
    /// Hash of the model that it asks for; 0: none.
    pub(super) model: u64,
    /// With what it entered when it was last sent.
    pub(super) epoch: Epoch,
    pub(super) deadline: Nanos,
    pub(super) answer: Answer,
    /// Was taken by a replica that died.
    pub(super) retried: bool,
    /// Times it was not taken.
    pub(super) refusals: u8,
    /// Where it was last.
    pub(super) tried: Option<LaneIndex>,
    /// When its head was there.
    pub(super) began: Nanos,
    /// When the deployment took the connection over: what follows is not the answer's time.
    pub(super) switched: Nanos,
    /// When a place at a replica was first asked for; zero: it was not.
    pub(super) asked: Nanos,
    /// When a replica was given it, the last time; zero: none was.
    pub(super) opened: Nanos,
    /// What it waited for its first replica.
    pub(super) waited: Duration,
    /// The answer is to say where its time went.
    pub(super) server_timing: bool,
    /// Where it is counted.
    pub(super) tally: TallyIndex,
    /// Of a replica's answer.
    pub(super) status: u16,
    /// Bytes of a replica's answer's body that were passed on.
    pub(super) body_sent: u64,
    /// It has begun, and is not noted yet.
    pub(super) under_way: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            head: 0..0,
            taken: 0,
            left: 0,
            chunked: None,
            body_bytes: 0,
            complete: true,
            whole: true,
            aside: false,
            body: Vec::new(),
            sent: 0,
            ended: false,
            version: Version::Http11,
            keep_alive: false,
            to_head: false,
            upgrade: Upgrade::No,
            idempotent: false,
            id: RequestId::default(),
            model: 0,
            epoch: Epoch::default(),
            deadline: Nanos::NEVER,
            answer: Answer::Nothing,
            retried: false,
            refusals: 0,
            tried: None,
            began: Nanos(0),
            switched: Nanos(0),
            asked: Nanos(0),
            opened: Nanos(0),
            waited: Duration::ZERO,
            server_timing: false,
            tally: UNROUTED,
            status: 0,
            body_sent: 0,
            under_way: false,
        }
    }
}

impl Request {
    /// Begins a request; `made` makes an id where the client gave none.
    pub(super) fn begin(
        &mut self,
        head: &Head<'_, '_>,
        at: std::ops::Range<usize>,
        ids: &mut Ids,
        now: Nanos,
    ) {
        debug_assert!(!self.under_way, "a request ended without having been counted");
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        *self = Self {
            taken: at.end,
            head: at,
            left: if let Framing::Length(length) = head.framing { length } else { 0 },
            chunked: (head.framing == Framing::Chunked).then(Chunked::default),
            complete: head.framing == Framing::None,
            body,
            version: head.version,
            keep_alive: head.keep_alive,
            to_head: head.method == "HEAD",
            server_timing: head.server_timing,
            upgrade: if head.upgrade.is_some() { Upgrade::Offered } else { Upgrade::No },
            idempotent: method::is_idempotent(head.method),
            id: head.request_id.map_or_else(|| ids.next(), RequestId::given),
            model: head.model_id.map_or(0, model_hash),
            began: now,
            under_way: true,
            ..Self::default()
        };
    }

    /// `Server-Timing`, where it was asked for, as of now: what the request waited, how long a replica has had it, and
    /// all of it, in milliseconds.
    pub(super) fn timing(&self, now: Nanos) -> Option<Vec<u8>> {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        (self.server_timing && self.under_way).then(|| {
            let total = millis(now.until(self.began));
            match self.opened {
                Nanos(0) => format!("total;dur={total:.3}"),
                opened => {
                    let (queue, handler) = (millis(self.waited), millis(now.until(opened)));
                    format!("queue;dur={queue:.3}, handler;dur={handler:.3}, total;dur={total:.3}")
                }
            }
            .into_bytes()
        })
    }

    /// Body bytes that can be sent now.
    pub(super) fn at_hand<'r>(&'r self, input: &'r Input) -> &'r [u8] {
        let all = if self.aside { &self.body[..] } else { &input.bytes()[self.head.end..self.taken] };
        &all[self.sent..]
    }
}

/// A request id, in place: one comes with every request.
#[derive(Clone, Copy)]
pub(super) struct RequestId {
    bytes: [u8; REQUEST_ID_MAX],
    len: u8,
}

impl Default for RequestId {
    fn default() -> Self {
        Self { bytes: [0; REQUEST_ID_MAX], len: 0 }
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl RequestId {
    fn given(id: &str) -> Self {
        let mut new = Self::default();
        let len = id.len().min(REQUEST_ID_MAX);
        new.bytes[..len].copy_from_slice(&id.as_bytes()[..len]);
        new.len = u8::try_from(len).unwrap_or(0);
        new
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

/// Makes request ids: random enough not to meet those of other workers and other lives, and cheap.
#[derive(Debug)]
pub(super) struct Ids {
    seed: u64,
    count: u64,
}

impl Ids {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, count: 0 }
    }

    fn next(&mut self) -> RequestId {
        self.count += 1;
        let mut id = RequestId { len: 32, ..RequestId::default() };
        let halves = [mix(self.seed ^ self.count), mix(self.seed.rotate_left(32).wrapping_add(self.count))];
        for (place, digit) in id.bytes[..32].iter_mut().enumerate() {
            let nibble = halves[place / 16] >> (4 * (place % 16)) & 0xf;
            *digit = b"0123456789abcdef"[usize::try_from(nibble).unwrap_or(0)];
        }
        id
    }
}

/// The finaliser of splitmix64.
pub(super) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_fit_a_header() {
        let mut ids = Ids::new(7);
        let made: std::collections::HashSet<String> =
            (0..1000).map(|_| ids.next().as_str().to_owned()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())));
    }
}
