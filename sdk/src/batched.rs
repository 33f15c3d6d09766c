//! Batched entries as typed functions, behind a face without their types: what `#[batch]` makes of a method or `call`.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::batch::Declared;
#[cfg(feature = "tokio")]
use crate::class::Pending;
use crate::class::{Invocation, MethodCall, MethodResult};
use crate::response::{IntoResponse, Response};
use crate::sys::host::Exchange;
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// A method, or `call`, whose calls run together.
pub struct BatchEntry<T> {
    /// As its author declared it.
    pub(crate) declared: Declared,
    make: fn() -> Box<dyn Batched<T>>,
}

impl<T> BatchEntry<T> {
    /// An entry, from what makes its typed side.
    pub const fn new(declared: Declared, make: fn() -> Box<dyn Batched<T>>) -> Self {
        Self { declared, make }
    }

    pub(crate) fn make(&self) -> Box<dyn Batched<T>> {
        (self.make)()
    }
}

impl<T> fmt::Debug for BatchEntry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BatchEntry").field(&self.declared).finish()
    }
}

/// What one member brought: its argument, and what its answer has to be written by.
#[derive(Debug)]
pub struct Brought(Box<dyn Any + Send>);

/// What one member gets.
#[derive(Debug)]
pub enum Outcome {
    /// As a call's result.
    Call(MethodResult),
    /// As an HTTP answer.
    Http(Response),
}

/// What comes of a batch: one outcome for each member, or one error for all.
pub(crate) type Answers = Result<Vec<Result<Outcome>>>;

/// A batch that was started.
pub enum Started<'a> {
    /// It has run.
    Done(Answers),
    /// It runs as this future.
    #[cfg(feature = "tokio")]
    Later(Pending<'a, Answers>),
    #[cfg(not(feature = "tokio"))]
    #[doc(hidden)]
    Never(std::marker::PhantomData<&'a ()>, std::convert::Infallible),
}

impl fmt::Debug for Started<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Started")
    }
}

/// A batched entry without its types.
pub trait Batched<T>: Send + Sync {
    #[doc(hidden)]
    fn read(&self, exchange: Invocation) -> Result<Brought>;
    #[doc(hidden)]
    fn start<'a>(&self, this: &'a T, brought: Vec<Brought>) -> Started<'a>;
}

/// How a batch runs: `V` is what each member brings, `C` what its answer is written by.
enum Run<T, V, C> {
    Now(fn(&T, Vec<V>, Vec<C>) -> Answers),
    #[cfg(feature = "tokio")]
    Later(for<'a> fn(&'a T, Vec<V>, Vec<C>) -> Pending<'a, Answers>),
}

struct Typed<T, V, C> {
    read: fn(Invocation) -> Result<(V, C)>,
    run: Run<T, V, C>,
}

impl<T: Sync + 'static, V: Send + 'static, C: Send + 'static> Batched<T> for Typed<T, V, C> {
    fn read(&self, exchange: Invocation) -> Result<Brought> {
        (self.read)(exchange).map(|brought| Brought(Box::new(brought)))
    }

    fn start<'a>(&self, this: &'a T, brought: Vec<Brought>) -> Started<'a> {
        let typed = brought.into_iter().filter_map(|Brought(any)| any.downcast::<(V, C)>().ok());
        let (values, writers) = typed.map(|pair| *pair).unzip();
        match &self.run {
            Run::Now(run) => Started::Done(run(this, values, writers)),
            #[cfg(feature = "tokio")]
            Run::Later(run) => Started::Later(run(this, values, writers)),
        }
    }
}

/// The typed side of an entry that runs at once.
pub fn batched<T: Sync + 'static, V: Send + 'static, C: Send + 'static>(
    read: fn(Invocation) -> Result<(V, C)>,
    run: fn(&T, Vec<V>, Vec<C>) -> Answers,
) -> Box<dyn Batched<T>> {
    Box::new(Typed { read, run: Run::Now(run) })
}

/// The typed side of an async entry.
#[cfg(feature = "tokio")]
pub fn batched_async<T: Sync + 'static, V: Send + 'static, C: Send + 'static>(
    read: fn(Invocation) -> Result<(V, C)>,
    run: for<'a> fn(&'a T, Vec<V>, Vec<C>) -> Pending<'a, Answers>,
) -> Box<dyn Batched<T>> {
    Box::new(Typed { read, run: Run::Later(run) })
}

/// Hands each member its own result.
///
/// # Errors
/// Where there is not one for each: then nobody knows whose is whose.
pub fn answers<C, R>(
    name: &str,
    writers: Vec<C>,
    results: Vec<R>,
    write: impl Fn(&C, R) -> Result<Outcome>,
) -> Answers {
    if writers.len() != results.len() {
        return Err(Error::msg(format_args!(
            "{name} was given {} and returned {}: a batch's results are one for each, in their order",
            writers.len(),
            results.len()
        )));
    }
    Ok(writers.iter().zip(results).map(|(writer, result)| write(writer, result)).collect())
}

impl Outcome {
    /// A method's result, in its caller's encoding.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn result<R: Serialize>(call: &MethodCall, result: &R) -> Result<Self> {
        call.result(result).map(Outcome::Call)
    }

    /// An answer to HTTP.
    ///
    /// # Errors
    /// What is answered as an error instead.
    pub fn response(answer: impl IntoResponse) -> Result<Self> {
        answer.into_response().map(Outcome::Http)
    }
}

/// One who waits for a batch.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) brought: Brought,
    /// Where it hears that it need not wait any more.
    pub(crate) _place: HostWaker,
}
