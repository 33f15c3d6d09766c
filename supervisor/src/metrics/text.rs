//! The Prometheus text format, version 0.0.4, as far as we write it. Knows no metric of ours.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use decurion_api::Histogram;

/// Text that grows family by family.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
}

/// Names and values of a sample's labels.
pub type Labels<'l> = [(&'l str, &'l str)];

/// What `Content-Type` says of it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One family, of which samples are written next. Two of the same name would be no valid text.
#[derive(Debug)]
pub struct Family<'t, 'n> {
    out: &'t mut String,
    name: &'n str,
}

impl Text {
    /// Begins a family of counters; its name ends in `_total`.
    pub fn counter<'n>(&mut self, name: &'n str, help: &str) -> Family<'_, 'n> {
        self.family(name, "counter", help)
    }

    /// Begins a family of gauges.
    pub fn gauge<'n>(&mut self, name: &'n str, help: &str) -> Family<'_, 'n> {
        self.family(name, "gauge", help)
    }

    /// Begins a family of histograms.
    pub fn histogram<'n>(&mut self, name: &'n str, help: &str) -> Family<'_, 'n> {
        self.family(name, "histogram", help)
    }

    fn family<'n>(&mut self, name: &'n str, kind: &str, help: &str) -> Family<'_, 'n> {
        let _ = write!(self.out, "# HELP {name} ");
        escape(help, false, &mut self.out);
        let _ = writeln!(self.out, "\n# TYPE {name} {kind}");
        Family { out: &mut self.out, name }
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }
}

impl Family<'_, '_> {
    /// One sample.
    pub fn sample(&mut self, labels: &Labels<'_>, value: impl Display) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    /// A sample of a duration, in seconds.
    pub fn seconds(&mut self, labels: &Labels<'_>, value: Duration) -> &mut Self {
        self.sample(labels, value.as_secs_f64())
    }

    /// All samples of one histogram: its buckets, its sum in seconds and its count.
    pub fn durations(&mut self, labels: &Labels<'_>, histogram: &Histogram) -> &mut Self {
        let buckets =
            histogram.cumulative().map(|(bound, count)| (bound.map(|bound| bound.as_secs_f64()), count));
        self.buckets(labels, buckets, histogram.sum().as_secs_f64(), histogram.count())
    }

    /// The same from numbers; `None`: the bucket of all.
    pub fn buckets(
        &mut self,
        labels: &Labels<'_>,
        buckets: impl Iterator<Item = (Option<f64>, u64)>,
        sum: f64,
        count: u64,
    ) -> &mut Self {
        for (bound, count) in buckets {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            self.line("_bucket", labels, Some(&bound), count);
        }
        self.line("_sum", labels, None, Number(sum));
        self.line("_count", labels, None, count);
        self
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, bound: Option<&str>, value: impl Display) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(self.out, "{before}{name}=\"");
            escape(value, true, self.out);
            self.out.push('"');
            before = ',';
        }
        let end = if before == '{' { "" } else { "}" };
        let _ = writeln!(self.out, "{end} {value}");
    }
}

/// A number as the format writes it.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            number if number.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            number => Display::fmt(&number, f),
        }
    }
}

/// Backslashes and line ends everywhere, and quotes where they would end a value.
fn escape(text: &str, quotes: bool, out: &mut String) {
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            letter => out.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_help_its_type_and_its_samples() {
        let mut text = Text::default();
        text.counter("a_total", "What \\ is\ncounted.")
            .sample(&[], 1)
            .sample(&[("x", "a\"b\\c\nd"), ("y", "")], 2);
        text.gauge("b_seconds", "B")
            .seconds(&[], Duration::from_micros(1_500_010))
            .sample(&[], Number(f64::INFINITY));
        assert_eq!(
            text.finish(),
            "# HELP a_total What \\\\ is\\ncounted.\n# TYPE a_total counter\na_total 1\n\
             a_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 2\n\
             # HELP b_seconds B\n# TYPE b_seconds gauge\nb_seconds 1.50001\nb_seconds +Inf\n"
        );
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let mut histogram = Histogram::default();
        [1_000, 15_000, u64::MAX / 2].into_iter().for_each(|nanos| histogram.record_ns(nanos));
        let mut text = Text::default();
        text.histogram("h", "H").durations(&[("d", "x")], &histogram);
        let text = text.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[2..5],
            [
                "h_bucket{d=\"x\",le=\"0.00001\"} 1",
                "h_bucket{d=\"x\",le=\"0.00002\"} 2",
                "h_bucket{d=\"x\",le=\"0.00005\"} 2"
            ]
        );
        assert_eq!(lines[lines.len() - 3], "h_bucket{d=\"x\",le=\"+Inf\"} 3");
        assert!(lines[lines.len() - 2].starts_with("h_sum{d=\"x\"} 9223372036."));
        assert_eq!(lines[lines.len() - 1], "h_count{d=\"x\"} 3");
    }
}
