//! The built command without a supervisor: help, usage errors, exit codes, what it writes where.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// A folder of its own, in which no supervisor will ever be.
struct Rig {
    dir: tempfile::TempDir,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Rig {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), bytes).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_decurion"))
            .args(arguments)
            .current_dir(self.path())
            .env("HOME", self.path())
            .env_remove("DECURION_OUTPUT")
            .env_remove("DECURION_QUIET")
            .env("DECURION_SOCKET", "none.sock")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
    }
}

#[test]
fn help_goes_to_stdout_and_lists_every_command() {
    let rig = Rig::new();
    let ran = rig.run(&["--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    for command in [
        "supervise",
        "run",
        "deploy",
        "plan",
        "rollout",
        "status",
        "routes",
        "call",
        "scale",
        "reconfigure",
        "restart",
        "delete",
        "config",
        "logs",
        "events",
        "check",
        "new",
        "version",
        "shutdown",
        "completions",
    ] {
        assert!(ran.stdout.contains(&format!("\n  {command} ")), "{command}:\n{}", ran.stdout);
        let ran = rig.run(&[command, "--help"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{command}");
    }
    assert!(ran.stdout.contains("64 wrong usage"), "{}", ran.stdout);
    let ran = rig.run(&["--version"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "decurion 0.1.0\n"));
}

#[test]
fn wrong_usage_is_64_and_says_what_is_right() {
    let rig = Rig::new();
    rig.write("a.toml", "application = \"a\"\n");
    rig.write("lib.so", "");
    for (arguments, words) in [
        (&[][..], "Usage: decurion"),
        (&["depoly"], "a similar subcommand exists: 'deploy'"),
        (&["deploy"], "<FILE|LIB[:CLASS]>"),
        (&["status", "a b"], "a deployment name is made of letters"),
        (&["status", "-o", "xml"], "possible values: table, wide, json, jsonl"),
        (&["scale", "a", "0"], "0 is not in 1..=1000"),
        (&["scale", "a", "3", "--timeout", "5"], "'5' has no unit"),
        (&["call", "a", "hello"], "text needs quotes: '\"text\"'"),
        (&["call", "a b"], "'a b' is no NAME[.METHOD]"),
        (&["reconfigure", "a", "{x}"], "'{x}' is neither JSON"),
        (&["reconfigure", "a", "x=1", "y"], "'y' is no KEY=VALUE"),
        (&["logs", "a/b c"], "a replica id is made of"),
        (&["deploy", "a.toml", "--replicas", "2"], "--replicas goes with a library; a.toml says it itself"),
        (&["deploy", "lib.so", "--replicas", "0"], "--replicas: 0 is out of range; give 1 to 1000"),
        (&["deploy", "lib.so:a-b"], "'lib.so:a-b' is no LIB[:CLASS]: a class name is made of"),
        (&["deploy", "lib.so", "--args", "5"], "--args: takes a table by name"),
        (&["deploy", "."], "now: name a file in it, such as ./decurion.toml"),
        (&["run"], "there is no decurion.toml in this folder"),
        (&["run", "a.toml", "--port", "1", "--listen", "x"], "cannot be used with"),
        (&["new", "a.b"], "it is made of letters, digits, '-' and '_'"),
        (&["completions", "tcsh"], "possible values: bash, zsh, fish"),
    ] {
        let ran = rig.run(arguments);
        assert_eq!(ran.code, 64, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[test]
fn an_unreachable_supervisor_is_7() {
    let rig = Rig::new();
    rig.write("libx.so", "whatever");
    rig.write("a.toml", "application = \"a\"\n[[deployment]]\nlibrary = \"libx.so\"\n");
    rig.write("a.json", r#"{ "application": "a", "deployment": [{ "library": "libx.so" }] }"#);
    let changing = [
        &["deploy", "a.toml"][..],
        &["deploy", "a.json"],
        &["deploy", "libx.so"],
        &["scale", "a", "3"],
        &["reconfigure", "a", "k=1"],
        &["restart", "a"],
        &["delete", "a", "b"],
        &["shutdown"],
    ];
    let looking = [
        &["status"][..],
        &["status", "a"],
        &["routes"],
        &["call", "a"],
        &["call", "a.b", "1"],
        &["config"],
        &["config", "a"],
        &["logs", "a"],
        &["logs", "-f"],
        &["events"],
    ];
    for arguments in changing.iter().chain(&looking) {
        let ran = rig.run(arguments);
        assert_eq!(ran.code, 7, "{arguments:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{arguments:?}");
        let socket = if arguments[0] == "call" { "handle.sock" } else { "none.sock" };
        let tail = if changing.contains(arguments) { "  nothing was changed\n" } else { "" };
        assert_eq!(
            ran.stderr,
            format!(
                "error: no supervisor answers on {socket}: No such file or directory (os error 2)\n  \
                 now: start one with `decurion supervise`, or name its socket by --socket or DECURION_SOCKET\n{tail}"
            ),
            "{arguments:?}"
        );
    }
}

#[test]
fn the_socket_flag_comes_before_the_environment() {
    let ran = Rig::new().run(&["--socket", "/nowhere/s", "status"]);
    assert_eq!(ran.code, 7);
    assert!(ran.stderr.contains("no supervisor answers on /nowhere/s"), "{}", ran.stderr);
}

#[test]
fn a_refused_file_is_told_of_with_its_places() {
    let rig = Rig::new();
    rig.write(
        "bad.toml",
        "application = \"a\"\n[[deployment]]\nlibrary = \"x.so\"\nnum_replica = 2\nthreads = 0\n",
    );
    rig.write("bad.json", r#"{ "application": "a", "deployment": [{ "library": "x.so", "threads": 0 }] }"#);
    rig.write("gone.toml", "application = \"a\"\n[[deployment]]\nlibrary = \"x.so\"\n");
    for (file, stderr) in [
        (
            "bad.toml",
            "error: bad.toml is refused\n  \
             bad.toml:4:1: deployment[0].num_replica: unknown field; did you mean 'num_replicas'?\n  \
             bad.toml:5:11: deployment[0].threads: 0 is out of range; give 1 to 256\n  nothing was changed\n",
        ),
        (
            "bad.json",
            "error: bad.json is refused\n  \
             bad.json: deployment[0].threads: 0 is out of range; give 1 to 256\n  nothing was changed\n",
        ),
        (
            "none.toml",
            "error: none.toml can't be read: No such file or directory (os error 2)\n  nothing was changed\n",
        ),
        (
            "gone.toml",
            "error: the library of deployment 'x', x.so, can't be read: No such file or directory (os error 2)\n  \
             now: build it, or correct its path; paths are relative to the file's folder\n  nothing was changed\n",
        ),
    ] {
        let ran = rig.run(&["deploy", file]);
        assert_eq!((ran.code, ran.stderr.as_str(), ran.stdout.as_str()), (1, stderr, ""));
    }
}

#[test]
fn version_needs_no_supervisor() {
    let rig = Rig::new();
    let ran = rig.run(&["version"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "decurion 0.1.0\n"));
    assert_eq!(ran.stderr, "no supervisor answers on none.sock\n");
    let ran = rig.run(&["version", "-q"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let ran = rig.run(&["version", "-o", "json"]);
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value, serde_json::json!({ "command": "0.1.0", "supervisor": null }));
}

#[test]
fn check_refuses_what_is_no_library() {
    let rig = Rig::new();
    rig.write("empty.so", "");
    rig.write("text.so", "#!/bin/sh\n");
    let myself = std::fs::read(env!("CARGO_BIN_EXE_decurion")).unwrap();
    rig.write("cut.so", &myself[..1000]);
    for (file, words) in [
        ("empty.so", "the file is empty"),
        ("text.so", "the file is text, not a shared library"),
        ("cut.so", "truncated"),
        ("none.so", "the file can't be read: No such file or directory"),
        (".", "it is not a regular file"),
    ] {
        let ran = rig.run(&["check", file]);
        assert_eq!(ran.code, 1, "{file}");
        assert_eq!(ran.stdout, "", "{file}");
        assert!(ran.stderr.starts_with(&format!("error: {file} can't be deployed here\n")), "{}", ran.stderr);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
        let ran = rig.run(&["check", file, "-o", "json"]);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.code, &report["ok"]), (1, &Value::Bool(false)), "{file}");
        assert!(report["problems"][0].as_str().unwrap().contains(words), "{file}");
    }
}

#[test]
fn new_makes_a_folder_once() {
    let rig = Rig::new();
    let ran = rig.run(&["new", "my-scorer"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    assert_eq!(ran.stderr, "made my-scorer; now: cd my-scorer && decurion run\n");
    let read = |name: &str| std::fs::read_to_string(rig.path().join("my-scorer").join(name)).unwrap();
    assert_eq!(
        read("src/lib.rs"),
        "use decurion::prelude::*;\n\n#[deployment]\nfn hello(_req: Request) -> &'static str {\n    \
         \"Hello world!\"\n}\n"
    );
    assert!(read("Cargo.toml").contains("crate-type = [\"cdylib\"]"));
    assert!(read("decurion.toml").contains("library = \"target/release/libmy_scorer.so\""));
    assert_eq!(read(".gitignore"), "/target\n");
    assert!(read("README.md").contains("curl http://127.0.0.1:8000/my-scorer"));
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk").canonicalize().unwrap();
    assert!(read("Cargo.toml").contains(&format!("decurion = {{ path = \"{}\" }}", sdk.display())));

    let ran = rig.run(&["new", "my-scorer"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        "error: my-scorer exists already\n  now: choose another name, or remove it\n  nothing was changed\n"
    );
}

#[test]
fn new_in_c_builds_to_a_library_that_check_accepts() {
    let rig = Rig::new();
    let ran = rig.run(&["new", "scorer", "--template", "c"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "made scorer; now: cd scorer && make && decurion run\n"));
    let folder = rig.path().join("scorer");
    let hello = std::fs::read_to_string(folder.join("hello.c")).unwrap();
    assert!(hello.lines().count() <= 20, "{hello}");
    let Ok(made) = Command::new("make").current_dir(&folder).output() else {
        writeln!(std::io::stderr(), "skipped: there is no make").unwrap();
        return;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ran = rig.run(&["check", "scorer/libscorer.so"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("\nhello  call   many at once  HTTP"), "{}", ran.stdout);
}

#[test]
fn new_in_cpp_builds_to_a_library_that_check_accepts() {
    let rig = Rig::new();
    let ran = rig.run(&["new", "scorer", "--template", "cpp"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let folder = rig.path().join("scorer");
    let cmake = |arguments: &[&str]| Command::new("cmake").args(arguments).current_dir(&folder).output();
    let Ok(configured) = cmake(&["-S", ".", "-B", "build"]) else {
        writeln!(std::io::stderr(), "skipped: there is no cmake").unwrap();
        return;
    };
    assert!(configured.status.success(), "{}", String::from_utf8_lossy(&configured.stderr));
    let built = cmake(&["--build", "build"]).unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stdout));
    let ran = rig.run(&["check", "scorer/libscorer.so"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("\nhello  call   many at once  HTTP"), "{}", ran.stdout);
}

#[test]
fn new_without_an_sdk_changes_nothing() {
    let rig = Rig::new();
    let ran = rig.run(&["new", "scorer", "--sdk", "nowhere"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error: the SDK is not found in nowhere\n"), "{}", ran.stderr);
    assert!(!rig.path().join("scorer").exists());
}

#[test]
fn completions_know_the_commands_and_their_flags() {
    let rig = Rig::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = rig.run(&["completions", shell]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{shell}");
        for word in ["reconfigure", "if-revision", "route-prefix"] {
            assert!(ran.stdout.contains(word), "{shell}: {word}");
        }
    }
}
