//! `num_replicas` and `[deployment.autoscaling_config]`: a number, or the bounds between which the load decides.

use std::time::Duration;

use super::node::NodeValue;
use super::problems::Problems;
use super::table::{Field, Table, whole_of};
use crate::limits::{DURATION_MAX, DURATION_MIN, REPLICAS_MAX};
use crate::spec::AutoscalingSpec;

/// The number to begin with, and how it changes where it does.
pub(super) fn replicas(table: &mut Table<'_>, problems: &mut Problems<'_>) -> (u32, Option<AutoscalingSpec>) {
    let number = table.take("num_replicas");
    let config = table.take("autoscaling_config");
    let is_auto = number.as_ref().is_some_and(|it| it.node.value == NodeValue::Text("auto".to_owned()));
    match (number, config) {
        (None, None) => (1, None),
        (Some(number), None) if !is_auto => {
            let found = whole_of(&number, &(1..=REPLICAS_MAX.into()), problems);
            (found.and_then(|number| u32::try_from(number).ok()).unwrap_or(1), None)
        }
        (Some(number), Some(_)) if !is_auto => {
            let message = "is given beside autoscaling_config, which decides it; keep one of the two, or write \
                           num_replicas = \"auto\"";
            number.refuse(problems, message);
            (1, None)
        }
        (_, config) => {
            let preset = if is_auto { AutoscalingSpec::auto() } else { AutoscalingSpec::default() };
            let spec = match config {
                Some(field) => autoscaling(&field, preset, problems).unwrap_or_default(),
                None => preset,
            };
            (spec.initial(), Some(spec))
        }
    }
}

fn autoscaling(
    field: &Field<'_>,
    preset: AutoscalingSpec,
    problems: &mut Problems<'_>,
) -> Option<AutoscalingSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let (p, most) = (problems, u64::from(REPLICAS_MAX));
    let any = Duration::ZERO..=DURATION_MAX;
    let spec = AutoscalingSpec {
        min_replicas: table.whole("min_replicas", 0..=most, preset.min_replicas, p),
        max_replicas: table.whole("max_replicas", 1..=most, preset.max_replicas, p),
        initial_replicas: table
            .take("initial_replicas")
            .and_then(|field| whole_of(&field, &(0..=most), p))
            .and_then(|number| u32::try_from(number).ok()),
        target_ongoing_requests: table.positive("target_ongoing_requests", preset.target_ongoing_requests, p),
        upscale_delay: table.duration("upscale_delay", any.clone(), p).unwrap_or(preset.upscale_delay),
        downscale_delay: table.duration("downscale_delay", any.clone(), p).unwrap_or(preset.downscale_delay),
        downscale_to_zero_delay: table.duration("downscale_to_zero_delay", any.clone(), p),
        look_back_period: table.duration("look_back_period", any, p).unwrap_or(preset.look_back_period),
        metrics_interval: table
            .duration("metrics_interval", DURATION_MIN..=DURATION_MAX, p)
            .unwrap_or(preset.metrics_interval),
        upscaling_factor: table.positive("upscaling_factor", preset.upscaling_factor, p),
        downscaling_factor: table.positive("downscaling_factor", preset.downscaling_factor, p),
    };
    table.finish(p);
    let (min, max, initial) = (spec.min_replicas, spec.max_replicas, spec.initial());
    if min > max {
        field.refuse(p, format!("min_replicas is {min} and max_replicas {max}; the least is above the most"));
    } else if !(min..=max).contains(&initial) {
        field.refuse(p, format!("initial_replicas is {initial}; give {min} to {max}"));
    }
    Some(spec)
}
