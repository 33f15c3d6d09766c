//! Heads of requests and responses as flat bytes: what stands at the start of a channel's first block.
//!
//! ```text
//!   request   magic kind . count  encoding method_index  deadline_ns  content_length   epoch  lengths of 7 texts
//!             u16   u8  u8 u32    u32      u32           u64          u64 (MAX: none)  u64    u32 each
//!             id method path query route_prefix traceparent model_id, then the fields
//!   response  magic . . count  encoding status .  content_length, then the fields
//!             u16   u8 u8 u32  u32      u16    u16 u64
//!   field     name length u32, value length u32, name, value
//! ```
//!
//! Numbers are little-endian. A record is parsed from private memory, whole: every length is checked, texts are
//! UTF-8, no byte is left over. What it does not check is what HTTP allows in a name or a value: whoever writes
//! them to a socket does.

use crate::epoch::Epoch;

/// Bytes of a head, at most.
pub const HEAD_MAX: usize = 64 * 1024;
/// Header fields in a head, at most.
pub const FIELDS_MAX: usize = 512;

const REQUEST_MAGIC: u16 = 0xdec1;
const RESPONSE_MAGIC: u16 = 0xdec2;
const TEXTS: usize = 7;
/// Where the epoch stands in a request's record.
const EPOCH_AT: usize = 32;

/// Why bytes are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`HEAD_MAX`].
    #[error("a head has at most {HEAD_MAX} bytes, and this one has {0}")]
    TooLong(usize),
    /// Ends before what it announces.
    #[error("the head is cut off")]
    CutOff,
    /// Bytes after its end.
    #[error("the head has {0} bytes too many")]
    LeftOver(usize),
    /// Not a head of this direction and format.
    #[error("not a head of this kind (it begins with {0:#06x})")]
    Magic(u16),
    /// A number outside its range.
    #[error("{0} is {1} in a head")]
    Value(&'static str, u64),
    /// A text that is not UTF-8.
    #[error("{0} is not UTF-8 in a head")]
    Text(&'static str),
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An HTTP request, for the class's `call`.
    Http,
    /// A method call through a handle, for `invoke`.
    Call,
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// HTTP or a method call.
    pub kind: Kind,
    /// Request id.
    pub id: &'a str,
    /// HTTP method, or the method's name of a call.
    pub method: &'a str,
    /// Whole path as received, without the query.
    pub path: &'a [u8],
    /// What follows `?`.
    pub query: &'a [u8],
    /// The prefix that routed here, without a trailing `/`.
    pub route_prefix: &'a str,
    /// `traceparent`, or empty.
    pub traceparent: &'a str,
    /// Model id of a multiplexed request, or empty.
    pub model_id: &'a str,
    /// `CLOCK_MONOTONIC` nanoseconds at which the answer is due; 0: no deadline.
    pub deadline_ns: u64,
    /// Length of the body where it was announced.
    pub content_length: Option<u64>,
    /// `decurion_abi::encoding` of a call's arguments.
    pub encoding: u32,
    /// Index of the method of a call.
    pub method_index: u32,
    /// With which of the changes of sets it has entered.
    pub epoch: Epoch,
}

/// The head of a response. For a call, status 200 is a result; any other is the class of the error, whose text
/// is the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// HTTP status, 100 to 999.
    pub status: u16,
    /// Length of the body where it is known.
    pub content_length: Option<u64>,
    /// `decurion_abi::encoding` of a call's result.
    pub encoding: u32,
}

/// The header fields of a head, in order, as pairs of name and value.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    rest: Reader<'a>,
    left: usize,
}

impl<'a> RequestHead<'a> {
    /// Appends the record to `out`. Whether it is short enough for [`HEAD_MAX`] is found where it is sent.
    pub fn encode<'h>(&self, headers: impl Iterator<Item = (&'h [u8], &'h [u8])>, out: &mut Vec<u8>) {
        let texts = self.texts();
        out.extend_from_slice(&REQUEST_MAGIC.to_le_bytes());
        out.extend_from_slice(&[u8::from(self.kind == Kind::Call), 0]);
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.encoding.to_le_bytes());
        out.extend_from_slice(&self.method_index.to_le_bytes());
        out.extend_from_slice(&self.deadline_ns.to_le_bytes());
        out.extend_from_slice(&self.content_length.unwrap_or(u64::MAX).to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        for text in texts {
            put_length(text, out);
        }
        for text in texts {
            out.extend_from_slice(text);
        }
        put_fields(headers, count_at, out);
    }

    /// Reads a record that fills `bytes`.
    ///
    /// # Errors
    /// [`RecordError`] for anything that [`RequestHead::encode`] does not write.
    pub fn parse(bytes: &'a [u8]) -> Result<(RequestHead<'a>, Headers<'a>), RecordError> {
        let mut reader = Reader::new(bytes)?;
        reader.magic(REQUEST_MAGIC)?;
        let [kind, reserved] = reader.array()?;
        let kind = match (kind, reserved) {
            (0, 0) => Kind::Http,
            (1, 0) => Kind::Call,
            _ => return Err(RecordError::Value("the kind", u64::from(u16::from_le_bytes([kind, reserved])))),
        };
        let count = reader.count()?;
        let encoding = reader.u32()?;
        let method_index = reader.u32()?;
        let deadline_ns = reader.u64()?;
        let content_length = reader.optional()?;
        let epoch = Epoch(reader.u64()?);
        let mut lengths = [0u32; TEXTS];
        for length in &mut lengths {
            *length = reader.u32()?;
        }
        let mut texts = [&[][..]; TEXTS];
        for (text, length) in texts.iter_mut().zip(lengths) {
            *text = reader.bytes(length)?;
        }
        let [id, method, path, query, route_prefix, traceparent, model_id] = texts;
        let head = RequestHead {
            kind,
            id: utf8(id, "the id")?,
            method: utf8(method, "the method")?,
            path,
            query,
            route_prefix: utf8(route_prefix, "the route prefix")?,
            traceparent: utf8(traceparent, "traceparent")?,
            model_id: utf8(model_id, "the model id")?,
            deadline_ns,
            content_length,
            encoding,
            method_index,
            epoch,
        };
        Ok((head, Headers::checked(reader, count)?))
    }

    /// Writes the epoch into a record that stands at the start of `bytes`: it is known only where a replica is chosen.
    pub fn stamp(bytes: &mut [u8], epoch: Epoch) {
        if let Some(place) = bytes.get_mut(EPOCH_AT..EPOCH_AT + 8) {
            place.copy_from_slice(&epoch.0.to_le_bytes());
        }
    }

    fn texts(&self) -> [&'a [u8]; TEXTS] {
        [
            self.id.as_bytes(),
            self.method.as_bytes(),
            self.path,
            self.query,
            self.route_prefix.as_bytes(),
            self.traceparent.as_bytes(),
            self.model_id.as_bytes(),
        ]
    }
}

impl ResponseHead {
    /// Appends the record to `out`. Whether it is short enough for [`HEAD_MAX`] is found where it is sent.
    pub fn encode<'h>(&self, headers: impl Iterator<Item = (&'h [u8], &'h [u8])>, out: &mut Vec<u8>) {
        out.extend_from_slice(&RESPONSE_MAGIC.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.encoding.to_le_bytes());
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.content_length.unwrap_or(u64::MAX).to_le_bytes());
        put_fields(headers, count_at, out);
    }

    /// Reads a record that fills `bytes`.
    ///
    /// # Errors
    /// [`RecordError`] for anything that [`ResponseHead::encode`] does not write with a status in its range.
    pub fn parse(bytes: &[u8]) -> Result<(ResponseHead, Headers<'_>), RecordError> {
        let mut reader = Reader::new(bytes)?;
        reader.magic(RESPONSE_MAGIC)?;
        reader.zero()?;
        let count = reader.count()?;
        let encoding = reader.u32()?;
        let status = u16::from_le_bytes(reader.array()?);
        if !(100..=999).contains(&status) {
            return Err(RecordError::Value("the status", u64::from(status)));
        }
        reader.zero()?;
        let content_length = reader.optional()?;
        Ok((ResponseHead { status, content_length, encoding }, Headers::checked(reader, count)?))
    }
}

impl<'a> Headers<'a> {
    /// How many fields are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether no field is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Walks all fields once, so that the iterator cannot meet a bad one later.
    fn checked(reader: Reader<'a>, count: usize) -> Result<Headers<'a>, RecordError> {
        let mut walk = reader.clone();
        for _ in 0..count {
            walk.field()?;
        }
        match walk.0.len() {
            0 => Ok(Headers { rest: reader, left: count }),
            left_over => Err(RecordError::LeftOver(left_over)),
        }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        self.rest.field().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// What is left to read.
#[derive(Clone, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() > HEAD_MAX {
            return Err(RecordError::TooLong(bytes.len()));
        }
        Ok(Reader(bytes))
    }

    fn bytes(&mut self, length: u32) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(length as usize).ok_or(RecordError::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RecordError::CutOff)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    fn optional(&mut self) -> Result<Option<u64>, RecordError> {
        self.u64().map(|length| (length != u64::MAX).then_some(length))
    }

    fn zero(&mut self) -> Result<(), RecordError> {
        match u16::from_le_bytes(self.array()?) {
            0 => Ok(()),
            other => Err(RecordError::Value("a reserved field", u64::from(other))),
        }
    }

    fn magic(&mut self, expected: u16) -> Result<(), RecordError> {
        let found = u16::from_le_bytes(self.array()?);
        if found == expected { Ok(()) } else { Err(RecordError::Magic(found)) }
    }

    fn count(&mut self) -> Result<usize, RecordError> {
        let count = self.u32()?;
        if count as usize > FIELDS_MAX {
            return Err(RecordError::Value("the number of fields", u64::from(count)));
        }
        Ok(count as usize)
    }

    fn field(&mut self) -> Result<(&'a [u8], &'a [u8]), RecordError> {
        let name = self.u32()?;
        let value = self.u32()?;
        Ok((self.bytes(name)?, self.bytes(value)?))
    }
}

fn utf8<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, RecordError> {
    str::from_utf8(bytes).map_err(|_| RecordError::Text(what))
}

/// A piece of 4 GiB or more cannot stand in a head anyway: it is refused by length where it is sent.
fn put_length(piece: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_le_bytes());
}

/// Appends the fields, and their number where its place was kept.
fn put_fields<'h>(fields: impl Iterator<Item = (&'h [u8], &'h [u8])>, count_at: usize, out: &mut Vec<u8>) {
    let mut count = 0u32;
    for (name, value) in fields {
        put_length(name, out);
        put_length(value, out);
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        count = count.saturating_add(1);
    }
    if let Some(place) = out.get_mut(count_at..count_at + 4) {
        place.copy_from_slice(&count.to_le_bytes());
    }
}

/// Parses arbitrary bytes as both kinds of head; what parses must come back the same when it is written again.
///
/// # Panics
/// Where it does not: that is the finding.
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub fn fuzz(bytes: &[u8]) {
    let mut again = Vec::new();
    if let Ok((head, headers)) = RequestHead::parse(bytes) {
        head.encode(headers, &mut again);
        assert_eq!(again, bytes, "a request head that parses is written the same");
    }
    again.clear();
    if let Ok((head, headers)) = ResponseHead::parse(bytes) {
        head.encode(headers, &mut again);
        assert_eq!(again, bytes, "a response head that parses is written the same");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: [(&[u8], &[u8]); 3] = [(b"accept", b"*/*"), (b"x-empty", b""), (b"accept", b"text/plain")];

    fn request() -> RequestHead<'static> {
        RequestHead {
            kind: Kind::Http,
            id: "7f3a",
            method: "POST",
            path: b"/api/a%20b",
            query: b"k=v",
            route_prefix: "/api",
            traceparent: "",
            model_id: "",
            deadline_ns: 5,
            content_length: Some(12),
            encoding: 0,
            method_index: u32::MAX,
            epoch: Epoch(9),
        }
    }

    fn request_bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        request().encode(FIELDS.into_iter(), &mut bytes);
        bytes
    }

    #[test]
    fn a_request_head_is_read_as_it_was_written() {
        let bytes = request_bytes();
        let (head, headers) = RequestHead::parse(&bytes).unwrap();
        assert_eq!(head, request());
        assert_eq!(headers.collect::<Vec<_>>(), FIELDS);
    }

    #[test]
    fn an_epoch_is_stamped_on_what_is_written_already() {
        let mut bytes = request_bytes();
        RequestHead::stamp(&mut bytes, Epoch(7));
        let (head, headers) = RequestHead::parse(&bytes).unwrap();
        assert_eq!(head, RequestHead { epoch: Epoch(7), ..request() });
        assert_eq!(headers.collect::<Vec<_>>(), FIELDS);
        RequestHead::stamp(&mut bytes[..EPOCH_AT + 7], Epoch(8));
        assert_eq!(RequestHead::parse(&bytes).unwrap().0.epoch, Epoch(7), "what does not fit is not written");
    }

    #[test]
    fn a_response_head_is_read_as_it_was_written() {
        let head = ResponseHead { status: 404, content_length: None, encoding: 1 };
        let mut bytes = b"before".to_vec();
        head.encode(FIELDS.into_iter(), &mut bytes);
        let (read, headers) = ResponseHead::parse(&bytes[6..]).unwrap();
        assert_eq!((read, headers.len()), (head, 3));
        assert_eq!(headers.collect::<Vec<_>>(), FIELDS);
    }

    #[test]
    fn a_head_cut_anywhere_is_refused() {
        let bytes = request_bytes();
        for length in 0..bytes.len() {
            assert!(RequestHead::parse(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn what_follows_a_head_is_refused() {
        let mut bytes = request_bytes();
        bytes.push(0);
        assert_eq!(RequestHead::parse(&bytes).unwrap_err(), RecordError::LeftOver(1));
    }

    #[test]
    fn directions_are_not_mixed_up() {
        assert_eq!(ResponseHead::parse(&request_bytes()).unwrap_err(), RecordError::Magic(REQUEST_MAGIC));
    }

    #[test]
    fn too_many_fields_and_too_many_bytes_are_refused() {
        let mut bytes = Vec::new();
        request().encode(std::iter::repeat_n((&b"a"[..], &b"b"[..]), FIELDS_MAX + 1), &mut bytes);
        assert!(matches!(RequestHead::parse(&bytes), Err(RecordError::Value("the number of fields", _))));
        assert!(matches!(RequestHead::parse(&vec![0; HEAD_MAX + 1]), Err(RecordError::TooLong(_))));
    }

    #[test]
    fn a_status_outside_http_is_refused() {
        let mut bytes = Vec::new();
        ResponseHead { status: 99, content_length: None, encoding: 0 }.encode([].into_iter(), &mut bytes);
        assert!(matches!(ResponseHead::parse(&bytes), Err(RecordError::Value("the status", 99))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }

        #[test]
        fn a_head_with_one_byte_changed_never_panics(at in 0usize..100, to in any::<u8>()) {
            let mut bytes = request_bytes();
            let at = at % bytes.len();
            bytes[at] = to;
            fuzz(&bytes);
        }
    }
}
