//! Every choice of a run: a small generator whose whole state is its seed.

use std::time::Duration;

/// The one source of chance.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64, by Sebastiano Vigna; public domain.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }

    pub(crate) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// Between these, in microseconds, and with nanoseconds of its own, so that hardly two things coincide.
    pub(crate) fn micros(&mut self, least: u64, most: u64) -> Duration {
        let micros = least + self.below(most.saturating_sub(least) + 1);
        Duration::from_nanos(micros * 1_000 + self.below(1_000))
    }

    /// Short as a rule, now and then long.
    pub(crate) fn skewed(&mut self, usual: u64, most: u64) -> Duration {
        let bound = if self.one_in(8) { most } else { usual };
        self.micros(1, bound)
    }
}
