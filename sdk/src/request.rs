//! An HTTP request as a deployment sees it, or as one makes it for another.

use std::borrow::Cow;
use std::fmt;
#[cfg(feature = "tokio")]
use std::future::poll_fn;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::de::DeserializeOwned;

use crate::arguments;
use crate::head::{Head, Span};
use crate::sys::clock;
use crate::sys::host::{Exchange, ReadError};
#[cfg(feature = "tokio")]
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// An HTTP request.
///
/// One that came in belongs to whoever holds it: it may be moved to another thread or kept. Its body streams in while
/// it is read; reading may fail at any time, since the client may leave.
pub struct Request {
    source: Source,
    method: OnceLock<Method>,
    headers: OnceLock<HeaderMap>,
    body: Mutex<Body>,
}

enum Source {
    Incoming(Arc<Exchange>),
    Made(Box<Head>),
}

enum Body {
    /// Still with the host, or with whoever called `reader`.
    Streaming,
    /// Read whole, once.
    Whole(Bytes),
}

impl Request {
    pub(crate) fn incoming(exchange: Arc<Exchange>) -> Self {
        Self::from_source(Source::Incoming(exchange), Body::Streaming)
    }

    /// The request or call that this code runs for; `None` outside of one. What it was called with is not in its body.
    #[must_use]
    pub fn running() -> Option<Self> {
        crate::class::current::exchange().map(Self::incoming)
    }

    fn from_source(source: Source, body: Body) -> Self {
        Self { source, method: OnceLock::new(), headers: OnceLock::new(), body: Mutex::new(body) }
    }

    /// Makes a request for another deployment, or for a test. `target` is a path, with a query where it has a `?`.
    pub fn new(method: Method, target: &str, body: impl Into<Bytes>) -> Self {
        let mut head = Head::default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        head.method = head.keep(method.as_str().as_bytes());
        head.path = head.keep(if path.is_empty() { b"/" } else { path.as_bytes() });
        head.query = head.keep(query.as_bytes());
        Self::from_source(Source::Made(Box::new(head)), Body::Whole(body.into()))
    }

    /// A GET without a body.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new(Method::GET, target, Bytes::new())
    }

    /// A POST.
    pub fn post(target: &str, body: impl Into<Bytes>) -> Self {
        Self::new(Method::POST, target, body)
    }

    /// A POST of JSON.
    ///
    /// # Errors
    /// Where the value can't be written as JSON.
    pub fn post_json<T: serde::Serialize + ?Sized>(target: &str, value: &T) -> Result<Self> {
        Self::post(target, serde_json::to_vec(value)?).with_header("content-type", "application/json")
    }

    /// The same request with one more header field. Only on one that was made here: an incoming one stays as it is.
    ///
    /// # Errors
    /// Where name or value can't stand in a header.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self> {
        let name = HeaderName::try_from(name)?;
        let value = HeaderValue::try_from(value)?;
        if let Source::Made(head) = &mut self.source {
            head.keep_header(name.as_str().as_bytes(), value.as_bytes());
            self.headers = OnceLock::new();
        }
        Ok(self)
    }

    /// The request's id: from `X-Request-ID`, or made. Also in every log line of this request.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text_of(|head| head.id)
    }

    /// The trace context that it came with, as W3C's `traceparent` has it: from the header field, or along the handles
    /// that it came by.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        let head = self.head();
        Some(head.text(head.traceparent))
            .filter(|trace| !trace.is_empty())
            .or_else(|| self.header("traceparent"))
    }

    /// GET, POST and so on.
    #[must_use]
    pub fn method(&self) -> &Method {
        let text = || self.text_of(|head| head.method).as_bytes();
        self.method.get_or_init(|| Method::from_bytes(text()).unwrap_or_default())
    }

    /// The whole path as received, without the query; percent-encoding is kept.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text_of(|head| head.path)
    }

    /// The prefix that brought the request here, without a `/` at its end: `/api`; empty for `/`.
    #[must_use]
    pub fn route_prefix(&self) -> &str {
        self.text_of(|head| head.route_prefix)
    }

    /// What follows the prefix: `/x` of `/api/x`, empty for `/api` itself.
    #[must_use]
    pub fn sub_path(&self) -> &str {
        let path = self.path();
        path.strip_prefix(self.route_prefix()).unwrap_or(path)
    }

    /// What follows the `?`, as received; empty where there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.text_of(|head| head.query)
    }

    /// The first value of this name in the query, decoded (`+` and `%41`). A name without `=` has an empty value.
    #[must_use]
    pub fn query_param(&self, name: &str) -> Option<String> {
        self.query().split('&').find_map(|pair| {
            let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
            (!pair.is_empty() && decoded(found) == name).then(|| decoded(value).into_owned())
        })
    }

    /// The first header field of this name (in any case), where its value is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.head().header(name)?).ok()
    }

    /// The model that it asks for, of a multiplexed deployment: the header field `serve_multiplexed_model_id`, or the
    /// handle's `with_model_id`.
    #[must_use]
    pub fn model_id(&self) -> Option<&str> {
        self.head().model_id()
    }

    /// All header fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.headers.get_or_init(|| {
            let fields = self.head().headers().filter_map(|(name, value)| {
                Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
            });
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(name, value);
            }
            map
        })
    }

    /// When the answer is due, if it is.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.source {
            Source::Incoming(exchange) => {
                Some(exchange.facts().deadline_ns).filter(|due| *due != 0).map(clock::instant_at)
            }
            Source::Made(_) => None,
        }
    }

    /// Whether nobody waits any more: the client left, the caller cancelled, or the deadline passed.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        match &self.source {
            Source::Incoming(exchange) => exchange.is_cancelled(),
            Source::Made(_) => false,
        }
    }

    /// The whole body. May be asked for again.
    ///
    /// # Errors
    /// Where the client cut it off or left.
    pub fn bytes(&self) -> Result<Bytes> {
        let mut body = self.body();
        if let (Body::Streaming, Source::Incoming(exchange)) = (&*body, &self.source) {
            *body = Body::Whole(read_whole(exchange)?.into());
        }
        match &*body {
            Body::Whole(bytes) => Ok(bytes.clone()),
            Body::Streaming => Ok(Bytes::new()),
        }
    }

    /// The whole body, waiting without holding a thread. May be asked for again, but not by two at once.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    #[cfg(feature = "tokio")]
    pub async fn bytes_async(&self) -> Result<Bytes> {
        if let Some(exchange) = self.still_streaming() {
            let bytes = read_whole_async(exchange).await?;
            *self.body() = Body::Whole(bytes.into());
        }
        self.bytes()
    }

    #[cfg(feature = "tokio")]
    fn still_streaming(&self) -> Option<&Exchange> {
        match (&*self.body(), &self.source) {
            (Body::Streaming, Source::Incoming(exchange)) => Some(exchange),
            _ => None,
        }
    }

    /// The whole body as text, waiting without holding a thread.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    #[cfg(feature = "tokio")]
    pub async fn text_async(&self) -> Result<String> {
        self.bytes_async().await?;
        self.text()
    }

    /// The whole body, read as JSON, waiting without holding a thread.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    #[cfg(feature = "tokio")]
    pub async fn json_async<T: DeserializeOwned>(&self) -> Result<T> {
        self.bytes_async().await?;
        self.json()
    }

    /// The next part of the body as it streams in; `None` at its end. As with [`reader`](Self::reader), what is read
    /// here is gone for the others.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    #[cfg(feature = "tokio")]
    pub async fn chunk(&self) -> Result<Option<Bytes>> {
        let exchange = match (&mut *self.body(), &self.source) {
            (Body::Streaming, Source::Incoming(exchange)) => Arc::clone(exchange),
            (Body::Whole(rest), _) => {
                return Ok(Some(std::mem::take(rest)).filter(|rest| !rest.is_empty()));
            }
            (Body::Streaming, Source::Made(_)) => return Ok(None),
        };
        let mut buffer = vec![0; CHUNK_LEN];
        let place = HostWaker::new();
        let read = poll_fn(|cx| exchange.poll_read(&mut buffer, &place, cx)).await.map_err(unread)?;
        buffer.truncate(read);
        Ok(Some(Bytes::from(buffer)).filter(|chunk| !chunk.is_empty()))
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes); 400 where it is not UTF-8.
    pub fn text(&self) -> Result<String> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| Error::status(400, "the body is not UTF-8 text"))
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes); 400 naming the field where it is not what `T` asks for.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        arguments::value_from_json(&self.bytes()?).map_err(|why| {
            Error::status(400, format_args!("the body is not the JSON that is expected here: {why}"))
        })
    }

    /// The body as it streams in. What is read here is gone for [`bytes`](Self::bytes) and its like.
    #[must_use]
    pub fn reader(&self) -> BodyReader<'_> {
        BodyReader { request: self }
    }

    /// The request as the `http` crate has it, with its whole body.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes); 400 where the target is none that `http` takes.
    pub fn into_http(self) -> Result<http::Request<Bytes>> {
        let body = self.bytes()?;
        let target = self.target();
        let mut request = http::Request::builder()
            .method(self.method().clone())
            .uri(&*target)
            .body(body)
            .map_err(|error| Error::status(400, error))?;
        *request.headers_mut() = self.headers().clone();
        Ok(request)
    }

    /// Path and query.
    pub(crate) fn target(&self) -> Cow<'_, str> {
        match self.query() {
            "" => Cow::Borrowed(self.path()),
            query => Cow::Owned(format!("{}?{query}", self.path())),
        }
    }

    pub(crate) fn head(&self) -> &Head {
        match &self.source {
            Source::Incoming(exchange) => exchange.head(),
            Source::Made(head) => head,
        }
    }

    fn text_of(&self, part: impl FnOnce(&Head) -> Span) -> &str {
        let head = self.head();
        head.text(part(head))
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {} id={})", self.method(), self.target(), self.id())
    }
}

impl<B: Into<Bytes>> From<http::Request<B>> for Request {
    fn from(request: http::Request<B>) -> Self {
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut made = Self::new(parts.method, target, body);
        if let Source::Made(head) = &mut made.source {
            for (name, value) in &parts.headers {
                head.keep_header(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        made
    }
}

/// Reads a request's body as it streams in.
#[derive(Debug)]
pub struct BodyReader<'a> {
    request: &'a Request,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut body = self.request.body();
        match (&mut *body, &self.request.source) {
            (Body::Whole(rest), _) => {
                let taken = rest.split_to(rest.len().min(buffer.len()));
                buffer[..taken.len()].copy_from_slice(&taken);
                Ok(taken.len())
            }
            (Body::Streaming, Source::Incoming(exchange)) => {
                exchange.read(buffer).map_err(|error| match error {
                    ReadError::Cancelled => io::Error::new(io::ErrorKind::ConnectionAborted, CANCELLED),
                    ReadError::Broken => io::Error::new(io::ErrorKind::UnexpectedEof, BROKEN),
                    ReadError::Closed => io::Error::new(io::ErrorKind::BrokenPipe, CLOSED),
                })
            }
            (Body::Streaming, Source::Made(_)) => Ok(0),
        }
    }
}

const CANCELLED: &str = "nobody waits for the answer any more";
const BROKEN: &str = "the body was cut off before its end";
const CLOSED: &str = "the request was already answered";
/// Read at a time where nothing says how much there is.
const READ_LEN: usize = 16 * 1024;
/// The most that [`Request::chunk`] reads at a time: what the channel carries in one block.
#[cfg(feature = "tokio")]
const CHUNK_LEN: usize = 64 * 1024;
/// Room made in advance on the word of a content-length alone.
const ANNOUNCED_MAX: u64 = 1024 * 1024;

/// The whole body of an exchange.
pub(crate) fn read_whole(exchange: &Exchange) -> Result<Vec<u8>> {
    let mut bytes = room_for(exchange);
    let mut filled = 0;
    while !is_whole(exchange, filled) {
        if filled == bytes.len() {
            bytes.resize((bytes.len() * 2).max(READ_LEN), 0);
        }
        match exchange.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(unread(error)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The whole body of an exchange.
#[cfg(feature = "tokio")]
pub(crate) async fn read_whole_async(exchange: &Exchange) -> Result<Vec<u8>> {
    let mut bytes = room_for(exchange);
    let mut filled = 0;
    let place = HostWaker::new();
    while !is_whole(exchange, filled) {
        if filled == bytes.len() {
            bytes.resize((bytes.len() * 2).max(READ_LEN), 0);
        }
        let read =
            poll_fn(|cx| exchange.poll_read(&mut bytes[filled..], &place, cx)).await.map_err(unread)?;
        if read == 0 {
            break;
        }
        filled += read;
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Whether so much is what was announced: its end need not be waited for.
fn is_whole(exchange: &Exchange, filled: usize) -> bool {
    exchange.facts().content_length == filled as u64
}

/// Room for what is announced, within reason.
fn room_for(exchange: &Exchange) -> Vec<u8> {
    let announced = match exchange.facts().content_length {
        u64::MAX => 0,
        length => usize::try_from(length.min(ANNOUNCED_MAX)).unwrap_or(0),
    };
    vec![0; announced]
}

pub(crate) fn unread(error: ReadError) -> Error {
    match error {
        ReadError::Cancelled => Error::status(499, CANCELLED),
        ReadError::Broken => Error::status(400, BROKEN),
        ReadError::Closed => Error::msg(CLOSED),
    }
}

/// Query text with `+` and percent-encoding resolved.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_request_has_its_parts() {
        let request =
            Request::post("/api/x?a=1&b=two+words%21&c", "body").with_header("X-Thing", "v").unwrap();
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.path(), "/api/x");
        assert_eq!(request.query(), "a=1&b=two+words%21&c");
        assert_eq!(request.query_param("b").as_deref(), Some("two words!"));
        assert_eq!(request.query_param("c").as_deref(), Some(""));
        assert_eq!(request.query_param("d"), None);
        assert_eq!(request.header("x-thing"), Some("v"));
        assert_eq!(request.headers()["x-thing"], "v");
        assert_eq!(request.text().unwrap(), "body");
        assert_eq!(request.text().unwrap(), "body");
        assert!(request.deadline().is_none() && !request.is_cancelled());
    }

    #[test]
    fn the_reader_takes_the_body_away() {
        let request = Request::post("/", "0123456789");
        let mut first = [0; 4];
        request.reader().read_exact(&mut first).unwrap();
        assert_eq!(&first, b"0123");
        assert_eq!(request.text().unwrap(), "456789");
        let mut rest = String::new();
        request.reader().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "456789");
        assert_eq!(request.text().unwrap(), "");
    }

    #[test]
    fn wrong_json_is_the_clients_fault_and_names_the_field() {
        let request = Request::post("/", r#"{"a": "x"}"#);
        let error = request.json::<std::collections::BTreeMap<String, u8>>().unwrap_err();
        assert_eq!(error.code().map(|code| code.as_u16()), Some(400));
        assert!(error.to_string().contains("field 'a'"), "{error}");
    }

    #[test]
    fn http_and_back() {
        let request = Request::get("/a?b=c").with_header("accept", "*/*").unwrap();
        let request = request.into_http().unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        let request = Request::from(request);
        assert_eq!((request.path(), request.query(), request.header("accept")), ("/a", "b=c", Some("*/*")));
    }
}
