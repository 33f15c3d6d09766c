//! HTTP as clients see it, through the real proxy and a real replica.

use std::io::Write;

use decurion_tests::{World, library};

fn echo() -> World {
    let world = World::start();
    let config = format!(
        "application = \"http\"\n[[deployment]]\nname = \"echo\"\nlibrary = \"{}\"\nclass = \"Echo\"\nroute_prefix = \"/api\"\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    world
}

#[test]
fn the_handler_sees_the_request() {
    let world = echo();
    let mut connection = world.connect();
    let headers = [("x-request-id", "abc-123"), ("x-test", "yes")];
    connection.request("PUT", "/api/sub/path?a=b%20c&d", &headers, b"body").expect("sent");
    let answer = connection.read().expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, "body".to_owned()));
    assert_eq!(answer.header("x-request-id"), Some("abc-123"));
    let facts: serde_json::Value =
        serde_json::from_str(answer.header("x-facts").expect("facts")).expect("JSON");
    let expected = serde_json::json!({
        "id": "abc-123", "method": "PUT", "path": "/api/sub/path", "prefix": "/api", "sub_path": "/sub/path",
        "query": "a=b%20c&d", "a": "b c", "x": "yes",
    });
    assert_eq!(facts, expected);
}

#[test]
fn ids_are_made_where_there_are_none() {
    let world = echo();
    let (one, two) = (world.get("/api"), world.get("/api"));
    let id = |answer: &decurion_tests::Response| answer.header("x-request-id").expect("an id").to_owned();
    assert!(!id(&one).is_empty());
    assert_ne!(id(&one), id(&two));
}

#[test]
fn prefixes_match_whole_segments_and_no_path_escapes_them() {
    let world = echo();
    for path in ["/api", "/api/", "/api/x", "/api?x"] {
        assert_eq!(world.get(path).status, 200, "{path}");
    }
    for path in ["/apiary", "/API", "/", "/api/../other", "/api/%2e%2e/other", "/other/..%2fapi"] {
        let status = world.get(path).status;
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    let missing = world.get("/nowhere");
    assert!(missing.text().contains("/-/routes"), "{}", missing.text());
}

#[test]
fn the_proxy_has_pages_of_its_own() {
    let world = echo();
    assert_eq!(
        (world.get("/-/healthz").status, world.get("/-/healthz").text().trim().to_owned()),
        (200, "success".to_owned())
    );
    assert_eq!(world.get("/-/readyz").status, 200);
    assert_eq!(world.get("/-/routes").json(), serde_json::json!({ "/api": "echo" }));
}

#[test]
fn requests_in_a_pipeline_are_answered_in_order() {
    let world = echo();
    let mut connection = world.connect();
    let mut bytes = Vec::new();
    for number in 0..50 {
        let body = format!("body {number}");
        write!(bytes, "POST /api HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .expect("memory");
    }
    connection.send(&bytes).expect("sent");
    for number in 0..50 {
        assert_eq!(connection.read().expect("an answer").text(), format!("body {number}"));
    }
}

#[test]
fn large_bodies_go_both_ways_whole() {
    let world = echo();
    let body: Vec<u8> = (0..20_000_000u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0])
        .collect();
    let answer = world.post("/api", &body);
    assert_eq!(answer.status, 200);
    assert!(answer.body == body, "{} bytes came back of {}", answer.body.len(), body.len());
}

#[test]
fn chunked_bodies_arrive() {
    let world = echo();
    let mut connection = world.connect();
    connection
        .send(b"POST /api HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .expect("sent");
    connection.send(b"7;ext=1\r\n, world\r\n0\r\nx-trailer: dropped\r\n\r\n").expect("sent");
    let answer = connection.read().expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, "hello, world".to_owned()));
    assert_eq!(connection.get("/api").expect("kept alive").status, 200);
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let world = echo();
    let cases: [(&[u8], u16); 10] = [
        (b"POST /api HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /api HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"POST /api HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na", 400),
        (b"GET /api HTTP/1.1\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\r\nhost : x\r\n\r\n", 400),
        (b"GET /api HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n", 400),
        (b"GET /api HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        // RFC 9112, section 6.3: a request whose last coding is not chunked has no end; section 6.1: unknown codings.
        (b"POST /api HTTP/1.1\r\nhost: x\r\ntransfer-encoding: what, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /api HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 400),
    ];
    for (bytes, status) in cases {
        let mut connection = world.connect();
        connection.send(bytes).expect("sent");
        let answer =
            connection.read().unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)));
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(bytes));
        assert!(connection.is_at_end().expect("closed"), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn curl_is_served() {
    let Ok(output) = std::process::Command::new("curl").arg("--version").output() else {
        eprintln!("curl is not installed, so it was not tried");
        return;
    };
    assert!(output.status.success());
    let world = echo();
    let file = world.path().join("body");
    std::fs::write(&file, vec![b'x'; 3_000_000]).expect("write");
    let output = std::process::Command::new("curl")
        .args(["-sS", "--max-time", "60", "-H", "Expect: 100-continue", "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg(format!("http://{}/api", world.address()))
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.len(), 3_000_000);
}

#[test]
fn the_access_log_is_written_where_the_file_says() {
    let mut world = World::start();
    let log = world.path().join("access.log");
    let config = format!(
        "application = \"http\"\n[http]\nlisten = \"{}\"\naccess_log = \"text\"\naccess_log_file = \"{}\"\n\
         [[deployment]]\nname = \"echo\"\nlibrary = \"{}\"\nclass = \"Echo\"\nroute_prefix = \"/api\"\n",
        world.address(),
        log.display(),
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    for status in [200, 404] {
        let path = if status == 200 { "/api/x?a=1" } else { "/nowhere" };
        assert_eq!(world.get(path).status, status);
    }
    // Its thread writes on by itself, and at the end only for as long as others wait for it.
    let written = || std::fs::read_to_string(&log).unwrap_or_default();
    world.until("both lines are written", |_| written().matches('\n').count() >= 2);
    world.end_supervisor(nix::sys::signal::Signal::SIGTERM);
    let written = written();
    let lines: Vec<&str> = written.lines().collect();
    let found = lines.iter().find(|line| line.contains(" -- GET /api/x?a=1 200 ")).expect("a line");
    assert!(found.starts_with("INFO ") && found.contains(" echo echo-") && found.ends_with("ms"), "{found}");
    assert!(
        lines.iter().any(|line| line.contains(" - - ") && line.contains(" -- GET /nowhere 404 ")),
        "{written}"
    );
}
