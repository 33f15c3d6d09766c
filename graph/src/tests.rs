//! Graphs run in this process, over local deployments.
#![allow(unreachable_pub, reason = "`pub` is what makes a method callable")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use decurion::test::{Local, LocalApp};
use decurion_api::DeploymentName;
use serde_json::json;

use super::*;

#[derive(Debug, Default)]
struct Preprocess;

#[deployment]
impl Preprocess {
    pub fn run(&self, x: i64) -> i64 {
        x + 1
    }
}

#[derive(Debug)]
struct Model {
    increment: i64,
}

#[deployment]
impl Model {
    fn new(increment: i64) -> Self {
        Self { increment }
    }

    pub fn run(&self, x: i64) -> Result<i64> {
        match x {
            13 => Err(Error::status(422, "13 is not served here")),
            14 => Err(Error::msg("a secret of the model")),
            x => Ok(x + self.increment),
        }
    }
}

#[derive(Debug, Default)]
struct Web;

#[deployment]
impl Web {
    fn call(&self, req: Request) -> Result<Response> {
        let body: Value = req.json()?;
        match body {
            Value::String(_) => Err(Error::status(409, "no strings")),
            body => Ok(Response::new(200, format!("got {body}"))),
        }
    }
}

/// Two calls of it meet, or neither returns.
#[derive(Debug, Default)]
struct Meeting {
    met: Arc<AtomicUsize>,
}

#[deployment]
impl Meeting {
    pub fn join(&self) -> usize {
        let place = self.met.fetch_add(1, Ordering::SeqCst);
        while self.met.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        place
    }
}

fn resolved(mut graph: GraphSpec) -> Value {
    for step in &mut graph.steps {
        let (deployment, method) = match step.call.split_once('.') {
            Some((deployment, method)) => (deployment, Some(method.to_owned())),
            None => (step.call.as_str(), None),
        };
        step.callee = Some(Callee { deployment: DeploymentName::new(deployment).unwrap(), method });
    }
    json!({ "graph": graph })
}

fn deploy(graph: GraphSpec) -> Local<Graph> {
    let app = LocalApp::new();
    app.deploy::<Preprocess>("preprocess", ()).unwrap();
    app.deploy::<Model>("model", json!({ "increment": 2 })).unwrap();
    app.deploy::<Web>("web", ()).unwrap();
    app.deploy::<Meeting>("meeting", ()).unwrap();
    app.deploy::<Graph>("graph", resolved(graph)).unwrap()
}

fn sum() -> GraphSpec {
    GraphSpec::builder()
        .input("inp")
        .step("pre", "preprocess.run", json!(["$inp"]))
        .step("model", "model.run", json!({ "x": "$pre" }))
        .build()
        .unwrap()
}

#[test]
fn one_gives_four() {
    let graph = deploy(sum());
    assert_eq!(graph.request(Request::post("/", "1")).unwrap().text().unwrap(), "4");
    assert_eq!(graph.call::<Value>("run", (json!(1),)).unwrap(), json!(4));
}

#[test]
fn a_failing_step_is_named_and_its_status_stays() {
    let graph = deploy(sum());
    let answer = graph.request(Request::post("/", "12")).unwrap();
    assert_eq!(answer.status(), 422);
    assert_eq!(answer.text().unwrap().trim_end(), "step 'model' (model.run): 13 is not served here");
    let answer = graph.request(Request::post("/", "13")).unwrap();
    assert_eq!(answer.status(), 500);
    assert!(!answer.text().unwrap().contains("secret"));
    assert_eq!(graph.request(Request::post("/", "{")).unwrap().status(), 400);
    assert!(graph.request(Request::post("/", "\"x\"")).unwrap().status().is_client_error());
}

#[test]
fn a_step_can_be_a_request() {
    let one = |args| GraphSpec::builder().step("web", "web", args).build().unwrap();
    let text = |graph, body: &'static str| {
        let answer = deploy(graph).request(Request::post("/", body)).unwrap();
        (answer.status().as_u16(), answer.text().unwrap().trim_end().to_owned())
    };
    assert_eq!(text(one(json!(["$input"])), "1"), (200, "\"got 1\"".to_owned()));
    assert_eq!(text(one(json!(["$input", 2])), "1"), (200, "\"got [1,2]\"".to_owned()));
    assert_eq!(text(one(json!({ "x": "$input" })), "1"), (200, "\"got {\\\"x\\\":1}\"".to_owned()));
    assert_eq!(text(one(json!(["$input"])), "\"s\""), (409, "step 'web' (web): no strings".to_owned()));
}

#[test]
fn steps_that_need_nothing_of_each_other_run_at_once() {
    let graph = GraphSpec::builder()
        .step("left", "meeting.join", json!([]))
        .step("right", "meeting.join", json!([]))
        .output(json!(["$left", "$right"]))
        .build()
        .unwrap();
    let mut places: Vec<usize> = deploy(graph).call("run", (json!(null),)).unwrap();
    places.sort_unstable();
    assert_eq!(places, [0, 1]);
}
