//! `[deployment.runtime_env]`.

use std::collections::BTreeMap;

use super::node::NodeValue;
use super::problems::Problems;
use super::table::{Field, Table};
use crate::limits::{ENV_BYTES_MAX, ENV_VARS_MAX, FOLDER_BYTES_MAX, LIBRARY_PATH_MAX};
use crate::spec::RuntimeEnvSpec;

pub(super) fn runtime_env(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<RuntimeEnvSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let env_vars = table.take("env_vars").and_then(|field| env_vars(&field, problems)).unwrap_or_default();
    let library_path = table.take("library_path").map(|field| library_path(&field, problems));
    let working_dir = table.take("working_dir").and_then(|field| folder(&field, problems));
    table.finish(problems);
    Some(RuntimeEnvSpec { env_vars, library_path: library_path.unwrap_or_default(), working_dir })
}

fn env_vars(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<BTreeMap<String, String>> {
    let NodeValue::Table(entries) = &field.node.value else {
        field.expected(problems, "a table of strings");
        return None;
    };
    let mut vars = BTreeMap::new();
    for entry in entries {
        let path = format!("{}.{}", field.path, entry.key);
        match (&entry.node.value, env_name_misfit(&entry.key)) {
            (_, Some(misfit)) => problems.add(entry.at, &path, misfit),
            (NodeValue::Text(text), _) if text.contains('\0') => {
                problems.add(entry.node.at, &path, "holds a NUL, which no variable can".to_owned());
            }
            (NodeValue::Text(text), _) => {
                vars.insert(entry.key.clone(), text.clone());
            }
            _ => {
                let field = Field { path, node: &entry.node };
                field.expected(problems, "a string");
            }
        }
    }
    let bytes: usize = vars.iter().map(|(name, value)| name.len() + value.len()).sum();
    if vars.len() > ENV_VARS_MAX || bytes > ENV_BYTES_MAX {
        let given = format!("{} variables with {bytes} bytes", vars.len());
        field.refuse(
            problems,
            format!("{given}; at most {ENV_VARS_MAX} with {ENV_BYTES_MAX} bytes are allowed"),
        );
    }
    Some(vars)
}

/// Why a variable may not have this name.
fn env_name_misfit(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits) {
        return Some(
            "a variable's name is made of letters, digits and '_', and starts with no digit".to_owned(),
        );
    }
    name.starts_with("DECURION_")
        .then(|| "names with DECURION_ are set by the supervisor; take another".to_owned())
}

fn library_path(field: &Field<'_>, problems: &mut Problems<'_>) -> Vec<String> {
    let NodeValue::List(nodes) = &field.node.value else {
        field.expected(problems, "a list of folders, such as [\"lib\"]");
        return Vec::new();
    };
    if nodes.len() > LIBRARY_PATH_MAX {
        let given = nodes.len();
        field.refuse(problems, format!("{given} folders; at most {LIBRARY_PATH_MAX} are allowed"));
        return Vec::new();
    }
    let mut folders = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let entry = Field { path: format!("{}[{index}]", field.path), node };
        let Some(path) = folder(&entry, problems) else { continue };
        if path.contains([':', ';']) {
            entry.refuse(problems, "the loader takes ':' and ';' as the end of a folder; rename it");
        }
        folders.push(path);
    }
    folders
}

fn folder(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let NodeValue::Text(path) = &field.node.value else {
        field.expected(problems, "the path of a folder");
        return None;
    };
    if path.is_empty() || path.contains('\0') || path.len() > FOLDER_BYTES_MAX {
        let form = format!("1 to {FOLDER_BYTES_MAX} bytes without NUL");
        field.refuse(problems, format!("is the path of a folder, which has {form}"));
    }
    Some(path.clone())
}
