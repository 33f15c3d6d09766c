//! `run`: a supervisor in this terminal, for one configuration or library; Ctrl-C ends it and leaves nothing behind.

mod watch;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use decurion_client::admin::Admin;
use decurion_supervisor::{Options, Output as Lines, Running, Supervisor};
use serde_json::Value;

use crate::args::{ChangeArgs, RunArgs};
use crate::failure::{Exit, Failure};
use crate::output::{Output, Tone};
use crate::sys::TemporaryDir;

use super::deploy::put;
use super::supervise::{log_to_stderr, start_failure};
use super::target::{Target, key_values};
use super::{look, wait};
use watch::Watch;

const CONFIG: &str = "decurion.toml";
/// For the first replicas; a constructor may load a large model.
const READY_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) fn run(args: RunArgs, socket: Option<PathBuf>, output: &Output) -> Result<Exit, Failure> {
    let (target, arguments) = what_to_run(&args)?;
    build(&target, args.target.is_some(), output)?;
    let folder =
        TemporaryDir::new().map_err(|error| Failure::of("a temporary folder can't be made", &error))?;
    log_to_stderr("warn");
    let output = output.among_other_lines();
    let watch = args.watch.then(|| Watch::new(&target, &output)).transpose()?;
    let running = start(&args, socket, folder.path())?;
    let admin = Admin::new(running.socket());
    let deployed = deploy(&args, &target, arguments.clone(), &admin, &output);
    // Ctrl-C while it was deployed: the supervisor has gone, as it was told to.
    let interrupted = deployed.as_ref().is_err_and(|failure| failure.exit == Exit::Unreachable);
    if deployed.is_err() && !interrupted {
        running.stopper().stop();
    }
    let deployed = deployed
        .map_err(|failure| failure.after_cleanup("the supervisor has stopped; nothing is left of it"));
    let ended = std::thread::scope(|scope| {
        let end = watch.filter(|_| deployed.is_ok()).map(|(watch, end)| {
            let (args, target, admin, output) = (&args, &target, &admin, output.among_other_lines());
            scope.spawn(move || {
                watch.go_on(&output, || apply(args, target, arguments.clone(), admin, &output));
            });
            end
        });
        let ended = running.wait().map_err(|error| Failure::of("the supervisor ended", &error));
        drop(end);
        ended
    });
    drop(folder);
    if !interrupted {
        deployed?;
    }
    ended?;
    Ok(Exit::Done)
}

/// The first word names a file or a library; without one it is the file of this folder.
fn what_to_run(args: &RunArgs) -> Result<(Target, Option<Value>), Failure> {
    let arguments = match args.arguments.as_slice() {
        [] => None,
        pairs => Some(Value::Object(key_values(pairs)?)),
    };
    match &args.target {
        Some(target) => Ok((Target::parse(target)?, arguments)),
        None if Path::new(CONFIG).exists() => Ok((Target::File(CONFIG.into()), arguments)),
        None => {
            Err(Failure::usage(format!("there is no {CONFIG} in this folder, and nothing else is named"))
                .now("`decurion new NAME` makes a folder with one; or name a file or a library"))
        }
    }
}

/// A crate is built first, so that what runs is what is written.
fn build(target: &Target, named: bool, output: &Output) -> Result<(), Failure> {
    if named || !matches!(target, Target::File(_)) || !Path::new("Cargo.toml").exists() {
        return Ok(());
    }
    output.note("cargo build --release");
    let failed = || {
        Failure::new(Exit::Failed, "the crate does not build").now("`cargo build --release` is what was run")
    };
    match Command::new("cargo").args(["build", "--release"]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(failed()),
        Err(error) => {
            Err(Failure::of("cargo can't be run", &error).now("install Rust, or name a built library"))
        }
    }
}

fn start(args: &RunArgs, socket: Option<PathBuf>, folder: &Path) -> Result<Running, Failure> {
    let socket = socket.unwrap_or_else(|| folder.join("control.sock"));
    let mut options = Options::new(folder.join("state"), socket);
    options.listen = args.listen.clone().or_else(|| args.port.map(|port| format!("127.0.0.1:{port}")));
    options.capacity = args.capacity.clone().unwrap_or_default();
    options.output = Lines::Stderr;
    // What runs in a terminal leaves nothing behind, however it ends.
    options.orphan_timeout = Duration::ZERO;
    Supervisor::start(options).map_err(|error| start_failure(&error))
}

fn deploy(
    args: &RunArgs,
    target: &Target,
    arguments: Option<Value>,
    admin: &Admin,
    output: &Output,
) -> Result<(), Failure> {
    apply(args, target, arguments, admin, output)?;
    let status = admin.status()?;
    for deployment in &status.deployments {
        match look::url(deployment, &status) {
            Some(url) => output.note_in(Tone::Good, &format!("{}: curl {url}", deployment.name)),
            None => output.note(&format!("{}: reached by handle only", deployment.name)),
        }
    }
    output.note(&format!("the admin API answers on {}", admin.socket().display()));
    output.note("Ctrl-C ends it");
    Ok(())
}

/// As `deploy` does it.
fn apply(
    args: &RunArgs,
    target: &Target,
    arguments: Option<Value>,
    admin: &Admin,
    output: &Output,
) -> Result<(), Failure> {
    let change = ChangeArgs { dry_run: false, no_wait: false, timeout: READY_TIMEOUT, if_revision: None };
    let ready = target.ready(&args.library, arguments, admin, output)?;
    let make = || put(&ready, &change, admin);
    wait::carry_out_of(ready.source(), &change, admin, output, make).map(drop)
}
