//! The side of a handle that decides: which replica of which deployment a call goes to, and what becomes of it.
//!
//! One per process with handles. Takes `now_ns` (CLOCK_MONOTONIC), never waits; its owner polls it, sleeps on its
//! lanes' bells, and carries descriptors. Views come from the supervisor; calls go straight to replicas, also
//! while it is dead.
//!
//! A call **waits** here while no replica has room (bounded by the deployment's `max_queued_requests`), is **sent**
//! to the least loaded one, and is sent again elsewhere if that replica dies, or gives it back, before taking it.

mod call;
mod callee;
mod joins;
mod own_map;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};

use call::{Call, ReplyHead, Sent, State};
pub use call::{CallError, CallKey, Fields, NewCall, Outcome, Reply};
use callee::{Callee, Peer, Wish};
use joins::Joins;
pub use joins::{JOIN_FIRST, JOIN_MAX, JoinKey};
use own_map::OwnMap;

use crate::adoption::Standing;
use crate::attach::Connected;
use crate::channel::{Busy, Event, InBlock, Phase, ResetCode, StreamId};
use crate::control::{Availability, CallerOrder, CallerReport, DeploymentView};
use crate::epoch::{Entered, Epoch};
use crate::record::{HEAD_MAX, RecordError};
use crate::sys::bell::BellReader;

/// Slots taken from one replica before the next has its turn.
const POLL_BUDGET: u32 = 256;
/// Calls of one process that are not freed, at most.
pub const CALLS_MAX: usize = 65_536;
/// Bytes of a whole reply, at most.
pub const REPLY_MAX: usize = 1 << 30;
/// Bytes of a streamed reply kept here before the callee has to wait.
const STREAM_BUFFER: usize = 256 * 1024;

/// Why there is no channel to a replica, where it has closed its end.
pub const HUNG_UP: &str = "it has hung up";
/// And where the order to join came without its socket: this process has too many descriptors.
pub const NO_SOCKET: &str = "the socket to join by did not arrive";

/// A request was on its way for so long that it was not waited for any more.
const PAST: &str =
    "the set of deployments has changed over to other versions, and those that this request entered are gone";

/// All calls of one process.
#[derive(Debug, Default)]
pub struct Caller {
    callees: BTreeMap<DeploymentName, Callee>,
    peers: BTreeMap<ReplicaId, Peer>,
    /// Replicas whose channel is on its way.
    joins: Joins,
    calls: OwnMap<CallKey, Call>,
    last_call: u64,
    deadlines: BTreeSet<(u64, CallKey)>,
    reports: Vec<CallerReport>,
    /// Watched calls that something has become of.
    touched: Vec<CallKey>,
    /// Sent calls whose arguments found no room so far.
    partly_sent: BTreeSet<CallKey>,
    /// Calls that have entered here before the present epoch.
    entered: Entered<CallKey>,
    /// Of one poll, and kept for the next: replicas that have sent something, and what one has sent.
    heard: Vec<ReplicaId>,
    news: Vec<News>,
}

/// What a lane told of one stream, copied out of its callback.
#[derive(Debug)]
enum News {
    Head { stream: StreamId, head: Result<ReplyHead, RecordError>, body: Option<InBlock>, end: bool },
    Data { stream: StreamId, block: InBlock, end: bool },
    End(StreamId),
    Reset(StreamId, ResetCode),
    Room(StreamId),
    Vacancy,
}

impl News {
    fn of(event: Event<'_>) -> Self {
        match event {
            Event::Head { stream, head, body, end } => {
                News::Head { stream, head: ReplyHead::read(head), body, end }
            }
            Event::Data { stream, block, end } => News::Data { stream, block, end },
            Event::End(stream) => News::End(stream),
            Event::Reset { stream, code, .. } => News::Reset(stream, code),
            Event::Room(stream) => News::Room(stream),
            Event::Vacancy => News::Vacancy,
        }
    }
}

impl Caller {
    /// Knows nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a word of the supervisor. For `Attach`: the replica to connect to; tell with
    /// [`attached`](Self::attached) what came of it, or [`unanswered`](Self::unanswered).
    pub fn handle(&mut self, order: CallerOrder) -> Option<ReplicaId> {
        match order {
            CallerOrder::Attach { replica, .. } => {
                self.joins.begin(&replica);
                return Some(replica);
            }
            CallerOrder::View { generation, view, deployment, known } => {
                let callee = self.callees.entry(deployment).or_default();
                callee.announce(generation, view, known);
                self.settle_views();
            }
            CallerOrder::Detach { replica, .. } => self.died(&replica),
        }
        None
    }

    /// Names the wish for a channel that is on its way; `None`: it is not wanted any more.
    #[must_use]
    pub fn joining(&self, replica: &ReplicaId) -> Option<JoinKey> {
        self.joins.key(replica)
    }

    /// A replica did not answer in time: views do without it. How long to wait for its answer again, each time
    /// longer; `None`: it is not wanted any more.
    pub fn unanswered(&mut self, replica: &ReplicaId, key: JoinKey) -> Option<Duration> {
        let named = self.callees.values().any(|callee| callee.names(replica));
        let patience = self.joins.unanswered(replica, key, named);
        self.settle_views();
        patience
    }

    /// A channel to a replica is there, or could not be made, and why: the supervisor is asked for another.
    pub fn attached(&mut self, replica: ReplicaId, channel: Result<Connected, String>) {
        self.joins.end(&replica);
        let lane = channel.and_then(|Connected { mut lanes, board, .. }| {
            Ok((lanes.pop().ok_or("the channel has no lane")?, board))
        });
        match lane {
            Err(why) => self.reports.push(CallerReport::Lost { replica: replica.clone(), why }),
            Ok((lane, board)) => {
                // Joined anew: what went by the channel before is settled.
                self.bury(&replica);
                self.peers.insert(replica.clone(), Peer::new(lane, board));
            }
        }
        self.settle_views();
        // Calls may wait for one that is late: its view is current already.
        self.place_freed(&replica);
    }

    /// A replica is dead, or to be treated so: what it had is settled.
    pub fn died(&mut self, replica: &ReplicaId) {
        self.joins.end(replica);
        self.bury(replica);
        self.settle_views();
        self.tell_entered();
    }

    /// The channel to a replica has ended, though nobody says that the replica has: what it had is settled, and the
    /// supervisor is asked for another channel, unless one is on its way.
    pub fn lost(&mut self, replica: &ReplicaId, why: &str) {
        if !self.peers.contains_key(replica) {
            return;
        }
        if self.joins.key(replica).is_none() {
            self.reports.push(CallerReport::Lost { replica: replica.clone(), why: why.to_owned() });
        }
        self.bury(replica);
        self.settle_views();
        self.tell_entered();
    }

    /// Asks for a deployment, so that [`find`](Self::find) will know.
    pub fn resolve(&mut self, deployment: &DeploymentName) {
        if !self.callees.contains_key(deployment) {
            self.callees.insert(deployment.clone(), Callee::default());
            self.reports.push(CallerReport::Resolve(deployment.clone()));
        }
    }

    /// What to tell a supervisor that knows nothing of this process: which deployments it calls, and by which channels.
    #[must_use]
    pub fn rejoin(&self) -> Vec<CallerReport> {
        let standing = |(name, callee): (&DeploymentName, &Callee)| {
            let usable = self.peers.iter().filter(|(replica, peer)| !peer.dead && callee.names(replica));
            let replicas = usable.map(|(replica, _)| replica.clone()).collect();
            CallerReport::Rejoin(Standing { deployment: name.clone(), replicas })
        };
        self.callees.iter().map(standing).collect()
    }

    /// What is known of a deployment; `None`: nothing yet, [`resolve`](Self::resolve) it.
    ///
    /// # Errors
    /// [`CallError::NotFound`] where the supervisor says that there is none.
    pub fn find(&self, deployment: &DeploymentName) -> Result<Option<&DeploymentView>, CallError> {
        match self.callees.get(deployment) {
            Some(callee) => callee.check(deployment),
            None => Ok(None),
        }
    }

    /// A deployment that has been asked for and exists, with its name as it is kept.
    #[must_use]
    pub fn known(&self, deployment: &str) -> Option<(&DeploymentName, &DeploymentView)> {
        let (name, callee) = self.callees.get_key_value(deployment)?;
        Some((name, callee.check(name).ok()??))
    }

    /// Starts a call.
    ///
    /// # Errors
    /// Nothing was sent: there is no such deployment, it can't serve, or too many calls wait.
    pub fn start(&mut self, new: NewCall<'_>, now_ns: u64) -> Result<CallKey, CallError> {
        if self.calls.len() >= CALLS_MAX {
            return Err(CallError::Busy { waiting: self.calls.len() });
        }
        let call = Call::new(new);
        let length = call.head_length();
        if length > HEAD_MAX {
            return Err(CallError::TooLarge { length });
        }
        self.resolve(&call.deployment);
        let Some(callee) = self.callees.get_mut(&call.deployment) else { return Err(CallError::Broken) };
        if let Some(view) = callee.check(&call.deployment)? {
            if let Availability::Failed(why) = &view.availability
                && view.replicas.is_empty()
            {
                return Err(CallError::Unavailable(why.clone()));
            }
            let bound = view.max_queued_requests.map_or(usize::MAX, |bound| bound as usize);
            let epoch = call.of_epoch.unwrap_or(view.entry);
            let room = view
                .in_rotation_at(epoch)
                .filter_map(|id| self.peers.get(id))
                .any(|peer| peer.has_room(view));
            if !room && callee.waiting.len() >= bound {
                return Err(CallError::Busy { waiting: callee.waiting.len() });
            }
        }
        if call.deadline_ns != 0 && now_ns >= call.deadline_ns {
            return Err(CallError::Deadline);
        }
        self.last_call += 1;
        let key = CallKey(self.last_call);
        if call.deadline_ns != 0 {
            self.deadlines.insert((call.deadline_ns, key));
        }
        callee.waiting.push_back(key);
        let deployment = call.deployment.clone();
        self.calls.insert(key, call);
        self.dispatch(&deployment);
        Ok(key)
    }

    /// What became of a call so far. `Failed` for one that was freed.
    pub fn outcome(&self, key: CallKey) -> Outcome {
        self.calls.get(&key).map_or(Outcome::Failed(CallError::Cancelled), Call::outcome)
    }

    /// The reply of a call as far as it has come: status, encoding and header fields stand. `None`: nothing yet.
    ///
    /// # Errors
    /// What ended the call before its reply began.
    pub fn head(&self, key: CallKey) -> Result<Option<&Reply>, CallError> {
        let Some(call) = self.calls.get(&key) else { return Err(CallError::Cancelled) };
        match (call.begun(), call.outcome()) {
            (Some(reply), _) => Ok(Some(reply)),
            (None, Outcome::Failed(error)) => Err(error),
            (None, _) => Ok(None),
        }
    }

    /// From now on its reply is [read](Self::read) as it streams in, and not kept as a whole.
    pub fn stream(&mut self, key: CallKey) {
        if let Some(call) = self.calls.get_mut(&key) {
            call.stream();
        }
    }

    /// Replicas of a deployment that take calls now; `None`: nothing is known yet, [`resolve`](Self::resolve) it.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn replicas(&self, deployment: &DeploymentName) -> Result<Option<Vec<ReplicaId>>, CallError> {
        Ok(self.find(deployment)?.map(|view| view.replicas.clone()))
    }

    /// Takes the whole reply of a call that is `Ready`.
    pub fn take_reply(&mut self, key: CallKey) -> Option<Reply> {
        self.calls.get_mut(&key).and_then(Call::take_reply)
    }

    /// Reads from a reply as it streams in: how many bytes, 0 at its end, `None` where none is there yet. A reply
    /// that is read so is not kept as a whole.
    ///
    /// # Errors
    /// What ended the call before its reply was complete.
    pub fn read(&mut self, key: CallKey, buffer: &mut [u8]) -> Result<Option<usize>, CallError> {
        let Some(call) = self.calls.get_mut(&key) else { return Err(CallError::Cancelled) };
        let count = call.read(buffer)?;
        if let Some(sent) = call.sent.clone()
            && call.held_back() < STREAM_BUFFER
        {
            self.absorb(key, &sent);
        }
        Ok(count)
    }

    /// Nobody waits for this call any more. It still has to be freed.
    pub fn cancel(&mut self, key: CallKey) {
        self.end(key, CallError::Cancelled);
        self.tell_entered();
    }

    /// Forgets a call, cancelling it where it still runs.
    pub fn free(&mut self, key: CallKey) {
        self.end(key, CallError::Cancelled);
        if let Some(call) = self.calls.remove(&key) {
            self.deadlines.remove(&(call.deadline_ns, key));
        }
        self.tell_entered();
    }

    /// Puts a call among those that [`take_touched`](Self::take_touched) tells of, once.
    pub fn watch(&mut self, key: CallKey) {
        if let Some(call) = self.calls.get_mut(&key) {
            call.watched = true;
        }
    }

    fn touch(&mut self, key: CallKey) {
        if let Some(call) = self.calls.get_mut(&key)
            && std::mem::take(&mut call.watched)
        {
            self.touched.push(key);
        }
    }

    /// Takes in what every replica has sent, and what time has ended; whether there was anything.
    pub fn poll(&mut self, now_ns: u64) -> bool {
        let mut progress = false;
        let mut heard = std::mem::take(&mut self.heard);
        let with_news = self.peers.iter().filter(|(_, peer)| peer.lane.has_news());
        heard.extend(with_news.map(|(replica, _)| replica.clone()));
        for replica in heard.drain(..) {
            progress |= self.poll_peer(&replica);
        }
        self.heard = heard;
        while let Some((deadline, key)) = self.deadlines.first().copied()
            && now_ns >= deadline
        {
            self.deadlines.pop_first();
            self.end(key, CallError::Deadline);
            progress = true;
        }
        self.tell_entered();
        progress
    }

    /// Whether a replica has sent something: a cheap look.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.peers.values().any(|peer| peer.lane.has_news())
    }

    /// Whether a sleeper that armed before a call wanted room is to be woken for it.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.peers.values().any(|peer| peer.lane.is_unheard())
    }

    /// Whether there are calls that have yet to be sent, in whole or in part.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.partly_sent.is_empty() || self.callees.values().any(|callee| !callee.waiting.is_empty())
    }

    /// Whether there are words for the supervisor.
    #[must_use]
    pub fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// Watched calls that something has become of since the last time.
    pub fn take_touched(&mut self) -> Vec<CallKey> {
        std::mem::take(&mut self.touched)
    }

    /// Words for the supervisor.
    pub fn take_reports(&mut self) -> Vec<CallerReport> {
        std::mem::take(&mut self.reports)
    }

    /// Publishes what was written: at most one doorbell for each replica that sleeps.
    pub fn flush(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.lane.flush());
    }

    /// Announces that this side is about to sleep; `false` where something has come in meanwhile.
    #[must_use]
    pub fn arm(&mut self) -> bool {
        // Each lane is armed, also behind one that has news.
        let mut quiet = true;
        for peer in self.peers.values_mut() {
            quiet &= peer.lane.arm();
        }
        quiet
    }

    /// The bell of a replica's lane, to sleep on.
    #[must_use]
    pub fn bell(&self, replica: &ReplicaId) -> Option<BellReader> {
        self.peers.get(replica).and_then(|peer| peer.lane.bell_reader().ok())
    }

    /// Whether there is a channel to a replica.
    #[must_use]
    pub fn has_channel(&self, replica: &ReplicaId) -> bool {
        self.peers.contains_key(replica)
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_timer(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Makes announced views current whose replicas are all attached, or given up.
    fn settle_views(&mut self) {
        let ready: Vec<DeploymentName> = (self.callees.iter())
            .filter(|(_, callee)| callee.is_ready(self.joins.awaited()))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ready {
            if let Some(callee) = self.callees.get_mut(&name)
                && let Some(generation) = callee.apply()
            {
                self.reports.push(CallerReport::Applied { deployment: name.clone(), generation });
            }
            self.retire();
            self.dispatch(&name);
            self.renew_entry();
        }
    }

    /// A view has come: calls enter by another epoch perhaps, and those that came before are told apart.
    fn renew_entry(&mut self) {
        let Some(entry) = self.callees.values().filter_map(Callee::entry).min() else { return };
        let calls = &self.calls;
        self.entered.enter(entry, || {
            calls.iter().filter(|(_, call)| call.has_entered_before(entry)).map(|(key, _)| *key).collect()
        });
        self.tell_entered();
    }

    fn tell_entered(&mut self) {
        let calls = &self.calls;
        let is_left =
            |key: &CallKey, entry| calls.get(key).is_some_and(|call| call.has_entered_before(entry));
        if let Some(oldest) = self.entered.news(is_left) {
            self.reports.push(CallerReport::Oldest(oldest));
        }
    }

    /// Lets go of replicas that no view names any more, once they have nothing of ours. Those that none has named
    /// yet were joined for a view that is on its way.
    fn retire(&mut self) {
        let callees = &self.callees;
        self.peers.retain(|replica, peer| {
            let named = callees.values().any(|callee| callee.names(replica));
            peer.named |= named;
            peer.lane.in_flight() > 0 || named || !peer.named
        });
    }

    /// Sends what waits for a deployment, as far as its replicas have room. Who asks for one replica that has none is
    /// passed by, and loses no place.
    fn dispatch(&mut self, deployment: &DeploymentName) {
        self.send_waiting(deployment);
        self.tell_waiting(deployment);
    }

    fn tell_waiting(&mut self, deployment: &DeploymentName) {
        if let Some(count) = self.callees.get_mut(deployment).and_then(Callee::news_of_waiting) {
            self.reports.push(CallerReport::Waiting { deployment: deployment.clone(), count });
        }
    }

    fn send_waiting(&mut self, deployment: &DeploymentName) {
        let mut place = 0;
        // For which no replica has room.
        let mut full: Vec<Epoch> = Vec::new();
        while let Some(callee) = self.callees.get_mut(deployment) {
            let Some(key) = callee.waiting.get(place).copied() else { return };
            callee.turn = callee.turn.wrapping_add(1);
            let turn = callee.turn;
            let view = match callee.check(deployment) {
                Ok(Some(view)) => view,
                Ok(None) => return,
                Err(error) => {
                    callee.waiting.remove(place);
                    self.end(key, error);
                    continue;
                }
            };
            let Some(call) = self.calls.get_mut(&key) else {
                callee.waiting.remove(place);
                continue;
            };
            let only = call.only.clone();
            let epoch = call.of_epoch.unwrap_or(view.entry);
            let refusal = match (&only, &view.availability) {
                (Some(only), _) if !view.replicas.contains(only) => Some(CallError::Gone(only.clone())),
                (None, _) if view.is_past(epoch) => Some(CallError::Unavailable(PAST.to_owned())),
                (_, Availability::Failed(why)) if view.replicas.is_empty() => {
                    Some(CallError::Unavailable(why.clone()))
                }
                _ => None,
            };
            if let Some(error) = refusal {
                callee.waiting.remove(place);
                self.end(key, error);
                continue;
            }
            if only.is_none() && (full.contains(&epoch) || !view.knows(epoch)) {
                place += 1;
                continue;
            }
            let mut tried = Vec::new();
            let sent = loop {
                let wish = Wish { turn, model: call.model, only: only.as_ref(), tried: &tried, epoch };
                let Some(replica) = callee::least_loaded(view, &self.peers, wish).cloned() else {
                    break None;
                };
                let Some(peer) = self.peers.get_mut(&replica) else { break None };
                match call.open(&mut peer.lane, epoch) {
                    Ok(stream) => break Some((stream, replica)),
                    Err(Busy::Streams | Busy::Arena | Busy::TooLarge | Busy::Dead) => tried.push(replica),
                }
            };
            let Some((stream, replica)) = sent else {
                if only.is_none() {
                    if view.is_of_one_version() {
                        return;
                    }
                    full.push(epoch);
                }
                place += 1;
                continue;
            };
            callee.waiting.remove(place);
            if let Some(peer) = self.peers.get_mut(&replica) {
                peer.streams.insert(stream, key);
            }
            call.sent = Some(Sent { replica, stream });
            call.state = State::Sent;
            self.pump(key);
        }
    }

    /// Sends more of a call's arguments.
    fn pump(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(sent) = call.sent.clone() else { return };
        if let Some(peer) = self.peers.get_mut(&sent.replica) {
            call.pump(&mut peer.lane, sent.stream);
        }
        if call.is_partly_sent() {
            self.partly_sent.insert(key);
        } else {
            self.partly_sent.remove(&key);
        }
    }

    fn poll_peer(&mut self, replica: &ReplicaId) -> bool {
        let Some(peer) = self.peers.get_mut(replica) else { return false };
        let mut news = std::mem::take(&mut self.news);
        let outcome = peer.lane.poll(POLL_BUDGET, &mut |event| news.push(News::of(event)));
        let progress = !news.is_empty();
        for item in news.drain(..) {
            self.take_in(replica, item);
        }
        self.news = news;
        if let Err(fault) = outcome {
            self.reports.push(CallerReport::Fault { replica: replica.clone(), fault: fault.to_string() });
            self.died(replica);
        }
        progress
    }

    fn take_in(&mut self, replica: &ReplicaId, news: News) {
        let Some(peer) = self.peers.get_mut(replica) else { return };
        match news {
            News::Head { stream, head, body, end } => {
                let Some(key) = peer.streams.get(&stream).copied() else {
                    return body.into_iter().for_each(|block| peer.lane.give_back(block));
                };
                let head = match head {
                    Ok(head) => head,
                    Err(error) => {
                        body.into_iter().for_each(|block| peer.lane.give_back(block));
                        let fault = format!("a reply's head is malformed: {error}");
                        self.reports.push(CallerReport::Fault { replica: replica.clone(), fault });
                        return self.died(replica);
                    }
                };
                if let Some(call) = self.calls.get_mut(&key) {
                    call.begin_reply(head);
                }
                self.touch(key);
                self.data(replica, stream, body, end);
            }
            News::Data { stream, block, end } => self.data(replica, stream, Some(block), end),
            News::End(stream) => self.data(replica, stream, None, true),
            News::Reset(stream, code) => {
                let Some(key) = peer.streams.remove(&stream) else { return };
                match code {
                    ResetCode::NotTaken => {
                        if let Some(deployment) = self.send_again(key) {
                            self.dispatch(&deployment);
                        }
                    }
                    ResetCode::Cancelled => self.end(key, CallError::Cancelled),
                    ResetCode::Deadline => self.end(key, CallError::Deadline),
                    ResetCode::Failed | ResetCode::Protocol => self.end(key, CallError::Broken),
                }
                self.place_freed(replica);
            }
            News::Room(stream) => {
                if let Some(key) = peer.streams.get(&stream).copied() {
                    self.pump(key);
                }
            }
            News::Vacancy => self.place_freed(replica),
        }
    }

    /// Body of a reply, and perhaps its end.
    fn data(&mut self, replica: &ReplicaId, stream: StreamId, block: Option<InBlock>, end: bool) {
        let Some(peer) = self.peers.get_mut(replica) else { return };
        let Some(key) = peer.streams.get(&stream).copied() else {
            return block.into_iter().for_each(|block| peer.lane.give_back(block));
        };
        let Some(call) = self.calls.get_mut(&key) else {
            // Freed while it ran: its stream only waits for its end.
            block.into_iter().for_each(|block| peer.lane.give_back(block));
            if end {
                peer.streams.remove(&stream);
                self.place_freed(replica);
            }
            return;
        };
        call.blocks.extend(block);
        let sent = Sent { replica: replica.clone(), stream };
        if !call.is_streamed() || call.held_back() < STREAM_BUFFER {
            self.absorb(key, &sent);
        }
        if !end {
            return;
        }
        let Some(peer) = self.peers.get_mut(replica) else { return };
        peer.streams.remove(&stream);
        if let Some(call) = self.calls.get_mut(&key) {
            call.complete(&mut peer.lane, stream);
            self.partly_sent.remove(&key);
            self.touch(key);
        }
        self.place_freed(replica);
    }

    /// Copies what has come of a reply, and gives its blocks back.
    fn absorb(&mut self, key: CallKey, sent: &Sent) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(peer) = self.peers.get_mut(&sent.replica) else { return };
        if call.absorb(&mut peer.lane) {
            self.touch(key);
        } else {
            self.end(key, CallError::Broken);
        }
    }

    /// A call that was not taken waits again, first in line.
    fn send_again(&mut self, key: CallKey) -> Option<DeploymentName> {
        let call = self.calls.get_mut(&key).filter(|call| matches!(call.state, State::Sent))?;
        call.withdraw();
        self.partly_sent.remove(&key);
        let deployment = call.deployment.clone();
        self.callees.get_mut(&deployment)?.waiting.push_front(key);
        Some(deployment)
    }

    /// Ends a call that is not complete yet.
    fn end(&mut self, key: CallKey, error: CallError) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if !matches!(call.state, State::Waiting | State::Sent | State::Replying) {
            return;
        }
        call.state = State::Failed(error);
        self.deadlines.remove(&(call.deadline_ns, key));
        self.partly_sent.remove(&key);
        let blocks = std::mem::take(&mut call.blocks);
        match call.sent.take() {
            Some(sent) => {
                if let Some(peer) = self.peers.get_mut(&sent.replica) {
                    blocks.into_iter().for_each(|block| peer.lane.give_back(block));
                    if peer.streams.contains_key(&sent.stream) {
                        peer.lane.cancel(sent.stream);
                    }
                }
            }
            None => {
                let deployment = call.deployment.clone();
                if let Some(callee) = self.callees.get_mut(&deployment) {
                    callee.waiting.retain(|waiting| *waiting != key);
                }
                self.tell_waiting(&deployment);
            }
        }
        self.touch(key);
    }

    /// A replica has room again.
    fn place_freed(&mut self, replica: &ReplicaId) {
        let (mut named, mut waiting) = (false, Vec::new());
        for (name, callee) in self.callees.iter().filter(|(_, callee)| callee.names(replica)) {
            named = true;
            if !callee.waiting.is_empty() {
                waiting.push(name.clone());
            }
        }
        if !named {
            self.retire();
        }
        waiting.iter().for_each(|name| self.dispatch(name));
    }

    /// Settles what a dead replica had: what it had answered is delivered, what it had not taken goes elsewhere, the
    /// rest is broken.
    fn bury(&mut self, replica: &ReplicaId) {
        let Some(peer) = self.peers.get_mut(replica) else { return };
        if std::mem::replace(&mut peer.dead, true) {
            return;
        }
        let mut last = Vec::new();
        let orphans = peer.lane.died(&mut |event| last.push(News::of(event)));
        for news in last {
            self.take_in(replica, news);
        }
        let Some(Peer { mut streams, .. }) = self.peers.remove(replica) else { return };
        let not_taken = orphans.iter().filter(|orphan| orphan.phase == Phase::NotTaken);
        let again: Vec<CallKey> = not_taken.filter_map(|orphan| streams.remove(&orphan.stream)).collect();
        for key in streams.into_values() {
            self.forget_sent(key);
            self.end(key, CallError::Broken);
        }
        // The first sent stands first in line again.
        for key in again.into_iter().rev() {
            let _ = self.send_again(key);
        }
        let names: Vec<DeploymentName> = self.callees.keys().cloned().collect();
        names.iter().for_each(|name| self.dispatch(name));
    }

    fn forget_sent(&mut self, key: CallKey) {
        if let Some(call) = self.calls.get_mut(&key) {
            call.sent = None;
            call.blocks.clear();
        }
    }
}
