//! What is waited for, and what each look at the deployments says about it. Pure.

use std::collections::HashSet;

use decurion_api::admin::{Applied, ChangeAction};
use decurion_api::status::{DeploymentState, DeploymentStatus, RolloutOutcome};
use decurion_api::{DeploymentName, ReplicaId};

/// Everything that one change is waited for.
#[derive(Debug)]
pub(super) struct Watch {
    items: Vec<Item>,
}

/// How the wait for one deployment ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// As it was asked for.
    Done,
    /// It stopped.
    Failed(Box<DeploymentStatus>),
    /// It stopped, and what was before is wanted again.
    RolledBack(Box<DeploymentStatus>),
    /// It waits for what has failed, and nothing but another change brings it further.
    Blocked(Box<DeploymentStatus>),
    /// A later change, of this revision, took its place.
    Superseded(u64),
    /// Somebody deleted it.
    Vanished,
}

/// Something to tell on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Ready(String),
    Failed(String),
    Gone(String),
}

#[derive(Debug)]
struct Item {
    name: DeploymentName,
    aim: Aim,
    /// Replicas that were there before, or of which it has been told.
    told: HashSet<ReplicaId>,
    ended: HashSet<ReplicaId>,
    pending: String,
    end: Option<End>,
    /// How it would end if it stayed as it is.
    blocked: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// The rollout of this revision, or of a later one.
    Rollout(u64),
    /// Whatever rollout there is: nothing was changed, and an earlier change may still be on its way.
    AnyRollout,
    /// That it is gone.
    Absence,
}

impl Watch {
    /// `before`: the deployments as they were before the change.
    pub(super) fn new(applied: &Applied, before: &[DeploymentStatus]) -> Self {
        let item = |change: &decurion_api::admin::Change| {
            let held = before.iter().find(|deployment| deployment.name == change.deployment);
            Item {
                name: change.deployment.clone(),
                aim: match change.action {
                    ChangeAction::Delete => Aim::Absence,
                    ChangeAction::Unchanged => Aim::AnyRollout,
                    // The form stays, and so does the revision that has it.
                    ChangeAction::Configure if change.fields == ["paused"] => Aim::AnyRollout,
                    _ => Aim::Rollout(applied.revision),
                },
                told: held.iter().flat_map(|held| &held.replicas).map(|replica| replica.id.clone()).collect(),
                ended: held.iter().flat_map(|held| &held.ended).map(|ended| ended.id.clone()).collect(),
                pending: format!("{} has not begun", change.deployment),
                end: None,
                blocked: None,
            }
        };
        Self { items: applied.changes.iter().map(item).collect() }
    }

    /// Takes in how the deployments are now.
    pub(super) fn look(&mut self, deployments: &[DeploymentStatus]) -> Vec<News> {
        let mut news = Vec::new();
        for item in self.items.iter_mut().filter(|item| item.end.is_none()) {
            let found = deployments.iter().find(|deployment| deployment.name == item.name);
            item.look(found, &mut news);
        }
        news
    }

    pub(super) fn is_settled(&self) -> bool {
        self.items.iter().all(|item| item.end().is_some())
    }

    pub(super) fn concerns(&self, name: &DeploymentName) -> bool {
        self.items.iter().any(|item| item.name == *name)
    }

    /// How each wait ended, of those that have.
    pub(super) fn ends(&self) -> impl Iterator<Item = (&DeploymentName, &End)> {
        self.items.iter().filter_map(|item| Some((&item.name, item.end()?)))
    }

    /// What is still waited for, in one line.
    pub(super) fn pending_words(&self) -> String {
        let open = self.items.iter().filter(|item| item.end.is_none());
        open.map(|item| item.pending.as_str()).collect::<Vec<_>>().join("; ")
    }
}

impl Item {
    fn end(&self) -> Option<&End> {
        self.end.as_ref().or(self.blocked.as_ref())
    }

    fn look(&mut self, found: Option<&DeploymentStatus>, news: &mut Vec<News>) {
        match (found, self.aim) {
            (None, Aim::Absence) => {
                news.push(News::Gone(format!("{} is gone", self.name)));
                self.end = Some(End::Done);
            }
            (Some(status), Aim::Absence) => {
                self.pending = format!("{}: {} to stop", self.name, replicas(status.replicas.len()));
            }
            // Not there yet, or not there any more.
            (None, Aim::Rollout(_)) if self.told.is_empty() && self.ended.is_empty() => {}
            (None, _) => self.end = Some(End::Vanished),
            (Some(status), Aim::Rollout(revision)) if status.rollout.revision < revision => {}
            (Some(status), _) => self.look_at_rollout(status, news),
        }
    }

    fn look_at_rollout(&mut self, status: &DeploymentStatus, news: &mut Vec<News>) {
        let rollout = &status.rollout;
        self.tell_failures(status, news);
        self.tell_ready(status, news);
        self.pending = format!("{}: {}/{} replicas", self.name, rollout.updated, status.target_replicas);
        if !rollout.message.is_empty() {
            self.pending = format!("{}, {}", self.pending, rollout.message);
        }
        self.blocked = rollout.blocked.then(|| End::Blocked(Box::new(status.clone())));
        self.end = match (self.aim, rollout.outcome) {
            (Aim::Rollout(revision), _) if rollout.revision > revision => {
                Some(End::Superseded(rollout.revision))
            }
            (_, RolloutOutcome::InProgress) => None,
            (_, RolloutOutcome::Done) => Some(End::Done),
            (_, RolloutOutcome::Failed) => Some(End::Failed(Box::new(status.clone()))),
            // What is asked for is what was put back, and only that can still be on its way.
            (Aim::AnyRollout, RolloutOutcome::RolledBack) => {
                (status.status == DeploymentState::Healthy).then_some(End::Done)
            }
            (_, RolloutOutcome::RolledBack) => Some(End::RolledBack(Box::new(status.clone()))),
        };
    }

    fn tell_failures(&mut self, status: &DeploymentStatus, news: &mut Vec<News>) {
        // They come newest first, and are told in the order in which they happened.
        for ended in status.ended.iter().rev().filter(|ended| ended.failed) {
            if self.ended.insert(ended.id.clone()) {
                let words =
                    format!("{}: replica {} (pid {}): {}", self.name, ended.id, ended.pid, ended.reason);
                news.push(News::Failed(words));
            }
        }
    }

    fn tell_ready(&mut self, status: &DeploymentStatus, news: &mut Vec<News>) {
        let updated = |replica: &&decurion_api::status::ReplicaStatus| {
            replica.state.can_serve() && replica.version == status.rollout.version
        };
        for replica in status.replicas.iter().filter(updated) {
            if self.told.insert(replica.id.clone()) {
                news.push(News::Ready(format!(
                    "{}: replica {} is ready (pid {})",
                    self.name, replica.id, replica.pid
                )));
            }
        }
    }
}

/// A number of replicas in words.
pub(super) fn replicas(count: usize) -> String {
    if count == 1 { "1 replica".to_owned() } else { format!("{count} replicas") }
}

#[cfg(test)]
mod tests {
    use decurion_api::admin::Change;
    use serde_json::{Value, json};

    use super::*;

    fn applied(action: ChangeAction) -> Applied {
        let change = Change {
            deployment: DeploymentName::new("m").unwrap(),
            action,
            fields: Vec::new(),
            steps: Vec::new(),
        };
        Applied { revision: 7, dry_run: false, changes: vec![change], warnings: Vec::new() }
    }

    fn status(outcome: &str, revision: u64, replicas: &[(&str, &str)], ended: &[&str]) -> DeploymentStatus {
        let replica = |(id, state): &(&str, &str)| {
            json!({ "id": id, "pid": 1, "state": state, "version": "v2", "ongoing": 0, "processed": 0,
                "restarts": 0, "uptime_s": 0, "rss_bytes": 0 })
        };
        let end = |id: &&str| {
            json!({ "id": id, "pid": 1, "version": "v2", "ended_at_ms": 0, "reason": "exited with code 1",
                "failed": true })
        };
        let rollout =
            json!({ "revision": revision, "version": "v2", "outcome": outcome, "updated": 0, "message": "" });
        let status = json!({ "name": "m", "application": "a", "status": "UPDATING", "message": "",
            "version": "v2", "revision": 7, "class": "C", "library": "", "route_prefix": null,
            "target_replicas": 2, "replicas": replicas.iter().map(replica).collect::<Value>(),
            "ended": ended.iter().map(end).collect::<Value>(), "rollout": rollout });
        serde_json::from_value(status).unwrap()
    }

    fn end_of(watch: &Watch) -> &End {
        watch.ends().next().expect("it has ended").1
    }

    #[test]
    fn each_new_replica_is_told_once_and_the_end_follows() {
        let before = [status("done", 3, &[("m-1", "RUNNING")], &["m-0"])];
        let mut watch = Watch::new(&applied(ChangeAction::Roll), &before);
        assert_eq!(watch.look(&before), []);
        let replicas = [("m-1", "DRAINING"), ("m-2", "RUNNING"), ("m-3", "STARTING")];
        let ready = News::Ready("m: replica m-2 is ready (pid 1)".to_owned());
        let now = [status("in_progress", 7, &replicas, &["m-0"])];
        assert_eq!(watch.look(&now), [ready]);
        assert_eq!(watch.look(&now), []);
        assert_eq!(watch.pending_words(), "m: 0/2 replicas");
        let ready = News::Ready("m: replica m-3 is ready (pid 1)".to_owned());
        assert_eq!(watch.look(&[status("done", 7, &[("m-3", "RUNNING")], &["m-0"])]), [ready]);
        assert_eq!(end_of(&watch), &End::Done);
    }

    #[test]
    fn failures_are_told_in_the_order_in_which_they_happened() {
        let mut watch = Watch::new(&applied(ChangeAction::Create), &[]);
        let now = status("rolled_back", 7, &[], &["m-2", "m-1"]);
        let failed = |id: &str| News::Failed(format!("m: replica {id} (pid 1): exited with code 1"));
        assert_eq!(watch.look(std::slice::from_ref(&now)), [failed("m-1"), failed("m-2")]);
        assert_eq!(end_of(&watch), &End::RolledBack(Box::new(now)));
    }

    #[test]
    fn the_outcome_of_an_earlier_change_does_not_count() {
        let mut watch = Watch::new(&applied(ChangeAction::Roll), &[]);
        watch.look(&[status("failed", 6, &[], &[])]);
        assert!(!watch.is_settled());
        watch.look(&[status("done", 8, &[], &[])]);
        assert_eq!(end_of(&watch), &End::Superseded(8));
    }

    #[test]
    fn what_waits_for_a_failure_is_waited_for_no_longer_unless_it_goes_on() {
        let mut watch = Watch::new(&applied(ChangeAction::Roll), &[]);
        let mut now = status("in_progress", 7, &[], &[]);
        now.rollout.blocked = true;
        watch.look(std::slice::from_ref(&now));
        assert!(watch.is_settled());
        assert_eq!(end_of(&watch), &End::Blocked(Box::new(now.clone())));
        now.rollout.blocked = false;
        watch.look(std::slice::from_ref(&now));
        assert!(!watch.is_settled());
    }

    #[test]
    fn an_unchanged_deployment_is_done_when_its_earlier_change_is() {
        let mut watch = Watch::new(&applied(ChangeAction::Unchanged), &[]);
        watch.look(&[status("in_progress", 3, &[], &[])]);
        assert!(!watch.is_settled());
        watch.look(&[status("done", 3, &[], &[])]);
        assert_eq!(end_of(&watch), &End::Done);
    }

    #[test]
    fn asking_for_what_was_put_back_is_no_failure() {
        let mut watch = Watch::new(&applied(ChangeAction::Unchanged), &[]);
        let mut now = status("rolled_back", 3, &[], &[]);
        watch.look(std::slice::from_ref(&now));
        assert!(!watch.is_settled());
        now.status = DeploymentState::Healthy;
        watch.look(std::slice::from_ref(&now));
        assert_eq!(end_of(&watch), &End::Done);
    }

    #[test]
    fn a_deletion_is_done_when_it_is_gone_and_a_deployment_that_vanishes_is_not() {
        let before = [status("done", 3, &[("m-1", "RUNNING")], &[])];
        let mut deletion = Watch::new(&applied(ChangeAction::Delete), &before);
        deletion.look(&before);
        assert_eq!(deletion.pending_words(), "m: 1 replica to stop");
        assert_eq!(deletion.look(&[]), [News::Gone("m is gone".to_owned())]);
        assert_eq!(end_of(&deletion), &End::Done);
        let mut update = Watch::new(&applied(ChangeAction::Roll), &before);
        update.look(&[]);
        assert_eq!(end_of(&update), &End::Vanished);
    }
}
