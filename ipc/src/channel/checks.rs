//! For the bench that tells what checks cost: they cannot be left out anywhere else.

use super::StreamId;
use super::slot::{Block, Frame, Freed, Slot, Words};

/// Whole slots as a peer that keeps the rules writes them, and the size of the arena that they speak of.
#[must_use]
pub fn sample_slots() -> (Vec<Words>, u32) {
    let slot = |at: u32| {
        let stream = StreamId(at % 64);
        let block = Block { offset: at * 1024, length: 364, generation: at };
        let freed = Some(Freed { offset: at * 1024, generation: at });
        Slot { frame: Frame::Open { stream, block, head: 300, end: true }, freed }.to_words()
    };
    ((0..256).map(slot).collect(), 1 << 20)
}

/// Checks each as a poll does, and counts those that are in order.
#[must_use]
pub fn check_slots(slots: &[Words], arena: u32) -> usize {
    slots.iter().filter(|words| Slot::from_words(**words, arena).is_ok()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_in_order() {
        let (mut slots, arena) = sample_slots();
        assert_eq!(check_slots(&slots, arena), slots.len());
        slots[7][2] = u32::MAX;
        assert_eq!(check_slots(&slots, arena), slots.len() - 1);
    }
}
