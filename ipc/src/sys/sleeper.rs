//! Where the one thread sleeps that waits for others' bells: an epoll over every bell, and one eventfd for threads
//! of this process.
//!
//! Bells are registered edge-triggered, so that each ring wakes without the last one having been read: that saves a
//! system call for every wake-up. Rings lie in their pipe meanwhile, which has room for more than can come before it
//! is read: a side that keeps the rules rings each lane once, at most, for each time that it was armed. So a bell is
//! read when it rings [`ARMS_MAX`] times of arming after it was read last; and a pipe that fills up before that has
//! rung, so that the next sleep ends at once and reads it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::bell::{BellReader, Ringer};
use crate::rings::Rings;

/// Names a bell of one sleeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BellKey(u64);

const WAKE: u64 = 0;
/// Events taken from the kernel at a time.
const BATCH: usize = 16;
/// Times of arming between two readings of a bell. With the most lanes that one bell is for, that is a quarter of the
/// smallest pipe, which has one page.
const ARMS_MAX: u64 = 16;

/// See the module. One thread sleeps at a time.
#[derive(Debug)]
pub struct Sleeper {
    epoll: Epoll,
    wake: EventFd,
    bells: Mutex<Bells>,
    /// How often somebody armed.
    arms: AtomicU64,
    /// Bells that are not listened to.
    deaf: AtomicUsize,
    /// There are some to be named.
    names: AtomicBool,
    began: Instant,
}

#[derive(Debug, Default)]
struct Bells {
    last: u64,
    listened: BTreeMap<u64, Listened>,
    /// Names of those that ring without end, to be told.
    named: Vec<String>,
}

#[derive(Debug)]
struct Listened {
    bell: BellReader,
    name: String,
    /// What had been heard from those it rings for when it last rang.
    heard: u32,
    rings: Rings,
    named: bool,
    /// Of [`Sleeper::arms`].
    read_at: u64,
}

impl Sleeper {
    /// Listens to nobody yet.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKE))?;
        Ok(Self {
            epoll,
            wake,
            bells: Mutex::default(),
            arms: AtomicU64::new(0),
            deaf: AtomicUsize::new(0),
            names: AtomicBool::new(false),
            began: Instant::now(),
        })
    }

    /// Listens to a bell from now on. `name`: who rings it, for who reads of it.
    ///
    /// # Errors
    /// The system can watch no more descriptors.
    pub fn add(&self, bell: BellReader, name: String) -> io::Result<BellKey> {
        let mut bells = self.lock();
        bells.last += 1;
        let key = bells.last;
        self.epoll.add(bell.as_fd(), EpollEvent::new(interest(), key))?;
        let heard = bell.heard();
        let listened = Listened { bell, name, heard, rings: Rings::default(), named: false, read_at: 0 };
        bells.listened.insert(key, listened);
        Ok(BellKey(key))
    }

    /// Listens to it no longer.
    pub fn remove(&self, key: BellKey) {
        if let Some(listened) = self.lock().listened.remove(&key.0) {
            let _ = self.epoll.delete(listened.bell.as_fd());
            self.deaf.fetch_sub(usize::from(listened.rings.deaf_until().is_some()), Ordering::Relaxed);
        }
    }

    /// Ends a sleep that is under way, or the next one.
    pub fn wake(&self) {
        let _ = self.wake.write(1);
    }

    /// To be called before the lanes are armed that it sleeps on, whether it sleeps then or not.
    pub fn arming(&self) {
        self.arms.fetch_add(1, Ordering::Relaxed);
    }

    /// Sleeps until a bell rings, [`wake`](Self::wake), or the time is up; sometimes less long.
    pub fn sleep(&self, timeout: Option<Duration>) {
        let timeout = [timeout, self.hear_again()].into_iter().flatten().min();
        let mut events = [EpollEvent::empty(); BATCH];
        // A millisecond too long is no harm to a deadline; too short would be a busy loop.
        let millis = timeout.map(|left| left.as_nanos().div_ceil(1_000_000));
        let timeout = millis
            .map_or(EpollTimeout::NONE, |left| EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX));
        let Ok(count) = self.epoll.wait(&mut events, timeout) else { return };
        let mut bells = None;
        // The eventfd for this process's threads is edge-triggered, and never read.
        for event in events.iter().take(count).filter(|event| event.data() != WAKE) {
            let bells = bells.get_or_insert_with(|| self.lock());
            self.rung(bells, *event);
        }
    }

    /// Who rings without end and has nothing to say, each once.
    pub fn take_named(&self) -> Vec<String> {
        if !self.names.load(Ordering::Relaxed) || !self.names.swap(false, Ordering::Relaxed) {
            return Vec::new();
        }
        std::mem::take(&mut self.lock().named)
    }

    fn rung(&self, bells: &mut Bells, event: EpollEvent) {
        let Some(listened) = bells.listened.get_mut(&event.data()) else { return };
        if event.events().intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            // Who rang is gone; others hear of that by themselves, and a dead bell would wake us for ever.
            let _ = self.epoll.delete(listened.bell.as_fd());
            return;
        }
        let arms = self.arms.load(Ordering::Relaxed);
        if !rings_anew() || arms.wrapping_sub(listened.read_at) >= ARMS_MAX {
            listened.bell.drain();
            listened.read_at = arms;
        }
        let heard = listened.bell.heard();
        if std::mem::replace(&mut listened.heard, heard) != heard {
            listened.rings.news();
        } else if listened.rings.vain(self.now_ns()) {
            // Where this fails it is heard on, and costs what it costs. It is counted all the same: as long as its rings say
            // that it is not listened to, somebody will count it off.
            let deaf = &mut EpollEvent::new(EpollFlags::empty(), event.data());
            let _ = self.epoll.modify(listened.bell.as_fd(), deaf);
            self.deaf.fetch_add(1, Ordering::Relaxed);
            if !std::mem::replace(&mut listened.named, true) {
                bells.named.push(listened.name.clone());
                self.names.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Listens again to those whose tick is over; how long to sleep, at most, for the sake of the others.
    fn hear_again(&self) -> Option<Duration> {
        if self.deaf.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = self.now_ns();
        let mut next: Option<u64> = None;
        for (key, listened) in &mut self.lock().listened {
            if listened.rings.heard_again(now) {
                // What has rung meanwhile rings at once, and is read then: it may have filled up. Not here: somebody has armed,
                // and is to be woken by it.
                listened.read_at = self.arms.load(Ordering::Relaxed).wrapping_sub(ARMS_MAX);
                let _ = self.epoll.modify(listened.bell.as_fd(), &mut EpollEvent::new(interest(), *key));
                self.deaf.fetch_sub(1, Ordering::Relaxed);
            } else if let Some(until) = listened.rings.deaf_until() {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        next.map(|until| Duration::from_nanos(until.saturating_sub(now)))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bells> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn interest() -> EpollFlags {
    if rings_anew() { EpollFlags::EPOLLIN | EpollFlags::EPOLLET } else { EpollFlags::EPOLLIN }
}

/// Whether this kernel tells of each ring of a pipe that nobody has read: some (5.5 to 5.13) tell of the first only.
fn rings_anew() -> bool {
    static ANEW: OnceLock<bool> = OnceLock::new();
    *ANEW.get_or_init(|| tells_of_each_ring().unwrap_or(false))
}

fn tells_of_each_ring() -> io::Result<bool> {
    let (ringer, reader) = Ringer::pipe()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 1))?;
    let mut told = true;
    for _ in 0..3 {
        ringer.ring();
        told &= epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO)? == 1;
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rings::VAIN_MAX;

    fn bell() -> (Ringer, BellReader) {
        let (ringer, fd) = Ringer::pipe().unwrap();
        (ringer, BellReader::received(&fd).unwrap())
    }

    /// Sleeps on one that has rung already: a ring that was lost is a hang, which the bound ends.
    fn wakes(sleeper: &Sleeper) -> bool {
        sleeper.arming();
        let mut events = [EpollEvent::empty(); 1];
        let rung = sleeper.epoll.wait(&mut events, EpollTimeout::from(30_000u16)).unwrap() == 1;
        sleeper.rung(&mut sleeper.lock(), events[0]);
        rung
    }

    #[test]
    fn each_ring_wakes_however_many_there_are() {
        let sleeper = Sleeper::new().unwrap();
        let (ringer, reader) = bell();
        let heard = reader.heard_by();
        sleeper.add(reader, "it".to_owned()).unwrap();
        for _ in 0..100_000 {
            ringer.ring();
            assert!(wakes(&sleeper));
            heard.note();
        }
        assert!(sleeper.take_named().is_empty());
    }

    #[test]
    fn a_pipe_that_filled_up_while_nobody_slept_wakes_and_rings_again() {
        let sleeper = Sleeper::new().unwrap();
        let (ringer, reader) = bell();
        sleeper.add(reader, "it".to_owned()).unwrap();
        for _ in 0..70_000 {
            sleeper.arming();
            ringer.ring();
        }
        assert!(wakes(&sleeper));
        ringer.ring();
        assert!(wakes(&sleeper));
    }

    #[test]
    fn one_that_rings_in_vain_is_named_and_not_listened_to() {
        let sleeper = Sleeper::new().unwrap();
        let ((ringer, reader), (other, others)) = (bell(), bell());
        let heard = others.heard_by();
        sleeper.add(reader, "the one without end".to_owned()).unwrap();
        sleeper.add(others, "the other".to_owned()).unwrap();
        // On a machine that is slow, ticks end in between: it goes on for as long as it takes.
        let mut named = Vec::new();
        while named.is_empty() {
            for _ in 0..=VAIN_MAX {
                ringer.ring();
                other.ring();
                heard.note();
                sleeper.arming();
                sleeper.sleep(Some(Duration::from_secs(30)));
            }
            named = sleeper.take_named();
        }
        assert_eq!(named, ["the one without end"]);
        // Each sleep is short meanwhile; then it is heard again, also of what it rang for meanwhile.
        ringer.ring();
        while sleeper.deaf.load(Ordering::Relaxed) > 0 {
            sleeper.sleep(None);
        }
        ringer.ring();
        sleeper.sleep(None);
    }

    #[test]
    fn one_that_can_t_be_silenced_is_counted_as_often_as_it_is_counted_off() {
        let sleeper = Sleeper::new().unwrap();
        let (_ringer, reader) = bell();
        let key = sleeper.add(reader, "it".to_owned()).unwrap();
        let ring = EpollEvent::new(EpollFlags::EPOLLIN, key.0);
        // The kernel knows nothing of it any more, and refuses every change.
        sleeper.epoll.delete(sleeper.lock().listened[&key.0].bell.as_fd()).unwrap();
        while sleeper.lock().listened[&key.0].rings.deaf_until().is_none() {
            sleeper.rung(&mut sleeper.lock(), ring);
        }
        assert_eq!(sleeper.deaf.load(Ordering::Relaxed), 1);
        assert_eq!(sleeper.take_named(), ["it"]);
        sleeper.remove(key);
        assert_eq!(sleeper.deaf.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_wakes_it_before_it_sleeps_ends_the_next_sleep() {
        let sleeper = Sleeper::new().unwrap();
        for _ in 0..3 {
            sleeper.wake();
            sleeper.wake();
            sleeper.sleep(None);
        }
    }

    #[test]
    fn a_bell_whose_ringer_is_gone_wakes_once() {
        let sleeper = Sleeper::new().unwrap();
        let (ringer, reader) = bell();
        let key = sleeper.add(reader, "it".to_owned()).unwrap();
        drop(ringer);
        sleeper.sleep(None);
        assert_eq!(sleeper.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO), Ok(0));
        sleeper.remove(key);
    }
}
