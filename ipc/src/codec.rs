//! The one place where control messages become bytes and back: bincode, bounded.

use serde::{Serialize, de::DeserializeOwned};

use bincode::Options;

/// Bytes of one control message, at most. A SEQPACKET of this size fits the default socket buffer.
pub const MESSAGE_MAX: usize = 160 * 1024;

/// Why a message could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// More bytes than such a message may have.
    #[error("such a control message has at most {max} bytes, and this one has {bytes}")]
    TooLarge {
        /// How many it has.
        bytes: u64,
        /// How many are allowed.
        max: usize,
    },
    /// Not a message of this type, or bytes left over.
    #[error("not a control message of this kind: {0}")]
    Malformed(bincode::Error),
}

/// Bytes of an order to the proxy, at most: it is sent in parts. Some 400 bytes stand there for each deployment.
pub const ORDER_MAX: usize = 16 * 1024 * 1024;

fn options(max: usize) -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(max as u64).reject_trailing_bytes()
}

/// The bytes of a message.
///
/// # Errors
/// [`CodecError::TooLarge`] where it does not fit into one packet.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    encode_within(message, MESSAGE_MAX)
}

/// The bytes of an order to the proxy.
///
/// # Errors
/// [`CodecError::TooLarge`] where there are more than [`ORDER_MAX`].
pub fn encode_order<T: Serialize>(order: &T) -> Result<Vec<u8>, CodecError> {
    encode_within(order, ORDER_MAX)
}

fn encode_within<T: Serialize>(message: &T, max: usize) -> Result<Vec<u8>, CodecError> {
    options(max).serialize(message).map_err(|error| match *error {
        bincode::ErrorKind::SizeLimit => CodecError::TooLarge {
            bytes: options(usize::MAX).serialized_size(message).unwrap_or(u64::MAX),
            max,
        },
        _ => CodecError::Malformed(error),
    })
}

/// The message in `bytes`, all of them.
///
/// # Errors
/// [`CodecError::Malformed`] for anything else; memory for it is bounded by [`MESSAGE_MAX`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    options(MESSAGE_MAX).deserialize(bytes).map_err(CodecError::Malformed)
}

/// The order in `bytes`, all of them.
///
/// # Errors
/// [`CodecError::Malformed`] for anything else; memory for it is bounded by [`ORDER_MAX`].
pub fn decode_order<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    options(ORDER_MAX).deserialize(bytes).map_err(CodecError::Malformed)
}

/// Bytes of one argument list or result, at most.
pub const VALUE_MAX: u64 = 1 << 30;

fn value_options() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(VALUE_MAX).reject_trailing_bytes()
}

/// The bytes of a call's arguments or result, as the ABI's `encoding::BINCODE` says.
///
/// # Errors
/// What bincode can't carry, or more than [`VALUE_MAX`] bytes.
pub fn encode_value<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    value_options().serialize(value).map_err(CodecError::Malformed)
}

/// A call's arguments or result from its bytes, all of them.
///
/// # Errors
/// [`CodecError::Malformed`] for anything else.
pub fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    value_options().deserialize(bytes).map_err(CodecError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = (7u32, "text".to_owned(), vec![1u8, 2]);
        assert_eq!(decode::<(u32, String, Vec<u8>)>(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn leftover_bytes_are_refused() {
        let mut bytes = encode(&1u32).unwrap();
        bytes.push(0);
        assert!(decode::<u32>(&bytes).is_err());
    }

    #[test]
    fn a_length_that_lies_does_not_allocate() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"short");
        assert!(decode::<Vec<u8>>(&bytes).is_err());
    }

    #[test]
    fn a_message_too_large_is_refused_before_it_is_sent() {
        assert!(matches!(encode(&vec![0u8; MESSAGE_MAX + 1]), Err(CodecError::TooLarge { .. })));
    }
}
