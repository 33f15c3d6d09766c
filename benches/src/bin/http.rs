//! `cargo xtask bench http [WHAT..] [SECONDS] [ROUNDS]`: what `end_to_end` does not show, beside nginx where that can do it.
//!
//! WHAT: `answers` and `posts` of 1 MiB, `unread` (posts of 1 MiB that no handler reads), `steady` (latency at 70 % of the
//! best rate), `log` (access logs), `tls`, `many` (10,000 connections); all of them where nothing is said. Needs `wrk`,
//! `nginx` and `openssl`. Loopback only.

use std::process::{Command, ExitCode};
use std::time::Duration;

use decurion_benches::contest::median;
use decurion_benches::goal::Goals;
use decurion_benches::goal::Wanted::{AtLeast, AtMost};
use decurion_benches::http::servers::{binaries, has, status_kib, wait_until_up};
use decurion_benches::http::steady::{Steady, drive};
use decurion_benches::http::wrk::wrk;
use decurion_benches::http::{Entrant, Folder, Series, Server, say};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const OURS: &str = "127.0.0.1:18090";
const NGINX: &str = "127.0.0.1:18091";

/// Seconds and rounds.
type Span = (u32, u32);
type Bench = fn(&Folder, Span) -> Result<(), String>;

const ALL: [(&str, Bench); 7] = [
    ("answers", answers),
    ("posts", posts),
    ("unread", unread),
    ("steady", steady),
    ("log", log),
    ("tls", tls),
    ("many", many),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<u32>().ok());
    let span = (numbers.next().unwrap_or(3), numbers.next().unwrap_or(3));
    let chosen = |name: &str| arguments.iter().any(|argument| argument == name);
    let any = ALL.iter().any(|(name, _)| chosen(name));
    match measure(ALL.into_iter().filter(|(name, _)| !any || chosen(name)), span) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            say(&format!("http: {what}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(chosen: impl Iterator<Item = (&'static str, Bench)>, span: Span) -> Result<(), String> {
    for program in ["wrk", "nginx"] {
        if !has(program) {
            return Err(format!("{program} is not installed"));
        }
    }
    for (name, bench) in chosen {
        say(&format!("\n{name}:"));
        let folder = Folder::new().map_err(|error| error.to_string())?;
        bench(&folder, span)?;
    }
    Ok(())
}

/// One class of a library at `/a`, with these lines in `[http]`. As many may wait as there are connections.
fn ours(folder: &Folder, library: &str, class: &str, http: &str) -> Result<Server, String> {
    let library = binaries()?.join(library);
    let text = format!(
        "application = \"bench\"\n[http]\nlisten = \"{OURS}\"\n{http}\n[[deployment]]\nname = \"a\"\n\
         library = \"{}\"\nclass = \"{class}\"\nmax_queued_requests = -1\n",
        library.display()
    );
    Server::configured(folder, "ours", &text)
}

fn hello(folder: &Folder, http: &str) -> Result<Server, String> {
    ours(folder, "libhello.so", "hello", http)
}

fn entrant<'a>(
    name: &'static str,
    url: String,
    script: &'static str,
    start: impl Fn() -> Result<Server, String> + 'a,
) -> Entrant<'a> {
    Entrant { name, url, script, start: Box::new(start) }
}

fn run(folder: &Folder, entrants: &[Entrant<'_>], rows: &[u32], span: Span) -> Result<Series, String> {
    let series = Series::measure(folder, entrants, rows, span)?;
    series.print(entrants, rows);
    Ok(series)
}

const MIB: usize = 1 << 20;
const BULK_ROWS: [u32; 3] = [4, 16, 64];
const ANSWER: &str = "location / { default_type text/plain; return 200 \"Hello world!\\n\"; }";

fn bulk(folder: &Folder) -> Result<Server, String> {
    ours(folder, "libfixtures.so", "Bulk", "")
}

fn alone(folder: &Folder, server: &str) -> Result<Server, String> {
    Ok(Server::of(vec![folder.nginx("alone", &format!("server {{ listen {NGINX}; {server} }}"))?]))
}

fn answers(folder: &Folder, span: Span) -> Result<(), String> {
    let _ = folder.write("mib", vec![b'x'; MIB])?;
    let file = format!("sendfile on; tcp_nopush on; root {};", folder.path().display());
    let entrants = [
        entrant("decurion", format!("http://{OURS}/a/give"), "", || bulk(folder)),
        entrant("nginx proxy_pass", format!("http://{NGINX}/mib"), "", || {
            folder.nginx_proxy(NGINX, "", &file)
        }),
        entrant("nginx static", format!("http://{NGINX}/mib"), "", || alone(folder, &file)),
    ];
    let series = run(folder, &entrants, &BULK_ROWS, span)?;
    let mut goals = Goals::default();
    for (rival, wanted) in [("nginx proxy_pass", 1.0), ("nginx static", 0.8)] {
        judge_bulk(&series, "answers", rival, wanted, &mut goals);
    }
    goals.tell();
    Ok(())
}

const POST: &str = "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 1048576)";

fn posts(folder: &Folder, span: Span) -> Result<(), String> {
    let url = || format!("http://{NGINX}/");
    let streamed = "proxy_request_buffering off;";
    let entrants = [
        entrant("decurion", format!("http://{OURS}/a/take"), POST, || bulk(folder)),
        entrant("nginx proxy_pass", url(), POST, || folder.nginx_proxy(NGINX, "", ANSWER)),
        entrant("nginx proxy_pass, streamed", url(), POST, || folder.nginx_proxy(NGINX, streamed, ANSWER)),
    ];
    let series = run(folder, &entrants, &BULK_ROWS, span)?;
    let mut goals = Goals::default();
    for rival in ["nginx proxy_pass", "nginx proxy_pass, streamed"] {
        judge_bulk(&series, "posts", rival, 1.0, &mut goals);
    }
    goals.tell();
    Ok(())
}

fn judge_bulk(series: &Series, what: &str, rival: &'static str, wanted: f64, goals: &mut Goals) {
    for connections in BULK_ROWS {
        let rate = |name| series.middle(connections, name, |it| it.per_second);
        let what = format!("{what} of 1 MiB a second, {connections} connections: ours / {rival}");
        goals.add("H6", &what, rate("decurion") / rate(rival), AtLeast(wanted));
    }
}

fn unread(folder: &Folder, span: Span) -> Result<(), String> {
    let entrants = [
        entrant("decurion", format!("http://{OURS}/a"), POST, || bulk(folder)),
        entrant("nginx return", format!("http://{NGINX}/"), POST, || alone(folder, ANSWER)),
    ];
    run(folder, &entrants, &BULK_ROWS, span).map(drop)
}

const STEADY_CONNECTIONS: u32 = 64;
/// Part of the best rate.
const STEADY_PART: f64 = 0.7;

fn steady(folder: &Folder, (seconds, rounds): Span) -> Result<(), String> {
    let entrants = [
        entrant("decurion", format!("http://{OURS}/a"), "", || hello(folder, "")),
        entrant("nginx proxy_pass", format!("http://{NGINX}/"), "", || folder.nginx_proxy(NGINX, "", ANSWER)),
    ];
    let best = Series::measure(folder, &entrants, &[STEADY_CONNECTIONS], (seconds, rounds))?;
    say("\n| rate | server | answers/s | p50 us | p99 us | p99.9 us |\n|---|---|---|---|---|---|");
    let mut goals = Goals::default();
    for of in [0, 1] {
        let rate = STEADY_PART * best.middle(STEADY_CONNECTIONS, entrants[of].name, |it| it.per_second);
        let mut figures: [Vec<Steady>; 2] = Default::default();
        for _ in 0..rounds {
            for (entrant, figures) in entrants.iter().zip(&mut figures) {
                let _running = (entrant.start)()?;
                wait_until_up(folder, &entrant.url)?;
                let (address, path) = entrant.url["http://".len()..].split_once('/').unwrap_or_default();
                let address = address.parse().map_err(|error| format!("{error}"))?;
                let lasts = Duration::from_secs(u64::from(seconds));
                let driven = drive(address, &format!("/{path}"), STEADY_CONNECTIONS as usize, rate, lasts);
                figures.push(driven.map_err(|error| format!("{}: {error}", entrant.name))?);
            }
        }
        for (entrant, figures) in entrants.iter().zip(&figures) {
            let middle =
                |figure: fn(&Steady) -> f64| median(&mut figures.iter().map(figure).collect::<Vec<f64>>());
            say(&format!(
                "| 70 % of {}: {rate:.0} | {} | {:.0} | {:.0} | {:.0} | {:.0} |",
                entrants[of].name,
                entrant.name,
                middle(|it| it.per_second),
                middle(|it| it.p50_us),
                middle(|it| it.p99_us),
                middle(|it| it.p999_us),
            ));
        }
        let p99 =
            |at: usize| median(&mut figures[at].iter().map(|figure| figure.p99_us).collect::<Vec<f64>>());
        let what = format!("p99 at 70 % of the best rate of {}: ours / nginx proxy_pass", entrants[of].name);
        goals.add("H4", &what, p99(0) / p99(1), AtMost(1.0));
    }
    goals.tell();
    Ok(())
}

fn log(folder: &Folder, span: Span) -> Result<(), String> {
    let url = || format!("http://{OURS}/a");
    let file = folder.path().join("access.log").display().to_string();
    let logged = |form: &str| format!("access_log = \"{form}\"\naccess_log_file = \"{file}\"");
    let entrants = [
        entrant("no access log", url(), "", || hello(folder, "")),
        entrant("text", url(), "", || hello(folder, &logged("text"))),
        entrant("json", url(), "", || hello(folder, &logged("json"))),
        entrant("combined", url(), "", || hello(folder, &logged("combined"))),
    ];
    let series = run(folder, &entrants, &[64], span)?;
    let rate = |name| series.middle(64, name, |it| it.per_second);
    let mut goals = Goals::default();
    for form in ["text", "json", "combined"] {
        let lost = (1.0 - rate(form) / rate("no access log")) * 100.0;
        goals.add("H13", &format!("access log `{form}`: % fewer requests/s"), lost, AtMost(5.0));
    }
    goals.tell();
    Ok(())
}

fn tls(folder: &Folder, span: Span) -> Result<(), String> {
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out"])
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return Err("openssl made no certificate".to_owned());
    }
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let http = format!("tls = {{ cert = \"{cert}\", key = \"{key}\" }}");
    let listen = format!("{NGINX} ssl; ssl_certificate {cert}; ssl_certificate_key {key}");
    let file = format!("root {};", folder.path().display());
    let _ = folder.write("mib", vec![b'x'; MIB])?;
    let entrants = [
        entrant("decurion, TLS", format!("https://{OURS}/a"), "", || hello(folder, &http)),
        entrant("decurion, plain", format!("http://{OURS}/a"), "", || hello(folder, "")),
        entrant("nginx, TLS", format!("https://{NGINX}/"), "", || folder.nginx_proxy(&listen, "", ANSWER)),
        entrant("nginx, plain", format!("http://{NGINX}/"), "", || folder.nginx_proxy(NGINX, "", ANSWER)),
    ];
    let _ = run(folder, &entrants, &[64], span)?;
    say("\nthe same with answers of 1 MiB:");
    let entrants = [
        entrant("decurion, TLS", format!("https://{OURS}/a/give"), "", || {
            ours(folder, "libfixtures.so", "Bulk", &http)
        }),
        entrant("nginx, TLS", format!("https://{NGINX}/mib"), "", || folder.nginx_proxy(&listen, "", &file)),
    ];
    run(folder, &entrants, &[16], span).map(drop)
}

/// Connections that do nothing, or all that there are.
const MANY: u32 = 10_000;
const MANY_SECONDS: u32 = 60;
const BUSY: u32 = 64;

fn many(folder: &Folder, (seconds, rounds): Span) -> Result<(), String> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, limits.1, limits.1).map_err(|error| error.to_string())?;
    let url = format!("http://{OURS}/a");
    {
        let running = hello(folder, "")?;
        wait_until_up(folder, &url)?;
        let before = memory(&running);
        let sample = wrk(folder, &url, "", MANY, MANY_SECONDS)?;
        say(&format!(
            "wrk -t1 -c{MANY} -d{MANY_SECONDS}s: {:.0} requests/s, p50 {:.0} us, p99 {:.0} us, {} errors; memory of the \
             proxy in KiB: {before} before, {} at most",
            sample.per_second,
            sample.p50_us,
            sample.p99_us,
            sample.errors,
            memory_peak(&running)
        ));
    }
    let running = hello(folder, "")?;
    wait_until_up(folder, &url)?;
    let mut rates: [Vec<f64>; 2] = Default::default();
    let mut grown = Vec::new();
    for _ in 0..rounds {
        rates[0].push(wrk(folder, &url, "", BUSY, seconds)?.per_second);
        let before = memory(&running);
        let idle = idle(MANY).map_err(|error| format!("an idle connection: {error}"))?;
        grown.push(memory(&running).saturating_sub(before) as f64);
        rates[1].push(wrk(folder, &url, "", BUSY, seconds)?.per_second);
        drop(idle);
    }
    let [alone, beside] = rates.map(|mut rates| median(&mut rates));
    let each = median(&mut grown) / f64::from(MANY);
    say(&format!(
        "{BUSY} busy connections alone {alone:.0} requests/s, beside {MANY} idle ones {beside:.0}: {:.2}; the idle ones \
         cost the proxy {each:.1} KiB each",
        beside / alone,
    ));
    let mut goals = Goals::default();
    goals.add("H12", &format!("resident memory of each of {MANY} idle connections, KiB"), each, AtMost(4.0));
    goals.tell();
    Ok(())
}

/// Connections that have had one answer each.
fn idle(count: u32) -> std::io::Result<Vec<std::net::TcpStream>> {
    use std::io::{Read, Write};
    let mut open = Vec::new();
    for _ in 0..count {
        let mut stream = std::net::TcpStream::connect(OURS)?;
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut answer = [0; 1024];
        if stream.read(&mut answer)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        open.push(stream);
    }
    Ok(open)
}

fn proxy(server: &Server) -> Option<u32> {
    let is_proxy = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path.ends_with("decurion-proxy"))
    };
    server.tree().into_iter().find(is_proxy)
}

/// Resident KiB of the proxy.
fn memory(server: &Server) -> u64 {
    proxy(server).map_or(0, |pid| status_kib(pid, "VmRSS"))
}

fn memory_peak(server: &Server) -> u64 {
    proxy(server).map_or(0, |pid| status_kib(pid, "VmHWM"))
}
