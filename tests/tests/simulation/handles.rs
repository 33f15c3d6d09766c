//! Handles from replica to replica: each replica has the real end of them, and calls go over real lanes.

use decurion_api::ReplicaId;
use decurion_ipc::adoption::Standing;
use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::channel::Geometry;
use decurion_ipc::control::CallerReport;
use decurion_proxy::time::Nanos;
use decurion_supervisor::reconcile::{CallerId, Fact};

use crate::replica::{LaneKey, Worked};
use crate::world::{Channel, Event, World};

impl World {
    /// What a replica's end of handles has to say is said, and whoever it has written to wakes up.
    pub(crate) fn caller_moved(&mut self, id: &ReplicaId) {
        let now = self.now;
        let Some(replica) = self.replicas.get_mut(id) else { return };
        let mut worked = Worked::default();
        replica.hear_callees(now, &mut worked);
        let reports = replica.caller.take_reports();
        if let Some(at) = replica.caller.next_timer() {
            self.plan_replica(id, Nanos(at).max(now));
        }
        for (job, after) in worked.again {
            self.plan_job(id, job, after);
        }
        self.caller_says(id, reports);
        let with_news = self.replicas.iter().filter(|(_, replica)| replica.has_news());
        for id in with_news.map(|(id, _)| id.clone()).collect::<Vec<ReplicaId>>() {
            self.wake_replica(&id);
        }
    }

    pub(crate) fn caller_says(&mut self, id: &ReplicaId, reports: Vec<CallerReport>) {
        for report in reports {
            let caller = CallerId::Replica(id.clone());
            let fact = match report {
                CallerReport::Resolve(deployment) => Fact::Resolve { caller, deployment },
                CallerReport::Rejoin(Standing { deployment, replicas }) => {
                    Fact::Rejoined { caller, deployment, replicas }
                }
                CallerReport::Applied { deployment, generation } => {
                    Fact::ViewApplied { caller, deployment: Some(deployment), generation }
                }
                CallerReport::Oldest(epoch) => Fact::Oldest { caller, epoch },
                CallerReport::Waiting { deployment, count } => {
                    Fact::Waiting { caller, deployment, count: u64::from(count) }
                }
                CallerReport::Lost { replica, why } => Fact::Unjoined { caller, replica, why },
                CallerReport::Fault { replica, fault } => {
                    panic!("{id} has found that {replica} broke the rules: {fault}")
                }
            };
            let soon = self.dice.skewed(100, 3_000);
            self.say(Channel::FromReplica(id.clone()), soon, fact);
        }
    }

    /// Two replicas have met, or can't.
    pub(crate) fn meet(&mut self, caller: &ReplicaId, callee: ReplicaId) {
        let now = self.now;
        let Some(key) = self.replicas.get(caller).and_then(|it| it.caller.joining(&callee)) else { return };
        let met = match self.replicas.get_mut(&callee) {
            Some(held) if held.hung_until <= now => {
                let (near, far) =
                    attach::local(1, Geometry::small(), UpBell::Pipe).expect("memory and descriptors");
                held.drop_lane_of(caller);
                let may_take = held.may_take();
                for lane in far.lanes {
                    held.lanes.insert(LaneKey::Replica(caller.clone()), lane);
                }
                if may_take {
                    self.wake_replica(&callee);
                }
                Some(Some(near))
            }
            Some(_) => None,
            None => Some(None),
        };
        let Some(replica) = self.replicas.get_mut(caller) else { return };
        match met {
            Some(channel) => replica.caller.attached(callee, channel.ok_or_else(|| "it is gone".to_owned())),
            None => {
                if let Some(patience) = replica.caller.unanswered(&callee, key) {
                    self.push(patience, Event::Meet { caller: caller.clone(), callee });
                }
            }
        }
        self.caller_moved(caller);
    }

    /// A replica with a handle sees that one that it calls has died.
    pub(crate) fn peer_died(&mut self, caller: &ReplicaId, callee: &ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(caller) {
            replica.caller.died(callee);
            self.caller_moved(caller);
        }
    }
}
