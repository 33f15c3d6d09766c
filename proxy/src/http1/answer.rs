//! Response heads: what a deployment or the proxy itself answers becomes bytes, or is refused as a whole.
//!
//! Names and values come from users' code, so each is checked: a line end in one would let a handler, or a client
//! through it, write the next response.

use super::framing::{digits, is_token};
use super::head::{Version, is_hop_by_hop};

/// How long a response's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Known(u64),
    /// Until its end comes.
    Unknown,
}

/// How a response's body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum BodyOut {
    /// It has none; whatever comes is dropped (HEAD, 204, 205, 304).
    None,
    /// So many bytes, announced.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Until the connection closes: HTTP/1.0 has no chunks.
    Close,
}

/// What a response's head depends on beside its own fields.
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead<'a> {
    /// 200 to 599.
    pub status: u16,
    /// Of the body.
    pub length: Length,
    /// The request's version.
    pub version: Version,
    /// Whether the request was a HEAD.
    pub to_head: bool,
    /// Whether the connection stays open afterwards. An HTTP/1.0 body of unknown length ends it anyway.
    pub keep_alive: bool,
    /// Echoed as `X-Request-ID`; empty: none.
    pub request_id: &'a str,
    /// `Date` (RFC 9110, 6.6.1).
    pub date: &'a [u8],
}

/// Why a deployment's response can't be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// Not 200 to 599.
    #[error("{0} is no final status")]
    Status(u16),
    /// Not a token.
    #[error("malformed header name '{0}'")]
    Name(String),
    /// A control character.
    #[error("control character in the value of header '{0}'")]
    Value(String),
    /// A 101 that is no answer to what the client has offered.
    #[error("status 101 {0}")]
    Switch(&'static str),
}

impl AnswerHead<'_> {
    /// Appends the head to `out`, its empty line included. Says how the body goes on from there. On an error `out` is
    /// as it was.
    ///
    /// # Errors
    /// [`BadAnswer`] names the field that can't stand in a head.
    pub fn write<'f>(
        &self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<BodyOut, BadAnswer> {
        let start = out.len();
        let result = self.try_write(fields, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn try_write<'f>(
        &self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<BodyOut, BadAnswer> {
        if !(200..600).contains(&self.status) {
            return Err(BadAnswer::Status(self.status));
        }
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(out, u64::from(self.status));
        out.push(b' ');
        out.extend_from_slice(reason(self.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        let mut declared = None;
        let mut has_date = false;
        let mut upgrade = "";
        for (name, value) in fields {
            check(name, value)?;
            match ours(name) {
                Ours::Length => declared = digits(value),
                // RFC 9110, 15.5.22: what the client should switch to is for the deployment to say.
                Ours::Dropped if self.status == 426 && name.eq_ignore_ascii_case(b"upgrade") => {
                    upgrade = "upgrade"
                }
                Ours::Dropped => continue,
                Ours::Date => has_date = true,
                Ours::Not => {}
            }
            if ours(name) != Ours::Length {
                push_field(out, name, value);
            }
        }
        if !has_date {
            push_field(out, b"date", self.date);
        }
        if !self.request_id.is_empty() {
            push_field(out, b"x-request-id", self.request_id.as_bytes());
        }
        let body = self.body(declared, out);
        let keep_alive = self.keep_alive && body != BodyOut::Close;
        let persistence = match (keep_alive, self.version) {
            (false, _) => "close",
            (true, Version::Http10) => "keep-alive",
            (true, Version::Http11) => "",
        };
        push_connection(out, persistence, upgrade);
        out.extend_from_slice(b"\r\n");
        Ok(body)
    }

    /// Writes the framing fields (RFC 9112, 6.3; RFC 9110, 8.6). `declared` is a handler's own Content-Length: it
    /// counts only where no body follows that would tell.
    fn body(&self, declared: Option<u64>, out: &mut Vec<u8>) -> BodyOut {
        let known = match self.length {
            Length::Known(length) => Some(length),
            Length::Unknown => None,
        };
        if self.status == 204 {
            return BodyOut::None;
        }
        if self.status == 205 {
            // RFC 9110, 15.3.6: nothing, and said in a way that ends it for whoever does not know that.
            push_length(out, 0);
            return BodyOut::None;
        }
        if self.to_head || self.status == 304 {
            // A length here describes what a GET would have got; an empty body of a handler says nothing about it.
            if let Some(length) = declared.or(known.filter(|length| *length > 0)) {
                push_length(out, length);
            }
            return BodyOut::None;
        }
        match (known, self.version) {
            (Some(length), _) => {
                push_length(out, length);
                BodyOut::Length(length)
            }
            (None, Version::Http11) => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                BodyOut::Chunked
            }
            (None, Version::Http10) => BodyOut::Close,
        }
    }
}

/// Fields whose value is ours to say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ours {
    Not,
    Length,
    Date,
    Dropped,
}

pub(super) fn ours(name: &[u8]) -> Ours {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        4 if is("date") => Ours::Date,
        12 if is("x-request-id") => Ours::Dropped,
        14 if is("content-length") => Ours::Length,
        2 | 7 | 10 | 16 | 17 if std::str::from_utf8(name).is_ok_and(is_hop_by_hop) => Ours::Dropped,
        _ => Ours::Not,
    }
}

pub(super) fn check(name: &[u8], value: &[u8]) -> Result<(), BadAnswer> {
    let shown = || String::from_utf8_lossy(&name[..name.len().min(64)]).escape_debug().to_string();
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(BadAnswer::Name(shown()));
    }
    match value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..)) {
        true => Ok(()),
        false => Err(BadAnswer::Value(shown())),
    }
}

pub(super) fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn push_connection(out: &mut Vec<u8>, persistence: &str, upgrade: &str) {
    let comma = if persistence.is_empty() || upgrade.is_empty() { "" } else { ", " };
    if !persistence.is_empty() || !upgrade.is_empty() {
        for part in ["connection: ", persistence, comma, upgrade, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

fn push_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    push_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number without the formatting machinery: it stands in every response.
fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).expect("a digit fits");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the line that starts a chunk of so many bytes.
pub fn push_chunk_size(out: &mut Vec<u8>, size: usize) {
    use std::io::Write;
    write!(out, "{size:x}\r\n").expect("a Vec takes all");
}

/// The last chunk, with no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The reason phrase of a status; empty where there is no usual one (RFC 9112, 4).
#[must_use]
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: AnswerHead<'_> = AnswerHead {
        status: 200,
        length: Length::Known(5),
        version: Version::Http11,
        to_head: false,
        keep_alive: true,
        request_id: "id",
        date: b"now",
    };

    fn write(head: &AnswerHead<'_>, fields: &[(&str, &str)]) -> (String, BodyOut) {
        let mut out = Vec::new();
        let body = head
            .write(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), &mut out)
            .unwrap();
        (String::from_utf8(out).unwrap(), body)
    }

    #[test]
    fn a_head_is_written_with_what_every_response_has() {
        let (text, body) = write(&HEAD, &[("content-type", "text/plain")]);
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: now\r\nx-request-id: id\r\n\
             content-length: 5\r\n\r\n"
        );
        assert_eq!(body, BodyOut::Length(5));
    }

    #[test]
    fn fields_about_the_connection_are_ours_alone() {
        let fields = [
            ("Connection", "keep-alive, x"),
            ("Transfer-Encoding", "gzip"),
            ("Content-Length", "99"),
            ("Keep-Alive", "5"),
            ("Upgrade", "h2c"),
            ("X-Request-Id", "other"),
            ("Date", "then"),
        ];
        let (text, _) = write(&HEAD, &fields);
        assert_eq!(text, "HTTP/1.1 200 OK\r\nDate: then\r\nx-request-id: id\r\ncontent-length: 5\r\n\r\n");
    }

    #[test]
    fn a_426_says_what_to_switch_to() {
        let required = AnswerHead { status: 426, ..HEAD };
        let (text, _) = write(&required, &[("Upgrade", "websocket"), ("Connection", "x")]);
        assert!(
            text.contains("Upgrade: websocket\r\n") && text.contains("connection: upgrade\r\n"),
            "{text}"
        );
        let last = AnswerHead { keep_alive: false, ..required };
        let (text, _) = write(&last, &[("upgrade", "websocket")]);
        assert!(text.contains("connection: close, upgrade\r\n"), "{text}");
        let (text, _) = write(&last, &[]);
        assert!(text.contains("connection: close\r\n"), "{text}");
    }

    #[test]
    fn the_version_decides_how_an_unknown_length_goes_out() {
        let unknown = AnswerHead { length: Length::Unknown, ..HEAD };
        assert_eq!(write(&unknown, &[]).1, BodyOut::Chunked);
        let old = AnswerHead { version: Version::Http10, ..unknown };
        let (text, body) = write(&old, &[]);
        assert!(text.contains("connection: close") && !text.contains("chunked"), "{text}");
        assert_eq!(body, BodyOut::Close);
        let old_known = AnswerHead { version: Version::Http10, ..HEAD };
        assert!(write(&old_known, &[]).0.contains("connection: keep-alive"));
    }

    #[test]
    fn some_responses_have_no_body_whatever_comes() {
        let no_content = AnswerHead { status: 204, ..HEAD };
        let (text, body) = write(&no_content, &[("content-length", "5")]);
        assert!(!text.contains("content-length"), "{text}");
        assert_eq!(body, BodyOut::None);
        for length in [Length::Known(5), Length::Unknown] {
            let reset = AnswerHead { status: 205, length, ..HEAD };
            let (text, body) = write(&reset, &[("content-length", "5")]);
            assert!(text.contains("content-length: 0\r\n") && !text.contains("chunked"), "{text}");
            assert_eq!(body, BodyOut::None);
        }
        let to_head = AnswerHead { to_head: true, length: Length::Known(0), ..HEAD };
        let (text, body) = write(&to_head, &[("content-length", "77")]);
        assert!(text.contains("content-length: 77"), "{text}");
        assert_eq!(body, BodyOut::None);
        let not_modified = AnswerHead { status: 304, length: Length::Known(0), ..HEAD };
        assert_eq!(write(&not_modified, &[]).1, BodyOut::None);
    }

    #[test]
    fn what_would_break_out_of_a_field_is_refused_and_leaves_nothing() {
        for (name, value) in
            [("x", "a\r\nb: c"), ("x", "a\0"), ("x\r\ny", "v"), ("", "v"), ("a b", "v"), ("x:", "v")]
        {
            let mut out = b"before".to_vec();
            let fields = [(name.as_bytes(), value.as_bytes())];
            assert!(HEAD.write(fields.into_iter(), &mut out).is_err(), "{name:?} {value:?}");
            assert_eq!(out, b"before");
        }
        for status in [0, 100, 101, 199, 600, u16::MAX] {
            let mut out = Vec::new();
            let head = AnswerHead { status, ..HEAD };
            assert_eq!(head.write(std::iter::empty(), &mut out), Err(BadAnswer::Status(status)));
        }
    }

    #[test]
    fn numbers_come_out_as_they_are() {
        for number in [0, 9, 10, 12345, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
        let mut out = Vec::new();
        push_chunk_size(&mut out, 0x1f0);
        assert_eq!(out, b"1f0\r\n");
    }
}
