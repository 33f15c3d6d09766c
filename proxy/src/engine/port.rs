//! What the engine needs of the machine: sockets and channels, as traits, so that a simulated world can stand in.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::ops::Range;

use decurion_ipc::channel::{Busy, Fault, NoRoom, ResetCode};

/// A client's socket; never blocks.
pub trait Socket {
    /// As `read(2)`: 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there; anything else ends the connection.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// As `write(2)`.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room; anything else ends the connection.
    fn write(&mut self, from: &[u8]) -> io::Result<usize>;
    /// Whether a read that comes back short has emptied it. A plain socket's has (epoll(7)); where something stands
    /// between the socket and us, only `WouldBlock` says so.
    fn short_read_drains(&self) -> bool {
        true
    }
    /// Whether the kernel has all that [`Socket::write`] took.
    fn is_flushed(&self) -> bool {
        true
    }
    /// Hands what was taken, and is still here, to the kernel.
    ///
    /// # Errors
    /// `WouldBlock` where there is no room; anything else ends the connection.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Says that nothing more will be written.
    fn shutdown_write(&mut self);
    /// Is about to be dropped, and everything was said: the client may be told so, where that can be told.
    fn finish(&mut self) {}
    /// Is about to be dropped in the middle of a body that only the connection's end delimits: the client must not
    /// take it for whole.
    fn break_off(&mut self) {}
    /// The status of an answer that it has given by itself: its client does not speak what is spoken here.
    fn answered(&self) -> Option<u16> {
        None
    }
    /// Who is at the other end, where that is known.
    fn peer(&self) -> Option<IpAddr> {
        None
    }
}

/// The caller's end of one channel to one replica, and how a socket's bytes get in and out of it.
pub trait Lane<S> {
    /// One request on it.
    type Stream: Copy + Eq + Debug;
    /// A block to be filled and sent.
    type Out: Debug;
    /// A block that was received.
    type In: Debug;

    /// Dense place of a stream.
    fn index(stream: Self::Stream) -> usize;
    /// Sends a head with the first of the body, or all of it.
    ///
    /// # Errors
    /// [`Busy`]: nothing was sent.
    fn open(&mut self, head: &[u8], body: &[u8], end: bool) -> Result<Self::Stream, Busy>;
    /// Room for more of the body.
    ///
    /// # Errors
    /// [`NoRoom`]: later, or never.
    fn block(&mut self, stream: Self::Stream, want: usize) -> Result<Self::Out, NoRoom>;
    /// Appends bytes: how many found room.
    fn fill(&mut self, block: &mut Self::Out, bytes: &[u8]) -> usize;
    /// Appends what one read of the socket yields.
    ///
    /// # Errors
    /// Of the read.
    fn fill_from(&mut self, block: &mut Self::Out, socket: &mut S) -> io::Result<usize>;
    /// Sends a block; `end`: the body ends with it.
    fn send(&mut self, stream: Self::Stream, block: Self::Out, end: bool);
    /// Frees a block that is not sent.
    fn discard(&mut self, block: Self::Out);
    /// Ends the body.
    fn end(&mut self, stream: Self::Stream);
    /// Gives the request up; a reset follows unless the response has ended.
    fn cancel(&mut self, stream: Self::Stream);
    /// Takes a request back that the replica has not begun with: whether it never will. A reset follows then.
    fn withdraw(&mut self, stream: Self::Stream) -> bool;
    /// Whether a poll would find something.
    fn has_news(&self) -> bool;
    /// Reads what has come, up to `budget`: whether there is more.
    ///
    /// # Errors
    /// [`Fault`]: the channel is dead.
    fn poll(&mut self, budget: u32, news: &mut News<Self::Stream, Self::In>) -> Result<bool, Fault>;
    /// Bytes of a block.
    fn len(block: &Self::In) -> usize;
    /// Copies bytes out of a block: how many.
    fn copy_to(&self, block: &Self::In, at: usize, to: &mut [u8]) -> usize;
    /// Writes bytes, then blocks, each from a place in it on: how many bytes.
    ///
    /// # Errors
    /// Of the write.
    fn write_to(&self, socket: &mut S, prefix: &[u8], blocks: &[(&Self::In, usize)]) -> io::Result<usize>;
    /// Returns a block.
    fn give_back(&mut self, block: Self::In);
    /// Lets the replica see everything, and rings where it sleeps.
    fn flush(&mut self);
    /// Flushes and asks to be rung: whether it is safe to sleep.
    fn arm(&mut self) -> bool;
    /// Streams in use.
    fn in_flight(&self) -> usize;
    /// The replica is dead: what it had published, then every stream that is still open. Blocks that were received
    /// can still be read afterwards; nothing can be sent.
    fn die(&mut self, news: &mut News<Self::Stream, Self::In>) -> Vec<Lost<Self::Stream>>;
}

/// What came over a channel. Kept and used again, so that a batch allocates nothing.
#[derive(Debug)]
pub struct News<Stream, In> {
    /// In order.
    pub events: Vec<Happened<Stream, In>>,
    /// Bytes of the heads among them.
    pub heads: Vec<u8>,
}

impl<Stream, In> Default for News<Stream, In> {
    fn default() -> Self {
        Self { events: Vec::new(), heads: Vec::new() }
    }
}

/// One thing that came over a channel.
#[derive(Debug)]
pub enum Happened<Stream, In> {
    /// A response begins.
    Head {
        /// Of which request.
        stream: Stream,
        /// Its record in [`News::heads`].
        head: Range<usize>,
        /// First of the body.
        body: Option<In>,
        /// That is all.
        end: bool,
    },
    /// More of a response's body.
    Data {
        /// Of which request.
        stream: Stream,
        /// The bytes.
        block: In,
        /// That is all.
        end: bool,
    },
    /// A response's body ended.
    End(Stream),
    /// A stream is over before its time.
    Reset {
        /// Which.
        stream: Stream,
        /// Why.
        code: ResetCode,
        /// Where it was not taken: what had been sent of its body.
        body: Vec<u8>,
    },
    /// There may be room for a stream's body again.
    Room(Stream),
    /// There may be room for a new stream again.
    Vacancy,
}

/// A stream whose replica died.
#[derive(Debug)]
pub struct Lost<Stream> {
    /// Which.
    pub stream: Stream,
    /// Whether the replica may have begun with it.
    pub taken: bool,
    /// Where it was not taken: what had been sent of its body.
    pub body: Vec<u8>,
}
