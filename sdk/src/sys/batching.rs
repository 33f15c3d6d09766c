//! The threads of batches: a handler thread that brings the last member of a full batch runs it, and one thread for each
//! batched entry runs those whose time has come. No member holds a thread while it waits.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::Instant;

use super::export::{contain, fail_call, fail_http, respond, respond_call};
use super::host::Exchange;
use super::waking::HostWaker;
use crate::batch::{Batch, Limits, Next, Queue};
use crate::batched::{Answers, BatchEntry, Batched, Brought, Member, Outcome, Started};
use crate::class::{Invocation, current};
use crate::metrics::own;
use crate::response::Response;
#[cfg(feature = "tokio")]
use crate::runtime;
use crate::{Error, Result};

/// The batches of one entry of one instance.
pub(crate) struct Batching<T> {
    shared: Arc<Shared<T>>,
    thread: OnceLock<Option<JoinHandle<()>>>,
    /// As declared, for this replica.
    pub(crate) declared: Limits,
    /// The entry's name.
    pub(crate) name: &'static str,
}

struct Shared<T> {
    /// The entry's.
    name: &'static str,
    instance: *const T,
    batch: Box<dyn Batched<T>>,
    state: Mutex<State>,
    changed: Condvar,
    fail: fn(&Exchange, &Error),
}

// SAFETY: the instance may be used from any thread (a batched entry is shared, which asks for `T: Sync`), and is only
// used while a member is open, until when the host keeps it.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

struct State {
    queue: Queue<Member>,
    /// When the thread looks by itself; `None`: only when it is told to.
    looks_at: Option<Instant>,
    /// A member that waits may have left.
    left: bool,
    stopped: bool,
}

impl<T: 'static> Wake for Shared<T> {
    fn wake(self: Arc<Self>) {
        self.lock().left = true;
        self.changed.notify_all();
    }
}

impl<T: 'static> Batching<T> {
    /// For an instance that outlives all members.
    pub(crate) fn new(entry: &BatchEntry<T>, instance: *const T) -> Self {
        let threads = usize::try_from(crate::context().threads).unwrap_or(1).max(1);
        let declared = Limits::of(&entry.declared, threads);
        let state = State { queue: Queue::new(declared), looks_at: None, left: false, stopped: false };
        let name = entry.declared.name;
        let shared = Shared {
            name,
            instance,
            batch: entry.make(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            fail: if name == "call" { fail_http } else { fail_call },
        };
        Self { shared: Arc::new(shared), thread: OnceLock::new(), declared, name }
    }

    /// Takes new limits.
    pub(crate) fn set(&self, limits: Limits) {
        self.shared.lock().queue.set(limits);
        self.shared.changed.notify_all();
    }

    /// One more member; runs the batch that it completes.
    pub(crate) fn join(&self, exchange: Arc<Exchange>) {
        let brought = contain(|| self.shared.batch.read(Invocation::new(Arc::clone(&exchange))));
        match brought {
            Ok(brought) => self.add(exchange, brought),
            Err(error) => (self.shared.fail)(&exchange, &error),
        }
    }

    fn add(&self, exchange: Arc<Exchange>, brought: Brought) {
        let place = HostWaker::new();
        let leaves = place.listen(&Waker::from(Arc::clone(&self.shared)));
        let member = Member { exchange: Arc::clone(&exchange), brought, _place: place };
        let (mut dropped, mut state) = (Vec::new(), self.shared.lock());
        state.queue.add(member, Instant::now());
        let full = state.queue.full(is_gone, &mut dropped);
        self.shared.note_waiting(&state);
        // The thread is told of what is due before it looks by itself.
        let due = state.queue.due();
        let is_told = due.is_some_and(|due| state.looks_at.is_none_or(|looks_at| due < looks_at));
        drop(state);
        self.shared.dismiss(dropped);
        match full {
            Some(batch) => self.shared.run(batch),
            // Now that it waits: one that has left already is noticed at once.
            None => _ = exchange.on_cancel(&leaves),
        }
        if is_told {
            self.wake_thread();
        }
    }

    fn wake_thread(&self) {
        let thread = self.thread.get_or_init(|| {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name(format!("batch {}", self.name));
            thread.spawn(move || shared.look_after()).ok()
        });
        if thread.is_some() {
            self.shared.changed.notify_all();
            return;
        }
        // No thread can be had: nobody may wait for one.
        self.shared.run_due();
    }
}

impl<T> Drop for Batching<T> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        // Its own thread may be the one that lets go of the instance.
        let thread = self.thread.take().flatten();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl<T: 'static> Shared<T> {
    /// The thread's life.
    fn look_after(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.stopped {
            let mut dropped = Vec::new();
            if std::mem::take(&mut state.left) {
                state.queue.drop_gone(is_gone, &mut dropped);
            }
            let next = state.queue.next(Instant::now(), is_gone, &mut dropped);
            if matches!(next, Next::Run(_)) || !dropped.is_empty() {
                self.note_waiting(&state);
            }
            state = match next {
                Next::Run(batch) => {
                    drop(state);
                    self.dismiss(dropped);
                    self.run(batch);
                    self.lock()
                }
                Next::At(_) | Next::Later if !dropped.is_empty() => {
                    drop(state);
                    self.dismiss(dropped);
                    self.lock()
                }
                Next::At(due) => {
                    state.looks_at = Some(due);
                    let left = due.saturating_duration_since(Instant::now());
                    let (mut state, _) =
                        self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                    state.looks_at = None;
                    state
                }
                Next::Later => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Runs what waits without regard to time.
    fn run_due(self: &Arc<Self>) {
        let (mut dropped, mut state) = (Vec::new(), self.lock());
        let due = state.queue.due().unwrap_or_else(Instant::now);
        let next = state.queue.next(due, is_gone, &mut dropped);
        self.note_waiting(&state);
        drop(state);
        self.dismiss(dropped);
        if let Next::Run(batch) = next {
            self.run(batch);
        }
    }

    /// Under the queue's lock: what is told last is what holds.
    fn note_waiting(&self, state: &State) {
        own::batch_waiting(self.name, state.queue.waiting());
    }

    fn run(self: &Arc<Self>, batch: Batch<Member>) {
        let Batch { members, cause, since } = batch;
        own::batch_runs(self.name, members.len(), cause, since.elapsed());
        let split = |member: Member| (member.exchange, member.brought);
        let (exchanges, brought): (Vec<Arc<Exchange>>, Vec<Brought>) = members.into_iter().map(split).unzip();
        // What a batch calls is called for all of its members, so on behalf of none.
        let nobody = current::leave();
        // SAFETY: members are open until `conclude`, and as long the host keeps the instance, with no exclusive entry
        // beside it.
        let this: &T = unsafe { &*self.instance };
        let started = contain(|| Ok(self.batch.start(this, brought)));
        drop(nobody);
        match started {
            Ok(Started::Done(answers)) => {
                self.conclude(&exchanges, answers, &mut |exchange, response| respond(exchange, response));
                self.finished();
            }
            #[cfg(feature = "tokio")]
            Ok(Started::Later(future)) => self.run_later(exchanges, future),
            #[cfg(not(feature = "tokio"))]
            Ok(Started::Never(_, never)) => match never {},
            Err(error) => {
                self.conclude(&exchanges, Err(error), &mut |_, _| {});
                self.finished();
            }
        }
    }

    #[cfg(feature = "tokio")]
    fn run_later(
        self: &Arc<Self>,
        exchanges: Vec<Arc<Exchange>>,
        future: crate::class::Pending<'static, Answers>,
    ) {
        let shared = Arc::clone(self);
        runtime::spawn_batch(async move {
            let concluded = Concluded(&shared);
            let answers = runtime::watched_by_all(&exchanges, future).await;
            let mut http = Vec::new();
            shared.conclude(&exchanges, answers, &mut |exchange, response| {
                http.push((Arc::clone(exchange), response));
            });
            for (exchange, response) in http {
                if let Err(error) = runtime::respond(&exchange, response).await {
                    fail_http(&exchange, &error);
                }
            }
            drop(concluded);
        });
    }

    /// Gives each member what came of the batch.
    fn conclude(
        &self,
        exchanges: &[Arc<Exchange>],
        answers: Answers,
        answer_http: &mut dyn FnMut(&Arc<Exchange>, Response),
    ) {
        let outcomes = match answers {
            Ok(outcomes) => outcomes,
            Err(error) => {
                return exchanges.iter().for_each(|exchange| (self.fail)(exchange, &error));
            }
        };
        for (exchange, outcome) in exchanges.iter().zip(outcomes) {
            let failed = match outcome {
                Ok(Outcome::Call(result)) => respond_call(exchange, &result).err(),
                Ok(Outcome::Http(response)) => {
                    answer_http(exchange, response);
                    None
                }
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                (self.fail)(exchange, &error);
            }
        }
    }

    fn dismiss(&self, dropped: Vec<Member>) {
        for member in dropped {
            (self.fail)(&member.exchange, &Error::status(499, "nobody waits for the answer any more"));
        }
    }
}

impl<T> Shared<T> {
    fn finished(&self) {
        let mut state = self.lock();
        state.queue.finished();
        let waits = state.queue.due().is_some();
        drop(state);
        if waits {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a batch has finished, however its task ended.
#[cfg(feature = "tokio")]
struct Concluded<'a, T>(&'a Shared<T>);

#[cfg(feature = "tokio")]
impl<T> Drop for Concluded<'_, T> {
    fn drop(&mut self) {
        self.0.finished();
    }
}

fn is_gone(member: &Member) -> bool {
    member.exchange.is_cancelled()
}

/// The batches of an instance, by the order of its class's entries.
pub(crate) fn of<T: 'static>(entries: &[BatchEntry<T>], instance: *const T) -> Vec<Batching<T>> {
    entries.iter().map(|entry| Batching::new(entry, instance)).collect()
}

/// Takes the limits of batches out of a `user_config`; what is left is for the author.
pub(crate) fn split_config<T>(
    batches: &[Batching<T>],
    config: &[u8],
) -> Result<(Vec<Limits>, serde_json::Value)> {
    let declared: Vec<_> = batches.iter().map(|batch| (batch.name, batch.declared)).collect();
    crate::batch::split_config(config, &declared)
        .map_err(|why| Error::msg(format_args!("user_config does not fit: {why}")))
}
