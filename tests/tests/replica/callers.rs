//! Callers that leave, die, or break the rules: what they leave behind is nothing, and others notice nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use decurion_ipc::control::{CallerKind, ReplicaReport};

use crate::rig::{Caller, Replica, appears, get, make, readable, until};

/// A replica of one thread with a request of `caller` running in it, and another one waiting.
fn held(folder: &std::path::Path, caller: impl Fn(&Replica) -> Caller) -> (Replica, Caller) {
    let replica = Replica::ready("Gate", &format!("[{folder:?}]"), 1);
    let mut caller = caller(&replica);
    caller.open(get("until=never"), b"some of a body", false);
    caller.open(get("until=never"), b"", true);
    appears(&folder.join("entered-id-1"));
    (replica, caller)
}

/// The running one was cancelled, the waiting one never ran, and others are served.
fn serves_others(replica: Replica, folder: &std::path::Path) {
    appears(&folder.join("cancelled-id-1"));
    make(&folder.join("open"));
    let mut other = replica.caller();
    assert_eq!(other.text(get("")).0, 200);
    until("nothing is in flight", || other.board.ongoing() == 0);
    replica.drain();
    assert!(!folder.join("entered-id-2").exists() && !folder.join("cancelled-id-2").exists());
}

#[test]
fn a_caller_that_hangs_up_is_cancelled() {
    let folder = tempfile::tempdir().expect("a folder");
    let (replica, caller) = held(folder.path(), Replica::caller);
    drop(caller);
    serves_others(replica, folder.path());
}

#[test]
fn a_caller_whose_process_is_killed_is_cancelled() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut process =
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process to kill");
    let pid = i32::try_from(process.id()).expect("a process id");
    // Readable when the process is gone, as a pidfd is. Lane and attach socket stay open, as they would in a process
    // that was forked from it.
    let gone = OwnedFd::from(process.stdout.take().expect("it is piped"));
    let caller = |replica: &Replica| replica.caller_of(CallerKind::Client { pid }, Some(gone.as_fd()));
    let (replica, caller) = held(folder.path(), caller);
    process.kill().expect("our child");
    appears(&folder.path().join("cancelled-id-1"));
    assert!(readable(caller.attach.as_fd()), "the replica hangs up");
    process.wait().expect("our child");
    serves_others(replica, folder.path());
}

#[test]
fn a_caller_that_sends_garbage_is_named_and_hung_up_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let kind = CallerKind::Client { pid: 77 };
    let (replica, mut bad) = held(folder.path(), |replica| replica.caller_of(kind.clone(), None));
    let mut good = replica.caller();
    make(&folder.path().join("open"));
    let stream = good.open(get(""), b"", true);
    bad.lane.open(b"this is no head", b"", true).expect("room");
    bad.lane.flush();
    match replica.report() {
        ReplicaReport::CallerFault { caller, fault } => {
            assert_eq!(caller, kind);
            assert!(fault.contains("malformed"), "{fault}");
        }
        other => panic!("{other:?}"),
    }
    assert!(readable(bad.attach.as_fd()), "it is told by a hang-up");
    assert_eq!(good.answer(stream).0, 200);
    serves_others(replica, folder.path());
}

#[test]
fn garbage_on_the_attach_socket_is_refused() {
    let replica = Replica::ready("Who", "null", 1);
    let (ours, theirs) = decurion_ipc::link::Link::pair().expect("a link");
    let theirs = OwnedFd::from(theirs);
    let order = decurion_ipc::control::ReplicaOrder::Accept(CallerKind::Client { pid: 1 });
    replica.link.send(&order, &[theirs.as_fd()]).expect("room");
    drop(theirs);
    ours.send(&"good day", &[]).expect("room");
    assert!(matches!(replica.report(), ReplicaReport::CallerFault { .. }));
    assert!(readable(ours.as_fd()));
    assert_eq!(replica.caller().text(get("")).0, 200);
    replica.drain();
}

#[test]
fn a_caller_that_attaches_twice_is_hung_up_on() {
    let replica = Replica::ready("Who", "null", 1);
    let bad = replica.caller();
    bad.attach.send(&"once more", &[]).expect("room");
    assert!(readable(bad.attach.as_fd()));
    assert_eq!(replica.caller().text(get("")).0, 200);
    replica.drain();
}
