//! Graphs in the configuration file: run, called, drawn, updated, refused and deleted.

use std::io::Read;

use decurion_client::admin::Condition;
use decurion_client::metrics::parse;
use decurion_client::{Client, Graph};
use decurion_tests::{Connection, World, eventually, library};
use serde_json::json;

fn config(model: &str, graph: &str) -> String {
    let library = library("graph");
    format!(
        "application = \"graphs\"\n\
         [[deployment]]\nname = \"preprocess\"\nlibrary = \"{0}\"\nclass = \"Preprocess\"\nroute_prefix = \"\"\n\
         [[deployment]]\nname = \"model\"\nlibrary = \"{0}\"\nclass = \"Model\"\nroute_prefix = \"\"\nargs = {model}\n\
         [[graph]]\nname = \"sum\"\ninput = \"inp\"\n{graph}\n",
        library.display()
    )
}

const SEED: &str = "[graph.steps]\n\
                    pre = { call = \"preprocess\", args = [\"$inp\"] }\n\
                    model = { call = \"model\", args = [\"$pre\"] }\n\
                    output = \"$model\"";

fn world() -> World {
    let world = World::start();
    let _ = world.deploy(&config("{ increment = 2 }", SEED)).ok();
    world
}

#[test]
fn the_seed_example_gives_four_by_route_and_by_handle() {
    let world = world();
    let answer = world.post("/sum", b"1");
    assert_eq!((answer.status, answer.text().trim()), (200, "4"));
    assert_eq!(world.run(&["call", "sum", "1"]).ok().stdout.trim(), "4");
    assert_eq!(world.run(&["call", "sum.run", "[1]"]).ok().json(), json!(4));
    let failed = world.post("/sum", b"\"text\"");
    assert_eq!(failed.status, 400, "{}", failed.text());
    assert!(failed.text().contains("step 'pre' (preprocess)"), "{}", failed.text());
}

#[test]
fn a_graph_made_in_rust_is_deployed_like_any_other() {
    let world = world();
    let build = |factor: i64| {
        Graph::builder()
            .input("inp")
            .step("pre", "preprocess", json!(["$inp"]))
            .step("model", "model", json!(["$pre"]))
            .output(json!({ "sum": "$model", "factor": factor }))
            .build()
            .expect("a graph")
            .deployment("made")
            .expect("a deployment")
    };
    let admin = world.admin();
    let answers = |wanted: &serde_json::Value| {
        let answer = world.post("/made", b"1");
        answer.status == 200
            && serde_json::from_str::<serde_json::Value>(&answer.text()).ok().as_ref() == Some(wanted)
    };
    admin.put_deployment(&build(1), Condition::default()).expect("it is stored");
    eventually("it serves", || answers(&json!({ "sum": 4, "factor": 1 })));
    admin.put_deployment(&build(2), Condition::default()).expect("it is stored");
    eventually("the new form serves", || answers(&json!({ "sum": 4, "factor": 2 })));
    let mut nowhere = build(1);
    nowhere.graph = Graph::builder().step("a", "nobody", json!([])).build().ok();
    let refused = admin.put_deployment(&nowhere, Condition::default()).expect_err("there is no nobody");
    assert!(refused.to_string().contains("step 'a' of graph 'made' calls 'nobody'"), "{refused}");
    let _ = world.run(&["delete", "made"]).ok();
}

#[test]
fn typed_calls_of_a_graph_go_in_json_at_once_after_the_first() {
    let world = world();
    let caller = format!(
        "application = \"callers\"\n[[deployment]]\nname = \"caller\"\nlibrary = \"{}\"\nclass = \"Costly\"\n\
         route_prefix = \"\"\nargs = {{ cost_us = 0 }}\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&caller).ok();
    // Numbers to a graph, which takes values of any kind; 20 calls, and as many that are started and then waited for.
    let _ = world.run(&["call", "caller.call_ns", "[\"sum\", \"run\", 20]"]).ok();
    let given = world.run(&["call", "caller.sum_of_started", "[\"sum\", \"run\", 20]"]).ok();
    assert_eq!(given.json(), json!(20 * 4));
    // The same from a process that is none of ours.
    let client =
        Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("the handle socket answers");
    let sum = client.deployment("sum").expect("it exists").handle();
    for _ in 0..10 {
        assert_eq!(sum.call::<i64>("run", (1i64,)).expect("a result"), 4);
        let started = sum.start("run", (1i64,)).expect("it is on its way");
        assert_eq!(started.wait::<i64>().expect("a result"), 4);
    }
    let answered = || {
        let metrics = parse(&world.admin().metrics().expect("metrics")).expect("as it is written");
        let requests = metrics.into_iter().find(|family| family.name == "decurion_replica_requests_total");
        let samples = requests.map(|family| family.samples).unwrap_or_default();
        ["sum", "preprocess"].map(|name| {
            samples.iter().filter(|it| it.has(&[("deployment", name)])).map(|it| it.value).sum::<f64>()
        })
    };
    // A replica counts a request when its handler has returned, which is after its caller has the answer.
    world.until("the last ones are counted", |_| {
        let [sum, preprocess] = answered();
        sum >= 64.0 && preprocess >= 60.0
    });
    // The first one of each kind in bincode was sent back, before any step was run.
    assert_eq!(answered(), [64.0, 60.0]);
}

#[test]
fn a_graph_is_drawn_as_text_as_dot_and_as_json() {
    let world = world();
    let text = world.run(&["graph", "sum"]).ok().stdout;
    assert_eq!(text, "sum($inp)\n  pre   = preprocess($inp)\n  model = model($pre)\n  answers $model\n");
    let dot = world.run(&["-o", "dot", "graph"]).ok().stdout;
    assert!(dot.contains("\"sum/pre\" -> \"sum/model\";") && dot.contains("  \"preprocess\";"), "{dot}");
    let nodes = world.run(&["-o", "json", "graph", "sum"]).ok().json();
    assert_eq!(nodes[0]["calls"], json!(["model", "preprocess"]));
    let _ = world.run(&["-o", "dot", "status"]).code(64);
    let _ = world.run(&["graph", "nobody"]).code(5);
}

#[test]
fn a_graph_is_updated_scaled_and_deleted_as_a_deployment() {
    let world = world();
    let before = world.pids("sum");
    let _ = world.deploy(&config("{ increment = 2 }", SEED)).ok();
    assert_eq!(world.pids("sum"), before, "the same again restarts nothing");
    let _ = world.deploy(&config("{ increment = 40 }", SEED)).ok();
    assert_eq!(world.pids("sum"), before, "a new model is not a new graph");
    assert_eq!(world.post("/sum", b"1").text().trim(), "42");

    let twice = "num_replicas = 2\n[graph.steps]\n\
                 first = { call = \"model\", args = [\"$inp\"] }\n\
                 second = { call = \"model.run\", args = { x = \"$first\" } }\n\
                 output = { first = \"$first\", both = [\"$first\", \"$second\"] }";
    let _ = world.deploy(&config("{ increment = 40 }", twice)).ok();
    assert_eq!(world.post("/sum", b"1").json(), json!({ "first": 41, "both": [41, 81] }));
    assert_eq!(world.pids("sum").len(), 2);
    let config = world.run(&["config", "sum"]).ok().stdout;
    assert!(config.contains("[[graph]]") && config.contains("call = \"model.run\""), "{config}");

    let _ = world.run(&["scale", "sum", "1"]).ok();
    let pids = world.pids("sum");
    assert_eq!(pids.len(), 1);
    let name = "sum".parse().expect("a name");
    let patch = |patch| world.admin().patch_deployment(&name, &patch, Condition::default());
    patch(json!({ "max_queued_requests": 7 })).expect("a setting");
    let described = world.run(&["describe", "sum"]).ok().stdout;
    assert!(described.contains("max_queued_requests          7"), "{described}");
    let steps = json!({ "steps": { "a": { "call": "nobody" } } });
    let refused = patch(steps).expect_err("what makes it a graph").to_string();
    assert!(refused.contains("'graph' is changed by deploying"), "{refused}");
    let refused = world.run(&["reconfigure", "sum", "a=1"]).code(1).stderr;
    assert!(refused.contains("user_config"), "{refused}");
    assert_eq!(world.pids("sum"), pids);
    let refused = world.run(&["delete", "model"]).code(1);
    assert!(refused.stderr.contains("graph 'sum' calls 'model'"), "{}", refused.stderr);
    let _ = world.run(&["delete", "sum"]).ok();
    assert_eq!(world.post("/sum", b"1").status, 404);
    let _ = world.run(&["delete", "model"]).ok();
}

/// `Drip` streams by its `call`, and counts by a method; both go on when the gate is opened.
fn streaming(step: &str) -> String {
    let library = library("fixtures");
    format!(
        "application = \"streams\"\n\
         [[deployment]]\nname = \"drip\"\nlibrary = \"{0}\"\nclass = \"Drip\"\nroute_prefix = \"\"\n\
         [[graph]]\nname = \"talk\"\n[graph.steps]\n{step}\n",
        library.display()
    )
}

/// What comes on a connection, up to and with these words.
fn read_up_to(connection: &Connection, end: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(end) {
        connection.stream().read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {text}"));
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn a_graph_whose_last_step_streams_answers_before_that_step_is_through() {
    let world = World::start();
    let gate = world.path().join("gate");
    let words = "pre = { call = \"drip.plus\", args = [\"$input.to\", 1] }\n\
                 words = { call = \"drip.count\", args = [\"$pre\", \"$input.gate\"], stream = true }";
    let _ = world.deploy(&streaming(words)).ok();
    let input = json!({ "to": 2, "gate": gate });
    let drawn = world.run(&["graph", "talk"]).ok().stdout;
    assert!(drawn.contains("words = drip.count($pre, $input.gate)  stream\n"), "{drawn}");
    assert!(world.run(&["config", "talk"]).ok().stdout.contains("stream = true"));

    // Over HTTP: the first line is there while the step waits for the gate.
    let mut connection = world.connect();
    connection.request("POST", "/talk", &[], input.to_string().as_bytes()).expect("sent");
    let head = read_up_to(&connection, "1\n\r\n");
    assert!(head.contains("application/x-ndjson") && head.contains("\r\n1\n\r\n"), "{head}");
    std::fs::write(&gate, "").expect("open the gate");
    let rest = read_up_to(&connection, "\r\n0\r\n\r\n");
    assert!(rest.contains("2\n") && rest.contains("3\n"), "{rest}");

    // By handle: items as they come.
    std::fs::remove_file(&gate).expect("close the gate");
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a client");
    let talk = client.deployment("talk").expect("it is there").handle();
    let mut items = talk.stream::<u32>("run", (&input,)).expect("a stream");
    assert_eq!(items.next().expect("one").expect("good"), 1);
    std::fs::write(&gate, "").expect("open the gate");
    assert_eq!(items.collect::<Result<Vec<_>, _>>().expect("the rest"), [2, 3]);

    let refused = world.post("/talk", b"{\"to\": \"x\", \"gate\": \"\"}");
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("step 'pre' (drip.plus)"), "{}", refused.text());
    let refused = world.post("/talk", b"{\"to\": 0, \"gate\": 7}");
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("step 'words' (drip.count)"), "{}", refused.text());

    // It goes on as a deployment does: from a graph that streams to one that does not.
    let _ = world.deploy(&streaming("pre = { call = \"drip.plus\", args = [\"$input\", 1] }")).ok();
    assert_eq!(world.post("/talk", b"1").text().trim(), "2");
}

#[test]
fn streams_anywhere_but_at_the_end_are_refused_at_plan() {
    let world = World::start();
    for (steps, words) in [
        (
            "a = { call = \"drip.count\", args = [1, \"\"], stream = true }\n\
             b = { call = \"drip.plus\", args = [\"$a\", 1] }",
            "step 'a' streams, so it has to be the last one: step 'b' takes its result",
        ),
        (
            "a = { call = \"drip.count\", args = [1, \"\"], stream = true }\noutput = [\"$a\"]",
            "the graph answers [\"$a\"]",
        ),
        (
            "a = { call = \"drip.plus\", args = [1, 1], stream = true }",
            "method 'plus' of class Drip does not stream",
        ),
        ("a = { call = \"drip.count\", args = [1, \"\"] }", "method 'count' of class Drip streams"),
    ] {
        std::fs::write(world.path().join("wrong.toml"), streaming(steps)).expect("write");
        let refused = world.run(&["plan", "wrong.toml"]).code(1);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
}

#[test]
fn what_is_no_graph_is_refused_at_plan_and_changes_nothing() {
    let world = world();
    let revision = world.status().revision;
    for (steps, words) in [
        ("a = { call = \"nobody\", args = [\"$inp\"] }", "there is no deployment 'nobody'"),
        (
            "a = { call = \"model.fly\", args = [\"$inp\"] }",
            "class Model has no method 'fly'; there are: run",
        ),
        (
            "a = { call = \"model\", args = [\"$b\"] }\nb = { call = \"model\", args = [\"$a\"] }\noutput = \"$a\"",
            "in a circle: a -> b -> a",
        ),
        ("a = { call = \"model\", args = [\"$in\"] }", "step 'a' refers to '$in'"),
    ] {
        let text = config("{ increment = 2 }", &format!("[graph.steps]\n{steps}"));
        std::fs::write(world.path().join("wrong.toml"), text).expect("write");
        for command in ["plan", "deploy"] {
            let refused = world.run(&[command, "wrong.toml"]).code(1);
            assert!(refused.stderr.contains(words), "{command}: {}", refused.stderr);
        }
    }
    let clash = config("{ increment = 2 }", &format!("route_prefix = \"/x\"\n{SEED}")).replacen(
        "route_prefix = \"\"",
        "route_prefix = \"/x\"",
        1,
    );
    std::fs::write(world.path().join("wrong.toml"), clash).expect("write");
    let refused = world.run(&["plan", "wrong.toml"]).code(1);
    assert!(refused.stderr.contains("'/x' is already taken"), "{}", refused.stderr);
    assert_eq!(world.status().revision, revision);
    assert_eq!(world.post("/sum", b"1").text().trim(), "4");
}
