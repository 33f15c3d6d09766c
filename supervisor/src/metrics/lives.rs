//! How replicas begin and end, counted from the facts that the reconciler is told as well.

use std::collections::{BTreeMap, VecDeque};

use decurion_api::{DeploymentName, ReplicaId};

use crate::reconcile::{Exit, Fact, Observed, Why};

/// Counts by deployment.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    /// Replicas started.
    pub starts: BTreeMap<DeploymentName, u64>,
    /// Replicas ended, by why and by how: an exit code, or a signal's number.
    pub ends: BTreeMap<(DeploymentName, &'static str, String), u64>,
    /// Health checks that were answered with a failure.
    pub health_failures: BTreeMap<DeploymentName, u64>,
    /// Breaches of the data plane's rules, by the replica that did it.
    pub faults: ByOffender,
    /// Replicas that a caller with handles has cut off for such a breach, in the caller's words.
    pub cut_off: ByOffender,
    /// What was said of a replica before it ended.
    causes: BTreeMap<ReplicaId, &'static str>,
}

/// Counts by who has done it.
#[derive(Clone, Debug, Default)]
pub struct ByOffender {
    /// Without a replica: older offenders.
    pub counts: BTreeMap<(DeploymentName, Option<ReplicaId>), u64>,
    /// The offenders that have a count of their own, oldest first.
    offenders: VecDeque<(DeploymentName, ReplicaId)>,
}

/// Offenders that have a count of their own; older ones are counted together.
const OFFENDERS_MAX: usize = 100;

impl Lives {
    /// Takes a fact, before the reconciler does.
    pub fn note(&mut self, fact: &Fact, observed: &Observed) {
        let of =
            |replica: &ReplicaId| observed.replicas.get(replica).map(|replica| replica.deployment.clone());
        match fact {
            Fact::Spawned { replica, .. } => {
                if let Some(deployment) = of(replica) {
                    *self.starts.entry(deployment).or_default() += 1;
                }
            }
            Fact::SpawnFailed { replica, .. } => {
                if let Some(deployment) = of(replica) {
                    self.end(deployment, "spawn", String::new());
                }
            }
            Fact::Health { replica, result: Err(_), .. } => {
                if let Some(deployment) = of(replica) {
                    *self.health_failures.entry(deployment).or_default() += 1;
                }
            }
            Fact::Fault { replica, .. } => {
                if let Some(deployment) = of(replica) {
                    self.faults.count(deployment, replica);
                }
                self.causes.insert(replica.clone(), "fault");
            }
            Fact::CutOff { caller, replica, .. } => {
                let caller = observed.callers.all.get(caller);
                if let Some(deployment) = of(replica)
                    && caller.is_some_and(|caller| caller.is_joined(replica))
                {
                    self.cut_off.count(deployment, replica);
                }
            }
            Fact::StartFailed { replica, .. } => _ = self.causes.insert(replica.clone(), "start"),
            Fact::Deaf { replica } => _ = self.causes.insert(replica.clone(), "deaf"),
            Fact::Exited { replica, exit, .. } => {
                let cause = self.causes.remove(replica);
                let Some(replica) = observed.replicas.get(replica) else { return };
                let (kind, how) = match exit {
                    Exit::Code(code) => ("exit", code.to_string()),
                    Exit::Signal(signal) => ("signal", signal.to_string()),
                    Exit::OutOfMemory => ("oom", "9".to_owned()),
                    Exit::Unknown => ("unknown", String::new()),
                };
                let reason =
                    replica.leaving_why().map_or_else(|| cause.unwrap_or(kind), |why| reason(why, cause));
                self.end(replica.deployment.clone(), reason, how);
            }
            _ => {}
        }
    }

    /// Forgets deployments that are not there any more.
    pub fn forget(&mut self, observed: &Observed) {
        let exists = |name: &DeploymentName| observed.deployments.contains_key(name);
        self.starts.retain(|name, _| exists(name));
        self.ends.retain(|(name, ..), _| exists(name));
        self.health_failures.retain(|name, _| exists(name));
        self.faults.retain(exists);
        self.cut_off.retain(exists);
        self.causes.retain(|replica, _| observed.replicas.contains_key(replica));
    }

    fn end(&mut self, deployment: DeploymentName, reason: &'static str, how: String) {
        *self.ends.entry((deployment, reason, how)).or_default() += 1;
    }
}

impl ByOffender {
    fn count(&mut self, deployment: DeploymentName, replica: &ReplicaId) {
        let key = (deployment.clone(), Some(replica.clone()));
        if !self.counts.contains_key(&key) {
            self.offenders.push_back((deployment, replica.clone()));
        }
        *self.counts.entry(key).or_default() += 1;
        if self.offenders.len() > OFFENDERS_MAX
            && let Some((deployment, replica)) = self.offenders.pop_front()
        {
            let count = self.counts.remove(&(deployment.clone(), Some(replica))).unwrap_or(0);
            *self.counts.entry((deployment, None)).or_default() += count;
        }
    }

    fn retain(&mut self, exists: impl Fn(&DeploymentName) -> bool) {
        self.counts.retain(|(name, _), _| exists(name));
        self.offenders.retain(|(name, _)| exists(name));
    }
}

/// Why a replica goes that was on its way out: what was told of it, else what its reason's words are about.
fn reason(why: &Why, cause: Option<&'static str>) -> &'static str {
    match why {
        Why::Update | Why::Room(_) => "update",
        Why::Scale => "scale",
        Why::Recycle(_) => "recycle",
        Why::Delete => "delete",
        Why::Shutdown => "shutdown",
        Why::Failed(_) if cause.is_some() => cause.unwrap_or("failed"),
        Why::Failed(how) if how.contains("resources.memory") => "memory",
        Why::Failed(how) if how.contains("health check") => "health",
        Why::Failed(how) if how.contains("after its deadline") => "stuck",
        Why::Failed(how) if how.contains("no sign of life") => "hung",
        Why::Failed(how) if how.contains("startup_timeout_s") => "timeout",
        Why::Failed(how) if how.contains("link") || how.contains("reached") => "lost",
        Why::Failed(_) => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_was_told_or_what_its_words_are_about() {
        let failed = |how: &str| Why::Failed(how.to_owned());
        let cases = [
            (Why::Update, None, "update"),
            (Why::Scale, Some("fault"), "scale"),
            (failed("broke the rules of the data plane: a bad slot"), Some("fault"), "fault"),
            (failed("used 2 MiB of memory, and may have 1 MiB (resources.memory)"), None, "memory"),
            (failed("failed its health check 3 times in a row: no"), None, "health"),
            (failed("gave no answer to 3 health checks in a row"), None, "health"),
            (failed("hung: no sign of life for 10 s"), None, "hung"),
            (failed("was not ready within 300 s (startup_timeout_s)"), None, "timeout"),
            (failed("lost its control link: broken"), None, "lost"),
            (failed("something else"), None, "failed"),
        ];
        for (why, cause, wanted) in cases {
            assert_eq!(reason(&why, cause), wanted, "{why:?}");
        }
    }

    #[test]
    fn old_offenders_are_counted_together() {
        let mut faults = ByOffender::default();
        let name = DeploymentName::new("a").unwrap();
        for number in 0..150 {
            let replica = ReplicaId::numbered(&name, number);
            faults.count(name.clone(), &replica);
            faults.count(name.clone(), &replica);
        }
        assert_eq!(faults.counts.len(), OFFENDERS_MAX + 1);
        assert_eq!(faults.counts[&(name, None)], 100);
        assert_eq!(faults.counts.values().sum::<u64>(), 300);
    }
}
