//! Adds up what the workers have counted until it is sent: pure, and bounded by deployments and versions.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use decurion_api::DeploymentName;
use decurion_ipc::stats::{
    Connections, Counts, IN_FLIGHT_BESIDE_MAX, ProxyStats, TRAFFIC_MAX, Traffic, TrafficKey,
};

/// All workers' counts that are still to be sent.
#[derive(Debug, Default)]
pub struct Gathered {
    traffic: BTreeMap<TrafficKey, Counts>,
    /// As the supervisor knows it; zeros are left out.
    waiting: Levels,
    in_flight: Levels,
    /// Whoever asks is told all levels, for it may be somebody else who asks.
    asked: bool,
    due: Option<Instant>,
    sent_at: Option<Instant>,
}

/// A number for each deployment.
type Levels = HashMap<DeploymentName, u32>;

/// How much there is to do for one deployment.
#[derive(Clone, Debug)]
pub struct Level {
    /// Which.
    pub name: DeploymentName,
    /// Requests that wait for a replica.
    pub waiting: u32,
    /// Requests that are with one.
    pub in_flight: u32,
}

/// What workers tell at the same instant is sent together.
const GATHER: Duration = Duration::from_millis(50);
/// Statuses in an entry that stand for one entry more.
const STATUSES_EACH: usize = 50;

impl Gathered {
    /// Takes what a worker has counted.
    pub fn add(&mut self, traffic: Vec<Traffic>, now: Instant) {
        for Traffic { key, counts } in traffic {
            self.traffic.entry(key).or_default().merge(&counts);
        }
        self.due.get_or_insert(now + GATHER);
    }

    /// Somebody has to know at once; no more often than they can be told together.
    pub fn hurry(&mut self, now: Instant) {
        let at = self.sent_at.map_or(now, |sent_at| sent_at + GATHER).max(now);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// All levels are to be told, not only those that are others.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// There is nobody to send to: looks again at that time.
    pub fn postpone(&mut self, until: Instant) {
        self.due = Some(until);
    }

    /// Somebody is there now who knows nothing yet.
    pub fn begin_anew(&mut self, now: Instant) {
        self.ask();
        self.hurry(now);
    }

    /// When something is to be sent.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be sent, in reports that each fit a message. `levels`: how much there is to do, now.
    #[must_use]
    pub fn take(
        &mut self,
        levels: impl Iterator<Item = Level>,
        connections: Connections,
        now: Instant,
    ) -> Vec<ProxyStats> {
        self.due = None;
        self.sent_at = Some(now);
        let (mut waiting, mut in_flight) = (Vec::new(), Vec::new());
        for Level { name, waiting: waits, in_flight: flies } in levels {
            in_flight.push((name.clone(), flies));
            waiting.push((name, waits));
        }
        let all = std::mem::take(&mut self.asked);
        let waiting = changed(&mut self.waiting, waiting, all);
        let in_flight = changed(&mut self.in_flight, in_flight, all);
        let mut reports = Vec::new();
        let beside = if in_flight.len() > IN_FLIGHT_BESIDE_MAX {
            let open = Connections { open: connections.open, ..Connections::default() };
            reports.push(ProxyStats { in_flight, connections: open, ..ProxyStats::default() });
            Vec::new()
        } else {
            in_flight
        };
        reports.push(ProxyStats { traffic: Vec::new(), waiting, in_flight: beside, connections });
        let mut room = TRAFFIC_MAX;
        for (key, counts) in std::mem::take(&mut self.traffic) {
            let size = 1 + counts.statuses.len() / STATUSES_EACH;
            if size > room {
                let connections = Connections { open: connections.open, ..Connections::default() };
                reports.push(ProxyStats { connections, ..ProxyStats::default() });
                room = TRAFFIC_MAX;
            }
            room = room.saturating_sub(size);
            if let Some(report) = reports.last_mut() {
                report.traffic.push(Traffic { key, counts });
            }
        }
        reports
    }

    /// Takes a report back that could not be sent, to try again; gives back what others keep: its connections.
    pub fn put_back(&mut self, report: ProxyStats, now: Instant) -> Connections {
        for (name, _) in report.waiting {
            // Whatever it is then, it is told.
            self.waiting.insert(name, u32::MAX);
        }
        for (name, _) in report.in_flight {
            self.in_flight.insert(name, u32::MAX);
        }
        self.add(report.traffic, now);
        report.connections
    }
}

/// Those that are other than they are known to be, which they are from now on; `all`: and those that are not zero.
fn changed(known: &mut Levels, now: Vec<(DeploymentName, u32)>, all: bool) -> Vec<(DeploymentName, u32)> {
    let before = std::mem::take(known);
    let mut changed = Vec::new();
    for (name, count) in now {
        if before.get(&name).copied().unwrap_or(0) != count || (all && count > 0) {
            changed.push((name.clone(), count));
        }
        if count > 0 {
            known.insert(name, count);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(version: &str, statuses: &[(u16, u64)]) -> Traffic {
        let deployment = Some(DeploymentName::new("a").unwrap());
        let key = TrafficKey { deployment, version: version.to_owned() };
        Traffic { key, counts: Counts { statuses: statuses.to_vec(), ..Counts::default() } }
    }

    /// Some moment to reckon from.
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had in no other way")]
    fn moment() -> Instant {
        Instant::now()
    }

    fn waits(count: u32) -> impl Iterator<Item = Level> {
        std::iter::once(Level { name: DeploymentName::new("a").unwrap(), waiting: count, in_flight: count })
    }

    #[test]
    fn workers_are_added_up_and_sent_once() {
        let (mut gathered, now) = (Gathered::default(), moment());
        assert_eq!(gathered.due(), None);
        gathered.add(vec![traffic("1", &[(200, 2)])], now);
        gathered.add(vec![traffic("1", &[(200, 3), (404, 1)])], now);
        assert_eq!(gathered.due(), Some(now + GATHER));
        let sent = gathered.take(waits(0), Connections::default(), now);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].traffic, [traffic("1", &[(200, 5), (404, 1)])]);
        assert_eq!(gathered.due(), None);
        assert_eq!(gathered.take(waits(0), Connections::default(), now)[0].traffic, []);
    }

    #[test]
    fn waiting_is_told_when_it_changes() {
        let (mut gathered, now) = (Gathered::default(), moment());
        let told = |gathered: &mut Gathered, count| {
            gathered.take(waits(count), Connections::default(), now)[0]
                .waiting
                .first()
                .map(|(_, count)| *count)
        };
        assert_eq!(
            [3, 3, 4, 0, 0].map(|count| told(&mut gathered, count)),
            [Some(3), None, Some(4), Some(0), None]
        );
        assert_eq!(told(&mut gathered, 2), Some(2));
        let waiting = vec![(DeploymentName::new("a").unwrap(), 2)];
        let sent = ProxyStats { waiting, ..ProxyStats::default() };
        let _ = gathered.put_back(sent, now);
        assert_eq!(told(&mut gathered, 2), Some(2), "it was not sent");
        assert_eq!(told(&mut gathered, 2), None);
        gathered.ask();
        assert_eq!(told(&mut gathered, 2), Some(2), "whoever asks is told");
    }

    #[test]
    fn a_hurry_is_told_at_once_but_not_without_end() {
        let (mut gathered, now) = (Gathered::default(), moment());
        gathered.hurry(now);
        assert_eq!(gathered.due(), Some(now));
        let _ = gathered.take(waits(1), Connections::default(), now);
        gathered.hurry(now);
        assert_eq!(gathered.due(), Some(now + GATHER));
    }

    #[test]
    fn what_could_not_be_sent_is_kept_and_what_is_large_is_cut() {
        let (mut gathered, now) = (Gathered::default(), moment());
        let all: Vec<Traffic> = (0..200).map(|n| traffic(&n.to_string(), &[(200, n + 1)])).collect();
        gathered.add(all, now);
        let sent = gathered.take(waits(0), Connections { open: 1, accepted: 2, refused: 3 }, now);
        assert_eq!(sent.len(), 200usize.div_ceil(TRAFFIC_MAX));
        assert!(sent[1..].iter().all(|report| report.connections.accepted == 0));
        for report in sent {
            let _ = gathered.put_back(report, now);
        }
        let again = gathered.take(waits(0), Connections::default(), now);
        let sum: u64 = again.iter().flat_map(|report| &report.traffic).map(|t| t.counts.requests()).sum();
        assert_eq!(sum, (1..=200).sum::<u64>());
    }
}
