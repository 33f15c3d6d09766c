//! The access log's lines: what is known of a request that is over, in each format, gathered to be written many at a
//! time. Knows no clock, file or thread.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use decurion_api::spec::AccessLog;
use serde::Serialize;

use crate::http1::Version;
use crate::http1::target::{self, Target};

/// A request that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'e> {
    /// `X-Request-ID`, the client's or ours.
    pub id: &'e str,
    /// Where it came from.
    pub client: Option<IpAddr>,
    /// What could not be read as a request has no method, target and version.
    pub line: Option<RequestLine<'e>>,
    /// As sent; 499 where the client left before there was one.
    pub status: u16,
    /// Of the body, without chunk sizes.
    pub bytes: u64,
    /// From the head's end to the answer's.
    pub took: Duration,
    /// The deployment that it was routed to.
    pub deployment: Option<&'e str>,
    /// The replica that had it last.
    pub replica: Option<&'e str>,
    /// `Referer`.
    pub referer: &'e [u8],
    /// `User-Agent`.
    pub user_agent: &'e [u8],
    /// The whole answer was passed on.
    pub complete: bool,
}

/// The first line of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine<'e> {
    /// Of the known ones.
    pub method: &'e str,
    /// Normalised.
    pub path: Cow<'e, [u8]>,
    /// As it stood, without the question mark.
    pub query: &'e [u8],
    /// 1.0 or 1.1.
    pub version: Version,
}

impl<'e> RequestLine<'e> {
    /// The first line of a head that has been parsed before. `None`: it can't have been.
    #[must_use]
    pub fn of(head: &'e [u8]) -> Option<Self> {
        let head = std::str::from_utf8(head.trim_ascii_start().split(|byte| *byte == b'\r').next()?).ok()?;
        let mut words = head.splitn(3, ' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let version = if version == "HTTP/1.0" { Version::Http10 } else { Version::Http11 };
        let Target { path, query, .. } = target::parse(target, method).ok()?;
        Some(Self { method, path, query, version })
    }

    fn target(&self, out: &mut Vec<u8>) {
        escape(&self.path, out);
        if !self.query.is_empty() {
            out.push(b'?');
            escape(self.query, out);
        }
    }

    fn whole_target(&self) -> Cow<'_, [u8]> {
        match self.query {
            [] => Cow::Borrowed(&self.path),
            query => Cow::Owned([&self.path, &b"?"[..], query].concat()),
        }
    }
}

/// The values of the fields of these names in a head that has been parsed before: the first of each, empty where there
/// is none.
///
/// Parsing the whole head once more would cost as much as writing the line.
#[must_use]
pub fn fields<'h, const N: usize>(head: &'h [u8], names: [&str; N]) -> [&'h [u8]; N] {
    let mut values = [None; N];
    let mut ends = memchr::memchr_iter(b'\n', head);
    let mut from = ends.next().map_or(head.len(), |end| end + 1);
    for end in ends {
        let line = &head[from..end];
        from = end + 1;
        for (name, value) in names.iter().zip(&mut values) {
            if value.is_none()
                && line.get(name.len()) == Some(&b':')
                && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
            {
                *value = Some(line[name.len() + 1..].trim_ascii());
            }
        }
    }
    values.map(Option::unwrap_or_default)
}

/// Lines that are written together.
#[derive(Debug, Default)]
pub struct Lines {
    /// Each with its end.
    pub text: Vec<u8>,
    /// How many.
    pub count: u64,
}

/// So many bytes of lines are handed over at once; sooner, where their time has come.
pub const LINES_MAX: usize = 32 * 1024;

impl Lines {
    /// Adds a line. Whether there are enough to hand them over.
    #[must_use]
    pub fn add(&mut self, entry: &Entry<'_>, format: AccessLog, unix_ms: u64) -> bool {
        entry.write(format, unix_ms, &mut self.text);
        self.count += 1;
        self.text.len() >= LINES_MAX
    }
}

/// Who takes lines. Never blocks: what finds no room is dropped, and counted.
pub trait Sink: Send + Sync + std::fmt::Debug {
    /// Takes some.
    fn take(&self, lines: Lines);
    /// What they are to look like.
    fn format(&self) -> AccessLog;
}

/// Status of a request whose client left before there was an answer, as nginx has it.
pub const CLIENT_LEFT: u16 = 499;

impl Entry<'_> {
    /// Appends the line with its end; `unix_ms`: the time of day. [`AccessLog::Off`] has none.
    pub fn write(&self, format: AccessLog, unix_ms: u64, out: &mut Vec<u8>) {
        match format {
            AccessLog::Off => return,
            AccessLog::Text => self.text(unix_ms, out),
            AccessLog::Json => self.json(unix_ms, out),
            AccessLog::Combined => self.combined(unix_ms, out),
        }
        out.push(b'\n');
    }

    /// Ray Serve's form. By hand: it is written for each request, and `format_args!` costs several times as much.
    fn text(&self, unix_ms: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"INFO ");
        Time::of(unix_ms).write(b' ', b',', out);
        out.push(b' ');
        for word in [self.deployment, self.replica, Some(self.id)] {
            escape(word.filter(|word| !word.is_empty()).unwrap_or("-").as_bytes(), out);
            out.push(b' ');
        }
        out.extend_from_slice(b"-- ");
        match &self.line {
            Some(line) => {
                out.extend_from_slice(line.method.as_bytes());
                out.push(b' ');
                line.target(out);
            }
            None => out.extend_from_slice(b"- -"),
        }
        out.push(b' ');
        decimal(u64::from(self.status), 1, out);
        out.push(b' ');
        let tenths = (self.took.as_micros() + 50) / 100;
        let tenths = u64::try_from(tenths).unwrap_or(u64::MAX);
        decimal(tenths / 10, 1, out);
        out.push(b'.');
        decimal(tenths % 10, 1, out);
        out.extend_from_slice(b"ms");
    }

    fn json(&self, unix_ms: u64, out: &mut Vec<u8>) {
        let mut time = Vec::with_capacity("2024-02-29T23:59:58.007Z".len());
        Time::of(unix_ms).write(b'T', b'.', &mut time);
        time.push(b'Z');
        let target = self.line.as_ref().map(RequestLine::whole_target);
        let line = Line {
            time: String::from_utf8_lossy(&time),
            request_id: self.id,
            client: self.client,
            method: self.line.as_ref().map(|line| line.method),
            target: target.as_deref().map(String::from_utf8_lossy),
            status: self.status,
            bytes: self.bytes,
            duration_s: self.took.as_secs_f64(),
            deployment: self.deployment,
            replica: self.replica,
            referer: String::from_utf8_lossy(self.referer),
            user_agent: String::from_utf8_lossy(self.user_agent),
            complete: self.complete,
        };
        // Nothing in it can fail to be written.
        let _ = serde_json::to_writer(out, &line);
    }

    /// nginx's `combined`.
    fn combined(&self, unix_ms: u64, out: &mut Vec<u8>) {
        let Time { year, month, day, hour, minute, second, .. } = Time::of(unix_ms);
        match self.client {
            Some(IpAddr::V4(address)) => {
                for (at, part) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        out.push(b'.');
                    }
                    decimal(u64::from(part), 1, out);
                }
            }
            Some(IpAddr::V6(address)) => _ = write!(out, "{address}"),
            None => out.push(b'-'),
        }
        out.extend_from_slice(b" - - [");
        decimal(day, 2, out);
        out.push(b'/');
        out.extend_from_slice(MONTHS.get(month.saturating_sub(1)).unwrap_or(&"-").as_bytes());
        out.push(b'/');
        decimal(year, 4, out);
        for number in [hour, minute, second] {
            out.push(b':');
            decimal(number, 2, out);
        }
        out.extend_from_slice(b" +0000] \"");
        if let Some(line) = &self.line {
            out.extend_from_slice(line.method.as_bytes());
            out.push(b' ');
            line.target(out);
            out.extend_from_slice(match line.version {
                Version::Http10 => b" HTTP/1.0",
                Version::Http11 => b" HTTP/1.1",
            });
        }
        out.extend_from_slice(b"\" ");
        decimal(u64::from(self.status), 1, out);
        out.push(b' ');
        decimal(self.bytes, 1, out);
        for field in [self.referer, self.user_agent] {
            out.extend_from_slice(b" \"");
            escape(if field.is_empty() { b"-" } else { field }, out);
            out.push(b'"');
        }
    }
}

#[derive(Serialize)]
struct Line<'e> {
    time: Cow<'e, str>,
    request_id: &'e str,
    client: Option<IpAddr>,
    method: Option<&'e str>,
    target: Option<Cow<'e, str>>,
    status: u16,
    bytes: u64,
    duration_s: f64,
    deployment: Option<&'e str>,
    replica: Option<&'e str>,
    referer: Cow<'e, str>,
    user_agent: Cow<'e, str>,
    complete: bool,
}

/// As nginx escapes: what is not printable ASCII, quotes and backslashes become `\xHH`, so that no client can end a
/// line or a field.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    // As a rule.
    if bytes.iter().all(plain) {
        return out.extend_from_slice(bytes);
    }
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => _ = write!(out, "\\x{byte:02X}"),
            _ => out.push(*byte),
        }
    }
}

/// A number of at least so many digits.
fn decimal(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || at > digits.len() - width {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    out.extend_from_slice(&digits[at..]);
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

    /// As ISO 8601 has it, with these between day and hour, and before the milliseconds.
    fn write(&self, before_hour: u8, before_millis: u8, out: &mut Vec<u8>) {
        decimal(self.year, 4, out);
        for (mark, number, width) in [
            (b'-', self.month as u64, 2),
            (b'-', self.day, 2),
            (before_hour, self.hour, 2),
            (b':', self.minute, 2),
            (b':', self.second, 2),
            (before_millis, self.millis, 3),
        ] {
            out.push(mark);
            decimal(number, width, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29 23:59:58.007 UTC
    const AT: u64 = 1_709_251_198_007;

    fn entry() -> Entry<'static> {
        Entry {
            id: "3f2a",
            client: Some(IpAddr::from([127, 0, 0, 1])),
            line: RequestLine::of(b"GET /hello?a=1 HTTP/1.1\r\n"),
            status: 200,
            bytes: 12,
            took: Duration::from_micros(5_320),
            deployment: Some("hello"),
            replica: Some("hello-000001"),
            referer: b"",
            user_agent: b"curl/8",
            complete: true,
        }
    }

    fn written(entry: &Entry<'_>, format: AccessLog) -> String {
        let mut out = Vec::new();
        entry.write(format, AT, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_handed_over_many_at_a_time() {
        let mut lines = Lines::default();
        while !lines.add(&entry(), AccessLog::Text, AT) {}
        assert_eq!(lines.text.iter().filter(|byte| **byte == b'\n').count() as u64, lines.count);
        assert!((LINES_MAX..LINES_MAX + 100).contains(&lines.text.len()), "{}", lines.text.len());
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
            let line = RequestLine::of(head.as_bytes())?;
            Some((line.method.to_owned(), line.whole_target().into_owned(), line.version))
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
    fn fields_are_found_by_their_names_and_nowhere_else() {
        let of = |head: &[u8]| fields(head, ["referer", "user-agent"]).map(<[u8]>::to_vec);
        let both = |one: &str, two: &str| [one, two].map(|text| text.as_bytes().to_vec());
        assert_eq!(
            of(b"GET /a HTTP/1.1\r\nHost: x\r\nUSER-agent:  a b\t\r\nReferer: http://x/?a:b\r\n\r\n"),
            both("http://x/?a:b", "a b")
        );
        assert_eq!(
            of(b"GET /referer:x HTTP/1.1\r\nX-Referer: no\r\nx: referer: no\r\nreferer-x: no\r\n\r\n"),
            both("", "")
        );
        assert_eq!(
            of(b"GET / HTTP/1.1\r\nreferer:\r\nReferer: second\r\nUser-Agent: x\r\n\r\nReferer: body"),
            both("", "x")
        );
        assert_eq!([of(b""), of(b"GET / HTTP/1.1")], [both("", ""), both("", "")]);
    }

    #[test]
    fn numbers_are_as_usual() {
        let mut out = Vec::new();
        for (number, width) in [(0, 1), (7, 2), (12, 1), (2024, 4), (u64::MAX, 1)] {
            decimal(number, width, &mut out);
            out.push(b' ');
        }
        assert_eq!(out, b"0 07 12 2024 18446744073709551615 ");
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
        hostile.user_agent = b"a\" \\ \n\r\t\x1b[1m\x7f\xff";
        if let Some(line) = &mut hostile.line {
            (line.path, line.query) = (Cow::Borrowed(&b"/\"\n\x00\xc3"[..]), b"");
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
