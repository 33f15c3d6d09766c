//! `logs` and `events`: what was, and with `-f` what comes.

use decurion_api::admin::{Event, LogLine};
use decurion_client::admin::{Admin, AdminError, LogQuery};
use serde::Serialize;

use crate::args::LogsArgs;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, Tone, printable, utc};
use crate::sys;

use super::look::no_such;

pub(super) fn logs(args: &LogsArgs, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let since_ms = args.since.map(|since| {
        let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        sys::unix_ms().saturating_sub(since_ms)
    });
    let deployment = args.source.as_ref().map(|source| source.deployment.clone());
    let replica = args.source.as_ref().and_then(|source| source.replica.clone());
    let query = LogQuery { deployment, replica, since_ms };
    // Lines of a deployment that is gone can still be read; a name that never was is a mistake.
    let show = |line: &LogLine| output.line(&log_line(line, output));
    if args.follow {
        exists(&query, admin)?;
        return each(admin.follow_logs(&query)?, show, output);
    }
    let lines = admin.logs(&query)?;
    if lines.is_empty() {
        exists(&query, admin)?;
    }
    all(&lines, show, output)
}

fn exists(query: &LogQuery, admin: &Admin) -> Result<(), Failure> {
    let Some(name) = &query.deployment else { return Ok(()) };
    let deployments = admin.deployments()?;
    match deployments.iter().any(|deployment| deployment.name == *name) {
        true => Ok(()),
        false => Err(no_such(name, &deployments)),
    }
}

pub(super) fn events(follow: bool, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let show = |event: &Event| output.line(&event_line(event, output));
    if follow { each(admin.follow_events()?, show, output) } else { all(&admin.events()?, show, output) }
}

fn all<T: Serialize>(
    items: &[T],
    show: impl FnMut(&T) -> Result<(), Failure>,
    output: &Output,
) -> Result<Exit, Failure> {
    if output.is_json() {
        output.json_list(items)?;
    } else {
        items.iter().try_for_each(show)?;
    }
    Ok(Exit::Done)
}

/// A stream has no end that an array could have, so it is one JSON document a line.
fn each<T: Serialize>(
    items: impl Iterator<Item = Result<T, AdminError>>,
    mut show: impl FnMut(&T) -> Result<(), Failure>,
    output: &Output,
) -> Result<Exit, Failure> {
    for item in items {
        let item = item?;
        if output.is_json() {
            let line =
                serde_json::to_string(&item).map_err(|error| Failure::of("writing JSON failed", &error))?;
            output.line(&line)?;
        } else {
            show(&item)?;
        }
    }
    Err(Failure::new(Exit::Unreachable, "the supervisor has stopped"))
}

fn log_line(line: &LogLine, output: &Output) -> String {
    let label = match output.format {
        Format::Wide => format!("{} {} {}", utc(line.at_ms), line.replica, line.stream),
        _ => line.replica.to_string(),
    };
    format!("{} {}", output.painted(&format!("{label} |"), Tone::Dim), printable(&line.text))
}

fn event_line(event: &Event, output: &Output) -> String {
    let about = match (&event.replica, &event.deployment) {
        (Some(replica), _) => format!("{replica}: "),
        (None, Some(deployment)) => format!("{deployment}: "),
        (None, None) => String::new(),
    };
    let time = output.painted(&utc(event.at_ms), Tone::Dim);
    format!("{time} {} {about}{}", event.kind, printable(&event.message))
}
