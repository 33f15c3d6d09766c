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
/// How many models follow, then the hash of each.
const MODELS: usize = 1024;
/// Models that a replica can say it holds, at most.
pub const MODELS_MAX: usize = 256;

/// What stands for a model's id on a board; 0 is none's.
#[must_use]
pub fn model_hash(id: &str) -> u64 {
    // FNV-1a: the same in every process and build. Two ids of one hash cost a detour at most.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(1)
}

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

    /// Says which models the replica holds, by their [hashes](model_hash): the first [`MODELS_MAX`] of them.
    pub fn set_models(&self, hashes: &[u64]) {
        let hashes = &hashes[..hashes.len().min(MODELS_MAX)];
        for (place, hash) in hashes.iter().enumerate() {
            self.set(MODELS + 8 * (place + 1), *hash);
        }
        self.set(MODELS, hashes.len() as u64);
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

    /// Whether the replica says that it holds a model. A look at the very moment of a change may miss one: it is a
    /// preference.
    #[must_use]
    pub fn holds_model(&self, hash: u64) -> bool {
        let count = usize::try_from(self.memory.wide(MODELS)).unwrap_or(0).min(MODELS_MAX);
        (1..=count).any(|place| self.memory.wide(MODELS + 8 * place) == hash)
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
    fn models_are_known_by_their_hash_and_bounded() {
        let (writer, fd) = BoardWriter::create().unwrap();
        let reader = BoardReader::open(fd).unwrap();
        let [a, b] = [model_hash("a"), model_hash("b")];
        writer.set_models(&[a, b]);
        assert!(reader.holds_model(a) && reader.holds_model(b));
        writer.set_models(&[b]);
        assert!(!reader.holds_model(a) && reader.holds_model(b));
        let many: Vec<u64> = (1..=1000).collect();
        writer.set_models(&many);
        assert!(reader.holds_model(256) && !reader.holds_model(257));
        // Whatever a hostile replica says of their number, it is looked at so far only.
        writer.set(MODELS, u64::MAX);
        assert!(!reader.holds_model(257));
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
