//! The access log's lines: what is known of a request that is over, in each format. Knows no clock, file or thread.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use decurion_api::spec::AccessLog;
use serde::Serialize;

use crate::http1::Version;
use crate::http1::target::{self, Target};

/// A request that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `X-Request-ID`, the client's or ours.
    pub id: String,
    /// Where it came from.
    pub client: Option<IpAddr>,
    /// What could not be read as a request has no method, target and version.
    pub line: Option<RequestLine>,
    /// As sent; 499 where the client left before there was one.
    pub status: u16,
    /// Of the body, without chunk sizes.
    pub bytes: u64,
    /// From the head's end to the answer's.
    pub took: Duration,
    /// The deployment that it was routed to.
    pub deployment: Option<String>,
    /// The replica that had it last.
    pub replica: Option<String>,
    /// `Referer`.
    pub referer: Vec<u8>,
    /// `User-Agent`.
    pub user_agent: Vec<u8>,
    /// The whole answer was passed on.
    pub complete: bool,
}

/// The first line of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// Of the known ones.
    pub method: String,
    /// Normalised path and the query as it stood.
    pub target: Vec<u8>,
    /// 1.0 or 1.1.
    pub version: Version,
}

impl RequestLine {
    /// The first line of a head that has been parsed before. `None`: it can't have been.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        let head = std::str::from_utf8(head.trim_ascii_start().split(|byte| *byte == b'\r').next()?).ok()?;
        let mut words = head.splitn(3, ' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let version = if version == "HTTP/1.0" { Version::Http10 } else { Version::Http11 };
        Some(Self::new(method, &target::parse(target, method).ok()?, version))
    }

    /// From what a head says.
    #[must_use]
    pub fn new(method: &str, target: &Target<'_>, version: Version) -> Self {
        let mut all = target.path.to_vec();
        if !target.query.is_empty() {
            all.push(b'?');
            all.extend_from_slice(target.query);
        }
        Self { method: method.to_owned(), target: all, version }
    }
}

/// Who takes entries. Never blocks: what finds no room is dropped, and counted.
pub trait Sink: Send + Sync + std::fmt::Debug {
    /// Takes one.
    fn offer(&self, entry: Entry);
    /// Whether `Referer` and `User-Agent` are of use.
    fn wants_headers(&self) -> bool {
        true
    }
}

/// Status of a request whose client left before there was an answer, as nginx has it.
pub const CLIENT_LEFT: u16 = 499;

impl Entry {
    /// Appends the line with its end; `unix_ms`: the time of day. [`AccessLog::Off`] has none.
    pub fn write(&self, format: AccessLog, unix_ms: u64, out: &mut String) {
        match format {
            AccessLog::Off => return,
            AccessLog::Text => self.text(unix_ms, out),
            AccessLog::Json => self.json(unix_ms, out),
            AccessLog::Combined => self.combined(unix_ms, out),
        }
        out.push('\n');
    }

    /// Ray Serve's form. By hand: it is written for each request, and `format_args!` costs several times as much.
    fn text(&self, unix_ms: u64, out: &mut String) {
        let Time { year, month, day, hour, minute, second, millis } = Time::of(unix_ms);
        out.push_str("INFO ");
        decimal(year, 4, out);
        for (mark, number, width) in [
            ('-', month as u64, 2),
            ('-', day, 2),
            (' ', hour, 2),
            (':', minute, 2),
            (':', second, 2),
            (',', millis, 3),
        ] {
            out.push(mark);
            decimal(number, width, out);
        }
        out.push(' ');
        for word in [self.deployment.as_deref(), self.replica.as_deref(), Some(self.id.as_str())] {
            escape(word.filter(|word| !word.is_empty()).unwrap_or("-").as_bytes(), out);
            out.push(' ');
        }
        let (method, target) =
            self.line.as_ref().map_or(("-", &b"-"[..]), |line| (&line.method, &line.target));
        out.push_str("-- ");
        out.push_str(method);
        out.push(' ');
        escape(target, out);
        out.push(' ');
        decimal(u64::from(self.status), 1, out);
        out.push(' ');
        let tenths = (self.took.as_micros() + 50) / 100;
        let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
        decimal(tenths / 10, 1, out);
        out.push('.');
        decimal(tenths % 10, 1, out);
        out.push_str("ms");
    }

    fn json(&self, unix_ms: u64, out: &mut String) {
        let Time { year, month, day, hour, minute, second, millis } = Time::of(unix_ms);
        let line = Line {
            time: format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"),
            request_id: &self.id,
            client: self.client,
            method: self.line.as_ref().map(|line| line.method.as_str()),
            target: self.line.as_ref().map(|line| String::from_utf8_lossy(&line.target)),
            status: self.status,
            bytes: self.bytes,
            duration_s: self.took.as_secs_f64(),
            deployment: self.deployment.as_deref(),
            replica: self.replica.as_deref(),
            referer: String::from_utf8_lossy(&self.referer),
            user_agent: String::from_utf8_lossy(&self.user_agent),
            complete: self.complete,
        };
        // Nothing in it can fail to be written.
        out.push_str(&serde_json::to_string(&line).unwrap_or_default());
    }

    /// nginx's `combined`.
    fn combined(&self, unix_ms: u64, out: &mut String) {
        let Time { year, month, day, hour, minute, second, .. } = Time::of(unix_ms);
        match self.client {
            Some(address) => _ = write!(out, "{address}"),
            None => out.push('-'),
        }
        let month = MONTHS.get(month.saturating_sub(1)).unwrap_or(&"-");
        let _ = write!(out, " - - [{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000] \"");
        if let Some(line) = &self.line {
            let _ = write!(out, "{} ", line.method);
            escape(&line.target, out);
            out.push_str(match line.version {
                Version::Http10 => " HTTP/1.0",
                Version::Http11 => " HTTP/1.1",
            });
        }
        let _ = write!(out, "\" {} {}", self.status, self.bytes);
        for field in [&self.referer, &self.user_agent] {
            out.push_str(" \"");
            escape(if field.is_empty() { b"-" } else { field }, out);
            out.push('"');
        }
    }
}

#[derive(Serialize)]
struct Line<'e> {
    time: String,
    request_id: &'e str,
    client: Option<IpAddr>,
    method: Option<&'e str>,
    target: Option<std::borrow::Cow<'e, str>>,
    status: u16,
    bytes: u64,
    duration_s: f64,
    deployment: Option<&'e str>,
    replica: Option<&'e str>,
    referer: std::borrow::Cow<'e, str>,
    user_agent: std::borrow::Cow<'e, str>,
    complete: bool,
}

/// As nginx escapes: what is not printable ASCII, quotes and backslashes become `\xHH`, so that no client can end a
/// line or a field.
fn escape(bytes: &[u8], out: &mut String) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // As a rule.
    if let (true, Ok(text)) = (bytes.iter().all(plain), std::str::from_utf8(bytes)) {
        return out.push_str(text);
    }
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => _ = write!(out, "\\x{byte:02X}"),
            _ => out.push(char::from(*byte)),
        }
    }
}

/// A number of at least so many digits.
fn decimal(mut number: u64, width: usize, out: &mut String) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || at > digits.len() - width {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

/// A time of day in UTC.
struct Time {
    year: u64,
    month: usize,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millis: u64,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Time {
    /// The Gregorian calendar in eras of 400 years that begin on the first of March, so that a leap day is the last
    /// day of a year.
    fn of(unix_ms: u64) -> Time {
        let seconds = unix_ms / 1000;
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Time {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: usize::try_from(month).unwrap_or(0),
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            millis: unix_ms % 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29 23:59:58.007 UTC
    const AT: u64 = 1_709_251_198_007;

    fn entry() -> Entry {
        Entry {
            id: "3f2a".to_owned(),
            client: Some(IpAddr::from([127, 0, 0, 1])),
            line: Some(RequestLine {
                method: "GET".to_owned(),
                target: b"/hello?a=1".to_vec(),
                version: Version::Http11,
            }),
            status: 200,
            bytes: 12,
            took: Duration::from_micros(5_320),
            deployment: Some("hello".to_owned()),
            replica: Some("hello-000001".to_owned()),
            referer: Vec::new(),
            user_agent: b"curl/8".to_vec(),
            complete: true,
        }
    }

    fn written(entry: &Entry, format: AccessLog) -> String {
        let mut out = String::new();
        entry.write(format, AT, &mut out);
        out
    }

    #[test]
    fn text_is_as_ray_serve_has_it() {
        assert_eq!(
            written(&entry(), AccessLog::Text),
            "INFO 2024-02-29 23:59:58,007 hello hello-000001 3f2a -- GET /hello?a=1 200 5.3ms\n"
        );
    }

    #[test]
    fn a_first_line_is_read_as_the_whole_head_was() {
        let of = |head: &str| {
            RequestLine::of(head.as_bytes()).map(|line| (line.method, line.target, line.version))
        };
        let line = |method: &str, target: &str, version| {
            Some((method.to_owned(), target.as_bytes().to_vec(), version))
        };
        assert_eq!(
            of("GET /a%41/../b?c=d HTTP/1.1\r\nHost: x\r\n\r\n"),
            line("GET", "/b?c=d", Version::Http11)
        );
        assert_eq!(of("\r\nPOST /x HTTP/1.0\r\n\r\n"), line("POST", "/x", Version::Http10));
        assert_eq!(of("OPTIONS * HTTP/1.1\r\n\r\n"), line("OPTIONS", "*", Version::Http11));
        assert_eq!(of("nonsense"), None);
    }

    #[test]
    fn numbers_are_as_usual() {
        let mut out = String::new();
        for (number, width) in [(0, 1), (7, 2), (12, 1), (2024, 4), (u64::MAX, 1)] {
            decimal(number, width, &mut out);
            out.push(' ');
        }
        assert_eq!(out, "0 07 12 2024 18446744073709551615 ");
        let slow = Entry { took: Duration::from_micros(61_234_960), ..entry() };
        assert!(written(&slow, AccessLog::Text).ends_with(" 200 61235.0ms\n"));
    }

    #[test]
    fn combined_is_as_nginx_has_it() {
        assert_eq!(
            written(&entry(), AccessLog::Combined),
            "127.0.0.1 - - [29/Feb/2024:23:59:58 +0000] \"GET /hello?a=1 HTTP/1.1\" 200 12 \"-\" \"curl/8\"\n"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let line = written(&entry(), AccessLog::Json);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(json["time"], "2024-02-29T23:59:58.007Z");
        assert_eq!(json["target"], "/hello?a=1");
        assert_eq!(json["duration_s"], 0.00532);
        assert_eq!(json["replica"], "hello-000001");
        assert_eq!(json["client"], "127.0.0.1");
    }

    #[test]
    fn nothing_that_a_client_sends_ends_a_line_or_a_field() {
        let mut hostile = entry();
        hostile.user_agent = b"a\" \\ \n\r\t\x1b[1m\x7f\xff".to_vec();
        if let Some(line) = &mut hostile.line {
            line.target = b"/\"\n\x00\xc3".to_vec();
        }
        let combined = written(&hostile, AccessLog::Combined);
        assert!(combined.contains("\"GET /\\x22\\x0A\\x00\\xC3 HTTP/1.1\""), "{combined}");
        assert!(combined.ends_with("\"a\\x22 \\x5C \\x0A\\x0D\\x09\\x1B[1m\\x7F\\xFF\"\n"), "{combined}");
        assert!(written(&hostile, AccessLog::Text).contains("GET /\\x22\\x0A\\x00\\xC3 200"));
        let json = written(&hostile, AccessLog::Json);
        assert!(json.trim_end().bytes().all(|byte| byte >= b' '), "{json}");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["user_agent"], "a\" \\ \n\r\t\u{1b}[1m\u{7f}\u{fffd}");
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let mut unread = entry();
        (unread.line, unread.client, unread.deployment, unread.replica) = (None, None, None, None);
        unread.status = 400;
        assert!(written(&unread, AccessLog::Text).ends_with(" - - 3f2a -- - - 400 5.3ms\n"));
        assert!(
            written(&unread, AccessLog::Combined)
                .starts_with("- - - [29/Feb/2024:23:59:58 +0000] \"\" 400 12 ")
        );
        assert_eq!(written(&unread, AccessLog::Off), "");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let date = |unix_s: u64| {
            let time = Time::of(unix_s * 1000);
            (time.year, time.month, time.day)
        };
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(951_782_400), (2000, 2, 29));
        assert_eq!(date(1_735_689_599), (2024, 12, 31));
        assert_eq!(date(4_107_542_400), (2100, 3, 1));
    }
}
