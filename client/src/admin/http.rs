//! One HTTP/1.1 request over a fresh connection to the control socket: hyper, on a tokio runtime of its own that
//! lives for as long as the request.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use decurion_api::admin::Problem;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, IF_MATCH};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

pub(super) use hyper::Method;

use super::{AdminError, REQUEST_TIMEOUT};

/// Bytes of an answer that is held whole.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
const CHUNK: usize = 256 * 1024;

/// A request to be made.
pub(super) struct Ask {
    method: Method,
    path: String,
    content_type: Option<&'static str>,
    if_match: Option<u64>,
    body: Body,
    timeout: Option<Duration>,
}

/// A successful answer, whole.
pub(super) struct Answer {
    socket: PathBuf,
    /// From `ETag`.
    pub(super) revision: Option<u64>,
    bytes: Bytes,
}

/// A request's body.
pub(super) enum Body {
    Whole(Option<Bytes>),
    /// A file, of which `left` bytes are still to be sent.
    File {
        file: File,
        left: u64,
    },
}

impl Ask {
    pub(super) fn new(method: Method, path: String) -> Self {
        let timeout = Some(REQUEST_TIMEOUT);
        Self { method, path, content_type: None, if_match: None, body: Body::Whole(None), timeout }
    }

    /// A body in JSON; none for `()`.
    pub(super) fn json(self, body: &impl Serialize) -> Result<Self, AdminError> {
        let bytes = serde_json::to_vec(body).map_err(|error| AdminError::Local {
            what: "writing the request as JSON",
            source: error.into(),
        })?;
        Ok(if bytes == b"null" {
            self
        } else {
            self.body("application/json", Body::Whole(Some(bytes.into())))
        })
    }

    pub(super) fn body(self, content_type: &'static str, body: Body) -> Self {
        Self { content_type: Some(content_type), body, ..self }
    }

    pub(super) fn if_match(self, revision: Option<u64>) -> Self {
        Self { if_match: revision, ..self }
    }

    pub(super) fn timeout(self, timeout: Option<Duration>) -> Self {
        Self { timeout, ..self }
    }

    fn into_request(self) -> Result<Request<Body>, hyper::http::Error> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, "decurion")
            .header(ACCEPT, "*/*");
        if let Some(content_type) = self.content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(revision) = self.if_match {
            request = request.header(IF_MATCH, format!("\"{revision}\""));
        }
        request.body(self.body)
    }
}

impl Answer {
    pub(super) fn text(self) -> Result<String, AdminError> {
        String::from_utf8(self.bytes.into())
            .map_err(|error| AdminError::Strange { socket: self.socket, what: error.to_string() })
    }

    pub(super) fn json<T: DeserializeOwned>(self) -> Result<T, AdminError> {
        serde_json::from_slice(&self.bytes)
            .map_err(|error| AdminError::Strange { socket: self.socket, what: error.to_string() })
    }
}

/// Makes the request and waits for the whole answer.
pub(super) fn send(socket: &Path, ask: Ask) -> Result<Answer, AdminError> {
    let timeout = ask.timeout;
    let runtime = runtime()?;
    runtime.block_on(within(socket, timeout, async {
        let response = open(socket, ask).await?;
        let revision = revision_of(&response);
        let bytes = whole(socket, response).await?;
        Ok(Answer { socket: socket.to_owned(), revision, bytes })
    }))
}

/// Makes the request and waits for the head of the answer, which is one of success. The runtime must go on being
/// driven while the body is read.
pub(super) fn send_streamed(socket: &Path, ask: Ask) -> Result<(Runtime, Response<Incoming>), AdminError> {
    let timeout = ask.timeout;
    let runtime = runtime()?;
    let response = runtime.block_on(within(socket, timeout, open(socket, ask)))?;
    Ok((runtime, response))
}

/// What broke a connection in the middle.
pub(super) fn broken(
    socket: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> AdminError {
    AdminError::Broken { socket: socket.to_owned(), source: source.into() }
}

fn runtime() -> Result<Runtime, AdminError> {
    let built = Builder::new_current_thread().enable_io().enable_time().build();
    built.map_err(|source| AdminError::Local { what: "starting a tokio runtime", source })
}

async fn within<T>(
    socket: &Path,
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, AdminError>>,
) -> Result<T, AdminError> {
    let Some(timeout) = timeout else { return work.await };
    let silent = |_| AdminError::Silent { socket: socket.to_owned(), after: timeout };
    tokio::time::timeout(timeout, work).await.map_err(silent)?
}

/// Connects, asks, and turns an answer of failure into the error that it tells of.
async fn open(socket: &Path, ask: Ask) -> Result<Response<Incoming>, AdminError> {
    let request = ask.into_request().map_err(|error| AdminError::Local {
        what: "writing the request",
        source: io::Error::other(error),
    })?;
    let unreachable = |source| AdminError::Unreachable { socket: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(socket, error))?;
    // Its errors reach whoever waits for the answer or reads the body.
    drop(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(|error| broken(socket, error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let bytes = whole(socket, response).await?;
    Err(match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => AdminError::Refused(problem),
        Err(_) => AdminError::Strange { socket: socket.to_owned(), what: format!("it says {status}") },
    })
}

async fn whole(socket: &Path, response: Response<Incoming>) -> Result<Bytes, AdminError> {
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| broken(socket, error))
}

fn revision_of(response: &Response<Incoming>) -> Option<u64> {
    let tag = response.headers().get(ETAG)?.to_str().ok()?;
    tag.trim_matches('"').parse().ok()
}

impl Body {
    pub(super) fn file(file: File, len: u64) -> Self {
        Body::File { file, left: len }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    /// Reads of a file block: this runtime has nothing else to do.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(match &mut *self {
            Body::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Body::File { left: 0, .. } => None,
            Body::File { file, left } => Some(next_chunk(file, left)),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None) | Body::File { left: 0, .. })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Body::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Body::File { left, .. } => *left,
        })
    }
}

fn next_chunk(file: &mut File, left: &mut u64) -> Result<Frame<Bytes>, io::Error> {
    let want = usize::try_from(*left).map_or(CHUNK, |left| left.min(CHUNK));
    let mut chunk = vec![0; want];
    let got = file.read(&mut chunk)?;
    if got == 0 {
        let words = format!("the file became {left} bytes shorter while it was sent");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, words));
    }
    chunk.truncate(got);
    *left -= got as u64;
    Ok(Frame::data(chunk.into()))
}
