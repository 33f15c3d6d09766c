//! `cargo xtask bench end_to_end [SECONDS] [ROUNDS] [CONNECTIONS..]`: wrk against a hello deployment, nginx and HAProxy,
//! in turn.
//!
//! Every server runs alone, rounds are interleaved (A B C, A B C, ..), and medians are printed as ratios to our own.
//! Servers: `decurion` (one replica), the same with `max_ongoing_requests = 1`, nginx `return 200` (one worker), nginx
//! `proxy_pass` to another nginx over a Unix socket, HAProxy (one thread) to the same. System calls per request of all of
//! a server's processes are counted in a run of their own, by `perf`. Needs `wrk`, `nginx` and `haproxy` (Debian packages);
//! a missing one is said and left out. Loopback only.

use std::process::{Command, ExitCode};

use decurion_benches::http::servers::{binaries, has, spawn, wait_until_up};
use decurion_benches::http::{Entrant, Folder, Series, Server, say};

/// Connections of each row, one wrk thread.
const CONNECTIONS: [u32; 5] = [1, 16, 64, 256, 1024];
/// Those of the run in which system calls are counted.
const COUNTED: [u32; 3] = [1, 8, 64];
const OURS: &str = "127.0.0.1:18080";
const ONE_AT_ONCE: &str = "127.0.0.1:18083";
const HAPROXY: &str = "127.0.0.1:18084";
const STATIC: &str = "127.0.0.1:18081";
const PROXIED: &str = "127.0.0.1:18082";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<u32>().ok());
    let (seconds, rounds) = (arguments.next().unwrap_or(3), arguments.next().unwrap_or(3));
    let mut connections: Vec<u32> = arguments.collect();
    if connections.is_empty() {
        connections.extend(CONNECTIONS);
    }
    let folder = Folder::new().map_err(|error| error.to_string());
    match folder.and_then(|folder| measure(&folder, seconds, rounds, &connections)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            say(&format!("end_to_end: {what}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(folder: &Folder, seconds: u32, rounds: u32, rows: &[u32]) -> Result<(), String> {
    if !has("wrk") {
        return Err("wrk is not installed (apt-get install wrk)".to_owned());
    }
    let mut names = vec!["decurion", "decurion, 1 at once"];
    if has("nginx") {
        names.extend(["nginx static", "nginx proxy_pass"]);
        if has("haproxy") {
            names.push("haproxy");
        } else {
            say("haproxy is not installed (apt-get install haproxy): it is left out");
        }
    } else {
        say("nginx is not installed (apt-get install nginx-light): it is left out");
    }
    let entrants: Vec<Entrant<'_>> = names
        .into_iter()
        .map(|name| Entrant {
            name,
            url: url(name),
            script: "",
            start: Box::new(move || start(name, folder)),
        })
        .collect();
    Series::measure(folder, &entrants, rows, (seconds, rounds))?.print(&entrants, rows);
    system_calls(&entrants, folder)
}

/// Of all processes of each server, per request; in a run of its own, since counting takes time.
fn system_calls(entrants: &[Entrant<'_>], folder: &Folder) -> Result<(), String> {
    if !has("perf") {
        say("\nperf is not installed: system calls are not counted");
        return Ok(());
    }
    say(&format!("\nsystem calls per request at {COUNTED:?} connections"));
    for Entrant { name, url, start, .. } in entrants {
        let running = start()?;
        wait_until_up(folder, url)?;
        let mut cells = Vec::new();
        for connections in COUNTED {
            cells.push(calls(&running, url, connections).map_or("-".to_owned(), |it| format!("{it:.2}")));
        }
        say(&format!("| {name} | {} |", cells.join(" | ")));
    }
    Ok(())
}

fn calls(server: &Server, url: &str, connections: u32) -> Option<f64> {
    let pids: Vec<String> = server.tree().iter().map(u32::to_string).collect();
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

fn url(server: &str) -> String {
    match server {
        "decurion" => format!("http://{OURS}/api"),
        "decurion, 1 at once" => format!("http://{ONE_AT_ONCE}/api"),
        "haproxy" => format!("http://{HAPROXY}/"),
        "nginx static" => format!("http://{STATIC}/"),
        _ => format!("http://{PROXIED}/"),
    }
}

fn start(server: &str, folder: &Folder) -> Result<Server, String> {
    let answer = "location / { default_type text/plain; return 200 \"Hello world!\\n\"; }";
    match server {
        "decurion" | "decurion, 1 at once" => {
            let hello = binaries()?.join("libhello.so").display().to_string();
            let one_at_once = server != "decurion";
            let address = if one_at_once { ONE_AT_ONCE } else { OURS };
            let mut arguments = vec!["run", "--listen", address, &hello, "--route-prefix", "/api"];
            if one_at_once {
                arguments.extend(["--max-ongoing-requests", "1"]);
            }
            Server::decurion(arguments)
        }
        "nginx static" => {
            Ok(Server::of(vec![folder.nginx("static", &format!("server {{ listen {STATIC}; {answer} }}"))?]))
        }
        "haproxy" => {
            let (upstream, socket) = folder.upstream(answer)?;
            let text = format!(
                "global\n nbthread 1\n maxconn 8192\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
                 timeout server 60s\n option http-keep-alive\n http-reuse always\nfrontend f\n bind {HAPROXY}\n \
                 default_backend b\nbackend b\n server s unix@{socket}\n"
            );
            let path = folder.write("haproxy.cfg", text)?;
            let haproxy = spawn(Command::new("haproxy").arg("-db").arg("-f").arg(&path))?;
            Ok(Server::of(vec![upstream, haproxy]))
        }
        _ => folder.nginx_proxy(PROXIED, "", answer),
    }
}
