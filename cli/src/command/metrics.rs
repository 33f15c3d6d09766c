//! `metrics`: everything that is counted and measured, as it stands.

use decurion_client::admin::Admin;
use decurion_client::metrics::{Family, Sample, parse};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::output::{Output, Table, printable};

pub(super) fn metrics(
    filter: Option<&str>,
    raw: bool,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    let text = admin.metrics()?;
    if raw {
        output.raw(&text)?;
        return Ok(Exit::Done);
    }
    let mut families = parse(&text).map_err(|error| Failure::of("the metrics can't be read", &error))?;
    families.retain(|family| filter.is_none_or(|part| family.name.contains(part)));
    let samples =
        families.iter().flat_map(|family| family.samples.iter().map(move |sample| (family, sample)));
    if output.is_json() {
        let samples: Vec<Value> = samples.map(|(family, sample)| as_json(family, sample)).collect();
        output.json_list(&samples)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["METRIC", "VALUE", "LABELS"]);
    // Buckets are for programs: the table has their sum and count.
    for (_, sample) in samples.filter(|(_, sample)| !sample.name.ends_with("_bucket")) {
        let labels: Vec<String> = sample
            .labels
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", printable(value)))
            .collect();
        table.row(vec![
            sample.name.as_str().into(),
            sample.value.to_string().into(),
            labels.join(" ").into(),
        ]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

fn as_json(family: &Family, sample: &Sample) -> Value {
    json!({ "name": sample.name, "type": family.kind, "labels": sample.labels, "value": sample.value })
}
