//! The async twin of [`WebSocket`](super::WebSocket).

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use tungstenite::protocol::Role;

use super::Message;
use super::blocking::{READ_LEN, begin, last_word};
use super::core::{Core, Received, drain};
use crate::response::Parts;
use crate::runtime::watched;
use crate::stream::refused;
use crate::sys::host::Exchange;
use crate::sys::waking::HostWaker;
use crate::{Pending, Result};

/// What an author does with a websocket.
pub(crate) type AsyncTalk = Box<dyn for<'a> FnOnce(&'a mut AsyncWebSocket) -> Pending<'a, Result<()>> + Send>;

/// A websocket to a client that waits without holding a thread, from
/// [`Response::websocket_async`](crate::Response::websocket_async). See [`WebSocket`](super::WebSocket), whose rules it
/// has.
///
/// [`recv`](Self::recv) may be dropped half way, as `tokio::select!` does: nothing is lost.
pub struct AsyncWebSocket {
    exchange: Arc<Exchange>,
    core: Core,
    reading: HostWaker,
    writing: HostWaker,
}

impl AsyncWebSocket {
    fn new(exchange: Arc<Exchange>) -> Self {
        let (reading, writing) = (HostWaker::new(), HostWaker::new());
        Self { exchange, core: Core::new(Role::Server), reading, writing }
    }

    /// Waits for the next message; `None` once the client has closed in order.
    ///
    /// # Errors
    /// As [`WebSocket::recv`](super::WebSocket::recv).
    pub async fn recv(&mut self) -> Result<Option<Message>> {
        loop {
            let received = self.core.receive();
            self.flush().await?;
            match received? {
                Received::Message(message) => return Ok(Some(message)),
                Received::Closed => return Ok(None),
                Received::Starved => {}
            }
            let Self { exchange, core, reading, .. } = self;
            let read = poll_fn(|cx| {
                // On the stack: who waits keeps no memory for what may never come.
                let mut buffer = [0; READ_LEN];
                exchange.poll_read(&mut buffer, reading, cx).map_ok(|read| {
                    core.feed(&buffer[..read]);
                    read
                })
            });
            if matches!(read.await, Ok(0) | Err(_)) {
                self.core.lose();
            }
        }
    }

    /// Sends a message. Waits while the client is slow.
    ///
    /// # Errors
    /// As [`WebSocket::send`](super::WebSocket::send).
    pub async fn send(&mut self, message: impl Into<Message> + Send) -> Result<()> {
        self.core.send(message.into())?;
        self.flush().await
    }

    /// Sends a ping of at most 125 bytes; its answer is no message.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn ping(&mut self, payload: impl AsRef<[u8]> + Send) -> Result<()> {
        self.core.ping(payload.as_ref())?;
        self.flush().await
    }

    /// Closes with a code of one's own. As [`WebSocket::close`](super::WebSocket::close).
    ///
    /// # Errors
    /// Where the code is none to close with; 499 where the client is gone.
    pub async fn close(&mut self, code: u16, reason: &str) -> Result<()> {
        self.core.close(code, reason)?;
        self.flush().await
    }

    /// The code that the client has closed with; 1005 where it gave none.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        self.core.close_code()
    }

    /// Whether the client is gone, as far as is known.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.exchange.is_cancelled()
    }

    /// Takes messages of at most so many bytes; 16 MiB where nothing is said.
    pub fn set_max_message(&mut self, bytes: usize) {
        self.core.set_max_message(bytes);
    }

    async fn flush(&mut self) -> Result<()> {
        if self.core.output().is_empty() {
            return Ok(());
        }
        let Self { exchange, core, writing, .. } = self;
        while !core.output().is_empty() {
            let sent =
                poll_fn(|cx| exchange.poll_write(core.output(), writing, cx)).await.map_err(refused)?;
            drain(core.output(), sent);
        }
        exchange.flush().map_err(refused)
    }
}

impl fmt::Debug for AsyncWebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncWebSocket").field("open", &self.core.is_open()).finish_non_exhaustive()
    }
}

/// Answers with a websocket, until its author is through.
pub(crate) async fn respond_async(exchange: &Arc<Exchange>, mut parts: Parts, talk: AsyncTalk) -> Result<()> {
    let of = Arc::clone(exchange);
    // It may wait for room: not on a worker.
    if !tokio::task::spawn_blocking(move || begin(&of, &mut parts)).await?? {
        return Ok(());
    }
    let mut socket = AsyncWebSocket::new(Arc::clone(exchange));
    let outcome = watched(exchange, talk(&mut socket)).await;
    let (code, reason) = last_word(exchange, &outcome);
    let _ = socket.close(code, &reason).await;
    exchange.finish();
    Ok(())
}
