//! The shadow model: what each client may have received. It is told of every request, of every replica that takes one
//! and what became of that, and of every answer; and it refuses what the rules do not allow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_proxy::time::Nanos;

/// A request, by a number that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

impl RequestId {
    /// From a path of the form `/deployment/number`.
    pub(crate) fn of_path(path: &[u8]) -> Option<Self> {
        let number = path.rsplit(|byte| *byte == b'/').next()?;
        std::str::from_utf8(number).ok()?.parse().ok().map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {}", self.0)
    }
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) deployment: DeploymentName,
    pub(crate) method: &'static str,
    /// Of the body: how long, and its checksum.
    pub(crate) body: (usize, u64),
    /// A proxy has all of it before it sends any of it on, and so can send it again.
    pub(crate) at_hand: bool,
    /// When its first byte was sent.
    pub(crate) at: Nanos,
}

impl Asked {
    /// RFC 9110, 9.2.2.
    fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }
}

/// How a run of a handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Still running.
    Running,
    /// With a whole answer.
    Answered,
    /// Its replica died.
    Interrupted,
    /// Its caller wanted it no more, or died.
    Cancelled,
    /// By its replica's fault: nothing that it sends counts as an answer.
    Lied,
}

/// One run of a handler.
#[derive(Clone, Debug)]
struct Run {
    replica: ReplicaId,
    ended: Ended,
    /// Every byte of its answer was sent, whether its end was or not.
    sent: bool,
}

/// One request's story.
#[derive(Clone, Debug)]
struct Story {
    asked: Asked,
    runs: Vec<Run>,
    over: bool,
}

/// When something was so, as far as that matters: first and last.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Nanos,
    to: Nanos,
}

/// An answer as its client has read it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Nanos,
}

/// Why a connection ended under a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The client went.
    ByClient,
    /// The proxy's process ended.
    ProxyDied,
    /// A drain took longer than it may.
    DrainEnded,
    /// The answer before said that it is the last one.
    Announced,
    /// Idle for longer than it may be.
    Idle,
    /// Nothing moved for longer than it may, because its proxy was stopped.
    Stalled,
    /// None of these; whether an answer had begun.
    Unannounced { begun: bool },
}

/// What workers go by at some time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routed {
    pub(crate) replicas: BTreeMap<ReplicaId, String>,
    pub(crate) absent: BTreeSet<DeploymentName>,
    pub(crate) failed: BTreeSet<DeploymentName>,
}

/// Bounds of the deployments that justify a refusal.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    /// The shortest time that a request of it has had.
    timeout: Option<Duration>,
    /// The shortest queue that it has had.
    queue: Option<u32>,
}

/// All that is known.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    stories: BTreeMap<RequestId, Story>,
    bounds: BTreeMap<DeploymentName, Bounds>,
    /// When workers have gone by views with this replica, and which version it is of.
    routed: BTreeMap<ReplicaId, (String, Span)>,
    /// When some worker has last gone by a view without this deployment.
    absent: BTreeMap<DeploymentName, Nanos>,
    /// When some worker has last gone by a view in which this deployment has failed.
    failed: BTreeMap<DeploymentName, Nanos>,
    routed_now: Routed,
    /// What was wanted at the same time: a version of each deployment.
    wanted: BTreeSet<BTreeMap<DeploymentName, String>>,
    /// What a run has met: by request, and by the replica that it began at.
    met: BTreeMap<(RequestId, ReplicaId), BTreeSet<(DeploymentName, String)>>,
    /// When a stuck client may have been given up, at the earliest after its request.
    pub(crate) client_patience: Duration,
    pub(crate) counts: Counts,
}

/// What a run has brought, so that it is known that something happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) retried: u64,
    pub(crate) bad_gateways: u64,
    pub(crate) timed_out: u64,
    pub(crate) refused: u64,
    pub(crate) absent: u64,
    pub(crate) errors: u64,
    pub(crate) cut: u64,
    /// Runs that met more than one deployment.
    pub(crate) composed: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.asked += other.asked;
        self.answered += other.answered;
        self.retried += other.retried;
        self.bad_gateways += other.bad_gateways;
        self.timed_out += other.timed_out;
        self.refused += other.refused;
        self.absent += other.absent;
        self.errors += other.errors;
        self.cut += other.cut;
        self.composed += other.composed;
    }

    /// Whether each of these has happened.
    pub(crate) fn is_of_all_kinds(&self) -> bool {
        let least = self.answered.min(self.retried).min(self.bad_gateways).min(self.timed_out);
        least.min(self.refused).min(self.absent).min(self.errors).min(self.cut).min(self.composed) > 0
    }
}

impl Shadow {
    /// A request is about to be sent.
    pub(crate) fn asked(&mut self, id: RequestId, asked: Asked) {
        self.counts.asked += 1;
        self.stories.insert(id, Story { asked, runs: Vec::new(), over: false });
    }

    /// From now on a deployment's requests may be refused by these, too.
    pub(crate) fn bounded(&mut self, of: &DeploymentName, timeout: Duration, queue: Option<u32>) {
        let bounds = self.bounds.entry(of.clone()).or_default();
        let timeout = (!timeout.is_zero()).then_some(timeout);
        bounds.timeout = [bounds.timeout, timeout].into_iter().flatten().min();
        bounds.queue = [bounds.queue, queue].into_iter().flatten().min();
    }

    /// What workers go by now: the replicas that some of them may use, with their versions, the deployments that some
    /// do not know, and those that have failed for some.
    pub(crate) fn routed(&mut self, now: Nanos, routed: Routed) {
        for (replica, version) in self.routed_now.replicas.iter().chain(&routed.replicas) {
            let span = Span { from: now, to: now };
            let (_, span) = self.routed.entry(replica.clone()).or_insert_with(|| (version.clone(), span));
            span.to = now;
        }
        self.absent.extend(self.routed_now.absent.iter().map(|name| (name.clone(), now)));
        self.failed.extend(self.routed_now.failed.iter().map(|name| (name.clone(), now)));
        self.routed_now = routed;
    }

    /// These versions are wanted together from now on.
    pub(crate) fn wanted(&mut self, versions: BTreeMap<DeploymentName, String>) {
        self.wanted.insert(versions);
    }

    /// A run that has begun at this replica has met another, of this deployment and version: all that it meets were
    /// wanted together once.
    pub(crate) fn met(&mut self, (id, begun_at): (RequestId, &ReplicaId), other: (DeploymentName, String)) {
        let met = self.met.entry((id, begun_at.clone())).or_default();
        self.counts.composed += u64::from(met.len() == 1 && !met.contains(&other));
        met.insert(other);
        let together = |wanted: &BTreeMap<DeploymentName, String>| {
            met.iter().all(|(name, version)| wanted.get(name) == Some(version))
        };
        assert!(
            self.wanted.iter().any(together),
            "{id}, begun at {begun_at}: {met:?} were never wanted together"
        );
    }

    /// A replica begins to run a request.
    pub(crate) fn taken(&mut self, id: RequestId, replica: &ReplicaId) {
        let Some(story) = self.stories.get_mut(&id) else { panic!("{replica} runs {id}, which nobody sent") };
        let before = story.runs.len();
        story.runs.push(Run { replica: replica.clone(), ended: Ended::Running, sent: false });
        let runs = &story.runs;
        if story.asked.is_idempotent() {
            assert!(before < 2, "{id} is run a third time: {runs:?}");
            let lost = runs[..before].iter().all(|run| run.ended == Ended::Interrupted);
            assert!(lost, "{id} is run again although nothing was lost: {runs:?}");
            self.counts.retried += u64::from(before > 0);
        } else {
            assert_eq!(before, 0, "{id} is a POST, and is run twice: {runs:?}");
        }
    }

    /// Every byte of its answer was sent.
    pub(crate) fn sent(&mut self, id: RequestId, replica: &ReplicaId) {
        let runs = self.stories.get_mut(&id).into_iter().flat_map(|story| &mut story.runs);
        for run in runs.filter(|run| run.replica == *replica && run.ended == Ended::Running) {
            run.sent = true;
        }
    }

    /// A proxy has lost the replica that it was sent to, which may have begun.
    pub(crate) fn lost(&mut self, id: RequestId, replica: &ReplicaId) {
        let runs = self.stories.get_mut(&id).into_iter().flat_map(|story| &mut story.runs);
        for run in runs.filter(|run| run.replica == *replica && run.ended != Ended::Lied) {
            run.ended = Ended::Interrupted;
        }
    }

    /// A run of it has ended.
    pub(crate) fn ended(&mut self, id: RequestId, replica: &ReplicaId, how: Ended) {
        let run = self.stories.get_mut(&id).and_then(|story| {
            story.runs.iter_mut().find(|run| run.replica == *replica && run.ended == Ended::Running)
        });
        if let Some(run) = run {
            run.ended = how;
        }
    }

    /// A whole answer has come to the client that waits for this request.
    pub(crate) fn answered(&mut self, id: RequestId, answer: &Answer, waiting: usize, took_until: Nanos) {
        let Some(story) = self.stories.get_mut(&id) else { panic!("an answer to {id}, which nobody sent") };
        assert!(!std::mem::replace(&mut story.over, true), "{id} is answered twice");
        let story = story.clone();
        let took = took_until.until(story.asked.at);
        match answer.status {
            200 => self.is_right(id, &story, answer),
            404 => self.may_be_absent(id, &story),
            408 => self.may_be_slow(id, &story, took),
            500 => self.may_have_failed(id, &story),
            502 => self.may_be_lost(id, &story),
            503 => self.may_be_refused(id, &story, answer, waiting),
            504 => self.may_be_late(id, &story, took),
            status => panic!("{id} is answered {status}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }

    fn is_right(&mut self, id: RequestId, story: &Story, answer: &Answer) {
        self.counts.answered += 1;
        let text = String::from_utf8_lossy(&answer.body);
        let mut parts = text.splitn(6, '|');
        let mut part = || parts.next().unwrap_or_default();
        let (own, by, version, method, sum) = (part(), part(), part(), part(), part());
        assert_eq!(own, id.0.to_string(), "{id} is answered with the bytes of another: {text:.80}");
        assert_eq!(method, story.asked.method, "{id}: {text:.80}");
        assert_eq!(sum, story.asked.body.1.to_string(), "{id}: its body came otherwise: {text:.80}");
        let filler = part();
        assert!(filler.bytes().eq(filler_of(id, filler.len())), "{id}: its answer has other bytes in it");
        let run = story.runs.iter().find(|run| run.replica.as_str() == by && run.sent);
        let Some(run) = run else { panic!("{id} is answered by {by}, which has not: {:?}", story.runs) };
        let Some((of, span)) = self.routed.get(&run.replica) else { panic!("{id}: {by} was never routed") };
        assert_eq!(of, version, "{id}: {by} is of another version");
        let is_routed = self.routed_now.replicas.contains_key(&run.replica);
        let overlaps = is_routed || (span.from <= answer.at && span.to >= story.asked.at);
        assert!(overlaps, "{id}: {by} was not routed between sending and answer: {span:?}");
    }

    fn may_be_absent(&mut self, id: RequestId, story: &Story) {
        self.counts.absent += 1;
        let name = &story.asked.deployment;
        let absent = self.absent.get(name).is_some_and(|at| *at >= story.asked.at);
        assert!(absent || self.routed_now.absent.contains(name), "{id}: 404, and its deployment was there");
    }

    fn may_have_failed(&mut self, id: RequestId, story: &Story) {
        self.counts.errors += 1;
        let lied = story.runs.iter().any(|run| run.ended == Ended::Lied);
        assert!(lied, "{id}: 500, and no handler did wrong: {:?}", story.runs);
    }

    /// Design rule 6: what was not taken moves; what was taken, can be sent again and has no answer yet is retried
    /// once; else 502.
    fn may_be_lost(&mut self, id: RequestId, story: &Story) {
        self.counts.bad_gateways += 1;
        let lost =
            story.runs.iter().filter(|run| matches!(run.ended, Ended::Interrupted | Ended::Lied)).count();
        let again = story.asked.is_idempotent() && story.asked.at_hand;
        let least = if again { 2 } else { 1 };
        assert!(lost >= least, "{id}: 502, and it may be moved or retried: {story:?}");
    }

    fn may_be_refused(&mut self, id: RequestId, story: &Story, answer: &Answer, waiting: usize) {
        self.counts.refused += 1;
        let text = String::from_utf8_lossy(&answer.body);
        let name = &story.asked.deployment;
        if text.contains("queue of this deployment is full") {
            let queue = self.bounds.get(name).and_then(|bounds| bounds.queue);
            assert!(
                queue.is_some_and(|queue| waiting > queue as usize),
                "{id}: the queue was not full: {waiting}"
            );
            assert!(story.runs.is_empty(), "{id} is refused and was run: {:?}", story.runs);
        } else if text.contains("failed") {
            let failed = self.failed.get(name).is_some_and(|at| *at >= story.asked.at);
            assert!(failed || self.routed_now.failed.contains(name), "{id}: it has not failed: {text}");
        } else {
            panic!("{id} is refused: {text}");
        }
    }

    fn may_be_late(&mut self, id: RequestId, story: &Story, took: Duration) {
        self.counts.timed_out += 1;
        let timeout = self.timeout_of(story);
        assert!(timeout.is_some_and(|timeout| took >= timeout), "{id}: 504 after {took:?} of {timeout:?}");
    }

    /// Its client has sent it too slowly: for a head or a body, or for the time that the whole request has.
    fn may_be_slow(&self, id: RequestId, story: &Story, took: Duration) {
        let least = self.timeout_of(story).unwrap_or(self.client_patience).min(self.client_patience);
        assert!(took >= least, "{id}: 408 after {took:?} of {least:?}");
    }

    fn timeout_of(&self, story: &Story) -> Option<Duration> {
        self.bounds.get(&story.asked.deployment).and_then(|bounds| bounds.timeout)
    }

    /// The connection ended before the request was answered in full.
    pub(crate) fn cut(&mut self, id: RequestId, cut: Cut, now: Nanos) {
        self.counts.cut += 1;
        if let Some(story) = self.stories.get_mut(&id) {
            story.over = true;
        }
        let Some(story) = self.stories.get(&id) else { return };
        match cut {
            Cut::ByClient | Cut::ProxyDied | Cut::DrainEnded | Cut::Stalled => {}
            Cut::Announced | Cut::Idle => {
                assert!(
                    story.runs.is_empty(),
                    "{id} was run, and its connection was closed: {:?}",
                    story.runs
                );
            }
            Cut::Unannounced { begun } => {
                let broken = |run: &Run| matches!(run.ended, Ended::Interrupted | Ended::Lied);
                let late = self.timeout_of(story).is_some_and(|timeout| now.until(story.asked.at) >= timeout);
                let lost = begun && (late || story.runs.iter().any(broken));
                assert!(lost, "{id} is not answered: its connection was closed, begun: {begun}, {story:?}");
            }
        }
    }

    /// Whether a request is for this deployment.
    pub(crate) fn is_of(&self, id: RequestId, name: &DeploymentName) -> bool {
        self.stories.get(&id).is_some_and(|story| story.asked.deployment == *name)
    }

    /// When it was sent.
    pub(crate) fn asked_at(&self, id: RequestId) -> Option<Nanos> {
        self.stories.get(&id).map(|story| story.asked.at)
    }

    /// Requests that are neither answered nor cut.
    pub(crate) fn open(&self) -> impl Iterator<Item = (RequestId, &Asked)> {
        self.stories.iter().filter(|(_, story)| !story.over).map(|(id, story)| (*id, &story.asked))
    }

    /// What is known of one, for a message.
    pub(crate) fn story(&self, id: RequestId) -> String {
        self.stories.get(&id).map(|story| format!("{:?}", story.runs)).unwrap_or_default()
    }
}

/// Bytes of an answer that no other request's has in the same places.
pub(crate) fn filler_of(id: RequestId, count: usize) -> impl Iterator<Item = u8> {
    (0..count as u64).map(move |at| b'a' + u8::try_from((id.0.wrapping_mul(7) + at) % 26).unwrap_or(0))
}

/// Tells whether a body has come as it was sent.
pub(crate) fn checksum(body: &[u8]) -> u64 {
    body.iter().fold(body.len() as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}
