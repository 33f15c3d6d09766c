//! What the deployments of a set measure, by the names that the supervisor would show.

use std::collections::BTreeMap;

use decurion_abi::{metric, status};

/// Series of one replica, at most; a set has as many.
const SERIES_MAX: usize = 256;

/// See the module.
#[derive(Default)]
pub(super) struct Meter {
    /// The kind of each metric, by stem.
    kinds: BTreeMap<String, u32>,
    /// By name and labels; of a histogram, its count and its sum.
    values: BTreeMap<String, f64>,
    series: usize,
}

impl Meter {
    /// As a replica does: an ABI status.
    pub(super) fn measure(
        &mut self,
        kind: u32,
        name: &str,
        mut labels: Vec<(&str, &str)>,
        value: f64,
    ) -> i32 {
        labels.sort_unstable();
        let stem = metric::stem(kind, name);
        let fits = kind <= metric::HISTOGRAM
            && metric::is_name(kind, name)
            && metric::is_value(kind, value)
            && labels.len() <= metric::LABELS_MAX
            && labels.iter().all(|(name, value)| metric::is_label(name, value))
            && labels.is_sorted_by(|one, next| one.0 < next.0);
        if !fits || self.kinds.get(stem).is_some_and(|known| *known != kind) {
            return status::INVALID;
        }
        let words: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let words = if words.is_empty() { String::new() } else { format!("{{{}}}", words.join(",")) };
        let ending = ["_total", "", "_count"][kind as usize];
        let key = format!("{stem}{ending}{words}");
        if !self.values.contains_key(&key) {
            if self.series >= SERIES_MAX {
                return status::BUSY;
            }
            self.series += 1;
            self.kinds.insert(stem.to_owned(), kind);
        }
        let shown = self.values.entry(key).or_default();
        match kind {
            metric::COUNTER => *shown += value,
            metric::GAUGE => *shown = value,
            _ => {
                *shown += 1.0;
                *self.values.entry(format!("{stem}_sum{words}")).or_default() += value;
            }
        }
        status::OK
    }

    pub(super) fn values(&self) -> BTreeMap<String, f64> {
        self.values.clone()
    }
}
