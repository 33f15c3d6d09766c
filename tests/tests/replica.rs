//! A replica alone: the real runner and a real library, with this test as its supervisor and its caller.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use decurion_api::{ApplicationName, ClassName, DeploymentName, ReplicaId};
use decurion_ipc::attach::{self, Connected, UpBell};
use decurion_ipc::channel::{Event, Geometry, StreamId};
use decurion_ipc::control::{CallerKind, ReplicaOrder, ReplicaReport, ReplicaStart, StartFailure};
use decurion_ipc::link::Link;
use decurion_ipc::record::{Kind, RequestHead, ResponseHead};
use decurion_tests::{library, target_dir};

const WATCHDOG: Duration = Duration::from_secs(30);

struct Replica {
    process: Child,
    link: Link,
    attach: Option<Link>,
    channel: Option<Connected>,
}

fn start_order(library: &str, class: &str, args: &str) -> ReplicaStart {
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
        max_ongoing_requests: 5,
        rank: 0,
        world_size: 1,
    }
}

impl Replica {
    fn spawn(start: ReplicaStart) -> Self {
        let (link, theirs) = Link::pair().expect("a link");
        let process = Command::new(target_dir().join("decurion-replica-runner"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("the runner starts");
        link.send(&ReplicaOrder::Start(Box::new(start)), &[]).expect("room for an order");
        Self { process, link, attach: None, channel: None }
    }

    fn report(&self) -> ReplicaReport {
        loop {
            match self.link.recv_timeout(Some(WATCHDOG)).expect("an open link").expect("a report in time").0 {
                ReplicaReport::Log { .. } => {}
                report => return report,
            }
        }
    }

    fn ready(class: &str, args: &str) -> Self {
        let fixtures = library("fixtures");
        let mut replica = Self::spawn(start_order(&fixtures.to_string_lossy(), class, args));
        assert_eq!(replica.report(), ReplicaReport::Ready);
        let (ours, theirs) = Link::pair().expect("an attach link");
        let theirs = OwnedFd::from(theirs);
        replica.link.send(&ReplicaOrder::Accept(CallerKind::Proxy), &[theirs.as_fd()]).expect("room");
        drop(theirs);
        let channel = attach::connect(&ours, 1, Geometry::default(), UpBell::EventFd, WATCHDOG);
        replica.channel = Some(channel.expect("a channel"));
        replica.attach = Some(ours);
        replica
    }

    fn ask(&mut self, kind: Kind, method: &str, path: &str, encoding: u32, body: &[u8]) -> (u16, Vec<u8>) {
        let head = RequestHead {
            kind,
            id: "id-1",
            method,
            path: path.as_bytes(),
            query: b"a=1",
            route_prefix: "/test",
            traceparent: "",
            model_id: "",
            deadline_ns: 0,
            content_length: Some(body.len() as u64),
            encoding,
            method_index: u32::MAX,
        };
        let mut record = Vec::new();
        head.encode(std::iter::empty(), &mut record);
        let lane = &mut self.channel.as_mut().expect("attached").lanes[0];
        let small = body.len() < 32 * 1024;
        let stream = lane.open(&record, if small { body } else { &[] }, small).expect("room");
        let mut answer = Answer { rest: if small { &[] } else { body }, ..Answer::default() };
        while !answer.ended {
            answer.pump(lane, stream);
            lane.flush();
            let mut events = Vec::new();
            lane.poll(256, &mut |event| events.push(Owned::of(event))).expect("no fault");
            for event in events {
                answer.take(lane, event);
            }
            assert!(self.process.try_wait().expect("our child").is_none(), "the replica is gone");
        }
        (answer.status, answer.body)
    }

    fn drain(mut self) -> std::process::ExitStatus {
        self.link.send(&ReplicaOrder::Drain, &[]).expect("room");
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

enum Owned {
    Head(Vec<u8>),
    Block(decurion_ipc::channel::InBlock),
    End,
    Reset,
}

impl Owned {
    fn of(event: Event<'_>) -> Vec<Self> {
        let (mut out, end) = (
            Vec::new(),
            matches!(event, Event::Head { end: true, .. } | Event::Data { end: true, .. } | Event::End(_)),
        );
        match event {
            Event::Head { head, body, .. } => {
                out.push(Owned::Head(head.to_vec()));
                out.extend(body.map(Owned::Block));
            }
            Event::Data { block, .. } => out.push(Owned::Block(block)),
            Event::Reset { .. } => out.push(Owned::Reset),
            Event::End(_) | Event::Room(_) | Event::Vacancy => {}
        }
        if end {
            out.push(Owned::End);
        }
        out
    }
}

#[derive(Default)]
struct Answer<'a> {
    rest: &'a [u8],
    status: u16,
    body: Vec<u8>,
    ended: bool,
}

impl Answer<'_> {
    fn pump(&mut self, lane: &mut decurion_ipc::channel::Requester, stream: StreamId) {
        while !self.rest.is_empty() {
            let Ok(mut block) = lane.block(stream, self.rest.len().min(64 * 1024)) else { return };
            let count = lane.fill(&mut block, self.rest);
            self.rest = &self.rest[count..];
            lane.send(stream, block, self.rest.is_empty());
        }
    }

    fn take(&mut self, lane: &mut decurion_ipc::channel::Requester, events: Vec<Owned>) {
        for event in events {
            match event {
                Owned::Head(head) => self.status = ResponseHead::parse(&head).expect("a head").0.status,
                Owned::Block(block) => {
                    let at = self.body.len();
                    self.body.resize(at + block.len(), 0);
                    lane.copy_to(&block, 0, &mut self.body[at..]);
                    lane.give_back(block);
                }
                Owned::End => self.ended = true,
                Owned::Reset => {
                    self.status = 0;
                    self.ended = true;
                }
            }
        }
    }
}

#[test]
fn answers_http_and_drains() {
    let mut replica = Replica::ready("Who", r#"{"word": "first"}"#);
    let pid = replica.process.id();
    for _ in 0..100 {
        assert_eq!(
            replica.ask(Kind::Http, "GET", "/test", 0, b""),
            (200, format!("{pid} first").into_bytes())
        );
    }
    assert!(replica.drain().success());
}

#[test]
fn answers_methods_in_json_and_names_those_it_has() {
    let mut replica = Replica::ready("Who", r#"["second"]"#);
    let pid = replica.process.id();
    let (status, body) = replica.ask(Kind::Call, "who", "", 1, b"[]");
    assert_eq!((status, String::from_utf8_lossy(&body).into_owned()), (200, format!("\"{pid} second\"")));
    let (status, body) = replica.ask(Kind::Call, "whom", "", 1, b"[]");
    let message = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, 404, "{message}");
    assert!(message.contains("'whom'") && message.contains("who"), "{message}");
}

#[test]
fn bodies_larger_than_the_channel_stream_through() {
    let mut replica = Replica::ready("Echo", "null");
    let body: Vec<u8> = (0..5_000_000u32).map(|number| number.to_le_bytes()[number as usize % 3]).collect();
    let (status, echoed) = replica.ask(Kind::Http, "POST", "/test/x", 0, &body);
    assert_eq!(status, 200);
    assert!(echoed == body, "{} bytes came back of {}", echoed.len(), body.len());
    assert!(replica.drain().success());
}

#[test]
fn a_panic_is_contained() {
    let mut replica = Replica::ready("Fail", "null");
    let (status, body) = replica.ask(Kind::Http, "GET", "/test/panic", 0, b"");
    assert_eq!((status, body), (500, b"Internal Server Error".to_vec()));
    let (status, body) = replica.ask(Kind::Http, "GET", "/test/error", 0, b"");
    assert_eq!((status, body), (500, b"Internal Server Error".to_vec()));
    let (status, body) = replica.ask(Kind::Http, "GET", "/test/status", 0, b"");
    assert_eq!((status, body), (422, b"not that".to_vec()));
    assert_eq!(replica.ask(Kind::Http, "GET", "/test/fine", 0, b"").0, 200);
}

#[test]
fn reconfigure_is_answered_and_a_refusal_changes_nothing() {
    let mut replica = Replica::ready("Pair", "null");
    let pid = replica.process.id();
    let configure = |replica: &Replica, sequence, config: &str| {
        let user_config = config.to_owned();
        replica.link.send(&ReplicaOrder::Reconfigure { sequence, user_config }, &[]).expect("room");
        match replica.report() {
            ReplicaReport::Reconfigured { sequence: answered, result } => {
                assert_eq!(answered, sequence);
                result
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(configure(&replica, 1, r#"{"left": "a", "right": "a"}"#), Ok(()));
    let refused = configure(&replica, 2, r#"{"left": "a", "right": "b"}"#).unwrap_err();
    assert!(refused.contains("do not belong together"), "{refused}");
    assert_eq!(replica.ask(Kind::Http, "GET", "/test", 0, b"").1, format!("{pid} a a").into_bytes());
}

#[test]
fn a_constructor_that_fails_says_why() {
    let fixtures = library("fixtures");
    let replica = Replica::spawn(start_order(&fixtures.to_string_lossy(), "Stillborn", r#"["error"]"#));
    match replica.report() {
        ReplicaReport::StartFailed(StartFailure::Constructor(why)) => {
            assert!(why.contains("the model is not there"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    let replica = Replica::spawn(start_order(&fixtures.to_string_lossy(), "Nobody", "null"));
    match replica.report() {
        ReplicaReport::StartFailed(StartFailure::Class(why)) => {
            assert!(why.contains("holds no class 'Nobody'"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    let replica = Replica::spawn(start_order("/proc/self/status", "Who", "null"));
    assert!(matches!(replica.report(), ReplicaReport::StartFailed(StartFailure::Library(_))));
}

#[test]
fn the_destructor_runs_once_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = Replica::ready("Mortal", &format!("[{:?}]", folder.path()));
    let mark = folder.path().join(format!("destroyed-{}", replica.process.id()));
    assert!(!mark.exists());
    assert!(replica.drain().success());
    assert!(mark.exists());
}
