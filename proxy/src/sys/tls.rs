//! A connection's TLS: rustls between the socket and the engine.
//!
//! Bytes are copied once more than on a plain connection: to and from rustls's own buffers, which are bounded (64 KiB
//! to be sent, one record to be read). What the socket does not take stays there, and is offered again by `flush`.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use decurion_ipc::channel::{InBlock, OutBlock, Requester};
use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};

use super::clock;
use crate::http1::answer::reason;

/// Bytes gathered for one record: the most that one holds (RFC 8446, 5.1).
const RECORD_MAX: usize = 16 * 1024;
/// What a client may have sent, of what is no TLS, before it gets its answer.
const STRAY_MAX: usize = 64 * 1024;
/// First byte of a TLS connection: a handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// For a client that speaks HTTP where TLS is spoken.
const NOT_TLS: &str = "Plain HTTP, where TLS is spoken: use https.\n";
/// The status of that.
const NOT_TLS_STATUS: u16 = 400;

/// The socket, and what is between it and the engine.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) stream: TcpStream,
    session: ServerConnection,
    /// The first byte was looked at.
    greeted: bool,
    /// What came is no TLS, or breaks its rules: nothing more is said.
    failed: bool,
    /// What was said to a client that speaks no TLS.
    answered: Option<u16>,
}

impl Tls {
    pub(super) fn new(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self {
            stream,
            session: ServerConnection::new(config)?,
            greeted: false,
            failed: false,
            answered: None,
        })
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.take_in()?;
        self.session.reader().read(into)
    }

    /// Reads what is there of one record into a block of shared memory.
    pub(super) fn read_into(&mut self, lane: &mut Requester, block: &mut OutBlock) -> io::Result<usize> {
        self.take_in()?;
        let mut reader = self.session.reader();
        let filled = lane.fill(block, reader.fill_buf()?);
        reader.consume(filled);
        Ok(filled)
    }

    /// Takes as much as rustls's buffer and the socket hold. Less than all only where the socket is full.
    pub(super) fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let mut taken = 0;
        while taken < from.len() {
            taken += self.session.writer().write(&from[taken..])?;
            match self.flush() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Writes bytes, then blocks of shared memory, each from a place in it on, in records as large as can be.
    pub(super) fn write_from(
        &mut self,
        lane: &Requester,
        prefix: &[u8],
        blocks: &[(&InBlock, usize)],
    ) -> io::Result<usize> {
        let mut gathered = Gathered { tls: self, record: [0; RECORD_MAX], len: 0, written: 0 };
        let mut rest = prefix;
        while !rest.is_empty() {
            let room = gathered.room()?;
            if room.is_empty() {
                return Ok(gathered.written);
            }
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            gathered.len += count;
            rest = &rest[count..];
        }
        for (block, at) in blocks {
            let mut at = *at;
            while at < block.len() {
                let room = gathered.room()?;
                if room.is_empty() {
                    return Ok(gathered.written);
                }
                let count = lane.copy_to(block, at, room);
                if count == 0 {
                    return Err(ErrorKind::InvalidData.into());
                }
                gathered.len += count;
                at += count;
            }
        }
        gathered.send()?;
        Ok(gathered.written)
    }

    /// The status that a client which speaks no TLS was answered with.
    pub(super) fn answered(&self) -> Option<u16> {
        self.answered
    }

    pub(super) fn is_flushed(&self) -> bool {
        !self.session.wants_write()
    }

    /// Hands what is encrypted to the kernel.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more comes (RFC 8446, 6.1): without it the client could not tell an end from a cut.
    pub(super) fn close_notify(&mut self) {
        if self.failed {
            return;
        }
        self.session.send_close_notify();
        // A client that does not read gets no goodbye.
        let _ = self.flush();
    }

    pub(super) fn shutdown_write(&mut self) {
        self.close_notify();
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads records until there is something for the engine: bytes, or the end. What the handshake has to answer
    /// goes out on the way.
    fn take_in(&mut self) -> io::Result<()> {
        self.greet()?;
        loop {
            match self.session.reader().fill_buf() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
            // The end of the socket is an end without goodbye, which the reader says by itself.
            self.session.read_tls(&mut self.stream)?;
            let processed = self.session.process_new_packets();
            let flushed = self.flush();
            if let Err(error) = processed {
                self.failed = true;
                // The alert says why; a reset would take it away.
                let _ = self.stream.shutdown(Shutdown::Write);
                self.drop_stray();
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            match flushed {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    /// Tells a client that speaks plain HTTP so, in plain HTTP.
    fn greet(&mut self) -> io::Result<()> {
        if self.greeted {
            return Ok(());
        }
        let mut first = [0];
        if self.stream.peek(&mut first)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.greeted = true;
        if first[0] == HANDSHAKE {
            return Ok(());
        }
        self.failed = true;
        if first[0].is_ascii_alphabetic() {
            let _ = self.stream.write(not_tls().as_bytes());
            self.answered = Some(NOT_TLS_STATUS);
            let _ = self.stream.shutdown(Shutdown::Write);
            self.drop_stray();
        }
        Err(ErrorKind::InvalidData.into())
    }

    /// Reads what is there: a socket that is closed with bytes unread is reset, and the answer with it.
    fn drop_stray(&mut self) {
        let mut stray = [0; 4096];
        let mut seen = 0;
        while seen < STRAY_MAX {
            match self.stream.read(&mut stray) {
                Ok(0) | Err(_) => return,
                Ok(read) => seen += read,
            }
        }
    }
}

fn not_tls() -> String {
    let (status, date, length) = (NOT_TLS_STATUS, clock::http_date(), NOT_TLS.len());
    format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: text/plain; charset=utf-8\r\ndate: {date}\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{NOT_TLS}",
        reason(status)
    )
}

/// Plaintext on its way into records.
struct Gathered<'t> {
    tls: &'t mut Tls,
    record: [u8; RECORD_MAX],
    len: usize,
    written: usize,
}

impl Gathered<'_> {
    /// Room for more, after sending what fills a record. Empty where the socket takes no more.
    fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.len == RECORD_MAX {
            self.send()?;
            if !self.tls.is_flushed() {
                return Ok(&mut []);
            }
        }
        Ok(&mut self.record[self.len..])
    }

    fn send(&mut self) -> io::Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        match self.tls.write(&self.record[..self.len]) {
            Ok(taken) => {
                self.written += taken;
                self.len = 0;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.written > 0 => {
                self.len = 0;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
