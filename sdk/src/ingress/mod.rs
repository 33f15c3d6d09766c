//! Axum routers as the HTTP side of a class: driven by requests of the host, without a socket.

mod upgrade;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::OriginalUri;
use bytes::Bytes;
use http::Uri;
use http_body::{Body as _, Frame, SizeHint};
use tower_service::Service;

use crate::request::{Request, unread};
use crate::response::Response;
use crate::runtime;
use crate::sys::host::Exchange;
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// Body bytes read at a time.
const READ_LEN: usize = 16 * 1024;

/// Where a class's router comes from. Made by `#[deployment]`.
pub struct IngressEntry<T>(fn(&T) -> Router);

impl<T: Sync> IngressEntry<T> {
    /// From the author's `ingress`.
    pub const fn new(ingress: fn(&T) -> Router) -> Self {
        Self(ingress)
    }
}

impl<T> IngressEntry<T> {
    pub(crate) fn router(&self, this: &T) -> Router {
        (self.0)(this)
    }
}

impl<T> fmt::Debug for IngressEntry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IngressEntry")
    }
}

/// Answers an exchange with what the router makes of it.
pub(crate) fn answer(exchange: Arc<Exchange>, mut router: Router) {
    let of = Arc::clone(&exchange);
    let answer = async move {
        let request = request_of(of)?;
        if upgrade::is_offered(request.headers()) {
            return upgrade::answer(request, router).await;
        }
        match router.call(request).await {
            Ok(response) => response_of(response),
            Err(never) => match never {},
        }
    };
    runtime::call(exchange, Box::pin(answer));
}

/// The request as the router sees it: its path is what follows the route prefix, as in `Router::nest`.
fn request_of(exchange: Arc<Exchange>) -> Result<axum::extract::Request> {
    let request = Request::incoming(Arc::clone(&exchange));
    let uri = |target: &str| {
        Uri::try_from(target).map_err(|_| Error::status(400, "the path is none that a router can take"))
    };
    let original = uri(&request.target())?;
    let path = match request.sub_path() {
        "" => "/",
        path => path,
    };
    let inner = match request.query() {
        "" => uri(path)?,
        query => uri(&format!("{path}?{query}"))?,
    };
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let mut made = http::Request::new(Body::new(Incoming::new(exchange)));
    *made.method_mut() = method;
    *made.uri_mut() = inner;
    *made.headers_mut() = headers;
    made.extensions_mut().insert(OriginalUri(original));
    Ok(made)
}

fn response_of(response: axum::response::Response) -> Result<Response> {
    let (parts, mut body) = response.into_parts();
    let streamed = Response::stream_async(move |w| {
        Box::pin(async move {
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                // Trailers have no place to go.
                if let Ok(data) = frame?.into_data() {
                    w.write(data).await?;
                    // Whoever gives parts has a reason to; a body of one part becomes one whole answer.
                    if !body.is_end_stream() {
                        w.flush().await?;
                    }
                }
            }
            Ok(())
        })
    });
    let mut made = streamed.with_status(parts.status).untyped();
    for (name, value) in &parts.headers {
        made.append(name.as_str().as_bytes(), value.as_bytes());
    }
    Ok(made)
}

/// A body as it streams in.
struct Incoming {
    exchange: Arc<Exchange>,
    place: HostWaker,
    buffer: Vec<u8>,
    /// So much is still to come; `None`: not known.
    left: Option<u64>,
    ended: bool,
}

impl Incoming {
    fn new(exchange: Arc<Exchange>) -> Self {
        let left = Some(exchange.facts().content_length).filter(|length| *length != u64::MAX);
        Self { exchange, place: HostWaker::new(), buffer: Vec::new(), left, ended: left == Some(0) }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = crate::stream::Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.buffer.resize(READ_LEN, 0);
        let read = match this.exchange.poll_read(&mut this.buffer, &this.place, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read,
        };
        Poll::Ready(match read {
            Ok(0) => {
                this.ended = true;
                None
            }
            Ok(read) => {
                this.left = this.left.map(|left| left.saturating_sub(read as u64));
                Some(Ok(Frame::data(Bytes::copy_from_slice(&this.buffer[..read]))))
            }
            Err(error) => {
                this.ended = true;
                Some(Err(crate::stream::Broken(unread(error).to_string())))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
