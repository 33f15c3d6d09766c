//! Clients' connections and the lanes to replicas, as the engine wants them: a socket that is two queues of bytes, and
//! the real channel over shared memory.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decurion_api::ReplicaId;
use decurion_ipc::channel::{Busy, Event, Fault, InBlock, NoRoom, OutBlock, Phase, Requester, StreamId};
use decurion_ipc::record::RequestHead;
use decurion_proxy::balance::Load;
use decurion_proxy::engine::port::{self, Happened, Lane, News, Socket};

use crate::planted::Planted;
use crate::shadow::RequestId;

/// Connections of which something has changed for their clients.
pub(crate) type Touched = Rc<RefCell<BTreeSet<usize>>>;

/// One connection, seen from both ends.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Whose.
    pub(crate) client: usize,
    pub(crate) touched: Touched,
    pub(crate) to_proxy: VecDeque<u8>,
    pub(crate) from_proxy: VecDeque<u8>,
    /// How many more bytes the client takes.
    pub(crate) room: usize,
    /// The client sends no more.
    pub(crate) closed: bool,
    /// The proxy says no more.
    pub(crate) ended: bool,
    /// The socket is gone on the proxy's side.
    pub(crate) dropped: bool,
}

/// The proxy's end.
#[derive(Debug)]
pub(crate) struct SimSocket(pub(crate) Rc<RefCell<Wire>>);

impl Wire {
    fn touch(&self) {
        self.touched.borrow_mut().insert(self.client);
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut wire = self.0.borrow_mut();
        (wire.ended, wire.dropped) = (true, true);
        wire.touch();
    }
}

impl Socket for SimSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let count = wire.to_proxy.len().min(into.len());
        if count == 0 {
            return if wire.closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (place, byte) in into.iter_mut().zip(wire.to_proxy.drain(..count)) {
            *place = byte;
        }
        Ok(count)
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        assert!(!wire.ended, "nothing is said after the end");
        let count = wire.room.min(from.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.room -= count;
        wire.from_proxy.extend(&from[..count]);
        wire.touch();
        Ok(count)
    }

    fn shutdown_write(&mut self) {
        let mut wire = self.0.borrow_mut();
        wire.ended = true;
        wire.touch();
    }
}

/// What a replica says of its own load.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimLoad(pub(crate) Arc<AtomicU64>);

impl Load for SimLoad {
    fn ongoing(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What lanes tell of requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct LaneNotes(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    lost: Vec<(RequestId, ReplicaId)>,
    sent: BTreeSet<RequestId>,
}

impl LaneNotes {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that came back from a lane that has died, and may have been begun with.
    pub(crate) fn take_lost(&self) -> Vec<(RequestId, ReplicaId)> {
        std::mem::take(&mut self.lock().lost)
    }

    /// Whether a request was ever given a place at some replica.
    pub(crate) fn was_sent(&self, id: RequestId) -> bool {
        self.lock().sent.contains(&id)
    }
}

/// A worker's end of a lane.
#[derive(Debug)]
pub(crate) struct SimLane {
    pub(crate) requester: Requester,
    pub(crate) replica: ReplicaId,
    pub(crate) notes: LaneNotes,
    /// By stream: whose it is, or was last.
    pub(crate) requests: BTreeMap<usize, RequestId>,
    pub(crate) planted: Planted,
}

impl Lane<SimSocket> for SimLane {
    type Stream = StreamId;
    type Out = OutBlock;
    type In = InBlock;

    fn index(stream: StreamId) -> usize {
        stream.index()
    }

    fn open(&mut self, head: &[u8], body: &[u8], end: bool) -> Result<StreamId, Busy> {
        let id = RequestHead::parse(head).ok().and_then(|(head, _)| RequestId::of_path(head.path));
        // It has a place at the replica, even where the lane has no room for it yet.
        self.notes.lock().sent.extend(id);
        let opened = self.requester.open(head, body, end)?;
        if let Some(id) = id {
            self.requests.insert(opened.index(), id);
        }
        Ok(opened)
    }

    fn block(&mut self, stream: StreamId, want: usize) -> Result<OutBlock, NoRoom> {
        self.requester.block(stream, want)
    }

    fn fill(&mut self, block: &mut OutBlock, bytes: &[u8]) -> usize {
        self.requester.fill(block, bytes)
    }

    fn fill_from(&mut self, block: &mut OutBlock, socket: &mut SimSocket) -> io::Result<usize> {
        let mut bytes = vec![0; block.room()];
        let count = socket.read(&mut bytes)?;
        Ok(self.requester.fill(block, &bytes[..count]))
    }

    fn send(&mut self, stream: StreamId, block: OutBlock, end: bool) {
        self.requester.send(stream, block, end);
    }

    fn discard(&mut self, block: OutBlock) {
        self.requester.discard(block);
    }

    fn end(&mut self, stream: StreamId) {
        self.requester.end(stream);
    }

    fn cancel(&mut self, stream: StreamId) {
        self.requester.cancel(stream);
    }

    fn withdraw(&mut self, stream: StreamId) -> bool {
        self.requester.withdraw(stream)
    }

    fn has_news(&self) -> bool {
        self.requester.has_news()
    }

    fn poll(&mut self, budget: u32, news: &mut News<StreamId, InBlock>) -> Result<bool, Fault> {
        let polled = self.requester.poll(budget, &mut |event| note(event, news));
        if self.planted == Planted::AnswersCrossed {
            cross(news);
        }
        polled
    }

    fn len(block: &InBlock) -> usize {
        block.len()
    }

    fn copy_to(&self, block: &InBlock, at: usize, to: &mut [u8]) -> usize {
        self.requester.copy_to(block, at, to)
    }

    fn write_to(
        &self,
        socket: &mut SimSocket,
        prefix: &[u8],
        blocks: &[(&InBlock, usize)],
    ) -> io::Result<usize> {
        let mut all = prefix.to_vec();
        for (block, at) in blocks {
            let mut bytes = vec![0; block.len() - at];
            let count = self.requester.copy_to(block, *at, &mut bytes);
            all.extend_from_slice(&bytes[..count]);
        }
        socket.write(&all)
    }

    fn give_back(&mut self, block: InBlock) {
        self.requester.give_back(block);
    }

    fn flush(&mut self) {
        self.requester.flush();
    }

    fn arm(&mut self) -> bool {
        self.requester.arm()
    }

    fn in_flight(&self) -> usize {
        self.requester.in_flight()
    }

    fn die(&mut self, news: &mut News<StreamId, InBlock>) -> Vec<port::Lost<StreamId>> {
        let orphans = self.requester.died(&mut |event| note(event, news));
        let lie = self.planted == Planted::TakenCountsAsUntaken;
        let taken = orphans.iter().filter(|orphan| orphan.phase == Phase::Taken);
        let ids = taken.filter_map(|orphan| self.requests.get(&orphan.stream.index()));
        self.notes.lock().lost.extend(ids.map(|id| (*id, self.replica.clone())));
        let lost = orphans.into_iter().map(|orphan| port::Lost {
            stream: orphan.stream,
            taken: orphan.phase == Phase::Taken && !lie,
            body: orphan.body,
        });
        lost.collect()
    }
}

fn note(event: Event<'_>, news: &mut News<StreamId, InBlock>) {
    let happened = match event {
        Event::Head { stream, head, body, end } => {
            let start = news.heads.len();
            news.heads.extend_from_slice(head);
            Happened::Head { stream, head: start..news.heads.len(), body, end }
        }
        Event::Data { stream, block, end } => Happened::Data { stream, block, end },
        Event::End(stream) => Happened::End(stream),
        Event::Reset { stream, code, body } => Happened::Reset { stream, code, body: body.to_vec() },
        Event::Room(stream) => Happened::Room(stream),
        Event::Vacancy => Happened::Vacancy,
    };
    news.events.push(happened);
}

/// A mistake that is planted: of two whole answers each goes to the other's request.
fn cross(news: &mut News<StreamId, InBlock>) {
    let whole = news.events.iter_mut().filter_map(|event| match event {
        Happened::Head { stream, end: true, .. } => Some(stream),
        _ => None,
    });
    let mut streams: Vec<&mut StreamId> = whole.collect();
    if let [first, second, ..] = &mut streams[..] {
        std::mem::swap(*first, *second);
    }
}
