//! Counters, gauges and histograms of a deployment, which the supervisor shows with its own, labelled with application,
//! deployment and replica.
//!
//! ```
//! use decurion::metrics;
//!
//! metrics::counter("rows").label("kind", "good").add(3);
//! metrics::gauge("cache_bytes").set(4096.0);
//! metrics::histogram("score").record(0.7);
//! ```
//!
//! A counter is shown as `rows_total`, whether or not it is written so. What the host does not take, a name that is
//! none or one series too many, it says in the replica's log, once; measuring never fails.

use std::time::Duration;

use decurion_abi::metric;

use crate::sys::host;

/// A counter, which only rises.
#[must_use]
pub fn counter(name: &str) -> Counter<'_> {
    Counter(Metric { name, labels: Vec::new() })
}

/// A gauge, which has the value that was set last.
#[must_use]
pub fn gauge(name: &str) -> Gauge<'_> {
    Gauge(Metric { name, labels: Vec::new() })
}

/// A histogram. Where its name ends in `_seconds`, its buckets go from 10 us to 10 min; else they are 1, 2 and 5 of each
/// power of ten from 0.001 to a thousand million.
#[must_use]
pub fn histogram(name: &str) -> Histogram<'_> {
    Histogram(Metric { name, labels: Vec::new() })
}

/// What is measured of batches and models, under names that no author may take.
pub(crate) mod own {
    use std::time::Duration;

    use super::{counter, gauge, histogram};
    use crate::batch::Cause;

    /// A batch of an entry runs, whose first member has waited for so long.
    #[expect(clippy::cast_precision_loss, reason = "a batch has far fewer members than 2^53")]
    pub(crate) fn batch_runs(method: &str, size: usize, cause: Cause, waited: Duration) {
        let cause = match cause {
            Cause::Size => "size",
            Cause::Time => "time",
        };
        counter("decurion_batches").label("cause", cause).label("method", method).add(1);
        histogram("decurion_batch_size").label("method", method).record(size as f64);
        histogram("decurion_batch_wait_seconds").label("method", method).record_duration(waited);
    }

    /// So many wait for a batch of an entry.
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    pub(crate) fn batch_waiting(method: &str, waiting: usize) {
        gauge("decurion_batch_waiting").label("method", method).set(waiting as f64);
    }

    /// A model was asked for.
    pub(crate) fn model_looked_up(held: bool) {
        let result = if held { "hit" } else { "miss" };
        counter("decurion_model_lookups").label("result", result).add(1);
    }

    /// A model was loaded, or could not be.
    pub(crate) fn model_loaded(loaded: bool, took: Duration) {
        let outcome = if loaded { "loaded" } else { "failed" };
        counter("decurion_model_loads").label("outcome", outcome).add(1);
        histogram("decurion_model_load_seconds").record_duration(took);
    }

    /// So many models went for another.
    pub(crate) fn models_evicted(count: usize) {
        if count > 0 {
            counter("decurion_model_evictions").add(count as u64);
        }
    }

    /// So many models are held or being loaded.
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    pub(crate) fn models_held(count: usize) {
        gauge("decurion_models_held").set(count as f64);
    }
}

#[derive(Clone, Debug)]
struct Metric<'m> {
    name: &'m str,
    labels: Vec<(&'m str, &'m str)>,
}

impl<'m> Metric<'m> {
    fn label(mut self, name: &'m str, value: &'m str) -> Self {
        self.labels.push((name, value));
        self
    }

    fn measure(&self, kind: u32, value: f64) {
        host::metric(kind, self.name, &self.labels, value);
    }
}

/// See [`counter`].
#[derive(Clone, Debug)]
pub struct Counter<'m>(Metric<'m>);

impl<'m> Counter<'m> {
    /// With a label. Few different values: each is a series of its own, and a replica has 256 at most.
    #[must_use]
    pub fn label(self, name: &'m str, value: &'m str) -> Self {
        Self(self.0.label(name, value))
    }

    /// Adds.
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 are out of reach")]
    pub fn add(&self, count: u64) {
        self.0.measure(metric::COUNTER, count as f64);
    }
}

/// See [`gauge`].
#[derive(Clone, Debug)]
pub struct Gauge<'m>(Metric<'m>);

impl<'m> Gauge<'m> {
    /// With a label, as [`Counter::label`].
    #[must_use]
    pub fn label(self, name: &'m str, value: &'m str) -> Self {
        Self(self.0.label(name, value))
    }

    /// Sets.
    pub fn set(&self, value: f64) {
        self.0.measure(metric::GAUGE, value);
    }
}

/// See [`histogram`].
#[derive(Clone, Debug)]
pub struct Histogram<'m>(Metric<'m>);

impl<'m> Histogram<'m> {
    /// With a label, as [`Counter::label`].
    #[must_use]
    pub fn label(self, name: &'m str, value: &'m str) -> Self {
        Self(self.0.label(name, value))
    }

    /// Records one observation, which is not below 0.
    pub fn record(&self, value: f64) {
        self.0.measure(metric::HISTOGRAM, value);
    }

    /// Records a duration in seconds; the name ends in `_seconds`.
    pub fn record_duration(&self, duration: Duration) {
        self.record(duration.as_secs_f64());
    }
}
