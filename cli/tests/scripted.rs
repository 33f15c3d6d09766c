//! The built command against a scripted supervisor: what it asks, what it makes of the answers, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Method, path with query, `If-Match`, body.
type Asked = (String, String, Option<String>, Vec<u8>);
/// Answers a request with status and JSON; `looks` counts the requests of its path so far, this one included.
type Answer = fn(asked: &str, looks: usize) -> (u16, Value);

struct Scripted {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Scripted {
    fn new(answer: Answer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&asked);
        // It ends with the test's process.
        std::thread::spawn(move || {
            listener.incoming().for_each(|stream| serve(stream.unwrap(), answer, &shared))
        });
        Self { dir, asked }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_decurion"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env("DECURION_SOCKET", "s")
            .env_remove("DECURION_OUTPUT")
            .env_remove("DECURION_QUIET")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The request with this method and path, and how often it was made.
    fn asked(&self, method: &str, path: &str) -> (Option<Asked>, usize) {
        let asked = self.asked.lock().unwrap();
        let fits = |asked: &&Asked| asked.0 == method && asked.1 == path;
        (asked.iter().find(fits).cloned(), asked.iter().filter(fits).count())
    }
}

fn serve(stream: UnixStream, answer: Answer, asked: &Mutex<Vec<Asked>>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap() == 0 {
            return;
        }
    }
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let mut body = vec![0; header("content-length: ").map_or(0, |len| len.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let looks = {
        let mut asked = asked.lock().unwrap();
        asked.push((method.clone(), path.clone(), header("if-match: "), body));
        asked.iter().filter(|asked| asked.0 == method && asked.1 == path).count()
    };
    let (status, value) = answer(&format!("{method} {path}"), looks);
    let body = value.to_string();
    let head = format!("HTTP/1.1 {status} X\r\netag: \"4\"\r\ncontent-length: {}\r\n\r\n", body.len());
    // The command may have seen enough.
    let _ = stream.get_mut().write_all((head + &body).as_bytes());
}

fn deployment(outcome: &str, revision: u64, replicas: &[(&str, &str)]) -> Value {
    let replicas: Vec<Value> = replicas
        .iter()
        .map(|(id, version)| {
            json!({ "id": id, "pid": 42, "state": "RUNNING", "version": version, "ongoing": 1, "processed": 7,
                "restarts": 0, "uptime_s": 61, "rss_bytes": 1_048_576 })
        })
        .collect();
    let message = if matches!(outcome, "failed" | "rolled_back") {
        "constructor failed\nno such file: w.bin"
    } else {
        ""
    };
    json!({ "name": "m", "application": "a", "status": "HEALTHY", "message": "", "version": "v1", "revision": 5,
        "class": "Model", "library": "ab", "route_prefix": "/m", "target_replicas": 1, "replicas": replicas,
        "ended": if message.is_empty() { json!([]) } else { json!([{ "id": "m-9", "pid": 9, "version": "v2",
            "ended_at_ms": 0, "reason": "exited with code 1", "failed": true }]) },
        "rollout": { "revision": revision, "version": "v2", "outcome": outcome, "updated": 0, "message": message } })
}

fn system(deployments: &[Value]) -> Value {
    json!({ "version": "0.1.0", "pid": 1, "uptime_s": 3700, "revision": 4,
        "proxy": { "pid": 2, "listen": "0.0.0.0:8000", "ready": true, "restarts": 0, "up_to_date": true }, "deployments": deployments })
}

fn applied(action: &str) -> Value {
    json!({ "revision": 5, "dry_run": false,
        "changes": [{ "deployment": "m", "action": action, "fields": ["num_replicas"], "steps": [] }] })
}

fn problem(kind: &str, status: u16, detail: &str) -> (u16, Value) {
    (status, json!({ "type": format!("decurion:{kind}"), "title": "t", "status": status, "detail": detail }))
}

/// A supervisor whose deployment is at revision 4 until it is changed, then goes through `outcomes`.
fn changing(asked: &str, looks: usize, outcome: &str) -> (u16, Value) {
    match asked {
        "GET /v1/deployments" if looks == 1 => (200, json!([deployment("done", 4, &[("m-1", "v1")])])),
        "GET /v1/deployments" if looks < 4 => (200, json!([deployment("in_progress", 5, &[("m-1", "v1")])])),
        "GET /v1/deployments" => (200, json!([deployment(outcome, 5, &[("m-1", "v1"), ("m-2", "v2")])])),
        "GET /v1/logs?deployment=m&replica=m-9" => {
            let line = |text: &str| {
                json!({ "sequence": 1, "at_ms": 0, "deployment": "m", "replica": "m-9", "stream": "stderr",
                    "text": text })
            };
            (200, json!([line("no such file: w.bin"), line("loading\u{1b}[2J")]))
        }
        _ => (200, applied("configure")),
    }
}

#[test]
fn a_change_is_seen_through_to_its_end() {
    let scripted = Scripted::new(|asked, looks| changing(asked, looks, "done"));
    let ran = scripted.run(&["scale", "m", "2", "--if-revision", "4"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(
        ran.stderr,
        "m is reconfigured without a restart: num_replicas\nm: replica m-2 is ready (pid 42)\n\
         done (revision 5)\n"
    );
    assert_eq!(
        ran.stdout,
        "NAME  STATUS   REPLICAS  ROUTE  VERSION  MESSAGE\nm     HEALTHY  2/1       /m     v1\n"
    );
    let (asked, times) = scripted.asked("POST", "/v1/deployments/m:scale");
    let (_, _, if_match, body) = asked.unwrap();
    assert_eq!((times, if_match.as_deref()), (1, Some("\"4\"")));
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({ "num_replicas": 2 }));
}

#[test]
fn a_change_that_was_undone_is_3_with_the_last_words() {
    let scripted = Scripted::new(|asked, looks| changing(asked, looks, "rolled_back"));
    let ran = scripted.run(&["restart", "m", "-q"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!(
        ran.stderr,
        "error: version v2 of 'm' failed: constructor failed\n  no such file: w.bin\n  \
         m-9 | loading\\u{1b}[2J\n  now: `decurion logs m` shows all of it\n  \
         it was undone: version v1 is wanted again, as revision 5\n"
    );
}

#[test]
fn a_change_that_failed_is_1_and_json_has_it_as_well() {
    let scripted = Scripted::new(|asked, looks| changing(asked, looks, "failed"));
    let ran = scripted.run(&["reconfigure", "m", "k=1", "-o", "json"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.ends_with("what served before serves on: 2 replicas\n"), "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["deployments"][0]["rollout"]["outcome"], "failed");
    assert_eq!(report["revision"], 5);
}

#[test]
fn what_takes_too_long_is_4_and_what_is_not_waited_for_0() {
    let scripted = Scripted::new(|asked, looks| changing(asked, looks.min(3), ""));
    let ran = scripted.run(&["scale", "m", "2", "--timeout", "10ms"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("error: not done after 0.01 s: m: 0/1 replicas\n"), "{}", ran.stderr);
    let ran = scripted.run(&["scale", "m", "2", "--no-wait", "-o", "jsonl"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap(), applied("configure"));
}

#[test]
fn a_name_that_is_none_is_5_and_a_wrong_revision_6() {
    let scripted = Scripted::new(|asked, _| match asked {
        "GET /v1/deployments" => (200, json!([])),
        "GET /v1/status" => (200, system(&[deployment("done", 4, &[])])),
        "POST /v1/deployments/x:scale" => {
            problem("not-found", 404, "there is no deployment 'x'; there are: m")
        }
        _ => problem("revision-mismatch", 412, "the desired state is at revision 4, not 3; read it again"),
    });
    let ran = scripted.run(&["status", "x"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (5, "error: there is no deployment 'x'\n  there are: m\n"));
    let ran = scripted.run(&["scale", "x", "2"]);
    assert_eq!(ran.code, 5);
    assert_eq!(
        ran.stderr,
        "error: there is no deployment 'x'; there are: m\n  now: `decurion status` lists what there is\n  \
         nothing was changed\n"
    );
    let ran = scripted.run(&["restart", "m", "--if-revision", "3"]);
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.starts_with("error: the desired state is at revision 4, not 3; read it again\n"));
}

#[test]
fn status_and_routes_are_tables_or_json() {
    let scripted = Scripted::new(|_, _| (200, system(&[deployment("done", 4, &[("m-1", "v1")])])));
    let ran = scripted.run(&["status"]);
    assert_eq!(
        ran.stderr,
        "supervisor 0.1.0 (pid 1), up 1h1m, revision 4; HTTP on 0.0.0.0:8000 (proxy pid 2)\n"
    );
    assert!(ran.stdout.starts_with("NAME  STATUS   REPLICAS  ROUTE  VERSION  MESSAGE\n"), "{}", ran.stdout);
    let ran = scripted.run(&["status", "m", "-q", "-o", "wide"]);
    assert!(
        ran.stdout
            .contains("\nm-1      42   RUNNING  v1       1        7          0         1m1s  1.0 MiB  0s\n"),
        "{}",
        ran.stdout
    );
    let ran = scripted.run(&["status", "-o", "json"]);
    let status: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(status["deployments"][0]["replicas"][0]["pid"], 42);
    let ran = scripted.run(&["status", "m", "-o", "jsonl"]);
    let status: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(status["name"], "m");
    let ran = scripted.run(&["routes"]);
    assert_eq!(ran.stdout, "ROUTE  DEPLOYMENT  URL\n/m     m           http://127.0.0.1:8000/m\n");
    let scripted = Scripted::new(|_, _| {
        let mut system = system(&[deployment("done", 4, &[("m-1", "v1")])]);
        system["proxy"]["tls"] = json!(true);
        (200, system)
    });
    assert!(scripted.run(&["routes"]).stdout.ends_with("  https://127.0.0.1:8000/m\n"));
    assert!(scripted.run(&["status"]).stderr.contains("; HTTPS on 0.0.0.0:8000 "));
}

#[test]
fn a_library_is_uploaded_and_what_is_not_said_stays_as_it_is() {
    let scripted = Scripted::new(|asked, looks| match asked {
        "POST /v1/artifacts" => (200, json!({ "digest": "ab".repeat(32), "classes": ["Model"] })),
        "GET /v1/deployments/m" => (
            200,
            json!({ "name": "m", "class": "Model", "library": "sha256:00", "version": "v1", "num_replicas": 5,
                "args": { "x": 1 }, "threads": 2 }),
        ),
        _ => changing(asked, looks, "done"),
    });
    std::fs::write(scripted.dir.path().join("libm.so"), "the bytes").unwrap();
    let ran = scripted.run(&["deploy", "libm.so", "--threads", "4"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.starts_with("kept from the running deployment: args = {\"x\":1}, num_replicas = 5\n"),
        "{}",
        ran.stderr
    );
    assert_eq!(scripted.asked("POST", "/v1/artifacts").0.unwrap().3, b"the bytes");
    let body: Value =
        serde_json::from_slice(&scripted.asked("PUT", "/v1/deployments/m").0.unwrap().3).unwrap();
    assert_eq!(body["library"], format!("sha256:{}", "ab".repeat(32)));
    assert_eq!((&body["num_replicas"], &body["threads"]), (&json!(5), &json!(4)));
    assert_eq!((&body["args"], &body["version"]), (&json!({ "x": 1 }), &Value::Null));
}

#[test]
fn a_file_is_put_whole_and_each_library_uploaded_once() {
    let scripted = Scripted::new(|asked, looks| match asked {
        "POST /v1/artifacts" => (200, json!({ "digest": "ab".repeat(32), "classes": ["A", "B"] })),
        _ => changing(asked, looks, "done"),
    });
    std::fs::write(scripted.dir.path().join("libm.so"), "x").unwrap();
    let file = "application = \"app\"\n[[deployment]]\nlibrary = \"libm.so\"\nclass = \"A\"\n\
                [[deployment]]\nlibrary = \"./libm.so\"\nclass = \"B\"\n";
    std::fs::create_dir(scripted.dir.path().join("d")).unwrap();
    std::fs::write(scripted.dir.path().join("d/libm.so"), "x").unwrap();
    std::fs::write(scripted.dir.path().join("d/decurion.toml"), file).unwrap();
    let ran = scripted.run(&["deploy", "d/decurion.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(scripted.asked("POST", "/v1/artifacts").1, 1);
    let body: Value =
        serde_json::from_slice(&scripted.asked("PUT", "/v1/applications/app").0.unwrap().3).unwrap();
    assert_eq!(body["deployment"][1]["name"], "B");
    assert_eq!(body["deployment"][1]["library"], format!("sha256:{}", "ab".repeat(32)));
}

#[test]
fn a_plan_lists_changes_and_asks_for_a_rehearsal() {
    let scripted = Scripted::new(|asked, _| match asked {
        "GET /v1/status" => (200, system(&[])),
        "POST /v1/artifacts" => (200, json!({ "digest": "ab".repeat(32), "classes": ["A"] })),
        _ => (200, applied("roll")),
    });
    std::fs::write(scripted.dir.path().join("libm.so"), "x").unwrap();
    let file = "application = \"app\"\n[[deployment]]\nlibrary = \"libm.so\"\nclass = \"A\"\n";
    std::fs::write(scripted.dir.path().join("f.toml"), file).unwrap();
    let ran = scripted.run(&["plan", "f.toml"]);
    let table = "DEPLOYMENT  CHANGE                       FIELDS\nm           replace, replica by replica  num_replicas\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, table), "{}", ran.stderr);
    assert_eq!(ran.stderr, "nothing was changed: `decurion deploy` does it\n");
    let (asked, _) = scripted.asked("PUT", "/v1/applications/app?dry_run=1");
    assert_eq!(asked.unwrap().2.as_deref(), Some("\"4\""));
    assert_eq!(scripted.run(&["plan", "f.toml", "--detailed-exitcode", "-o", "json"]).code, 2);
}

#[test]
fn undoing_names_the_revision_and_is_seen_through() {
    let scripted = Scripted::new(|asked, looks| changing(asked, looks, "done"));
    let ran = scripted.run(&["rollout", "undo", "m", "--to", "3"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (_, _, _, body) = scripted.asked("POST", "/v1/deployments/m:rollback").0.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({ "revision": 3 }));
}

#[test]
fn a_refused_library_is_told_of_by_its_path() {
    let scripted = Scripted::new(|asked, _| match asked {
        "POST /v1/artifacts" => problem("refused", 422, "the file is text, not a shared library"),
        _ => (200, json!([])),
    });
    std::fs::write(scripted.dir.path().join("libm.so"), "x").unwrap();
    let ran = scripted.run(&["deploy", "libm.so"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        "error: the library, libm.so, is refused: the file is text, not a shared library\n  \
         now: `decurion check libm.so` tells all about it\n  nothing was changed\n"
    );
}

#[test]
fn keys_are_merged_into_the_configuration_at_the_revision_it_was_read() {
    let scripted = Scripted::new(|asked, looks| match asked {
        "GET /v1/deployments/m" => (200, json!({ "name": "m", "user_config": { "a": 1, "b": 2 } })),
        _ => changing(asked, looks, "done"),
    });
    let ran = scripted.run(&["reconfigure", "m", "b=x", "c=[1]"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (_, _, if_match, body) = scripted.asked("PATCH", "/v1/deployments/m").0.unwrap();
    assert_eq!(if_match.as_deref(), Some("\"4\""));
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, json!({ "user_config": { "a": 1, "b": "x", "c": [1] } }));
}

#[test]
fn a_configuration_is_shown_as_a_file() {
    let scripted = Scripted::new(|_, _| {
        (
            200,
            json!([{ "application": "a", "deployment": [{ "name": "m", "library": "x", "args": { "k": [1] } }] }]),
        )
    });
    let ran = scripted.run(&["config"]);
    let toml = "application = \"a\"\n\n[[deployment]]\nname = \"m\"\nlibrary = \"x\"\n\n[deployment.args]\nk = [1]\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (0, toml));
}
