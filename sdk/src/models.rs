//! Models by id, kept as long as there is room: what a multiplexed deployment holds.

mod shelf;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shelf::{Found, Shelf};

#[cfg(feature = "tokio")]
use crate::class::Pending;
use crate::class::current;
use crate::metrics::own;
use crate::request::Request;
#[cfg(feature = "tokio")]
use crate::runtime;
use crate::sys::clock;
use crate::sys::export::contain;
use crate::sys::host;
use crate::{Error, Result};

/// Models of one deployment by their id: loads one when it is first asked for, keeps at most so many, and lets go of the
/// one that was used longest ago. Cheap to clone; clones hold the same models.
///
/// ```
/// # mod example {
/// use decurion::Models;
/// use decurion::prelude::*;
///
/// pub struct Translator { models: Models<String> }
///
/// #[deployment]
/// impl Translator {
///     fn new(max_num_models_per_replica: usize) -> Self {
///         Self { models: Models::new(max_num_models_per_replica, |id| Ok(format!("the model {id}"))) }
///     }
///
///     fn call(&self, req: Request) -> Result<String> {
///         let model = self.models.of(&req)?; // the header serve_multiplexed_model_id
///         Ok(format!("{model} says: {}", req.text()?))
///     }
/// }
/// # }
/// ```
///
/// - Whoever asks for a model that is being loaded waits for that: it is loaded once. An error goes to all who wait for it,
///   and the next one who asks has it loaded again.
/// - What is let go of is dropped before another is loaded in its place, or, where it is in use, by its last user.
/// - The replica publishes what it holds: requests for a model go to a replica that has it, while that has room.
pub struct Models<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    number: u64,
    load: Load<T>,
    shelf: Mutex<Shelf<T>>,
    /// A model was loaded, or could not be.
    changed: Condvar,
    #[cfg(feature = "tokio")]
    changed_async: tokio::sync::Notify,
}

type LoadNow<T> = dyn Fn(&str) -> Result<T> + Send + Sync;
#[cfg(feature = "tokio")]
type LoadLater<T> = dyn Fn(String) -> Pending<'static, Result<T>> + Send + Sync;

enum Load<T> {
    Now(Box<LoadNow<T>>),
    #[cfg(feature = "tokio")]
    Later(Box<LoadLater<T>>),
}

impl<T: Send + Sync + 'static> Models<T> {
    /// At most `max_num_models_per_replica` models, which `load` makes from their ids.
    pub fn new(
        max_num_models_per_replica: usize,
        load: impl Fn(&str) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        Self::made(max_num_models_per_replica, Load::Now(Box::new(load)))
    }

    /// The same with an async `load`. A model goes on being loaded where the one who asked for it leaves.
    #[cfg(feature = "tokio")]
    pub fn new_async<F: Future<Output = Result<T>> + Send + 'static>(
        max_num_models_per_replica: usize,
        load: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self {
        let load = move |id| -> Pending<'static, Result<T>> { Box::pin(load(id)) };
        Self::made(max_num_models_per_replica, Load::Later(Box::new(load)))
    }

    fn made(max: usize, load: Load<T>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let inner = Inner {
            number,
            load,
            shelf: Mutex::new(Shelf::new(max)),
            changed: Condvar::new(),
            #[cfg(feature = "tokio")]
            changed_async: tokio::sync::Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The model that a request asks for.
    ///
    /// # Errors
    /// 400 where it asks for none; what `load` fails with.
    pub fn of(&self, request: &Request) -> Result<Arc<T>> {
        self.get(request.model_id().ok_or_else(no_model)?)
    }

    /// The model that the running request or call asks for.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn current(&self) -> Result<Arc<T>> {
        self.get(&model_id().ok_or_else(no_model)?)
    }

    /// The model of this id.
    ///
    /// # Errors
    /// What `load` fails with.
    pub fn get(&self, id: &str) -> Result<Arc<T>> {
        let mut shelf = self.inner.lock();
        let mut asked = Asked::default();
        loop {
            let found = shelf.find(id);
            asked.note(&found);
            match found {
                Found::Held(model) => return Ok(model),
                Found::Failed(failure) => return Err(failure),
                Found::Wait(ticket) => {
                    shelf = self.inner.changed.wait(shelf).unwrap_or_else(PoisonError::into_inner);
                    shelf.look_again(ticket);
                }
                Found::Load { dropped } => {
                    drop(shelf);
                    self.inner.publish();
                    drop(dropped);
                    return self.load_now(id);
                }
            }
        }
    }

    fn load_now(&self, id: &str) -> Result<Arc<T>> {
        let began_ns = clock::monotonic();
        let made = contain(|| match &self.inner.load {
            Load::Now(load) => load(id),
            #[cfg(feature = "tokio")]
            Load::Later(load) => runtime::block_on(load(id.to_owned())),
        });
        self.inner.loaded(id, made, began_ns)
    }

    /// [`of`](Self::of), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    #[cfg(feature = "tokio")]
    pub async fn of_async(&self, request: &Request) -> Result<Arc<T>> {
        self.get_async(request.model_id().ok_or_else(no_model)?).await
    }

    /// [`get`](Self::get), waiting without holding a thread.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    #[cfg(feature = "tokio")]
    pub async fn get_async(&self, id: &str) -> Result<Arc<T>> {
        let (mut ticket, mut asked) = (None, Asked::default());
        loop {
            // From here on no change is missed.
            let changed = self.inner.changed_async.notified();
            let found = {
                let mut shelf = self.inner.lock();
                ticket.take().into_iter().for_each(|ticket| shelf.look_again(ticket));
                shelf.find(id)
            };
            asked.note(&found);
            match found {
                Found::Held(model) => return Ok(model),
                Found::Failed(failure) => return Err(failure),
                Found::Wait(waits) => {
                    changed.await;
                    ticket = Some(waits);
                }
                Found::Load { dropped } => {
                    self.inner.publish();
                    drop(dropped);
                    return self.load_later(id.to_owned()).await;
                }
            }
        }
    }

    /// In a task of its own: others wait for the same model, whatever becomes of this one.
    #[cfg(feature = "tokio")]
    async fn load_later(&self, id: String) -> Result<Arc<T>> {
        let models = self.clone();
        let began_ns = clock::monotonic();
        let loading = Loading { inner: Arc::clone(&self.inner), id: Some(id.clone()), began_ns };
        let task = match &self.inner.load {
            Load::Now(_) => tokio::task::spawn_blocking(move || loading.done(|id| models.load_now(id))),
            Load::Later(load) => {
                let made = contain(|| Ok(load(id)));
                tokio::spawn(async move {
                    let made = match made {
                        Ok(future) => runtime::contained(future).await,
                        Err(error) => Err(error),
                    };
                    loading.done(|id| models.inner.loaded(id, made, began_ns))
                })
            }
        };
        task.await.unwrap_or_else(|error| Err(error.into()))
    }

    /// Ids of the models that are held or being loaded, the one that was used longest ago first.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        self.inner.lock().ids()
    }

    /// Keeps at most so many from now on; those beyond go when the next one comes.
    pub fn set_max(&self, max_num_models_per_replica: usize) {
        self.inner.lock().set_max(max_num_models_per_replica);
        self.inner.wake();
    }
}

impl<T> Inner<T> {
    fn loaded(&self, id: &str, made: Result<T>, began_ns: u64) -> Result<Arc<T>> {
        let took = Duration::from_nanos(clock::monotonic().saturating_sub(began_ns));
        own::model_loaded(made.is_ok(), took);
        let outcome = self.lock().loaded(id, made);
        self.publish();
        self.wake();
        outcome
    }

    fn wake(&self) {
        self.changed.notify_all();
        #[cfg(feature = "tokio")]
        self.changed_async.notify_waiters();
    }

    /// Tells the host what all of this library hold.
    fn publish(&self) {
        publish(self.number, || self.lock().ids());
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<T>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        publish(self.number, Vec::new);
    }
}

/// Somebody asks for a model: noted once, however often it has to look.
#[derive(Default)]
struct Asked {
    noted: bool,
}

impl Asked {
    fn note<T>(&mut self, found: &Found<T>) {
        if !std::mem::replace(&mut self.noted, true) {
            own::model_looked_up(matches!(found, Found::Held(_)));
        }
        if let Found::Load { dropped } = found {
            own::models_evicted(dropped.len());
        }
    }
}

/// What every [`Models`] of this library holds, told as one.
fn publish(number: u64, ids: impl FnOnce() -> Vec<String>) {
    static HELD: Mutex<BTreeMap<u64, Vec<String>>> = Mutex::new(BTreeMap::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    // Looked at and told under the lock: what is told last is what holds.
    let ids = ids();
    if ids.is_empty() {
        held.remove(&number);
    } else {
        held.insert(number, ids);
    }
    own::models_held(held.values().map(Vec::len).sum());
    host::models_hold(held.values().flatten().map(String::as_str));
}

/// A load under way: one that ends without a word has failed.
#[cfg(feature = "tokio")]
struct Loading<T> {
    inner: Arc<Inner<T>>,
    id: Option<String>,
    began_ns: u64,
}

#[cfg(feature = "tokio")]
impl<T> Loading<T> {
    fn done(mut self, end: impl FnOnce(&str) -> Result<Arc<T>>) -> Result<Arc<T>> {
        let id = self.id.take().unwrap_or_default();
        end(&id)
    }
}

#[cfg(feature = "tokio")]
impl<T> Drop for Loading<T> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let given_up = Err(Error::msg("the loading of the model was given up"));
            let _ = self.inner.loaded(&id, given_up, self.began_ns);
        }
    }
}

impl<T> Clone for Models<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T> fmt::Debug for Models<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = std::panic::catch_unwind(AssertUnwindSafe(|| self.inner.lock().ids()));
        f.debug_tuple("Models").field(&ids.unwrap_or_default()).finish()
    }
}

/// The model that the running request or call asks for.
#[must_use]
pub fn model_id() -> Option<String> {
    current::exchange()?.head().model_id().map(str::to_owned)
}

fn no_model() -> Error {
    Error::status(
        400,
        "the request names no model: HTTP has the header serve_multiplexed_model_id, a handle `with_model_id`",
    )
}
