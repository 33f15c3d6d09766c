//! Everything that the proxies have counted, added up over their lives, and what they say of now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use decurion_api::DeploymentName;
use decurion_ipc::stats::{Counts, ProxyStats, TrafficKey};

use crate::reconcile::ProxyInstance;

/// The sums of all proxies of this supervisor's life. Counts only grow, until a deployment or version that is gone is
/// forgotten.
#[derive(Clone, Debug, Default)]
pub struct TrafficLog {
    totals: BTreeMap<TrafficKey, Totals>,
    /// What each proxy that lives says of now.
    now: BTreeMap<ProxyInstance, Levels>,
    /// Connections taken.
    pub accepted: u64,
    /// Connections turned away.
    pub refused: u64,
}

/// Of one deployment and version.
#[derive(Clone, Debug)]
pub struct Totals {
    /// The sums.
    pub counts: Counts,
    /// When something was added last.
    pub changed_at: Instant,
}

#[derive(Clone, Debug, Default)]
struct Levels {
    waiting: BTreeMap<DeploymentName, u32>,
    connections: u64,
}

/// How long the counts of what is gone are kept, so that whoever collects them sees the last ones.
const KEPT: Duration = Duration::from_secs(300);

impl TrafficLog {
    /// Takes what a proxy tells.
    pub fn take(&mut self, proxy: ProxyInstance, stats: ProxyStats, now: Instant) {
        for traffic in stats.traffic {
            let new = || Totals { counts: Counts::default(), changed_at: now };
            let totals = self.totals.entry(traffic.key).or_insert_with(new);
            totals.counts.merge(&traffic.counts);
            totals.changed_at = now;
        }
        self.accepted += stats.connections.accepted;
        self.refused += stats.connections.refused;
        let levels = self.now.entry(proxy).or_default();
        levels.connections = stats.connections.open;
        for (name, count) in stats.waiting {
            match count {
                0 => levels.waiting.remove(&name),
                _ => levels.waiting.insert(name, count),
            };
        }
    }

    /// A proxy is gone, and with it what it held.
    pub fn proxy_ended(&mut self, proxy: ProxyInstance) {
        self.now.remove(&proxy);
    }

    /// Requests that wait for a replica of a deployment, in all proxies.
    #[must_use]
    pub fn waiting(&self, deployment: &DeploymentName) -> u64 {
        self.now
            .values()
            .filter_map(|levels| levels.waiting.get(deployment))
            .map(|count| u64::from(*count))
            .sum()
    }

    /// Connections that are open, in all proxies.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.now.values().map(|levels| levels.connections).sum()
    }

    /// Deployments and versions that it has counts of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.totals.len()
    }

    /// Whether it has counts of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.totals.is_empty()
    }

    /// All sums, by deployment and version.
    pub fn totals(&self) -> impl Iterator<Item = (&TrafficKey, &Totals)> {
        self.totals.iter()
    }

    /// The sums of one deployment, by version; the empty version: what no replica was given.
    pub fn of<'t>(&'t self, deployment: &'t DeploymentName) -> impl Iterator<Item = (&'t str, &'t Counts)> {
        let own = self.totals.iter().filter(move |(key, _)| key.deployment.as_ref() == Some(deployment));
        own.map(|(key, totals)| (key.version.as_str(), &totals.counts))
    }

    /// Forgets what has been quiet for long and does not exist any more; `exists` says what does.
    pub fn forget(&mut self, exists: &BTreeSet<TrafficKey>, now: Instant) {
        self.totals.retain(|key, totals| {
            key.deployment.is_none()
                || exists.contains(key)
                || now.saturating_duration_since(totals.changed_at) < KEPT
        });
    }
}

#[cfg(test)]
mod tests {
    use decurion_ipc::stats::{Connections, Traffic};

    use super::*;
    use crate::reconcile::world::moment;

    fn name(name: &str) -> DeploymentName {
        DeploymentName::new(name).unwrap()
    }

    fn key(deployment: &str, version: &str) -> TrafficKey {
        TrafficKey { deployment: Some(name(deployment)), version: version.to_owned() }
    }

    fn stats(key: TrafficKey, status: u16, waiting: u32) -> ProxyStats {
        let mut counts = Counts::default();
        counts.count_status(status);
        let waiting = key.deployment.clone().map(|name| (name, waiting)).into_iter().collect();
        let connections = Connections { open: 2, accepted: 3, refused: 1 };
        ProxyStats { traffic: vec![Traffic { key, counts }], waiting, in_flight: Vec::new(), connections }
    }

    #[test]
    fn counts_outlive_proxies_and_levels_do_not() {
        let (mut log, now) = (TrafficLog::default(), moment());
        let (old, new) = (ProxyInstance(1), ProxyInstance(2));
        log.take(old, stats(key("a", "1"), 200, 4), now);
        log.take(new, stats(key("a", "1"), 500, 1), now);
        assert_eq!((log.waiting(&name("a")), log.connections()), (5, 4));
        log.proxy_ended(old);
        assert_eq!((log.waiting(&name("a")), log.connections()), (1, 2));
        let a = name("a");
        let all: Vec<_> = log.of(&a).map(|(version, counts)| (version, counts.requests())).collect();
        assert_eq!(all, [("1", 2)]);
        assert_eq!((log.accepted, log.refused), (6, 2));
    }

    #[test]
    fn what_is_gone_is_forgotten_after_a_while() {
        let (mut log, now) = (TrafficLog::default(), moment());
        for key in [key("a", "1"), key("a", "2"), TrafficKey::default()] {
            log.take(ProxyInstance(1), stats(key, 200, 0), now);
        }
        let exists = BTreeSet::from([key("a", "2")]);
        log.forget(&exists, now + KEPT / 2);
        assert_eq!(log.totals().count(), 3);
        log.forget(&exists, now + KEPT);
        let kept: Vec<TrafficKey> = log.totals().map(|(key, _)| key.clone()).collect();
        assert_eq!(kept, [TrafficKey::default(), key("a", "2")]);
    }
}
