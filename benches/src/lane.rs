//! An echo over one lane of shared memory, in the ways that two sides can wait for each other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::board::{BoardReader, BoardWriter};
use decurion_ipc::channel::{
    BLOCK_MAX, Event, Geometry, InBlock, NoRoom, OutBlock, Request, Requester, Responder, StreamId,
};
use decurion_ipc::control::CallerKind;
use decurion_ipc::link::Link;
use decurion_ipc::spin::Spin;
use decurion_ipc::sys::bell::BellReader;
use decurion_ipc::sys::child::take_link;
use decurion_ipc::sys::sleeper::Sleeper;
use decurion_ipc::sys::spin::spin;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Slots in one poll, as the product has it.
pub(crate) const BUDGET: u32 = 256;
/// A head of the usual size.
pub(crate) const HEAD: [u8; 300] = [b'h'; 300];
const STOP: &[u8] = b"stop";
/// What goes into one block together with the head.
const INLINE: usize = BLOCK_MAX - HEAD.len();

/// Nothing of a start takes so long.
const WATCHDOG: Duration = Duration::from_secs(30);

/// How a side waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Looks all the time.
    Poll,
    /// Sleeps at once.
    Sleep,
    /// Spins while that succeeds, then sleeps.
    Adaptive,
    /// Spins for as long as a wake-up takes, whether that succeeds or not, then sleeps.
    Fixed,
}

/// The caller's end of the echo.
#[derive(Debug)]
pub struct Client {
    lane: Requester,
    waiter: Waiter,
    _board: BoardReader,
}

/// The callee's end of the echo.
#[derive(Debug)]
pub struct Server {
    lane: Responder,
    waiter: Waiter,
    body: Vec<u8>,
    received: usize,
    streams: usize,
}

/// Both ends. Wherever they run, nobody forbids them to spin.
#[must_use]
pub fn echo(wait: Wait) -> (Client, Server) {
    let (mut connected, mut accepted) =
        attach::local(1, geometry(), UpBell::Pipe).expect("a channel within one process");
    let lane = connected.lanes.remove(0);
    let bell = lane.bell_reader().expect("a descriptor");
    let client = Client { lane, waiter: Waiter::new(wait, bell), _board: connected.board };
    let server = Server {
        lane: accepted.lanes.remove(0),
        waiter: Waiter::new(wait, accepted.bell),
        body: Vec::new(),
        received: 0,
        streams: 0,
    };
    (client, server)
}

/// What a bench is started with to be the callee's end of [`echo_apart`].
pub const ECHO: &str = "--echo";

/// The callee's end in a process of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct Echo {
    process: Child,
    _attach: Link,
}

/// The same with the callee's end in another process: this program, started with [`ECHO`].
#[must_use]
pub fn echo_apart(wait: Wait) -> (Client, Echo) {
    let (attach, theirs) = Link::pair().expect("a link");
    let program = std::env::current_exe().expect("the name of this program");
    let mut command = Command::new(program);
    let process =
        command.arg(ECHO).stdin(Stdio::from(OwnedFd::from(theirs))).spawn().expect("another process");
    let mut connected = attach::connect(&attach, 1, geometry(), UpBell::Pipe, WATCHDOG)
        .expect("a channel to the other process");
    let lane = connected.lanes.remove(0);
    let bell = lane.bell_reader().expect("a descriptor");
    let client = Client { lane, waiter: Waiter::new(wait, bell), _board: connected.board };
    (client, Echo { process, _attach: attach })
}

/// The life of that process.
pub fn serve_apart(wait: Wait) {
    let attach = take_link().expect("it is started by `echo_apart`");
    let (_writer, board) = BoardWriter::create().expect("a board");
    sleep(attach.as_fd());
    let mut accepted = attach::accept(&attach, &CallerKind::Proxy, board.as_fd()).expect("a caller");
    let (lane, waiter) = (accepted.lanes.remove(0), Waiter::new(wait, accepted.bell));
    Server { lane, waiter, body: Vec::new(), received: 0, streams: 0 }.run();
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As between one worker of the proxy and one replica.
pub(crate) fn geometry() -> Geometry {
    Geometry::fitting(1, 1, 64)
}

#[derive(Debug)]
pub(crate) struct Waiter {
    wait: Wait,
    habit: Spin,
    sleeper: Sleeper,
}

impl Client {
    /// Sends `body` and reads the answer of the same length into `answer`.
    pub fn ask(&mut self, body: &[u8], answer: &mut [u8]) {
        self.send(body);
        let mut received = 0;
        while !self.turn(answer, &mut received) {
            self.wait();
        }
    }

    /// The same with the server's turns in between, on one thread.
    pub fn ask_here(&mut self, server: &mut Server, body: &[u8], answer: &mut [u8]) {
        self.send(body);
        let mut received = 0;
        loop {
            server.turn();
            if self.turn(answer, &mut received) {
                return;
            }
        }
    }

    /// Ends the server.
    pub fn stop(&mut self) {
        self.lane.open(STOP, &[], true).expect("an idle lane has room");
        self.lane.flush();
    }

    /// Opens with the whole body if it fits one block, else streams it.
    fn send(&mut self, body: &[u8]) {
        if body.len() <= INLINE {
            self.lane.open(&HEAD, body, true).expect("an idle lane has room");
            self.lane.flush();
            return;
        }
        let stream = self.lane.open(&HEAD, &[], false).expect("an idle lane has room");
        let mut sent = 0;
        while sent < body.len() {
            match self.lane.block(stream, body.len() - sent) {
                Ok(mut block) => {
                    sent += self.lane.fill(&mut block, &body[sent..]);
                    self.lane.send(stream, block, sent == body.len());
                }
                Err(NoRoom::Later) => {
                    // One bell for all that there was room for, as the product has it.
                    self.lane.flush();
                    self.wait();
                    self.lane.poll(BUDGET, &mut |_| {}).expect("the server keeps the rules");
                }
                Err(no_room) => panic!("{no_room}"),
            }
        }
        self.lane.flush();
    }

    /// Takes in what came: whether that was the end.
    fn turn(&mut self, answer: &mut [u8], received: &mut usize) -> bool {
        let (mut blocks, mut ended): ([Option<InBlock>; 8], _) = ([const { None }; 8], false);
        let mut count = 0;
        let mut keep = |block: Option<InBlock>| {
            if let Some(block) = block {
                blocks[count] = Some(block);
                count += 1;
            }
        };
        // Few slots at a time: so many blocks are kept at once.
        self.lane
            .poll(8, &mut |event| match event {
                Event::Head { body, end, .. } => {
                    keep(body);
                    ended |= end;
                }
                Event::Data { block, end, .. } => {
                    keep(Some(block));
                    ended |= end;
                }
                Event::End(_) => ended = true,
                _ => {}
            })
            .expect("the server keeps the rules");
        for block in blocks.into_iter().flatten() {
            *received += self.lane.copy_to(&block, 0, &mut answer[*received..]);
            self.lane.give_back(block);
        }
        self.lane.flush();
        ended
    }

    fn wait(&mut self) {
        self.waiter.wait(&mut self.lane);
    }
}

impl Server {
    /// Answers until it is stopped.
    pub fn run(&mut self) {
        while self.turn() {
            self.waiter.wait(&mut self.lane);
        }
    }

    /// Takes in what came and answers what is whole. False: it was told to stop.
    pub fn turn(&mut self) -> bool {
        let (mut blocks, mut whole, mut opened): ([Option<InBlock>; 8], _, _) =
            ([const { None }; 8], None, None);
        let (mut count, mut stop) = (0, false);
        let mut keep = |block: Option<InBlock>| {
            if let Some(block) = block {
                blocks[count] = Some(block);
                count += 1;
            }
        };
        self.lane
            .poll(8, &mut |request| match request {
                Request::Open { stream, head, body, end } => {
                    stop |= head == STOP;
                    opened = Some(stream);
                    keep(body);
                    whole = end.then_some(stream);
                }
                Request::Data { stream, block, end } => {
                    keep(Some(block));
                    whole = end.then_some(stream);
                }
                Request::End(stream) => whole = Some(stream),
                _ => {}
            })
            .expect("the client keeps the rules");
        if let Some(stream) = opened {
            self.streams += usize::from(self.lane.take(stream));
        }
        for block in blocks.into_iter().flatten() {
            let end = self.received + block.len();
            if self.body.len() < end {
                self.body.resize(end, 0);
            }
            self.lane.copy_to(&block, 0, &mut self.body[self.received..end]);
            self.received = end;
            self.lane.give_back(block);
        }
        if let Some(stream) = whole {
            self.answer(stream);
        }
        self.lane.flush();
        !stop
    }

    fn answer(&mut self, stream: StreamId) {
        let buffer = std::mem::take(&mut self.body);
        let body = &buffer[..std::mem::take(&mut self.received)];
        let first = if body.len() <= INLINE { body.len() } else { 0 };
        self.lane.head(stream, &HEAD, &body[..first], first == body.len()).expect("an idle lane has room");
        let mut sent = first;
        while sent < body.len() {
            match self.lane.block(stream, body.len() - sent) {
                Ok(block) => sent += self.send(stream, block, &body[sent..]),
                Err(NoRoom::Later) => {
                    self.lane.flush();
                    self.waiter.wait(&mut self.lane);
                    self.lane.poll(BUDGET, &mut |_| {}).expect("the client keeps the rules");
                }
                Err(no_room) => panic!("{no_room}"),
            }
        }
        self.body = buffer;
    }

    fn send(&mut self, stream: StreamId, mut block: OutBlock, rest: &[u8]) -> usize {
        let count = self.lane.fill(&mut block, rest);
        self.lane.send(stream, block, count == rest.len());
        count
    }
}

/// What can be waited for.
pub(crate) trait End {
    fn has_news(&self) -> bool;
    fn arm(&mut self) -> bool;
}

impl End for Requester {
    fn has_news(&self) -> bool {
        self.has_news()
    }

    fn arm(&mut self) -> bool {
        self.arm()
    }
}

impl End for Responder {
    fn has_news(&self) -> bool {
        self.has_news()
    }

    fn arm(&mut self) -> bool {
        self.arm()
    }
}

impl Waiter {
    pub(crate) fn new(wait: Wait, bell: BellReader) -> Self {
        let sleeper = Sleeper::new().expect("a sleeper");
        sleeper.add(bell, "the other side".to_owned()).expect("a bell");
        Self { wait, habit: Spin::new(2, 2), sleeper }
    }

    /// Waits for news as a replica and a process with handles do.
    pub(crate) fn wait(&mut self, lane: &mut impl End) {
        if self.spins(|| lane.has_news()) {
            return;
        }
        self.sleeper.arming();
        if lane.arm() {
            self.sleeper.sleep(None);
        }
    }

    /// Looks as long as this way of waiting does; true: there is something.
    pub(crate) fn spins(&mut self, mut has_news: impl FnMut() -> bool) -> bool {
        match self.wait {
            Wait::Poll => {
                while !has_news() {
                    std::hint::spin_loop();
                }
                true
            }
            Wait::Sleep => has_news(),
            Wait::Adaptive => spin(&mut self.habit, has_news),
            Wait::Fixed => spin(&mut Spin::new(2, 2), has_news),
        }
    }
}

/// Sleeps until the bell rings.
pub fn sleep(bell: BorrowedFd<'_>) {
    let _ = poll(&mut [PollFd::new(bell, PollFlags::POLLIN)], PollTimeout::NONE);
}
