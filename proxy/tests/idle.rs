//! What a connection costs while it is idle. Alone in its process: memory is measured.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: how many it is told by the environment, and what it says is for people"
)]

mod rig;

use std::time::Instant;

use decurion_ipc::control::ProxySettings;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rig::Rig;
use rig::client::Client;
use rig::replica::Behaviour;

/// A proxy with so many workers that takes as many connections as there can be.
fn roomy(workers: u32, behaviour: Behaviour) -> (Rig, rig::replica::FakeReplica) {
    let mut rig = Rig::with(ProxySettings { workers, max_connections: 100_000, ..ProxySettings::default() });
    let replica = rig.replica("many", 1, behaviour);
    rig.deployment("many", &[&replica], |_| {});
    rig.apply();
    (rig, replica)
}

/// Resident memory of this process, of its own.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// What may be ours of an idle connection.
const IDLE_MAX: usize = 4096;

/// `DECURION_MANY` says how many (each needs two descriptors here); what is measured is printed.
#[test]
fn an_idle_connection_costs_little_and_its_neighbours_nothing() {
    const ALLOCATORS_OWN: usize = 2 << 20;
    let wanted = std::env::var("DECURION_MANY").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let idle = usize::min(wanted, (usize::try_from(hard).unwrap() - 300) / 2);
    if idle < wanted {
        println!("skipped: {wanted} connections; {idle} are what {hard} descriptors allow");
    }
    let (rig, _replica) = roomy(2, Behaviour::Hello);
    let serve = |client: &mut Client| assert_eq!(client.get("/many").text(), "Hello world!");
    let mut busy: Vec<Client> = (0..64).map(|_| rig.client()).collect();
    let mut round = || {
        let start = Instant::now();
        for _ in 0..20 {
            for client in &mut busy {
                client.request("GET", "/many", "", b"");
            }
            for client in &mut busy {
                assert_eq!(client.response().text(), "Hello world!");
            }
        }
        start.elapsed()
    };
    round();
    let alone = round();
    let before = resident();
    // Three requests each, one of them large: what they needed for those is not kept.
    let clients: Vec<std::net::TcpStream> = (0..idle)
        .map(|_| {
            let mut client = rig.client();
            serve(&mut client);
            let field = format!("X-Large: {}\r\n", "x".repeat(6000));
            client.request("GET", "/many", &field, b"");
            assert_eq!(client.response().status, 200);
            client.request("POST", "/many", "Transfer-Encoding: chunked\r\n", b"");
            let chunk = format!("1770\r\n{}\r\n0\r\n\r\n", "y".repeat(6000));
            assert_eq!(client.send(chunk).response().status, 200);
            client.stream
        })
        .collect();
    let each = resident().saturating_sub(before).saturating_sub(ALLOCATORS_OWN) / clients.len();
    let beside = round();
    println!(
        "{idle} idle connections: {each} bytes each; 64 busy ones: {alone:?} alone, {beside:?} beside them"
    );
    assert!(each <= IDLE_MAX, "{each} bytes each");
}
