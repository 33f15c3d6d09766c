//! The host's side of the ABI: the functions that a library calls. Each is guarded against unwinding, checks what
//! it is given, and knows exchanges and calls by keys that are never reused, so that a library that holds on to one
//! too long is told `INVALID`.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use decurion_abi::{
    ABI_MAJOR, ABI_MINOR, Bytes, CALL_SPEC_SIZE_1_0, Call, CallReply, CallSpec, Context, ErrorSlot, Exchange,
    Header, Host, MAGIC, Request, Waker, encoding, kind, level, metric, status,
};
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::board::{MODELS_MAX, model_hash};
use decurion_ipc::caller::{CallError, NewCall};
use decurion_ipc::record::{Kind, ResponseHead};

use crate::answer;
use crate::engine::{CallState, Engine, Pending, Read, Wrote};
use crate::exchange::{self, SendWaker};
use crate::slab::Key;
use crate::sys::clock::now_ns;
use crate::sys::library::ErrorText;
use crate::sys::runner::Runner;

static RUNNER: OnceLock<&'static Runner> = OnceLock::new();

/// Makes the table. Called once.
pub(crate) fn table(runner: &'static Runner, context: &'static Context) -> &'static Host {
    let _ = RUNNER.set(runner);
    Box::leak(Box::new(Host {
        magic: MAGIC,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        size: u32::try_from(size_of::<Host>()).unwrap_or(u32::MAX),
        context,
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
    }))
}

/// Calls a library's waker, which by contract does not block, and calls back for [`run_next`] alone.
pub(crate) fn call_waker(waker: SendWaker) {
    if let (Some(wake), data) = waker.parts() {
        // SAFETY: the library promised that function and data stay callable until it is called once.
        unsafe { wake(data) };
    }
}

fn guard<T>(fallback: T, work: impl FnOnce(&'static Runner) -> T) -> T {
    let Some(runner) = RUNNER.get().copied() else { return fallback };
    catch_unwind(AssertUnwindSafe(|| work(runner))).unwrap_or(fallback)
}

/// The library's bytes; `None` where there can't be so many.
fn lent<'a>(bytes: Bytes) -> Option<&'a [u8]> {
    if bytes.len > isize::MAX as usize || (bytes.ptr.is_null() && bytes.len > 0) {
        return None;
    }
    // SAFETY: the ABI lends the bytes for the call that they were given to, and no reference outlives that.
    Some(unsafe { bytes.as_slice() })
}

/// The library's bytes as text; what is not UTF-8 is replaced.
fn words<'a>(bytes: Bytes) -> Cow<'a, str> {
    String::from_utf8_lossy(lent(bytes).unwrap_or_default())
}

/// The same, copied.
fn text(bytes: Bytes) -> String {
    words(bytes).into_owned()
}

fn waker(waker: *const Waker) -> Option<SendWaker> {
    // SAFETY: the ABI lends a waker, or null, for this call.
    unsafe { waker.as_ref() }.map(|waker| SendWaker(*waker))
}

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The library's header fields, unless one is malformed or there are too many.
fn fields<'a>(headers: *const Header, count: usize) -> Option<Fields<'a>> {
    if count == 0 {
        return Some(Vec::new());
    }
    if headers.is_null() || count > answer::HEADERS_MAX {
        return None;
    }
    // SAFETY: the ABI lends `count` fields at `headers` for this call.
    let headers = unsafe { std::slice::from_raw_parts(headers, count) };
    let mut fields = Vec::with_capacity(count);
    for header in headers {
        let (name, value) = (lent(header.name)?, lent(header.value)?);
        if !answer::is_field_name(name) || !answer::is_field_value(value) {
            return None;
        }
        fields.push((name, value));
    }
    Some(fields)
}

/// A library's buffer, to write into.
fn buffer<'a>(pointer: *mut u8, len: usize) -> Option<&'a mut [u8]> {
    if pointer.is_null() || len > isize::MAX as usize {
        return None;
    }
    // SAFETY: the ABI lends `len` writable bytes at `pointer` for this call, to us alone.
    Some(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

unsafe extern "C" fn set_error(slot: *mut ErrorSlot, _code: u32, message: Bytes) {
    guard((), |_| {
        // SAFETY: slots are only ever made of an `ErrorText` that lives through the entry's call.
        if let Some(slot) = unsafe { slot.cast::<ErrorText>().as_mut() } {
            *slot = ErrorText { message: text(message) };
        }
    });
}

unsafe extern "C" fn log(exchange: *mut Exchange, level: u32, target: Bytes, message: Bytes) {
    guard((), |runner| {
        let key = Key::from_opaque(exchange);
        let id = runner.look(|engine| engine.exchange(key).map(|exchange| exchange.view.id().to_owned()));
        runner.outbox.log(level.clamp(level::ERROR, level::TRACE), &text(target), id, text(message));
    });
}

unsafe extern "C" fn request(exchange: *mut Exchange) -> *const Request {
    guard(std::ptr::null(), |runner| {
        runner.look(|engine| {
            let open = engine.in_use(Key::from_opaque(exchange));
            open.map_or(std::ptr::null(), |exchange| std::ptr::from_ref(exchange.view.request()))
        })
    })
}

unsafe extern "C" fn is_cancelled(exchange: *mut Exchange) -> i32 {
    guard(1, |runner| {
        // With one handler thread nobody else looks at the lanes while the handler runs.
        i32::from(runner.refreshed(|engine, now| engine.is_cancelled(Key::from_opaque(exchange), now)))
    })
}

unsafe extern "C" fn on_cancel(exchange: *mut Exchange, given: *const Waker) -> i32 {
    guard(status::ERROR, |runner| {
        let (key, given) = (Key::from_opaque(exchange), waker(given));
        let now = now_ns();
        runner.with(|engine| {
            if engine.in_use(key).is_none() {
                return status::INVALID;
            }
            engine.set_waker(key, Pending::Cancel, given, now);
            status::OK
        })
    })
}

/// Tries until something comes of it, or leaves the waker and says `PENDING`.
fn attempt<T>(
    runner: &Runner,
    key: Key,
    given: Option<SendWaker>,
    what: Pending,
    mut attempt: impl FnMut(&mut Engine, u64) -> Option<T>,
) -> Option<T> {
    if given.is_none() {
        let now = now_ns();
        // What is there already is the rule.
        let (done, deadline) = runner.with(|engine| {
            let done = attempt(engine, now);
            (done, engine.in_use(key).map_or(0, exchange::Exchange::deadline_ns))
        });
        return done.or_else(|| runner.wait(deadline, attempt));
    }
    runner.refreshed(|engine, now| {
        let done = attempt(engine, now);
        if done.is_none() {
            engine.set_waker(key, what, given, now);
        }
        done
    })
}

unsafe extern "C" fn body_read(
    exchange: *mut Exchange,
    bytes: *mut u8,
    len: usize,
    given: *const Waker,
) -> isize {
    guard(status::ERROR as isize, |runner| {
        let (key, given) = (Key::from_opaque(exchange), waker(given));
        let Some(buffer) = buffer(bytes, len) else { return status::INVALID as isize };
        let waits = given.is_some();
        let outcome =
            attempt(runner, key, given, Pending::Read, |engine, now| match engine.read(key, buffer, now) {
                Read::Wait => None,
                done => Some(done),
            });
        match outcome {
            Some(Read::Some(count)) => isize::try_from(count).unwrap_or(isize::MAX),
            Some(Read::End) => 0,
            Some(Read::Invalid) => status::INVALID as isize,
            Some(Read::Cancelled) => status::CANCELLED as isize,
            Some(Read::Wait) | None if waits => status::PENDING as isize,
            Some(Read::Wait) | None => status::CANCELLED as isize,
        }
    })
}

fn wrote(outcome: Wrote) -> i32 {
    match outcome {
        Wrote::Done(_) => status::OK,
        Wrote::Wait => status::PENDING,
        Wrote::Cancelled => status::CANCELLED,
        Wrote::Invalid => status::INVALID,
    }
}

unsafe extern "C" fn respond(
    exchange: *mut Exchange,
    code: u32,
    headers: *const Header,
    count: usize,
    body: Bytes,
) -> i32 {
    guard(status::ERROR, |runner| {
        let Some(code) = answer::is_final_status(code) else { return status::INVALID };
        let Some(fields) = fields(headers, count) else { return status::INVALID };
        let Some(body) = lent(body) else { return status::INVALID };
        let head =
            ResponseHead { status: code, content_length: Some(body.len() as u64), encoding: encoding::RAW };
        wrote(runner.with(|engine| engine.respond(Key::from_opaque(exchange), head, &fields, body)))
    })
}

unsafe extern "C" fn respond_start(
    exchange: *mut Exchange,
    code: u32,
    headers: *const Header,
    count: usize,
    content_length: u64,
) -> i32 {
    guard(status::ERROR, |runner| {
        let Some(code) = answer::is_first_status(code) else { return status::INVALID };
        let Some(fields) = fields(headers, count) else { return status::INVALID };
        let content_length = (content_length != u64::MAX).then_some(content_length);
        let key = Key::from_opaque(exchange);
        let outcome = attempt(runner, key, None, Pending::Write, |engine, now| {
            let head = ResponseHead { status: code, content_length, encoding: encoding::RAW };
            Some(engine.respond_start(key, head, &fields, now)).filter(|outcome| *outcome != Wrote::Wait)
        });
        wrote(outcome.unwrap_or(Wrote::Cancelled))
    })
}

unsafe extern "C" fn respond_write(exchange: *mut Exchange, bytes: Bytes, given: *const Waker) -> isize {
    guard(status::ERROR as isize, |runner| {
        let (key, given) = (Key::from_opaque(exchange), waker(given));
        let waits = given.is_some();
        let Some(bytes) = lent(bytes) else { return status::INVALID as isize };
        let outcome = attempt(runner, key, given, Pending::Write, |engine, now| {
            Some(engine.write(key, bytes, now)).filter(|outcome| *outcome != Wrote::Wait)
        });
        match outcome {
            Some(Wrote::Done(count)) => isize::try_from(count).unwrap_or(isize::MAX),
            Some(Wrote::Invalid) => status::INVALID as isize,
            Some(Wrote::Cancelled) => status::CANCELLED as isize,
            Some(Wrote::Wait) | None if waits => status::PENDING as isize,
            Some(Wrote::Wait) | None => status::CANCELLED as isize,
        }
    })
}

unsafe extern "C" fn respond_flush(exchange: *mut Exchange) -> i32 {
    guard(status::ERROR, |runner| {
        let open = runner.with(|engine| engine.in_use(Key::from_opaque(exchange)).is_some());
        if open { status::OK } else { status::INVALID }
    })
}

unsafe extern "C" fn finish(exchange: *mut Exchange) -> i32 {
    guard(status::ERROR, |runner| wrote(runner.with(|engine| engine.finish(Key::from_opaque(exchange)))))
}

unsafe extern "C" fn respond_call(exchange: *mut Exchange, encoding: u32, body: Bytes) -> i32 {
    guard(status::ERROR, |runner| {
        let Some(body) = lent(body) else { return status::INVALID };
        if encoding > encoding::BINCODE {
            return status::INVALID;
        }
        let head = ResponseHead { status: 200, content_length: Some(body.len() as u64), encoding };
        runner.with(|engine| {
            let key = Key::from_opaque(exchange);
            match engine.exchange(key).map(|exchange| exchange.view.kind()) {
                Some(Kind::Call) => wrote(engine.respond(key, head, &[], body)),
                _ => status::INVALID,
            }
        })
    })
}

unsafe extern "C" fn fail(exchange: *mut Exchange, code: u32, public: Bytes, detail: Bytes) -> i32 {
    guard(status::ERROR, |runner| {
        let key = Key::from_opaque(exchange);
        let (code, public, detail) = (answer::is_failure(code), text(public), text(detail));
        let (outcome, id) = runner.with(|engine| {
            let Some(exchange) = engine.in_use(key) else { return (status::INVALID, None) };
            let kind = exchange.view.kind();
            let id = (!detail.is_empty()).then(|| exchange.view.id().to_owned());
            // A caller by handle is told why its call failed; the world outside is not.
            let text = match (code, kind) {
                (Some(_), _) => &public,
                (None, Kind::Call) if !detail.is_empty() => &detail,
                (None, _) => answer::INTERNAL_ERROR,
            };
            (wrote(engine.fail(key, code.unwrap_or(500), text)), id)
        });
        if !detail.is_empty() && outcome != status::INVALID {
            runner.outbox.log(level::ERROR, "decurion", id, detail);
        }
        outcome
    })
}

thread_local! {
    /// What was refused last, in words: an ABI status says little.
    static REFUSED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A name that can be no deployment's.
fn no_name(error: &decurion_api::NameError) -> i32 {
    REFUSED.set(error.to_string());
    status::NOT_FOUND
}

fn refusal(error: &CallError) -> i32 {
    REFUSED.set(error.to_string());
    match error {
        CallError::NotFound { .. } | CallError::Gone(_) => status::NOT_FOUND,
        CallError::Busy { .. } | CallError::Unavailable(_) => status::BUSY,
        CallError::Cancelled => status::CANCELLED,
        CallError::Deadline => status::DEADLINE,
        CallError::Broken => status::BROKEN,
        CallError::TooLarge { .. } => status::INVALID,
    }
}

unsafe extern "C" fn call_start(spec: *const CallSpec, out: *mut *mut Call) -> i32 {
    guard(status::ERROR, |runner| {
        // SAFETY: the ABI lends the spec, or null, for this call; its first word says how much of it there is.
        let size = unsafe { spec.cast::<u32>().as_ref() }.copied().unwrap_or(0);
        if out.is_null() || (size as usize) < CALL_SPEC_SIZE_1_0 {
            return status::INVALID;
        }
        let mut whole = NO_CALL;
        let known = (size as usize).min(size_of::<CallSpec>());
        // SAFETY: both have `known` bytes, as the library says of its own; what it does not know stays empty.
        unsafe {
            std::ptr::copy_nonoverlapping(spec.cast::<u8>(), (&raw mut whole).cast::<u8>(), known);
        }
        match start_call(runner, &whole) {
            Ok(call) => {
                // SAFETY: `out` is not null, and lent for this call.
                unsafe { out.write(call.to_opaque()) };
                status::OK
            }
            Err(refused) => refused,
        }
    })
}

/// Bytes of a `traceparent`, at most.
const TRACEPARENT_MAX: usize = 64;

/// What a library leaves out that was built for an older minor version.
const NO_CALL: CallSpec = CallSpec {
    size: 0,
    kind: 0,
    deployment: Bytes::EMPTY,
    method: Bytes::EMPTY,
    target: Bytes::EMPTY,
    headers: std::ptr::null(),
    header_count: 0,
    encoding: 0,
    flags: 0,
    body: Bytes::EMPTY,
    parent: std::ptr::null_mut(),
    deadline_ns: 0,
    model_id: Bytes::EMPTY,
    replica: Bytes::EMPTY,
};

fn start_call(runner: &Runner, spec: &CallSpec) -> Result<Key, i32> {
    if spec.flags != 0 || spec.encoding > encoding::BINCODE {
        return Err(status::INVALID);
    }
    let kind = match spec.kind {
        kind::HTTP => Kind::Http,
        kind::CALL => Kind::Call,
        _ => return Err(status::INVALID),
    };
    let replica = match words(spec.replica) {
        any if any.is_empty() => None,
        one => Some(ReplicaId::new(one).map_err(|error| no_name(&error))?),
    };
    let headers = fields(spec.headers, spec.header_count).ok_or(status::INVALID)?;
    let (method, target, model_id) = (words(spec.method), words(spec.target), words(spec.model_id));
    let deployment = words(spec.deployment);
    let parent = (!spec.parent.is_null()).then(|| Key::from_opaque(spec.parent));
    let body = lent(spec.body).ok_or(status::INVALID)?.to_vec();
    let now = now_ns();
    runner.with(|engine| {
        if parent.is_some_and(|parent| engine.in_use(parent).is_none()) {
            return Err(status::INVALID);
        }
        let call = NewCall {
            deployment: match engine.calls.known(&deployment) {
                Some((known, _)) => known.clone(),
                None => deployment.parse().map_err(|error| no_name(&error))?,
            },
            kind,
            method: &method,
            target: &target,
            headers: &headers,
            encoding: spec.encoding,
            body,
            id: "",
            traceparent: trace_of(&headers).unwrap_or_default(),
            deadline_ns: spec.deadline_ns,
            model_id: &model_id,
            replica,
            epoch: None,
        };
        engine.start_call(call, parent, now).map_err(|error| refusal(&error))
    })
}

/// The trace context that a request names itself: a span of its own within that of its parent.
fn trace_of<'a>(fields: &Fields<'a>) -> Option<&'a str> {
    let (_, value) = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"traceparent"))?;
    let fits = value.len() <= TRACEPARENT_MAX && value.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(value).ok().filter(|_| fits)
}

/// Tries until something came of a call, or leaves the waker and says so: `None`.
fn attempt_call<T>(
    runner: &Runner,
    call: Key,
    given: Option<SendWaker>,
    mut attempt: impl FnMut(&mut Engine) -> Option<T>,
) -> Option<T> {
    let Some(given) = given else { return runner.wait(0, |engine, _| attempt(engine)) };
    runner.refreshed(|engine, _| {
        let done = attempt(engine);
        if done.is_none() {
            engine.wake_on_call(call, given);
        }
        done
    })
}

unsafe extern "C" fn call_wait(call: *mut Call, reply: *mut CallReply, given: *const Waker) -> i32 {
    wait_for_reply(call, reply, given, Engine::call_state)
}

unsafe extern "C" fn call_head(call: *mut Call, reply: *mut CallReply, given: *const Waker) -> i32 {
    wait_for_reply(call, reply, given, Engine::call_head)
}

fn wait_for_reply(
    call: *mut Call,
    reply: *mut CallReply,
    given: *const Waker,
    look: fn(&mut Engine, Key) -> CallState,
) -> i32 {
    guard(status::ERROR, |runner| {
        let key = Key::from_opaque(call);
        // SAFETY: the library lends a reply, or null, for this call, with its size in the first word.
        let size = unsafe { reply.cast::<u32>().as_ref() }.copied().unwrap_or(0);
        if (size as usize) < size_of::<CallReply>() {
            return status::INVALID;
        }
        let state = attempt_call(runner, key, waker(given), |engine| match look(engine, key) {
            CallState::Pending => None,
            done => Some(done),
        });
        match state {
            Some(CallState::Ready(filled)) => {
                // SAFETY: as above; it is as large as the one we know.
                unsafe { reply.write(filled) };
                status::OK
            }
            Some(state) => refused_call(&state),
            None => status::PENDING,
        }
    })
}

fn refused_call(state: &CallState) -> i32 {
    match state {
        CallState::Pending => status::PENDING,
        CallState::Failed(error) => refusal(error),
        CallState::Invalid | CallState::Ready(_) => status::INVALID,
    }
}

unsafe extern "C" fn call_read(call: *mut Call, bytes: *mut u8, len: usize, given: *const Waker) -> isize {
    guard(status::ERROR as isize, |runner| {
        let key = Key::from_opaque(call);
        let Some(buffer) = buffer(bytes, len) else { return status::INVALID as isize };
        let read = attempt_call(runner, key, waker(given), |engine| match engine.read_call(key, buffer) {
            Err(CallState::Pending) => None,
            done => Some(done),
        });
        match read {
            Some(Ok(count)) => isize::try_from(count).unwrap_or(isize::MAX),
            Some(Err(state)) => refused_call(&state) as isize,
            None => status::PENDING as isize,
        }
    })
}

unsafe extern "C" fn call_cancel(call: *mut Call) {
    guard((), |runner| runner.with(|engine| engine.cancel_call(Key::from_opaque(call))));
}

unsafe extern "C" fn call_free(call: *mut Call) {
    guard((), |runner| runner.with(|engine| engine.free_call(Key::from_opaque(call))));
}

/// How long the supervisor may take to say what a deployment is.
const RESOLVE_MAX_NS: u64 = 10_000_000_000;

/// The encodings that a deployment's methods take, where that is known.
fn known(runner: &Runner, deployment: Bytes) -> Option<u32> {
    let name = std::str::from_utf8(lent(deployment)?).ok()?;
    runner.look(|engine| Some(engine.calls.known(name)?.1.encodings))
}

/// The same, asked for where it is not.
fn find(runner: &Runner, deployment: &DeploymentName) -> Result<u32, CallError> {
    runner.with(|engine| engine.calls.resolve(deployment));
    let found = runner.wait(now_ns() + RESOLVE_MAX_NS, |engine, _| {
        engine.calls.find(deployment).map(|view| view.map(|view| view.encodings)).transpose()
    });
    found.unwrap_or(Err(CallError::Deadline))
}

unsafe extern "C" fn deployment_find(deployment: Bytes, encodings: *mut u32) -> i32 {
    guard(status::ERROR, |runner| {
        let found = match known(runner, deployment) {
            Some(known) => Ok(known),
            None => match text(deployment).parse() {
                Ok(name) => find(runner, &name),
                Err(error) => return no_name(&error),
            },
        };
        match found {
            Ok(known) => {
                // SAFETY: the library lends a word, or null, for this call.
                if let Some(out) = unsafe { encodings.as_mut() } {
                    *out = known;
                }
                status::OK
            }
            Err(error) => refusal(&error),
        }
    })
}

unsafe extern "C" fn deployment_replicas(
    deployment: Bytes,
    data: *mut c_void,
    each: Option<unsafe extern "C" fn(data: *mut c_void, replica: Bytes)>,
) -> i32 {
    guard(status::ERROR, |runner| {
        let Some(each) = each else { return status::INVALID };
        let name = match text(deployment).parse() {
            Ok(name) => name,
            Err(error) => return no_name(&error),
        };
        let found = find(runner, &name)
            .and_then(|_| runner.look(|engine| engine.calls.replicas(&name)))
            .map(Option::unwrap_or_default);
        match found {
            Ok(replicas) => {
                for replica in replicas {
                    // SAFETY: the library gave function and data for this call; the id lives through it.
                    unsafe { each(data, Bytes::from_slice(replica.as_str().as_bytes())) };
                }
                status::OK
            }
            Err(error) => refusal(&error),
        }
    })
}

unsafe extern "C" fn refusal_words(
    data: *mut c_void,
    each: Option<unsafe extern "C" fn(data: *mut c_void, words: Bytes)>,
) -> i32 {
    let Some(each) = each else { return status::INVALID };
    let words = REFUSED.take();
    if words.is_empty() {
        return status::NOT_FOUND;
    }
    // SAFETY: the library gave function and data for this call; the words live through it.
    unsafe { each(data, Bytes::from_slice(words.as_bytes())) };
    status::OK
}

unsafe extern "C" fn run_next(
    run: Option<unsafe extern "C" fn(data: *mut c_void)>,
    data: *mut c_void,
) -> i32 {
    guard(status::ERROR, |runner| {
        if run.is_none() {
            return status::INVALID;
        }
        if runner.run_next(SendWaker(Waker { wake: run, data })) { status::OK } else { status::BUSY }
    })
}

unsafe extern "C" fn models_hold(ids: *const Bytes, count: usize) -> i32 {
    guard(status::ERROR, |runner| {
        let hashes: Option<Vec<u64>> = if count == 0 {
            Some(Vec::new())
        } else if ids.is_null() || count > isize::MAX as usize / size_of::<Bytes>() {
            None
        } else {
            // SAFETY: the ABI lends `count` ids at `ids` for this call; no more than are published are looked at.
            let ids = unsafe { std::slice::from_raw_parts(ids, count.min(MODELS_MAX)) };
            ids.iter().map(|id| Some(model_hash(&String::from_utf8_lossy(lent(*id)?)))).collect()
        };
        let Some(hashes) = hashes else { return status::INVALID };
        runner.with(|engine| engine.set_models(&hashes));
        status::OK
    })
}

unsafe extern "C" fn metric(kind: u32, name: Bytes, labels: *const Header, count: usize, value: f64) -> i32 {
    guard(status::ERROR, |runner| {
        let labels: &[Header] = if count == 0 {
            &[]
        } else if labels.is_null() || count > metric::LABELS_MAX {
            return status::INVALID;
        } else {
            // SAFETY: the ABI lends `count` labels at `labels` for this call.
            unsafe { std::slice::from_raw_parts(labels, count) }
        };
        let word = |bytes| lent(bytes).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let labels: Option<Vec<(&str, &str)>> =
            labels.iter().map(|label| Some((word(label.name)?, word(label.value)?))).collect();
        match (word(name), labels) {
            (Some(name), Some(labels)) => runner.measure(kind, name, labels, value),
            _ => status::INVALID,
        }
    })
}
