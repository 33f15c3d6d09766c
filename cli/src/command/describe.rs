//! `describe`: everything about one deployment, for people; the same as one document for programs.

use decurion_api::DeploymentName;
use decurion_api::admin::Description;
use decurion_client::admin::Admin;
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::output::{Output, Table, TableCell, printable, utc};

use super::look;

pub(super) fn describe(name: &DeploymentName, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let found = admin.describe(name)?;
    if output.is_json() {
        output.json(&found)?;
    } else {
        show(&found, output)?;
    }
    Ok(Exit::Done)
}

fn show(found: &Description, output: &Output) -> Result<(), Failure> {
    let status = &found.status;
    let rollout = &status.rollout;
    let outcome = serde_json::to_value(rollout.outcome).unwrap_or_default();
    let paused = if found.paused { ", paused" } else { "" };
    output.line(&format!("{} of application {}", status.name, status.application))?;
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            table.row(vec![TableCell::from(name), TableCell::from(printable(&value))]);
        }
    };
    row("status", format!("{}{paused}", status.status.as_str()));
    row("message", status.message.clone());
    row("class", format!("{} in {}", status.class, status.library.get(..12).unwrap_or(&status.library)));
    row(
        // The row "rollout" is of its settings, with the other fields of the configuration.
        "revision",
        format!("{}, version {}: {}", rollout.revision, rollout.version, words(&outcome)),
    );
    row("", rollout.message.clone());
    if let Value::Object(fields) = &found.spec {
        let hidden = ["name", "library", "class", "version"];
        for (field, value) in fields.iter().filter(|(field, _)| !hidden.contains(&field.as_str())) {
            row(field, words(value));
        }
    }
    output.table(&table)?;
    if !found.held.is_empty() {
        output.line("\nheld back:")?;
        for held in &found.held {
            let about = held.replica.as_ref().map_or_else(String::new, |replica| format!("{replica}: "));
            output.line(&format!("  {about}{}", printable(&held.reason)))?;
        }
    }
    output.line("\nreplicas:")?;
    look::with_replicas(status, output)?;
    output.line("\nevents:")?;
    for event in &found.events {
        let about = event.replica.as_ref().map_or_else(String::new, |replica| format!("{replica}: "));
        let message = printable(&event.message);
        output.line(&format!("  {} {} {about}{message}", utc(event.at_ms), event.kind))?;
    }
    if !found.last_words.is_empty() {
        output.line("\nlast lines of the replica that failed last:")?;
        for line in &found.last_words {
            output.line(&format!("  {} | {}", line.replica, printable(&line.text)))?;
        }
    }
    Ok(())
}

/// Text as it is, all else as JSON.
fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
