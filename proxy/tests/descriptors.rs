//! A process without descriptors: alone in its test binary, since the limit is the process's.

mod rig;

use decurion_ipc::control::ProxyOrder;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rig::Rig;
use rig::client::Client;
use rig::replica::Behaviour;
use std::fs::{File, read_dir};

#[test]
fn who_finds_no_descriptors_is_told_so_and_served_once_there_are_some() {
    let (rig, _replica) = Rig::serving("hello", Behaviour::Hello);
    assert_eq!(rig.client().get("/hello").status, 200);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Each connection takes two descriptors of this process, ours and the proxy's: ours have their places.
    let mut places: Vec<File> = (0..60).map(|_| File::open("/dev/null").unwrap()).collect();
    let in_use = read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, in_use + 20, hard).unwrap();
    let (mut served, mut refused) = (Vec::new(), Vec::new());
    while let Some(place) = places.pop() {
        drop(place);
        // The proxy's look at whether anybody waits takes a descriptor for an instant, and may have just this one.
        let connect = |_| {
            let client = Client::try_connect(rig.address);
            if client.is_none() {
                std::thread::park_timeout(std::time::Duration::from_millis(1));
            }
            client
        };
        let mut client = (0..60_000).find_map(connect).unwrap();
        let response = client.get("/hello");
        match response.status {
            200 => served.push(client),
            status => {
                let fields = ["connection", "retry-after"].map(|name| response.header(name));
                assert_eq!((status, fields), (503, [Some("close"), Some("1")]));
                client.assert_closed();
                refused.push(client);
            }
        }
    }
    assert!(served.len() >= 15 && refused.len() >= 20, "{} and {}", served.len(), refused.len());
    served.iter_mut().for_each(|client| assert_eq!(client.get("/hello").status, 200));
    let counted: u64 = std::iter::repeat_with(|| {
        rig.order(ProxyOrder::Count, vec![]);
        rig.stats().connections.refused
    })
    .scan(0, |sum, refused| {
        *sum += refused;
        Some(*sum)
    })
    .find(|sum| *sum >= refused.len() as u64)
    .unwrap();
    assert_eq!(counted, refused.len() as u64);
    served.truncate(5);
    while rig.client().get("/hello").status != 200 {}
}
