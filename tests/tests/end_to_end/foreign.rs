//! A library that is not built as we are: with `panic = "abort"`, and with an allocator of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use decurion_client::Client;
use decurion_tests::{World, target_dir};

const MARKED: &str = include_str!("marked.rs");

/// Where the newest `libdecurion` for libraries lies: what this test was linked with.
fn sdk(deps: &Path) -> PathBuf {
    let built = fs::read_dir(deps).expect("a folder").filter_map(Result::ok);
    let sdk = built.filter(|file| {
        let name = file.file_name();
        name.to_str().is_some_and(|name| name.starts_with("libdecurion-") && name.ends_with(".rlib"))
    });
    sdk.max_by_key(|file| file.metadata().and_then(|it| it.modified()).ok()).expect("it is built").path()
}

/// A world with this library in two replicas.
fn marked() -> World {
    let world = World::start();
    let (source, output) = (world.path().join("marked.rs"), world.path().join("marked.so"));
    fs::write(&source, MARKED).expect("write");
    let deps = target_dir().join("deps");
    let mut search = std::ffi::OsString::from("dependency=");
    search.push(&deps);
    let mut sdk_is = std::ffi::OsString::from("decurion=");
    sdk_is.push(sdk(&deps));
    let built = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "--extern"])
        .arg(sdk_is)
        .arg("-L")
        .arg(search)
        .args([Path::new("-o"), &output, &source])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("rustc runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let config =
        "application = \"a\"\n[[deployment]]\nname = \"own\"\nlibrary = \"marked.so\"\nnum_replicas = 2\n";
    let _ = world.deploy(config).ok();
    world
}

#[test]
fn a_library_with_panic_abort_and_an_allocator_of_its_own_serves_and_only_its_panics_end_it() {
    let world = marked();
    let pids = world.pids("own");
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a client");
    let handle = client.deployment("own").expect("it exists").handle();
    let serves = || {
        for length in [0, 1, 100, 10_000, 1_000_000] {
            let answer = world.post("/own", "a".repeat(length).as_bytes());
            assert_eq!((answer.status, answer.text()), (200, "A".repeat(length)));
            assert!(answer.header("x-id").is_some());
            let items = vec!["b".to_owned(); length / 100];
            let twice = handle.call::<Vec<String>>("twice", (&items,)).expect("a result");
            assert_eq!(twice, vec!["bb".to_owned(); length / 100]);
        }
        assert_eq!(world.post("/own/error", b"").status, 422);
        let wrong = handle.call::<Vec<String>>("twice", (7,)).expect_err("not a list");
        assert!(wrong.to_string().contains("twice"), "{wrong}");
    };
    serves();
    assert_eq!(world.pids("own"), pids, "nobody has aborted");

    // Asked once, since a POST is not idempotent: its client hears that the replica died, and it is replaced.
    assert_eq!(world.post("/own/panic", b"").status, 502);
    let replaced = |count: usize| {
        world.until("replaced", |status| {
            let own = &status.deployments[0];
            let aborted = own.ended.iter().filter(|it| it.failed && it.reason.contains("SIGABRT")).count();
            aborted == count && own.replicas.iter().filter(|it| it.state.can_serve()).count() == 2
        });
    };
    replaced(1);
    let kept = world.pids("own").into_iter().filter(|pid| pids.contains(pid)).count();
    assert_eq!(kept, 1, "the other one has served on");
    // A GET is asked once more elsewhere, which ends the other one too.
    assert_eq!(world.get("/own/panic").status, 502);
    replaced(3);
    let logs = world.run(&["logs", "own"]).ok().stdout;
    assert!(logs.contains("as asked"), "{logs}");
    serves();
}
