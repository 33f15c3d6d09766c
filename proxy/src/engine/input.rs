//! Bytes from a client that are not done with yet.

use std::io;

use super::port::Socket;

/// First size of a buffer: most heads fit.
const FIRST: usize = 4 * 1024;
/// Buffers kept for the next request, at most.
const POOL_MAX: usize = 256;
/// Buffers larger than this are not kept.
const KEPT_MAX: usize = 32 * 1024;

/// A buffer that grows as needed and goes back to the pool while its connection is idle.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Always initialised to its length.
    bytes: Vec<u8>,
    /// `0 <= end <= bytes.len()`
    end: usize,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// So many bytes; `drained` where the socket has no more for now.
    Bytes { drained: bool },
    /// Nothing there.
    Later,
    /// The client sends no more.
    Closed,
    /// The connection broke.
    Broken,
    /// The buffer is as large as it may get.
    Full,
}

/// Buffers that wait for the next request.
#[derive(Debug, Default)]
pub(super) struct Pool(Vec<Vec<u8>>);

/// Reads once: how many bytes, and whether the socket has no more for now. The error is never [`Fill::Bytes`] or
/// [`Fill::Full`].
pub(super) fn read_once(socket: &mut impl Socket, room: &mut [u8]) -> Result<(usize, bool), Fill> {
    loop {
        return match socket.read(room) {
            Ok(0) => Err(Fill::Closed),
            // Where a short read has emptied the socket, the next call is saved.
            Ok(read) => Ok((read, read < room.len() && socket.short_read_drains())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Fill::Later),
            Err(_) => Err(Fill::Broken),
        };
    }
}

impl Input {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Reads once, after making room up to `max` bytes in all.
    pub(super) fn fill(&mut self, socket: &mut impl Socket, pool: &mut Pool, max: usize) -> Fill {
        if self.bytes.is_empty() {
            self.bytes = pool.0.pop().unwrap_or_else(|| vec![0; FIRST]);
        }
        if self.end == self.bytes.len() {
            if self.end >= max {
                return Fill::Full;
            }
            self.bytes.resize((self.end * 2).min(max), 0);
        }
        match read_once(socket, &mut self.bytes[self.end..]) {
            Ok((read, drained)) => {
                self.end += read;
                Fill::Bytes { drained }
            }
            Err(other) => other,
        }
    }

    /// Drops the bytes of a range; what follows moves down.
    pub(super) fn remove(&mut self, range: std::ops::Range<usize>) {
        let removed = range.len();
        self.bytes.copy_within(range.end..self.end, range.start);
        self.end -= removed;
    }

    /// Keeps no more memory than what is in it needs: more will not come.
    pub(super) fn fit(&mut self) {
        self.bytes.truncate(self.end);
        self.bytes.shrink_to_fit();
    }

    /// Gives the memory back where nothing is in it.
    pub(super) fn rest(&mut self, pool: &mut Pool) {
        if self.end == 0 && !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            if pool.0.len() < POOL_MAX && bytes.len() <= KEPT_MAX {
                pool.0.push(bytes);
            }
        }
    }
}
