//! What a library may answer with: statuses and header fields, checked before they leave the replica.

/// Body of an answer to a request whose handler failed without a word for the client.
pub(crate) const INTERNAL_ERROR: &str = "Internal Server Error";
/// Header fields of one answer, at most.
pub(crate) const HEADERS_MAX: usize = 256;

/// Whether a status can end a request (RFC 9110, section 15: interim ones are the proxy's business).
pub(crate) fn is_final_status(status: u32) -> Option<u16> {
    u16::try_from(status).ok().filter(|status| (200..=599).contains(status))
}

/// Whether a status says that a request has failed.
pub(crate) fn is_failure(status: u32) -> Option<u16> {
    is_final_status(status).filter(|status| *status >= 400)
}

/// Starts what is not HTTP any more (RFC 9110, section 15.2.2).
pub(crate) const SWITCHING_PROTOCOLS: u16 = 101;

/// Whether a streamed answer can start with a status: with a final one, or with a change of protocol.
pub(crate) fn is_first_status(status: u32) -> Option<u16> {
    is_final_status(status)
        .or_else(|| u16::try_from(status).ok().filter(|status| *status == SWITCHING_PROTOCOLS))
}

/// Bytes of a token.
const TOKEN: [bool; 256] = {
    let mut token = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        token[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let (others, mut at) = (b"!#$%&'*+-.^_`|~", 0);
    while at < others.len() {
        token[others[at] as usize] = true;
        at += 1;
    }
    token
};

/// Whether a field name is a token (RFC 9110, section 5.6.2).
pub(crate) fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// Whether a field value holds no control character (RFC 9110, section 5.5) and no surrounding white space.
pub(crate) fn is_field_value(value: &[u8]) -> bool {
    let fits = |byte: u8| (byte == b'\t') | ((byte >= b' ') & (byte != 0x7f));
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // To the end, wrong or not: so several are looked at at a time.
    value.iter().fold(true, |all, byte| all & fits(*byte)) && !blank(value.first()) && !blank(value.last())
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
        assert_eq!(
            [0, 200, 302, 400, 599, 600].map(is_failure),
            [None, None, None, Some(400), Some(599), None]
        );
    }
}
