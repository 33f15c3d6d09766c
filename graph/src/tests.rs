//! Graphs run in this process, over local deployments.
#![allow(unreachable_pub, reason = "`pub` is what makes a method callable")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use decurion::test::{Local, LocalApp};
use decurion_api::DeploymentName;
use serde_json::json;

use super::*;
use decurion::Items;
use decurion_api::spec::graph::Callee;

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

/// Streams words: by a method, and by its `call`.
#[derive(Debug, Default)]
struct Chat;

#[deployment]
impl Chat {
    fn call(&self, req: Request) -> Result<Response> {
        let (text, accept): (String, _) = (req.json()?, req.header("accept").unwrap_or("").to_owned());
        if text == "no" {
            return Err(Error::status(409, "no words"));
        }
        Ok(Response::stream(move |w| {
            w.event(format!("{accept}: {text}"))?;
            w.event("\u{1f600}".to_owned())
        }))
    }

    pub fn words(&self, text: String) -> Streamed<String> {
        Streamed::new(move |out: &mut Items<'_, '_, String>| {
            for word in text.split(' ') {
                match word {
                    "stop" => return Err(Error::status(418, "told to")),
                    word => out.send(word.to_owned())?,
                }
            }
            Ok(())
        })
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
    callees().deploy::<Graph>("graph", resolved(graph)).unwrap()
}

fn deploy_streaming(graph: GraphSpec) -> Local<StreamingGraph> {
    callees().deploy::<StreamingGraph>("graph", resolved(graph)).unwrap()
}

fn callees() -> LocalApp {
    let app = LocalApp::new();
    app.deploy::<Preprocess>("preprocess", ()).unwrap();
    app.deploy::<Model>("model", json!({ "increment": 2 })).unwrap();
    app.deploy::<Web>("web", ()).unwrap();
    app.deploy::<Meeting>("meeting", ()).unwrap();
    app.deploy::<Chat>("chat", ()).unwrap();
    app
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

fn words(call: &str) -> GraphSpec {
    let graph = GraphSpec::builder().step("pre", "web", json!(["$input.0"]));
    graph.step("words", call, json!(["$input.1"])).when("$pre").stream().build().unwrap()
}

#[test]
fn the_items_of_a_last_step_stream() {
    let graph = deploy_streaming(words("chat.words"));
    let items = |input: Value| graph.handle().stream::<String>("run", (input,)).unwrap();
    let all = items(json!([1, "to you"])).collect::<Result<Vec<_>>>().unwrap();
    assert_eq!(all, ["to", "you"]);
    let lines = graph.request(Request::post("/", "[1, \"to you\"]")).unwrap();
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(lines.text().unwrap(), "\"to\"\n\"you\"\n");
    let asked = Request::post("/", "[1, \"to you\"]").with_header("accept", "text/event-stream").unwrap();
    let events = graph.request(asked).unwrap();
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.text().unwrap(), "data: \"to\"\n\ndata: \"you\"\n\n");
}

#[test]
fn an_error_before_the_first_item_is_an_answer_and_a_later_one_ends_the_stream() {
    let graph = deploy_streaming(words("chat.words"));
    let first = graph.request(Request::post("/", "[1, \"stop\"]")).unwrap();
    let words = "step 'words' (chat.words): told to";
    assert_eq!((first.status().as_u16(), first.text().unwrap().trim_end()), (418, words));
    let first = graph.handle().stream::<String>("run", (json!([1, "stop"]),)).unwrap_err();
    assert_eq!((first.code().map(|code| code.as_u16()), first.message()), (Some(418), words));
    let before = graph.request(Request::post("/", "[\"text\", \"to\"]")).unwrap();
    let refused = "step 'pre' (web): no strings";
    assert_eq!((before.status().as_u16(), before.text().unwrap().trim_end()), (409, refused));

    let mut items = graph.handle().stream::<String>("run", (json!([1, "to stop you"]),)).unwrap();
    assert_eq!(items.next().unwrap().unwrap(), "to");
    assert_eq!(items.next().unwrap().unwrap_err().message(), words);
    assert!(items.next().is_none());
    assert!(graph.request(Request::post("/", "[1, \"to stop you\"]")).is_err(), "the answer is cut off");
}

#[test]
fn the_body_of_a_last_request_is_passed_on() {
    let graph = deploy_streaming(words("chat"));
    let asked = Request::post("/", "[1, \"hi\"]").with_header("accept", "a/b").unwrap();
    let body = graph.request(asked).unwrap();
    assert_eq!(body.header("content-type"), Some("text/event-stream"));
    assert_eq!(body.text().unwrap(), "data: a/b: hi\n\ndata: \u{1f600}\n\n");
    let pieces = graph.handle().stream::<String>("run", (json!([1, "hi"]),)).unwrap();
    let text = pieces.collect::<Result<String>>().unwrap();
    assert_eq!(text, "data: : hi\n\ndata: \u{1f600}\n\n");
    let refused = graph.request(Request::post("/", "[1, \"no\"]")).unwrap();
    let words = "step 'words' (chat): no words";
    assert_eq!((refused.status().as_u16(), refused.text().unwrap().trim_end()), (409, words));
}

#[test]
fn a_last_step_that_does_not_run_streams_nothing() {
    let graph = GraphSpec::builder().step("words", "chat.words", json!(["$input"])).when("$input");
    let graph = deploy_streaming(graph.stream().build().unwrap());
    let answer = graph.request(Request::post("/", "null")).unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().unwrap()), (200, ""));
    assert_eq!(graph.handle().stream::<String>("run", (json!(null),)).unwrap().count(), 0);
}

#[test]
fn a_character_may_come_in_two_pieces() {
    let mut text = Text::default();
    let mut take = |bytes: &[u8], end| {
        text.rest.extend_from_slice(bytes);
        text.take(end)
    };
    assert_eq!([take(b"a\xf0\x9f", false), take(b"\x98\x80b", false)], ["a", "\u{1f600}b"]);
    assert_eq!([take(b"\xff", false), take(b"\xf0", false), take(b"", true)], ["\u{fffd}", "", "\u{fffd}"]);
}
