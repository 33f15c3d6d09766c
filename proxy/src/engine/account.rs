//! What is noted of each request once it is over: the one place where every request ends, however it does.

use std::sync::Arc;
use std::time::Duration;

use decurion_api::DeploymentName;
use decurion_api::spec::AccessLog as Format;
use decurion_ipc::stats::Traffic;

use super::connection::{Answer, Upgrade};
use super::port::{Lane, Socket};
use super::tally::{TallyIndex, UNROUTED};
use super::{ConnectionId, Engine};
use crate::access_log::{self, CLIENT_LEFT, Entry, Lines, RequestLine, Sink};
use crate::time::Nanos;

/// Where lines of the access log go, and of which requests.
#[derive(Debug, Default)]
pub(super) struct AccessLog {
    sink: Option<Arc<dyn Sink>>,
    /// Not handed over yet.
    lines: Lines,
    /// The time of day, in milliseconds of Unix time, and when it was that.
    day_time: (u64, Nanos),
    /// Of 2^32 requests, so many are noted.
    share: u64,
    count: u64,
}

impl AccessLog {
    pub(super) fn new(sink: Option<Arc<dyn Sink>>, sample: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^32")]
        let share = (sample.clamp(0.0, 1.0) * ALL as f64) as u64;
        Self { sink, share, ..Self::default() }
    }

    /// What the line is to look like, if this request is one of the sample. Which are is as good as random, so that a
    /// pattern in what clients ask for does not show.
    fn sample(&mut self) -> Option<Format> {
        let sink = self.sink.as_ref()?;
        self.count += 1;
        (super::connection::mix(self.count) % ALL < self.share).then(|| sink.format())
    }

    fn add(&mut self, entry: &Entry<'_>, format: Format, now: Nanos) {
        let (unix_ms, at) = self.day_time;
        let since = u64::try_from(now.until(at).as_millis()).unwrap_or(u64::MAX);
        if self.lines.add(entry, format, unix_ms.saturating_add(since)) {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if let Some(sink) = self.sink.as_ref().filter(|_| self.lines.count > 0) {
            sink.take(std::mem::take(&mut self.lines));
        }
    }
}

const ALL: u64 = 1 << 32;
/// Between two tellings of what was counted.
const STATS_PERIOD_NS: u64 = 1_000_000_000;

impl<S: Socket, L: Lane<S>> Engine<S, L> {
    /// Says where the access log goes from now on.
    pub fn set_access_log(&mut self, sink: Option<Arc<dyn Sink>>) {
        self.hand_over_log();
        let day_time = self.access_log.day_time;
        self.access_log = AccessLog { day_time, ..AccessLog::new(sink, self.settings.access_log_sample) };
    }

    /// Says what time of day it is, for the access log.
    pub fn set_day_time(&mut self, unix_ms: u64, now: Nanos) {
        self.access_log.day_time = (unix_ms, now);
    }

    /// Hands the access log over as far as it goes. Done once a period as well, with [`take_stats`](Self::take_stats).
    pub fn hand_over_log(&mut self) {
        self.access_log.hand_over();
    }

    /// Counts by the routes of the view that we have now.
    pub(super) fn tally_routes(&mut self) {
        let mut places = vec![UNROUTED; self.view.routes.iter().count()];
        for (_, route) in self.view.routes.iter() {
            if let Some(place) = places.get_mut(route.place) {
                *place = self.tallies.hold_key(&route.deployment.name, "");
            }
        }
        for before in std::mem::replace(&mut self.route_tallies, places) {
            self.tallies.release(before);
        }
    }

    /// When there is something for [`Engine::take_stats`], if nothing happens before.
    pub fn stats_due(&self) -> Nanos {
        self.stats_due
    }

    /// What was counted since the last time, once a period is over, or `at_once`; `None`: there is nothing new. What
    /// comes with it may be nothing: then levels have changed that are known elsewhere.
    pub fn take_stats(&mut self, at_once: bool, now: Nanos) -> Option<Vec<Traffic>> {
        let due = self.stats_due <= now || (at_once && self.stats_due != Nanos::NEVER);
        due.then(|| {
            self.stats_due = Nanos::NEVER;
            self.access_log.hand_over();
            self.tallies.take()
        })
    }

    /// Something is new. All workers tell at the same instants: whoever adds them up wakes once.
    pub(super) fn note_news(&mut self, now: Nanos) {
        if self.stats_due == Nanos::NEVER {
            self.stats_due = Nanos((now.0 / STATS_PERIOD_NS + 1) * STATS_PERIOD_NS);
        }
    }

    /// Counts a connection that was answered before anything was read from it.
    pub fn note_turned_away(&mut self, status: u16, now: Nanos) {
        if let Some(tally) = self.tallies.at(UNROUTED) {
            tally.counts.count_status(status);
            tally.counts.duration.record_ns(0);
        }
        self.note_news(now);
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
        self.note_news(now);
        let Some(conn) = self.connections.get_mut(id) else { return };
        let request = &mut conn.request;
        // What could not be read as a request has no time and no place.
        let is_read = std::mem::replace(&mut request.under_way, false);
        let tally_index = if is_read { request.tally } else { UNROUTED };
        let took = if is_read { now.until(request.began) } else { Duration::ZERO };
        // However long the two then talk, the answer was there with the 101; and either may end it at any time.
        let is_tunnel = request.upgrade == Upgrade::Tunnel;
        let answered = if is_tunnel { request.switched } else { now };
        if let Some(tally) = self.tallies.at(tally_index) {
            let counts = &mut tally.counts;
            counts.count_status(status);
            counts.cut += u64::from(!complete && !is_tunnel && status != CLIENT_LEFT);
            counts.bytes_out = counts.bytes_out.saturating_add(bytes);
            counts.duration.record(if is_tunnel { answered.until(request.began) } else { took });
            if is_read {
                counts.bytes_in = counts.bytes_in.saturating_add(request.body_bytes);
            }
            if is_read && request.opened != Nanos(0) {
                counts.queue.record(request.waited);
                if (complete || is_tunnel) && matches!(request.answer, Answer::Begun(_)) {
                    counts.handler.record(answered.until(request.opened));
                }
            }
        }
        self.write_log(id, tally_index, Outcome { status, bytes, took, complete }, now);
        self.tallies.release(tally_index);
    }

    /// Notes the request in the access log, where there is one.
    fn write_log(&mut self, id: ConnectionId, tally: TallyIndex, outcome: Outcome, now: Nanos) {
        let Some(format) = self.access_log.sample() else { return };
        let Some(conn) = self.connections.get_mut(id) else { return };
        let lane = conn.request.tried.and_then(|lane| self.lanes.get(lane.at())?.as_deref());
        let request = &conn.request;
        let read = conn.input.bytes().get(request.head.clone()).filter(|bytes| !bytes.is_empty());
        let of_interest = read.filter(|_| format != Format::Text).unwrap_or_default();
        let [referer, user_agent] = access_log::fields(of_interest, ["referer", "user-agent"]);
        let Outcome { status, bytes, took, complete } = outcome;
        let entry = Entry {
            id: request.id.as_str(),
            client: conn.socket.peer(),
            line: read.and_then(RequestLine::of),
            status,
            bytes,
            took,
            deployment: self.tallies.deployment(tally).map(DeploymentName::as_str),
            replica: lane.map(|entry| entry.replica.id.as_str()),
            referer,
            user_agent,
            complete,
        };
        self.access_log.add(&entry, format, now);
    }
}

/// How a request ended.
struct Outcome {
    status: u16,
    bytes: u64,
    took: Duration,
    complete: bool,
}
