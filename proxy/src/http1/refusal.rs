//! Why a request was refused before it reached a deployment: one value that answer, log, metric and test share.

/// One reason each. The connection closes after the answer, since where the next request starts is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// RFC 9112, 2.2: lines end with CRLF.
    #[error("a line ends with a bare LF")]
    BareLf,
    /// RFC 9112, 2.2: a CR stands before an LF only.
    #[error("a bare CR in the head")]
    BareCr,
    /// RFC 9112, 3: method SP target SP version.
    #[error("malformed request line")]
    RequestLine,
    /// More empty lines before the request line than anybody sends by mistake.
    #[error("too many empty lines before the request")]
    EmptyLines,
    /// RFC 9112, 3.2: none of the four forms of a request target, or not one for this method.
    #[error("malformed request target")]
    Target,
    /// A path that two parsers could read differently.
    #[error("ambiguous path: {0}")]
    Path(&'static str),
    /// RFC 9112, 5: `name ":" OWS value OWS`, nothing else.
    #[error("malformed header field")]
    Header,
    /// RFC 9112, 5.2: folded lines are obsolete.
    #[error("folded header line")]
    Fold,
    /// RFC 9112, 3.2: exactly one Host, and a good one.
    #[error("Host is missing")]
    HostMissing,
    /// RFC 9112, 3.2.
    #[error("more than one Host")]
    HostTwice,
    /// RFC 9112, 3.2; RFC 9110, 7.2.
    #[error("malformed Host")]
    Host,
    /// RFC 9112, 6.3.
    #[error("malformed Content-Length")]
    ContentLength,
    /// RFC 9112, 6.3.
    #[error("more than one Content-Length")]
    ContentLengthTwice,
    /// RFC 9112, 6.1: might be an attempt at request smuggling.
    #[error("Transfer-Encoding and Content-Length together")]
    LengthTwice,
    /// RFC 9112, 6.1: HTTP/1.0 has no transfer codings.
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInHttp10,
    /// RFC 9112, 6.3: chunked, once, last.
    #[error("malformed Transfer-Encoding")]
    TransferEncoding,
    /// RFC 9112, 6.1: a coding that we do not speak.
    #[error("unknown transfer coding")]
    UnknownCoding,
    /// RFC 9112, 7.1.
    #[error("malformed chunk")]
    Chunk,
    /// RFC 9112, 7.1.1: extensions are bounded.
    #[error("chunk extensions are too long")]
    ChunkExtension,
    /// RFC 9112, 7.1.2.
    #[error("malformed trailer field")]
    Trailer,
    /// RFC 9110, 9.3.8: a client must not send content in a TRACE request.
    #[error("TRACE with a body")]
    TraceBody,
    /// RFC 9110, 15.5.9.
    #[error("the request did not arrive in time")]
    TooSlow,
    /// RFC 9110, 15.5.14.
    #[error("the body is too large")]
    BodyTooLarge,
    /// RFC 9110, 15.5.15.
    #[error("the request target is too long")]
    TargetTooLong,
    /// RFC 9110, 15.5.18: an expectation other than 100-continue.
    #[error("unknown expectation")]
    Expectation,
    /// RFC 6585, 5.
    #[error("the header section is too large")]
    HeadTooLarge,
    /// RFC 6585, 5.
    #[error("too many header fields")]
    TooManyHeaders,
    /// RFC 9110, 9.1 and 15.6.2.
    #[error("method not implemented")]
    Method,
    /// RFC 9110, 15.6.6.
    #[error("HTTP version not supported")]
    Version,
}

impl Refusal {
    /// The status that answers it.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Refusal::TooSlow => 408,
            Refusal::BodyTooLarge => 413,
            Refusal::TargetTooLong => 414,
            Refusal::Expectation => 417,
            Refusal::HeadTooLarge | Refusal::TooManyHeaders => 431,
            Refusal::Method | Refusal::UnknownCoding => 501,
            Refusal::Version => 505,
            _ => 400,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_own_status() {
        let of = |refusal: Refusal| refusal.status();
        assert_eq!(
            [
                of(Refusal::TooSlow),
                of(Refusal::BodyTooLarge),
                of(Refusal::TargetTooLong),
                of(Refusal::HeadTooLarge),
                of(Refusal::BareLf)
            ],
            [408, 413, 414, 431, 400]
        );
    }
}
