//! Many messages under way at once, and bodies that stream: what batches of doorbells, and warm blocks, come to.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::channel::{Event, InBlock, NoRoom, Request, Requester, Responder, StreamId};
use ipc_channel::ipc;
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Token};

use crate::contest::{between, rate};
use crate::lane::{BUDGET, HEAD, Wait, Waiter, geometry};
use crate::place::Place;

/// How many are under way at once, how large each is, and where the sides run.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Messages under way.
    pub messages: usize,
    /// Bytes of each, and of its answer.
    pub size: usize,
    /// Processors.
    pub place: Place,
}

/// A head that ends the other side.
const STOP: &[u8] = b"stop";

/// Answers a second over our lane: each answer that comes in is followed by the next request, and each batch by one
/// look whether the other side sleeps.
#[must_use]
pub fn lane(depth: Depth, wait: Wait, lasts: Duration) -> f64 {
    let (mut connected, mut accepted) =
        attach::local(1, geometry(), UpBell::Pipe).expect("a channel within one process");
    let mut near = connected.lanes.remove(0);
    let mut far = accepted.lanes.remove(0);
    let server = move || {
        let mut waiter = Waiter::new(wait, accepted.bell);
        let mut scratch = vec![0; depth.size];
        while answer(&mut far, &mut scratch) {
            waiter.wait(&mut far);
        }
    };
    between(depth.place, server, || {
        let body = vec![1; depth.size];
        let mut scratch = vec![0; depth.size];
        let (mut waiter, mut under_way) = (Waiter::new(wait, near.bell_reader().expect("a bell")), 0);
        let figure = rate(lasts, || {
            while under_way < depth.messages && near.open(&HEAD, &body, true).is_ok() {
                under_way += 1;
            }
            near.flush();
            let answered = hear(&mut near, &mut scratch);
            under_way -= answered;
            if answered == 0 {
                waiter.wait(&mut near);
            }
            answered
        });
        let _ = near.open(STOP, &[], true);
        near.flush();
        figure
    })
}

/// Answers everything that is there. False: it was told to stop.
fn answer(lane: &mut Responder, scratch: &mut [u8]) -> bool {
    let (mut opened, mut stop) = (Vec::<(StreamId, Option<InBlock>)>::with_capacity(64), false);
    let polled = lane.poll(BUDGET, &mut |request| {
        if let Request::Open { stream, head, body, .. } = request {
            stop |= head == STOP;
            opened.push((stream, body));
        }
    });
    polled.expect("the client keeps the rules");
    for (stream, body) in opened {
        let _ = lane.take(stream);
        let length = body.map_or(0, |block| {
            let copied = lane.copy_to(&block, 0, scratch);
            lane.give_back(block);
            copied
        });
        lane.head(stream, &HEAD, &scratch[..length], true).expect("room for what there was room to ask");
    }
    lane.flush();
    !stop
}

fn hear(lane: &mut Requester, scratch: &mut [u8]) -> usize {
    let mut blocks = Vec::with_capacity(64);
    let mut answered = 0;
    let polled = lane.poll(BUDGET, &mut |event| {
        if let Event::Head { body, end, .. } = event {
            blocks.extend(body);
            answered += usize::from(end);
        }
    });
    polled.expect("the server keeps the rules");
    for block in blocks {
        lane.copy_to(&block, 0, scratch);
        lane.give_back(block);
    }
    answered
}

/// The same over Unix streams and mio: as many messages in each write as are there, as many in each read.
#[must_use]
pub fn unix_stream(depth: Depth, lasts: Duration) -> f64 {
    let (near, far) = StdStream::pair().expect("a socket pair");
    let server = move || {
        let mut pipe = Pipe::new(far);
        while let Some(count) = pipe.read(depth.size) {
            if !pipe.write(count) {
                return;
            }
        }
    };
    between(depth.place, server, || {
        let mut pipe = Pipe::new(near);
        pipe.bytes = vec![1; depth.size * depth.messages];
        let mut sent = depth.size * depth.messages;
        rate(lasts, || {
            assert!(pipe.write(sent), "the other side reads");
            sent = pipe.read(depth.size).expect("the other side answers");
            sent / depth.size
        })
    })
}

/// One end of a stream that is never waited for but in `Poll`.
struct Pipe {
    stream: UnixStream,
    poll: Poll,
    events: Events,
    bytes: Vec<u8>,
    /// Of a message that is not whole yet.
    partial: usize,
}

impl Pipe {
    fn new(stream: StdStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        let mut stream = UnixStream::from_std(stream);
        let poll = Poll::new().expect("an epoll");
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(0), interest).expect("a socket");
        Self { stream, poll, events: Events::with_capacity(8), bytes: vec![0; 256 << 10], partial: 0 }
    }

    /// Waits for at least one whole message: how many bytes of whole ones came. `None`: the other side is gone.
    fn read(&mut self, size: usize) -> Option<usize> {
        if self.bytes.len() < 256 << 10 {
            self.bytes.resize(256 << 10, 1);
        }
        loop {
            match self.stream.read(&mut self.bytes[self.partial..]) {
                Ok(0) => return None,
                Ok(count) => {
                    let there = self.partial + count;
                    self.partial = there % size;
                    if there >= size {
                        return Some(there - self.partial);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(),
                Err(_) => return None,
            }
        }
    }

    fn write(&mut self, count: usize) -> bool {
        let mut written = 0;
        while written < count {
            match self.stream.write(&self.bytes[written..count]) {
                Ok(wrote) => written += wrote,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(),
                Err(_) => return false,
            }
        }
        true
    }

    fn wait(&mut self) {
        let _ = self.poll.poll(&mut self.events, None);
    }
}

/// The same over ipc-channel: nothing can be batched there.
#[must_use]
pub fn ipc_channel(depth: Depth, lasts: Duration) -> f64 {
    let (near_send, far_receive) = ipc::bytes_channel().expect("a channel");
    let (far_send, near_receive) = ipc::bytes_channel().expect("a channel");
    let server = move || {
        while let Ok(body) = far_receive.recv()
            && far_send.send(&body).is_ok()
        {}
    };
    between(depth.place, server, || {
        let body = vec![1; depth.size];
        let mut under_way = 0;
        let figure = rate(lasts, || {
            while under_way < depth.messages {
                near_send.send(&body).expect("the other side reads");
                under_way += 1;
            }
            near_receive.recv().expect("the other side answers");
            under_way -= 1;
            1
        });
        drop((near_send, near_receive));
        figure
    })
}

/// Bytes of the one body that streams.
const BODY: usize = 16 << 20;
const CHUNK: usize = 64 << 10;

/// Bytes a second of one long body after the other, one way, summed up by who reads it.
#[must_use]
pub fn lane_body(place: Place, lasts: Duration) -> f64 {
    let (mut connected, mut accepted) =
        attach::local(1, geometry(), UpBell::Pipe).expect("a channel within one process");
    let (mut near, mut far) = (connected.lanes.remove(0), accepted.lanes.remove(0));
    let server = move || {
        let mut waiter = Waiter::new(Wait::Adaptive, accepted.bell);
        let mut scratch = vec![0; CHUNK];
        while sink(&mut far, &mut scratch) {
            waiter.wait(&mut far);
        }
    };
    between(place, server, || {
        let mut waiter = Waiter::new(Wait::Adaptive, near.bell_reader().expect("a bell"));
        let chunk = vec![1; CHUNK];
        let figure = rate(lasts, || {
            let stream = near.open(&HEAD, &[], false).expect("an idle lane has room");
            let (mut sent, mut answered) = (0, 0);
            while answered == 0 {
                while sent < BODY {
                    match near.block(stream, CHUNK) {
                        Ok(mut block) => {
                            sent += near.fill(&mut block, &chunk);
                            near.send(stream, block, sent >= BODY);
                            near.flush();
                        }
                        Err(NoRoom::Later) => break,
                        Err(no_room) => panic!("{no_room}"),
                    }
                }
                waiter.wait(&mut near);
                answered = hear(&mut near, &mut []);
            }
            BODY
        });
        let _ = near.open(STOP, &[], true);
        near.flush();
        figure
    })
}

fn sink(lane: &mut Responder, scratch: &mut [u8]) -> bool {
    let (mut blocks, mut opened, mut over, mut stop) = (Vec::with_capacity(8), None, None, false);
    let polled = lane.poll(8, &mut |request| match request {
        Request::Open { stream, head, .. } => {
            stop |= head == STOP;
            opened = Some(stream);
        }
        Request::Data { stream, block, end } => {
            blocks.push(block);
            over = over.or(end.then_some(stream));
        }
        Request::End(stream) => over = Some(stream),
        _ => {}
    });
    polled.expect("the client keeps the rules");
    if let Some(stream) = opened {
        let _ = lane.take(stream);
    }
    for block in blocks {
        let count = lane.copy_to(&block, 0, scratch);
        lane.give_back(block);
        std::hint::black_box(sum(&scratch[..count]));
    }
    if let Some(stream) = over {
        lane.head(stream, &HEAD, &[], true).expect("an idle lane has room");
    }
    lane.flush();
    !stop
}

/// The same over a Unix stream.
#[must_use]
pub fn unix_body(place: Place, lasts: Duration) -> f64 {
    let (mut near, mut far) = StdStream::pair().expect("a socket pair");
    let server = move || {
        let mut scratch = vec![0; CHUNK];
        let mut there = 0;
        while let Ok(count) = far.read(&mut scratch)
            && count > 0
        {
            std::hint::black_box(sum(&scratch[..count]));
            there += count;
            if there >= BODY {
                there -= BODY;
                far.write_all(&[1]).expect("the other side reads");
            }
        }
    };
    between(place, server, || {
        let chunk = vec![1; CHUNK];
        let figure = rate(lasts, || {
            for _ in 0..BODY / CHUNK {
                near.write_all(&chunk).expect("the other side reads");
            }
            near.read_exact(&mut [0]).expect("the other side answers");
            BODY
        });
        drop(near);
        figure
    })
}

/// What one thread comes to that copies blocks and sums them up.
#[must_use]
pub fn copied_body(lasts: Duration) -> f64 {
    let (chunk, mut scratch) = (vec![1_u8; CHUNK], vec![0; CHUNK]);
    rate(lasts, || {
        for _ in 0..BODY / CHUNK {
            scratch.copy_from_slice(std::hint::black_box(&chunk));
            std::hint::black_box(sum(&scratch));
        }
        BODY
    })
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}
