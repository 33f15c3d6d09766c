//! Libraries in C and C++: by the plain compilers and by CMake, against every released header, under AddressSanitizer
//! and valgrind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use decurion_ipc::control::{ReplicaOrder, ReplicaReport};
use tempfile::TempDir;

use crate::rig::{Ask, Caller, Replica, call, get, start_order};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder that libraries are built in.
struct Workshop(TempDir);

impl Workshop {
    fn open() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Builds a shared library from one source.
    fn build(&self, source: &Path, include: &Path, flags: &[&str]) -> PathBuf {
        let output = self.0.path().join(format!("lib{}.so", source.file_stem().expect("a name").display()));
        let cpp = source.extension().is_some_and(|extension| extension == "cpp");
        let mut compiler = if cpp { Command::new("c++") } else { Command::new("cc") };
        if cpp {
            compiler.arg("-std=c++17");
        }
        let status = compiler
            .args(["-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden", "-I"])
            .arg(include)
            .args(flags)
            .arg("-o")
            .args([&output, source])
            .status()
            .expect("a compiler");
        assert!(status.success(), "{}", source.display());
        output
    }

    fn example(&self, source: &str, flags: &[&str]) -> PathBuf {
        self.build(&root().join("examples").join(source), &root().join("sdk/abi/include"), flags)
    }
}

/// How a replica is to be run.
#[derive(Default)]
struct Under {
    /// Before the runner's own path.
    wrapper: Vec<String>,
    env: Vec<(&'static str, String)>,
    /// Whether what it says is read.
    listen: bool,
}

impl Under {
    fn start(&self, library: &Path, class: &str, args: &str) -> Replica {
        let mut start = start_order(&library.to_string_lossy(), class, args);
        start.threads = 2;
        Replica::spawn_by(start, |runner| {
            let mut command = match self.wrapper.split_first() {
                Some((program, rest)) => {
                    let mut command = Command::new(program);
                    command.args(rest).arg(runner);
                    command
                }
                None => Command::new(runner),
            };
            command.envs(self.env.iter().map(|(name, value)| (name, value)));
            if self.listen {
                command.stderr(Stdio::piped());
            }
            command
        })
    }
}

/// Everything that `examples/c/model.c` and `examples/cpp/model.cpp` have in common.
fn try_model(replica: Replica) {
    assert_eq!(replica.report(), ReplicaReport::Ready);
    let mut caller = replica.caller();
    let text = |caller: &mut Caller, body: &str| {
        let (status, answer) = caller.ask(Ask { method: "POST", ..get("") }, body.as_bytes());
        (status, String::from_utf8_lossy(&answer).into_owned())
    };
    assert_eq!(text(&mut caller, "0.7"), (200, "above".to_owned()));
    assert_eq!(text(&mut caller, "0.2"), (200, "below".to_owned()));
    assert_eq!(text(&mut caller, "x").0, 400);
    assert_eq!(caller.ask(call("predict"), b"[0.7]"), (200, b"true".to_vec()));
    replica.reconfigure(1, "{\"threshold\": 0.9}");
    assert_eq!(replica.report(), ReplicaReport::Reconfigured { sequence: 1, result: Ok(()) });
    assert_eq!(caller.ask(call("predict"), b"[0.7]"), (200, b"false".to_vec()));
    replica.reconfigure(2, "{}");
    assert!(matches!(replica.report(), ReplicaReport::Reconfigured { sequence: 2, result: Err(_) }));
    for count in ["1", "2", "3"] {
        assert_eq!(caller.ask(call("learn"), b"[]"), (200, count.as_bytes().to_vec()));
    }
    replica.order(&ReplicaOrder::CheckHealth { sequence: 3 });
    let unhealthy = Err("learned too much".to_owned());
    assert_eq!(replica.report(), ReplicaReport::Health { sequence: 3, result: unhealthy });
    assert_eq!(caller.ask(call("unlearn"), b"[]").0, 404);
    replica.drain();
}

#[test]
fn a_class_in_cpp_has_everything() {
    let workshop = Workshop::open();
    let model = workshop.example("cpp/model.cpp", &[]);
    try_model(Under::default().start(&model, "Model", "[0.5]"));

    let replica = Under::default().start(&model, "Model", "[0.5]");
    assert_eq!(replica.report(), ReplicaReport::Ready);
    let mut caller = replica.caller();
    let path = |path| Ask { path, ..get("") };
    let countdown = "data: 3\n\ndata: 2\n\ndata: 1\n\n".to_owned();
    assert_eq!(caller.text(path("/test/countdown")), (200, countdown));
    assert_eq!(caller.text(path("/test/bug")), (500, "Internal Server Error".to_owned()));
    assert_eq!(caller.ask(call("predict"), b"[0.7]").0, 200);
    replica.drain();

    let refused = Under::default().start(&model, "Model", "null").report();
    let ReplicaReport::StartFailed(why) = refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("argument 'threshold' of Model is missing"), "{why}");
}

#[test]
fn libraries_built_against_every_released_header_still_load() {
    let released = root().join("sdk/abi/released");
    let mut count = 0;
    for entry in fs::read_dir(&released).expect("released headers").flatten() {
        let workshop = Workshop::open();
        let include = workshop.0.path().join("include");
        fs::create_dir(&include).expect("a folder");
        fs::copy(entry.path(), include.join("decurion.h")).expect("a copy");
        let model = workshop.build(&root().join("examples/c/model.c"), &include, &[]);
        try_model(Under::default().start(&model, "Model", "[0.5]"));
        count += 1;
    }
    assert!(count >= 1, "no header in {}", released.display());
}

/// Which of `programs` is not there, said aloud.
#[expect(clippy::print_stdout, reason = "says why a test is skipped")]
fn missing(program: &str) -> bool {
    let missing = Command::new(program).arg("--version").output().is_err();
    if missing {
        println!("skipped: {program} is not installed here");
    }
    missing
}

#[test]
fn cmake_builds_the_examples() {
    if missing("cmake") {
        return;
    }
    let workshop = Workshop::open();
    let build = workshop.0.path().join("build");
    let run = |command: &mut Command| {
        let output = command.output().expect("cmake runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    };
    run(Command::new("cmake").arg("-S").arg(root().join("examples/cpp")).arg("-B").arg(&build));
    run(Command::new("cmake").arg("--build").arg(&build));
    let replica = Under::default().start(&build.join("libhello_cpp.so"), "hello_cpp", "null");
    assert_eq!(replica.report(), ReplicaReport::Ready);
    assert_eq!(replica.caller().text(get("")), (200, "Hello world from C++!".to_owned()));
    replica.drain();
}

/// One byte beyond what it has allocated, and one read of what was given back.
const FAULTY: &str = r#"
#include <stdlib.h>
#include "decurion.h"
static int32_t answer(void *unused, decurion_exchange *exchange) {
    volatile char *bytes = malloc(8);
    (void)unused;
    bytes[decurion_request_of(exchange)->path.len + 3] = 1;
    free((void *)bytes);
    return decurion_respond_text(exchange, 200, bytes[0] ? "a" : "b");
}
DECURION_FUNCTION(faulty, answer)
"#;

fn faulty(workshop: &Workshop, flags: &[&str]) -> PathBuf {
    let source = workshop.0.path().join("faulty.c");
    fs::write(&source, FAULTY).expect("write");
    // The compiler sees it, too.
    let flags = [flags, &["-Wno-use-after-free", "-Wno-unknown-warning-option"]].concat();
    workshop.build(&source, &root().join("sdk/abi/include"), &flags)
}

/// Whether a checker finds what is wrong with a library: without that, its silence would mean nothing.
fn finds(words: &str, under: &mut Under, library: &Path) {
    under.listen = true;
    let mut replica = under.start(library, "faulty", "null");
    under.listen = false;
    let stderr = replica.process.stderr.take().expect("a pipe");
    assert_eq!(replica.report(), ReplicaReport::Ready);
    let mut caller = replica.caller();
    let _ = caller.open(get(""), b"", true);
    let mut said = Vec::new();
    let found = BufReader::new(stderr).lines().map_while(Result::ok).any(|line| {
        said.push(line);
        said.last().is_some_and(|line| line.contains(words))
    });
    assert!(found, "{}", said.join("\n"));
}

/// Where a compiler's own library lies; its bare name where it is not there.
fn runtime(name: &str) -> PathBuf {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().expect("a compiler");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

#[test]
fn address_sanitizer_finds_nothing_in_the_examples() {
    let workshop = Workshop::open();
    // The C++ runtime as well: AddressSanitizer looks for what throws when the process starts.
    let runtimes = ["libasan.so", "libstdc++.so"].map(runtime);
    if runtimes.iter().any(|path| !path.is_absolute()) && missing("libasan.so") {
        return;
    }
    let preload = runtimes.map(|path| path.display().to_string()).join(" ");
    let mut under = Under {
        wrapper: Vec::new(),
        // The runner lets its library go by ending: what is still reachable then is no leak.
        env: vec![("LD_PRELOAD", preload), ("ASAN_OPTIONS", "detect_leaks=0:exitcode=99".to_owned())],
        listen: false,
    };
    let flags = ["-fsanitize=address", "-fno-omit-frame-pointer"];
    finds("AddressSanitizer: heap-buffer-overflow", &mut under, &faulty(&workshop, &flags));
    try_model(under.start(&workshop.example("c/model.c", &flags), "Model", "[0.5]"));
    let other = Workshop::open();
    try_model(under.start(&other.example("cpp/model.cpp", &flags), "Model", "[0.5]"));
}

#[test]
fn valgrind_finds_nothing_in_the_examples() {
    if missing("valgrind") {
        return;
    }
    let workshop = Workshop::open();
    let words = ["valgrind", "-q", "--error-exitcode=99", "--fair-sched=yes"].map(str::to_owned);
    let mut under = Under { wrapper: words.to_vec(), ..Under::default() };
    finds("Invalid write of size 1", &mut under, &faulty(&workshop, &[]));
    try_model(under.start(&workshop.example("c/model.c", &[]), "Model", "[0.5]"));
    let other = Workshop::open();
    try_model(under.start(&other.example("cpp/model.cpp", &[]), "Model", "[0.5]"));
}
