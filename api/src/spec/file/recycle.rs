//! `[deployment.recycle]`.

use super::problems::Problems;
use super::table::{Field, Table, whole_of};
use crate::limits::{DURATION_MAX, DURATION_MIN};
use crate::spec::RecycleSpec;

/// No replica could even start in less.
const MEMORY_MIN: u64 = 1 << 20;
/// More than any machine has.
const MEMORY_MAX: u64 = 1 << 50;

pub(super) fn recycle(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<RecycleSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let max_requests = table.take("max_requests");
    let max_requests = max_requests.and_then(|field| whole_of(&field, &(1..=u64::MAX), problems));
    let max_memory = table
        .has("max_memory")
        .then(|| table.size("max_memory", MEMORY_MIN..=MEMORY_MAX, MEMORY_MAX, problems));
    let max_age = table.duration("max_age", DURATION_MIN..=DURATION_MAX, problems);
    table.finish(problems);
    Some(RecycleSpec { max_requests, max_memory, max_age })
}
