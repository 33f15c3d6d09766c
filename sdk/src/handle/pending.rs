//! Calls under way.

use std::sync::{Arc, Mutex};

use decurion_abi::{encoding, status};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};

use super::{Asks, Callee, Handle, handed_on, of_callee, remembered};
use crate::arguments::Arguments;
use crate::class::current;
use crate::codec::{self, CodecError};
use crate::error::Unfit;
use crate::sys::clock;
use crate::sys::host::{Call, Exchange, Reply};
#[cfg(feature = "tokio")]
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// A call under way. Dropped without [`wait`](Self::wait), it is cancelled.
///
/// It may be an argument of another call: that waits for its result, and sends it on as it came.
#[must_use = "a call that nobody waits for is cancelled"]
#[derive(Debug)]
pub struct PendingCall {
    asked: Mutex<Asked>,
    callee: Callee,
    /// When it has to be answered; `u64::MAX`: whenever.
    due_ns: u64,
}

/// A call that may have to be made once more.
#[derive(Debug)]
struct Asked {
    call: Call,
    /// How, where the callee would misread it.
    again: Option<Box<Again>>,
    /// What its answer's status tells.
    lesson: Option<Lesson>,
}

/// Whether the callee reads these types is seen when it answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lesson {
    /// Of deployment, method and types.
    pub(super) key: u64,
    /// It was asked in JSON, as it is known to misread them.
    pub(super) in_json: bool,
}

/// The same call in JSON.
#[derive(Debug)]
pub(super) struct Again {
    handle: Handle,
    method: String,
    replica: String,
    body: Vec<u8>,
    parent: Option<Arc<Exchange>>,
    deadline_ns: u64,
}

impl Again {
    /// None where its arguments have no form in JSON.
    pub(super) fn of<A: Arguments>(handle: &Handle, asks: &Asks<'_>, args: &A) -> Option<Box<Self>> {
        let Ok(body) = serde_json::to_vec(args) else {
            // A result that is handed on as it came is in bincode: there is no other way to send it.
            handed_on::take_failure();
            return None;
        };
        Some(Box::new(Self {
            handle: handle.clone(),
            method: asks.method.into(),
            replica: asks.replica.into(),
            body,
            parent: current::exchange(),
            deadline_ns: handle.deadline(),
        }))
    }

    fn send(self) -> std::result::Result<Call, i32> {
        let asks = Asks { replica: &self.replica, ..Asks::to(&self.method) };
        self.handle.send(&asks, &self.body, self.parent.as_deref(), self.deadline_ns)
    }
}

impl Asked {
    fn wait(&mut self) -> std::result::Result<Reply<'_>, i32> {
        if self.lesson.is_some() {
            self.answered()?;
        }
        self.call.wait()
    }

    /// Its answer is there, or is waited for. True: it was made again, and that has to be waited for.
    fn answered(&mut self) -> std::result::Result<bool, i32> {
        let reply = self.call.wait()?;
        let (is_good, is_misread) = (reply.status == 200, reply.is_misread());
        let (Some(Lesson { key, in_json }), again) = (self.lesson.take(), self.again.take()) else {
            return Ok(false);
        };
        if in_json {
            if !is_good {
                remembered::MISREAD.remove(key);
            }
            return Ok(false);
        }
        if !is_misread {
            remembered::UNDERSTOOD.insert(key);
            return Ok(false);
        }
        remembered::UNDERSTOOD.remove(key);
        let Some(again) = again else { return Ok(false) };
        remembered::MISREAD.insert(key);
        self.call = again.send()?;
        Ok(true)
    }
}

impl PendingCall {
    pub(super) fn new(call: Call, callee: Callee, due_ns: u64) -> Self {
        Self { asked: Mutex::new(Asked { call, again: None, lesson: None }), callee, due_ns }
    }

    /// Its answer tells something, and it may have to be made once more.
    pub(super) fn learns(&mut self, lesson: Lesson, again: Option<Box<Again>>) {
        let asked = self.asked.get_mut().unwrap_or_else(|broken| broken.into_inner());
        (asked.lesson, asked.again) = (Some(lesson), again);
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// As [`Handle::call`].
    pub fn wait<R: DeserializeOwned>(mut self) -> Result<R> {
        let asked = self.asked.get_mut().unwrap_or_else(|broken| broken.into_inner());
        let reply = asked.wait().map_err(|status| self.callee.failed(status))?;
        result_of(&reply).map_err(|failure| match failure {
            // Both sides have a clock, and the callee's may be the first to be looked at.
            Failure::Callee(error) if is_withdrawn(&error) && clock::monotonic() >= self.due_ns => {
                self.callee.failed(status::DEADLINE)
            }
            Failure::Callee(error) => error,
            Failure::Result(why) => self.callee.misread::<R>(&why),
        })
    }

    /// [`wait`](Self::wait) without holding a thread.
    ///
    /// # Errors
    /// As [`Handle::call`].
    #[cfg(feature = "tokio")]
    pub async fn wait_async<R: DeserializeOwned>(mut self) -> Result<R> {
        self.ready_async().await?;
        self.wait()
    }

    /// Waits until the result is there, without holding a thread: [`wait`](Self::wait), and handing it on, then give it at
    /// once.
    ///
    /// # Errors
    /// Where there will be none; see [`Handle::call`].
    #[cfg(feature = "tokio")]
    pub async fn ready_async(&mut self) -> Result<()> {
        let asked = self.asked.get_mut().unwrap_or_else(|broken| broken.into_inner());
        let waited = async {
            ready(&mut asked.call).await?;
            if asked.lesson.is_some() {
                // It is there, so that this does not wait.
                if asked.answered()? {
                    ready(&mut asked.call).await?;
                }
            }
            Ok(())
        };
        waited.await.map_err(|status: i32| self.callee.failed(status))
    }

    /// Tells the callee that nobody waits.
    pub fn cancel(self) {
        self.lock().call.cancel();
    }

    pub(super) fn into_call(self) -> Call {
        self.asked.into_inner().unwrap_or_else(|broken| broken.into_inner()).call
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl Serialize for PendingCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut asked = self.lock();
        let reply = asked.wait().map_err(|status| handed_on::failed(self.callee.failed(status)))?;
        if reply.status != 200 {
            return Err(handed_on::failed(error_of(&reply)));
        }
        handed_on::write(&reply, serializer).map_err(|why| match why {
            handed_on::Why::Encoding => {
                let Callee { deployment, method } = &self.callee;
                let words = format_args!(
                    "the result of {deployment}.{method} and the call that it is handed to are encoded differently: start \
                     it through handle.json(), or wait for it first"
                );
                handed_on::failed(Error::unfit(Unfit::HandedOn, words))
            }
            handed_on::Why::Serializer(error) => error,
        })
    }
}

#[cfg(feature = "tokio")]
pub(super) async fn ready(call: &mut Call) -> std::result::Result<(), i32> {
    let place = HostWaker::new();
    std::future::poll_fn(|cx| call.poll_ready(&place, cx)).await
}

/// The callee's own error.
fn error_of(reply: &Reply<'_>) -> Error {
    of_callee(reply.status, reply.is_misread(), reply.body)
}

/// The callee has seen that nobody waits.
fn is_withdrawn(error: &Error) -> bool {
    error.code().is_some_and(|code| code.as_u16() == 499)
}

enum Failure {
    Callee(Error),
    Result(String),
}

fn result_of<R: DeserializeOwned>(reply: &Reply<'_>) -> std::result::Result<R, Failure> {
    if reply.status != 200 {
        return Err(Failure::Callee(error_of(reply)));
    }
    match reply.encoding {
        encoding::BINCODE => {
            codec::decode(reply.body).map_err(|error: CodecError| Failure::Result(error.to_string()))
        }
        encoding::JSON => crate::arguments::value_from_json(reply.body).map_err(Failure::Result),
        other => Err(Failure::Result(format!("it has encoding {other}"))),
    }
}
