//! Calls to other deployments.

mod handed_on;
mod pending;
mod remembered;

#[cfg(feature = "tokio")]
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "tokio")]
use std::sync::Mutex;
use std::time::Duration;

use decurion_abi::{self as abi, encoding, kind, status};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::pending::PendingCall;
#[cfg(feature = "tokio")]
use self::pending::ready;
use self::pending::{Again, Lesson};
use crate::arguments::Arguments;
use crate::class::current;
use crate::codec;
use crate::error::Unfit;
use crate::request::Request;
use crate::response::Response;
use crate::streamed::Stream;
use crate::streamed_response::StreamedResponse;
use crate::sys::clock;
use crate::sys::host::{self, Call, Exchange, Outgoing};
#[cfg(feature = "tokio")]
use crate::sys::waking::HostWaker;
use crate::{Error, Result, types};

/// A handle to a deployment: calls its methods without HTTP.
///
/// As a constructor argument it is given as `"@name"`. Whatever a handler calls is done on behalf of its request: the
/// deadline, the request's id and its trace travel along, and where the request is cancelled, so are its calls.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Handle {
    deployment: Arc<str>,
    json: bool,
    model_id: Option<Arc<str>>,
    timeout: Option<Duration>,
}

impl Handle {
    /// A handle to the deployment of this name. Whether there is one shows when it is called.
    #[must_use]
    pub fn named(deployment: &str) -> Self {
        Self { deployment: deployment.into(), json: false, model_id: None, timeout: None }
    }

    /// Name of the deployment.
    #[must_use]
    pub fn deployment(&self) -> &str {
        &self.deployment
    }

    /// The same handle, speaking JSON where two Rust ends would speak bincode: for types that describe themselves
    /// (`Value`, `#[serde(untagged)]`, `#[serde(flatten)]`).
    #[must_use]
    pub fn json(&self) -> Self {
        Self { json: true, ..self.clone() }
    }

    /// The same handle, whose calls ask for a model of a multiplexed deployment: replicas that hold it are preferred.
    #[must_use]
    pub fn with_model_id(&self, model_id: &str) -> Self {
        Self { model_id: Some(model_id.into()), ..self.clone() }
    }

    /// The same handle, whose calls have to be answered within `timeout`, waiting for a replica included. The deadline of
    /// the request that they are made for holds as well.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// Calls a method and waits for its result. The arguments are a tuple: `(0.7,)`. A call that was
    /// [started](Self::start) may stand among them: its result is handed on as it comes.
    ///
    /// # Errors
    /// The callee's own error keeps the status it chose. 503: the callee has no capacity; 504: the deadline passed;
    /// 499: nobody waits any more. Whatever else goes wrong on the way is an internal error.
    pub fn call<R: DeserializeOwned>(&self, method: &str, args: impl Arguments) -> Result<R> {
        let asks = self.asks(method, types_of_call::<_, R>(&args))?;
        self.in_either(asks, |asks| self.start_in(asks, &args)?.wait())
    }

    /// Starts a call; several can be under way at once. As the result's type is not known yet, it is the caller's to
    /// [`wait`](PendingCall::wait) for the one that the method gives.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn start(&self, method: &str, args: impl Arguments) -> Result<PendingCall> {
        self.start_twice(self.asks(method, types_of_start(&args))?, &args)
    }

    /// Calls a method that streams: its items, as they come.
    ///
    /// # Errors
    /// As [`call`](Self::call), where it fails before its first item; later errors come in their place in the stream.
    pub fn stream<T: DeserializeOwned>(&self, method: &str, args: impl Arguments) -> Result<Stream<T>> {
        let asks = Asks { streams: true, ..self.asks(method, types_of_call::<_, T>(&args))? };
        self.in_either(asks, |asks| {
            let mut call = self.start_in(asks, &args)?.into_call();
            let callee = self.callee(method);
            let head = call.head().map_err(|status| callee.failed(status))?;
            let (status, is_misread) = (head.status, head.is_misread());
            if status == 200 {
                return Ok(Stream::new(call, callee));
            }
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while let Some(count) = call.read(&mut buffer).ok().filter(|count| *count > 0) {
                text.extend_from_slice(&buffer[..count]);
            }
            Err(of_callee(status, is_misread, &text))
        })
    }

    /// Calls a method on every replica that takes calls now, and waits for all of them: the id of each, and what it gave.
    ///
    /// # Errors
    /// Where there is no such deployment; what goes wrong with one replica is its own result.
    pub fn broadcast<R: DeserializeOwned>(
        &self,
        method: &str,
        args: impl Arguments,
    ) -> Result<Vec<(String, Result<R>)>> {
        let calls = self.start_everywhere::<R>(method, &args)?;
        Ok(calls.into_iter().map(|(replica, call)| (replica, call.and_then(PendingCall::wait))).collect())
    }

    fn start_everywhere<R: DeserializeOwned>(
        &self,
        method: &str,
        args: &impl Arguments,
    ) -> Result<Vec<(String, Result<PendingCall>)>> {
        let replicas =
            host::replicas_of(&self.deployment).map_err(|status| self.callee("").failed(status))?;
        let asks = self.asks(method, types_of_call::<_, R>(args))?;
        let start = |replica: String| {
            let call = self.start_twice(Asks { replica: &replica, ..asks.clone() }, args);
            (replica, call)
        };
        Ok(replicas.into_iter().map(start).collect())
    }

    /// How to ask: in bincode where that may do, and is not known to be misread.
    fn asks<'a>(&self, method: &'a str, types: types::Known) -> Result<Asks<'a>> {
        let encoding = self.encoding(&types)?;
        let types = types.said.filter(|_| encoding == encoding::BINCODE);
        let misread = types.as_deref().filter(|_| !remembered::MISREAD.is_empty()).is_some_and(|types| {
            remembered::MISREAD.contains(remembered::key(&self.deployment, method, types))
        });
        let encoding = if misread { encoding::JSON } else { encoding };
        Ok(Asks { encoding, types, ..Asks::to(method) })
    }

    /// Asks, and again in JSON where the callee would misread bincode: nothing has run then.
    fn in_either<R>(&self, mut asks: Asks<'_>, ask: impl Fn(&mut Asks<'_>) -> Result<R>) -> Result<R> {
        match ask(&mut asks) {
            Err(refused) if self.goes_again(&mut asks, &refused) => {
                ask(&mut asks).map_err(|error| self.why(&asks, error, refused))
            }
            result => {
                self.learn(&asks, &result);
                result
            }
        }
    }

    /// Why a call failed that was refused in bincode and then asked in JSON. What can't go in JSON, as a result in bincode
    /// is among its arguments, was not asked: what the callee has said stands.
    fn why(&self, asks: &Asks<'_>, error: Error, refused: Error) -> Error {
        if !error.is_unfit(Unfit::HandedOn) {
            return error;
        }
        self.learn(asks, &Err::<(), _>(error));
        refused
    }

    /// Whether the callee would have misread what it was asked, so that it is to be asked in JSON. That is remembered,
    /// until asking so fails.
    fn goes_again(&self, asks: &mut Asks<'_>, error: &Error) -> bool {
        let goes_again = asks.encoding == encoding::BINCODE && error.is_unfit(Unfit::There);
        if goes_again {
            if let Some(types) = &asks.types {
                remembered::MISREAD.insert(remembered::key(&self.deployment, asks.method, types));
            }
            asks.encoding = encoding::JSON;
        }
        goes_again
    }

    /// What was asked in JSON from the start, and has failed, is tried in bincode the next time.
    fn learn<R>(&self, asks: &Asks<'_>, result: &Result<R>) {
        if let (Err(_), encoding::JSON, Some(types)) = (result, asks.encoding, &asks.types) {
            remembered::MISREAD.remove(remembered::key(&self.deployment, asks.method, types));
        }
    }

    /// Sends a request to the deployment's `call` and waits for the whole answer.
    ///
    /// # Errors
    /// As [`call`](Self::call). An answer of any status is an answer, and no error.
    pub fn request(&self, request: Request) -> Result<Response> {
        let body = request.bytes()?;
        let mut call = self.start_request(&request, &body)?;
        self.response_of(&mut call)
    }

    /// Sends a request to the deployment's `call`, and gives the answer as soon as its head is there: its body is read as
    /// it comes.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub fn request_stream(&self, request: Request) -> Result<StreamedResponse> {
        let body = request.bytes()?;
        StreamedResponse::begin(self.start_request(&request, &body)?, self.callee(""))
    }

    fn start_request(&self, request: &Request, body: &[u8]) -> Result<Call> {
        let headers: Vec<(&[u8], &[u8])> = request.head().headers().collect();
        let parent = current::exchange();
        let outgoing = Outgoing {
            kind: kind::HTTP,
            deployment: &self.deployment,
            method: request.method().as_str(),
            target: &request.target(),
            headers: &headers,
            encoding: encoding::RAW,
            body,
            parent: parent.as_deref(),
            deadline_ns: self.deadline(),
            model_id: self.model_id.as_deref().or(request.model_id()).unwrap_or_default(),
            replica: "",
        };
        Call::start(&outgoing).map_err(|status| self.callee("").failed(status))
    }

    /// Waits for an answer.
    fn response_of(&self, call: &mut Call) -> Result<Response> {
        let reply = call.wait().map_err(|status| self.callee("").failed(status))?;
        let mut response = Response::new(u16::try_from(reply.status).unwrap_or(0), reply.body.to_vec());
        for (name, value) in reply.headers() {
            response.append(name, value);
        }
        Ok(response)
    }

    /// [`call`](Self::call), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    #[cfg(feature = "tokio")]
    pub async fn call_async<R: DeserializeOwned>(
        &self,
        method: &str,
        args: impl Arguments + Sync,
    ) -> Result<R> {
        self.find().await;
        let mut asks = self.asks(method, types_of_call::<_, R>(&args))?;
        let result = self.start_in(&mut asks, &args)?.wait_async().await;
        match result {
            Err(refused) if self.goes_again(&mut asks, &refused) => {
                let call = self.start_in(&mut asks, &args);
                call.map_err(|error| self.why(&asks, error, refused))?.wait_async().await
            }
            result => {
                self.learn(&asks, &result);
                result
            }
        }
    }

    /// [`stream`](Self::stream), waiting without holding a thread; its items are then read by
    /// [`next_async`](Stream::next_async).
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    #[cfg(feature = "tokio")]
    pub async fn stream_async<T: DeserializeOwned>(
        &self,
        method: &str,
        args: impl Arguments + Sync,
    ) -> Result<Stream<T>> {
        self.find().await;
        let mut asks = Asks { streams: true, ..self.asks(method, types_of_call::<_, T>(&args))? };
        let mut refused = None;
        loop {
            let call = self.start_in(&mut asks, &args).map_err(|error| match refused.take() {
                Some(refused) => self.why(&asks, error, refused),
                None => error,
            });
            let mut call = call?.into_call();
            let (callee, place) = (self.callee(method), HostWaker::new());
            let head = std::future::poll_fn(|cx| call.poll_head(&place, cx)).await;
            // It is there, so that to ask for it does not wait.
            let head = head.and_then(|()| call.head()).map_err(|status| callee.failed(status))?;
            let (status, is_misread) = (head.status, head.is_misread());
            if status == 200 {
                return Ok(Stream::new(call, callee));
            }
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                let read = std::future::poll_fn(|cx| call.poll_read(&mut buffer, &place, cx)).await;
                let Some(count) = read.ok().filter(|count| *count > 0) else { break };
                text.extend_from_slice(&buffer[..count]);
            }
            let failed = of_callee(status, is_misread, &text);
            if !self.goes_again(&mut asks, &failed) {
                let failed = Err(failed);
                if refused.is_none() {
                    self.learn(&asks, &failed);
                }
                return failed;
            }
            refused = Some(failed);
        }
    }

    /// [`broadcast`](Self::broadcast), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    #[cfg(feature = "tokio")]
    pub async fn broadcast_async<R: DeserializeOwned>(
        &self,
        method: &str,
        args: impl Arguments + Sync,
    ) -> Result<Vec<(String, Result<R>)>> {
        self.find().await;
        let calls = self.start_everywhere::<R>(method, &args)?;
        let mut results = Vec::with_capacity(calls.len());
        for (replica, call) in calls {
            let result = match call {
                Ok(call) => call.wait_async().await,
                Err(error) => Err(error),
            };
            results.push((replica, result));
        }
        Ok(results)
    }

    /// [`start`](Self::start), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    #[cfg(feature = "tokio")]
    pub async fn start_async(&self, method: &str, args: impl Arguments) -> Result<PendingCall> {
        self.find().await;
        self.start(method, args)
    }

    /// [`request`](Self::request), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    #[cfg(feature = "tokio")]
    pub async fn request_async(&self, request: Request) -> Result<Response> {
        let body = request.bytes_async().await?;
        let mut call = self.start_request(&request, &body)?;
        ready(&mut call).await.map_err(|status| self.callee("").failed(status))?;
        self.response_of(&mut call)
    }

    /// [`request_stream`](Self::request_stream), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    #[cfg(feature = "tokio")]
    pub async fn request_stream_async(&self, request: Request) -> Result<StreamedResponse> {
        let body = request.bytes_async().await?;
        StreamedResponse::begin_async(self.start_request(&request, &body)?, self.callee("")).await
    }

    /// The first time that a deployment is called, the supervisor is asked for it, which may take a while.
    #[cfg(feature = "tokio")]
    async fn find(&self) {
        static FOUND: Mutex<BTreeSet<Arc<str>>> = Mutex::new(BTreeSet::new());
        let found = || FOUND.lock().unwrap_or_else(|broken| broken.into_inner());
        if !found().contains(&self.deployment) {
            let name = Arc::clone(&self.deployment);
            let asked = tokio::task::spawn_blocking(move || host::encodings_of(&name)).await;
            if asked.is_ok_and(|asked| asked.is_ok()) {
                found().insert(Arc::clone(&self.deployment));
            }
        }
    }

    fn encoding(&self, types: &types::Known) -> Result<u32> {
        if self.json || types.need_json {
            return Ok(encoding::JSON);
        }
        let encodings =
            host::encodings_of(&self.deployment).map_err(|status| self.callee("").failed(status))?;
        let rust = encodings & 1 << encoding::BINCODE != 0;
        Ok(if rust { encoding::BINCODE } else { encoding::JSON })
    }

    fn start_in<A: Arguments>(&self, asks: &mut Asks<'_>, args: &A) -> Result<PendingCall> {
        let body = asks.write(args)?;
        let parent = current::exchange();
        let (callee, deadline_ns) = (self.callee(asks.method), self.deadline());
        let call = self.send(asks, &body, parent.as_deref(), deadline_ns);
        let call = call.map_err(|status| callee.failed(status))?;
        let of_parent = parent.as_ref().map_or(0, |parent| parent.facts().deadline_ns);
        let due_ns = [deadline_ns, of_parent].into_iter().filter(|due| *due != 0).min();
        Ok(PendingCall::new(call, callee, due_ns.unwrap_or(u64::MAX)))
    }

    /// The same for a call that nobody is at hand to make again with its arguments: where it goes in bincode, and it is
    /// not known yet that the callee reads these types so, it has them in JSON with it.
    fn start_twice<A: Arguments>(&self, mut asks: Asks<'_>, args: &A) -> Result<PendingCall> {
        let started = self.start_in(&mut asks, args);
        let Some(types) = &asks.types else { return started };
        let key = remembered::key(&self.deployment, asks.method, types);
        let in_json = asks.encoding == encoding::JSON;
        if in_json && started.is_err() {
            remembered::MISREAD.remove(key);
        }
        let mut pending = started?;
        let is_known = in_json || remembered::UNDERSTOOD.contains(key);
        let again = if is_known { None } else { Again::of(self, &asks, args) };
        pending.learns(Lesson { key, in_json }, again);
        Ok(pending)
    }

    fn send(
        &self,
        asks: &Asks<'_>,
        body: &[u8],
        parent: Option<&Exchange>,
        deadline_ns: u64,
    ) -> std::result::Result<Call, i32> {
        let types = asks.types.as_deref().filter(|_| asks.encoding == encoding::BINCODE);
        let types = types.map(|types| (abi::TYPES_HEADER.as_bytes(), types.as_bytes()));
        let streams = (abi::STREAM_HEADER.as_bytes(), &b""[..]);
        let both = [types.unwrap_or(streams), streams];
        let headers = match (types, asks.streams) {
            (None, false) => &both[..0],
            (Some(_), false) => &both[..1],
            (None, true) => &both[1..],
            (Some(_), true) => &both[..],
        };
        Call::start(&Outgoing {
            kind: kind::CALL,
            deployment: &self.deployment,
            method: asks.method,
            target: "",
            headers,
            encoding: asks.encoding,
            body,
            parent,
            deadline_ns,
            model_id: self.model_id.as_deref().unwrap_or_default(),
            replica: asks.replica,
        })
    }

    fn callee(&self, method: &str) -> Callee {
        Callee { deployment: Arc::clone(&self.deployment), method: method.to_owned() }
    }

    /// Until when a call that is made now has to be answered; 0: whenever.
    fn deadline(&self) -> u64 {
        self.timeout.map_or(0, |timeout| {
            clock::monotonic().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
        })
    }
}

/// How a call is made.
#[derive(Clone)]
struct Asks<'a> {
    method: &'a str,
    encoding: u32,
    /// What would be read, where bincode would do.
    types: Option<Arc<str>>,
    streams: bool,
    /// The one replica that is to answer; empty: any.
    replica: &'a str,
}

impl<'a> Asks<'a> {
    fn to(method: &'a str) -> Self {
        Self { method, encoding: encoding::JSON, types: None, streams: false, replica: "" }
    }

    /// The arguments as they are to be sent: in JSON also where bincode can't carry them, or where a result that is
    /// handed on with them came in JSON. Started calls among them are waited for here.
    fn write<A: Arguments>(&mut self, args: &A) -> Result<Vec<u8>> {
        if self.encoding == encoding::BINCODE {
            match (codec::encode(args), handed_on::take_failure()) {
                (Ok(body), _) => return Ok(body),
                (Err(_), Some(failed)) if !failed.is_unfit(Unfit::HandedOn) => return Err(failed),
                (Err(codec::CodecError::Malformed(error)), None) => return Err(error.into()),
                (Err(_), _) => self.encoding = encoding::JSON,
            }
        }
        let written = serde_json::to_vec(args);
        written.map_err(|error| handed_on::take_failure().unwrap_or(error.into()))
    }
}

/// Who is called, for what is said when that goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Callee {
    deployment: Arc<str>,
    /// Empty: the class's `call`.
    method: String,
}

impl Callee {
    /// A result that is not what was asked for.
    pub(crate) fn misread<R>(&self, why: &str) -> Error {
        let (deployment, method) = (&self.deployment, &self.method);
        let wanted = types::short(std::any::type_name::<R>());
        Error::msg(format_args!("the result of {deployment}.{method} is not a {wanted}: {why}"))
    }

    /// What an ABI status means to the caller.
    pub(crate) fn failed(&self, status: i32) -> Error {
        let method = &self.method;
        let to = if method.is_empty() {
            self.deployment.to_string()
        } else {
            format!("{}.{method}", self.deployment)
        };
        match status {
            status::BUSY => {
                let words = host::refusal_words().map(|words| format!(": {words}")).unwrap_or_default();
                Error::status(503, format_args!("deployment {} has no capacity{words}", self.deployment))
            }
            status::DEADLINE => Error::status(504, format_args!("the deadline passed while calling {to}")),
            status::CANCELLED => Error::status(499, format_args!("the call to {to} was cancelled")),
            status::NOT_FOUND => match host::refusal_words() {
                Some(words) => Error::msg(words),
                None => Error::msg(format_args!("there is no deployment '{}'", self.deployment)),
            },
            status::BROKEN => {
                Error::msg(format_args!("the replica that ran {to} died, or cut its answer off"))
            }
            status::INVALID if host::host().is_none() => {
                Error::msg(format_args!("{to} can't be called outside of a replica or decurion::test"))
            }
            other => Error::msg(format_args!("calling {to} failed with status {other}")),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle(@{})", self.deployment)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix('@') {
            Some(name) if !name.is_empty() => Ok(Self::named(name)),
            _ => Err(D::Error::custom(format_args!(
                "a handle is written \"@name\" with the name of a deployment, not {text:?}"
            ))),
        }
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("@{}", self.deployment))
    }
}

fn types_of_call<A: Arguments, R>(_: &A) -> types::Known {
    types::of_call::<A, R>()
}

fn types_of_start<A: Arguments>(_: &A) -> types::Known {
    types::of_start::<A>()
}

/// The callee's own error. 500 is what it did not choose: it stays an internal error here, too.
fn of_callee(status: u32, is_misread: bool, text: &[u8]) -> Error {
    let text = String::from_utf8_lossy(text);
    match u16::try_from(status) {
        _ if is_misread => Error::unfit(Unfit::There, text),
        Ok(500) | Err(_) => Error::msg(text),
        Ok(status) => Error::status(status, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_written_with_an_at_sign() {
        let handle: Handle = serde_json::from_str("\"@model\"").unwrap();
        assert_eq!(handle.deployment(), "model");
        assert_eq!(serde_json::to_string(&handle).unwrap(), "\"@model\"");
        for wrong in ["\"model\"", "\"@\"", "3"] {
            assert!(serde_json::from_str::<Handle>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn outside_of_a_replica_a_call_says_so() {
        let error = Handle::named("model").call::<f64>("predict", (1.0,)).unwrap_err();
        assert!(error.to_string().contains("outside of a replica"), "{error}");
    }
}
