//! Request heads: where one ends, and what it says.
//!
//! Two steps. [`Scan`] looks for the end of the head as bytes come in, refusing every line end but CRLF, and never
//! looks at a byte twice. Then [`Head::parse`] reads the whole head at once with httparse, and checks what the RFCs
//! ask for on top.

use std::mem::MaybeUninit;
use std::time::Duration;

use decurion_api::limits::HTTP_HEADERS_MAX;

use super::framing::{FramingFields, is_token};
use super::target::{self, Target};
use super::{Framing, Refusal, host, method, trace, upgrade};

/// Header fields of one request that can be stored, whatever the configuration says.
pub const HEADERS_MAX: usize = HTTP_HEADERS_MAX as usize;
/// Bytes of a request id that we take over from a client.
pub const REQUEST_ID_MAX: usize = 128;
/// Empty lines before a request line that are skipped (RFC 9112, 2.2, asks for at least one).
const EMPTY_LINES_MAX: u8 = 4;
/// Bytes of a request line beside its target: the longest method, the version, two spaces.
const LINE_REST_MAX: usize = 64;

/// Bounds of one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes, request line and line ends included.
    pub head: usize,
    /// Header fields; at most [`HEADERS_MAX`].
    pub headers: usize,
    /// Bytes of the request target.
    pub target: usize,
}

/// Versions spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How far a head has been looked through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// First byte of the request line. `start <= line <= looked`
    start: usize,
    /// First byte of the line that is not complete yet.
    line: usize,
    /// Bytes already looked at for a line end.
    looked: usize,
    empty_lines: u8,
    first_line_done: bool,
}

impl Scan {
    /// Looks at the bytes that are new in `buffer`, which holds everything since the request's first byte. Gives the
    /// range of the head once it is complete: from the request line to the empty line, both included.
    ///
    /// # Errors
    /// [`Refusal`] for a bare LF, for what is too long, and for what can't become a request line.
    pub fn advance(
        &mut self,
        buffer: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<std::ops::Range<usize>>, Refusal> {
        while let Some(found) = memchr::memchr(b'\n', &buffer[self.looked..]) {
            let lf = self.looked + found;
            let line = &buffer[self.line..lf];
            self.looked = lf + 1;
            if !self.first_line_done && line != b"\r" {
                self.check_first_line(line, limits)?;
            }
            if lf + 1 - self.start > limits.head {
                return Err(Refusal::HeadTooLarge);
            }
            if line.last() != Some(&b'\r') {
                return Err(Refusal::BareLf);
            }
            let is_empty = line.len() == 1;
            self.line = lf + 1;
            match (is_empty, self.first_line_done) {
                (true, true) => return Ok(Some(self.start..self.line)),
                (true, false) => {
                    self.empty_lines += 1;
                    if self.empty_lines > EMPTY_LINES_MAX {
                        return Err(Refusal::EmptyLines);
                    }
                    self.start = self.line;
                }
                (false, _) => self.first_line_done = true,
            }
        }
        self.looked = buffer.len();
        if !self.first_line_done {
            self.check_first_line(&buffer[self.start..], limits)?;
        }
        match buffer.len() - self.start > limits.head {
            true => Err(Refusal::HeadTooLarge),
            false => Ok(None),
        }
    }

    /// What can be refused of a request line before it is complete: what is too long already, and what no request
    /// starts with (a TLS hello, say), so that nobody waits for its end. Comes to the same wherever input is cut.
    fn check_first_line(&self, line: &[u8], limits: &HeadLimits) -> Result<(), Refusal> {
        let name = line.iter().position(|b| !is_token(*b)).unwrap_or(line.len());
        match line.get(name) {
            _ if name > LINE_REST_MAX => return Err(Refusal::Method),
            Some(b' ') if name > 0 => {}
            Some(b'\r') if line.len() == 1 => {}
            Some(_) => return Err(Refusal::RequestLine),
            None => {}
        }
        match line.len() > limits.head.min(limits.target + LINE_REST_MAX) {
            true => Err(Refusal::TargetTooLong),
            false => Ok(()),
        }
    }
}

/// Room for the header fields of one head, on the caller's stack; never initialised before it is used.
#[derive(Debug)]
pub struct Storage<'b>([MaybeUninit<httparse::Header<'b>>; HEADERS_MAX]);

impl Storage<'_> {
    /// Empty room.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default would look cheap to copy about")]
    pub fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; HEADERS_MAX])
    }
}

/// What one request's head says.
#[derive(Debug)]
pub struct Head<'h, 'b> {
    /// A known method.
    pub method: &'b str,
    /// What it is about.
    pub target: Target<'b>,
    /// 1.0 or 1.1.
    pub version: Version,
    /// Every field, in order, names as they were written.
    pub headers: &'h [httparse::Header<'b>],
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client wants to send more requests (RFC 9112, 9.3).
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before it sends the body (RFC 9110, 10.1.1).
    pub expect_continue: bool,
    /// `X-Request-ID`, where there is one and it is fit to stand in a log line.
    pub request_id: Option<&'b str>,
    /// `traceparent`, where there is one and it is well-formed.
    pub traceparent: Option<&'b str>,
    /// `serve_multiplexed_model_id`.
    pub model_id: Option<&'b str>,
    /// `x-server-timing: 1`: the client wants to know where its time went.
    pub server_timing: bool,
    /// `x-request-timeout-seconds`: zero means no limit.
    pub timeout: Option<Duration>,
    /// `Upgrade`, where the client offers to change the protocol after this request (RFC 9110, 7.8).
    pub upgrade: Option<&'b [u8]>,
    /// Whether `Connection` names fields beside the usual ones, which are then not passed on.
    nominates: bool,
    /// Whether there are fields that were not taken for what they say, and are not passed on either: a deployment is not
    /// to find another id or trace in them than those that it is given.
    has_unfit: bool,
}

impl<'h, 'b> Head<'h, 'b> {
    /// Reads a whole head, as [`Scan::advance`] has found it.
    ///
    /// # Errors
    /// [`Refusal`] for anything but a request that has one reading only.
    pub fn parse(head: &'b [u8], storage: &'h mut Storage<'b>, limits: &HeadLimits) -> Result<Self, Refusal> {
        let mut request = httparse::Request::new(&mut []);
        let room = &mut storage.0[..limits.headers.min(HEADERS_MAX)];
        match request.parse_with_uninit_headers(head, room) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(Refusal::Header),
            Err(error) => return Err(refusal_of(error, head, limits)),
        }
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(Refusal::RequestLine);
        };
        if target.len() > limits.target {
            return Err(Refusal::TargetTooLong);
        }
        if !method::is_known(method) {
            return Err(Refusal::Method);
        }
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let target = target::parse(target, method)?;
        let headers: &'h [httparse::Header<'b>] = request.headers;
        let fields = Fields::gather(headers)?;
        if !fields.host_seen && version == Version::Http11 {
            return Err(Refusal::HostMissing);
        }
        let framing = fields.framing.verdict(version)?;
        if method == "TRACE" && framing != Framing::None {
            return Err(Refusal::TraceBody);
        }
        // RFC 9110, 7.8: ignored in HTTP/1.0, and where it is not named in Connection. An offer that is malformed, or
        // comes with a body or with a method that has an effect of its own, is none.
        let offers = version == Version::Http11 && method == "GET" && framing == Framing::None;
        let upgrade = fields.upgrade().filter(|_| offers);
        // RFC 9110, 10.1.1: an expectation in an HTTP/1.0 request is ignored.
        let expects = if version == Version::Http11 { fields.expectation } else { Expectation::None };
        if expects == Expectation::Unknown {
            return Err(Refusal::Expectation);
        }
        Ok(Self {
            method,
            target,
            version,
            headers,
            framing,
            keep_alive: !fields.close && (version == Version::Http11 || fields.keep_alive),
            expect_continue: expects == Expectation::Continue && framing != Framing::None,
            request_id: fields.request_id,
            traceparent: fields.traceparent,
            model_id: fields.model_id,
            server_timing: fields.server_timing,
            timeout: fields.timeout,
            upgrade,
            nominates: fields.nominates,
            has_unfit: fields.has_unfit(),
        })
    }

    /// The fields that a deployment gets: all but those that are about this connection (RFC 9110, 7.6.1), and those that
    /// were not taken for what they say. In an
    /// absolute-form request the target's authority stands in for `Host` (RFC 9112, 3.2.2). An offer to change the
    /// protocol is the deployment's to take.
    pub fn forwarded(&self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> + use<'_, 'h, 'b> {
        let authority = self.target.authority;
        let fields = self.headers.iter().filter(move |header| !self.stays_here(header.name));
        let fields = fields.map(move |header| match authority {
            Some(authority) if header.name.eq_ignore_ascii_case("host") => {
                (header.name.as_bytes(), authority.as_bytes())
            }
            _ => (header.name.as_bytes(), header.value),
        });
        let offer = self.upgrade.map(|value| [(&b"connection"[..], &b"upgrade"[..]), (b"upgrade", value)]);
        fields.chain(offer.into_iter().flatten())
    }

    fn stays_here(&self, name: &str) -> bool {
        is_hop_by_hop(name)
            || (self.nominates && self.is_nominated(name))
            || (self.has_unfit && self.is_unfit(name))
    }

    fn is_unfit(&self, name: &str) -> bool {
        let unfit = |known: &str, taken: Option<&str>| taken.is_none() && name.eq_ignore_ascii_case(known);
        unfit("x-request-id", self.request_id) || unfit("traceparent", self.traceparent)
    }

    /// Whether some `Connection` field names this one. What every handler relies on can't be taken away so.
    fn is_nominated(&self, name: &str) -> bool {
        if ["host", "content-length", "x-request-id", "authorization"]
            .iter()
            .any(|kept| name.eq_ignore_ascii_case(kept))
        {
            return false;
        }
        let connection = self.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
        connection
            .flat_map(|header| header.value.split(|b| *b == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// Fields about one connection, never passed on in either direction.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    let known: &[&str] = match name.len() {
        2 => &["te"],
        7 => &["upgrade", "trailer"],
        10 => &["connection", "keep-alive"],
        16 => &["proxy-connection"],
        17 => &["transfer-encoding"],
        _ => &[],
    };
    known.iter().any(|hop| name.eq_ignore_ascii_case(hop))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expectation {
    #[default]
    None,
    Continue,
    Unknown,
}

/// Everything that one pass over the fields finds.
#[derive(Debug, Default)]
struct Fields<'b> {
    host_seen: bool,
    framing: FramingFields,
    close: bool,
    keep_alive: bool,
    nominates: bool,
    expectation: Expectation,
    request_ids: u8,
    request_id: Option<&'b str>,
    traceparents: u8,
    traceparent: Option<&'b str>,
    model_id: Option<&'b str>,
    server_timing: bool,
    timeout: Option<Duration>,
    upgrades: u8,
    upgrade: Option<&'b [u8]>,
    upgrade_named: bool,
}

impl<'b> Fields<'b> {
    fn gather(headers: &[httparse::Header<'b>]) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            // By length first: most fields are told apart without looking at them.
            match header.name.len() {
                4 if is("host") => fields.host(header.value)?,
                6 if is("expect") => fields.expect(header.value),
                7 if is("upgrade") => fields.offer(header.value),
                10 if is("connection") => fields.connection(header.value),
                11 if is("traceparent") => fields.trace(header.value),
                12 if is("x-request-id") => fields.id(header.value),
                14 if is("content-length") => fields.framing.content_length(header.value)?,
                15 if is("x-server-timing") => {
                    fields.server_timing = matches!(header.value, b"1" | b"on" | b"true")
                }
                17 if is("transfer-encoding") => fields.framing.transfer_encoding(header.value)?,
                25 if is("x-request-timeout-seconds") => fields.timeout = seconds(header.value),
                26 if is_model_id(header.name) => fields.model_id = printable(header.value, REQUEST_ID_MAX),
                _ => {}
            }
        }
        Ok(fields)
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.host_seen, true) {
            return Err(Refusal::HostTwice);
        }
        match host::is_valid(value) {
            true => Ok(()),
            false => Err(Refusal::Host),
        }
    }

    fn expect(&mut self, value: &[u8]) {
        let good = value.eq_ignore_ascii_case(b"100-continue") && self.expectation != Expectation::Unknown;
        self.expectation = if good { Expectation::Continue } else { Expectation::Unknown };
    }

    /// Of several none is the one.
    fn id(&mut self, value: &'b [u8]) {
        self.request_ids = self.request_ids.saturating_add(1);
        self.request_id = printable(value, REQUEST_ID_MAX).filter(|_| self.request_ids == 1);
    }

    fn has_unfit(&self) -> bool {
        (self.request_ids > 0 && self.request_id.is_none())
            || (self.traceparents > 0 && self.traceparent.is_none())
    }

    /// Trace Context, 3.2: what can't be read is as good as absent, and so are several.
    fn trace(&mut self, value: &'b [u8]) {
        self.traceparents = self.traceparents.saturating_add(1);
        let is_good = self.traceparents == 1 && trace::is_valid(value);
        self.traceparent = if is_good { std::str::from_utf8(value).ok() } else { None };
    }

    fn offer(&mut self, value: &'b [u8]) {
        self.upgrades = self.upgrades.saturating_add(1);
        self.upgrade = upgrade::is_valid(value).then_some(value);
    }

    fn upgrade(&self) -> Option<&'b [u8]> {
        self.upgrade.filter(|_| self.upgrade_named && self.upgrades == 1)
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|b| *b == b',') {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade_named = true;
            } else if !option.is_empty() {
                self.nominates = true;
            }
        }
    }
}

/// `serve_multiplexed_model_id`, `-` and `_` alike.
fn is_model_id(name: &str) -> bool {
    name.bytes()
        .zip(b"serve_multiplexed_model_id")
        .all(|(a, b)| a.eq_ignore_ascii_case(b) || (*b == b'_' && a == b'-'))
}

/// A value of visible ASCII, not empty, at most `max` bytes: it can stand in a log line and a header unescaped.
fn printable(value: &[u8], max: usize) -> Option<&str> {
    let fits = !value.is_empty() && value.len() <= max && value.iter().all(u8::is_ascii_graphic);
    if fits { std::str::from_utf8(value).ok() } else { None }
}

/// Seconds with a fraction; zero and less mean none; what is not a number is ignored, as Ray Serve has it.
fn seconds(value: &[u8]) -> Option<Duration> {
    let seconds: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    match seconds {
        _ if !seconds.is_finite() => None,
        _ if seconds <= 0.0 => Some(Duration::ZERO),
        // A day is longer than anybody waits, and keeps sums far from the end of u64. What rounds to nothing is no
        // more time than nothing, and not no limit.
        _ => Some(Duration::from_secs_f64(seconds.min(86_400.0)).max(Duration::from_nanos(1))),
    }
}

/// Says in our words what httparse found. It has no error of its own for a version that exists and is not ours.
fn refusal_of(error: httparse::Error, head: &[u8], limits: &HeadLimits) -> Refusal {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let target_len = line.split(|b| *b == b' ').nth(1).map_or(0, <[u8]>::len);
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooManyHeaders,
        httparse::Error::Version if target_len > limits.target => Refusal::TargetTooLong,
        httparse::Error::Version if names_other_version(line) => Refusal::Version,
        httparse::Error::Version | httparse::Error::Token | httparse::Error::Status => Refusal::RequestLine,
        httparse::Error::NewLine if has_bare_cr(head) => Refusal::BareCr,
        httparse::Error::NewLine => Refusal::RequestLine,
        httparse::Error::HeaderName if has_fold(head) => Refusal::Fold,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Header,
    }
}

/// `HTTP/` DIGIT `.` DIGIT at the end of a line of three words.
fn names_other_version(line: &[u8]) -> bool {
    let mut words = line.strip_suffix(b"\r").unwrap_or(line).split(|b| *b == b' ');
    let version = words.nth(2);
    words.next().is_none()
        && matches!(version, Some([b'H', b'T', b'T', b'P', b'/', a, b'.', b])
            if a.is_ascii_digit() && b.is_ascii_digit())
}

fn has_bare_cr(head: &[u8]) -> bool {
    head.windows(2).any(|w| w[0] == b'\r' && w[1] != b'\n')
}

fn has_fold(head: &[u8]) -> bool {
    head.windows(3).any(|w| w[..2] == *b"\r\n" && matches!(w[2], b' ' | b'\t'))
}

/// What comes of a head that arrives in these pieces: for tests that cut it at different places.
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub(super) fn outcome_of(pieces: &[&[u8]], limits: &HeadLimits) -> Result<Option<String>, Refusal> {
    let mut scan = Scan::default();
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if let Some(range) = scan.advance(&buffer, limits)? {
            let mut storage = Storage::new();
            let head = Head::parse(&buffer[range.clone()], &mut storage, limits)?;
            let forwarded: Vec<_> = head.forwarded().collect();
            return Ok(Some(format!("{range:?} {head:?} {forwarded:?}")));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
