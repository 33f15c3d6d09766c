//! `rollout`: how an update goes, what came before it, and how it is held, let go on, or undone.

use decurion_api::DeploymentName;
use decurion_api::admin::{Applied, Change, ChangeAction, HistoryEntry};
use decurion_client::admin::Admin;

use crate::args::{ChangeArgs, RolloutCommand};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, Table, TableCell, Tone, printable};

use super::deploy::condition;
use super::look::no_such;
use super::wait::{carry_out, watch_on};

pub(super) fn rollout(command: &RolloutCommand, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    match command {
        RolloutCommand::Status { name, no_wait, timeout } => {
            let status = admin.status()?;
            let Some(found) = status.deployments.iter().find(|deployment| deployment.name == *name) else {
                return Err(no_such(name, &status.deployments));
            };
            // Whatever is on its way is waited for, as after a change that changed nothing.
            let change = Change {
                deployment: name.clone(),
                action: ChangeAction::Unchanged,
                fields: Vec::new(),
                steps: Vec::new(),
            };
            let revision = found.rollout.revision;
            let applied = Applied { revision, dry_run: false, changes: vec![change], warnings: Vec::new() };
            watch_on(&applied, &status.deployments, (!no_wait).then_some(*timeout), admin, output)
        }
        RolloutCommand::History { name } => history(&admin.history(name)?, output),
        RolloutCommand::Undo { name, to, change } => super::changes::undo(name, *to, change, admin, output),
        RolloutCommand::Pause { name, change } => hold(name, true, change, admin, output),
        RolloutCommand::Resume { name, change } => hold(name, false, change, admin, output),
    }
}

fn hold(
    name: &DeploymentName,
    paused: bool,
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    let ask = || {
        let condition = condition(change);
        let asked = if paused { admin.pause(name, condition) } else { admin.resume(name, condition) };
        asked.map_err(Failure::of_change)
    };
    if !paused {
        return carry_out(change, admin, output, ask);
    }
    // A pause has nothing to wait for.
    let applied = ask()?;
    output.note(&format!("{name} is paused: `decurion rollout resume {name}` goes on"));
    if output.is_json() {
        output.json(&applied)?;
    }
    Ok(Exit::Done)
}

fn history(entries: &[HistoryEntry], output: &Output) -> Result<Exit, Failure> {
    if output.is_json() {
        output.json_list(entries)?;
        return Ok(Exit::Done);
    }
    let wide = output.format == Format::Wide;
    let mut headings = vec!["REVISION", "VERSION", "REPLICAS"];
    if wide {
        headings.push("LIBRARY");
    }
    headings.extend(["CHANGED", "NOTE"]);
    let mut table = Table::new(&headings);
    for entry in entries {
        let (note, tone) = match (&entry.undid, entry.current) {
            (Some(undone), _) => (format!("undid {}: {}", undone.revision, undone.message), Tone::Bad),
            (None, true) => ("current".to_owned(), Tone::Good),
            (None, false) => (String::new(), Tone::Plain),
        };
        let mut row: Vec<TableCell> = vec![
            entry.revision.to_string().into(),
            printable(&entry.version).into(),
            entry.replicas.as_str().into(),
        ];
        if wide {
            row.push(entry.library.chars().take(12).collect::<String>().into());
        }
        row.push(entry.fields.join(", ").into());
        row.push(TableCell::toned(printable(&note), tone));
        table.row(row);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}
