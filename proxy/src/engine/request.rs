//! From a head to a replica: read, route, queue, send.

use std::sync::Arc;

use decurion_ipc::channel::{BLOCK_MAX, Busy};
use decurion_ipc::control::Availability;
use decurion_ipc::epoch::Epoch;
use decurion_ipc::record::{self, HEAD_MAX, Kind};

use super::ahead::Ahead;
use super::connection::{Close, Connection, Phase, Request, Upgrade};
use super::input::{Fill, Input};
use super::pages::Page;
use super::port::{Lane, Socket};
use super::timeout::HALF_CLOSED_GRACE;
use super::{ConnectionId, Engine, Notice, PIPELINE_MAX, Step};
use crate::balance::{Admission, Deployment, LaneIndex, Place, Replica};
use crate::exchange::{Loss, Standing, Verdict, after_loss};
use crate::http1::{Framing, Head, Refusal, Storage};
use crate::time::Nanos;
use crate::view::{Route, View};

use super::connection::Answer;

/// Bodies of at most so many bytes are gathered before anything is sent.
pub(super) const GATHER_MAX: u64 = 16 * 1024;
/// Requests of at most so many bytes, head and body, may wait at a replica.
const LIGHT_MAX: usize = 4 * 1024;
/// Room beside the head in a buffer: empty lines before it.
const HEAD_SLACK: usize = 64;

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// Looks for the next request's head.
    pub(super) fn read_head(&mut self, id: ConnectionId, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        if conn.output.private() > PIPELINE_MAX {
            return Step::Wait;
        }
        match conn.scan.advance(conn.input.bytes(), &self.limits) {
            Ok(Some(head)) => return self.begin(id, head, now),
            Ok(None) => {}
            Err(refusal) => return self.refuse(id, refusal, now),
        }
        let fresh = conn.input.is_empty();
        match conn.take_in(&mut self.pool, self.limits.head + HEAD_SLACK) {
            Fill::Bytes { .. } => {
                if fresh {
                    conn.quiet = now.limit(self.settings.header_timeout);
                }
                Step::Again
            }
            Fill::Later => {
                conn.rest(&mut self.pool);
                Step::Wait
            }
            Fill::Closed | Fill::Broken => Step::Gone,
            Fill::Full => self.refuse(id, Refusal::HeadTooLarge, now),
        }
    }

    /// A head is there: most requests go from here to a replica without being looked at again.
    fn begin(&mut self, id: ConnectionId, at: std::ops::Range<usize>, now: Nanos) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Connection { input, request, served, .. } = conn;
        let mut storage = Storage::new();
        let head = match Head::parse(&input.bytes()[at.clone()], &mut storage, &self.limits) {
            Ok(head) => head,
            Err(refusal) => return self.refuse(id, refusal, now),
        };
        request.begin(&head, at.clone(), &mut self.ids, now);
        request.server_timing = self.settings.server_timing.applies(request.server_timing);
        let most = u64::from(self.settings.max_requests_per_connection);
        request.keep_alive &= most == 0 || *served + 1 < most;
        let (prefix, route) = match judge(&self.view, self.draining, &head) {
            Ok(found) => found,
            Err(page) => {
                let close = page.close || head.expect_continue;
                return self.respond(id, Page { close, ..page }, now);
            }
        };
        let limit = head.timeout.or(route.request_timeout).unwrap_or(self.settings.request_timeout);
        request.deadline = now.limit(limit);
        request.tally = self.route_tallies.get(route.place).copied().unwrap_or_default();
        self.tallies.hold(request.tally);
        if let Framing::Length(length) = head.framing {
            if length > self.settings.max_body {
                return self.refuse_body(id, now);
            }
            request.body_bytes = length;
            if let Ok(length) = usize::try_from(length)
                && input.bytes().len() - at.end >= length
            {
                request.taken = at.end + length;
                request.left = 0;
                request.complete = true;
            }
        }
        if request.complete {
            encode(&head, prefix, request, &mut self.record);
            request.asked = now;
            self.turn = self.turn.wrapping_add(1);
            let light = request.is_light(self.record.len(), input);
            let (worker, ticket, model) = (self.worker, id.to_bits(), request.model);
            let waiter = super::Waiter { worker, ticket, model, light };
            let admission =
                route.deployment.admit(&route.backends, self.turn, waiter, None, now, &*self.post);
            if let Admission::Queued(place) = admission {
                conn.wait_in_queue(place, &route.deployment, now);
                tell_of_waiting(route, &mut self.notices);
                self.note_news(now);
                return Step::Wait;
            }
            return self.admitted(id, &admission, now);
        }
        if head.expect_continue {
            conn.output.write(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        conn.phase = Phase::Body;
        conn.quiet = now.limit(self.settings.body_timeout);
        Step::Again
    }

    fn admitted(&mut self, id: ConnectionId, admission: &Admission, now: Nanos) -> Step {
        match admission {
            Admission::Granted(lane) => self.open(id, *lane, false, now),
            Admission::Ahead(lane) => self.open(id, *lane, true, now),
            Admission::Queued(_) => Step::Wait,
            Admission::Full => {
                self.respond(id, Page::unavailable("The queue of this deployment is full."), now)
            }
        }
    }

    /// Sends a request, from what is kept of it, for the first time or again.
    pub(super) fn dispatch(&mut self, id: ConnectionId, again: Option<LaneIndex>, now: Nanos) -> Step {
        let view = Arc::clone(&self.view);
        let route = match self.encode_again(id, &view) {
            Ok(route) => route,
            Err(page) => return self.respond(id, page, now),
        };
        self.turn = self.turn.wrapping_add(1);
        let waiter = self.waiter(id, again);
        let admission = route.deployment.admit(&route.backends, self.turn, waiter, again, now, &*self.post);
        if let Admission::Queued(place) = admission {
            if let Some(conn) = self.connections.get_mut(id) {
                conn.wait_in_queue(place, &route.deployment, now);
            }
            tell_of_waiting(route, &mut self.notices);
            self.note_news(now);
            return Step::Wait;
        }
        self.admitted(id, &admission, now)
    }

    /// Writes the record of a request whose head is still in its buffer, by the view as it is now.
    fn encode_again<'v>(&mut self, id: ConnectionId, view: &'v View) -> Result<&'v Route, Page> {
        let conn = self.connections.get_mut(id).ok_or_else(Page::internal_error)?;
        let mut storage = Storage::new();
        let head = Head::parse(&conn.input.bytes()[conn.request.head.clone()], &mut storage, &self.limits)
            .map_err(Page::refused)?;
        let (prefix, route) = judge(view, self.draining, &head)?;
        encode(&head, prefix, &conn.request, &mut self.record);
        if conn.request.asked == Nanos(0) {
            conn.request.asked = self.now;
        }
        Ok(route)
    }

    /// A queued request has been given a slot.
    pub(super) fn use_grant(&mut self, id: ConnectionId, replica: &Arc<Replica>, ahead: bool, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.phase = Phase::Head;
        let view = Arc::clone(&self.view);
        let step = match self.encode_again(id, &view) {
            Ok(_) if self.lane(replica.lane).is_some() => self.open(id, replica.lane, ahead, now),
            Ok(_) => {
                // The replica has gone meanwhile.
                replica.release(now, &*self.post);
                self.dispatch(id, Some(replica.lane), now)
            }
            Err(page) => {
                replica.release(now, &*self.post);
                self.respond(id, page, now)
            }
        };
        self.carry_on(id, step);
    }

    /// A view has changed under a queued request: it may wait for nothing now.
    pub(super) fn recheck(&mut self, id: ConnectionId, now: Nanos) {
        let view = Arc::clone(&self.view);
        let still = match self.encode_again(id, &view) {
            Ok(route) => {
                let Some(conn) = self.connections.get_mut(id) else { return };
                match &conn.phase {
                    Phase::Queued { deployment, .. } if Arc::ptr_eq(deployment, &route.deployment) => return,
                    // Its prefix leads elsewhere now.
                    _ => Ok(()),
                }
            }
            Err(page) => Err(page),
        };
        self.let_go(id);
        let step = match still {
            Ok(()) => self.dispatch(id, None, now),
            Err(page) => self.respond(id, page, now),
        };
        self.carry_on(id, step);
    }

    /// Takes up what a step left to do, outside of `advance`.
    pub(super) fn carry_on(&mut self, id: ConnectionId, step: Step) {
        match step {
            Step::Again | Step::Wait => self.mark(id),
            Step::Gone => self.leave(id),
        }
    }

    /// Opens a stream for the record in `self.record`; a slot is reserved there. `ahead`: where the replica may not
    /// run it yet.
    pub(super) fn open(&mut self, id: ConnectionId, lane: LaneIndex, ahead: bool, now: Nanos) -> Step {
        if self.record.len() > HEAD_MAX {
            self.release(lane);
            return self.refuse(id, Refusal::HeadTooLarge, now);
        }
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else {
            return self.without_lane(id, lane, now);
        };
        let Some(epoch) = entry.replica.span().entering(self.view.entry) else {
            // The place was given by a view before this one: it is for requests that are under way.
            self.release(lane);
            return self.dispatch(id, Some(lane), now);
        };
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        record::RequestHead::stamp(&mut self.record, epoch);
        conn.request.epoch = epoch;
        let at_hand = conn.request.at_hand(&conn.input);
        let first = &at_hand[..at_hand.len().min(BLOCK_MAX - self.record.len())];
        // Where the protocol may change, what the client then sends follows on the same stream.
        let all = conn.request.complete && first.len() == at_hand.len();
        let end = all && conn.request.upgrade == Upgrade::No;
        match entry.lane.open(&self.record, first, end) {
            Ok(stream) => {
                conn.request.sent += first.len();
                conn.request.ended = end;
                conn.request.tried = Some(lane);
                if conn.request.opened == Nanos(0) {
                    conn.request.waited = now.until(conn.request.asked);
                }
                conn.request.opened = now;
                if conn.request.tally != entry.tally {
                    self.tallies.release(conn.request.tally);
                    self.tallies.hold(entry.tally);
                    conn.request.tally = entry.tally;
                }
                conn.phase = Phase::Open { lane, stream };
                conn.quiet = match all {
                    true if conn.may_be_gone() => now.after(HALF_CLOSED_GRACE),
                    true => Nanos::NEVER,
                    false => now.limit(self.settings.body_timeout),
                };
                entry.own(L::index(stream), id);
                if ahead {
                    entry.ahead.push(Ahead { id, stream, since: now });
                }
                if entry.bell.sent() {
                    self.heard_again.push(lane);
                }
                self.touch(lane);
                if all { Step::Wait } else { Step::Again }
            }
            Err(Busy::Streams | Busy::Arena) if ahead => {
                // It can wait as well in the queue, and for whoever has room.
                self.release(lane);
                self.dispatch(id, Some(lane), now)
            }
            Err(Busy::Streams | Busy::Arena) => {
                conn.phase = Phase::Parked { replica: Arc::clone(&entry.replica) };
                conn.quiet = Nanos::NEVER;
                entry.parked.push_back(id);
                self.touch(lane);
                Step::Wait
            }
            Err(Busy::TooLarge) => {
                self.release(lane);
                self.refuse(id, Refusal::HeadTooLarge, now)
            }
            Err(Busy::Dead) => {
                self.release(lane);
                self.dispatch(id, Some(lane), now)
            }
        }
    }

    /// A request was given a place at a replica that this worker has no channel to: a mistake of ours, which is told with
    /// its names. The place goes back.
    fn without_lane(&mut self, id: ConnectionId, lane: LaneIndex, now: Nanos) -> Step {
        let of = |route: &Route| route.backends.replicas.iter().find(|replica| replica.lane == lane).cloned();
        let worker = self.worker;
        let what = match self.view.routes.iter().find_map(|(_, route)| of(route)) {
            Some(replica) => {
                replica.release(now, &*self.post);
                let (name, id) = (&replica.deployment().name, &replica.id);
                format!(
                    "deployment '{name}' gave it to replica {id}, to which worker {worker} has no channel"
                )
            }
            None => format!("it was given to lane {}, of which worker {worker} knows nothing", lane.0),
        };
        self.warn(id, &what);
        self.respond(id, Page::internal_error(), now)
    }

    /// A request has lost its replica.
    pub(super) fn lost(&mut self, id: ConnectionId, lane: LaneIndex, loss: Loss, body: Vec<u8>, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.phase = Phase::Head;
        let request = &mut conn.request;
        let standing = Standing {
            idempotent: request.idempotent && request.upgrade == Upgrade::No,
            body_at_hand: request.whole || loss == Loss::NotTaken,
            answered: request.answer != Answer::Nothing,
            retried: request.retried,
            refusals: request.refusals,
        };
        let step = match after_loss(loss, standing) {
            Verdict::Elsewhere => {
                request.send_again(loss, body);
                if let Some(tally) = self.tallies.at(request.tally) {
                    tally.counts.retries += 1;
                }
                self.dispatch(id, Some(lane), now)
            }
            Verdict::BadGateway => self.respond(id, Page::bad_gateway(), now),
            Verdict::Unavailable => {
                self.respond(id, Page::unavailable("No replica takes requests of this deployment."), now)
            }
            Verdict::Cut => {
                conn.close = Close::Cut;
                Step::Wait
            }
        };
        self.carry_on(id, step);
    }

    /// Lets go of queue, slot or stream, whichever the request holds.
    pub(super) fn let_go(&mut self, id: ConnectionId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        match std::mem::replace(&mut conn.phase, Phase::Head) {
            Phase::Queued { place, deployment } => {
                // Where a grant is under way, it is released when it comes.
                let _ = deployment.withdraw(place);
            }
            Phase::Parked { replica } => {
                if let Some(Some(entry)) = self.lanes.get_mut(replica.lane.at()) {
                    entry.parked.retain(|parked| *parked != id);
                }
                replica.release(self.now, &*self.post);
            }
            Phase::Open { lane, stream } => self.give_up(lane, stream),
            phase @ (Phase::Head | Phase::Body | Phase::Discard { .. } | Phase::Linger { .. }) => {
                conn.phase = phase;
            }
        }
    }

    pub(super) fn refuse(&mut self, id: ConnectionId, refusal: Refusal, now: Nanos) -> Step {
        if let Some(conn) = self.connections.get_mut(id)
            && matches!(conn.phase, Phase::Head)
            && conn.request.answer == Answer::Nothing
            && conn.request.head.is_empty()
        {
            conn.request = Request::default();
        }
        self.respond(id, Page::refused(refusal), now)
    }

    pub(super) fn refuse_body(&mut self, id: ConnectionId, now: Nanos) -> Step {
        self.let_go(id);
        self.refuse(id, Refusal::BodyTooLarge, now)
    }
}

impl<S: Socket, L: Lane<S>> Connection<S, L> {
    /// Its request waits for a replica. What the client had for its head or its body is no limit to that: it has done
    /// its part, or is not read from meanwhile. Only one that may be gone is not waited for long.
    fn wait_in_queue(&mut self, place: Place, deployment: &Arc<Deployment>, now: Nanos) {
        self.phase = Phase::Queued { place, deployment: Arc::clone(deployment) };
        self.quiet = if self.may_be_gone() { now.after(HALF_CLOSED_GRACE) } else { Nanos::NEVER };
    }
}

impl Request {
    /// Whether it may wait at a replica: it is all here, can be sent again, and takes little of the channel's room.
    pub(super) fn is_light(&self, record: usize, input: &Input) -> bool {
        // Where a model is loaded already matters more than a wake-up.
        let at_hand = self.complete && self.whole && self.upgrade == Upgrade::No && self.model == 0;
        at_hand && record + self.at_hand(input).len() <= LIGHT_MAX
    }

    /// Makes ready to be sent once more. `body` is what the lost replica had been sent, where that is known.
    fn send_again(&mut self, loss: Loss, mut body: Vec<u8>) {
        match loss {
            Loss::NotTaken => self.refusals += 1,
            Loss::Taken => self.retried = true,
        }
        if !self.whole {
            body.extend_from_slice(&self.body[self.sent..]);
            self.body = body;
        }
        self.sent = 0;
        self.ended = false;
    }
}

/// A request waits: somebody may have to start a replica for it.
fn tell_of_waiting(route: &Route, notices: &mut Vec<Notice>) {
    if route.backends.replicas.is_empty() && route.deployment.tell_of_waiting() {
        notices.push(Notice::Starved);
    }
}

/// Where a request goes, or what answers it here.
fn judge<'v>(view: &'v View, draining: bool, head: &Head<'_, '_>) -> Result<(&'v str, &'v Route), Page> {
    let path = &*head.target.path;
    if head.target.is_asterisk() {
        return Err(Page::options());
    }
    if let Some(name) = path.strip_prefix(b"/-/") {
        return Err(own_page(view, draining, name, path, head.method));
    }
    let Some((prefix, route)) = view.routes.find(path) else {
        return Err(if view.is_known() { Page::not_found(path) } else { not_ready() });
    };
    if !route.http {
        let name = &route.deployment.name;
        return Err(Page::text(
            404,
            format!("Deployment '{name}' answers no HTTP: its class has no `call`."),
        ));
    }
    match &route.availability {
        Availability::Failed(why) if route.backends.replicas.is_empty() => {
            Err(Page::unavailable(format!("Deployment '{}' has failed: {why}", route.deployment.name)))
        }
        Availability::Failed(_) | Availability::Expected => {
            Ok((prefix.as_str().trim_end_matches('/'), route))
        }
    }
}

fn own_page(view: &View, draining: bool, name: &[u8], path: &[u8], method: &str) -> Page {
    let page = match name {
        b"healthz" => Page::text(200, "success"),
        b"readyz" if draining => Page::unavailable("This proxy is being drained."),
        b"readyz" | b"routes" if !view.is_known() => not_ready(),
        b"readyz" => Page::text(200, "success"),
        b"routes" => Page::json(view.routes_json()),
        _ => return Page::not_found(path),
    };
    if matches!(method, "GET" | "HEAD") { page } else { Page::not_allowed() }
}

fn not_ready() -> Page {
    Page::unavailable("Route table is not populated yet.")
}

/// Writes a request's record.
fn encode(head: &Head<'_, '_>, prefix: &str, request: &Request, out: &mut Vec<u8>) {
    out.clear();
    let content_length = match head.framing {
        Framing::None => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked => request.complete.then_some(request.body_bytes),
    };
    let record = record::RequestHead {
        kind: Kind::Http,
        id: request.id.as_str(),
        method: head.method,
        path: &head.target.path,
        query: head.target.query,
        route_prefix: prefix,
        traceparent: head.traceparent.unwrap_or_default(),
        model_id: head.model_id.unwrap_or_default(),
        deadline_ns: request.deadline.or_zero(),
        content_length,
        encoding: 0,
        method_index: u32::MAX,
        epoch: Epoch::default(),
    };
    record.encode(head.forwarded(), out);
}
