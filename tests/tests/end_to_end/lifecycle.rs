//! Starting, stopping, coming back, and leaving nothing behind.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use decurion_tests::{Connection, World, decurion, eventually, is_running, library, own_address};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn who(replicas: u32) -> String {
    format!(
        "application = \"demo\"\n[[deployment]]\nname = \"who\"\nlibrary = \"{}\"\nclass = \"Who\"\nnum_replicas = {replicas}\nargs = [\"x\"]\n",
        library("fixtures").display()
    )
}

#[test]
fn what_was_deployed_comes_back_after_a_restart() {
    let mut world = World::start();
    let _ = world.deploy(&who(2)).ok();
    let _ = world.run(&["scale", "who", "3"]).ok();
    let before = world.deployment("who");
    assert_eq!(world.end_supervisor(Signal::SIGTERM), 0);
    world.start_supervisor();
    world.until("back", |status| {
        status.deployments.iter().any(|it| it.replicas.iter().filter(|it| it.state.can_serve()).count() == 3)
    });
    let after = world.deployment("who");
    assert_eq!((after.version, after.library), (before.version, before.library));
    assert!(world.get("/who").text().ends_with(" x"));
}

#[test]
fn a_stop_leaves_nothing_behind() {
    let mut world = World::start();
    let marks = world.path().join("marks");
    std::fs::create_dir(&marks).expect("a folder");
    let config = format!(
        "application = \"demo\"\n[[deployment]]\nname = \"m\"\nlibrary = \"{}\"\nclass = \"Mortal\"\nnum_replicas = 3\nargs = [{:?}]\n",
        library("fixtures").display(),
        marks
    );
    let _ = world.deploy(&config).ok();
    let mut pids = world.pids("m");
    pids.extend(world.status().proxy.pid);
    assert!(pids.iter().all(|pid| world.processes().contains(pid)), "{pids:?}");
    assert_eq!(world.end_supervisor(Signal::SIGTERM), 0);
    assert_eq!(std::fs::read_dir(&marks).expect("a folder").count(), 3, "each destructor runs once");
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is still there");
    }
    assert!(!world.socket().exists());
    assert!(!world.socket().with_file_name("handle.sock").exists());
    assert!(Connection::open(world.address()).is_err());
}

#[test]
fn requests_in_flight_are_finished_at_a_stop() {
    let mut world = World::start();
    let config = format!(
        "application = \"demo\"\n[[deployment]]\nname = \"gate\"\nlibrary = \"{}\"\nclass = \"Gate\"\nargs = [{:?}]\n",
        library("fixtures").display(),
        world.path()
    );
    let _ = world.deploy(&config).ok();
    let mut client = world.connect();
    client.request("GET", "/gate", &[("x-request-id", "last")], b"").expect("sent");
    world.until("entered", |_| world.path().join("entered-last").exists());
    let pid = world.supervisor_pid();
    kill(pid, Signal::SIGTERM).expect("a running supervisor");
    std::fs::write(world.path().join("open"), "").expect("open the gate");
    assert_eq!(client.read().expect("an answer").status, 200);
    assert!(client.is_at_end().expect("closed"));
    // The first signal has been sent already; a second one must not be needed.
    drop(client);
    world.wait_for_end();
}

#[test]
fn shutdown_by_command() {
    let mut world = World::start();
    let _ = world.deploy(&who(1)).ok();
    let _ = world.run(&["shutdown"]).ok();
    world.wait_for_end();
    let _ = world.run(&["status"]).code(7);
}

#[test]
fn a_second_supervisor_names_the_first() {
    let world = World::start();
    let second = Command::new(decurion())
        .arg("--socket")
        .arg(world.path().join("other.sock"))
        .args(["supervise", "--state-dir"])
        .arg(world.path().join("state"))
        .output()
        .expect("the command runs");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&world.supervisor_pid().to_string()), "{said}");
    assert_eq!(world.get("/-/healthz").status, 200);
}

/// `decurion run`, until it serves: the command, what else it has to say, and the replica's process.
fn run_in_a_terminal(listen: SocketAddr, folder: &std::path::Path) -> (Child, BufReader<ChildStderr>, i32) {
    let mut child = Command::new(decurion())
        .current_dir(folder)
        .env_remove("DECURION_SOCKET")
        .env("TMPDIR", folder)
        .args(["run", "--listen", &listen.to_string()])
        .arg(format!("{}:Who", library("fixtures").display()))
        .arg("word=here")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    while !said.contains("http://") {
        assert!(stderr.read_line(&mut said).expect("readable") > 0, "it ended:\n{said}");
    }
    let answer = Connection::open(listen).and_then(|mut it| it.get("/Who")).expect("an answer");
    assert!(answer.text().ends_with(" here"), "{} {}", answer.status, answer.text());
    let replica = answer.text().split(' ').next().and_then(|pid| pid.parse().ok()).expect("a pid");
    (child, stderr, replica)
}

#[test]
fn run_serves_in_one_terminal_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let listen = own_address();
    let (mut child, mut stderr, replica) = run_in_a_terminal(listen, folder.path());
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, Signal::SIGINT).expect("a running command");
    // Its pipe must not fill up while it stops.
    let drain = std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    assert!(child.wait().expect("our child").success());
    let _ = drain.join();
    assert!(!std::path::Path::new(&format!("/proc/{replica}")).exists());
    assert!(Connection::open(listen).is_err());
}

#[test]
fn run_that_is_killed_leaves_no_process_either() {
    let folder = tempfile::tempdir().expect("a folder");
    let listen = own_address();
    let (mut child, _stderr, replica) = run_in_a_terminal(listen, folder.path());
    child.kill().expect("our child");
    let _ = child.wait();
    // Nobody adopts them, so they leave by themselves.
    eventually("all gone", || !is_running(replica) && Connection::open(listen).is_err());
}

/// Reads on until something is said.
fn until_said(stderr: &mut BufReader<ChildStderr>, words: &str) -> String {
    let mut said = String::new();
    while !said.contains(words) {
        assert!(stderr.read_line(&mut said).expect("readable") > 0, "it ended without {words:?}:\n{said}");
    }
    said
}

#[test]
fn run_that_watches_applies_again_what_changes_and_answers_on_the_socket_that_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (listen, socket) = (own_address(), folder.path().join("own/control.sock"));
    let place = |name: &str| folder.path().join(name);
    // Replaced as an editor or a linker does it: the new one is whole when it appears.
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(place("new"), bytes).expect("written");
        std::fs::rename(place("new"), place(name)).expect("renamed");
    };
    let config = |word: &str| {
        format!(
            "application = \"watched\"\n[[deployment]]\nname = \"who\"\nlibrary = \"lib.so\"\nclass = \"Who\"\n\
             args = [\"{word}\"]\n"
        )
    };
    let mut library = std::fs::read(library("fixtures")).expect("it is built");
    put("lib.so", &library);
    put("who.toml", config("first").as_bytes());
    let mut child = Command::new(decurion())
        .current_dir(folder.path())
        .env("TMPDIR", folder.path())
        .arg("--socket")
        .arg(&socket)
        .args(["run", "who.toml", "--watch", "--listen", &listen.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let answer = || {
        let opened = Connection::open(listen);
        opened.and_then(|mut it| it.get("/who")).expect("an answer").text()
    };
    until_said(&mut stderr, &format!("answers on {}", socket.display()));
    let first = answer();
    assert!(first.ends_with(" first"), "{first}");
    let status = decurion_tests::command::run_in(folder.path(), &socket, &["status", "who"]).ok();
    assert!(status.stdout.contains("HEALTHY"), "{}", status.stdout);

    put("who.toml", b"application = 5\n");
    let said = until_said(&mut stderr, "nothing was changed");
    assert!(said.contains("changed: who.toml") && said.contains("who.toml:1:"), "{said}");
    assert_eq!(answer(), first, "it serves on");

    put("who.toml", config("second").as_bytes());
    until_said(&mut stderr, "applied again\n");
    let second = answer();
    assert!(second.ends_with(" second"), "{second}");

    // Behind the end of an ELF file nobody looks; the version is a hash of it all.
    library.push(0);
    put("lib.so", &library);
    let said = until_said(&mut stderr, "applied again\n");
    assert!(said.contains("changed: lib.so"), "{said}");
    let third = answer();
    assert!(third.ends_with(" second") && third != second, "another process by now: {third}");

    kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGINT).expect("it runs");
    let drain = std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    assert!(child.wait().expect("our child").success());
    let _ = drain.join();
    assert!(!socket.exists(), "it leaves no socket");
}

/// One target folder for all: what it needs is built already.
fn build_project(folder: &Path) {
    let built = Command::new("cargo")
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", decurion_tests::target_dir().parent().expect("a folder"))
        .args(["build", "--offline"])
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

#[test]
fn new_projects_with_a_model_and_with_a_router_are_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("none.sock");
    let world = World::start();
    for (name, template) in [("new-model", "model"), ("new-router", "axum")] {
        let _ =
            decurion_tests::command::run_in(folder.path(), &socket, &["new", name, "--template", template])
                .ok();
        let folder = folder.path().join(name);
        build_project(&folder);
        let library = library(&name.replace('-', "_"));
        let config = std::fs::read_to_string(folder.join("decurion.toml")).expect("a configuration");
        let path = format!("target/release/{}", library.file_name().expect("a name").to_string_lossy());
        assert!(config.contains(&path), "{config}");
        let _ = world.deploy(&config.replace(&path, &library.to_string_lossy())).ok();
    }
    let answer = world.post("/new-model", b"0.7");
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"above":true,"msg":"Hello"}"#));
    let _ = world.run(&["reconfigure", "new-model", "threshold=0.9"]).ok();
    assert_eq!(world.run(&["call", "new-model.predict", "0.7"]).ok().json(), serde_json::json!(false));
    assert_eq!(world.get("/new-router").text(), "Hello world!");
    assert_eq!(world.get("/new-router/hello/you").text(), "Hello, you!");
}

#[test]
fn a_new_project_is_served_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("none.sock");
    let _ = decurion_tests::command::run_in(folder.path(), &socket, &["new", "scorer"]).ok();
    let source = std::fs::read_to_string(folder.path().join("scorer/src/lib.rs")).expect("a source");
    let expected = "use decurion::prelude::*;\n\n#[deployment]\nfn hello(_req: Request) -> &'static str {\n    \"Hello world!\"\n}\n";
    assert_eq!(source, expected);
    build_project(&folder.path().join("scorer"));
    let world = World::start();
    let _ = world.run(&["deploy", &library("scorer").to_string_lossy(), "--route-prefix", "/scorer"]).ok();
    assert_eq!(world.get("/scorer").text(), "Hello world!");
}
