//! The real channel: `ipc`'s requester, as the engine wants it.

use std::io;

use decurion_ipc::board::BoardReader;
use decurion_ipc::channel::{Busy, Event, Fault, InBlock, NoRoom, OutBlock, Phase, Requester, StreamId};

use super::socket::Client;
use crate::balance::Load;
use crate::engine::port::{Happened, Lane, Lost, News};

impl Lane<Client> for Requester {
    type Stream = StreamId;
    type Out = OutBlock;
    type In = InBlock;

    fn index(stream: StreamId) -> usize {
        stream.index()
    }

    fn open(&mut self, head: &[u8], body: &[u8], end: bool) -> Result<StreamId, Busy> {
        Requester::open(self, head, body, end)
    }

    fn block(&mut self, stream: StreamId, want: usize) -> Result<OutBlock, NoRoom> {
        Requester::block(self, stream, want)
    }

    fn fill(&mut self, block: &mut OutBlock, bytes: &[u8]) -> usize {
        Requester::fill(self, block, bytes)
    }

    fn fill_from(&mut self, block: &mut OutBlock, socket: &mut Client) -> io::Result<usize> {
        socket.transport.read_into(self, block)
    }

    fn send(&mut self, stream: StreamId, block: OutBlock, end: bool) {
        Requester::send(self, stream, block, end);
    }

    fn discard(&mut self, block: OutBlock) {
        Requester::discard(self, block);
    }

    fn end(&mut self, stream: StreamId) {
        Requester::end(self, stream);
    }

    fn cancel(&mut self, stream: StreamId) {
        Requester::cancel(self, stream);
    }

    fn withdraw(&mut self, stream: StreamId) -> bool {
        Requester::withdraw(self, stream)
    }

    fn has_news(&self) -> bool {
        Requester::has_news(self)
    }

    fn poll(&mut self, budget: u32, news: &mut News<StreamId, InBlock>) -> Result<bool, Fault> {
        Requester::poll(self, budget, &mut |event| note(event, news))
    }

    fn len(block: &InBlock) -> usize {
        block.len()
    }

    fn copy_to(&self, block: &InBlock, at: usize, to: &mut [u8]) -> usize {
        Requester::copy_to(self, block, at, to)
    }

    fn write_to(
        &self,
        socket: &mut Client,
        prefix: &[u8],
        blocks: &[(&InBlock, usize)],
    ) -> io::Result<usize> {
        socket.transport.write_from(self, prefix, blocks)
    }

    fn give_back(&mut self, block: InBlock) {
        Requester::give_back(self, block);
    }

    fn flush(&mut self) {
        Requester::flush(self);
    }

    fn arm(&mut self) -> bool {
        Requester::arm(self)
    }

    fn in_flight(&self) -> usize {
        Requester::in_flight(self)
    }

    fn die(&mut self, news: &mut News<StreamId, InBlock>) -> Vec<Lost<StreamId>> {
        self.died(&mut |event| note(event, news))
            .into_iter()
            .map(|orphan| Lost {
                stream: orphan.stream,
                taken: orphan.phase == Phase::Taken,
                body: orphan.body,
            })
            .collect()
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

impl Load for BoardReader {
    fn ongoing(&self) -> u64 {
        BoardReader::ongoing(self)
    }

    fn holds_model(&self, model: u64) -> bool {
        BoardReader::holds_model(self, model)
    }
}
