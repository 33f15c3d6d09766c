//! What other threads have to tell a worker.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use decurion_ipc::channel::Requester;
use decurion_ipc::control::ProxySettings;
use mio::Waker;
use mio::net::TcpListener;

use crate::access_log::Sink;
use crate::balance::{Grant, LaneIndex, Post, Replica};
use crate::view::View;

/// One message. In order: a lane comes before the view that names its replica, a grant after.
#[derive(Debug)]
pub(super) enum Mail {
    Grant(Grant),
    View(Arc<View>),
    Attach {
        replica: Arc<Replica>,
        lane: Box<Requester>,
        pidfd: Arc<OwnedFd>,
    },
    Detach(LaneIndex),
    /// Go by these from the next connection on, and say so.
    Configure {
        sequence: u64,
        settings: Box<ProxySettings>,
        access_log: Option<Arc<dyn Sink>>,
        tls: Option<Arc<rustls::ServerConfig>>,
    },
    Listen(TcpListener),
    /// It is this worker's turn to accept connections.
    Open,
    /// No new connections; `gently`: another proxy takes them, and idle ones may stay.
    Drain {
        gently: bool,
    },
    /// Lines of the access log that were kept back are to be written.
    HandOverLog,
    /// Say that it came.
    Probe {
        sequence: u64,
    },
    Abort,
    Stop,
}

/// One worker's.
#[derive(Debug)]
pub(super) struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    /// Whether something is in it: the waker is used once for many.
    pending: AtomicBool,
    waker: Waker,
}

/// All workers'.
#[derive(Debug)]
pub(super) struct Mailboxes(Vec<Mailbox>);

thread_local! {
    /// Which worker this thread is: it need not wake itself.
    static WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Mailbox {
    pub(super) fn new(waker: Waker) -> Self {
        Self { mail: Mutex::default(), pending: AtomicBool::new(false), waker }
    }

    /// Whether something is there.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Takes everything, in order. `into` is empty, and its memory is used for what comes next.
    pub(super) fn take(&self, into: &mut Vec<Mail>) {
        if self.pending.swap(false, Ordering::SeqCst) {
            let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *mail, into);
        }
    }
}

impl Mailboxes {
    pub(super) fn new(boxes: Vec<Mailbox>) -> Self {
        Self(boxes)
    }

    /// This thread is that worker from now on.
    pub(super) fn enter(worker: usize) {
        WORKER.set(Some(worker));
    }

    pub(super) fn of(&self, worker: usize) -> &Mailbox {
        &self.0[worker]
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn post(&self, worker: usize, mail: Mail) {
        let Some(mailbox) = self.0.get(worker) else { return };
        mailbox.mail.lock().unwrap_or_else(PoisonError::into_inner).push(mail);
        if !mailbox.pending.swap(true, Ordering::SeqCst) && WORKER.get() != Some(worker) {
            // Fails where the worker's epoll is gone, and then nobody reads the mail either.
            let _ = mailbox.waker.wake();
        }
    }

    /// Has a worker take a turn, unless it will anyway.
    fn post_once(&self, worker: usize) {
        let Some(mailbox) = self.0.get(worker) else { return };
        if !mailbox.pending.swap(true, Ordering::SeqCst) {
            let _ = mailbox.waker.wake();
        }
    }

    pub(super) fn post_all(&self, mut mail: impl FnMut() -> Mail) {
        for worker in 0..self.count() {
            self.post(worker, mail());
        }
    }
}

impl Post for Mailboxes {
    fn grant(&self, grant: Grant) {
        self.post(usize::from(grant.waiter.worker), Mail::Grant(grant));
    }

    fn has_others(&self) -> bool {
        self.count() > 1
    }

    fn look(&self, worker: u16) {
        for other in (0..self.count()).filter(|other| *other != usize::from(worker)) {
            self.post_once(other);
        }
    }
}
