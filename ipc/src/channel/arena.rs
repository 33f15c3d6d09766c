//! The private books of our own arena: which granules are taken, and which blocks are lent.
//!
//! Nothing of it is shared. The other side learns offsets, and what it gives back must be in the table.

use super::slot::{Block, Freed};
use super::{Fault, GRANULE, Use};

/// A block that is lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent {
    pub(crate) stream: Use,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// Bytes of a head at its start.
    pub(crate) head: u32,
    generation: u32,
}

/// Bitmap and table of lent blocks.
#[derive(Debug)]
pub(crate) struct Arena {
    /// One bit per granule: set where it is taken.
    taken: Vec<u64>,
    granules: u32,
    free: u32,
    /// By the first granule of the block.
    lent: Vec<Option<Lent>>,
    next_generation: u32,
}

impl Arena {
    pub(crate) fn new(bytes: u32) -> Arena {
        let granules = bytes / GRANULE;
        let mut taken = vec![0; granules.div_ceil(64) as usize];
        if !granules.is_multiple_of(64)
            && let Some(last) = taken.last_mut()
        {
            *last = u64::MAX << (granules % 64);
        }
        Arena { taken, granules, free: granules, lent: vec![None; granules as usize], next_generation: 1 }
    }

    /// Bytes that are free, in whole granules.
    pub(crate) fn free_bytes(&self) -> u32 {
        self.free * GRANULE
    }

    /// Takes room for exactly `bytes`, the lowest there is.
    pub(crate) fn take_exact(&mut self, bytes: u32) -> Option<u32> {
        let wanted = bytes.div_ceil(GRANULE).max(1);
        let (start, found) = self.find(wanted)?;
        (found == wanted).then(|| self.mark(start, wanted))
    }

    /// Takes room for up to `bytes`, less where nothing so large is free: offset and size.
    pub(crate) fn take_up_to(&mut self, bytes: u32) -> Option<(u32, u32)> {
        let (start, found) = self.find(bytes.div_ceil(GRANULE).max(1))?;
        Some((self.mark(start, found), found * GRANULE))
    }

    /// Frees what was taken and not lent.
    pub(crate) fn release(&mut self, offset: u32, bytes: u32) {
        let (start, count) = (offset / GRANULE, bytes.div_ceil(GRANULE));
        for granule in start..start + count {
            self.taken[(granule / 64) as usize] &= !(1 << (granule % 64));
        }
        self.free += count;
    }

    /// Enters a block into the table of what is lent.
    pub(crate) fn lend(&mut self, stream: Use, offset: u32, length: u32, head: u32) -> Block {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        self.lent[(offset / GRANULE) as usize] = Some(Lent { stream, offset, length, head, generation });
        Block { offset, length, generation }
    }

    /// Takes a block back, if it is one that is lent.
    pub(crate) fn take_back(&mut self, freed: Freed) -> Result<Lent, Fault> {
        let entry = self.lent.get_mut((freed.offset / GRANULE) as usize).ok_or(Fault::Return)?;
        let lent = entry
            .take_if(|lent| lent.generation == freed.generation && lent.offset == freed.offset)
            .ok_or(Fault::Return)?;
        self.release(lent.offset, lent.length.max(1));
        Ok(lent)
    }

    /// What is lent of one stream, in the order in which it was sent.
    pub(crate) fn lent_of(&self, stream: Use) -> Vec<Lent> {
        let mut found: Vec<Lent> =
            self.lent.iter().flatten().filter(|lent| lent.stream == stream).copied().collect();
        // Generations count up and may have wrapped: older ones are further behind the next.
        found.sort_by_key(|lent| lent.generation.wrapping_sub(self.next_generation));
        found
    }

    /// The first run of `wanted` free granules, or the longest where there is none.
    fn find(&self, wanted: u32) -> Option<(u32, u32)> {
        let mut best = None;
        let mut from = 0;
        while let Some(start) = self.next(from, |word| !word) {
            let end = self.next(start, |word| word).unwrap_or(self.granules);
            let length = end - start;
            if length >= wanted {
                return Some((start, wanted));
            }
            if best.is_none_or(|(_, longest)| length > longest) {
                best = Some((start, length));
            }
            from = end;
        }
        best
    }

    /// The first granule at or after `from` whose bit is set in the words as `view` shows them.
    fn next(&self, from: u32, view: impl Fn(u64) -> u64) -> Option<u32> {
        let first = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        for (index, &word) in self.taken.iter().enumerate().skip(first) {
            let bits = view(word) & mask;
            if bits != 0 {
                let granule = u32::try_from(index).ok()? * 64 + bits.trailing_zeros();
                return (granule < self.granules).then_some(granule);
            }
            mask = u64::MAX;
        }
        None
    }

    fn mark(&mut self, start: u32, count: u32) -> u32 {
        for granule in start..start + count {
            self.taken[(granule / 64) as usize] |= 1 << (granule % 64);
        }
        self.free -= count;
        start * GRANULE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: Use = Use { index: 1, serial: 1 };

    #[test]
    fn the_lowest_room_is_taken_first() {
        let mut arena = Arena::new(64 * 1024);
        assert_eq!(arena.take_exact(1), Some(0));
        assert_eq!(arena.take_exact(2048), Some(1024));
        arena.release(0, 1);
        assert_eq!(arena.take_exact(2000), Some(3072));
        assert_eq!(arena.take_exact(1000), Some(0));
    }

    #[test]
    fn less_is_taken_where_so_much_is_not_free() {
        let mut arena = Arena::new(64 * 1024);
        assert_eq!(arena.take_exact(60 * 1024), Some(0));
        assert_eq!(arena.take_exact(8 * 1024), None);
        assert_eq!(arena.take_up_to(8 * 1024), Some((60 * 1024, 4 * 1024)));
        assert_eq!(arena.take_up_to(1), None);
    }

    #[test]
    fn only_what_is_lent_comes_back_and_only_once() {
        let mut arena = Arena::new(64 * 1024);
        let offset = arena.take_exact(3000).unwrap();
        let block = arena.lend(STREAM, offset, 3000, 0);
        let freed = block.freed();
        for wrong in [
            Freed { offset: 1024, ..freed },
            Freed { offset: 1, ..freed },
            Freed { offset: u32::MAX, ..freed },
            Freed { generation: 9, ..freed },
        ] {
            assert_eq!(arena.take_back(wrong).unwrap_err(), Fault::Return);
        }
        assert_eq!(arena.take_back(freed).unwrap().length, 3000);
        assert_eq!(arena.take_back(freed).unwrap_err(), Fault::Return);
        assert_eq!(arena.free_bytes(), 64 * 1024);
    }

    #[test]
    fn lent_blocks_are_listed_in_the_order_of_sending() {
        let mut arena = Arena::new(64 * 1024);
        arena.next_generation = u32::MAX;
        let (first, second) = (arena.take_exact(1).unwrap(), arena.take_exact(1).unwrap());
        arena.lend(STREAM, second, 1, 0);
        arena.lend(STREAM, first, 1, 0);
        let order: Vec<u32> = arena.lent_of(STREAM).iter().map(|lent| lent.offset).collect();
        assert_eq!(order, [second, first]);
    }

    proptest! {
        #[test]
        fn granules_are_never_taken_twice_and_all_come_back(
            granules in 64u32..200,
            sizes in prop::collection::vec((1u32..9000, any::<bool>()), 1..200),
        ) {
            let mut arena = Arena::new(granules * GRANULE);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (bytes, give) in sizes {
                if give && !held.is_empty() {
                    let (offset, size) = held.swap_remove(bytes as usize % held.len());
                    arena.release(offset, size);
                } else if let Some((offset, size)) = arena.take_up_to(bytes) {
                    prop_assert!(offset + size <= granules * GRANULE);
                    prop_assert!(held.iter().all(|&(o, s)| offset + size <= o || o + s <= offset));
                    held.push((offset, size));
                }
                let used: u32 = held.iter().map(|&(_, size)| size).sum();
                prop_assert_eq!(arena.free_bytes() + used, granules * GRANULE);
            }
        }
    }
}
