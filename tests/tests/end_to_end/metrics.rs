//! What is counted adds up to what was sent, and is written as collectors read it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use decurion_client::metrics::{Family, Sample, parse};
use decurion_tests::{World, library};

/// The families, strictly read.
fn scrape(world: &World) -> BTreeMap<String, Family> {
    let text = world.admin().metrics().expect("metrics");
    let families = parse(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    families.into_iter().map(|family| (family.name.clone(), family)).collect()
}

fn sum(families: &BTreeMap<String, Family>, family: &str, labels: &[(&str, &str)]) -> u64 {
    let samples = families.get(family).map(|family| family.samples.as_slice()).unwrap_or_default();
    samples.iter().filter(|sample| sample.has(labels)).map(whole).sum()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts, as the format has them")]
fn whole(sample: &Sample) -> u64 {
    sample.value as u64
}

/// Waits until so many requests have been counted.
fn until_counted(world: &World, requests: u64) -> BTreeMap<String, Family> {
    let counted = || sum(&scrape(world), "decurion_http_requests_total", &[]);
    let _ = world.until("every request to be counted", |_| counted() >= requests);
    let families = scrape(world);
    assert_eq!(sum(&families, "decurion_http_requests_total", &[]), requests, "{families:#?}");
    families
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
    let families = until_counted(&world, sent);

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
    let ends = [("deployment", "fail"), ("reason", "signal"), ("code", "6")];
    assert_eq!(sum(&families, "decurion_deployment_replica_ends_total", &ends), 2);
    assert!(sum(&families, "decurion_deployment_replica_starts_total", &[("deployment", "fail")]) >= 2);
    let running = [("deployment", "echo"), ("state", "RUNNING"), ("version", "v1")];
    assert_eq!(sum(&families, "decurion_deployment_replicas", &running), 2);
    assert_eq!(
        sum(&families, "decurion_deployment_status", &[("deployment", "echo"), ("status", "HEALTHY")]),
        1
    );
    assert_eq!(sum(&families, "decurion_replica_requests_total", &[("deployment", "echo")]), 50);
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
    let log = world.log();
    let said = log.lines().find_map(|line| line.split_once("metrics are at http://")).expect("the address");
    let address: SocketAddr = said.1.trim_end_matches("/metrics").parse().expect("an address");
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
    // The last ones are told at the next health check.
    let _ = world.until("all rows to be counted", |_| sum(&scrape(&world), "rows_total", &plain) == sent);
    let families = scrape(&world);
    assert_eq!(sum(&families, "rows_total", &plain), sent, "and no more");
    let sizes = &families["batch_size"].samples;
    let of = |name: &str| sizes.iter().filter(|sample| sample.name == name).map(whole).sum::<u64>();
    assert_eq!((of("batch_size_count"), of("batch_size_sum")), (60, sent));
    let up_to_five = sizes.iter().filter(|sample| sample.label("le") == "5").map(whole).sum::<u64>();
    assert_eq!(up_to_five, 5);
    assert!(families["last_batch_size"].samples.iter().any(|sample| whole(sample) == 60));
    assert_eq!(families["decurion_revision"].samples.len(), 1, "names of ours are not taken");
    let table = world.run(&["metrics", "rows"]).ok().stdout;
    assert!(table.contains("rows_total") && table.contains("kind=plain"), "{table}");
    let complaints = world.run(&["logs", "measures"]).ok().stdout;
    assert!(complaints.contains("the metric 'decurion_revision' is not taken"), "{complaints}");

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
    let batches = |families: &BTreeMap<String, Family>, cause: &str| {
        sum(
            families,
            "decurion_batches_total",
            &[("deployment", "batches"), ("method", "call"), ("cause", cause)],
        )
    };
    let found = |families: &BTreeMap<String, Family>, result: &str| {
        sum(families, "decurion_model_lookups_total", &[("deployment", "zoo"), ("result", result)])
    };
    let _ = world.until("all of it to be told", |_| {
        let families = scrape(&world);
        batches(&families, "size") + batches(&families, "time") == 4
            && found(&families, "hit") + found(&families, "miss") == 5
            && sum(&families, "decurion_models_held", &[]) == 2
            && sum(&families, "decurion_batch_waiting", &two_wait) == 0
    });
    let families = scrape(&world);
    assert_eq!((batches(&families, "size"), batches(&families, "time")), (3, 1));
    let of = |family: &str, name: &str| {
        let samples = families[family].samples.iter().filter(|sample| sample.name == name);
        samples.map(whole).sum::<u64>()
    };
    assert_eq!(of("decurion_batch_size", "decurion_batch_size_count"), 4);
    assert_eq!(of("decurion_batch_size", "decurion_batch_size_sum"), 14);
    assert_eq!(of("decurion_batch_wait_seconds", "decurion_batch_wait_seconds_count"), 4);
    assert_eq!((found(&families, "hit"), found(&families, "miss")), (1, 4));
    let loaded = [("deployment", "zoo"), ("outcome", "loaded")];
    assert_eq!(sum(&families, "decurion_model_loads_total", &loaded), 4);
    assert_eq!(sum(&families, "decurion_model_evictions_total", &[("deployment", "zoo")]), 2);
    assert_eq!(of("decurion_model_load_seconds", "decurion_model_load_seconds_count"), 4);
    assert!(
        families["decurion_batches_total"].samples.iter().all(|sample| !sample.label("replica").is_empty())
    );
}
