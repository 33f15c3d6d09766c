//! The async twin of [`BodyWriter`](crate::BodyWriter).

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use crate::response::Parts;
use crate::stream::{Event, GATHERED_MAX, State, as_event, prepare, refused};
use crate::sys::export::respond_whole;
use crate::sys::host::Exchange;
use crate::sys::waking::HostWaker;
use crate::{Error, Result};

/// Writes the body of an answer as it comes to be, waiting without holding a thread. See
/// [`BodyWriter`](crate::BodyWriter), whose rules it has.
pub struct AsyncBodyWriter {
    exchange: Arc<Exchange>,
    state: State,
    gathered: Vec<u8>,
}

impl AsyncBodyWriter {
    pub(crate) fn new(exchange: Arc<Exchange>, parts: Parts) -> Self {
        Self { exchange, state: State::Fresh(Box::new(parts)), gathered: Vec::new() }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// 499 where nobody waits any more.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]> + Send) -> Result<()> {
        let bytes = bytes.as_ref();
        if self.gathered.len() + bytes.len() > GATHERED_MAX {
            self.send_gathered().await?;
        }
        if bytes.len() >= GATHERED_MAX {
            return self.send(bytes).await;
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    /// Sends on its way what was written so far: status and header fields at least.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn flush(&mut self) -> Result<()> {
        self.send_gathered().await?;
        self.exchange.flush().map_err(refused)
    }

    /// Writes a server-sent event, and flushes.
    ///
    /// # Errors
    /// As [`write`](Self::write); where the event's name or id has a line break.
    pub async fn event(&mut self, event: impl Into<Event>) -> Result<()> {
        let text = as_event(&mut self.state, &event.into())?;
        self.write(text).await?;
        self.flush().await
    }

    /// The author is through.
    pub(crate) async fn end(mut self) -> Result<()> {
        if let State::Fresh(mut parts) = self.state {
            let _ = prepare(&mut parts);
            return respond_whole(&self.exchange, &parts, &self.gathered);
        }
        self.send_gathered().await?;
        self.exchange.finish();
        Ok(())
    }

    async fn send_gathered(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.send(&gathered).await
    }

    async fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Fresh(mut parts) => {
                let length = prepare(&mut parts);
                let exchange = Arc::clone(&self.exchange);
                // It may wait for room: not on a worker.
                let started = tokio::task::spawn_blocking(move || exchange.respond_start(&parts, length));
                started.await?.map_err(refused)?;
            }
            State::Started => {}
            State::Over => return Err(Error::msg("the answer is over")),
        }
        let place = HostWaker::new();
        while !bytes.is_empty() {
            let taken = poll_fn(|cx| self.exchange.poll_write(bytes, &place, cx)).await.map_err(refused)?;
            bytes = &bytes[taken.min(bytes.len())..];
        }
        self.state = State::Started;
        Ok(())
    }
}

impl fmt::Debug for AsyncBodyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncBodyWriter").field("gathered", &self.gathered.len()).finish_non_exhaustive()
    }
}
