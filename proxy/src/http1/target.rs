//! Request targets (RFC 9112, 3.2), and the one reading of a path that routing and deployments share.
//!
//! A path is normalised once, here: dot segments are resolved, in whatever way their dots are written, and
//! percent-encoded unreserved characters stand as themselves (RFC 3986, 6.2.2). What decodes to a slash stays
//! encoded, a part of its segment; where it would hide a dot segment, or something else that two readers could take
//! differently, the request is refused.

use std::borrow::Cow;

use super::{Refusal, host};

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'b> {
    /// Normalised path; `*` for the whole server.
    pub path: Cow<'b, [u8]>,
    /// What follows the first `?`, as it stands.
    pub query: &'b [u8],
    /// Of an absolute-form target.
    pub authority: Option<&'b str>,
}

impl Target<'_> {
    /// Whether it is `*`.
    #[must_use]
    pub fn is_asterisk(&self) -> bool {
        *self.path == *b"*"
    }
}

/// Reads a target in the form that its method allows.
///
/// # Errors
/// [`Refusal::Target`] or [`Refusal::Path`].
pub fn parse<'b>(target: &'b str, method: &str) -> Result<Target<'b>, Refusal> {
    if target == "*" {
        // RFC 9112, 3.2.4: for a server-wide OPTIONS only.
        return match method {
            "OPTIONS" => Ok(Target { path: Cow::Borrowed(b"*"), query: b"", authority: None }),
            _ => Err(Refusal::Target),
        };
    }
    if target.starts_with('/') {
        return origin(target.as_bytes(), None);
    }
    let (authority, rest) = absolute(target).ok_or(Refusal::Target)?;
    match rest {
        // RFC 9112, 3.2.4: an absolute-form OPTIONS without path is the server-wide one.
        "" if method == "OPTIONS" => {
            Ok(Target { path: Cow::Borrowed(b"*"), query: b"", authority: Some(authority) })
        }
        "" => Ok(Target { path: Cow::Borrowed(b"/"), query: b"", authority: Some(authority) }),
        _ if rest.starts_with('?') => {
            let query = check_query(&rest.as_bytes()[1..])?;
            Ok(Target { path: Cow::Borrowed(b"/"), query, authority: Some(authority) })
        }
        _ => origin(rest.as_bytes(), Some(authority)),
    }
}

/// Splits `http://authority/rest`. Schemes are not case-sensitive (RFC 3986, 3.1).
fn absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    host::is_valid(authority.as_bytes()).then_some((authority, rest))
}

fn origin<'b>(target: &'b [u8], authority: Option<&'b str>) -> Result<Target<'b>, Refusal> {
    let (path, query) = match memchr::memchr(b'?', target) {
        Some(mark) => (&target[..mark], check_query(&target[mark + 1..])?),
        None => (target, &[][..]),
    };
    Ok(Target { path: normalise(path)?, query, authority })
}

/// Browsers leave more unencoded in a query than RFC 3986 allows; what is no visible ASCII, or starts a fragment, is
/// refused all the same.
fn check_query(query: &[u8]) -> Result<&[u8], Refusal> {
    match query.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
        true => Ok(query),
        false => Err(Refusal::Target),
    }
}

/// How a byte of a path is treated.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"%\"#<>?\\^`{}".contains(&byte)
}

/// The normal form of an absolute path; borrowed where it is normal already.
///
/// # Errors
/// [`Refusal`] for characters that stand in no path, malformed escapes, dot segments above the root, and escapes
/// that hide a dot segment or a NUL.
pub fn normalise(path: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if !path.iter().all(|b| is_plain(*b) || *b == b'%') {
        return Err(Refusal::Target);
    }
    let has_escape = memchr::memchr(b'%', path).is_some();
    if !has_escape && !path.split(|b| *b == b'/').any(|segment| segment == b"." || segment == b"..") {
        return Ok(Cow::Borrowed(path));
    }
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push(b'/');
        decode_segment(segment, &mut out)?;
        let last = segments.peek().is_none();
        match &out[start + 1..] {
            // RFC 3986, 5.2.4: a dot segment at the end leaves its slash.
            b"." => out.truncate(start + usize::from(last)),
            b".." => {
                out.truncate(start);
                let parent =
                    out.iter().rposition(|b| *b == b'/').ok_or(Refusal::Path("'..' above the root"))?;
                out.truncate(parent + usize::from(last));
            }
            _ => {}
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(Cow::Owned(out))
}

/// Appends a segment in its normal form: unreserved characters decoded, other escapes in upper case.
fn decode_segment(segment: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let start = out.len();
    let mut hides_separator = false;
    let mut rest = segment;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return Err(Refusal::Path("a '%' without two digits")) };
        let decoded = hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low);
        rest = tail;
        match decoded {
            None => return Err(Refusal::Path("a '%' without two digits")),
            Some(0) => return Err(Refusal::Path("an encoded NUL")),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(byte),
            Some(byte) => {
                hides_separator |= matches!(byte, b'/' | b'\\');
                out.extend_from_slice(&[b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]);
            }
        }
    }
    if hides_separator && hides_dots(&out[start..]) {
        return Err(Refusal::Path("a dot segment behind an encoded slash"));
    }
    Ok(())
}

/// Whether a reader that decodes slashes first would find a dot segment in this segment's normal form.
fn hides_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    let mut piece_start = 0;
    let mut at = 0;
    let is_dots = |piece: &[u8]| piece == b"." || piece == b"..";
    while at < rest.len() {
        if rest[at..].starts_with(b"%2F") || rest[at..].starts_with(b"%5C") {
            if is_dots(&rest[piece_start..at]) {
                return true;
            }
            rest = &rest[at + 3..];
            (piece_start, at) = (0, 0);
        } else {
            at += 1;
        }
    }
    is_dots(&rest[piece_start..])
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> Result<String, Refusal> {
        normalise(path.as_bytes()).map(|path| String::from_utf8(path.into_owned()).unwrap())
    }

    #[test]
    fn a_plain_path_is_not_copied() {
        assert!(matches!(normalise(b"/a/b.c/..d/"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn dot_segments_are_resolved_however_they_are_written() {
        for (raw, want) in [
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/.", "/"),
            ("/a//../b", "/a/b"),
            ("/%61pi", "/api"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%20b%c3%a9", "/a%20b%C3%A9"),
            ("/...", "/..."),
            ("/%2e%2e%2e", "/..."),
        ] {
            assert_eq!(normal(raw).as_deref(), Ok(want), "{raw}");
        }
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for bad in [
            "/..",
            "/../a",
            "/a/../..",
            "/%2e%2e/a",
            "/a/..%2fb",
            "/a/%2e%2e%2f",
            "/a/x%2f..",
            "/a/%5c..%5cb",
            "/a/.%2F",
            "/a%00",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a\\b",
            "/a<b",
            "/a#b",
            "/a{b}",
            "/a\"",
            "/\u{e9}",
        ] {
            assert!(normal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_four_forms_go_with_their_methods() {
        assert_eq!(parse("/x?a=?b", "GET").unwrap().query, b"a=?b");
        let absolute = parse("HTTP://h:80/x/../y?q", "GET").unwrap();
        assert_eq!(
            (&*absolute.path, absolute.query, absolute.authority),
            (&b"/y"[..], &b"q"[..], Some("h:80"))
        );
        assert_eq!(&*parse("http://h", "GET").unwrap().path, b"/");
        assert_eq!(&*parse("http://h?q", "GET").unwrap().path, b"/");
        assert!(parse("*", "OPTIONS").unwrap().is_asterisk());
        assert!(parse("http://h", "OPTIONS").unwrap().is_asterisk());
        for bad in
            ["*", "x", "h:80", "ftp://h/", "http:///x", "http://u@h/", "http:/x", "/a?b#c", "?q", "//h@x#"]
        {
            assert!(parse(bad, "GET").is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_normal_form(path in "/([a-c./%2eEfF5c]|%2[eEfF]|%6[1-3]){0,24}") {
            if let Ok(once) = normalise(path.as_bytes()) {
                prop_assert!(once.starts_with(b"/"));
                prop_assert!(!once.split(|b| *b == b'/').any(|s| s == b"." || s == b".."));
                prop_assert_eq!(normalise(&once).unwrap(), &once[..]);
            }
        }
    }
}
