//! The supervisor's and the callers' ends of one replica.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use decurion_api::{ApplicationName, ClassName, DeploymentName, ReplicaId};
use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::board::BoardReader;
use decurion_ipc::channel::{Event, Geometry, InBlock, Requester, StreamId};
use decurion_ipc::control::{CallerKind, ReplicaOrder, ReplicaReport, ReplicaStart};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::link::Link;
use decurion_ipc::record::{Kind, RequestHead, ResponseHead};
use decurion_tests::{library, target_dir};

/// As the supervisor orders it.
pub(crate) const DRAIN: ReplicaOrder = ReplicaOrder::Drain { grace: Duration::from_secs(20) };

pub(crate) const WATCHDOG: Duration = Duration::from_secs(120);

/// A replica of the fixtures, and the supervisor's end of its link.
pub(crate) struct Replica {
    pub(crate) process: Child,
    pub(crate) link: Link,
}

pub(crate) fn start_order(library: &str, class: &str, args: &str) -> ReplicaStart {
    ReplicaStart {
        replica: ReplicaId::new("test-1").expect("an id"),
        deployment: DeploymentName::new("test").expect("a name"),
        application: ApplicationName::new("tests").expect("a name"),
        version: "1".to_owned(),
        library: library.to_owned(),
        class: ClassName::new(class).expect("a name"),
        args: args.to_owned(),
        user_config: None,
        threads: 1,
        max_ongoing_requests: 64,
        rank: 0,
        world_size: 1,
    }
}

impl Replica {
    pub(crate) fn spawn(start: ReplicaStart) -> Self {
        Self::spawn_by(start, |runner| Command::new(runner))
    }

    /// The same by a command that is made of the runner's path.
    pub(crate) fn spawn_by(start: ReplicaStart, command: impl FnOnce(&Path) -> Command) -> Self {
        let (link, theirs) = Link::pair().expect("a link");
        let process = command(&target_dir().join("decurion-replica-runner"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("the runner starts");
        let replica = Self { process, link };
        replica.order(&ReplicaOrder::Start(Box::new(start)));
        replica
    }

    /// One of the fixtures that is ready, with so many threads.
    pub(crate) fn ready(class: &str, args: &str, threads: u16) -> Self {
        let fixtures = library("fixtures");
        let start = ReplicaStart { threads, ..start_order(&fixtures.to_string_lossy(), class, args) };
        let replica = Self::spawn(start);
        assert_eq!(replica.report(), ReplicaReport::Ready);
        replica
    }

    pub(crate) fn order(&self, order: &ReplicaOrder) {
        self.link.send(order, &[]).expect("room for an order");
    }

    /// The next report that is no log line.
    pub(crate) fn report(&self) -> ReplicaReport {
        loop {
            match self.link.recv_timeout(Some(WATCHDOG)).expect("an open link").expect("a report in time").0 {
                ReplicaReport::Log { .. } | ReplicaReport::Metrics(_) => {}
                report => return report,
            }
        }
    }

    pub(crate) fn reconfigure(&self, sequence: u64, config: &str) {
        self.order(&ReplicaOrder::Reconfigure { sequence, user_config: config.to_owned() });
    }

    pub(crate) fn caller(&self) -> Caller {
        self.caller_of(CallerKind::Proxy, None)
    }

    /// A caller whose process is another one.
    pub(crate) fn caller_of(&self, kind: CallerKind, pidfd: Option<BorrowedFd<'_>>) -> Caller {
        let (ours, theirs) = Link::pair().expect("an attach link");
        let theirs = OwnedFd::from(theirs);
        let fds: Vec<BorrowedFd<'_>> = [theirs.as_fd()].into_iter().chain(pidfd).collect();
        self.link.send(&ReplicaOrder::Accept(kind), &fds).expect("room");
        drop(theirs);
        let mut made =
            attach::connect(&ours, 1, Geometry::default(), UpBell::Pipe, WATCHDOG).expect("a channel");
        let lane = made.lanes.remove(0);
        Caller { lane, board: made.board, attach: ours, answers: HashMap::new(), number: 0 }
    }

    /// Drains it: everything is answered, and it ends well.
    pub(crate) fn drain(self) {
        self.order(&DRAIN);
        assert!(self.drained().success());
    }

    /// Waits for the end of a replica that was told to drain.
    pub(crate) fn drained(mut self) -> ExitStatus {
        assert_eq!(self.report(), ReplicaReport::Drained);
        self.process.wait().expect("our child")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a request asks for.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) kind: Kind,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) encoding: u32,
    pub(crate) deadline_ns: u64,
}

/// GET with a query.
pub(crate) fn get(query: &str) -> Ask<'_> {
    Ask { kind: Kind::Http, method: "GET", path: "/test", query, encoding: 0, deadline_ns: 0 }
}

/// A method with JSON.
pub(crate) fn call(method: &str) -> Ask<'_> {
    Ask { kind: Kind::Call, method, path: "", query: "", encoding: 1, deadline_ns: 0 }
}

/// One caller: a lane and what came by it.
pub(crate) struct Caller {
    pub(crate) lane: Requester,
    pub(crate) board: BoardReader,
    pub(crate) attach: Link,
    answers: HashMap<StreamId, Answer>,
    number: u32,
}

#[derive(Default)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    ended: bool,
}

enum News {
    Head(StreamId, u16),
    Body(StreamId, InBlock),
    End(StreamId),
    Reset(StreamId),
}

impl Caller {
    /// Opens a request with what of its body fits, as `id-N` with N from 1.
    pub(crate) fn open(&mut self, ask: Ask<'_>, body: &[u8], end: bool) -> StreamId {
        self.number += 1;
        let id = format!("id-{}", self.number);
        let head = RequestHead {
            kind: ask.kind,
            id: &id,
            method: ask.method,
            path: ask.path.as_bytes(),
            query: ask.query.as_bytes(),
            route_prefix: "/test",
            traceparent: "",
            model_id: "",
            deadline_ns: ask.deadline_ns,
            content_length: end.then_some(body.len() as u64),
            encoding: ask.encoding,
            method_index: u32::MAX,
            epoch: Epoch::default(),
        };
        let mut record = Vec::new();
        head.encode(std::iter::empty(), &mut record);
        let stream = self.lane.open(&record, body, end).expect("room");
        self.lane.flush();
        self.answers.insert(stream, Answer::default());
        stream
    }

    /// Sends all these bytes of a body, as there is room.
    pub(crate) fn send(&mut self, stream: StreamId, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.lane.block(stream, bytes.len() - sent) {
                Ok(mut block) => {
                    sent += self.lane.fill(&mut block, &bytes[sent..]);
                    self.lane.send(stream, block, false);
                }
                Err(_) => self.step("room for a body"),
            }
        }
        self.lane.flush();
    }

    /// Waits for the end of an answer: its status, 0 for a reset, and its body.
    pub(crate) fn answer(&mut self, stream: StreamId) -> (u16, Vec<u8>) {
        while !self.answers[&stream].ended {
            self.step("an answer");
        }
        let Answer { status, body, .. } = self.answers.remove(&stream).expect("opened here");
        (status, body)
    }

    /// The whole of a request, with a body of any length.
    pub(crate) fn ask(&mut self, ask: Ask<'_>, body: &[u8]) -> (u16, Vec<u8>) {
        let small = body.len() < 32 * 1024;
        let stream = self.open(ask, if small { body } else { &[] }, small);
        if !small {
            self.send(stream, body);
            self.lane.end(stream);
            self.lane.flush();
        }
        self.answer(stream)
    }

    /// The same, with the answer as text.
    pub(crate) fn text(&mut self, ask: Ask<'_>) -> (u16, String) {
        let (status, body) = self.ask(ask, b"");
        (status, String::from_utf8(body).expect("text"))
    }

    /// Takes in what is there, or waits for something.
    fn step(&mut self, what: &str) {
        let (mut news, mut quiet) = (Vec::new(), true);
        let mut take = |event: Event<'_>| {
            quiet = false;
            match event {
                Event::Head { stream, head, body, end } => {
                    news.push(News::Head(stream, ResponseHead::parse(head).expect("a head").0.status));
                    news.extend(body.map(|block| News::Body(stream, block)));
                    news.extend(end.then_some(News::End(stream)));
                }
                Event::Data { stream, block, end } => {
                    news.push(News::Body(stream, block));
                    news.extend(end.then_some(News::End(stream)));
                }
                Event::End(stream) => news.push(News::End(stream)),
                Event::Reset { stream, .. } => news.push(News::Reset(stream)),
                Event::Room(_) | Event::Vacancy => {}
            }
        };
        self.lane.poll(256, &mut take).expect("the replica keeps the rules");
        if quiet && self.lane.arm() {
            assert!(readable(self.lane.bell()), "{what} never comes");
            assert!(!self.is_gone(), "{what} never comes: the replica is gone");
            self.lane.disarm();
        }
        for item in news {
            self.take(item);
        }
    }

    /// Whether the replica's end of the attach socket is closed, with nothing left to take in.
    fn is_gone(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut polled = [PollFd::new(self.attach.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO) == Ok(1)
            && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
            && !self.lane.has_news()
    }

    fn take(&mut self, news: News) {
        match news {
            News::Head(stream, status) => self.answers.entry(stream).or_default().status = status,
            News::Body(stream, block) => {
                let body = &mut self.answers.entry(stream).or_default().body;
                let at = body.len();
                body.resize(at + block.len(), 0);
                self.lane.copy_to(&block, 0, &mut body[at..]);
                self.lane.give_back(block);
            }
            News::End(stream) => self.answers.entry(stream).or_default().ended = true,
            News::Reset(stream) => {
                *self.answers.entry(stream).or_default() =
                    Answer { status: 0, body: Vec::new(), ended: true };
            }
        }
    }
}

/// Waits for a descriptor.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(WATCHDOG).expect("short enough");
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) == Ok(1)
}

/// Waits for a file that the fixtures make.
pub(crate) fn appears(file: &Path) {
    until(&format!("{} appears", file.display()), || file.exists());
}

/// Waits for what nothing can be waited for otherwise.
pub(crate) fn until(what: &str, is_so: impl Fn() -> bool) {
    let watchdog = Instant::now() + WATCHDOG;
    while !is_so() {
        assert!(Instant::now() < watchdog, "never: {what}");
        decurion_tests::pause();
    }
}

/// Makes a file that the fixtures wait for.
pub(crate) fn make(file: &Path) {
    fs::write(file, "").expect("write");
}

/// Runs `work` on another thread, and fails where it does not end.
pub(crate) fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = channel();
    std::thread::spawn(move || sender.send(work()));
    done.recv_timeout(WATCHDOG).unwrap_or_else(|_| panic!("{what} does not end"))
}
