//! Connections that a deployment has taken over (RFC 9110, 7.8): websockets and whatever else a client offered.
//!
//! After the 101 the request's body is what the client sends and the answer's is what it gets, each with the flow
//! control that bodies have. Nothing of it is read as HTTP any more, and nothing follows on the connection.

use decurion_ipc::channel::{BLOCK_MAX, NoRoom};
use decurion_ipc::control::ProxySettings;

use super::answer::BadHead;
use super::connection::{Answer, Request, Upgrade};
use super::port::{Lane, Socket};
use super::{ConnectionId, Engine, Step};
use crate::balance::LaneIndex;
use crate::http1::upgrade::write_switch;
use crate::http1::{BodyOut, Head, Storage};
use crate::time::Nanos;

/// RFC 9110, 15.2.2.
pub(super) const SWITCHING_PROTOCOLS: u16 = 101;

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// The deployment has taken the client's offer up.
    pub(super) fn switch<'f>(
        &mut self,
        id: ConnectionId,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Result<(), BadHead> {
        let Some(conn) = self.connections.get_mut(id) else { return Ok(()) };
        let mut storage = Storage::new();
        let head = &conn.input.bytes()[conn.request.head.clone()];
        let offered = Head::parse(head, &mut storage, &self.limits).ok().and_then(|head| head.upgrade);
        let offered = offered.filter(|_| conn.request.upgrade == Upgrade::Offered);
        let Some(offered) = offered else {
            let why = "status 101 to a request that offered no change of protocol";
            return Err(BadHead::Handler(why.to_owned()));
        };
        let request_id = conn.request.id.as_str();
        conn.output
            .write(|out| write_switch(fields, offered, request_id, &self.date, out))
            .map_err(|error| BadHead::Handler(error.to_string()))?;
        let request = &mut conn.request;
        request.upgrade = Upgrade::Tunnel;
        request.switched = self.now;
        request.keep_alive = false;
        request.status = SWITCHING_PROTOCOLS;
        request.answer = Answer::Begun(BodyOut::Close);
        // What the client has sent ahead is not HTTP.
        let ahead = request.taken..conn.input.bytes().len();
        request.body.extend_from_slice(&conn.input.bytes()[ahead.clone()]);
        conn.input.remove(ahead);
        conn.input.fit();
        request.aside = true;
        request.whole = false;
        request.complete = false;
        request.sent = 0;
        request.left = u64::MAX;
        request.keep_tunnel(&mut conn.quiet, self.now, &self.settings);
        self.mark(id);
        Ok(())
    }

    /// Sends on what a client has for its deployment, as there is room.
    pub(super) fn pump_tunnel(
        &mut self,
        id: ConnectionId,
        lane: LaneIndex,
        stream: L::Stream,
        now: Nanos,
    ) -> Step {
        let Some(conn) = self.connections.get_mut(id) else { return Step::Wait };
        let Some(entry) = self.lanes.get_mut(lane.at()).and_then(Option::as_mut) else { return Step::Wait };
        let ahead = &conn.request.body[conn.request.sent..];
        if ahead.is_empty() && !conn.readable {
            return Step::Wait;
        }
        let want = if ahead.is_empty() { BLOCK_MAX } else { ahead.len().min(BLOCK_MAX) };
        let mut block = match entry.lane.block(stream, want) {
            Ok(block) => block,
            Err(NoRoom::Later) => return Step::Wait,
            Err(NoRoom::Gone | NoRoom::TooLarge) => {
                conn.request.ended = true;
                return Step::Wait;
            }
        };
        let filled = if ahead.is_empty() {
            entry.lane.fill_from(&mut block, &mut conn.socket)
        } else {
            let filled = entry.lane.fill(&mut block, ahead);
            conn.request.sent += filled;
            Ok(filled)
        };
        let step = match filled {
            Ok(0) => {
                // The client sends no more; it may want to hear the rest.
                entry.lane.discard(block);
                entry.lane.end(stream);
                conn.request.ended = true;
                Step::Wait
            }
            Ok(count) => {
                entry.lane.send(stream, block, false);
                conn.request.body_bytes = conn.request.body_bytes.saturating_add(count as u64);
                if conn.request.sent == conn.request.body.len() {
                    conn.request.body = Vec::new();
                    conn.request.sent = 0;
                }
                conn.request.keep_tunnel(&mut conn.quiet, now, &self.settings);
                Step::Again
            }
            Err(error) => {
                entry.lane.discard(block);
                return match error.kind() {
                    std::io::ErrorKind::Interrupted => Step::Again,
                    std::io::ErrorKind::WouldBlock => {
                        conn.readable = false;
                        Step::Wait
                    }
                    _ => Step::Gone,
                };
            }
        };
        self.touch(lane);
        step
    }
}

impl Request {
    /// Something has gone one way or the other.
    pub(super) fn keep_tunnel(&self, quiet: &mut Nanos, now: Nanos, settings: &ProxySettings) {
        if self.upgrade == Upgrade::Tunnel {
            *quiet = now.limit(settings.upgrade_idle_timeout);
        }
    }
}
