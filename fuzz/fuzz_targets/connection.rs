//! The whole connection, beside another parser: what we forward, Node's `http-parser` reads as the same requests.
//!
//! It may refuse what we take, and stop; it must not read it differently.
#![no_main]

use decurion_proxy::engine::wire::{Forwarded, fuzz_connection};
use decurion_proxy::http1::target;
use http_muncher::{Parser, ParserHandler};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let ours = fuzz_connection(bytes);
    let theirs = read(bytes);
    // Pages of our own are answered here, and not forwarded.
    let mut theirs =
        theirs.iter().filter(|request| !request.path.starts_with(b"/-/") && request.path != b"*");
    for request in &ours.requests {
        // What follows a request that their parser stops at, or an offer to leave HTTP, has no second opinion.
        let Some(read) = theirs.next() else { break };
        let parts = |request: &Forwarded| {
            (request.method.clone(), request.path.clone(), request.query.clone(), request.body.clone())
        };
        assert_eq!(parts(request), parts(read), "read differently");
    }
});

/// The whole requests that the other parser reads.
fn read(bytes: &[u8]) -> Vec<Forwarded> {
    let mut reader = Reader { input: bytes, ..Reader::default() };
    Parser::request().parse(&mut reader, bytes);
    reader.done
}

#[derive(Default)]
struct Reader<'i> {
    input: &'i [u8],
    /// Where in the input the last body ended.
    body_end: usize,
    method: String,
    url: Vec<u8>,
    body: Vec<u8>,
    done: Vec<Forwarded>,
}

impl Reader<'_> {
    fn place(&self, part: &[u8]) -> usize {
        part.as_ptr().addr().saturating_sub(self.input.as_ptr().addr())
    }
}

impl ParserHandler for Reader<'_> {
    fn on_message_begin(&mut self, _: &mut Parser) -> bool {
        self.url.clear();
        self.body.clear();
        true
    }

    fn on_url(&mut self, _: &mut Parser, url: &[u8]) -> bool {
        if self.url.is_empty() {
            // What the parser itself says of the method is not to be relied on while it runs. It is the word before
            // what it takes for the target.
            let before = self.input.get(self.body_end..self.place(url).saturating_sub(1)).unwrap_or_default();
            let word = before.rsplit(|byte| !byte.is_ascii_graphic()).next().unwrap_or_default();
            self.method = String::from_utf8_lossy(word).into_owned();
        }
        self.url.extend_from_slice(url);
        true
    }

    fn on_body(&mut self, _: &mut Parser, body: &[u8]) -> bool {
        self.body.extend_from_slice(body);
        self.body_end = self.place(body) + body.len();
        true
    }

    fn on_message_complete(&mut self, _: &mut Parser) -> bool {
        let method = self.method.clone();
        let url = String::from_utf8_lossy(&self.url).into_owned();
        // The target's meaning is ours to say; that it is this target is theirs.
        let Ok(target) = target::parse(&url, &method) else { return false };
        self.done.push(Forwarded {
            path: target.path.to_vec(),
            query: target.query.to_vec(),
            body: self.body.clone(),
            fields: Vec::new(),
            method,
        });
        true
    }
}
