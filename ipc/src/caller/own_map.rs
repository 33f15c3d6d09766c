//! Maps by numbers that this process gives out itself: nobody can choose them so that they collide, and a hash that
//! withstands that costs more than the look-up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// By keys of one number each.
pub(super) type OwnMap<K, V> = HashMap<K, V, BuildHasherDefault<OwnHasher>>;

/// Spreads a number over all bits, of which a map takes the highest and the lowest.
#[derive(Debug, Default)]
pub(super) struct OwnHasher(u64);

/// 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for OwnHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(SPREAD);
        self.0 = mixed ^ mixed >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_kept_apart() {
        let map: OwnMap<u32, u32> = (0..10_000).map(|number| (number, number + 1)).collect();
        assert!((0..10_000).all(|number| map[&number] == number + 1));
        let low_bits: std::collections::BTreeSet<u64> = (0..1024u64)
            .map(|number| {
                let mut hasher = OwnHasher::default();
                hasher.write_u64(number << 16);
                hasher.finish() % 1024
            })
            .collect();
        assert!(low_bits.len() > 512, "{} of 1024 places", low_bits.len());
    }
}
