//! A real replica that serves the hello example, and one caller of it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use decurion_api::{ApplicationName, ClassName, DeploymentName, ReplicaId};
use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::board::BoardReader;
use decurion_ipc::channel::{Event, Geometry, Requester};
use decurion_ipc::control::{CallerKind, ReplicaOrder, ReplicaReport, ReplicaStart};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::link::Link;
use decurion_ipc::record::{Kind, RequestHead};
use decurion_ipc::spin::Spin;
use decurion_ipc::sys::spin::spin;

use crate::lane::sleep;

/// Nothing of a start takes so long.
const WATCHDOG: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Replica {
    process: Child,
    lane: Requester,
    head: Vec<u8>,
    habit: Spin,
    _links: (Link, Link, BoardReader),
}

impl Replica {
    /// Starts one that is ready, with so many handler threads.
    ///
    /// # Panics
    /// Where it is not built, or does not start.
    #[must_use]
    pub fn start(threads: u16) -> Self {
        let (link, theirs) = Link::pair().expect("a link");
        let process = Command::new(built("decurion-replica-runner"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .expect("the runner starts");
        link.send(&ReplicaOrder::Start(Box::new(order(threads))), &[]).expect("room");
        match link.recv_timeout(Some(WATCHDOG)).expect("an open link").expect("a report in time").0 {
            ReplicaReport::Ready => {}
            other => panic!("{other:?}"),
        }
        let (attach, theirs) = Link::pair().expect("an attach link");
        let theirs = OwnedFd::from(theirs);
        link.send(&ReplicaOrder::Accept(CallerKind::Proxy), &[theirs.as_fd()]).expect("room");
        drop(theirs);
        let mut connected =
            attach::connect(&attach, 1, Geometry::default(), UpBell::Pipe, WATCHDOG).expect("a channel");
        let lane = connected.lanes.remove(0);
        let links = (link, attach, connected.board);
        Self { process, lane, head: head(), habit: Spin::new(2, 2), _links: links }
    }

    /// Sends so many requests at once and waits for all answers.
    ///
    /// # Panics
    /// Where the replica breaks the rules.
    pub fn ask(&mut self, count: usize) {
        for _ in 0..count {
            self.lane.open(&self.head, &[], true).expect("an idle lane has room");
        }
        self.lane.flush();
        let mut left = count;
        loop {
            let mut blocks = [const { None }; 64];
            let mut lent = 0;
            let end = |event: Event<'_>| match event {
                Event::Head { body, end, .. } => {
                    if body.is_some() {
                        blocks[lent] = body;
                        lent += 1;
                    }
                    left -= usize::from(end);
                }
                other => panic!("{other:?}"),
            };
            let mut end = end;
            self.lane.poll(64, &mut end).expect("the replica keeps the rules");
            blocks.into_iter().flatten().for_each(|block| self.lane.give_back(block));
            if left == 0 {
                return;
            }
            if !spin(&mut self.habit, || self.lane.has_news()) && self.lane.arm() {
                sleep(self.lane.bell());
                self.lane.disarm();
            }
        }
    }

    /// Nanoseconds that all its threads have run so far.
    #[must_use]
    pub fn ran_ns(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id()));
        let times = tasks.into_iter().flatten().flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        times.sum()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn order(threads: u16) -> ReplicaStart {
    ReplicaStart {
        replica: ReplicaId::new("bench-1").expect("an id"),
        deployment: DeploymentName::new("bench").expect("a name"),
        application: ApplicationName::new("benches").expect("a name"),
        version: "1".to_owned(),
        library: built("libhello.so").to_string_lossy().into_owned(),
        class: ClassName::new("hello").expect("a name"),
        args: "null".to_owned(),
        user_config: None,
        threads,
        max_ongoing_requests: 100,
        rank: 0,
        world_size: 1,
    }
}

/// As a small request through the proxy.
fn head() -> Vec<u8> {
    let head = RequestHead {
        kind: Kind::Http,
        id: "0123456789abcdef0123456789abcdef",
        method: "GET",
        path: b"/hello",
        query: b"",
        route_prefix: "/hello",
        traceparent: "",
        model_id: "",
        deadline_ns: u64::MAX / 2,
        content_length: None,
        encoding: 0,
        method_index: u32::MAX,
        epoch: Epoch::default(),
    };
    let fields: [(&[u8], &[u8]); 4] = [
        (b"host", b"127.0.0.1:8000"),
        (b"user-agent", b"curl/7.88.1"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
    ];
    let mut record = Vec::new();
    head.encode(fields.into_iter(), &mut record);
    record
}

/// In the folder of the profile that this bench was built in.
fn built(name: &str) -> PathBuf {
    let bench = std::env::current_exe().expect("a running bench has a path");
    let mut folder = bench.parent().expect("a file lies in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("deps lies in the profile's folder");
    }
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask bench replica`", path.display());
    path
}
