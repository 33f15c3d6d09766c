//! Results that become arguments without being taken apart.

use std::cell::RefCell;

use decurion_abi::encoding;
use serde::ser::{Error as _, SerializeTuple, Serializer};

use crate::Error;
use crate::sys::host::Reply;

thread_local! {
    /// A serializer's error is a text; this is the whole of it.
    static FAILURE: RefCell<Option<Error>> = const { RefCell::new(None) };
}

pub(super) fn failed<E: serde::ser::Error>(error: Error) -> E {
    let text = E::custom(&error);
    FAILURE.set(Some(error));
    text
}

pub(super) fn take_failure() -> Option<Error> {
    FAILURE.take()
}

pub(super) enum Why<E> {
    Encoding,
    Serializer(E),
}

pub(super) fn write<S: Serializer>(reply: &Reply<'_>, serializer: S) -> Result<S::Ok, Why<S::Error>> {
    match (reply.encoding, serializer.is_human_readable()) {
        // In bincode, a tuple is its elements and nothing else.
        (encoding::BINCODE, false) => {
            let mut tuple = serializer.serialize_tuple(reply.body.len()).map_err(Why::Serializer)?;
            for byte in reply.body {
                tuple.serialize_element(byte).map_err(Why::Serializer)?;
            }
            tuple.end().map_err(Why::Serializer)
        }
        (encoding::JSON, true) => {
            let value: serde_json::Value = serde_json::from_slice(reply.body)
                .map_err(|error| Why::Serializer(S::Error::custom(error)))?;
            serde::Serialize::serialize(&value, serializer).map_err(Why::Serializer)
        }
        _ => Err(Why::Encoding),
    }
}
