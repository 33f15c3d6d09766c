//! Bells that ring without end: how often one may wake a worker for nothing.
//!
//! A replica rings by an eventfd that it can write to as often as it likes. Whoever does so without ever having
//! something to say is not listened to any more until it is sent its next request; what it does say meanwhile is found
//! by the worker's tick.

use std::time::Duration;

use super::port::{Lane, Socket};
use super::{Engine, LEVEL_WARN, Notice};
use crate::balance::LaneIndex;
use crate::time::Nanos;

/// How often lanes with work in flight are looked at even if nobody rings.
pub const TICK: Duration = Duration::from_millis(50);

/// Rings without news in one tick, at most.
const RINGS_MAX: u32 = 1_000;

/// What is known of one lane's bell.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Rings since the last news, in the tick that ends then.
    rings: u32,
    tick_ends: Nanos,
    unheard: bool,
    told: bool,
}

impl Bell {
    /// It has rung: whether that was once too often.
    fn rung(&mut self, now: Nanos) -> bool {
        if now >= self.tick_ends {
            (self.rings, self.tick_ends) = (0, now.after(TICK));
        }
        self.rings += 1;
        let too_often = self.rings > RINGS_MAX && !self.unheard;
        self.unheard |= too_often;
        too_often
    }

    /// There was something to say.
    pub(super) fn news(&mut self) {
        self.rings = 0;
    }

    /// A request was sent: whether it is to be listened to again.
    pub(super) fn sent(&mut self) -> bool {
        self.rings = 0;
        std::mem::take(&mut self.unheard)
    }
}

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// A lane's bell has rung: whether it is not to be listened to any more, until
    /// [`take_heard_again`](Self::take_heard_again) names it.
    #[must_use]
    pub fn rung(&mut self, lane: LaneIndex, now: Nanos) -> bool {
        let Some(Some(entry)) = self.lanes.get_mut(lane.at()) else { return false };
        if entry.dead || !entry.bell.rung(now) {
            return false;
        }
        if !std::mem::replace(&mut entry.bell.told, true) {
            let replica = &entry.replica.id;
            let message = format!("replica {replica} rings without end and has nothing to say");
            self.notices.push(Notice::Log { level: LEVEL_WARN, message });
        }
        true
    }

    /// Lanes that are to be listened to again.
    pub fn take_heard_again(&mut self) -> Vec<LaneIndex> {
        std::mem::take(&mut self.heard_again)
    }

    /// A lane that can be used, to listen to.
    #[must_use]
    pub fn lane_at(&self, lane: LaneIndex) -> Option<&L> {
        self.lane(lane).map(|entry| &entry.lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_rings_without_news_is_not_listened_to_until_the_next_request() {
        let mut bell = Bell::default();
        let now = Nanos(1);
        assert!((0..RINGS_MAX).all(|_| !bell.rung(now)));
        assert!(bell.rung(now));
        assert!(!bell.rung(now), "once is enough");
        assert!(bell.sent());
        assert!(!bell.sent());
        assert!((0..RINGS_MAX).all(|_| !bell.rung(now)));
    }

    #[test]
    fn news_and_time_excuse_any_number_of_rings() {
        let mut bell = Bell::default();
        for turn in 0..10_000u64 {
            assert!(!bell.rung(Nanos(1)));
            if turn % 1000 == 999 {
                bell.news();
            }
        }
        for turn in 0..10_000 {
            let now = Nanos(1).after(TICK * turn / 1000);
            assert!(!bell.rung(now));
        }
    }
}
