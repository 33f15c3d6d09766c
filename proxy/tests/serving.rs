//! What a client gets from a proxy that has replicas: the usual cases.

mod rig;

use rig::Rig;
use rig::replica::Behaviour;

#[test]
fn a_deployment_answers() {
    let (rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    let mut client = rig.client();
    let response = client.get("/hello");
    assert_eq!((response.status, response.text()), (200, "Hello world!"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!(response.header("content-length"), Some("12"));
    assert!(response.header("date").is_some_and(|date| date.ends_with("GMT")));
    assert_eq!(response.header("x-request-id").map(str::len), Some(32));
    assert_eq!(client.get("/hello/x?y").status, 200, "the connection stays");
}
