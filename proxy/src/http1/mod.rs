//! HTTP/1.1 (RFC 9110, RFC 9112), server side, without I/O: bytes in, facts out, and facts in, bytes out.
//!
//! Strict on purpose: what two parsers could read differently is refused, never repaired. This module must know
//! neither sockets nor replicas nor clocks.

pub mod answer;
pub mod chunked;
pub mod framing;
pub mod head;
pub mod host;
pub mod method;
pub mod refusal;
pub mod target;
mod trace;
pub mod upgrade;

pub use answer::{AnswerHead, BadAnswer, BodyOut, Length};
pub use chunked::Chunked;
pub use framing::Framing;
pub use head::{Head, HeadLimits, Scan, Storage, Version};
pub use refusal::Refusal;

/// Feeds arbitrary bytes to the head parser, whole and cut in two: both must come to the same end.
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub fn fuzz_request(bytes: &[u8]) {
    let limits = HeadLimits { head: 4096, headers: 32, target: 1024 };
    let whole = head::outcome_of(&[bytes], &limits);
    let middle = bytes.len() / 2;
    let cut = head::outcome_of(&[&bytes[..middle], &bytes[middle..]], &limits);
    assert_eq!(whole, cut, "cutting the input changed what was read");
}

/// Feeds arbitrary bytes to the chunked decoder, whole and byte by byte: both must come to the same end.
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub fn fuzz_chunked(bytes: &[u8]) {
    let whole = chunked::outcome_of(bytes.chunks(bytes.len().max(1)));
    let cut = chunked::outcome_of(bytes.chunks(1));
    assert_eq!(whole, cut, "cutting the input changed what was decoded");
}
