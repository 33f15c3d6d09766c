//! The protocol over two buffers: bytes in, messages out, and messages in, bytes out. Never waits.

use std::io::{self, Read, Write};

use tungstenite::error::{CapacityError, Error as Fault};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::Message;
use crate::{Error, Result};

/// Bytes of a message, at most, unless its author says otherwise.
pub(super) const MESSAGE_MAX: usize = 16 << 20;
/// Payload of a control frame, at most (RFC 6455, 5.5).
const CONTROL_MAX: usize = 125;
/// Taken from the input at a time.
const READ_LEN: usize = 4096;

/// Closing codes (RFC 6455, 7.4.1, and its registry).
pub(super) mod code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const AWAY: u16 = 1001;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const NONE: u16 = 1005;
    pub(crate) const NOT_UTF8: u16 = 1007;
    pub(crate) const TOO_LARGE: u16 = 1009;
    pub(crate) const FAILED: u16 = 1011;
}

/// One end of a websocket.
#[derive(Debug)]
pub(super) struct Core {
    socket: tungstenite::WebSocket<Buffers>,
    end: Option<End>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The other side has closed it with this code; or we have, and it has agreed.
    Closed(u16),
    /// The other side is gone without a word.
    Lost,
    /// The other side has broken the protocol, and was told so.
    Broken(String),
}

/// What there is to receive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Message(Message),
    /// More bytes are needed.
    Starved,
    /// Closed in order.
    Closed,
}

impl Core {
    pub(super) fn new(role: Role) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_LEN)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        let socket = tungstenite::WebSocket::from_raw_socket(Buffers::default(), role, Some(config));
        Self { socket, end: None }
    }

    pub(super) fn set_max_message(&mut self, bytes: usize) {
        self.socket.set_config(|config| {
            config.max_message_size = Some(bytes);
            config.max_frame_size = Some(bytes);
        });
    }

    /// The next message. Pings are answered on the way.
    pub(super) fn receive(&mut self) -> Result<Received> {
        loop {
            match &self.end {
                Some(End::Closed(_)) if !self.socket.can_read() => return Ok(Received::Closed),
                Some(End::Lost) => return Err(lost()),
                Some(End::Broken(why)) => return Err(Error::status(400, why)),
                Some(End::Closed(_)) | None => {}
            }
            match self.socket.read() {
                Ok(tungstenite::Message::Text(text)) => {
                    return Ok(Received::Message(Message::Text(text.as_str().to_owned())));
                }
                Ok(tungstenite::Message::Binary(bytes)) => {
                    return Ok(Received::Message(Message::Binary(bytes)));
                }
                Ok(tungstenite::Message::Close(frame)) => {
                    self.end = Some(End::Closed(frame.map_or(code::NONE, |frame| frame.code.into())));
                    // The reply.
                    let _ = self.socket.flush();
                }
                // Answered, or of no interest.
                Ok(_) => {}
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::Starved);
                }
                Err(Fault::ConnectionClosed | Fault::AlreadyClosed) => {
                    self.end.get_or_insert(End::Closed(code::NORMAL));
                    return Ok(Received::Closed);
                }
                Err(fault) => self.fail(&fault),
            }
        }
    }

    /// The other side has broken the protocol (RFC 6455, 7.1.7).
    fn fail(&mut self, fault: &Fault) {
        let code = match fault {
            Fault::Capacity(CapacityError::MessageTooLong { .. }) => code::TOO_LARGE,
            Fault::Utf8(_) => code::NOT_UTF8,
            _ => code::PROTOCOL,
        };
        self.say_close(code, "");
        self.end = Some(End::Broken(format!("the websocket's other side broke its rules: {fault}")));
    }

    /// Queues a message.
    pub(super) fn send(&mut self, message: Message) -> Result<()> {
        self.queue(match message {
            Message::Text(text) => tungstenite::Message::Text(text.into()),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
        })
    }

    pub(super) fn ping(&mut self, payload: &[u8]) -> Result<()> {
        if payload.len() > CONTROL_MAX {
            return Err(Error::msg(format_args!("a ping has at most {CONTROL_MAX} bytes")));
        }
        self.queue(tungstenite::Message::Ping(payload.to_vec().into()))
    }

    fn queue(&mut self, message: tungstenite::Message) -> Result<()> {
        if !self.is_open() {
            return Err(lost());
        }
        self.socket.send(message).map_err(|_| lost())
    }

    /// Queues our last word, where nobody has said one.
    pub(super) fn close(&mut self, code: u16, reason: &str) -> Result<()> {
        let code = CloseCode::from(code);
        if !code.is_allowed() {
            return Err(Error::msg(format_args!("{code} is no code that a websocket can be closed with")));
        }
        if self.is_open() {
            self.say_close(code.into(), reason);
        }
        Ok(())
    }

    fn say_close(&mut self, code: u16, reason: &str) {
        let mut end = reason.len().min(CONTROL_MAX - 2);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let frame = CloseFrame { code: code.into(), reason: reason[..end].to_owned().into() };
        // Into a buffer: what can fail is that it is closed already.
        let _ = self.socket.close(Some(frame));
    }

    /// Whether we may say something still.
    pub(super) fn is_open(&self) -> bool {
        self.end.is_none() && self.socket.can_write()
    }

    pub(super) fn close_code(&self) -> Option<u16> {
        match self.end {
            Some(End::Closed(code)) => Some(code),
            _ => None,
        }
    }

    /// Takes in bytes of the other side.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.socket.get_mut().input.extend_from_slice(bytes);
    }

    /// The other side will send no more, or nothing of ours arrives any more.
    pub(super) fn lose(&mut self) {
        if self.is_open() {
            // Perhaps it still listens; and where it is our side that leaves, it may come back.
            self.say_close(code::AWAY, "");
        }
        self.end.get_or_insert(End::Lost);
    }

    /// Bytes for the other side; whoever sends some of them drains them.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.socket.get_mut().output
    }
}

pub(super) fn lost() -> Error {
    Error::status(499, "the websocket's other side is gone")
}

/// Takes what was sent out of the output, and gives large memory back.
pub(super) fn drain(output: &mut Vec<u8>, sent: usize) {
    output.drain(..sent.min(output.len()));
    if output.is_empty() && output.capacity() > 4 * READ_LEN {
        *output = Vec::new();
    }
}

/// A stream that has no other side.
#[derive(Debug, Default)]
struct Buffers {
    input: Vec<u8>,
    /// Of the input, so much was read.
    read: usize,
    output: Vec<u8>,
}

impl Read for Buffers {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[self.read..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        if self.read == self.input.len() {
            self.input.clear();
            self.read = 0;
        }
        Ok(count)
    }
}

impl Write for Buffers {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
