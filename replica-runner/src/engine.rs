//! What a replica decides: which request goes next, who may enter the instance, what each caller is told.
//!
//! Takes `now_ns` (CLOCK_MONOTONIC) and never waits: every function that cannot go on says so. Threads, clocks
//! and sleeping are `sys`'s business; what other threads may be waiting for is left in [`Messages`], in
//! [`Engine::take_news`] and in [`Engine::has_work`].

mod calls;
mod lane;
#[cfg(test)]
mod random;
mod reply;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};

use decurion_ipc::board::BoardWriter;
use decurion_ipc::caller::{CallKey, Caller};
use decurion_ipc::channel::{InBlock, ResetCode, Responder, StreamId};
use decurion_ipc::control::{CallerKind, CallerReport};
use decurion_ipc::record::Kind;

pub(crate) use calls::{CallState, HeldCall};
pub(crate) use lane::ClassShape;
use lane::{Arrival, Lane, SpareViews};

use crate::exchange::{Exchange, Inbound, Phase, RequestView, SendWaker, Upgrade, Wakers};
use crate::gate::{Entry, Gate};
use crate::slab::{Key, Slab};

/// Slots taken from one lane before the next lane has its turn.
const POLL_BUDGET: u32 = 256;
/// Views and body queues kept for requests to come.
const SPARE_MAX: usize = 64;
/// While more bytes than this of answered requests wait for slow callers, such a request keeps its place among those
/// in flight: their memory is bounded by the handlers' own then.
const UNSENT_MAX: usize = 64 << 20;

/// What came of reading a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Read {
    /// So many bytes were copied.
    Some(usize),
    /// The body is over.
    End,
    /// Nothing there yet.
    Wait,
    /// The caller left or the time is up.
    Cancelled,
    /// No such exchange.
    Invalid,
}

/// What came of writing an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Wrote {
    /// Done; for streams: so many bytes.
    Done(usize),
    /// No room yet.
    Wait,
    /// Nobody waits for it any more.
    Cancelled,
    /// The exchange is over, or not that far, or its head is larger than a head may be.
    Invalid,
}

/// A waker's operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// More body.
    Read,
    /// Room for more of an answer.
    Write,
    /// The cancellation.
    Cancel,
}

/// A caller that broke the rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CutOff {
    /// Who.
    pub(crate) caller: CallerKind,
    /// What it did.
    pub(crate) fault: String,
}

/// A request that was taken: its entry is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// The exchange.
    pub(crate) key: Key,
    /// The method; `None`: the class's `call`.
    pub(crate) method: Option<u32>,
}

/// What is to be told to others, without holding any lock.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// To be called.
    pub(crate) wakers: Vec<SendWaker>,
    /// For the supervisor.
    pub(crate) reports: Vec<CallerReport>,
    /// Callers that were cut off.
    pub(crate) cut_off: Vec<CutOff>,
    /// Draining, and everything that was asked is answered and sent.
    pub(crate) drained: bool,
}

impl Messages {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.wakers.is_empty() && self.reports.is_empty() && self.cut_off.is_empty() && !self.drained
    }
}

/// All the requests of one replica.
#[derive(Debug)]
pub(crate) struct Engine {
    lanes: Slab<Lane>,
    /// Of every lane, to go through without holding on to it.
    lane_keys: Vec<Key>,
    /// Lanes that something was written to.
    dirty: Vec<Key>,
    exchanges: Slab<Exchange>,
    waiting: VecDeque<Key>,
    gate: Gate,
    shape: ClassShape,
    ongoing: u32,
    processed: u64,
    heartbeat: u64,
    limit: u32,
    /// Requests may be taken: the instance is constructed, and will not be destroyed yet.
    open: bool,
    stopped: bool,
    draining: bool,
    /// Something has come in, or is free, that a thread in the middle of something may be waiting for.
    news: bool,
    /// Answered requests of which something is left to send, and how many bytes that is.
    sending: usize,
    unsent: usize,
    board: BoardWriter,
    /// Calls to other deployments.
    pub(crate) calls: Caller,
    held_calls: Slab<HeldCall>,
    call_wakers: HashMap<CallKey, SendWaker>,
    /// Exchanges that wakers were left with, by their deadline (`u64::MAX`: none).
    woken: BTreeSet<(u64, Key)>,
    messages: Messages,
    /// What wakers have asked to be called, by the thread that called them.
    resumed: VecDeque<SendWaker>,
    events: Vec<Arrival>,
    scratch: Vec<u8>,
    spare_views: SpareViews,
    spare_inbound: Vec<Inbound>,
}

impl Engine {
    /// An engine with no lanes, closed until [`open`](Self::open).
    pub(crate) fn new(limit: u32, board: BoardWriter) -> Self {
        Self {
            lanes: Slab::default(),
            lane_keys: Vec::new(),
            dirty: Vec::new(),
            exchanges: Slab::default(),
            waiting: VecDeque::new(),
            gate: Gate::default(),
            shape: ClassShape::default(),
            ongoing: 0,
            processed: 0,
            heartbeat: 0,
            limit,
            open: false,
            stopped: false,
            draining: false,
            news: false,
            sending: 0,
            unsent: 0,
            board,
            calls: Caller::new(),
            held_calls: Slab::default(),
            call_wakers: HashMap::new(),
            woken: BTreeSet::new(),
            messages: Messages::default(),
            resumed: VecDeque::new(),
            events: Vec::new(),
            scratch: Vec::new(),
            spare_views: Vec::new(),
            spare_inbound: Vec::new(),
        }
    }

    /// The instance is there: requests may be taken.
    pub(crate) fn open(&mut self, shape: ClassShape) {
        self.shape = shape;
        self.open = !self.stopped;
        for key in &self.waiting {
            if let Some(exchange) = self.exchanges.get_mut(*key) {
                exchange.entry = self.shape.find(&mut exchange.view);
            }
        }
    }

    /// Says which models are held here, by their hashes.
    pub(crate) fn set_models(&self, hashes: &[u64]) {
        self.board.set_models(hashes);
    }

    /// Takes a new bound of requests in flight.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Lets an entry of the life cycle in, unless it has to wait; [`gate_left`](Self::gate_left) it then.
    #[must_use]
    pub(crate) fn enter_gate(&mut self, entry: Entry) -> bool {
        self.gate.enter(entry)
    }

    /// An entry of the life cycle is done.
    pub(crate) fn gate_left(&mut self, entry: Entry) {
        self.gate.leave(entry);
        self.freed();
    }

    /// From now on no new request gets in, until [`release_gate`](Self::release_gate).
    pub(crate) fn hold_gate(&mut self) {
        self.gate.hold();
    }

    /// Undoes one [`hold_gate`](Self::hold_gate).
    pub(crate) fn release_gate(&mut self) {
        self.gate.release();
    }

    /// Serves a new lane.
    pub(crate) fn add_lane(&mut self, responder: Responder, caller: CallerKind) -> Key {
        let key = self.lanes.insert(Lane::new(responder, caller));
        self.lane_keys.push(key);
        key
    }

    /// Whether a lane is being served.
    pub(crate) fn has_lane(&self, lane: Key) -> bool {
        self.lanes.get(lane).is_some()
    }

    /// A caller is gone: everything it asked for is cancelled.
    pub(crate) fn drop_lane(&mut self, lane: Key) {
        let Some(lane_state) = self.lanes.remove(lane) else { return };
        self.lane_keys.retain(|key| *key != lane);
        for key in lane_state.into_keys() {
            self.cancel(key);
        }
    }

    /// Whether everything that was asked is answered, and sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.exchanges.len() == 0
    }

    /// Says so, by [`Messages::drained`], as soon as everything is answered.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.messages.drained |= self.is_idle();
    }

    /// Ends what callers send on streams that would never end by themselves. What their library still says is sent.
    pub(crate) fn say_farewell(&mut self) {
        for exchange in self.exchanges.iter_mut().filter(|it| it.upgrade == Upgrade::Done) {
            exchange.farewell = true;
            exchange.inbound.ended = true;
            self.messages.wakers.extend(exchange.wakers.take());
        }
        self.news = true;
    }

    /// Handler threads end from now on, and no request is taken any more.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.open = false;
        self.news = true;
    }

    /// Whether handler threads end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether a handler thread that has nothing to do would have something now.
    pub(crate) fn has_work(&self) -> bool {
        if self.stopped || !self.resumed.is_empty() {
            return true;
        }
        let Some(key) = self.waiting.front().filter(|_| self.open && self.ongoing < self.limit) else {
            return false;
        };
        let entry = self.exchanges.get(*key).and_then(|exchange| exchange.entry);
        entry.is_none_or(|entry| self.gate.admits(entry))
    }

    /// Whether somebody has to look after callers although nobody waits for anything: answers are being sent, or
    /// wakers wait.
    pub(crate) fn needs_care(&self) -> bool {
        self.sending > 0
            || !self.woken.is_empty()
            || !self.call_wakers.is_empty()
            || (self.held_calls.len() > 0 && self.calls.has_unsent())
    }

    /// Everybody is to look again.
    pub(crate) fn note_news(&mut self) {
        self.news = true;
    }

    /// Whether something has come in or was freed since the last time.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Whether there are wakers to be called.
    pub(crate) fn has_wakers(&self) -> bool {
        !self.messages.wakers.is_empty()
    }

    /// Whether there is something to be told to others.
    pub(crate) fn has_messages(&self) -> bool {
        self.calls.has_reports() || !self.messages.is_empty()
    }

    /// What is to be told to others; empty as a rule.
    pub(crate) fn take_messages(&mut self) -> Messages {
        if self.calls.has_reports() {
            self.messages.reports = self.calls.take_reports();
        }
        if self.messages.is_empty() { Messages::default() } else { std::mem::take(&mut self.messages) }
    }

    /// Whether a lane has something to take in: a cheap look.
    pub(crate) fn has_news(&self) -> bool {
        let lanes = self.lane_keys.iter().filter_map(|key| self.lanes.get(*key));
        lanes.into_iter().any(|lane| lane.responder.has_news()) || self.calls.has_news()
    }

    /// Whether a leader that sleeps has to be woken for room that nobody rings for.
    pub(crate) fn is_unheard(&self) -> bool {
        let lanes = self.lane_keys.iter().filter_map(|key| self.lanes.get(*key));
        lanes.into_iter().any(|lane| lane.responder.is_unheard()) || self.calls.is_unheard()
    }

    /// Takes in what every caller has sent; whether there was anything.
    pub(crate) fn poll(&mut self, now_ns: u64) -> bool {
        let mut progress = self.calls.poll(now_ns);
        if progress {
            self.news = true;
            for call in self.calls.take_touched() {
                self.messages.wakers.extend(self.call_wakers.remove(&call));
            }
        }
        let mut place = 0;
        while let Some(key) = self.lane_keys.get(place).copied() {
            progress |= self.poll_lane(key);
            // A lane that was dropped meanwhile has made place for the next.
            place += usize::from(self.lane_keys.get(place) == Some(&key));
        }
        progress
    }

    fn poll_lane(&mut self, key: Key) -> bool {
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        if !lane.responder.has_news() {
            return false;
        }
        let mut events = std::mem::take(&mut self.events);
        let spare = &mut self.spare_views;
        let outcome = lane.responder.poll(POLL_BUDGET, &mut |event| events.push(Arrival::of(event, spare)));
        for event in events.drain(..) {
            self.take_in(key, event);
        }
        self.events = events;
        if let Err(fault) = outcome {
            self.fault(key, fault.to_string());
        }
        true
    }

    fn fault(&mut self, lane: Key, fault: String) {
        if let Some(caller) = self.lanes.get(lane).map(|lane| lane.caller.clone()) {
            self.messages.cut_off.push(CutOff { caller, fault });
            self.drop_lane(lane);
        }
    }

    fn take_in(&mut self, lane_key: Key, event: Arrival) {
        let Some(lane) = self.lanes.get_mut(lane_key) else { return };
        match event {
            Arrival::Open { stream, view: Ok(view), body, end } => {
                self.opened(lane_key, stream, view, body, end);
            }
            Arrival::Open { view: Err(error), .. } => {
                self.fault(lane_key, format!("a request's head is malformed: {error}"));
            }
            Arrival::Data { stream, block, end } => {
                let exchange = lane.key(stream).and_then(|key| self.exchanges.get_mut(key));
                self.news = true;
                match exchange {
                    Some(exchange) if exchange.phase != Phase::Ended && !exchange.farewell => {
                        exchange.inbound.blocks.push_back(block);
                        exchange.inbound.ended |= end;
                        self.messages.wakers.extend(exchange.wakers.read.take());
                    }
                    _ => {
                        lane.responder.give_back(block);
                        self.touch(lane_key);
                    }
                }
            }
            Arrival::End(stream) => {
                self.news = true;
                if let Some(exchange) = lane.key(stream).and_then(|key| self.exchanges.get_mut(key)) {
                    exchange.inbound.ended = true;
                    self.messages.wakers.extend(exchange.wakers.read.take());
                }
            }
            Arrival::Cancel(stream) => {
                if let Some(key) = lane.key(stream) {
                    self.cancel(key);
                }
            }
            Arrival::Room(stream) => {
                self.news = true;
                if let Some(key) = lane.key(stream) {
                    self.pump(key);
                    if let Some(exchange) = self.exchanges.get_mut(key) {
                        self.messages.wakers.extend(exchange.wakers.write.take());
                    }
                }
            }
        }
    }

    fn opened(
        &mut self,
        lane: Key,
        stream: StreamId,
        mut view: Box<RequestView>,
        body: Option<InBlock>,
        end: bool,
    ) {
        let mut inbound = self.spare_inbound.pop().unwrap_or_default();
        inbound.blocks.extend(body);
        inbound.ended = end;
        let entry = self.shape.find(&mut view);
        let upgrade = Upgrade::of(view.request(), end);
        let key = self.exchanges.insert(Exchange {
            lane,
            stream,
            view,
            entry,
            phase: Phase::Waiting,
            inbound,
            outbound: None,
            upgrade,
            cancelled: false,
            farewell: false,
            returned: false,
            running: false,
            taken_ns: 0,
            holds_place: false,
            wakers: Wakers::default(),
            calls: Vec::new(),
        });
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.begin(stream, key);
        }
        self.waiting.push_back(key);
    }

    /// The caller left. What was not taken never reaches the library; what was learns of it.
    fn cancel(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        self.news = true;
        exchange.cancelled = true;
        exchange.inbound.ended = true;
        self.messages.wakers.extend(exchange.wakers.take());
        for call in std::mem::take(&mut exchange.calls) {
            self.cancel_call(call);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        match exchange.phase {
            Phase::Waiting => {
                // The channel has answered for itself: not taken.
                self.waiting.retain(|waiting| *waiting != key);
                self.forget(key);
            }
            Phase::Taken | Phase::Streaming => {}
            Phase::Ended => {
                self.drop_outbound(key);
                self.settle(key);
            }
        }
    }

    /// The next request that may enter the instance, taken.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<Job> {
        while self.open {
            let key = *self.waiting.front()?;
            let Some(exchange) = self.exchanges.get_mut(key) else {
                self.waiting.pop_front();
                continue;
            };
            if exchange.is_late(now_ns) {
                // Nobody waits any more; its caller has answered by itself, and moving it would be pointless.
                self.waiting.pop_front();
                self.reset(key, ResetCode::Deadline);
                self.forget(key);
                continue;
            }
            if self.ongoing >= self.limit {
                return None;
            }
            if let Some(entry) = exchange.entry
                && !self.gate.enter_request(entry)
            {
                return None;
            }
            self.waiting.pop_front();
            if let Some(job) = self.take(key, now_ns) {
                return Some(job);
            }
        }
        None
    }

    /// Has a handler thread call it, before that takes a request.
    pub(crate) fn resume(&mut self, what: SendWaker) {
        self.resumed.push_back(what);
    }

    /// What is to be called before another request is taken.
    pub(crate) fn next_resumed(&mut self) -> Option<SendWaker> {
        self.resumed.pop_front()
    }

    /// Takes a request that was let into the gate. `None`: it was withdrawn at this very moment, or it asks for what
    /// there is not, and was answered.
    fn take(&mut self, key: Key, now_ns: u64) -> Option<Job> {
        let exchange = self.exchanges.get_mut(key)?;
        let (entry, stream) = (exchange.entry, exchange.stream);
        let lane = self.lanes.get_mut(exchange.lane);
        if !lane.is_some_and(|lane| lane.responder.take(stream)) {
            let lane = exchange.lane;
            if let Some(entry) = entry {
                self.gate.leave(entry);
            }
            self.forget(key);
            // The channel has said that it was not taken.
            self.touch(lane);
            return None;
        }
        exchange.phase = Phase::Taken;
        exchange.running = true;
        exchange.taken_ns = now_ns;
        exchange.holds_place = true;
        let method = (exchange.view.kind() == Kind::Call).then(|| exchange.view.request().method_index);
        self.ongoing += 1;
        self.board.set_ongoing(u64::from(self.ongoing));
        self.beat();
        if entry.is_some() {
            return Some(Job { key, method });
        }
        let refusal = self.exchanges.get(key).map(|exchange| self.shape.refusal(&exchange.view));
        let _ = self.fail(key, 404, &refusal.unwrap_or_default());
        self.returned(key);
        None
    }

    /// For how long the deadline of the request has passed that is overdue most and whose handler has not returned.
    pub(crate) fn overdue_ns(&self, now_ns: u64) -> u64 {
        let running = self.exchanges.iter().filter(|exchange| exchange.running && exchange.is_late(now_ns));
        running.map(|exchange| now_ns.saturating_sub(exchange.deadline_ns())).max().unwrap_or(0)
    }

    /// For how long the request has been running whose handler has not returned for longest.
    pub(crate) fn oldest_ns(&self, now_ns: u64) -> u64 {
        let running = self.exchanges.iter().filter(|exchange| exchange.running);
        running.map(|exchange| now_ns.saturating_sub(exchange.taken_ns)).max().unwrap_or(0)
    }

    /// Whether requests have come that were not taken; they may lie in their lanes yet.
    pub(crate) fn is_queued(&self) -> bool {
        let mut lanes = self.lane_keys.iter().filter_map(|key| self.lanes.get(*key));
        !self.waiting.is_empty() || lanes.any(|lane| lane.responder.has_loud_news())
    }

    /// Copies body bytes into `buffer`.
    pub(crate) fn read(&mut self, key: Key, buffer: &mut [u8], now_ns: u64) -> Read {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Read::Invalid };
        if exchange.phase == Phase::Ended || exchange.phase == Phase::Waiting {
            return Read::Invalid;
        }
        if exchange.is_cancelled(now_ns) {
            return Read::Cancelled;
        }
        if exchange.upgrade == Upgrade::Offered {
            return Read::End;
        }
        let (lane_key, inbound) = (exchange.lane, &mut exchange.inbound);
        let Some(lane) = self.lanes.get_mut(lane_key) else { return Read::Cancelled };
        let (mut copied, mut gave_back) = (0, false);
        while copied < buffer.len() {
            let Some(block) = inbound.blocks.front() else { break };
            let count = lane.responder.copy_to(block, inbound.at, &mut buffer[copied..]);
            copied += count;
            inbound.at += count;
            if inbound.at < block.len() {
                break;
            }
            inbound.at = 0;
            if let Some(block) = inbound.blocks.pop_front() {
                gave_back = true;
                lane.responder.give_back(block);
            }
        }
        let ended = inbound.ended;
        if gave_back {
            self.touch(lane_key);
        }
        match copied {
            0 if buffer.is_empty() => Read::Some(0),
            0 if ended => Read::End,
            0 => Read::Wait,
            copied => {
                self.beat();
                Read::Some(copied)
            }
        }
    }

    /// The entry of an exchange has returned. Whether it is over, or may end later: with `later`, from another
    /// thread. Otherwise it is ended here, as failed.
    pub(crate) fn entry_returned(&mut self, key: Key, later: bool) -> bool {
        let ended = self.exchanges.get(key).is_none_or(|exchange| exchange.phase == Phase::Ended);
        if !ended && !later {
            let _ = self.fail(key, 500, crate::answer::INTERNAL_ERROR);
        }
        self.returned(key);
        ended || later
    }

    fn returned(&mut self, key: Key) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.returned = true;
            self.settle(key);
        }
    }

    /// Frees the place of an exchange that is done, and forgets it once its answer is sent.
    fn settle(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.is_done()) else {
            return;
        };
        let sent = exchange.outbound.is_none();
        let frees = exchange.holds_place && (sent || self.unsent <= UNSENT_MAX);
        exchange.holds_place &= !frees;
        let (ran, entry) = (std::mem::take(&mut exchange.running), exchange.entry);
        if ran {
            self.processed += 1;
            self.board.set_processed(self.processed);
            if let Some(entry) = entry {
                self.gate.leave(entry);
            }
            self.beat();
        }
        if frees {
            self.ongoing -= 1;
            self.board.set_ongoing(u64::from(self.ongoing));
        }
        if ran || frees {
            self.freed();
        }
        if sent {
            self.forget(key);
        }
    }

    /// A place or the gate is free. Handler threads see that by [`has_work`](Self::has_work).
    fn freed(&mut self) {
        self.news |= self.gate.is_held();
    }

    fn forget(&mut self, key: Key) {
        self.drop_outbound(key);
        let Some(mut exchange) = self.exchanges.remove(key) else { return };
        self.messages.wakers.extend(exchange.wakers.take());
        self.woken.remove(&(timer(exchange.deadline_ns()), key));
        if let Some(lane) = self.lanes.get_mut(exchange.lane) {
            let unread = !exchange.inbound.blocks.is_empty();
            for block in exchange.inbound.blocks.drain(..) {
                lane.responder.give_back(block);
            }
            if exchange.cancelled {
                lane.responder.reset(exchange.stream, ResetCode::Cancelled);
            }
            lane.end(exchange.stream);
            if unread || exchange.cancelled {
                self.touch(exchange.lane);
            }
        }
        if self.spare_views.len() < SPARE_MAX {
            self.spare_views.push(exchange.view);
        }
        exchange.inbound.blocks.clear();
        if self.spare_inbound.len() < SPARE_MAX {
            self.spare_inbound.push(Inbound { at: 0, ended: false, blocks: exchange.inbound.blocks });
        }
        self.messages.drained |= self.draining && self.is_idle();
    }

    fn reset(&mut self, key: Key, code: ResetCode) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        if let Some(lane) = self.lanes.get_mut(exchange.lane) {
            lane.responder.reset(exchange.stream, code);
            self.touch(exchange.lane);
        }
    }

    /// Whether an exchange's caller has left, its time is up or it is to end; `true` for one that is over.
    pub(crate) fn is_cancelled(&self, key: Key, now_ns: u64) -> bool {
        self.exchanges.get(key).is_none_or(|exchange| exchange.is_cancelled(now_ns) || exchange.farewell)
    }

    /// An exchange in progress.
    pub(crate) fn exchange(&self, key: Key) -> Option<&Exchange> {
        self.exchanges.get(key)
    }

    /// An exchange that the library may use: taken, and not ended.
    pub(crate) fn in_use(&self, key: Key) -> Option<&Exchange> {
        let usable = |exchange: &&Exchange| matches!(exchange.phase, Phase::Taken | Phase::Streaming);
        self.exchanges.get(key).filter(usable)
    }

    /// Leaves a waker with an exchange that is in use; `None` takes the one back that is there. One that has nothing
    /// to wait for is called at once.
    pub(crate) fn set_waker(&mut self, key: Key, what: Pending, waker: Option<SendWaker>, now_ns: u64) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let place = match what {
            Pending::Read => &mut exchange.wakers.read,
            Pending::Write => &mut exchange.wakers.write,
            Pending::Cancel => &mut exchange.wakers.cancel,
        };
        *place = waker;
        if waker.is_none() {
            return;
        }
        if exchange.is_cancelled(now_ns) || (exchange.farewell && what != Pending::Write) {
            self.messages.wakers.extend(exchange.wakers.take());
        } else {
            self.woken.insert((timer(exchange.deadline_ns()), key));
        }
    }

    /// Publishes what was written: at most one doorbell for each caller that sleeps.
    pub(crate) fn flush(&mut self) {
        while let Some(key) = self.dirty.pop() {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.dirty = false;
                lane.responder.flush();
            }
        }
        self.calls.flush();
    }

    /// Something was written to a lane.
    fn touch(&mut self, key: Key) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !std::mem::replace(&mut lane.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Announces that this side is about to sleep; `false` where something has come in meanwhile.
    #[must_use]
    pub(crate) fn arm(&mut self) -> bool {
        let mut quiet = self.calls.arm();
        for key in &self.lane_keys {
            quiet &= self.lanes.get_mut(*key).is_none_or(|lane| lane.responder.arm());
        }
        quiet
    }

    /// When something has to happen although nothing comes in, in CLOCK_MONOTONIC nanoseconds.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        let deadline = self.woken.first().map(|(at, _)| *at).filter(|at| *at != u64::MAX);
        deadline.into_iter().chain(self.calls.next_timer()).min()
    }

    /// Wakes what waits for an exchange whose time is up.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        while let Some((at, key)) = self.woken.first().copied()
            && at <= now_ns
        {
            self.woken.pop_first();
            if let Some(exchange) = self.exchanges.get_mut(key) {
                self.messages.wakers.extend(exchange.wakers.take());
            }
        }
    }

    /// The replica's loop turns: a request was taken, got on, or was answered.
    fn beat(&mut self) {
        self.heartbeat += 1;
        self.board.set_heartbeat(self.heartbeat);
    }
}

/// A deadline as a place in the order of timers.
fn timer(deadline_ns: u64) -> u64 {
    if deadline_ns == 0 { u64::MAX } else { deadline_ns }
}
