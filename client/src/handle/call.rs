//! A call: what it is made of, and one that is under way.

use std::sync::Arc;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::caller::{CallError, CallKey, Caller, Fields, NewCall, Outcome, Reply};
use decurion_ipc::codec;
use decurion_ipc::record::Kind;
use serde::de::DeserializeOwned;

use super::misread::{Answered, Lesson, Said};
use super::{BINCODE, CallFailed};
use crate::sys::engine::{Engine, Step};
use crate::sys::machine;

/// A call that was started.
#[derive(Debug)]
#[must_use = "a call that is dropped is cancelled"]
pub struct Call {
    pub(super) engine: Arc<Engine>,
    pub(super) key: CallKey,
    /// The same in JSON, where the callee would misread it.
    pub(super) again: Option<Box<Asking>>,
    lesson: Option<Lesson>,
}

/// What a call is made of, kept until it is started.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) deployment: DeploymentName,
    pub(super) kind: Kind,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Fields,
    pub(super) encoding: u32,
    pub(super) body: Vec<u8>,
    pub(super) deadline_ns: u64,
    pub(super) model_id: String,
    pub(super) replica: Option<ReplicaId>,
    pub(super) lesson: Option<Lesson>,
}

impl Asking {
    pub(super) fn start(self, engine: &Arc<Engine>) -> Result<Call, CallFailed> {
        let (id, headers) = (machine::new_request_id(), &self.headers);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let call = NewCall {
            deployment: self.deployment,
            kind: self.kind,
            method: &self.method,
            target: &self.target,
            headers: &headers,
            encoding: self.encoding,
            body: self.body,
            id: &id,
            traceparent: "",
            deadline_ns: self.deadline_ns,
            model_id: &self.model_id,
            replica: self.replica,
            epoch: None,
        };
        let key = engine.with(|caller, now| caller.start(call, now))?;
        Ok(Call { engine: Arc::clone(engine), key, again: None, lesson: self.lesson })
    }
}

impl Call {
    /// Waits for the result.
    ///
    /// # Errors
    /// As [`Handle::call`](super::Handle::call).
    pub fn wait<R: DeserializeOwned>(mut self) -> Result<R, CallFailed> {
        let reply = match (self.judge(self.whole_reply()), self.again.take()) {
            (Answered::Misread(_), Some(again)) => self.again(*again)?.reply(),
            (answered, _) => answered.into_result(),
        };
        read_result(&reply?)
    }

    /// [`wait`](Self::wait), where its caller is at hand to make it again.
    pub(super) fn answered<R: DeserializeOwned>(self) -> Answered<R> {
        self.judge(self.whole_reply()).and_then(|reply| read_result(&reply))
    }

    /// [`wait`](Self::wait) without holding a thread. Dropped, the call is cancelled.
    ///
    /// # Errors
    /// As [`Handle::call`](super::Handle::call).
    #[cfg(feature = "tokio")]
    pub async fn wait_async<R: DeserializeOwned>(mut self) -> Result<R, CallFailed> {
        let reply = match (self.judge(self.whole_reply_async().await), self.again.take()) {
            (Answered::Misread(_), Some(again)) => {
                let again = self.again(*again)?;
                again.judge(again.whole_reply_async().await).into_result()
            }
            (answered, _) => answered.into_result(),
        };
        read_result(&reply?)
    }

    #[cfg(feature = "tokio")]
    pub(super) async fn answered_async<R: DeserializeOwned>(self) -> Answered<R> {
        self.judge(self.whole_reply_async().await).and_then(|reply| read_result(&reply))
    }

    #[cfg(feature = "tokio")]
    pub(super) async fn whole_reply_async(&self) -> Result<Reply, CallFailed> {
        let key = self.key;
        let outcome = self.engine.wait_async(Some(key), 0, |caller| outcome_of(caller, key)).await;
        outcome.ok_or(CallFailed::NoAnswer { after: Duration::ZERO })?.map_err(CallFailed::from)
    }

    /// Nothing has run: the same call in JSON.
    fn again(&self, call: Asking) -> Result<Self, CallFailed> {
        call.start(&self.engine)
    }

    /// Tells the callee that nobody waits for the result any more.
    pub fn cancel(self) {}

    /// The result, or the callee's error.
    pub(super) fn reply(&self) -> Result<Reply, CallFailed> {
        self.judge(self.whole_reply()).into_result()
    }

    /// What a reply says, and what it teaches.
    fn judge(&self, reply: Result<Reply, CallFailed>) -> Answered<Reply> {
        let reply = match reply {
            Ok(reply) => reply,
            Err(failed) => return Answered::Went(Err(failed)),
        };
        let said = Said::by(&reply);
        self.learn(said);
        let error = || {
            let message = String::from_utf8_lossy(&reply.body).into_owned();
            CallFailed::Callee { status: reply.status, message }
        };
        match said {
            Said::Misread => Answered::Misread(error()),
            Said::Failed => Answered::Went(Err(error())),
            Said::Good => Answered::Went(Ok(reply)),
        }
    }

    pub(super) fn learn(&self, said: Said) {
        if let Some(lesson) = &self.lesson {
            lesson.learn(said);
        }
    }

    pub(super) fn whole_reply(&self) -> Result<Reply, CallFailed> {
        let outcome = self.engine.wait(Some(self.key), 0, |caller| outcome_of(caller, self.key));
        // Without a deadline of its own, the wait ends with the call's outcome only.
        outcome.ok_or(CallFailed::NoAnswer { after: Duration::MAX })?.map_err(CallFailed::from)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.engine.with(|caller, _| caller.free(self.key));
    }
}

fn outcome_of(caller: &mut Caller, key: CallKey) -> Step<Result<Reply, CallError>> {
    match caller.outcome(key) {
        Outcome::Pending => Step::Wait,
        Outcome::Ready => Step::Done(Ok(caller.take_reply(key).unwrap_or_default())),
        Outcome::Failed(error) => Step::Done(Err(error)),
    }
}

fn read_result<R: DeserializeOwned>(reply: &Reply) -> Result<R, CallFailed> {
    match reply.encoding {
        BINCODE => Ok(codec::decode_value(&reply.body)?),
        _ => serde_json::from_slice(&reply.body).map_err(CallFailed::Result),
    }
}
