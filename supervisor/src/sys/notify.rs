//! Words to the service manager, where there is one.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// What the service manager was told.
#[derive(Debug)]
pub(crate) struct Notify {
    wanted: bool,
    watchdog: Option<Duration>,
    watchdog_at: Option<Instant>,
    ready: bool,
    stopping: bool,
    words: String,
}

impl Notify {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NOTIFY_SOCKET").is_some();
        let watchdog = if wanted { sd_notify::watchdog_enabled().map(|period| period / 2) } else { None };
        Self { wanted, watchdog, watchdog_at: None, ready: false, stopping: false, words: String::new() }
    }

    /// Whether anybody listens.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// When to tell that we live.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.watchdog_at
    }

    /// Tells what is new.
    pub(crate) fn tell(&mut self, ready: bool, stopping: bool, words: String, now: Instant) {
        let mut news = Vec::new();
        if ready && !self.ready {
            self.ready = true;
            news.push(NotifyState::Ready);
        }
        if stopping && !self.stopping {
            self.stopping = true;
            news.push(NotifyState::Stopping);
        }
        if words != self.words {
            self.words.clone_from(&words);
            news.push(NotifyState::Status(&words));
        }
        if let Some(period) = self.watchdog
            && self.watchdog_at.is_none_or(|at| at <= now)
        {
            self.watchdog_at = Some(now + period);
            news.push(NotifyState::Watchdog);
        }
        if !news.is_empty() {
            // A service manager that is gone is no reason to stop.
            let _ = sd_notify::notify(&news);
        }
    }
}
