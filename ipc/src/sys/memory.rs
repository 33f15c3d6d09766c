//! Shared memory: a memfd that one side writes and the other maps read-only.
//!
//! The side that makes it maps it writable, then seals it against shrinking, growing and any later writable
//! mapping, and only then sends it. The side that receives it believes nothing: it checks the seals and the size
//! that both agreed on, so that no access can fault and nothing the sender does later can change either.
//!
//! No reference to bytes in a mapping is ever made: words are atomics, bytes are copied in or out. Accesses are
//! checked against the length of the mapping; a caller checks what the other side said before it gets here.

use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::event_index::{Load, Store};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Parts of one gathering write, at most.
pub const PARTS_MAX: usize = 64;

/// Why memory of the other side is not taken.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The system refused.
    #[error("shared memory failed")]
    Io(#[from] io::Error),
    /// Not a memfd, or one that its maker can still change.
    #[error("shared memory is not sealed as it must be")]
    Seals,
    /// Another size than was agreed on.
    #[error("shared memory has {got} bytes instead of {expected}")]
    Size {
        /// Found.
        got: i64,
        /// Agreed on.
        expected: usize,
    },
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL
}

/// A mapping of a whole memfd, unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access is by atomics and by copies whose
// targets the callers own.
unsafe impl Send for Mapping {}
// SAFETY: as above. Two threads that copy into the same bytes would race, which the channel excludes by giving
// each lane, and so each part of the memory, one owner; other processes are excluded by the seals.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: &OwnedFd, length: usize, protection: ProtFlags) -> io::Result<Mapping> {
        let size = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Mapping { base: base.cast(), length })
    }

    /// The address of `length` bytes at `at`, all within the mapping.
    #[inline]
    fn address(&self, at: usize, length: usize) -> *mut u8 {
        assert!(
            at.checked_add(length).is_some_and(|end| end <= self.length),
            "{length} bytes at {at} are outside of a mapping of {}",
            self.length
        );
        // SAFETY: `at` is within the mapping, which is one allocation.
        unsafe { self.base.as_ptr().add(at) }
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "a word at {at} is not aligned");
        let address = self.address(at, 4).cast::<u32>();
        // SAFETY: aligned, within the mapping, and alive as long as `self`; every access to words is atomic. A
        // load does not write, so it is also right on read-only pages (`ReadOnly` hands out loads only).
        unsafe { AtomicU32::from_ptr(address) }
    }

    fn wide(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "a wide word at {at} is not aligned");
        let address = self.address(at, 8).cast::<u64>();
        // SAFETY: as for `word`.
        unsafe { AtomicU64::from_ptr(address) }
    }

    /// The eight words of a slot.
    #[inline]
    fn words(&self, at: usize) -> &[AtomicU32; 8] {
        assert!(at.is_multiple_of(4), "words at {at} are not aligned");
        let address = self.address(at, 32).cast::<[AtomicU32; 8]>();
        // SAFETY: as for `word`, eight times.
        unsafe { &*address }
    }

    fn copy_out(&self, at: usize, to: &mut [u8]) {
        let from = self.address(at, to.len());
        // SAFETY: both are `to.len()` bytes, and `to` is private memory, so they do not overlap. The other
        // process may write meanwhile: then any mix of bytes arrives, and nothing was believed of them yet.
        unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), to.as_mut_ptr(), to.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new` with this length, and nothing outlives `self` that points into it.
        let unmapped = unsafe { munmap(self.base.cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}

/// Memory that this process made, and alone can write.
#[derive(Debug)]
pub(crate) struct Writable(Mapping);

impl Writable {
    /// Zeroed memory, and its descriptor for the other side: sealed already.
    pub(crate) fn create(name: &str, length: usize) -> io::Result<(Writable, OwnedFd)> {
        let fd = memfd(name)?;
        let size = i64::try_from(length).map_err(|_| Errno::EINVAL)?;
        nix::unistd::ftruncate(&fd, size)?;
        let mapping = Mapping::new(&fd, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals()))?;
        Ok((Writable(mapping), fd))
    }

    /// A word that this side writes.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU32 {
        before_store();
        self.0.word(at)
    }

    /// Writes eight words that the other side reads after they are published.
    #[inline]
    pub(crate) fn store_words(&self, at: usize, words: [u32; 8]) {
        for (place, word) in self.0.words(at).iter().zip(words) {
            before_store();
            place.store(word, Ordering::Relaxed);
        }
    }

    /// A wide word that this side writes.
    pub(crate) fn wide(&self, at: usize) -> &AtomicU64 {
        self.0.wide(at)
    }

    /// Copies bytes in.
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) {
        before_store();
        let to = self.0.address(at, from.len());
        // SAFETY: both are `from.len()` bytes; `from` is private memory, so they do not overlap. No reference to
        // the target exists, and no other thread writes it: it is in a block that the one owner has taken.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) }
    }

    /// Copies bytes out again.
    pub(crate) fn copy_out(&self, at: usize, to: &mut [u8]) {
        self.0.copy_out(at, to);
    }

    /// Reads from a descriptor straight into the memory.
    pub(crate) fn read_from(&self, fd: BorrowedFd<'_>, at: usize, length: usize) -> io::Result<usize> {
        let to = self.0.address(at, length);
        // SAFETY: `length` writable bytes that this side owns, as for `copy_in`; `fd` is open while borrowed.
        let count = unsafe { libc::read(fd.as_raw_fd(), to.cast(), length) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

impl Store for AtomicU32 {
    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }
}

/// Memory of the other side: it can change at any time, but not go away.
#[derive(Debug)]
pub(crate) struct ReadOnly(Mapping);

/// One word of the other side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerWord<'a>(&'a AtomicU32);

impl Load for PeerWord<'_> {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }
}

impl ReadOnly {
    /// Maps what the other side has sent.
    pub(crate) fn open(fd: &OwnedFd, length: usize) -> Result<ReadOnly, MemoryError> {
        // Only memory files have seals at all: anything else fails here.
        let found = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| MemoryError::Seals)?;
        if !SealFlag::from_bits_retain(found).contains(seals()) {
            return Err(MemoryError::Seals);
        }
        // Huge pages can run out at the moment of a first read: ordinary ones only.
        if fstatfs(fd).map_err(io::Error::from)?.filesystem_type() != TMPFS_MAGIC {
            return Err(MemoryError::Seals);
        }
        let stat = fstat(fd).map_err(io::Error::from)?;
        if usize::try_from(stat.st_size) != Ok(length) {
            return Err(MemoryError::Size { got: stat.st_size, expected: length });
        }
        Ok(ReadOnly(Mapping::new(fd, length, ProtFlags::PROT_READ)?))
    }

    /// A word that the other side writes.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> PeerWord<'_> {
        PeerWord(self.0.word(at))
    }

    /// A wide word of the other side, as it is now.
    pub(crate) fn wide(&self, at: usize) -> u64 {
        self.0.wide(at).load(Ordering::Relaxed)
    }

    /// Copies eight words out, each once.
    #[inline]
    pub(crate) fn load_words(&self, at: usize) -> [u32; 8] {
        let words = self.0.words(at);
        std::array::from_fn(|place| words[place].load(Ordering::Relaxed))
    }

    /// Copies bytes out.
    pub(crate) fn copy_out(&self, at: usize, to: &mut [u8]) {
        self.0.copy_out(at, to);
    }

    /// Writes private bytes, then parts of the memory, in one call. What has no place in [`PARTS_MAX`] parts is
    /// left for the next.
    pub(crate) fn write_to(
        &self,
        fd: BorrowedFd<'_>,
        prefix: &[IoSlice<'_>],
        parts: impl Iterator<Item = (usize, usize)>,
    ) -> io::Result<usize> {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS_MAX];
        let private = prefix.iter().map(|part| (part.as_ptr().cast_mut(), part.len()));
        let shared = parts.map(|(at, length)| (self.0.address(at, length), length));
        let mut count: libc::c_int = 0;
        for (vector, (base, length)) in vectors.iter_mut().zip(private.chain(shared)) {
            *vector = libc::iovec { iov_base: base.cast(), iov_len: length };
            count += 1;
        }
        // SAFETY: each of the `count` parts is readable for its length: either borrowed with `prefix`, or within
        // the mapping. The kernel reads them only.
        let written = unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), count) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}

/// Where the tests kill this process.
#[cfg(test)]
use super::kill::before_store;
#[cfg(not(test))]
#[inline]
fn before_store() {}

/// A memfd that never becomes executable, where the kernel knows of that (6.3).
fn memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(name, flags | no_exec) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// Whether a descriptor is a pipe.
pub(crate) fn is_pipe(fd: &impl AsFd) -> io::Result<bool> {
    let format = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    Ok(format == SFlag::S_IFIFO)
}
