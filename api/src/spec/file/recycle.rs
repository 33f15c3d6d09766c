//! `[deployment.recycle]`.

use super::problems::Problems;
use super::table::{Field, Table, whole_of};
use crate::limits::{DURATION_MAX, DURATION_MIN, REPLICA_MEMORY_MAX, REPLICA_MEMORY_MIN};
use crate::spec::RecycleSpec;

pub(super) fn recycle(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<RecycleSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let max_requests = table.take("max_requests");
    let max_requests = max_requests.and_then(|field| whole_of(&field, &(1..=u64::MAX), problems));
    let max_memory = table.has("max_memory").then(|| {
        table.size("max_memory", REPLICA_MEMORY_MIN..=REPLICA_MEMORY_MAX, REPLICA_MEMORY_MAX, problems)
    });
    let max_age = table.duration("max_age", DURATION_MIN..=DURATION_MAX, problems);
    table.finish(problems);
    Some(RecycleSpec { max_requests, max_memory, max_age })
}
