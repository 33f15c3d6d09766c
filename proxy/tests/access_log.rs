//! Each request has its line, however it ends.

mod rig;

use std::path::Path;

use decurion_api::spec::AccessLog;
use decurion_ipc::control::{ProxyOrder, ProxyReport, ProxySettings};
use rig::replica::{Behaviour, Command};
use rig::{Rig, WATCHDOG, settings};
use serde_json::Value;

fn logging(path: &Path, access_log: AccessLog) -> ProxySettings {
    let access_log_file = Some(path.to_str().unwrap().to_owned());
    ProxySettings { access_log, access_log_file, ..settings() }
}

/// Ends the proxy, so that everything is written.
fn end(rig: &mut Rig) {
    rig.order(ProxyOrder::Drain(WATCHDOG), vec![]);
    assert_eq!(rig.report(), ProxyReport::Drained);
    rig.ended.recv_timeout(WATCHDOG).unwrap().unwrap();
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_request_has_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let mut rig = Rig::with(logging(&path, AccessLog::Json));
    let replica = rig.replica("a", 1, Behaviour::Hello);
    let holding = rig.replica("b", 1, Behaviour::Hold);
    rig.deployment("a", &[&replica], |_| {});
    rig.deployment("b", &[&holding], |_| {});
    rig.apply();
    for _ in 0..20 {
        let mut client = rig.client();
        let fields = "Referer: http://r/?a\r\nX-Request-ID: mine\r\nUser-Agent: rig \"1\"\r\n";
        assert_eq!(client.request("GET", "/a/x?y=%22", fields, b"").response().status, 200);
        assert_eq!(client.get("/nowhere").status, 404);
        assert_eq!(client.request("POST", "/a", "", b"body").response().status, 200);
        assert_eq!(client.send("GET / HTTP/1.1\r\n\r\n").response().status, 400);
    }
    let mut left = rig.client();
    left.request("GET", "/b", "", b"");
    holding.next_open();
    drop(left);
    holding.next_cancel();
    let mut held = rig.client();
    held.request("GET", "/b", "", b"");
    holding.next_open();
    holding.command(&Command::Answer(2));
    assert_eq!(held.response().text(), "held");
    drop(held);
    end(&mut rig);

    let lines: Vec<Value> = lines(&path).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |status: u64| lines.iter().filter(|line| line["status"] == status).count();
    assert_eq!((count(200), count(404), count(400), count(499)), (41, 20, 20, 1));
    assert_eq!(lines.len(), 82);
    let mine = lines.iter().find(|line| line["request_id"] == "mine").unwrap();
    assert_eq!(mine["method"], "GET");
    assert_eq!(mine["target"], "/a/x?y=%22");
    assert_eq!(mine["deployment"], "a");
    assert_eq!(mine["replica"], replica.id.as_str());
    assert_eq!(mine["bytes"], 12);
    assert_eq!((&mine["referer"], &mine["user_agent"]), (&"http://r/?a".into(), &"rig \"1\"".into()));
    assert_eq!(mine["client"], "127.0.0.1");
    assert_eq!(mine["complete"], true);
    let gone = lines.iter().find(|line| line["status"] == 499).unwrap();
    assert_eq!((&gone["deployment"], &gone["complete"]), (&Value::from("b"), &Value::from(false)));
}

#[test]
fn it_can_be_turned_on_and_off_and_sampled() {
    let folder = tempfile::tempdir().unwrap();
    let (off, text, combined) =
        (folder.path().join("off"), folder.path().join("text"), folder.path().join("combined"));
    let mut rig = Rig::with(logging(&off, AccessLog::Off));
    let replica = rig.replica("a", 1, Behaviour::Hello);
    rig.deployment("a", &[&replica], |_| {});
    rig.apply();
    assert_eq!(rig.client().get("/a").status, 200);
    rig.configure(&logging(&text, AccessLog::Text), None);
    assert_eq!(rig.client().get("/a").status, 200);
    let mut none = logging(&combined, AccessLog::Combined);
    none.access_log_sample = 0.0;
    rig.configure(&none, None);
    assert_eq!(rig.client().get("/a").status, 200);
    rig.configure(&logging(&combined, AccessLog::Combined), None);
    assert_eq!(rig.client().get("/a").status, 200);
    end(&mut rig);

    assert!(!off.exists());
    let combined = lines(&combined);
    assert_eq!(combined.len(), 1);
    assert!(combined[0].contains("\"GET /a HTTP/1.1\" 200 12"), "{}", combined[0]);
}

#[test]
fn a_file_that_was_moved_away_is_made_again_when_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut rig = Rig::with(logging(&path, AccessLog::Text));
    let replica = rig.replica("a", 1, Behaviour::Hello);
    rig.deployment("a", &[&replica], |_| {});
    rig.apply();
    assert_eq!(rig.client().get("/a/before").status, 200);
    while lines(&path).is_empty() {
        std::thread::yield_now();
    }
    std::fs::rename(&path, &moved).unwrap();
    rig.order(ProxyOrder::ReopenLogs, vec![]);
    // The view comes after the order.
    rig.apply();
    assert_eq!(rig.client().get("/a/after").status, 200);
    end(&mut rig);
    assert!(lines(&moved)[0].contains("/a/before") && lines(&moved).len() == 1);
    assert!(lines(&path)[0].contains("/a/after"));
}
