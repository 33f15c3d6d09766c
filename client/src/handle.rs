//! Handles: calls from any process on the machine, over the same shared memory as the proxy's requests.
//!
//! ```no_run
//! # fn main() -> Result<(), decurion_client::CallFailed> {
//! let client = decurion_client::Client::connect()?;
//! let model = client.deployment("model")?.handle();
//! let answer: String = model.call("predict", (0.7,))?;
//! # Ok(()) }
//! ```
//!
//! With the feature `tokio` each has a twin that waits without holding a thread, on any runtime:
//!
//! ```no_run
//! # #[cfg(feature = "tokio")]
//! # async fn example() -> Result<(), decurion_client::CallFailed> {
//! let client = decurion_client::Client::connect()?;
//! let model = client.deployment_async("model").await?.handle();
//! let answer: String = model.call_async("predict", (0.7,)).await?;
//! let mut words = model.stream_async::<String>("words", (answer,)).await?;
//! while let Some(word) = words.next_async().await {
//!     println!("{}", word?);
//! }
//! # Ok(()) }
//! ```
//!
//! The supervisor is asked once for a deployment's replicas; calls then go to them without it, also while it is
//! dead.

mod call;
mod error;
mod misread;
mod stream;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::caller::{CallError, Caller, Reply};
use decurion_ipc::codec;
use decurion_ipc::control::DeploymentView;
use decurion_ipc::record::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use call::Call;
pub use error::CallFailed;
pub use stream::Stream;

use self::call::Asking;
use self::misread::{Answered, Lesson, Misread};
use crate::sys::engine::{Engine, Step};
use crate::sys::machine;

/// `decurion_abi::encoding::RAW`.
const RAW: u32 = 0;
/// `encoding::JSON` of the plugin ABI, which this crate does not otherwise need.
const JSON: u32 = 1;
/// `encoding::BINCODE` of the plugin ABI.
const BINCODE: u32 = 2;
/// `TYPES_HEADER` of the plugin ABI: Rust's names of the types in a bincode call.
const TYPES_HEADER: &str = "decurion-types";
/// `TYPES_HEADER_MAX` of the plugin ABI.
const TYPES_HEADER_MAX: usize = 1024;
/// `STREAM_HEADER` of the plugin ABI: a stream of items is expected.
const STREAM_HEADER: &str = "decurion-stream";
/// The callee would misread these types in bincode, and nothing was run: if its answer has a [`TYPES_HEADER`]. Without
/// one the status is the method's own.
const UNSUPPORTED: u16 = 415;
/// How long the supervisor may take to say what a deployment is.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A process's way to all deployments.
#[derive(Clone, Debug)]
pub struct Client {
    engine: Arc<Engine>,
}

/// One deployment that exists.
#[derive(Clone, Debug)]
pub struct Deployment {
    engine: Arc<Engine>,
    name: DeploymentName,
    http: bool,
    methods: Vec<String>,
    encodings: u32,
    misread: Arc<Misread>,
}

/// Calls a deployment's methods. Cheap to clone; survives redeploys of the callee.
#[derive(Clone, Debug)]
pub struct Handle {
    engine: Arc<Engine>,
    name: DeploymentName,
    encodings: u32,
    misread: Arc<Misread>,
    timeout: Option<Duration>,
    model_id: String,
}

/// What a deployment's `call` answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header fields, name and value.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// What one replica gave to a [broadcast](Handle::broadcast), or why it did not.
pub type OfReplica<R> = (ReplicaId, Result<R, CallFailed>);

impl Client {
    /// Connects to the supervisor of this machine: `handle.sock` beside the control socket, where
    /// `DECURION_SOCKET` or the default says.
    ///
    /// # Errors
    /// No supervisor listens there, or it refuses this user.
    pub fn connect() -> Result<Self, CallFailed> {
        Self::connect_to(&machine::default_handle_socket()?)
    }

    /// Connects to a handle socket elsewhere.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_to(socket: &Path) -> Result<Self, CallFailed> {
        Ok(Self { engine: Engine::connect(socket)? })
    }

    /// Finds a deployment.
    ///
    /// # Errors
    /// There is none of that name, or the supervisor does not answer.
    pub fn deployment(&self, name: &str) -> Result<Deployment, CallFailed> {
        let (name, deadline) = self.resolve(name)?;
        let found = self.engine.wait(None, deadline, |caller| view_of(caller, &name));
        self.found(name, found)
    }

    /// [`deployment`](Self::deployment), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`deployment`](Self::deployment).
    #[cfg(feature = "tokio")]
    pub async fn deployment_async(&self, name: &str) -> Result<Deployment, CallFailed> {
        let (name, deadline) = self.resolve(name)?;
        let found = self.engine.wait_async(None, deadline, |caller| view_of(caller, &name)).await;
        self.found(name, found)
    }

    /// Asks for a deployment; until when an answer is waited for.
    fn resolve(&self, name: &str) -> Result<(DeploymentName, u64), CallFailed> {
        let name: DeploymentName = name.parse().map_err(CallFailed::Name)?;
        self.engine.with(|caller, _| caller.resolve(&name));
        Ok((name, machine::now_ns().saturating_add(nanos(RESOLVE_TIMEOUT))))
    }

    fn found(
        &self,
        name: DeploymentName,
        found: Option<Result<DeploymentView, CallError>>,
    ) -> Result<Deployment, CallFailed> {
        match found {
            Some(found) => {
                let DeploymentView { http, methods, encodings, .. } = found?;
                let methods = methods.into_iter().map(|method| method.name).collect();
                let (engine, misread) = (Arc::clone(&self.engine), Arc::default());
                Ok(Deployment { engine, name, http, methods, encodings, misread })
            }
            None => Err(CallFailed::NoAnswer { after: RESOLVE_TIMEOUT }),
        }
    }
}

impl Deployment {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &DeploymentName {
        &self.name
    }

    /// Methods of its class.
    #[must_use]
    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// Whether its class answers HTTP as well.
    #[must_use]
    pub fn answers_http(&self) -> bool {
        self.http
    }

    /// A handle to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let Self { encodings, .. } = *self;
        let (engine, name, misread) =
            (Arc::clone(&self.engine), self.name.clone(), Arc::clone(&self.misread));
        Handle { engine, name, encodings, misread, timeout: None, model_id: String::new() }
    }
}

impl Handle {
    /// The same handle, whose calls have to be answered within `timeout`, waiting for a replica included.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The same handle, whose calls ask for a model of a multiplexed deployment: replicas that hold it are preferred.
    #[must_use]
    pub fn with_model_id(mut self, model_id: &str) -> Self {
        model_id.clone_into(&mut self.model_id);
        self
    }

    /// Calls a method and waits: `arguments` is a tuple by position, `(0.7,)`.
    ///
    /// Between Rust ends the values travel as bincode. A callee whose types are written otherwise says so before
    /// anything runs, and the call is made again in JSON, which describes itself; the next one of the same types goes in
    /// JSON at once.
    ///
    /// # Errors
    /// The callee's own error, or why there is no answer; see [`CallFailed`].
    pub fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<R, CallFailed> {
        let call = self.call_of(method, &arguments, Some(std::any::type_name::<R>()))?;
        let may_go_again = self.may_go_again(&call);
        match self.start_call(call)?.answered() {
            Answered::Misread(_) if may_go_again => {
                self.start_call(self.in_json(method, &arguments)?)?.wait()
            }
            answered => answered.into_result(),
        }
    }

    /// Starts a call, so that several can be under way.
    ///
    /// # Errors
    /// Nothing was sent: arguments that can't be encoded, no such deployment, no room.
    pub fn start(&self, method: &str, arguments: impl Serialize) -> Result<Call, CallFailed> {
        self.start_twice(self.call_of(method, &arguments, None)?, &arguments)
    }

    /// Calls a method that streams: its items, as they come.
    ///
    /// # Errors
    /// As [`call`](Self::call), where it fails before its first item; later errors come in their place in the stream.
    pub fn stream<T: DeserializeOwned>(
        &self,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<Stream<T>, CallFailed> {
        let call = self.call_of(method, &arguments, Some(std::any::type_name::<T>()))?;
        let may_go_again = self.may_go_again(&call);
        match Stream::begin(self.start_stream(call)?) {
            Answered::Misread(_) if may_go_again => {
                Stream::begin(self.start_stream(self.in_json(method, &arguments)?)?).into_result()
            }
            answered => answered.into_result(),
        }
    }

    /// Calls a method on every replica that takes calls now, and waits for all of them: the id of each, and what it gave.
    ///
    /// # Errors
    /// Where there is no such deployment any more, or the arguments can't be encoded; what goes wrong with one replica is
    /// its own result.
    pub fn broadcast<R: DeserializeOwned>(
        &self,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<Vec<OfReplica<R>>, CallFailed> {
        let calls = self.start_everywhere::<R>(method, &arguments)?;
        Ok(calls.into_iter().map(|(replica, call)| (replica, call.and_then(Call::wait))).collect())
    }

    fn start_stream(&self, mut call: Asking) -> Result<Call, CallFailed> {
        call.headers.push((STREAM_HEADER.into(), Vec::new()));
        let call = self.start_call(call)?;
        self.engine.with(|caller, _| caller.stream(call.key));
        Ok(call)
    }

    fn start_everywhere<R>(
        &self,
        method: &str,
        arguments: &impl Serialize,
    ) -> Result<Vec<OfReplica<Call>>, CallFailed> {
        let replicas = self.engine.with(|caller, _| caller.replicas(&self.name))?.unwrap_or_default();
        let mut calls = Vec::with_capacity(replicas.len());
        for replica in replicas {
            let call = self.call_of(method, arguments, Some(std::any::type_name::<R>()))?;
            let call = Asking { replica: Some(replica.clone()), ..call };
            calls.push((replica, self.start_twice(call, arguments)));
        }
        Ok(calls)
    }

    /// A call in the encoding that suits the callee best: bincode, unless it is known to misread these types so.
    fn call_of<A: Serialize>(
        &self,
        method: &str,
        arguments: &A,
        result: Option<&str>,
    ) -> Result<Asking, CallFailed> {
        if !self.takes(BINCODE) {
            return self.in_json(method, arguments);
        }
        let types = format!("{} => {}", std::any::type_name::<A>(), result.unwrap_or("_"));
        let types = (types.len() <= TYPES_HEADER_MAX && types.is_ascii()).then_some(types);
        let lesson = types.as_deref().map(|types| self.misread.lesson(method, types));
        if lesson.as_ref().is_some_and(Lesson::in_json) {
            return Ok(Asking { lesson, ..self.in_json(method, arguments)? });
        }
        let headers = types.map(|types| (TYPES_HEADER.into(), types.into_bytes())).into_iter().collect();
        let call = self.new_call(method, BINCODE, codec::encode_value(arguments)?);
        Ok(Asking { headers, lesson, ..call })
    }

    fn in_json(&self, method: &str, arguments: &impl Serialize) -> Result<Asking, CallFailed> {
        let body = serde_json::to_vec(arguments).map_err(CallFailed::Arguments)?;
        Ok(self.new_call(method, JSON, body))
    }

    /// Whether it is to be made again in JSON where the callee would misread it.
    fn may_go_again(&self, call: &Asking) -> bool {
        call.encoding == BINCODE && self.takes(JSON)
    }

    /// Starts a call that nobody is at hand to make again with its arguments: one in bincode has them in JSON with it, as
    /// the callee may have other types.
    fn start_twice<A: Serialize>(&self, call: Asking, arguments: &A) -> Result<Call, CallFailed> {
        let json = self.may_go_again(&call).then(|| serde_json::to_vec(arguments).ok()).flatten();
        let again = json.map(|body| {
            let (replica, deadline_ns) = (call.replica.clone(), call.deadline_ns);
            Box::new(Asking { replica, deadline_ns, ..self.new_call(&call.method, JSON, body) })
        });
        let mut call = self.start_call(call)?;
        call.again = again;
        Ok(call)
    }

    /// [`call`](Self::call), waiting without holding a thread. Dropped, the call is cancelled.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    #[cfg(feature = "tokio")]
    pub async fn call_async<R: DeserializeOwned>(
        &self,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<R, CallFailed> {
        let call = self.call_of(method, &arguments, Some(std::any::type_name::<R>()))?;
        let may_go_again = self.may_go_again(&call);
        match self.start_call(call)?.answered_async().await {
            Answered::Misread(_) if may_go_again => {
                self.start_call(self.in_json(method, &arguments)?)?.wait_async().await
            }
            answered => answered.into_result(),
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
        arguments: impl Serialize,
    ) -> Result<Stream<T>, CallFailed> {
        let call = self.call_of(method, &arguments, Some(std::any::type_name::<T>()))?;
        let may_go_again = self.may_go_again(&call);
        match Stream::begin_async(self.start_stream(call)?).await {
            Answered::Misread(_) if may_go_again => {
                let call = self.start_stream(self.in_json(method, &arguments)?)?;
                Stream::begin_async(call).await.into_result()
            }
            answered => answered.into_result(),
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
        arguments: impl Serialize,
    ) -> Result<Vec<OfReplica<R>>, CallFailed> {
        let calls = self.start_everywhere::<R>(method, &arguments)?;
        drop(arguments);
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

    /// [`request`](Self::request), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    #[cfg(feature = "tokio")]
    pub async fn request_async(
        &self,
        method: &str,
        target: &str,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Vec<u8>,
    ) -> Result<Answer, CallFailed> {
        let call = self.start_request(method, target, headers, body)?;
        let Reply { status, headers, body, .. } = call.whole_reply_async().await?;
        Ok(Answer { status, headers, body })
    }

    fn takes(&self, encoding: u32) -> bool {
        self.encodings & (1 << encoding) != 0
    }

    /// Calls a method with JSON arguments: an array by position, an object by name; gives the result as JSON.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_json(
        &self,
        method: &str,
        arguments: &serde_json::Value,
    ) -> Result<serde_json::Value, CallFailed> {
        let body = serde_json::to_vec(arguments).map_err(CallFailed::Arguments)?;
        let reply = self.start_call(self.new_call(method, JSON, body))?.reply()?;
        serde_json::from_slice(&reply.body).map_err(CallFailed::Result)
    }

    /// Sends an HTTP request to the class's `call`; `target` is path and query. Any status is an answer.
    ///
    /// # Errors
    /// Why there is no answer; see [`CallFailed`].
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Vec<u8>,
    ) -> Result<Answer, CallFailed> {
        let call = self.start_request(method, target, headers, body)?;
        let Reply { status, headers, body, .. } = call.whole_reply()?;
        Ok(Answer { status, headers, body })
    }

    fn start_request(
        &self,
        method: &str,
        target: &str,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: Vec<u8>,
    ) -> Result<Call, CallFailed> {
        let target = target.to_owned();
        self.start_call(Asking { kind: Kind::Http, target, headers, ..self.new_call(method, RAW, body) })
    }

    fn new_call(&self, method: &str, encoding: u32, body: Vec<u8>) -> Asking {
        let deadline_ns = self.timeout.map_or(0, |timeout| machine::now_ns().saturating_add(nanos(timeout)));
        Asking {
            deployment: self.name.clone(),
            kind: Kind::Call,
            method: method.to_owned(),
            target: String::new(),
            headers: Vec::new(),
            encoding,
            body,
            deadline_ns,
            model_id: self.model_id.clone(),
            replica: None,
            lesson: None,
        }
    }

    fn start_call(&self, call: Asking) -> Result<Call, CallFailed> {
        call.start(&self.engine)
    }
}

fn view_of(caller: &mut Caller, name: &DeploymentName) -> Step<Result<DeploymentView, CallError>> {
    match caller.find(name) {
        Ok(None) => Step::Wait,
        Ok(Some(view)) => Step::Done(Ok(view.clone())),
        Err(error) => Step::Done(Err(error)),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
