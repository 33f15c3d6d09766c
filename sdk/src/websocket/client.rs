//! A test's own end of a websocket.

use std::fmt;
use std::sync::Arc;

use tungstenite::protocol::Role;

use super::Message;
use super::blocking::READ_LEN;
use super::core::{Core, Received, drain, lost};
use crate::sys::local::{App, Tunnel};
use crate::{Error, Result};

/// A client's end of a websocket to a deployment in this process, from
/// [`Local::websocket`](crate::test::Local::websocket). Dropped without [`close`](Self::close), it is gone without a
/// word.
pub struct WebSocketClient {
    tunnel: Tunnel,
    core: Core,
}

/// Asks a deployment for a websocket.
pub(crate) fn offer(
    app: &Arc<App>,
    name: &str,
    target: &str,
    fields: &[(&str, &str)],
) -> Result<WebSocketClient> {
    let own = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let field = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let fields = own.iter().chain(fields).map(field).collect();
    match Tunnel::open(app, name, target, fields) {
        Ok(Ok(tunnel)) => Ok(WebSocketClient { tunnel, core: Core::new(Role::Client) }),
        Ok(Err((status, body))) => {
            let status = u16::try_from(status).unwrap_or(500);
            Err(Error::status(status, String::from_utf8_lossy(&body)))
        }
        Err(status) => {
            Err(Error::msg(format_args!("the deployment can't be asked for a websocket ({status})")))
        }
    }
}

impl WebSocketClient {
    /// Waits for the next message; `None` once the deployment has closed in order.
    ///
    /// # Errors
    /// 499 where it has ended without a word.
    pub fn recv(&mut self) -> Result<Option<Message>> {
        let mut buffer = vec![0; READ_LEN];
        loop {
            let received = self.core.receive();
            self.flush();
            match received? {
                Received::Message(message) => return Ok(Some(message)),
                Received::Closed => return Ok(None),
                Received::Starved => {}
            }
            match self.tunnel.read(&mut buffer) {
                0 if self.core.close_code().is_some() => return Ok(None),
                0 => return Err(lost()),
                read => self.core.feed(&buffer[..read]),
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// 499 where the deployment has closed.
    pub fn send(&mut self, message: impl Into<Message>) -> Result<()> {
        self.core.send(message.into())?;
        if self.flush() { Ok(()) } else { Err(lost()) }
    }

    /// Sends bytes as they are, right or wrong.
    ///
    /// # Errors
    /// 499 where the deployment has closed.
    pub fn send_raw(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        if self.tunnel.write(bytes.as_ref()) { Ok(()) } else { Err(lost()) }
    }

    /// Closes with a code. What the deployment still has to say can be received.
    ///
    /// # Errors
    /// Where the code is none to close with.
    pub fn close(&mut self, code: u16, reason: &str) -> Result<()> {
        self.core.close(code, reason)?;
        self.flush();
        Ok(())
    }

    /// Sends no more, without a word: the deployment sees the end of what comes.
    pub fn half_close(&mut self) {
        self.tunnel.end();
    }

    /// The code that the deployment has closed with; 1005 where it gave none.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        self.core.close_code()
    }

    fn flush(&mut self) -> bool {
        let output = self.core.output();
        let all = output.len();
        let written = self.tunnel.write(output);
        drain(output, all);
        written
    }
}

impl fmt::Debug for WebSocketClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketClient").field("open", &self.core.is_open()).finish_non_exhaustive()
    }
}
