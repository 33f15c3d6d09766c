//! Threads that wait for each other, with callers in the same process. Each test hangs if a wake-up is lost, and its
//! watchdog says so; nothing is asserted of times.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::board::BoardWriter;
use decurion_ipc::channel::{Event, Geometry, Requester, StreamId};
use decurion_ipc::control::CallerKind;
use decurion_ipc::epoch::Epoch;
use decurion_ipc::link::Link;
use decurion_ipc::record::{Kind, RequestHead, ResponseHead};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::*;
use crate::engine::{ClassShape, Read, Wrote};
use crate::gate::Entry;
use crate::slab::Key;

const WATCHDOG: Duration = Duration::from_secs(30);
const OVER: i32 = decurion_abi::status::OK;

/// A runner whose handler is a closure: the method's index, or -1 for HTTP.
struct Scene {
    runner: &'static Runner,
    threads: Vec<JoinHandle<()>>,
    _link: Link,
}

struct Closure<F>(F);

impl<F: Fn(&'static Runner, Key, i64)> Handler for (&'static Runner, Arc<Closure<F>>) {
    fn run(&self, job: Job) -> Returned {
        (self.1.0)(self.0, job.key, job.method.map_or(-1, i64::from));
        Returned { status: OVER, later: false }
    }
}

impl Scene {
    fn new(
        threads: usize,
        limit: u32,
        handler: impl Fn(&'static Runner, Key, i64) + Send + Sync + 'static,
    ) -> Self {
        let (writer, _) = BoardWriter::create().unwrap();
        let mut engine = Engine::new(limit, writer);
        let methods = vec![("many".to_owned(), Entry::Shared), ("one".to_owned(), Entry::Exclusive)];
        engine.open(ClassShape { call: Some(Entry::Shared), methods });
        let (ours, link) = Link::pair().unwrap();
        let outbox = Outbox::new(Arc::new(ours)).unwrap();
        let runner = Runner::new(engine, threads, Sleeper::new().unwrap(), outbox);
        let runner: &'static Runner = Box::leak(Box::new(runner));
        let handler = Arc::new(Closure(handler));
        let spawn = |_| {
            let handler = (runner, Arc::clone(&handler));
            std::thread::spawn(move || runner.serve(&handler))
        };
        Self { runner, threads: (0..threads).map(spawn).collect(), _link: link }
    }

    fn caller(&self) -> Caller {
        let (mut near, mut far) = attach::local(1, Geometry::default(), UpBell::Pipe).unwrap();
        self.runner.sleeper.add(far.bell, "the test".to_owned()).unwrap();
        self.runner.nudge(|engine| engine.add_lane(far.lanes.remove(0), CallerKind::Proxy));
        Caller { lane: near.lanes.remove(0) }
    }

    fn stop(self) {
        self.runner.nudge(Engine::stop);
        let (sender, ended) = channel();
        let threads = self.threads;
        std::thread::spawn(move || {
            let all = threads.into_iter().all(|thread| thread.join().is_ok());
            sender.send(all)
        });
        assert!(ended.recv_timeout(WATCHDOG).expect("every thread ends"));
    }
}

/// The other end of a lane, on the test's thread.
struct Caller {
    lane: Requester,
}

impl Caller {
    fn open(&mut self, method: &str, end: bool) -> StreamId {
        let head = RequestHead {
            kind: if method == "GET" { Kind::Http } else { Kind::Call },
            id: "id-1",
            method,
            path: b"/",
            query: b"",
            route_prefix: "",
            traceparent: "",
            model_id: "",
            deadline_ns: 0,
            content_length: None,
            encoding: 0,
            method_index: u32::MAX,
            epoch: Epoch::default(),
        };
        let mut record = Vec::new();
        head.encode(std::iter::empty(), &mut record);
        let stream = self.lane.open(&record, b"", end).expect("room");
        self.lane.flush();
        stream
    }

    /// Waits for so many answers to end.
    fn answers(&mut self, mut count: usize) {
        while count > 0 {
            let mut blocks = Vec::new();
            self.lane
                .poll(256, &mut |event| match event {
                    Event::Head { body, end, .. } => {
                        blocks.extend(body);
                        count -= usize::from(end);
                    }
                    Event::Data { block, end, .. } => {
                        blocks.push(block);
                        count -= usize::from(end);
                    }
                    Event::End(_) => count -= 1,
                    Event::Reset { code, .. } => panic!("{code:?}"),
                    Event::Room(_) | Event::Vacancy => {}
                })
                .expect("no fault");
            blocks.into_iter().for_each(|block| self.lane.give_back(block));
            if count > 0 && self.lane.arm() {
                assert!(wait_for(self.lane.bell()), "{count} answers never come");
                self.lane.disarm();
            }
        }
        let _ = self.lane.arm();
    }
}

fn wait_for(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let timeout = PollTimeout::try_from(WATCHDOG).unwrap();
    nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) == Ok(1)
}

fn answer(runner: &Runner, key: Key, body: &[u8]) {
    let head = ResponseHead { status: 200, content_length: None, encoding: 0 };
    let wrote = runner.with(|engine| engine.respond(key, head, &[], body));
    assert_eq!(wrote, Wrote::Done(body.len()));
}

type Ends<R> = (Sender<()>, R);

/// Something that a handler tells, and something that it waits for.
fn door() -> (Ends<Receiver<()>>, Ends<Mutex<Receiver<()>>>) {
    let (entered, open) = (channel(), channel());
    (entered, (open.0, Mutex::new(open.1)))
}

fn get(receiver: &Receiver<()>) {
    receiver.recv_timeout(WATCHDOG).expect("it comes");
}

#[test]
fn every_thread_answers_and_ends() {
    for threads in [1, 2, 4] {
        let scene = Scene::new(threads, 8, |runner, key, _| answer(runner, key, b"hello"));
        let mut callers = [scene.caller(), scene.caller()];
        for _ in 0..200 {
            for caller in &mut callers {
                for _ in 0..3 {
                    caller.open("GET", true);
                }
            }
            callers.iter_mut().for_each(|caller| caller.answers(3));
        }
        scene.stop();
    }
}

#[test]
fn reconfigure_goes_on_when_the_last_request_ends_although_nothing_else_happens() {
    for threads in [1, 2] {
        let ((entered, inside), (open, wait)) = door();
        let scene = Scene::new(threads, 8, move |runner, key, _| {
            let _ = entered.send(());
            get(&wait.lock().unwrap());
            answer(runner, key, b"");
        });
        let mut caller = scene.caller();
        caller.open("GET", true);
        get(&inside);
        let runner = scene.runner;
        let (configured, done) = channel();
        std::thread::spawn(move || {
            runner.with(Engine::hold_gate);
            runner.wait(0, |engine, _| engine.enter_gate(Entry::Exclusive).then(|| engine.release_gate()));
            runner.with(|engine| engine.gate_left(Entry::Exclusive));
            configured.send(())
        });
        // It waits by now, or will: both must do.
        std::thread::yield_now();
        open.send(()).unwrap();
        get(&done);
        caller.answers(1);
        caller.open("GET", true);
        open.send(()).unwrap();
        caller.answers(1);
        scene.stop();
    }
}

#[test]
fn what_waited_for_an_exclusive_method_runs_on_all_threads() {
    let ((entered, inside), (open, wait)) = door();
    let together = Arc::new(Barrier::new(2));
    let scene = Scene::new(2, 8, move |runner, key, method| {
        if method == 1 {
            let _ = entered.send(());
            get(&wait.lock().unwrap());
        } else {
            // Neither goes on without the other.
            together.wait();
        }
        answer(runner, key, b"");
    });
    let mut caller = scene.caller();
    for _ in 0..50 {
        caller.open("one", true);
        get(&inside);
        caller.open("many", true);
        caller.open("many", true);
        open.send(()).unwrap();
        caller.answers(3);
    }
    scene.stop();
}

#[test]
fn a_handler_that_waits_for_its_body_lets_others_in() {
    for threads in [1, 2, 3] {
        let scene = Scene::new(threads, 8, move |runner, key, method| {
            if method == 0 {
                let mut buffer = [0; 1000];
                while let Some(Read::Some(_)) = runner.wait(0, |engine, now| {
                    Some(engine.read(key, &mut buffer, now)).filter(|r| *r != Read::Wait)
                }) {}
            }
            answer(runner, key, b"");
        });
        let mut caller = scene.caller();
        for _ in 0..50 {
            let slow = caller.open("many", false);
            for _ in 0..3 {
                let mut block = caller.lane.block(slow, 100).unwrap();
                caller.lane.fill(&mut block, &[0; 100]);
                caller.lane.send(slow, block, false);
                caller.lane.flush();
                if threads > 1 {
                    caller.open("GET", true);
                    caller.answers(1);
                }
            }
            caller.lane.end(slow);
            caller.lane.flush();
            caller.answers(1);
        }
        scene.stop();
    }
}

#[test]
fn a_higher_limit_is_used_at_once() {
    let together = Arc::new(Barrier::new(2));
    let ((entered, inside), _) = door();
    let scene = Scene::new(2, 1, move |runner, key, _| {
        let _ = entered.send(());
        together.wait();
        answer(runner, key, b"");
    });
    let mut caller = scene.caller();
    caller.open("GET", true);
    caller.open("GET", true);
    get(&inside);
    scene.runner.with(|engine| engine.set_limit(2));
    caller.answers(2);
    scene.stop();
}

#[test]
fn the_control_thread_is_rung_when_the_last_request_ends() {
    let ((entered, inside), (open, wait)) = door();
    let scene = Scene::new(1, 1, move |runner, key, _| {
        let _ = entered.send(());
        get(&wait.lock().unwrap());
        answer(runner, key, b"");
    });
    let mut caller = scene.caller();
    caller.open("GET", true);
    get(&inside);
    scene.runner.with(Engine::drain);
    open.send(()).unwrap();
    assert!(wait_for(scene.runner.outbox.bell()), "nobody says that it is drained");
    assert!(scene.runner.look(Engine::is_idle));
    caller.answers(1);
    scene.stop();
}

#[test]
fn an_answer_is_sent_to_its_end_while_every_thread_runs_a_handler() {
    let ((entered, inside), (open, wait)) = door();
    let scene = Scene::new(1, 2, move |runner, key, method| {
        if method == 0 {
            let _ = entered.send(());
            get(&wait.lock().unwrap());
            answer(runner, key, b"");
        } else {
            answer(runner, key, &[0; 3_000_000]);
        }
    });
    let mut caller = scene.caller();
    caller.open("GET", true);
    caller.open("many", true);
    get(&inside);
    // As the control thread does.
    let runner = scene.runner;
    assert!(wait_for(runner.outbox.bell()) && runner.outbox.take_deputy());
    let deputy = std::thread::spawn(move || runner.stand_in());
    caller.answers(1);
    assert!(!scene.runner.look(Engine::is_idle), "the other still runs");
    open.send(()).unwrap();
    caller.answers(1);
    scene.stop();
    drop(deputy);
}

#[test]
fn a_caller_that_comes_while_all_sleep_is_heard() {
    let scene = Scene::new(2, 8, |runner, key, _| answer(runner, key, b""));
    for _ in 0..50 {
        let mut caller = scene.caller();
        caller.open("GET", true);
        caller.answers(1);
    }
    scene.stop();
}
