//! Calls that the library makes to other deployments.

use decurion_abi::{Bytes, CallReply, Exchange, Header};
use decurion_api::DeploymentName;
use decurion_ipc::caller::{CallError, CallKey, NewCall, Outcome, Reply};

use crate::exchange::SendWaker;
use crate::slab::Key;
use crate::sys::clock::now_ns;
use crate::sys::runner::Runner;

/// How long the supervisor may take to say what a deployment is, where the call itself has no deadline.
const RESOLVE_MAX_NS: u64 = 10_000_000_000;

/// A call that the library holds by an opaque pointer.
#[derive(Debug)]
pub(crate) struct OpenCall {
    key: CallKey,
    parent: Option<Key>,
    reply: Reply,
    /// Points into `reply`.
    headers: Vec<Header>,
    taken: bool,
}

impl OpenCall {
    pub(crate) fn start(runner: &Runner, call: NewCall, parent: *mut Exchange) -> Result<Self, CallError> {
        let parent = (!parent.is_null()).then(|| Key::from_opaque(parent));
        let key = runner.nudge(|engine| {
            let now = now_ns();
            if parent.is_some_and(|parent| engine.is_cancelled(parent, now)) {
                return Err(CallError::Cancelled);
            }
            engine.calls.start(call, now)
        })?;
        Ok(Self { key, parent, reply: Reply::default(), headers: Vec::new(), taken: false })
    }

    /// Waits until something became of the call; with a waker, looks once.
    pub(crate) fn wait(&mut self, runner: &Runner, waker: Option<SendWaker>) -> Outcome {
        if self.taken {
            return Outcome::Ready;
        }
        let (key, parent) = (self.key, self.parent);
        let look = |engine: &mut crate::engine::Engine, now: u64| {
            if parent.is_some_and(|parent| engine.is_cancelled(parent, now)) {
                engine.calls.cancel(key);
            }
            match engine.calls.outcome(key) {
                Outcome::Pending => None,
                done => Some(done),
            }
        };
        let outcome = match waker {
            None => runner.wait(0, look),
            Some(waker) => runner.nudge(|engine| {
                let now = now_ns();
                engine.poll(now);
                let done = look(engine, now);
                if done.is_none() {
                    engine.wake_on(key, waker);
                }
                done
            }),
        };
        let outcome = outcome.unwrap_or(Outcome::Pending);
        if outcome == Outcome::Ready {
            self.taken = true;
            self.reply = runner.with(|engine| engine.calls.take_reply(key)).unwrap_or_default();
            self.headers = (self.reply.headers.iter())
                .map(|(name, value)| Header {
                    name: Bytes::from_slice(name),
                    value: Bytes::from_slice(value),
                })
                .collect();
        }
        outcome
    }

    /// The reply in the ABI's form; valid until the call is freed.
    pub(crate) fn reply(&self) -> CallReply {
        CallReply {
            size: u32::try_from(size_of::<CallReply>()).unwrap_or(u32::MAX),
            status: u32::from(self.reply.status),
            encoding: self.reply.encoding,
            flags: 0,
            headers: self.headers.as_ptr(),
            header_count: self.headers.len(),
            body: Bytes::from_slice(&self.reply.body),
        }
    }

    /// Reads from the reply as it streams in; `None`: nothing there yet (only with a waker).
    pub(crate) fn read(
        &mut self,
        runner: &Runner,
        buffer: &mut [u8],
        waker: Option<SendWaker>,
    ) -> Result<Option<usize>, CallError> {
        let key = self.key;
        match waker {
            None => runner.wait(0, |engine, _| engine.calls.read(key, buffer).transpose()).transpose(),
            Some(waker) => runner.nudge(|engine| {
                engine.poll(now_ns());
                let read = engine.calls.read(key, buffer);
                if matches!(read, Ok(None)) {
                    engine.wake_on(key, waker);
                }
                read
            }),
        }
    }

    pub(crate) fn cancel(&self, runner: &Runner) {
        runner.with(|engine| engine.calls.cancel(self.key));
    }

    pub(crate) fn free(self, runner: &Runner) {
        runner.with(|engine| engine.calls.free(self.key));
    }
}

/// The encodings that a deployment's methods take.
pub(crate) fn find(runner: &Runner, deployment: &DeploymentName) -> Result<u32, CallError> {
    runner.nudge(|engine| engine.calls.resolve(deployment));
    let deadline = now_ns() + RESOLVE_MAX_NS;
    let found = runner.wait(deadline, |engine, _| {
        engine.calls.find(deployment).map(|view| view.map(|view| view.encodings)).transpose()
    });
    found.unwrap_or(Err(CallError::Deadline))
}
