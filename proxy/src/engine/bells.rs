//! Bells that ring without end: how often one may wake a worker for nothing.
//!
//! A replica rings by an eventfd that it can write to as often as it likes. Whoever does so without ever having
//! something to say is not listened to any more until it is sent its next request; what it does say meanwhile is found
//! by the worker's tick.

use std::time::Duration;

use super::port::{Lane, Socket};
use super::{Engine, LEVEL_WARN, Notice};
use crate::balance::LaneIndex;

/// How often lanes with work in flight are looked at even if nobody rings.
pub const TICK: Duration = Duration::from_millis(50);

/// Rings since the last news, at most. Who keeps the rules rings once or twice, at most, for what has been taken in
/// already; how quickly they follow one another says nothing but how fast the machine is.
const RINGS_MAX: u32 = 100;

/// What is known of one lane's bell.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Since the last news.
    rings: u32,
    unheard: bool,
    told: bool,
}

impl Bell {
    /// It has rung: whether that was once too often.
    fn rung(&mut self) -> bool {
        self.rings = self.rings.saturating_add(1);
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
    pub fn rung(&mut self, lane: LaneIndex) -> bool {
        let Some(Some(entry)) = self.lanes.get_mut(lane.at()) else { return false };
        if entry.dead || !entry.bell.rung() {
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
        assert!((0..RINGS_MAX).all(|_| !bell.rung()));
        assert!(bell.rung());
        assert!(!bell.rung(), "once is enough");
        assert!(bell.sent());
        assert!(!bell.sent());
        assert!((0..RINGS_MAX).all(|_| !bell.rung()));
    }

    #[test]
    fn news_excuse_any_number_of_rings() {
        let mut bell = Bell::default();
        for turn in 1..=100 * RINGS_MAX {
            assert!(!bell.rung());
            if turn % RINGS_MAX == 0 {
                bell.news();
            }
        }
    }
}
