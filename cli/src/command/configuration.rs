//! `config`: what is wanted, as a file that could be deployed.

use decurion_api::DeploymentName;
use decurion_client::admin::Admin;
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::output::{Format, Output};

pub(super) fn config(name: Option<&DeploymentName>, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    match name {
        Some(name) => {
            let config = admin.deployment(name)?;
            if output.is_json() {
                output.json(&config.value)?;
            } else {
                let revision = config.revision.map(|revision| format!(" at revision {revision}"));
                output.line(&format!("# deployment {name}{}", revision.unwrap_or_default()))?;
                output.raw(&toml_of(&json!({ "deployment": [config.value] }))?)?;
            }
        }
        None => all(&admin.applications()?.value, output)?,
    }
    Ok(Exit::Done)
}

fn all(applications: &[Value], output: &Output) -> Result<(), Failure> {
    match (output.format, applications) {
        (Format::Json | Format::Jsonl, applications) => output.json_list(applications),
        (_, []) => {
            output.note("nothing is deployed");
            Ok(())
        }
        (_, [only]) => output.raw(&toml_of(only)?),
        (_, several) => {
            for (index, application) in several.iter().enumerate() {
                let gap = if index > 0 { "\n" } else { "" };
                output.line(&format!("{gap}# ---- one file: application {}", application["application"]))?;
                output.raw(&toml_of(application)?)?;
            }
            Ok(())
        }
    }
}

/// TOML has no null, which only arguments can hold; the configuration is then to be had as JSON.
fn toml_of(value: &Value) -> Result<String, Failure> {
    toml::to_string(value)
        .map_err(|error| Failure::of("the configuration has no form in TOML", &error).now("-o json shows it"))
}
