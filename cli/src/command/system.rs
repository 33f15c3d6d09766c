//! `version` and `shutdown`.

use std::time::Duration;

use decurion_api::admin::VersionInfo;
use decurion_client::admin::{Admin, AdminError};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::sys;

const OURS: &str = env!("CARGO_PKG_VERSION");
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Versions {
    command: &'static str,
    /// Absent where none answers, which is no failure here.
    supervisor: Option<VersionInfo>,
}

pub(super) fn version(admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let supervisor = match admin.version() {
        Ok(version) => Some(version),
        Err(error) if error.is_unreachable() => None,
        Err(error) => return Err(error.into()),
    };
    if output.is_json() {
        output.json(&Versions { command: OURS, supervisor })?;
        return Ok(Exit::Done);
    }
    output.line(&format!("decurion {OURS}"))?;
    match supervisor {
        Some(VersionInfo { version, pid, abi }) => {
            output.line(&format!("supervisor {version} (pid {pid}, plugin ABI {abi})"))?;
        }
        None => output.note(&format!("no supervisor answers on {}", admin.socket().display())),
    }
    Ok(Exit::Done)
}

/// Waits, for at most `timeout` if there is one, until nobody answers on the socket any more.
pub(super) fn shutdown(
    now: bool,
    timeout: Option<Duration>,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    let pid = admin.version().ok().map(|version| version.pid);
    match admin.shutdown(now) {
        // One that ends as quickly as it can may be gone before its answer is: whether it goes is seen below.
        Err(AdminError::Broken { .. }) if timeout.is_some() => {}
        agreed => agreed.map_err(Failure::of_change)?,
    }
    let Some(timeout) = timeout else {
        output.note("the supervisor is stopping");
        return report(false, output);
    };
    let start = sys::now();
    while still_there(admin, pid) {
        if start.elapsed() >= timeout {
            let words = format!("the supervisor is still stopping after {} s", timeout.as_secs());
            return Err(Failure::new(Exit::TimedOut, words).now("`decurion shutdown --now` kills at once"));
        }
        output.live("draining");
        sys::pause(PAUSE);
    }
    output.note("the supervisor has stopped");
    report(true, output)
}

fn report(stopped: bool, output: &Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.json(&serde_json::json!({ "stopped": stopped }))?;
    }
    Ok(Exit::Done)
}

/// Another supervisor that has been started in the meantime does not count.
fn still_there(admin: &Admin, pid: Option<i32>) -> bool {
    match admin.version() {
        Ok(version) => pid.is_none_or(|pid| pid == version.pid),
        Err(AdminError::Unreachable { .. }) => false,
        Err(_) => true,
    }
}
