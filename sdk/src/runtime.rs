//! Async entries: their futures, and the library's own tokio runtime. An entry that the host calls has its future polled
//! at once, on the host's thread; one that is not ready then answers later, from wherever it is [woken](task).

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};

use crate::class::{MethodResult, Pending, current};
use crate::response::{Body, Response};
use crate::stream_async::AsyncBodyWriter;
use crate::sys::export::{
    contain, fail_call, fail_http, panicked, respond_call, respond_streamed, respond_whole,
};
use crate::sys::host::Exchange;
use crate::sys::task;
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// Lives as long as the process, as the library does. With as many workers as the replica has handler threads.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let workers = usize::try_from(crate::context().threads).unwrap_or(1).max(1);
        let mut builder = Builder::new_multi_thread();
        let built = builder.worker_threads(workers).thread_name("decurion-async").enable_all().build();
        // Runs inside an entry, which contains it.
        built.unwrap_or_else(|error| panic!("can't start the async runtime: {error}"))
    })
}

/// Runs a future of a part of the life cycle, while the host waits.
pub fn block_on<R>(future: impl Future<Output = R>) -> R {
    runtime().block_on(future)
}

/// Answers an HTTP exchange with what comes of `future`.
pub(crate) fn call(exchange: Arc<Exchange>, future: Pending<'static, Result<Response>>) {
    spawn(exchange, fail_http, |exchange| async move {
        let response = watched(&exchange, future).await?;
        respond(&exchange, response).await
    });
}

/// Answers a method call with what comes of `future`.
pub(crate) fn invoke(exchange: Arc<Exchange>, future: Pending<'static, Result<MethodResult>>) {
    spawn(exchange, fail_call, |exchange| async move {
        let result = watched(&exchange, future).await?;
        match result.stream {
            Some(stream) => respond(&exchange, *stream).await,
            None => respond_call(&exchange, &result),
        }
    });
}

/// A future whose panic is an error.
pub(crate) async fn contained<R>(mut future: Pending<'static, Result<R>>) -> Result<R> {
    poll_fn(|cx| {
        catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)))
            .unwrap_or_else(|payload| Poll::Ready(Err(panicked(payload))))
    })
    .await
}

/// Runs a batch's task.
pub(crate) fn spawn_batch(task: impl Future<Output = ()> + Send + 'static) {
    // Where it fails, what was moved into it is dropped.
    let _ = contain(|| {
        runtime().spawn(task);
        Ok(())
    });
}

fn spawn<F>(exchange: Arc<Exchange>, fail: fn(&Exchange, &Error), answer: impl FnOnce(Arc<Exchange>) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let answering = Answering { exchange: Arc::clone(&exchange), fail };
    let answer = answer(exchange);
    let answered = async move {
        let answering = answering;
        if let Err(error) = answer.await {
            fail(&answering.exchange, &error);
        }
    };
    // Where it fails, what was moved into it is dropped, and fails the exchange.
    let _ = contain(|| {
        task::run(answered);
        Ok(())
    });
}

/// Ends the exchange where nothing else has.
struct Answering {
    exchange: Arc<Exchange>,
    fail: fn(&Exchange, &Error),
}

impl Drop for Answering {
    fn drop(&mut self) {
        (self.fail)(&self.exchange, &Error::msg("the handler was dropped before it answered"));
    }
}

/// Runs the author's future: contained, as the exchange that its thread is answering, and only until nobody waits any
/// more. It is dropped before this returns: the host may destroy the instance as soon as the exchange is ended.
pub(crate) async fn watched<R>(exchange: &Arc<Exchange>, mut future: Pending<'_, Result<R>>) -> Result<R> {
    let mut cancelled = Cancelled::default();
    let outcome = poll_fn(|cx| {
        let entered = current::enter(exchange);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        drop(entered);
        match polled {
            Ok(Poll::Ready(outcome)) => Poll::Ready(outcome),
            Err(payload) => Poll::Ready(Err(panicked(payload))),
            Ok(Poll::Pending) if cancelled.poll(exchange, cx) => {
                Poll::Ready(Err(Error::status(499, "nobody waits for the answer any more")))
            }
            Ok(Poll::Pending) => Poll::Pending,
        }
    })
    .await;
    let _current = current::enter(exchange);
    contain(|| {
        drop(future);
        Ok(())
    })?;
    outcome
}

/// The same for a future that several exchanges wait for: until none of them is waited for any more.
pub(crate) async fn watched_by_all<R>(
    exchanges: &[Arc<Exchange>],
    mut future: Pending<'_, Result<R>>,
) -> Result<R> {
    let mut cancelled: Vec<Cancelled> = exchanges.iter().map(|_| Cancelled::default()).collect();
    let mut waiting = exchanges.len();
    let outcome = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(outcome)) => Poll::Ready(outcome),
        Err(payload) => Poll::Ready(Err(panicked(payload))),
        Ok(Poll::Pending) => {
            for (exchange, cancelled) in exchanges.iter().zip(&mut cancelled) {
                waiting -= usize::from(
                    cancelled.poll(exchange, cx) && !std::mem::replace(&mut cancelled.seen, true),
                );
            }
            if waiting == 0 {
                return Poll::Ready(Err(Error::status(499, "nobody waits for the answer any more")));
            }
            Poll::Pending
        }
    })
    .await;
    contain(|| {
        drop(future);
        Ok(())
    })?;
    outcome
}

/// Listens for the cancellation, once there is something to wait for.
#[derive(Default)]
struct Cancelled {
    place: Option<HostWaker>,
    /// It was counted.
    seen: bool,
}

impl Cancelled {
    fn poll(&mut self, exchange: &Exchange, cx: &Context<'_>) -> bool {
        match &self.place {
            Some(place) => place.has_fired(cx.waker()),
            None => {
                let place = self.place.insert(HostWaker::new());
                // Where it has come before anybody listened, that calls at once.
                !exchange.on_cancel(&place.listen(cx.waker())) || place.has_fired(cx.waker())
            }
        }
    }
}

pub(crate) async fn respond(exchange: &Arc<Exchange>, response: Response) -> Result<()> {
    let mut parts = response.into_parts()?;
    match std::mem::take(&mut parts.body) {
        Body::Whole(body) => respond_whole(exchange, &parts, &body),
        Body::Stream(produce) => {
            // It waits for room: not on a worker.
            let exchange = Arc::clone(exchange);
            let written = tokio::task::spawn_blocking(move || {
                let _current = current::enter(&exchange);
                contain(|| respond_streamed(&exchange, parts, produce))
            });
            written.await?
        }
        #[cfg(feature = "websocket")]
        Body::WebSocket(talk) => {
            let exchange = Arc::clone(exchange);
            let over = tokio::task::spawn_blocking(move || {
                let _current = current::enter(&exchange);
                crate::websocket::respond(&exchange, parts, talk)
            });
            over.await?
        }
        #[cfg(feature = "websocket")]
        Body::AsyncWebSocket(talk) => crate::websocket::respond_async(exchange, parts, talk).await,
        #[cfg(feature = "axum")]
        Body::Tunnel(carry) => {
            let of = Arc::clone(exchange);
            // It may wait for room: not on a worker.
            let started = tokio::task::spawn_blocking(move || of.respond_start(&parts, None));
            started.await?.and_then(|()| exchange.flush()).map_err(crate::stream::refused)?;
            watched(exchange, carry(Arc::clone(exchange))).await?;
            exchange.finish();
            Ok(())
        }
        Body::Async(produce) => {
            let mut writer = AsyncBodyWriter::new(Arc::clone(exchange), parts);
            watched(exchange, produce(&mut writer)).await?;
            writer.end().await
        }
    }
}

/// Streams an answer of a handler that is not async itself.
pub(crate) fn respond_now(exchange: &Arc<Exchange>, response: Response) -> Result<()> {
    block_on(respond(exchange, response))
}
