//! Whom this replica calls: joining with replicas that the supervisor names, and noticing that they are gone.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use decurion_api::ReplicaId;
use decurion_ipc::attach::{Connected, Joining, UpBell};
use decurion_ipc::caller::{HUNG_UP, JOIN_FIRST, JoinKey, NO_SOCKET};
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

/// A channel, its attach socket, and the other process.
type Made = (Connected, Link, Option<OwnedFd>);

/// What came of joining with a replica.
pub(super) struct Attached {
    replica: ReplicaId,
    key: JoinKey,
    /// Or why not; `None`: it is not wanted any more.
    made: Option<Result<Made, String>>,
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
            let made = match attach {
                Some(attach) => wait_for(runner, &replica, key, &attach, geometry)
                    .map(|made| made.map(|connected| (connected, attach, pidfd))),
                None => Some(Err(NO_SOCKET.to_owned())),
            };
            notify.send(Notice::Attached(Attached { replica, key, made }));
        };
        if let Err(error) = std::thread::Builder::new().name("attach".to_owned()).spawn(work) {
            let why = format!("can't start a thread to attach with: {error}");
            eprintln!("{why}");
            self.notify.send(Notice::Attached(Attached { replica: id, key, made: Some(Err(why)) }));
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
        let Some(made) = made else { return };
        // A lane that can't be heard is no lane.
        let made = made.and_then(|(connected, attach, pidfd)| {
            let bell =
                self.hear(&replica, &connected).map_err(|error| format!("it can't be heard: {error}"))?;
            Ok((connected, PeerEnd { pidfd, bell, attach }))
        });
        let (connected, end) = match made {
            Ok((connected, end)) => (Ok(connected), Some(end)),
            Err(why) => (Err(why), None),
        };
        self.runner.nudge(|engine| engine.calls.attached(replica.clone(), connected));
        self.ends.extend(end.map(|end| (replica, end)));
    }

    fn hear(&self, replica: &ReplicaId, connected: &Connected) -> io::Result<BellKey> {
        let lane = connected.lanes.first().ok_or(io::ErrorKind::NotFound)?;
        self.runner.sleeper.add(lane.bell_reader()?, format!("replica {replica}"))
    }

    /// Those whose descriptors are ready have hung up, or are dead.
    pub(super) fn drop_dead(&mut self, ready: &[bool]) {
        let ids = self.ends.iter().zip(ready.chunks(2)).filter(|(_, hit)| hit.contains(&true));
        let gone: Vec<(ReplicaId, bool)> =
            ids.map(|((id, end), hit)| (id.clone(), end.pidfd.is_some() && hit.ends_with(&[true]))).collect();
        for (replica, is_dead) in gone {
            self.runner.nudge(|engine| match is_dead {
                true => engine.calls.died(&replica),
                false => engine.calls.lost(&replica, HUNG_UP),
            });
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

/// Waits for a replica's answer as long as the replica is wanted: what it is, or why there is none.
fn wait_for(
    runner: &Runner,
    replica: &ReplicaId,
    key: JoinKey,
    attach: &Link,
    geometry: Geometry,
) -> Option<Result<Connected, String>> {
    let mut joining = Joining::new(1, geometry, UpBell::Pipe);
    let mut patience = JOIN_FIRST;
    loop {
        match joining.attempt(attach, patience) {
            Ok(connected) => return Some(Ok(connected)),
            Err(error) if joining.may_go_on(&error) => {
                patience = runner.nudge(|engine| engine.calls.unanswered(replica, key))?;
            }
            Err(error) => return Some(Err(error.to_string())),
        }
    }
}
