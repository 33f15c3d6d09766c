//! The adoption socket: where children of a supervisor that died come to the next one. Who they are is told by the
//! kernel; what they say is a claim.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use decurion_ipc::adoption::{Claim, Verdict};
use decurion_ipc::link::{Link, LinkError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::sockets::{SocketError, SocketFile, accept_handle, bind_private, inherited, peer_of};

/// The socket, and those who have come and said nothing yet.
#[derive(Debug)]
pub(crate) struct Hall {
    listener: OwnedFd,
    file: SocketFile,
    silent: Vec<(Link, i32, Instant)>,
}

/// Somebody who has spoken.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Its process id, as the kernel says.
    pub(crate) pid: i32,
    pub(crate) claim: Claim,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) link: Link,
}

/// Those who say nothing, at most: the oldest goes.
const SILENT_MAX: usize = 64;
/// How long somebody may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(5);

impl Hall {
    /// Binds the socket, for processes of our own user alone.
    pub(crate) fn open(path: &Path) -> Result<Self, SocketError> {
        let (listener, file) = bind_private(path)?;
        Ok(Self { listener, file, silent: Vec::new() })
    }

    /// The socket of the program before us.
    pub(crate) fn inherit(listener: OwnedFd, path: &Path) -> Self {
        Self { listener, file: inherited(path), silent: Vec::new() }
    }

    /// For watching.
    pub(crate) fn raw(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// Waits for somebody, but not longer than this, and takes in who has spoken by then.
    pub(crate) fn arrivals(&mut self, patience: Duration, now: Instant) -> Vec<Arrival> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.silent.iter().map(|(link, ..)| PollFd::new(link.as_fd(), PollFlags::POLLIN)));
        // Interrupted: whoever waits comes round again.
        let _ = poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO));
        self.admit(now);
        let mut arrived = Vec::new();
        for (link, pid, since) in std::mem::take(&mut self.silent) {
            match link.try_recv::<Claim>() {
                Ok(Some((claim, fds))) => arrived.push(Arrival { pid, claim, fds, link }),
                Ok(None) | Err(LinkError::WouldBlock) if now < since + SILENCE_MAX => {
                    self.silent.push((link, pid, since));
                }
                Err(LinkError::Malformed(_)) => {
                    refuse(&link, pid, "it speaks no control protocol that is known here");
                }
                Ok(None) | Err(_) => {}
            }
        }
        arrived
    }

    fn admit(&mut self, now: Instant) {
        while let Ok(Some(socket)) = accept_handle(&self.listener) {
            let Ok((uid, _, pid)) = peer_of(socket.as_fd()) else { continue };
            if uid != nix::unistd::Uid::effective().as_raw() {
                tracing::warn!("pid {pid} of user {uid} was turned away from the adoption socket");
                continue;
            }
            if self.silent.len() == SILENT_MAX {
                self.silent.remove(0);
            }
            self.silent.push((Link::from_fd(socket), pid, now));
        }
    }
}

impl AsFd for Hall {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Arrival {
    /// Tells it to leave.
    pub(crate) fn refuse(self, why: &str) {
        refuse(&self.link, self.pid, why);
    }

    /// Tells it that it is adopted; its link, and what it has sent along.
    pub(crate) fn welcome(self) -> Result<(Link, Vec<OwnedFd>), LinkError> {
        self.link.send(&Verdict::Welcome, &[])?;
        Ok((self.link, self.fds))
    }
}

fn refuse(link: &Link, pid: i32, why: &str) {
    tracing::warn!("pid {pid} came to be adopted and is not: {why}; it was told to leave");
    // One that is gone leaves all the same.
    let _ = link.send(&Verdict::Refused(why.to_owned()), &[]);
}

/// What tells this boot of the machine from others.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
