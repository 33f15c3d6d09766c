//! `uri-host [ ":" port ]` of RFC 9110, 7.2, as it stands in `Host` and in an absolute-form target.

/// Whether it is one. Empty is not: RFC 9110, 4.2.1 has a server reject an empty host.
#[must_use]
pub fn is_valid(value: &[u8]) -> bool {
    let (host, port) = match value.first() {
        // RFC 3986, 3.2.2: IP-literal = "[" ( IPv6address / IPvFuture ) "]".
        Some(b'[') => match value.iter().position(|b| *b == b']') {
            Some(end) if end > 1 => {
                let inside = &value[1..end];
                if !inside.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
                    return false;
                }
                return match &value[end + 1..] {
                    [] => true,
                    [b':', port @ ..] => is_port(port),
                    _ => false,
                };
            }
            _ => return false,
        },
        _ => match value.iter().position(|b| *b == b':') {
            Some(colon) => (&value[..colon], &value[colon + 1..]),
            None => (value, &[][..]),
        },
    };
    !host.is_empty() && is_name(host) && is_port(port)
}

/// RFC 3986, 3.2.3: `*DIGIT`; more than five can't be a port.
fn is_port(port: &[u8]) -> bool {
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// RFC 3986, 3.2.2: `reg-name = *( unreserved / pct-encoded / sub-delims )`.
fn is_name(host: &[u8]) -> bool {
    let mut rest = host;
    loop {
        rest = match rest {
            [] => return true,
            [b'%', a, b, tail @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => tail,
            [b, tail @ ..] if b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(b) => tail,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_what_is_none() {
        for good in ["a", "a.b:80", "127.0.0.1:8000", "[::1]", "[::1]:80", "x_y", "a%41", "a:"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a@b", "u@a:80", "a/b", "a:b", "a:80:80", "[::1", "[]", "[::1]x", "a%4",
            "a,b\"", "é", "a:123456",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
