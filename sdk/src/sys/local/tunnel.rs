//! The caller's end of an exchange that has changed its protocol.

use std::sync::Arc;

use decurion_abi::{encoding, kind};

use super::App;
use super::exchange::{Exchange, Incoming};

/// Bytes both ways. Dropped, the caller is gone.
pub(crate) struct Tunnel(Arc<Exchange>);

impl Tunnel {
    /// Sends a GET that offers a change of protocol, as its fields say. The outer error is an ABI status; the inner one
    /// what was answered instead, as status and body.
    pub(crate) fn open(
        app: &Arc<App>,
        name: &str,
        target: &str,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Result<Self, (u32, Vec<u8>)>, i32> {
        let incoming = Incoming {
            kind: kind::HTTP,
            method: b"GET".to_vec(),
            target: target.as_bytes().to_vec(),
            headers,
            encoding: encoding::RAW,
            method_index: u32::MAX,
            body: Vec::new(),
            model_id: Vec::new(),
            deadline_ns: 0,
            offers_upgrade: true,
        };
        let exchange = app.start(name, None, incoming)?;
        if exchange.switched() {
            return Ok(Ok(Self(exchange)));
        }
        let answer = exchange.take_answer(None)?;
        Ok(Err((answer.status, answer.body)))
    }

    /// Reads, waiting for the first byte; 0 at the end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> usize {
        self.0.take_outbound(buffer)
    }

    /// Writes all, waiting for room; `false` where the deployment has ended.
    pub(crate) fn write(&self, bytes: &[u8]) -> bool {
        self.0.put_inbound(bytes)
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end(&self) {
        self.0.end_inbound();
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.0.has_ended() {
            self.0.cancel();
        }
    }
}
