//! A change of protocol (RFC 9110, 7.8): what a client may offer, and the 101 that takes it up.

use super::answer::{BadAnswer, Ours, check, ours, push_field};
use super::framing::is_token;

/// Whether a value of `Upgrade` is a list of protocols, each a name with perhaps a version.
pub(super) fn is_valid(value: &[u8]) -> bool {
    protocols(value).all(|protocol| {
        let mut parts = protocol.splitn(2, |b| *b == b'/');
        parts.all(|part| !part.is_empty() && part.iter().all(|b| is_token(*b)))
    })
}

/// Appends the head of a 101 to `out`, its empty line included: from there on the connection is not HTTP any more. On
/// an error `out` is as it was.
///
/// # Errors
/// [`BadAnswer`]: the handler chose what the client has not offered, or a field can't stand in a head.
pub fn write_switch<'f>(
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    offered: &[u8],
    request_id: &str,
    date: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), BadAnswer> {
    let start = out.len();
    let result = try_write(fields, offered, request_id, date, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn try_write<'f>(
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    offered: &[u8],
    request_id: &str,
    date: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), BadAnswer> {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n");
    let mut chosen = false;
    for (name, value) in fields {
        check(name, value)?;
        if name.eq_ignore_ascii_case(b"upgrade") {
            // RFC 9110, 7.8: a server must not switch to a protocol that the client has not offered.
            let is_offered = |one: &[u8]| protocols(offered).any(|other| other.eq_ignore_ascii_case(one));
            if std::mem::replace(&mut chosen, true) || !is_valid(value) || !protocols(value).all(is_offered) {
                return Err(BadAnswer::Switch("names another protocol than the client has offered"));
            }
            push_field(out, b"upgrade", value);
        } else if ours(name) == Ours::Not {
            // A 1xx has neither a length nor a coding (RFC 9110, 8.6; RFC 9112, 6.1).
            push_field(out, name, value);
        }
    }
    if !chosen {
        return Err(BadAnswer::Switch("without Upgrade"));
    }
    push_field(out, b"date", date);
    if !request_id.is_empty() {
        push_field(out, b"x-request-id", request_id.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn protocols(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::Storage;
    use crate::http1::{Head, HeadLimits};

    /// What a head's lines offer, and what of them the deployment gets.
    fn offer(line: &str, fields: &str) -> (Option<String>, String) {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let limits = HeadLimits { head: 4096, headers: 32, target: 1024 };
        let mut storage = Storage::new();
        let head = Head::parse(text.as_bytes(), &mut storage, &limits).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let fields: Vec<String> =
            head.forwarded().skip(1).map(|(name, value)| format!("{}={}", text(name), text(value))).collect();
        (head.upgrade.map(text), fields.join(","))
    }

    #[test]
    fn an_offer_is_forwarded_with_what_belongs_to_it() {
        let (offered, fields) =
            offer("GET /", "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket, a/1\r\nX: 1\r\n");
        assert_eq!(offered.as_deref(), Some("WebSocket, a/1"));
        assert_eq!(fields, "X=1,connection=upgrade,upgrade=WebSocket, a/1");
    }

    #[test]
    fn what_is_no_offer_is_not_forwarded() {
        for (line, fields) in [
            ("GET /", "Upgrade: websocket\r\n"),
            ("GET /", "Connection: upgrade\r\n"),
            ("POST /", "Connection: upgrade\r\nUpgrade: websocket\r\n"),
            ("GET /", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"),
            ("GET /", "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n"),
            ("GET /", "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
            ("GET /", "Connection: upgrade\r\nUpgrade: a b\r\n"),
            ("GET /", "Connection: upgrade\r\nUpgrade: websocket,\r\n"),
            ("GET /", "Connection: upgrade\r\nUpgrade: /1\r\n"),
            ("GET /", "Connection: upgrade\r\nUpgrade:\r\n"),
        ] {
            let (offered, forwarded) = offer(line, fields);
            assert_eq!(offered, None, "{fields:?}");
            assert!(!forwarded.to_ascii_lowercase().contains("upgrade"), "{fields:?}: {forwarded}");
        }
    }

    fn switch(fields: &[(&str, &str)]) -> Result<String, BadAnswer> {
        let mut out = Vec::new();
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let result = write_switch(fields, b"websocket, a/1", "id", b"now", &mut out);
        assert!(result.is_ok() || out.is_empty());
        result.map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_switch_says_what_it_switches_to_and_has_no_framing() {
        let text = switch(&[
            ("Upgrade", "WebSocket"),
            ("Connection", "close"),
            ("Content-Length", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Sec-WebSocket-Accept", "x"),
        ]);
        assert_eq!(
            text.unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: x\r\ndate: now\r\nx-request-id: id\r\n\r\n"
        );
    }

    #[test]
    fn only_what_was_offered_is_switched_to() {
        for fields in [
            &[][..],
            &[("upgrade", "h2c")],
            &[("upgrade", "a/2")],
            &[("upgrade", "")],
            &[("upgrade", "a/1"), ("upgrade", "websocket")],
            &[("upgrade", "a/1"), ("x", "a\r\nb: c")],
        ] {
            assert!(switch(fields).is_err(), "{fields:?}");
        }
    }
}
