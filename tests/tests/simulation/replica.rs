//! A simulated replica: the callee's real end of each lane, and in place of a library a handler that answers with what it
//! was asked, after a while, or does not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::caller::{CallKey, Caller, NewCall, Outcome};
use decurion_ipc::channel::{NoRoom, Request, ResetCode, Responder, StreamId};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::record::{Kind, RequestHead, ResponseHead};
use decurion_proxy::time::Nanos;
use decurion_supervisor::reconcile::Why;

use crate::dice::Dice;
use crate::shadow::{Ended, RequestId, checksum, filler_of};
use crate::wire::SimLoad;

/// Slots read from a lane at once.
const POLL_BUDGET: u32 = 64;
/// When an answer that found no room is tried again, should nobody say that there is some.
const ROOM_AGAIN: Duration = Duration::from_millis(1);
/// When a request whose body is not there yet is looked at again.
const BODY_AGAIN: Duration = Duration::from_millis(5);

/// How replicas of one version behave.
#[derive(Clone, Debug)]
pub(crate) struct Temper {
    /// From spawn to ready, at most; `None`: never.
    pub(crate) start_ms: Option<u64>,
    /// Refuses to be constructed.
    pub(crate) refuses: bool,
    /// Ends by itself before it is ready.
    pub(crate) dies_young: bool,
    /// From ready to a crash.
    pub(crate) crashes_after: Option<Duration>,
    /// What a request takes: as a rule, and at most.
    pub(crate) service_us: (u64, u64),
    /// One in so many answers is no answer; 0: none.
    pub(crate) lies: u64,
    /// Refuses this `user_config`.
    pub(crate) refuses_config: Option<u64>,
    /// Says that it is ill.
    pub(crate) ill: bool,
    /// Bytes of an answer beside what it says, at most.
    pub(crate) answer_max: u64,
}

impl Default for Temper {
    fn default() -> Self {
        Self {
            start_ms: Some(5),
            refuses: false,
            dies_young: false,
            crashes_after: None,
            service_us: (500, 5_000),
            lies: 0,
            refuses_config: None,
            ill: false,
            answer_max: 2_000,
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Starting,
    Serving,
    Draining(Why),
}

/// Which lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LaneKey {
    /// Of which proxy, and of which worker.
    Worker(u32, usize),
    /// Of a replica that has a handle.
    Replica(ReplicaId),
}

impl LaneKey {
    fn is_of_proxy(&self, number: u32) -> bool {
        matches!(self, LaneKey::Worker(proxy, _) if *proxy == number)
    }

    /// Whether what comes is made on behalf of a request that is somewhere else.
    fn is_nested(&self) -> bool {
        matches!(self, LaneKey::Replica(_))
    }
}

/// One request on a lane: unique in the replica's life.
pub(crate) type JobKey = u64;

#[derive(Debug)]
struct Job {
    lane: LaneKey,
    stream: StreamId,
    request: RequestId,
    method: String,
    body: Vec<u8>,
    whole: bool,
    deadline: u64,
    taken: bool,
    cancelled: bool,
    /// With which it has entered.
    epoch: Epoch,
    /// Calls that it makes before it answers.
    calls: u64,
    /// The one that it waits for.
    call: Option<CallKey>,
    /// What is still to be sent.
    answer: Option<Answering>,
    /// When it goes on.
    next_at: Option<Nanos>,
}

#[derive(Debug)]
struct Answering {
    lie: Option<Lie>,
    head: Vec<u8>,
    head_sent: bool,
    /// Goes with the head, as a whole.
    at_once: bool,
    body: VecDeque<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Fails.
    Fails,
    /// A status that is none.
    Status,
    /// More bytes than announced.
    Longer,
    /// Fewer.
    Shorter,
    /// A head that is no record: it breaks the rules of the data plane.
    Record,
}

/// One replica's process.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    pub(crate) version: String,
    pub(crate) stage: Stage,
    pub(crate) limit: u32,
    pub(crate) temper: Temper,
    pub(crate) load: SimLoad,
    /// The `user_config` that it has.
    pub(crate) config: Option<String>,
    pub(crate) lanes: BTreeMap<LaneKey, Responder>,
    /// Its end of handles: what it calls by others.
    pub(crate) caller: Caller,
    /// Whom its requests call.
    pub(crate) callee: Option<DeploymentName>,
    /// With the mistake planted, its calls forget the epoch of their request.
    pub(crate) forgets_epochs: bool,
    pub(crate) turn_at: Option<Nanos>,
    /// Takes no turns before this: stopped.
    pub(crate) hung_until: Nanos,
    pub(crate) processed: u64,
    pub(crate) heartbeat: u64,
    jobs: BTreeMap<JobKey, Job>,
    waiting: VecDeque<JobKey>,
    next_job: JobKey,
    running: u32,
}

/// What a turn has brought about.
#[derive(Debug, Default)]
pub(crate) struct Worked {
    /// Requests that were taken, and when to go on with each.
    pub(crate) taken: Vec<(RequestId, JobKey, Duration)>,
    /// Requests of whose answers every byte was sent.
    pub(crate) sent: Vec<RequestId>,
    /// Runs that have ended.
    pub(crate) ended: Vec<(RequestId, Ended)>,
    /// Requests on whose behalf one was taken, and who made it.
    pub(crate) nested: Vec<(RequestId, ReplicaId)>,
    /// Jobs to go on with, after a while.
    pub(crate) again: Vec<(JobKey, Duration)>,
    /// Somebody broke the rules of a lane.
    pub(crate) fault: Option<String>,
}

impl Replica {
    pub(crate) fn new(
        id: ReplicaId,
        version: String,
        limit: u32,
        config: Option<String>,
        temper: Temper,
    ) -> Self {
        Self {
            id,
            version,
            stage: Stage::Starting,
            limit,
            temper,
            load: SimLoad::default(),
            config,
            lanes: BTreeMap::new(),
            caller: Caller::new(),
            callee: None,
            forgets_epochs: false,
            turn_at: None,
            hung_until: Nanos(0),
            processed: 0,
            heartbeat: 0,
            jobs: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_job: 0,
            running: 0,
        }
    }

    /// Everything that was asked is answered, and nothing more has come.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && !self.is_asked()
    }

    fn is_asked(&self) -> bool {
        self.lanes.values().any(Responder::has_news)
    }

    /// Whether a turn would find something.
    pub(crate) fn has_news(&self) -> bool {
        self.is_asked() || self.caller.has_news()
    }

    /// Whether a request waits here and a place is free. The real loop goes on with it by itself, whoever has left the
    /// place: a request of a proxy, or a call by a replica, of which `Worked::ended` says nothing.
    pub(crate) fn may_take(&self) -> bool {
        self.stage != Stage::Starting && !self.waiting.is_empty() && self.running < self.limit
    }

    /// Requests that run.
    pub(crate) fn running(&self) -> u32 {
        self.running
    }

    /// Requests of one proxy that are here and not over.
    pub(crate) fn of_proxy(&self, proxy: u32) -> usize {
        self.jobs.values().filter(|job| job.lane.is_of_proxy(proxy) && !job.cancelled).count()
    }

    /// Requests whose handlers run.
    pub(crate) fn taken(&self) -> Vec<RequestId> {
        self.jobs.values().filter(|job| job.taken && !job.lane.is_nested()).map(|job| job.request).collect()
    }

    /// A request goes on at this time, unless it does so sooner: whether that is news.
    pub(crate) fn plan_job(&mut self, key: JobKey, at: Nanos) -> bool {
        let Some(job) = self.jobs.get_mut(&key) else { return false };
        let news = job.next_at.is_none_or(|planned| at < planned);
        if news {
            job.next_at = Some(at);
        }
        news
    }

    /// Whether it goes on at this time.
    pub(crate) fn is_planned(&self, key: JobKey, at: Nanos) -> bool {
        self.jobs.get(&key).is_some_and(|job| job.next_at == Some(at))
    }

    /// It goes on at that time instead.
    pub(crate) fn move_job(&mut self, key: JobKey, at: Nanos) -> bool {
        self.jobs.get_mut(&key).map(|job| job.next_at = Some(at)).is_some()
    }

    /// A caller is gone.
    pub(crate) fn drop_lanes(&mut self, proxy: u32) -> Vec<(RequestId, Ended)> {
        self.drop_those(|lane| lane.is_of_proxy(proxy))
    }

    /// A replica that had a handle is gone.
    pub(crate) fn drop_lane_of(&mut self, caller: &ReplicaId) {
        let ended = self.drop_those(|lane| *lane == LaneKey::Replica(caller.clone()));
        assert!(ended.is_empty(), "of calls by others nobody keeps books: {ended:?}");
    }

    fn drop_those(&mut self, is_gone: impl Fn(&LaneKey) -> bool) -> Vec<(RequestId, Ended)> {
        self.lanes.retain(|lane, _| !is_gone(lane));
        let gone: Vec<JobKey> =
            self.jobs.iter().filter(|(_, job)| is_gone(&job.lane)).map(|(key, _)| *key).collect();
        gone.into_iter().filter_map(|key| self.forget(key, Ended::Cancelled)).collect()
    }

    /// Looks at every lane, takes what may be taken.
    pub(crate) fn take_turn(&mut self, dice: &mut Dice, now: Nanos) -> Worked {
        let mut worked = Worked::default();
        self.heartbeat += 1;
        for key in self.lanes.keys().cloned().collect::<Vec<LaneKey>>() {
            self.read(&key, &mut worked);
        }
        self.take_next(dice, now, &mut worked);
        self.hear_callees(now, &mut worked);
        self.flush();
        worked
    }

    /// Those whose calls have come to something go on.
    pub(crate) fn hear_callees(&mut self, now: Nanos, worked: &mut Worked) {
        self.caller.poll(now.0);
        let touched = self.caller.take_touched();
        let waits = |job: &Job| job.call.is_some_and(|call| touched.contains(&call));
        let waiting = self.jobs.iter().filter(|(_, job)| waits(job));
        worked.again.extend(waiting.map(|(key, _)| (*key, Duration::from_micros(1))));
        self.caller.flush();
    }

    fn flush(&mut self) {
        self.caller.flush();
        self.load.0.store(u64::from(self.running), Ordering::Relaxed);
        for lane in self.lanes.values_mut() {
            lane.flush();
        }
    }

    fn read(&mut self, key: &LaneKey, worked: &mut Worked) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let (mut blocks, mut news) = (Vec::new(), Vec::new());
        let polled = lane.poll(POLL_BUDGET, &mut |request| match request {
            Request::Open { stream, head, body, end } => {
                let (head, _) = RequestHead::parse(head).expect("the proxy writes records that can be read");
                let request = RequestId::of_path(head.path).expect("paths end in numbers");
                let (method, deadline, epoch) = (head.method.to_owned(), head.deadline_ns, head.epoch);
                news.push(News::Open { stream, request, method, deadline, epoch, end });
                if let Some(block) = body {
                    news.push(News::Bytes { stream, block: blocks.len(), end });
                    blocks.push(Some(block));
                }
            }
            Request::Data { stream, block, end } => {
                news.push(News::Bytes { stream, block: blocks.len(), end });
                blocks.push(Some(block));
            }
            Request::End(stream) => news.push(News::End(stream)),
            Request::Cancel(stream) => news.push(News::Cancel(stream)),
            Request::Room(stream) => news.push(News::Room(stream)),
        });
        if let Err(fault) = polled {
            worked.fault.get_or_insert(fault.to_string());
        }
        for event in news {
            let bytes = match event {
                News::Bytes { block, .. } => blocks.get_mut(block).and_then(Option::take).map(|block| {
                    let lane = self.lanes.get_mut(key).expect("it was there");
                    let mut bytes = vec![0; block.len()];
                    lane.copy_to(&block, 0, &mut bytes);
                    lane.give_back(block);
                    bytes
                }),
                _ => None,
            };
            self.hear(key, event, bytes.unwrap_or_default(), worked);
        }
    }

    fn hear(&mut self, lane: &LaneKey, event: News, bytes: Vec<u8>, worked: &mut Worked) {
        let (stream, end) = match &event {
            News::Open { stream, end, .. } | News::Bytes { stream, end, .. } => (*stream, *end),
            News::End(stream) => (*stream, true),
            News::Cancel(stream) | News::Room(stream) => (*stream, false),
        };
        if let News::Open { stream, request, method, deadline, epoch, end } = event {
            let calls = if self.callee.is_some() && !lane.is_nested() { 1 + request.0 % 2 } else { 0 };
            let job = Job {
                lane: lane.clone(),
                stream,
                request,
                method,
                body: Vec::new(),
                whole: end,
                deadline,
                taken: false,
                cancelled: false,
                epoch,
                calls,
                call: None,
                answer: None,
                next_at: None,
            };
            self.next_job += 1;
            self.jobs.insert(self.next_job, job);
            self.waiting.push_back(self.next_job);
            return;
        }
        let held = self.jobs.iter_mut().find(|(_, job)| job.lane == *lane && job.stream == stream);
        let Some((key, job)) = held else { return };
        let key = *key;
        match event {
            News::Cancel(_) => {
                job.cancelled = true;
                if job.taken {
                    worked.again.push((key, Duration::from_micros(50)));
                } else {
                    // The channel has answered for itself: not taken.
                    self.waiting.retain(|waiting| *waiting != key);
                    self.jobs.remove(&key);
                }
            }
            News::Room(_) => worked.again.push((key, Duration::from_micros(1))),
            _ => {
                job.body.extend(bytes);
                job.whole |= end;
                if job.whole && job.answer.is_some() {
                    worked.again.push((key, Duration::from_micros(1)));
                }
            }
        }
    }

    fn take_next(&mut self, dice: &mut Dice, now: Nanos, worked: &mut Worked) {
        if self.stage == Stage::Starting {
            return;
        }
        while let Some(key) = self.waiting.front().copied() {
            let Some(job) = self.jobs.get_mut(&key) else {
                self.waiting.pop_front();
                continue;
            };
            let Some(lane) = self.lanes.get_mut(&job.lane) else {
                self.waiting.pop_front();
                self.jobs.remove(&key);
                continue;
            };
            if job.deadline != 0 && now.0 >= job.deadline {
                self.waiting.pop_front();
                lane.reset(job.stream, ResetCode::Deadline);
                self.jobs.remove(&key);
                continue;
            }
            if self.running >= self.limit {
                return;
            }
            self.waiting.pop_front();
            if lane.take(job.stream) {
                job.taken = true;
                self.running += 1;
                let (usual, most) = self.temper.service_us;
                let after = dice.skewed(usual, most);
                match &job.lane {
                    LaneKey::Worker(..) => worked.taken.push((job.request, key, after)),
                    LaneKey::Replica(caller) => {
                        worked.nested.push((job.request, caller.clone()));
                        worked.again.push((key, after));
                    }
                }
            } else {
                self.jobs.remove(&key);
            }
        }
    }

    /// Goes on with a request that was taken: begins its answer, or sends more of it.
    pub(crate) fn go_on(&mut self, key: JobKey, dice: &mut Dice, now: Nanos) -> Worked {
        let mut worked = Worked::default();
        if self.has_to_wait(key, dice, now, &mut worked) {
            self.flush();
            return worked;
        }
        let Some(job) = self.jobs.get_mut(&key).filter(|job| job.taken) else { return worked };
        job.next_at = None;
        self.heartbeat += 1;
        if job.cancelled {
            if let Some(lane) = self.lanes.get_mut(&job.lane) {
                lane.reset(job.stream, ResetCode::Cancelled);
            }
            worked.ended.extend(self.forget(key, Ended::Cancelled));
        } else if job.whole || job.answer.as_ref().is_some_and(|answer| answer.head_sent) {
            let nested = job.lane.is_nested();
            // What it says to others of its kind is true: a handle has nobody to tell of a lie.
            let temper = Temper { lies: if nested { 0 } else { self.temper.lies }, ..self.temper.clone() };
            let (id, version) = (&self.id, &self.version);
            let answer = job.answer.get_or_insert_with(|| {
                Answering::to((job.request, &job.method, &job.body), (id, version), &temper, dice)
            });
            if answer.lie.is_some() {
                // Whatever comes of it from here on.
                worked.ended.push((job.request, Ended::Lied));
            }
            let Some(lane) = self.lanes.get_mut(&job.lane) else { return worked };
            match answer.send(lane, job.stream, dice) {
                Sent::All(how) => {
                    worked.sent.extend((!nested).then_some(job.request));
                    worked.ended.extend(self.forget(key, how));
                }
                Sent::Some(after) => {
                    if answer.is_sent() && !nested {
                        worked.sent.push(job.request);
                    }
                    worked.again.push((key, after));
                }
                Sent::Gone => worked.ended.extend(self.forget(key, Ended::Cancelled)),
            }
        } else {
            // The rest of its body is still on its way.
            worked.again.push((key, BODY_AGAIN));
        }
        self.flush();
        worked
    }

    /// Whether a request that was taken has a call to wait for. Makes its calls, one after the other.
    fn has_to_wait(&mut self, key: JobKey, dice: &mut Dice, now: Nanos, worked: &mut Worked) -> bool {
        let (Some(job), Some(callee)) = (self.jobs.get_mut(&key), &self.callee) else { return false };
        if !job.taken || job.cancelled || !job.whole || (job.calls == 0 && job.call.is_none()) {
            return false;
        }
        job.next_at = None;
        if let Some(call) = job.call {
            match self.caller.outcome(call) {
                Outcome::Pending => self.caller.watch(call),
                Outcome::Ready | Outcome::Failed(_) => {
                    self.caller.free(call);
                    job.call = None;
                    worked.again.push((key, dice.skewed(100, 20_000)));
                }
            }
            return true;
        }
        job.calls -= 1;
        let (target, id) = (format!("/{callee}/{}", job.request.0), job.request.to_string());
        let new = NewCall {
            deployment: callee.clone(),
            kind: Kind::Http,
            method: "GET",
            target: &target,
            headers: &[],
            encoding: 0,
            body: Vec::new(),
            id: &id,
            traceparent: "",
            deadline_ns: job.deadline,
            model_id: "",
            replica: None,
            epoch: (!self.forgets_epochs).then_some(job.epoch),
        };
        match self.caller.start(new, now.0) {
            Ok(call) => {
                job.call = Some(call);
                worked.again.push((key, Duration::from_micros(1)));
            }
            Err(_) => worked.again.push((key, dice.skewed(100, 20_000))),
        }
        true
    }

    fn forget(&mut self, key: JobKey, how: Ended) -> Option<(RequestId, Ended)> {
        let job = self.jobs.remove(&key)?;
        self.waiting.retain(|waiting| *waiting != key);
        if let Some(call) = job.call {
            self.caller.free(call);
        }
        if !job.taken {
            return None;
        }
        self.running -= 1;
        self.processed += 1;
        (!job.lane.is_nested()).then_some((job.request, how))
    }
}

/// What came over a lane, with blocks by number.
enum News {
    Open { stream: StreamId, request: RequestId, method: String, deadline: u64, epoch: Epoch, end: bool },
    Bytes { stream: StreamId, block: usize, end: bool },
    End(StreamId),
    Cancel(StreamId),
    Room(StreamId),
}

/// What came of sending.
enum Sent {
    All(Ended),
    Some(Duration),
    Gone,
}

impl Answering {
    fn to(
        (request, method, body): (RequestId, &str, &[u8]),
        (replica, version): (&ReplicaId, &str),
        temper: &Temper,
        dice: &mut Dice,
    ) -> Self {
        let sum = checksum(body);
        let mut bytes = format!("{}|{replica}|{version}|{method}|{sum}|", request.0).into_bytes();
        let most = if dice.one_in(40) { temper.answer_max * 20 } else { temper.answer_max };
        let count = usize::try_from(dice.below(most + 1)).unwrap_or(0);
        bytes.extend(filler_of(request, count));
        let lie = (temper.lies > 0 && dice.one_in(temper.lies)).then(|| match dice.below(5) {
            0 => Lie::Fails,
            1 => Lie::Status,
            2 => Lie::Longer,
            3 => Lie::Shorter,
            _ => Lie::Record,
        });
        let length = bytes.len() as u64;
        let content_length = match lie {
            Some(Lie::Longer) => Some(length / 2),
            Some(Lie::Shorter) => Some(length + 7),
            _ => dice.one_in(2).then_some(length),
        };
        let status = if lie == Some(Lie::Status) { 142 } else { 200 };
        let mut head = Vec::new();
        ResponseHead { status, content_length, encoding: 0 }.encode([].into_iter(), &mut head);
        if lie == Some(Lie::Record) {
            head = vec![0xff; 13];
        }
        let at_once = bytes.len() < 8_000 && !dice.one_in(3);
        Self { lie, head, head_sent: false, at_once, body: bytes.into() }
    }

    /// Whether only its end is missing, which its length may have told already.
    fn is_sent(&self) -> bool {
        self.head_sent && self.body.is_empty()
    }

    fn send(&mut self, lane: &mut Responder, stream: StreamId, dice: &mut Dice) -> Sent {
        let how = if self.lie.is_some() { Ended::Lied } else { Ended::Answered };
        if self.lie == Some(Lie::Fails) {
            lane.reset(stream, ResetCode::Failed);
            return Sent::All(how);
        }
        if !self.head_sent {
            let body = if self.at_once { self.body.make_contiguous() } else { &mut [] };
            return match lane.head(stream, &self.head, body, self.at_once) {
                Ok(()) => {
                    self.head_sent = true;
                    if self.at_once { Sent::All(how) } else { Sent::Some(dice.skewed(50, 3_000)) }
                }
                Err(NoRoom::Later) => Sent::Some(ROOM_AGAIN),
                Err(NoRoom::Gone | NoRoom::TooLarge) => Sent::Gone,
            };
        }
        if self.body.is_empty() {
            lane.end(stream);
            return Sent::All(how);
        }
        let want = self.body.len().min(1 + dice.index(12_000));
        match lane.block(stream, want) {
            Ok(mut block) => {
                let bytes: Vec<u8> = self.body.iter().copied().take(want).collect();
                let count = lane.fill(&mut block, &bytes);
                self.body.drain(..count);
                let end = self.body.is_empty() && dice.one_in(2);
                lane.send(stream, block, end);
                if end { Sent::All(how) } else { Sent::Some(dice.skewed(50, 2_000)) }
            }
            Err(NoRoom::Later) => Sent::Some(ROOM_AGAIN),
            Err(NoRoom::Gone | NoRoom::TooLarge) => Sent::Gone,
        }
    }
}
