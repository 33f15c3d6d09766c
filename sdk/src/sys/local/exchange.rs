//! One exchange of the host in this process: what came in, and what becomes of it.

use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use decurion_abi as abi;
use decurion_abi::{kind, status};

use super::app::App;
use crate::sys::clock;
use crate::sys::host::size_of_u32;

/// What a call is made of, copied.
pub(super) struct Incoming {
    pub(super) kind: u32,
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) encoding: u32,
    pub(super) method_index: u32,
    pub(super) body: Vec<u8>,
    /// The caller can talk on after a 101.
    pub(super) offers_upgrade: bool,
    pub(super) model_id: Vec<u8>,
    pub(super) deadline_ns: u64,
}

/// What came of it.
pub(super) struct Answer {
    pub(super) status: u32,
    pub(super) encoding: u32,
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// One exchange. The ABI's pointer is to this, which is alive as long as anybody waits for it or runs it.
pub(super) struct Exchange {
    pub(super) app: Weak<App>,
    parent: Option<Arc<Exchange>>,
    incoming: Incoming,
    id: Vec<u8>,
    traceparent: Vec<u8>,
    /// Points into `incoming`, `id` and `traceparent`, which stay as they are.
    request: abi::Request,
    /// As `request`.
    _fields: Vec<abi::Header>,
    cancelled: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

// SAFETY: the raw pointers lead into the value's own fields, which nobody changes.
unsafe impl Send for Exchange {}
// SAFETY: as above.
unsafe impl Sync for Exchange {}

#[derive(Default)]
struct State {
    read: usize,
    ended: bool,
    /// It ended before its answer was whole.
    broken: bool,
    /// Also holds a streamed answer while it grows.
    answer: Option<Answer>,
    /// Called once: the first when its answer gets on, the second when it is cancelled.
    on_answer: Option<abi::Waker>,
    on_cancel: Option<abi::Waker>,
    children: Vec<Weak<Exchange>>,
    /// After a 101.
    tunnel: Option<Tunnel>,
}

/// Both directions of an exchange that has changed its protocol. What the deployment sends is the answer's body.
#[derive(Default)]
struct Tunnel {
    /// What the caller has sent.
    inbound: VecDeque<u8>,
    /// It sends no more.
    ended: bool,
    on_read: Option<abi::Waker>,
    on_write: Option<abi::Waker>,
}

/// Bytes that wait in one direction of a tunnel, at most.
const TUNNEL_MAX: usize = 256 * 1024;

impl Exchange {
    pub(super) fn new(app: &Arc<App>, parent: Option<Arc<Exchange>>, incoming: Incoming) -> Arc<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let given = incoming.headers.iter().find(|(name, _)| name == b"x-request-id");
        let id = match (given, &parent) {
            (_, Some(parent)) => parent.id.clone(),
            (Some((_, id)), None) => id.clone(),
            (None, None) => format!("local-{}", COUNT.fetch_add(1, Ordering::Relaxed)).into_bytes(),
        };
        let given = incoming.headers.iter().find(|(name, _)| name == b"traceparent");
        let traceparent = match (given, &parent) {
            (Some((_, trace)), _) => trace.clone(),
            (None, Some(parent)) => parent.traceparent.clone(),
            (None, None) => Vec::new(),
        };
        let of_parent = parent.as_ref().map_or(0, |parent| parent.request.deadline_ns);
        let deadline_ns =
            [incoming.deadline_ns, of_parent].into_iter().filter(|due| *due != 0).min().unwrap_or(0);
        let bytes = abi::Bytes::from_slice;
        let field =
            |(name, value): &(Vec<u8>, Vec<u8>)| abi::Header { name: bytes(name), value: bytes(value) };
        let fields: Vec<abi::Header> = incoming.headers.iter().map(field).collect();
        let mut parts = incoming.target.splitn(2, |byte| *byte == b'?');
        let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        // Vectors keep their bytes where they are when they move into the value below.
        let request = abi::Request {
            size: size_of_u32::<abi::Request>(),
            kind: incoming.kind,
            id: bytes(&id),
            method: bytes(&incoming.method),
            path: bytes(path),
            query: bytes(query),
            route_prefix: abi::Bytes::EMPTY,
            traceparent: bytes(&traceparent),
            model_id: bytes(&incoming.model_id),
            headers: fields.as_ptr(),
            header_count: fields.len(),
            deadline_ns,
            content_length: incoming.body.len() as u64,
            encoding: incoming.encoding,
            method_index: incoming.method_index,
        };
        let exchange = Arc::new(Self {
            app: Arc::downgrade(app),
            parent,
            incoming,
            id,
            traceparent,
            request,
            _fields: fields,
            cancelled: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        if let Some(parent) = &exchange.parent {
            parent.state().children.push(Arc::downgrade(&exchange));
        }
        exchange
    }

    pub(super) fn raw(self: &Arc<Self>) -> *mut abi::Exchange {
        Arc::as_ptr(self).cast_mut().cast()
    }

    /// The exchange behind the ABI's pointer, with a share of it.
    ///
    /// # Safety
    /// `raw` comes from [`raw`](Self::raw) of an exchange that is still alive, or is null.
    pub(super) unsafe fn from_raw(raw: *mut abi::Exchange) -> Option<Arc<Self>> {
        if raw.is_null() {
            return None;
        }
        let exchange = raw.cast_const().cast::<Self>();
        // SAFETY: alive, as the caller promises; the share counted here is the one returned below.
        unsafe { Arc::increment_strong_count(exchange) };
        // SAFETY: as above.
        Some(unsafe { Arc::from_raw(exchange) })
    }

    pub(super) fn id(&self) -> String {
        String::from_utf8_lossy(&self.id).into_owned()
    }

    pub(super) fn request(&self) -> *const abi::Request {
        if self.state().ended { ptr::null() } else { &raw const self.request }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
            || self.is_late()
            || self.parent.as_ref().is_some_and(|parent| parent.is_cancelled())
    }

    fn is_late(&self) -> bool {
        let due = self.request.deadline_ns;
        due != 0 && clock::monotonic() >= due
    }

    fn why_cancelled(&self) -> i32 {
        if self.is_late() { status::DEADLINE } else { status::CANCELLED }
    }

    /// Waits for a change, at most until the deadline.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let due = self.request.deadline_ns;
        if due == 0 {
            return self.changed.wait(state).unwrap_or_else(|broken| broken.into_inner());
        }
        let left = Duration::from_nanos(due.saturating_sub(clock::monotonic()));
        self.changed.wait_timeout(state, left).unwrap_or_else(|broken| broken.into_inner()).0
    }

    /// Cancels it and all that was called on its behalf.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        let mut state = self.state();
        let (waker, children) = (state.on_cancel.take(), std::mem::take(&mut state.children));
        let waits = state.on_answer.take();
        let tunnel = state.tunnel.as_mut();
        let (read, write) =
            tunnel.map(|tunnel| (tunnel.on_read.take(), tunnel.on_write.take())).unwrap_or_default();
        drop(state);
        [waker, waits, read, write].into_iter().for_each(wake);
        self.changed.notify_all();
        for child in children.iter().filter_map(Weak::upgrade) {
            child.cancel();
        }
    }

    pub(super) fn on_cancel(&self, waker: Option<abi::Waker>) {
        self.state().on_cancel = waker;
        if self.is_cancelled() {
            let waker = self.state().on_cancel.take();
            wake(waker);
        }
    }

    pub(super) fn read(&self, buffer: &mut [u8], waker: Option<abi::Waker>) -> isize {
        let mut state = self.state();
        loop {
            if self.is_cancelled() {
                return status::CANCELLED as isize;
            }
            let Some(tunnel) = &mut state.tunnel else { break };
            if tunnel.ended || !tunnel.inbound.is_empty() {
                let len = take(&mut tunnel.inbound, buffer);
                drop(state);
                self.changed.notify_all();
                return len.cast_signed();
            }
            if waker.is_some() {
                tunnel.on_read = waker;
                return status::PENDING as isize;
            }
            state = self.wait(state);
        }
        let rest = &self.incoming.body[state.read..];
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        state.read += len;
        len.cast_signed()
    }

    /// Starts an answer, or gives the whole of it.
    pub(super) fn answer(&self, answer: Answer, whole: bool) -> i32 {
        let mut state = self.state();
        if state.ended || state.answer.is_some() {
            return status::INVALID;
        }
        if answer.status == SWITCHING_PROTOCOLS {
            if whole || !self.incoming.offers_upgrade {
                return status::INVALID;
            }
            state.tunnel = Some(Tunnel::default());
        }
        state.answer = Some(answer);
        if !whole {
            self.tell(state);
            return status::OK;
        }
        drop(state);
        self.end()
    }

    /// Appends to a streamed answer: how much, or an ABI status.
    pub(super) fn append(&self, bytes: &[u8], waker: Option<abi::Waker>) -> isize {
        let mut state = self.state();
        loop {
            if self.is_cancelled() {
                return status::CANCELLED as isize;
            }
            let State { tunnel, answer: Some(answer), ended: false, .. } = &mut *state else {
                return status::INVALID as isize;
            };
            let room = if tunnel.is_some() { TUNNEL_MAX - answer.body.len() } else { bytes.len() };
            if room > 0 || bytes.is_empty() {
                let bytes = &bytes[..room.min(bytes.len())];
                answer.body.extend_from_slice(bytes);
                self.tell(state);
                return bytes.len().cast_signed();
            }
            match tunnel {
                Some(tunnel) if waker.is_some() => {
                    tunnel.on_write = waker;
                    return status::PENDING as isize;
                }
                _ => state = self.wait(state),
            }
        }
    }

    /// Tells whoever waits for the answer that it has got on.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let waker = state.on_answer.take();
        drop(state);
        wake(waker);
        self.changed.notify_all();
    }

    #[cfg(feature = "websocket")]
    /// Waits for the answer's head: its status, and fields of which one is asked for.
    pub(super) fn switched(&self) -> bool {
        let mut state = self.state();
        while state.answer.is_none() && !state.ended {
            state = self.wait(state);
        }
        state.tunnel.is_some()
    }

    #[cfg(feature = "websocket")]
    /// Takes what the deployment has sent over a tunnel, waiting for the first of it: 0 at its end.
    pub(super) fn take_outbound(&self, buffer: &mut [u8]) -> usize {
        let mut state = self.state();
        loop {
            let ended = state.ended;
            let State { tunnel: Some(tunnel), answer: Some(answer), .. } = &mut *state else { return 0 };
            let len = answer.body.len().min(buffer.len());
            if len > 0 || ended {
                buffer[..len].copy_from_slice(&answer.body[..len]);
                answer.body.drain(..len);
                let waker = tunnel.on_write.take();
                drop(state);
                wake(waker);
                self.changed.notify_all();
                return len;
            }
            state = self.wait(state);
        }
    }

    #[cfg(feature = "websocket")]
    /// Sends over a tunnel, waiting for room: `false` where the deployment has ended it.
    pub(super) fn put_inbound(&self, mut bytes: &[u8]) -> bool {
        let mut state = self.state();
        while !bytes.is_empty() {
            let State { tunnel: Some(tunnel), ended: false, .. } = &mut *state else { return false };
            let room = (TUNNEL_MAX - tunnel.inbound.len()).min(bytes.len());
            tunnel.inbound.extend(&bytes[..room]);
            bytes = &bytes[room..];
            let waker = tunnel.on_read.take();
            drop(state);
            wake(waker);
            self.changed.notify_all();
            state = self.state();
            if !bytes.is_empty() && room == 0 {
                state = self.wait(state);
            }
        }
        true
    }

    #[cfg(feature = "websocket")]
    /// The caller sends no more over a tunnel.
    pub(super) fn end_inbound(&self) {
        let waker = self.state().tunnel.as_mut().and_then(|tunnel| {
            tunnel.ended = true;
            tunnel.on_read.take()
        });
        wake(waker);
        self.changed.notify_all();
    }

    /// Ends it as failed; a streamed answer that had begun is cut off.
    pub(super) fn fail(&self, code: u32, public: &[u8]) -> i32 {
        let mut state = self.state();
        state.broken = state.answer.is_some() && !state.ended;
        if state.broken {
            drop(state);
            return self.end();
        }
        drop(state);
        let http = self.incoming.kind == kind::HTTP;
        // What does not stand for an error is none that was chosen.
        let code = if (400..=599).contains(&code) { code } else { 0 };
        let body = if http && code == 0 { FIXED_BODY.as_bytes() } else { public };
        let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let mut headers = vec![field("content-type", "text/plain; charset=utf-8")];
        headers.extend((code == 503).then(|| field("retry-after", "1")));
        self.state().answer = Some(Answer {
            status: if code == 0 { 500 } else { code },
            encoding: abi::encoding::RAW,
            headers,
            body: body.to_vec(),
        });
        self.end()
    }

    pub(super) fn end(&self) -> i32 {
        let mut state = self.state();
        if state.ended || state.answer.is_none() {
            return status::INVALID;
        }
        state.ended = true;
        self.tell(state);
        if self.is_cancelled() { status::CANCELLED } else { status::OK }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().ended
    }

    pub(super) fn wait_for_end(&self) {
        let mut state = self.state();
        while !state.ended {
            state = self.changed.wait(state).unwrap_or_else(|broken| broken.into_inner());
        }
    }

    /// Takes the answer once it is whole; waits for that where there is no waker.
    pub(super) fn take_answer(&self, waker: Option<abi::Waker>) -> Result<Answer, i32> {
        self.wait_for(waker, |state| match state {
            State { ended: true, broken: true, .. } => Some(Err(status::BROKEN)),
            State { ended: true, answer, .. } => Some(answer.take().ok_or(status::INVALID)),
            _ => None,
        })
    }

    /// Status, encoding and fields of the answer, once it has begun.
    pub(super) fn answer_head(&self, waker: Option<abi::Waker>) -> Result<Answer, i32> {
        self.wait_for(waker, |state| {
            let answer = state.answer.as_ref()?;
            let (status, encoding) = (answer.status, answer.encoding);
            Some(Ok(Answer { status, encoding, headers: answer.headers.clone(), body: Vec::new() }))
        })
    }

    /// Reads from the answer's body as it grows; 0 at its end.
    pub(super) fn read_answer(&self, buffer: &mut [u8], waker: Option<abi::Waker>) -> Result<usize, i32> {
        self.wait_for(waker, |state| {
            let len = state.answer.as_ref().map_or(0, |answer| answer.body.len().min(buffer.len()));
            if len == 0 && !state.ended {
                return None;
            }
            if let Some(answer) = &mut state.answer {
                buffer[..len].copy_from_slice(&answer.body[..len]);
                answer.body.drain(..len);
            }
            match len {
                0 if state.broken => Some(Err(status::BROKEN)),
                len => Some(Ok(len)),
            }
        })
    }

    fn wait_for<T>(
        &self,
        waker: Option<abi::Waker>,
        mut look: impl FnMut(&mut State) -> Option<Result<T, i32>>,
    ) -> Result<T, i32> {
        let mut state = self.state();
        loop {
            // What was answered before it was cancelled is an answer.
            if self.is_cancelled() && !state.ended {
                return Err(self.why_cancelled());
            }
            if let Some(found) = look(&mut state) {
                return found;
            }
            if waker.is_some() {
                state.on_answer = waker;
                return Err(status::PENDING);
            }
            state = self.wait(state);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// RFC 9110, 15.2.2.
const SWITCHING_PROTOCOLS: u32 = 101;

fn take(from: &mut VecDeque<u8>, to: &mut [u8]) -> usize {
    let len = from.len().min(to.len());
    for (place, byte) in to.iter_mut().zip(from.drain(..len)) {
        *place = byte;
    }
    len
}

/// What a client sees of an error that its deployment did not mean for it.
const FIXED_BODY: &str = "Internal Server Error";

fn wake(waker: Option<abi::Waker>) {
    if let Some(abi::Waker { wake: Some(wake), data }) = waker {
        // SAFETY: the ABI has the waker's owner keep function and data good until it was called.
        unsafe { wake(data) };
    }
}
