//! `top`: what deployments are doing, from the difference of two looks at the metrics.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use decurion_client::admin::Admin;
use decurion_client::metrics::{Family, Sample, parse};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::{Output, Table, TableCell, Tone};
use crate::sys;

pub(super) fn top(interval: Duration, once: bool, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let live = !once && !output.is_json() && std::io::stdout().is_terminal();
    let mut before = look(admin)?;
    loop {
        sys::pause(interval);
        let after = look(admin)?;
        let rows = rows(&before, &after);
        if output.is_json() {
            output.json_list(&rows)?;
        } else if live {
            // Home, the new text, and what is left of the old one away.
            output.raw(&format!("\x1b[H\x1b[2J{}", table(&rows).render(output.is_coloured())))?;
        } else {
            output.table(&table(&rows))?;
        }
        if !live {
            return Ok(Exit::Done);
        }
        before = after;
    }
}

/// The metrics at an instant.
struct Look {
    at: std::time::Instant,
    families: BTreeMap<String, Family>,
}

/// One deployment; or one of our own processes, whose name has parentheses around it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Row {
    name: String,
    replicas: u64,
    requests_per_s: f64,
    errors_per_s: f64,
    p50_s: Option<f64>,
    p99_s: Option<f64>,
    ongoing: u64,
    queued: u64,
    cpu: f64,
    rss_bytes: u64,
}

fn look(admin: &Admin) -> Result<Look, Failure> {
    let at = sys::now();
    let families =
        parse(&admin.metrics()?).map_err(|error| Failure::of("the metrics can't be read", &error))?;
    Ok(Look { at, families: families.into_iter().map(|family| (family.name.clone(), family)).collect() })
}

impl Look {
    fn samples<'l>(
        &'l self,
        family: &str,
        labels: &'l [(&'l str, &'l str)],
    ) -> impl Iterator<Item = &'l Sample> {
        let samples = self.families.get(family).map(|family| family.samples.as_slice()).unwrap_or_default();
        samples.iter().filter(|sample| sample.has(labels))
    }

    fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(family, labels).map(|sample| sample.value).sum()
    }

    /// A histogram's cumulative buckets, over all versions.
    fn buckets(&self, deployment: &str) -> Vec<(f64, f64)> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.samples("decurion_http_request_duration_seconds", &[("deployment", deployment)]) {
            let bound = match sample.label("le") {
                "" => continue,
                "+Inf" => f64::INFINITY,
                bound => bound.parse().unwrap_or(f64::INFINITY),
            };
            match buckets.iter_mut().find(|(held, _)| *held == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets
    }
}

fn rows(before: &Look, after: &Look) -> Vec<Row> {
    let seconds = after.at.duration_since(before.at).as_secs_f64().max(1e-9);
    let names =
        after.samples("decurion_deployment_target_replicas", &[]).map(|sample| sample.label("deployment"));
    let mut rows: Vec<Row> = names.map(|name| deployment(name, before, after, seconds)).collect();
    for kind in ["proxy", "supervisor"] {
        let labels = [("process", kind)];
        rows.push(Row {
            name: format!("({kind})"),
            replicas: count(after.samples("decurion_process_resident_memory_bytes", &labels).count() as f64),
            cpu: cpu(before, after, &labels, seconds),
            rss_bytes: count(after.sum("decurion_process_resident_memory_bytes", &labels)),
            ..Row::default()
        });
    }
    rows
}

fn deployment(name: &str, before: &Look, after: &Look, seconds: f64) -> Row {
    let of = [("deployment", name)];
    let process = [("process", "replica"), ("deployment", name)];
    let requests = |look: &Look| look.sum("decurion_http_requests_total", &of);
    let errors = |look: &Look| -> f64 {
        let all = look.samples("decurion_http_requests_total", &of);
        all.filter(|sample| sample.label("status").starts_with('5')).map(|sample| sample.value).sum()
    };
    let replicas =
        |state| after.sum("decurion_deployment_replicas", &[("deployment", name), ("state", state)]);
    let earlier: BTreeMap<u64, f64> =
        before.buckets(name).into_iter().map(|(bound, count)| (bound.to_bits(), count)).collect();
    let new: Vec<(f64, f64)> = after
        .buckets(name)
        .into_iter()
        .map(|(bound, count)| (bound, count - earlier.get(&bound.to_bits()).copied().unwrap_or(0.0)))
        .collect();
    Row {
        name: name.to_owned(),
        replicas: count(replicas("RUNNING") + replicas("UPDATING")),
        requests_per_s: (requests(after) - requests(before)).max(0.0) / seconds,
        errors_per_s: (errors(after) - errors(before)).max(0.0) / seconds,
        p50_s: quantile(&new, 0.5),
        p99_s: quantile(&new, 0.99),
        ongoing: count(after.sum("decurion_replica_ongoing_requests", &of)),
        queued: count(after.sum("decurion_deployment_queued_requests", &of)),
        cpu: cpu(before, after, &process, seconds),
        rss_bytes: count(after.sum("decurion_process_resident_memory_bytes", &process)),
    }
}

/// CPUs in use, from the processes that were there before as well.
fn cpu(before: &Look, after: &Look, labels: &[(&str, &str)], seconds: f64) -> f64 {
    const FAMILY: &str = "decurion_process_cpu_seconds_total";
    let used = after.samples(FAMILY, labels).filter_map(|now| {
        let then = before.samples(FAMILY, labels).find(|then| then.labels == now.labels)?;
        Some((now.value - then.value).max(0.0))
    });
    used.sum::<f64>() / seconds
}

/// What a share of all is at most, interpolated within a bucket; `None`: there were none.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let rank = buckets.last().map(|(_, count)| count * share).filter(|rank| *rank > 0.0)?;
    let (mut lower, mut sum) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && *count > sum {
            let within = (rank - sum) / (count - sum);
            return Some(if bound.is_finite() { lower + (bound - lower) * within } else { lower });
        }
        (lower, sum) = (*bound, *count);
    }
    None
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn count(value: f64) -> u64 {
    value.max(0.0) as u64
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "NAME", "REPLICAS", "REQ/S", "ERR/S", "P50", "P99", "ONGOING", "QUEUED", "CPU", "MEMORY",
    ]);
    for row in rows {
        let served = !row.name.starts_with('(');
        let only = |text: String| -> TableCell { if served { text } else { String::new() }.into() };
        let tone = if row.errors_per_s > 0.0 { Tone::Bad } else { Tone::Plain };
        table.row(vec![
            row.name.as_str().into(),
            row.replicas.to_string().into(),
            only(format!("{:.1}", row.requests_per_s)),
            TableCell::toned(if served { format!("{:.1}", row.errors_per_s) } else { String::new() }, tone),
            only(latency(row.p50_s)),
            only(latency(row.p99_s)),
            only(row.ongoing.to_string()),
            only(row.queued.to_string()),
            format!("{:.0}%", row.cpu * 100.0).into(),
            format!("{:.1} MiB", row.rss_bytes as f64 / f64::from(1 << 20)).into(),
        ]);
    }
    table
}

fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, text: &str) -> Look {
        let families = parse(text).unwrap();
        let families = families.into_iter().map(|family| (family.name.clone(), family)).collect();
        Look { at: sys::now() + Duration::from_secs(seconds), families }
    }

    fn text(requests: u64, errors: u64, cpu: f64) -> String {
        let fast = requests / 2;
        let all = requests + errors;
        format!(
            "# HELP decurion_deployment_target_replicas T\n# TYPE decurion_deployment_target_replicas gauge\n\
             decurion_deployment_target_replicas{{deployment=\"a\"}} 2\n\
             # HELP decurion_http_requests_total R\n# TYPE decurion_http_requests_total counter\n\
             decurion_http_requests_total{{deployment=\"a\",version=\"1\",status=\"200\"}} {requests}\n\
             decurion_http_requests_total{{deployment=\"a\",version=\"1\",status=\"500\"}} {errors}\n\
             # HELP decurion_http_request_duration_seconds D\n\
             # TYPE decurion_http_request_duration_seconds histogram\n\
             decurion_http_request_duration_seconds_bucket{{deployment=\"a\",le=\"0.001\"}} {fast}\n\
             decurion_http_request_duration_seconds_bucket{{deployment=\"a\",le=\"0.01\"}} {all}\n\
             decurion_http_request_duration_seconds_bucket{{deployment=\"a\",le=\"+Inf\"}} {all}\n\
             decurion_http_request_duration_seconds_sum{{deployment=\"a\"}} 1\n\
             decurion_http_request_duration_seconds_count{{deployment=\"a\"}} {all}\n\
             # HELP decurion_process_cpu_seconds_total C\n# TYPE decurion_process_cpu_seconds_total counter\n\
             decurion_process_cpu_seconds_total{{process=\"replica\",deployment=\"a\",replica=\"a-1\"}} {cpu}\n"
        )
    }

    #[test]
    fn rates_are_differences_over_time() {
        let (before, after) = (at(0, &text(100, 0, 1.0)), at(2, &text(300, 20, 2.0)));
        let rows = rows(&before, &after);
        assert_eq!(
            rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
            ["a", "(proxy)", "(supervisor)"]
        );
        let near =
            |got: f64, wanted: f64| assert!((got - wanted).abs() < wanted * 0.01, "{got} for {wanted}");
        near(rows[0].requests_per_s, 110.0);
        near(rows[0].errors_per_s, 10.0);
        near(rows[0].cpu, 0.5);
        assert!((0.001..0.01).contains(&rows[0].p99_s.unwrap()));
        assert_eq!(rows[1].p50_s, None);
    }

    #[test]
    fn quantiles_lie_between_bounds() {
        let buckets = [(1.0, 10.0), (2.0, 20.0), (f64::INFINITY, 21.0)];
        assert_eq!(quantile(&buckets, 0.0), None);
        assert_eq!(quantile(&buckets[..2], 0.75), Some(1.5));
        assert_eq!(quantile(&buckets, 1.0), Some(2.0));
        assert_eq!(quantile(&[(1.0, 0.0)], 0.5), None);
    }

    #[test]
    fn a_table_has_a_line_for_each() {
        let row = Row { name: "a".to_owned(), p50_s: Some(0.00005), p99_s: Some(2.0), ..Row::default() };
        let text = table(&[row, Row { name: "(proxy)".to_owned(), ..Row::default() }]).render(false);
        assert!(text.contains("50 us") && text.contains("2.00 s"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
