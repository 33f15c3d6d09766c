//! One list of promises, kept twice: by `decurion::test::Local`, and by real replicas.

use decurion::test::LocalApp;
use decurion_client::Client;
use decurion_tests::{World, library};
use fixtures::conformance::{CASES, Case, Conformance, Partner};
use serde_json::{Value, json};

/// Runs every case, and tells of all that do not come to what they should.
fn check(run: impl Fn(&Case) -> Result<Value, String>) {
    let differing: Vec<String> = CASES
        .iter()
        .filter_map(|case| {
            let wanted: Value = serde_json::from_str(case.comes_to).expect("a case comes to JSON");
            let found = run(case).unwrap_or_else(|error| json!({ "failed": error }));
            (found != wanted).then(|| format!("{}:\n  wanted {wanted}\n  found  {found}", case.name))
        })
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn the_host_in_this_process_keeps_its_promises() {
    let app = LocalApp::new();
    let third = app.deploy::<Partner>("third", json!([null])).expect("constructed");
    let second = app.deploy::<Partner>("second", json!(["@third"])).expect("constructed");
    let partner = app.deploy::<Partner>("partner", json!(["@second"])).expect("constructed");
    let suite = app.deploy::<Conformance>("conformance", json!(["@partner"])).expect("constructed");
    check(|case| suite.call("run", (case.name,)).map_err(|error| error.to_string()));
    drop((third, second, partner));
}

#[test]
fn real_replicas_keep_their_promises() {
    let world = World::start();
    let partner = |name: &str, next: &str| {
        format!(
            "[[deployment]]\nname = \"{name}\"\nlibrary = \"{}\"\nclass = \"Partner\"\nroute_prefix = \"\"\n\
             threads = 4\n{next}\n",
            library("fixtures").display()
        )
    };
    let config = format!(
        "application = \"conformance\"\n{}{}{}\
         [[deployment]]\nname = \"conformance\"\nlibrary = \"{}\"\nclass = \"Conformance\"\n\
         args = [\"@partner\"]\nthreads = 2\n",
        partner("third", ""),
        partner("second", "args = [\"@third\"]"),
        partner("partner", "args = [\"@second\"]"),
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a socket");
    let suite = client.deployment("conformance").expect("it exists").handle();
    check(|case| suite.call_json("run", &json!([case.name])).map_err(|error| error.to_string()));
}
