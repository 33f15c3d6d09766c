//! What one request's head costs: found, parsed and checked, beside httparse alone; and what a response's head and a
//! chunked body cost.
//!
//! `cargo bench -p decurion-benches --bench http_parse`

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

use decurion_proxy::http1::{AnswerHead, Chunked, Head, HeadLimits, Length, Scan, Storage, Version};

fn main() {
    divan::main();
}

const LIMITS: HeadLimits = HeadLimits { head: 64 * 1024, headers: 100, target: 8 * 1024 };

/// What wrk sends.
const SMALL: &str = "GET /api HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n";

/// What a browser sends.
const BROWSER: &str = "GET /api/v1/items?page=2&sort=name HTTP/1.1\r\nHost: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n\
    Referer: https://www.example.org/api/v1/items\r\nConnection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n\r\n";

const HEADS: [&str; 2] = ["small", "browser"];

fn raw(name: &str) -> &'static str {
    if name == "small" { SMALL } else { BROWSER }
}

#[divan::bench(args = HEADS)]
fn find_parse_check(bencher: Bencher<'_, '_>, name: &str) {
    let raw = raw(name);
    bencher.counter(BytesCount::of_str(raw)).counter(ItemsCount::new(1u32)).bench(|| {
        let buffer = black_box(raw).as_bytes();
        let range = Scan::default().advance(buffer, &LIMITS).unwrap().unwrap();
        let mut storage = Storage::new();
        let head = Head::parse(&buffer[range], &mut storage, &LIMITS).unwrap();
        black_box(head.forwarded().count())
    });
}

#[divan::bench(args = HEADS)]
fn httparse_alone(bencher: Bencher<'_, '_>, name: &str) {
    let raw = raw(name);
    bencher.counter(BytesCount::of_str(raw)).counter(ItemsCount::new(1u32)).bench(|| {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        black_box(request.parse(black_box(raw).as_bytes()).unwrap().is_complete())
    });
}

#[divan::bench]
fn response_head(bencher: Bencher<'_, '_>) {
    let mut out = Vec::with_capacity(1024);
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        out.clear();
        let head = AnswerHead {
            status: 200,
            length: Length::Known(13),
            version: Version::Http11,
            to_head: false,
            keep_alive: true,
            request_id: "0123456789abcdef0123456789abcdef",
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
        };
        let fields = [(&b"content-type"[..], &b"text/plain; charset=utf-8"[..])];
        let body = head.write(black_box(fields).into_iter(), &mut out);
        black_box((body.is_ok(), out.len()))
    });
}

#[divan::bench(args = [64, 4096, 65536])]
fn chunked_body(bencher: Bencher<'_, '_>, chunk: usize) {
    let mut wire = Vec::new();
    for _ in 0..(1 << 20) / chunk {
        wire.extend_from_slice(format!("{chunk:x}\r\n").as_bytes());
        wire.resize(wire.len() + chunk, b'x');
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    bencher.counter(BytesCount::new(wire.len())).bench(|| {
        let mut decoder = Chunked::default();
        let mut rest = black_box(&wire[..]);
        let mut body = 0;
        while !decoder.is_done() {
            let step = decoder.step(rest).unwrap();
            body += step.data.len();
            rest = &rest[step.consumed..];
        }
        body
    });
}
