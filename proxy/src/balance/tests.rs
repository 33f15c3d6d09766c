//! What the choice, the slots and the queue promise together.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};

use super::*;
use crate::time::Nanos;

const NOW: Nanos = Nanos(1_000_000_000);

#[derive(Debug, Default)]
struct Board(Arc<AtomicU64>);
impl Load for Board {
    fn ongoing(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Mail(RefCell<Vec<Grant>>);
impl Post for Mail {
    fn grant(&self, grant: Grant) {
        self.0.borrow_mut().push(grant);
    }
}
impl Mail {
    fn tickets(&self) -> Vec<u64> {
        self.0.borrow().iter().map(|grant| grant.waiter.ticket).collect()
    }
}

fn deployment() -> Arc<Deployment> {
    Arc::new(Deployment::new(DeploymentName::new("d").unwrap()))
}

fn backends(deployment: &Arc<Deployment>, replicas: u32, max_ongoing: u32, max_queued: u32) -> Arc<Backends> {
    let replica = |n| {
        let id = ReplicaId::numbered(&deployment.name, n);
        Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(deployment), Box::new(Board::default())))
    };
    let replicas = (0..replicas).map(replica).collect();
    Arc::new(Backends { replicas, canary: None, max_ongoing, max_queued: Some(max_queued) })
}

fn waiter(ticket: u64) -> Waiter {
    Waiter { worker: 0, ticket, model: 0, light: false }
}

fn granted(admission: Admission, backends: &Backends) -> Arc<Replica> {
    match admission {
        Admission::Granted(lane) => Arc::clone(&backends.replicas[lane.at()]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_least_loaded_replica_is_chosen_and_equals_take_turns() {
    let deployment = deployment();
    let backends = backends(&deployment, 3, 5, 0);
    let lanes: Vec<u32> = (0..6).map(|turn| backends.reserve(turn, None, 0).unwrap().lane.0).collect();
    assert_eq!(lanes, [0, 1, 2, 0, 1, 2]);
    backends.replicas[1].release(NOW, &Mail::default());
    assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(1));
}

#[test]
fn a_version_that_is_tried_gets_its_share_exactly() {
    let deployment = deployment();
    for weight in [1_u8, 5, 20, 50, 99] {
        let mut backends = Arc::into_inner(backends(&deployment, 4, 1_000, 0)).unwrap();
        backends.canary = Some(Canary::new(3, weight));
        let tried = (0..1_000).filter(|turn| backends.reserve(*turn, None, 0).unwrap().lane.0 == 3).count();
        assert_eq!(tried, usize::from(weight) * 10);
    }
}

#[test]
fn nobody_waits_for_a_version_that_is_tried_and_it_takes_nobody_elses() {
    let deployment = deployment();
    let mut backends = Arc::into_inner(backends(&deployment, 2, 2, 0)).unwrap();
    backends.canary = Some(Canary::new(1, 50));
    let lanes: Vec<Option<u32>> =
        (0..4).map(|turn| backends.reserve(turn, None, 0).map(|replica| replica.lane.0)).collect();
    assert_eq!(lanes, [Some(0), Some(1), Some(0), Some(1)]);
    backends.replicas[1].release(NOW, &Mail::default());
    // The next one is the other version's, which is full: the free slot is not its.
    assert!(backends.reserve(0, None, 0).is_none());
    backends.replicas[0].release(NOW, &Mail::default());
    assert_eq!(backends.reserve(0, None, 0).unwrap().lane.0, 0);
    // One that comes back from the version that is tried goes to the other where it can.
    assert_eq!(backends.reserve(0, Some(LaneIndex(1)), 0).unwrap().lane.0, 1);
    backends.replicas[0].leave();
    backends.replicas[1].release(NOW, &Mail::default());
    assert_eq!(backends.reserve(0, None, 0).unwrap().lane.0, 1);
}

#[test]
fn load_of_other_callers_counts() {
    let deployment = deployment();
    let busy = Arc::new(AtomicU64::new(4));
    let replica = |n, board: Board| {
        let id = ReplicaId::numbered(&deployment.name, n);
        Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(board)))
    };
    let replicas = vec![replica(0, Board(Arc::clone(&busy))), replica(1, Board::default())];
    let backends = Backends { replicas, canary: None, max_ongoing: 5, max_queued: None };
    assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(1));
    assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(1));
}

/// A replica of which another worker takes a slot while it is looked at, so many times.
#[derive(Debug)]
struct Contended {
    replicas: Arc<Mutex<Vec<Arc<Replica>>>>,
    at: usize,
    times: AtomicU32,
}
impl Load for Contended {
    fn ongoing(&self) -> u64 {
        if self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            assert!(self.replicas.lock().unwrap()[self.at].reserve(u32::MAX));
        }
        0
    }
}

fn contended(times: u32) -> Backends {
    let (deployment, shared) = (deployment(), Arc::new(Mutex::new(Vec::new())));
    let replica = |n: u32| {
        let load = Contended {
            replicas: Arc::clone(&shared),
            at: n as usize,
            times: AtomicU32::new(if n == 0 { times } else { 0 }),
        };
        let id = ReplicaId::numbered(&deployment.name, n);
        Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(load)))
    };
    let replicas: Vec<Arc<Replica>> = (0..2).map(replica).collect();
    shared.lock().unwrap().clone_from(&replicas);
    Backends { replicas, canary: None, max_ongoing: 100, max_queued: None }
}

#[test]
fn two_workers_that_choose_at_once_choose_different_replicas() {
    let backends = contended(1);
    let lane = backends.reserve(0, None, 0).unwrap().lane;
    let counts = [0, 1].map(|at: usize| backends.replicas[at].in_flight());
    assert_eq!((lane, counts), (LaneIndex(1), [1, 1]), "the other worker took the first one meanwhile");
}

#[test]
fn a_slot_is_found_however_often_others_come_between() {
    let backends = contended(u32::MAX);
    // The second one is made busier, so that the first one stays the least loaded.
    for _ in 0..90 {
        assert!(backends.replicas[1].reserve(u32::MAX));
    }
    assert_eq!(backends.reserve(0, None, 0).unwrap().lane, LaneIndex(0));
}

#[test]
fn what_a_replica_has_not_counted_yet_makes_it_no_busier_than_one_that_works() {
    let deployment = deployment();
    let stale = Arc::new(AtomicU64::new(1));
    let replica = |n, board: Board| {
        let id = ReplicaId::numbered(&deployment.name, n);
        Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(board)))
    };
    let replicas = vec![replica(0, Board::default()), replica(1, Board(stale))];
    let backends = Backends { replicas, canary: None, max_ongoing: 2, max_queued: None };
    let lanes = [0, 0, 0].map(|turn| backends.reserve(turn, None, 0).unwrap().lane.0);
    assert_eq!(lanes, [0, 1, 0]);
}

#[test]
fn a_replica_that_left_or_was_tried_is_passed_over() {
    let deployment = deployment();
    let backends = backends(&deployment, 2, 5, 0);
    assert_eq!(backends.reserve(0, Some(LaneIndex(0)), 0).unwrap().lane, LaneIndex(1));
    assert!(backends.replicas[1].leave() && !backends.replicas[1].leave());
    assert_eq!(backends.reserve(0, Some(LaneIndex(0)), 0).unwrap().lane, LaneIndex(0), "there is no other");
    backends.replicas[0].leave();
    assert!(backends.reserve(0, None, 0).is_none());
}

#[derive(Debug)]
struct Holder(u64);
impl Load for Holder {
    fn ongoing(&self) -> u64 {
        0
    }
    fn holds_model(&self, model: u64) -> bool {
        model == self.0
    }
}

#[test]
fn who_holds_the_model_comes_first_while_there_is_room() {
    let deployment = deployment();
    let replica = |n, holds| {
        let id = ReplicaId::numbered(&deployment.name, n);
        Arc::new(Replica::new(id, LaneIndex(n), Arc::clone(&deployment), Box::new(Holder(holds))))
    };
    let replicas = vec![replica(0, 7), replica(1, 8), replica(2, 0)];
    let backends = Backends { replicas, canary: None, max_ongoing: 2, max_queued: None };
    let lane = |model| backends.reserve(0, None, model).map(|replica| replica.lane.0);
    assert_eq!([lane(8), lane(8)], [Some(1), Some(1)], "although others have less to do");
    assert_eq!(lane(7), Some(0));
    // The holder is full: the least loaded of the others, and that one again while it is equal to none.
    assert_eq!(lane(8), Some(2));
    assert_eq!([lane(9), lane(9), lane(9)].iter().filter(|lane| lane.is_some()).count(), 2);
}

#[test]
fn equals_are_the_same_for_one_model() {
    let deployment = deployment();
    let backends = backends(&deployment, 4, 100, 0);
    let first = backends.reserve(0, None, 6).unwrap().lane;
    backends.replicas[first.at()].release(NOW, &Mail::default());
    assert_eq!(backends.reserve(3, None, 6).unwrap().lane, first);
}

#[test]
fn a_freed_slot_goes_to_whoever_waited_longest() {
    let (deployment, mail) = (deployment(), Mail::default());
    let backends = backends(&deployment, 1, 1, 10);
    deployment.set_backends(Arc::clone(&backends), NOW, &mail);
    let first = granted(deployment.admit(&backends, 0, waiter(1), None, NOW, &mail), &backends);
    for ticket in [2, 3, 4] {
        assert!(matches!(
            deployment.admit(&backends, 0, waiter(ticket), None, NOW, &mail),
            Admission::Queued(_)
        ));
    }
    assert!(matches!(
        deployment.admit(&backends, 0, waiter(5), Some(LaneIndex(9)), NOW, &mail),
        Admission::Queued(_)
    ));
    for _ in 0..4 {
        first.release(NOW, &mail);
    }
    assert_eq!(mail.tickets(), [5, 2, 3, 4]);
    assert_eq!((first.in_flight(), deployment.waiting()), (1, 0));
}

#[test]
fn nobody_overtakes_those_who_wait() {
    let (deployment, mail) = (deployment(), Mail::default());
    let old = backends(&deployment, 0, 1, 10);
    deployment.set_backends(Arc::clone(&old), NOW, &mail);
    assert!(matches!(deployment.admit(&old, 0, waiter(1), None, NOW, &mail), Admission::Queued(_)));
    let new = backends(&deployment, 1, 1, 10);
    assert!(matches!(deployment.admit(&new, 0, waiter(2), None, NOW, &mail), Admission::Queued(_)));
    deployment.set_backends(new, NOW, &mail);
    assert_eq!(mail.tickets(), [1]);
}

#[test]
fn the_queue_is_bounded_and_can_be_left() {
    let (deployment, mail) = (deployment(), Mail::default());
    let backends = backends(&deployment, 1, 1, 1);
    deployment.set_backends(Arc::clone(&backends), NOW, &mail);
    let held = granted(deployment.admit(&backends, 0, waiter(1), None, NOW, &mail), &backends);
    let Admission::Queued(place) = deployment.admit(&backends, 0, waiter(2), None, NOW, &mail) else {
        panic!()
    };
    assert!(matches!(deployment.admit(&backends, 0, waiter(3), None, NOW, &mail), Admission::Full));
    assert!(deployment.withdraw(place) && !deployment.withdraw(place));
    assert!(matches!(deployment.admit(&backends, 0, waiter(3), None, NOW, &mail), Admission::Queued(_)));
    held.release(NOW, &mail);
    assert_eq!(mail.tickets(), [3]);
}

fn light(ticket: u64) -> Waiter {
    Waiter { light: true, ..waiter(ticket) }
}

#[test]
fn a_replica_that_answers_quickly_is_sent_more_than_it_may_run() {
    let (deployment, mail) = (deployment(), Mail::default());
    let backends = backends(&deployment, 1, 1, 100);
    deployment.set_backends(Arc::clone(&backends), NOW, &mail);
    let replica = Arc::clone(&backends.replicas[0]);
    let now = replica.pretend_quick(NOW);
    let ask =
        |ticket, waiter: fn(u64) -> Waiter| deployment.admit(&backends, 0, waiter(ticket), None, now, &mail);
    assert!(matches!(ask(0, light), Admission::Granted(_)));
    // A millisecond's worth of 20 us each.
    for ticket in 1..=50 {
        assert!(matches!(ask(ticket, light), Admission::Ahead(_)), "{ticket}");
    }
    assert!(matches!(ask(51, light), Admission::Queued(_)));
    assert!(matches!(ask(52, waiter), Admission::Queued(_)));
    assert_eq!((replica.in_flight(), deployment.queued(), deployment.waiting()), (51, 52, 2));
    // A place that frees goes to the first in the queue, at the replica again; the second is not to wait there.
    replica.release(now, &mail);
    assert_eq!(mail.tickets(), [51]);
    assert!(mail.0.borrow()[0].ahead);
    replica.release(now, &mail);
    assert_eq!(mail.tickets(), [51]);
    (0..50).for_each(|_| replica.release(now, &mail));
    assert_eq!((mail.tickets(), replica.in_flight()), (vec![51, 52], 1));
}

#[test]
fn nobody_is_sent_to_a_replica_that_only_the_queue_has_heard_of() {
    for max_queued in [0, 100] {
        let (deployment, mail) = (deployment(), Mail::default());
        let newer = backends(&deployment, 2, 1, max_queued);
        let known = Backends {
            replicas: newer.replicas[..1].to_vec(),
            canary: None,
            max_ongoing: 1,
            max_queued: Some(max_queued),
        };
        deployment.set_backends(Arc::clone(&newer), NOW, &mail);
        let ask = |ticket| deployment.admit(&known, 0, light(ticket), None, NOW, &mail);
        assert!(matches!(ask(0), Admission::Granted(LaneIndex(0))));
        // Its own has no room; the other one is reached by a grant, which is looked at before it is used.
        assert!(matches!(ask(1), Admission::Full | Admission::Queued(_)), "{max_queued}");
        assert_eq!(mail.tickets().len(), usize::from(max_queued > 0));
    }
}

#[test]
fn those_who_wait_at_a_replica_count_as_queued() {
    let (deployment, mail) = (deployment(), Mail::default());
    let backends = backends(&deployment, 1, 1, 2);
    deployment.set_backends(Arc::clone(&backends), NOW, &mail);
    let now = backends.replicas[0].pretend_quick(NOW);
    let ask = |ticket| deployment.admit(&backends, 0, light(ticket), None, now, &mail);
    assert!(matches!(ask(0), Admission::Granted(_)));
    assert!(matches!(ask(1), Admission::Ahead(_)));
    assert!(matches!(ask(2), Admission::Ahead(_)));
    assert!(matches!(ask(3), Admission::Full));
}

#[test]
fn a_replica_that_is_slow_or_does_not_answer_is_sent_nothing_ahead() {
    let (deployment, mail) = (deployment(), Mail::default());
    let backends = backends(&deployment, 2, 1, 100);
    deployment.set_backends(Arc::clone(&backends), NOW, &mail);
    let [slow, silent] = [&backends.replicas[0], &backends.replicas[1]];
    let now = silent.pretend_quick(NOW).after(AHEAD_FRESH);
    let now = slow.pretend_paced(now, Duration::from_millis(2));
    let ask = |ticket| deployment.admit(&backends, 0, light(ticket), None, now, &mail);
    assert!(matches!((ask(0), ask(1)), (Admission::Granted(_), Admission::Granted(_))));
    assert!(matches!(ask(2), Admission::Queued(_)));
}

#[test]
fn those_who_wait_at_a_replica_are_told_where_they_are_better_off() {
    let (deployment, mail) = (deployment(), Mail::default());
    let backends = backends(&deployment, 2, 1, 100);
    let [first, second] = [&backends.replicas[0], &backends.replicas[1]];
    let alone = Arc::new(Backends {
        replicas: vec![Arc::clone(first)],
        canary: None,
        max_ongoing: 1,
        max_queued: None,
    });
    deployment.set_backends(Arc::clone(&alone), NOW, &mail);
    let now = first.pretend_quick(NOW);
    let ask = |ticket| deployment.admit(&alone, 0, light(ticket), None, now, &mail);
    assert!(matches!(ask(0), Admission::Granted(_)));
    assert_eq!(deployment.prospects(first), Prospects::Theirs);
    assert!(matches!(ask(1), Admission::Ahead(_)));
    assert_eq!(deployment.prospects(first), Prospects::Alone);
    deployment.set_backends(Arc::clone(&backends), now, &mail);
    assert_eq!(deployment.prospects(first), Prospects::Elsewhere);
    assert!(deployment.is_uneven());
    // Whoever has been elsewhere is not to wait at a replica again.
    let moved = deployment.admit(&backends, 0, light(1), Some(first.lane), now, &mail);
    assert!(matches!(moved, Admission::Granted(lane) if lane == second.lane));
    assert_eq!(deployment.prospects(first), Prospects::Waiting);
    assert!(!deployment.is_uneven());
}

#[test]
fn limits_hold_under_contention_and_nobody_is_forgotten() {
    struct Inboxes(Vec<Mutex<Vec<Grant>>>);
    impl Post for Inboxes {
        fn grant(&self, grant: Grant) {
            self.0[usize::from(grant.waiter.worker)].lock().unwrap().push(grant);
        }
    }
    const ROUNDS: u64 = 2_000;
    const LIMIT: u32 = 3;
    let deployment = deployment();
    let backends = backends(&deployment, 2, LIMIT, 1_000);
    let inboxes = Inboxes((0..4).map(|_| Mutex::default()).collect());
    deployment.set_backends(Arc::clone(&backends), NOW, &inboxes);
    let most = AtomicU32::new(0);
    let work = |worker: u16| {
        let mut served = 0;
        let use_slot = |replica: &Replica| {
            most.fetch_max(replica.in_flight(), Ordering::SeqCst);
            std::thread::yield_now();
            replica.release(NOW, &inboxes);
        };
        for ticket in 0..ROUNDS {
            match deployment.admit(
                &backends,
                0,
                Waiter { worker, ticket, model: 0, light: false },
                None,
                NOW,
                &inboxes,
            ) {
                Admission::Granted(lane) | Admission::Ahead(lane) => {
                    use_slot(&backends.replicas[lane.at()]);
                    served += 1;
                }
                Admission::Queued(_) => {}
                Admission::Full => panic!("the queue is long enough for all"),
            }
            while served <= ticket {
                let grants = std::mem::take(&mut *inboxes.0[usize::from(worker)].lock().unwrap());
                served += grants.len() as u64;
                for grant in grants {
                    use_slot(&grant.replica);
                }
                std::thread::yield_now();
            }
        }
    };
    let work = &work;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || work(worker));
        }
    });
    assert!(most.load(Ordering::SeqCst) <= LIMIT);
    assert!(backends.replicas.iter().all(|replica| replica.in_flight() == 0));
    assert_eq!(deployment.waiting(), 0);
}
