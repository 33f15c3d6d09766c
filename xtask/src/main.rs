//! The project's own commands: `cargo xtask hello | test | ci`.
//!
//! Each builds what it needs. `ci` is the gate: what it passes may land.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask COMMAND

  hello    build everything for release and serve examples/hello on http://127.0.0.1:8000/api
  test     build everything and run all tests
  loom     model-check the data plane's lock-free parts
  fuzz     run each fuzz target for a short while (needs cargo-fuzz)
  bench    run the benches; `bench end_to_end` and `bench http` are wrk against us and the others
  ci       the gate: fmt, clippy, test, loom, docs, fuzz and cargo-deny where they can be had
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("hello") => hello(),
        Some("test") => test(&rest),
        Some("loom") => loom(),
        Some("fuzz") => fuzz(&rest),
        Some("bench") => bench(&rest),
        Some("ci") => ci(),
        _ => {
            say(HELP);
            return if arguments.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(64) };
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            say(&format!("xtask: {what}"));
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), String>;

#[expect(clippy::print_stderr, reason = "a command's words for the person who runs it")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Outcome {
    run_with(program, arguments, &[])
}

fn run_with<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    env: &[(&str, &str)],
) -> Outcome {
    let mut command = Command::new(program);
    command.args(arguments).envs(env.iter().copied()).current_dir(root());
    let words: Vec<String> = std::iter::once(program.into())
        .chain(command.get_args().map(|it| it.to_string_lossy().into_owned()))
        .collect();
    let line = words.join(" ");
    say(&format!("+ {line}"));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` ended with {status}")),
        Err(error) => Err(format!("can't run `{line}`: {error}")),
    }
}

fn cargo(arguments: &[&str]) -> Outcome {
    run("cargo", arguments)
}

/// A cargo sub-command that may not be installed.
fn has(subcommand: &str) -> bool {
    let found = Command::new("cargo").args([subcommand, "--version"]).output();
    found.is_ok_and(|output| output.status.success())
}

#[expect(clippy::disallowed_methods, reason = "cargo's own variable, and xtask has no sys/")]
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// What serving takes: the command and the programs that it starts.
const PROGRAMS: [&str; 8] =
    ["-p", "decurion-cli", "-p", "decurion-proxy", "-p", "decurion-replica-runner", "-p", "decurion-graph"];

fn hello() -> Outcome {
    cargo(&[&["build", "--release", "-p", "hello"], &PROGRAMS[..]].concat())?;
    let decurion = target().join("release/decurion");
    run(&decurion.to_string_lossy(), ["run", "examples/hello/decurion.toml"])
}

/// How a test program is run: one that hangs ends as a failure after 20 minutes, six times what the longest takes;
/// what it printed names the test.
const TEST_RUNNER: &str =
    "target.'cfg(all())'.runner = ['timeout', '--foreground', '--signal=ABRT', '--kill-after=10', '1200']";

fn test(arguments: &[&str]) -> Outcome {
    // The end-to-end tests run the real binaries and libraries, which `cargo test` alone does not build.
    // One failure hides no other: all are worth knowing at once.
    cargo(&["build", "--workspace"])?;
    cargo(&[&["test", "--workspace", "--no-fail-fast", "--config", TEST_RUNNER], arguments].concat())
}

fn loom() -> Outcome {
    let target = target().join("loom");
    let env = [("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", &*target.to_string_lossy())];
    run_with("cargo", ["test", "--release", "-p", "decurion-ipc", "--lib", "loom"], &env)
}

/// Seconds that each target runs for, unless told otherwise.
const FUZZ_SECONDS: &str = "10";

fn fuzz(arguments: &[&str]) -> Outcome {
    if !has("fuzz") {
        return Err("cargo-fuzz is not installed: cargo install --locked cargo-fuzz".to_owned());
    }
    run("cargo", ["run", "--quiet", "--manifest-path", "fuzz/Cargo.toml", "--example", "seeds"])?;
    let seconds = arguments.first().copied().unwrap_or(FUZZ_SECONDS);
    let output = Command::new("cargo").args(["fuzz", "list"]).current_dir(root()).output();
    let output = output.map_err(|error| format!("can't list the fuzz targets: {error}"))?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in targets.lines() {
        let limit = format!("-max_total_time={seconds}");
        // Without a sanitizer it runs on the stable toolchain; the targets look for panics and broken promises.
        run("cargo", ["fuzz", "run", "--sanitizer", "none", name, "--", &limit, "-rss_limit_mb=2048"])?;
    }
    Ok(())
}

fn bench(arguments: &[&str]) -> Outcome {
    match arguments.first() {
        Some(program @ (&"end_to_end" | &"http")) => {
            let served = ["-p", "hello", "-p", "decurion-fixtures", "-p", "decurion-benches"];
            cargo(&[&["build", "--release"], &served[..], &PROGRAMS[..]].concat())?;
            let bench = target().join("release").join(program);
            run(&bench.to_string_lossy(), &arguments[1..])
        }
        some => {
            // What the replica bench starts.
            let fixtures = ["-p", "decurion-fixtures", "-p", "axum-ingress"];
            let served =
                if matches!(some, None | Some(&"authors" | &"faults")) { &fixtures[..] } else { &[] };
            cargo(&[&["build", "--release", "-p", "hello"], &PROGRAMS[..], served].concat())?;
            let one: Vec<&str> = some.into_iter().flat_map(|name| ["--bench", name]).collect();
            // Built for the goals alone: it takes long, and nothing else needs it.
            let features: &[&str] = if some == Some(&"goals") { &["--features", "iceoryx2"] } else { &[] };
            let rest = arguments.get(1..).filter(|rest| !rest.is_empty());
            let rest = rest.map_or(Vec::new(), |rest| [&["--"], rest].concat());
            cargo(&[&["bench", "-p", "decurion-benches"], &one[..], features, &rest[..]].concat())
        }
    }
}

fn ci() -> Outcome {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    test(&[])?;
    loom()?;
    run_with(
        "cargo",
        ["doc", "--workspace", "--no-deps", "--document-private-items"],
        &[("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links")],
    )?;
    if has("fuzz") {
        fuzz(&[])?;
    } else {
        say("xtask: cargo-fuzz is not installed, so the fuzz targets were not run");
    }
    if has("deny") {
        cargo(&["deny", "check", "bans", "licenses", "sources"])?;
    } else {
        say("xtask: cargo-deny is not installed, so licenses, bans and sources were not checked");
    }
    Ok(())
}
