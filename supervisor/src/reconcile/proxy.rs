//! The proxy's processes: the one that is wanted, and those that finish what they have.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use decurion_api::spec::HttpSpec;

use crate::reconcile::backoff::{self, DELAY_MAX};
use crate::reconcile::fact::ProxyInstance;
use crate::reconcile::liveness::Liveness;

/// Every proxy that has a process, or is to get one.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// By start; the last one is the newest.
    pub all: BTreeMap<ProxyInstance, Proxy>,
    /// Of the newest start.
    pub newest: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Failures in sum.
    pub restarts: u64,
    /// Before this none is started.
    pub next_start: Option<Instant>,
    /// Counts up with each change of the certificates.
    pub certificates: u64,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its process id, once it is known.
    pub pid: Option<i32>,
    /// When its start was ordered.
    pub spawned_at: Instant,
    /// The settings it was given last.
    pub settings: HttpSpec,
    /// The certificates it was given last; `None`: by a supervisor before us.
    pub certificates: Option<u64>,
    /// What it was given last and has not acknowledged.
    pub configuring: Option<u64>,
    /// Where in its life it is.
    pub phase: ProxyPhase,
    /// It was told to take connections.
    pub listening: bool,
    /// It runs another program than one that was started now would, and is to be replaced.
    pub outdated: bool,
    /// Whether it gives signs of life.
    pub liveness: Liveness,
    /// It gives none any more.
    pub hung: bool,
}

/// Where in its life a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyPhase {
    /// Can't take orders yet.
    Starting,
    /// Serves.
    Running,
    /// Takes no new connections, and has until then.
    Draining(Instant),
    /// Killed; its end is to be seen yet.
    Killed,
}

/// What a proxy has to say its first word.
pub const PROXY_START_MAX: Duration = Duration::from_secs(30);
/// What a proxy has to acknowledge a view, before it counts as hung.
pub const PROXY_ANSWER_MAX: Duration = Duration::from_secs(30);

impl Proxy {
    /// Whether it serves, or is about to.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.phase, ProxyPhase::Starting | ProxyPhase::Running)
    }

    /// Whether it can go over to these settings without another process.
    #[must_use]
    pub fn can_take(&self, settings: &HttpSpec) -> bool {
        !self.outdated && self.settings.listen == settings.listen && self.settings.workers == settings.workers
    }
}

impl Proxies {
    /// The newest one that serves, or is about to.
    #[must_use]
    pub fn current(&self) -> Option<(ProxyInstance, &Proxy)> {
        self.all.iter().rev().find(|(_, proxy)| proxy.is_active()).map(|(instance, proxy)| (*instance, proxy))
    }

    pub(super) fn note_spawn(&mut self, instance: ProxyInstance, settings: &HttpSpec, now: Instant) {
        self.newest = instance.0;
        let (settings, certificates) = (settings.clone(), Some(self.certificates));
        self.all.insert(
            instance,
            Proxy {
                pid: None,
                spawned_at: now,
                settings,
                certificates,
                configuring: None,
                phase: ProxyPhase::Starting,
                listening: false,
                outdated: false,
                liveness: Liveness::of_proxy(now),
                hung: false,
            },
        );
    }

    pub(super) fn note_listen(&mut self, instance: ProxyInstance) {
        if let Some(proxy) = self.all.get_mut(&instance) {
            proxy.listening = true;
        }
    }

    pub(super) fn note_settings(&mut self, instance: ProxyInstance, settings: &HttpSpec, sequence: u64) {
        if let Some(proxy) = self.all.get_mut(&instance) {
            proxy.settings = settings.clone();
            proxy.certificates = Some(self.certificates);
            proxy.configuring = Some(sequence);
        }
    }

    /// Takes an acknowledgement of settings. Whether it is that of the newest.
    pub(super) fn configured(&mut self, instance: ProxyInstance, sequence: u64) -> bool {
        let proxy = self.all.get_mut(&instance);
        proxy.is_some_and(|proxy| proxy.configuring.take_if(|asked| *asked == sequence).is_some())
    }

    /// Whether a proxy was given these settings, and the newest certificates.
    #[must_use]
    pub fn has_been_given(&self, proxy: &Proxy, settings: &HttpSpec) -> bool {
        proxy.settings == *settings && proxy.certificates == Some(self.certificates)
    }

    pub(super) fn note_drain(&mut self, instance: ProxyInstance, until: Instant) {
        if let Some(proxy) = self.all.get_mut(&instance) {
            proxy.phase = ProxyPhase::Draining(until);
        }
    }

    pub(super) fn note_probe(&mut self, instance: ProxyInstance, sequence: u64, now: Instant) {
        if let Some(proxy) = self.all.get_mut(&instance) {
            proxy.liveness.probed(sequence, now);
        }
    }

    pub(super) fn note_kill(&mut self, instance: ProxyInstance, now: Instant) {
        if let Some(proxy) = self.all.get_mut(&instance) {
            if proxy.is_active() {
                let life = now.duration_since(proxy.spawned_at);
                self.failures = backoff::failures_after(self.failures, life);
            }
            proxy.phase = ProxyPhase::Killed;
        }
    }

    /// Takes the end of one. Whether it was against our will.
    pub(super) fn ended(&mut self, instance: ProxyInstance, now: Instant) -> bool {
        let Some(proxy) = self.all.remove(&instance) else { return false };
        match proxy.phase {
            ProxyPhase::Draining(_) => return false,
            ProxyPhase::Killed => {}
            ProxyPhase::Starting | ProxyPhase::Running => {
                let life = now.duration_since(proxy.spawned_at);
                self.failures = backoff::failures_after(self.failures, life);
            }
        }
        self.restarts += 1;
        self.next_start = Some(now + backoff::delay(self.failures, DELAY_MAX));
        true
    }
}
