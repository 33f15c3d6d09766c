//! A replica as a thread: the callee's end of a real channel, and a handler that does what the test wants.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use decurion_api::ReplicaId;
use decurion_ipc::attach::{self, Accepted};
use decurion_ipc::board::BoardWriter;
use decurion_ipc::channel::{InBlock, Request, ResetCode, Responder, StreamId};
use decurion_ipc::control::CallerKind;
use decurion_ipc::link::Link;
use decurion_ipc::record::{RequestHead, ResponseHead};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::{WATCHDOG, mortal};

/// What a handler does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// `Hello world!`
    Hello,
    /// The replica's id.
    Name,
    /// The number of the lane that the request came by: each worker has its own.
    Lane,
    /// Method, path, query, prefix, id, deadline and header fields as text.
    Tell,
    /// The body, as it comes.
    Echo,
    /// So many bytes `x`, length announced.
    Large(u64),
    /// So many bytes `x`, length not announced.
    Stream(u64),
    /// Takes, and waits for [`Command::Answer`].
    Hold,
    /// Never takes.
    Ignore,
    /// Says that it does not take it.
    Refuse,
    /// A header that would be two.
    BadHeader,
    /// A record that is none.
    Garbage,
    /// Resets after having taken.
    Fail,
    /// Announces 10 bytes, sends 3, and then waits.
    Partial,
    /// Switches to this protocol, and echoes what comes then.
    Switch(&'static str),
    /// The given status and no body.
    Status(u16),
    /// Never answers the attach socket.
    Absent,
}

/// What a test tells a replica.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// Answers what it holds, oldest first: so many.
    Answer(usize),
    /// Behaves as told from now on.
    Stop,
}

/// What a replica tells the test.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// A request came.
    Open(String),
    /// A request was given up.
    Cancel,
}

pub struct FakeReplica {
    pub id: ReplicaId,
    pub seen: Receiver<Seen>,
    commands: Link,
    alive: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl FakeReplica {
    /// The replica, and what stands in for its pidfd.
    pub fn start(id: ReplicaId, attach: Link, behaviour: Behaviour) -> (Self, OwnedFd) {
        let (commands, orders) = Link::pair().unwrap();
        let (alive, pidfd) = mortal();
        let (tell, seen) = channel();
        let name = id.to_string();
        let thread = std::thread::spawn(move || {
            if behaviour == Behaviour::Absent {
                let _ = orders.recv_timeout::<Command>(Some(WATCHDOG));
                return;
            }
            let (_board, board) = BoardWriter::create().unwrap();
            wait(&[attach.as_fd(), orders.as_fd()]);
            let Ok(accepted) = attach::accept(&attach, &CallerKind::Proxy, board.as_fd()) else { return };
            Loop { name, behaviour, accepted, orders, tell, streams: HashMap::new(), held: VecDeque::new() }
                .run();
        });
        (Self { id, seen, commands, alive: Some(alive), thread: Some(thread) }, pidfd)
    }

    pub fn command(&self, command: &Command) {
        self.commands.send(command, &[]).unwrap();
    }

    /// The next request that it sees: its path.
    pub fn next_open(&self) -> String {
        loop {
            match self.seen.recv_timeout(WATCHDOG).expect("a request in time") {
                Seen::Open(path) => return path,
                Seen::Cancel => {}
            }
        }
    }

    pub fn next_cancel(&self) {
        loop {
            if self.seen.recv_timeout(WATCHDOG).expect("a cancel in time") == Seen::Cancel {
                return;
            }
        }
    }

    /// Dies: nothing more is written, and then its pidfd tells.
    pub fn kill(&mut self) {
        let _ = self.commands.send(&Command::Stop, &[]);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.alive = None;
    }
}

impl Drop for FakeReplica {
    fn drop(&mut self) {
        let _ = self.commands.send(&Command::Stop, &[]);
    }
}

fn wait(fds: &[std::os::fd::BorrowedFd<'_>]) {
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let _ = poll(&mut fds, PollTimeout::NONE);
}

type Key = (usize, StreamId);

/// A response body that is on its way.
#[derive(Default)]
struct Out {
    /// Echoed blocks that found no room yet.
    blocks: VecDeque<(InBlock, usize)>,
    /// Bytes `x` that are still to be sent.
    made: u64,
    /// The request's body has ended.
    ended: bool,
    partial: bool,
}

struct Loop {
    name: String,
    behaviour: Behaviour,
    accepted: Accepted,
    orders: Link,
    tell: Sender<Seen>,
    streams: HashMap<Key, Out>,
    held: VecDeque<Key>,
}

enum Came {
    Open(StreamId, Vec<u8>, Option<InBlock>, bool),
    Data(StreamId, InBlock, bool),
    End(StreamId),
    Cancel(StreamId),
    Room(StreamId),
}

impl Loop {
    fn run(mut self) {
        loop {
            let lanes = self.accepted.lanes.len();
            for at in 0..lanes {
                let mut came = Vec::new();
                let lane = &mut self.accepted.lanes[at];
                let _ = lane.poll(256, &mut |request| {
                    came.push(match request {
                        Request::Open { stream, head, body, end } => {
                            Came::Open(stream, head.to_vec(), body, end)
                        }
                        Request::Data { stream, block, end } => Came::Data(stream, block, end),
                        Request::End(stream) => Came::End(stream),
                        Request::Cancel(stream) => Came::Cancel(stream),
                        Request::Room(stream) => Came::Room(stream),
                    });
                });
                for came in came {
                    self.take(at, came);
                }
            }
            loop {
                match self.orders.try_recv::<Command>() {
                    Ok(Some((Command::Answer(count), _))) => self.answer_held(count),
                    Ok(None) => break,
                    Ok(Some((Command::Stop, _))) | Err(_) => return,
                }
            }
            let quiet = self.accepted.lanes.iter_mut().all(Responder::arm);
            if quiet {
                wait(&[self.accepted.bell.as_fd(), self.orders.as_fd()]);
                self.accepted.bell.drain();
            }
        }
    }

    fn take(&mut self, at: usize, came: Came) {
        match came {
            Came::Open(stream, head, body, end) => self.open(at, stream, &head, body, end),
            Came::Data(stream, block, end) => {
                if let Some(out) = self.streams.get_mut(&(at, stream)) {
                    out.blocks.push_back((block, 0));
                    out.ended |= end;
                } else {
                    self.accepted.lanes[at].give_back(block);
                }
                self.pump(at, stream);
            }
            Came::End(stream) => {
                if let Some(out) = self.streams.get_mut(&(at, stream)) {
                    out.ended = true;
                }
                self.pump(at, stream);
            }
            Came::Cancel(stream) => {
                let _ = self.tell.send(Seen::Cancel);
                self.held.retain(|key| *key != (at, stream));
                for (block, _) in self.streams.remove(&(at, stream)).unwrap_or_default().blocks {
                    self.accepted.lanes[at].give_back(block);
                }
                self.accepted.lanes[at].reset(stream, ResetCode::Cancelled);
            }
            Came::Room(stream) => self.pump(at, stream),
        }
    }

    fn open(&mut self, at: usize, stream: StreamId, record: &[u8], body: Option<InBlock>, end: bool) {
        let (head, fields) = RequestHead::parse(record).unwrap();
        let path = String::from_utf8(head.path.to_vec()).unwrap();
        let _ = self.tell.send(Seen::Open(path));
        let lane = &mut self.accepted.lanes[at];
        if self.behaviour == Behaviour::Ignore {
            return body.into_iter().for_each(|block| lane.give_back(block));
        }
        if self.behaviour == Behaviour::Refuse {
            body.into_iter().for_each(|block| lane.give_back(block));
            return lane.refuse(stream);
        }
        if !lane.take(stream) {
            return body.into_iter().for_each(|block| lane.give_back(block));
        }
        let mut response = ResponseHead { status: 200, content_length: None, encoding: 0 };
        let mut switch = None;
        let mut out = Out { ended: end, ..Out::default() };
        let text = match self.behaviour {
            Behaviour::Hello => Some("Hello world!".to_owned()),
            Behaviour::Name => Some(self.name.clone()),
            Behaviour::Lane => Some(at.to_string()),
            Behaviour::Tell => {
                let fields: Vec<String> = fields
                    .map(|(name, value)| {
                        format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
                    })
                    .collect();
                Some(format!(
                    "{} {} ?{} prefix={} id={} model={} length={:?} deadline={} [{}]",
                    head.method,
                    String::from_utf8_lossy(head.path),
                    String::from_utf8_lossy(head.query),
                    head.route_prefix,
                    head.id,
                    head.model_id,
                    head.content_length,
                    head.deadline_ns > 0,
                    fields.join(",")
                ))
            }
            Behaviour::Status(status) => {
                response.status = status;
                Some(String::new())
            }
            Behaviour::Large(size) => {
                response.content_length = Some(size);
                out.made = size;
                out.ended = true;
                None
            }
            Behaviour::Stream(size) => {
                out.made = size;
                out.ended = true;
                None
            }
            Behaviour::Switch(protocol) => {
                response.status = 101;
                switch = Some(protocol);
                None
            }
            Behaviour::Echo => {
                response.content_length = head.content_length;
                None
            }
            Behaviour::Partial => {
                response.content_length = Some(10);
                out.partial = true;
                None
            }
            Behaviour::Hold => {
                body.into_iter().for_each(|block| lane.give_back(block));
                self.held.push_back((at, stream));
                return;
            }
            Behaviour::Fail => {
                body.into_iter().for_each(|block| lane.give_back(block));
                return lane.reset(stream, ResetCode::Failed);
            }
            Behaviour::Garbage => {
                body.into_iter().for_each(|block| lane.give_back(block));
                return lane.head(stream, b"this is no record", b"", true).unwrap();
            }
            Behaviour::BadHeader => {
                body.into_iter().for_each(|block| lane.give_back(block));
                let mut bytes = Vec::new();
                response.encode([(&b"x"[..], &b"a\r\nset-cookie: b"[..])].into_iter(), &mut bytes);
                return lane.head(stream, &bytes, b"text", true).unwrap();
            }
            Behaviour::Ignore | Behaviour::Refuse | Behaviour::Absent => unreachable!(),
        };
        let mut bytes = Vec::new();
        let field = match switch {
            Some(protocol) => (&b"upgrade"[..], protocol.as_bytes()),
            None => (&b"content-type"[..], &b"text/plain"[..]),
        };
        response.encode([field].into_iter(), &mut bytes);
        if let Some(text) = text {
            body.into_iter().for_each(|block| lane.give_back(block));
            return lane.head(stream, &bytes, text.as_bytes(), true).unwrap();
        }
        let inline = if out.partial { &b"abc"[..] } else { b"" };
        lane.head(stream, &bytes, inline, false).unwrap();
        out.blocks.extend(body.map(|block| (block, 0)));
        self.streams.insert((at, stream), out);
        self.pump(at, stream);
    }

    fn answer_held(&mut self, count: usize) {
        for _ in 0..count {
            let Some((at, stream)) = self.held.pop_front() else { return };
            let mut bytes = Vec::new();
            ResponseHead { status: 200, content_length: None, encoding: 0 }
                .encode([].into_iter(), &mut bytes);
            self.accepted.lanes[at].head(stream, &bytes, b"held", true).unwrap();
        }
    }

    /// Sends what it can of a body.
    fn pump(&mut self, at: usize, stream: StreamId) {
        let Some(out) = self.streams.get_mut(&(at, stream)) else { return };
        if out.partial {
            return;
        }
        let lane = &mut self.accepted.lanes[at];
        let mut bytes = vec![b'x'; 64 * 1024];
        while let Some((block, done)) = out.blocks.front_mut() {
            let count = lane.copy_to(block, *done, &mut bytes);
            let Ok(mut room) = lane.block(stream, count.max(1)) else { return };
            *done += lane.fill(&mut room, &bytes[..count]);
            lane.send(stream, room, false);
            if *done == block.len()
                && let Some((block, _)) = out.blocks.pop_front()
            {
                lane.give_back(block);
            }
        }
        bytes.fill(b'x');
        while out.made > 0 {
            let want = usize::try_from(out.made).unwrap().min(bytes.len());
            let Ok(mut room) = lane.block(stream, want) else { return };
            let filled = lane.fill(&mut room, &bytes[..want]);
            out.made -= filled as u64;
            lane.send(stream, room, false);
        }
        if out.ended {
            lane.end(stream);
            self.streams.remove(&(at, stream));
        }
    }
}
