//! The configuration file: TOML by hand, JSON on the wire, read into [`ApplicationSpec`].
//!
//! Both forms become one tree of [`node`]s that remember where they stood, and one reader ([`fields`]) turns the
//! tree into the checked form. Own code and not serde's derive, because each refusal is to name its field, its
//! line, what is allowed and what now, and all refusals of a file are to come at once. A field of a feature that
//! is not there yet is read and refused by name, so that no setting is ever silently without effect.
//!
//! Nothing here touches a disk: whether a library exists is for whoever reads it.

mod autoscaling;
mod canary;
mod fields;
mod graph;
mod node;
mod problems;
mod recycle;
mod resources;
mod runtime_env;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod write;

use std::fmt;

use serde_json::Value;

use super::{ApplicationSpec, DeploymentSpec, GraphSpec};
use crate::limits::CONFIG_FILE_MAX;
use node::Node;
use problems::Problems;

pub use values::{parse_duration, parse_size};
pub use write::{deployment_to_json, to_json};

/// Problems that one [`FileError`] lists at most; of the rest only the number is kept.
pub const PROBLEMS_MAX: usize = 20;

/// Everything that is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Name of the file as its reader gave it; empty for JSON from the wire.
    pub file: String,
    /// At least one, at most [`PROBLEMS_MAX`], in the order of the file.
    pub problems: Vec<FileProblem>,
    /// How many more there are.
    pub more: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// Where in the text, both counted from 1; `None` in JSON whose syntax is right.
    pub position: Option<Position>,
    /// Path of the field (`deployment[0].threads`); empty for the file as a whole.
    pub field: String,
    /// What is wrong, what is allowed, what now.
    pub message: String,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// Reads a whole configuration file in TOML. `file_name` stands in the refusals only.
///
/// # Errors
/// [`FileError`] lists what is wrong, in the order of the file.
pub fn read_toml(text: &str, file_name: &str) -> Result<ApplicationSpec, FileError> {
    let mut problems = Problems::of_text(file_name, text);
    if text.len() > CONFIG_FILE_MAX {
        return Err(problems.too_large(text.len()));
    }
    match node::from_toml(text) {
        Ok(root) => read(&root, &mut problems, fields::application),
        Err((at, message)) => {
            problems.add(at, "", message);
            Err(problems.into_error())
        }
    }
}

/// Where the `user_config` of each deployment stands in a file in TOML, in the file's order: for what turns out only
/// when a replica is given it. Of a file that is refused, nothing.
#[must_use]
pub fn user_config_positions(text: &str) -> Vec<Option<Position>> {
    let Ok(root) = node::from_toml(text) else { return Vec::new() };
    let places = Problems::of_text("", text);
    let deployments = root.entry("deployment").map_or(&[][..], |entry| entry.node.items());
    let place = |deployment: &Node| deployment.entry("user_config").and_then(|entry| entry.at);
    deployments.iter().map(|deployment| place(deployment).map(|at| places.position(at))).collect()
}

/// Reads a whole configuration in its JSON form.
///
/// # Errors
/// [`FileError`] lists what is wrong.
pub fn read_json(bytes: &[u8]) -> Result<ApplicationSpec, FileError> {
    read(&json_node(bytes)?, &mut Problems::of_wire(), fields::application)
}

/// Reads one deployment in its JSON form: an element of the file's `deployment` list.
///
/// # Errors
/// [`FileError`] lists what is wrong.
pub fn read_deployment_json(bytes: &[u8]) -> Result<DeploymentSpec, FileError> {
    read(&json_node(bytes)?, &mut Problems::of_wire(), fields::lone_deployment)
}

impl GraphSpec {
    /// The graph as a deployment of this name, with what the file takes where it says nothing: at `/NAME`, one replica.
    ///
    /// # Errors
    /// [`FileError`]: it is no name, or the graph is too large.
    pub fn deployment(&self, name: &str) -> Result<DeploymentSpec, FileError> {
        let graph =
            serde_json::json!({ "name": name, "input": self.input, "steps": write::steps_to_json(self) });
        read_deployment_json(graph.to_string().as_bytes())
    }
}

/// The deployment with the fields of `patch` (an object in the file's form) in place of its own. Each field is
/// replaced whole; `null` puts it back to its default.
///
/// # Errors
/// [`FileError`] lists what is wrong with the fields, or that the name would change.
pub fn patch_deployment(spec: &DeploymentSpec, patch: &Value) -> Result<DeploymentSpec, FileError> {
    let mut problems = Problems::of_wire();
    let (Value::Object(mut merged), Value::Object(patch)) = (deployment_to_json(spec), patch) else {
        problems.add(None, "", "a patch is an object of the deployment's fields".to_owned());
        return Err(problems.into_error());
    };
    if patch.get("autoscaling_config").is_some_and(|config| !config.is_null()) {
        // It decides the number from now on.
        merged.remove("num_replicas");
    }
    for (field, value) in patch {
        // One field may be spelt with a unit or in seconds; the patch's spelling takes the place of either.
        merged.remove(&format!("{field}_s"));
        if let Some(stem) = field.strip_suffix("_s") {
            merged.remove(stem);
        }
        match value {
            Value::Null => merged.remove(field),
            value => merged.insert(field.clone(), value.clone()),
        };
    }
    let mut patched =
        read(&Node::from_json(&Value::Object(merged)), &mut Problems::of_wire(), fields::lone_deployment)?;
    if spec.graph.is_some() && patched.graph.is_some() {
        // What runs a graph is no part of its form.
        patched.library = spec.library.clone();
        patched.class = spec.class.clone();
        if !["steps", "input"].iter().any(|field| patch.contains_key(*field)) {
            // As JSON, its steps have lost their order.
            patched.graph = spec.graph.clone();
        }
    }
    if patched.name != spec.name {
        problems.add(None, "name", format!("stays '{}'; deploy under the other name instead", spec.name));
        return Err(problems.into_error());
    }
    Ok(patched)
}

fn json_node(bytes: &[u8]) -> Result<Node, FileError> {
    if bytes.len() > CONFIG_FILE_MAX {
        return Err(Problems::of_wire().too_large(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let position = (error.line() > 0).then(|| Position { line: error.line(), column: error.column() });
        let text = error.to_string();
        let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
        let problem = FileProblem { position, field: String::new(), message: format!("not JSON: {message}") };
        FileError { file: String::new(), problems: vec![problem], more: 0 }
    })
}

fn read<T>(
    root: &Node,
    problems: &mut Problems<'_>,
    reader: fn(&Node, &mut Problems<'_>) -> Option<T>,
) -> Result<T, FileError> {
    match reader(root, problems) {
        Some(spec) if problems.is_empty() => Ok(spec),
        _ => Err(problems.take_error()),
    }
}

impl std::error::Error for FileError {}

/// One line for each problem: `FILE:LINE:COLUMN: FIELD: MESSAGE`.
impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            if !self.file.is_empty() {
                write!(f, "{}:", self.file)?;
            }
            if let Some(Position { line, column }) = problem.position {
                write!(f, "{line}:{column}:")?;
            }
            if !self.file.is_empty() || problem.position.is_some() {
                f.write_str(" ")?;
            }
            if !problem.field.is_empty() {
                write!(f, "{}: ", problem.field)?;
            }
            f.write_str(&problem.message)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}
