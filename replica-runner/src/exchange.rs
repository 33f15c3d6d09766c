//! One request that this replica was asked, from its OPEN to the end of its answer.

use std::collections::VecDeque;
use std::ffi::c_void;

use decurion_abi::{Bytes, Header, Request, Waker};
use decurion_ipc::channel::{InBlock, StreamId};
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
    /// Body that came and was not read: block and how much of it was read.
    pub(crate) inbound: VecDeque<(InBlock, usize)>,
    /// No more of the body will come.
    pub(crate) inbound_ended: bool,
    /// The rest of a whole answer that found no room yet.
    pub(crate) outbound: Outbound,
    /// The caller left.
    pub(crate) cancelled: bool,
    /// The entry has returned, or was never called.
    pub(crate) returned: bool,
    /// It counts among the requests in flight, and is inside the gate.
    pub(crate) holds_place: bool,
    /// Its stream has not been ended by us.
    pub(crate) holds_stream: bool,
    /// Called when the body, room, or a cancellation comes.
    pub(crate) wakers: Wakers,
}

/// The rest of a whole answer, copied so that a slow caller holds no handler thread.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// The head's record, where it found no room either.
    pub(crate) head: Option<Vec<u8>>,
    /// The whole body.
    pub(crate) body: Vec<u8>,
    /// How much of it was sent. `0 <= sent <= body.len()`
    pub(crate) sent: usize,
    /// Whether something is left to send.
    pub(crate) open: bool,
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
    /// Whether anything waits.
    pub(crate) fn any(&self) -> bool {
        self.read.is_some() || self.write.is_some() || self.cancel.is_some()
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

/// The head of a request in the ABI's form. The pointers of `request` lead into `head` and `headers`, which
/// never change after construction.
#[derive(Debug)]
pub(crate) struct RequestView {
    head: Box<[u8]>,
    headers: Vec<Header>,
    request: Request,
    kind: Kind,
}

// SAFETY: the pointers lead into this value's own heap memory, which is never written again.
#[expect(unsafe_code, reason = "a self-referential view of immutable bytes")]
unsafe impl Send for RequestView {}

impl RequestView {
    /// Reads a head record. `method_index` looks a method's name up.
    pub(crate) fn parse(head: &[u8], method_index: impl Fn(&str) -> u32) -> Result<Box<Self>, RecordError> {
        let head: Box<[u8]> = head.into();
        let (parsed, fields) = RequestHead::parse(&head)?;
        let headers: Vec<Header> = fields
            .map(|(name, value)| Header { name: Bytes::from_slice(name), value: Bytes::from_slice(value) })
            .collect();
        let kind = parsed.kind;
        let request = Request {
            size: u32::try_from(size_of::<Request>()).unwrap_or(u32::MAX),
            kind: match kind {
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
            headers: headers.as_ptr(),
            header_count: headers.len(),
            deadline_ns: parsed.deadline_ns,
            content_length: parsed.content_length.unwrap_or(u64::MAX),
            encoding: parsed.encoding,
            method_index: match kind {
                Kind::Http => u32::MAX,
                Kind::Call => method_index(parsed.method),
            },
        };
        Ok(Box::new(Self { headers, request, kind, head }))
    }

    /// For the library.
    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    /// HTTP or call.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The head again, as text that travels on with calls made for this request.
    pub(crate) fn id(&self) -> String {
        self.parsed(|head| head.id.to_owned())
    }

    /// `traceparent`.
    pub(crate) fn traceparent(&self) -> String {
        self.parsed(|head| head.traceparent.to_owned())
    }

    /// The method's name.
    pub(crate) fn method(&self) -> String {
        self.parsed(|head| head.method.to_owned())
    }

    fn parsed(&self, pick: impl Fn(&RequestHead<'_>) -> String) -> String {
        debug_assert_eq!(self.headers.len(), self.request.header_count);
        RequestHead::parse(&self.head).map(|(head, _)| pick(&head)).unwrap_or_default()
    }
}

impl Exchange {
    /// Whether the library need not go on: the caller left, or the time is up.
    pub(crate) fn is_cancelled(&self, now_ns: u64) -> bool {
        self.cancelled || self.is_late(now_ns)
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_late(&self, now_ns: u64) -> bool {
        let deadline = self.view.request().deadline_ns;
        deadline != 0 && now_ns >= deadline
    }

    /// Whether the library is done with it: its place is free for another.
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Ended && self.returned
    }
}
