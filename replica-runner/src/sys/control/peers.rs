//! Whom this replica calls: joining with replicas that the supervisor names, and noticing that they are gone.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use decurion_api::ReplicaId;
use decurion_ipc::attach::{Connected, Joining, UpBell};
use decurion_ipc::caller::{JOIN_FIRST, JoinKey};
use decurion_ipc::channel::Geometry;
use decurion_ipc::control::CallerOrder;
use decurion_ipc::link::Link;
use decurion_ipc::sys::sleeper::BellKey;

use super::{Notice, Notify, pidfd_or};
use crate::sys::runner::Runner;

/// See the module.
pub(super) struct Peers {
    runner: &'static Runner,
    notify: Notify,
    ends: BTreeMap<ReplicaId, PeerEnd>,
}

struct PeerEnd {
    pidfd: Option<OwnedFd>,
    bell: BellKey,
    /// Its hang-up tells the callee that we are gone, and us that it is.
    attach: Link,
}

/// What came of joining with a replica.
pub(super) struct Attached {
    replica: ReplicaId,
    key: JoinKey,
    /// `None`: nothing.
    made: Option<(Connected, Link, Option<OwnedFd>)>,
}

impl Peers {
    pub(super) fn new(runner: &'static Runner, notify: Notify) -> Self {
        Self { runner, notify, ends: BTreeMap::new() }
    }

    /// For each peer two: its attach socket, and its process's end.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ends.values().flat_map(|end| {
            let attach = end.attach.as_fd();
            [attach, pidfd_or(end.pidfd.as_ref(), attach)]
        })
    }

    /// A word of the supervisor's for the handles inside.
    pub(super) fn obey(&mut self, order: CallerOrder, fds: Vec<OwnedFd>) {
        let requests = if let CallerOrder::Attach { requests, .. } = &order { *requests } else { 0 };
        let join = self.runner.nudge(|engine| {
            let replica = engine.calls.handle(order)?;
            engine.calls.joining(&replica).map(|key| (replica, key))
        });
        match join {
            Some((replica, key)) => self.join(replica, key, fds, Geometry::of_handle(requests)),
            None => self.forget_retired(),
        }
    }

    /// A thread of its own: two replicas that join with each other must not wait for each other's control thread.
    fn join(&self, replica: ReplicaId, key: JoinKey, fds: Vec<OwnedFd>, geometry: Geometry) {
        let mut fds = fds.into_iter();
        let (attach, pidfd) = (fds.next().map(Link::from_fd), fds.next());
        let (runner, notify, id) = (self.runner, self.notify.clone(), replica.clone());
        let work = move || {
            let made = attach.and_then(|attach| {
                let connected = wait_for(runner, &replica, key, &attach, geometry)?;
                Some((connected, attach, pidfd))
            });
            notify.send(Notice::Attached(Attached { replica, key, made }));
        };
        if let Err(error) = std::thread::Builder::new().name("attach".to_owned()).spawn(work) {
            eprintln!("can't start a thread to attach with: {error}");
            self.notify.send(Notice::Attached(Attached { replica: id, key, made: None }));
        }
    }

    /// A channel to a replica is there, or could not be made.
    pub(super) fn attached(&mut self, attached: Attached) {
        let Attached { replica, key, made } = attached;
        if self.runner.look(|engine| engine.calls.joining(&replica)) != Some(key) {
            // Not wanted any more, or joined anew meanwhile.
            return;
        }
        self.forget(&replica);
        let Some((connected, attach, pidfd)) = made else {
            return self.runner.nudge(|engine| engine.calls.attached(replica, None));
        };
        let bell = connected.lanes.first().and_then(|lane| {
            let bell = lane.bell_reader().ok()?;
            self.runner.sleeper.add(bell, format!("replica {replica}")).ok()
        });
        // A lane that can't be heard is no lane.
        let connected = bell.is_some().then_some(connected);
        self.runner.nudge(|engine| engine.calls.attached(replica.clone(), connected));
        if let Some(bell) = bell {
            self.ends.insert(replica, PeerEnd { pidfd, bell, attach });
        }
    }

    /// Those whose descriptors are ready are dead.
    pub(super) fn drop_dead(&mut self, ready: &[bool]) {
        let ids = self.ends.keys().zip(ready.chunks(2));
        let dead: Vec<ReplicaId> =
            ids.filter(|(_, hit)| hit.contains(&true)).map(|(id, _)| id.clone()).collect();
        for replica in dead {
            self.runner.nudge(|engine| engine.calls.died(&replica));
            self.forget(&replica);
        }
    }

    /// Lets go of those that the engine has let go of.
    fn forget_retired(&mut self) {
        let known = |id: &&ReplicaId| !self.runner.look(|engine| engine.calls.has_channel(id));
        let gone: Vec<ReplicaId> = self.ends.keys().filter(known).cloned().collect();
        gone.iter().for_each(|replica| self.forget(replica));
    }

    fn forget(&mut self, replica: &ReplicaId) {
        if let Some(end) = self.ends.remove(replica) {
            self.runner.sleeper.remove(end.bell);
        }
    }
}

/// Waits for a replica's answer as long as the replica is wanted.
fn wait_for(
    runner: &Runner,
    replica: &ReplicaId,
    key: JoinKey,
    attach: &Link,
    geometry: Geometry,
) -> Option<Connected> {
    let mut joining = Joining::new(1, geometry, UpBell::Pipe);
    let mut patience = JOIN_FIRST;
    loop {
        match joining.attempt(attach, patience) {
            Ok(connected) => return Some(connected),
            Err(error) if joining.may_go_on(&error) => {
                patience = runner.nudge(|engine| engine.calls.unanswered(replica, key))?;
            }
            Err(_) => return None,
        }
    }
}
