//! The checked form back into the file's form, as JSON. What it writes reads back as the same.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::fields::DIGEST_PREFIX;
use crate::spec::graph::Step;
use crate::spec::{
    Amount, ApplicationSpec, AutoscalingSpec, CanarySpec, DeploymentSpec, GraphSpec, HttpSpec, LibraryRef,
    RecycleSpec, ResourcesSpec, RuntimeEnvSpec, Share, TlsSpec,
};

/// The whole file in its JSON form, every default written out.
#[must_use]
pub fn to_json(spec: &ApplicationSpec) -> Value {
    let mut file = Map::new();
    file.insert("application".to_owned(), spec.application.as_str().into());
    if let Some(http) = &spec.http {
        file.insert("http".to_owned(), http_to_json(http));
    }
    let (graphs, deployments): (Vec<_>, Vec<_>) =
        spec.deployments.iter().partition(|deployment| deployment.graph.is_some());
    file.insert("deployment".to_owned(), deployments.into_iter().map(deployment_to_json).collect());
    if !graphs.is_empty() {
        file.insert("graph".to_owned(), graphs.into_iter().map(deployment_to_json).collect());
    }
    Value::Object(file)
}

/// One deployment in its JSON form, every default written out.
#[must_use]
pub fn deployment_to_json(spec: &DeploymentSpec) -> Value {
    let code = spec.graph.is_none();
    let library = match &spec.library {
        LibraryRef::Path(path) => Some(path.clone()),
        LibraryRef::Digest(digest) => Some(format!("{DIGEST_PREFIX}{digest}")),
        LibraryRef::Graph => None,
    };
    let value = json!({
        "name": spec.name,
        "library": library.filter(|_| code),
        "class": spec.class.as_ref().filter(|_| code),
        "input": spec.graph.as_ref().map(|graph| &graph.input),
        "steps": spec.graph.as_ref().map(steps_to_json),
        "route_prefix": spec.route_prefix.as_ref().map_or("", |route| route.as_str()),
        "num_replicas": spec.autoscaling.is_none().then_some(spec.num_replicas),
        "autoscaling_config": spec.autoscaling.as_ref().map(autoscaling_to_json),
        "args": spec.args,
        "user_config": spec.user_config,
        "version": spec.version,
        "prev_version": spec.prev_version,
        "max_ongoing_requests": spec.max_ongoing_requests,
        "max_queued_requests": spec.max_queued_requests.map_or(-1, i64::from),
        "threads": spec.threads,
        "request_timeout_s": spec.request_timeout.map(seconds),
        "graceful_shutdown_timeout_s": seconds(spec.graceful_shutdown_timeout),
        "health_check_period_s": seconds(spec.health_check_period),
        "health_check_timeout_s": seconds(spec.health_check_timeout),
        "startup_timeout_s": seconds(spec.startup_timeout),
        "rollout": without_nulls(json!({
            "max_unavailable": share(spec.rollout.max_unavailable),
            "max_surge": share(spec.rollout.max_surge),
            "auto_rollback": spec.rollout.auto_rollback,
            "canary": spec.rollout.canary.as_ref().map(canary_to_json),
            "together": spec.rollout.together,
        })),
        "recycle": spec.recycle.as_ref().map(recycle_to_json),
        "resources": resources_to_json(&spec.resources),
        "runtime_env": env_to_json(&spec.runtime_env),
    });
    without_nulls(value)
}

fn autoscaling_to_json(spec: &AutoscalingSpec) -> Value {
    without_nulls(json!({
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "initial_replicas": spec.initial_replicas,
        "target_ongoing_requests": spec.target_ongoing_requests,
        "upscale_delay_s": seconds(spec.upscale_delay),
        "downscale_delay_s": seconds(spec.downscale_delay),
        "downscale_to_zero_delay_s": spec.downscale_to_zero_delay.map(seconds),
        "look_back_period_s": seconds(spec.look_back_period),
        "metrics_interval_s": seconds(spec.metrics_interval),
        "upscaling_factor": spec.upscaling_factor,
        "downscaling_factor": spec.downscaling_factor,
    }))
}

fn recycle_to_json(spec: &RecycleSpec) -> Value {
    without_nulls(json!({
        "max_requests": spec.max_requests,
        "max_memory": spec.max_memory,
        "max_age_s": spec.max_age.map(seconds),
    }))
}

fn canary_to_json(spec: &CanarySpec) -> Value {
    without_nulls(json!({
        "weight": share(Share::Percent(spec.weight)),
        "duration_s": seconds(spec.duration),
        "max_error_rate": spec.max_error_rate,
        "max_p99_s": spec.max_p99.map(seconds),
    }))
}

pub(super) fn steps_to_json(graph: &GraphSpec) -> Value {
    let mut steps: Map<String, Value> =
        graph.steps.iter().map(|step| (step.name.clone(), step_to_json(step))).collect();
    steps.insert("output".to_owned(), graph.output.clone());
    Value::Object(steps)
}

fn step_to_json(step: &Step) -> Value {
    let condition = |negated| step.when.as_ref().filter(|it| it.negated == negated).map(|it| &it.value);
    without_nulls(json!({
        "call": step.call,
        "args": step.args,
        "when": condition(false),
        "unless": condition(true),
        "stream": step.stream.then_some(true),
    }))
}

fn resources_to_json(spec: &ResourcesSpec) -> Value {
    if spec.is_empty() {
        return Value::Null;
    }
    without_nulls(json!({
        "cpus": spec.cpus.map(Amount::as_f64),
        "memory": spec.memory,
        "gpus": spec.gpus.map(Amount::as_f64),
    }))
}

fn env_to_json(env: &RuntimeEnvSpec) -> Value {
    if *env == RuntimeEnvSpec::default() {
        return Value::Null;
    }
    without_nulls(json!({
        "env_vars": Some(&env.env_vars).filter(|it| !it.is_empty()),
        "library_path": Some(&env.library_path).filter(|it| !it.is_empty()),
        "working_dir": env.working_dir,
    }))
}

fn http_to_json(http: &HttpSpec) -> Value {
    without_nulls(json!({
        "listen": http.listen,
        "request_timeout_s": seconds(http.request_timeout),
        "keep_alive_timeout_s": seconds(http.keep_alive_timeout),
        "header_timeout_s": seconds(http.header_timeout),
        "body_timeout_s": seconds(http.body_timeout),
        "upgrade_idle_timeout_s": seconds(http.upgrade_idle_timeout),
        "max_head": http.max_head,
        "max_headers": http.max_headers,
        "max_uri": http.max_uri,
        "max_body": http.max_body,
        "max_connections": http.max_connections,
        "max_connections_per_address": http.max_connections_per_address,
        "max_requests_per_connection": http.max_requests_per_connection,
        "min_body_rate": http.min_body_rate,
        "workers": http.workers,
        "access_log": http.access_log,
        "access_log_sample": http.access_log_sample,
        "access_log_file": http.access_log_file,
        "server_timing": http.server_timing,
        "tls": http.tls.as_ref().map(tls_to_json),
    }))
}

fn tls_to_json(tls: &TlsSpec) -> Value {
    without_nulls(json!({ "cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca }))
}

/// Absent and null mean the same in the file's form; absent is shorter. Only the top: args may hold nulls.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    }
}

fn seconds(duration: Duration) -> Value {
    if duration.subsec_nanos() == 0 { duration.as_secs().into() } else { duration.as_secs_f64().into() }
}

fn share(share: Share) -> Value {
    match share {
        Share::Count(count) => count.into(),
        Share::Percent(percent) => format!("{percent}%").into(),
    }
}
