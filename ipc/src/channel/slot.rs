//! One slot of a ring: 32 bytes, checked when it is read.
//!
//! ```text
//!   word 0  kind:8 flags:8 code:16      4  offset of a block given back
//!        1  stream: index:16 gen:16     5  its generation
//!        2  offset of the block         6  bytes of the head in the block
//!        3  its length                  7  generation of the block
//! ```

use super::{BLOCK_BYTES, Fault, GRANULE, ResetCode, StreamId};

pub(crate) type Words = [u32; 8];

const OPEN: u32 = 1;
const DATA: u32 = 2;
const END: u32 = 3;
const RESET: u32 = 4;
const FREE: u32 = 5;

const FLAG_END: u32 = 1 << 8;
const FLAG_FREE: u32 = 2 << 8;
const FLAGS: u32 = FLAG_END | FLAG_FREE;

/// A lent block as its slot names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) generation: u32,
}

/// A block given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) offset: u32,
    pub(crate) generation: u32,
}

/// What a slot says about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The head of a request or a response, with the first of the body behind it.
    Open { stream: StreamId, block: Block, head: u32, end: bool },
    /// More of the body.
    Data { stream: StreamId, block: Block, end: bool },
    /// The body's end.
    End { stream: StreamId },
    /// The stream's end before its time.
    Reset { stream: StreamId, code: ResetCode },
    /// Only the block that is given back.
    Free,
}

/// A slot: a frame, and perhaps a block that rides along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) frame: Frame,
    pub(crate) freed: Option<Freed>,
}

impl Slot {
    /// Whether it is worth waking a sleeper that does not wait for room.
    pub(crate) fn is_loud(&self) -> bool {
        self.frame != Frame::Free
    }

    pub(crate) fn to_words(self) -> Words {
        let flag = |end| if end { FLAG_END } else { 0 };
        let (kind, stream, block, head) = match self.frame {
            Frame::Open { stream, block, head, end } => (OPEN | flag(end), stream.0, Some(block), head),
            Frame::Data { stream, block, end } => (DATA | flag(end), stream.0, Some(block), 0),
            Frame::End { stream } => (END, stream.0, None, 0),
            Frame::Reset { stream, code } => (RESET | u32::from(code_number(code)) << 16, stream.0, None, 0),
            Frame::Free => (FREE, 0, None, 0),
        };
        let block = block.unwrap_or(Block { offset: 0, length: 0, generation: 0 });
        let (free_flag, freed) = match self.freed {
            Some(freed) => (FLAG_FREE, freed),
            None => (0, Freed { offset: 0, generation: 0 }),
        };
        [
            kind | free_flag,
            stream,
            block.offset,
            block.length,
            freed.offset,
            freed.generation,
            head,
            block.generation,
        ]
    }

    /// Reads words that were copied out; `arena` is the size of the arena that their blocks are in.
    pub(crate) fn from_words(words: Words, arena: u32) -> Result<Slot, Fault> {
        let [first, stream, offset, length, free_offset, free_generation, head, generation] = words;
        let (kind, flags, code) = (first & 0xff, first & 0xff00, first >> 16);
        if flags & !FLAGS != 0 || (code != 0 && kind != RESET) {
            return Err(Fault::Slot);
        }
        let end = flags & FLAG_END != 0;
        let stream = StreamId(stream);
        let block = Block { offset, length, generation };
        let bare = offset == 0 && length == 0 && generation == 0 && head == 0 && !end;
        let frame = match kind {
            OPEN => {
                block.check(arena)?;
                if head > length {
                    return Err(Fault::Range);
                }
                Frame::Open { stream, block, head, end }
            }
            DATA if head == 0 => {
                block.check(arena)?;
                if length == 0 {
                    return Err(Fault::Range);
                }
                Frame::Data { stream, block, end }
            }
            END if bare => Frame::End { stream },
            RESET if bare => Frame::Reset { stream, code: code_of(code).ok_or(Fault::Slot)? },
            FREE if bare && stream.0 == 0 && flags & FLAG_FREE != 0 => Frame::Free,
            _ => return Err(Fault::Slot),
        };
        let freed = if flags & FLAG_FREE != 0 {
            Some(Freed { offset: free_offset, generation: free_generation })
        } else if free_offset == 0 && free_generation == 0 {
            None
        } else {
            return Err(Fault::Slot);
        };
        Ok(Slot { frame, freed })
    }
}

impl Block {
    fn check(&self, arena: u32) -> Result<(), Fault> {
        let within = self.offset.checked_add(self.length).is_some_and(|end| end <= arena);
        if within && self.offset < arena && self.length <= BLOCK_BYTES && self.offset.is_multiple_of(GRANULE)
        {
            Ok(())
        } else {
            Err(Fault::Range)
        }
    }

    pub(crate) fn freed(&self) -> Freed {
        Freed { offset: self.offset, generation: self.generation }
    }
}

fn code_number(code: ResetCode) -> u16 {
    match code {
        ResetCode::NotTaken => 1,
        ResetCode::Cancelled => 2,
        ResetCode::Failed => 3,
        ResetCode::Deadline => 4,
        ResetCode::Protocol => 5,
    }
}

fn code_of(number: u32) -> Option<ResetCode> {
    Some(match number {
        1 => ResetCode::NotTaken,
        2 => ResetCode::Cancelled,
        3 => ResetCode::Failed,
        4 => ResetCode::Deadline,
        5 => ResetCode::Protocol,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARENA: u32 = 256 * 1024;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let stream = StreamId::new(3, 9);
        let block = Block { offset: 4096, length: 100, generation: 7 };
        let freed = Some(Freed { offset: 1024, generation: 5 });
        for frame in [
            Frame::Open { stream, block, head: 60, end: true },
            Frame::Data { stream, block, end: false },
            Frame::End { stream },
            Frame::Reset { stream, code: ResetCode::Deadline },
            Frame::Free,
        ] {
            let slot = Slot { frame, freed };
            assert_eq!(Slot::from_words(slot.to_words(), ARENA), Ok(slot));
        }
    }

    #[test]
    fn blocks_outside_of_the_arena_are_refused() {
        let data = |offset, length| {
            let block = Block { offset, length, generation: 1 };
            let frame = Frame::Data { stream: StreamId(1), block, end: false };
            Slot::from_words(Slot { frame, freed: None }.to_words(), ARENA)
        };
        assert!(data(ARENA - 1024, 1024).is_ok());
        for (offset, length) in
            [(ARENA - 1024, 1025), (ARENA, 0), (!1023, 2048), (0, BLOCK_BYTES + 1), (1, 1), (0, 0)]
        {
            assert_eq!(data(offset, length), Err(Fault::Range), "{length} at {offset}");
        }
    }

    proptest! {
        #[test]
        fn what_arbitrary_words_say_is_within_bounds_and_written_the_same(
            mut words in prop::array::uniform8(any::<u32>()),
            kind in 0u32..8,
            plain in any::<bool>(),
        ) {
            words[0] = if plain { kind | words[0] & 0x300 } else { words[0] };
            if let Ok(slot) = Slot::from_words(words, ARENA) {
                prop_assert_eq!(slot.to_words(), words);
                if let Frame::Open { block, .. } | Frame::Data { block, .. } = slot.frame {
                    prop_assert!(block.offset + block.length <= ARENA);
                }
            }
        }
    }
}
