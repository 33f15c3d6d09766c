//! The plugin ABI, 1.1: the plain C contract between a replica (the *host*) and a deployment's library.
//!
//! A library exports two data symbols for each class: `decurion_class_v1_NAME`, a [`Class`] table, and
//! `decurion_meta_v1_NAME`, a JSON text ([metadata](#metadata)) that tools read from the ELF file without
//! running its code. The host hands the library one [`Host`] table of functions. `include/decurion.h` is the
//! same contract for C; a test compares the two, offset by offset.
//!
//! # Rules
//!
//! - **Compatibility.** [`MAGIC`], major, minor and `size` come first and are checked before anything is called.
//!   A table of another major is refused. Fields are only ever appended: a reader uses a field only where
//!   `size` covers it. A library of an earlier minor version works with every later host. One of a later minor version
//!   than its host's is refused when it is deployed, before any of its code runs: it may call what the host does not
//!   have, and a class in Rust does. Operators upgrade first, authors then. Flags and enumeration values that a side does not know are refused, never guessed.
//! - **Memory never changes owner.** Every pointer is borrowed for the call it is passed to, or for as long as
//!   its documentation says. Whoever receives bytes copies what it keeps.
//! - **No unwinding crosses the boundary.** Each entry of either side catches what it may throw.
//! - **Threads.** The host calls entries from several threads as the class's [flags] allow, and never
//!   otherwise: entries flagged exclusive run while no other entry of that instance is running. A request is
//!   *running* from its `call` or `invoke` until [`Host::finish`], [`Host::respond`] or [`Host::fail`]; so an
//!   entry may return early and finish its exchange later, from any thread.
//! - **Every exchange is ended exactly once**, by `finish`, `respond` or `fail`. If `call` returns anything but
//!   [`status::OK`], or the instance is destroyed first, the host ends it as a failure.
//!
//! # Metadata
//!
//! One line of JSON: `{"abi":[1,1],"sdk":"rust 0.1.0","class":"Model","call":"shared","reconfigure":"exclusive",
//! "check_health":"shared","encodings":["bincode","json"],"methods":[{"name":"predict","concurrency":"shared",
//! "arguments":["f64"],"returns":"String"}]}`. `call`, `reconfigure` and `check_health` are absent where the
//! class has none; the value is `shared` or `exclusive`.

#![no_std]

use core::ffi::c_void;

/// First word of every table: the bytes `DECURION` in memory order on a little-endian machine.
pub const MAGIC: u64 = u64::from_le_bytes(*b"DECURION");
/// Major version: tables of another one are refused.
pub const ABI_MAJOR: u16 = 1;
/// Minor version: appended fields only.
pub const ABI_MINOR: u16 = 1;
/// A class's table is the data symbol of this prefix followed by the class's name.
pub const CLASS_SYMBOL_PREFIX: &str = "decurion_class_v1_";
/// A class's metadata is the data symbol of this prefix followed by the class's name.
pub const META_SYMBOL_PREFIX: &str = "decurion_meta_v1_";

/// What entries and host functions return.
pub mod status {
    /// Done.
    pub const OK: i32 = 0;
    /// Failed; the detail was given with [`Host::set_error`](super::Host::set_error) or belongs to the function.
    pub const ERROR: i32 = -1;
    /// Would wait, and a waker was given: it is called once when trying again makes sense.
    pub const PENDING: i32 = -2;
    /// The client left, the caller cancelled, or the deadline passed.
    pub const CANCELLED: i32 = -3;
    /// An argument breaks the contract (null, out of range, ended exchange).
    pub const INVALID: i32 = -4;
    /// No such deployment, method or header.
    pub const NOT_FOUND: i32 = -5;
    /// No capacity: the callee's queue is full. Nothing was run.
    pub const BUSY: i32 = -6;
    /// The body was cut off before its end, or the callee died while it ran.
    pub const BROKEN: i32 = -7;
    /// The deadline passed.
    pub const DEADLINE: i32 = -8;
}

/// What [`Class::call_flags`](crate::Class::call_flags) and [`Method::flags`](crate::Method::flags) say.
pub mod flags {
    /// The entry takes the instance exclusively (`&mut self`): never two at a time, nor beside another entry.
    pub const EXCLUSIVE: u32 = 1;
    /// The entry may return before its exchange is ended (async).
    pub const ASYNC: u32 = 2;
    /// The method answers with a stream of messages.
    pub const STREAM: u32 = 4;
}

/// Header field of a bincode call with Rust's names of the types that the caller writes and expects, as
/// `(f64,) => String` (`_`: not known): the callee refuses with 415, before anything runs, what it would misread.
/// May be absent. The refusal has the field as well, which tells it from a 415 of the method's own: the caller may then
/// call again with JSON.
pub const TYPES_HEADER: &str = "decurion-types";
/// Header field of a call that expects a stream of messages; a method answers it only if it streams, and any other call
/// only if it does not. Its value is empty.
pub const STREAM_HEADER: &str = "decurion-stream";
/// Bytes of [`TYPES_HEADER`], at most: longer names are left out.
pub const TYPES_HEADER_MAX: usize = 1024;

/// How the bytes of a call's arguments and result are written.
pub mod encoding {
    /// Raw bytes, as in an HTTP body.
    pub const RAW: u32 = 0;
    /// JSON: arguments are an array by position, or an object by name.
    pub const JSON: u32 = 1;
    /// bincode 1.3, fixed-width integers, little-endian: arguments are a tuple. Between Rust ends only.
    pub const BINCODE: u32 = 2;
}

/// What an exchange is.
pub mod kind {
    /// An HTTP request, for `call`.
    pub const HTTP: u32 = 0;
    /// A method call through a handle, for `invoke`.
    pub const CALL: u32 = 1;
}

/// Log levels of [`Host::log`](crate::Host::log).
pub mod level {
    /// Something failed.
    pub const ERROR: u32 = 1;
    /// Something is odd.
    pub const WARN: u32 = 2;
    /// Worth a line in production.
    pub const INFO: u32 = 3;
    /// For who debugs.
    pub const DEBUG: u32 = 4;
    /// Everything.
    pub const TRACE: u32 = 5;
}

/// Borrowed bytes. `ptr` may be null where `len` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// First byte.
    pub ptr: *const u8,
    /// How many.
    pub len: usize,
}

impl Bytes {
    /// No bytes.
    pub const EMPTY: Bytes = Bytes { ptr: core::ptr::null(), len: 0 };

    /// Borrows a slice. The caller keeps it alive for as long as the receiver may look.
    #[must_use]
    pub const fn from_slice(bytes: &[u8]) -> Self {
        Bytes { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes as a slice.
    ///
    /// # Safety
    /// `ptr` and `len` describe memory that is readable and unchanged for `'a`, or `len` is 0.
    #[allow(unsafe_code, reason = "the one place where borrowed bytes of the other side become a slice")]
    #[must_use]
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.len == 0 || self.ptr.is_null() {
            return &[];
        }
        // SAFETY: the caller promises `len` readable bytes at `ptr` for 'a, and neither is null or zero here.
        unsafe { core::slice::from_raw_parts(self.ptr, self.len) }
    }
}

// SAFETY: a pair of pointer and length that says nothing of threads; whoever dereferences it has the obligation.
#[allow(unsafe_code, reason = "tables of static data must be Sync to stand in a static")]
unsafe impl Sync for Bytes {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "as above")]
unsafe impl Send for Bytes {}

/// One header field. Names are lower case; values are as received, without surrounding white space.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Field name.
    pub name: Bytes,
    /// Field value.
    pub value: Bytes,
}

/// Called once, from any thread, when trying a `PENDING` operation again makes sense: also when the exchange was
/// cancelled, ended or is late. A waker given again for the same operation takes the place of the one before, which is
/// then not called. Copied by the host.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Waker {
    /// The function; must not block, nor call back into the host but for [`Host::run_next`].
    pub wake: Option<unsafe extern "C" fn(data: *mut c_void)>,
    /// Its argument.
    pub data: *mut c_void,
}

/// Opaque: one request or call that this replica is answering.
#[repr(C)]
#[derive(Debug)]
pub struct Exchange {
    _private: [u8; 0],
}

/// Opaque: one call that this replica has made to another deployment.
#[repr(C)]
#[derive(Debug)]
pub struct Call {
    _private: [u8; 0],
}

/// Opaque: where an entry that fails puts its message ([`Host::set_error`]).
#[repr(C)]
#[derive(Debug)]
pub struct ErrorSlot {
    _private: [u8; 0],
}

/// Who this replica is. Valid for the life of the process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// `size_of::<Context>()` of the host.
    pub size: u32,
    /// 0-based place among the deployment's replicas, stable over restarts.
    pub rank: u32,
    /// How many replicas the deployment is to have.
    pub world_size: u32,
    /// Handler threads of this replica.
    pub threads: u32,
    /// Deployment name.
    pub deployment: Bytes,
    /// Replica id.
    pub replica: Bytes,
    /// Version.
    pub version: Bytes,
    /// Application name.
    pub application: Bytes,
}

/// What is known of a request when its handler starts. Valid until the exchange is ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// `size_of::<Request>()` of the host.
    pub size: u32,
    /// [`kind`].
    pub kind: u32,
    /// Request id: taken from `X-Request-ID`, or made.
    pub id: Bytes,
    /// HTTP method, or the method's name of a call.
    pub method: Bytes,
    /// Whole path as received, percent-encoding kept, without the query.
    pub path: Bytes,
    /// What follows `?`; empty where there is none.
    pub query: Bytes,
    /// The prefix that routed here, without a trailing `/` (empty for `/`).
    pub route_prefix: Bytes,
    /// `traceparent`, or empty.
    pub traceparent: Bytes,
    /// Model id of a multiplexed request, or empty.
    pub model_id: Bytes,
    /// Header fields, in order.
    pub headers: *const Header,
    /// How many.
    pub header_count: usize,
    /// `CLOCK_MONOTONIC` nanoseconds at which the answer is due; 0: no deadline.
    pub deadline_ns: u64,
    /// Length of the body if it was announced, else `u64::MAX`.
    pub content_length: u64,
    /// [`encoding`] of a call's arguments; `RAW` for HTTP.
    pub encoding: u32,
    /// Index into [`Class::methods`] of a call; `u32::MAX` for HTTP.
    pub method_index: u32,
}

/// A call to another deployment, given to [`Host::call_start`]. Borrowed for that call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CallSpec {
    /// `size_of::<CallSpec>()` of the library.
    pub size: u32,
    /// [`kind`]: `CALL` for a method, `HTTP` for the callee's `call`.
    pub kind: u32,
    /// Name of the deployment.
    pub deployment: Bytes,
    /// Method of the class, or the HTTP method.
    pub method: Bytes,
    /// Path and query for `HTTP`, else empty.
    pub target: Bytes,
    /// Header fields for `HTTP`.
    pub headers: *const Header,
    /// How many.
    pub header_count: usize,
    /// [`encoding`] of `body`.
    pub encoding: u32,
    /// Must be 0.
    pub flags: u32,
    /// Arguments, or the HTTP body.
    pub body: Bytes,
    /// The exchange on whose behalf the call is made: its deadline, id and trace context travel along and its
    /// cancellation cancels the call. May be null.
    pub parent: *mut Exchange,
    /// `CLOCK_MONOTONIC` nanoseconds; 0: the parent's. The earlier of the two holds.
    pub deadline_ns: u64,
    /// Since 1.1. Model id of a multiplexed call, or empty: replicas that hold the model are preferred.
    pub model_id: Bytes,
    /// Since 1.1. Id of the one replica that is to answer, or empty: the least loaded.
    pub replica: Bytes,
}

/// Bytes of [`CallSpec`] in ABI 1.0, which a host accepts at least.
pub const CALL_SPEC_SIZE_1_0: usize = core::mem::offset_of!(CallSpec, model_id);

/// What a library measures with [`Host::metric`], and what of it is taken.
pub mod metric {
    /// Adds the value, which is not below 0.
    pub const COUNTER: u32 = 0;
    /// Sets the value.
    pub const GAUGE: u32 = 1;
    /// Records one observation, which is not below 0.
    pub const HISTOGRAM: u32 = 2;

    /// Bytes of a name of a metric or of a label, at most.
    pub const NAME_MAX: usize = 128;
    /// Bytes of a label's value, at most.
    pub const VALUE_MAX: usize = 128;
    /// Labels of one series, at most.
    pub const LABELS_MAX: usize = 8;

    /// The name without the `_total` that a counter may be written with, and is shown with in any case.
    #[must_use]
    pub fn stem(kind: u32, name: &str) -> &str {
        if kind == COUNTER { name.strip_suffix("_total").unwrap_or(name) } else { name }
    }

    /// A metric that the SDK measures for every deployment.
    #[derive(Clone, Copy, Debug)]
    pub struct Own {
        /// Its kind.
        pub kind: u32,
        /// Its name, without the ending of a counter.
        pub name: &'static str,
        /// What it is.
        pub help: &'static str,
    }

    const fn own(kind: u32, name: &'static str, help: &'static str) -> Own {
        Own { kind, name, help }
    }

    /// The only names of `decurion_` that a library may use.
    pub const OWN: [Own; 9] = [
        own(COUNTER, "decurion_batches", "Batches by what made them run: their size or the time."),
        own(HISTOGRAM, "decurion_batch_size", "Members of a batch."),
        own(
            HISTOGRAM,
            "decurion_batch_wait_seconds",
            "Time that the first member of a batch waited for it to run.",
        ),
        own(GAUGE, "decurion_batch_waiting", "Members that wait for a batch."),
        own(COUNTER, "decurion_model_lookups", "Uses of models by whether they were held: hit or miss."),
        own(COUNTER, "decurion_model_loads", "Loads of models by outcome: loaded or failed."),
        own(HISTOGRAM, "decurion_model_load_seconds", "Time that loading a model took."),
        own(COUNTER, "decurion_model_evictions", "Models that were let go of for others."),
        own(GAUGE, "decurion_models_held", "Models that are held or being loaded."),
    ];

    /// Whether a metric may have this name: letters, digits and `_`, no digit first, nothing of `decurion_` but [`OWN`],
    /// and for others than counters no ending that Prometheus has a meaning for.
    #[must_use]
    pub fn is_name(kind: u32, name: &str) -> bool {
        let stem = stem(kind, name);
        if stem.starts_with("decurion_") {
            return OWN.iter().any(|own| own.kind == kind && own.name == stem);
        }
        let ends = |ending: &&str| name.ends_with(ending);
        let taken = kind != COUNTER && ["_total", "_bucket", "_sum", "_count"].iter().any(ends);
        is_word(stem) && name.len() <= NAME_MAX && !taken
    }

    /// Whether a series may have this label: a name as of a metric that is none of ours, and any short text.
    #[must_use]
    pub fn is_label(name: &str, value: &str) -> bool {
        let ours = ["application", "deployment", "replica", "le"];
        is_word(name)
            && name.len() <= NAME_MAX
            && value.len() <= VALUE_MAX
            && !ours.contains(&name)
            && !name.starts_with("__")
    }

    /// Whether a value is one of this kind: a number, and not below 0 where it is added up.
    #[must_use]
    pub fn is_value(kind: u32, value: f64) -> bool {
        value.is_finite() && (value >= 0.0 || kind == GAUGE)
    }

    fn is_word(name: &str) -> bool {
        let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        starts && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }
}

/// The answer to a call, valid until [`Host::call_free`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CallReply {
    /// `size_of::<CallReply>()` that the library knows; the host fills no more.
    pub size: u32,
    /// HTTP status: of the answer (`HTTP`), or 200 for a result and else the class of the error (`CALL`).
    pub status: u32,
    /// [`encoding`] of `body`.
    pub encoding: u32,
    /// Must be 0.
    pub flags: u32,
    /// Header fields of an `HTTP` answer.
    pub headers: *const Header,
    /// How many.
    pub header_count: usize,
    /// The result, the answer's whole body, or the error's text.
    pub body: Bytes,
}

/// What a deployment offers beside `call`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Name, as callers write it.
    pub name: Bytes,
    /// [`flags`].
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: plain static data.
#[allow(unsafe_code, reason = "tables of static data must be Sync to stand in a static")]
unsafe impl Sync for Method {}

/// The functions that the host gives a library. Valid for the life of the process; callable from any thread
/// that runs for an exchange, or that the library made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI_MAJOR`] of the host.
    pub abi_major: u16,
    /// [`ABI_MINOR`] of the host.
    pub abi_minor: u16,
    /// `size_of::<Host>()` of the host.
    pub size: u32,
    /// Who this replica is.
    pub context: *const Context,

    /// Puts `message` (UTF-8) and an HTTP-like `code` (0: none) into `slot`. The last one given stands.
    pub set_error: unsafe extern "C" fn(slot: *mut ErrorSlot, code: u32, message: Bytes),
    /// Writes one log line, labelled with the replica and the running exchange's id where given.
    pub log: unsafe extern "C" fn(exchange: *mut Exchange, level: u32, target: Bytes, message: Bytes),

    /// The request of an exchange; null if it was ended.
    pub request: unsafe extern "C" fn(exchange: *mut Exchange) -> *const Request,
    /// 1 once the client left, the caller cancelled or the deadline passed, else 0.
    pub is_cancelled: unsafe extern "C" fn(exchange: *mut Exchange) -> i32,
    /// Registers `waker` to be called once when the exchange is cancelled, at once where it is already; null takes it
    /// back.
    pub on_cancel: unsafe extern "C" fn(exchange: *mut Exchange, waker: *const Waker) -> i32,
    /// Reads up to `len` bytes of the body into `buffer`: their number, 0 at the end of the body, or `PENDING`
    /// (only with a waker; without one it waits), `CANCELLED`, `BROKEN`.
    pub body_read: unsafe extern "C" fn(*mut Exchange, buffer: *mut u8, len: usize, *const Waker) -> isize,

    /// Answers at once: status, header fields and the whole body, and ends the exchange. `OK`, or `CANCELLED`
    /// where nobody waits any more, or `INVALID` for a bad status or header (then the exchange is still open).
    pub respond: unsafe extern "C" fn(*mut Exchange, u32, *const Header, usize, Bytes) -> i32,
    /// Starts a streamed answer: `content_length` is `u64::MAX` where it is not known. Status 101 answers a request
    /// that has an `upgrade` field (the host passes that on only where it is a good offer): from then on `body_read`
    /// gives what the client sends and `respond_write` takes what it gets, without a deadline, until `finish`.
    pub respond_start: unsafe extern "C" fn(*mut Exchange, u32, *const Header, usize, u64) -> i32,
    /// Writes body bytes of a streamed answer: how many were taken (at least 1), or `PENDING` (only with a
    /// waker), `CANCELLED`.
    pub respond_write: unsafe extern "C" fn(*mut Exchange, Bytes, *const Waker) -> isize,
    /// Sends what was written on its way.
    pub respond_flush: unsafe extern "C" fn(*mut Exchange) -> i32,
    /// Ends a streamed answer.
    pub finish: unsafe extern "C" fn(*mut Exchange) -> i32,
    /// Ends a call with its result in `encoding`. `CALL` exchanges only.
    pub respond_call: unsafe extern "C" fn(*mut Exchange, encoding: u32, Bytes) -> i32,
    /// Ends the exchange as failed. HTTP: answers `code` with `public` as text (500 and a fixed body where
    /// `code` is 0); a call: the caller gets code and text. `detail` goes to the log with the request id. A
    /// streamed answer that was already started is cut off.
    pub fail: unsafe extern "C" fn(*mut Exchange, code: u32, public: Bytes, detail: Bytes) -> i32,

    /// Starts a call to another deployment and puts it into `call`: `OK`, `NOT_FOUND`, `BUSY`, `CANCELLED`,
    /// `INVALID`. The arguments are copied or sent before it returns.
    pub call_start: unsafe extern "C" fn(*const CallSpec, call: *mut *mut Call) -> i32,
    /// Waits for the whole answer: `OK` (see `reply`; an error of the callee is an answer, too), `PENDING`
    /// (only with a waker), `CANCELLED`, `DEADLINE`, `BROKEN`, `BUSY`, `NOT_FOUND`.
    pub call_wait: unsafe extern "C" fn(*mut Call, reply: *mut CallReply, *const Waker) -> i32,
    /// Reads the answer's body as it streams in, instead of `call_wait`. As `body_read`.
    pub call_read: unsafe extern "C" fn(*mut Call, buffer: *mut u8, len: usize, *const Waker) -> isize,
    /// Tells the callee that nobody waits. The call must still be freed.
    pub call_cancel: unsafe extern "C" fn(*mut Call),
    /// Frees a call, cancelling it where it still runs.
    pub call_free: unsafe extern "C" fn(*mut Call),
    /// `OK` where `deployment` exists, and puts the [`encoding`]s it takes into `encodings` (bit `1 << n`).
    pub deployment_find: unsafe extern "C" fn(deployment: Bytes, encodings: *mut u32) -> i32,

    /// Since 1.1. Waits for the head of the answer alone: `OK` with status, encoding and header fields in `reply`, and no
    /// body, which [`call_read`](Self::call_read) then gives as it streams in; otherwise as `call_wait`.
    pub call_head: unsafe extern "C" fn(*mut Call, reply: *mut CallReply, *const Waker) -> i32,
    /// Since 1.1. Calls `each` with `data` and the id of each replica of `deployment` that takes calls now, before it
    /// returns: `OK`, `NOT_FOUND`, `DEADLINE`.
    pub deployment_replicas: unsafe extern "C" fn(
        deployment: Bytes,
        data: *mut c_void,
        each: Option<unsafe extern "C" fn(data: *mut c_void, replica: Bytes)>,
    ) -> i32,
    /// Since 1.1. Says which models this replica holds or is loading, all of them, in place of what was said before.
    /// Requests for them then come here rather than elsewhere. Ids beyond the first 256 are left out.
    pub models_hold: unsafe extern "C" fn(ids: *const Bytes, count: usize) -> i32,
    /// Since 1.1. Measures: adds to a counter, sets a gauge or records into a histogram, as `kind` of [`metric`] says. `OK`;
    /// `INVALID` for a name, label or value that is not taken, or a name that has another kind; `BUSY` where this
    /// replica has as many series as it may have.
    pub metric: unsafe extern "C" fn(
        kind: u32,
        name: Bytes,
        labels: *const Header,
        label_count: usize,
        value: f64,
    ) -> i32,
    /// Since 1.1. Calls `each` with `data` and words for people on what a function of calls or deployments of this table
    /// refused last on this thread, before it returns: `OK`, or `NOT_FOUND` where there are none.
    pub refusal_words: unsafe extern "C" fn(
        data: *mut c_void,
        each: Option<unsafe extern "C" fn(data: *mut c_void, words: Bytes)>,
    ) -> i32,
    /// Since 1.1. The one function that a [`Waker`] may call: has `run` called with `data` on the thread that calls the
    /// waker, soon after that has returned and before this thread begins with another request. `OK`, or `BUSY` where this
    /// thread is not one that could: then what was woken has to be run elsewhere.
    pub run_next:
        unsafe extern "C" fn(run: Option<unsafe extern "C" fn(data: *mut c_void)>, data: *mut c_void) -> i32,
}

// SAFETY: function pointers and a pointer to data that lives and stays unchanged as long as the process.
#[allow(unsafe_code, reason = "the table is shared between threads by contract")]
unsafe impl Sync for Host {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "as above")]
unsafe impl Send for Host {}

/// One class of deployments, exported by the library as `decurion_class_v1_NAME`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI_MAJOR`] that the library was built for.
    pub abi_major: u16,
    /// [`ABI_MINOR`] that the library was built for.
    pub abi_minor: u16,
    /// `size_of::<Class>()` of the library.
    pub size: u32,
    /// Class name.
    pub name: Bytes,
    /// The same text as `decurion_meta_v1_NAME`.
    pub metadata: Bytes,
    /// Methods that handles can call, in the order of `method_index`.
    pub methods: *const Method,
    /// How many.
    pub method_count: usize,
    /// [`flags`] of `call`.
    pub call_flags: u32,
    /// [`flags`] of `reconfigure`.
    pub reconfigure_flags: u32,

    /// Constructs an instance from `args` (JSON: an object by name, or an array by position; `null` for none)
    /// and puts it into `instance`. On failure: message in `error`, returns `ERROR`.
    pub create: Option<
        unsafe extern "C" fn(*const Host, args: Bytes, instance: *mut *mut c_void, *mut ErrorSlot) -> i32,
    >,
    /// Destroys the instance, once, when nothing of it runs any more.
    pub destroy: Option<unsafe extern "C" fn(instance: *mut c_void)>,
    /// Answers an HTTP request. `None`: the class has no HTTP side.
    pub call: Option<unsafe extern "C" fn(instance: *mut c_void, *mut Exchange) -> i32>,
    /// Answers a method call (`Request::method_index`).
    pub invoke: Option<unsafe extern "C" fn(instance: *mut c_void, *mut Exchange) -> i32>,
    /// Takes a new `user_config` (JSON). On failure: message in `error`, returns `ERROR`, nothing has changed.
    pub reconfigure:
        Option<unsafe extern "C" fn(instance: *mut c_void, config: Bytes, *mut ErrorSlot) -> i32>,
    /// `OK`, or `ERROR` with the reason in `error`. Always a shared entry: called beside running shared ones, never
    /// beside an exclusive one.
    pub check_health: Option<unsafe extern "C" fn(instance: *mut c_void, *mut ErrorSlot) -> i32>,
}

// SAFETY: static data and function pointers; what the functions may do from which thread is the contract above.
#[allow(unsafe_code, reason = "the table is a static")]
unsafe impl Sync for Class {}
