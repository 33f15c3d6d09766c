//! What a replica decides: which request goes next, who may enter the instance, what each caller is told.
//!
//! Takes `now_ns` (CLOCK_MONOTONIC) and never waits: every function that cannot go on says so. Threads, clocks
//! and sleeping are `sys`'s business.

use std::collections::{HashMap, VecDeque};

use decurion_abi::encoding;
use decurion_ipc::board::BoardWriter;
use decurion_ipc::caller::{CallKey, Caller};
use decurion_ipc::channel::{BLOCK_MAX, InBlock, Request as Incoming, ResetCode, Responder, StreamId};
use decurion_ipc::control::CallerKind;
use decurion_ipc::record::{Kind, RecordError, ResponseHead};

use crate::exchange::{Exchange, Outbound, Phase, RequestView, SendWaker, Wakers};
use crate::gate::{Entry, Gate};
use crate::slab::{Key, Slab};

/// Slots taken from one lane before the next lane has its turn.
const POLL_BUDGET: u32 = 256;

/// What a class looks like from here.
#[derive(Debug, Default)]
pub(crate) struct ClassShape {
    /// How `call` takes the instance; `None`: no HTTP side.
    pub(crate) call: Option<Entry>,
    /// Name and entry of each method, by index.
    pub(crate) methods: Vec<(String, Entry)>,
}

impl ClassShape {
    fn method_index(&self, name: &str) -> u32 {
        let index = self.methods.iter().position(|(known, _)| known == name);
        index.and_then(|index| u32::try_from(index).ok()).unwrap_or(u32::MAX)
    }

    fn entry(&self, view: &RequestView) -> Option<Entry> {
        match view.kind() {
            Kind::Http => self.call,
            Kind::Call => {
                let index = usize::try_from(view.request().method_index).ok()?;
                self.methods.get(index).map(|(_, entry)| *entry)
            }
        }
    }
}

/// A caller's lane.
#[derive(Debug)]
pub(crate) struct Lane {
    responder: Responder,
    caller: CallerKind,
    streams: HashMap<StreamId, Key>,
}

/// What a caller sent, copied out of its lane.
#[derive(Debug)]
enum Arrival {
    Open { stream: StreamId, view: Result<Box<RequestView>, RecordError>, body: Option<InBlock>, end: bool },
    Data { stream: StreamId, block: InBlock, end: bool },
    End(StreamId),
    Cancel(StreamId),
    Room(StreamId),
}

impl Arrival {
    fn of(request: Incoming<'_>, shape: &ClassShape) -> Self {
        match request {
            Incoming::Open { stream, head, body, end } => {
                let view = RequestView::parse(head, |name| shape.method_index(name));
                Arrival::Open { stream, view, body, end }
            }
            Incoming::Data { stream, block, end } => Arrival::Data { stream, block, end },
            Incoming::End(stream) => Arrival::End(stream),
            Incoming::Cancel(stream) => Arrival::Cancel(stream),
            Incoming::Room(stream) => Arrival::Room(stream),
        }
    }
}

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
    /// The exchange is over, or not that far.
    Invalid,
}

/// A caller that broke the rules.
#[derive(Debug)]
pub(crate) struct CutOff {
    /// Who.
    pub(crate) caller: CallerKind,
    /// What it did.
    pub(crate) fault: String,
}

/// All the requests of one replica.
#[derive(Debug)]
pub(crate) struct Engine {
    lanes: Slab<Lane>,
    exchanges: Slab<Exchange>,
    waiting: VecDeque<Key>,
    gate: Gate,
    shape: ClassShape,
    ongoing: u32,
    processed: u64,
    limit: u32,
    /// Requests may be taken: the instance is constructed.
    open: bool,
    board: BoardWriter,
    stopped: bool,
    freed: bool,
    /// Calls to other deployments.
    pub(crate) calls: Caller,
    call_wakers: HashMap<CallKey, SendWaker>,
    wake: Vec<SendWaker>,
    cut_off: Vec<CutOff>,
    events: Vec<Arrival>,
    scratch: Vec<u8>,
}

impl Engine {
    /// An engine with no lanes, closed until [`open`](Self::open).
    pub(crate) fn new(limit: u32, board: BoardWriter) -> Self {
        Self {
            lanes: Slab::default(),
            exchanges: Slab::default(),
            waiting: VecDeque::new(),
            gate: Gate::default(),
            shape: ClassShape::default(),
            ongoing: 0,
            processed: 0,
            limit,
            open: false,
            stopped: false,
            freed: false,
            board,
            calls: Caller::new(),
            call_wakers: HashMap::new(),
            wake: Vec::new(),
            cut_off: Vec::new(),
            events: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The instance is there: requests may be taken.
    pub(crate) fn open(&mut self, shape: ClassShape) {
        self.shape = shape;
        self.open = true;
    }

    /// Takes a new bound of requests in flight.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// The gate, for entries of the life cycle.
    pub(crate) fn gate(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// Serves a new lane.
    pub(crate) fn add_lane(&mut self, responder: Responder, caller: CallerKind) -> Key {
        self.lanes.insert(Lane { responder, caller, streams: HashMap::new() })
    }

    /// A caller is gone: everything it asked for is cancelled.
    pub(crate) fn drop_lane(&mut self, lane: Key) {
        let Some(lane) = self.lanes.remove(lane) else { return };
        for key in lane.streams.into_values() {
            self.cancel(key);
        }
    }

    /// Whether everything that was asked is answered, and sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.exchanges.len() == 0
    }

    /// Handler threads end from now on.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.freed = true;
    }

    /// Whether handler threads end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Whether something was freed that another thread may be waiting for.
    pub(crate) fn take_freed(&mut self) -> bool {
        let wanted = self.stopped || self.gate.is_held() || !self.waiting.is_empty() || self.is_idle();
        std::mem::take(&mut self.freed) && wanted
    }

    /// Callers that were cut off since the last time.
    pub(crate) fn take_cut_off(&mut self) -> Vec<CutOff> {
        std::mem::take(&mut self.cut_off)
    }

    /// Wakers to call, without holding any lock.
    pub(crate) fn take_wakers(&mut self) -> Vec<SendWaker> {
        std::mem::take(&mut self.wake)
    }

    /// Takes in what every caller has sent; whether there was anything.
    pub(crate) fn poll(&mut self, now_ns: u64) -> bool {
        let mut progress = self.calls.poll(now_ns);
        for call in self.calls.take_touched() {
            self.wake.extend(self.call_wakers.remove(&call));
        }
        let keys: Vec<Key> = self.lanes.iter_mut().map(|(key, _)| key).collect();
        for key in keys {
            progress |= self.poll_lane(key);
        }
        progress
    }

    fn poll_lane(&mut self, key: Key) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let Some(lane) = self.lanes.get_mut(key) else { return false };
        let shape = &self.shape;
        let outcome = lane.responder.poll(POLL_BUDGET, &mut |event| events.push(Arrival::of(event, shape)));
        let progress = !events.is_empty();
        for event in events.drain(..) {
            self.take_in(key, event);
        }
        self.events = events;
        if let Err(fault) = outcome {
            self.fault(key, fault.to_string());
        }
        progress
    }

    fn fault(&mut self, lane: Key, fault: String) {
        if let Some(caller) = self.lanes.get(lane).map(|lane| lane.caller.clone()) {
            self.cut_off.push(CutOff { caller, fault });
            self.drop_lane(lane);
        }
    }

    fn take_in(&mut self, lane_key: Key, event: Arrival) {
        let Some(lane) = self.lanes.get_mut(lane_key) else { return };
        match event {
            Arrival::Open { stream, view, body, end } => {
                let view = match view {
                    Ok(view) => view,
                    Err(error) => {
                        return self.fault(lane_key, format!("a request's head is malformed: {error}"));
                    }
                };
                let exchange = Exchange {
                    lane: lane_key,
                    stream,
                    view,
                    entry: None,
                    phase: Phase::Waiting,
                    inbound: body.map(|block| (block, 0)).into_iter().collect(),
                    inbound_ended: end,
                    outbound: Outbound::default(),
                    cancelled: false,
                    returned: false,
                    holds_place: false,
                    holds_stream: true,
                    wakers: Wakers::default(),
                };
                let key = self.exchanges.insert(exchange);
                lane.streams.insert(stream, key);
                self.waiting.push_back(key);
            }
            Arrival::Data { stream, block, end } => {
                let exchange = lane.streams.get(&stream).and_then(|key| self.exchanges.get_mut(*key));
                match exchange {
                    Some(exchange) if exchange.phase != Phase::Ended => {
                        exchange.inbound.push_back((block, 0));
                        exchange.inbound_ended |= end;
                        self.wake.extend(exchange.wakers.read.take());
                    }
                    _ => lane.responder.give_back(block),
                }
            }
            Arrival::End(stream) => {
                if let Some(exchange) = lane.streams.get(&stream).and_then(|key| self.exchanges.get_mut(*key))
                {
                    exchange.inbound_ended = true;
                    self.wake.extend(exchange.wakers.read.take());
                }
            }
            Arrival::Cancel(stream) => {
                if let Some(key) = lane.streams.get(&stream).copied() {
                    self.cancel(key);
                }
            }
            Arrival::Room(stream) => {
                if let Some(key) = lane.streams.get(&stream).copied() {
                    self.pump(key);
                    if let Some(exchange) = self.exchanges.get_mut(key) {
                        self.wake.extend(exchange.wakers.write.take());
                    }
                }
            }
        }
    }

    /// The caller left. What was not taken never reaches the library; what was learns of it.
    fn cancel(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.cancelled = true;
        exchange.inbound_ended = true;
        let wakers = std::mem::take(&mut exchange.wakers);
        self.wake.extend([wakers.read, wakers.write, wakers.cancel].into_iter().flatten());
        match exchange.phase {
            Phase::Waiting => {
                // The channel has answered for itself: not taken.
                exchange.phase = Phase::Ended;
                exchange.returned = true;
                exchange.holds_stream = false;
                self.waiting.retain(|waiting| *waiting != key);
                self.forget(key);
            }
            Phase::Taken | Phase::Streaming => {}
            Phase::Ended => {
                exchange.outbound = Outbound::default();
                self.settle(key);
            }
        }
    }

    /// The next request that may enter the instance, taken.
    pub(crate) fn next(&mut self, now_ns: u64) -> Option<Key> {
        while self.open {
            let key = *self.waiting.front()?;
            let Some(exchange) = self.exchanges.get_mut(key) else {
                self.waiting.pop_front();
                continue;
            };
            if exchange.is_late(now_ns) {
                // Nobody waits any more; its caller has answered by itself, and moving it would be pointless.
                self.waiting.pop_front();
                exchange.phase = Phase::Ended;
                exchange.returned = true;
                self.reset(key, ResetCode::Deadline);
                self.forget(key);
                continue;
            }
            if self.ongoing >= self.limit {
                return None;
            }
            let entry = self.shape.entry(&exchange.view);
            if let Some(entry) = entry
                && !self.gate.enter_request(entry)
            {
                return None;
            }
            exchange.entry = entry;
            exchange.phase = Phase::Taken;
            exchange.holds_place = true;
            let (lane, stream) = (exchange.lane, exchange.stream);
            self.waiting.pop_front();
            self.ongoing += 1;
            self.board.set_ongoing(u64::from(self.ongoing));
            if let Some(lane) = self.lanes.get_mut(lane)
                && !lane.responder.take(stream)
            {
                // Withdrawn at this very moment: its cancellation is in the ring, and finds it ended.
                exchange.phase = Phase::Ended;
                exchange.returned = true;
                exchange.holds_stream = false;
                self.settle(key);
                continue;
            }
            if entry.is_some() {
                return Some(key);
            }
            self.refuse_unknown(key);
        }
        None
    }

    fn refuse_unknown(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.returned = true;
        let message = match exchange.view.kind() {
            Kind::Http => "this deployment has no HTTP side; it is reached by handle only".to_owned(),
            Kind::Call => {
                let names: Vec<&str> = self.shape.methods.iter().map(|(name, _)| name.as_str()).collect();
                format!(
                    "there is no method '{}'; available methods: {}",
                    exchange.view.method(),
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                )
            }
        };
        let _ = self.fail(key, 404, &message);
        self.settle(key);
    }

    /// Copies body bytes into `buffer`.
    pub(crate) fn read(&mut self, key: Key, buffer: &mut [u8], now_ns: u64) -> Read {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Read::Invalid };
        if exchange.phase == Phase::Ended {
            return Read::Invalid;
        }
        if exchange.is_cancelled(now_ns) {
            return Read::Cancelled;
        }
        let Some(lane) = self.lanes.get_mut(exchange.lane) else { return Read::Cancelled };
        let mut copied = 0;
        while copied < buffer.len() {
            let Some((block, at)) = exchange.inbound.front_mut() else { break };
            let count = lane.responder.copy_to(block, *at, &mut buffer[copied..]);
            copied += count;
            *at += count;
            if *at < block.len() && count > 0 {
                break;
            }
            if let Some((block, _)) = exchange.inbound.pop_front() {
                lane.responder.give_back(block);
            }
        }
        match copied {
            0 if buffer.is_empty() => Read::Some(0),
            0 if exchange.inbound_ended => Read::End,
            0 => Read::Wait,
            copied => Read::Some(copied),
        }
    }

    /// Answers with a whole body and ends the exchange. Where there is no room, the rest is kept and sent as room
    /// comes.
    pub(crate) fn respond(
        &mut self,
        key: Key,
        head: ResponseHead,
        headers: &[(&[u8], &[u8])],
        body: &[u8],
    ) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        if exchange.phase != Phase::Taken {
            return Wrote::Invalid;
        }
        exchange.phase = Phase::Ended;
        let cancelled = exchange.cancelled;
        let mut record = std::mem::take(&mut self.scratch);
        record.clear();
        head.encode(headers.iter().copied(), &mut record);
        if let Some(lane) = self.lanes.get_mut(exchange.lane)
            && !cancelled
        {
            let inline = if record.len() + body.len() <= BLOCK_MAX { body } else { &[] };
            let end = inline.len() == body.len();
            let sent = lane.responder.head(exchange.stream, &record, inline, end).is_ok();
            if !(sent && end) {
                let head = if sent { None } else { Some(record.clone()) };
                exchange.outbound = Outbound { head, body: body.to_vec(), sent: 0, open: true };
            }
        }
        self.scratch = record;
        self.pump(key);
        if cancelled { Wrote::Cancelled } else { Wrote::Done(body.len()) }
    }

    /// Sends what is left of a whole answer, as far as there is room.
    fn pump(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(lane) = self.lanes.get_mut(exchange.lane) else { return };
        let outbound = &mut exchange.outbound;
        if !outbound.open {
            return;
        }
        if let Some(head) = outbound.head.take() {
            let end = outbound.body.is_empty();
            if lane.responder.head(exchange.stream, &head, &[], end).is_err() {
                outbound.head = Some(head);
                return;
            }
            outbound.open = !end;
        }
        while outbound.open {
            let rest = &outbound.body[outbound.sent..];
            let Ok(mut block) = lane.responder.block(exchange.stream, rest.len().min(BLOCK_MAX)) else {
                return;
            };
            outbound.sent += lane.responder.fill(&mut block, rest);
            outbound.open = outbound.sent < outbound.body.len();
            lane.responder.send(exchange.stream, block, !outbound.open);
        }
        exchange.outbound = Outbound::default();
        self.settle(key);
    }

    /// Starts a streamed answer.
    pub(crate) fn respond_start(
        &mut self,
        key: Key,
        head: ResponseHead,
        headers: &[(&[u8], &[u8])],
    ) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        if exchange.phase != Phase::Taken {
            return Wrote::Invalid;
        }
        if exchange.cancelled {
            return Wrote::Cancelled;
        }
        let Some(lane) = self.lanes.get_mut(exchange.lane) else { return Wrote::Cancelled };
        self.scratch.clear();
        head.encode(headers.iter().copied(), &mut self.scratch);
        if lane.responder.head(exchange.stream, &self.scratch, &[], false).is_err() {
            return Wrote::Wait;
        }
        exchange.phase = Phase::Streaming;
        Wrote::Done(0)
    }

    /// Sends bytes of a streamed answer; how many found room.
    pub(crate) fn write(&mut self, key: Key, bytes: &[u8], now_ns: u64) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        if exchange.phase != Phase::Streaming {
            return Wrote::Invalid;
        }
        if exchange.is_cancelled(now_ns) {
            return Wrote::Cancelled;
        }
        if bytes.is_empty() {
            return Wrote::Done(0);
        }
        let Some(lane) = self.lanes.get_mut(exchange.lane) else { return Wrote::Cancelled };
        let Ok(mut block) = lane.responder.block(exchange.stream, bytes.len().min(BLOCK_MAX)) else {
            return Wrote::Wait;
        };
        let count = lane.responder.fill(&mut block, bytes);
        lane.responder.send(exchange.stream, block, false);
        Wrote::Done(count)
    }

    /// Ends a streamed answer.
    pub(crate) fn finish(&mut self, key: Key) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        if exchange.phase != Phase::Streaming {
            return Wrote::Invalid;
        }
        exchange.phase = Phase::Ended;
        if let Some(lane) = self.lanes.get_mut(exchange.lane)
            && !exchange.cancelled
        {
            lane.responder.end(exchange.stream);
        }
        self.settle(key);
        Wrote::Done(0)
    }

    /// Ends an exchange as failed: an answer with `code` and `text`, or a cut where an answer was started.
    pub(crate) fn fail(&mut self, key: Key, code: u16, text: &str) -> Wrote {
        let Some(exchange) = self.exchanges.get_mut(key) else { return Wrote::Invalid };
        match exchange.phase {
            Phase::Taken => {
                let head = ResponseHead {
                    status: code,
                    content_length: Some(text.len() as u64),
                    encoding: encoding::RAW,
                };
                let headers: &[(&[u8], &[u8])] = match exchange.view.kind() {
                    Kind::Http => &[(b"content-type", b"text/plain; charset=utf-8")],
                    Kind::Call => &[],
                };
                self.respond(key, head, headers, text.as_bytes())
            }
            Phase::Streaming => {
                exchange.phase = Phase::Ended;
                self.reset(key, ResetCode::Failed);
                self.settle(key);
                Wrote::Done(0)
            }
            Phase::Waiting | Phase::Ended => Wrote::Invalid,
        }
    }

    /// The entry of an exchange has returned.
    pub(crate) fn returned(&mut self, key: Key) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.returned = true;
            self.settle(key);
        }
    }

    /// Frees the place of an exchange that is done, and forgets it once its answer is sent.
    fn settle(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.is_done() {
            return;
        }
        if std::mem::take(&mut exchange.holds_place) {
            self.ongoing -= 1;
            self.freed = true;
            self.board.set_ongoing(u64::from(self.ongoing));
            self.processed += 1;
            self.board.set_processed(self.processed);
            if let Some(entry) = exchange.entry {
                self.gate.leave(entry);
            }
        }
        if !exchange.outbound.open {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.remove(key) else { return };
        let Some(lane) = self.lanes.get_mut(exchange.lane) else { return };
        for (block, _) in exchange.inbound {
            lane.responder.give_back(block);
        }
        if exchange.cancelled && exchange.holds_stream {
            lane.responder.reset(exchange.stream, ResetCode::Cancelled);
        }
        lane.streams.remove(&exchange.stream);
    }

    fn reset(&mut self, key: Key, code: ResetCode) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.holds_stream = false;
        if let Some(lane) = self.lanes.get_mut(exchange.lane) {
            lane.responder.reset(exchange.stream, code);
        }
    }

    /// Whether an exchange's caller has left or its time is up; `true` for one that is over.
    pub(crate) fn is_cancelled(&self, key: Key, now_ns: u64) -> bool {
        self.exchanges.get(key).is_none_or(|exchange| exchange.is_cancelled(now_ns))
    }

    /// An exchange in progress.
    pub(crate) fn exchange(&mut self, key: Key) -> Option<&mut Exchange> {
        self.exchanges.get_mut(key)
    }

    /// Publishes what was written: at most one doorbell for each caller that sleeps.
    pub(crate) fn flush(&mut self) {
        for (_, lane) in self.lanes.iter_mut() {
            lane.responder.flush();
        }
        self.calls.flush();
    }

    /// Announces that this side is about to sleep; `false` where something has come in meanwhile.
    #[must_use]
    pub(crate) fn arm(&mut self) -> bool {
        let mut quiet = self.calls.arm();
        for (_, lane) in self.lanes.iter_mut() {
            quiet &= lane.responder.arm();
        }
        quiet
    }

    /// Takes the announcement back, on waking.
    pub(crate) fn disarm(&mut self) {
        self.calls.disarm();
    }

    /// Calls `waker` once something became of a call.
    pub(crate) fn wake_on(&mut self, call: CallKey, waker: SendWaker) {
        self.call_wakers.insert(call, waker);
    }

    /// When something has to happen although nothing comes in, in CLOCK_MONOTONIC nanoseconds.
    pub(crate) fn next_timer(&mut self) -> Option<u64> {
        let pending = self.exchanges.iter_mut().filter(|(_, exchange)| exchange.wakers.any());
        let deadline =
            pending.map(|(_, exchange)| exchange.view.request().deadline_ns).filter(|at| *at != 0).min();
        deadline.into_iter().chain(self.calls.next_timer()).min()
    }

    /// Wakes what waits for an exchange whose time is up.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        for (_, exchange) in self.exchanges.iter_mut() {
            if exchange.wakers.any() && exchange.is_late(now_ns) {
                let wakers = std::mem::take(&mut exchange.wakers);
                self.wake.extend([wakers.read, wakers.write, wakers.cancel].into_iter().flatten());
            }
        }
    }
}
