//! The host's table as safe Rust: the exchange that is being answered, and calls to other deployments.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(feature = "tokio")]
use std::task::{Context, Poll};

use decurion_abi as abi;
use decurion_abi::status;

#[cfg(feature = "tokio")]
use super::waking::HostWaker;
use crate::head::Head;
use crate::response::Parts;

static HOST: OnceLock<&'static abi::Host> = OnceLock::new();

/// Keeps the host's table for the life of the process.
///
/// # Safety
/// `host` points to a table that is valid for the life of the process, or its first words say that it is none.
pub(crate) unsafe fn adopt_host(host: *const abi::Host) -> Result<&'static abi::Host, &'static str> {
    if host.is_null() {
        return Err("the host gave no table");
    }
    // SAFETY: not null; its first words can be read whatever its version, as the caller promises.
    let magic = unsafe { (*host).magic };
    // SAFETY: as above.
    let major = unsafe { (*host).abi_major };
    // SAFETY: as above.
    let size = unsafe { (*host).size };
    if magic != abi::MAGIC || major != abi::ABI_MAJOR {
        return Err("the host's table is of another version of the plugin ABI");
    }
    if usize::try_from(size).is_ok_and(|size| size < size_of::<abi::Host>()) {
        return Err("the host's table is too small");
    }
    // SAFETY: a whole table of our major version, valid for the life of the process.
    let host = unsafe { &*host };
    Ok(HOST.get_or_init(|| host))
}

/// The host, once a class of this library was constructed.
pub(crate) fn host() -> Option<&'static abi::Host> {
    HOST.get().copied()
}

/// Who this replica is; `None` before the first construction.
pub(crate) fn context() -> Option<&'static abi::Context> {
    // SAFETY: the ABI has the context valid for the life of the process, or null.
    host().and_then(|host| unsafe { host.context.as_ref() })
}

/// Bytes of the host that live as long as the process.
pub(crate) fn static_text(bytes: abi::Bytes) -> &'static str {
    // SAFETY: only called with parts of the context, which is valid for the life of the process.
    std::str::from_utf8(unsafe { bytes.as_slice() }).unwrap_or_default()
}

/// Writes a log line.
pub(crate) fn log(exchange: Option<&Exchange>, level: u32, target: &str, message: &str) {
    let (target, message) = (bytes(target.as_bytes()), bytes(message.as_bytes()));
    let written = exchange.and_then(|exchange| {
        exchange.while_open(|host, raw| {
            // SAFETY: an open exchange of this host, and bytes that live through the call.
            unsafe { (host.log)(raw, level, target, message) };
        })
    });
    if let (None, Some(host)) = (written, host()) {
        // SAFETY: a null exchange stands for none; the bytes live through the call.
        unsafe { (host.log)(ptr::null_mut(), level, target, message) };
    }
}

/// What an exchange is, as numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) method_index: u32,
    pub(crate) encoding: u32,
    pub(crate) deadline_ns: u64,
    pub(crate) content_length: u64,
}

/// One exchange, from the entry that the host called until it is ended. May be kept longer: then it is closed, and
/// the host's pointer is not touched any more.
pub(crate) struct Exchange {
    host: &'static abi::Host,
    raw: *mut abi::Exchange,
    request: *const abi::Request,
    facts: Facts,
    /// Whether `raw` and `request` may be used. Readers use it, who ends it writes.
    open: RwLock<bool>,
    head: OnceLock<Head>,
}

// SAFETY: the ABI lets every thread use an open exchange; `open` keeps all of them from a closed one.
unsafe impl Send for Exchange {}
// SAFETY: as above.
unsafe impl Sync for Exchange {}

/// Why body bytes can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    Cancelled,
    Broken,
    Closed,
}

/// Why an answer can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// Nobody waits any more.
    Cancelled,
    /// The head is none that can be sent, or the answer is over.
    Invalid,
}

impl Exchange {
    /// # Safety
    /// `raw` is an open exchange of the adopted host, and nobody ends it but the value returned.
    pub(crate) unsafe fn adopt(raw: *mut abi::Exchange) -> Option<Arc<Self>> {
        let host = host()?;
        // SAFETY: an open exchange of this host.
        let request = unsafe { (host.request)(raw) };
        // SAFETY: null, or valid until the exchange is ended, which only the value made here does.
        let (given, request) = (request, unsafe { request.as_ref() }?);
        if usize::try_from(request.size).is_ok_and(|size| size < size_of::<abi::Request>()) {
            return None;
        }
        let facts = Facts {
            method_index: request.method_index,
            encoding: request.encoding,
            deadline_ns: request.deadline_ns,
            content_length: request.content_length,
        };
        Some(Arc::new(Self {
            host,
            raw,
            request: given,
            facts,
            open: RwLock::new(true),
            head: OnceLock::new(),
        }))
    }

    pub(crate) fn facts(&self) -> Facts {
        self.facts
    }

    /// The head, copied when it is first asked for; empty where that comes too late.
    pub(crate) fn head(&self) -> &Head {
        self.head.get_or_init(|| self.while_open(|_, _| copy_head(self.request)).unwrap_or_default())
    }

    /// The head as the host lends it; `None` where that comes too late.
    #[cfg(feature = "axum")]
    pub(crate) fn with_lent_head<R>(&self, read: impl FnOnce(&LentHead<'_>) -> R) -> Option<R> {
        self.while_open(|_, _| {
            // SAFETY: as in `copy_head`.
            let request = unsafe { self.request.as_ref() }?;
            // SAFETY: parts of a request that is valid here.
            let slice = |part: abi::Bytes| unsafe { part.as_slice() };
            Some(read(&LentHead {
                method: slice(request.method),
                path: slice(request.path),
                query: slice(request.query),
                route_prefix: slice(request.route_prefix),
                fields: fields_lent(request),
            }))
        })?
    }

    /// A header field as the host has it; where the rest of the head is not wanted, that saves copying it.
    pub(crate) fn field(&self, name: &str) -> Option<Vec<u8>> {
        self.while_open(|_, _| {
            // SAFETY: as in `copy_head`.
            let request = unsafe { self.request.as_ref() }?;
            let mut fields = fields_lent(request).iter();
            // SAFETY: parts of a request that is valid here.
            let field = fields
                .find(|field| unsafe { field.name.as_slice() }.eq_ignore_ascii_case(name.as_bytes()))?;
            // SAFETY: as above.
            Some(unsafe { field.value.as_slice() }.to_vec())
        })?
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        // SAFETY: an open exchange of this host.
        self.while_open(|host, raw| unsafe { (host.is_cancelled)(raw) } != 0).unwrap_or(true)
    }

    /// Reads body bytes; waits for the first. 0 at the end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let read = self.while_open(|host, raw| {
            // SAFETY: an open exchange, a buffer of that length, no waker: it waits.
            unsafe { (host.body_read)(raw, buffer.as_mut_ptr(), buffer.len(), ptr::null()) }
        });
        have_read(read, buffer.len())
    }

    /// Calls `waker` once it is cancelled, at once where it is already. `false`: the exchange is over.
    pub(crate) fn on_cancel(&self, waker: &abi::Waker) -> bool {
        // SAFETY: an open exchange; the waker is copied, and what it calls takes any number at any time.
        self.while_open(|host, raw| unsafe { (host.on_cancel)(raw, waker) }) == Some(status::OK)
    }

    /// Reads body bytes, or sees that `place` is called when there are some. 0 at the end.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_read(
        &self,
        buffer: &mut [u8],
        place: &HostWaker,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, ReadError>> {
        let waker = place.listen(cx.waker());
        let read = self.while_open(|host, raw| {
            // SAFETY: an open exchange, a buffer of that length, a waker that is copied and may be called at any time.
            unsafe { (host.body_read)(raw, buffer.as_mut_ptr(), buffer.len(), &raw const waker) }
        });
        if read == Some(status::PENDING as isize) {
            Poll::Pending
        } else {
            Poll::Ready(have_read(read, buffer.len()))
        }
    }

    /// Writes bytes of a streamed answer, or sees that `place` is called when there is room.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_write(
        &self,
        body: &[u8],
        place: &HostWaker,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, WriteError>> {
        let waker = place.listen(cx.waker());
        let taken = self.while_open(|host, raw| {
            // SAFETY: an open exchange, bytes that live through the call, and a waker as above.
            unsafe { (host.respond_write)(raw, bytes(body), &raw const waker) }
        });
        if taken == Some(status::PENDING as isize) { Poll::Pending } else { Poll::Ready(have_written(taken)) }
    }

    /// Answers an HTTP exchange and ends it. `false` where the host refuses status or header fields: it is still open.
    pub(crate) fn respond(&self, status: u16, headers: &[abi::Header], body: &[u8]) -> bool {
        self.end(|host, raw| {
            let (fields, count, body) = (headers.as_ptr(), headers.len(), bytes(body));
            // SAFETY: an open exchange; fields and body live through the call.
            unsafe { (host.respond)(raw, u32::from(status), fields, count, body) }
        })
    }

    /// Starts a streamed answer. `Invalid`: the exchange is as it was.
    pub(crate) fn respond_start(&self, parts: &Parts, length: Option<u64>) -> Result<(), WriteError> {
        let fields = fields_of(parts);
        let done = self.while_open(|host, raw| {
            let (status, length) = (u32::from(parts.status.as_u16()), length.unwrap_or(u64::MAX));
            // SAFETY: an open exchange; the fields live through the call.
            unsafe { (host.respond_start)(raw, status, fields.as_ptr(), fields.len(), length) }
        });
        written(done)
    }

    /// Writes bytes of a streamed answer; how many were taken, at least one. Waits for room.
    pub(crate) fn write(&self, body: &[u8]) -> Result<usize, WriteError> {
        let written = self.while_open(|host, raw| {
            // SAFETY: an open exchange, bytes that live through the call, no waker: it waits.
            unsafe { (host.respond_write)(raw, bytes(body), ptr::null()) }
        });
        have_written(written)
    }

    /// Sends on its way what was written.
    pub(crate) fn flush(&self) -> Result<(), WriteError> {
        // SAFETY: an open exchange.
        written(self.while_open(|host, raw| unsafe { (host.respond_flush)(raw) }))
    }

    /// Ends a streamed answer.
    pub(crate) fn finish(&self) {
        // SAFETY: an open exchange.
        self.end(|host, raw| unsafe { (host.finish)(raw) });
    }

    /// Ends a call with its result. `false` where the host refuses it: it is still open.
    pub(crate) fn respond_call(&self, encoding: u32, result: &[u8]) -> bool {
        // SAFETY: an open exchange; the result lives through the call.
        self.end(|host, raw| unsafe { (host.respond_call)(raw, encoding, bytes(result)) })
    }

    /// Ends the exchange as failed.
    pub(crate) fn fail(&self, code: u16, public: &str, detail: &str) {
        self.end(|host, raw| {
            let (public, detail) = (bytes(public.as_bytes()), bytes(detail.as_bytes()));
            // SAFETY: an open exchange; both texts live through the call.
            unsafe { (host.fail)(raw, u32::from(code), public, detail) };
            status::OK
        });
    }

    fn while_open<R>(&self, use_it: impl FnOnce(&abi::Host, *mut abi::Exchange) -> R) -> Option<R> {
        let open: RwLockReadGuard<'_, bool> = self.open.read().unwrap_or_else(|broken| broken.into_inner());
        open.then(|| use_it(self.host, self.raw))
    }

    /// Runs what ends the exchange, once, beside no other use of it. `INVALID` leaves it open.
    fn end(&self, end_it: impl FnOnce(&abi::Host, *mut abi::Exchange) -> i32) -> bool {
        let mut open: RwLockWriteGuard<'_, bool> =
            self.open.write().unwrap_or_else(|broken| broken.into_inner());
        if !*open {
            return true;
        }
        let ended = end_it(self.host, self.raw) != status::INVALID;
        *open = !ended;
        ended
    }
}

/// What a status of the writing functions means; `None` where the exchange is over.
fn written(done: Option<i32>) -> Result<(), WriteError> {
    match done {
        Some(status::OK) => Ok(()),
        Some(status::CANCELLED | status::DEADLINE) => Err(WriteError::Cancelled),
        _ => Err(WriteError::Invalid),
    }
}

/// What reading gave; `None` where the exchange is over.
fn have_read(read: Option<isize>, room: usize) -> Result<usize, ReadError> {
    match read {
        None => Err(ReadError::Closed),
        Some(read) if read == status::CANCELLED as isize || read == status::DEADLINE as isize => {
            Err(ReadError::Cancelled)
        }
        Some(read) => usize::try_from(read).ok().filter(|read| *read <= room).ok_or(ReadError::Broken),
    }
}

/// What writing gave; `None` where the exchange is over.
fn have_written(written: Option<isize>) -> Result<usize, WriteError> {
    match written {
        Some(taken) if taken > 0 => usize::try_from(taken).map_err(|_| WriteError::Invalid),
        Some(failed) if failed == status::CANCELLED as isize || failed == status::DEADLINE as isize => {
            Err(WriteError::Cancelled)
        }
        _ => Err(WriteError::Invalid),
    }
}

/// Header fields as the ABI takes them, borrowed.
pub(crate) fn fields_of(parts: &Parts) -> Vec<abi::Header> {
    let content_type = parts.content_type.as_ref().map(|value| (&b"content-type"[..], value.as_bytes()));
    let others = parts.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let field = |(name, value)| abi::Header { name: bytes(name), value: bytes(value) };
    content_type.into_iter().chain(others).map(field).collect()
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Parts of a request's head, not copied.
#[cfg(feature = "axum")]
pub(crate) struct LentHead<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) path: &'a [u8],
    pub(crate) query: &'a [u8],
    pub(crate) route_prefix: &'a [u8],
    fields: &'a [abi::Header],
}

#[cfg(feature = "axum")]
impl<'a> LentHead<'a> {
    #[cfg(test)]
    pub(crate) fn new(
        method: &'a [u8],
        path: &'a str,
        query: &'a str,
        route_prefix: &'a str,
        fields: &'a [abi::Header],
    ) -> Self {
        let [path, query, route_prefix] = [path, query, route_prefix].map(str::as_bytes);
        Self { method, path, query, route_prefix, fields }
    }

    pub(crate) fn headers(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let slices = |field: &'a abi::Header| {
            // SAFETY: parts of a request that is valid for the lifetime it is lent for.
            (unsafe { field.name.as_slice() }, unsafe { field.value.as_slice() })
        };
        self.fields.iter().map(slices)
    }
}

/// The header fields of a request that the host lends.
fn fields_lent(request: &abi::Request) -> &[abi::Header] {
    if request.headers.is_null() {
        return &[];
    }
    // SAFETY: the host gives so many fields, valid as long as the request.
    unsafe { std::slice::from_raw_parts(request.headers, request.header_count) }
}

fn copy_head(request: *const abi::Request) -> Head {
    // SAFETY: seen not to be null, and valid until the exchange is ended, which can't happen while it is being used here.
    let Some(request) = (unsafe { request.as_ref() }) else {
        return Head::default();
    };
    let fields = fields_lent(request);
    // SAFETY: parts of a request that is valid here.
    let slice = |part: abi::Bytes| unsafe { part.as_slice() };
    let in_fields: usize = fields.iter().map(|field| field.name.len + field.value.len).sum();
    let texts = [request.id, request.method, request.path, request.query, request.route_prefix];
    let in_texts: usize = texts.iter().map(|text| text.len).sum();
    let mut head = Head::with_capacity(in_fields + in_texts + 64, fields.len());
    head.id = head.keep(slice(request.id));
    head.method = head.keep(slice(request.method));
    head.path = head.keep(slice(request.path));
    head.query = head.keep(slice(request.query));
    head.route_prefix = head.keep(slice(request.route_prefix));
    head.traceparent = head.keep(slice(request.traceparent));
    head.model_id = head.keep(slice(request.model_id));
    for field in fields {
        head.keep_header(slice(field.name), slice(field.value));
    }
    head
}

/// A call to another deployment, as the host takes it.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) kind: u32,
    pub(crate) deployment: &'a str,
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) headers: &'a [(&'a [u8], &'a [u8])],
    pub(crate) encoding: u32,
    pub(crate) body: &'a [u8],
    pub(crate) parent: Option<&'a Exchange>,
    pub(crate) deadline_ns: u64,
    pub(crate) model_id: &'a str,
    /// The one replica that is to answer; empty: any.
    pub(crate) replica: &'a str,
}

/// What came back, lent for as long as the call lives.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) status: u32,
    pub(crate) encoding: u32,
    pub(crate) body: &'a [u8],
    fields: &'a [abi::Header],
}

impl Reply<'_> {
    /// The callee would misread the call's types; nothing was run. A 415 of its method's own is none such.
    pub(crate) fn is_misread(&self) -> bool {
        self.status == 415 && self.headers().any(|(name, _)| name == abi::TYPES_HEADER.as_bytes())
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // SAFETY: parts of a reply that is valid for the lifetime it is lent for.
        self.fields.iter().map(|field| (unsafe { field.name.as_slice() }, unsafe { field.value.as_slice() }))
    }
}

const EMPTY_REPLY: abi::CallReply = abi::CallReply {
    size: size_of_u32::<abi::CallReply>(),
    status: 0,
    encoding: 0,
    flags: 0,
    headers: ptr::null(),
    header_count: 0,
    body: abi::Bytes::EMPTY,
};

/// A call under way. Dropped, it is cancelled.
#[derive(Debug)]
pub(crate) struct Call {
    host: &'static abi::Host,
    raw: *mut abi::Call,
}

// SAFETY: the ABI ties a call to no thread.
unsafe impl Send for Call {}
// SAFETY: what takes `&self` is `cancel` alone, which the ABI allows beside a wait.
unsafe impl Sync for Call {}

impl Call {
    /// Starts a call, on behalf of the parent where it is still open. The error is an ABI status.
    pub(crate) fn start(outgoing: &Outgoing<'_>) -> Result<Self, i32> {
        let host = host().ok_or(status::INVALID)?;
        let field = |(name, value): &(&[u8], &[u8])| abi::Header { name: bytes(name), value: bytes(value) };
        let fields: Vec<abi::Header> = outgoing.headers.iter().map(field).collect();
        let start = |parent: *mut abi::Exchange| {
            let spec = abi::CallSpec {
                size: size_of_u32::<abi::CallSpec>(),
                kind: outgoing.kind,
                deployment: bytes(outgoing.deployment.as_bytes()),
                method: bytes(outgoing.method.as_bytes()),
                target: bytes(outgoing.target.as_bytes()),
                headers: fields.as_ptr(),
                header_count: fields.len(),
                encoding: outgoing.encoding,
                flags: 0,
                body: bytes(outgoing.body),
                parent,
                deadline_ns: outgoing.deadline_ns,
                model_id: bytes(outgoing.model_id.as_bytes()),
                replica: bytes(outgoing.replica.as_bytes()),
            };
            let mut raw = ptr::null_mut();
            // SAFETY: all that the specification points to lives through the call; the parent is open or null.
            match unsafe { (host.call_start)(&raw const spec, &raw mut raw) } {
                status::OK if !raw.is_null() => Ok(Self { host, raw }),
                status::OK => Err(status::ERROR),
                refused => Err(refused),
            }
        };
        let for_parent = outgoing.parent.and_then(|parent| parent.while_open(|_, raw| start(raw)));
        for_parent.unwrap_or_else(|| start(ptr::null_mut()))
    }

    /// Sees whether the whole answer is there, so that [`wait`](Self::wait) gives it at once, or that `place` is called
    /// then. The error is an ABI status.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_ready(&mut self, place: &HostWaker, cx: &Context<'_>) -> Poll<Result<(), i32>> {
        let waker = place.listen(cx.waker());
        let mut reply = EMPTY_REPLY;
        // SAFETY: a call that is not freed yet, a reply of the size it states, a waker that is copied and may be
        // called at any time.
        match unsafe { (self.host.call_wait)(self.raw, &raw mut reply, &raw const waker) } {
            status::PENDING => Poll::Pending,
            status::OK => Poll::Ready(Ok(())),
            failed => Poll::Ready(Err(failed)),
        }
    }

    /// Waits for the whole answer. The error is an ABI status.
    pub(crate) fn wait(&mut self) -> Result<Reply<'_>, i32> {
        let mut reply = EMPTY_REPLY;
        // SAFETY: a call that is not freed yet, a reply of the size it states, no waker: it waits.
        match unsafe { (self.host.call_wait)(self.raw, &raw mut reply, ptr::null()) } {
            status::OK => Ok(self.lent(&reply)),
            failed => Err(failed),
        }
    }

    /// What the host has just filled in for this call.
    fn lent(&mut self, reply: &abi::CallReply) -> Reply<'_> {
        let fields: &[abi::Header] = if reply.headers.is_null() {
            &[]
        } else {
            // SAFETY: the host gives so many fields, valid until the call is freed, which `&mut self` outlives.
            unsafe { std::slice::from_raw_parts(reply.headers, reply.header_count) }
        };
        // SAFETY: as above.
        let body = unsafe { reply.body.as_slice() };
        Reply { status: reply.status, encoding: reply.encoding, body, fields }
    }

    /// Waits for the head of the answer alone. The body is then [read](Self::read). The error is an ABI status.
    pub(crate) fn head(&mut self) -> Result<Reply<'_>, i32> {
        let mut reply = EMPTY_REPLY;
        // SAFETY: as in `wait`.
        match unsafe { (self.host.call_head)(self.raw, &raw mut reply, ptr::null()) } {
            status::OK => Ok(self.lent(&reply)),
            failed => Err(failed),
        }
    }

    /// Sees whether the head of the answer is there, so that [`head`](Self::head) gives it at once, or that `place` is
    /// called then.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_head(&mut self, place: &HostWaker, cx: &Context<'_>) -> Poll<Result<(), i32>> {
        let waker = place.listen(cx.waker());
        let mut reply = EMPTY_REPLY;
        // SAFETY: as in `poll_ready`.
        match unsafe { (self.host.call_head)(self.raw, &raw mut reply, &raw const waker) } {
            status::PENDING => Poll::Pending,
            status::OK => Poll::Ready(Ok(())),
            failed => Poll::Ready(Err(failed)),
        }
    }

    /// Reads from the answer's body as it streams in: 0 at its end. The error is an ABI status.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, i32> {
        // SAFETY: a call that is not freed yet, a buffer of that length, no waker: it waits.
        let read = unsafe { (self.host.call_read)(self.raw, buffer.as_mut_ptr(), buffer.len(), ptr::null()) };
        count_of(read, buffer.len())
    }

    /// The same, or sees that `place` is called when there is something to read.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_read(
        &mut self,
        buffer: &mut [u8],
        place: &HostWaker,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, i32>> {
        let waker = place.listen(cx.waker());
        // SAFETY: as in `read`, with a waker that is copied and may be called at any time.
        let read =
            unsafe { (self.host.call_read)(self.raw, buffer.as_mut_ptr(), buffer.len(), &raw const waker) };
        if read == status::PENDING as isize {
            Poll::Pending
        } else {
            Poll::Ready(count_of(read, buffer.len()))
        }
    }

    /// Tells the callee that nobody waits.
    pub(crate) fn cancel(&self) {
        // SAFETY: a call that is not freed yet.
        unsafe { (self.host.call_cancel)(self.raw) };
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: freed here only, and nothing lent of it is left.
        unsafe { (self.host.call_free)(self.raw) };
    }
}

/// How much was read, or the ABI status there is instead.
fn count_of(read: isize, room: usize) -> Result<usize, i32> {
    match usize::try_from(read) {
        Ok(count) if count <= room => Ok(count),
        Ok(_) => Err(status::ERROR),
        Err(_) => Err(i32::try_from(read).unwrap_or(status::ERROR)),
    }
}

/// What the host said of the last call that it refused on this thread.
pub(crate) fn refusal_words() -> Option<String> {
    unsafe extern "C" fn keep(data: *mut c_void, words: abi::Bytes) {
        // SAFETY: `data` is the text below, which nobody else uses during the call.
        let Some(text) = (unsafe { data.cast::<String>().as_mut() }) else { return };
        // SAFETY: the host lends the words for this call.
        let words = unsafe { words.as_slice() };
        *text = String::from_utf8_lossy(words).into_owned();
    }
    let mut text = String::new();
    let data = (&raw mut text).cast();
    // SAFETY: `keep` is called with the text during the call alone.
    let said = unsafe { (host()?.refusal_words)(data, Some(keep)) };
    (said == status::OK && !text.is_empty()).then_some(text)
}

/// Of a waker: has the host call `run` with `data` next on this thread. Whether it will.
#[cfg(feature = "tokio")]
pub(crate) fn run_next(run: unsafe extern "C" fn(*mut c_void), data: *mut c_void) -> bool {
    // SAFETY: `run` may be called with `data` once, on any thread.
    host().is_some_and(|host| unsafe { (host.run_next)(Some(run), data) } == status::OK)
}

/// Ids of the replicas of a deployment that take calls now. The error is an ABI status.
pub(crate) fn replicas_of(deployment: &str) -> Result<Vec<String>, i32> {
    unsafe extern "C" fn keep(data: *mut c_void, replica: abi::Bytes) {
        // SAFETY: `data` is the list below, which nobody else uses during the call.
        let Some(list) = (unsafe { data.cast::<Vec<String>>().as_mut() }) else { return };
        // SAFETY: the host lends the id for this call.
        let id = unsafe { replica.as_slice() };
        list.push(String::from_utf8_lossy(id).into_owned());
    }
    let host = host().ok_or(status::INVALID)?;
    let mut list: Vec<String> = Vec::new();
    let data = (&raw mut list).cast();
    // SAFETY: the name lives through the call, in which alone `keep` is called with the list.
    match unsafe { (host.deployment_replicas)(bytes(deployment.as_bytes()), data, Some(keep)) } {
        status::OK => Ok(list),
        failed => Err(failed),
    }
}

/// Says which models this library holds.
pub(crate) fn models_hold<'a>(ids: impl Iterator<Item = &'a str>) {
    let ids: Vec<abi::Bytes> = ids.map(|id| bytes(id.as_bytes())).collect();
    if let Some(host) = host() {
        // SAFETY: so many ids, which live through the call.
        unsafe { (host.models_hold)(ids.as_ptr(), ids.len()) };
    }
}

/// Measures. What the host does not take, it says in its own log.
pub(crate) fn metric(kind: u32, name: &str, labels: &[(&str, &str)], value: f64) {
    let label = |(name, value): &(&str, &str)| abi::Header {
        name: bytes(name.as_bytes()),
        value: bytes(value.as_bytes()),
    };
    let labels: Vec<abi::Header> = labels.iter().map(label).collect();
    if let Some(host) = host() {
        // SAFETY: so many labels; they and the name live through the call.
        unsafe { (host.metric)(kind, bytes(name.as_bytes()), labels.as_ptr(), labels.len(), value) };
    }
}

/// The encodings that a deployment takes, as bits. The error is an ABI status.
pub(crate) fn encodings_of(deployment: &str) -> Result<u32, i32> {
    let host = host().ok_or(status::INVALID)?;
    let mut encodings = 0;
    // SAFETY: the name lives through the call, and the place for the bits is this function's.
    match unsafe { (host.deployment_find)(bytes(deployment.as_bytes()), &raw mut encodings) } {
        status::OK => Ok(encodings),
        failed => Err(failed),
    }
}

fn bytes(slice: &[u8]) -> abi::Bytes {
    abi::Bytes::from_slice(slice)
}

pub(crate) const fn size_of_u32<T>() -> u32 {
    assert!(size_of::<T>() < 1 << 16, "tables of the ABI are small");
    #[allow(clippy::cast_possible_truncation, reason = "just seen to fit")]
    let size = size_of::<T>() as u32;
    size
}
