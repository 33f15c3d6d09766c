//! The board: one page per replica, written by it and read by all who have it.
//!
//! What stands there is what the replica says of itself. It is good for showing and for noticing that nothing
//! moves; nobody's safety hangs on it.

use std::io;
use std::os::fd::OwnedFd;

use super::memory::{MemoryError, ReadOnly, Writable};
use crate::sync::Ordering;

const BYTES: usize = 4096;
/// Each value has a line of its own.
const HEARTBEAT: usize = 0;
const ONGOING: usize = 128;
const PROCESSED: usize = 256;

/// The replica's end.
#[derive(Debug)]
pub struct BoardWriter {
    memory: Writable,
}

impl BoardWriter {
    /// A board, and the descriptor that others open it by.
    ///
    /// # Errors
    /// When the system has no memory or descriptors for it.
    pub fn create() -> io::Result<(BoardWriter, OwnedFd)> {
        let (memory, fd) = Writable::create("decurion-board", BYTES)?;
        Ok((BoardWriter { memory }, fd))
    }

    /// Says that the replica's loop still turns: any value but the last one.
    pub fn set_heartbeat(&self, value: u64) {
        self.set(HEARTBEAT, value);
    }

    /// Says how many requests are running.
    pub fn set_ongoing(&self, value: u64) {
        self.set(ONGOING, value);
    }

    /// Says how many requests have been answered since the start.
    pub fn set_processed(&self, value: u64) {
        self.set(PROCESSED, value);
    }

    fn set(&self, at: usize, value: u64) {
        self.memory.wide(at).store(value, Ordering::Relaxed);
    }
}

/// Everybody else's end.
#[derive(Debug)]
pub struct BoardReader {
    memory: ReadOnly,
}

impl BoardReader {
    /// Maps a board that was received.
    ///
    /// # Errors
    /// [`MemoryError`] where it is not sealed, or not of a board's size.
    pub fn open(fd: OwnedFd) -> Result<BoardReader, MemoryError> {
        Ok(BoardReader { memory: ReadOnly::open(&fd, BYTES)? })
    }

    /// Changes as long as the replica's loop turns.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        self.memory.wide(HEARTBEAT)
    }

    /// Requests that are running, in the replica's words.
    #[must_use]
    pub fn ongoing(&self) -> u64 {
        self.memory.wide(ONGOING)
    }

    /// Requests answered since its start, in the replica's words.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.memory.wide(PROCESSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_what_the_writer_sets() {
        let (writer, fd) = BoardWriter::create().unwrap();
        let reader = BoardReader::open(fd).unwrap();
        writer.set_heartbeat(u64::MAX - 1);
        writer.set_ongoing(3);
        writer.set_processed(1 << 40);
        assert_eq!((reader.heartbeat(), reader.ongoing(), reader.processed()), (u64::MAX - 1, 3, 1 << 40));
    }

    #[test]
    fn a_file_that_can_be_cut_is_no_board() {
        let fd = OwnedFd::from(tempfile_of(BYTES));
        assert!(matches!(BoardReader::open(fd), Err(MemoryError::Seals)));
    }

    #[test]
    fn memory_of_another_size_is_no_board() {
        let (_memory, fd) = Writable::create("other", 2 * BYTES).unwrap();
        assert!(matches!(BoardReader::open(fd), Err(MemoryError::Size { got: 8192, .. })));
    }

    fn tempfile_of(length: usize) -> std::fs::File {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let file = std::fs::File::from(memfd_create("unsealed", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        file.set_len(length as u64).unwrap();
        file
    }
}
