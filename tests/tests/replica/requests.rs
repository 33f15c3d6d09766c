//! Requests, answers and starts, one after the other.

use decurion_ipc::control::{ReplicaReport, StartFailure};
use decurion_tests::library;

use crate::rig::{Ask, Replica, call, get, start_order};

fn path(path: &str) -> Ask<'_> {
    Ask { path, ..get("a=1") }
}

#[test]
fn answers_http_and_drains() {
    let replica = Replica::ready("Who", r#"{"word": "first"}"#, 1);
    let (pid, mut caller) = (replica.process.id(), replica.caller());
    for _ in 0..100 {
        assert_eq!(caller.text(get("")), (200, format!("{pid} first")));
    }
    replica.drain();
}

#[test]
fn answers_methods_in_json_and_names_those_it_has() {
    let replica = Replica::ready("Who", r#"["second"]"#, 1);
    let (pid, mut caller) = (replica.process.id(), replica.caller());
    let (status, body) = caller.ask(call("who"), b"[]");
    assert_eq!((status, String::from_utf8_lossy(&body).into_owned()), (200, format!("\"{pid} second\"")));
    let (status, body) = caller.ask(call("whom"), b"[]");
    let message = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, 404, "{message}");
    assert!(message.contains("'whom'") && message.contains("who"), "{message}");
}

#[test]
fn bodies_larger_than_the_channel_stream_through() {
    let replica = Replica::ready("Echo", "null", 1);
    let mut caller = replica.caller();
    let body: Vec<u8> = (0..5_000_000u32).map(|number| number.to_le_bytes()[number as usize % 3]).collect();
    let (status, echoed) = caller.ask(Ask { method: "POST", ..get("") }, &body);
    assert_eq!(status, 200);
    assert!(echoed == body, "{} bytes came back of {}", echoed.len(), body.len());
    replica.drain();
}

#[test]
fn a_panic_is_contained() {
    let replica = Replica::ready("Fail", "null", 1);
    let mut caller = replica.caller();
    let internal = (500, "Internal Server Error".to_owned());
    assert_eq!(caller.text(path("/test/panic")), internal);
    assert_eq!(caller.text(path("/test/error")), internal);
    assert_eq!(caller.text(path("/test/status")), (422, "not that".to_owned()));
    assert_eq!(caller.text(path("/test/fine")).0, 200);
}

#[test]
fn a_constructor_that_fails_says_why() {
    let fixtures = library("fixtures");
    let replica = Replica::spawn(start_order(&fixtures.to_string_lossy(), "Stillborn", r#"["error"]"#));
    match replica.report() {
        ReplicaReport::StartFailed(StartFailure::Constructor(why)) => {
            assert!(why.contains("the model is not there"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    let replica = Replica::spawn(start_order(&fixtures.to_string_lossy(), "Nobody", "null"));
    match replica.report() {
        ReplicaReport::StartFailed(StartFailure::Class(why)) => {
            assert!(why.contains("holds no class 'Nobody'"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    let replica = Replica::spawn(start_order("/proc/self/status", "Who", "null"));
    assert!(matches!(replica.report(), ReplicaReport::StartFailed(StartFailure::Library(_))));
}
