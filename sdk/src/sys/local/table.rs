//! The ABI's table of the host in this process.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, LazyLock};

use decurion_abi as abi;
use decurion_abi::{encoding, status};

use super::alive;
use super::app::{App, ErrorSlot};
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
    call_head,
    deployment_replicas,
    models_hold,
    metric,
    refusal_words,
    run_next,
};

/// A call under way: what the ABI's pointer is to.
struct Call {
    exchange: Arc<Exchange>,
    answer: Option<Answer>,
    /// Lent to the caller with the answer, into which it points.
    fields: Vec<abi::Header>,
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

/// What a library leaves out that was built for an older minor version.
const NO_CALL: abi::CallSpec = abi::CallSpec {
    size: 0,
    kind: 0,
    deployment: abi::Bytes::EMPTY,
    method: abi::Bytes::EMPTY,
    target: abi::Bytes::EMPTY,
    headers: ptr::null(),
    header_count: 0,
    encoding: 0,
    flags: 0,
    body: abi::Bytes::EMPTY,
    parent: ptr::null_mut(),
    deadline_ns: 0,
    model_id: abi::Bytes::EMPTY,
    replica: abi::Bytes::EMPTY,
};

/// The only replica there is here.
const REPLICA: &[u8] = b"local-0";

unsafe extern "C" fn call_start(spec: *const abi::CallSpec, call: *mut *mut abi::Call) -> i32 {
    // SAFETY: the ABI lends the specification for the call; its first word says how much of it there is.
    let Some(size) = (unsafe { spec.cast::<u32>().as_ref() }) else { return status::INVALID };
    let known = (*size as usize).min(size_of::<abi::CallSpec>());
    if known < abi::CALL_SPEC_SIZE_1_0 {
        return status::INVALID;
    }
    let mut whole = NO_CALL;
    // SAFETY: both have so many bytes, as the library says of its own; what it does not know stays empty.
    unsafe { ptr::copy_nonoverlapping(spec.cast::<u8>(), (&raw mut whole).cast::<u8>(), known) };
    let spec = &whole;
    if !matches!(slice(spec.replica), b"" | REPLICA) {
        return status::NOT_FOUND;
    }
    let parent = exchange(spec.parent);
    let Some((app, name)) = find(spec.deployment, parent.as_deref()) else { return status::NOT_FOUND };
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
        model_id: slice(spec.model_id).to_vec(),
        deadline_ns: spec.deadline_ns,
    };
    match app.start(&name, parent, incoming) {
        Ok(exchange) => {
            let made = Box::new(Call { exchange, answer: None, fields: Vec::new() });
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

unsafe extern "C" fn call_wait(
    raw: *mut abi::Call,
    reply: *mut abi::CallReply,
    to_call: *const abi::Waker,
) -> i32 {
    let Some(call) = call(raw) else { return status::INVALID };
    let taken = match call.answer.take() {
        Some(answer) => Ok(answer),
        None => call.exchange.take_answer(waker(to_call)),
    };
    lend(call, taken, reply)
}

unsafe extern "C" fn call_head(
    raw: *mut abi::Call,
    reply: *mut abi::CallReply,
    to_call: *const abi::Waker,
) -> i32 {
    let Some(call) = call(raw) else { return status::INVALID };
    let head = call.exchange.answer_head(waker(to_call));
    lend(call, head, reply)
}

/// Lends an answer to the caller, for as long as the call lives.
fn lend(call: &mut Call, answer: Result<Answer, i32>, reply: *mut abi::CallReply) -> i32 {
    let answer = match answer {
        Ok(answer) => call.answer.insert(answer),
        Err(failed) => return failed,
    };
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
    // SAFETY: the ABI lends a buffer of this length for the call.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
    match call.exchange.read_answer(buffer, waker(to_call)) {
        Ok(count) => count.cast_signed(),
        Err(failed) => failed as isize,
    }
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
    let found = find(deployment, None);
    let Some(found) = found.and_then(|(app, name)| app.encodings_of(&name)) else {
        return status::NOT_FOUND;
    };
    // SAFETY: the ABI gives a place for the bits.
    unsafe { encodings.write(found) };
    status::OK
}

unsafe extern "C" fn deployment_replicas(
    deployment: abi::Bytes,
    data: *mut c_void,
    each: Option<unsafe extern "C" fn(data: *mut c_void, replica: abi::Bytes)>,
) -> i32 {
    let Some(each) = each else { return status::INVALID };
    if find(deployment, None).is_none() {
        return status::NOT_FOUND;
    }
    // SAFETY: the library gave function and data for this call.
    unsafe { each(data, abi::Bytes::from_slice(REPLICA)) };
    status::OK
}

thread_local! {
    /// What was refused last, in words.
    static REFUSED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The set and the plain name of a deployment; where there is none, the words for it are kept.
fn find(deployment: abi::Bytes, parent: Option<&Exchange>) -> Option<(Arc<App>, String)> {
    let name = String::from_utf8_lossy(slice(deployment));
    let found = alive::resolve(&name, parent);
    if found.is_none() {
        REFUSED.set(format!("there is no deployment '{name}'; there are: {}", alive::names(parent)));
    }
    found
}

unsafe extern "C" fn refusal_words(
    data: *mut c_void,
    each: Option<unsafe extern "C" fn(data: *mut c_void, words: abi::Bytes)>,
) -> i32 {
    let words = REFUSED.take();
    let Some(each) = each.filter(|_| !words.is_empty()) else { return status::NOT_FOUND };
    // SAFETY: the library gave function and data for this call; the words live through it.
    unsafe { each(data, abi::Bytes::from_slice(words.as_bytes())) };
    status::OK
}

unsafe extern "C" fn run_next(_: Option<unsafe extern "C" fn(data: *mut c_void)>, _: *mut c_void) -> i32 {
    // Wakers are called by whoever sends, in the middle of its own work.
    status::BUSY
}

unsafe extern "C" fn models_hold(_: *const abi::Bytes, _: usize) -> i32 {
    // Nobody has a choice between replicas here.
    status::OK
}

unsafe extern "C" fn metric(
    kind: u32,
    name: abi::Bytes,
    labels: *const abi::Header,
    count: usize,
    value: f64,
) -> i32 {
    let labels: &[abi::Header] = if labels.is_null() || count == 0 {
        &[]
    } else {
        // SAFETY: the ABI lends so many labels for the call.
        unsafe { std::slice::from_raw_parts(labels, count) }
    };
    let word = |bytes| std::str::from_utf8(slice(bytes)).ok();
    let labels: Option<Vec<(&str, &str)>> =
        labels.iter().map(|label| Some((word(label.name)?, word(label.value)?))).collect();
    match (word(name), labels) {
        (Some(name), Some(labels)) => alive::measure(kind, name, labels, value),
        _ => status::INVALID,
    }
}
