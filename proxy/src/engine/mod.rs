//! One worker's whole work without the machine: connections in, requests to replicas, answers out.
//!
//! Events are told to it (`accept`, `ready`, `grant`, ..). Then [`Engine::serve_clients`] reads and parses what is
//! there, opens streams, rings each replica at most once, and writes each client's bytes with as few calls as can be;
//! [`Engine::hear_replicas`] takes in what replicas have answered. It knows sockets and channels as traits ([`port`]),
//! and the time as an argument.

mod account;
mod ahead;
mod answer;
mod bells;
mod body;
mod connection;
mod discard;
mod input;
mod lanes;
mod output;
mod pages;
pub mod port;
mod request;
#[cfg(test)]
mod sim;
mod slab;
mod tally;
mod timeout;
mod timers;
mod tunnel;
#[cfg(any(test, feature = "fuzzing"))]
pub mod wire;

use std::sync::Arc;

use decurion_api::ReplicaId;
use decurion_ipc::control::ProxySettings;
use decurion_ipc::epoch::{Entered, Epoch};

use crate::balance::{Grant, LaneIndex, Post, Waiter};
use crate::http1::HeadLimits;
use crate::time::Nanos;
use crate::view::View;

pub use bells::TICK;
use connection::{Close, Connection, Ids, Phase, Request};
use discard::Scrap;
use input::{Fill, Input, Pool};
use lanes::LaneEntry;
use output::{Output, Wrote};
use port::{Lane, News, Socket};
pub use slab::ConnectionId;
use slab::Slab;
use tally::{Tallies, TallyIndex};
use timers::Timers;

/// Private bytes in the way of a client above which no further pipelined request is begun.
const PIPELINE_MAX: usize = 16 * 1024;
/// Requests read from one connection before the others have their turn.
const REQUESTS_PER_TURN: usize = 64;

/// What a worker can be told about a connection's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Bytes or the end may be there.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The client will send no more.
    pub half_closed: bool,
    /// The connection is broken.
    pub broken: bool,
}

/// What a worker has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// For the log.
    Log {
        /// `decurion_abi::level`.
        level: u32,
        /// One line.
        message: String,
    },
    /// A replica broke the data plane's rules.
    Fault {
        /// Which.
        replica: ReplicaId,
        /// What it did.
        fault: String,
    },
    /// A request has begun to wait for a deployment that has no replicas.
    Starved,
}

/// `decurion_abi::level` of warnings, which is plain numbers on the wire.
const LEVEL_WARN: u32 = 2;

/// One worker's state.
pub struct Engine<S: Socket, L: Lane<S>> {
    worker: u16,
    settings: ProxySettings,
    limits: HeadLimits,
    view: Arc<View>,
    post: Arc<dyn Post + Send + Sync>,
    connections: Slab<Connection<S, L>>,
    lanes: Vec<Place<S, L>>,
    /// Lanes with streams in use.
    active: Vec<LaneIndex>,
    /// Lanes with something that their replica has not been told of.
    touched: Vec<LaneIndex>,
    /// Connections to look after.
    dirty: Vec<ConnectionId>,
    timers: Timers,
    pool: Pool,
    scrap: Scrap,
    ids: Ids,
    date: Vec<u8>,
    access_log: account::AccessLog,
    tallies: Tallies,
    /// By place of a route: where what is answered before a replica has it is counted.
    route_tallies: Vec<TallyIndex>,
    /// When what was counted is to be asked for.
    stats_due: Nanos,
    /// As of the last turn.
    now: Nanos,
    draining: bool,
    /// Requests that have entered before the present epoch.
    entered: Entered<ConnectionId>,
    turn: usize,
    notices: Vec<Notice>,
    freed: Vec<(LaneIndex, L)>,
    heard_again: Vec<LaneIndex>,
    // Kept for their memory only.
    record: Vec<u8>,
    news: News<L::Stream, L::In>,
    done: Vec<(LaneIndex, L::In)>,
}

impl<S: Socket, L: Lane<S>> std::fmt::Debug for Engine<S, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("worker", &self.worker)
            .field("connections", &self.connections.len())
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

/// Where a lane is, or may be.
type Place<S, L> = Option<Box<LaneEntry<L, <L as Lane<S>>::Stream>>>;

/// What a step of one connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Step {
    /// There may be more to do at once.
    Again,
    /// Something has to happen first.
    Wait,
    /// The client is gone.
    Gone,
}

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// A worker with no connections, lanes or routes. `seed` makes its request ids its own.
    pub fn new(worker: u16, seed: u64, settings: ProxySettings, post: Arc<dyn Post + Send + Sync>) -> Self {
        Self {
            worker,
            limits: limits_of(&settings),
            settings,
            view: Arc::default(),
            post,
            connections: Slab::default(),
            lanes: Vec::new(),
            active: Vec::new(),
            touched: Vec::new(),
            dirty: Vec::new(),
            timers: Timers::default(),
            pool: Pool::default(),
            scrap: Scrap::default(),
            ids: Ids::new(seed),
            date: Vec::new(),
            access_log: account::AccessLog::default(),
            tallies: Tallies::default(),
            route_tallies: Vec::new(),
            stats_due: Nanos::NEVER,
            now: Nanos(0),
            draining: false,
            entered: Entered::default(),
            turn: usize::from(worker),
            notices: Vec::new(),
            freed: Vec::new(),
            heard_again: Vec::new(),
            record: Vec::new(),
            news: News::default(),
            done: Vec::new(),
        }
    }

    /// Takes new settings.
    pub fn configure(&mut self, settings: ProxySettings) {
        self.limits = limits_of(&settings);
        self.settings = settings;
    }

    /// Says what `Date` is from now on.
    pub fn set_date(&mut self, date: &[u8]) {
        self.date.clear();
        self.date.extend_from_slice(date);
    }

    /// Takes a client's connection.
    pub fn accept(&mut self, socket: S, now: Nanos) -> ConnectionId {
        let id = self.connections.insert(Connection {
            socket,
            readable: false,
            writable: true,
            half_closed: false,
            input: Input::default(),
            scan: Default::default(),
            output: Output::default(),
            phase: Phase::Head,
            request: Request::default(),
            close: Close::No,
            dirty: false,
            quiet: now.limit(self.settings.header_timeout),
            stall: Nanos::NEVER,
            scheduled: Nanos::NEVER,
            served: 0,
        });
        self.mark(id);
        self.note_news(now);
        id
    }

    /// The socket of a connection, while it lives.
    pub fn socket(&mut self, id: ConnectionId) -> Option<&mut S> {
        self.connections.get_mut(id).map(|conn| &mut conn.socket)
    }

    /// Says what a connection's socket is ready for.
    pub fn ready(&mut self, id: ConnectionId, ready: Ready, now: Nanos) {
        self.now = now;
        let Some(conn) = self.connections.get_mut(id) else { return };
        if ready.broken {
            return self.abort(id);
        }
        conn.readable |= ready.readable || ready.half_closed;
        conn.writable |= ready.writable;
        if ready.half_closed && !std::mem::replace(&mut conn.half_closed, true) && conn.may_be_gone() {
            conn.quiet = now.after(timeout::HALF_CLOSED_GRACE);
        }
        self.mark(id);
    }

    /// Routes by another view from now on. Whoever waits for what is no more is told so.
    pub fn set_view(&mut self, view: Arc<View>, now: Nanos) {
        self.view = view;
        self.tally_routes();
        self.tell_entered();
        for id in self.connections.ids() {
            let Some(conn) = self.connections.get_mut(id) else { continue };
            if let Phase::Queued { .. } = conn.phase {
                self.recheck(id, now);
            }
        }
    }

    fn tell_entered(&mut self) {
        let (entry, connections) = (self.view.entry, &mut self.connections);
        self.entered.enter(entry, || {
            let ids = connections.ids();
            ids.into_iter().filter(|id| has_entered_before(connections, *id, entry)).collect()
        });
    }

    /// Where it has become true that no request here has entered before this epoch: the epoch.
    pub fn oldest_news(&mut self) -> Option<Epoch> {
        let connections = &mut self.connections;
        self.entered.news(|id, entry| has_entered_before(connections, *id, entry))
    }

    /// Takes a slot that a waiting request was given; gives it on where the request is no more.
    pub fn grant(&mut self, grant: Grant, now: Nanos) {
        let id = ConnectionId::from_bits(grant.waiter.ticket);
        let waits = self
            .connections
            .get_mut(id)
            .is_some_and(|conn| matches!(&conn.phase, Phase::Queued { place, .. } if *place == grant.place));
        if !waits {
            return grant.replica.release(now, &*self.post);
        }
        self.use_grant(id, &grant.replica, grant.ahead, now);
        self.mark(id);
    }

    /// Another proxy takes new connections: those here are answered, each next answer says that it is the last one, and
    /// who says nothing more is idle for as long as ever. So no connection closes unannounced under a request.
    pub fn retire(&mut self) {
        self.draining = true;
    }

    /// Takes no new requests: idle connections close, the others with their current answer.
    pub fn drain(&mut self, now: Nanos) {
        self.now = now;
        self.draining = true;
        for id in self.connections.ids() {
            // A request may be there that was not read yet.
            self.advance(id, now);
            let Some(conn) = self.connections.get_mut(id) else { continue };
            let idle = matches!(conn.phase, Phase::Head) && conn.input.is_empty() && !conn.has_output();
            if idle && conn.close == Close::No {
                self.abort(id);
                continue;
            }
            if matches!(conn.phase, Phase::Discard { .. }) {
                // Its answer was the last one.
                conn.end_gently();
            }
            self.mark(id);
        }
    }

    /// Ends every connection, whatever it is doing.
    pub fn abort_all(&mut self) {
        for id in self.connections.ids() {
            self.abort(id);
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What there is to tell.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Dead lanes that nothing here refers to any more.
    pub fn take_freed(&mut self) -> Vec<(LaneIndex, L)> {
        std::mem::take(&mut self.freed)
    }

    /// Looks after each client that something has happened to: reads, sends on, writes. Rings replicas.
    pub fn serve_clients(&mut self, now: Nanos) {
        self.now = now;
        self.settle(now);
        self.flush_lanes();
    }

    /// Takes in what replicas have answered: whether they have more. Nothing is written yet, so that slots that have
    /// become free can be used before time is spent on clients: see [`Engine::ring`].
    #[must_use]
    pub fn hear_replicas(&mut self, now: Nanos) -> bool {
        self.now = now;
        self.poll_lanes(now)
    }

    /// Rings replicas that were sent something, each once.
    pub fn ring(&mut self) {
        self.flush_lanes();
    }

    /// Whether clients wait to be looked after.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn mark(&mut self, id: ConnectionId) {
        if let Some(conn) = self.connections.get_mut(id)
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// Looks after each connection that something has happened to. One round: what becomes dirty meanwhile has its
    /// turn after the replicas had theirs.
    fn settle(&mut self, now: Nanos) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            if let Some(conn) = self.connections.get_mut(id) {
                conn.dirty = false;
                self.advance(id, now);
                self.write(id, now);
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    /// Takes a connection as far as it goes without something else happening.
    fn advance(&mut self, id: ConnectionId, now: Nanos) {
        for _ in 0..REQUESTS_PER_TURN * 8 {
            let Some(conn) = self.connections.get_mut(id) else { return };
            if conn.close != Close::No {
                return;
            }
            let step = match conn.phase {
                Phase::Head => self.read_head(id, now),
                Phase::Body => self.gather(id, now),
                Phase::Open { .. } => self.pump(id, now),
                Phase::Discard { .. } => self.discard(id, now),
                Phase::Linger { .. } => self.linger(id, now),
                Phase::Queued { .. } | Phase::Parked { .. } => Step::Wait,
            };
            match step {
                Step::Again => {}
                Step::Wait => return,
                Step::Gone => return self.leave(id),
            }
        }
        self.mark(id);
    }

    /// Writes what waits, and ends the connection where that was all.
    fn write(&mut self, id: ConnectionId, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        let had_output = conn.has_output();
        let mut done = std::mem::take(&mut self.done);
        let wrote = match (had_output, conn.writable) {
            (false, _) => Wrote::All,
            (true, false) => Wrote::Later { bytes: 0 },
            (true, true) => {
                let lanes = &self.lanes;
                let lane_at = |lane: LaneIndex| lanes.get(lane.at())?.as_ref().map(|entry| &entry.lane);
                conn.output.flush(&mut conn.socket, lane_at, &mut done)
            }
        };
        match wrote {
            Wrote::All => conn.stall = Nanos::NEVER,
            Wrote::Later { bytes } => {
                conn.writable = false;
                let (rate, wait) = (self.settings.min_body_rate, self.settings.body_timeout);
                conn.stall = conn.stall.moved_on(bytes, rate, wait, now);
            }
            Wrote::Broken => {}
        }
        for (lane, block) in done.drain(..) {
            self.return_block(lane, block);
        }
        self.done = done;
        match wrote {
            Wrote::All => self.written(id, had_output, now),
            Wrote::Later { .. } => {}
            Wrote::Broken => self.abort(id),
        }
        if let Some(conn) = self.connections.get_mut(id) {
            let deadline = conn.deadline();
            self.timers.set(id, deadline, &mut conn.scheduled);
        }
    }

    fn written(&mut self, id: ConnectionId, had_output: bool, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        match conn.close {
            // It has taken all: from now on it has said nothing.
            Close::No if had_output && conn.may_be_gone() => {
                conn.quiet = now.after(timeout::HALF_CLOSED_GRACE)
            }
            Close::No if had_output && matches!(conn.phase, Phase::Head) => {
                if !conn.input.is_empty() {
                    self.mark(id);
                } else if conn.served > 0 {
                    conn.quiet = now.limit(self.settings.keep_alive_timeout);
                }
            }
            Close::No => {}
            Close::Now | Close::Cut => self.abort(id),
            Close::Lingering => {
                conn.begin_linger(&mut self.pool, now);
                self.advance(id, now);
            }
        }
    }

    /// The client has nothing more to say: what was answered before still goes out.
    fn leave(&mut self, id: ConnectionId) {
        self.let_go(id);
        match self.connections.get_mut(id) {
            Some(conn) if conn.has_output() => {
                // An answer that has begun is not going to be whole.
                let begun = conn.request.answer != connection::Answer::Nothing;
                conn.close = if begun { Close::Cut } else { Close::Now };
                self.mark(id);
            }
            _ => self.abort(id),
        }
    }

    /// Ends a connection at once, with everything that it holds.
    fn abort(&mut self, id: ConnectionId) {
        self.note_cut_off(id);
        self.let_go(id);
        self.note_news(self.now);
        let Some(mut conn) = self.connections.remove(id) else { return };
        if let Some(status) = conn.socket.answered() {
            self.note_turned_away(status, self.now);
        }
        conn.part();
        for (lane, block) in conn.output.clear() {
            self.return_block(lane, block);
        }
        let all = conn.input.bytes().len();
        conn.input.remove(0..all);
        conn.input.rest(&mut self.pool);
    }

    /// One whose record is encoded. Whoever has been elsewhere already waits for no replica in particular.
    fn waiter(&mut self, id: ConnectionId, again: Option<LaneIndex>) -> Waiter {
        let record = self.record.len();
        let light = |conn: &mut Connection<S, L>| conn.request.is_light(record, &conn.input);
        let light = again.is_none() && self.connections.get_mut(id).is_some_and(light);
        let model = self.connections.get_mut(id).map_or(0, |conn| conn.request.model);
        Waiter { worker: self.worker, ticket: id.to_bits(), model, light }
    }
}

/// Whether a request is with a replica, by an epoch before this one.
fn has_entered_before<S: Socket, L: Lane<S>>(
    connections: &mut Slab<Connection<S, L>>,
    id: ConnectionId,
    entry: Epoch,
) -> bool {
    let conn = connections.get_mut(id);
    conn.is_some_and(|conn| matches!(conn.phase, Phase::Open { .. }) && conn.request.epoch < entry)
}

/// Memory for the next request's body that an idle connection keeps.
const IDLE_BODY_MAX: usize = 256;

impl<S: Socket, L: Lane<S>> Connection<S, L> {
    /// Gives memory back while nothing is to be done: there may be very many that wait.
    fn rest(&mut self, pool: &mut Pool) {
        self.input.rest(pool);
        if self.input.is_empty() && self.request.body.capacity() > IDLE_BODY_MAX {
            self.request.body = Vec::new();
        }
    }

    /// Whether something waits to be written.
    fn has_output(&self) -> bool {
        !self.output.is_empty() || !self.socket.is_flushed()
    }

    /// The last word before the socket closes: whether the client has got everything.
    fn part(&mut self) {
        use connection::Answer;
        let answered = self.close == Close::Now || self.request.answer == Answer::Nothing;
        if answered && self.close != Close::Cut && self.output.is_empty() {
            self.socket.finish();
        } else if self.request.answer == Answer::Begun(crate::http1::BodyOut::Close) {
            self.socket.break_off();
        }
    }

    /// Reads once into `input`, where the socket may have something.
    fn take_in(&mut self, pool: &mut Pool, max: usize) -> Fill {
        if !self.readable {
            return Fill::Later;
        }
        let fill = self.input.fill(&mut self.socket, pool, max);
        match fill {
            // The end is still to be read.
            Fill::Bytes { drained } => self.readable = !drained || self.half_closed,
            Fill::Later => self.readable = false,
            Fill::Closed | Fill::Broken | Fill::Full => {}
        }
        fill
    }
}

fn limits_of(settings: &ProxySettings) -> HeadLimits {
    let size = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    HeadLimits {
        head: size(settings.max_head),
        headers: size(settings.max_headers),
        target: size(settings.max_uri),
    }
}
