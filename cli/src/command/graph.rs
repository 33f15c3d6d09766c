//! `graph`: what calls what, by handles in arguments and by the steps of graphs.

use std::fmt::Write as _;

use decurion_api::DeploymentName;
use decurion_api::spec::file::read_deployment_json;
use decurion_api::spec::{DeploymentSpec, graph as drawing};
use decurion_client::admin::Admin;
use serde_json::{Value, json};

use super::look;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Output};

pub(super) fn graph(name: Option<&DeploymentName>, admin: &Admin, output: &Output) -> Result<Exit, Failure> {
    let all = deployments(admin)?;
    let drawn: Vec<&DeploymentSpec> = match name {
        None => all.iter().collect(),
        Some(name) => vec![match all.iter().find(|spec| spec.name == *name) {
            Some(spec) => spec,
            None => return Err(look::no_such(name, &admin.status()?.deployments)),
        }],
    };
    match output.format {
        Format::Dot => output.raw(&dot(&drawn, &all)),
        Format::Json | Format::Jsonl => {
            output.json_list(&drawn.iter().map(|spec| node(spec, &all)).collect::<Vec<_>>())
        }
        Format::Table | Format::Wide if drawn.is_empty() => {
            output.note("nothing is deployed");
            Ok(())
        }
        Format::Table | Format::Wide => output.raw(&text(&drawn, &all)),
    }?;
    Ok(Exit::Done)
}

fn deployments(admin: &Admin) -> Result<Vec<DeploymentSpec>, Failure> {
    let applications = admin.applications()?.value;
    let lists =
        applications.iter().flat_map(|application| ["deployment", "graph"].map(|list| &application[list]));
    let mut all = Vec::new();
    for one in lists.filter_map(Value::as_array).flatten() {
        all.push(read_deployment_json(one.to_string().as_bytes())?);
    }
    Ok(all)
}

/// Names in the arguments that are handles: `"@name"`, however deep.
fn handles(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => text.strip_prefix('@').filter(|name| !name.is_empty()).into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(handles).collect(),
        Value::Object(fields) => fields.values().flat_map(handles).collect(),
        _ => Vec::new(),
    }
}

/// Deployments that one calls, each once, in the order of their names.
fn calls(spec: &DeploymentSpec, all: &[DeploymentSpec]) -> Vec<String> {
    let mut names: Vec<String> = handles(&spec.args).into_iter().map(str::to_owned).collect();
    for step in spec.graph.iter().flat_map(|graph| &graph.steps) {
        names.push(deployment_of(&step.call, all).to_owned());
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// `NAME` of `NAME` or `NAME.METHOD`; as names may hold dots, what is deployed decides.
fn deployment_of<'c>(call: &'c str, all: &[DeploymentSpec]) -> &'c str {
    if all.iter().any(|spec| spec.name.as_str() == call) {
        return call;
    }
    call.rsplit_once('.').map_or(call, |(name, _)| name)
}

fn text(drawn: &[&DeploymentSpec], all: &[DeploymentSpec]) -> String {
    let mut out = String::new();
    for spec in drawn {
        let calls = calls(spec, all);
        match &spec.graph {
            Some(graph) => out.push_str(&drawing::text(spec.name.as_str(), graph)),
            None if calls.is_empty() => {
                let _ = writeln!(out, "{}", spec.name);
            }
            None => {
                let _ = writeln!(out, "{} -> {}", spec.name, calls.join(", "));
            }
        }
    }
    out
}

fn dot(drawn: &[&DeploymentSpec], all: &[DeploymentSpec]) -> String {
    let mut out = "digraph decurion {\n  node [shape=box];\n".to_owned();
    for spec in drawn {
        let name = spec.name.as_str();
        if let Some(graph) = &spec.graph {
            out.push_str(&drawing::dot(name, graph));
            continue;
        }
        let _ = writeln!(out, "  \"{name}\";");
        for callee in calls(spec, all) {
            let _ = writeln!(out, "  \"{name}\" -> \"{callee}\";");
        }
    }
    out.push_str("}\n");
    out
}

fn node(spec: &DeploymentSpec, all: &[DeploymentSpec]) -> Value {
    let route = spec.route_prefix.as_ref().map(|route| route.as_str());
    let mut node = json!({ "name": spec.name, "route_prefix": route, "calls": calls(spec, all) });
    if let Some(graph) = &spec.graph {
        node["graph"] = json!(graph);
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_found_however_deep() {
        assert_eq!(handles(&json!({ "a": "@b", "c": [["@d"], "e@f", "@"] })), ["b", "d"]);
    }
}
