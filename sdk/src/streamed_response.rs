//! An answer of another deployment's `call` whose body is read as it comes.

use std::fmt;
use std::io;

use decurion_abi::status;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::handle::Callee;
use crate::response::Response;
use crate::sys::host::{Call, Reply};
#[cfg(feature = "tokio")]
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// Bytes passed on at a time.
const PASS_LEN: usize = 64 * 1024;

/// The answer to [`Handle::request_stream`](crate::Handle::request_stream): its head is here, and its body is read as it
/// comes. Dropped, the callee is told that nobody waits.
///
/// ```
/// use decurion::prelude::*;
/// use decurion::test::LocalApp;
///
/// #[deployment]
/// fn count(_req: Request) -> Response {
///     Response::stream(|w| {
///         for number in 0..3 {
///             w.event(number.to_string())?;
///         }
///         Ok(())
///     })
/// }
///
/// pub struct Front { count: Handle }
///
/// #[deployment]
/// impl Front {
///     fn new(count: Handle) -> Self { Self { count } }
///
///     /// Passes the events on, each as it comes.
///     fn call(&self, req: Request) -> Result<Response> {
///         Ok(self.count.request_stream(req)?.into_response())
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let app = LocalApp::new();
/// app.deploy::<count>("count", ())?;
/// let answer = app.deploy::<Front>("front", json!(["@count"]))?.get("/")?;
/// assert_eq!(answer.header("content-type"), Some("text/event-stream"));
/// assert_eq!(answer.text()?, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
/// # Ok(())
/// # }
/// ```
#[must_use = "an answer that nobody reads is cancelled"]
pub struct StreamedResponse {
    call: Call,
    callee: Callee,
    status: StatusCode,
    headers: HeaderMap,
}

impl StreamedResponse {
    /// Waits for the head.
    pub(crate) fn begin(mut call: Call, callee: Callee) -> Result<Self> {
        let head = call.head().map_err(|status| callee.failed(status))?;
        let (status, headers) = read_head(&head)?;
        Ok(Self { call, callee, status, headers })
    }

    #[cfg(feature = "tokio")]
    pub(crate) async fn begin_async(mut call: Call, callee: Callee) -> Result<Self> {
        let place = HostWaker::new();
        let head = std::future::poll_fn(|cx| call.poll_head(&place, cx)).await;
        head.map_err(|status| callee.failed(status))?;
        // It is there, so that this does not wait.
        Self::begin(call, callee)
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its header fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The header field of this name, where its value is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads from the body, waiting until there is something: 0 at its end.
    ///
    /// # Errors
    /// As [`Handle::call`](crate::Handle::call): the replica died, the deadline passed, nobody waits any more.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.call.read(buffer).map_err(|status| self.callee.failed(status))
    }

    /// The same, waiting without holding a thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(feature = "tokio")]
    pub async fn read_async(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let place = HostWaker::new();
        let read = std::future::poll_fn(|cx| self.call.poll_read(buffer, &place, cx)).await;
        read.map_err(|status| self.callee.failed(status))
    }

    /// As an answer of one's own, whose body is passed on as it comes.
    #[must_use]
    pub fn into_response(self) -> Response {
        self.passed_on(|mut body| {
            Response::stream(move |w| {
                let mut buffer = vec![0; PASS_LEN];
                loop {
                    match body.read(&mut buffer)? {
                        0 => return Ok(()),
                        count => w.write(&buffer[..count])?,
                    }
                    w.flush()?;
                }
            })
        })
    }

    /// The same for async handlers: passes the body on without holding a thread.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn into_response_async(self) -> Response {
        self.passed_on(|mut body| {
            Response::stream_async(move |w| {
                Box::pin(async move {
                    let mut buffer = vec![0; PASS_LEN];
                    loop {
                        match body.read_async(&mut buffer).await? {
                            0 => return Ok(()),
                            count => w.write(&buffer[..count]).await?,
                        }
                        w.flush().await?;
                    }
                })
            })
        })
    }

    fn passed_on(mut self, body: impl FnOnce(Self) -> Response) -> Response {
        let (status, headers) = (self.status, std::mem::take(&mut self.headers));
        let mut response = body(self).untyped().with_status(status);
        for (name, value) in &headers {
            response.append(name.as_ref(), value.as_bytes());
        }
        response
    }
}

fn read_head(head: &Reply<'_>) -> Result<(StatusCode, HeaderMap)> {
    let status = u16::try_from(head.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| Error::msg(format_args!("{} is no status", head.status)))?;
    let mut headers = HeaderMap::new();
    for (name, value) in head.headers() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    Ok((status, headers))
}

impl io::Read for StreamedResponse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.call.read(buffer).map_err(|failed| {
            let kind = match failed {
                status::DEADLINE => io::ErrorKind::TimedOut,
                status::BROKEN => io::ErrorKind::UnexpectedEof,
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, self.callee.failed(failed).to_string())
        })
    }
}

impl fmt::Debug for StreamedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedResponse")
            .field("callee", &self.callee)
            .field("status", &self.status)
            .finish()
    }
}
