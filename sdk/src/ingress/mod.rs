//! Axum routers as the HTTP side of a class: driven by requests of the host, without a socket.

mod upgrade;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::OriginalUri;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http_body::{Body as _, Frame, SizeHint};
use tower_service::Service;

use crate::request::unread;
use crate::response::Response;
use crate::runtime;
use crate::stream::GATHERED_MAX;
use crate::sys::host::{Exchange, LentHead};
use crate::sys::waking::HostWaker;
use crate::{AsyncBodyWriter, Error, Result};

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
            Ok(response) => response_of(response).await,
            Err(never) => match never {},
        }
    };
    runtime::call(exchange, Box::pin(answer));
}

/// The request as the router sees it: its path is what follows the route prefix, as in `Router::nest`.
fn request_of(exchange: Arc<Exchange>) -> Result<axum::extract::Request> {
    let read = exchange.with_lent_head(head_of);
    let Head { method, original, inner, headers } =
        read.ok_or_else(|| Error::msg("the request was over before it was read"))??;
    let body = match exchange.facts().content_length {
        0 => Body::empty(),
        _ => Body::new(Incoming::new(exchange)),
    };
    let mut made = http::Request::new(body);
    *made.method_mut() = method;
    *made.uri_mut() = inner;
    *made.headers_mut() = headers;
    made.extensions_mut().insert(OriginalUri(original));
    Ok(made)
}

/// What a router sees of a head.
struct Head {
    method: Method,
    original: Uri,
    inner: Uri,
    headers: HeaderMap,
}

/// Copied once, into bytes that targets and values share.
fn head_of(lent: &LentHead<'_>) -> Result<Head> {
    let (path, query) = (String::from_utf8_lossy(lent.path), String::from_utf8_lossy(lent.query));
    let in_values: usize = lent.headers().map(|(_, value)| value.len()).sum();
    let mut bytes = Vec::with_capacity(path.len() + 1 + query.len() + in_values);
    bytes.extend_from_slice(path.as_bytes());
    if !query.is_empty() {
        bytes.push(b'?');
        bytes.extend_from_slice(query.as_bytes());
    }
    let target = bytes.len();
    lent.headers().for_each(|(_, value)| bytes.extend_from_slice(value));
    let bytes = Bytes::from(bytes);

    let uri = |target: Bytes| {
        Uri::from_maybe_shared(target)
            .map_err(|_| Error::status(400, "the path is none that a router can take"))
    };
    let original = uri(bytes.slice(..target))?;
    let prefix = if path.as_bytes().starts_with(lent.route_prefix) { lent.route_prefix.len() } else { 0 };
    let inner = match (prefix, prefix == path.len()) {
        (0, false) => original.clone(),
        (_, false) => uri(bytes.slice(prefix..target))?,
        (_, true) => uri([&b"/"[..], &bytes[prefix..target]].concat().into())?,
    };
    let mut headers = HeaderMap::with_capacity(lent.headers().len());
    let mut at = target;
    for (name, value) in lent.headers() {
        let value = bytes.slice(at..at + value.len());
        at += value.len();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(value)) {
            headers.append(name, value);
        }
    }
    Ok(Head { method: Method::from_bytes(lent.method).unwrap_or_default(), original, inner, headers })
}

async fn response_of(response: axum::response::Response) -> Result<Response> {
    let (mut head, mut body) = response.into_parts();
    let first = next_data(&mut body).await?;
    let answer = match first {
        None => Response::new(head.status, Bytes::new()),
        Some(whole) if body.is_end_stream() && whole.len() < GATHERED_MAX => {
            Response::new(head.status, whole)
        }
        Some(first) => {
            let streamed = Response::stream_async(move |w| Box::pin(stream(first, body, w)));
            return Ok(streamed.with_head(head.status, head.headers).untyped());
        }
    };
    // It has as much as it has: what is announced of an answer without its body is not sent.
    head.headers.remove(http::header::CONTENT_LENGTH);
    Ok(answer.with_head(head.status, head.headers))
}

/// Whoever gives parts has a reason to: each goes out as it comes.
async fn stream(mut data: Bytes, mut body: Body, w: &mut AsyncBodyWriter) -> Result<()> {
    loop {
        w.write(data).await?;
        if body.is_end_stream() {
            return Ok(());
        }
        w.flush().await?;
        match next_data(&mut body).await? {
            Some(next) => data = next,
            None => return Ok(()),
        }
    }
}

/// The next part of a body; `None` at its end. Trailers have no place to go.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A body as it streams in.
struct Incoming {
    exchange: Arc<Exchange>,
    place: HostWaker,
    /// What was not filled so far.
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
        let most = this.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(READ_LEN);
        this.buffer.resize(most.clamp(1, READ_LEN), 0);
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
                // A buffer that is mostly filled is given away, and any other one filled again.
                let data = if read * 2 < this.buffer.len() {
                    Bytes::copy_from_slice(&this.buffer[..read])
                } else {
                    this.buffer.truncate(read);
                    Bytes::from(std::mem::take(&mut this.buffer))
                };
                Some(Ok(Frame::data(data)))
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

#[cfg(test)]
mod tests {
    use decurion_abi as abi;

    use super::*;

    #[test]
    fn a_router_sees_what_follows_the_prefix() {
        let field =
            abi::Header { name: abi::Bytes::from_slice(b"X-Two"), value: abi::Bytes::from_slice(b"a") };
        let fields = [field, field];
        for (path, query, prefix, inner, original) in [
            ("/", "", "", "/", "/"),
            ("/a/b", "c=d", "", "/a/b?c=d", "/a/b?c=d"),
            ("/a/b", "c=d", "/a", "/b?c=d", "/a/b?c=d"),
            ("/a", "", "/a", "/", "/a"),
            ("/a", "c=d", "/a", "/?c=d", "/a?c=d"),
        ] {
            let lent = LentHead::new(b"PUT", path, query, prefix, &fields);
            let head = head_of(&lent).unwrap();
            assert_eq!((head.inner.to_string(), head.original.to_string()), (inner.into(), original.into()));
            assert_eq!((head.method, head.headers.get_all("x-two").iter().count()), (Method::PUT, 2));
            assert_eq!(head.headers["x-two"], "a");
        }
        let refused =
            head_of(&LentHead::new(b"GET", "/a b", "", "", &[])).err().expect("no target has a space");
        assert_eq!(refused.code().map(|code| code.as_u16()), Some(400));
    }
}
