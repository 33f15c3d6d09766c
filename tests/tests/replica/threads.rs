//! Several requests and several threads at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use decurion_ipc::channel::StreamId;
use decurion_ipc::control::ReplicaReport;

use crate::rig::{Ask, Caller, Replica, appears, call, get, in_time, make};

#[test]
fn as_many_requests_run_at_once_as_there_are_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = Replica::ready("Gate", &format!("[{:?}]", folder.path()), 4);
    let mut caller = replica.caller();
    let streams: Vec<StreamId> = (0..6).map(|_| caller.open(get("until=open"), b"", true)).collect();
    for number in 1..=4 {
        appears(&folder.path().join(format!("entered-id-{number}")));
    }
    assert!(!folder.path().join("entered-id-5").exists(), "four threads hold four requests");
    make(&folder.path().join("open"));
    for stream in streams {
        assert_eq!(caller.answer(stream).0, 200);
    }
    assert_eq!(caller.ask(call("most"), b"[]").1, b"4");
    replica.drain();
}

#[test]
fn a_body_that_comes_slowly_holds_up_nobody_else() {
    let replica = Replica::ready("Echo", "null", 2);
    let mut caller = replica.caller();
    let body: Vec<u8> = (0..5_000_000u32).map(|number| number.to_le_bytes()[1]).collect();
    let slow = caller.open(Ask { method: "POST", ..get("") }, b"", false);
    for part in body.chunks(250_000) {
        caller.send(slow, part);
        assert_eq!(caller.ask(get(""), b"quick"), (200, b"quick".to_vec()));
    }
    caller.lane.end(slow);
    caller.lane.flush();
    let (status, echoed) = caller.answer(slow);
    assert!(status == 200 && echoed == body, "{status}, {} bytes", echoed.len());
    replica.drain();
}

#[test]
fn with_one_thread_slow_bodies_are_answered_one_after_the_other() {
    let replica = Replica::ready("Echo", "null", 1);
    let mut caller = replica.caller();
    let streams: Vec<StreamId> = (0..4).map(|_| caller.open(get(""), b"", false)).collect();
    for stream in &streams {
        caller.send(*stream, &[7; 20_000]);
    }
    // The first gets on although the others have their bodies lent and wait untaken.
    for stream in streams {
        caller.send(stream, &[7; 980_000]);
        caller.lane.end(stream);
        let (status, body) = caller.answer(stream);
        assert_eq!((status, body.len()), (200, 1_000_000));
    }
    replica.drain();
}

/// Keeps so many requests going, until each of `rounds` is answered.
fn load(caller: &mut Caller, rounds: usize, check: impl Fn(String)) {
    let mut streams: std::collections::VecDeque<StreamId> =
        (0..16).map(|_| caller.open(get(""), b"", true)).collect();
    for _ in 0..rounds {
        let stream = streams.pop_front().expect("16 at once");
        let (status, body) = caller.answer(stream);
        assert_eq!(status, 200);
        check(String::from_utf8(body).expect("text"));
        streams.push_back(caller.open(get(""), b"", true));
    }
    for stream in streams {
        caller.answer(stream);
    }
}

#[test]
fn reconfigure_under_load_never_mixes_two_configurations() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = Replica::ready("Held", &format!("[{:?}]", folder.path()), 4);
    let (mut first, mut second) = (replica.caller(), replica.caller());
    // Whoever is quicker, there is load while it is reconfigured.
    let reconfigured = Arc::new(AtomicU64::new(0));
    let enough = Arc::clone(&reconfigured);
    let under_load = std::thread::spawn(move || {
        loop {
            for caller in [&mut first, &mut second] {
                load(caller, 3_000, |text| {
                    let (before, after) = text.split_once(' ').expect("two words");
                    assert_eq!(before, after, "a request saw two configurations");
                });
            }
            if enough.load(Ordering::Relaxed) > 1 {
                return;
            }
        }
    });
    for sequence in 1.. {
        replica.reconfigure(sequence, &format!("{sequence}"));
        assert_eq!(replica.report(), ReplicaReport::Reconfigured { sequence, result: Ok(()) });
        reconfigured.store(sequence, Ordering::Relaxed);
        if under_load.is_finished() {
            break;
        }
    }
    in_time("the load", move || under_load.join().expect("no request saw a mix"));
    replica.drain();
}

#[test]
fn an_exclusive_method_lets_all_threads_go_on_when_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let replica = Replica::ready("Held", &format!("[{:?}]", folder.path()), 2);
    let mut caller = replica.caller();
    let alone = caller.open(call("alone"), br#"["go"]"#, true);
    appears(&folder.path().join("alone"));
    // Each of the two waits until the other is there, too.
    let both = [1, 2].map(|_| caller.open(get("until=both"), b"", true));
    make(&folder.path().join("go"));
    assert_eq!(caller.answer(alone).0, 200);
    appears(&folder.path().join("entered-id-2"));
    appears(&folder.path().join("entered-id-3"));
    make(&folder.path().join("both"));
    for stream in both {
        assert_eq!(caller.answer(stream).0, 200);
    }
    replica.drain();
}
