//! A protocol of a deployment's own behind an `Upgrade`, byte for byte through the real proxy, while versions change.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use decurion_api::status::ReplicaState;
use decurion_tests::{World, library};

/// Says back each line with the version of its replica before it, and `bye` when nothing more is said. Who offers nothing
/// gets the version.
const LINES: &str = include_str!("lines.c");

/// All that the old version is still asked takes a small part of it, also on a machine with other things to do.
const GRACE: u32 = 24;

/// A world with this in its version 1.
fn lines() -> World {
    let world = World::start();
    let folder = world.path();
    fs::write(folder.join("lines.c"), LINES).expect("write");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/abi/include");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-I", include, "lines.c", "-o", "lines.so"])
        .current_dir(folder)
        .output()
        .expect("cc runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let _ = world.deploy(&config("1")).ok();
    world
}

fn config(version: &str) -> String {
    format!(
        "application = \"a\"\n[[deployment]]\nname = \"lines\"\nlibrary = \"lines.so\"\nversion = \"{version}\"\n\
         threads = 4\ngraceful_shutdown_timeout_s = {GRACE}\n[[deployment]]\nname = \"other\"\n\
         library = \"{}\"\nclass = \"Who\"\nargs = [\"other\"]\nversion = \"1\"\n",
        library("fixtures").display()
    )
}

struct Tunnel(BufReader<TcpStream>);

impl Tunnel {
    /// Opens one; `ahead` is said together with the offer.
    fn open(world: &World, ahead: &str) -> Self {
        let mut stream = world.connect().stream().try_clone().expect("a stream");
        let offer = "GET /lines HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n";
        stream.write_all(format!("{offer}{ahead}").as_bytes()).expect("sent");
        let mut tunnel = Self(BufReader::new(stream));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &tunnel.line();
            head.push('\n');
        }
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("\r\nupgrade: lines\r\n"), "{head}");
        tunnel
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("more bytes");
        assert_eq!(line.pop(), Some('\n'), "it ended after {line:?}");
        line
    }

    fn ask(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("sent");
        self.line()
    }

    /// What comes until the other side ends.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).expect("an orderly end");
        rest
    }
}

#[test]
fn a_tunnel_outlives_its_version_until_its_grace_is_over() {
    let world = lines();
    let mut talking = Tunnel::open(&world, "ahead\n");
    assert_eq!(talking.line(), "1: ahead");
    let mut silent = Tunnel::open(&world, "");
    let mut leaving = Tunnel::open(&world, "");
    let (old, other) = (world.pids("lines"), world.pids("other"));

    fs::write(world.path().join("decurion.toml"), config("2")).expect("write");
    let _ = world.run(&["deploy", "decurion.toml", "--no-wait"]).ok();
    let drains = |replica: &decurion_api::status::ReplicaStatus| {
        old.contains(&replica.pid) && replica.state == ReplicaState::Draining
    };
    world.until("the old one drains", |status| {
        status.deployments.iter().any(|it| it.replicas.iter().any(drains))
    });
    let mut kept = world.connect();
    for turn in 0..20 {
        assert_eq!(talking.ask(&format!("turn {turn}")), format!("1: turn {turn}"));
        assert_eq!(kept.get("/lines").expect("an answer").text(), "2", "others go to the new version");
        assert_eq!(world.get("/lines").text(), "2");
    }
    // What is large goes through, too.
    let long = "x".repeat(300_000);
    assert_eq!(talking.ask(&long), format!("1: {long}"));
    let mut new = Tunnel::open(&world, "");
    assert_eq!(new.ask("hello"), "2: hello");
    // Whoever says that it is through hears the last word at once.
    leaving.0.get_ref().shutdown(std::net::Shutdown::Write).expect("shut down");
    assert_eq!(leaving.rest(), "bye\n");
    // The others are told when the grace is nearly over, and what their handler then says still comes.
    for tunnel in [&mut talking, &mut silent] {
        assert_eq!(tunnel.rest(), "bye\n");
    }
    let status =
        world.until("the old one is gone", |status| status.deployments.iter().any(|it| !it.ended.is_empty()));
    let ended: Vec<_> = status.deployments.iter().flat_map(|it| &it.ended).collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!((ended[0].failed, ended[0].reason.as_str()), (false, "stopped for an update"));
    assert_eq!(new.ask("still there"), "2: still there");
    assert_eq!(world.pids("other"), other);
    assert_eq!(world.status().proxy.restarts, 0);
}
