//! What is counted adds up to what was sent, and is written as collectors read it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use decurion_client::metrics::{Family, Sample, parse};
use decurion_tests::{World, eventually, library};

/// The families, strictly read.
fn scrape(world: &World) -> Families {
    let text = world.admin().metrics().expect("metrics");
    let families = parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    families.into_iter().map(|family| (family.name.clone(), family)).collect()
}

fn sum(families: &Families, family: &str, labels: &[(&str, &str)]) -> u64 {
    let samples = families.get(family).map(|family| family.samples.as_slice()).unwrap_or_default();
    samples.iter().filter(|sample| sample.has(labels)).map(whole).sum()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, as the format has them")]
fn whole(sample: &Sample) -> u64 {
    sample.value as u64
}

type Families = BTreeMap<String, Family>;

/// Waits until what is told is as it must be in the end, and gives all that was told then. Workers and replicas tell each at
/// its own time, and a measure of one request may be told before another of the same.
fn until_told<T: PartialEq + Debug>(world: &World, told: impl Fn(&Families) -> T, expected: &T) -> Families {
    let found = RefCell::default();
    world.until_alone(&format!("{expected:?} is told"), |_| {
        let families = scrape(world);
        let now = told(&families);
        if now == *expected {
            found.replace(families);
            return Ok(());
        }
        Err(format!("{now:?}"))
    });
    found.into_inner()
}

/// Waits until so many requests have been counted.
fn until_counted(world: &World, requests: u64) -> Families {
    until_told(world, |families| sum(families, "decurion_http_requests_total", &[]), &requests)
}

fn fixtures(world: &World) {
    let library = library("fixtures");
    let config = format!(
        "application = \"app\"\n\
         [[deployment]]\nname = \"echo\"\nlibrary = \"{library}\"\nclass = \"Echo\"\nnum_replicas = 2\nversion = \"v1\"\n\
         [[deployment]]\nname = \"fail\"\nlibrary = \"{library}\"\nclass = \"Fail\"\nversion = \"v1\"\n",
        library = library.display()
    );
    let _ = world.deploy(&config).ok();
}

#[test]
fn every_request_is_counted_once_under_its_status() {
    let world = World::start();
    fixtures(&world);
    let mut answered: BTreeMap<u16, u64> = BTreeMap::new();
    let mut note = |status| *answered.entry(status).or_default() += 1;
    for _ in 0..25 {
        note(world.get("/echo").status);
        note(world.post("/echo", b"12345678").status);
        note(world.get("/fail").status);
        note(world.get("/fail/status").status);
        note(world.get("/fail/panic").status);
        note(world.get("/nowhere").status);
        note(world.get("/-/healthz").status);
        let mut connection = world.connect();
        connection.send(b"GET /echo HTTP/1.1\r\n\r\n").expect("sent");
        note(connection.read().expect("an answer").status);
    }
    note(world.get("/fail/abort").status);
    let sent: u64 = answered.values().sum();
    let ends = [("deployment", "fail"), ("reason", "signal"), ("code", "6")];
    let told = |families: &Families| {
        let [all, of_echo, ends] = [
            ("decurion_http_requests_total", &[][..]),
            ("decurion_replica_requests_total", &[("deployment", "echo")]),
            ("decurion_deployment_replica_ends_total", &ends),
        ]
        .map(|(family, labels)| sum(families, family, labels));
        (all, of_echo, ends)
    };
    let families = until_told(&world, told, &(sent, 50, 2));

    for (status, count) in &answered {
        let label = status.to_string();
        assert_eq!(sum(&families, "decurion_http_requests_total", &[("status", &label)]), *count, "{status}");
    }
    let requests = |labels: &[(&str, &str)]| sum(&families, "decurion_http_requests_total", labels);
    let echo = [("application", "app"), ("deployment", "echo"), ("version", "v1"), ("status", "200")];
    assert_eq!(requests(&echo), 50);
    assert_eq!(requests(&[("deployment", "fail"), ("status", "422")]), 25);
    assert_eq!(requests(&[("deployment", "fail"), ("status", "500")]), 25);
    assert_eq!(requests(&[("deployment", "fail"), ("status", "502")]), 1, "twice tried, and twice aborted");
    assert_eq!(requests(&[("deployment", ""), ("status", "400")]), 25);
    assert_eq!(requests(&[("deployment", ""), ("status", "404")]), 25);
    assert_eq!(sum(&families, "decurion_http_request_retries_total", &[("deployment", "fail")]), 1);
    assert_eq!(sum(&families, "decurion_http_request_body_bytes_total", &[("deployment", "echo")]), 200);
    for histogram in ["duration", "queue", "handler"] {
        let name = format!("decurion_http_request_{histogram}_seconds");
        let count = |labels: &[(&str, &str)]| {
            let samples = families[&name].samples.iter().filter(|sample| sample.name.ends_with("_count"));
            samples.filter(|sample| sample.has(labels)).map(whole).sum::<u64>()
        };
        assert_eq!(count(&[("deployment", "echo")]), 50, "{histogram}");
        if histogram == "duration" {
            assert_eq!(count(&[]), sent);
        }
    }
    assert!(sum(&families, "decurion_deployment_replica_starts_total", &[("deployment", "fail")]) >= 2);
    let running = [("deployment", "echo"), ("state", "RUNNING"), ("version", "v1")];
    assert_eq!(sum(&families, "decurion_deployment_replicas", &running), 2);
    assert_eq!(
        sum(&families, "decurion_deployment_status", &[("deployment", "echo"), ("status", "HEALTHY")]),
        1
    );
    for process in ["supervisor", "proxy", "replica"] {
        let resident = sum(&families, "decurion_process_resident_memory_bytes", &[("process", process)]);
        assert!(resident > 1 << 20, "{process}: {resident}");
    }
}

#[test]
fn counts_survive_the_proxy_and_go_with_a_deployment() {
    let world = World::start();
    fixtures(&world);
    assert_eq!(world.get("/echo").status, 200);
    let _ = until_counted(&world, 1);
    let proxy = world.status().proxy.pid.expect("a proxy");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(proxy), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    let _ = world.until("another proxy", |status| status.proxy.ready && status.proxy.pid != Some(proxy));
    assert_eq!(world.get("/echo").status, 200);
    let families = until_counted(&world, 2);
    assert_eq!(sum(&families, "decurion_proxy_restarts_total", &[]), 1);
    let _ = world.run(&["delete", "echo"]).ok();
    let families = scrape(&world);
    assert_eq!(sum(&families, "decurion_deployment_target_replicas", &[("deployment", "echo")]), 0);
    assert!(
        families["decurion_deployment_status"]
            .samples
            .iter()
            .all(|sample| !sample.has(&[("deployment", "echo")]))
    );
}

#[test]
fn metrics_are_had_over_tcp_where_that_is_asked_for() {
    let world = World::start_as("", &["--metrics-listen", "127.0.0.1:0"]);
    let address = || -> Option<SocketAddr> {
        let log = world.log();
        let said = log
            .lines()
            .find_map(|line| line.split_once("metrics are at http://")?.1.strip_suffix("/metrics"));
        said.and_then(|address| address.parse().ok())
    };
    // It serves by the time that it says so, and may serve before.
    eventually("the address is said", || address().is_some());
    let address = address().expect("it was said");
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).expect("a connection");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("decurion_build_info{version="), "{answer}");
    for path in ["/v1/status", "/v1/shutdown", "/"] {
        assert!(get(path).starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[test]
fn the_command_shows_them() {
    let world = World::start();
    fixtures(&world);
    assert_eq!(world.get("/echo").status, 200);
    let _ = until_counted(&world, 1);
    let raw = world.run(&["metrics", "--raw"]).ok().stdout;
    assert!(parse(&raw).is_ok_and(|families| families.len() > 20), "{raw}");
    let table = world.run(&["metrics", "http_requests"]).ok().stdout;
    assert!(table.contains("deployment=echo status=200 version=v1"), "{table}");
    let json = world.run(&["-o", "json", "metrics", "http_requests_total"]).ok().json();
    assert_eq!(json[0]["value"], 1.0);
    let top = world.run(&["top", "--interval", "100ms"]).ok().stdout;
    assert!(top.contains("echo") && top.contains("(proxy)"), "{top}");
    let rows = world.run(&["-o", "json", "top", "--interval", "100ms"]).ok().json();
    assert_eq!(rows[0]["name"], "echo");
    assert_eq!(rows[0]["replicas"], 2);
    assert!(rows[0]["rss_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{rows}");
}

#[test]
fn what_a_library_measures_adds_up_over_its_replicas() {
    let world = World::start();
    let library = library("fixtures");
    let config = format!(
        "application = \"app\"\n[[deployment]]\nname = \"measures\"\nlibrary = \"{}\"\nclass = \"Measures\"\nnum_replicas = 2\n\
         health_check_period_s = 0.2\n",
        library.display()
    );
    let _ = world.deploy(&config).ok();
    let mut sent = 0;
    for rows in 1..=60u64 {
        assert_eq!(world.post("/measures", rows.to_string().as_bytes()).status, 200);
        sent += rows;
    }
    let plain = [("deployment", "measures"), ("kind", "plain")];
    let told = |families: &Families| {
        let sizes = families.get("batch_size").map(|it| it.samples.as_slice()).unwrap_or_default();
        let of = |name: &str| sizes.iter().filter(|sample| sample.name == name).map(whole).sum::<u64>();
        let up_to_five = sizes.iter().filter(|sample| sample.label("le") == "5").map(whole).sum::<u64>();
        let last = families.get("last_batch_size").map(|it| it.samples.iter().any(|it| whole(it) == 60));
        let rows = sum(families, "rows_total", &plain);
        (rows, of("batch_size_count"), of("batch_size_sum"), up_to_five, last)
    };
    // The last ones are told at the next health check.
    let families = until_told(&world, told, &(sent, 60, sent, 5, Some(true)));
    assert_eq!(families["decurion_revision"].samples.len(), 1, "names of ours are not taken");
    let table = world.run(&["metrics", "rows"]).ok().stdout;
    assert!(table.contains("rows_total") && table.contains("kind=plain"), "{table}");
    let complaint = "the metric 'decurion_revision' is not taken";
    eventually(complaint, || world.run(&["logs", "measures"]).ok().stdout.contains(complaint));

    let _ = world.run(&["delete", "measures"]).ok();
    let _ = world.until("its series to go with it", |_| !scrape(&world).contains_key("rows_total"));
}

#[test]
fn batches_and_models_are_measured_by_the_sdk() {
    let world = World::start();
    let config = format!(
        "application = \"app\"\n\
         [[deployment]]\nname = \"batches\"\nlibrary = \"{library}\"\nclass = \"Batches\"\nhealth_check_period_s = 0.2\n\
         [[deployment]]\nname = \"zoo\"\nlibrary = \"{library}\"\nclass = \"Zoo\"\nargs = [2]\nthreads = 1\nhealth_check_period_s = 0.2\n",
        library = library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    // Twelve requests are three full batches, whoever they are answered with.
    let ask = |body: &'static [u8]| {
        let mut connection = world.connect();
        connection.request("POST", "/batches", &[], body).expect("sent");
        connection
    };
    for _ in 0..3 {
        let waiting: Vec<_> = (0..4).map(|_| ask(b"x")).collect();
        for mut connection in waiting {
            assert_eq!(connection.read().expect("an answer").text(), "x of 4");
        }
    }
    // Two more wait, until the configuration says that they have waited long enough.
    let waiting: Vec<_> = (0..2).map(|_| ask(b"y")).collect();
    let two_wait = [("deployment", "batches"), ("method", "call")];
    let _ = world
        .until("two to be seen to wait", |_| sum(&scrape(&world), "decurion_batch_waiting", &two_wait) == 2);
    let config = "{ \"batch\": { \"call\": { \"max\": 3, \"wait\": \"1us\" } } }";
    let _ = world.run(&["reconfigure", "batches", config]).ok();
    for mut connection in waiting {
        assert_eq!(connection.read().expect("an answer").text(), "y of 2");
    }
    // a: loaded; a: held; b: loaded; c: loaded in place of a; a: loaded in place of b.
    for model in ["a", "a", "b", "c", "a"] {
        let mut connection = world.connect();
        let headers = [("serve_multiplexed_model_id", model)];
        connection.request("GET", "/zoo", &headers, b"").expect("sent");
        assert_eq!(connection.read().expect("an answer").status, 200);
    }
    let told = |families: &Families| {
        let batches = |cause| {
            let labels = [("deployment", "batches"), ("method", "call"), ("cause", cause)];
            sum(families, "decurion_batches_total", &labels)
        };
        let found = |result| {
            sum(families, "decurion_model_lookups_total", &[("deployment", "zoo"), ("result", result)])
        };
        let of = |family: &str, name: &str| {
            let samples = families.get(family).map(|it| it.samples.as_slice()).unwrap_or_default();
            samples.iter().filter(|it| it.name == format!("{family}{name}")).map(whole).sum::<u64>()
        };
        let loaded = [("deployment", "zoo"), ("outcome", "loaded")];
        [
            ("full batches", batches("size")),
            ("batches that waited", batches("time")),
            ("batches with a size", of("decurion_batch_size", "_count")),
            ("rows", of("decurion_batch_size", "_sum")),
            ("batches with a wait", of("decurion_batch_wait_seconds", "_count")),
            ("waiting", sum(families, "decurion_batch_waiting", &two_wait)),
            ("hits", found("hit")),
            ("misses", found("miss")),
            ("loads", sum(families, "decurion_model_loads_total", &loaded)),
            ("loads with a duration", of("decurion_model_load_seconds", "_count")),
            ("evictions", sum(families, "decurion_model_evictions_total", &[("deployment", "zoo")])),
            ("models held", sum(families, "decurion_models_held", &[])),
        ]
        .map(|(what, count)| format!("{what}: {count}"))
    };
    let expected = [
        "full batches: 3",
        "batches that waited: 1",
        "batches with a size: 4",
        "rows: 14",
        "batches with a wait: 4",
        "waiting: 0",
        "hits: 1",
        "misses: 4",
        "loads: 4",
        "loads with a duration: 4",
        "evictions: 2",
        "models held: 2",
    ];
    let families = until_told(&world, told, &expected.map(str::to_owned));
    assert!(
        families["decurion_batches_total"].samples.iter().all(|sample| !sample.label("replica").is_empty())
    );
}
