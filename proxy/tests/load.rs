//! Load by hand: `cargo test --release -p decurion-proxy --test load -- --ignored --nocapture`, with wrk on the path.
//! The replica is a thread of this process, so figures are those of the proxy and one shared-memory hop.

mod rig;

use std::process::Command;

use rig::replica::Behaviour;
use rig::{Rig, settings};

use decurion_ipc::control::ProxySettings;

fn wrk(rig: &Rig, connections: u32, path: &str) {
    let url = format!("http://{}{path}", rig.address);
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), "-d3s", "--latency", &url])
        .output()
        .expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let kept = text.lines().filter(|line| {
        ["50%", "99%", "Requests/sec", "Transfer/sec", "Non-2xx", "Socket errors"]
            .iter()
            .any(|word| line.contains(word))
    });
    let line: Vec<&str> = kept.map(str::trim).collect();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("{connections:5} connections {path}: {}\n", line.join("  ")).as_bytes(),
    );
}

#[test]
#[ignore = "a measurement, for a quiet machine with wrk"]
fn hello_under_load() {
    let mut rig = Rig::with(ProxySettings { workers: 1, ..settings() });
    let hello = rig.replica("hello", 1, Behaviour::Hello);
    let queued = rig.replica("queued", 1, Behaviour::Hello);
    let large = rig.replica("large", 1, Behaviour::Large(1 << 20));
    rig.deployment("hello", &[&hello], |_| {});
    rig.deployment("queued", &[&queued], |view| view.max_ongoing_requests = 1);
    rig.deployment("large", &[&large], |_| {});
    rig.apply();
    for connections in [1, 16, 64, 256] {
        wrk(&rig, connections, "/hello");
    }
    for connections in [16, 256] {
        wrk(&rig, connections, "/queued");
    }
    wrk(&rig, 4, "/large");
    wrk(&rig, 64, "/-/healthz");
}
