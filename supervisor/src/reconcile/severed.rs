//! Replicas that a caller with handles has no channel to any more: it has cut them off, for it says that they broke the
//! rules of the data plane, or they have cut it off, or joining has failed. When the two are joined anew.
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

#[derive(Clone, Debug)]
struct Cut {
    /// In a row.
    count: u32,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// To be joined anew then. With why, where that has not been told.
    Apart(Instant, Option<String>),
    /// Joined since then.
    Joined(Instant),
}

/// Who loses its channel is joined anew after this at the earliest: by then it is known whether the replica has died.
const LOST_MIN: Duration = Duration::from_millis(100);

impl Severed {
    /// The caller has cut the replica off. How long they stay apart; `None`: they are apart already.
    pub fn cut(&mut self, replica: &ReplicaId, now: Instant) -> Option<Duration> {
        self.part(replica, Duration::ZERO, None, now)
    }

    /// There is no channel between the two, and nobody is blamed; why is told when they are joined anew.
    pub fn lost(&mut self, replica: &ReplicaId, why: String, now: Instant) {
        self.part(replica, LOST_MIN, Some(why), now);
    }

    fn part(
        &mut self,
        replica: &ReplicaId,
        at_least: Duration,
        why: Option<String>,
        now: Instant,
    ) -> Option<Duration> {
        let count = match self.all.get(replica) {
            Some(Cut { state: State::Apart(..), .. }) => return None,
            Some(Cut { state: State::Joined(since), count }) => {
                failures_after(*count, now.duration_since(*since))
            }
            None => failures_after(0, Duration::ZERO),
        };
        let apart = delay(count, DELAY_MAX).max(at_least);
        self.all.insert(replica.clone(), Cut { count, state: State::Apart(now + apart, why) });
        Some(apart)
    }

    /// They have a channel again. Why they had none, where that has yet to be told.
    pub fn joined(&mut self, replica: &ReplicaId, now: Instant) -> Option<String> {
        let cut = self.all.get_mut(replica)?;
        match std::mem::replace(&mut cut.state, State::Joined(now)) {
            State::Apart(_, why) => why,
            State::Joined(_) => None,
        }
    }

    /// Whether they are apart.
    #[must_use]
    pub fn is_apart(&self, replica: &ReplicaId) -> bool {
        self.all.get(replica).is_some_and(|cut| matches!(cut.state, State::Apart(..)))
    }

    /// Who is apart, and until when.
    pub fn apart(&self) -> impl Iterator<Item = (&ReplicaId, Instant)> {
        self.all.iter().filter_map(|(replica, cut)| match cut.state {
            State::Apart(until, _) => Some((replica, until)),
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
            assert_eq!(severed.joined(&replica(), now), None, "told before");
            assert!(!severed.is_apart(&replica()));
        }
        assert_eq!(apart[..4], [0, 100, 200, 400]);
        assert_eq!(apart[10..], [10_000, 10_000]);
        now += GOOD_LIFE;
        assert_eq!(severed.cut(&replica(), now), Some(Duration::ZERO), "they have kept the peace");
    }

    #[test]
    fn who_lost_its_channel_is_joined_anew_a_little_later_and_then_it_is_told_why() {
        let (mut severed, mut now) = (Severed::default(), moment());
        let mut apart = Vec::new();
        for _ in 0..12 {
            severed.lost(&replica(), "it has hung up".to_owned(), now);
            severed.lost(&replica(), "said twice".to_owned(), now + LOST_MIN / 2);
            let until = severed.apart().next().expect("they are apart").1;
            apart.push((until - now).as_millis());
            now = until;
            assert_eq!(severed.joined(&replica(), now).as_deref(), Some("it has hung up"));
            assert_eq!(severed.joined(&replica(), now), None);
        }
        assert_eq!(apart[..5], [100, 100, 200, 400, 800]);
        assert_eq!(apart[11], 10_000);
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
