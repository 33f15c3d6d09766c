//! Answers that are written bit by bit: what [`Response::stream`](crate::Response::stream) hands to its author.
//! Gathers small writes; knows nothing of HTTP's framing, which is the proxy's.

use std::fmt::{self, Write as _};
use std::io;

use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use serde::Serialize;

use crate::response::{OCTETS, Parts};
use crate::sys::host::{Exchange, WriteError};
use crate::{Error, Result};

/// Bytes gathered before they are sent without being asked for.
pub(crate) const GATHERED_MAX: usize = 16 * 1024;

/// Writes the body of an answer as it comes to be.
///
/// What is written is gathered, and goes out when it is much, on [`flush`](Self::flush), after each
/// [`event`](Self::event), and at the end. Writing waits while the client is slow, and fails once it is gone. It is an
/// [`io::Write`], too.
///
/// Status and header fields go out with the first bytes. Until then, an error is still an answer of its own; from then
/// on it cuts the answer off, so that the client sees that it is not whole.
pub struct BodyWriter<'a> {
    exchange: &'a Exchange,
    state: State,
    gathered: Vec<u8>,
}

pub(crate) enum State {
    /// Nothing was sent.
    Fresh(Box<Parts>),
    Started,
    /// The host took no more.
    Over,
}

/// What becomes of an exchange when its writer is through.
pub(crate) enum End {
    /// Everything was small enough to be one whole answer.
    Whole(Box<Parts>, Vec<u8>),
    /// The rest was sent.
    Streamed,
}

impl<'a> BodyWriter<'a> {
    pub(crate) fn new(exchange: &'a Exchange, parts: Parts) -> Self {
        Self { exchange, state: State::Fresh(Box::new(parts)), gathered: Vec::new() }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// 499 where nobody waits any more.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let bytes = bytes.as_ref();
        if self.gathered.len() + bytes.len() <= GATHERED_MAX {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.send_gathered()?;
        if bytes.len() < GATHERED_MAX {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.send(bytes)
    }

    /// Sends on its way what was written so far: status and header fields at least.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn flush(&mut self) -> Result<()> {
        self.send_gathered()?;
        self.exchange.flush().map_err(refused)
    }

    /// Writes a server-sent event, and flushes. Where the author chose no content type, the first one makes the answer
    /// `text/event-stream`.
    ///
    /// # Errors
    /// As [`write`](Self::write); where the event's name or id has a line break.
    pub fn event(&mut self, event: impl Into<Event>) -> Result<()> {
        let text = as_event(&mut self.state, &event.into())?;
        self.write(text)?;
        self.flush()
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.exchange.is_cancelled()
    }

    /// The author is through.
    pub(crate) fn end(mut self) -> Result<End> {
        if let State::Fresh(mut parts) = self.state {
            let _ = prepare(&mut parts);
            return Ok(End::Whole(parts, self.gathered));
        }
        self.send_gathered()?;
        Ok(End::Streamed)
    }

    fn send_gathered(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        let sent = self.send(&gathered);
        self.gathered = gathered;
        self.gathered.clear();
        sent
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Fresh(mut parts) => {
                let length = prepare(&mut parts);
                self.exchange.respond_start(&parts, length).map_err(refused)?;
            }
            State::Started => {}
            State::Over => return Err(Error::msg("the answer is over")),
        }
        while !bytes.is_empty() {
            let taken = self.exchange.write(bytes).map_err(refused)?;
            bytes = &bytes[taken.min(bytes.len())..];
        }
        self.state = State::Started;
        Ok(())
    }
}

/// Gives an answer's head its type, and takes the length that its author announced.
pub(crate) fn prepare(parts: &mut Parts) -> Option<u64> {
    if !parts.untyped {
        parts.content_type.get_or_insert(HeaderValue::from_static(OCTETS));
    }
    parts.headers.remove(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

/// An event as it is sent; the first thing of an answer makes it one of events.
pub(crate) fn as_event(state: &mut State, event: &Event) -> Result<String> {
    if let State::Fresh(parts) = state {
        parts.content_type.get_or_insert(HeaderValue::from_static("text/event-stream"));
        parts.headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    }
    event.written()
}

pub(crate) fn refused(error: WriteError) -> Error {
    match error {
        WriteError::Cancelled => Error::status(499, "nobody waits for the answer any more"),
        WriteError::Invalid => {
            Error::msg("the answer has a status or a header field that HTTP does not allow, or is over")
        }
    }
}

impl io::Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BodyWriter::write(self, bytes).map_err(into_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        BodyWriter::flush(self).map_err(into_io)
    }
}

impl fmt::Debug for BodyWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWriter").field("gathered", &self.gathered.len()).finish_non_exhaustive()
    }
}

/// A body that ended too soon, as a standard error.
#[cfg(feature = "axum")]
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);

fn into_io(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, error.to_string())
}

/// A server-sent event. Plain text becomes one by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    data: String,
    name: Option<String>,
    id: Option<String>,
}

impl Event {
    /// An event of this text, which may have several lines.
    #[must_use]
    pub fn new(data: impl Into<String>) -> Self {
        Self { data: data.into(), ..Self::default() }
    }

    /// An event of a value as JSON.
    ///
    /// # Errors
    /// Where the value can't be written as JSON.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Self::new(serde_json::to_string(value)?))
    }

    /// The same with a name, by which a client's `addEventListener` finds it.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The same with an id, which a client that comes back sends as `last-event-id`.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    fn written(&self) -> Result<String> {
        let mut text = String::with_capacity(self.data.len() + 16);
        for (field, value) in [("event", &self.name), ("id", &self.id)] {
            let Some(value) = value else { continue };
            if value.contains(['\r', '\n', '\0']) {
                return Err(Error::msg(format_args!("an event's {field} is one line, not {value:?}")));
            }
            let _ = writeln!(text, "{field}: {value}");
        }
        // All three line ends of the format mean the same.
        for line in self.data.replace("\r\n", "\n").split(['\n', '\r']) {
            let _ = writeln!(text, "data: {line}");
        }
        text.push('\n');
        Ok(text)
    }
}

impl From<&str> for Event {
    fn from(data: &str) -> Self {
        Self::new(data)
    }
}

impl From<String> for Event {
    fn from(data: String) -> Self {
        Self::new(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_line_by_line() {
        assert_eq!(Event::new("a").written().unwrap(), "data: a\n\n");
        assert_eq!(Event::from("").written().unwrap(), "data: \n\n");
        assert_eq!(Event::new("a\nb\r\nc\rd").written().unwrap(), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        let event = Event::json(&[1, 2]).unwrap().named("row").with_id("7");
        assert_eq!(event.written().unwrap(), "event: row\nid: 7\ndata: [1,2]\n\n");
    }

    #[test]
    fn an_event_can_not_smuggle_another_field_in() {
        assert!(Event::new("a").named("x\ndata: y").written().is_err());
        assert!(Event::new("a").with_id("x\ry").written().is_err());
    }
}
