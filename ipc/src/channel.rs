//! One lane of shared memory between a caller and a replica: the [`Requester`] and the [`Responder`].
//!
//! Everything here decides; the memory itself is under `sys`. The other side is taken for hostile: a slot is
//! copied out once and checked, and anything that breaks the rules is a [`Fault`], after which the lane is dead.
//! Layout, rules and crash phases are in `docs/data-plane.md`.

mod arena;
mod checks;
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
mod fuzz;
mod lane;
mod layout;
#[cfg(test)]
pub(crate) mod model;
mod requester;
mod responder;
mod ring;
mod slot;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

#[doc(hidden)]
pub use checks::{check_slots, sample_slots};
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub use fuzz::fuzz_consumer;
pub use layout::{Geometry, GeometryError};
pub use requester::{Event, Orphan, Phase, Requester};
pub use responder::{Request, Responder};

pub(crate) use layout::{Direction, LANES_MAX, Layout, MAGIC, VERSION};
pub(crate) use ring::Shared;

/// Bytes of one block, at most.
pub const BLOCK_MAX: usize = BLOCK_BYTES as usize;
pub(crate) const BLOCK_BYTES: u32 = 64 * 1024;
/// Blocks are runs of granules of this many bytes.
pub(crate) const GRANULE: u32 = 1024;

/// One request on one lane: which place in the stream table, and the how-many-th use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u32);

impl StreamId {
    pub(crate) fn new(index: u16, generation: u16) -> StreamId {
        StreamId(u32::from(index) | u32::from(generation) << 16)
    }

    /// Its place: dense, below the number of streams of the lane, used again after the stream's end.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.place())
    }

    pub(crate) fn place(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    pub(crate) fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// One use of a place of the stream table, by a private number that never comes again.
///
/// A block can outlive its stream for as long as the other side likes, and generations have only 16 bits: by them
/// alone its bytes could be counted for, or taken for those of, a much later stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    index: u16,
    serial: u64,
}

/// Room in our own arena, to be filled and sent. Discard what is not sent: it is lost to the lane otherwise.
#[must_use = "a block that is neither sent nor discarded is lost to the lane"]
#[derive(Debug)]
pub struct OutBlock {
    stream: Use,
    offset: u32,
    capacity: u32,
    length: u32,
}

impl OutBlock {
    /// Bytes that are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that can still be added.
    #[must_use]
    pub fn room(&self) -> usize {
        (self.capacity - self.length) as usize
    }
}

/// Bytes that the other side has lent us. Give it back when they are used: its window stays smaller until then.
#[must_use = "a block that is not given back is lost to the other side"]
#[derive(Debug)]
pub struct InBlock {
    stream: Use,
    /// Of the whole block in the other side's arena.
    offset: u32,
    generation: u32,
    lent: u32,
    /// Bytes of a head before what this block is about.
    skip: u32,
}

impl InBlock {
    /// Bytes that are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.lent - self.skip) as usize
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lent == self.skip
    }
}

/// Why a stream ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResetCode {
    /// The callee has not begun with it, and will not: it can go elsewhere, whatever its method.
    NotTaken,
    /// The caller wanted it no more.
    Cancelled,
    /// The callee failed.
    Failed,
    /// The deadline passed.
    Deadline,
    /// The callee could not make sense of the request.
    Protocol,
}

/// How the other side broke the rules. The lane is dead after it; there is no repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An index moved backwards, or further than the ring is long.
    #[error("a ring index is impossible")]
    Index,
    /// The ring is full, which a peer that reads can never cause.
    #[error("the ring is full")]
    Full,
    /// A slot of no known form.
    #[error("a slot has no known form")]
    Slot,
    /// A block outside of the arena, or too long.
    #[error("a block is outside of the arena")]
    Range,
    /// A stream that does not exist, or a frame that its state does not allow.
    #[error("a frame does not fit its stream")]
    Stream,
    /// More bytes lent than the stream's window, or the whole arena, allows.
    #[error("more was lent than the window allows")]
    Window,
    /// A block given back that was not lent.
    #[error("a block came back that was not lent")]
    Return,
}

/// Why a request could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// All streams of the lane are in use; [`Event::Vacancy`] tells when to try again.
    #[error("all streams of the channel are in use")]
    Streams,
    /// No block is free; [`Event::Vacancy`] tells when to try again.
    #[error("no block of the channel is free")]
    Arena,
    /// Head and body do not fit one block.
    #[error("head and body do not fit one block of {BLOCK_MAX} bytes")]
    TooLarge,
    /// The lane is dead.
    #[error("the channel is dead")]
    Dead,
}

/// Why there is no room to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The window or the arena is used up; a `Room` event tells when to try again.
    #[error("the window is used up")]
    Later,
    /// Head and body do not fit one block.
    #[error("head and body do not fit one block of {BLOCK_MAX} bytes")]
    TooLarge,
    /// The stream is over: what was meant for it can be dropped.
    #[error("the stream is over")]
    Gone,
}
