//! Every metric there is, at one instant, and how it is written.

use std::collections::BTreeMap;
use std::time::Duration;

use decurion_api::status::{DeploymentState, DeploymentStatus, ReplicaState, RolloutOutcome, SystemStatus};
use decurion_api::{DeploymentName, Histogram, ReplicaId};
use decurion_ipc::stats::{Counts, TrafficKey};

use crate::metrics::lives::{ByOffender, Lives};
use crate::metrics::measured::{self, Measured};
use crate::metrics::text::{Family, Text};
use crate::metrics::traffic::TrafficLog;

/// What is shown.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What is.
    pub status: SystemStatus,
    /// What was sent and answered.
    pub traffic: TrafficLog,
    /// How replicas began and ended.
    pub lives: Lives,
    /// What processes have used.
    pub processes: Vec<ProcessUse>,
    /// What libraries measure.
    pub measured: BTreeMap<(DeploymentName, ReplicaId), Measured>,
}

/// What one process has used.
#[derive(Clone, Debug)]
pub struct ProcessUse {
    /// `supervisor`, `proxy` or `replica`.
    pub kind: &'static str,
    /// For a replica: of which deployment, and which.
    pub replica: Option<(DeploymentName, ReplicaId)>,
    /// CPU time, of user and system.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

const STATES: [ReplicaState; 5] = [
    ReplicaState::Starting,
    ReplicaState::Running,
    ReplicaState::Updating,
    ReplicaState::Draining,
    ReplicaState::Stopping,
];

const STATUSES: [DeploymentState; 7] = [
    DeploymentState::Updating,
    DeploymentState::Healthy,
    DeploymentState::Unhealthy,
    DeploymentState::Upscaling,
    DeploymentState::Downscaling,
    DeploymentState::DeployFailed,
    DeploymentState::Deleting,
];

const OUTCOMES: [(RolloutOutcome, &str); 4] = [
    (RolloutOutcome::InProgress, "in_progress"),
    (RolloutOutcome::Done, "done"),
    (RolloutOutcome::Failed, "failed"),
    (RolloutOutcome::RolledBack, "rolled_back"),
];

/// A counter of each deployment and version.
struct Counter {
    name: &'static str,
    help: &'static str,
    value: fn(&Counts) -> u64,
}

/// A histogram of each deployment and version.
struct Distribution {
    name: &'static str,
    help: &'static str,
    value: fn(&Counts) -> &Histogram,
}

const COUNTERS: &[Counter] = &[
    Counter {
        name: "decurion_http_responses_cut_total",
        help: "Requests among them whose answer broke off after its head.",
        value: |counts| counts.cut,
    },
    Counter {
        name: "decurion_http_request_retries_total",
        help: "Times that a request was sent to another replica because one was lost or did not take it.",
        value: |counts| counts.retries,
    },
    Counter {
        name: "decurion_http_request_body_bytes_total",
        help: "Bytes of request bodies.",
        value: |counts| counts.bytes_in,
    },
    Counter {
        name: "decurion_http_response_body_bytes_total",
        help: "Bytes of response bodies.",
        value: |counts| counts.bytes_out,
    },
];

const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "decurion_http_request_duration_seconds",
        help: "From a request's head to its answer's end; one for each request.",
        value: |counts| &counts.duration,
    },
    Distribution {
        name: "decurion_http_request_queue_seconds",
        help: "What requests waited for a replica's place; one for each that a replica was given.",
        value: |counts| &counts.queue,
    },
    Distribution {
        name: "decurion_http_request_handler_seconds",
        help: "From giving a request to a replica to its answer's end; one for each that a replica answered.",
        value: |counts| &counts.handler,
    },
];

/// A traffic key's labels, and its counts.
struct Row<'s> {
    labels: [(&'static str, &'s str); 3],
    counts: &'s Counts,
}

impl Snapshot {
    /// The Prometheus text of it.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Text::default();
        self.system(&mut text);
        self.requests(&mut text);
        self.connections(&mut text);
        self.deployments(&mut text);
        self.replicas(&mut text);
        self.lives(&mut text);
        self.processes(&mut text);
        measured::write(&mut text, &self.applications(), &self.measured);
        text.finish()
    }

    fn system(&self, text: &mut Text) {
        let status = &self.status;
        text.gauge("decurion_build_info", "1, with the supervisor's version as a label.")
            .sample(&[("version", &status.version)], 1);
        text.gauge("decurion_supervisor_uptime_seconds", "Seconds since the supervisor started.")
            .sample(&[], status.uptime_s);
        text.gauge("decurion_revision", "Revision of the desired state.").sample(&[], status.revision);
        text.gauge("decurion_proxy_ready", "1 while the proxy knows its routes and takes connections.")
            .sample(&[], u8::from(status.proxy.ready));
        text.counter("decurion_proxy_restarts_total", "Times that the proxy had to be started again.")
            .sample(&[], status.proxy.restarts);
    }

    fn applications(&self) -> BTreeMap<&DeploymentName, &str> {
        let all = self.status.deployments.iter();
        all.map(|deployment| (&deployment.name, deployment.application.as_str())).collect()
    }

    fn requests(&self, text: &mut Text) {
        let applications = self.applications();
        let rows: Vec<Row<'_>> =
            self.traffic.totals().map(|(key, totals)| row(&applications, key, &totals.counts)).collect();
        let mut family = text.counter(
            "decurion_http_requests_total",
            "HTTP requests answered, by the status that was sent. 499: the client left before there was an answer. \
             Without a deployment: answered by the proxy itself. Without a version: before a replica had it.",
        );
        for Row { labels: [application, deployment, version], counts } in &rows {
            let mut statuses = counts.statuses.clone();
            statuses.sort_unstable();
            for (status, count) in statuses {
                let status = status.to_string();
                family.sample(&[*application, *deployment, *version, ("status", &status)], count);
            }
        }
        for Counter { name, help, value } in COUNTERS {
            let mut family = text.counter(name, help);
            for row in &rows {
                family.sample(&row.labels, value(row.counts));
            }
        }
        for Distribution { name, help, value } in DISTRIBUTIONS {
            let mut family = text.histogram(name, help);
            for row in &rows {
                family.durations(&row.labels, value(row.counts));
            }
        }
    }

    fn connections(&self, text: &mut Text) {
        text.gauge("decurion_http_connections", "Clients' connections that are open.")
            .sample(&[], self.traffic.connections());
        text.counter("decurion_http_connections_accepted_total", "Clients' connections taken.")
            .sample(&[], self.traffic.accepted);
        text.counter(
            "decurion_http_connections_refused_total",
            "Clients' connections turned away because there were too many, or no descriptors.",
        )
        .sample(&[], self.traffic.refused);
    }

    fn deployments(&self, text: &mut Text) {
        let all = &self.status.deployments;
        let mut family = text.gauge("decurion_deployment_status", "1 for the status that a deployment has.");
        for deployment in all {
            let [application, name] = names(deployment);
            for status in STATUSES {
                let labels = [application, name, ("status", status.as_str())];
                family.sample(&labels, u8::from(status == deployment.status));
            }
        }
        let mut family = text
            .gauge("decurion_deployment_rollout", "1 for how a deployment's newest change goes, or went.");
        for deployment in all {
            let [application, name] = names(deployment);
            for (outcome, word) in OUTCOMES {
                let labels = [application, name, ("outcome", word)];
                family.sample(&labels, u8::from(outcome == deployment.rollout.outcome));
            }
        }
        let mut family = text.gauge("decurion_deployment_target_replicas", "Replicas wanted.");
        for deployment in all {
            family.sample(&names(deployment), deployment.target_replicas);
        }
        let mut family = text.gauge("decurion_deployment_replicas", "Replicas, by state and version.");
        for deployment in all {
            let [application, name] = names(deployment);
            let mut versions: Vec<&str> = deployment.replicas.iter().map(|r| r.version.as_str()).collect();
            versions.push(&deployment.version);
            versions.sort_unstable();
            versions.dedup();
            for (version, state) in versions.iter().flat_map(|version| STATES.map(|state| (version, state))) {
                let own = deployment.replicas.iter().filter(|r| r.version == **version && r.state == state);
                let labels = [application, name, ("version", *version), ("state", state.as_str())];
                family.sample(&labels, own.count());
            }
        }
        let mut family = text.gauge(
            "decurion_deployment_queued_requests",
            "HTTP requests that wait in the proxy for a replica of a deployment.",
        );
        for deployment in all {
            family.sample(&names(deployment), self.traffic.waiting(&deployment.name));
        }
    }

    fn replicas(&self, text: &mut Text) {
        let all: Vec<_> = self
            .status
            .deployments
            .iter()
            .flat_map(|deployment| deployment.replicas.iter().map(move |replica| (deployment, replica)))
            .collect();
        let mut family = text.gauge(
            "decurion_replica_ongoing_requests",
            "Requests that a replica is working on, those of handles included.",
        );
        for (deployment, replica) in &all {
            family.sample(&of_replica(deployment, replica.id.as_str()), replica.ongoing);
        }
        let mut family = text.counter(
            "decurion_replica_requests_total",
            "Requests that a replica has answered in its own words, those of handles included.",
        );
        for (deployment, replica) in &all {
            family.sample(&of_replica(deployment, replica.id.as_str()), replica.processed);
        }
        let mut family =
            text.gauge("decurion_replica_uptime_seconds", "Seconds since a replica was started.");
        for (deployment, replica) in &all {
            family.sample(&of_replica(deployment, replica.id.as_str()), replica.uptime_s);
        }
    }

    fn lives(&self, text: &mut Text) {
        let lives = &self.lives;
        let mut family = text.counter("decurion_deployment_replica_starts_total", "Replicas started.");
        for (name, count) in &lives.starts {
            family.sample(&[("deployment", name.as_str())], count);
        }
        let mut family = text.counter(
            "decurion_deployment_replica_ends_total",
            "Replicas ended, by why. `code`: the exit code, or the signal's number where the reason is `signal`.",
        );
        for ((name, reason, code), count) in &lives.ends {
            family.sample(&[("deployment", name.as_str()), ("reason", reason), ("code", code)], count);
        }
        let mut family =
            text.counter("decurion_health_check_failures_total", "Health checks that a replica failed.");
        for (name, count) in &lives.health_failures {
            family.sample(&[("deployment", name.as_str())], count);
        }
        let mut family = text.counter(
            "decurion_data_plane_faults_total",
            "Breaches of the data plane's rules, by the replica that did it; without one: by older offenders.",
        );
        by_offender(&mut family, &lives.faults);
        let mut family = text.counter(
            "decurion_handle_cut_offs_total",
            "Channels that a caller with handles cut off for such a breach, in its own words, by the replica called.",
        );
        by_offender(&mut family, &lives.cut_off);
    }

    fn processes(&self, text: &mut Text) {
        let mut family = text.counter("decurion_process_cpu_seconds_total", "CPU time of our processes.");
        for process in &self.processes {
            family.seconds(&of_process(process), process.cpu);
        }
        let mut family =
            text.gauge("decurion_process_resident_memory_bytes", "Resident memory of our processes.");
        for process in &self.processes {
            family.sample(&of_process(process), process.resident);
        }
    }
}

fn row<'s>(
    applications: &BTreeMap<&DeploymentName, &'s str>,
    key: &'s TrafficKey,
    counts: &'s Counts,
) -> Row<'s> {
    let application = key.deployment.as_ref().and_then(|name| applications.get(name)).copied();
    let deployment = key.deployment.as_ref().map_or("", |name| name.as_str());
    let labels = [
        ("application", application.unwrap_or_default()),
        ("deployment", deployment),
        ("version", key.version.as_str()),
    ];
    Row { labels, counts }
}

fn by_offender(family: &mut Family<'_, '_>, offences: &ByOffender) {
    for ((name, replica), count) in &offences.counts {
        let replica = replica.as_ref().map_or("", |replica| replica.as_str());
        family.sample(&[("deployment", name.as_str()), ("replica", replica)], count);
    }
}

fn names(deployment: &DeploymentStatus) -> [(&'static str, &str); 2] {
    [("application", deployment.application.as_str()), ("deployment", deployment.name.as_str())]
}

fn of_replica<'s>(deployment: &'s DeploymentStatus, replica: &'s str) -> [(&'static str, &'s str); 3] {
    let [application, name] = names(deployment);
    [application, name, ("replica", replica)]
}

fn of_process(process: &ProcessUse) -> [(&'static str, &str); 3] {
    let (deployment, replica) = match &process.replica {
        Some((deployment, replica)) => (deployment.as_str(), replica.as_str()),
        None => ("", ""),
    };
    [("process", process.kind), ("deployment", deployment), ("replica", replica)]
}
