//! A process without descriptors: alone in its test binary, since the limit is the process's.

mod rig;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rig::replica::Behaviour;
use rig::{Rig, client::Client};

#[test]
fn running_out_of_descriptors_is_waited_out() {
    let (rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    assert_eq!(rig.client().get("/hello").status, 200);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let in_use = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, in_use + 40, hard).unwrap();
    // Each connection takes two descriptors of this process, ours and the proxy's, until none is left for either.
    let mut clients: Vec<Client> = Vec::new();
    while let Some(mut client) = Client::try_connect(rig.address) {
        client.request("GET", "/hello", "", b"");
        clients.push(client);
    }
    assert!(clients.len() >= 19, "{}", clients.len());
    // Those at the end were perhaps not accepted. They are, as others leave.
    let mut late = clients.split_off(clients.len() - 3);
    drop(clients);
    for client in &mut late {
        assert_eq!(client.response().text(), "Hello world!");
    }
    for _ in 0..50 {
        assert_eq!(rig.client().get("/hello").status, 200);
    }
}
