//! Whether a replica has done its part.

use std::time::Instant;

use decurion_api::spec::RecycleSpec;

use crate::reconcile::backoff::GOOD_LIFE;
use crate::reconcile::replica::Replica;

/// What is to become of a replica that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wear {
    /// It stays; it is to be looked at again then, if nothing happens before.
    Fit(Option<Instant>),
    /// It is to be replaced: why.
    Worn(String),
}

/// Looks at one that serves since then. One whose memory is beyond the bound from the start would be replaced for ever:
/// each has at least the life that shows a version good.
pub(super) fn wear(spec: &RecycleSpec, replica: &Replica, since: Instant, now: Instant) -> Wear {
    let board = replica.board;
    if let Some(most) = spec.max_requests.filter(|most| board.processed >= *most) {
        return Wear::Worn(format!("recycled after {} requests (max_requests = {most})", board.processed));
    }
    let oldest = spec.max_age.map(|age| since + age);
    if let Some(age) = spec.max_age.filter(|age| since + *age <= now) {
        return Wear::Worn(format!("recycled after {} s (max_age)", age.as_secs_f64()));
    }
    match spec.max_memory.filter(|most| board.resident > *most) {
        Some(most) if since + GOOD_LIFE <= now => {
            Wear::Worn(format!("recycled with {} bytes of memory (max_memory = {most})", board.resident))
        }
        Some(_) => Wear::Fit(Some(oldest.map_or(since + GOOD_LIFE, |at| at.min(since + GOOD_LIFE)))),
        None => Wear::Fit(oldest),
    }
}

#[cfg(test)]
mod in_world;
