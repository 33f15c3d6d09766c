//! The items of a streaming method, as they come. Each is a frame: its length (u32, little-endian), a byte for what it is,
//! its bytes; `decurion::Streamed` of the SDK writes them.

use std::fmt;
use std::marker::PhantomData;

use decurion_ipc::caller::{CallError, CallKey, Caller};
use decurion_ipc::codec;
use serde::de::DeserializeOwned;

use super::misread::{Answered, Said};
use super::{BINCODE, Call, CallFailed, JSON};
use crate::sys::engine::Step;

/// A frame that says why the stream ends here: a status (u16), then text.
const FAILED: u32 = 255;
/// Bytes of a frame's head.
const FRAME_HEAD: usize = 5;
/// Bytes of one item, at most.
const ITEM_MAX: usize = 1 << 30;
/// Bytes asked for at a time.
const READ_LEN: usize = 64 * 1024;

/// The items of a streaming method. Dropped, the method is told that nobody waits.
#[must_use = "a stream that nobody reads is cancelled"]
pub struct Stream<T> {
    call: Call,
    /// Read, and not taken apart yet.
    buffer: Vec<u8>,
    over: bool,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Stream<T> {
    /// Waits for the first word of a call that was asked to stream.
    pub(super) fn begin(call: Call) -> Answered<Self> {
        let key = call.key;
        let first = call.engine.wait(Some(key), 0, |caller| first_of(caller, key));
        let (mut stream, (status, said)) = match Self::new(call).first(first) {
            Ok(begun) => begun,
            Err(failed) => return Answered::Went(Err(failed)),
        };
        if said == Said::Good {
            return Answered::Went(Ok(stream));
        }
        loop {
            match stream.read_on() {
                Ok(0) => return stream.failed(status, said),
                Ok(_) => {}
                Err(failed) => return Answered::Went(Err(failed)),
            }
        }
    }

    #[cfg(feature = "tokio")]
    pub(super) async fn begin_async(call: Call) -> Answered<Self> {
        let key = call.key;
        let first = call.engine.wait_async(Some(key), 0, |caller| first_of(caller, key)).await;
        let (mut stream, (status, said)) = match Self::new(call).first(first) {
            Ok(begun) => begun,
            Err(failed) => return Answered::Went(Err(failed)),
        };
        if said == Said::Good {
            return Answered::Went(Ok(stream));
        }
        loop {
            match stream.read_on_async().await {
                Ok(0) => return stream.failed(status, said),
                Ok(_) => {}
                Err(failed) => return Answered::Went(Err(failed)),
            }
        }
    }

    fn first(self, first: Option<Result<First, CallError>>) -> Result<(Self, First), CallFailed> {
        Ok((self, first.unwrap_or(Err(CallError::Broken))?))
    }

    fn new(call: Call) -> Self {
        Self { call, buffer: Vec::new(), over: false, item: PhantomData }
    }

    /// What was read is the callee's error.
    fn failed(&self, status: u16, said: Said) -> Answered<Self> {
        self.call.learn(said);
        let error =
            CallFailed::Callee { status, message: String::from_utf8_lossy(&self.buffer).into_owned() };
        if said == Said::Misread { Answered::Misread(error) } else { Answered::Went(Err(error)) }
    }

    /// Reads what has come, or waits for it: how much, 0 at the end.
    fn read_on(&mut self) -> Result<usize, CallFailed> {
        let (key, filled) = (self.call.key, self.buffer.len());
        self.buffer.resize(filled + READ_LEN, 0);
        let buffer = &mut self.buffer[filled..];
        let read = self.call.engine.wait(Some(key), 0, |caller| read_into(caller, key, buffer));
        self.have_read(filled, read)
    }

    #[cfg(feature = "tokio")]
    async fn read_on_async(&mut self) -> Result<usize, CallFailed> {
        let (key, filled) = (self.call.key, self.buffer.len());
        // Its own until it is filled: dropped while it waits, the stream has read nothing.
        let mut part = vec![0; READ_LEN];
        let read =
            self.call.engine.wait_async(Some(key), 0, |caller| read_into(caller, key, &mut part)).await;
        self.buffer.extend_from_slice(&part);
        self.have_read(filled, read)
    }

    fn have_read(
        &mut self,
        filled: usize,
        read: Option<Result<usize, CallError>>,
    ) -> Result<usize, CallFailed> {
        let read = read.unwrap_or(Err(CallError::Broken));
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        Ok(read?)
    }

    /// The next item, waiting without holding a thread. `None` at the end.
    #[cfg(feature = "tokio")]
    pub async fn next_async(&mut self) -> Option<Result<T, CallFailed>> {
        while !self.over {
            let item = match self.front() {
                Some(item) => Some(item),
                None => match self.read_on_async().await {
                    Ok(0) if self.buffer.is_empty() => None,
                    Ok(0) => Some(Err(CallError::Broken.into())),
                    Ok(_) => continue,
                    Err(error) => Some(Err(error)),
                },
            };
            self.over = !matches!(item, Some(Ok(_)));
            return item;
        }
        None
    }

    /// The item at the front, if it was read whole.
    fn front(&mut self) -> Option<Result<T, CallFailed>> {
        let (head, rest) = self.buffer.split_first_chunk::<FRAME_HEAD>()?;
        let [a, b, c, d, kind] = *head;
        let (length, kind) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from(kind));
        if length > ITEM_MAX {
            return Some(Err(CallError::Broken.into()));
        }
        let bytes = rest.get(..length)?;
        let item = match (kind, bytes) {
            (BINCODE, bytes) => codec::decode_value(bytes).map_err(CallFailed::from),
            (JSON, bytes) => serde_json::from_slice(bytes).map_err(CallFailed::Result),
            (FAILED, [low, high, text @ ..]) => Err(CallFailed::Callee {
                status: match u16::from_le_bytes([*low, *high]) {
                    0 => 500,
                    status => status,
                },
                message: String::from_utf8_lossy(text).into_owned(),
            }),
            _ => Err(CallError::Broken.into()),
        };
        self.buffer.drain(..FRAME_HEAD + length);
        Some(item)
    }

    fn step(&mut self) -> Option<Result<T, CallFailed>> {
        loop {
            if let Some(item) = self.front() {
                return Some(item);
            }
            match self.read_on() {
                Ok(0) if self.buffer.is_empty() => return None,
                Ok(0) => return Some(Err(CallError::Broken.into())),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The status of an answer, and what it says.
type First = (u16, Said);

fn first_of(caller: &mut Caller, key: CallKey) -> Step<Result<First, CallError>> {
    match caller.head(key) {
        Ok(None) => Step::Wait,
        Ok(Some(reply)) => Step::Done(Ok((reply.status, Said::by(reply)))),
        Err(error) => Step::Done(Err(error)),
    }
}

fn read_into(caller: &mut Caller, key: CallKey, buffer: &mut [u8]) -> Step<Result<usize, CallError>> {
    match caller.read(key, buffer) {
        Ok(None) => Step::Wait,
        Ok(Some(count)) => Step::Done(Ok(count)),
        Err(error) => Step::Done(Err(error)),
    }
}

impl<T: DeserializeOwned> Iterator for Stream<T> {
    type Item = Result<T, CallFailed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let item = self.step();
        self.over = !matches!(item, Some(Ok(_)));
        item
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("call", &self.call).finish_non_exhaustive()
    }
}
