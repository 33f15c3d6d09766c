//! The client against a scripted server: what it sends, and what it makes of each answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use decurion_api::admin::{ChangeAction, problem};
use serde_json::json;

use super::*;

/// Answers one request with `answer`; its thread returns the request's head and body.
struct Script {
    dir: tempfile::TempDir,
    served: JoinHandle<(String, Vec<u8>)>,
}

impl Script {
    fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let (dir, answer) = (tempfile::tempdir().unwrap(), answer.into());
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let served = std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                stream.read_line(&mut head).unwrap();
            }
            let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            let mut body = vec![0; len.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            stream.get_mut().write_all(&answer).unwrap();
            (head, body)
        });
        Self { dir, served }
    }

    fn json(status: &str, body: &Value) -> Self {
        let body = body.to_string();
        Self::answering(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\netag: \"7\"\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn admin(&self) -> Admin {
        Admin::new(self.dir.path().join("s"))
    }

    fn request(self) -> (String, Vec<u8>) {
        self.served.join().unwrap()
    }
}

fn name() -> DeploymentName {
    DeploymentName::new("model").unwrap()
}

#[test]
fn a_change_carries_its_condition_and_its_body() {
    let changes = json!([{ "deployment": "model", "action": "configure", "fields": ["num_replicas"] }]);
    let script = Script::json("200 OK", &json!({ "revision": 8, "dry_run": true, "changes": changes }));
    let condition = Condition { if_revision: Some(7), dry_run: true };
    let applied = script.admin().scale(&name(), 3, condition).unwrap();
    assert_eq!((applied.revision, applied.changes[0].action), (8, ChangeAction::Configure));
    let (head, body) = script.request();
    assert!(head.starts_with("POST /v1/deployments/model:scale?dry_run=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("if-match: \"7\"\r\n"), "{head}");
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({ "num_replicas": 3 }));
}

#[test]
fn a_configuration_comes_with_its_revision() {
    let script = Script::json("200 OK", &json!({ "name": "model" }));
    let read = script.admin().deployment(&name()).unwrap();
    assert_eq!(read, Revisioned { revision: Some(7), value: json!({ "name": "model" }) });
}

#[test]
fn a_refusal_is_a_problem_with_its_type() {
    let refusal =
        |kind: &str, status: u16| json!({ "type": kind, "title": "t", "status": status, "detail": "d" });
    let script = Script::json("404 Not Found", &refusal(problem::NOT_FOUND, 404));
    let error = script.admin().restart(&name(), Condition::default()).unwrap_err();
    assert!(error.is_not_found() && error.changed_nothing(), "{error:?}");
    let script = Script::json("412 Precondition Failed", &refusal(problem::REVISION_MISMATCH, 412));
    let error = script.admin().restart(&name(), Condition::default()).unwrap_err();
    assert!(error.is_revision_mismatch(), "{error:?}");
    assert_eq!(error.to_string(), "d");
}

#[test]
fn what_is_no_admin_api_is_said_to_be_none() {
    let script = Script::answering("HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello");
    assert!(matches!(script.admin().status(), Err(AdminError::Strange { .. })));
    let script = Script::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]");
    assert!(matches!(script.admin().version(), Err(AdminError::Strange { .. })));
    let script = Script::answering("SSH-2.0-OpenSSH\r\n");
    assert!(matches!(script.admin().version(), Err(AdminError::Broken { .. })));
}

#[test]
fn nobody_on_the_socket_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let error = Admin::new(dir.path().join("none")).status().unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

#[test]
fn a_library_is_sent_whole_with_its_length() {
    let digest = "0".repeat(64);
    let script = Script::json("200 OK", &json!({ "digest": digest, "classes": ["Model"] }));
    let library = script.dir.path().join("lib.so");
    let bytes: Vec<u8> = (0..600_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    std::fs::write(&library, &bytes).unwrap();
    let artifact = script.admin().upload(&library).unwrap();
    assert_eq!(artifact.digest, digest);
    let (head, body) = script.request();
    assert!(head.starts_with("POST /v1/artifacts HTTP/1.1\r\n"), "{head}");
    assert_eq!(body, bytes);
}

#[test]
fn a_library_that_is_no_file_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let error = Admin::new(dir.path().join("none")).upload(dir.path()).unwrap_err();
    assert!(matches!(error, AdminError::File { .. }), "{error:?}");
}

#[test]
fn a_stream_is_followed_to_its_end() {
    let line = |sequence: u64| {
        json!({ "sequence": sequence, "at_ms": 1, "deployment": "model", "replica": "model-1",
            "stream": "stdout", "text": "hi" })
    };
    let body = format!("data: {}\n\n: alive\n\ndata: {}\n\n", line(1), line(2));
    let script = Script::answering(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    let query = LogQuery { deployment: Some(name()), replica: None, since_ms: Some(5) };
    let lines: Vec<LogLine> = script.admin().follow_logs(&query).unwrap().map(Result::unwrap).collect();
    assert_eq!(lines.iter().map(|line| line.sequence).collect::<Vec<_>>(), [1, 2]);
    let (head, _) = script.request();
    assert!(head.starts_with("GET /v1/logs?follow=1&deployment=model&since_ms=5 HTTP/1.1\r\n"), "{head}");
}
