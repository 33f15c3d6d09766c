//! What a library may answer with: statuses and header fields, checked before they leave the replica.

/// Body of an answer to a request whose handler failed without a word for the client.
pub(crate) const INTERNAL_ERROR: &str = "Internal Server Error";
/// Header fields of one answer, at most.
pub(crate) const HEADERS_MAX: usize = 256;

/// Whether a status can end a request (RFC 9110, section 15: interim ones are the proxy's business).
pub(crate) fn is_final_status(status: u32) -> Option<u16> {
    u16::try_from(status).ok().filter(|status| (200..=599).contains(status))
}

/// Starts what is not HTTP any more (RFC 9110, section 15.2.2).
pub(crate) const SWITCHING_PROTOCOLS: u16 = 101;

/// Whether a streamed answer can start with a status: with a final one, or with a change of protocol.
pub(crate) fn is_first_status(status: u32) -> Option<u16> {
    is_final_status(status)
        .or_else(|| u16::try_from(status).ok().filter(|status| *status == SWITCHING_PROTOCOLS))
}

/// Whether a field name is a token (RFC 9110, section 5.6.2).
pub(crate) fn is_field_name(name: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(token)
}

/// Whether a field value holds no control character (RFC 9110, section 5.5) and no surrounding white space.
pub(crate) fn is_field_value(value: &[u8]) -> bool {
    let fits = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    value.iter().all(fits) && !blank(value.first()) && !blank(value.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_injection_is_seen() {
        assert!(is_field_name(b"x-model") && is_field_value(b"a, b\tc"));
        for bad in [&b""[..], b"x y", b"x:", b"x\r\n", "x\u{e9}".as_bytes()] {
            assert!(!is_field_name(bad), "{bad:?}");
        }
        for bad in [&b"a\r\nset-cookie: x"[..], b"a\0b", b" a", b"a\t", b"\x7f"] {
            assert!(!is_field_value(bad), "{bad:?}");
        }
    }

    #[test]
    fn only_final_statuses_end_a_request() {
        assert_eq!(is_final_status(200), Some(200));
        assert_eq!([100, 101, 199, 600, 70_000].map(is_final_status), [None; 5]);
        assert_eq!([200, 101, 100].map(is_first_status), [Some(200), Some(101), None]);
    }
}
