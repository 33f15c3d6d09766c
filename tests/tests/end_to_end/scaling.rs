//! Replicas that follow the load, from none to as many as are needed and back.

use std::fs;
use std::thread;

use decurion_tests::{World, library};

fn scaled(min: u32, max: u32) -> String {
    format!(
        "application = \"demo\"\n[[deployment]]\nname = \"held\"\nlibrary = \"{}\"\nclass = \"Held\"\nargs = {{ folder = \".\" }}\n\
         request_timeout_s = 0\nautoscaling_config = {{ min_replicas = {min}, max_replicas = {max}, target_ongoing_requests = 1, \
         upscale_delay_s = 0, downscale_delay_s = 0, look_back_period_s = 0, metrics_interval_s = 0.05 }}\n",
        library("fixtures").display()
    )
}

fn deploy(world: &World, min: u32, max: u32) {
    let folder = world.path().display().to_string();
    let _ = world.deploy(&scaled(min, max).replace("\".\"", &format!("\"{folder}\""))).ok();
}

#[test]
fn the_first_request_brings_a_replica_and_waits_for_it() {
    let world = World::start();
    deploy(&world, 0, 3);
    assert_eq!(world.pids("held").len(), 0);
    for _ in 0..3 {
        let answer = world.get("/held");
        assert_eq!((answer.status, answer.text().as_str()), (200, "first first"));
        world.until("nothing is left", |status| status.deployments[0].replicas.is_empty());
    }
    // By handle as well.
    let called = world.run(&["call", "held.alone", "[\"supervisor.log\"]"]).ok();
    assert_eq!(called.stdout.trim(), "true");
    world.until("nothing is left", |status| status.deployments[0].replicas.is_empty());
    let told = world.run(&["events"]).ok().stdout;
    assert!(told.contains("0 -> 1") && told.contains("1 -> 0: 0.0 ongoing against a target of 1"), "{told}");
}

#[test]
fn requests_that_run_or_wait_bring_more_replicas_and_their_end_takes_them_away() {
    let world = World::start();
    deploy(&world, 1, 4);
    thread::scope(|scope| {
        let held: Vec<_> = (0..4).map(|_| scope.spawn(|| world.get("/held?until=go").status)).collect();
        // One replica is working on the first of them, and has the others before it: that is seen all the same.
        world.until("four replicas", |status| {
            let replicas = &status.deployments[0].replicas;
            replicas.iter().filter(|replica| replica.state.can_serve()).count() == 4
        });
        fs::write(world.path().join("go"), "").expect("write");
        for request in held {
            assert_eq!(request.join().expect("a thread"), 200);
        }
    });
    world.until("one replica", |status| status.deployments[0].replicas.len() == 1);
    let refused = world.run(&["scale", "held", "3"]).code(1);
    assert!(refused.stderr.contains("autoscaled between 1 and 4 replicas"), "{}", refused.stderr);
}
