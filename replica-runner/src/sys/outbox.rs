//! Words for the supervisor, from any thread. Never blocks a handler: what finds no room in the socket waits in a
//! bounded queue for the control thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use decurion_ipc::control::ReplicaReport;
use decurion_ipc::link::{Link, LinkError};

/// Reports that wait, at most; log lines beyond half of it are dropped and counted.
const QUEUE_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    link: Arc<Link>,
    queue: Mutex<VecDeque<ReplicaReport>>,
    dropped: AtomicU64,
}

impl Outbox {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, queue: Mutex::new(VecDeque::new()), dropped: AtomicU64::new(0) }
    }

    /// Sends a report, now or when there is room.
    pub(crate) fn send(&self, report: ReplicaReport) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            match self.link.send(&report, &[]) {
                Err(LinkError::WouldBlock) => {}
                // Closed: nobody is left to tell. Anything else is ours to see in the log, and retrying would not help.
                _ => return,
            }
        }
        let bound = if matches!(report, ReplicaReport::Log { .. }) { QUEUE_MAX / 2 } else { QUEUE_MAX };
        if queue.len() < bound {
            queue.push_back(report);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends one log line.
    pub(crate) fn log(&self, level: u32, target: &str, request_id: Option<String>, message: String) {
        let target = target.to_owned();
        self.send(ReplicaReport::Log { level, target, request_id, message });
    }

    /// Sends what waits, as far as there is room; whether something still waits.
    pub(crate) fn flush(&self) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(report) = queue.front() {
            match self.link.send(report, &[]) {
                Err(LinkError::WouldBlock) => return true,
                _ => queue.pop_front(),
            };
        }
        match self.dropped.swap(0, Ordering::Relaxed) {
            0 => false,
            dropped => {
                let message = format!("{dropped} lines were dropped, since the supervisor did not keep up");
                queue.push_back(ReplicaReport::Log {
                    level: decurion_abi::level::WARN,
                    target: "decurion".to_owned(),
                    request_id: None,
                    message,
                });
                true
            }
        }
    }
}
