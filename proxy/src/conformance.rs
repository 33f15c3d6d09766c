//! HTTP/1.1 to the letter: raw bytes, the section that speaks of them, and what must come of a whole connection.
//!
//! In the rows, `\n` stands for CRLF, `␊` for a bare LF, `␍` for a bare CR. An outcome names each request that a
//! deployment gets, `METHOD PATH?QUERY [BODY]`, then the statuses that the client gets, and whether the connection is
//! `open` or `closed` afterwards. Sections of RFC 9110 and 9112 go by those numbers, others say theirs.

use crate::engine::wire::{Spoken, speak};

/// Where it stands, what is sent, what comes of it.
pub type Row = (&'static str, &'static str, &'static str);

/// A row's bytes.
#[must_use]
pub fn bytes(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").replace('␊', "\n").replace('␍', "\r").into_bytes()
}

/// What came of a connection, in the form of the rows.
///
/// # Panics
/// Where the proxy has said what is no HTTP.
#[must_use]
pub fn outcome(spoken: &Spoken) -> String {
    let text = String::from_utf8_lossy;
    let requests = spoken.requests.iter().map(|request| {
        let query =
            if request.query.is_empty() { String::new() } else { format!("?{}", text(&request.query)) };
        let body =
            if request.body.is_empty() { String::new() } else { format!(" [{}]", text(&request.body)) };
        format!("{} {}{query}{body}", request.method, text(&request.path))
    });
    let end = if spoken.closed { "closed" } else { "open" };
    let statuses: String = statuses(spoken).iter().map(|status| format!("{status} ")).collect();
    format!("{} => {statuses}{end}", requests.collect::<Vec<_>>().join(" | ")).trim_start().to_owned()
}

/// Of each response, interim ones included.
///
/// # Panics
/// Where the proxy has said what is no HTTP.
#[must_use]
pub fn statuses(spoken: &Spoken) -> Vec<u16> {
    let mut statuses = Vec::new();
    let mut rest = &spoken.answer[..];
    let mut finals = 0;
    while !rest.is_empty() {
        let to_head = spoken.requests.get(finals).is_some_and(|request| request.method == "HEAD");
        let status;
        (status, rest) = response(rest, to_head, spoken.closed);
        finals += usize::from(status >= 200);
        statuses.push(status);
    }
    statuses
}

/// Reads one response as its framing says: its status, and what follows it.
fn response(bytes: &[u8], to_head: bool, closed: bool) -> (u16, &[u8]) {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a whole head") + 4;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head of text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
    let status: u16 = status[..3].parse().expect("a status");
    let mut body = if closed { Body::Close } else { Body::None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").expect("a field");
        match name {
            "content-length" => body = Body::Length(value.parse().expect("a length")),
            "transfer-encoding" => body = Body::Chunked,
            _ => {}
        }
    }
    let rest = &bytes[end..];
    // A HEAD that was refused, or answered by the proxy itself, never was a request to a deployment.
    let to_head = to_head || rest.is_empty() || rest.starts_with(b"HTTP/1.1 ");
    if to_head || status < 200 || status == 204 || status == 304 {
        return (status, rest);
    }
    match body {
        Body::None => panic!("a response without an end: {head}"),
        Body::Close => (status, &[]),
        Body::Length(length) => (status, &rest[length..]),
        Body::Chunked => (status, after_chunks(rest)),
    }
}

enum Body {
    None,
    Close,
    Length(usize),
    Chunked,
}

fn after_chunks(mut rest: &[u8]) -> &[u8] {
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n").expect("a chunk's size");
        let size = std::str::from_utf8(&rest[..line]).expect("digits");
        let size = usize::from_str_radix(size, 16).expect("a size");
        rest = &rest[line + 2 + size..];
        rest = rest.strip_prefix(b"\r\n").expect("a chunk's end");
        if size == 0 {
            return rest;
        }
    }
}

/// The outcome of bytes that arrive in one piece.
#[must_use]
pub fn outcome_of(bytes: &[u8]) -> String {
    outcome(&speak([bytes]))
}

/// All rows.
pub fn rows() -> impl Iterator<Item = Row> {
    [
        LINES,
        REQUEST_LINES,
        TARGETS,
        HOSTS,
        FIELDS,
        LENGTHS,
        CODINGS,
        CHUNKS,
        EXPECTATIONS,
        CONNECTIONS,
        LIMITS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

const LINES: &[Row] = &[
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\n\n", "GET / => 200 open"),
    ("9112 2.2", "\nGET / HTTP/1.1\nHost: a\n\n", "GET / => 200 open"),
    ("9112 2.2", "\n\nGET / HTTP/1.1\nHost: a\n\n", "GET / => 200 open"),
    ("9112 2.2", "\n\n\n\n\n\nGET / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1␊Host: a␊␊", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a␊\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\n␊", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1␊Host: a\n\n", "=> 400 closed"),
    ("9112 2.2", "␊GET / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1␍Host: a\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a␍␍␊␍␊", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\nX: b␍c\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\nX: b␍\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\n␍X: b\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\nX: b␍␊Y: c␊\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\n Host: a\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\n\tX: 1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\n\nGET /b HTTP/1.1\nHost: a\n\n", "GET / | GET /b => 200 200 open"),
    (
        "9112 2.2",
        "GET / HTTP/1.1\nHost: a\n\n\nGET /b HTTP/1.1\nHost: a\n\n",
        "GET / | GET /b => 200 200 open",
    ),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\n\n GET /b HTTP/1.1\nHost: a\n\n", "GET / => 200 400 closed"),
    ("9112 2.2", "GET / HTTP/1.1\nHost: a\n\n\0\0", "GET / => 200 400 closed"),
];

const REQUEST_LINES: &[Row] = &[
    ("9112 3", "GET  / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET /  HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", " GET / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET / HTTP/1.1 \nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET\t/ HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET /\tHTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET / HTTP/1.1\t\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET\u{b}/ HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET /\n\n", "=> 400 closed"),
    ("9112 3", "GET / \nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET\n\n", "=> 400 closed"),
    ("9112 3", "GET /a b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET /a HTTP/1.1 HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "G@T / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "G\u{e9}T / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "\"GET\" / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET / HTTP/1.1\0\nHost: a\n\n", "=> 400 closed"),
    ("9112 3", "GET\0 / HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP/1.1a\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / http/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP 1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP/1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP/1,1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP/ 1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP/1.1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP/001.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / HTTP/+1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 2.3", "GET / XTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9110 15.6.6", "GET / HTTP/2.0\nHost: a\n\n", "=> 505 closed"),
    ("9110 15.6.6", "GET / HTTP/3.0\nHost: a\n\n", "=> 505 closed"),
    ("9110 15.6.6", "GET / HTTP/1.2\nHost: a\n\n", "=> 505 closed"),
    ("9110 15.6.6", "GET / HTTP/1.9\nHost: a\n\n", "=> 505 closed"),
    ("9110 15.6.6", "GET / HTTP/0.9\nHost: a\n\n", "=> 505 closed"),
    ("9113 3.4", "PRI * HTTP/2.0\n\nSM\n\n", "=> 505 closed"),
    ("8446 5.1", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}", "=> 400 closed"),
    ("9110 9.1", "get / HTTP/1.1\nHost: a\n\n", "=> 501 closed"),
    ("9110 9.1", "FROB / HTTP/1.1\nHost: a\n\n", "=> 501 closed"),
    ("9110 9.1", "GETGET / HTTP/1.1\nHost: a\n\n", "=> 501 closed"),
    ("9110 9.3.6", "CONNECT a:80 HTTP/1.1\nHost: a:80\n\n", "=> 501 closed"),
    ("9110 9.3.1", "GET / HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc", "GET / [abc] => 200 open"),
    (
        "9110 9.3.2",
        "HEAD / HTTP/1.1\nHost: a\n\nGET /b HTTP/1.1\nHost: a\n\n",
        "HEAD / | GET /b => 200 200 open",
    ),
    (
        "9110 9.3.2",
        "HEAD /stream HTTP/1.1\nHost: a\n\nGET /b HTTP/1.1\nHost: a\n\n",
        "HEAD /stream | GET /b => 200 200 open",
    ),
    ("9110 9.3.2", "HEAD /large HTTP/1.0\n\n", "HEAD /large => 200 closed"),
    ("9110 9.3.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n", "POST / => 200 open"),
    ("9110 9.3.3", "POST / HTTP/1.1\nHost: a\n\n", "POST / => 200 open"),
    ("9110 9.3.4", "PUT / HTTP/1.1\nHost: a\nContent-Length: 1\n\nx", "PUT / [x] => 200 open"),
    ("9110 9.3.5", "DELETE / HTTP/1.1\nHost: a\n\n", "DELETE / => 200 open"),
    ("9110 9.3.7", "OPTIONS /x HTTP/1.1\nHost: a\n\n", "OPTIONS /x => 200 open"),
    ("9110 9.3.8", "TRACE / HTTP/1.1\nHost: a\n\n", "TRACE / => 200 open"),
    ("9110 9.3.8", "TRACE / HTTP/1.1\nHost: a\nContent-Length: 1\n\nx", "=> 400 closed"),
    ("5789 2", "PATCH / HTTP/1.1\nHost: a\nContent-Length: 1\n\nx", "PATCH / [x] => 200 open"),
    ("4918 9.1", "PROPFIND / HTTP/1.1\nHost: a\n\n", "PROPFIND / => 200 open"),
];

const TARGETS: &[Row] = &[
    ("9112 3.2.1", "GET /a/b?c=d&e HTTP/1.1\nHost: a\n\n", "GET /a/b?c=d&e => 200 open"),
    ("9112 3.2.1", "GET /a? HTTP/1.1\nHost: a\n\n", "GET /a => 200 open"),
    ("9112 3.2.1", "GET /a?b?c HTTP/1.1\nHost: a\n\n", "GET /a?b?c => 200 open"),
    ("9112 3.2.1", "GET ?a HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.1", "GET a HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.1", "GET /a#b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.1", "GET /a?b#c HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.2", "GET http://b/x HTTP/1.1\nHost: b\n\n", "GET /x => 200 open"),
    ("9112 3.2.2", "GET http://b/x HTTP/1.1\nHost: other\n\n", "GET /x => 200 open"),
    ("9112 3.2.2", "GET HTTP://b:80/x?y HTTP/1.1\nHost: b\n\n", "GET /x?y => 200 open"),
    ("9112 3.2.2", "GET https://b/x HTTP/1.1\nHost: b\n\n", "GET /x => 200 open"),
    ("9112 3.2.2", "GET http://b HTTP/1.1\nHost: b\n\n", "GET / => 200 open"),
    ("9112 3.2.2", "GET http://b?q HTTP/1.1\nHost: b\n\n", "GET /?q => 200 open"),
    ("9112 3.2.2", "GET http://b/x HTTP/1.1\n\n", "=> 400 closed"),
    ("9112 3.2.2", "GET http:///x HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.2", "GET http:/x HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.2", "GET ftp://b/x HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.2", "GET file:///etc/passwd HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9110 4.2.4", "GET http://u:p@b/x HTTP/1.1\nHost: b\n\n", "=> 400 closed"),
    ("9112 3.2.2", "GET http://b:x/ HTTP/1.1\nHost: b\n\n", "=> 400 closed"),
    ("9112 3.2.2", "GET http://b\\c/ HTTP/1.1\nHost: b\n\n", "=> 400 closed"),
    ("9112 3.2.3", "GET b:80 HTTP/1.1\nHost: b\n\n", "=> 400 closed"),
    ("9112 3.2.4", "OPTIONS * HTTP/1.1\nHost: a\n\n", "=> 200 open"),
    ("9112 3.2.4", "GET * HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2.4", "OPTIONS http://b HTTP/1.1\nHost: b\n\n", "=> 200 open"),
    ("9112 3.2.4", "OPTIONS *x HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 6.2.2.2", "GET /%61%2D HTTP/1.1\nHost: a\n\n", "GET /a- => 200 open"),
    ("3986 6.2.2.1", "GET /%c3%a9 HTTP/1.1\nHost: a\n\n", "GET /%C3%A9 => 200 open"),
    ("3986 2.1", "GET /% HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2.1", "GET /%4 HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2.1", "GET /%4g HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2.1", "GET /%u0041 HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 7.3", "GET /a%00b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /a\0b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /a\u{7f}b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /a\u{e9} HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /a\\..\\b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /<x> HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /{x} HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /a\"b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2", "GET /^` HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 5.2.4", "GET /a/../b HTTP/1.1\nHost: a\n\n", "GET /b => 200 open"),
    ("3986 5.2.4", "GET /a/./b/. HTTP/1.1\nHost: a\n\n", "GET /a/b/ => 200 open"),
    ("3986 5.2.4", "GET /a/%2e%2e/b HTTP/1.1\nHost: a\n\n", "GET /b => 200 open"),
    ("3986 5.2.4", "GET /a/.%2E/b HTTP/1.1\nHost: a\n\n", "GET /b => 200 open"),
    ("3986 5.2.4", "GET /../a HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 5.2.4", "GET /%2e%2e/a HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 5.2.4", "GET /a/../../b HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 5.2.4", "GET /a/..%2fb HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 5.2.4", "GET /a/..%5cb HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 5.2.4", "GET /a%2f..%2fb HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
    ("3986 2.2", "GET /a%2fb HTTP/1.1\nHost: a\n\n", "GET /a%2Fb => 200 open"),
    ("3986 2.4", "GET /a%252e%252e/b HTTP/1.1\nHost: a\n\n", "GET /a%252e%252e/b => 200 open"),
    ("3986 3.3", "GET //a//b HTTP/1.1\nHost: a\n\n", "GET //a//b => 200 open"),
    ("3986 3.3", "GET //evil/x HTTP/1.1\nHost: a\n\n", "GET //evil/x => 200 open"),
    ("3986 3.3", "GET /a;p=1,2:3@4 HTTP/1.1\nHost: a\n\n", "GET /a;p=1,2:3@4 => 200 open"),
    ("3986 3.4", "GET /a?b=/../c HTTP/1.1\nHost: a\n\n", "GET /a?b=/../c => 200 open"),
    ("3986 3.4", "GET /a?%zz HTTP/1.1\nHost: a\n\n", "GET /a?%zz => 200 open"),
    ("3986 3.4", "GET /a?b\u{1}c HTTP/1.1\nHost: a\n\n", "=> 400 closed"),
];

const HOSTS: &[Row] = &[
    ("9112 3.2", "GET / HTTP/1.1\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a\nHost: a\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a\nhOST: b\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a, b\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a b\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a/b\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a@b\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a?b\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a#b\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a:80:80\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a:-80\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a:999999\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: [::1\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: http://a\n\n", "=> 400 closed"),
    ("9112 3.2", "GET / HTTP/1.1\nHost: a\\b\n\n", "=> 400 closed"),
    ("9110 4.2.1", "GET / HTTP/1.1\nHost:\n\n", "=> 400 closed"),
    ("9110 7.2", "GET / HTTP/1.1\nHost: a.b-c:8080\n\n", "GET / => 200 open"),
    ("9110 7.2", "GET / HTTP/1.1\nHost: [::1]:80\n\n", "GET / => 200 open"),
    ("9110 7.2", "GET / HTTP/1.1\nHost:\ta \t\n\n", "GET / => 200 open"),
    ("9112 3.2", "GET / HTTP/1.0\n\n", "GET / => 200 closed"),
    ("9112 3.2", "GET / HTTP/1.0\nHost: a\nHost: b\n\n", "=> 400 closed"),
];

const FIELDS: &[Row] = &[
    ("9112 5.1", "GET / HTTP/1.1\nHost : a\n\n", "=> 400 closed"),
    ("9112 5.1", "GET / HTTP/1.1\nHost: a\nX : b\n\n", "=> 400 closed"),
    ("9112 5.1", "GET / HTTP/1.1\nHost: a\nX\t: b\n\n", "=> 400 closed"),
    ("9112 5.1", "GET / HTTP/1.1\nHost: a\n: b\n\n", "=> 400 closed"),
    ("9112 5", "GET / HTTP/1.1\nHost: a\nX\n\n", "=> 400 closed"),
    ("9112 5", "GET / HTTP/1.1\nHost: a\nX Y: b\n\n", "=> 400 closed"),
    ("9112 5", "GET / HTTP/1.1\nHost: a\nX(Y): b\n\n", "=> 400 closed"),
    ("9112 5", "GET / HTTP/1.1\nHost: a\n\"X\": b\n\n", "=> 400 closed"),
    ("9112 5", "GET / HTTP/1.1\nHost: a\nX\u{e9}: b\n\n", "=> 400 closed"),
    ("9112 5", "GET / HTTP/1.1\nHost: a\nX\0: b\n\n", "=> 400 closed"),
    ("9112 5.2", "GET / HTTP/1.1\nHost: a\nX: b\n c\n\n", "=> 400 closed"),
    ("9112 5.2", "GET / HTTP/1.1\nHost: a\nX: b\n\tc\n\n", "=> 400 closed"),
    ("9112 5.2", "GET / HTTP/1.1\nHost: a\n Content-Length: 5\n\nhello", "=> 400 closed"),
    ("9110 5.5", "GET / HTTP/1.1\nHost: a\nX: b\0c\n\n", "=> 400 closed"),
    ("9110 5.5", "GET / HTTP/1.1\nHost: a\nX: b\u{8}c\n\n", "=> 400 closed"),
    ("9110 5.5", "GET / HTTP/1.1\nHost: a\nX: b\u{7f}\n\n", "=> 400 closed"),
    ("9110 5.5", "GET / HTTP/1.1\nHost: a\nX: b\u{1b}[0m\n\n", "=> 400 closed"),
    ("9110 5.5", "GET / HTTP/1.1\nHost: a\nX:\n\n", "GET / => 200 open"),
    ("9110 5.5", "GET / HTTP/1.1\nHost: a\nX:  b \t \n\n", "GET / => 200 open"),
    ("9110 5.5", "GET / HTTP/1.1\nHost: a\nX: caf\u{e9}\n\n", "GET / => 200 open"),
    ("9110 5.1", "GET / HTTP/1.1\nhOsT: a\n!#$%&'*+-.^_`|~09: b\n\n", "GET / => 200 open"),
    ("9110 5.3", "GET / HTTP/1.1\nHost: a\nX: b\nX: c\n\n", "GET / => 200 open"),
];

const LENGTHS: &[Row] = &[
    (
        "9112 6.2",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\nabcGET /b HTTP/1.1\nHost: a\n\n",
        "POST / [abc] | GET /b => 200 200 open",
    ),
    ("9112 6.2", "POST / HTTP/1.1\nHost: a\nContent-Length: 003\n\nabc", "POST / [abc] => 200 open"),
    ("9112 6.2", "POST / HTTP/1.1\nHost: a\nContent-Length: \t3 \n\nabc", "POST / [abc] => 200 open"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\nab", "=> open"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: +3\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: -3\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3 3\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3,3\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3, 4\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: ,3\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3;\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: \"3\"\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 0x3\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3e0\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3.0\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: \u{663}\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length:\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 18446744073709551616\n\n", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 18446744073709551619\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 3\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 4\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nContent-Length: 3\ncontent-length: 0\n\nabc", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.0\nContent-Length: 3\n\nabc", "POST / [abc] => 200 closed"),
    ("9112 6.3", "POST / HTTP/1.0\n\nabc", "POST / => 200 closed"),
];

const CODINGS: &[Row] = &[
    (
        "9112 6.1",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n",
        "POST / [abc] => 200 open",
    ),
    ("9112 7", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: CHUNKED\n\n0\n\n", "POST / => 200 open"),
    // CL.TE and TE.CL.
    (
        "9112 6.1",
        "POST / HTTP/1.1\nHost: a\nContent-Length: 6\nTransfer-Encoding: chunked\n\n0\n\nG",
        "=> 400 closed",
    ),
    (
        "9112 6.1",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 6\n\n0\n\nG",
        "=> 400 closed",
    ),
    (
        "9112 6.1",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 0\n\n0\n\n",
        "=> 400 closed",
    ),
    // TE.TE, in the ways to write it that parsers differ over.
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n0\n\n", "=> 501 closed"),
    (
        "9112 6.1",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: x\nTransfer-Encoding: chunked\n\n0\n\n",
        "=> 501 closed",
    ),
    (
        "9112 6.1",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: x\n\n0\n\n",
        "=> 400 closed",
    ),
    (
        "9112 6.1",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n",
        "=> 400 closed",
    ),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: identity, chunked\n\n0\n\n", "=> 501 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: identity\n\n", "=> 501 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n0\n\n", "=> 501 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, gzip\n\n0\n\n", "=> 400 closed"),
    ("9112 6.3", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding:\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: ,chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked,\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked;q=1\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \"chunked\"\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: 'chunked'\n\n0\n\n", "=> 501 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: ch unked\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \u{b}chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding:\u{c}chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\0\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \u{fe}chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 5.1", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding : chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 5.2", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding:\n chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 2.2", "POST / HTTP/1.1\nHost: a\nX: b␊Transfer-Encoding: chunked\n\n0\n\n", "=> 400 closed"),
    (
        "9112 5",
        "POST / HTTP/1.1\nHost: a\nTransfer_Encoding: chunked\nContent-Length: 1\n\nx",
        "POST / [x] => 200 open",
    ),
    ("9112 6.1", "POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n", "=> 400 closed"),
    ("9112 6.1", "POST / HTTP/1.0\nTransfer-Encoding: chunked\nContent-Length: 5\n\n0\n\n", "=> 400 closed"),
];

/// A chunked POST of these bytes.
macro_rules! chunked {
    ($body:literal) => {
        concat!("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n", $body)
    };
}

const CHUNKS: &[Row] = &[
    (
        "9112 7.1",
        chunked!("5\nhello\n6\n world\n0\n\nGET /b HTTP/1.1\nHost: a\n\n"),
        "POST / [hello world] | GET /b => 200 200 open",
    ),
    ("9112 7.1", chunked!("A\n0123456789\n0\n\n"), "POST / [0123456789] => 200 open"),
    ("9112 7.1", chunked!("0003\nabc\n000\n\n"), "POST / [abc] => 200 open"),
    ("9112 7.1.1", chunked!("3;x\nabc\n0;y=z\n\n"), "POST / [abc] => 200 open"),
    ("9112 7.1.1", chunked!("3 ; x=\"a b\"\nabc\n0\n\n"), "POST / [abc] => 200 open"),
    ("9112 7.1.2", chunked!("3\nabc\n0\nX: y\n\n"), "POST / [abc] => 200 open"),
    (
        "9112 7.1.2",
        chunked!("0\nContent-Length: 5\n\nGET /b HTTP/1.1\nHost: a\n\n"),
        "POST / | GET /b => 200 200 open",
    ),
    ("9112 7.1", chunked!("3\nab"), "=> open"),
    ("9112 7.1", chunked!("3\nabcd\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3\nab\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3\nabc0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("x\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("0x3\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("+3\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("-3\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!(" 3\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3 \nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3\t\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3 3\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3_0\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3␊abc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3␍abc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3\nabc␊0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("3\nabc␍0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("10000000000000000\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("FFFFFFFFFFFFFFFF\nabc\n0\n\n"), "=> 413 closed"),
    ("9112 7.1", chunked!("100000003\nabc\n0\n\n"), "=> 413 closed"),
    ("9112 7.1.1", chunked!("3;a␊bc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1.1", chunked!("3;␊abc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1.1", chunked!("3;a␍b\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1.1", chunked!("3;a\0\nabc\n0\n\n"), "=> 400 closed"),
    ("9112 7.1.2", chunked!("0\nX y: z\n\n"), "=> 400 closed"),
    ("9112 7.1.2", chunked!("0\nX : z\n\n"), "=> 400 closed"),
    ("9112 7.1.2", chunked!("0\nX\n\n"), "=> 400 closed"),
    ("9112 7.1.2", chunked!("0\nX: y\n z\n\n"), "=> 400 closed"),
    ("9112 7.1.2", chunked!("0\nX: y␊\n"), "=> 400 closed"),
    ("9112 7.1.2", chunked!("0\nX: y\0\n\n"), "=> 400 closed"),
    ("9112 7.1", chunked!("0\n␊"), "=> 400 closed"),
    ("9112 7.1", chunked!("0␊␊"), "=> 400 closed"),
];

const EXPECTATIONS: &[Row] = &[
    ("9110 10.1.1", "POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 3\n\n", "=> 100 open"),
    (
        "9110 10.1.1",
        "POST / HTTP/1.1\nHost: a\nExpect: 100-Continue\nTransfer-Encoding: chunked\n\n",
        "=> 100 open",
    ),
    (
        "9110 10.1.1",
        "POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 3\n\nabc",
        "POST / [abc] => 200 open",
    ),
    ("9110 10.1.1", "GET / HTTP/1.1\nHost: a\nExpect: 100-continue\n\n", "GET / => 200 open"),
    (
        "9110 10.1.1",
        "POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 0\n\n",
        "POST / => 200 open",
    ),
    ("9110 10.1.1", "POST / HTTP/1.0\nExpect: 100-continue\nContent-Length: 3\n\n", "=> open"),
    ("9110 10.1.1", "POST / HTTP/1.1\nHost: a\nExpect: 200-ok\nContent-Length: 3\n\n", "=> 417 closed"),
    (
        "9110 10.1.1",
        "POST / HTTP/1.1\nHost: a\nExpect: 100-continue, x\nContent-Length: 3\n\n",
        "=> 417 closed",
    ),
    ("9110 10.1.1", "POST / HTTP/1.0\nExpect: x\nContent-Length: 3\n\nabc", "POST / [abc] => 200 closed"),
    // Who would be refused is not asked for the body.
    (
        "9110 10.1.1",
        "POST / HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 99999999\n\n",
        "=> 413 closed",
    ),
    (
        "9110 10.1.1",
        "POST /-/nothing HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 3\n\n",
        "=> 404 closed",
    ),
];

const CONNECTIONS: &[Row] = &[
    (
        "9110 9.3.2",
        "HEAD /-/healthz HTTP/1.1\nHost: a\n\nGET /b HTTP/1.1\nHost: a\n\n",
        "GET /b => 200 200 open",
    ),
    ("9110 9.3.2", "HEAD / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3\nabc\nx\n\n", "=> 400 closed"),
    (
        "9112 9.3",
        "GET / HTTP/1.1\nHost: a\nConnection: close\n\nGET /b HTTP/1.1\nHost: a\n\n",
        "GET / => 200 closed",
    ),
    ("9112 9.3", "GET / HTTP/1.1\nHost: a\nConnection: CLOSE\n\n", "GET / => 200 closed"),
    ("9112 9.3", "GET / HTTP/1.1\nHost: a\nConnection: x, close\n\n", "GET / => 200 closed"),
    (
        "9112 9.3",
        "GET / HTTP/1.1\nHost: a\nConnection: keep-alive\nConnection: close\n\n",
        "GET / => 200 closed",
    ),
    ("9112 9.3", "GET / HTTP/1.1\nHost: a\nConnection: keep-alive\n\n", "GET / => 200 open"),
    ("9112 9.3", "GET / HTTP/1.1\nHost: a\nConnection: closed\n\n", "GET / => 200 open"),
    ("9112 9.3", "GET / HTTP/1.1\nHost: a\nConnection:\n\n", "GET / => 200 open"),
    ("9112 9.3", "GET / HTTP/1.0\n\n", "GET / => 200 closed"),
    ("9112 9.3", "GET / HTTP/1.0\nConnection: keep-alive\n\n", "GET / => 200 open"),
    (
        "9112 9.3",
        "GET / HTTP/1.0\nConnection: Keep-Alive\n\nGET /b HTTP/1.0\n\n",
        "GET / | GET /b => 200 200 closed",
    ),
    ("9112 9.3", "GET / HTTP/1.0\nConnection: keep-alive, close\n\n", "GET / => 200 closed"),
    // HTTP/1.0 has no chunks: only the end of the connection delimits.
    (
        "9112 6.3",
        "GET /stream HTTP/1.0\nConnection: keep-alive\n\nGET /b HTTP/1.0\n\n",
        "GET /stream => 200 closed",
    ),
    (
        "9112 6.3",
        "GET /stream HTTP/1.1\nHost: a\n\nGET /b HTTP/1.1\nHost: a\n\n",
        "GET /stream | GET /b => 200 200 open",
    ),
    (
        "9112 9.3.2",
        "GET /a HTTP/1.1\nHost: a\n\nPOST /b HTTP/1.1\nHost: a\nContent-Length: 1\n\nxGET /c HTTP/1.1\nHost: a\n\n",
        "GET /a | POST /b [x] | GET /c => 200 200 200 open",
    ),
    (
        "9112 9.3.2",
        "GET /a HTTP/1.1\nHost: a\n\nGET  /b HTTP/1.1\nHost: a\n\nGET /c HTTP/1.1\nHost: a\n\n",
        "GET /a => 200 400 closed",
    ),
    (
        "9112 9.3.2",
        "GET /204 HTTP/1.1\nHost: a\n\nGET /304 HTTP/1.1\nHost: a\n\nGET /c HTTP/1.1\nHost: a\n\n",
        "GET /204 | GET /304 | GET /c => 204 304 200 open",
    ),
    (
        "9110 15.3.6",
        "GET /205 HTTP/1.1\nHost: a\n\nGET /c HTTP/1.1\nHost: a\n\n",
        "GET /205 | GET /c => 205 200 open",
    ),
    // What a handler must not say is a 500, and nothing of it goes out.
    ("9110 15.2", "GET /100 HTTP/1.1\nHost: a\n\n", "GET /100 => 500 open"),
    ("9110 15.2", "GET /199 HTTP/1.1\nHost: a\n\n", "GET /199 => 500 open"),
    ("9110 15", "GET /600 HTTP/1.1\nHost: a\n\n", "GET /600 => 500 open"),
    ("9110 5.5", "GET /split HTTP/1.1\nHost: a\n\n", "GET /split => 500 open"),
    ("9110 5.5", "GET /null HTTP/1.1\nHost: a\n\n", "GET /null => 500 open"),
    ("9110 5.1", "GET /name HTTP/1.1\nHost: a\n\n", "GET /name => 500 open"),
    ("9110 15.5.6", "POST /-/healthz HTTP/1.1\nHost: a\n\n", "=> 405 open"),
    ("9110 15.5.5", "GET /-/nothing HTTP/1.1\nHost: a\n\n", "=> 404 open"),
    (
        "9110 7.8",
        "GET / HTTP/1.1\nHost: a\nConnection: upgrade, http2-settings\nUpgrade: h2c\nHTTP2-Settings: x\n\n",
        "GET / => 200 open",
    ),
];

const LIMITS: &[Row] = &[
    ("9110 15.5.14", "POST / HTTP/1.1\nHost: a\nContent-Length: 65537\n\n", "=> 413 closed"),
    ("9110 15.5.14", chunked!("10001\n"), "=> 413 closed"),
];

#[cfg(test)]
#[path = "conformance_tests.rs"]
mod tests;
