//! Where a request's body ends: RFC 9112, section 6.3, with every doubtful case refused.

use super::Refusal;
use super::head::Version;

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, the last one empty.
    Chunked,
}

/// Gathers the fields that decide.
#[derive(Debug, Default)]
pub(super) struct FramingFields {
    length: Option<u64>,
    coding: Coding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Coding {
    #[default]
    Absent,
    Chunked,
    /// A well-formed list that does not end with chunked, or has something we do not speak.
    Unknown,
    /// Codings that exist, without chunked at the end: the body's end can't be told (RFC 9112, 6.3, 4.).
    Endless,
}

impl FramingFields {
    /// Takes one `Content-Length`. A list or a repetition is refused even where the values agree.
    pub(super) fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let length = digits(value).ok_or(Refusal::ContentLength)?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Refusal::ContentLengthTwice),
        }
    }

    /// Takes one `Transfer-Encoding`; several make one list.
    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        for coding in value.split(|b| *b == b',') {
            let coding = coding.trim_ascii();
            if coding.is_empty() || !coding.iter().all(|b| is_token(*b)) {
                return Err(Refusal::TransferEncoding);
            }
            self.coding = match (self.coding, coding.eq_ignore_ascii_case(b"chunked")) {
                // Chunked once, and nothing after it.
                (Coding::Chunked, _) => return Err(Refusal::TransferEncoding),
                (Coding::Absent, true) => Coding::Chunked,
                (Coding::Endless | Coding::Unknown, true) => Coding::Unknown,
                (state, false) if state == Coding::Unknown || !is_registered(coding) => Coding::Unknown,
                (_, false) => Coding::Endless,
            };
        }
        Ok(())
    }

    /// The verdict, once all fields are seen.
    pub(super) fn verdict(&self, version: Version) -> Result<Framing, Refusal> {
        match (self.coding, self.length) {
            (Coding::Absent, None) => Ok(Framing::None),
            (Coding::Absent, Some(0)) => Ok(Framing::None),
            (Coding::Absent, Some(length)) => Ok(Framing::Length(length)),
            (_, Some(_)) => Err(Refusal::LengthTwice),
            (_, None) if version == Version::Http10 => Err(Refusal::CodingInHttp10),
            (Coding::Chunked, None) => Ok(Framing::Chunked),
            (Coding::Unknown, None) => Err(Refusal::UnknownCoding),
            (Coding::Endless, None) => Err(Refusal::TransferEncoding),
        }
    }
}

fn is_registered(coding: &[u8]) -> bool {
    [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"]
        .iter()
        .any(|known| coding.eq_ignore_ascii_case(known))
}

/// `1*DIGIT` that fits a u64.
pub(super) fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        byte.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(lengths: &[&str], codings: &[&str], version: Version) -> Result<Framing, Refusal> {
        let mut fields = FramingFields::default();
        for length in lengths {
            fields.content_length(length.as_bytes())?;
        }
        for coding in codings {
            fields.transfer_encoding(coding.as_bytes())?;
        }
        fields.verdict(version)
    }

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        assert_eq!(framing(&["12"], &[], Version::Http11), Ok(Framing::Length(12)));
        assert_eq!(framing(&["18446744073709551615"], &[], Version::Http11), Ok(Framing::Length(u64::MAX)));
        for bad in
            ["", "+1", "-1", "0x1", "1,1", "1 1", "1.0", "18446744073709551616", "999999999999999999999"]
        {
            assert_eq!(framing(&[bad], &[], Version::Http11), Err(Refusal::ContentLength), "{bad}");
        }
        assert_eq!(framing(&["5", "5"], &[], Version::Http11), Err(Refusal::ContentLengthTwice));
    }

    #[test]
    fn chunked_stands_once_and_last() {
        let of = |codings: &[&str]| framing(&[], codings, Version::Http11);
        assert_eq!(of(&["chunked"]), Ok(Framing::Chunked));
        assert_eq!(of(&["ChunKed"]), Ok(Framing::Chunked));
        for bad in [
            &["chunked, chunked"][..],
            &["chunked", "chunked"],
            &["chunked, gzip"],
            &["gzip"],
            &[""],
            &[",chunked"],
            &["chunked;q=1"],
            &["\"chunked\""],
            &["chunked\x0b"],
        ] {
            assert_eq!(of(bad), Err(Refusal::TransferEncoding), "{bad:?}");
        }
        for unknown in [&["gzip, chunked"][..], &["identity"], &["xchunked"], &["x, chunked"], &["gzip", "x"]]
        {
            assert_eq!(of(unknown), Err(Refusal::UnknownCoding), "{unknown:?}");
        }
    }

    #[test]
    fn two_framings_at_once_are_refused() {
        assert_eq!(framing(&["5"], &["chunked"], Version::Http11), Err(Refusal::LengthTwice));
        assert_eq!(framing(&["0"], &["chunked"], Version::Http10), Err(Refusal::LengthTwice));
        assert_eq!(framing(&[], &["chunked"], Version::Http10), Err(Refusal::CodingInHttp10));
    }
}
