//! The C entries of a class, made from its [`Class`] implementation: `extern "C"` functions that catch whatever the
//! author's code throws, and the table that lists them.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use decurion_abi as abi;
use decurion_abi::{flags, status};

use super::batching::{self, Batching};
use super::host::{self, Exchange};
#[cfg(feature = "tokio")]
use crate::class::Invocation;
use crate::class::{Class, MethodCall, MethodResult, current};
use crate::error::Unfit;
use crate::request::Request;
use crate::response::{Body, Parts, Producer, Response};
#[cfg(feature = "tokio")]
use crate::runtime;
use crate::stream::{BodyWriter, End};
use crate::{Error, Result};

/// The table of a class, for its exported symbol.
#[must_use]
pub const fn class_table<T: Class>() -> abi::Class {
    assert!(T::METHODS.len() == T::METHOD_TABLE.len(), "both list the same methods");
    let mut at = 0;
    while at < T::METHODS.len() {
        let flags = T::METHOD_TABLE[at].flags & !flags::STREAM;
        assert!(T::METHODS[at].flags() == flags, "both list the same methods");
        at += 1;
    }
    abi::Class {
        magic: abi::MAGIC,
        abi_major: abi::ABI_MAJOR,
        abi_minor: abi::ABI_MINOR,
        size: host::size_of_u32::<abi::Class>(),
        name: abi::Bytes::from_slice(T::NAME.as_bytes()),
        metadata: abi::Bytes::from_slice(T::METADATA.as_bytes()),
        methods: T::METHOD_TABLE.as_ptr(),
        method_count: T::METHOD_TABLE.len(),
        call_flags: match &T::CALL {
            Some(entry) => entry.flags(),
            #[cfg(feature = "axum")]
            None if T::INGRESS.is_some() => flags::ASYNC,
            None => 0,
        },
        reconfigure_flags: match &T::RECONFIGURE {
            Some(entry) => entry.flags(),
            None => 0,
        },
        create: Some(create::<T>),
        destroy: Some(destroy::<T>),
        #[cfg(not(feature = "axum"))]
        call: if T::CALL.is_some() { Some(call::<T>) } else { None },
        #[cfg(feature = "axum")]
        call: match (&T::CALL, &T::INGRESS) {
            (Some(_), _) => Some(call::<T>),
            (None, Some(_)) => Some(ingress::<T>),
            (None, None) => None,
        },
        invoke: if T::METHODS.is_empty() { None } else { Some(invoke::<T>) },
        reconfigure: if T::RECONFIGURE.is_some() || !T::BATCHES.is_empty() {
            Some(reconfigure::<T>)
        } else {
            None
        },
        check_health: if T::CHECK_HEALTH.is_some() { Some(check_health::<T>) } else { None },
    }
}

/// One entry in a method table.
#[must_use]
pub const fn method(name: &'static str, exclusive: bool, is_async: bool) -> abi::Method {
    let flags = if exclusive { flags::EXCLUSIVE } else { 0 } | if is_async { flags::ASYNC } else { 0 };
    abi::Method { name: abi::Bytes::from_slice(name.as_bytes()), flags, reserved: 0 }
}

/// The author's state behind the ABI's instance pointer.
struct Instance<T>(*mut Held<T>);

/// What the instance pointer is to.
struct Held<T> {
    /// Of the class's batched entries. Their threads end before the value goes.
    batches: Vec<Batching<T>>,
    value: T,
    /// Made when it is first asked for, and again after a new configuration.
    #[cfg(feature = "axum")]
    router: std::sync::Mutex<Option<axum::Router>>,
}

impl<T> Instance<T> {
    /// # Safety
    /// No exclusive entry runs on the instance beside this one, and it is not destroyed before 'a ends.
    unsafe fn shared<'a>(&self) -> &'a T {
        // SAFETY: made by `create` from a box; the caller promises the rest.
        unsafe { &(*self.0).value }
    }

    /// # Safety
    /// No entry at all runs on the instance beside this one, and it is not destroyed before 'a ends.
    unsafe fn exclusive<'a>(&self) -> &'a mut T {
        // SAFETY: as above.
        unsafe { &mut (*self.0).value }
    }
}

/// Runs an entry on the instance with the reference that its kind asks for, contained.
macro_rules! run {
    ($entry:expr, $instance:expr, $($argument:expr),*) => {{
        use crate::class::Entry;
        let instance = $instance;
        match $entry.entry() {
            // SAFETY: the table says that this entry is shared, so the host runs no exclusive one beside it. (That T
            // is Sync was asked for where the entry was made.)
            Entry::Shared(function) => contain(|| function(unsafe { instance.shared() }, $($argument),*)),
            // SAFETY: the table says that this entry is exclusive, so the host runs nothing beside it.
            Entry::Exclusive(function) => contain(|| function(unsafe { instance.exclusive() }, $($argument),*)),
            Entry::SharedAsync(_) | Entry::ExclusiveAsync(_) | Entry::Batched(_) => Err(Error::msg("an async entry was run as another")),
        }
    }};
}

/// Starts the future of an async entry; `None` for another.
#[cfg(feature = "tokio")]
macro_rules! start {
    ($entry:expr, $instance:expr, $argument:expr) => {{
        use crate::class::Entry;
        let instance = $instance;
        match $entry.entry() {
            // SAFETY: the table says that this entry is shared and async, so the host runs no exclusive one beside it
            // until its exchange is ended, which is after the future was dropped.
            Entry::SharedAsync(function) => Some(contain(|| Ok(function(unsafe { instance.shared() }, $argument)))),
            Entry::ExclusiveAsync(function) => {
                // SAFETY: as above; it is exclusive, so the host runs nothing beside it.
                Some(contain(|| Ok(function(unsafe { instance.exclusive() }, $argument))))
            }
            Entry::Shared(_) | Entry::Exclusive(_) | Entry::Batched(_) => None,
        }
    }};
}

/// Where an entry's calls run together: hands this one over, and is done.
macro_rules! join {
    ($entry:expr, $instance:expr, $exchange:expr) => {
        if let crate::class::Entry::Batched(place) = $entry.entry() {
            // SAFETY: made by `create`, and kept by the host while this exchange is open.
            let held = unsafe { &*$instance.cast::<Held<T>>() };
            let Some(batch) = held.batches.get(place) else { return status::INVALID };
            batch.join($exchange);
            return status::OK;
        }
    };
}

unsafe extern "C" fn create<T: Class>(
    table: *const abi::Host,
    args: abi::Bytes,
    instance: *mut *mut c_void,
    slot: *mut abi::ErrorSlot,
) -> i32 {
    // SAFETY: the ABI gives a table for the life of the process.
    let Ok(host) = (unsafe { host::adopt_host(table) }) else {
        return status::INVALID;
    };
    // SAFETY: the ABI lends the arguments for this call.
    let args = unsafe { args.as_slice() };
    #[cfg(feature = "tracing")]
    let events = crate::events::of_this_thread();
    let made = contain(|| T::create(args));
    #[cfg(feature = "tracing")]
    {
        drop(events);
        // A test's process has other classes, and arrangements of its own.
        if crate::sys::environment::is_replica() {
            crate::events::of_all_threads();
        }
    }
    match made {
        Ok(made) => {
            let mut held = Box::new(Held {
                batches: Vec::new(),
                value: made,
                #[cfg(feature = "axum")]
                router: std::sync::Mutex::default(),
            });
            held.batches = batching::of(T::BATCHES, &raw const held.value);
            // SAFETY: the ABI gives a place for the instance.
            unsafe { instance.write(Box::into_raw(held).cast()) };
            status::OK
        }
        Err(error) => report(host, slot, &error),
    }
}

unsafe extern "C" fn destroy<T: Class>(instance: *mut c_void) {
    // SAFETY: `create` made it from a box of this type, and the ABI destroys it once, when nothing of it runs.
    let instance = unsafe { Box::from_raw(instance.cast::<Held<T>>()) };
    if let Err(error) = contain(|| {
        drop(instance);
        Ok(())
    }) {
        host::log(None, abi::level::ERROR, T::NAME, &format!("the destructor {error}"));
    }
}

unsafe extern "C" fn call<T: Class>(instance: *mut c_void, exchange: *mut abi::Exchange) -> i32 {
    // SAFETY: the ABI gives an open exchange, and only this entry ends it.
    let (Some(exchange), Some(entry)) = (unsafe { Exchange::adopt(exchange) }, &T::CALL) else {
        return status::INVALID;
    };
    let _current = current::enter(&exchange);
    join!(entry, instance, exchange);
    #[cfg(feature = "tokio")]
    match start!(entry, Instance::<T>(instance.cast()), Request::incoming(Arc::clone(&exchange))) {
        Some(Ok(future)) => {
            runtime::call(exchange, future);
            return status::OK;
        }
        Some(Err(error)) => {
            fail_http(&exchange, &error);
            return status::OK;
        }
        None => {}
    }
    let request = Request::incoming(Arc::clone(&exchange));
    match run!(entry, Instance::<T>(instance.cast()), request) {
        Ok(response) => respond(&exchange, response),
        Err(error) => fail_http(&exchange, &error),
    }
    status::OK
}

#[cfg(feature = "axum")]
unsafe extern "C" fn ingress<T: Class>(instance: *mut c_void, exchange: *mut abi::Exchange) -> i32 {
    // SAFETY: the ABI gives an open exchange, and only this entry ends it.
    let (Some(exchange), Some(entry)) = (unsafe { Exchange::adopt(exchange) }, &T::INGRESS) else {
        return status::INVALID;
    };
    // SAFETY: made by `create`; the table says that this entry is shared, so that no exclusive one runs beside it.
    let held = unsafe { &*instance.cast::<Held<T>>() };
    let _current = current::enter(&exchange);
    let router = contain(|| {
        let mut router = held.router.lock().unwrap_or_else(|broken| broken.into_inner());
        // With its state given, so that its handlers are made ready once, and not for every request.
        Ok(router.get_or_insert_with(|| entry.router(&held.value).with_state(())).clone())
    });
    match router {
        Ok(router) => crate::ingress::answer(exchange, router),
        Err(error) => fail_http(&exchange, &error),
    }
    status::OK
}

unsafe extern "C" fn invoke<T: Class>(instance: *mut c_void, exchange: *mut abi::Exchange) -> i32 {
    // SAFETY: the ABI gives an open exchange, and only this entry ends it.
    let Some(exchange) = (unsafe { Exchange::adopt(exchange) }) else {
        return status::INVALID;
    };
    let index = usize::try_from(exchange.facts().method_index).unwrap_or(usize::MAX);
    let Some(entry) = T::METHODS.get(index) else {
        return status::INVALID;
    };
    let _current = current::enter(&exchange);
    join!(entry, instance, exchange);
    #[cfg(feature = "tokio")]
    match start!(entry, Instance::<T>(instance.cast()), Invocation::new(Arc::clone(&exchange))) {
        Some(Ok(future)) => {
            runtime::invoke(exchange, future);
            return status::OK;
        }
        Some(Err(error)) => {
            fail_call(&exchange, &error);
            return status::OK;
        }
        None => {}
    }
    let result = MethodCall::read(&exchange)
        .and_then(|method_call| run!(entry, Instance::<T>(instance.cast()), &method_call))
        .and_then(|result| match result.stream {
            Some(stream) => {
                respond_with(&exchange, *stream, fail_call);
                Ok(())
            }
            None => respond_call(&exchange, &result),
        });
    if let Err(error) = result {
        fail_call(&exchange, &error);
    }
    status::OK
}

/// One entry of a method that streams.
#[must_use]
pub const fn streaming(method: abi::Method) -> abi::Method {
    abi::Method { flags: method.flags | flags::STREAM, ..method }
}

pub(crate) fn respond_call(exchange: &Exchange, result: &MethodResult) -> Result<()> {
    if exchange.respond_call(result.encoding, &result.bytes) {
        return Ok(());
    }
    Err(Error::msg("the host refused the result"))
}

unsafe extern "C" fn reconfigure<T: Class>(
    instance: *mut c_void,
    config: abi::Bytes,
    slot: *mut abi::ErrorSlot,
) -> i32 {
    let Some(host) = host::host() else { return status::INVALID };
    // SAFETY: the ABI lends the configuration for this call.
    let config = unsafe { config.as_slice() };
    match contain(|| configure::<T>(instance, config)) {
        Ok(()) => {
            #[cfg(feature = "axum")]
            forget_router::<T>(instance);
            status::OK
        }
        Err(error) => report(host, slot, &error),
    }
}

/// Gives the author's `reconfigure` what is its own, and batches theirs, once the author has taken it.
fn configure<T: Class>(instance: *mut c_void, config: &[u8]) -> Result<()> {
    if T::BATCHES.is_empty() {
        let entry = T::RECONFIGURE.ok_or_else(|| Error::msg("the class takes no user_config"))?;
        return run!(entry, Instance::<T>(instance.cast()), config);
    }
    // SAFETY: made by `create` and alive, since an entry of it runs; this field is never changed.
    let batches = unsafe { &(*instance.cast::<Held<T>>()).batches };
    let (limits, rest) = batching::split_config(batches, config)?;
    match T::RECONFIGURE {
        Some(entry) => {
            let rest = serde_json::to_vec(&rest)?;
            run!(entry, Instance::<T>(instance.cast()), &rest)?;
        }
        None if rest.as_object().is_none_or(|fields| !fields.is_empty()) => {
            return Err(Error::msg("the class takes no user_config but for 'batch'"));
        }
        None => {}
    }
    batches.iter().zip(limits).for_each(|(batch, limits)| batch.set(limits));
    Ok(())
}

/// The next request asks for the router again: the author's may depend on the configuration.
#[cfg(feature = "axum")]
fn forget_router<T>(instance: *mut c_void) {
    // SAFETY: made by `create` and alive, since an entry of it runs; the router has a lock of its own.
    let router = unsafe { &(*instance.cast::<Held<T>>()).router };
    *router.lock().unwrap_or_else(|broken| broken.into_inner()) = None;
}

unsafe extern "C" fn check_health<T: Class>(instance: *mut c_void, slot: *mut abi::ErrorSlot) -> i32 {
    let (Some(entry), Some(host)) = (&T::CHECK_HEALTH, host::host()) else {
        return status::INVALID;
    };
    match run!(entry, Instance::<T>(instance.cast()),) {
        Ok(()) => status::OK,
        Err(error) => report(host, slot, &error),
    }
}

/// Runs the author's code; a panic becomes an error. (With `panic = "abort"` it ends the replica.)
pub(crate) fn contain<R>(run: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| Err(panicked(payload)))
}

pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Error {
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => {
            // A payload of the author's own type may panic again where it is dropped.
            std::mem::forget(payload);
            "with a payload that is no text".to_owned()
        }
    };
    Error::msg(format_args!("panicked: {message}"))
}

fn report(host: &abi::Host, slot: *mut abi::ErrorSlot, error: &Error) -> i32 {
    let text = error.chain();
    let code = error.code().map_or(0, |code| u32::from(code.as_u16()));
    // SAFETY: the slot of the entry that is running; the text lives through the call.
    unsafe { (host.set_error)(slot, code, abi::Bytes::from_slice(text.as_bytes())) };
    status::ERROR
}

pub(super) fn respond(exchange: &Arc<Exchange>, response: Response) {
    respond_with(exchange, response, fail_http);
}

fn respond_with(exchange: &Arc<Exchange>, response: Response, fail: fn(&Exchange, &Error)) {
    #[cfg(feature = "tokio")]
    if response.is_async() {
        if let Err(error) = contain(|| runtime::respond_now(exchange, response)) {
            fail(exchange, &error);
        }
        return;
    }
    let outcome = response.into_parts().and_then(|mut parts| match std::mem::take(&mut parts.body) {
        Body::Whole(body) => respond_whole(exchange, &parts, &body),
        Body::Stream(produce) => contain(|| respond_streamed(exchange, parts, produce)),
        #[cfg(feature = "websocket")]
        Body::WebSocket(talk) => crate::websocket::respond(exchange, parts, talk),
        #[cfg(feature = "tokio")]
        _ => Err(Error::msg("an async answer was written as another")),
    });
    if let Err(error) = outcome {
        fail(exchange, &error);
    }
}

pub(crate) fn respond_streamed(exchange: &Exchange, mut parts: Parts, produce: Producer) -> Result<()> {
    let mut writer = BodyWriter::new(exchange, std::mem::take(&mut parts));
    produce(&mut writer)?;
    match writer.end()? {
        End::Whole(parts, body) => respond_whole(exchange, &parts, &body),
        End::Streamed => {
            exchange.finish();
            Ok(())
        }
    }
}

pub(crate) fn respond_whole(exchange: &Exchange, parts: &Parts, body: &[u8]) -> Result<()> {
    // Nearly every answer has its type and nothing else: that one needs no list.
    let only = parts.content_type.as_ref().map(|value| {
        let (name, value) = (b"content-type", value.as_bytes());
        [abi::Header { name: abi::Bytes::from_slice(name), value: abi::Bytes::from_slice(value) }]
    });
    let all = if parts.headers.is_empty() { Vec::new() } else { host::fields_of(parts) };
    let fields = match (&only, &all[..]) {
        (Some(only), []) => &only[..],
        (_, all) => all,
    };
    if exchange.respond(parts.status.as_u16(), fields, body) {
        return Ok(());
    }
    Err(Error::msg("the answer has a status or a header field that HTTP does not allow"))
}

/// A chosen status shows its text; anything else is a 500 with a fixed body, and its text goes to the log.
pub(crate) fn fail_http(exchange: &Exchange, error: &Error) {
    match error.code() {
        Some(code) if code.is_server_error() => exchange.fail(code.as_u16(), error.message(), &error.chain()),
        Some(code) => exchange.fail(code.as_u16(), error.message(), ""),
        None => exchange.fail(0, "", &error.chain()),
    }
}

/// Callers by handle are of the house: they get the whole text.
pub(crate) fn fail_call(exchange: &Exchange, error: &Error) {
    let text = error.chain();
    if error.is_unfit(Unfit::Here) {
        let name = abi::Bytes::from_slice(abi::TYPES_HEADER.as_bytes());
        let field = abi::Header { name, value: abi::Bytes::EMPTY };
        if exchange.respond(415, &[field], text.as_bytes()) {
            return;
        }
    }
    let code = error.code().map_or(0, |code| code.as_u16());
    exchange.fail(code, &text, if (400..500).contains(&code) { "" } else { &text });
}
