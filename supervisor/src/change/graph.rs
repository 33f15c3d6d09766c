//! What the steps of a graph call, among the deployments that there are.

use std::collections::BTreeMap;

use decurion_api::DeploymentName;
use decurion_api::spec::DeploymentSpec;
use decurion_api::spec::graph::{Callee, Step};

use super::Refusal;
use crate::desired::{ClassInfo, Desired};

/// What can be called of one deployment.
enum Callable<'d> {
    Class(&'d ClassInfo),
    /// A graph that is about to be put: it takes a request.
    Graph,
}

/// Writes down what each step calls; a deployment without steps is left alone. `siblings` are graphs of the same
/// request.
///
/// # Errors
/// [`Refusal::GraphCall`].
pub(super) fn resolve(
    spec: &mut DeploymentSpec,
    desired: &Desired,
    siblings: &[DeploymentName],
) -> Result<(), Refusal> {
    let Some(graph) = &mut spec.graph else { return Ok(()) };
    let find = |name: &str| find(name, desired, siblings);
    for step in &mut graph.steps {
        let callee = callee(step, find).map_err(|why| refusal(&spec.name, step, why))?;
        step.callee = Some(callee);
    }
    Ok(())
}

/// Whether every graph still finds what it calls, and none calls itself by way of another.
///
/// # Errors
/// [`Refusal::GraphCall`], [`Refusal::GraphCycle`].
pub(super) fn check(desired: &Desired) -> Result<(), Refusal> {
    let mut calls: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, wanted) in &desired.deployments {
        let Some(graph) = &wanted.spec.graph else { continue };
        for step in &graph.steps {
            let Some(callee) = &step.callee else { continue };
            let deployment = callee.deployment.as_str();
            match find(deployment, desired, &[]) {
                Some(found) => has(&found, callee, step.stream).map_err(|why| refusal(name, step, why))?,
                None => return Err(refusal(name, step, no_deployment(deployment))),
            }
            calls.entry(name.as_str()).or_default().push(deployment);
        }
    }
    check_cycles(calls)
}

/// `NAME` or `NAME.METHOD`; as names may hold dots, what is deployed decides.
fn callee<'d>(step: &Step, find: impl Fn(&str) -> Option<Callable<'d>>) -> Result<Callee, String> {
    let named = |name: &str| DeploymentName::new(name).map_err(|error| error.to_string());
    let (found, callee) = match find(&step.call) {
        Some(found) => {
            let method = default_method(&step.call, &found)?;
            (found, Callee { deployment: named(&step.call)?, method })
        }
        None => {
            let Some((name, method)) = step.call.rsplit_once('.') else {
                return Err(no_deployment(&step.call));
            };
            let Some(found) = find(name) else { return Err(no_deployment(name)) };
            (found, Callee { deployment: named(name)?, method: Some(method.to_owned()) })
        }
    };
    has(&found, &callee, step.stream)?;
    Ok(callee)
}

fn find<'d>(name: &str, desired: &'d Desired, siblings: &[DeploymentName]) -> Option<Callable<'d>> {
    if siblings.iter().any(|sibling| sibling.as_str() == name) {
        return Some(Callable::Graph);
    }
    let name = DeploymentName::new(name).ok()?;
    desired.deployments.get(&name).map(|wanted| Callable::Class(&wanted.class))
}

/// A class that answers HTTP takes a request; of another, the only method is meant.
fn default_method(name: &str, found: &Callable<'_>) -> Result<Option<String>, String> {
    let Callable::Class(class) = found else { return Ok(None) };
    match class.methods.as_slice() {
        _ if class.http => Ok(None),
        [only] => Ok(Some(only.clone())),
        [] => Err(format!("class {} has nothing to call", class.name)),
        several => Err(format!("it has several methods; name one, as {name}.METHOD: {}", several.join(", "))),
    }
}

/// Whether it can be called so. A `call` may stream or not, as it likes; a method says which.
fn has(found: &Callable<'_>, callee: &Callee, stream: bool) -> Result<(), String> {
    match (found, &callee.method) {
        (Callable::Graph, None) => Ok(()),
        (Callable::Graph, Some(method)) => {
            Err(format!("a graph has no method '{method}'; call it by its name"))
        }
        (Callable::Class(class), None) if class.http => Ok(()),
        (Callable::Class(class), None) => Err(format!("class {} no longer answers HTTP", class.name)),
        (Callable::Class(class), Some(method)) if class.methods.contains(method) => {
            match (class.streams.contains(method), stream) {
                (true, false) => Err(format!(
                    "method '{method}' of class {} streams; that is for the last step, with stream = true",
                    class.name
                )),
                (false, true) => Err(format!(
                    "method '{method}' of class {} does not stream; leave out stream = true",
                    class.name
                )),
                _ => Ok(()),
            }
        }
        (Callable::Class(class), Some(method)) => {
            let there = if class.methods.is_empty() { "none".to_owned() } else { class.methods.join(", ") };
            Err(format!("class {} has no method '{method}'; there are: {there}", class.name))
        }
    }
}

fn no_deployment(name: &str) -> String {
    format!("there is no deployment '{name}'")
}

fn refusal(graph: &DeploymentName, step: &Step, why: String) -> Refusal {
    Refusal::GraphCall { graph: graph.clone(), step: step.name.clone(), call: step.call.clone(), why }
}

fn check_cycles(mut calls: BTreeMap<&str, Vec<&str>>) -> Result<(), Refusal> {
    // What calls no graph that is left can be part of no circle.
    loop {
        let graphs: Vec<&str> = calls.keys().copied().collect();
        let ends = |callees: &Vec<&str>| !callees.iter().any(|callee| graphs.contains(callee));
        let before = calls.len();
        calls.retain(|_, callees| !ends(callees));
        if calls.len() == before {
            break;
        }
    }
    let mut path: Vec<&str> = calls.keys().take(1).copied().collect();
    while let Some(last) = path.last() {
        let Some(next) = calls[last].iter().find(|callee| calls.contains_key(*callee)) else { break };
        let known = path.iter().position(|name| name == next);
        path.push(next);
        if let Some(begin) = known {
            return Err(Refusal::GraphCycle(path[begin..].iter().map(|it| (*it).to_owned()).collect()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use decurion_api::admin::ChangeAction;
    use decurion_api::spec::{ApplicationSpec, GraphSpec, LibraryRef};
    use decurion_api::{ApplicationName, ClassName};
    use serde_json::json;

    use super::super::{Changer, Libraries, Proposal, Standing, StoredLibrary, library_key};
    use super::*;
    use crate::reconcile::world::{libraries, spec};

    /// The usual class `Model` besides the library of graphs.
    fn with_graphs() -> Libraries {
        let mut libraries = libraries();
        let mut own = libraries.values().next().unwrap().classes[0].clone();
        (own.http, own.methods) = (true, vec!["run".to_owned()]);
        let mut streaming = own.clone();
        own.name = ClassName::new(decurion_api::spec::graph::CLASS).unwrap();
        streaming.name = ClassName::new(decurion_api::spec::graph::CLASS_STREAMING).unwrap();
        streaming.streams = streaming.methods.clone();
        let own = StoredLibrary { digest: "9".repeat(64), classes: vec![own, streaming] };
        libraries.insert(library_key(&LibraryRef::Graph), own);
        libraries
    }

    fn graph(name: &str, call: &str) -> DeploymentSpec {
        let steps = GraphSpec::builder().step("one", call, json!(["$input"])).build().unwrap();
        DeploymentSpec {
            library: LibraryRef::Graph,
            class: None,
            graph: Some(steps),
            version: None,
            ..spec(name, "1", 1)
        }
    }

    fn declare(desired: &Desired, deployments: Vec<DeploymentSpec>) -> Result<Proposal, Refusal> {
        let application = ApplicationName::new("demo").unwrap();
        let spec = ApplicationSpec { application, http: None, deployments };
        let whole = |_: &DeploymentName| Standing { whole: true, failed: false, config_taken: true };
        Changer::new(desired, None, &whole).unwrap().application(spec, &with_graphs())
    }

    fn refused(deployments: Vec<DeploymentSpec>) -> String {
        declare(&Desired::default(), deployments).unwrap_err().to_string()
    }

    #[test]
    fn a_graph_finds_what_it_calls_wherever_it_stands_in_the_file() {
        let first = declare(&Desired::default(), vec![graph("sum", "a"), spec("a", "1", 1)]).unwrap();
        let sum = &first.desired.deployments[&DeploymentName::new("sum").unwrap()];
        let callee = sum.spec.graph.as_ref().unwrap().steps[0].callee.clone().unwrap();
        assert_eq!(callee.deployment.as_str(), "a");
        let again = declare(&first.desired, vec![spec("a", "1", 1), graph("sum", "a")]).unwrap();
        assert!(again.applied.changes.iter().all(|change| change.action == ChangeAction::Unchanged));
        let other =
            declare(&first.desired, vec![spec("a", "1", 1), spec("b", "1", 1), graph("sum", "b")]).unwrap();
        let rolled = other.applied.changes.iter().find(|change| change.action == ChangeAction::Roll).unwrap();
        assert_eq!(
            (rolled.deployment.as_str(), rolled.fields.as_slice()),
            ("sum", &["graph".to_owned()][..])
        );
    }

    #[test]
    fn what_a_graph_cannot_call_is_refused() {
        assert_eq!(
            refused(vec![graph("sum", "nobody")]),
            "step 'one' of graph 'sum' calls 'nobody', and there is no deployment 'nobody'"
        );
        let no_method = refused(vec![spec("a", "1", 1), graph("sum", "a.nothing")]);
        assert!(no_method.contains("class Model has no method 'nothing'; there are: "), "{no_method}");
        let of_graph = refused(vec![spec("a", "1", 1), graph("x", "a"), graph("sum", "x.nothing")]);
        assert!(of_graph.contains("a graph has no method 'nothing'"), "{of_graph}");
        assert_eq!(
            refused(vec![graph("x", "y"), graph("y", "z"), graph("z", "y")]),
            "graphs call each other in a circle: y -> z -> y"
        );
    }

    #[test]
    fn a_method_that_streams_is_called_so_and_no_other() {
        let streaming = |name: &str, call: &str| {
            let builder = GraphSpec::builder().step("one", call, json!(["$input"]));
            DeploymentSpec { graph: Some(builder.stream().build().unwrap()), ..graph(name, call) }
        };
        let words = refused(vec![spec("a", "1", 1), streaming("talk", "a.predict")]);
        assert!(words.contains("method 'predict' of class Model does not stream"), "{words}");
        let both = declare(&Desired::default(), vec![spec("a", "1", 1), streaming("talk", "a")]).unwrap();
        let talk = &both.desired.deployments[&DeploymentName::new("talk").unwrap()];
        assert_eq!(talk.class.name.as_str(), "StreamingGraph");
        let whole = |_: &DeploymentName| Standing::default();
        let application = ApplicationName::new("other").unwrap();
        let deploy = |spec| {
            let changer = Changer::new(&both.desired, None, &whole).unwrap();
            changer.deployment(application.clone(), spec, &with_graphs())
        };
        let words = deploy(graph("sum", "talk.run")).unwrap_err().to_string();
        assert!(words.contains("method 'run' of class StreamingGraph streams"), "{words}");
        assert!(deploy(streaming("talk2", "talk.run")).is_ok());
    }

    #[test]
    fn what_a_graph_calls_stays_while_the_graph_does() {
        let held = declare(&Desired::default(), vec![spec("a", "1", 1), graph("sum", "a")]).unwrap().desired;
        let whole = |_: &DeploymentName| Standing::default();
        let a = DeploymentName::new("a").unwrap();
        let refusal = Changer::new(&held, None, &whole).unwrap().delete(&a).unwrap_err().to_string();
        assert_eq!(refusal, "step 'one' of graph 'sum' calls 'a', and there is no deployment 'a'");
        assert!(declare(&held, Vec::new()).is_ok(), "both may go together");
    }
}
