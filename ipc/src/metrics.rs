//! What a library measures, as its replica adds it up and tells the supervisor. Values are sums since the replica
//! began, not what was added: a report that is lost is made good by the next. What names may be is the ABI's to say,
//! and is looked at by whoever fills a set.

use std::cmp::Ordering;

use decurion_api::histogram::BOUNDS_NS;
use serde::{Deserialize, Serialize};

/// Series of one replica, at most.
pub const SERIES_MAX: usize = 256;

/// Bounds of a histogram that is not of seconds.
const BOUNDS: [f64; 37] = [
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1_000.0,
    2_000.0,
    5_000.0,
    10_000.0,
    20_000.0,
    50_000.0,
    100_000.0,
    200_000.0,
    500_000.0,
    1_000_000.0,
    2_000_000.0,
    5_000_000.0,
    10_000_000.0,
    20_000_000.0,
    50_000_000.0,
    100_000_000.0,
    200_000_000.0,
    500_000_000.0,
    1_000_000_000.0,
];

/// One series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Of the metric.
    pub name: String,
    /// Sorted, each name once.
    pub labels: Vec<(String, String)>,
    /// As it stands.
    pub value: Value,
}

/// What a series has come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// The sum of what was added.
    Counter(f64),
    /// What was set last.
    Gauge(f64),
    /// What was recorded.
    Histogram {
        /// How many fell into each bucket: those of [`bounds`], and one above.
        counts: Vec<u64>,
        /// Of all.
        sum: f64,
    },
}

/// What is done to a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Adds to a counter.
    Add(f64),
    /// Sets a gauge.
    Set(f64),
    /// Records into a histogram.
    Record(f64),
}

/// Why nothing was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMeasured {
    /// Another series of this name has another kind.
    #[error("the name has another kind already")]
    Kind,
    /// There is no room for another series.
    #[error("there are {SERIES_MAX} series already")]
    Full,
    /// A sum would be too large for a number.
    #[error("the sum is out of range")]
    Range,
}

/// Upper bounds of a histogram's buckets: of the metric's name with the ending `_seconds`, those of durations, 10 us to
/// 10 min; else 1, 2 and 5 of each power of ten from 0.001 to a thousand million.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "small enough to be exact")]
pub fn bounds(name: &str) -> Vec<f64> {
    if name.ends_with("_seconds") {
        BOUNDS_NS.iter().map(|bound| *bound as f64 / 1e9).collect()
    } else {
        BOUNDS.to_vec()
    }
}

impl Value {
    fn new(name: &str, measure: Measure) -> Self {
        match measure {
            Measure::Add(_) => Self::Counter(0.0),
            Measure::Set(_) => Self::Gauge(0.0),
            Measure::Record(_) => Self::Histogram { counts: vec![0; bounds(name).len() + 1], sum: 0.0 },
        }
    }

    fn take(&mut self, name: &str, measure: Measure) -> Result<(), NotMeasured> {
        let finite = |sum: f64| if sum.is_finite() { Ok(sum) } else { Err(NotMeasured::Range) };
        match (self, measure) {
            (Self::Counter(sum), Measure::Add(more)) => *sum = finite(*sum + more)?,
            (Self::Gauge(value), Measure::Set(new)) => *value = finite(new)?,
            (Self::Histogram { counts, sum }, Measure::Record(seen)) => {
                *sum = finite(*sum + seen)?;
                let bucket = bounds(name).partition_point(|bound| *bound < seen);
                if let Some(count) = counts.get_mut(bucket) {
                    *count = count.saturating_add(1);
                }
            }
            _ => return Err(NotMeasured::Kind),
        }
        Ok(())
    }

    /// Whether it can have come of measuring.
    fn is_sound(&self, name: &str) -> bool {
        match self {
            Self::Counter(sum) => sum.is_finite() && *sum >= 0.0,
            Self::Gauge(value) => value.is_finite(),
            Self::Histogram { counts, sum } => {
                counts.len() == bounds(name).len() + 1 && sum.is_finite() && *sum >= 0.0
            }
        }
    }

    fn is_like(&self, other: &Value) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// The series of one replica, by name and labels: [`SERIES_MAX`] at most, those of one name of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesSet(Vec<Series>);

impl SeriesSet {
    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> &[Series] {
        &self.0
    }

    /// Measures. `labels` are sorted.
    ///
    /// # Errors
    /// [`NotMeasured`]; then nothing has changed.
    pub fn measure(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        measure: Measure,
    ) -> Result<(), NotMeasured> {
        let order = |series: &Series| compare(series, name, labels);
        match self.0.binary_search_by(order) {
            Ok(at) => self.0[at].value.take(name, measure),
            Err(at) => {
                let mut value = Value::new(name, measure);
                value.take(name, measure)?;
                let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                self.insert(at, Series { name: name.to_owned(), labels: labels.collect(), value })
            }
        }
    }

    /// Takes a series as another set has it; what can't stand here is left out.
    pub fn replace(&mut self, series: Series) {
        if !series.labels.is_sorted_by(|one, next| one.0 < next.0) || !series.value.is_sound(&series.name) {
            return;
        }
        let labels: Vec<(&str, &str)> =
            series.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match self.0.binary_search_by(|known| compare(known, &series.name, &labels)) {
            Ok(at) if self.0[at].value.is_like(&series.value) => self.0[at] = series,
            Ok(_) => {}
            Err(at) => _ = self.insert(at, series),
        }
    }

    fn insert(&mut self, at: usize, series: Series) -> Result<(), NotMeasured> {
        let around = self.0[at.saturating_sub(1)..].iter().take(2);
        if around.filter(|other| other.name == series.name).any(|other| !other.value.is_like(&series.value)) {
            return Err(NotMeasured::Kind);
        }
        if self.0.len() >= SERIES_MAX {
            return Err(NotMeasured::Full);
        }
        self.0.insert(at, series);
        Ok(())
    }
}

fn compare(series: &Series, name: &str, labels: &[(&str, &str)]) -> Ordering {
    let own = series.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    series.name.as_str().cmp(name).then_with(|| own.cmp(labels.iter().map(|(name, value)| (*name, *value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_adds_up() {
        let mut set = SeriesSet::default();
        for _ in 0..3 {
            set.measure("rows", &[("kind", "a")], Measure::Add(2.0)).unwrap();
            set.measure("rows", &[], Measure::Add(0.5)).unwrap();
        }
        set.measure("level", &[], Measure::Set(7.0)).unwrap();
        set.measure("level", &[], Measure::Set(-1.5)).unwrap();
        let values: Vec<_> = set
            .all()
            .iter()
            .map(|series| (series.name.as_str(), series.labels.len(), &series.value))
            .collect();
        assert_eq!(
            values,
            [
                ("level", 0, &Value::Gauge(-1.5)),
                ("rows", 0, &Value::Counter(1.5)),
                ("rows", 1, &Value::Counter(6.0))
            ]
        );
    }

    #[test]
    fn a_histogram_counts_up_to_and_with_its_bounds() {
        let mut set = SeriesSet::default();
        for seen in [0.0, 0.001, 0.0011, 5.0, 1e12] {
            set.measure("size", &[], Measure::Record(seen)).unwrap();
        }
        let Value::Histogram { counts, sum } = &set.all()[0].value else { panic!("no histogram") };
        assert_eq!((counts.len(), *sum), (38, 1e12 + 5.0021));
        let filled: Vec<(usize, u64)> =
            counts.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0, 2), (1, 1), (11, 1), (37, 1)]);
        let seconds = bounds("x_seconds");
        assert_eq!((seconds.len(), seconds[0], seconds[1].to_string()), (24, 0.00001, "0.00002".to_owned()));
        assert!(bounds("x").is_sorted() && seconds.is_sorted());
    }

    #[test]
    fn another_kind_too_many_and_too_much_are_refused() {
        let mut set = SeriesSet::default();
        set.measure("a", &[], Measure::Add(1.0)).unwrap();
        assert_eq!(set.measure("a", &[], Measure::Set(1.0)), Err(NotMeasured::Kind));
        assert_eq!(set.measure("a", &[("x", "y")], Measure::Record(1.0)), Err(NotMeasured::Kind));
        assert_eq!(set.measure("a", &[], Measure::Add(f64::MAX)), Ok(()));
        assert_eq!(set.measure("a", &[], Measure::Add(f64::MAX)), Err(NotMeasured::Range));
        for number in 1..SERIES_MAX {
            set.measure("a", &[("n", &number.to_string())], Measure::Add(1.0)).unwrap();
        }
        assert_eq!(set.measure("b", &[], Measure::Set(1.0)), Err(NotMeasured::Full));
        assert_eq!(set.measure("a", &[("n", "1")], Measure::Add(1.0)), Ok(()));
        assert_eq!(set.all().len(), SERIES_MAX);
    }

    #[test]
    fn what_another_says_is_looked_at() {
        let series = |name: &str, labels: &[&str], value| Series {
            name: name.to_owned(),
            labels: labels.iter().map(|name| ((*name).to_owned(), String::new())).collect(),
            value,
        };
        let mut set = SeriesSet::default();
        set.replace(series("a", &["x"], Value::Counter(1.0)));
        set.replace(series("a", &["x"], Value::Counter(3.0)));
        let good = set.clone();
        assert_eq!(good.all()[0].value, Value::Counter(3.0));
        for bad in [
            series("a", &["x"], Value::Gauge(1.0)),
            series("a", &["y"], Value::Gauge(1.0)),
            series("b", &["y", "x"], Value::Gauge(1.0)),
            series("b", &["x", "x"], Value::Gauge(1.0)),
            series("b", &[], Value::Gauge(f64::NAN)),
            series("b", &[], Value::Counter(-1.0)),
            series("b", &[], Value::Histogram { counts: vec![1; 3], sum: 1.0 }),
        ] {
            set.replace(bad.clone());
            assert_eq!(set, good, "{bad:?}");
        }
    }
}
