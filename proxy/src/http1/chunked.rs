//! The chunked transfer coding (RFC 9112, 7.1), decoded in place: the caller gets slices of its own input.
//!
//! Extensions and trailers are bounded, checked and dropped.

use super::Refusal;
use super::framing::is_token;

/// Bytes of chunk extensions in one body.
pub const EXTENSIONS_MAX: u32 = 4 * 1024;
/// Bytes of trailer fields in one body.
pub const TRAILERS_MAX: u32 = 8 * 1024;
/// Digits of one chunk's size.
const SIZE_DIGITS_MAX: u8 = 16;

/// One body's decoder. It keeps no bytes, so it costs the same whatever comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    /// Bytes of the current chunk's data that are still to come; while its size is read, the size so far.
    remaining: u64,
    size_digits: u8,
    extension_bytes: u32,
    trailer_bytes: u32,
}

/// Where in the grammar the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    /// Bad white space before an extension's `;`.
    BeforeExtension,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Start of a trailer field, or of the last CRLF.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// One step of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Body bytes among them, at their end.
    pub data: &'a [u8],
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size, remaining: 0, size_digits: 0, extension_bytes: 0, trailer_bytes: 0 }
    }
}

impl Chunked {
    /// Whether the last chunk and its trailers have been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes of the current chunk's data that are still to come: as much of the body is known to follow.
    #[must_use]
    pub fn data_ahead(&self) -> u64 {
        if self.state == State::Data { self.remaining } else { 0 }
    }

    /// So many bytes of the current chunk's data have been read elsewhere: at most [`data_ahead`](Self::data_ahead).
    pub fn skip(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.data_ahead(), "only data is skipped");
        if self.state == State::Data {
            self.remaining = self.remaining.saturating_sub(bytes);
            if self.remaining == 0 {
                self.state = State::DataCr;
            }
        }
    }

    /// Reads up to the next run of body bytes, or as far as the input goes. Nothing is consumed once it is done.
    ///
    /// # Errors
    /// [`Refusal`]: what comes after it can't be made sense of.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, Refusal> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let run = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len() - at);
                self.remaining -= run as u64;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step { consumed: at + run, data: &input[at..at + run] });
            }
            self.state = self.after(input[at])?;
            at += 1;
        }
        Ok(Step { consumed: at, data: &[] })
    }

    fn after(&mut self, byte: u8) -> Result<State, Refusal> {
        let chunk = Err(Refusal::Chunk);
        match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.size_digit(byte),
            (State::Size, _) if self.size_digits == 0 => chunk,
            (State::Size | State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Size | State::BeforeExtension, b';') => self.extension(State::Extension),
            (State::Size | State::BeforeExtension, b' ' | b'\t') => self.extension(State::BeforeExtension),
            (State::Size | State::BeforeExtension, _) => chunk,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extension(State::Extension),
            (State::Extension, _) => chunk,
            (State::SizeLf, b'\n') => {
                self.size_digits = 0;
                Ok(if self.remaining == 0 { State::TrailerStart } else { State::Data })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::SizeLf | State::DataCr | State::DataLf, _) => chunk,
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart, _) if is_token(byte) => self.trailer(State::TrailerName),
            (State::TrailerName, b':') => self.trailer(State::TrailerValue),
            (State::TrailerName, _) if is_token(byte) => self.trailer(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => self.trailer(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Done),
            _ => Err(Refusal::Trailer),
        }
    }

    fn size_digit(&mut self, byte: u8) -> Result<State, Refusal> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => byte - b'A' + 10,
        };
        self.size_digits += 1;
        if self.size_digits > SIZE_DIGITS_MAX {
            return Err(Refusal::Chunk);
        }
        // Sixteen digits fill a u64 and can't overflow it.
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn extension(&mut self, next: State) -> Result<State, Refusal> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSIONS_MAX { Err(Refusal::ChunkExtension) } else { Ok(next) }
    }

    fn trailer(&mut self, next: State) -> Result<State, Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILERS_MAX { Err(Refusal::HeadTooLarge) } else { Ok(next) }
    }
}

/// Body, bytes consumed and end of what arrives in these pieces: for tests that cut it at different places.
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub(super) fn outcome_of<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<u8>, Result<(usize, bool), Refusal>) {
    let mut decoder = Chunked::default();
    let (mut body, mut consumed) = (Vec::new(), 0);
    for mut piece in pieces {
        while !piece.is_empty() && !decoder.is_done() {
            match decoder.step(piece) {
                Ok(step) => {
                    body.extend_from_slice(step.data);
                    consumed += step.consumed;
                    piece = &piece[step.consumed..];
                }
                Err(refusal) => return (body, Err(refusal)),
            }
        }
    }
    let done = decoder.is_done();
    (body, Ok((consumed, done)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize, bool), Refusal> {
        let (body, end) = outcome_of(std::iter::once(input));
        end.map(|(consumed, done)| (body, consumed, done))
    }

    #[test]
    fn a_body_is_put_together_and_what_follows_is_left_alone() {
        let input = b"5\r\nhello\r\n06;a=b;c=\"x y\"\r\n world\r\n0\r\nX-T: 1\r\nY:\r\n\r\nGET /";
        assert_eq!(decode(input), Ok((b"hello world".to_vec(), input.len() - 5, true)));
        assert_eq!(decode(b"0\r\n\r\n"), Ok((vec![], 5, true)));
        assert_eq!(decode(b"A \t;x\r\n0123456789\r\n000\r\n\r\n").unwrap().0, b"0123456789");
        assert_eq!(decode(b"5\r\nhel"), Ok((b"hel".to_vec(), 6, false)));
    }

    #[test]
    fn what_is_not_in_the_grammar_is_refused() {
        for bad in [
            &b"\r\n"[..],
            b";x\r\n",
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1 x\r\n",
            b"1\n",
            b"1\r\r",
            b"1;a\n",
            b"1;\x00\r\n",
            b"1;a\rb",
            b"1\r\naX",
            b"1\r\na\n",
            b"1\r\na\rX",
            b"1\r\nab",
            b"11111111111111111\r\n",
            b"00000000000000000\r\n",
            b"1,1\r\n",
            b"1.0\r\n",
            b"\x001\r\n",
        ] {
            assert_eq!(decode(bad), Err(Refusal::Chunk), "{:?}", bad.escape_ascii().to_string());
        }
        for bad in [
            &b"0\r\n\n"[..],
            b"0\r\nX\r\n",
            b"0\r\n X: 1\r\n",
            b"0\r\nX : 1\r\n",
            b"0\r\nX: 1\n",
            b"0\r\n:\r\n",
            b"0\r\nX: \x01\r\n",
            b"0\r\nX: 1\r\n folded\r\n",
            b"0\r\n\rX",
        ] {
            assert_eq!(decode(bad), Err(Refusal::Trailer), "{:?}", bad.escape_ascii().to_string());
        }
    }

    #[test]
    fn the_largest_size_is_taken_for_what_it_says() {
        let mut decoder = Chunked::default();
        let _ = decoder.step(b"FFFFFFFFFFFFFFFF\r\n").unwrap();
        assert_eq!(decoder.data_ahead(), u64::MAX);
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut extension = b"1;".to_vec();
        extension.resize(2 + EXTENSIONS_MAX as usize, b'x');
        assert_eq!(decode(&extension), Err(Refusal::ChunkExtension));
        let many: Vec<u8> = b"1;xxxxxxx\r\na\r\n".repeat(EXTENSIONS_MAX as usize / 8 + 1);
        assert_eq!(decode(&many), Err(Refusal::ChunkExtension));
        let mut trailers = b"0\r\nX:".to_vec();
        trailers.resize(5 + TRAILERS_MAX as usize, b'x');
        assert_eq!(decode(&trailers), Err(Refusal::HeadTooLarge));
    }

    proptest! {
        #[test]
        fn cutting_the_input_changes_nothing(input in "([0-3]\r\n|[a;:\r\n 0-2x]|0\r\n\r\n|2\r\nab\r\n){0,20}") {
            super::super::fuzz_chunked(input.as_bytes());
        }

        #[test]
        fn what_is_encoded_is_decoded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8)) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&wire), Ok((chunks.concat(), wire.len(), true)));
        }
    }

    #[test]
    fn data_that_is_read_elsewhere_is_skipped() {
        let mut chunked = Chunked::default();
        let step = chunked.step(b"a\r\n").unwrap();
        assert_eq!((step.consumed, step.data, chunked.data_ahead()), (3, &b""[..], 10));
        chunked.skip(4);
        assert_eq!(chunked.data_ahead(), 6);
        assert_eq!(chunked.step(b"56").unwrap().data, b"56");
        chunked.skip(4);
        assert_eq!(chunked.data_ahead(), 0);
        chunked.step(b"\r\n0\r\n\r\n").unwrap();
        assert!(chunked.is_done());
    }
}
