//! `cargo xtask bench end_to_end [SECONDS] [ROUNDS] [CONNECTIONS..]`: wrk against a hello deployment, nginx and HAProxy,
//! in turn.
//!
//! Every server runs alone, rounds are interleaved (A B C, A B C, ..), and medians are printed as ratios to our own.
//! Servers: `decurion` (one replica), the same with `max_ongoing_requests = 1`, nginx `return 200` (one worker), nginx
//! `proxy_pass` to another nginx over a Unix socket, HAProxy (one thread) to the same. System calls per request of all of
//! a server's processes are counted in a run of their own, by `perf`. Needs `wrk`, `nginx` and `haproxy` (Debian packages);
//! a missing one is said and left out. Loopback only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

/// Connections of each row, one wrk thread.
const CONNECTIONS: [u32; 5] = [1, 16, 64, 256, 1024];
/// Those of the run in which system calls are counted.
const COUNTED: [u32; 3] = [1, 8, 64];
const OURS: &str = "127.0.0.1:18080";
const ONE_AT_ONCE: &str = "127.0.0.1:18083";
const HAPROXY: &str = "127.0.0.1:18084";
const STATIC: &str = "127.0.0.1:18081";
const PROXIED: &str = "127.0.0.1:18082";

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Sample {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us: f64,
    errors: u64,
}

/// A server that is ours to start and to end.
struct Server {
    processes: Vec<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // TERM, so that it ends its own children.
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<u32>().ok());
    let (seconds, rounds) = (arguments.next().unwrap_or(3), arguments.next().unwrap_or(3));
    let mut connections: Vec<u32> = arguments.collect();
    if connections.is_empty() {
        connections.extend(CONNECTIONS);
    }
    let folder = folder();
    let outcome = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(SCRIPT), TELL_P999));
    let outcome = outcome.map_err(|error| error.to_string());
    let outcome = outcome.and_then(|()| measure(&folder, seconds, rounds, &connections));
    let _ = fs::remove_dir_all(&folder);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            say(&format!("end_to_end: {what}"));
            ExitCode::FAILURE
        }
    }
}

/// What wrk does not tell by itself. Nothing of it runs for a request.
const TELL_P999: &str = "done = function(summary, latency, requests)\n\
    io.write(string.format(\"p999 %dus\\n\", latency:percentile(99.9)))\nend\n";
const SCRIPT: &str = "done.lua";

/// Of this run.
fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("decurion-bench-{}", std::process::id()))
}

#[expect(clippy::print_stdout, reason = "a bench prints its table")]
fn say(line: &str) {
    println!("{line}");
}

fn measure(folder: &Path, seconds: u32, rounds: u32, rows: &[u32]) -> Result<(), String> {
    if !has("wrk") {
        return Err("wrk is not installed (apt-get install wrk)".to_owned());
    }
    let mut servers = vec!["decurion", "decurion, 1 at once"];
    if has("nginx") {
        servers.extend(["nginx static", "nginx proxy_pass"]);
        if has("haproxy") {
            servers.push("haproxy");
        } else {
            say("haproxy is not installed (apt-get install haproxy): it is left out");
        }
    } else {
        say("nginx is not installed (apt-get install nginx-light): it is left out");
    }
    let mut samples: BTreeMap<(u32, &str), Vec<Sample>> = BTreeMap::new();
    for round in 1..=rounds {
        for server in &servers {
            let running = start(server, folder)?;
            let url = url(server);
            wait_until_up(&url)?;
            let _ = wrk(&url, 16, 1)?;
            for &connections in rows {
                let pids = tree(&running);
                let before = cpu_ticks(&pids);
                let mut sample = wrk(&url, connections, seconds)?;
                if sample.per_second == 0.0 {
                    let answers = "has answered nothing; are its programs of one build?";
                    return Err(format!("{server} at {connections} connections {answers}"));
                }
                let used = cpu_ticks(&pids).saturating_sub(before);
                // A tick is 10 ms; requests are the rate times the time.
                sample.cpu_us = used as f64 * 10_000.0 / (sample.per_second * f64::from(seconds)).max(1.0);
                samples.entry((connections, server)).or_default().push(sample);
            }
        }
        say(&format!("round {round} of {rounds} done"));
    }
    table(&servers, rows, &samples);
    system_calls(&servers, folder)
}

/// Of all processes of each server, per request; in a run of its own, since counting takes time.
fn system_calls(servers: &[&str], folder: &Path) -> Result<(), String> {
    if !has("perf") {
        say("\nperf is not installed: system calls are not counted");
        return Ok(());
    }
    say(&format!("\nsystem calls per request at {COUNTED:?} connections"));
    for server in servers {
        let running = start(server, folder)?;
        wait_until_up(&url(server))?;
        let mut cells = Vec::new();
        for connections in COUNTED {
            cells.push(
                calls(&running, &url(server), connections).map_or("-".to_owned(), |it| format!("{it:.2}")),
            );
        }
        say(&format!("| {server} | {} |", cells.join(" | ")));
    }
    Ok(())
}

fn calls(server: &Server, url: &str, connections: u32) -> Option<f64> {
    let pids: Vec<String> = tree(server).iter().map(u32::to_string).collect();
    let events = ["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &pids.join(","), "--"];
    let wrk = ["wrk", "-t1", &format!("-c{connections}"), "-d2s", url];
    let output = Command::new("perf").args(events).args(wrk).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("requests in"))?;
    let requests: f64 = line.split_whitespace().next()?.parse().ok()?;
    let counted = String::from_utf8_lossy(&output.stderr).into_owned();
    let counted = counted.lines().find(|line| line.contains("raw_syscalls"))?;
    Some(counted.split(',').next()?.parse::<f64>().ok()? / requests)
}

fn table(servers: &[&str], rows: &[u32], samples: &BTreeMap<(u32, &str), Vec<Sample>>) {
    say("");
    say(
        "| connections | server | requests/s | ours / its | p50 us | p99 us | p99.9 us | CPU us/request | errors |",
    );
    say("|---|---|---|---|---|---|---|---|---|");
    for &connections in rows {
        let middle = |server: &str, figure: fn(&Sample) -> f64| {
            let mut figures: Vec<f64> =
                samples.get(&(connections, server)).into_iter().flatten().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
        };
        for server in servers {
            let rate = middle(server, |it| it.per_second);
            let errors: u64 =
                samples.get(&(connections, server)).into_iter().flatten().map(|it| it.errors).sum();
            say(&format!(
                "| {connections} | {server} | {rate:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} | {errors} |",
                middle("decurion", |it| it.per_second) / rate,
                middle(server, |it| it.p50_us),
                middle(server, |it| it.p99_us),
                middle(server, |it| it.p999_us),
                middle(server, |it| it.cpu_us),
            ));
        }
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn url(server: &str) -> String {
    match server {
        "decurion" => format!("http://{OURS}/api"),
        "decurion, 1 at once" => format!("http://{ONE_AT_ONCE}/api"),
        "haproxy" => format!("http://{HAPROXY}/"),
        "nginx static" => format!("http://{STATIC}/"),
        _ => format!("http://{PROXIED}/"),
    }
}

fn start(server: &str, folder: &Path) -> Result<Server, String> {
    let spawn = |command: &mut Command| {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        spawned.map_err(|error| format!("can't start {server}: {error}"))
    };
    let nginx = |name: &str, server_block: &str| -> Result<Child, String> {
        let path = folder.join(format!("{name}.conf"));
        let text = format!(
            "worker_processes 1; daemon off; pid {0}/{name}.pid; error_log /dev/null;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}/b; proxy_temp_path {0}/p;\n\
             fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n{server_block}\n}}\n",
            folder.display()
        );
        fs::write(&path, text).map_err(|error| error.to_string())?;
        spawn(Command::new("nginx").arg("-c").arg(&path))
    };
    let answer = "location / { default_type text/plain; return 200 \"Hello world!\\n\"; }";
    let processes = match server {
        "decurion" | "decurion, 1 at once" => {
            let binaries = binaries()?;
            let hello = binaries.join("libhello.so");
            let mut command = Command::new(binaries.join("decurion"));
            let address = if server == "decurion" { OURS } else { ONE_AT_ONCE };
            command.args(["run", "--listen", address]).arg(&hello).args(["--route-prefix", "/api"]);
            if server != "decurion" {
                command.args(["--max-ongoing-requests", "1"]);
            }
            vec![spawn(&mut command)?]
        }
        "nginx static" => vec![nginx("static", &format!("server {{ listen {STATIC}; {answer} }}"))?],
        _ => {
            let socket = folder.join("upstream.sock");
            let _ = fs::remove_file(&socket);
            let socket = socket.display();
            let upstream = nginx("upstream", &format!("server {{ listen unix:{socket}; {answer} }}"))?;
            if server == "haproxy" {
                let path = folder.join("haproxy.cfg");
                let text = format!(
                    "global\n nbthread 1\n maxconn 8192\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
                     timeout server 60s\n option http-keep-alive\n http-reuse always\nfrontend f\n bind {HAPROXY}\n \
                     default_backend b\nbackend b\n server s unix@{socket}\n"
                );
                fs::write(&path, text).map_err(|error| error.to_string())?;
                let haproxy = spawn(Command::new("haproxy").arg("-db").arg("-f").arg(&path))?;
                return Ok(Server { processes: vec![upstream, haproxy] });
            }
            let block = format!(
                "upstream u {{ server unix:{socket}; keepalive 64; keepalive_requests 1000000000; }}\n\
                 server {{ listen {PROXIED}; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; }} }}"
            );
            vec![upstream, nginx("proxy", &block)?]
        }
    };
    Ok(Server { processes })
}

/// Folder of this bench's own binary, where the release build put the others.
fn binaries() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    own.parent().map(Path::to_path_buf).ok_or_else(|| "no folder of binaries".to_owned())
}

/// Retries by the clock of wrk itself: each attempt takes a second at most.
fn wait_until_up(url: &str) -> Result<(), String> {
    let address = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    for _ in 0..10_000 {
        if std::net::TcpStream::connect(address).is_ok() && wrk(url, 1, 1).is_ok_and(|it| it.errors == 0) {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(format!("{url} does not answer"))
}

fn wrk(url: &str, connections: u32, seconds: u32) -> Result<Sample, String> {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
        .arg(folder().join(SCRIPT))
        .arg(url)
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
        line.split_whitespace().last().map(str::to_owned)
    };
    let errors = |line: &str| -> u64 {
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|it| it.parse::<u64>().ok()).sum()
    };
    let failed = text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    Ok(Sample {
        per_second: value("Requests/sec:").and_then(|it| it.parse().ok()).ok_or("wrk gave no rate")?,
        p50_us: value("50%").and_then(|it| micros(&it)).unwrap_or(f64::NAN),
        p99_us: value("99%").and_then(|it| micros(&it)).unwrap_or(f64::NAN),
        p999_us: value("p999").and_then(|it| micros(&it)).unwrap_or(f64::NAN),
        cpu_us: f64::NAN,
        errors: failed.map(errors).sum(),
    })
}

/// wrk writes `93.00us`, `1.20ms`, `2.00s`.
fn micros(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "us" => Some(number),
        "ms" => Some(number * 1_000.0),
        "s" => Some(number * 1_000_000.0),
        _ => None,
    }
}

/// The server's processes and all their descendants.
fn tree(server: &Server) -> Vec<u32> {
    let mut parents: BTreeMap<u32, u32> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default();
        if let Some(parent) = after.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()) {
            parents.insert(pid, parent);
        }
    }
    let mut found: Vec<u32> = server.processes.iter().map(Child::id).collect();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// User and system time of these processes, in clock ticks (proc(5), fields 14 and 15).
fn cpu_ticks(pids: &[u32]) -> u64 {
    let ticks = |pid: &u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default().to_owned();
        after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
    };
    pids.iter().map(ticks).sum()
}
