//! `[deployment.resources]`.

use super::node::NodeValue;
use super::problems::Problems;
use super::table::{Field, Table};
use crate::limits::{REPLICA_MEMORY_MAX, REPLICA_MEMORY_MIN};
use crate::spec::{Amount, ResourcesSpec};

pub(super) fn resources(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<ResourcesSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let cpus = table.take("cpus").and_then(|field| cpus(&field, problems));
    let range = REPLICA_MEMORY_MIN..=REPLICA_MEMORY_MAX;
    let memory = table.has("memory").then(|| table.size("memory", range, REPLICA_MEMORY_MAX, problems));
    let gpus = table.take("gpus").and_then(|field| gpus(&field, problems));
    table.finish(problems);
    Some(ResourcesSpec { cpus, memory, gpus })
}

fn cpus(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<Amount> {
    let amount = amount(field, problems)?;
    if amount == Amount::ZERO {
        field.refuse(problems, "no replica runs without CPUs; give more than 0, or leave it out");
    }
    Some(amount)
}

fn gpus(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<Amount> {
    let amount = amount(field, problems)?;
    if amount > Amount::ONE && amount.as_whole().is_none() {
        let message = format!("{amount} is neither a part of one GPU nor a whole number of them");
        field.refuse(problems, message);
    }
    Some(amount)
}

fn amount(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<Amount> {
    let NodeValue::Number(number) = &field.node.value else {
        field.expected(problems, "a number such as 0.5 or 2");
        return None;
    };
    let amount = number.as_f64().and_then(Amount::from_f64);
    if amount.is_none() {
        let most = Amount::MAX;
        let allowed = format!("give 0 to {most}, with three decimals at most");
        field.refuse(problems, format!("{number} is no amount of these; {allowed}"));
    }
    amount
}
