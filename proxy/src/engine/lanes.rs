//! Channels to replicas: what comes over them, and what their death leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use decurion_ipc::channel::ResetCode;

use super::ahead::AheadList;
use super::answer::BadHead;
use super::bells::Bell;
use super::connection::Phase;
use super::pages::Page;
use super::port::{Happened, Lane, News, Socket};
use super::tally::TallyIndex;
use super::{ConnectionId, Engine, Notice};
use crate::balance::{LaneIndex, Replica};
use crate::exchange::Loss;
use crate::time::Nanos;

/// Slots read from one lane before the next one has its turn.
const POLL_BUDGET: u32 = 256;

/// One lane.
#[derive(Debug)]
pub(super) struct LaneEntry<L, S> {
    pub(super) lane: L,
    pub(super) replica: Arc<Replica>,
    /// Where what it answers is counted.
    pub(super) tally: TallyIndex,
    /// By stream index: whose it is.
    owners: Vec<Owner>,
    /// Requests that have a slot at the replica and found no room here.
    pub(super) parked: VecDeque<ConnectionId>,
    /// Requests that the replica has not taken, with what it was sent of their bodies.
    refused: Vec<(ConnectionId, Vec<u8>)>,
    /// Requests that were sent although the replica may not run them yet.
    pub(super) ahead: AheadList<S>,
    /// A slot was given back since others were told to look.
    released: bool,
    /// Blocks that connections hold.
    pub(super) held: usize,
    touched: bool,
    active: bool,
    pub(super) dead: bool,
    pub(super) bell: Bell,
}

/// Whose a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owner {
    #[default]
    Nobody,
    Connection(ConnectionId),
    /// Given up; its slot stays taken until the replica confirms.
    Cancelled,
}

impl<L, S> LaneEntry<L, S> {
    /// Notes whose a new stream is.
    pub(super) fn own(&mut self, index: usize, id: ConnectionId) {
        if index >= self.owners.len() {
            self.owners.resize(index + 1, Owner::Nobody);
        }
        self.owners[index] = Owner::Connection(id);
    }

    /// Whether it is only kept for what connections hold of it.
    pub(super) fn dead(&self) -> bool {
        self.dead
    }

    /// Whether a slot was given back since the last time.
    pub(super) fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.released)
    }

    fn owner(&mut self, index: usize) -> Owner {
        self.owners.get(index).copied().unwrap_or_default()
    }

    fn disown(&mut self, index: usize) -> Owner {
        self.owners.get_mut(index).map(std::mem::take).unwrap_or_default()
    }
}

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// Takes a channel to a replica.
    pub fn attach(&mut self, replica: Arc<Replica>, lane: L) {
        let at = replica.lane.at();
        if at >= self.lanes.len() {
            self.lanes.resize_with(at + 1, || None);
        }
        let tally = self.tallies.hold_key(&replica.deployment().name, &replica.version);
        self.lanes[at] = Some(Box::new(LaneEntry {
            lane,
            replica,
            tally,
            owners: Vec::new(),
            parked: VecDeque::new(),
            refused: Vec::new(),
            ahead: AheadList::default(),
            released: false,
            held: 0,
            touched: false,
            active: false,
            dead: false,
            bell: Bell::default(),
        }));
    }

    /// The replica is dead, or has to be treated so. What it had published still counts; the rest is settled by
    /// [`crate::exchange`].
    pub fn detach(&mut self, lane: LaneIndex, now: Nanos) {
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return };
        if std::mem::replace(&mut entry.dead, true) {
            return;
        }
        self.now = now;
        entry.ahead.clear();
        entry.replica.leave();
        let mut news = std::mem::take(&mut self.news);
        let lost = entry.lane.die(&mut news);
        self.take_news(lane, &mut news, now);
        self.news = news;
        for lost in lost {
            let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { break };
            let owner = entry.disown(L::index(lost.stream));
            if owner == Owner::Nobody {
                continue;
            }
            self.release(lane);
            if let Owner::Connection(id) = owner {
                let loss = if lost.taken { Loss::Taken } else { Loss::NotTaken };
                self.lost(id, lane, loss, lost.body, now);
            }
        }
        self.unpark_all(lane, now);
        self.active.retain(|active| *active != lane);
        self.forget_if_free(lane);
    }

    fn unpark_all(&mut self, lane: LaneIndex, now: Nanos) {
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return };
        for id in std::mem::take(&mut entry.parked) {
            self.let_go(id);
            let step = self.dispatch(id, Some(lane), now);
            self.carry_on(id, step);
        }
    }

    /// Whether a lane can be used.
    pub(super) fn lane(&self, lane: LaneIndex) -> Option<&LaneEntry<L, L::Stream>> {
        self.lanes.get(lane.at()).and_then(Option::as_deref).filter(|entry| !entry.dead)
    }

    /// A stream that its client does not want any more.
    pub(super) fn give_up(&mut self, lane: LaneIndex, stream: L::Stream) {
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return };
        if let Some(owner @ Owner::Connection(_)) = entry.owners.get_mut(L::index(stream)) {
            *owner = Owner::Cancelled;
            entry.lane.cancel(stream);
            self.touch(lane);
        }
    }

    /// Takes a request back that its replica has not begun with: whether it never will.
    pub(super) fn take_back(&mut self, lane: LaneIndex, stream: L::Stream) -> bool {
        let Some(Some(entry)) = self.lanes.get_mut(lane.at()) else { return false };
        let Some(owner @ Owner::Connection(_)) = entry.owners.get_mut(L::index(stream)) else { return false };
        let back = entry.lane.withdraw(stream);
        if back {
            *owner = Owner::Cancelled;
            self.touch(lane);
        }
        back
    }

    /// Gives a replica's slot back.
    pub(super) fn release(&mut self, lane: LaneIndex) {
        if let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) {
            entry.released = true;
            entry.replica.release(self.now, &*self.post);
        }
    }

    /// The lane has something to be told, or something to be waited for.
    pub(super) fn touch(&mut self, lane: LaneIndex) {
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return };
        if entry.dead {
            return;
        }
        if !std::mem::replace(&mut entry.touched, true) {
            self.touched.push(lane);
        }
        if !std::mem::replace(&mut entry.active, true) {
            self.active.push(lane);
        }
    }

    /// Rings each replica that something was sent to, once.
    pub(super) fn flush_lanes(&mut self) {
        for lane in self.touched.drain(..) {
            if let Some(Some(entry)) = self.lanes.get_mut(lane.at()) {
                entry.touched = false;
                if !entry.dead {
                    entry.lane.flush();
                }
            }
        }
    }

    /// Takes in what replicas have sent: whether some have more.
    pub(super) fn poll_lanes(&mut self, now: Nanos) -> bool {
        let mut more = false;
        let mut at = 0;
        while let Some(&lane) = self.active.get(at) {
            at += 1;
            let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { continue };
            if entry.dead || !entry.lane.has_news() {
                continue;
            }
            entry.bell.news();
            let mut news = std::mem::take(&mut self.news);
            let polled = entry.lane.poll(POLL_BUDGET, &mut news);
            let broken = self.take_news(lane, &mut news, now);
            self.news = news;
            match (polled, broken) {
                (Err(fault), _) => self.fault(lane, fault.to_string(), now),
                (Ok(_), Some(why)) => self.fault(lane, why, now),
                (Ok(lane_has_more), None) => more |= lane_has_more,
            }
        }
        more
    }

    /// Asks all replicas to ring when they have something: whether it is safe to sleep.
    pub fn arm(&mut self) -> bool {
        let mut quiet = true;
        let lanes = &mut self.lanes;
        self.active.retain(|lane| {
            let Some(Some(entry)) = lanes.get_mut(lane.at()) else { return false };
            if entry.lane.in_flight() == 0 && entry.parked.is_empty() {
                entry.lane.flush();
                entry.active = false;
                return false;
            }
            quiet &= entry.lane.arm();
            true
        });
        quiet
    }

    /// Whether replicas have work of ours: then a lost bell must not hang us.
    pub fn has_work_in_flight(&self) -> bool {
        !self.active.is_empty()
    }

    /// One reaction to every broken rule: the lane is dead, and the supervisor is told.
    fn fault(&mut self, lane: LaneIndex, fault: String, now: Nanos) {
        if let Some(entry) = self.lane(lane) {
            let replica = entry.replica.id.clone();
            self.notices.push(Notice::Fault { replica, fault });
        }
        self.detach(lane, now);
    }

    /// Passes news on to connections. Says what was wrong with it, where something was.
    fn take_news(
        &mut self,
        lane: LaneIndex,
        news: &mut News<L::Stream, L::In>,
        now: Nanos,
    ) -> Option<String> {
        let mut broken = None;
        let heads = std::mem::take(&mut news.heads);
        for event in news.events.drain(..) {
            match event {
                Happened::Head { stream, head, body, end } => {
                    let record = heads.get(head).unwrap_or_default();
                    if let Err(why) = self.on_head(lane, stream, record, body, end, now) {
                        broken.get_or_insert(why);
                    }
                }
                Happened::Data { stream, block, end } => self.on_data(lane, stream, block, end, now),
                Happened::End(stream) => self.on_end(lane, stream, now),
                Happened::Reset { stream, code, body } => self.on_reset(lane, stream, code, body, now),
                Happened::Room(stream) => {
                    if let Some(id) = self.connection_of(lane, stream) {
                        self.mark(id);
                    }
                }
                Happened::Vacancy => {}
            }
        }
        news.heads = heads;
        news.heads.clear();
        self.reopen(lane, now);
        broken
    }

    fn connection_of(&mut self, lane: LaneIndex, stream: L::Stream) -> Option<ConnectionId> {
        match self.lanes.get_mut(lane.at())?.as_mut()?.owner(L::index(stream)) {
            Owner::Connection(id) => Some(id),
            Owner::Nobody | Owner::Cancelled => None,
        }
    }

    fn on_head(
        &mut self,
        lane: LaneIndex,
        stream: L::Stream,
        record: &[u8],
        body: Option<L::In>,
        end: bool,
        now: Nanos,
    ) -> Result<(), String> {
        let Some(id) = self.connection_of(lane, stream) else {
            if let Some(block) = body {
                self.return_lent(lane, block);
            }
            if end {
                self.finish_stream(lane, stream);
            }
            return Ok(());
        };
        let known = end.then(|| body.as_ref().map_or(0, L::len));
        match self.begin_answer(id, record, known) {
            Ok(()) => {
                match body {
                    Some(block) => self.on_data(lane, stream, block, end, now),
                    None if end => self.on_end(lane, stream, now),
                    None => self.mark(id),
                }
                Ok(())
            }
            Err(bad) => {
                if let Some(block) = body {
                    self.return_lent(lane, block);
                }
                if end {
                    self.finish_stream(lane, stream);
                } else {
                    self.let_go(id);
                }
                if let Some(conn) = self.connections.get_mut(id) {
                    conn.phase = Phase::Head;
                }
                let result = match bad {
                    BadHead::Handler(why) => {
                        self.warn(id, &format!("bad response of replica: {why}"));
                        Ok(())
                    }
                    BadHead::Record(why) => Err(why),
                };
                let step = self.respond(id, Page::internal_error(), now);
                self.carry_on(id, step);
                result
            }
        }
    }

    fn on_data(&mut self, lane: LaneIndex, stream: L::Stream, block: L::In, end: bool, now: Nanos) {
        let Some(id) = self.connection_of(lane, stream) else {
            self.return_lent(lane, block);
            if end {
                // It was given up while this was read already: no reset will come.
                self.finish_stream(lane, stream);
            }
            return;
        };
        if !self.continue_answer(id, lane, block) {
            self.warn(id, "a response is longer than it announced");
            if end {
                self.finish_stream(lane, stream);
            } else {
                self.let_go(id);
            }
            return self.cut(id);
        }
        if end {
            self.on_end(lane, stream, now);
        } else {
            self.mark(id);
        }
    }

    fn on_end(&mut self, lane: LaneIndex, stream: L::Stream, now: Nanos) {
        if let Some(id) = self.finish_stream(lane, stream) {
            self.end_answer(id, now);
        }
    }

    /// The replica has answered in full: its slot is free, whatever is still on its way to the client.
    fn finish_stream(&mut self, lane: LaneIndex, stream: L::Stream) -> Option<ConnectionId> {
        let entry = self.lanes.get_mut(lane.at())?.as_mut()?;
        let owner = entry.disown(L::index(stream));
        if owner == Owner::Nobody {
            return None;
        }
        let Owner::Connection(id) = owner else {
            self.release(lane);
            return None;
        };
        let unread = self.connections.get_mut(id).is_some_and(|conn| !conn.request.ended);
        if unread {
            // Nobody will read the rest of the body.
            entry.lane.cancel(stream);
            self.touch(lane);
        }
        self.release(lane);
        Some(id)
    }

    fn on_reset(&mut self, lane: LaneIndex, stream: L::Stream, code: ResetCode, body: Vec<u8>, now: Nanos) {
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return };
        let owner = entry.disown(L::index(stream));
        if owner == Owner::Nobody {
            return;
        }
        self.release(lane);
        let Owner::Connection(id) = owner else { return };
        if let Some(conn) = self.connections.get_mut(id) {
            conn.phase = Phase::Head;
        }
        let page = match code {
            ResetCode::NotTaken => {
                // Not while other news of this lane wait: see `reopen`.
                if let Some(Some(entry)) = self.lanes.get_mut(lane.at()) {
                    entry.refused.push((id, body));
                }
                return;
            }
            ResetCode::Deadline => Page::timed_out(),
            ResetCode::Failed | ResetCode::Protocol | ResetCode::Cancelled => {
                self.warn(id, &format!("the replica gave it up: {code:?}"));
                Page::internal_error()
            }
        };
        let step = self.respond(id, page, now);
        self.carry_on(id, step);
    }

    /// Opens streams for those who wait for that, once all news of a lane have been dealt with: a stream that has
    /// ended gives its place free before we have been told of it, and a new one there would be taken for it.
    fn reopen(&mut self, lane: LaneIndex, now: Nanos) {
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return };
        for (id, body) in std::mem::take(&mut entry.refused) {
            self.lost(id, lane, Loss::NotTaken, body, now);
        }
        self.unpark(lane, now);
    }

    /// Tries again with those who found no room, in order.
    fn unpark(&mut self, lane: LaneIndex, now: Nanos) {
        for _ in 0..usize::MAX {
            let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return };
            if entry.dead {
                return;
            }
            let Some(id) = entry.parked.pop_front() else { return };
            let replica = Arc::clone(&entry.replica);
            self.use_grant(id, &replica, false, now);
            // Back at the end of the list: there is no room after all. Or it has gone to another replica, where there was none.
            let parked_again = self
                .connections
                .get_mut(id)
                .is_some_and(|conn| matches!(&conn.phase, Phase::Parked { replica } if replica.lane == lane));
            if parked_again {
                if let Some(Some(entry)) = self.lanes.get_mut(lane.at()) {
                    entry.parked.rotate_right(1);
                }
                return;
            }
        }
    }

    /// Gives a block back that a connection held.
    pub(super) fn return_block(&mut self, lane: LaneIndex, block: L::In) {
        if let Some(Some(entry)) = self.lanes.get_mut(lane.at()) {
            entry.held -= 1;
        }
        self.return_lent(lane, block);
        self.forget_if_free(lane);
    }

    /// Gives a block back that nobody kept.
    pub(super) fn return_lent(&mut self, lane: LaneIndex, block: L::In) {
        if let Some(Some(entry)) = self.lanes.get_mut(lane.at())
            && !entry.dead
        {
            entry.lane.give_back(block);
            self.touch(lane);
        }
    }

    fn forget_if_free(&mut self, lane: LaneIndex) {
        if let Some(place) = self.lanes.get_mut(lane.at())
            && let Some(entry) = place.take_if(|entry| entry.dead && entry.held == 0)
        {
            self.tallies.release(entry.tally);
            self.freed.push((lane, entry.lane));
        }
    }
}
