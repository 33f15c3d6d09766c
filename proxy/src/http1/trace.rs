//! `traceparent` (W3C Trace Context, 3.2): whether a value is one that may be passed on.

/// Bytes of version 00: `VERSION-TRACE-PARENT-FLAGS`.
const LEN: usize = 55;
/// Bytes of a later version's, at most: it may append to these.
const LEN_MAX: usize = 128;

/// Whether it is well-formed: of version 00, or of a later one that begins in the same way.
pub(super) fn is_valid(value: &[u8]) -> bool {
    let Some((known, more)) = value.split_at_checked(LEN) else { return false };
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let parts = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
    let digits = parts.iter().all(|part| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
    let [version, trace, parent, _] = parts;
    // All zeros are none, and ff is no version.
    let is_some = |id: &[u8]| id.iter().any(|b| *b != b'0');
    let ends = match version {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => more.first().is_none_or(|b| *b == b'-') && more.iter().all(u8::is_ascii_graphic),
    };
    dashes && digits && is_some(trace) && is_some(parent) && ends && value.len() <= LEN_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn what_can_be_read_is_told_from_what_can_not() {
        let of = |version: &str, trace: &str, parent: &str, rest: &str| {
            is_valid(format!("{version}-{trace}-{parent}-{rest}").as_bytes())
        };
        assert!(of("00", TRACE, PARENT, "01"));
        assert!(of("00", TRACE, PARENT, "ff"));
        assert!(of("cc", TRACE, PARENT, "01"));
        assert!(of("01", TRACE, PARENT, "01-what-comes-later"));
        let zeros = "0".repeat(32);
        for (version, trace, parent, rest) in [
            ("00", TRACE, PARENT, "01-more"),
            ("00", TRACE, PARENT, "1"),
            ("00", TRACE, PARENT, "0g"),
            ("00", TRACE, PARENT, ""),
            ("ff", TRACE, PARENT, "01"),
            ("0", TRACE, PARENT, "01"),
            ("01", TRACE, PARENT, "01.more"),
            ("01", TRACE, PARENT, "01-a b"),
            ("00", &TRACE.to_uppercase(), PARENT, "01"),
            ("00", &zeros, PARENT, "01"),
            ("00", TRACE, &zeros[..16], "01"),
            ("00", &TRACE[1..], PARENT, "01"),
        ] {
            assert!(!of(version, trace, parent, rest), "{version}-{trace}-{parent}-{rest}");
        }
        assert!(!is_valid(b"") && !is_valid(b"hello"));
        assert!(!of("01", TRACE, PARENT, &format!("01-{}", "x".repeat(LEN_MAX))));
    }
}
