//! What is noted of each request once it is over: the one place where every request ends, however it does.

use std::sync::Arc;

use super::connection::Answer;
use super::port::{Lane, Socket};
use super::{ConnectionId, Engine};
use crate::access_log::{CLIENT_LEFT, Entry, RequestLine, Sink};
use crate::http1::{Head, Storage};
use crate::time::Nanos;

/// Where entries of the access log go, and which.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    sink: Option<Arc<dyn Sink>>,
    /// Of 2^32 requests, so many are noted.
    share: u64,
    count: u64,
}

impl AccessLog {
    pub(super) fn new(sink: Option<Arc<dyn Sink>>, sample: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^32")]
        let share = (sample.clamp(0.0, 1.0) * ALL as f64) as u64;
        Self { sink, share, count: 0 }
    }

    /// The sink, if this request is one of the sample. Which are is as good as random, so that a pattern in what
    /// clients ask for does not show.
    fn sample(&mut self) -> Option<&Arc<dyn Sink>> {
        let sink = self.sink.as_ref()?;
        self.count += 1;
        (super::connection::mix(self.count) % ALL < self.share).then_some(sink)
    }
}

const ALL: u64 = 1 << 32;

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// Says where the access log goes from now on.
    pub fn set_access_log(&mut self, sink: Option<Arc<dyn Sink>>) {
        self.access_log = AccessLog::new(sink, self.settings.access_log_sample);
    }

    /// Notes a request that has been answered, by us or by a replica.
    pub(super) fn note_answered(&mut self, id: ConnectionId, status: u16, bytes: u64, now: Nanos) {
        self.note(id, status, bytes, true, now);
    }

    /// Notes a request whose connection ends before its answer has, if there is one.
    pub(super) fn note_cut_off(&mut self, id: ConnectionId) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        if !conn.request.under_way {
            return;
        }
        let (status, bytes) = match conn.request.answer {
            Answer::Nothing => (CLIENT_LEFT, 0),
            Answer::Begun(_) => (conn.request.status, conn.request.body_sent),
        };
        self.note(id, status, bytes, false, self.now);
    }

    fn note(&mut self, id: ConnectionId, status: u16, bytes: u64, complete: bool, now: Nanos) {
        let Some(conn) = self.connections.get_mut(id) else { return };
        conn.request.under_way = false;
        let deployment = conn.request.deployment.take();
        let Some(sink) = self.access_log.sample() else { return };
        let lane = conn.request.tried.and_then(|lane| self.lanes.get(lane.at())?.as_deref());
        let replica = lane.map(|entry| &entry.replica);
        let mut storage = Storage::new();
        let request = &conn.request;
        let head = conn.input.bytes().get(request.head.clone()).filter(|bytes| !bytes.is_empty());
        let head = head.and_then(|bytes| Head::parse(bytes, &mut storage, &self.limits).ok());
        let field = |name| head.as_ref().and_then(|head| field(head, name)).unwrap_or_default();
        sink.offer(Entry {
            id: request.id.as_str().to_owned(),
            client: conn.socket.peer(),
            line: head.as_ref().map(line),
            status,
            bytes,
            took: if request.head.is_empty() { Nanos(0) } else { now }.until(request.began),
            deployment: deployment.map(|deployment| deployment.name.to_string()),
            replica: replica.map(|replica| replica.id.to_string()),
            referer: field("referer"),
            user_agent: field("user-agent"),
            complete,
        });
    }
}

fn line(head: &Head<'_, '_>) -> RequestLine {
    let mut target = head.target.path.to_vec();
    if !head.target.query.is_empty() {
        target.push(b'?');
        target.extend_from_slice(head.target.query);
    }
    RequestLine { method: head.method.to_owned(), target, version: head.version }
}

fn field(head: &Head<'_, '_>, name: &str) -> Option<Vec<u8>> {
    let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    Some(header.value.to_vec())
}
