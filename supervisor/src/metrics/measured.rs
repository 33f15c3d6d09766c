//! What libraries measure. A replica's word is hostile: names and values are looked at again, and what does not fit is
//! left out. It is kept as long as the replica's process is.

use std::collections::BTreeMap;

use decurion_abi::metric;
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::metrics::{Series, SeriesSet, Value, bounds};

use crate::metrics::text::{Family, Number, Text};

/// The series of one replica, as it told them last.
#[derive(Clone, Debug, Default)]
pub struct Measured(SeriesSet);

impl Measured {
    /// Takes a report.
    pub fn take(&mut self, series: Vec<Series>) {
        for series in series {
            let labels = &series.labels;
            let fits = metric::is_name(kind(&series.value), &series.name)
                && labels.len() <= metric::LABELS_MAX
                && labels.iter().all(|(name, value)| metric::is_label(name, value));
            if fits {
                self.0.replace(series);
            }
        }
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.all().is_empty()
    }
}

fn kind(value: &Value) -> u32 {
    match value {
        Value::Counter(_) => metric::COUNTER,
        Value::Gauge(_) => metric::GAUGE,
        Value::Histogram { .. } => metric::HISTOGRAM,
    }
}

/// A series, and whose it is.
type Row<'s> = (&'s (DeploymentName, ReplicaId), &'s Series);

/// Writes all, family by family. Where replicas use one name for several kinds, the first one's kind stands.
pub(super) fn write(
    text: &mut Text,
    applications: &BTreeMap<&DeploymentName, &str>,
    all: &BTreeMap<(DeploymentName, ReplicaId), Measured>,
) {
    let mut families: BTreeMap<&str, Vec<Row<'_>>> = BTreeMap::new();
    for (replica, measured) in all {
        for series in measured.0.all() {
            families.entry(&series.name).or_default().push((replica, series));
        }
    }
    for (name, rows) in families {
        let Some((_, first)) = rows.first() else { continue };
        let own = metric::OWN.iter().find(|own| own.name == name);
        let help = own.map_or("Measured by a deployment's library.", |own| own.help);
        let kind_of_all = kind(&first.value);
        let shown = if kind_of_all == metric::COUNTER { format!("{name}_total") } else { name.to_owned() };
        let mut family = match kind_of_all {
            metric::COUNTER => text.counter(&shown, help),
            metric::GAUGE => text.gauge(&shown, help),
            _ => text.histogram(&shown, help),
        };
        for (replica, series) in rows.into_iter().filter(|(_, series)| kind(&series.value) == kind_of_all) {
            let application = applications.get(&replica.0).copied().unwrap_or_default();
            write_one(&mut family, application, replica, series);
        }
    }
}

fn write_one(
    family: &mut Family<'_, '_>,
    application: &str,
    (deployment, replica): &(DeploymentName, ReplicaId),
    series: &Series,
) {
    let mut labels = vec![
        ("application", application),
        ("deployment", deployment.as_str()),
        ("replica", replica.as_str()),
    ];
    labels.extend(series.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    match &series.value {
        Value::Counter(value) | Value::Gauge(value) => _ = family.sample(&labels, Number(*value)),
        Value::Histogram { counts, sum } => {
            let bounds = bounds(&series.name).into_iter().map(Some).chain([None]);
            let buckets: Vec<(Option<f64>, u64)> = bounds
                .zip(counts)
                .scan(0u64, |before, (bound, count)| {
                    *before = before.saturating_add(*count);
                    Some((bound, *before))
                })
                .collect();
            let count = buckets.last().map_or(0, |(_, count)| *count);
            family.buckets(&labels, buckets.into_iter(), *sum, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use decurion_ipc::metrics::Measure;

    use super::*;

    type Told<'t> = (&'t str, &'t [(&'t str, &'t str)], Measure);

    fn told(measures: &[Told<'_>]) -> Measured {
        let mut set = SeriesSet::default();
        for (name, labels, measure) in measures {
            set.measure(name, labels, *measure).unwrap();
        }
        let mut measured = Measured::default();
        measured.take(set.all().to_vec());
        measured
    }

    fn text(all: Vec<Measured>) -> String {
        let name = DeploymentName::new("d").unwrap();
        let ids = (0..).map(|number| (name.clone(), ReplicaId::numbered(&name, number)));
        let mut text = Text::default();
        write(&mut text, &BTreeMap::from([(&name, "app")]), &ids.zip(all).collect());
        text.finish()
    }

    #[test]
    fn it_is_what_a_collector_reads() {
        let rows: &[(&str, &str)] = &[("kind", "a \"b\"\n")];
        let one = told(&[
            ("rows", rows, Measure::Add(3.0)),
            ("rows", rows, Measure::Add(4.0)),
            ("size", &[], Measure::Record(7.0)),
            ("took_seconds", &[], Measure::Record(0.5)),
        ]);
        let other = told(&[("rows", &[], Measure::Add(1.0)), ("level", &[], Measure::Set(-2.5))]);
        let families = decurion_client::metrics::parse(&text(vec![one, other])).unwrap();
        let of = |name: &str| families.iter().find(|family| family.name == name).unwrap();
        let values: Vec<f64> = of("rows_total").samples.iter().map(|sample| sample.value).collect();
        assert_eq!(values, [7.0, 1.0]);
        assert!(of("rows_total").samples[0].has(&[
            ("kind", "a \"b\"\n"),
            ("deployment", "d"),
            ("application", "app")
        ]));
        assert!((of("level").samples[0].value - -2.5).abs() < f64::EPSILON);
        assert_eq!(of("size").kind, "histogram");
        assert_eq!((of("size").samples.len(), of("took_seconds").samples.len()), (40, 27));
    }

    #[test]
    fn one_name_is_of_one_kind_over_all_replicas() {
        let one = told(&[("x", &[], Measure::Set(1.0))]);
        let other = told(&[("x", &[], Measure::Record(1.0))]);
        let families = decurion_client::metrics::parse(&text(vec![one, other])).unwrap();
        assert_eq!((families.len(), families[0].samples.len()), (1, 1));
    }

    #[test]
    fn what_no_library_of_ours_would_say_is_left_out() {
        let series = |name: &str, label: &str, value: &str| Series {
            name: name.to_owned(),
            labels: vec![(label.to_owned(), value.to_owned())],
            value: Value::Gauge(1.0),
        };
        let mut measured = Measured::default();
        measured.take(vec![
            series("decurion_revision", "a", ""),
            series("a b", "a", ""),
            series("a\n# TYPE x counter\nx", "a", ""),
            series("a", "deployment", "other"),
            series("a", "b\"", ""),
            series("a", "b", &"x".repeat(metric::VALUE_MAX + 1)),
        ]);
        assert!(measured.is_empty());
    }
}
