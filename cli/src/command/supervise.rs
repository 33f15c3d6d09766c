//! `supervise`: the daemon, in the foreground.

use std::io::IsTerminal;
use std::path::PathBuf;

use decurion_client::own_runtime_dir;
use decurion_supervisor::{Options, StartError, Supervisor};
use tracing_subscriber::EnvFilter;

use crate::args::SuperviseArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::sys;

pub(super) fn supervise(args: SuperviseArgs, socket: PathBuf, output: &Output) -> Result<Exit, Failure> {
    own_runtime_dir(&socket)?;
    let state_dir = args.state_dir.or_else(sys::default_state_dir).ok_or_else(|| {
        Failure::usage("neither HOME nor XDG_STATE_HOME says where the state is to be kept")
            .now("give --state-dir")
    })?;
    let config = args.config.or_else(|| sys::default_config().filter(|config| config.exists()));
    log_to_stderr("info");
    let mut options = Options::new(state_dir, socket);
    options.config = config;
    options.listen = args.listen;
    options.metrics = args.metrics_listen;
    options.orphan_timeout = args.orphan_timeout;
    options.capacity = args.capacity.unwrap_or_default();
    if args.self_test {
        let word = Supervisor::self_test(&options).map_err(|error| start_failure(&error))?;
        output.line(&word)?;
        return Ok(Exit::Done);
    }
    options.program = sys::this_program();
    let running = Supervisor::start(options).map_err(|error| start_failure(&error))?;
    output.note(&format!("the admin API answers on {}", running.socket().display()));
    if let Some(address) = running.metrics() {
        output.note(&format!("metrics are at http://{address}/metrics"));
    }
    running.wait().map_err(|error| Failure::of("the supervisor ended", &error))?;
    Ok(Exit::Done)
}

pub(super) fn start_failure(error: &StartError) -> Failure {
    let failure = Failure::of("the supervisor can't start", error).nothing_changed();
    match error {
        StartError::Folder { .. } => {
            failure.now("make it writable for this user, or give another --state-dir")
        }
        StartError::Listen { .. } => failure.now("free it, or give another by --listen"),
        _ => failure,
    }
}

/// What the supervisor has to say, from `DECURION_LOG` or this level on.
pub(super) fn log_to_stderr(level: &str) {
    let wanted = sys::variable("DECURION_LOG").and_then(|level| level.into_string().ok());
    let filter =
        wanted.and_then(|level| EnvFilter::try_new(level).ok()).unwrap_or_else(|| EnvFilter::new(level));
    let plain = sys::variable("NO_COLOR").is_some() || !std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(!plain).with_writer(std::io::stderr).init();
}
