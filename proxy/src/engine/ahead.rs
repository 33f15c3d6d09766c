//! Requests that wait at a replica which may not run them yet ([`crate::balance`]), and when they are taken back: as
//! soon as another replica has room for them, and where theirs keeps them waiting for no good reason.
//!
//! Taking back needs nothing of the replica, which may be busy with one handler for long: see `Requester::withdraw`.

use std::collections::VecDeque;

use super::connection::{Answer, Phase};
use super::port::{Lane, Socket};
use super::{ConnectionId, Engine};
use crate::balance::{AHEAD_FRESH, LaneIndex, Prospects};
use crate::time::Nanos;

/// Entries of one lane after which those are looked for that mean nothing any more.
const LIST_LONG: usize = 256;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead<Stream> {
    pub(super) id: ConnectionId,
    pub(super) stream: Stream,
    pub(super) since: Nanos,
}

/// Those of one lane, in order. Some have been answered meanwhile, or are running.
#[derive(Debug)]
pub(super) struct AheadList<Stream>(VecDeque<Ahead<Stream>>);

impl<Stream> Default for AheadList<Stream> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<Stream> AheadList<Stream> {
    pub(super) fn push(&mut self, ahead: Ahead<Stream>) {
        self.0.push_back(ahead);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// Takes requests back that wait at one replica while another has room, or that have waited for long at one that
    /// does not get on, and sends them elsewhere.
    pub fn even_out(&mut self, now: Nanos) {
        self.now = now;
        let mut released = false;
        for at in 0.. {
            let Some(&lane) = self.active.get(at) else { break };
            self.even_out_lane(lane, now);
            if let Some(Some(entry)) = self.lanes.get_mut(lane.at()) {
                let here = entry.take_released();
                released |= here && self.post.has_others() && entry.replica.deployment().is_uneven();
            }
        }
        if released {
            self.post.look(self.worker);
        }
    }

    fn even_out_lane(&mut self, lane: LaneIndex, now: Nanos) {
        loop {
            let Some(front) = self.first_ahead(lane) else { return };
            let Some(Some(entry)) = self.lanes.get_mut(lane.at()) else { return };
            let moves = match entry.replica.deployment().prospects(&entry.replica) {
                // They are as good as running.
                Prospects::Theirs => return entry.ahead.clear(),
                Prospects::Elsewhere => true,
                Prospects::Waiting => now >= front.since.after(AHEAD_FRESH),
                Prospects::Alone => false,
            };
            if !moves {
                return;
            }
            entry.ahead.0.pop_front();
            if self.take_back(lane, front.stream) {
                self.send_elsewhere(front.id, lane, now);
            }
        }
    }

    fn send_elsewhere(&mut self, id: ConnectionId, lane: LaneIndex, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.phase = Phase::Head;
        conn.request.sent = 0;
        conn.request.ended = false;
        let step = self.dispatch(id, Some(lane), now);
        self.carry_on(id, step);
    }

    /// The first that still means something.
    fn first_ahead(&mut self, lane: LaneIndex) -> Option<Ahead<L::Stream>> {
        let entry = self.lanes.get_mut(lane.at())?.as_mut().filter(|entry| !entry.dead())?;
        let connections = &mut self.connections;
        let mut waits = |ahead: &Ahead<L::Stream>| {
            connections.get_mut(ahead.id).is_some_and(|conn| {
                let there = matches!(conn.phase, Phase::Open { lane: at, stream } if at == lane && stream == ahead.stream);
                there && conn.request.answer == Answer::Nothing
            })
        };
        let list = &mut entry.ahead.0;
        while let Some(front) = list.front() {
            if waits(front) {
                let front = *front;
                if list.len() > LIST_LONG {
                    list.retain(waits);
                }
                return Some(front);
            }
            list.pop_front();
        }
        None
    }
}
