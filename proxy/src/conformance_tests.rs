//! The table, whole and cut everywhere, and what of a head can't be said in an outcome.

use super::*;
use std::iter::{once, repeat_n};
use std::time::Duration;

use crate::engine::wire::{Forwarded, Pace, settings, speak_at};

#[test]
fn every_row_comes_to_what_it_says() {
    let wrong: Vec<String> = rows()
        .map(|(section, text, expected)| (section, text, expected, outcome_of(&bytes(text))))
        .filter(|(.., expected, found)| *expected != found.as_str())
        .map(|(section, text, expected, found)| format!("RFC {section}: {text:?}\n  {expected}\n  {found}"))
        .collect();
    assert!(wrong.is_empty(), "expected, and found:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_is_not_cut_short() {
    assert!(rows().count() >= 300, "{}", rows().count());
}

/// A 100 comes only where the body was not there yet.
fn without_interim(spoken: &Spoken) -> Spoken {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let answer = String::from_utf8_lossy(&spoken.answer).replace(interim, "").into_bytes();
    Spoken { answer, ..spoken.clone() }
}

#[test]
fn cutting_the_input_at_any_byte_changes_nothing() {
    for (section, text, _) in rows() {
        let bytes = bytes(text);
        let whole = without_interim(&speak([&bytes[..]]));
        let by_byte = without_interim(&speak(bytes.chunks(1)));
        assert_eq!(shown(&by_byte), shown(&whole), "RFC {section}: {text:?}, byte by byte");
        for cut in 1..bytes.len() {
            let two = without_interim(&speak([&bytes[..cut], &bytes[cut..]]));
            assert_eq!(shown(&two), shown(&whole), "RFC {section}: {text:?}, cut at {cut}");
        }
    }
}

/// Everything, but for the ids that are made as requests come.
fn shown(spoken: &Spoken) -> (Vec<Forwarded>, String, bool) {
    (spoken.requests.clone(), String::from_utf8_lossy(&spoken.answer).into_owned(), spoken.closed)
}

fn spoken(text: &str) -> Spoken {
    speak([&bytes(text)[..]])
}

fn answer(text: &str) -> String {
    String::from_utf8(spoken(text).answer).unwrap()
}

#[test]
fn what_is_about_the_connection_stays_on_its_side_of_the_proxy() {
    let got = spoken(
        "GET http://b/ HTTP/1.1\nHost: a\nConnection: x-hop, host, keep-alive\nKeep-Alive: 5\nTE: trailers\n\
         Trailer: x\nProxy-Connection: close\nUpgrade: h2c\nX-Hop: 1\nX-End: 2\n\n",
    );
    let fields: Vec<String> = got.requests[0]
        .fields
        .iter()
        .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
        .collect();
    assert_eq!(fields, ["Host=b", "X-End=2"]);
    let answer = answer("GET /hop HTTP/1.1\nHost: a\nX-Request-ID: i\n\n");
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nX-Kept: yes\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nx-request-id: i\r\n\
         content-length: 2\r\n\r\nok"
    );
}

#[test]
fn every_answer_is_dated_and_none_says_what_breaks_out_of_it() {
    for path in ["/", "/204", "/split", "/-/healthz", "/stream"] {
        let answer = answer(&format!("GET {path} HTTP/1.1\nHost: a\n\n"));
        assert!(answer.contains("\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), "{answer}");
        assert!(!answer.contains("set-cookie"), "{answer}");
    }
    assert!(answer("GET  / HTTP/1.1\n\n").contains("\r\ndate: "));
    assert_eq!(answer("GET /dated HTTP/1.1\nHost: a\n\n").to_lowercase().matches("date: ").count(), 1);
}

#[test]
fn answers_without_a_body_have_none() {
    for (text, status, has_length) in [
        ("GET /204 HTTP/1.1\nHost: a\n\n", "204", false),
        ("GET /304 HTTP/1.1\nHost: a\n\n", "304", true),
        ("HEAD /large HTTP/1.1\nHost: a\n\n", "200", true),
        ("HEAD /stream HTTP/1.1\nHost: a\n\n", "200", false),
    ] {
        let answer = answer(text);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
        assert_eq!(answer.contains("content-length"), has_length, "{answer}");
        assert!(!answer.contains("transfer-encoding"), "{answer}");
    }
}

#[test]
fn each_limit_of_a_head_has_its_own_status() {
    let long = |count: usize| "x".repeat(count);
    for (text, expected) in [
        (format!("GET /{} HTTP/1.1\nHost: a\n\n", long(1023)), 200),
        (format!("GET /{} HTTP/1.1\nHost: a\n\n", long(1024)), 414),
        (format!("GET /{}", long(4000)), 414),
        (format!("GET /?{} HTTP/1.1\nHost: a\n\n", long(1024)), 414),
        (format!("GET / HTTP/1.1\nHost: a\nX: {}\n\n", long(4000)), 200),
        (format!("GET / HTTP/1.1\nHost: a\nX: {}\n\n", long(4096)), 431),
        (format!("GET / HTTP/1.1\nHost: a\nX: {}", long(5000)), 431),
        (format!("GET / HTTP/1.1\nHost: a\n{}: x\n\n", long(4096)), 431),
        (format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(31)), 200),
        (format!("GET / HTTP/1.1\nHost: a\n{}\n", "X: y\n".repeat(32)), 431),
        (format!("{} / HTTP/1.1\nHost: a\n\n", long(65)), 501),
        (format!("{}3;{}\nabc\n0\n\n", chunked!(""), long(5000)), 400),
        (format!("{}0\nX: {}\n\n", chunked!(""), long(9000)), 431),
    ] {
        let bytes = bytes(&text);
        for spoken in [speak([&bytes[..]]), speak(bytes.chunks(1)), speak(bytes.chunks(1000))] {
            let answer = String::from_utf8_lossy(&spoken.answer);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {expected} ")),
                "{}: {answer}",
                &text[..60.min(text.len())]
            );
        }
    }
}

/// What a client comes to that sends this, and then a byte a second of that.
fn drip(settings: decurion_ipc::control::ProxySettings, text: &str, byte: &[u8], count: usize) -> String {
    let bytes = bytes(text);
    let pace = Pace { wait: Duration::from_secs(1), room: usize::MAX };
    outcome(&speak_at(settings, pace, once(&bytes[..]).chain(repeat_n(byte, count))))
}

#[test]
fn who_drips_is_let_go() {
    let any_rate = || decurion_ipc::control::ProxySettings { min_body_rate: 0, ..settings() };
    let body = "POST / HTTP/1.1\nHost: a\nx-request-timeout-seconds: 0\nContent-Length: 100\n\n";
    let large = body.replace("100", "60000");
    let chunks = body.replace("Content-Length: 100", "Transfer-Encoding: chunked") + "FF\n";
    // The head has its time, however it comes.
    assert_eq!(drip(settings(), "GET / HTTP/1.1\nX: ", b"x", 8), "=> open");
    assert_eq!(drip(settings(), "GET / HTTP/1.1\nX: ", b"x", 12), "=> 408 closed");
    assert_eq!(drip(settings(), "\n", b"x", 12), "=> 408 closed");
    // A body has a time without a byte, and a rate.
    for text in [body, &large, &chunks] {
        assert_eq!(drip(settings(), text, b"x", 27), "=> open", "{text}");
        assert_eq!(drip(settings(), text, b"x", 35), "=> 408 closed", "{text}");
        assert_eq!(drip(any_rate(), text, b"x", 90), "=> open", "{text}");
        assert_eq!(drip(any_rate(), text, b"", 35), "=> 408 closed", "{text}");
    }
    let fast = vec![b'x'; 500];
    assert_eq!(drip(settings(), &large, &fast, 100), "=> open");
    let whole = drip(settings(), &large, &fast, 120);
    assert!(whole.starts_with("POST / [xxx") && whole.ends_with("=> 200 open"), "{whole}");
    // The deadline of the whole is one of its own, whatever the body.
    let text = large.replace("seconds: 0", "seconds: 20");
    assert_eq!(drip(settings(), &text, &fast, 25), "=> 504 open");
    for text in [body, &chunks] {
        assert_eq!(drip(settings(), &text.replace("seconds: 0", "seconds: 20"), b"x", 25), "=> 504 open");
    }
}

#[test]
fn a_head_that_does_not_come_has_nothing_of_the_request_before() {
    for method in ["GET", "HEAD"] {
        let text = format!("{method} / HTTP/1.0\nX-Request-ID: first\nConnection: keep-alive\n\nGET / HT");
        let pace = Pace { wait: Duration::from_secs(1), room: usize::MAX };
        let spoken = speak_at(settings(), pace, once(&bytes(&text)[..]).chain(repeat_n(&b""[..], 12)));
        let answer = String::from_utf8(spoken.answer).unwrap();
        let (_, second) = answer.rsplit_once("HTTP/1.1 ").unwrap();
        assert!(second.starts_with("408 ") && second.ends_with("did not arrive in time.\n"), "{answer}");
        assert!(!second.contains("first") && spoken.closed, "{answer}");
    }
}

#[test]
fn who_reads_by_drops_is_let_go() {
    let got = |settings, room, steps| {
        let text = bytes("GET /large HTTP/1.1\nHost: a\n\n");
        let pace = Pace { wait: Duration::from_secs(1), room };
        let spoken = speak_at(settings, pace, once(&text[..]).chain(repeat_n(&b""[..], steps)));
        (spoken.answer.len(), spoken.closed)
    };
    let any_rate = decurion_ipc::control::ProxySettings { min_body_rate: 0, ..settings() };
    let (whole, _) = got(settings(), usize::MAX, 1);
    assert_eq!(got(settings(), 10, 25), (260, false));
    let (some, closed) = got(settings(), 10, 60);
    assert!(some < 400 && closed, "{some}");
    assert_eq!(got(any_rate.clone(), 10, 60), (610, false), "any progress will do");
    assert_eq!(got(settings(), 300, 12), (whole, false), "fast enough");
    let (none, closed) = got(any_rate, 0, 35);
    assert!(none == 0 && closed);
}

#[test]
fn a_connection_has_so_many_requests() {
    let text = bytes(&"GET / HTTP/1.1\nHost: a\n\n".repeat(5));
    for (most, expected) in [
        (0, "GET / | GET / | GET / | GET / | GET / => 200 200 200 200 200 open"),
        (3, "GET / | GET / | GET / => 200 200 200 closed"),
        (1, "GET / => 200 closed"),
    ] {
        let settings =
            decurion_ipc::control::ProxySettings { max_requests_per_connection: most, ..settings() };
        let pace = Pace { wait: Duration::ZERO, room: usize::MAX };
        assert_eq!(outcome(&speak_at(settings, pace, [&text[..]])), expected);
    }
}

#[test]
fn the_rest_of_a_body_is_dropped_wherever_it_is_cut() {
    let length = format!("POST /-/nowhere HTTP/1.1\nHost: a\nContent-Length: 3000\n\n{}", "x".repeat(3000));
    let chunk = format!("3E8\n{}\n", "x".repeat(1000));
    let head = "POST /-/nowhere HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n";
    let chunks = format!("{head}{}0\nX: y\n\n", chunk.repeat(3));
    let text = format!("{length}{chunks}GET /next HTTP/1.1\nHost: a\n\n");
    let bytes = bytes(&text);
    for cut in 1..bytes.len() {
        let pieces = speak([&bytes[..cut], &bytes[cut..]]);
        assert_eq!(outcome(&pieces), "GET /next => 404 404 200 open", "cut at {cut}");
    }
    assert_eq!(outcome(&speak(bytes.chunks(1))), "GET /next => 404 404 200 open");
    // What is too large, or no chunk, ends the connection behind the answer.
    for (text, expected) in [
        (format!("POST /-/x HTTP/1.1\nHost: a\nContent-Length: 99999999\n\n{}", length), "=> 404 closed"),
        (format!("{head}{}", "ffff\n".to_owned() + &"x".repeat(65535) + "\nffff\n"), "=> 404 closed"),
        (format!("{head}{chunk}nonsense"), "=> 404 closed"),
    ] {
        assert_eq!(outcome(&spoken(&text)), expected, "{}", &text[..80]);
    }
}

#[test]
fn the_rest_of_a_body_has_a_rate_and_an_end() {
    let body = "POST /-/nowhere HTTP/1.1\nHost: a\nContent-Length: 60000\n\n";
    assert_eq!(drip(settings(), body, b"x", 27), "=> 404 open");
    assert_eq!(drip(settings(), body, b"x", 45), "=> 404 closed");
    // However well it comes.
    let fast = vec![b'x'; 1000];
    assert_eq!(drip(settings(), body, &fast, 25), "=> 404 open");
    assert_eq!(drip(settings(), body, &fast, 45), "=> 404 closed");
    assert_eq!(drip(settings(), &body.replace("60000", "25000"), &fast, 25), "=> 404 open");
}
