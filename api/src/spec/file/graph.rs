//! The fields of a graph: its input and its steps. Whether they make a graph is decided in [`crate::spec::graph`].

use serde_json::Value;

use super::fields::json_of;
use super::node::{Entry, NodeValue};
use super::problems::Problems;
use super::table::{Field, Table};
use crate::limits::ARGS_MAX;
use crate::spec::{GraphBuilder, GraphSpec};

/// What stands among the steps and is none.
const OUTPUT: &str = "output";

/// The fields of a graph out of a deployment's table.
pub(super) fn read(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Option<GraphSpec> {
    let mut builder = GraphSpec::builder();
    if let Some((_, input)) = table.text("input", problems) {
        builder = builder.input(input);
    }
    let Some(steps) = table.take("steps") else {
        let message =
            "missing; give what the graph does: pre = { call = \"preprocess\", args = [\"$input\"] }";
        problems.add(table.at, &table.path_of("steps"), message.to_owned());
        return None;
    };
    let NodeValue::Table(entries) = &steps.node.value else {
        steps.expected(problems, "a table of steps, NAME = { call = \"DEPLOYMENT\", args = [..] }");
        return None;
    };
    let before = problems.count();
    for entry in entries {
        let field = Field { path: format!("{}.{}", steps.path, entry.key), node: &entry.node };
        builder = match entry.key.as_str() {
            OUTPUT => match json_of(&field, ARGS_MAX, problems) {
                Some(output) => builder.output(output),
                None => builder,
            },
            _ => step(builder, entry, &field, problems),
        };
    }
    if problems.count() > before {
        return None;
    }
    let graph = builder.build().map_err(|error| steps.refuse(problems, error.to_string())).ok()?;
    let len = serde_json::to_string(&graph).map_or(0, |json| json.len());
    if len > ARGS_MAX {
        steps.refuse(problems, format!("have {len} bytes as JSON, and at most {ARGS_MAX} are allowed"));
    }
    Some(graph)
}

fn step(
    builder: GraphBuilder,
    entry: &Entry,
    field: &Field<'_>,
    problems: &mut Problems<'_>,
) -> GraphBuilder {
    let Some(mut table) = Table::open(field.node, &field.path, problems) else { return builder };
    let Some((_, call)) = table.text("call", problems) else {
        if !table.has("call") {
            let message =
                "missing; name a deployment, or one's method: call = \"model\", call = \"model.predict\"";
            problems.add(table.at, &table.path_of("call"), message.to_owned());
        }
        return builder;
    };
    let args = match table.take("args") {
        Some(args) => json_of(&args, ARGS_MAX, problems).unwrap_or_default(),
        None => Value::Array(Vec::new()),
    };
    let mut builder = builder.step(&entry.key, call, args);
    let when = table.text("when", problems);
    let unless = table.text("unless", problems);
    builder = match (when, unless) {
        (Some(_), Some((unless, _))) => {
            unless.refuse(problems, "a step has `when` or `unless`, not both; keep one of the two");
            builder
        }
        (Some((_, reference)), None) => builder.when(reference),
        (None, Some((_, reference))) => builder.unless(reference),
        (None, None) => builder,
    };
    if table.boolean("stream", false, problems) {
        builder = builder.stream();
    }
    table.finish(problems);
    builder
}
