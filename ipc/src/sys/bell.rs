//! Doorbells: what wakes the other side when it sleeps.
//!
//! Whoever rings must never be blocked by whoever is rung, so the ringing end has an open file description that
//! the other side does not share: of a pipe, the writer makes both ends and sends the reading one, and the reader
//! opens that one anew, so that its flags are its own as well. An eventfd has one description for both; it is for
//! a reader that the ringing side trusts. It is registered edge-triggered and never read. A pipe is read now and then
//! (`sleeper`), or after each wake-up by who polls it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;
use nix::unistd::{pipe2, read, write};

use super::memory::is_pipe;

/// Bytes that a pipe holds, at most: the bound of one draining.
const PIPE_BYTES_MAX: usize = 64 * 1024;
const DRAIN_BYTES: usize = 4 * 1024;

/// The end that rings.
#[derive(Clone, Debug)]
pub(crate) enum Ringer {
    /// The other side's eventfd.
    EventFd(Arc<OwnedFd>),
    /// Our end of a pipe.
    Pipe(Arc<OwnedFd>),
}

impl Ringer {
    /// A new pipe: its ringing end, and what is sent to the other side.
    pub(crate) fn pipe() -> io::Result<(Ringer, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok((Ringer::Pipe(Arc::new(writer)), reader))
    }

    /// Rings once. A bell that is full has been rung already, and one whose owner is gone needs no ringing.
    pub(crate) fn ring(&self) {
        let rung = match self {
            Ringer::EventFd(fd) => write(fd, &1u64.to_ne_bytes()),
            Ringer::Pipe(fd) => write(fd, &[1]),
        };
        debug_assert!(
            matches!(rung, Ok(_) | Err(Errno::EAGAIN | Errno::EPIPE | Errno::EINTR)),
            "a bell is an eventfd or a pipe: {rung:?}"
        );
    }
}

/// Counts what has come from those that one bell rings for: whether a ring was in vain. A bell of several lanes has one
/// for all of them, that only changes have a meaning of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<AtomicU32>);

impl Heard {
    /// Something has come.
    #[inline]
    pub(crate) fn note(&self) {
        // Its lanes belong to one thread at a time; one that is counted over by another has been counted.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// The end that is rung: readable after a ring.
#[derive(Debug)]
pub struct BellReader {
    fd: OwnedFd,
    drains: bool,
    heard: Heard,
}

impl BellReader {
    /// A new eventfd, and what is sent to the other side.
    pub(crate) fn event_fd() -> io::Result<(BellReader, OwnedFd)> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let fd = event.as_fd().try_clone_to_owned()?;
        Ok((BellReader { fd, drains: false, heard: Heard::default() }, OwnedFd::from(event)))
    }

    /// Takes the reading end of a pipe that the other side has made.
    pub(crate) fn received(fd: &OwnedFd) -> io::Result<BellReader> {
        use std::os::fd::AsRawFd;
        if !is_pipe(fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a bell is a pipe"));
        }
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = open(path.as_str(), flags, Mode::empty())?;
        Ok(BellReader { fd, drains: true, heard: Heard::default() })
    }

    /// The same bell, to be listened to by a sleeper of its own.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn try_clone(&self) -> io::Result<BellReader> {
        Ok(BellReader { fd: self.fd.try_clone()?, drains: self.drains, heard: self.heard.clone() })
    }

    /// For the lanes that it rings for.
    pub(crate) fn heard_by(&self) -> Heard {
        self.heard.clone()
    }

    /// Another number whenever something has come from those that ring.
    pub(crate) fn heard(&self) -> u32 {
        self.heard.0.load(Ordering::Relaxed)
    }

    /// Takes all rings there are, so that the bell is quiet until the next one. Bounded, never blocks.
    pub fn drain(&self) {
        if !self.drains {
            return;
        }
        let mut bytes = [0; DRAIN_BYTES];
        for _ in 0..=PIPE_BYTES_MAX / DRAIN_BYTES {
            match read(&self.fd, &mut bytes) {
                Ok(DRAIN_BYTES) | Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }
}

impl AsFd for BellReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    pub(crate) fn is_rung(bell: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::new(bell, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_pipe_rings_until_it_is_drained_and_never_blocks() {
        let (ringer, fd) = Ringer::pipe().unwrap();
        let bell = BellReader::received(&fd).unwrap();
        assert!(!is_rung(bell.as_fd()));
        for _ in 0..PIPE_BYTES_MAX + 10 {
            ringer.ring();
        }
        assert!(is_rung(bell.as_fd()));
        bell.drain();
        assert!(!is_rung(bell.as_fd()));
    }

    #[test]
    fn a_reader_that_is_gone_does_not_hurt() {
        let (ringer, fd) = Ringer::pipe().unwrap();
        drop(fd);
        ringer.ring();
    }

    #[test]
    fn flags_of_the_received_description_do_not_matter() {
        use nix::fcntl::{FcntlArg, fcntl};
        let (_ringer, fd) = Ringer::pipe().unwrap();
        let bell = BellReader::received(&fd).unwrap();
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        bell.drain();
    }

    #[test]
    fn only_a_pipe_is_a_bell() {
        let (_, event) = BellReader::event_fd().unwrap();
        assert!(BellReader::received(&event).is_err());
    }
}
