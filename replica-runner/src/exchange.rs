//! One request that this replica was asked, from its OPEN to the end of its answer.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ops::Range;

use decurion_abi::{Bytes, Header, Request, Waker};
use decurion_ipc::channel::{InBlock, StreamId};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::record::{Kind, RecordError, RequestHead};

use crate::gate::Entry;
use crate::slab::Key;

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not taken yet: it may still be withdrawn, or go to another replica.
    Waiting,
    /// Its entry was let in; no byte was answered.
    Taken,
    /// The head of a streamed answer is out.
    Streaming,
    /// The library has ended it; nothing more may be asked of it.
    Ended,
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Lane it came by.
    pub(crate) lane: Key,
    /// Stream of that lane.
    pub(crate) stream: StreamId,
    /// What the library may look at; boxed, since the library holds pointers into it.
    pub(crate) view: Box<RequestView>,
    /// How its entry takes the instance; `None` where there is no such entry.
    pub(crate) entry: Option<Entry>,
    /// Where it stands.
    pub(crate) phase: Phase,
    /// Body that came and was not read.
    pub(crate) inbound: Inbound,
    /// The rest of a whole answer that found no room yet.
    pub(crate) outbound: Option<Outbound>,
    /// The client offers to change the protocol (RFC 9110, 7.8), and how far that is.
    pub(crate) upgrade: Upgrade,
    /// The caller left.
    pub(crate) cancelled: bool,
    /// The library is to end it: nothing more comes, and what it still says is sent.
    pub(crate) farewell: bool,
    /// The entry has returned, or was never called.
    pub(crate) returned: bool,
    /// Taken, and the library is not done with it: it is inside the gate.
    pub(crate) running: bool,
    /// When it was taken, in CLOCK_MONOTONIC nanoseconds.
    pub(crate) taken_ns: u64,
    /// It counts among the requests in flight.
    pub(crate) holds_place: bool,
    /// Called when the body, room, or a cancellation comes.
    pub(crate) wakers: Wakers,
    /// Calls to other deployments that the library made on its behalf, and has not freed.
    pub(crate) calls: Vec<Key>,
}

/// A change of protocol. What follows the request on its stream is its body only once the library has agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Nobody has offered one.
    No,
    /// The body of the request itself is empty; a 101 makes what follows readable.
    Offered,
    /// The library has answered 101: both directions are its own, without a deadline.
    Done,
}

impl Upgrade {
    /// What a request's OPEN says: it has no body, and its stream stays open all the same.
    pub(crate) fn of(request: &Request, end: bool) -> Self {
        let offered = request.kind == decurion_abi::kind::HTTP && request.content_length == 0 && !end;
        if offered { Upgrade::Offered } else { Upgrade::No }
    }
}

/// Body that came and was not read.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// In order.
    pub(crate) blocks: VecDeque<InBlock>,
    /// How much of the first block was read.
    pub(crate) at: usize,
    /// No more will come.
    pub(crate) ended: bool,
}

/// The rest of a whole answer, copied so that a slow caller holds no handler thread.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// The head's record, where it found no room either.
    pub(crate) head: Option<Vec<u8>>,
    /// What was left of the body when it was copied.
    pub(crate) body: Vec<u8>,
    /// How much of that was sent. `0 <= sent <= body.len()`
    pub(crate) sent: usize,
}

/// Wakers that a library left with pending operations.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    /// For more body.
    pub(crate) read: Option<SendWaker>,
    /// For room.
    pub(crate) write: Option<SendWaker>,
    /// For the cancellation.
    pub(crate) cancel: Option<SendWaker>,
}

impl Wakers {
    /// All of them, which are called once.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = SendWaker> + use<> {
        let Wakers { read, write, cancel } = std::mem::take(self);
        [read, write, cancel].into_iter().flatten()
    }
}

/// A waker of the ABI, which may be called from any thread by contract.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWaker(pub(crate) Waker);

// SAFETY: the ABI says that a waker may be called from any thread.
#[expect(unsafe_code, reason = "the contract of the ABI's waker, stated once")]
unsafe impl Send for SendWaker {}

impl SendWaker {
    /// The function and its argument.
    pub(crate) fn parts(self) -> (Option<unsafe extern "C" fn(*mut c_void)>, *mut c_void) {
        (self.0.wake, self.0.data)
    }
}

/// The head of a request in the ABI's form. The pointers of `request` lead into `head` and `headers`, which do not
/// change until the exchange is over and the view is read anew for another.
#[derive(Debug)]
pub(crate) struct RequestView {
    head: Vec<u8>,
    headers: Vec<Header>,
    request: Request,
    kind: Kind,
    epoch: Epoch,
    /// Where in `head` the texts stand that the host itself asks for.
    id: Range<usize>,
    method: Range<usize>,
    traceparent: Range<usize>,
}

// SAFETY: the pointers lead into this value's own heap memory, which is written by `read` alone.
#[expect(unsafe_code, reason = "a self-referential view of bytes that stay as they are")]
unsafe impl Send for RequestView {}

const EMPTY: Request = Request {
    size: 0,
    kind: 0,
    id: Bytes::EMPTY,
    method: Bytes::EMPTY,
    path: Bytes::EMPTY,
    query: Bytes::EMPTY,
    route_prefix: Bytes::EMPTY,
    traceparent: Bytes::EMPTY,
    model_id: Bytes::EMPTY,
    headers: std::ptr::null(),
    header_count: 0,
    deadline_ns: 0,
    content_length: 0,
    encoding: 0,
    method_index: u32::MAX,
};

impl Default for RequestView {
    fn default() -> Self {
        Self {
            head: Vec::new(),
            headers: Vec::new(),
            request: EMPTY,
            kind: Kind::Http,
            epoch: Epoch::default(),
            id: 0..0,
            method: 0..0,
            traceparent: 0..0,
        }
    }
}

impl RequestView {
    /// Reads a head record, over what was read before.
    ///
    /// # Errors
    /// The record is malformed, and this view is of no use to the library.
    pub(crate) fn read(&mut self, record: &[u8]) -> Result<(), RecordError> {
        self.request = EMPTY;
        self.head.clear();
        self.head.extend_from_slice(record);
        self.headers.clear();
        let (parsed, fields) = RequestHead::parse(&self.head)?;
        self.headers.extend(
            fields.map(|(name, value)| Header {
                name: Bytes::from_slice(name),
                value: Bytes::from_slice(value),
            }),
        );
        self.kind = parsed.kind;
        self.epoch = parsed.epoch;
        let place = |text: &str| {
            let start = text.as_ptr().addr().saturating_sub(self.head.as_ptr().addr());
            start..start + text.len()
        };
        self.id = place(parsed.id);
        self.method = place(parsed.method);
        self.traceparent = place(parsed.traceparent);
        self.request = Request {
            size: u32::try_from(size_of::<Request>()).unwrap_or(u32::MAX),
            kind: match parsed.kind {
                Kind::Http => decurion_abi::kind::HTTP,
                Kind::Call => decurion_abi::kind::CALL,
            },
            id: Bytes::from_slice(parsed.id.as_bytes()),
            method: Bytes::from_slice(parsed.method.as_bytes()),
            path: Bytes::from_slice(parsed.path),
            query: Bytes::from_slice(parsed.query),
            route_prefix: Bytes::from_slice(parsed.route_prefix.as_bytes()),
            traceparent: Bytes::from_slice(parsed.traceparent.as_bytes()),
            model_id: Bytes::from_slice(parsed.model_id.as_bytes()),
            headers: self.headers.as_ptr(),
            header_count: self.headers.len(),
            deadline_ns: parsed.deadline_ns,
            content_length: parsed.content_length.unwrap_or(u64::MAX),
            encoding: parsed.encoding,
            method_index: u32::MAX,
        };
        Ok(())
    }

    /// Says which method of the class is called; before the library sees it.
    pub(crate) fn set_method_index(&mut self, index: u32) {
        self.request.method_index = index;
    }

    /// For the library.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// HTTP or call.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// With which of the changes of sets the request has entered.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Request id.
    pub(crate) fn id(&self) -> &str {
        self.text(&self.id)
    }

    /// `traceparent`.
    pub(crate) fn traceparent(&self) -> &str {
        self.text(&self.traceparent)
    }

    /// The method's name.
    pub(crate) fn method(&self) -> &str {
        self.text(&self.method)
    }

    fn text(&self, place: &Range<usize>) -> &str {
        self.head.get(place.clone()).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl Exchange {
    /// Whether the library need not go on: the caller left, or the time is up.
    pub(crate) fn is_cancelled(&self, now_ns: u64) -> bool {
        self.cancelled || self.is_late(now_ns)
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_late(&self, now_ns: u64) -> bool {
        let deadline = self.deadline_ns();
        deadline != 0 && now_ns >= deadline
    }

    /// When the answer is due; 0: whenever.
    pub(crate) fn deadline_ns(&self) -> u64 {
        if self.upgrade == Upgrade::Done {
            return 0;
        }
        self.view.request().deadline_ns
    }

    /// Whether the library is done with it: the instance is free of it.
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Ended && self.returned
    }
}
