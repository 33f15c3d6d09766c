//! What is counted adds up to what was sent and answered.

mod rig;

use std::collections::BTreeMap;

use decurion_api::spec::ServerTiming;
use decurion_ipc::control::{ProxyOrder, ProxySettings};
use decurion_ipc::stats::{Counts, ProxyStats, TrafficKey};
use rig::replica::{Behaviour, Command};
use rig::{Rig, settings};

/// Everything of several reports, by deployment and version.
fn sum(reports: &[ProxyStats]) -> BTreeMap<(String, String), Counts> {
    let mut sum: BTreeMap<(String, String), Counts> = BTreeMap::new();
    for traffic in reports.iter().flat_map(|report| &report.traffic) {
        let TrafficKey { deployment, version } = traffic.key.clone();
        let key = (deployment.map(|name| name.to_string()).unwrap_or_default(), version);
        sum.entry(key).or_default().merge(&traffic.counts);
    }
    sum
}

fn of<'s>(sum: &'s BTreeMap<(String, String), Counts>, deployment: &str, version: &str) -> &'s Counts {
    sum.get(&(deployment.to_owned(), version.to_owned())).unwrap_or_else(|| panic!("{sum:#?}"))
}

fn statuses(counts: &Counts) -> Vec<(u16, u64)> {
    let mut statuses = counts.statuses.clone();
    statuses.sort_unstable();
    statuses
}

#[test]
fn each_request_is_counted_once_under_what_it_was_answered_with() {
    let mut rig = Rig::new();
    let hello = rig.replica("a", 1, Behaviour::Hello);
    let holding = rig.replica("b", 1, Behaviour::Hold);
    let teapot = rig.replica("c", 1, Behaviour::Status(418));
    let failing = rig.replica("d", 1, Behaviour::Fail);
    rig.deployment("a", &[&hello], |_| {});
    rig.deployment("b", &[&holding], |view| {
        (view.max_ongoing_requests, view.max_queued_requests) = (1, Some(0))
    });
    rig.deployment("c", &[&teapot], |_| {});
    rig.deployment("d", &[&failing], |_| {});
    rig.apply();
    let mut answered: BTreeMap<u16, u64> = BTreeMap::new();
    for _ in 0..10 {
        let mut client = rig.client();
        let mut note = |status| *answered.entry(status).or_default() += 1;
        note(client.get("/a").status);
        note(client.request("POST", "/a", "", b"12345").response().status);
        note(client.get("/nowhere").status);
        note(client.get("/-/healthz").status);
        note(client.get("/c").status);
        note(client.get("/d").status);
        note(client.send("nonsense\r\n\r\n").response().status);
    }
    let mut held = rig.client();
    held.request("GET", "/b", "", b"");
    holding.next_open();
    assert_eq!(rig.client().get("/b").status, 503, "no queue");
    let late = rig.client().request("GET", "/b", "x-request-timeout-seconds: 0.01\r\n", b"").response();
    assert_eq!(late.status, 503);
    drop(held);
    holding.next_cancel();
    let reports = rig.end_with_stats();

    let sum = sum(&reports);
    assert_eq!(statuses(of(&sum, "a", "1")), [(200, 20)]);
    assert_eq!(of(&sum, "a", "1").bytes_in, 50);
    assert_eq!(of(&sum, "a", "1").bytes_out, 20 * 12);
    assert_eq!(statuses(of(&sum, "c", "1")), [(418, 10)]);
    assert_eq!(statuses(of(&sum, "d", "1")), [(500, 10)]);
    assert_eq!(statuses(of(&sum, "b", "1")), [(499, 1)]);
    assert_eq!(statuses(of(&sum, "b", "")), [(503, 2)]);
    assert_eq!(statuses(of(&sum, "", "")), [(200, 10), (400, 10), (404, 10)]);
    let mut counted: BTreeMap<u16, u64> = BTreeMap::new();
    for (status, count) in sum.values().flat_map(|counts| &counts.statuses) {
        *counted.entry(*status).or_default() += count;
    }
    *answered.entry(503).or_default() += 2;
    answered.insert(499, 1);
    assert_eq!(counted, answered);
    for counts in sum.values() {
        assert_eq!(counts.duration.count(), counts.requests());
    }
    assert_eq!((of(&sum, "a", "1").queue.count(), of(&sum, "a", "1").handler.count()), (20, 20));
    assert_eq!((of(&sum, "b", "1").queue.count(), of(&sum, "b", "1").handler.count()), (1, 0));
    let accepted: u64 = reports.iter().map(|report| report.connections.accepted).sum();
    assert_eq!(accepted, 13);
}

#[test]
fn a_request_that_waits_for_a_first_replica_is_told_of_at_once() {
    let mut rig = Rig::new();
    rig.deployment("a", &[], |_| {});
    rig.apply();
    let mut client = rig.client();
    client.request("GET", "/a", "", b"");
    let name = rig.view[0].name.clone();
    let told = std::iter::repeat_with(|| rig.stats()).find(|stats| !stats.waiting.is_empty()).unwrap();
    assert_eq!(told.waiting, [(name.clone(), 1)]);
    let replica = rig.replica("a", 1, Behaviour::Hello);
    rig.deployment("a", &[&replica], |_| {});
    rig.apply();
    assert_eq!(client.response().status, 200);
    let told = std::iter::repeat_with(|| rig.stats()).find(|stats| !stats.waiting.is_empty()).unwrap();
    assert_eq!(told.waiting, [(name, 0)]);
}

#[test]
fn a_request_that_moves_is_counted_where_it_ended() {
    let mut rig = Rig::new();
    let mut dying = rig.replica("a", 1, Behaviour::Hold);
    rig.deployment("a", &[&dying], |_| {});
    rig.apply();
    let (mut get, mut post) = (rig.client(), rig.client());
    get.request("GET", "/a", "", b"");
    dying.next_open();
    post.request("POST", "/a", "", b"x");
    dying.next_open();
    let other = rig.replica("a", 2, Behaviour::Hello);
    rig.deployment("a", &[&dying, &other], |_| {});
    rig.apply();
    dying.kill();
    assert_eq!((get.response().status, post.response().status), (200, 502));
    drop((get, post));
    let sum = sum(&rig.end_with_stats());
    let counts = of(&sum, "a", "1");
    assert_eq!((statuses(counts), counts.retries), (vec![(200, 1), (502, 1)], 1));
}

#[test]
fn connections_that_are_turned_away_are_counted_and_so_is_what_breaks_off() {
    let mut rig = Rig::with(ProxySettings { max_connections: 1, ..settings() });
    let partial = rig.replica("a", 1, Behaviour::Partial);
    rig.deployment("a", &[&partial], |_| {});
    rig.apply();
    let mut first = rig.client();
    first.request("GET", "/a", "", b"");
    assert_eq!(first.head().unwrap().status, 200);
    assert_eq!(rig.client().response().status, 503);
    drop(first);
    partial.next_cancel();
    let reports = rig.end_with_stats();
    let sum = sum(&reports);
    assert_eq!(statuses(of(&sum, "", "")), [(503, 1)]);
    assert_eq!((statuses(of(&sum, "a", "1")), of(&sum, "a", "1").cut), (vec![(200, 1)], 1));
    let refused: u64 = reports.iter().map(|report| report.connections.refused).sum();
    assert_eq!(refused, 1);
    assert_eq!(reports.last().unwrap().connections.open, 0);
}

#[test]
fn what_ends_without_a_drain_is_counted_within_its_second() {
    let (rig, replica) = Rig::serving("a", Behaviour::Hold);
    let mut client = rig.client();
    client.request("GET", "/a", "", b"");
    replica.next_open();
    replica.command(&Command::Answer(1));
    assert_eq!(client.response().status, 200);
    let told = std::iter::repeat_with(|| rig.stats()).find(|stats| !stats.traffic.is_empty()).unwrap();
    assert_eq!(told.traffic[0].counts.statuses, [(200, 1)]);
    rig.order(ProxyOrder::Drain(rig::WATCHDOG), vec![]);
}

/// The members of a `Server-Timing` field, in milliseconds.
fn timing(response: &rig::client::Response) -> Vec<(String, f64)> {
    let Some(field) = response.header("server-timing") else { return vec![] };
    let member = |member: &str| {
        let (name, value) = member.split_once(";dur=").unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    field.split(", ").map(member).collect()
}

#[test]
fn who_asks_is_told_where_the_time_went() {
    let mut rig = Rig::new();
    let hello = rig.replica("a", 1, Behaviour::Hello);
    let holding = rig.replica("b", 1, Behaviour::Hold);
    rig.deployment("a", &[&hello], |_| {});
    rig.deployment("b", &[&holding], |view| view.max_ongoing_requests = 1);
    rig.apply();
    let ask = "X-Server-Timing: 1\r\n";
    let mut client = rig.client();
    assert_eq!(timing(&client.get("/a")), []);
    assert_eq!(timing(&client.request("GET", "/a", "X-Server-Timing: 0\r\n", b"").response()), []);
    let names = |timing: &[(String, f64)]| timing.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let told = timing(&client.request("GET", "/a", ask, b"").response());
    assert_eq!(names(&told), ["queue", "handler", "total"]);
    assert!(told[0].1 + told[1].1 <= told[2].1 + 0.002, "{told:?}");
    assert_eq!(names(&timing(&client.request("GET", "/nowhere", ask, b"").response())), ["total"]);

    let (mut first, mut second) = (rig.client(), rig.client());
    first.request("GET", "/b", ask, b"");
    holding.next_open();
    second.request("GET", "/b", ask, b"");
    while !rig.stats().waiting.iter().any(|(_, count)| *count == 1) {}
    holding.command(&Command::Answer(1));
    assert_eq!(first.response().status, 200);
    holding.next_open();
    holding.command(&Command::Answer(1));
    let told = timing(&second.response());
    assert!(told[0].1 > 0.0, "it waited: {told:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one duration is measured against another")]
fn the_time_of_a_change_of_protocol_ends_with_its_101() {
    let mut rig = Rig::new();
    let echo = rig.replica("a", 1, Behaviour::Switch("echo"));
    rig.deployment("a", &[&echo], |_| {});
    rig.apply();
    let mut client = rig.client();
    let start = std::time::Instant::now();
    client.request("GET", "/a", "Connection: upgrade\r\nUpgrade: echo\r\n", b"");
    assert_eq!(client.head().unwrap().status, 101);
    let answered = start.elapsed();
    assert_eq!(client.send("word").take(4), b"word");
    // Longer than the answer took, however long that was.
    while start.elapsed() < answered * 3 {
        assert_eq!(client.send("more").take(4), b"more");
    }
    client.half_close();
    client.assert_closed();
    let sum = sum(&rig.end_with_stats());
    let counts = of(&sum, "a", "1");
    assert_eq!((statuses(counts), counts.cut), (vec![(101, 1)], 0));
    assert_eq!((counts.duration.count(), counts.handler.count()), (1, 1));
    assert!(counts.duration.sum() <= answered, "{:?} of {answered:?}", counts.duration.sum());
    assert!(counts.bytes_in >= 8 && counts.bytes_in == counts.bytes_out, "{counts:?}");
}

#[test]
fn the_settings_say_who_is_told() {
    for (server_timing, told) in [(ServerTiming::Off, [false; 2]), (ServerTiming::Always, [true; 2])] {
        let mut rig = Rig::with(ProxySettings { server_timing, ..rig::settings() });
        let hello = rig.replica("a", 1, Behaviour::Hello);
        rig.deployment("a", &[&hello], |_| {});
        rig.apply();
        for (fields, told) in ["", "X-Server-Timing: 1\r\n"].into_iter().zip(told) {
            let response = rig.client().request("GET", "/a", fields, b"").response();
            assert_eq!(!timing(&response).is_empty(), told, "{server_timing:?} {fields:?}");
        }
    }
}
