//! Load by hand: `cargo test --release -p decurion-proxy --test load -- --ignored --nocapture`, with wrk on the path.
//! The replica is a thread of this process, so figures are those of the proxy and one shared-memory hop.

mod rig;

use std::process::Command;

use rig::replica::Behaviour;
use rig::{Rig, settings};

use decurion_api::spec::AccessLog;
use decurion_ipc::control::ProxySettings;

/// Prints a line; how many requests a second there were.
fn wrk(rig: &Rig, connections: u32, path: &str) -> f64 {
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
    say(&format!("{connections:5} connections {path}: {}", line.join("  ")));
    let rate = line.iter().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.and_then(|rate| rate.trim().parse().ok()).expect("wrk tells the rate")
}

fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
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
        let _ = wrk(&rig, connections, "/hello");
    }
    for connections in [16, 256] {
        let _ = wrk(&rig, connections, "/queued");
    }
    let _ = wrk(&rig, 4, "/large");
    let _ = wrk(&rig, 64, "/-/healthz");
}

/// One kind of request alone, for counting instructions: `valgrind --tool=callgrind --separate-threads=yes` on the
/// test's program. Prints how many requests there were.
fn alone(access_log: AccessLog) {
    let folder = tempfile::tempdir().unwrap();
    let access_log_file = folder.path().join("access.log").to_str().map(str::to_owned);
    let mut rig = Rig::with(ProxySettings { workers: 1, access_log, access_log_file, ..settings() });
    let hello = rig.replica("hello", 1, Behaviour::Hello);
    rig.deployment("hello", &[&hello], |_| {});
    rig.apply();
    let _ = wrk(&rig, 64, "/hello");
    let reports = rig.end_with_stats();
    let traffic = reports.iter().flat_map(|report| &report.traffic);
    let requests: u64 = traffic.map(|traffic| traffic.counts.requests()).sum();
    say(&format!("{requests} requests"));
}

#[test]
#[ignore = "a measurement, with wrk and valgrind"]
fn hello_alone_without_access_log() {
    alone(AccessLog::Off);
}

#[test]
#[ignore = "a measurement, with wrk and valgrind"]
fn hello_alone_with_access_log() {
    alone(AccessLog::Text);
}

#[test]
#[ignore = "a measurement, with wrk and valgrind"]
fn hello_alone_with_json_access_log() {
    alone(AccessLog::Json);
}

#[test]
#[ignore = "a measurement, for a quiet machine with wrk"]
fn routes_under_load() {
    let rig = |others: usize| {
        let mut rig = Rig::with(ProxySettings { workers: 1, ..settings() });
        let hello = rig.replica("hello", 1, Behaviour::Hello);
        for number in 1..others {
            rig.deployment(&format!("other-{number}"), &[], |_| {});
        }
        rig.deployment("hello", &[&hello], |_| {});
        rig.apply();
        (rig, hello)
    };
    let rigs = [rig(10), rig(10_000)];
    let mut rates: [Vec<f64>; 2] = Default::default();
    for _ in 0..5 {
        for ((rig, _replica), (rates, routes)) in rigs.iter().zip(rates.iter_mut().zip(["10", "10,000"])) {
            say(&format!("{routes} routes:"));
            rates.push(wrk(rig, 64, "/hello"));
        }
    }
    let [few, many] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let (ratio, verdict) = (few / many, if few / many <= 1.1 { "met" } else { "**not met**" });
    say("| goal | what | measured | wanted | |");
    say(&format!("| H15 | requests/s with 10 routes / with 10,000 | {ratio:.3} | <= 1.1 | {verdict} |"));
}
