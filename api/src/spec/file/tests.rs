//! Golden table of refusals, and that whatever is written reads back.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::spec::{
    Amount, AutoscalingSpec, HttpSpec, LibraryRef, ResourcesSpec, RolloutSpec, Share, TlsSpec,
};

const WHOLE: &str = r#"
application = "demo"

[http]
listen = "127.0.0.1:8000"
request_timeout_s = 30
keep_alive_timeout = "90s"
header_timeout_s = 10
body_timeout_s = 0.5
upgrade_idle_timeout = "1h"
max_head = "64KiB"
max_headers = 100
max_uri = "8KiB"
max_body = "64MiB"
max_connections = 20000
max_connections_per_address = 100
max_requests_per_connection = 1000
min_body_rate = "1KiB"
workers = 0
access_log = "json"
access_log_sample = 0.5
access_log_file = "/var/log/decurion/access.log"
server_timing = "always"
tls = { cert = "cert.pem", key = "/etc/key.pem", client_ca = "ca.pem" }

[[deployment]]
name = "http_deployment"
library = "target/release/libmodels.so"
class = "Model"
route_prefix = "/api"
num_replicas = 5
args = { msg = "Hello world!", next = "@other", big = 9007199254740993 }
user_config = { threshold = 0.5 }
version = "2024-05-01"
max_ongoing_requests = 5
max_queued_requests = -1
threads = 2
request_timeout_s = 5
graceful_shutdown_timeout = "200ms"
health_check_period_s = 10
health_check_timeout_s = 30
startup_timeout = "5m"

[deployment.rollout]
max_unavailable = "20%"
max_surge = 2
auto_rollback = false

[deployment.resources]
cpus = 0.5
memory = "512MiB"
gpus = 2

[deployment.runtime_env]
env_vars = { MODEL = "a" }
library_path = ["lib", "/opt/lib"]
working_dir = "."

[[deployment]]
library = "lib/libother.so.1"
"#;

fn toml(text: &str) -> String {
    match read_toml(text, "f.toml") {
        Ok(spec) => format!("{spec:?}"),
        Err(error) => error.to_string(),
    }
}

/// One deployment with these lines, which start at line 4.
fn deployment(lines: &str) -> String {
    toml(&format!("application = \"a\"\n[[deployment]]\nlibrary = \"libx.so\"\n{lines}"))
}

#[test]
fn the_whole_file_is_read() {
    let spec = read_toml(WHOLE, "decurion.toml").unwrap();
    let http = spec.http.as_ref().unwrap();
    assert_eq!(http.body_timeout, Duration::from_millis(500));
    assert_eq!(http.keep_alive_timeout, Duration::from_secs(90));
    assert_eq!(http.upgrade_idle_timeout, Duration::from_secs(3600));
    assert_eq!((http.max_head, http.max_body), (65_536, 67_108_864));
    assert_eq!((http.max_requests_per_connection, http.min_body_rate), (1000, 1024));
    let tls =
        TlsSpec { cert: "cert.pem".into(), key: "/etc/key.pem".into(), client_ca: Some("ca.pem".into()) };
    assert_eq!(http.tls, Some(tls));
    let [first, second] = &spec.deployments[..] else { panic!("two deployments") };
    assert_eq!(first.args["big"], json!(9_007_199_254_740_993_i64));
    assert_eq!(first.graceful_shutdown_timeout, Duration::from_millis(200));
    assert_eq!(first.rollout.max_surge, Share::Count(2));
    assert_eq!(first.max_queued_requests, None);
    assert_eq!(first.runtime_env.library_path, ["lib", "/opt/lib"]);
    assert_eq!(first.runtime_env.working_dir.as_deref(), Some("."));
    let resources = ResourcesSpec {
        cpus: Some(Amount::thousandths(500)),
        memory: Some(512 << 20),
        gpus: Some(Amount::whole(2)),
    };
    assert_eq!((&first.resources, &second.resources), (&resources, &ResourcesSpec::default()));
    assert_eq!(second.name.as_str(), "other");
    assert_eq!(second.library, LibraryRef::Path("lib/libother.so.1".to_owned()));
}

#[test]
fn defaults_are_filled_in() {
    let spec =
        read_toml("application = \"a\"\n[http]\n[[deployment]]\nlibrary = \"x.so\"\nclass = \"M\"", "f");
    let spec = spec.unwrap();
    assert_eq!(spec.http, Some(HttpSpec::default()));
    let only = &spec.deployments[0];
    assert_eq!(only.name.as_str(), "M");
    assert_eq!(only.route_prefix.as_ref().unwrap().as_str(), "/M");
    assert_eq!((only.num_replicas, only.threads), (1, 1));
    assert_eq!(only.rollout, RolloutSpec::default());
    assert_eq!(only.max_queued_requests, Some(1024));
    assert_eq!((only.request_timeout, only.user_config.as_ref()), (None, None));
    let periods = [only.graceful_shutdown_timeout, only.health_check_period, only.health_check_timeout];
    assert_eq!(periods.map(|period| period.as_secs()), [20, 10, 30]);
    assert_eq!(only.startup_timeout.as_secs(), 300);
}

#[test]
fn an_empty_route_means_by_handle_only_and_an_empty_user_config_counts_as_set() {
    let spec = deployment("route_prefix = \"\"\nuser_config = {}");
    assert!(spec.contains("route_prefix: None"), "{spec}");
    assert!(spec.contains("user_config: Some(Object {})"), "{spec}");
}

#[test]
fn what_is_written_reads_back_as_the_same() {
    let spec = read_toml(WHOLE, "decurion.toml").unwrap();
    let written = to_json(&spec);
    assert_eq!(read_json(written.to_string().as_bytes()).unwrap(), spec);
    let one = deployment_to_json(&spec.deployments[0]);
    assert_eq!(read_deployment_json(one.to_string().as_bytes()).unwrap(), spec.deployments[0]);
}

#[test]
fn autoscaling_is_read_with_rays_defaults_and_reads_back() {
    let read = |lines: &str| {
        let text = format!("application = \"a\"\n[[deployment]]\nlibrary = \"libx.so\"\n{lines}");
        let spec = read_toml(&text, "f.toml").unwrap();
        assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).unwrap(), spec);
        spec.deployments.into_iter().next().unwrap()
    };
    let auto = read("num_replicas = \"auto\"");
    assert_eq!((auto.num_replicas, auto.autoscaling), (1, Some(AutoscalingSpec::auto())));
    let own = read(
        "autoscaling_config = { min_replicas = 0, max_replicas = 8, initial_replicas = 2, upscale_delay = \"0s\", \
         downscale_to_zero_delay_s = 1.5, target_ongoing_requests = 0.5 }",
    );
    let scaling = own.autoscaling.unwrap();
    assert_eq!((own.num_replicas, scaling.min_replicas, scaling.max_replicas), (2, 0, 8));
    assert_eq!(scaling.downscale_to_zero_delay, Some(Duration::from_millis(1500)));
    assert_eq!((scaling.upscale_delay, scaling.downscale_delay), (Duration::ZERO, Duration::from_secs(600)));
    assert_eq!((scaling.look_back_period, scaling.upscaling_factor), (Duration::from_secs(30), 1.0));
}

#[test]
fn recycling_is_read_and_reads_back() {
    let text = "application = \"a\"\n[[deployment]]\nlibrary = \"x.so\"\n\
                recycle = { max_requests = 10000, max_memory = \"1GiB\", max_age = \"1h\" }";
    let spec = read_toml(text, "f.toml").unwrap();
    assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).unwrap(), spec);
    let recycle = spec.deployments[0].recycle.clone().unwrap();
    assert_eq!((recycle.max_requests, recycle.max_memory), (Some(10_000), Some(1 << 30)));
    assert_eq!(recycle.max_age, Some(Duration::from_secs(3600)));
}

#[test]
fn a_canary_is_read_and_reads_back() {
    let text = "application = \"a\"\n[[deployment]]\nlibrary = \"x.so\"\n[deployment.rollout]\n\
                canary = { weight = \"5%\", duration = \"2m\", max_error_rate = \"0.5%\", max_p99 = \"250ms\" }";
    let spec = read_toml(text, "f.toml").unwrap();
    assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).unwrap(), spec);
    let canary = spec.deployments[0].rollout.canary.clone().unwrap();
    assert_eq!((canary.weight, canary.duration.as_secs(), canary.max_error_rate), (5, 120, 0.005));
    assert_eq!(canary.max_p99, Some(Duration::from_millis(250)));
}

#[test]
fn a_set_is_read_and_reads_back() {
    let text = "application = \"a\"\n[[deployment]]\nlibrary = \"x.so\"\nrollout = { together = \"main\" }";
    let spec = read_toml(text, "f.toml").unwrap();
    assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).unwrap(), spec);
    assert_eq!(spec.deployments[0].rollout.together.as_ref().unwrap().as_str(), "main");
}

#[test]
fn a_patch_turns_autoscaling_on_and_off() {
    let fixed = read_toml(WHOLE, "decurion.toml").unwrap().deployments.remove(0);
    let scaled = patch_deployment(&fixed, &json!({ "autoscaling_config": { "max_replicas": 4 } })).unwrap();
    assert_eq!(scaled.autoscaling.as_ref().unwrap().max_replicas, 4);
    assert!(patch_deployment(&scaled, &json!({ "num_replicas": 3 })).is_err());
    let back = json!({ "autoscaling_config": null, "num_replicas": 5 });
    assert_eq!(patch_deployment(&scaled, &back).unwrap(), fixed);
}

#[test]
fn a_digest_reads_back_as_the_same() {
    let mut spec = read_toml(WHOLE, "decurion.toml").unwrap();
    spec.deployments[0].library = LibraryRef::Digest("ab".repeat(32));
    assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).unwrap(), spec);
}

#[test]
fn a_patch_replaces_fields_whole_and_nothing_else() {
    let spec = read_toml(WHOLE, "decurion.toml").unwrap().deployments.remove(0);
    let patch =
        json!({ "num_replicas": 7, "user_config": { "k": 1 }, "request_timeout": "9s", "version": null });
    let patched = patch_deployment(&spec, &patch).unwrap();
    let mut expected = spec.clone();
    expected.num_replicas = 7;
    expected.user_config = Some(json!({ "k": 1 }));
    expected.request_timeout = Some(Duration::from_secs(9));
    expected.version = None;
    assert_eq!(patched, expected);
    let refusal = patch_deployment(&spec, &json!({ "name": "b" })).unwrap_err().to_string();
    assert_eq!(refusal, "name: stays 'http_deployment'; deploy under the other name instead");
    let refusal = patch_deployment(&spec, &json!({ "num_replica": 1 })).unwrap_err().to_string();
    assert_eq!(refusal, "num_replica: unknown field; did you mean 'num_replicas'?");
}

#[test]
fn a_patch_of_a_graph_leaves_what_runs_it() {
    let text = "application = \"a\"\n[[graph]]\nname = \"g\"\n[graph.steps]\nz = { call = \"b\" }\na = { call = \"b\", args = [\"$z\"] }";
    let mut graph = read_toml(text, "f.toml").unwrap().deployments.remove(0);
    graph.library = LibraryRef::Digest("ab".repeat(32));
    let patched = patch_deployment(&graph, &json!({ "max_queued_requests": 7 })).unwrap();
    let mut expected = graph.clone();
    expected.max_queued_requests = Some(7);
    assert_eq!(patched, expected);
}

#[test]
fn deployment_fields_are_refused_with_their_place_and_what_is_allowed() {
    for (lines, refusal) in [
        (
            "num_replica = 5",
            "f.toml:4:1: deployment[0].num_replica: unknown field; did you mean 'num_replicas'?",
        ),
        ("num_replicas = 0", "f.toml:4:16: deployment[0].num_replicas: 0 is out of range; give 1 to 1000"),
        (
            "num_replicas = 1.5",
            "f.toml:4:16: deployment[0].num_replicas: takes a whole number from 1 to 1000, and this is a fraction",
        ),
        (
            "num_replicas = \"5\"",
            "f.toml:4:16: deployment[0].num_replicas: takes a whole number from 1 to 1000, and this is a string",
        ),
        ("threads = 300", "f.toml:4:11: deployment[0].threads: 300 is out of range; give 1 to 256"),
        (
            "max_queued_requests = -2",
            "f.toml:4:23: deployment[0].max_queued_requests: -2 is out of range; give 0 to 1000000, \
             or -1 for no bound",
        ),
        (
            "max_ongoing_requests = 0",
            "f.toml:4:24: deployment[0].max_ongoing_requests: 0 is out of range; give 1 to 65535",
        ),
        (
            "request_timeout_s = 5\nrequest_timeout = \"5s\"",
            "f.toml:5:19: deployment[0].request_timeout: is also given as request_timeout_s (line 4); \
             keep one of the two",
        ),
        (
            "request_timeout = 5",
            "f.toml:4:19: deployment[0].request_timeout: has no unit; write \"5s\", \
             or request_timeout_s = 5 for seconds",
        ),
        (
            "request_timeout_s = \"5s\"",
            "f.toml:4:21: deployment[0].request_timeout_s: takes a number of seconds; \
             write request_timeout = \"5s\" for a duration with a unit",
        ),
        ("request_timeout_s = -1", "f.toml:4:21: deployment[0].request_timeout_s: -1 s is no length of time"),
        (
            "startup_timeout_s = 0",
            "f.toml:4:21: deployment[0].startup_timeout_s: 0 s is out of range; give 0.01 s to 604800 s",
        ),
        (
            "health_check_period = \"5 parsecs\"",
            "f.toml:4:23: deployment[0].health_check_period: '5 parsecs' is no duration; \
             write one number and its unit: '5s', '200ms', '2m', '1h'",
        ),
        (
            "route_prefix = \"api\"",
            "f.toml:4:16: deployment[0].route_prefix: a route prefix starts with '/'; 'api' does not; \
             \"\" means by handle only",
        ),
        (
            "name = \"a b\"",
            "f.toml:4:8: deployment[0].name: a deployment name is made of letters, digits, '-', '_' and '.', \
             and starts with a letter or digit; 'a b' has ' '",
        ),
        (
            "args = 5",
            "f.toml:4:8: deployment[0].args: takes a table by name ({ msg = \"Hi\" }) or a list by position \
             ([\"Hi\"]), and this is a number",
        ),
        (
            "args = { since = 1979-05-27 }",
            "f.toml:4:18: deployment[0].args: '1979-05-27' has no JSON form; write it as a string",
        ),
        (
            "version = \"\"",
            "f.toml:4:11: deployment[0].version: a version has 1 to 128 bytes without control characters; \
             leave it out to have one made from the content",
        ),
        (
            "[deployment.rollout]\nmax_surge = \"120%\"",
            "f.toml:5:13: deployment[0].rollout.max_surge: '120%' is no share; write '0%' to '100%' in whole \
             percent, or a number of replicas",
        ),
        (
            "rollout = { canary = { duration = \"2m\" } }",
            "f.toml:4:22: deployment[0].rollout.canary.weight: missing; it is the share of requests that the new \
             version gets: weight = \"5%\"",
        ),
        (
            "rollout = { canary = { weight = \"0%\", max_error_rate = 2 } }",
            "f.toml:4:33: deployment[0].rollout.canary.weight: '0%' is no weight; write \"1%\" to \"99%\" in whole \
             percent\nf.toml:4:56: deployment[0].rollout.canary.max_error_rate: takes a share of the answers: \
             \"0.5%\", or a number from 0 to 1",
        ),
        (
            "[deployment.rollout]\nmax_surge = 0\nmax_unavailable = \"0%\"",
            "f.toml:4:1: deployment[0].rollout: max_unavailable and max_surge are both 0, so that no replica \
             could ever be replaced; raise one of them",
        ),
        (
            "rollout = { together = \"a b\" }",
            "f.toml:4:24: deployment[0].rollout.together: a set's name is made of letters, digits, '-', '_' and '.', and \
             starts with a letter or digit; 'a b' has ' '",
        ),
        (
            "rollout = { together = \"x\", max_surge = 0, canary = { weight = \"5%\" } }",
            "f.toml:4:24: deployment[0].rollout.together: a set changes over as one, and a canary takes a share of the \
             requests of one deployment alone; keep one of the two\n\
             f.toml:4:24: deployment[0].rollout.together: the new version of a set is started beside the old one, and \
             max_surge is 0; leave max_surge out",
        ),
        (
            "rollout = { together = \"x\" }\nautoscaling_config = { min_replicas = 0, max_replicas = 2 }",
            "f.toml:2:1: deployment[0].autoscaling_config: the set 'x' (rollout.together) changes over when each of its \
             deployments serves, and min_replicas is 0; give 1 or more",
        ),
        (
            "num_replicas = 2\nautoscaling_config = { max_replicas = 4 }",
            "f.toml:4:16: deployment[0].num_replicas: is given beside autoscaling_config, which decides it; keep one \
             of the two, or write num_replicas = \"auto\"",
        ),
        (
            "autoscaling_config = { min_replicas = 3, max_replicas = 2 }",
            "f.toml:4:22: deployment[0].autoscaling_config: min_replicas is 3 and max_replicas 2; the least is above \
             the most",
        ),
        (
            "autoscaling_config = { initial_replicas = 3, max_replicas = 2 }",
            "f.toml:4:22: deployment[0].autoscaling_config: initial_replicas is 3; give 1 to 2",
        ),
        (
            "autoscaling_config = { target_ongoing_requests = 0 }",
            "f.toml:4:50: deployment[0].autoscaling_config.target_ongoing_requests: takes a number above 0, and this \
             is a number",
        ),
        (
            "resources = { cpus = 0 }",
            "f.toml:4:22: deployment[0].resources.cpus: no replica runs without CPUs; give more than 0, or leave it \
             out",
        ),
        (
            "resources = { cpus = \"2\" }",
            "f.toml:4:22: deployment[0].resources.cpus: takes a number such as 0.5 or 2, and this is a string",
        ),
        (
            "resources = { cpus = 0.0001 }",
            "f.toml:4:22: deployment[0].resources.cpus: 0.0001 is no amount of these; give 0 to 100000, with three \
             decimals at most",
        ),
        (
            "[deployment.resources]\nmemory = 1000",
            "f.toml:5:10: deployment[0].resources.memory: 1000 bytes is out of range; give 1MiB to 1024TiB",
        ),
        (
            "[deployment.resources]\ngpus = 1.5",
            "f.toml:5:8: deployment[0].resources.gpus: 1.5 is neither a part of one GPU nor a whole number of them",
        ),
        (
            "[deployment.resources]\ncpu = 1",
            "f.toml:5:1: deployment[0].resources.cpu: unknown field; did you mean 'cpus'?",
        ),
        (
            "[deployment.runtime_env]\nenv_vars = { A = 1 }",
            "f.toml:5:18: deployment[0].runtime_env.env_vars.A: takes a string, and this is a number",
        ),
        (
            "runtime_env = { library_path = \"lib\" }",
            "f.toml:4:32: deployment[0].runtime_env.library_path: takes a list of folders, such as [\"lib\"], and this \
             is a string",
        ),
        (
            "runtime_env = { library_path = [\"lib\", \"a:b\"] }",
            "f.toml:4:40: deployment[0].runtime_env.library_path[1]: the loader takes ':' and ';' as the end of a \
             folder; rename it",
        ),
        (
            "runtime_env = { working_dir = \"\" }",
            "f.toml:4:31: deployment[0].runtime_env.working_dir: is the path of a folder, which has 1 to 4096 bytes \
             without NUL",
        ),
        (
            "[deployment.runtime_env]\nenv_vars = { DECURION_REPLICA = \"x\" }",
            "f.toml:5:14: deployment[0].runtime_env.env_vars.DECURION_REPLICA: names with DECURION_ are set by \
             the supervisor; take another",
        ),
    ] {
        assert_eq!(deployment(lines), refusal, "{lines}");
    }
}

#[test]
fn features_that_come_later_are_refused_by_name() {
    for (text, refusal) in [
        (
            "application = \"a\"\n[http]\ntls = { cert = \"c\" }",
            "f.toml:3:7: http.tls.key: missing; TLS takes both: tls = { cert = \"cert.pem\", key = \"key.pem\" }",
        ),
        (
            "application = \"a\"\n[http]\nmax_headers = 257",
            "f.toml:3:15: http.max_headers: 257 is out of range; give 1 to 256",
        ),
        (
            "application = \"a\"\n[http]\nmax_body = -1",
            "f.toml:3:12: http.max_body: -1 is no number of bytes; give 0 to 1TiB",
        ),
        (
            "application = \"a\"\n[http]\naccess_log = \"xml\"",
            "f.toml:3:14: http.access_log: 'xml' is none of \"off\", \"text\", \"json\", \"combined\"",
        ),
        (
            "application = \"a\"\n[http]\nserver_timing = \"on\"",
            "f.toml:3:17: http.server_timing: 'on' is none of \"off\", \"asked\", \"always\"",
        ),
        (
            "application = \"a\"\n[http]\naccess_log_sample = 1.5",
            "f.toml:3:21: http.access_log_sample: 1.5 is out of range; give 0 to 1",
        ),
        (
            "application = \"a\"\n[http]\naccess_log_file = \"a.log\"",
            "f.toml:3:19: http.access_log_file: 'a.log' does not begin with '/'; give an absolute path",
        ),
        (
            "application = \"a\"\n[[deployment]]\nlibrary = \"bundle.tar.zst\"\nname = \"b\"",
            "f.toml:3:11: deployment[0].library: not supported yet; give the .so itself in place of a bundle",
        ),
    ] {
        assert_eq!(toml(text), refusal, "{text}");
    }
}

#[test]
fn the_file_as_a_whole_is_refused_with_its_place() {
    for (text, refusal) in [
        ("", "f.toml:1:1: application: missing; it names what this file owns: application = \"demo\""),
        ("application = ", "f.toml:1:15: not TOML: string values must be quoted, expected literal string"),
        ("application = \"a\"\napplication = \"b\"", "f.toml:2:1: not TOML: duplicate key"),
        ("application = 1", "f.toml:1:15: application: takes a string, and this is a number"),
        (
            "application = \"a\"\ndeployments = []",
            "f.toml:2:1: deployments: unknown field; did you mean 'deployment'?",
        ),
        (
            "application = \"a\"\nxyz = 1",
            "f.toml:2:1: xyz: unknown field; the fields here are application, http, deployment, graph",
        ),
        (
            "application = \"a\"\n[deployment]\nlibrary = \"x.so\"",
            "f.toml:2:1: deployment: is a list of tables; head each with [[deployment]]",
        ),
        (
            "application = \"a\"\n[[deployment]]\n",
            "f.toml:2:1: deployment[0].library: missing; give the path of a .so: \
             library = \"target/release/libmodel.so\"",
        ),
        (
            "application = \"a\"\n[[deployment]]\nlibrary = \"sha256:12\"\nname = \"x\"",
            "f.toml:3:11: deployment[0].library: 'sha256:12' is no digest; it is 'sha256:' and 64 lower-case \
             hexadecimal digits",
        ),
        (
            "application = \"a\"\n[http]\nlisten = \"8000\"",
            "f.toml:3:10: http.listen: '8000' is no address; give an IP address and a port, such as \
             \"127.0.0.1:8000\" or \"[::1]:8000\"",
        ),
        (
            "application = \"a\"\n[http]\nmax_head = \"1MiB\"",
            "f.toml:3:12: http.max_head: 1048576 bytes is out of range; give 1KiB to 64KiB",
        ),
        (
            "application = \"a\"\n[http]\nmax_body = \"lots\"",
            "f.toml:3:12: http.max_body: 'lots' is no size; write bytes as a number, or '64KiB', '512MiB', '1GiB'",
        ),
    ] {
        assert_eq!(toml(text), refusal, "{text}");
    }
}

#[test]
fn duplicates_name_both_places() {
    let text = "application = \"a\"\n[[deployment]]\nlibrary = \"x.so\"\n[[deployment]]\nname = \"x\"\n\
                library = \"x.so\"\nroute_prefix = \"/x\"\n";
    assert_eq!(
        toml(text),
        "f.toml:5:8: deployment[1].name: 'x' is already taken (line 2); each deployment needs a name of its own\n\
         f.toml:7:16: deployment[1].route_prefix: '/x' is already taken (line 2); each deployment needs a route \
         of its own"
    );
    let json = json!({ "application": "a", "deployment": [
        { "library": "x.so" }, { "library": "x.so", "route_prefix": "/y" } ] });
    assert_eq!(
        read_json(json.to_string().as_bytes()).unwrap_err().to_string(),
        "deployment[1].name: 'x' is already taken (deployment[0]); each deployment needs a name of its own"
    );
}

#[test]
fn all_problems_of_a_file_come_at_once_and_are_bounded() {
    let text = "[http]\nlisten = 1\n[[deployment]]\nnum_replicas = -1\n";
    let lines: Vec<String> = toml(text).lines().map(|line| line.split(':').take(3).collect()).collect();
    assert_eq!(lines, ["f.toml11", "f.toml210", "f.toml31", "f.toml416"]);
    let many = format!("application = \"a\"\n{}", (0..50).map(|n| format!("x{n} = 1\n")).collect::<String>());
    let error = read_toml(&many, "f.toml").unwrap_err();
    assert_eq!((error.problems.len(), error.more), (PROBLEMS_MAX, 30));
}

#[test]
fn json_that_is_none_is_refused_with_its_place() {
    for (bytes, refusal) in [
        (&b"{\n  x}"[..], "2:3: not JSON: key must be a string"),
        (
            br#"{"application": "a", "application": "b"}"#,
            "1:40: not JSON: the key 'application' stands twice in one object",
        ),
        (b"[]", "is a table, and this is a list"),
        (b"\xff", "1:1: not JSON: expected value"),
        (
            br#"{"application": "a", "deployment": [{"library": "x.so", "threads": 0}]}"#,
            "deployment[0].threads: 0 is out of range; give 1 to 256",
        ),
    ] {
        assert_eq!(read_json(bytes).unwrap_err().to_string(), refusal, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn columns_count_characters() {
    assert_eq!(
        toml("application = \"é\" # é\n[http]\n\"é\" = 1").lines().nth(1),
        Some(
            "f.toml:3:1: http.é: unknown field; the fields here are listen, request_timeout_s, request_timeout, \
             keep_alive_timeout_s, keep_alive_timeout, header_timeout_s, header_timeout, body_timeout_s, \
             body_timeout, upgrade_idle_timeout_s, upgrade_idle_timeout, max_head, max_headers, max_uri, max_body, max_connections, \
             max_connections_per_address, max_requests_per_connection, min_body_rate, workers, access_log, access_log_sample, \
             access_log_file, server_timing, tls"
        )
    );
}

#[test]
fn depth_is_bounded_however_it_is_spelt() {
    const DEEP: usize = 200_000;
    for text in [
        format!("args = {}{}", "[".repeat(DEEP), "]".repeat(DEEP)),
        format!("args = {}1{}", "{ a = ".repeat(DEEP), "}".repeat(DEEP)),
        format!("{}a = 1", "a.".repeat(DEEP)),
        format!("[{}a]", "a.".repeat(DEEP)),
        format!("[[{}a]]", "a.".repeat(DEEP)),
    ] {
        assert!(read_toml(&text, "f.toml").is_err());
    }
    let text = format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP));
    assert!(read_json(text.as_bytes()).is_err());
    let text = format!("{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP));
    assert!(read_json(text.as_bytes()).is_err());
}

#[test]
fn whatever_is_wrong_with_a_file_is_refused_or_read() {
    for (at, _) in WHOLE.char_indices() {
        for with in ["", "\"", "[", "}", "=", "\n", "é", "-9", "\0"] {
            let mutated = format!("{}{with}{}", &WHOLE[..at], &WHOLE[at + 1..]);
            if let Ok(spec) = read_toml(&mutated, "f.toml") {
                assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).as_ref(), Ok(&spec), "{mutated}");
            }
        }
    }
}

#[test]
fn a_graph_is_read_and_written_back() {
    let text = r#"
application = "demo"
[[graph]]
name = "sum"
input = "inp"
num_replicas = 2
[graph.steps]
pre = { call = "preprocess", args = ["$inp"] }
model = { call = "model.run", args = { x = ["$pre.value", { deep = "$inp" }] }, unless = "$pre.skip" }
output = { answer = "$model" }
"#;
    let spec = read_toml(text, "d.toml").unwrap();
    let sum = &spec.deployments[0];
    assert_eq!((sum.name.as_str(), sum.num_replicas, &sum.library), ("sum", 2, &LibraryRef::Graph));
    assert_eq!(sum.route_prefix.as_ref().map(|route| route.as_str()), Some("/sum"));
    let graph = sum.graph.as_ref().unwrap();
    assert_eq!(graph.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["pre", "model"]);
    assert_eq!(graph.output, json!({ "answer": "$model" }));
    assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).unwrap(), spec);
    assert_eq!(read_deployment_json(deployment_to_json(sum).to_string().as_bytes()).unwrap(), *sum);
}

#[test]
fn a_graph_whose_last_step_streams_is_read_and_written_back() {
    let text = r#"
application = "demo"
[[graph]]
name = "talk"
[graph.steps]
pre = { call = "preprocess", args = ["$input"] }
words = { call = "chat.words", args = ["$pre"], stream = true }
"#;
    let spec = read_toml(text, "d.toml").unwrap();
    let graph = spec.deployments[0].graph.as_ref().unwrap();
    assert_eq!(graph.streaming().map(|step| step.name.as_str()), Some("words"));
    assert_eq!(read_json(to_json(&spec).to_string().as_bytes()).unwrap(), spec);
}

#[test]
fn the_graphs_of_the_documentation_are_graphs() {
    let page = include_str!("../../../../docs/graphs.md");
    let snippets: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(snippets.len() >= 2, "{snippets:?}");
    for snippet in snippets {
        let text = format!("application = \"docs\"\n{snippet}");
        let spec = read_toml(&text, "docs/graphs.md").unwrap_or_else(|error| panic!("{error}\n{snippet}"));
        assert!(spec.deployments[0].graph.is_some());
    }
}

#[test]
fn the_whole_files_of_the_documentation_are_files() {
    let configuration = include_str!("../../../../docs/configuration.md");
    let from_ray_serve = include_str!("../../../../docs/from-ray-serve.md");
    for (page, deployments) in [(configuration, 1), (from_ray_serve, 3)] {
        let mut snippets = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let whole = snippets.find(|snippet| snippet.starts_with("application = ")).unwrap();
        let spec = read_toml(whole, "docs").unwrap_or_else(|error| panic!("{error}\n{whole}"));
        assert_eq!(spec.deployments.len(), deployments);
    }
}

#[test]
fn the_place_of_each_user_config_is_known() {
    let text = "application = \"a\"\n[[deployment]]\nlibrary = \"x\"\nuser_config = 1\n[[deployment]]\nname = \"é\"\n\
                [[deployment]]\nname = \"c\"\n[deployment.user_config]\nx = 1\n";
    let places = user_config_positions(text);
    let at = |line, column| Some(Position { line, column });
    assert_eq!(places, [at(4, 1), None, at(9, 13)]);
    assert_eq!(user_config_positions("deployment = 5"), []);
    assert_eq!(user_config_positions("= what"), []);
}

#[test]
fn a_graph_made_in_rust_is_the_deployment_that_the_file_makes() {
    let graph = crate::spec::GraphSpec::builder()
        .input("inp")
        .step("pre", "preprocess", serde_json::json!(["$inp"]))
        .step("model", "model.run", serde_json::json!({ "x": "$pre" }))
        .unless("$pre.done")
        .output(serde_json::json!(["$model", "$$text"]))
        .build()
        .unwrap();
    let text = "application = \"demo\"\n[[graph]]\nname = \"sum\"\ninput = \"inp\"\n[graph.steps]\n\
                pre = { call = \"preprocess\", args = [\"$inp\"] }\n\
                model = { call = \"model.run\", args = { x = \"$pre\" }, unless = \"$pre.done\" }\n\
                output = [\"$model\", \"$$text\"]\n";
    assert_eq!(graph.deployment("sum").unwrap(), read_toml(text, "d.toml").unwrap().deployments[0]);
    assert!(graph.deployment("no name").unwrap_err().to_string().contains("a deployment name"));
}

#[test]
fn what_is_wrong_with_a_graph_is_told_with_its_line() {
    let refused = |steps: &str| {
        let text = format!("application = \"demo\"\n[[graph]]\nname = \"sum\"\n{steps}\n");
        read_toml(&text, "d.toml").unwrap_err().to_string()
    };
    for (steps, words) in [
        ("", "d.toml:2:1: graph[0].steps: missing; give what the graph does"),
        (
            "library = \"a.so\"\nsteps = { a = { call = \"m\" } }",
            "d.toml:4:1: graph[0].library: unknown field",
        ),
        ("steps = { a = { args = [] } }", "graph[0].steps.a.call: missing; name a deployment"),
        ("steps = { a = { call = \"m\", arg = [] } }", "did you mean 'args'?"),
        ("steps = { a = { call = \"m\", args = [\"$b\"] } }", "step 'a' refers to '$b'"),
        (
            "[graph.steps]\na = { call = \"m\", args = [\"$b\"] }\nb = { call = \"m\", args = [\"$a\"] }\noutput = \"$a\"",
            "the steps wait for each other in a circle: a -> b -> a",
        ),
        (
            "[graph.steps]\na = { call = \"m\", stream = true }\nb = { call = \"m\", args = [\"$a\"] }",
            "step 'a' streams, so it has to be the last one: step 'b' takes its result",
        ),
        ("steps = { a = { call = \"m\", stream = 1 } }", "stream: takes true or false"),
        ("steps = { a = { call = \"m\", when = \"$input\", unless = \"$input\" } }", "keep one of the two"),
    ] {
        let error = refused(steps);
        assert!(error.contains(words), "{steps}\n{error}");
    }
}
