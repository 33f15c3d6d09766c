//! Whether a request can become a websocket (RFC 6455, 4.2), and the head that says so.

use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderValue, StatusCode};
use tungstenite::handshake::derive_accept_key;

use crate::head::Head;
use crate::response::{Parts, Response};
use crate::{Error, Result};

/// The one version that there is.
const VERSION: &str = "13";

/// Completes the head of the 101; what answers instead where the request asks for no websocket.
pub(super) fn accept(request: &Head, parts: &mut Parts) -> Result<Option<Response>> {
    let field = |name: &str| request.header(name).and_then(|value| std::str::from_utf8(value).ok());
    let offers = field("upgrade").is_some_and(|offered| {
        offered.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
    });
    if !offers || field("sec-websocket-version") != Some(VERSION) {
        let text = "This is a websocket: ask for an upgrade to it, in version 13.\n";
        let response = Response::new(StatusCode::UPGRADE_REQUIRED, text)
            .with_header("content-type", "text/plain; charset=utf-8")
            .with_header("upgrade", "websocket")
            .with_header("sec-websocket-version", VERSION);
        return Ok(Some(response));
    }
    let key = field("sec-websocket-key").filter(|key| is_key(key));
    let key =
        key.ok_or_else(|| Error::status(400, "Sec-WebSocket-Key is missing, or not 16 bytes in base64"))?;
    // One that the client has not listed fails the connection there (RFC 6455, 4.1): without one it may go on.
    if !parts.headers.get(SEC_WEBSOCKET_PROTOCOL).is_none_or(|chosen| lists(request, chosen)) {
        parts.headers.remove(SEC_WEBSOCKET_PROTOCOL);
    }
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    parts.content_type = None;
    parts.headers.remove(SEC_WEBSOCKET_VERSION);
    parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let answer = HeaderValue::try_from(derive_accept_key(key.as_bytes()))?;
    parts.headers.insert(SEC_WEBSOCKET_ACCEPT, answer);
    Ok(None)
}

/// Whether the client would speak this subprotocol. Its list may stand in several fields; names are case-sensitive.
fn lists(request: &Head, chosen: &HeaderValue) -> bool {
    let is_list = |name: &[u8]| name.eq_ignore_ascii_case(SEC_WEBSOCKET_PROTOCOL.as_str().as_bytes());
    let lists = request.headers().filter(|(name, _)| is_list(name)).map(|(_, list)| list);
    lists.flat_map(|list| list.split(|byte| *byte == b',')).any(|one| one.trim_ascii() == chosen.as_bytes())
}

/// 16 bytes in base64: 22 digits, of which the last has four bits that count, and the padding.
fn is_key(key: &str) -> bool {
    let digits = key.strip_suffix("==").unwrap_or_default();
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    digits.len() == 22 && digits.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&str, &str)]) -> (u16, Option<String>) {
        let mut head = Head::default();
        for (name, value) in fields {
            head.keep_header(name.as_bytes(), value.as_bytes());
        }
        let mut parts = Parts::default();
        match accept(&head, &mut parts) {
            Ok(None) => {
                let accept = parts.headers[SEC_WEBSOCKET_ACCEPT].to_str().unwrap().to_owned();
                (parts.status.as_u16(), Some(accept))
            }
            Ok(Some(response)) => (response.status().as_u16(), None),
            Err(error) => (error.code().unwrap().as_u16(), None),
        }
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const VERSION_13: (&str, &str) = ("sec-websocket-version", "13");
    const OFFER: (&str, &str) = ("upgrade", "WebSocket");

    #[test]
    fn the_rfc_s_own_example() {
        let accept = Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned());
        assert_eq!(answer(&[OFFER, KEY, VERSION_13]), (101, accept));
    }

    #[test]
    fn a_subprotocol_is_one_that_the_client_lists() {
        let chosen = |lists: &[&str]| {
            let mut head = Head::default();
            let lists = lists.iter().map(|list| ("Sec-WebSocket-Protocol", *list));
            for (name, value) in [OFFER, KEY, VERSION_13].into_iter().chain(lists) {
                head.keep_header(name.as_bytes(), value.as_bytes());
            }
            let response = Response::websocket(|_| Ok(())).with_header("sec-websocket-protocol", "chat");
            let mut parts = response.into_parts().unwrap();
            assert!(accept(&head, &mut parts).unwrap().is_none());
            parts.headers.contains_key(SEC_WEBSOCKET_PROTOCOL)
        };
        assert!(chosen(&["chat"]) && chosen(&["soap, chat"]) && chosen(&["soap", "x,chat ,y"]));
        assert!(!chosen(&[]) && !chosen(&["soap"]) && !chosen(&["chat2, Chat"]));
    }

    #[test]
    fn what_is_no_good_handshake_is_refused() {
        assert_eq!(answer(&[]).0, 426);
        assert_eq!(answer(&[KEY, VERSION_13]).0, 426);
        assert_eq!(answer(&[("upgrade", "h2c"), KEY, VERSION_13]).0, 426);
        assert_eq!(answer(&[OFFER, KEY]).0, 426);
        assert_eq!(answer(&[OFFER, KEY, ("sec-websocket-version", "8")]).0, 426);
        assert_eq!(answer(&[OFFER, VERSION_13]).0, 400);
        for key in
            ["", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ===", "dGhl IHNhbXBsZSBub25jZQ=="]
        {
            assert_eq!(answer(&[OFFER, VERSION_13, ("sec-websocket-key", key)]).0, 400, "{key}");
        }
    }
}
