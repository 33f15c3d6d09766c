//! Reads the Prometheus text format, strictly: what a collector would only shrug at is an error here.

use std::collections::{BTreeMap, BTreeSet};

/// One family.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it is.
    pub help: String,
    /// In order.
    pub samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The family's name, with `_bucket`, `_sum` or `_count` where it is of a histogram.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the metrics: {what}")]
pub struct MetricsError {
    /// From 1 on; 0: not one line alone.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Sample {
    /// The value of a label; empty where it has none.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Whether it has all of these labels.
    #[must_use]
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

/// The families of a text.
///
/// # Errors
/// [`MetricsError`] where it is not well formed, a family stands in two places, a sample twice, or a histogram does
/// not add up.
pub fn parse(text: &str) -> Result<Vec<Family>, MetricsError> {
    let mut families: Vec<Family> = Vec::new();
    let mut help: Option<(String, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let wrong = |what: String| MetricsError { line: at + 1, what };
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').unwrap_or((rest, ""));
            help = Some((name.to_owned(), unescape(words).map_err(wrong)?));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| wrong("a type is missing".to_owned()))?;
            let family = begin(name, kind, help.take(), &families).map_err(wrong)?;
            families.push(family);
        } else if !line.is_empty() && !line.starts_with('#') {
            let sample = sample(line).map_err(wrong)?;
            let family = families.last_mut().ok_or_else(|| wrong("a sample without a family".to_owned()))?;
            if !family.takes(&sample) {
                return Err(wrong(format!("{} is no sample of {}", sample.name, family.name)));
            }
            family.samples.push(sample);
        }
    }
    for family in &families {
        family.check().map_err(|what| MetricsError { line: 0, what: format!("{}: {what}", family.name) })?;
    }
    Ok(families)
}

fn begin(
    name: &str,
    kind: &str,
    help: Option<(String, String)>,
    families: &[Family],
) -> Result<Family, String> {
    let Some((_, help)) = help.filter(|(of, _)| of == name) else {
        return Err(format!("{name} has no help"));
    };
    if families.iter().any(|family| family.name == name) {
        return Err(format!("{name} stands in two places"));
    }
    if !is_name(name) || !matches!(kind, "counter" | "gauge" | "histogram") {
        return Err(format!("{name} or {kind} is no name or type"));
    }
    if (kind == "counter") != name.ends_with("_total") {
        return Err(format!("{name}: counters, and no others, end in _total"));
    }
    Ok(Family { name: name.to_owned(), kind: kind.to_owned(), help, samples: Vec::new() })
}

impl Family {
    fn takes(&self, sample: &Sample) -> bool {
        match sample.name.strip_prefix(&self.name) {
            Some("") => self.kind != "histogram",
            Some("_bucket" | "_sum" | "_count") => self.kind == "histogram",
            _ => false,
        }
    }

    fn check(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            if !seen.insert((&sample.name, &sample.labels)) {
                return Err(format!("a sample stands there twice: {sample:?}"));
            }
            if self.kind != "gauge" && (sample.value.is_nan() || sample.value < 0.0) {
                return Err(format!("no count: {sample:?}"));
            }
        }
        if self.kind == "histogram" { self.check_histogram() } else { Ok(()) }
    }

    /// Buckets rise, end with all, and all is the count.
    fn check_histogram(&self) -> Result<(), String> {
        let mut by_labels: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            labels.remove("le");
            by_labels.entry(labels).or_default().push(sample);
        }
        for (labels, samples) in by_labels {
            let of = |suffix: &str| {
                samples
                    .iter()
                    .filter(move |sample| sample.name.ends_with(suffix))
                    .copied()
                    .collect::<Vec<_>>()
            };
            let (buckets, sums, counts) = (of("_bucket"), of("_sum"), of("_count"));
            let bounds: Option<Vec<f64>> = buckets.iter().map(|bucket| number(bucket.label("le"))).collect();
            let bounds = bounds.ok_or_else(|| format!("a bound is no number: {labels:?}"))?;
            let rising = bounds.windows(2).all(|pair| pair[0] < pair[1])
                && buckets.windows(2).all(|pair| pair[0].value <= pair[1].value);
            let whole = bounds.last() == Some(&f64::INFINITY);
            let total = buckets.last().map(|bucket| bucket.value);
            if !rising || !whole || sums.len() != 1 || counts.len() != 1 || total != Some(counts[0].value) {
                return Err(format!("the histogram of {labels:?} does not add up"));
            }
        }
        Ok(())
    }
}

fn sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("a value is missing")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        return Err(format!("'{name}' is no name"));
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            let length = quoted(after).ok_or("a value without an end")?;
            let value = unescape(&after[..length])?;
            if !is_name(label) || label.contains(':') || labels.insert(label.to_owned(), value).is_some() {
                return Err(format!("the label '{label}' is no name, or stands there twice"));
            }
            rest = &after[length + 1..];
            rest = match rest.strip_prefix(',') {
                Some(rest) => rest,
                None if rest.starts_with('}') => rest,
                None => return Err("labels are set apart by commas".to_owned()),
            };
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').and_then(number).ok_or_else(|| format!("'{rest}' is no value"))?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// Length of what stands before the quote that ends a value.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices()
        .find(|(_, letter)| {
            let ends = *letter == '"' && !escaped;
            escaped = *letter == '\\' && !escaped;
            ends
        })
        .map(|(at, _)| at)
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => out.push('\n'),
            Some(escaped @ ('\\' | '"')) => out.push(escaped),
            _ => return Err(format!("an unknown escape in '{text}'")),
        }
    }
    Ok(out)
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        text if text.starts_with(|first: char| first.is_ascii_digit() || first == '-') => text.parse().ok(),
        _ => None,
    }
}

fn is_name(name: &str) -> bool {
    let letter = |letter: char| letter.is_ascii_alphabetic() || letter == '_' || letter == ':';
    name.starts_with(letter) && name.chars().all(|next| letter(next) || next.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total A \\n b.\n# TYPE a_total counter\na_total{x=\"1\\\"\\\\,}\",y=\"\"} 2\na_total 3\n\
        # HELP h H\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nh_count 2\n";

    #[test]
    fn what_is_well_formed_is_read() {
        let families = parse(GOOD).unwrap();
        assert_eq!(families.len(), 2);
        assert_eq!(families[0].help, "A \n b.");
        assert_eq!(families[0].samples[0].label("x"), "1\"\\,}");
        assert_eq!((families[0].samples[0].value, families[0].samples[1].value), (2.0, 3.0));
        assert_eq!(families[1].samples.len(), 4);
    }

    #[test]
    fn what_is_not_is_refused() {
        let swaps = [
            ("# HELP a_total A \\n b.\n", ""),
            ("a_total 3", "a_total"),
            ("a_total 3", "a_total three"),
            ("a_total 3", "a_total -3"),
            ("a_total 3", "b_total 3"),
            ("a_total 3", "a_total{x=\"1\\\"\\\\,}\",y=\"\"} 5"),
            ("y=\"\"", "x=\"\""),
            ("y=\"\"", "y=\"\\x\""),
            ("a_total", "a"),
            ("h_count 2", "h_count 3"),
            ("h_bucket{le=\"+Inf\"} 2\n", ""),
            ("h_bucket{le=\"0.1\"} 1", "h_bucket{le=\"0.1\"} 3"),
            ("h_sum 0.5\n", ""),
            ("TYPE h histogram", "TYPE h summary"),
            ("TYPE h histogram", "TYPE a_total counter"),
        ];
        for (from, to) in swaps {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            assert!(parse(&text).is_err(), "{text}");
        }
    }
}
