//! Words for the supervisor and for the control thread, from any thread. Never blocks a handler: what finds no room in
//! the socket waits in a bounded queue for the control thread, which is rung for it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use decurion_ipc::control::{ReplicaReport, StartFailure};
use decurion_ipc::link::{Link, LinkError};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Reports that wait, at most; log lines beyond half of it are dropped and counted.
const QUEUE_MAX: usize = 1024;
/// Bytes of one text, at most: the rest is cut off.
const TEXT_MAX: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    link: Arc<Link>,
    bell: EventFd,
    queue: Mutex<VecDeque<Letter>>,
    dropped: AtomicU64,
    deputy: AtomicBool,
    /// What is said while nobody is there is kept for who comes.
    keeps: AtomicBool,
}

/// A report with what goes along.
#[derive(Debug)]
struct Letter {
    report: ReplicaReport,
    fd: Option<OwnedFd>,
}

impl Letter {
    fn send(&self, link: &Link) -> Result<(), LinkError> {
        let fds: Vec<BorrowedFd<'_>> = self.fd.iter().map(AsFd::as_fd).collect();
        link.send(&self.report, &fds)
    }
}

impl Outbox {
    pub(crate) fn new(link: Arc<Link>) -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (queue, dropped, deputy) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { link, bell, queue, dropped, deputy, keeps: AtomicBool::new(false) })
    }

    /// From now on, what is said while the supervisor is dead waits for the next one.
    pub(crate) fn keep_when_closed(&self) {
        self.keeps.store(true, Ordering::Relaxed);
    }

    fn keeps(&self, error: &LinkError) -> bool {
        match error {
            LinkError::WouldBlock => true,
            LinkError::Closed => self.keeps.load(Ordering::Relaxed),
            // It would not be helped by trying again.
            _ => false,
        }
    }

    /// Sends a report, now or when there is room.
    pub(crate) fn send(&self, report: ReplicaReport) {
        self.post(Letter { report: shortened(report), fd: None });
    }

    /// Sends a report that is better left out than late; whether it is sent.
    pub(crate) fn offer(&self, report: &ReplicaReport) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.is_empty() && self.link.send(report, &[]).is_ok()
    }

    /// Sends a report with a descriptor.
    pub(crate) fn send_with(&self, report: ReplicaReport, fd: OwnedFd) {
        self.post(Letter { report, fd: Some(fd) });
    }

    fn post(&self, letter: Letter) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            match letter.send(&self.link) {
                Err(error) if self.keeps(&error) => {}
                // Closed: nobody is left to tell.
                _ => return,
            }
        }
        let bound =
            if matches!(letter.report, ReplicaReport::Log { .. }) { QUEUE_MAX / 2 } else { QUEUE_MAX };
        if queue.len() < bound {
            queue.push_back(letter);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        drop(queue);
        self.ring();
    }

    /// Sends one log line.
    pub(crate) fn log(&self, level: u32, target: &str, request_id: Option<String>, message: String) {
        let target = target.to_owned();
        self.send(ReplicaReport::Log { level, target, request_id, message });
    }

    /// Sends what waits, as far as there is room; whether something still waits.
    pub(crate) fn flush(&self) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(letter) = queue.front() {
            match letter.send(&self.link) {
                Err(error) if self.keeps(&error) => return true,
                _ => queue.pop_front(),
            };
        }
        match self.dropped.swap(0, Ordering::Relaxed) {
            0 => false,
            dropped => {
                let message = format!("{dropped} lines were dropped, since the supervisor did not keep up");
                let (level, target) = (decurion_abi::level::WARN, "decurion".to_owned());
                let report = ReplicaReport::Log { level, target, request_id: None, message };
                queue.push_back(Letter { report, fd: None });
                true
            }
        }
    }

    /// Sends what waits, at the end, when nobody comes back to it.
    pub(crate) fn flush_within(&self, patience: Duration) {
        self.keeps.store(false, Ordering::Relaxed);
        let until = Instant::now() + patience;
        while self.flush() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = nix::poll::poll(&mut [PollFd::new(self.link.as_fd(), PollFlags::POLLOUT)], timeout);
        }
    }

    /// Has the control thread look around.
    pub(crate) fn ring(&self) {
        let _ = self.bell.write(1);
    }

    /// Rings for the control thread, until it is [quieted](Self::quiet).
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The control thread looks around now.
    pub(crate) fn quiet(&self) {
        let _ = self.bell.read();
    }

    /// Asks the control thread for a deputy.
    pub(crate) fn ask_for_deputy(&self) {
        self.deputy.store(true, Ordering::Release);
        self.ring();
    }

    /// Whether a deputy was asked for.
    pub(crate) fn take_deputy(&self) -> bool {
        self.deputy.swap(false, Ordering::AcqRel)
    }
}

/// Texts of the library can be as long as it likes, and packets can't.
fn shortened(mut report: ReplicaReport) -> ReplicaReport {
    let (first, second) = match &mut report {
        ReplicaReport::Log { message, target, .. } => (Some(message), Some(target)),
        ReplicaReport::Reconfigured { result, .. } | ReplicaReport::Health { result, .. } => {
            (result.as_mut().err(), None)
        }
        ReplicaReport::StartFailed(
            StartFailure::Library(why)
            | StartFailure::Class(why)
            | StartFailure::Constructor(why)
            | StartFailure::UserConfig(why),
        ) => (Some(why), None),
        ReplicaReport::CallerFault { fault, .. } => (Some(fault), None),
        ReplicaReport::Ready
        | ReplicaReport::Alive { .. }
        | ReplicaReport::Drained
        | ReplicaReport::Metrics(_)
        | ReplicaReport::Caller(_) => (None, None),
    };
    for text in first.into_iter().chain(second).filter(|text| text.len() > TEXT_MAX) {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push_str(" ...");
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(message: &str) -> ReplicaReport {
        ReplicaReport::Log { level: 1, target: "t".to_owned(), request_id: None, message: message.to_owned() }
    }

    fn received(link: &Link) -> Vec<ReplicaReport> {
        std::iter::from_fn(|| link.try_recv::<ReplicaReport>().unwrap().map(|(report, _)| report)).collect()
    }

    fn is_rung(outbox: &Outbox) -> bool {
        nix::poll::poll(&mut [PollFd::new(outbox.bell(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn what_finds_no_room_waits_in_order_and_rings() {
        let (ours, theirs) = Link::pair().unwrap();
        let outbox = Outbox::new(Arc::new(ours)).unwrap();
        let mut sent = 0;
        while !is_rung(&outbox) {
            outbox.send(log(&"x".repeat(10_000)));
            sent += 1;
        }
        outbox.quiet();
        outbox.send(ReplicaReport::Drained);
        assert!(outbox.flush());
        let mut all = received(&theirs);
        assert!(!outbox.flush());
        all.extend(received(&theirs));
        assert_eq!((all.len(), all.pop()), (sent + 1, Some(ReplicaReport::Drained)));
    }

    #[test]
    fn lines_are_dropped_and_counted_but_other_words_are_not() {
        let (ours, theirs) = Link::pair().unwrap();
        let outbox = Outbox::new(Arc::new(ours)).unwrap();
        for _ in 0..2 * QUEUE_MAX {
            outbox.send(log(&"x".repeat(10_000)));
        }
        outbox.send(ReplicaReport::Drained);
        let mut all = Vec::new();
        while outbox.flush() {
            all.extend(received(&theirs));
        }
        all.extend(received(&theirs));
        assert!(all.contains(&ReplicaReport::Drained));
        assert!(
            matches!(all.last(), Some(ReplicaReport::Log { message, .. }) if message.contains("were dropped"))
        );
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_and_not_lost() {
        let (ours, theirs) = Link::pair().unwrap();
        let outbox = Outbox::new(Arc::new(ours)).unwrap();
        let result = Err("\u{e9}".repeat(1_000_000));
        outbox.send(ReplicaReport::Reconfigured { sequence: 1, result });
        let [ReplicaReport::Reconfigured { result: Err(text), .. }] = &received(&theirs)[..] else {
            panic!("no report");
        };
        assert!(text.len() <= TEXT_MAX + 4 && text.ends_with(" ..."));
    }
}
