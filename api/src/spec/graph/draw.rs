//! A graph as a drawing: lines of text, and Graphviz's language.

use std::fmt::Write as _;

use super::{GraphSpec, Step, references};

/// Lines that show each step below what it waits for.
///
/// ```text
/// sum($inp)
///   pre     = preprocess.run($inp)
///   model   = model.run($pre)
///   answers $model
/// ```
#[must_use]
pub fn text(name: &str, graph: &GraphSpec) -> String {
    let width = graph.steps.iter().map(|step| step.name.len()).max().unwrap_or(0).max(5);
    let mut out = format!("{name}(${})\n", graph.input);
    for step in &graph.steps {
        let _ = write!(out, "  {:width$} = {}{}", step.name, callee(step), arguments(step));
        if let Some(when) = &step.when {
            let word = if when.negated { "unless" } else { "when" };
            let _ = write!(out, "  {word} {}", when.value);
        }
        if step.stream {
            out.push_str("  stream");
        }
        out.push('\n');
    }
    let _ = writeln!(out, "  {:width$} {}", "answers", plain(&graph.output));
    out
}

/// A `subgraph` for `digraph`: one box for each step, one arrow for each reference.
#[must_use]
pub fn dot(name: &str, graph: &GraphSpec) -> String {
    let id = |part: &str| quoted(&format!("{name}/{part}"));
    let mut out =
        format!("  subgraph {} {{\n    label={};\n", quoted(&format!("cluster_{name}")), quoted(name));
    let _ = writeln!(out, "    {} [label={}, shape=ellipse];", id(&graph.input), quoted(&graph.input));
    for step in &graph.steps {
        let label = quoted(&format!("{}\n{}", step.name, callee(step)));
        let _ = writeln!(out, "    {} [label={label}];", id(&step.name));
    }
    let _ = writeln!(out, "    {} [label=\"answer\", shape=ellipse];", id("output"));
    out.push_str("  }\n");
    for step in &graph.steps {
        let mut from: Vec<&str> = references(&step.args).iter().map(|it| it.name).collect();
        from.sort_unstable();
        from.dedup();
        for source in from {
            let _ = writeln!(out, "  {} -> {};", id(source), id(&step.name));
        }
        if let Some(source) = step.when.as_ref().and_then(|when| super::Reference::parse(&when.value)) {
            let _ = writeln!(out, "  {} -> {} [style=dashed];", id(source.name), id(&step.name));
        }
    }
    let mut ends: Vec<&str> = references(&graph.output).iter().map(|it| it.name).collect();
    ends.sort_unstable();
    ends.dedup();
    for source in ends {
        let streams = graph.step(source).is_some_and(|step| step.stream);
        let label = if streams { " [label=\"stream\"]" } else { "" };
        let _ = writeln!(out, "  {} -> {}{label};", id(source), id("output"));
    }
    out
}

fn callee(step: &Step) -> String {
    match &step.callee {
        Some(callee) => match &callee.method {
            Some(method) => format!("{}.{method}", callee.deployment),
            None => callee.deployment.to_string(),
        },
        None => step.call.clone(),
    }
}

/// As one would write a call.
fn arguments(step: &Step) -> String {
    let list: Vec<String> = match &step.args {
        serde_json::Value::Array(items) => items.iter().map(plain).collect(),
        serde_json::Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect()
        }
        other => vec![other.to_string()],
    };
    format!("({})", list.join(", "))
}

/// JSON, with a reference standing without its quotes.
fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) if super::Reference::parse(text).is_some() => text.clone(),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> GraphSpec {
        GraphSpec::builder()
            .input("inp")
            .step("pre", "preprocess.run", json!(["$inp", 2]))
            .step("model", "model", json!({ "x": "$pre" }))
            .when("$pre.good")
            .output(json!({ "score": "$model" }))
            .build()
            .unwrap()
    }

    #[test]
    fn text_reads_like_a_program() {
        let lines = "sum($inp)\n  pre   = preprocess.run($inp, 2)\n  model = model(x=$pre)  when $pre.good\n  \
                     answers {\"score\":\"$model\"}\n";
        assert_eq!(text("sum", &graph()), lines);
    }

    #[test]
    fn a_stream_is_named() {
        let graph =
            GraphSpec::builder().step("words", "chat.words", json!(["$input"])).stream().build().unwrap();
        assert_eq!(
            text("talk", &graph),
            "talk($input)\n  words = chat.words($input)  stream\n  answers $words\n"
        );
        assert!(dot("talk", &graph).contains("\"talk/words\" -> \"talk/output\" [label=\"stream\"];"));
    }

    #[test]
    fn dot_has_a_node_for_each_step_and_an_edge_for_each_reference() {
        let dot = dot("sum", &graph());
        for line in [
            "\"sum/inp\" -> \"sum/pre\";",
            "\"sum/pre\" -> \"sum/model\";",
            "\"sum/pre\" -> \"sum/model\" [style=dashed];",
            "\"sum/model\" -> \"sum/output\";",
            "\"sum/pre\" [label=\"pre\\npreprocess.run\"];",
        ] {
            assert!(dot.contains(line), "{line} in\n{dot}");
        }
    }
}
