//! Multiplexing over several replicas: requests go where their model is.

use std::collections::{BTreeMap, BTreeSet};

use decurion_client::Client;
use decurion_tests::{World, library};

const MODELS: [&str; 4] = ["ant", "bee", "cow", "dog"];

fn world() -> World {
    let world = World::start();
    let config = format!(
        "application = \"zoo\"\n[[deployment]]\nname = \"zoo\"\nlibrary = \"{}\"\nclass = \"Zoo\"\n\
         num_replicas = 3\nargs = {{ max_num_models_per_replica = 4 }}\n",
        library("fixtures").display()
    );
    let _ = world.deploy(&config).ok();
    world
}

fn ask(world: &World, header: &str, model: &str) -> String {
    let mut connection = world.connect();
    connection.request("GET", "/zoo", &[(header, model)], b"").expect("sent");
    let answer = connection.read().expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[test]
fn each_model_is_loaded_by_one_replica_whoever_asks() {
    let world = world();
    let client = Client::connect_to(&world.socket().with_file_name("handle.sock")).expect("a socket");
    let handle = client.deployment("zoo").expect("it exists").handle();
    let mut places: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for round in 0..10 {
        for model in MODELS {
            let header = ["serve_multiplexed_model_id", "Serve-Multiplexed-Model-Id"][round % 2];
            let at = places.entry(model).or_default();
            at.insert(ask(&world, header, model));
            let by_handle: u32 = handle.clone().with_model_id(model).call("which", ()).expect("a result");
            at.insert(by_handle.to_string());
        }
    }
    assert!(places.values().all(|at| at.len() == 1), "{places:?}");
    let none = world.get("/zoo");
    assert_eq!(none.status, 400);
    assert!(none.text().contains("names no model"), "{}", none.text());
}
