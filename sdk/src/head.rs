//! The head of a request, in one allocation: whoever holds a [`Request`](crate::Request) may keep it longer than the
//! host's own bytes live.

/// Copied text and fields. Text that is not UTF-8 is replaced; values of header fields stay as received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    pub(crate) id: Span,
    pub(crate) method: Span,
    pub(crate) path: Span,
    pub(crate) query: Span,
    pub(crate) route_prefix: Span,
    pub(crate) traceparent: Span,
    pub(crate) model_id: Span,
    headers: Vec<(Span, Span)>,
}

/// Ray Serve's header field.
const MODEL_ID: &[u8] = b"serve_multiplexed_model_id";

/// A part of [`Head::bytes`]: `start <= end <= bytes.len()`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Head {
    pub(crate) fn with_capacity(bytes: usize, headers: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), headers: Vec::with_capacity(headers), ..Self::default() }
    }

    /// Keeps text.
    pub(crate) fn keep(&mut self, text: &[u8]) -> Span {
        match std::str::from_utf8(text) {
            Ok(_) => self.keep_bytes(text),
            Err(_) => self.keep_bytes(String::from_utf8_lossy(text).as_bytes()),
        }
    }

    /// Keeps one header field; its name becomes lower case.
    pub(crate) fn keep_header(&mut self, name: &[u8], value: &[u8]) {
        let name = self.keep_bytes(name);
        self.bytes[name.start..name.end].make_ascii_lowercase();
        let value = self.keep_bytes(value);
        self.headers.push((name, value));
    }

    pub(crate) fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| (self.bytes(*name), self.bytes(*value)))
    }

    /// The first field of this name, which may be written in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The model that it asks for: as the host says, or by the header field, whose name may have `-` or `_`.
    pub(crate) fn model_id(&self) -> Option<&str> {
        let is_model_id = |name: &[u8]| {
            let plain = name.iter().map(|byte| if *byte == b'-' { b'_' } else { byte.to_ascii_lowercase() });
            plain.eq(MODEL_ID.iter().copied())
        };
        let in_header = || {
            let (_, value) = self.headers().find(|(name, _)| is_model_id(name))?;
            std::str::from_utf8(value).ok()
        };
        Some(self.text(self.model_id)).filter(|id| !id.is_empty()).or_else(in_header)
    }

    fn keep_bytes(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span { start, end: self.bytes.len() }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        self.bytes.get(span.start..span.end).unwrap_or_default()
    }
}
