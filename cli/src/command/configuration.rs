//! `config`: what is wanted, in the form of the configuration file.

use decurion_api::DeploymentName;
use decurion_client::admin::Admin;
use serde::ser::{Serialize, SerializeMap, Serializer};
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
                let head = if config.value.get("steps").is_some() { "graph" } else { "deployment" };
                output.raw(&toml_of(&json!({ head: [config.value] }))?)?;
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
    toml::to_string(&InOrder(value))
        .map_err(|error| Failure::of("the configuration has no form in TOML", &error).now("-o json shows it"))
}

/// Fields in the order in which people write them; others follow by name.
const ORDER: [&str; 14] = [
    "application",
    "http",
    "deployment",
    "graph",
    "listen",
    "name",
    "library",
    "class",
    "route_prefix",
    "num_replicas",
    "args",
    "user_config",
    "version",
    "input",
];

/// JSON that is written in that order.
struct InOrder<'a>(&'a Value);

impl Serialize for InOrder<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                // Stable, so that the rest stays sorted by name.
                fields.sort_by_key(|(name, _)| {
                    ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len())
                });
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, &InOrder(value))?;
                }
                map.end()
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(InOrder)),
            other => other.serialize(serializer),
        }
    }
}
