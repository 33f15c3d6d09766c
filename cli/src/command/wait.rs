//! Waits for a change to be done, tells each step on the way, and the truth at the end.

mod watch;

use std::time::Duration;

use decurion_api::DeploymentName;
use decurion_api::admin::{Applied, ChangeAction};
use decurion_api::status::{DeploymentStatus, ProxyStatus};
use decurion_client::admin::{Admin, AdminError, LogQuery};
use serde::Serialize;

use crate::args::ChangeArgs;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Tone, printable};
use crate::sys;

use super::look;
use super::source::Source;
use watch::{End, News, Watch, replicas};

const PAUSE: Duration = Duration::from_millis(50);
/// A supervisor that is being restarted may be away for as many looks.
const UNREACHABLE_LOOKS: u32 = 100;
/// What a proxy has to take its settings, or to be replaced, once all else is done.
const PROXY_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of a failed replica that are shown.
const LAST_WORDS: usize = 15;

/// What a change came to, for programs.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    applied: &'a Applied,
    deployments: &'a [DeploymentStatus],
}

/// Makes a change with `make`, and sees it through as far as the flags ask for.
pub(super) fn carry_out(
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
    make: impl FnOnce() -> Result<Applied, Failure>,
) -> Result<Exit, Failure> {
    carry_out_of(None, change, admin, output, make)
}

/// The same for a change that a file asks for.
pub(super) fn carry_out_of(
    source: Option<&Source>,
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
    make: impl FnOnce() -> Result<Applied, Failure>,
) -> Result<Exit, Failure> {
    let before = admin.deployments().map_err(Failure::of_change)?;
    let applied = make()?;
    tell_changes(&applied, output);
    if applied.dry_run || change.no_wait {
        if output.is_json() {
            output.json(&applied)?;
        }
        return Ok(Exit::Done);
    }
    see_through(source, &applied, &before, change.timeout, admin, output)
}

fn tell_changes(applied: &Applied, output: &Output) {
    let tense = if applied.dry_run { "would be" } else { "is" };
    for change in &applied.changes {
        let what = match change.action {
            ChangeAction::Unchanged => "unchanged".to_owned(),
            ChangeAction::Create => "created".to_owned(),
            ChangeAction::Roll => "updated, replica by replica".to_owned(),
            ChangeAction::Configure if change.fields == ["paused"] => "let go on".to_owned(),
            ChangeAction::Configure => "reconfigured without a restart".to_owned(),
            ChangeAction::Delete => "deleted".to_owned(),
        };
        let fields =
            if change.fields.is_empty() { String::new() } else { format!(": {}", change.fields.join(", ")) };
        output.note(&format!("{} {tense} {what}{fields}", change.deployment));
    }
    tell_warnings(applied, output);
    if applied.dry_run {
        output.note("nothing was changed: this was a rehearsal");
    }
}

/// What is no mistake, and yet worth a sentence.
pub(super) fn tell_warnings(applied: &Applied, output: &Output) {
    for warning in &applied.warnings {
        output.note_in(Tone::Moving, &format!("warning: {}", printable(warning)));
    }
}

/// Tells how the deployments of `applied` go, until the end, or only how they stand now.
pub(super) fn watch_on(
    applied: &Applied,
    before: &[DeploymentStatus],
    timeout: Option<Duration>,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    if let Some(timeout) = timeout {
        return see_through(None, applied, before, timeout, admin, output);
    }
    let mut watch = Watch::new(applied, before);
    let _ = watch.look(before);
    report(applied, &watch, before, output)?;
    if watch.is_settled() {
        return conclude(None, applied, &watch, admin, output);
    }
    output.note(&watch.pending_words());
    Ok(Exit::Done)
}

fn see_through(
    source: Option<&Source>,
    applied: &Applied,
    before: &[DeploymentStatus],
    timeout: Duration,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    let mut watch = Watch::new(applied, before);
    let start = sys::now();
    let mut unreachable = 0;
    let last = loop {
        match admin.deployments() {
            Ok(deployments) => {
                unreachable = 0;
                watch.look(&deployments).iter().for_each(|news| tell(news, output));
                if watch.is_settled() {
                    break deployments;
                }
            }
            Err(AdminError::Unreachable { .. }) if unreachable < UNREACHABLE_LOOKS => unreachable += 1,
            Err(error) => {
                return Err(Failure::from(error).changed(format!(
                    "revision {} is stored, and goes on when it is back",
                    applied.revision
                )));
            }
        }
        if start.elapsed() >= timeout {
            return Err(timed_out(&watch, timeout));
        }
        output.live(&watch.pending_words());
        sys::pause(PAUSE);
    };
    let proxy = see_proxy(timeout.saturating_sub(start.elapsed()).min(PROXY_PATIENCE), admin, output);
    output.clear();
    report(applied, &watch, &last, output)?;
    let exit = conclude(source, applied, &watch, admin, output)?;
    if let Some(proxy) = proxy {
        warn_of_proxy(&watch, &last, &proxy, output);
    }
    Ok(exit)
}

/// Waits until the next connection is sure to be served as it is wanted, but for no longer than that.
fn see_proxy(patience: Duration, admin: &Admin, output: &Output) -> Option<ProxyStatus> {
    let start = sys::now();
    loop {
        let proxy = admin.status().ok()?.proxy;
        if (proxy.ready && proxy.up_to_date) || start.elapsed() >= patience {
            return Some(proxy);
        }
        output.live("the proxy takes its settings");
        sys::pause(PAUSE);
    }
}

/// Replicas can be healthy while nobody can reach them: an address in use, a proxy that does not start.
fn warn_of_proxy(watch: &Watch, deployments: &[DeploymentStatus], proxy: &ProxyStatus, output: &Output) {
    let mut concerned = deployments.iter().filter(|deployment| watch.concerns(&deployment.name));
    if !proxy.ready && concerned.any(|deployment| deployment.route_prefix.is_some()) {
        let words = format!("warning: HTTP is not served on {}; `decurion events` says why", proxy.listen);
        output.note_in(Tone::Bad, &words);
    } else if proxy.ready && !proxy.up_to_date {
        let words = "warning: the proxy has not taken its newest settings yet; `decurion events` tells when";
        output.note_in(Tone::Bad, words);
    }
}

fn tell(news: &News, output: &Output) {
    match news {
        News::Ready(words) => output.note_in(Tone::Good, words),
        News::Failed(words) => output.note_in(Tone::Bad, &printable(words)),
        News::Gone(words) => output.note(words),
    }
}

fn timed_out(watch: &Watch, timeout: Duration) -> Failure {
    let words = format!("not done after {} s: {}", timeout.as_secs_f64(), watch.pending_words());
    Failure::new(Exit::TimedOut, words)
        .look("`decurion status` shows how it goes; --timeout waits longer")
        .changed("the rollout goes on")
}

/// The deployments that were waited for, to stdout.
fn report(
    applied: &Applied,
    watch: &Watch,
    deployments: &[DeploymentStatus],
    output: &Output,
) -> Result<(), Failure> {
    let concerned: Vec<DeploymentStatus> =
        deployments.iter().filter(|deployment| watch.concerns(&deployment.name)).cloned().collect();
    if output.is_json() {
        return output.json(&Report { applied, deployments: &concerned });
    }
    if concerned.is_empty() { Ok(()) } else { look::deployments(&concerned, output) }
}

/// Success, or the worst of the failures in full.
fn conclude(
    source: Option<&Source>,
    applied: &Applied,
    watch: &Watch,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    // What waits for others comes after these.
    let mut ends: Vec<(&DeploymentName, &End)> = watch.ends().collect();
    ends.sort_by_key(|(_, end)| matches!(end, End::Blocked(_)));
    let mut failures: Vec<Failure> = ends
        .into_iter()
        .filter_map(|(name, end)| match end {
            End::Done => None,
            End::Failed(status) | End::RolledBack(status) => {
                Some(rollout_failure(source, status, end, admin))
            }
            End::Blocked(status) => Some(
                Failure::new(
                    Exit::Failed,
                    format!("the change of '{name}' can't go on: {}", printable(&status.rollout.message)),
                )
                .changed(format!("revision {} is stored, and goes on when that is mended", applied.revision)),
            ),
            End::Superseded(revision) => Some(
                Failure::new(Exit::Failed, format!("the change of '{name}' was replaced by a later one"))
                    .changed(format!("revision {} was followed by {revision}", applied.revision)),
            ),
            End::Vanished => {
                Some(Failure::new(Exit::Failed, format!("'{name}' was deleted while it was waited for")))
            }
        })
        .collect();
    // What failed for good comes before what was undone.
    failures.sort_by_key(|failure| failure.exit == Exit::Undone);
    let mut failures = failures.into_iter();
    let Some(worst) = failures.next() else {
        output.note_in(Tone::Good, &format!("done (revision {})", applied.revision));
        return Ok(Exit::Done);
    };
    failures.for_each(|failure| failure.print(output));
    Err(worst)
}

fn rollout_failure(source: Option<&Source>, status: &DeploymentStatus, end: &End, admin: &Admin) -> Failure {
    let name = &status.name;
    let rollout = &status.rollout;
    let message = if rollout.message.is_empty() { &status.message } else { &rollout.message };
    let mut lines = message.lines();
    let first = lines.next().unwrap_or("it gave no reason");
    // A configuration that was refused leaves the version as it is.
    let same_version = rollout.version == status.version && matches!(end, End::RolledBack(_));
    let (version, wanted) = (printable(&rollout.version), printable(&status.version));
    let subject = if same_version {
        format!("the change of '{name}'")
    } else {
        format!("version {version} of '{name}'")
    };
    let what = format!("{subject} failed: {}", printable(first));
    let serving = status.replicas.iter().filter(|replica| replica.state.can_serve()).count();
    let (exit, changed) = match end {
        End::RolledBack(_) if same_version => {
            (Exit::Undone, format!("it was undone: revision {} is as it was before", status.revision))
        }
        End::RolledBack(_) => (
            Exit::Undone,
            format!("it was undone: version {wanted} is wanted again, as revision {}", status.revision),
        ),
        _ if serving > 0 => (Exit::Failed, format!("what served before serves on: {}", replicas(serving))),
        _ => (Exit::Failed, "nothing of it serves; requests are refused with 503".to_owned()),
    };
    let rest: Vec<String> = lines.map(printable).collect();
    let place = source.and_then(|source| source.place_of(name, message));
    Failure::new(exit, what)
        .details(place)
        .details(rest)
        .details(last_words(status, message, admin))
        .look(format!("`decurion logs {name}` shows all of it"))
        .changed(changed)
}

/// The end of what the newest failed replica of this version wrote, where the message does not hold it already.
fn last_words(status: &DeploymentStatus, message: &str, admin: &Admin) -> Vec<String> {
    let of_rollout = |version: &str| version == status.rollout.version;
    let Some(ended) = status.ended.iter().find(|ended| ended.failed && of_rollout(&ended.version)) else {
        return Vec::new();
    };
    let query =
        LogQuery { deployment: Some(status.name.clone()), replica: Some(ended.id.clone()), since_ms: None };
    // The failure stands without its last words.
    let lines = admin.logs(&query).unwrap_or_default();
    let new = lines.iter().filter(|line| !message.contains(line.text.as_str()));
    let new: Vec<String> = new.map(|line| format!("{} | {}", ended.id, printable(&line.text))).collect();
    let from = new.len().saturating_sub(LAST_WORDS);
    new[from..].to_vec()
}
