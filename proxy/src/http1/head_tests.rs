//! Raw bytes and what must come of them, with the section that says so.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { head: 2048, headers: 16, target: 512 };

/// What came of one head.
fn outcome(raw: &[u8]) -> Result<Option<String>, Refusal> {
    outcome_of(&[raw], &LIMITS)
}

fn with_head<T>(raw: &str, look: impl FnOnce(Head<'_, '_>) -> T) -> T {
    let mut scan = Scan::default();
    let range = scan.advance(raw.as_bytes(), &LIMITS).unwrap().expect("a whole head");
    let mut storage = Storage::new();
    look(Head::parse(&raw.as_bytes()[range], &mut storage, &LIMITS).unwrap())
}

/// `R`: the head in full; `H`: `GET / HTTP/1.1`, a Host, and these fields.
enum Case {
    R(&'static str),
    H(&'static str),
}
use Case::{H, R};

const REFUSED: &[(&str, Case, Refusal)] = &[
    // Line ends.
    ("9112 2.2", R("GET / HTTP/1.1\nHost: a\n\n"), Refusal::BareLf),
    ("9112 2.2", R("GET / HTTP/1.1\r\nHost: a\n\r\n"), Refusal::BareLf),
    ("9112 2.2", R("GET / HTTP/1.1\r\nHost: a\r\n\n"), Refusal::BareLf),
    ("9112 2.2", R("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::BareLf),
    ("9112 2.2", R("GET / HTTP/1.1\rHost: a\r\n\r\n"), Refusal::BareCr),
    ("9112 2.2", H("X: a\rb"), Refusal::Header),
    ("9112 2.2", H("X: a\r\r"), Refusal::Header),
    ("9112 2.2", H("\rX: a"), Refusal::BareCr),
    ("9112 2.2", R("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::EmptyLines),
    // The request line.
    ("9112 3", R("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("GET /  HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("GET / HTTP/1.1 \r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("GET /\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("GET\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("/ HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("G(T / HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 3", R("GET / HTTP/1.1x\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 2.3", R("GET / http/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 2.3", R("GET / HTTP/11\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 2.3", R("GET / HTTP/1.10\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 2.3", R("GET / HTTP/01.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9112 2.3", R("GET / ICY/1.1\r\nHost: a\r\n\r\n"), Refusal::RequestLine),
    ("9110 15.6.6", R("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), Refusal::Version),
    ("9110 15.6.6", R("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), Refusal::Version),
    ("9110 15.6.6", R("GET / HTTP/0.9\r\n\r\n"), Refusal::Version),
    ("9113 3.4", R("PRI * HTTP/2.0\r\n\r\n"), Refusal::Version),
    ("a TLS hello", R("\x16\x03\x01"), Refusal::RequestLine),
    ("9110 9.1", R("get / HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Method),
    ("9110 9.1", R("FROB / HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Method),
    ("9110 9.3.6", R("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Method),
    ("9110 9.3.8", R("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"), Refusal::TraceBody),
    // The target.
    ("9112 3.2", R("GET a HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("9112 3.2", R("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("9112 3.2.4", R("GET * HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("9112 3.2.2", R("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("9110 4.2.4", R("GET http://u@h/ HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("9112 3.2", R("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("3986 2", R("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("3986 2", R("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Target),
    ("3986 2.1", R("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Path("a '%' without two digits")),
    ("3986 5.2.4", R("GET /../x HTTP/1.1\r\nHost: a\r\n\r\n"), Refusal::Path("'..' above the root")),
    // Header fields.
    ("9112 5.1", H("X : a"), Refusal::Header),
    ("9112 5.1", H("X\t: a"), Refusal::Header),
    ("9112 5.1", H(": a"), Refusal::Header),
    ("9112 5", H("X"), Refusal::Header),
    ("9112 5", H("X Y: a"), Refusal::Header),
    ("9112 5", H("X\u{e9}: a"), Refusal::Header),
    ("9110 5.5", H("X: a\0b"), Refusal::Header),
    ("9110 5.5", H("X: a\x01b"), Refusal::Header),
    ("9110 5.5", H("X: a\x7fb"), Refusal::Header),
    ("9112 5.2", H("X: a\r\n b"), Refusal::Fold),
    ("9112 5.2", H("X: a\r\n\tb"), Refusal::Fold),
    ("9112 2.2", R("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), Refusal::Fold),
    // Host.
    ("9112 3.2", R("GET / HTTP/1.1\r\n\r\n"), Refusal::HostMissing),
    ("9112 3.2", R("GET http://a/ HTTP/1.1\r\n\r\n"), Refusal::HostMissing),
    ("9112 3.2", H("Host: a"), Refusal::HostTwice),
    ("9112 3.2", R("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n"), Refusal::HostTwice),
    ("9112 3.2", R("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), Refusal::Host),
    ("9112 3.2", R("GET / HTTP/1.1\r\nHost: a,b\"\r\n\r\n"), Refusal::Host),
    ("9112 3.2", R("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"), Refusal::Host),
    ("9112 3.2", R("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), Refusal::Host),
    ("9112 3.2", R("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"), Refusal::Host),
    ("9110 4.2.1", R("GET / HTTP/1.1\r\nHost:\r\n\r\n"), Refusal::Host),
    // Framing.
    ("9112 6.3", H("Content-Length: a"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length:"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: +1"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: -1"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: 1.0"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: 0x1"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: 1 2"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: 1, 1"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: 1,2"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: 99999999999999999999"), Refusal::ContentLength),
    ("9112 6.3", H("Content-Length: 1\r\nContent-Length: 1"), Refusal::ContentLengthTwice),
    ("9112 6.3", H("Content-Length: 1\r\ncontent-length: 2"), Refusal::ContentLengthTwice),
    ("9112 6.1", H("Transfer-Encoding: chunked\r\nContent-Length: 1"), Refusal::LengthTwice),
    ("9112 6.1", H("Content-Length: 0\r\nTransfer-Encoding: chunked"), Refusal::LengthTwice),
    ("9112 6.1", R("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Refusal::CodingInHttp10),
    ("9112 6.1", H("Transfer-Encoding: xchunked"), Refusal::UnknownCoding),
    ("9112 6.1", H("Transfer-Encoding: identity"), Refusal::UnknownCoding),
    ("9112 6.1", H("Transfer-Encoding: gzip, chunked"), Refusal::UnknownCoding),
    ("9112 6.1", H("Transfer-Encoding: chunked, chunked"), Refusal::TransferEncoding),
    ("9112 6.3", H("Transfer-Encoding: chunked, gzip"), Refusal::TransferEncoding),
    ("9112 6.3", H("Transfer-Encoding: gzip"), Refusal::TransferEncoding),
    ("9112 6.1", H("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Refusal::TransferEncoding),
    ("9112 6.1", H("Transfer-Encoding:"), Refusal::TransferEncoding),
    ("9112 6.1", H("Transfer-Encoding: \"chunked\""), Refusal::TransferEncoding),
    ("9112 6.1", H("Transfer-Encoding: chunked;a"), Refusal::TransferEncoding),
    ("9112 5.1", H("Transfer-Encoding : chunked"), Refusal::Header),
    ("9110 10.1.1", H("Expect: 200-ok"), Refusal::Expectation),
    ("9110 10.1.1", H("Expect: 100-continue\r\nExpect: x"), Refusal::Expectation),
];

#[test]
fn what_the_rfcs_forbid_is_refused() {
    for (section, case, refusal) in REFUSED {
        let raw = match case {
            R(raw) => (*raw).to_owned(),
            H(fields) => format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"),
        };
        assert_eq!(outcome(raw.as_bytes()), Err(*refusal), "RFC {section}: {:?}", raw);
    }
}

const TAKEN: &[(&str, &str)] = &[
    ("9112 2.2", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 3.2.1", "GET /a/b?c=d&e HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 3.2.2", "GET http://b:80/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 3.2.4", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("9112 3.2", "GET / HTTP/1.0\r\n\r\n"),
    ("9110 5.5", "GET / HTTP/1.1\r\nHost: a\r\nX: \t a\tb \t \r\n\r\n"),
    ("9110 5.5", "GET / HTTP/1.1\r\nHost: a\r\nX: caf\u{e9}\r\n\r\n"),
    ("9110 5.5", "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n"),
    ("9110 5.1", "GET / HTTP/1.1\r\nhOsT: a\r\n!#$%&'*+-.^_`|~09: a\r\n\r\n"),
    ("9112 6.3", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\n\r\n"),
    ("9112 6.1", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n"),
    ("9110 9.3.1", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"),
    ("9110 9.1", "PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("3986 3.3", "GET /a;b=c,d/e:f@g!$&'()*+=-._~|[] HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[test]
fn what_the_rfcs_allow_is_taken() {
    for (section, raw) in TAKEN {
        assert!(
            matches!(outcome(raw.as_bytes()), Ok(Some(_))),
            "RFC {section}: {raw:?}: {:?}",
            outcome(raw.as_bytes())
        );
    }
}

#[test]
fn each_limit_has_its_own_refusal() {
    let long = "x".repeat(600);
    assert_eq!(
        outcome(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()),
        Err(Refusal::TargetTooLong)
    );
    assert_eq!(outcome(format!("GET /{long}").as_bytes()), Err(Refusal::TargetTooLong));
    assert_eq!(
        outcome(format!("GET /{} HTTP/9.9\r\n\r\n", "x".repeat(530)).as_bytes()),
        Err(Refusal::TargetTooLong)
    );
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2048));
    assert_eq!(outcome(large.as_bytes()), Err(Refusal::HeadTooLarge));
    assert_eq!(outcome(&large.as_bytes()[..2060]), Err(Refusal::HeadTooLarge));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(16));
    assert_eq!(outcome(many.as_bytes()), Err(Refusal::TooManyHeaders));
    assert_eq!(outcome("M".repeat(65).as_bytes()), Err(Refusal::Method));
}

#[test]
fn an_unfinished_head_is_waited_for() {
    let whole = b"\r\nPOST /x HTTP/1.1\r\nHost: a\r\n\r\n";
    for end in 0..whole.len() {
        assert_eq!(outcome(&whole[..end]), Ok(None), "{end}");
    }
}

#[test]
fn the_head_ends_where_the_body_starts() {
    let raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET";
    let mut scan = Scan::default();
    assert_eq!(scan.advance(raw, &LIMITS), Ok(Some(0..raw.len() - 7)));
}

#[test]
fn both_versions_keep_connections_their_own_way() {
    let keeps = |raw: &str| with_head(raw, |head| head.keep_alive);
    assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"));
}

#[test]
fn hop_by_hop_fields_stay_here() {
    let raw = "GET http://b/ HTTP/1.1\r\nHost: a\r\nConnection: X-Hop, Host\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
               Upgrade: h2c\r\nProxy-Connection: x\r\nX-End: 2\r\n\r\n";
    let names = with_head(raw, |head| {
        head.forwarded().map(|(name, value)| [name, b"=", value].concat()).collect::<Vec<_>>()
    });
    assert_eq!(names, [b"Host=b".to_vec(), b"X-End=2".to_vec()]);
}

#[test]
fn the_fields_that_we_use_are_found() {
    let raw = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\nX-Request-Id: r-1\r\n\
               Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nServe-Multiplexed_Model-Id: m1\r\nx-request-timeout-seconds: 1.5\r\n\r\n";
    with_head(raw, |head| {
        assert!(head.expect_continue);
        assert_eq!(
            (head.request_id, head.traceparent, head.model_id),
            (Some("r-1"), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), Some("m1"))
        );
        assert_eq!(head.timeout, Some(Duration::from_millis(1500)));
    });
    let raw = "POST / HTTP/1.0\r\nExpect: x\r\nX-Request-Id: a b\r\nx-request-timeout-seconds: -1\r\n\r\n";
    with_head(raw, |head| {
        assert!(!head.expect_continue);
        assert_eq!((head.request_id, head.timeout), (None, Some(Duration::ZERO)));
    });
}

#[test]
fn an_id_or_a_trace_that_is_not_taken_is_not_passed_on() {
    const TRACE: &str = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let of = |fields: &str| {
        with_head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), |head| {
            (head.request_id.is_some(), head.traceparent.is_some(), head.forwarded().count() - 1)
        })
    };
    assert_eq!(of(&format!("X-Request-ID: a\r\n{TRACE}")), (true, true, 2));
    assert_eq!(of(&format!("X-Request-ID: a b\r\n{TRACE}")), (false, true, 1));
    assert_eq!(of("X-Request-ID:\r\nX-Other: 1\r\n"), (false, false, 1));
    assert_eq!(of(&format!("X-Request-ID: {}\r\n", "x".repeat(128))), (true, false, 1));
    assert_eq!(of(&format!("X-Request-ID: {}\r\n", "x".repeat(129))), (false, false, 0));
    assert_eq!(of("X-Request-ID: a\r\nTraceparent: hello\r\n"), (true, false, 1));
    // Two readers could take one each.
    assert_eq!(of("X-Request-ID: a\r\nx-request-id: b\r\n"), (false, false, 0));
    assert_eq!(of("X-Request-ID: a b\r\nx-request-id: b\r\n"), (false, false, 0));
    assert_eq!(of(&format!("{TRACE}{TRACE}")), (false, false, 0));
}

#[test]
fn seconds_are_a_limit_however_few() {
    for (value, seconds) in [
        ("1.5", Some(1.5)),
        ("1e-3", Some(1e-3)),
        ("1e-30", Some(1e-9)),
        ("0", Some(0.0)),
        ("-1", Some(0.0)),
        ("1e9", Some(86_400.0)),
        ("inf", None),
        ("nan", None),
        ("2s", None),
        ("", None),
    ] {
        let raw = format!("GET / HTTP/1.1\r\nHost: a\r\nx-request-timeout-seconds: {value}\r\n\r\n");
        assert_eq!(with_head(&raw, |head| head.timeout), seconds.map(Duration::from_secs_f64), "{value:?}");
    }
}

#[test]
fn every_refusal_of_the_table_stands_wherever_the_input_is_cut() {
    for (_, case, refusal) in REFUSED {
        let R(raw) = case else { continue };
        let bytes: Vec<&[u8]> = raw.as_bytes().chunks(1).collect();
        assert_eq!(outcome_of(&bytes, &LIMITS), Err(*refusal), "{raw:?}");
    }
}

proptest! {
    #[test]
    fn cutting_the_input_changes_nothing(
        raw in "(\r\n)?(GET|POST|OPTIONS|x) (/|/a|\\*|http://a/%2e|/%) HTTP/1\\.[019]\r?\n((Host|Connection|X|Content-Length|Transfer-Encoding):? ?(a|chunked|5|close|\r)?\r?\n){0,4}\r\n(body)?",
        cut in 0.0..1.0f64,
    ) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place within a short text")]
        let cut = (raw.len() as f64 * cut) as usize;
        let (a, b) = raw.as_bytes().split_at(cut);
        prop_assert_eq!(outcome_of(&[a, b], &LIMITS), outcome(raw.as_bytes()));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        super::super::fuzz_request(&bytes);
    }
}
