//! What happens when time is up: for a client that does not send, or does not read, or for a request.

use std::time::Duration;

use super::connection::{Close, Connection, Phase, Upgrade};
use super::pages::Page;
use super::port::{Lane, Socket};
use super::{ConnectionId, Engine};
use crate::http1::Refusal;
use crate::time::Nanos;

/// How long a client that has closed its sending side is waited for, from one piece of its answer to the next.
pub(super) const HALF_CLOSED_GRACE: Duration = Duration::from_secs(1);

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// When something has to be looked at, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.timers.next()
    }

    /// Looks at every connection whose time is up.
    pub fn expire(&mut self, now: Nanos) {
        self.now = now;
        while let Some((at, id)) = self.timers.due(now) {
            let Some(conn) = self.connections.get_mut(id) else { continue };
            if conn.scheduled != at {
                continue;
            }
            conn.scheduled = Nanos::NEVER;
            let deadline = conn.deadline();
            if deadline > now {
                self.timers.set(id, deadline, &mut conn.scheduled);
            } else {
                self.time_is_up(id, now);
            }
        }
    }

    fn time_is_up(&mut self, id: ConnectionId, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        if conn.has_output() && conn.stall <= now {
            return self.abort(id);
        }
        let late = conn.request_deadline() <= now;
        let timed_out = match &conn.phase {
            Phase::Linger { .. } => return self.abort(id),
            Phase::Discard { .. } => {
                // Whoever is still sending is to find its answer.
                conn.end_gently();
                return self.mark(id);
            }
            // Idle: closing is all there is to say.
            Phase::Head if conn.input.is_empty() => return self.abort(id),
            Phase::Head => false,
            Phase::Body | Phase::Queued { .. } | Phase::Parked { .. } | Phase::Open { .. } if late => true,
            Phase::Body => false,
            // Nothing has gone either way for too long.
            Phase::Open { .. } if conn.request.upgrade == Upgrade::Tunnel => return self.abort(id),
            Phase::Open { .. } if !conn.request.complete => false,
            // The client has said that it sends no more, and was given time to read.
            Phase::Queued { .. } | Phase::Parked { .. } | Phase::Open { .. } => {
                return self.abort(id);
            }
        };
        self.let_go(id);
        let step = match timed_out {
            true => self.respond(id, Page::timed_out(), now),
            false => self.refuse(id, Refusal::TooSlow, now),
        };
        self.carry_on(id, step);
    }
}

impl<S: Socket, L: Lane<S>> Connection<S, L> {
    /// The earliest of everything that it waits for.
    pub(super) fn deadline(&self) -> Nanos {
        let stall = if self.has_output() { self.stall } else { Nanos::NEVER };
        // Who is still reading an answer is neither idle nor gone.
        let reads = self.has_output() && (matches!(self.phase, Phase::Head) || self.may_be_gone());
        let quiet = if self.close == Close::No && !reads { self.quiet } else { Nanos::NEVER };
        quiet.min(stall).min(self.request_deadline())
    }

    /// Whether it waits for an answer, and has closed its sending side: it may want the answer all the same
    /// (`shutdown`), or be gone (`close`), and nothing that is there to be read tells the two apart.
    pub(super) fn may_be_gone(&self) -> bool {
        let waits = matches!(self.phase, Phase::Queued { .. } | Phase::Parked { .. } | Phase::Open { .. });
        // (Where bytes go both ways, its end of them is told to the deployment.)
        self.half_closed && self.request.complete && waits
    }

    fn request_deadline(&self) -> Nanos {
        match self.phase {
            // The answer has come: what follows has limits of its own.
            Phase::Open { .. } if self.request.upgrade == Upgrade::Tunnel => Nanos::NEVER,
            Phase::Body | Phase::Queued { .. } | Phase::Parked { .. } | Phase::Open { .. } => {
                self.request.deadline
            }
            Phase::Head | Phase::Discard { .. } | Phase::Linger { .. } => Nanos::NEVER,
        }
    }
}
