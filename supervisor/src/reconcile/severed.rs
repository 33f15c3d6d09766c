//! Replicas that a caller with handles has cut off, for it says that they broke the rules of the data plane: when the two
//! are joined anew.
//!
//! A caller that is not the proxy is not trusted, and may lie about whom it calls: on its word nobody is killed, and nobody
//! else calls the replica less. The two get a new channel: the first time at once, then after a delay that grows up to a
//! bound, until both have kept the peace for a while. So a caller that never tires costs its callee a few channels a
//! minute, and calls to a callee that never tires still end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use decurion_api::ReplicaId;

use crate::reconcile::backoff::{DELAY_MAX, delay, failures_after};

/// See the module. One for each caller; at most one entry for each replica that it was joined with.
#[derive(Clone, Debug, Default)]
pub struct Severed {
    all: BTreeMap<ReplicaId, Cut>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    /// In a row.
    count: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// To be joined anew then.
    Apart(Instant),
    /// Joined since then.
    Joined(Instant),
}

impl Severed {
    /// The caller has cut the replica off. How long they stay apart; `None`: they are apart already.
    pub fn cut(&mut self, replica: &ReplicaId, now: Instant) -> Option<Duration> {
        let count = match self.all.get(replica) {
            Some(Cut { state: State::Apart(_), .. }) => return None,
            Some(Cut { state: State::Joined(since), count }) => {
                failures_after(*count, now.duration_since(*since))
            }
            None => failures_after(0, Duration::ZERO),
        };
        let apart = delay(count, DELAY_MAX);
        self.all.insert(replica.clone(), Cut { count, state: State::Apart(now + apart) });
        Some(apart)
    }

    /// They have a channel again.
    pub fn joined(&mut self, replica: &ReplicaId, now: Instant) {
        if let Some(cut) = self.all.get_mut(replica) {
            cut.state = State::Joined(now);
        }
    }

    /// Whether they are apart.
    #[must_use]
    pub fn is_apart(&self, replica: &ReplicaId) -> bool {
        self.all.get(replica).is_some_and(|cut| matches!(cut.state, State::Apart(_)))
    }

    /// Who is apart, and until when.
    pub fn apart(&self) -> impl Iterator<Item = (&ReplicaId, Instant)> {
        self.all.iter().filter_map(|(replica, cut)| match cut.state {
            State::Apart(until) => Some((replica, until)),
            State::Joined(_) => None,
        })
    }

    /// The replica is gone.
    pub fn forget(&mut self, replica: &ReplicaId) {
        self.all.remove(replica);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::backoff::GOOD_LIFE;
    use crate::reconcile::world::moment;

    fn replica() -> ReplicaId {
        ReplicaId::new("a-1").unwrap()
    }

    #[test]
    fn the_first_time_is_mended_at_once_and_then_ever_later_up_to_a_bound() {
        let (mut severed, mut now) = (Severed::default(), moment());
        let mut apart = Vec::new();
        for _ in 0..12 {
            let delay = severed.cut(&replica(), now).expect("they were joined");
            assert_eq!(severed.apart().collect::<Vec<_>>(), [(&replica(), now + delay)]);
            apart.push(delay.as_millis());
            now += delay;
            severed.joined(&replica(), now);
            assert!(!severed.is_apart(&replica()));
        }
        assert_eq!(apart[..4], [0, 100, 200, 400]);
        assert_eq!(apart[10..], [10_000, 10_000]);
        now += GOOD_LIFE;
        assert_eq!(severed.cut(&replica(), now), Some(Duration::ZERO), "they have kept the peace");
    }

    #[test]
    fn who_is_apart_is_not_cut_off_again() {
        let (mut severed, now) = (Severed::default(), moment());
        assert!(severed.cut(&replica(), now).is_some());
        assert_eq!(severed.cut(&replica(), now), None);
        severed.forget(&replica());
        assert!(!severed.is_apart(&replica()));
    }
}
