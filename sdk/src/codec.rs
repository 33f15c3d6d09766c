//! The one place where arguments and results become bincode and back: fixed-width integers, little-endian, bounded
//! by the bytes there are.

use bincode::{ErrorKind, Options};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a value could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// The type needs an encoding that describes itself (`Value`, `untagged`, `flatten`): JSON can carry it.
    #[error(
        "bincode can't carry a type that describes itself (Value, untagged, flatten): call through handle.json()"
    )]
    NeedsJson,
    /// Not a value of this type.
    #[error("{}", why(.0))]
    Malformed(bincode::Error),
}

/// bincode's own words for bytes that are missing say nothing.
fn why(error: &ErrorKind) -> String {
    match error {
        ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ends too early".to_owned()
        }
        ErrorKind::SizeLimit => "it ends too early".to_owned(),
        other => other.to_string(),
    }
}

impl From<bincode::Error> for CodecError {
    fn from(error: bincode::Error) -> Self {
        match *error {
            ErrorKind::DeserializeAnyNotSupported | ErrorKind::SequenceMustHaveLength => {
                CodecError::NeedsJson
            }
            _ => CodecError::Malformed(error),
        }
    }
}

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(options().serialize(value)?)
}

/// The value in `bytes`, all of them.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    Ok(options().with_limit(bytes.len() as u64).deserialize(bytes)?)
}

/// Whether a type of this name is known to need JSON. Looks at names only, so a `Value` inside a struct is not seen here and shows
/// as [`CodecError::NeedsJson`] when it is read.
pub(crate) fn needs_json(type_name: &str) -> bool {
    type_name.contains("serde_json::")
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_little_endian().reject_trailing_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let value = (0.7f64, "text".to_owned(), vec![Some(1u8), None]);
        assert_eq!(decode::<(f64, String, Vec<Option<u8>>)>(&encode(&value).unwrap()).unwrap(), value);
    }

    #[test]
    fn leftover_and_missing_bytes_are_refused() {
        let bytes = encode(&7u32).unwrap();
        assert!(matches!(decode::<u16>(&bytes), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<u64>(&bytes), Err(CodecError::Malformed(_))));
        assert!(decode::<Vec<u8>>(&u64::MAX.to_le_bytes()).is_err());
    }

    #[test]
    fn what_describes_itself_needs_json() {
        let bytes = encode(&1u8).unwrap();
        assert!(matches!(decode::<serde_json::Value>(&bytes), Err(CodecError::NeedsJson)));
        assert!(needs_json(std::any::type_name::<Option<serde_json::Value>>()));
        assert!(!needs_json(std::any::type_name::<(f64, String)>()));
    }
}
