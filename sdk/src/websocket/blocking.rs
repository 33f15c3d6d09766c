//! A websocket whose author waits on its thread.

use std::fmt;

use tungstenite::protocol::Role;

use super::Message;
use super::core::{Core, Received, code, drain};
use super::handshake;
use crate::response::{Body, Parts};
use crate::stream::refused;
use crate::sys::export::{contain, respond_whole};
use crate::sys::host::{self, Exchange};
use crate::{Error, Result};

/// Read from the channel at a time.
pub(super) const READ_LEN: usize = 16 * 1024;

/// What an author does with a websocket.
pub(crate) type Talk = Box<dyn FnOnce(&mut WebSocket<'_>) -> Result<()> + Send>;

/// A websocket to a client, from [`Response::websocket`](crate::Response::websocket).
///
/// Messages come and go in whatever frames; pings are answered while [`recv`](Self::recv) waits. When its author is
/// through, it closes with 1000; where the author failed or panicked, with 1011, and the log has the reason. It is an
/// [`Iterator`] over the messages that come, too.
pub struct WebSocket<'a> {
    exchange: &'a Exchange,
    core: Core,
}

impl<'a> WebSocket<'a> {
    fn new(exchange: &'a Exchange) -> Self {
        Self { exchange, core: Core::new(Role::Server) }
    }

    /// Waits for the next message; `None` once the client has closed in order.
    ///
    /// # Errors
    /// 499 where the client is gone without a word, or this replica is about to end; 400 where the client broke the
    /// protocol, or sent more than [`set_max_message`](Self::set_max_message) allows: it was told so.
    pub fn recv(&mut self) -> Result<Option<Message>> {
        let mut buffer = [0; READ_LEN];
        loop {
            let received = self.core.receive();
            self.flush()?;
            match received? {
                Received::Message(message) => return Ok(Some(message)),
                Received::Closed => return Ok(None),
                Received::Starved => {}
            }
            match self.exchange.read(&mut buffer) {
                Ok(0) | Err(_) => self.core.lose(),
                Ok(read) => self.core.feed(&buffer[..read]),
            }
        }
    }

    /// Sends a message: `&str` and `String` as text, bytes as they are, [`Message::json`] for the rest. Waits while the
    /// client is slow.
    ///
    /// # Errors
    /// 499 where the client is gone, or one side has closed.
    pub fn send(&mut self, message: impl Into<Message>) -> Result<()> {
        if self.exchange.is_cancelled() {
            self.core.lose();
        }
        self.core.send(message.into()).or_else(|lost| self.flush().and(Err(lost)))?;
        self.flush()
    }

    /// Sends a ping of at most 125 bytes; its answer is no message.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn ping(&mut self, payload: impl AsRef<[u8]>) -> Result<()> {
        self.core.ping(payload.as_ref())?;
        self.flush()
    }

    /// Closes with a code of one's own: 1000 to 1013 as the RFC's registry has them, 3000 to 4999. What the client has
    /// sent before it knows may still be received.
    ///
    /// # Errors
    /// Where the code is none to close with; 499 where the client is gone.
    pub fn close(&mut self, code: u16, reason: &str) -> Result<()> {
        self.core.close(code, reason)?;
        self.flush()
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

    fn flush(&mut self) -> Result<()> {
        if self.core.output().is_empty() {
            return Ok(());
        }
        while !self.core.output().is_empty() {
            let sent = self.exchange.write(self.core.output()).map_err(refused)?;
            drain(self.core.output(), sent);
        }
        self.exchange.flush().map_err(refused)
    }

    /// The author is through: our last word.
    fn end(mut self, outcome: Result<()>) {
        let (code, reason) = last_word(self.exchange, &outcome);
        let _ = self.core.close(code, &reason);
        let _ = self.flush();
    }
}

impl Iterator for WebSocket<'_> {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        self.recv().transpose()
    }
}

impl fmt::Debug for WebSocket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").field("open", &self.core.is_open()).finish_non_exhaustive()
    }
}

/// What a websocket closes with. The client sees the text of an error that was meant for it; what went wrong here goes
/// to the log.
pub(super) fn last_word(exchange: &Exchange, outcome: &Result<()>) -> (u16, String) {
    match outcome {
        // Nobody reads it, or it is this replica that leaves.
        _ if exchange.is_cancelled() => (code::AWAY, String::new()),
        Ok(()) => (code::NORMAL, String::new()),
        Err(error) if error.code().is_some_and(|code| !code.is_server_error()) => {
            (code::FAILED, error.message().to_owned())
        }
        Err(error) => {
            host::log(Some(exchange), decurion_abi::level::ERROR, "decurion", &error.chain());
            let public = error.code().map(|_| error.message().to_owned());
            (code::FAILED, public.unwrap_or_default())
        }
    }
}

/// Answers with a websocket, until its author is through.
pub(crate) fn respond(exchange: &Exchange, mut parts: Parts, talk: Talk) -> Result<()> {
    if !begin(exchange, &mut parts)? {
        return Ok(());
    }
    let mut socket = WebSocket::new(exchange);
    let outcome = contain(|| talk(&mut socket));
    socket.end(outcome);
    exchange.finish();
    Ok(())
}

/// Sends the 101: whether there is a websocket now. Otherwise something else was answered.
pub(super) fn begin(exchange: &Exchange, parts: &mut Parts) -> Result<bool> {
    if let Some(refusal) = handshake::accept(exchange.head(), parts)? {
        let parts = refusal.into_parts()?;
        let body = if let Body::Whole(body) = &parts.body { body.clone() } else { Default::default() };
        respond_whole(exchange, &parts, &body)?;
        return Ok(false);
    }
    exchange.respond_start(parts, None).map_err(|error| match error {
        host::WriteError::Cancelled => refused(error),
        host::WriteError::Invalid => Error::msg("a websocket is for clients that come over HTTP"),
    })?;
    exchange.flush().map_err(refused)?;
    Ok(true)
}
