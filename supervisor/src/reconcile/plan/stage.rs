//! How far a new version may go for now: so many replicas while it is tried on a part of the requests, or while the update
//! is paused.

use crate::desired::Wanted;
use crate::reconcile::deployment::{Deployment, Outcome, RolloutKind};

/// A halt on the way from the old to the new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// Replicas of the new version, at most.
    pub(super) new: u32,
    /// Replicas of others that there are to be meanwhile.
    pub(super) old: u32,
    /// Why it goes no further; one sentence.
    pub(super) why: String,
}

/// Numbers that a stage follows from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// Replicas wanted.
    pub(super) number: u32,
    /// There may be so many fewer.
    pub(super) down_max: u32,
    /// There may be so many more.
    pub(super) surge: u32,
    /// There are of the new version.
    pub(super) new: u32,
    /// There are of others.
    pub(super) old: u32,
}

/// Where the update of a deployment halts; `None`: it goes on.
pub(super) fn stage(wanted: &Wanted, deployment: &Deployment, numbers: Numbers) -> Option<Stage> {
    let rolling =
        deployment.rollout.kind == RolloutKind::Update && deployment.rollout.outcome == Outcome::Progressing;
    let before = wanted.before.as_deref().filter(|before| before.template != wanted.template)?;
    if !rolling {
        return None;
    }
    if wanted.paused {
        let why = format!("paused; `decurion rollout resume {}` goes on", wanted.spec.name);
        return Some(Stage { why, ..pause(numbers) });
    }
    if !deployment.is_trying() {
        return None;
    }
    let spec = wanted.spec.rollout.canary.as_ref()?;
    let (new, old) = canary_numbers(spec.weight, numbers)?;
    let why = format!("version {} is tried before {} goes", wanted.version, before.version);
    Some(Stage { new, old, why })
}

/// Replicas of a canary, and beside it. `None`: there is no room for both.
fn canary_numbers(weight: u8, numbers: Numbers) -> Option<(u32, u32)> {
    let Numbers { number, down_max, surge, .. } = numbers;
    let share = (u64::from(number) * u64::from(weight)).div_ceil(100);
    let most = if surge > 0 { surge } else { down_max };
    let new = u32::try_from(share).unwrap_or(number).clamp(1, most.max(1));
    let old = number.saturating_sub(new.saturating_sub(surge));
    (old > 0).then_some((new, old))
}

/// As many as there are, brought to what is wanted.
fn pause(numbers: Numbers) -> Stage {
    let Numbers { number, surge, new, old, .. } = numbers;
    let total = new + old;
    let (new, old) = if total < number {
        (new, number - new)
    } else if total > number + surge {
        (new.min(number), number.saturating_sub(new))
    } else {
        (new, old)
    };
    Stage { new, old, why: String::new() }
}

/// With how many replicas a new version is tried beside the old one. `None`: there is no room for both.
pub(crate) fn canary_replicas(weight: u8, number: u32, (down_max, surge): (u32, u32)) -> Option<u32> {
    canary_numbers(weight, Numbers { number, down_max, surge, new: 0, old: number }).map(|(new, _)| new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(number: u32, down_max: u32, surge: u32) -> Numbers {
        Numbers { number, down_max, surge, new: 0, old: number }
    }

    #[test]
    fn a_canary_has_its_share_of_replicas_and_takes_nothing_where_a_surge_is_allowed() {
        assert_eq!(canary_numbers(5, numbers(5, 1, 1)), Some((1, 5)));
        assert_eq!(canary_numbers(20, numbers(25, 5, 5)), Some((5, 25)));
        assert_eq!(canary_numbers(50, numbers(10, 2, 2)), Some((2, 10)));
        assert_eq!(canary_numbers(5, numbers(1, 0, 1)), Some((1, 1)));
    }

    #[test]
    fn without_a_surge_it_stands_in_the_place_of_others() {
        assert_eq!(canary_numbers(10, numbers(5, 1, 0)), Some((1, 4)));
        assert_eq!(canary_numbers(40, numbers(10, 2, 0)), Some((2, 8)));
        assert_eq!(canary_numbers(10, numbers(1, 1, 0)), None);
    }

    #[test]
    fn a_pause_keeps_what_there_is_and_what_is_missing_is_of_the_old_version() {
        let paused = |new, old, number, surge| {
            let stage = pause(Numbers { number, down_max: 1, surge, new, old });
            (stage.new, stage.old)
        };
        assert_eq!(paused(2, 4, 5, 1), (2, 4));
        assert_eq!(paused(2, 2, 5, 1), (2, 3));
        assert_eq!(paused(2, 4, 3, 1), (2, 1));
        assert_eq!(paused(4, 2, 3, 1), (3, 0));
    }
}
