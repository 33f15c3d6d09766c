//! Where the leading thread sleeps: an epoll over every bell, and one eventfd for threads of this process.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use decurion_ipc::sys::bell::BellReader;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Names a bell of one sleeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BellKey(u64);

const WAKE: u64 = 0;
/// Events taken from the kernel at a time.
const BATCH: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sleeper {
    epoll: Epoll,
    wake: EventFd,
    bells: Mutex<Bells>,
}

#[derive(Debug, Default)]
struct Bells {
    last: u64,
    bells: HashMap<u64, Bell>,
}

/// What rings.
#[derive(Debug)]
enum Bell {
    /// A caller's doorbell, drained here.
    Caller(BellReader),
    /// A callee's, drained by the lane it belongs to.
    Callee(OwnedFd),
}

impl Bell {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Bell::Caller(bell) => bell.as_fd(),
            Bell::Callee(bell) => bell.as_fd(),
        }
    }
}

impl Sleeper {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self { epoll, wake, bells: Mutex::default() })
    }

    /// Listens to a caller's bell from now on.
    pub(crate) fn add(&self, bell: BellReader) -> io::Result<BellKey> {
        self.listen(Bell::Caller(bell))
    }

    /// Listens to the bell of a lane that drains it by itself.
    pub(crate) fn watch(&self, bell: BorrowedFd<'_>) -> io::Result<BellKey> {
        self.listen(Bell::Callee(bell.try_clone_to_owned()?))
    }

    fn listen(&self, bell: Bell) -> io::Result<BellKey> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.last += 1;
        let key = bells.last;
        self.epoll.add(bell.fd(), EpollEvent::new(EpollFlags::EPOLLIN, key))?;
        bells.bells.insert(key, bell);
        Ok(BellKey(key))
    }

    /// Listens to it no longer.
    pub(crate) fn remove(&self, key: BellKey) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.bells.remove(&key.0) {
            let _ = self.epoll.delete(bell.fd());
        }
    }

    /// Ends a sleep that is under way, or the next one.
    pub(crate) fn wake(&self) {
        let _ = self.wake.write(1);
    }

    /// Sleeps until a bell rings, [`wake`](Self::wake), or the time is up.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) {
        let mut events = [EpollEvent::empty(); BATCH];
        // A millisecond too long is no harm to a deadline; too short would be a busy loop.
        let millis = timeout.map(|left| left.as_nanos().div_ceil(1_000_000));
        let timeout = millis
            .map_or(EpollTimeout::NONE, |left| EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX));
        let Ok(count) = self.epoll.wait(&mut events, timeout) else { return };
        let mut bells = None;
        for event in events.iter().take(count) {
            if event.data() == WAKE {
                let _ = self.wake.read();
                continue;
            }
            let bells =
                bells.get_or_insert_with(|| self.bells.lock().unwrap_or_else(PoisonError::into_inner));
            let hung_up = event.events().intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
            match bells.bells.get(&event.data()) {
                // Its caller is gone. The control thread hears of that by itself; a dead bell would wake us for ever.
                Some(bell) if hung_up => {
                    let _ = self.epoll.delete(bell.fd());
                }
                Some(Bell::Caller(bell)) => bell.drain(),
                Some(Bell::Callee(_)) | None => {}
            }
        }
    }
}
