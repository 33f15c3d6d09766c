//! Calls to other deployments, as the library holds them: by keys that are never reused.

use decurion_abi::{Bytes, CallReply, Header};
use decurion_ipc::caller::{CallError, CallKey, NewCall, Outcome, Reply};

use super::Engine;
use crate::exchange::SendWaker;
use crate::slab::Key;

/// A call that the library has not freed.
#[derive(Debug)]
pub(crate) struct HeldCall {
    key: CallKey,
    /// The exchange that it was made for.
    parent: Option<Key>,
    reply: Option<ReplyView>,
}

/// What became of a call.
#[derive(Debug)]
#[must_use]
pub(crate) enum CallState {
    /// Nothing yet.
    Pending,
    /// The reply, whose pointers hold until the call is freed.
    Ready(CallReply),
    /// There will be none.
    Failed(CallError),
    /// No such call.
    Invalid,
}

/// A whole reply and its header fields in the ABI's form, which point into what it has on the heap: it may be moved.
#[derive(Debug)]
struct ReplyView {
    reply: Reply,
    headers: Vec<Header>,
}

// SAFETY: the pointers lead into this value's own heap memory, which is never written again.
#[expect(unsafe_code, reason = "a self-referential view of immutable bytes")]
unsafe impl Send for ReplyView {}

impl ReplyView {
    fn new(reply: Reply) -> Self {
        let field = |(name, value): &(Vec<u8>, Vec<u8>)| Header {
            name: Bytes::from_slice(name),
            value: Bytes::from_slice(value),
        };
        let headers = reply.headers.iter().map(field).collect();
        Self { reply, headers }
    }

    fn lend(&self) -> CallReply {
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
}

impl Engine {
    /// Starts a call, for an exchange that is in use or for none. When that is cancelled, so is the call. Its id, epoch,
    /// deadline and, unless the call has its own, its trace travel along.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) fn start_call(
        &mut self,
        call: NewCall<'_>,
        parent: Option<Key>,
        now_ns: u64,
    ) -> Result<Key, CallError> {
        if parent.is_some_and(|parent| self.is_cancelled(parent, now_ns)) {
            return Err(CallError::Cancelled);
        }
        let mut call = NewCall { ..call };
        if let Some(exchange) = parent.and_then(|parent| self.exchanges.get(parent)) {
            let deadlines = [call.deadline_ns, exchange.deadline_ns()];
            call.deadline_ns = deadlines.into_iter().filter(|at| *at != 0).min().unwrap_or(0);
            call.id = exchange.view.id();
            call.epoch = Some(exchange.view.epoch());
            if call.traceparent.is_empty() {
                call.traceparent = exchange.view.traceparent();
            }
        }
        let key = self.calls.start(call, now_ns)?;
        let held = self.held_calls.insert(HeldCall { key, parent, reply: None });
        if let Some(parent) = parent.and_then(|parent| self.exchanges.get_mut(parent)) {
            parent.calls.push(held);
        }
        Ok(held)
    }

    /// What became of a call.
    pub(crate) fn call_state(&mut self, call: Key) -> CallState {
        let Some(held) = self.held_calls.get_mut(call) else { return CallState::Invalid };
        if let Some(reply) = &held.reply {
            return CallState::Ready(reply.lend());
        }
        match self.calls.outcome(held.key) {
            Outcome::Pending => CallState::Pending,
            Outcome::Failed(error) => CallState::Failed(error),
            Outcome::Ready => {
                let reply = ReplyView::new(self.calls.take_reply(held.key).unwrap_or_default());
                CallState::Ready(held.reply.insert(reply).lend())
            }
        }
    }

    /// The head of a reply that is then read as it streams in: it has no body here.
    pub(crate) fn call_head(&mut self, call: Key) -> CallState {
        let Some(held) = self.held_calls.get_mut(call) else { return CallState::Invalid };
        let view = match held.reply.take() {
            Some(view) => view,
            None => {
                self.calls.stream(held.key);
                match self.calls.head(held.key) {
                    Ok(None) => return CallState::Pending,
                    Err(error) => return CallState::Failed(error),
                    Ok(Some(reply)) => {
                        let (status, encoding) = (reply.status, reply.encoding);
                        ReplyView::new(Reply {
                            status,
                            encoding,
                            headers: reply.headers.clone(),
                            body: Vec::new(),
                        })
                    }
                }
            }
        };
        CallState::Ready(held.reply.insert(view).lend())
    }

    /// Reads from a reply as it streams in: how many bytes, 0 at its end; `Pending` where none is there yet.
    ///
    /// # Errors
    /// What became of the call instead.
    pub(crate) fn read_call(&mut self, call: Key, buffer: &mut [u8]) -> Result<usize, CallState> {
        let Some(held) = self.held_calls.get(call) else { return Err(CallState::Invalid) };
        match self.calls.read(held.key, buffer) {
            Ok(Some(count)) => Ok(count),
            Ok(None) => Err(CallState::Pending),
            Err(error) => Err(CallState::Failed(error)),
        }
    }

    /// Calls `waker` once something became of a call.
    pub(crate) fn wake_on_call(&mut self, call: Key, waker: SendWaker) {
        if let Some(held) = self.held_calls.get(call) {
            self.calls.watch(held.key);
            self.call_wakers.insert(held.key, waker);
        }
    }

    /// Nobody waits for a call any more; it still has to be freed.
    pub(crate) fn cancel_call(&mut self, call: Key) {
        if let Some(held) = self.held_calls.get(call) {
            self.calls.cancel(held.key);
            self.messages.wakers.extend(self.call_wakers.remove(&held.key));
            self.news = true;
        }
    }

    /// Forgets a call, cancelling it where it still runs.
    pub(crate) fn free_call(&mut self, call: Key) {
        let Some(held) = self.held_calls.remove(call) else { return };
        self.calls.free(held.key);
        self.messages.wakers.extend(self.call_wakers.remove(&held.key));
        if let Some(parent) = held.parent.and_then(|parent| self.exchanges.get_mut(parent)) {
            parent.calls.retain(|key| *key != call);
        }
    }
}
