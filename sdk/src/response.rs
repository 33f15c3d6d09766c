//! What a deployment answers with.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::stream::BodyWriter;
use crate::{Error, Result, arguments};

/// An answer: status, header fields and body.
#[derive(Debug, Default)]
pub struct Response {
    parts: Parts,
    /// The first thing that could not stand in an answer.
    refused: Option<Error>,
}

#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) status: StatusCode,
    /// Kept apart from the others: nearly every answer has just this one, and it costs no allocation.
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) headers: HeaderMap,
    /// What has no type is sent without one.
    pub(crate) untyped: bool,
    pub(crate) body: Body,
}

/// What follows the head.
pub(crate) enum Body {
    Whole(Bytes),
    /// Runs after the handler has returned, on the same thread.
    Stream(Producer),
    #[cfg(feature = "tokio")]
    Async(AsyncProducer),
    /// Talks after the handler has returned, on the same thread.
    #[cfg(feature = "websocket")]
    WebSocket(crate::websocket::Talk),
    #[cfg(all(feature = "tokio", feature = "websocket"))]
    AsyncWebSocket(crate::websocket::AsyncTalk),
    /// Bytes both ways, in whatever protocol the head names.
    #[cfg(feature = "axum")]
    Tunnel(Tunnel),
}

#[cfg(feature = "axum")]
pub(crate) type Tunnel =
    Box<dyn FnOnce(std::sync::Arc<crate::sys::host::Exchange>) -> crate::Pending<'static, Result<()>> + Send>;

pub(crate) type Producer = Box<dyn FnOnce(&mut BodyWriter<'_>) -> Result<()> + Send>;

#[cfg(feature = "tokio")]
pub(crate) type AsyncProducer =
    Box<dyn for<'a> FnOnce(&'a mut crate::AsyncBodyWriter) -> crate::Pending<'a, Result<()>> + Send>;

impl Default for Body {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream(_) => f.write_str("a stream"),
            #[cfg(feature = "tokio")]
            Self::Async(_) => f.write_str("a stream"),
            #[cfg(feature = "websocket")]
            Self::WebSocket(_) => f.write_str("a websocket"),
            #[cfg(all(feature = "tokio", feature = "websocket"))]
            Self::AsyncWebSocket(_) => f.write_str("a websocket"),
            #[cfg(feature = "axum")]
            Self::Tunnel(_) => f.write_str("a tunnel"),
        }
    }
}

impl Response {
    /// An answer of this status and body, without a type. (Other kinds of answers know theirs: `(status, text)`.)
    ///
    /// A `status` that is none makes the answer a 500.
    pub fn new(status: impl TryInto<StatusCode>, body: impl Into<Bytes>) -> Self {
        let body = Body::Whole(body.into());
        let mut response = Self { parts: Parts { body, ..Parts::default() }, refused: None };
        match status.try_into() {
            Ok(status) => response.parts.status = status,
            Err(_) => response.refused = Some(Error::msg("an answer's status is from 100 to 999")),
        }
        response
    }

    /// An answer that is written bit by bit, after the handler has returned. Its type is `application/octet-stream`, or
    /// `text/event-stream` where it begins with an event; `with_header("content-type", ..)` chooses another.
    ///
    /// ```
    /// use decurion::prelude::*;
    ///
    /// #[deployment]
    /// fn count(_req: Request) -> Response {
    ///     Response::stream(|w| {
    ///         for number in 0..3 {
    ///             w.write(format!("{number}\n"))?;
    ///             w.flush()?;
    ///         }
    ///         Ok(())
    ///     })
    /// }
    /// # let local = decurion::test::Local::<count>::new(()).unwrap();
    /// # assert_eq!(local.get("/").unwrap().text().unwrap(), "0\n1\n2\n");
    /// ```
    pub fn stream<F>(write: F) -> Self
    where
        F: FnOnce(&mut BodyWriter<'_>) -> Result<()> + Send + 'static,
    {
        Self { parts: Parts { body: Body::Stream(Box::new(write)), ..Parts::default() }, refused: None }
    }

    /// The same, written by a future.
    ///
    /// ```
    /// use decurion::prelude::*;
    ///
    /// #[deployment]
    /// async fn count(_req: Request) -> Response {
    ///     Response::stream_async(|w| {
    ///         Box::pin(async move {
    ///             for number in 0..3 {
    ///                 w.event(number.to_string()).await?;
    ///             }
    ///             Ok(())
    ///         })
    ///     })
    /// }
    /// # let local = decurion::test::Local::<count>::new(()).unwrap();
    /// # assert_eq!(local.get("/").unwrap().text().unwrap(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    /// ```
    #[cfg(feature = "tokio")]
    pub fn stream_async<F>(write: F) -> Self
    where
        F: for<'a> FnOnce(&'a mut crate::AsyncBodyWriter) -> crate::Pending<'a, Result<()>> + Send + 'static,
    {
        Self { parts: Parts { body: Body::Async(Box::new(write)), ..Parts::default() }, refused: None }
    }

    /// A websocket (RFC 6455): `talk` has it until it returns, on the handler's thread. A request that asks for none is
    /// answered with 426, a malformed one with 400.
    ///
    /// ```
    /// use decurion::prelude::*;
    ///
    /// #[deployment]
    /// fn echo(_req: Request) -> Response {
    ///     Response::websocket(|ws| {
    ///         while let Some(message) = ws.recv()? {
    ///             ws.send(message)?;
    ///         }
    ///         Ok(())
    ///     })
    /// }
    /// # let local = decurion::test::Local::<echo>::new(()).unwrap();
    /// # let mut client = local.websocket("/").unwrap();
    /// # client.send("hello").unwrap();
    /// # assert_eq!(client.recv().unwrap(), Some("hello".into()));
    /// ```
    ///
    /// A subprotocol is chosen with `with_header("sec-websocket-protocol", ..)` from those that the request's field of
    /// this name lists; one that it does not list is left out.
    #[cfg(feature = "websocket")]
    pub fn websocket<F>(talk: F) -> Self
    where
        F: FnOnce(&mut crate::WebSocket<'_>) -> Result<()> + Send + 'static,
    {
        Self { parts: Parts { body: Body::WebSocket(Box::new(talk)), ..Parts::default() }, refused: None }
    }

    /// The same for a future, which holds no thread while it waits.
    ///
    /// ```
    /// use decurion::prelude::*;
    ///
    /// #[deployment]
    /// async fn echo(_req: Request) -> Response {
    ///     Response::websocket_async(|ws| {
    ///         Box::pin(async move {
    ///             while let Some(message) = ws.recv().await? {
    ///                 ws.send(message).await?;
    ///             }
    ///             Ok(())
    ///         })
    ///     })
    /// }
    /// # let local = decurion::test::Local::<echo>::new(()).unwrap();
    /// # let mut client = local.websocket("/").unwrap();
    /// # client.send("hello").unwrap();
    /// # assert_eq!(client.recv().unwrap(), Some("hello".into()));
    /// ```
    #[cfg(all(feature = "tokio", feature = "websocket"))]
    pub fn websocket_async<F>(talk: F) -> Self
    where
        F: for<'a> FnOnce(&'a mut crate::AsyncWebSocket) -> crate::Pending<'a, Result<()>> + Send + 'static,
    {
        Self {
            parts: Parts { body: Body::AsyncWebSocket(Box::new(talk)), ..Parts::default() },
            refused: None,
        }
    }

    /// The same with one header field; another of this name is replaced. A name or a value that can't stand in a
    /// header makes the answer a 500.
    #[must_use]
    pub fn with_header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let (name, value) = (name.as_ref(), value.as_ref());
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) if name == http::header::CONTENT_TYPE => {
                self.parts.content_type = Some(value)
            }
            (Ok(name), Ok(value)) => {
                self.parts.headers.insert(name, value);
            }
            _ => {
                self.refused =
                    Some(Error::msg(format_args!("{name:?} with {value:?} can't stand in a header")))
            }
        }
        self
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.parts.status = status;
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.parts.status
    }

    /// The header field of this name, where its value is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = match &self.parts.content_type {
            Some(value) if name.eq_ignore_ascii_case("content-type") => Some(value),
            _ => self.parts.headers.get(name),
        };
        value.and_then(|value| value.to_str().ok())
    }

    /// Its body; empty for one that is yet to be written.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.parts.body {
            Body::Whole(bytes) => bytes,
            _ => &NONE,
        }
    }

    /// Its body as text.
    ///
    /// # Errors
    /// Where it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(self.body())?)
    }

    /// Its body, read as JSON.
    ///
    /// # Errors
    /// Naming the field where it is not what `T` asks for.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        arguments::value_from_json(self.body()).map_err(Error::msg)
    }

    /// A change of protocol: `carry` has the exchange until it is through.
    #[cfg(feature = "axum")]
    pub(crate) fn tunnel<F>(carry: F) -> Self
    where
        F: FnOnce(std::sync::Arc<crate::sys::host::Exchange>) -> crate::Pending<'static, Result<()>>
            + Send
            + 'static,
    {
        let (status, body) = (StatusCode::SWITCHING_PROTOCOLS, Body::Tunnel(Box::new(carry)));
        Self { parts: Parts { status, body, ..Parts::default() }, refused: None }
    }

    /// An answer with a head as the `http` crate has it.
    #[cfg(feature = "axum")]
    pub(crate) fn with_head(mut self, status: StatusCode, mut headers: HeaderMap) -> Self {
        let content_type = headers.remove(http::header::CONTENT_TYPE);
        self.parts = Parts { status, content_type, headers, ..self.parts };
        self
    }

    /// The same; a stream without a type stays so.
    pub(crate) fn untyped(mut self) -> Self {
        self.parts.untyped = true;
        self
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn is_async(&self) -> bool {
        match self.parts.body {
            Body::Async(_) => true,
            #[cfg(feature = "websocket")]
            Body::AsyncWebSocket(_) => true,
            #[cfg(feature = "axum")]
            Body::Tunnel(_) => true,
            _ => false,
        }
    }

    pub(crate) fn into_parts(self) -> Result<Parts> {
        match self.refused {
            None => Ok(self.parts),
            Some(error) => Err(error),
        }
    }

    pub(crate) fn append(&mut self, name: &[u8], value: &[u8]) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            if name == http::header::CONTENT_TYPE {
                self.parts.content_type = Some(value);
            } else {
                self.parts.headers.append(name, value);
            }
        }
    }

    fn typed(content_type: &'static str, body: Bytes) -> Self {
        let content_type = Some(HeaderValue::from_static(content_type));
        let body = Body::Whole(body);
        Self { parts: Parts { content_type, body, ..Parts::default() }, refused: None }
    }
}

/// A value that is answered as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// What `call` may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer to an HTTP request",
    note = "an answer is `()`, `&str`, `String`, `Vec<u8>`, `Bytes`, `Json<T>`, `(StatusCode, T)`, `Response`, or a `Result` of one of them"
)]
pub trait IntoResponse {
    /// The answer.
    ///
    /// # Errors
    /// What is answered as an error instead.
    fn into_response(self) -> Result<Response>;
}

impl IntoResponse for Response {
    fn into_response(self) -> Result<Response> {
        Ok(self)
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Result<Response> {
        Ok(Response::default())
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Result<Response> {
        Ok(Response::typed(TEXT, Bytes::copy_from_slice(self.as_bytes())))
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Result<Response> {
        Ok(Response::typed(TEXT, self.into()))
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Result<Response> {
        Ok(Response::typed(OCTETS, self.into()))
    }
}

impl IntoResponse for &[u8] {
    fn into_response(self) -> Result<Response> {
        Ok(Response::typed(OCTETS, Bytes::copy_from_slice(self)))
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Result<Response> {
        Ok(Response::typed(OCTETS, self))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response> {
        Ok(Response::typed(JSON, serde_json::to_vec(&self.0)?.into()))
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Result<Response> {
        Ok(self.1.into_response()?.with_status(self.0))
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for Result<T, E> {
    fn into_response(self) -> Result<Response> {
        self.map_err(Into::into)?.into_response()
    }
}

impl<B: Into<Bytes>> IntoResponse for http::Response<B> {
    fn into_response(self) -> Result<Response> {
        let (parts, body) = self.into_parts();
        let mut response = Response::new(parts.status, body);
        for (name, value) in &parts.headers {
            response.append(name.as_str().as_bytes(), value.as_bytes());
        }
        Ok(response)
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const OCTETS: &str = "application/octet-stream";
const JSON: &str = "application/json";

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(answer: impl IntoResponse) -> (u16, Option<String>, Vec<u8>) {
        let response = answer.into_response().unwrap();
        let body = response.body().to_vec();
        let parts = response.into_parts().unwrap();
        let content_type = parts.content_type.map(|value| value.to_str().unwrap().to_owned());
        (parts.status.as_u16(), content_type, body)
    }

    #[test]
    fn answers_know_their_type() {
        assert_eq!(answer(()), (200, None, vec![]));
        assert_eq!(answer("hi"), (200, Some(TEXT.to_owned()), b"hi".to_vec()));
        assert_eq!(answer("hi".to_owned()), (200, Some(TEXT.to_owned()), b"hi".to_vec()));
        assert_eq!(answer(vec![1u8]), (200, Some(OCTETS.to_owned()), vec![1]));
        assert_eq!(answer(Json([1, 2])), (200, Some(JSON.to_owned()), b"[1,2]".to_vec()));
        assert_eq!(answer((StatusCode::CREATED, "hi")), (201, Some(TEXT.to_owned()), b"hi".to_vec()));
        assert_eq!(answer(Response::new(204, "")), (204, None, vec![]));
    }

    #[test]
    fn a_header_that_can_not_be_is_told_of_in_one_line() {
        for (name, value) in [("x\ny", "v"), ("x", "v\r\nset-cookie: w"), ("", "v")] {
            let error = Response::new(200, "").with_header(name, value).into_parts().unwrap_err();
            assert!(!error.message().contains(['\r', '\n']), "{}", error.message());
        }
    }

    #[test]
    fn a_failed_answer_is_its_error() {
        let failed: Result<&'static str> = Err(Error::status(422, "no"));
        assert_eq!(failed.into_response().unwrap_err().code(), Some(StatusCode::UNPROCESSABLE_ENTITY));
        let failed: Result<(), std::num::ParseIntError> = "x".parse::<u8>().map(|_| ());
        assert_eq!(failed.into_response().unwrap_err().code(), None);
    }

    #[test]
    fn what_http_does_not_allow_is_refused() {
        assert!(Response::new(200, "").with_header("x", "a\r\nb: c").into_parts().is_err());
        assert!(Response::new(200, "").with_header("x y", "a").into_parts().is_err());
        assert!(Response::new(7u16, "").into_parts().is_err());
    }

    #[test]
    fn a_content_type_of_the_authors_own_stands() {
        let response = "<p>".into_response().unwrap().with_header("Content-Type", "text/html");
        assert_eq!(response.header("content-type"), Some("text/html"));
        assert!(response.into_parts().unwrap().headers.is_empty());
    }
}
