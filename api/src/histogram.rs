//! A histogram of durations with fixed bounds: exact to add up, and of one small size however much it has seen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in nanoseconds, inclusive: 10 us to 10 min. Above the last one is one bucket more.
pub const BOUNDS_NS: [u64; 24] = [
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
    60_000_000_000,
    120_000_000_000,
    300_000_000_000,
    600_000_000_000,
];

/// Buckets, the one above the last bound included.
pub const BUCKETS: usize = BOUNDS_NS.len() + 1;

/// How many durations fell into each bucket, and their sum. Merging gives the same as having recorded all in one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        self.record_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds one duration in nanoseconds.
    pub fn record_ns(&mut self, nanos: u64) {
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < nanos);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(nanos);
    }

    /// Adds everything that another one has seen.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    /// What was added since it was as `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut difference = self.clone();
        for (count, before) in difference.counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        difference.sum_ns = difference.sum_ns.saturating_sub(earlier.sum_ns);
        difference
    }

    /// How many durations it has seen.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Whether it has seen none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// Each bound with how many durations were at most that long; `None`: the count of all.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS_NS.iter().map(|bound| Some(Duration::from_nanos(*bound))).chain([None]);
        bounds.zip(self.counts).scan(0u64, |sum, (bound, count)| {
            *sum = sum.saturating_add(count);
            Some((bound, *sum))
        })
    }

    /// What a share of all durations, 0 to 1, is at most: interpolated within a bucket. `None`: it has seen none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let (mut before, mut lower) = (0, Duration::ZERO);
        for (bound, sum) in self.cumulative() {
            // What lies above the last bound is known to be at least that.
            let Some(bound) = bound else { break };
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            if sum as f64 >= rank && sum > before {
                let within = ((rank - before as f64) / (sum - before) as f64).clamp(0.0, 1.0);
                return Some(lower + (bound - lower).mul_f64(within));
            }
            (before, lower) = (sum, bound);
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nanos: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        nanos.iter().for_each(|nanos| histogram.record_ns(*nanos));
        histogram
    }

    #[test]
    fn bounds_rise_and_are_inclusive() {
        assert!(BOUNDS_NS.windows(2).all(|pair| pair[0] < pair[1]));
        let histogram = of(&[10_000, 10_001, 600_000_000_000, 600_000_000_001]);
        let sums: Vec<u64> = histogram.cumulative().map(|(_, sum)| sum).collect();
        assert_eq!(sums[..3], [1, 2, 2]);
        assert_eq!(sums[23..], [3, 4]);
        assert_eq!(histogram.cumulative().last(), Some((None, 4)));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let (left, right) = ([0, 15_000, 3_000_000, u64::MAX / 4], [15_000, 15_001, 7]);
        let mut merged = of(&left);
        merged.merge(&of(&right));
        assert_eq!(merged, of(&[&left[..], &right[..]].concat()));
        assert_eq!(merged.count(), 7);
        assert_eq!(merged.since(&of(&right)), of(&left));
        assert_eq!(of(&[1, 2]).sum(), Duration::from_nanos(3));
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let histogram = of(&[&[15_000; 98][..], &[4_000_000; 2]].concat());
        let micros = |share| histogram.quantile(share).unwrap().as_micros();
        assert!((10..=20).contains(&micros(0.5)), "{}", micros(0.5));
        assert!((2_000..=5_000).contains(&micros(0.99)), "{}", micros(0.99));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(of(&[u64::MAX]).quantile(0.5), Some(Duration::from_secs(600)));
        assert!(of(&[0]).quantile(0.0).is_some());
    }

    #[test]
    fn it_is_full_and_not_wrapped() {
        let mut histogram = of(&[u64::MAX]);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.sum(), Duration::from_nanos(u64::MAX));
        assert_eq!(histogram.count(), 2);
    }
}
