//! Reconfigure, health, drain, and the end: also where nothing else happens that would wake anybody.

use decurion_ipc::adoption::AdoptionSocket;
use decurion_ipc::control::{ReplicaOrder, ReplicaReport};

use crate::rig::{DRAIN, Replica, WATCHDOG, appears, call, get, in_time, make, start_order};

fn configured(replica: &Replica, sequence: u64, config: &str) -> Result<(), String> {
    replica.reconfigure(sequence, config);
    match replica.report() {
        ReplicaReport::Reconfigured { sequence: answered, result } => {
            assert_eq!(answered, sequence);
            result
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn reconfigure_is_answered_and_a_refusal_changes_nothing() {
    let replica = Replica::ready("Pair", "null", 1);
    let (pid, mut caller) = (replica.process.id(), replica.caller());
    assert_eq!(configured(&replica, 1, r#"{"left": "a", "right": "a"}"#), Ok(()));
    let refused = configured(&replica, 2, r#"{"left": "a", "right": "b"}"#).unwrap_err();
    assert!(refused.contains("do not belong together"), "{refused}");
    assert_eq!(caller.text(get("")).1, format!("{pid} a a"));
}

#[test]
fn a_class_without_reconfigure_says_so() {
    let replica = Replica::ready("Who", "null", 1);
    let refused = configured(&replica, 7, "{}").unwrap_err();
    assert!(refused.contains("no reconfigure"), "{refused}");
}

#[test]
fn reconfigure_waits_for_what_runs_and_health_does_not() {
    for threads in [1, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let replica = Replica::ready("Held", &format!("[{:?}]", folder.path()), threads);
        let mut caller = replica.caller();
        let held = caller.open(get("until=go"), b"", true);
        appears(&folder.path().join("entered-id-1"));
        replica.reconfigure(1, "\"new\"");
        replica.order(&ReplicaOrder::CheckHealth { sequence: 2 });
        assert_eq!(replica.report(), ReplicaReport::Health { sequence: 2, result: Ok(()) });
        let next = caller.open(get(""), b"", true);
        make(&folder.path().join("go"));
        assert_eq!(replica.report(), ReplicaReport::Reconfigured { sequence: 1, result: Ok(()) });
        assert_eq!(caller.answer(held), (200, b"first first".to_vec()), "with the old one to its end");
        assert_eq!(caller.answer(next), (200, b"new new".to_vec()));
        replica.drain();
    }
}

#[test]
fn health_waits_for_an_exclusive_method() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = Replica::ready("Held", &format!("[{:?}]", folder.path()), 1);
    let mut caller = replica.caller();
    let alone = caller.open(call("alone"), br#"["go"]"#, true);
    appears(&folder.path().join("alone"));
    let beat = caller.board.heartbeat();
    replica.order(&ReplicaOrder::CheckHealth { sequence: 1 });
    make(&folder.path().join("go"));
    assert_eq!(replica.report(), ReplicaReport::Health { sequence: 1, result: Ok(()) });
    assert_eq!(caller.answer(alone).0, 200);
    assert_ne!(caller.board.heartbeat(), beat, "an answer is a sign of life");
}

#[test]
fn a_drain_ends_when_the_last_request_does() {
    for threads in [1, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let replica = Replica::ready("Gate", &format!("[{:?}]", folder.path()), threads);
        let mut caller = replica.caller();
        let held = caller.open(get("until=go"), b"", true);
        appears(&folder.path().join("entered-id-1"));
        replica.order(&DRAIN);
        make(&folder.path().join("go"));
        assert!(in_time("the drain", move || replica.drained()).success());
        assert_eq!(caller.answer(held).0, 200, "its answer is there after the replica's end");
    }
}

#[test]
fn a_drain_hears_of_a_caller_that_dies() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = Replica::ready("Gate", &format!("[{:?}]", folder.path()), 1);
    let mut caller = replica.caller();
    caller.open(get("until=never"), b"", true);
    appears(&folder.path().join("entered-id-1"));
    replica.order(&DRAIN);
    drop(caller);
    assert!(in_time("the drain", move || replica.drained()).success());
    assert!(folder.path().join("cancelled-id-1").exists());
}

#[test]
fn a_drain_waits_for_a_large_answer_to_be_fetched() {
    let replica = Replica::ready("Echo", "null", 1);
    let mut caller = replica.caller();
    let stream = caller.open(get(""), b"", false);
    caller.send(stream, &[5; 3_000_000]);
    caller.lane.end(stream);
    caller.lane.flush();
    replica.order(&DRAIN);
    let (status, body) = caller.answer(stream);
    assert_eq!((status, body.len()), (200, 3_000_000));
    assert!(in_time("the drain", move || replica.drained()).success());
}

#[test]
fn the_destructor_runs_once_at_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = Replica::ready("Mortal", &format!("[{:?}]", folder.path()), 1);
    let mark = folder.path().join(format!("destroyed-{}", replica.process.id()));
    assert!(!mark.exists());
    replica.drain();
    assert!(mark.exists());
}

#[test]
fn a_drain_before_it_is_ready_waits_for_the_constructor() {
    let replica =
        Replica::spawn(start_order(&decurion_tests::library("fixtures").to_string_lossy(), "Who", "null"));
    replica.order(&DRAIN);
    let mut replica = replica;
    loop {
        match replica.report() {
            ReplicaReport::Ready => {}
            ReplicaReport::Drained => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(replica.process.wait().expect("our child").success());
}

#[test]
fn requests_flow_on_when_the_supervisor_is_gone() {
    let mut replica = Replica::ready("Who", r#"["still here"]"#, 1);
    let next = AdoptionSocket { path: "/nowhere/adopt.sock".to_owned(), patience: 10 * WATCHDOG };
    replica.order(&ReplicaOrder::Await(next));
    let mut caller = replica.caller();
    let (near, far) = decurion_ipc::link::Link::pair().expect("a link");
    drop(std::mem::replace(&mut replica.link, near));
    for _ in 0..100 {
        assert_eq!(caller.text(get("")).0, 200);
    }
    drop(far);
    assert!(replica.process.try_wait().expect("our child").is_none());
}

#[test]
fn who_is_not_to_wait_for_another_supervisor_leaves_at_once() {
    let mut replica = Replica::ready("Who", r#"["gone"]"#, 1);
    let (near, _far) = decurion_ipc::link::Link::pair().expect("a link");
    drop(std::mem::replace(&mut replica.link, near));
    assert!(replica.process.wait().expect("our child").success());
}
