//! What the proxy answers itself: its own pages, and every status that no deployment gave.

use std::borrow::Cow;

use crate::http1::Refusal;

/// One answer of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Cow<'static, [u8]>,
    /// Seconds for `Retry-After`.
    pub(super) retry_after: Option<&'static str>,
    /// `Allow`, of a 405 and of OPTIONS.
    pub(super) allow: Option<&'static str>,
    /// What the client sends next can't be trusted, or would not be read.
    pub(super) close: bool,
}

/// `Retry-After` of every 503: whatever is missing is usually back within a second.
const RETRY_AFTER: &str = "1";

impl Page {
    pub(super) fn text(status: u16, body: impl Into<Cow<'static, str>>) -> Self {
        let body = match body.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body,
            retry_after: None,
            allow: None,
            close: false,
        }
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        Self { close: true, ..Self::text(refusal.status(), format!("Bad request: {refusal}.\n")) }
    }

    pub(super) fn not_found(path: &[u8]) -> Self {
        let path = String::from_utf8_lossy(path);
        Self::text(404, format!("Path '{path}' not found. See /-/routes for the routes."))
    }

    pub(super) fn unavailable(why: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(RETRY_AFTER), ..Self::text(503, why) }
    }

    pub(super) fn internal_error() -> Self {
        Self::text(500, "Internal Server Error")
    }

    pub(super) fn bad_gateway() -> Self {
        Self::text(502, "The replica died while it handled this request.")
    }

    pub(super) fn timed_out() -> Self {
        Self::text(504, "The request timed out.")
    }

    /// RFC 9110, 9.3.7: what the server as a whole can do.
    pub(super) fn options() -> Self {
        Self { allow: Some("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"), ..Self::text(200, "") }
    }

    pub(super) fn not_allowed() -> Self {
        Self { allow: Some("GET, HEAD"), ..Self::text(405, "Method Not Allowed") }
    }

    pub(super) fn json(body: Vec<u8>) -> Self {
        Self { content_type: "application/json", body: Cow::Owned(body), ..Self::text(200, "") }
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        [
            Some(("content-type", self.content_type)),
            self.retry_after.map(|value| ("retry-after", value)),
            self.allow.map(|value| ("allow", value)),
        ]
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }
}
