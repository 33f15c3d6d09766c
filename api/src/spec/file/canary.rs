//! `[deployment.rollout.canary]`.

use std::time::Duration;

use super::node::NodeValue;
use super::problems::Problems;
use super::table::{Field, Table};
use super::values;
use crate::limits::DURATION_MAX;
use crate::spec::{CANARY_DURATION_DEFAULT, CANARY_ERROR_RATE_DEFAULT, CanarySpec, Share};

pub(super) fn canary(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<CanarySpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let p = problems;
    let weight = match table.take("weight") {
        Some(field) => weight(&field, p),
        None => {
            let message = "missing; it is the share of requests that the new version gets: weight = \"5%\"";
            p.add(table.at, &table.path_of("weight"), message.to_owned());
            None
        }
    };
    let times = Duration::ZERO..=DURATION_MAX;
    let duration = table.duration("duration", times.clone(), p).unwrap_or(CANARY_DURATION_DEFAULT);
    let max_error_rate =
        table.take("max_error_rate").map_or(CANARY_ERROR_RATE_DEFAULT, |field| rate(&field, p));
    let max_p99 = table.duration("max_p99", times, p);
    table.finish(p);
    Some(CanarySpec { weight: weight?, duration, max_error_rate, max_p99 })
}

fn weight(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<u8> {
    let NodeValue::Text(text) = &field.node.value else {
        field.expected(problems, "a percentage such as \"5%\"");
        return None;
    };
    match values::parse_percent(text) {
        Ok(Share::Percent(percent @ 1..=99)) => Some(percent),
        _ => {
            field
                .refuse(problems, format!("'{text}' is no weight; write \"1%\" to \"99%\" in whole percent"));
            None
        }
    }
}

/// `"0.5%"`, or a number from 0 to 1.
fn rate(field: &Field<'_>, problems: &mut Problems<'_>) -> f64 {
    let share = match &field.node.value {
        NodeValue::Text(text) => {
            text.strip_suffix('%').and_then(|it| it.trim().parse::<f64>().ok()).map(|it| it / 100.0)
        }
        NodeValue::Number(number) => number.as_f64(),
        _ => None,
    };
    match share {
        Some(share) if (0.0..=1.0).contains(&share) => share,
        _ => {
            field.refuse(problems, "takes a share of the answers: \"0.5%\", or a number from 0 to 1");
            CANARY_ERROR_RATE_DEFAULT
        }
    }
}
