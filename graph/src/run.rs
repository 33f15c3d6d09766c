//! One run of a graph, as a state machine: which steps may start, what each is called with, what comes out.

use decurion_api::spec::GraphSpec;
use decurion_api::spec::graph::{Missing, Reference};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::given::{self, Given};

/// A graph, and for each step the places of those that it waits for: worked out once, not in every run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) graph: GraphSpec,
    waits_for: Vec<Vec<usize>>,
}

impl Plan {
    pub(crate) fn new(graph: GraphSpec) -> Self {
        let place = |name: &str| graph.steps.iter().position(|step| step.name == name);
        let waits_for = graph
            .steps
            .iter()
            .map(|step| graph.inputs_of(step).into_iter().filter_map(place).collect())
            .collect();
        Self { graph, waits_for }
    }
}

/// Results so far.
#[derive(Debug)]
pub(crate) struct Run<'g> {
    plan: &'g Plan,
    input: Given,
    steps: Vec<State>,
}

#[derive(Debug)]
enum State {
    Waiting,
    Running,
    Done(Given),
}

/// A step to start.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its place among the graph's.
    pub(crate) step: usize,
    /// Without references. Where the callee is asked by HTTP: the body.
    pub(crate) args: Box<RawValue>,
}

/// A step whose arguments ask for a part that a result does not have.
#[derive(Debug, PartialEq)]
pub(crate) struct Unfit {
    pub(crate) step: usize,
    pub(crate) missing: Missing,
}

impl<'g> Run<'g> {
    pub(crate) fn new(plan: &'g Plan, input: Box<RawValue>) -> Self {
        let steps = plan.graph.steps.iter().map(|_| State::Waiting).collect();
        Self { plan, input: Given::new(input), steps }
    }

    /// Steps whose inputs are there, each once. One whose condition does not hold is done at once, with null.
    ///
    /// # Errors
    /// The graph can't go on.
    pub(crate) fn ready(&mut self) -> Result<Vec<Call>, Unfit> {
        let mut calls = Vec::new();
        // Steps follow what they wait for: one pass also finds those that wait for a skipped one.
        for (index, step) in self.plan.graph.steps.iter().enumerate() {
            let waits = |place: &usize| !matches!(self.steps[*place], State::Done(_));
            if !matches!(self.steps[index], State::Waiting) || self.plan.waits_for[index].iter().any(waits) {
                continue;
            }
            let unfit = |missing| Unfit { step: index, missing };
            if let Some(when) = &step.when {
                let reference = Reference::parse(&when.value);
                let given = reference.and_then(|reference| Some((reference, self.known(reference.name)?)));
                let value = given.map(|(reference, given)| given.part(&reference)).transpose();
                if !when.holds(value.map_err(unfit)?.unwrap_or(&Value::Null)) {
                    self.steps[index] = State::Done(Given::null());
                    continue;
                }
            }
            // A request's body is one argument alone without its list.
            let args = match (&step.callee, &step.args) {
                (Some(callee), Value::Array(items)) if callee.method.is_none() && items.len() == 1 => {
                    &items[0]
                }
                (_, args) => args,
            };
            calls.push(Call { step: index, args: self.written(args).map_err(unfit)? });
            self.steps[index] = State::Running;
        }
        Ok(calls)
    }

    /// A step has answered.
    pub(crate) fn done(&mut self, step: usize, result: Box<RawValue>) {
        self.steps[step] = State::Done(Given::new(result));
    }

    /// What the graph answers, once nothing runs any more.
    ///
    /// # Errors
    /// The output asks for a part that a result does not have.
    pub(crate) fn output(&self) -> Result<Box<RawValue>, Missing> {
        debug_assert!(self.steps.iter().all(|step| matches!(step, State::Done(_))), "every step was run");
        self.written(&self.plan.graph.output)
    }

    fn written(&self, value: &Value) -> Result<Box<RawValue>, Missing> {
        given::written(value, &|name| self.known(name))
    }

    /// The input, or the result of a step that is done.
    fn known(&self, name: &str) -> Option<&Given> {
        if name == self.plan.graph.input {
            return Some(&self.input);
        }
        let index = self.plan.graph.steps.iter().position(|step| step.name == name)?;
        match &self.steps[index] {
            State::Done(given) => Some(given),
            State::Waiting | State::Running => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;

    fn raw(value: Value) -> Box<RawValue> {
        to_raw_value(&value).unwrap()
    }

    fn args(call: &Call) -> Value {
        serde_json::from_str(call.args.get()).unwrap()
    }

    fn names(run: &Run<'_>, calls: &[Call]) -> Vec<String> {
        calls.iter().map(|call| run.plan.graph.steps[call.step].name.clone()).collect()
    }

    #[test]
    fn steps_start_as_soon_as_their_inputs_are_there() {
        let graph = GraphSpec::builder()
            .step("pre", "p", json!(["$input"]))
            .step("left", "l", json!(["$pre.x"]))
            .step("right", "r", json!(["$pre", 2]))
            .step("sum", "s", json!([["$left", "$right"]]))
            .build()
            .unwrap();
        let plan = Plan::new(graph);
        let mut run = Run::new(&plan, raw(json!(7)));
        let first = run.ready().unwrap();
        assert_eq!((names(&run, &first), args(&first[0])), (vec!["pre".to_owned()], json!([7])));
        assert!(run.ready().unwrap().is_empty(), "each starts once");
        run.done(first[0].step, raw(json!({ "x": 1 })));
        let both = run.ready().unwrap();
        assert_eq!(names(&run, &both), ["left", "right"]);
        assert_eq!((args(&both[0]), args(&both[1])), (json!([1]), json!([{ "x": 1 }, 2])));
        run.done(both[1].step, raw(json!("r")));
        assert!(run.ready().unwrap().is_empty());
        run.done(both[0].step, raw(json!("l")));
        let sum = run.ready().unwrap();
        assert_eq!(args(&sum[0]), json!([["l", "r"]]));
        run.done(sum[0].step, raw(json!(42)));
        assert_eq!(run.output().unwrap().get(), "42");
    }

    #[test]
    fn a_step_whose_condition_does_not_hold_is_null_and_so_is_what_is_asked_of_it() {
        let graph = GraphSpec::builder()
            .step("cheap", "c", json!(["$input"]))
            .step("dear", "d", json!(["$cheap"]))
            .when("$cheap.unsure")
            .output(json!({ "cheap": "$cheap.score", "dear": "$dear.score" }))
            .build()
            .unwrap();
        let plan = Plan::new(graph);
        let mut run = Run::new(&plan, raw(json!(null)));
        let first = run.ready().unwrap();
        run.done(first[0].step, raw(json!({ "score": 1, "unsure": false })));
        assert!(run.ready().unwrap().is_empty());
        assert_eq!(run.output().unwrap().get(), r#"{"cheap":1,"dear":null}"#);
    }

    #[test]
    fn a_part_that_is_not_there_names_the_step_that_asks_for_it() {
        let graph = GraphSpec::builder()
            .step("a", "m", json!(["$input"]))
            .step("b", "m", json!(["$a.x"]))
            .build()
            .unwrap();
        let plan = Plan::new(graph);
        let mut run = Run::new(&plan, raw(json!(null)));
        let first = run.ready().unwrap();
        run.done(first[0].step, raw(json!({})));
        let unfit = run.ready().unwrap_err();
        assert_eq!((plan.graph.steps[unfit.step].name.as_str(), unfit.missing.part.as_str()), ("b", "x"));
    }
}
