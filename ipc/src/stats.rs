//! What a proxy has counted, as it tells the supervisor: what was added since the last time, and levels as they are.

use decurion_api::{DeploymentName, Histogram};
use serde::{Deserialize, Serialize};

/// One report. Each thing that is counted stands in exactly one report; what waits to be sent is added up meanwhile,
/// so nothing is lost while the proxy lives. What it has not sent when it dies is lost: a second's worth, at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProxyStats {
    /// Requests answered since the last report, where there were some.
    pub traffic: Vec<Traffic>,
    /// Requests that wait for a replica now, for each deployment where the number is another than it was.
    pub waiting: Vec<(DeploymentName, u32)>,
    /// Requests that are with a replica now, taken by it or not, likewise.
    pub in_flight: Vec<(DeploymentName, u32)>,
    /// Clients' connections.
    pub connections: Connections,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrafficKey {
    /// The deployment that they were routed to; `None`: there was none, and the proxy answered.
    pub deployment: Option<DeploymentName>,
    /// The version of the replica that had them last; empty: none had.
    pub version: String,
}

/// Requests of one deployment and version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Whose.
    pub key: TrafficKey,
    /// How many.
    pub counts: Counts,
}

/// How many requests ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests by the status that was sent; 499: the client left before there was one. Each request is counted
    /// once, under one status.
    pub statuses: Vec<(u16, u64)>,
    /// Those among them whose answer broke off after its head.
    pub cut: u64,
    /// Times that a request was sent to another replica because one was lost or refused it.
    pub retries: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// From a request's head to its answer's end; one for each request.
    pub duration: Histogram,
    /// What requests waited for a replica's place; one for each request that a replica was given.
    pub queue: Histogram,
    /// From there to the replica's last byte; one for each request that a replica has answered.
    pub handler: Histogram,
}

/// Clients' connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// Taken since the last report.
    pub accepted: u64,
    /// Turned away since the last report, because there were too many, or no descriptors.
    pub refused: u64,
}

/// Entries of one report, at most, where one of more than 50 statuses stands for several: what is over is sent in another.
pub const TRAFFIC_MAX: usize = 40;
/// Numbers of requests in flight that stand beside traffic, at most: more have a report of their own.
pub const IN_FLIGHT_BESIDE_MAX: usize = 100;

impl Counts {
    /// Counts one request under a status.
    pub fn count_status(&mut self, status: u16) {
        self.add_status(status, 1);
    }

    /// Requests, over all statuses.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.statuses.iter().map(|(_, count)| count).sum()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.statuses.is_empty() && self.retries == 0
    }

    /// Adds what another one holds.
    pub fn merge(&mut self, other: &Counts) {
        for (status, count) in &other.statuses {
            self.add_status(*status, *count);
        }
        self.cut += other.cut;
        self.retries += other.retries;
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.duration.merge(&other.duration);
        self.queue.merge(&other.queue);
        self.handler.merge(&other.handler);
    }

    fn add_status(&mut self, status: u16, more: u64) {
        // A handful in practice, and the most frequent one comes first as a rule.
        match self.statuses.iter_mut().find(|(held, _)| *held == status) {
            Some((_, count)) => *count += more,
            None => self.statuses.push((status, more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::control::ProxyReport;

    #[test]
    fn counts_add_up() {
        let mut counts = Counts::default();
        [200, 404, 200].into_iter().for_each(|status| counts.count_status(status));
        let mut sum = Counts { retries: 2, ..Counts::default() };
        sum.count_status(503);
        sum.merge(&counts);
        assert_eq!(sum.statuses, [(503, 1), (200, 2), (404, 1)]);
        assert_eq!((sum.requests(), sum.retries), (4, 2));
    }

    #[test]
    fn the_largest_report_that_is_sent_fits_a_message() {
        let name = DeploymentName::new("d".repeat(decurion_api::name::NAME_MAX)).unwrap();
        let key = TrafficKey {
            deployment: Some(name.clone()),
            version: "v".repeat(decurion_api::limits::VERSION_MAX),
        };
        let counts =
            Counts { statuses: (200..250).map(|status| (status, u64::MAX)).collect(), ..Counts::default() };
        let traffic = vec![Traffic { key, counts }; TRAFFIC_MAX];
        let waiting = vec![(name, 1); decurion_api::limits::DEPLOYMENTS_MAX];
        let (all, beside) = (waiting.clone(), waiting[..IN_FLIGHT_BESIDE_MAX].to_vec());
        let connections = Connections::default();
        let beside = ProxyStats { traffic, waiting, in_flight: beside, connections };
        let alone = ProxyStats { in_flight: all, ..ProxyStats::default() };
        for stats in [beside, alone] {
            codec::encode(&ProxyReport::Stats(stats)).unwrap();
        }
    }
}
