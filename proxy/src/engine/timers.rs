//! Which connection to look at next, by time. Lazy: a deadline that moves away leaves its old entry, which finds
//! nothing to do when it comes up, so that a busy connection costs no heap operation per request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slab::ConnectionId;
use crate::time::Nanos;

#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Nanos, ConnectionId)>>);

impl Timers {
    /// Makes sure that the connection is looked at by then. `scheduled` is its earliest entry.
    pub(super) fn set(&mut self, id: ConnectionId, deadline: Nanos, scheduled: &mut Nanos) {
        if deadline < *scheduled {
            *scheduled = deadline;
            self.0.push(Reverse((deadline, id)));
        }
    }

    /// When the next entry comes up.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// The next entry that is due.
    pub(super) fn due(&mut self, now: Nanos) -> Option<(Nanos, ConnectionId)> {
        match self.0.peek() {
            Some(Reverse((at, _))) if *at <= now => self.0.pop().map(|Reverse(entry)| entry),
            _ => None,
        }
    }
}
