//! Methods that give a stream of items, and what their callers read it by.
//!
//! On the wire each item is a frame: its length (u32, little-endian), a byte for what it is, its bytes. What it is: an ABI
//! encoding, or [`FAILED`] for an error in the middle (status u16, then text), after which nothing comes.

use std::fmt;
use std::marker::PhantomData;

use decurion_abi::{encoding, status};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "tokio")]
use crate::class::Pending;
use crate::codec::{self, CodecError};
use crate::handle::Callee;
use crate::response::Response;
use crate::stream::BodyWriter;
#[cfg(feature = "tokio")]
use crate::stream_async::AsyncBodyWriter;
use crate::sys::host::Call;
#[cfg(feature = "tokio")]
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// A frame that says why the stream ends here.
const FAILED: u8 = 255;
/// Bytes of a frame's head.
const FRAME_HEAD: usize = 5;
/// Bytes of one item, at most.
const ITEM_MAX: usize = 1 << 30;
/// Bytes asked for at a time.
const READ_LEN: usize = 64 * 1024;

/// What a streaming method returns: its items are made after the method has returned, and each goes to the caller at once.
/// Making one waits while the caller is slow, and fails once it is gone.
///
/// ```
/// # mod example {
/// use decurion::Streamed;
/// use decurion::prelude::*;
///
/// #[derive(Default)]
/// pub struct Counter;
///
/// #[deployment]
/// impl Counter {
///     pub fn count(&self, to: u32) -> Streamed<u32> {
///         Streamed::iter(1..=to)
///     }
/// }
///
/// # pub fn test() -> Result<()> {
/// let counter = decurion::test::Local::<Counter>::new(())?;
/// let numbers: Vec<u32> = counter.handle().stream("count", (3,))?.collect::<Result<_>>()?;
/// assert_eq!(numbers, [1, 2, 3]);
/// # Ok(())
/// # }
/// # }
/// # example::test().unwrap();
/// ```
pub struct Streamed<T>(Make<T>);

type MakeNow<T> = dyn FnOnce(&mut Items<'_, '_, T>) -> Result<()> + Send;
#[cfg(feature = "tokio")]
type MakeLater<T> = dyn for<'a, 'w> FnOnce(&'a mut AsyncItems<'w, T>) -> Pending<'a, Result<()>> + Send;

enum Make<T> {
    Now(Box<MakeNow<T>>),
    #[cfg(feature = "tokio")]
    Later(Box<MakeLater<T>>),
}

impl<T: Serialize + Send + 'static> Streamed<T> {
    /// Items that `make` sends.
    pub fn new(make: impl FnOnce(&mut Items<'_, '_, T>) -> Result<()> + Send + 'static) -> Self {
        Self(Make::Now(Box::new(make)))
    }

    /// The items of an iterator.
    pub fn iter<I>(items: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        let items = items.into_iter();
        Self::new(move |out| {
            for item in items {
                out.send(item)?;
            }
            Ok(())
        })
    }

    /// Items that a future sends.
    #[cfg(feature = "tokio")]
    pub fn new_async(
        make: impl for<'a, 'w> FnOnce(&'a mut AsyncItems<'w, T>) -> Pending<'a, Result<()>> + Send + 'static,
    ) -> Self {
        Self(Make::Later(Box::new(make)))
    }

    /// As the body of an answer, in frames.
    pub(crate) fn into_response(self, encoding: u32) -> Response {
        match self.0 {
            Make::Now(make) => Response::stream(move |writer| {
                let mut items = Items { writer, frames: Frames::new(encoding) };
                let Err(error) = make(&mut items) else { return Ok(()) };
                let frame = items.frames.failure(error)?;
                items.writer.write(frame)
            }),
            #[cfg(feature = "tokio")]
            Make::Later(make) => Response::stream_async(move |writer| {
                Box::pin(async move {
                    let mut items = AsyncItems { writer, frames: Frames::new(encoding) };
                    let Err(error) = make(&mut items).await else { return Ok(()) };
                    let frame = items.frames.failure(error)?;
                    items.writer.write(frame).await
                })
            }),
        }
    }
}

impl<T> fmt::Debug for Streamed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streamed")
    }
}

/// Sends the items of a stream.
pub struct Items<'w, 'e, T> {
    writer: &'w mut BodyWriter<'e>,
    frames: Frames<T>,
}

impl<T: Serialize> Items<'_, '_, T> {
    /// Sends one, on its way at once.
    ///
    /// # Errors
    /// 499 where nobody waits any more; where it can't be written.
    pub fn send(&mut self, item: T) -> Result<()> {
        let frame = self.frames.item(&item)?;
        self.writer.write(frame)?;
        self.writer.flush()
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.writer.is_cancelled()
    }
}

impl<T> fmt::Debug for Items<'_, '_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Items")
    }
}

/// Sends the items of a stream, waiting without holding a thread.
#[cfg(feature = "tokio")]
pub struct AsyncItems<'w, T> {
    writer: &'w mut AsyncBodyWriter,
    frames: Frames<T>,
}

#[cfg(feature = "tokio")]
impl<T: Serialize> AsyncItems<'_, T> {
    /// Sends one, on its way at once.
    ///
    /// # Errors
    /// 499 where nobody waits any more; where it can't be written.
    pub async fn send(&mut self, item: T) -> Result<()> {
        let frame = self.frames.item(&item)?;
        self.writer.write(frame).await?;
        self.writer.flush().await
    }
}

#[cfg(feature = "tokio")]
impl<T> fmt::Debug for AsyncItems<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsyncItems")
    }
}

/// Writes items as frames.
struct Frames<T> {
    encoding: u32,
    begun: bool,
    item: PhantomData<fn(T)>,
}

impl<T> Frames<T> {
    fn new(encoding: u32) -> Self {
        Self { encoding, begun: false, item: PhantomData }
    }

    fn item(&mut self, item: &T) -> Result<Vec<u8>>
    where
        T: Serialize,
    {
        self.begun = true;
        let bincode = match self.encoding {
            encoding::BINCODE => codec::encode(item).map(Some),
            _ => Ok(None),
        };
        match bincode {
            Ok(Some(bytes)) => frame(BINCODE, &bytes),
            Ok(None) | Err(CodecError::NeedsJson) => frame(JSON, &serde_json::to_vec(item)?),
            Err(error) => Err(error.into()),
        }
    }

    /// An error before the first item is an answer of its own.
    fn failure(&mut self, error: Error) -> Result<Vec<u8>> {
        if !self.begun {
            return Err(error);
        }
        let code = error.code().map_or(0, |code| code.as_u16());
        frame(FAILED, &[&code.to_le_bytes(), error.chain().as_bytes()].concat())
    }
}

const JSON: u8 = 1;
const BINCODE: u8 = 2;
const _: () = assert!(encoding::JSON == 1 && encoding::BINCODE == 2);

fn frame(kind: u8, bytes: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= ITEM_MAX);
    let length = length.ok_or_else(|| Error::msg(format_args!("an item has at most {ITEM_MAX} bytes")))?;
    Ok([&length.to_le_bytes(), &[kind][..], bytes].concat())
}

/// The items of a streaming method, as they come. Dropped, the method is told that nobody waits.
#[must_use = "a stream that nobody reads is cancelled"]
pub struct Stream<T> {
    call: Call,
    callee: Callee,
    /// Read, and not taken apart yet: `taken <= buffer.len()`.
    buffer: Vec<u8>,
    taken: usize,
    over: bool,
    item: PhantomData<fn() -> T>,
}

/// What stands at the front of what was read.
enum Front<T> {
    Item(T),
    Failed(Error),
    /// More has to be read first.
    Cut,
}

impl<T: DeserializeOwned> Stream<T> {
    pub(crate) fn new(call: Call, callee: Callee) -> Self {
        Self { call, callee, buffer: Vec::new(), taken: 0, over: false, item: PhantomData }
    }

    /// Takes an item apart that was read whole.
    fn front(&mut self) -> Front<T> {
        let rest = &self.buffer[self.taken..];
        let Some((head, rest)) = rest.split_first_chunk::<FRAME_HEAD>() else { return Front::Cut };
        let [a, b, c, d, kind] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > ITEM_MAX {
            return Front::Failed(self.callee.misread::<T>("an item is too large"));
        }
        let Some(bytes) = rest.get(..length) else { return Front::Cut };
        let read = match (kind, bytes) {
            (FAILED, [low, high, text @ ..]) => {
                let text = String::from_utf8_lossy(text);
                return Front::Failed(match u16::from_le_bytes([*low, *high]) {
                    0 => Error::msg(text),
                    code => Error::status(code, text),
                });
            }
            (BINCODE, bytes) => codec::decode(bytes).map_err(|error| error.to_string()),
            (JSON, bytes) => crate::arguments::value_from_json(bytes),
            (other, _) => Err(format!("an item has encoding {other}")),
        };
        self.taken += FRAME_HEAD + length;
        match read {
            Ok(item) => Front::Item(item),
            Err(why) => Front::Failed(self.callee.misread::<T>(&why)),
        }
    }

    /// Makes room, and says how much was there before.
    fn room(&mut self) -> usize {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_LEN, 0);
        filled
    }

    /// What came of reading; `None`: there may be a whole item now.
    fn have_read(&mut self, filled: usize, read: Result<usize, i32>) -> Option<Option<Result<T>>> {
        let count = *read.as_ref().unwrap_or(&0);
        self.buffer.truncate(filled + count);
        let failed = match read {
            Ok(0) if filled == 0 => {
                self.over = true;
                return Some(None);
            }
            Ok(0) => self.callee.failed(status::BROKEN),
            Ok(_) => return None,
            Err(failed) => self.callee.failed(failed),
        };
        self.over = true;
        Some(Some(Err(failed)))
    }

    fn take_front(&mut self) -> Option<Result<T>> {
        match self.front() {
            Front::Item(item) => Some(Ok(item)),
            Front::Failed(error) => {
                self.over = true;
                Some(Err(error))
            }
            Front::Cut => None,
        }
    }

    /// The next item, waiting without holding a thread. `None` at the end.
    #[cfg(feature = "tokio")]
    pub async fn next_async(&mut self) -> Option<Result<T>> {
        let place = HostWaker::new();
        while !self.over {
            if let Some(item) = self.take_front() {
                return Some(item);
            }
            let filled = self.room();
            let (call, buffer) = (&mut self.call, &mut self.buffer);
            let read = std::future::poll_fn(|cx| call.poll_read(&mut buffer[filled..], &place, cx)).await;
            if let Some(end) = self.have_read(filled, read) {
                return end;
            }
        }
        None
    }

    /// Tells the callee that nobody waits.
    pub fn cancel(self) {
        self.call.cancel();
    }
}

impl<T: DeserializeOwned> Iterator for Stream<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        while !self.over {
            if let Some(item) = self.take_front() {
                return Some(item);
            }
            let filled = self.room();
            let read = self.call.read(&mut self.buffer[filled..]);
            if let Some(end) = self.have_read(filled, read) {
                return end;
            }
        }
        None
    }
}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("callee", &self.callee).finish_non_exhaustive()
    }
}
