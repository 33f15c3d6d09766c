//! HTTP clients that others have written: keep-alive, pipelining, chunked bodies, `Expect`, HEAD, bodies of some MiB.
//!
//! Each that is not installed is left out, and says so.

use std::process::{Command, Output};

use decurion_tests::{World, library};

const LARGE: usize = 3_000_000;

fn echo() -> World {
    let world = World::start();
    let config = format!(
        "application = \"clients\"\n[[deployment]]\nname = \"echo\"\nlibrary = \"{}\"\nclass = \"Echo\"\n\
         route_prefix = \"/api\"\nmax_ongoing_requests = 100\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    std::fs::write(world.path().join("large"), vec![b'x'; LARGE]).expect("write");
    world
}

/// Runs a client to its end. `None`: it is not there.
#[expect(clippy::print_stderr, reason = "a client that is left out says so")]
fn run(world: &World, program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).current_dir(world.path()).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("{program} was not tried: {error}");
            None
        }
    }
}

#[test]
fn curl() {
    let world = echo();
    let url = format!("http://{}/api", world.address());
    let get = |arguments: &[&str]| {
        let arguments = [&["--silent", "--show-error", "--max-time", "60"], arguments].concat();
        let output = run(&world, "curl", &arguments)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        Some(String::from_utf8(output.stdout).expect("text"))
    };
    let Some(both) = get(&["--data", "one", &url, "--next", "--data", "two", "-w", "%{num_connects}", &url])
    else {
        return;
    };
    assert_eq!(both, "onetwo0", "the second over the first's connection");
    let chunked = ["--header", "transfer-encoding: chunked", "--data-binary", "@large", &url];
    assert_eq!(get(&chunked).map(|text| text.len()), Some(LARGE));
    let expect = ["--header", "expect: 100-continue", "--data-binary", "@large", &url];
    assert_eq!(get(&expect).map(|text| text.len()), Some(LARGE));
    let head = get(&["--head", &url]).expect("curl");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let old = get(&["--http1.0", "--include", "--data", "old", &url]).expect("curl");
    assert!(old.contains("connection: close") && old.ends_with("\r\n\r\nold"), "{old}");
    let upload = get(&["--upload-file", "large", &url]).expect("curl");
    assert_eq!(upload.len(), LARGE);
}

/// A Python script against this world; `needs` is a module that may not be there.
#[expect(clippy::print_stderr, reason = "a client that is left out says so")]
fn python(world: &World, needs: &str, script: &str) {
    let Some(found) = run(world, "python3", &["-c", &format!("import {needs}")]) else { return };
    if !found.status.success() {
        return eprintln!("Python's {needs} is not installed, so it was not tried");
    }
    let (host, port) = (world.address().ip().to_string(), world.address().port().to_string());
    let output = run(world, "python3", &["-c", script, &host, &port]).expect("it was there before");
    assert!(output.status.success(), "{needs}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn python_standard_library() {
    let world = echo();
    python(
        &world,
        "http.client",
        "import http.client, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
connection = http.client.HTTPConnection(host, port, timeout=60)
connection.connect()
first = connection.sock
for method, body in (('POST', b'one'), ('PUT', b'x' * 3000000), ('GET', None), ('HEAD', None), ('POST', b'')):
    connection.request(method, '/api/a?b=c', body)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b'' if method == 'HEAD' else body or b''), method
assert connection.sock is first, 'one connection for all'
connection.request('POST', '/api', (b'y' * 1000 for _ in range(2000)), encode_chunked=True)
assert connection.getresponse().read() == b'y' * 2000000
connection.close()
with socket.create_connection((host, port), timeout=60) as raw:
    raw.sendall(b''.join(b'POST /api HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 4\\r\\n\\r\\n%04d' % at for at in range(500)))
    class Reader:
        def __init__(self, file):
            self.readline, self.read, self.readinto = file.readline, file.read, file.readinto
        def close(self):
            pass  # which each answer does at its end
        flush = close
    reader = Reader(raw.makefile('rb'))
    for at in range(500):
        answer = http.client.HTTPResponse(raw)
        answer.fp = reader
        answer.begin()
        assert answer.read(4) == b'%04d' % at, at
",
    );
}

#[test]
fn python_packages() {
    let world = echo();
    python(
        &world,
        "requests",
        "import requests, sys
url = 'http://%s:%s/api' % tuple(sys.argv[1:])
with requests.Session() as session:
    for body in (b'one', b'x' * 3000000):
        assert session.post(url, data=body, timeout=60).content == body
    assert session.post(url, data=(b'y' * 1000 for _ in range(2000)), timeout=60).content == b'y' * 2000000
    assert session.head(url, timeout=60).status_code == 200
    assert session.get(url + '/../nowhere', timeout=60).status_code == 404
",
    );
    python(
        &world,
        "httpx",
        "import httpx, sys
url = 'http://%s:%s/api' % tuple(sys.argv[1:])
with httpx.Client(timeout=60) as client:
    for body in (b'one', b'x' * 3000000):
        assert client.post(url, content=body).content == body
    assert client.post(url, content=(b'y' * 1000 for _ in range(2000))).content == b'y' * 2000000
    assert client.head(url).status_code == 200
",
    );
}

#[test]
fn wrk() {
    let world = echo();
    let url = format!("http://{}/api", world.address());
    let Some(output) = run(&world, "wrk", &["-t1", "-c50", "-d1s", "--timeout", "60s", &url]) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("Requests/sec"), "{text}");
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
}

#[test]
fn h2load() {
    let world = echo();
    let url = format!("http://{}/api", world.address());
    // Four requests at once on each connection: pipelined, since it is HTTP/1.1.
    let arguments = ["--h1", "-n", "5000", "-c", "20", "-m", "4", "-d", "large", &url];
    std::fs::write(world.path().join("large"), vec![b'x'; 2000]).expect("write");
    let Some(output) = run(&world, "h2load", &arguments) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("5000 succeeded, 0 failed, 0 errored"), "{text}");
}

#[test]
fn hyper() {
    use http_body_util::{BodyExt, Full};
    use hyper::body::Bytes;
    let world = echo();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(world.address()).await.expect("a connection");
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a handshake");
        tokio::spawn(connection);
        for (method, size) in [("POST", 3), ("PUT", LARGE), ("GET", 0), ("HEAD", 0), ("POST", 20_000)] {
            sender.ready().await.expect("the connection stays");
            let request = hyper::Request::builder()
                .method(method)
                .uri("/api/x?y")
                .header("host", "test")
                .body(Full::new(Bytes::from(vec![b'x'; size])))
                .expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes().len(), size);
        }
    });
}
