//! A deployment graph: steps that call deployments, and which step needs which other's result.
//!
//! A graph is checked once, here, when it is made ([`GraphBuilder::build`], which the configuration file's reader
//! uses as well): names are right, every reference leads somewhere, nothing goes in a circle. What only the
//! supervisor knows, whether the deployments and methods exist, is checked there, and written down as [`Callee`].

mod draw;
mod reference;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DeploymentName;

pub use draw::{dot, text};
pub use reference::{Missing, Reference, references};

/// Steps of one graph, at most.
pub const STEPS_MAX: usize = 256;
/// Class of the graphs whose answer is whole.
pub const CLASS: &str = "Graph";
/// Class of the graphs whose last step streams.
pub const CLASS_STREAMING: &str = "StreamingGraph";
/// Requests in flight per replica of a graph where nothing is said: a run waits most of its time.
pub const GRAPH_ONGOING_DEFAULT: u32 = 100;

/// Steps, each a call, and what comes out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraphSpec {
    /// What steps call the graph's own input: `"$inp"`.
    pub input: String,
    /// Each after those whose results it takes; among equals, by name.
    pub steps: Vec<Step>,
    /// What the graph answers, with references in it.
    pub output: Value,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// By which others refer to its result: `"$NAME"`.
    pub name: String,
    /// `DEPLOYMENT` or `DEPLOYMENT.METHOD`, as it was written.
    pub call: String,
    /// What `call` means among the deployments there are; `None` until the supervisor has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callee: Option<Callee>,
    /// By position or by name, with references in it.
    pub args: Value,
    /// The step runs only where this holds; else its result is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// The last step of a graph that answers bit by bit, as this step does.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream: bool,
}

/// What a step calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callee {
    /// Which deployment.
    pub deployment: DeploymentName,
    /// Which method; `None`: its `call`, which takes an HTTP request.
    pub method: Option<String>,
}

/// Whether a step runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is looked at: null, false, 0, "" and what is empty do not hold; all else does.
    pub value: String,
    /// Written `unless`: the other way round.
    #[serde(default, skip_serializing_if = "is_false")]
    pub negated: bool,
}

/// Why a graph is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A name that references could not hold.
    #[error("'{name}' is no name for {what}; take letters, digits, '_' and '-', and start with a letter")]
    Name {
        /// As it was given.
        name: String,
        /// `a step` or `the input`.
        what: &'static str,
    },
    /// Two of one name.
    #[error("the name '{0}' is taken twice: the input and each step need a name of their own")]
    Twice(String),
    /// Nothing to do.
    #[error("a graph has at least one step")]
    Empty,
    /// Beyond [`STEPS_MAX`].
    #[error("a graph has at most {STEPS_MAX} steps, and this one has {0}")]
    TooMany(usize),
    /// `$name` that is neither the input nor a step.
    #[error("{place} refers to '${name}', and there is no such step; there are: {}", known.join(", "))]
    Unknown {
        /// Whose words.
        place: String,
        /// As it was written.
        name: String,
        /// What there is, the input first.
        known: Vec<String>,
    },
    /// Steps that wait for each other.
    #[error("the steps wait for each other in a circle: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// Several ends, and none of them named.
    #[error("say what the graph answers, as `output`; the results that no step takes are: {}", .0.join(", "))]
    NoOutput(Vec<String>),
    /// Nobody takes its result.
    #[error("the result of step '{0}' goes nowhere; refer to it as \"${0}\", or remove the step")]
    Unused(String),
    /// Arguments that are neither a list nor a table.
    #[error("args of step '{0}' are a list by position ([\"$x\"]) or a table by name ({{ x = \"$x\" }})")]
    Args(String),
    /// What streams is read once, by whoever asked the graph.
    #[error(
        "step '{step}' streams, so it has to be the last one: {why}; leave out `output`, or make it \"${step}\" itself"
    )]
    StreamsEarly {
        /// Its name.
        step: String,
        /// What takes its result.
        why: String,
    },
    /// A condition is one reference.
    #[error("the condition of step '{0}' is one reference: when = \"$x\" or unless = \"$x\"")]
    Condition(String),
}

/// Makes a [`GraphSpec`] step by step.
///
/// ```
/// use decurion_api::spec::GraphSpec;
/// use serde_json::json;
///
/// let sum = GraphSpec::builder()
///     .input("inp")
///     .step("pre", "preprocess", json!(["$inp"]))
///     .step("model", "model", json!(["$pre"]))
///     .output(json!("$model"))
///     .build()?;
/// assert_eq!(sum.inputs_of(&sum.steps[1]), ["pre"]);
/// # Ok::<(), decurion_api::spec::GraphError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GraphBuilder {
    spec: GraphSpec,
    output: Option<Value>,
}

impl GraphSpec {
    /// A graph without steps, whose input is called `input`.
    #[must_use]
    pub fn builder() -> GraphBuilder {
        let spec = GraphSpec { input: "input".to_owned(), steps: Vec::new(), output: Value::Null };
        GraphBuilder { spec, output: None }
    }

    /// The step of a name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The step whose stream is the graph's answer; `None`: the answer is whole.
    #[must_use]
    pub fn streaming(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.stream)
    }

    /// The class that runs it.
    #[must_use]
    pub fn class(&self) -> &'static str {
        if self.streaming().is_some() { CLASS_STREAMING } else { CLASS }
    }

    /// Names that a step waits for, without the graph's input, each once.
    #[must_use]
    pub fn inputs_of<'s>(&self, step: &'s Step) -> Vec<&'s str> {
        let mut names: BTreeSet<&str> = references(&step.args).into_iter().map(|it| it.name).collect();
        names.extend(step.when.as_ref().and_then(|when| Reference::parse(&when.value)).map(|it| it.name));
        names.into_iter().filter(|name| *name != self.input).collect()
    }

    fn check_steps(&self) -> Result<(), GraphError> {
        if self.steps.is_empty() {
            return Err(GraphError::Empty);
        }
        if self.steps.len() > STEPS_MAX {
            return Err(GraphError::TooMany(self.steps.len()));
        }
        self.check_names()?;
        self.steps.iter().try_for_each(|step| self.check_step(step))
    }

    fn check_output(&self) -> Result<(), GraphError> {
        let taken: BTreeSet<&str> = references(&self.output).into_iter().map(|it| it.name).collect();
        self.check_known(&taken.iter().copied().collect::<Vec<_>>(), || "output".to_owned())?;
        if let Some(unused) = self.ends().into_iter().find(|end| !taken.contains(end)) {
            return Err(GraphError::Unused(unused.to_owned()));
        }
        Ok(())
    }

    /// A stream is nothing that another step, or a part of an answer, could be made of.
    fn check_streams(&self) -> Result<(), GraphError> {
        for step in self.steps.iter().filter(|step| step.stream) {
            let refused = |why: String| GraphError::StreamsEarly { step: step.name.clone(), why };
            if let Some(taker) = self.steps.iter().find(|it| self.inputs_of(it).contains(&step.name.as_str()))
            {
                return Err(refused(format!("step '{}' takes its result", taker.name)));
            }
            if self.output.as_str().and_then(|text| text.strip_prefix('$')) != Some(&step.name) {
                return Err(refused(format!("the graph answers {}", self.output)));
            }
        }
        Ok(())
    }

    /// Steps whose results no other step takes.
    fn ends(&self) -> Vec<&str> {
        let used: BTreeSet<&str> = self.steps.iter().flat_map(|step| self.inputs_of(step)).collect();
        self.steps.iter().map(|step| step.name.as_str()).filter(|name| !used.contains(name)).collect()
    }

    fn check_names(&self) -> Result<(), GraphError> {
        let mut taken = BTreeSet::new();
        let names = self.steps.iter().map(|step| (step.name.as_str(), "a step"));
        for (name, what) in std::iter::once((self.input.as_str(), "the input")).chain(names) {
            if !is_name(name) {
                return Err(GraphError::Name { name: name.to_owned(), what });
            }
            if !taken.insert(name) {
                return Err(GraphError::Twice(name.to_owned()));
            }
        }
        Ok(())
    }

    fn check_step(&self, step: &Step) -> Result<(), GraphError> {
        if !matches!(step.args, Value::Array(_) | Value::Object(_)) {
            return Err(GraphError::Args(step.name.clone()));
        }
        if step.when.as_ref().is_some_and(|when| Reference::parse(&when.value).is_none()) {
            return Err(GraphError::Condition(step.name.clone()));
        }
        self.check_known(&self.inputs_of(step), || format!("step '{}'", step.name))
    }

    fn check_known(&self, names: &[&str], place: impl Fn() -> String) -> Result<(), GraphError> {
        let known = |name: &str| name == self.input || self.step(name).is_some();
        match names.iter().find(|name| !known(name)) {
            Some(name) => Err(GraphError::Unknown {
                place: place(),
                name: (*name).to_owned(),
                known: std::iter::once(&self.input)
                    .chain(self.steps.iter().map(|it| &it.name))
                    .map(|name| format!("${name}"))
                    .collect(),
            }),
            None => Ok(()),
        }
    }

    /// The steps in an order in which each follows those it waits for.
    fn ordered(&self) -> Result<Vec<Step>, GraphError> {
        let mut waits: BTreeMap<&str, Vec<&str>> =
            self.steps.iter().map(|step| (step.name.as_str(), self.inputs_of(step))).collect();
        let mut order = Vec::new();
        while !waits.is_empty() {
            let free: Vec<&str> =
                waits.iter().filter(|(_, needs)| needs.is_empty()).map(|(name, _)| *name).collect();
            if free.is_empty() {
                return Err(circle(&waits));
            }
            for name in &free {
                waits.remove(name);
            }
            waits.values_mut().for_each(|needs| needs.retain(|need| !free.contains(need)));
            order.extend(free);
        }
        Ok(order.into_iter().filter_map(|name| self.step(name).cloned()).collect())
    }
}

/// A circle among steps of which each waits for another of them.
fn circle(waits: &BTreeMap<&str, Vec<&str>>) -> GraphError {
    let mut path: Vec<&str> = waits.keys().take(1).copied().collect();
    loop {
        let next = waits[path[path.len() - 1]][0];
        let known = path.iter().position(|name| *name == next);
        path.push(next);
        if let Some(begin) = known {
            return GraphError::Cycle(path[begin..].iter().map(|it| (*it).to_owned()).collect());
        }
    }
}

impl GraphBuilder {
    /// Names the graph's input.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>) -> Self {
        self.spec.input = name.into();
        self
    }

    /// Adds a call of `DEPLOYMENT` or `DEPLOYMENT.METHOD`.
    #[must_use]
    pub fn step(mut self, name: impl Into<String>, call: impl Into<String>, args: Value) -> Self {
        let (name, call) = (name.into(), call.into());
        self.spec.steps.push(Step { name, call, callee: None, args, when: None, stream: false });
        self
    }

    /// The step just added runs only where the reference holds.
    #[must_use]
    pub fn when(self, reference: impl Into<String>) -> Self {
        self.condition(Condition { value: reference.into(), negated: false })
    }

    /// The step just added runs only where the reference does not hold.
    #[must_use]
    pub fn unless(self, reference: impl Into<String>) -> Self {
        self.condition(Condition { value: reference.into(), negated: true })
    }

    /// The step just added answers bit by bit, and so does the graph: it is the last one.
    #[must_use]
    pub fn stream(mut self) -> Self {
        if let Some(step) = self.spec.steps.last_mut() {
            step.stream = true;
        }
        self
    }

    fn condition(mut self, condition: Condition) -> Self {
        if let Some(step) = self.spec.steps.last_mut() {
            step.when = Some(condition);
        }
        self
    }

    /// What the graph answers; where nothing is said, the one result that no step takes.
    #[must_use]
    pub fn output(mut self, output: Value) -> Self {
        self.output = Some(output);
        self
    }

    /// Checks the whole.
    ///
    /// # Errors
    /// [`GraphError`] names the step.
    pub fn build(self) -> Result<GraphSpec, GraphError> {
        let mut spec = self.spec;
        spec.check_steps()?;
        spec.steps = spec.ordered()?;
        spec.output = match self.output {
            Some(output) => output,
            None => match spec.ends().as_slice() {
                [only] => format!("${only}").into(),
                ends => return Err(GraphError::NoOutput(ends.iter().map(|it| (*it).to_owned()).collect())),
            },
        };
        spec.check_streams()?;
        spec.check_output()?;
        Ok(spec)
    }
}

impl Condition {
    /// Whether a value lets the step run.
    #[must_use]
    pub fn holds(&self, value: &Value) -> bool {
        let holds = match value {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
        };
        holds != self.negated
    }
}

fn is_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    name.len() <= crate::name::NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(rest)
        && name != "output"
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(builder: GraphBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_graph_is_refused_with_the_step() {
        let one = || GraphSpec::builder().step("a", "model", json!(["$input"]));
        assert_eq!(refused(GraphSpec::builder()), "a graph has at least one step");
        assert_eq!(
            refused(one().step("b", "model", json!(["$c"]))),
            "step 'b' refers to '$c', and there is no such step; there are: $input, $a, $b"
        );
        assert!(refused(one().output(json!({ "x": ["$z"] }))).starts_with("output refers to '$z'"));
        assert!(refused(one().step("a", "model", json!(["$a"]))).contains("'a' is taken twice"));
        assert!(refused(one().step("input", "model", json!(["$a"]))).contains("'input' is taken twice"));
        assert!(refused(one().step("b.c", "model", json!(["$a"]))).contains("'b.c' is no name for a step"));
        let two = || one().step("b", "model", json!(["$input"]));
        assert!(refused(two().output(json!("$b"))).contains("the result of step 'a' goes nowhere"));
        assert!(refused(two()).ends_with("the results that no step takes are: a, b"));
        assert!(refused(one().step("b", "model", json!("$a"))).contains("args of step 'b'"));
        assert!(refused(one().when("a constant")).contains("the condition of step 'a'"));
        let many = (0..=STEPS_MAX)
            .fold(GraphSpec::builder(), |graph, n| graph.step(format!("s{n}"), "m", json!([])));
        assert!(refused(many).contains("at most 256 steps, and this one has 257"));
    }

    #[test]
    fn only_the_last_step_may_stream() {
        let words = || {
            let graph = GraphSpec::builder().step("pre", "model", json!(["$input"]));
            graph.step("words", "chat.words", json!(["$pre"])).stream()
        };
        let graph = words().build().unwrap();
        assert_eq!(graph.streaming().map(|step| step.name.as_str()), Some("words"));
        assert_eq!((graph.output, graph.steps[0].stream), (json!("$words"), false));
        let taken = refused(words().step("end", "model", json!(["$words"])));
        assert!(
            taken.contains("step 'words' streams") && taken.contains("step 'end' takes its result"),
            "{taken}"
        );
        for output in [json!("$words.0"), json!(["$words"]), json!({ "pre": "$pre", "words": "$words" })] {
            let part = refused(words().output(output.clone()));
            assert!(part.contains(&format!("the graph answers {output}")), "{part}");
        }
        let two = words().step("more", "chat.words", json!(["$pre"])).stream().output(json!("$more"));
        assert!(refused(two).contains("step 'words' streams"));
    }

    #[test]
    fn a_circle_is_shown_without_what_leads_into_it() {
        let circle = GraphSpec::builder()
            .step("free", "model", json!(["$input"]))
            .step("a", "model", json!(["$b", "$free"]))
            .step("b", "model", json!([{ "deep": ["$c"] }]))
            .step("c", "model", json!(["$b.field"]))
            .output(json!("$a"));
        assert_eq!(refused(circle), "the steps wait for each other in a circle: b -> c -> b");
        let itself = GraphSpec::builder().step("a", "model", json!([])).when("$a");
        assert_eq!(refused(itself), "the steps wait for each other in a circle: a -> a");
    }

    #[test]
    fn steps_follow_what_they_wait_for_and_the_end_is_the_output() {
        let graph = GraphSpec::builder()
            .step("a", "model", json!({ "x": "$b" }))
            .step("b", "model", json!({ "x": "$input" }))
            .build()
            .unwrap();
        assert_eq!(graph.output, json!("$a"));
        assert_eq!(graph.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert!(graph.inputs_of(&graph.steps[0]).is_empty());
    }

    #[test]
    fn conditions_hold_as_one_would_expect() {
        let when = Condition { value: "$x".to_owned(), negated: false };
        let unless = Condition { negated: true, ..when.clone() };
        for empty in [json!(null), json!(false), json!(0), json!(0.0), json!(""), json!([]), json!({})] {
            assert!(!when.holds(&empty) && unless.holds(&empty), "{empty}");
        }
        for full in [json!(true), json!(-1), json!("no"), json!([0]), json!({ "a": null })] {
            assert!(when.holds(&full) && !unless.holds(&full), "{full}");
        }
    }
}
