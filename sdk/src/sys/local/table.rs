//! The ABI's table of the host in this process.

use std::ptr;
use std::sync::{Arc, LazyLock};

use decurion_abi as abi;
use decurion_abi::{encoding, status};

use super::app::{self, ErrorSlot};
use super::exchange::{Answer, Exchange, Incoming};
use crate::sys::host::size_of_u32;

/// The table, good for the life of the process.
pub(super) fn host() -> *const abi::Host {
    struct Table(abi::Host, abi::Context);
    // SAFETY: plain data and pointers to what is static.
    unsafe impl Send for Table {}
    // SAFETY: as above.
    unsafe impl Sync for Table {}
    static TABLE: LazyLock<&'static Table> = LazyLock::new(|| {
        let text = |text: &'static str| abi::Bytes::from_slice(text.as_bytes());
        let context = abi::Context {
            size: size_of_u32::<abi::Context>(),
            rank: 0,
            world_size: 1,
            threads: 1,
            deployment: text("local"),
            replica: text("local-0"),
            version: text("local"),
            application: text("local"),
        };
        let table = Box::leak(Box::new(Table(EMPTY, context)));
        table.0.context = &raw const table.1;
        table
    });
    &raw const TABLE.0
}

const EMPTY: abi::Host = abi::Host {
    magic: abi::MAGIC,
    abi_major: abi::ABI_MAJOR,
    abi_minor: abi::ABI_MINOR,
    size: size_of_u32::<abi::Host>(),
    context: ptr::null(),
    set_error,
    log,
    request,
    is_cancelled,
    on_cancel,
    body_read,
    respond,
    respond_start,
    respond_write,
    respond_flush,
    finish,
    respond_call,
    fail,
    call_start,
    call_wait,
    call_read,
    call_cancel,
    call_free,
    deployment_find,
};

/// A call under way: what the ABI's pointer is to.
struct Call {
    exchange: Arc<Exchange>,
    answer: Option<Answer>,
    /// Lent to the caller with the answer, into which it points.
    fields: Vec<abi::Header>,
    read: usize,
}

/// The exchange behind a pointer; every function of the table starts with it.
fn exchange(raw: *mut abi::Exchange) -> Option<Arc<Exchange>> {
    // SAFETY: the ABI has libraries pass the pointer they were given, and only until they have ended it.
    unsafe { Exchange::from_raw(raw) }
}

fn slice<'a>(bytes: abi::Bytes) -> &'a [u8] {
    // SAFETY: the ABI has the caller lend the bytes for the call; all users here copy within it.
    unsafe { bytes.as_slice() }
}

fn waker(waker: *const abi::Waker) -> Option<abi::Waker> {
    // SAFETY: null, or a waker lent for the call, and copied.
    unsafe { waker.as_ref() }.copied()
}

/// Header fields as a library gives them; `None` where one can't stand in an answer.
fn fields(headers: *const abi::Header, count: usize) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    if headers.is_null() || count == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the ABI lends so many fields for the call.
    let headers = unsafe { std::slice::from_raw_parts(headers, count) };
    let copied = headers.iter().map(|field| {
        let (name, value) = (slice(field.name).to_ascii_lowercase(), slice(field.value).to_vec());
        let fits =
            http::HeaderName::from_bytes(&name).is_ok() && http::HeaderValue::from_bytes(&value).is_ok();
        fits.then_some((name, value))
    });
    copied.collect()
}

unsafe extern "C" fn set_error(slot: *mut abi::ErrorSlot, _code: u32, message: abi::Bytes) {
    // SAFETY: the slot that this host gave to the entry which is running.
    if let Some(slot) = unsafe { slot.cast::<ErrorSlot>().as_mut() } {
        slot.text = String::from_utf8_lossy(slice(message)).into_owned();
    }
}

#[expect(clippy::print_stderr, reason = "a test's log is its standard error")]
unsafe extern "C" fn log(raw: *mut abi::Exchange, level: u32, target: abi::Bytes, message: abi::Bytes) {
    let id = exchange(raw).map_or_else(String::new, |exchange| exchange.id());
    let level = ["", "error", "warn", "info", "debug", "trace"][usize::try_from(level).unwrap_or(0).min(5)];
    let text = |bytes| String::from_utf8_lossy(slice(bytes));
    eprintln!("{level} [{id}] {}: {}", text(target), text(message));
}

unsafe extern "C" fn request(raw: *mut abi::Exchange) -> *const abi::Request {
    exchange(raw).map_or(ptr::null(), |exchange| exchange.request())
}

unsafe extern "C" fn is_cancelled(raw: *mut abi::Exchange) -> i32 {
    exchange(raw).map_or(1, |exchange| i32::from(exchange.is_cancelled()))
}

unsafe extern "C" fn on_cancel(raw: *mut abi::Exchange, to_call: *const abi::Waker) -> i32 {
    let Some(exchange) = exchange(raw) else { return status::INVALID };
    exchange.on_cancel(waker(to_call));
    status::OK
}

unsafe extern "C" fn body_read(
    raw: *mut abi::Exchange,
    buffer: *mut u8,
    len: usize,
    to_call: *const abi::Waker,
) -> isize {
    let Some(exchange) = exchange(raw) else { return status::INVALID as isize };
    // SAFETY: the ABI lends a buffer of this length for the call.
    exchange.read(unsafe { std::slice::from_raw_parts_mut(buffer, len) }, waker(to_call))
}

fn answer(
    raw: *mut abi::Exchange,
    code: u32,
    headers: *const abi::Header,
    count: usize,
    body: &[u8],
    whole: bool,
) -> i32 {
    match (exchange(raw), fields(headers, count)) {
        (Some(exchange), Some(headers)) if (200..=999).contains(&code) || code == 101 => {
            let answer = Answer { status: code, encoding: encoding::RAW, headers, body: body.to_vec() };
            exchange.answer(answer, whole)
        }
        _ => status::INVALID,
    }
}

unsafe extern "C" fn respond(
    raw: *mut abi::Exchange,
    code: u32,
    headers: *const abi::Header,
    count: usize,
    body: abi::Bytes,
) -> i32 {
    answer(raw, code, headers, count, slice(body), true)
}

unsafe extern "C" fn respond_start(
    raw: *mut abi::Exchange,
    code: u32,
    headers: *const abi::Header,
    count: usize,
    _: u64,
) -> i32 {
    answer(raw, code, headers, count, &[], false)
}

unsafe extern "C" fn respond_write(
    raw: *mut abi::Exchange,
    bytes: abi::Bytes,
    to_call: *const abi::Waker,
) -> isize {
    let Some(exchange) = exchange(raw) else { return status::INVALID as isize };
    exchange.append(slice(bytes), waker(to_call))
}

unsafe extern "C" fn respond_flush(raw: *mut abi::Exchange) -> i32 {
    exchange(raw).map_or(status::INVALID, |_| status::OK)
}

unsafe extern "C" fn finish(raw: *mut abi::Exchange) -> i32 {
    exchange(raw).map_or(status::INVALID, |exchange| exchange.end())
}

unsafe extern "C" fn respond_call(raw: *mut abi::Exchange, encoding: u32, result: abi::Bytes) -> i32 {
    let Some(exchange) = exchange(raw) else { return status::INVALID };
    let answer = Answer { status: 200, encoding, headers: Vec::new(), body: slice(result).to_vec() };
    exchange.answer(answer, true)
}

unsafe extern "C" fn fail(raw: *mut abi::Exchange, code: u32, public: abi::Bytes, detail: abi::Bytes) -> i32 {
    let Some(exchange) = exchange(raw) else { return status::INVALID };
    if detail.len > 0 {
        // SAFETY: a function of this table, with what this one was lent.
        unsafe { log(raw, abi::level::ERROR, abi::Bytes::from_slice(b"decurion"), detail) };
    }
    exchange.fail(code, slice(public))
}

unsafe extern "C" fn call_start(spec: *const abi::CallSpec, call: *mut *mut abi::Call) -> i32 {
    // SAFETY: the ABI lends the specification for the call.
    let Some(spec) = (unsafe { spec.as_ref() }) else { return status::INVALID };
    let Ok(name) = std::str::from_utf8(slice(spec.deployment)) else { return status::NOT_FOUND };
    let parent = exchange(spec.parent);
    let Some((app, name)) = app::resolve(name, parent.as_deref()) else { return status::NOT_FOUND };
    let Some(headers) = fields(spec.headers, spec.header_count) else { return status::INVALID };
    let incoming = Incoming {
        kind: spec.kind,
        method: slice(spec.method).to_vec(),
        target: slice(spec.target).to_vec(),
        headers,
        encoding: spec.encoding,
        method_index: u32::MAX,
        body: slice(spec.body).to_vec(),
        offers_upgrade: false,
    };
    match app.start(&name, parent, incoming) {
        Ok(exchange) => {
            let made = Box::new(Call { exchange, answer: None, fields: Vec::new(), read: 0 });
            // SAFETY: the ABI gives a place for the call.
            unsafe { call.write(Box::into_raw(made).cast()) };
            status::OK
        }
        Err(refused) => refused,
    }
}

/// The call behind a pointer.
fn call<'a>(raw: *mut abi::Call) -> Option<&'a mut Call> {
    // SAFETY: made by `call_start`, not freed yet, and waited for or read by one thread at a time, as the ABI says.
    unsafe { raw.cast::<Call>().as_mut() }
}

/// Waits for the answer, if it is not there yet.
fn answered(call: &mut Call, waker: Option<abi::Waker>) -> Result<&Answer, i32> {
    if call.answer.is_none() {
        call.answer = Some(call.exchange.take_answer(waker)?);
    }
    call.answer.as_ref().ok_or(status::INVALID)
}

unsafe extern "C" fn call_wait(
    raw: *mut abi::Call,
    reply: *mut abi::CallReply,
    to_call: *const abi::Waker,
) -> i32 {
    let Some(call) = call(raw) else { return status::INVALID };
    if let Err(failed) = answered(call, waker(to_call)) {
        return failed;
    }
    let Some(answer) = &call.answer else { return status::INVALID };
    let bytes = abi::Bytes::from_slice;
    call.fields = answer
        .headers
        .iter()
        .map(|(name, value)| abi::Header { name: bytes(name), value: bytes(value) })
        .collect();
    let filled = abi::CallReply {
        size: size_of_u32::<abi::CallReply>(),
        status: answer.status,
        encoding: answer.encoding,
        flags: 0,
        headers: call.fields.as_ptr(),
        header_count: call.fields.len(),
        body: bytes(&answer.body),
    };
    // SAFETY: the ABI gives a place for the reply, of this library's own version.
    unsafe { reply.write(filled) };
    status::OK
}

unsafe extern "C" fn call_read(
    raw: *mut abi::Call,
    buffer: *mut u8,
    len: usize,
    to_call: *const abi::Waker,
) -> isize {
    let Some(call) = call(raw) else { return status::INVALID as isize };
    if let Err(failed) = answered(call, waker(to_call)) {
        return failed as isize;
    }
    let rest = call.answer.as_ref().map_or(&[][..], |answer| &answer.body[call.read..]);
    // SAFETY: the ABI lends a buffer of this length for the call.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
    let len = rest.len().min(buffer.len());
    buffer[..len].copy_from_slice(&rest[..len]);
    call.read += len;
    len.cast_signed()
}

unsafe extern "C" fn call_cancel(raw: *mut abi::Call) {
    // SAFETY: made by `call_start` and not freed yet; looked at only, since another thread may wait for it.
    if let Some(call) = unsafe { raw.cast::<Call>().as_ref() } {
        call.exchange.cancel();
    }
}

unsafe extern "C" fn call_free(raw: *mut abi::Call) {
    // SAFETY: made by `call_start` from a box, and freed once.
    let call = unsafe { Box::from_raw(raw.cast::<Call>()) };
    if !call.exchange.has_ended() {
        call.exchange.cancel();
    }
}

unsafe extern "C" fn deployment_find(deployment: abi::Bytes, encodings: *mut u32) -> i32 {
    let found = std::str::from_utf8(slice(deployment)).ok().and_then(|name| app::resolve(name, None));
    let Some(found) = found.and_then(|(app, name)| app.encodings_of(&name)) else {
        return status::NOT_FOUND;
    };
    // SAFETY: the ABI gives a place for the bits.
    unsafe { encodings.write(found) };
    status::OK
}
