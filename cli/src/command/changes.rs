//! `scale`, `reconfigure`, `restart`, `rollout undo` and `delete`: changes of what is deployed.

use decurion_api::DeploymentName;
use decurion_api::admin::Applied;
use decurion_client::admin::{Admin, Condition};
use serde_json::{Map, Value, json};

use crate::args::ChangeArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;

use super::deploy::condition;
use super::target::{key_values, not_json};
use super::wait::carry_out;

pub(super) fn scale(
    name: &DeploymentName,
    num_replicas: u32,
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    carry_out(change, admin, output, || {
        admin.scale(name, num_replicas, condition(change)).map_err(Failure::of_change)
    })
}

pub(super) fn restart(
    name: &DeploymentName,
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    carry_out(change, admin, output, || admin.restart(name, condition(change)).map_err(Failure::of_change))
}

pub(super) fn undo(
    name: &DeploymentName,
    to: Option<u64>,
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    carry_out(change, admin, output, || {
        admin.rollback(name, to, condition(change)).map_err(Failure::of_change)
    })
}

pub(super) fn reconfigure(
    name: &DeploymentName,
    config: &[String],
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    let config = given_config(config)?;
    carry_out(change, admin, output, || {
        let (user_config, read_at) = match config {
            GivenConfig::Whole(user_config) => (user_config, None),
            GivenConfig::Keys(keys) => merged(name, keys, admin)?,
        };
        // What was read may have been changed by another in between; then nobody's keys get lost.
        let if_revision = change.if_revision.or(read_at);
        let condition = Condition { if_revision, ..condition(change) };
        let patch = json!({ "user_config": user_config });
        admin.patch_deployment(name, &patch, condition).map_err(Failure::of_change)
    })
}

/// What `reconfigure` was given.
#[derive(Debug, PartialEq)]
enum GivenConfig {
    Whole(Value),
    Keys(Map<String, Value>),
}

fn given_config(given: &[String]) -> Result<GivenConfig, Failure> {
    let [only] = given else { return key_values(given).map(GivenConfig::Keys) };
    match serde_json::from_str(only) {
        Ok(whole) => Ok(GivenConfig::Whole(whole)),
        Err(error) if only.trim_start().starts_with(['{', '[', '"']) || !only.contains('=') => {
            Err(not_json(only, &error))
        }
        Err(_) => key_values(given).map(GivenConfig::Keys),
    }
}

/// The present configuration with these keys, and the revision that it was read at.
fn merged(
    name: &DeploymentName,
    keys: Map<String, Value>,
    admin: &Admin,
) -> Result<(Value, Option<u64>), Failure> {
    let live = admin.deployment(name).map_err(Failure::of_change)?;
    let mut config = match live.value.get("user_config") {
        Some(Value::Object(config)) => config.clone(),
        Some(Value::Null) | None => Map::new(),
        Some(_) => {
            let words = format!("the user_config of '{name}' is no table, so that no key of it can be set");
            return Err(Failure::new(Exit::Failed, words)
                .now("give the whole of it as JSON")
                .nothing_changed());
        }
    };
    config.extend(keys);
    Ok((Value::Object(config), live.revision))
}

pub(super) fn delete(
    names: &[DeploymentName],
    change: &ChangeArgs,
    admin: &Admin,
    output: &Output,
) -> Result<Exit, Failure> {
    carry_out(change, admin, output, || {
        let mut sum: Option<Applied> = None;
        for name in names {
            // The first deletion moves the revision on by itself.
            let if_revision = change.if_revision.map(|given| sum.as_ref().map_or(given, |sum| sum.revision));
            let if_revision = if change.dry_run { change.if_revision } else { if_revision };
            let applied = admin
                .delete_deployment(name, Condition { if_revision, dry_run: change.dry_run })
                .map_err(|error| delete_failure(error, sum.as_ref()))?;
            sum = Some(match sum {
                None => applied,
                Some(mut sum) => {
                    sum.revision = applied.revision;
                    sum.changes.extend(applied.changes);
                    sum
                }
            });
        }
        sum.ok_or_else(|| Failure::usage("no deployment is named"))
    })
}

fn delete_failure(error: decurion_client::admin::AdminError, before: Option<&Applied>) -> Failure {
    let failure = Failure::of_change(error);
    match before {
        Some(before) if !before.dry_run => {
            let gone: Vec<&str> = before.changes.iter().map(|change| change.deployment.as_str()).collect();
            failure.changed(format!("deleted before it: {}; nothing else was changed", gone.join(", ")))
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(words: &[&str]) -> Option<GivenConfig> {
        given_config(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).ok()
    }

    #[test]
    fn one_word_is_the_whole_as_json_or_one_key() {
        assert_eq!(given(&[r#"{"a": 1}"#]), Some(GivenConfig::Whole(json!({ "a": 1 }))));
        assert_eq!(given(&["0.5"]), Some(GivenConfig::Whole(json!(0.5))));
        let keys = |value: Value| value.as_object().cloned().map(GivenConfig::Keys);
        assert_eq!(given(&["a=0.5"]), keys(json!({ "a": 0.5 })));
        assert_eq!(given(&["a=0.5", "b=x"]), keys(json!({ "a": 0.5, "b": "x" })));
        for bad in [&["{a=1}"][..], &["word"], &["{}", "a=1"]] {
            assert_eq!(given(bad), None, "{bad:?}");
        }
    }
}
