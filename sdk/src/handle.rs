//! Calls to other deployments.

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

use crate::arguments::Arguments;
use crate::class::current;
use crate::codec::{self, CodecError};
use crate::request::Request;
use crate::response::Response;
use crate::sys::clock;
use crate::sys::host::{self, Call, Outgoing, Reply};
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

    /// Calls a method and waits for its result. The arguments are a tuple: `(0.7,)`.
    ///
    /// # Errors
    /// The callee's own error keeps the status it chose. 503: the callee has no capacity; 504: the deadline passed;
    /// 499: nobody waits any more. Whatever else goes wrong on the way is an internal error.
    pub fn call<R: DeserializeOwned>(&self, method: &str, args: impl Arguments) -> Result<R> {
        let encoding = self.encoding(codec::needs_json::<R>(), &args)?;
        let result =
            self.start_in(encoding, method, &args, types_of_call::<_, R>(&args)).and_then(PendingCall::wait);
        match result {
            // The callee would misread these types. Nothing has run: the same again, as JSON.
            Err(error) if encoding == encoding::BINCODE && error.code().is_some_and(|code| code == 415) => {
                self.start_in(encoding::JSON, method, &args, None)?.wait()
            }
            result => result,
        }
    }

    /// Starts a call; several can be under way at once. As the result's type is not known yet, it is the caller's to
    /// [`wait`](PendingCall::wait) for the one that the method gives.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn start(&self, method: &str, args: impl Arguments) -> Result<PendingCall> {
        self.start_in(self.encoding(false, &args)?, method, &args, types_of_start(&args))
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
        Call::start(&outgoing).map_err(|status| self.failed("", status))
    }

    /// Waits for an answer.
    fn response_of(&self, call: &mut Call) -> Result<Response> {
        let reply = call.wait().map_err(|status| self.failed("", status))?;
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
        let encoding = self.encoding(codec::needs_json::<R>(), &args)?;
        let started = self.start_in(encoding, method, &args, types_of_call::<_, R>(&args))?;
        match started.wait_async().await {
            Err(error) if encoding == encoding::BINCODE && error.code().is_some_and(|code| code == 415) => {
                self.start_in(encoding::JSON, method, &args, None)?.wait_async().await
            }
            result => result,
        }
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
        ready(&mut call).await.map_err(|status| self.failed("", status))?;
        self.response_of(&mut call)
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

    fn encoding<A: Arguments>(&self, result_needs_json: bool, _args: &A) -> Result<u32> {
        if self.json || result_needs_json || codec::needs_json::<A>() {
            return Ok(encoding::JSON);
        }
        let encodings = host::encodings_of(&self.deployment).map_err(|status| self.failed("", status))?;
        let rust = encodings & 1 << encoding::BINCODE != 0;
        Ok(if rust { encoding::BINCODE } else { encoding::JSON })
    }

    fn start_in<A: Arguments>(
        &self,
        encoding: u32,
        method: &str,
        args: &A,
        types: Option<String>,
    ) -> Result<PendingCall> {
        let types = types.filter(|_| encoding == encoding::BINCODE);
        let types = types.as_deref().map(|types| (abi::TYPES_HEADER.as_bytes(), types.as_bytes()));
        let body = match encoding {
            encoding::BINCODE => codec::encode(args)?,
            _ => serde_json::to_vec(args)?,
        };
        let parent = current::exchange();
        let outgoing = Outgoing {
            kind: kind::CALL,
            deployment: &self.deployment,
            method,
            target: "",
            headers: types.as_slice(),
            encoding,
            body: &body,
            parent: parent.as_deref(),
            deadline_ns: self.deadline(),
            model_id: self.model_id.as_deref().unwrap_or_default(),
            replica: "",
        };
        let call = Call::start(&outgoing).map_err(|status| self.failed(method, status))?;
        Ok(PendingCall { call, handle: self.clone(), method: method.to_owned() })
    }

    /// Until when a call that is made now has to be answered; 0: whenever.
    fn deadline(&self) -> u64 {
        self.timeout.map_or(0, |timeout| {
            clock::monotonic().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
        })
    }

    /// What an ABI status means to the caller.
    fn failed(&self, method: &str, status: i32) -> Error {
        let to = if method.is_empty() {
            self.deployment.to_string()
        } else {
            format!("{}.{method}", self.deployment)
        };
        match status {
            status::BUSY => {
                Error::status(503, format_args!("deployment {} has no capacity", self.deployment))
            }
            status::DEADLINE => Error::status(504, format_args!("the deadline passed while calling {to}")),
            status::CANCELLED => Error::status(499, format_args!("the call to {to} was cancelled")),
            status::NOT_FOUND if method.is_empty() => {
                Error::msg(format_args!("there is no deployment '{to}'"))
            }
            status::NOT_FOUND => Error::msg(format_args!("there is no deployment and method '{to}'")),
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

/// A call under way. Dropped without [`wait`](Self::wait), it is cancelled.
#[must_use = "a call that nobody waits for is cancelled"]
#[derive(Debug)]
pub struct PendingCall {
    call: Call,
    handle: Handle,
    method: String,
}

impl PendingCall {
    /// Waits for the result.
    ///
    /// # Errors
    /// As [`Handle::call`].
    pub fn wait<R: DeserializeOwned>(mut self) -> Result<R> {
        let reply = self.call.wait().map_err(|status| self.handle.failed(&self.method, status))?;
        result_of(&reply).map_err(|failure| match failure {
            Failure::Callee(error) => error,
            Failure::Result(why) => Error::msg(format_args!(
                "the result of {}.{} is not a {}: {why}",
                self.handle.deployment,
                self.method,
                std::any::type_name::<R>()
            )),
        })
    }

    /// [`wait`](Self::wait) without holding a thread.
    ///
    /// # Errors
    /// As [`Handle::call`].
    #[cfg(feature = "tokio")]
    pub async fn wait_async<R: DeserializeOwned>(mut self) -> Result<R> {
        ready(&mut self.call).await.map_err(|status| self.handle.failed(&self.method, status))?;
        self.wait()
    }

    /// Tells the callee that nobody waits.
    pub fn cancel(self) {
        self.call.cancel();
    }
}

#[cfg(feature = "tokio")]
async fn ready(call: &mut Call) -> std::result::Result<(), i32> {
    let place = HostWaker::new();
    std::future::poll_fn(|cx| call.poll_ready(&place, cx)).await
}

fn types_of_call<A: Arguments, R>(_: &A) -> Option<String> {
    types::of_call::<A, R>()
}

fn types_of_start<A: Arguments>(_: &A) -> Option<String> {
    types::of_start::<A>()
}

enum Failure {
    Callee(Error),
    Result(String),
}

fn result_of<R: DeserializeOwned>(reply: &Reply<'_>) -> std::result::Result<R, Failure> {
    if reply.status != 200 {
        let text = String::from_utf8_lossy(reply.body);
        // 500 is what the callee did not choose: it stays an internal error here, too.
        return Err(Failure::Callee(match u16::try_from(reply.status) {
            Ok(500) | Err(_) => Error::msg(text),
            Ok(status) => Error::status(status, text),
        }));
    }
    match reply.encoding {
        encoding::BINCODE => {
            codec::decode(reply.body).map_err(|error: CodecError| Failure::Result(error.to_string()))
        }
        encoding::JSON => crate::arguments::value_from_json(reply.body).map_err(Failure::Result),
        other => Err(Failure::Result(format!("it has encoding {other}"))),
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
