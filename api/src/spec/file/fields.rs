//! The fields of a configuration file: their names, defaults and ranges, table by table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::autoscaling;
use super::graph;
use super::node::{Node, NodeValue};
use super::problems::Problems;
use super::table::{Field, Table, not_supported, whole_of};
use crate::limits::*;
use crate::spec::{
    AccessLog, ApplicationSpec, DeploymentSpec, HttpSpec, LibraryRef, RolloutSpec, ServerTiming, Share,
    TlsSpec,
};
use crate::{ApplicationName, ClassName, DeploymentName, NameError, RoutePrefix, SetName};

/// What stands before the digest where a library is named by its content.
pub(super) const DIGEST_PREFIX: &str = "sha256:";
const DIGEST_LEN: usize = 64;
const BUNDLES: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

/// The whole file.
pub(super) fn application(root: &Node, problems: &mut Problems<'_>) -> Option<ApplicationSpec> {
    let mut table = Table::open(root, "", problems)?;
    if !table.has("application") {
        let message = "missing; it names what this file owns: application = \"demo\"";
        problems.add(table.at, "application", message.to_owned());
    }
    let application = table
        .text("application", problems)
        .and_then(|(field, text)| named(&field, ApplicationName::new(text), problems));
    let http = table.take("http").and_then(|field| http(&field, problems));
    let lists = [table.take("deployment"), table.take("graph")];
    let deployments = deployments(lists.into_iter().flatten(), problems);
    table.finish(problems);
    Some(ApplicationSpec { application: application?, http, deployments })
}

fn http(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<HttpSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let preset = HttpSpec::default();
    let any = Duration::ZERO..=DURATION_MAX;
    let some = DURATION_MIN..=DURATION_MAX;
    let p = problems;
    let listen = listen(&mut table, &preset, p);
    let request_timeout = table.duration("request_timeout", any.clone(), p).unwrap_or(preset.request_timeout);
    let keep_alive_timeout =
        table.duration("keep_alive_timeout", some.clone(), p).unwrap_or(preset.keep_alive_timeout);
    let header_timeout = table.duration("header_timeout", some.clone(), p).unwrap_or(preset.header_timeout);
    let body_timeout = table.duration("body_timeout", some, p).unwrap_or(preset.body_timeout);
    let upgrade_idle_timeout =
        table.duration("upgrade_idle_timeout", any, p).unwrap_or(preset.upgrade_idle_timeout);
    let max_head = table.size("max_head", HTTP_HEAD_MIN..=HTTP_HEAD_MAX, preset.max_head.into(), p);
    let max_headers = table.whole("max_headers", 1..=HTTP_HEADERS_MAX.into(), preset.max_headers, p);
    let max_uri = table.size("max_uri", HTTP_URI_MIN..=HTTP_HEAD_MAX, preset.max_uri.into(), p);
    let max_body = table.size("max_body", 0..=HTTP_BODY_MAX, preset.max_body, p);
    let most = u64::from(CONNECTIONS_MAX);
    let max_connections = table.whole("max_connections", 1..=most, preset.max_connections, p);
    let max_connections_per_address = table.whole("max_connections_per_address", 0..=most, 0, p);
    let max_requests_per_connection = table.whole(
        "max_requests_per_connection",
        0..=u32::MAX.into(),
        preset.max_requests_per_connection,
        p,
    );
    let min_body_rate = table.size("min_body_rate", 0..=HTTP_RATE_MAX, preset.min_body_rate.into(), p);
    let workers = table.whole("workers", 0..=WORKERS_MAX.into(), preset.workers, p);
    let logs = [
        ("off", AccessLog::Off),
        ("text", AccessLog::Text),
        ("json", AccessLog::Json),
        ("combined", AccessLog::Combined),
    ];
    let access_log = choice(&mut table, "access_log", &logs, p).unwrap_or_default();
    let access_log_sample = access_log_sample(&mut table, p);
    let access_log_file = access_log_file(&mut table, p);
    let timings =
        [("off", ServerTiming::Off), ("asked", ServerTiming::Asked), ("always", ServerTiming::Always)];
    let server_timing = choice(&mut table, "server_timing", &timings, p).unwrap_or_default();
    let tls = table.take("tls").and_then(|field| tls(&field, p));
    table.finish(p);
    Some(HttpSpec {
        listen,
        request_timeout,
        keep_alive_timeout,
        header_timeout,
        body_timeout,
        upgrade_idle_timeout,
        max_head: u32::try_from(max_head).unwrap_or(preset.max_head),
        max_headers,
        max_uri: u32::try_from(max_uri).unwrap_or(preset.max_uri),
        max_body,
        max_connections,
        max_connections_per_address,
        max_requests_per_connection,
        min_body_rate: u32::try_from(min_body_rate).unwrap_or(preset.min_body_rate),
        workers,
        access_log,
        access_log_sample,
        access_log_file,
        server_timing,
        tls,
    })
}

fn listen(table: &mut Table<'_>, preset: &HttpSpec, problems: &mut Problems<'_>) -> String {
    let Some((field, text)) = table.text("listen", problems) else { return preset.listen.clone() };
    if text.parse::<SocketAddr>().is_err() {
        let example = "an IP address and a port, such as \"127.0.0.1:8000\" or \"[::1]:8000\"";
        field.refuse(problems, format!("'{text}' is no address; give {example}"));
    }
    text.to_owned()
}

/// One of some words. `None`: it is not there, or is refused.
fn choice<T: Copy>(
    table: &mut Table<'_>,
    name: &'static str,
    choices: &[(&str, T)],
    problems: &mut Problems<'_>,
) -> Option<T> {
    let (field, text) = table.text(name, problems)?;
    let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, chosen)| *chosen);
    if chosen.is_none() {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        field.refuse(problems, format!("'{text}' is none of {}", words.join(", ")));
    }
    chosen
}

fn access_log_sample(table: &mut Table<'_>, problems: &mut Problems<'_>) -> f64 {
    let Some(field) = table.take("access_log_sample") else { return 1.0 };
    match &field.node.value {
        NodeValue::Number(number) if number.as_f64().is_some_and(|part| (0.0..=1.0).contains(&part)) => {
            number.as_f64().unwrap_or(1.0)
        }
        NodeValue::Number(number) => {
            field.refuse(problems, format!("{number} is out of range; give 0 to 1"));
            1.0
        }
        _ => {
            field.expected(problems, "a number from 0 to 1");
            1.0
        }
    }
}

fn access_log_file(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let (field, path) = table.text("access_log_file", problems)?;
    if !path.starts_with('/') {
        field.refuse(problems, format!("'{path}' does not begin with '/'; give an absolute path"));
    }
    Some(path.to_owned())
}

fn tls(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<TlsSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let mut path = |name: &str, problems: &mut Problems<'_>| {
        let (field, path) = table.text(name, problems)?;
        if path.is_empty() {
            field.refuse(problems, "is empty; give the path of a PEM file");
        }
        Some(path.to_owned())
    };
    let (cert, key) = (path("cert", problems), path("key", problems));
    let client_ca = path("client_ca", problems);
    for needed in ["cert", "key"] {
        if !table.has(needed) {
            let message = "missing; TLS takes both: tls = { cert = \"cert.pem\", key = \"key.pem\" }";
            problems.add(field.node.at, &table.path_of(needed), message.to_owned());
        }
    }
    table.finish(problems);
    Some(TlsSpec { cert: cert?, key: key?, client_ca })
}

fn deployments<'n>(
    lists: impl Iterator<Item = Field<'n>>,
    problems: &mut Problems<'_>,
) -> Vec<DeploymentSpec> {
    let mut names = Taken::new("name", "each deployment needs a name of its own");
    let mut routes = Taken::new("route_prefix", "each deployment needs a route of its own");
    let mut deployments = Vec::new();
    for list in lists {
        let head = list.path.clone();
        let NodeValue::List(items) = &list.node.value else {
            list.refuse(problems, format!("is a list of tables; head each with [[{head}]]"));
            continue;
        };
        if items.len() > DEPLOYMENTS_MAX {
            let many = items.len();
            list.refuse(problems, format!("{many} {head}s; at most {DEPLOYMENTS_MAX} are allowed"));
            continue;
        }
        for (index, item) in items.iter().enumerate() {
            let path = format!("{head}[{index}]");
            let Some((spec, places)) = deployment(item, &path, problems) else { continue };
            names.claim(spec.name.as_str(), places.name, &path, problems);
            if let Some(route) = &spec.route_prefix {
                routes.claim(route.as_str(), places.route_prefix, &path, problems);
            }
            deployments.push(spec);
        }
    }
    deployments
}

/// Finds values that two deployments claim, and names both places.
struct Taken {
    field: &'static str,
    rule: &'static str,
    holders: HashMap<String, (Option<usize>, String)>,
}

impl Taken {
    fn new(field: &'static str, rule: &'static str) -> Self {
        Self { field, rule, holders: HashMap::new() }
    }

    fn claim(&mut self, value: &str, at: Option<usize>, path: &str, problems: &mut Problems<'_>) {
        let field = format!("{path}.{}", self.field);
        match self.holders.get(value) {
            Some((first_at, first)) => {
                let first = problems.words_for(*first_at, first);
                let message = format!("'{value}' is already taken ({first}); {}", self.rule);
                problems.add(at, &field, message);
            }
            None => {
                self.holders.insert(value.to_owned(), (at, path.to_owned()));
            }
        }
    }
}

/// Where a deployment's name and route stand, or the deployment itself where they are defaults.
struct Places {
    name: Option<usize>,
    route_prefix: Option<usize>,
}

/// One deployment by itself, at the top of its document.
pub(super) fn lone_deployment(root: &Node, problems: &mut Problems<'_>) -> Option<DeploymentSpec> {
    deployment(root, "", problems).map(|(spec, _)| spec)
}

fn deployment(node: &Node, path: &str, problems: &mut Problems<'_>) -> Option<(DeploymentSpec, Places)> {
    let mut fields = Table::open(node, path, problems)?;
    let table = &mut fields;
    let p = problems;
    // `steps` makes it a graph, which has them in place of code. Below [[graph]] they are asked for by name.
    let is_graph = table.has("steps") || path.starts_with("graph[");
    let graph = if is_graph { graph::read(table, p) } else { None };
    let library = if is_graph { Some(LibraryRef::Graph) } else { library(table, p) };
    let class = match is_graph {
        true => None,
        false => table.text("class", p).and_then(|(field, text)| named(&field, ClassName::new(text), p)),
    };
    let name_field = table.text("name", p);
    let name_at = name_field.as_ref().map_or(table.at, |(field, _)| field.node.at);
    let name = match name_field {
        Some((field, text)) => named(&field, DeploymentName::new(text), p),
        None => default_name(table, library.as_ref(), class.as_ref(), p),
    };
    let route_field = table.text("route_prefix", p);
    let route_at = route_field.as_ref().map_or(table.at, |(field, _)| field.node.at);
    let route_prefix = match route_field {
        Some((_, "")) => None,
        Some((field, text)) => {
            let route = RoutePrefix::new(text);
            route.map_err(|error| field.refuse(p, format!("{error}; \"\" means by handle only"))).ok()
        }
        None => name.as_ref().and_then(|name| RoutePrefix::new(format!("/{name}")).ok()),
    };
    let (num_replicas, autoscaling) = autoscaling::replicas(table, p);
    let args = if is_graph { Value::Null } else { args(table, p) };
    let user_config = table.take("user_config").and_then(|field| json_of(&field, USER_CONFIG_MAX, p));
    let prev_version = version(table, "prev_version", p);
    let version = version(table, "version", p);
    let any = Duration::ZERO..=DURATION_MAX;
    let some = DURATION_MIN..=DURATION_MAX;
    let max_ongoing_requests = table
        .take("max_ongoing_requests")
        .and_then(|field| whole_of(&field, &(1..=MAX_ONGOING_REQUESTS_MAX.into()), p))
        .and_then(|number| u32::try_from(number).ok());
    let max_queued_requests = max_queued_requests(table, p);
    let threads = table.whole("threads", 1..=THREADS_MAX.into(), 1, p);
    let request_timeout = table.duration("request_timeout", any.clone(), p);
    let mut seconds = |table: &mut Table<'_>, field, range, default| {
        table.duration(field, range, p).unwrap_or(Duration::from_secs(default))
    };
    let graceful_shutdown_timeout = seconds(table, "graceful_shutdown_timeout", any, 20);
    let health_check_period = seconds(table, "health_check_period", some.clone(), 10);
    let health_check_timeout = seconds(table, "health_check_timeout", some.clone(), 30);
    let startup_timeout = seconds(table, "startup_timeout", some, 300);
    let rollout = table.take("rollout").and_then(|field| rollout(&field, p)).unwrap_or_default();
    if let Some(set) =
        rollout.together.as_ref().filter(|_| autoscaling.as_ref().is_some_and(|it| it.min_replicas == 0))
    {
        let message = format!(
            "the set '{set}' (rollout.together) changes over when each of its deployments serves, and min_replicas is 0; \
             give 1 or more"
        );
        p.add(table.at, &table.path_of("autoscaling_config"), message);
    }
    let runtime_env = table.take("runtime_env");
    let runtime_env =
        runtime_env.and_then(|field| super::runtime_env::runtime_env(&field, p)).unwrap_or_default();
    let resources = table.take("resources");
    let resources = resources.and_then(|field| super::resources::resources(&field, p)).unwrap_or_default();
    let recycle = table.take("recycle").and_then(|field| super::recycle::recycle(&field, p));
    fields.finish(p);
    let spec = DeploymentSpec {
        name: name?,
        library: library?,
        class,
        route_prefix,
        num_replicas,
        autoscaling,
        args,
        graph,
        user_config,
        version,
        prev_version,
        max_ongoing_requests,
        max_queued_requests,
        threads,
        request_timeout,
        graceful_shutdown_timeout,
        health_check_period,
        health_check_timeout,
        startup_timeout,
        rollout,
        recycle,
        resources,
        runtime_env,
    };
    Some((spec, Places { name: name_at, route_prefix: route_at }))
}

fn library(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Option<LibraryRef> {
    if !table.has("library") {
        let message = "missing; give the path of a .so: library = \"target/release/libmodel.so\"";
        problems.add(table.at, &table.path_of("library"), message.to_owned());
    }
    let (field, text) = table.text("library", problems)?;
    if let Some(digest) = text.strip_prefix(DIGEST_PREFIX) {
        let fits =
            digest.len() == DIGEST_LEN && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !fits {
            let form = format!("'{DIGEST_PREFIX}' and {DIGEST_LEN} lower-case hexadecimal digits");
            field.refuse(problems, format!("'{text}' is no digest; it is {form}"));
        }
        return fits.then(|| LibraryRef::Digest(digest.to_owned()));
    }
    if BUNDLES.iter().any(|end| text.ends_with(end)) {
        field.refuse(problems, not_supported("give the .so itself in place of a bundle"));
        return None;
    }
    if text.is_empty() || text.contains('\0') {
        field.refuse(problems, "is the path of a .so, and this is none");
        return None;
    }
    Some(LibraryRef::Path(text.to_owned()))
}

/// The class's name, or the file's without `lib` and what follows the first dot.
fn default_name(
    table: &Table<'_>,
    library: Option<&LibraryRef>,
    class: Option<&ClassName>,
    problems: &mut Problems<'_>,
) -> Option<DeploymentName> {
    let candidate = match (class, library?) {
        (Some(class), _) => class.as_str(),
        (None, LibraryRef::Path(path)) => library_stem(path),
        (None, LibraryRef::Digest(_) | LibraryRef::Graph) => "",
    };
    let name = DeploymentName::new(candidate);
    if name.is_err() {
        let message = match library {
            Some(LibraryRef::Graph) => "missing; it names the graph: name = \"sum\"",
            _ => "missing, and neither a class nor the library's file name gives one: name = \"model\"",
        };
        problems.add(table.at, &table.path_of("name"), message.to_owned());
    }
    name.ok()
}

fn library_stem(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    let file = file.split('.').next().unwrap_or(file);
    file.strip_prefix("lib").filter(|rest| !rest.is_empty()).unwrap_or(file)
}

fn max_queued_requests(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Option<u32> {
    let Some(field) = table.take("max_queued_requests") else { return Some(MAX_QUEUED_REQUESTS_DEFAULT) };
    match &field.node.value {
        NodeValue::Number(number) if number.as_i64() == Some(-1) => None,
        NodeValue::Number(number) if number.as_i64().is_some_and(|number| number < -1) => {
            let most = MAX_QUEUED_REQUESTS_MAX;
            field.refuse(problems, format!("{number} is out of range; give 0 to {most}, or -1 for no bound"));
            None
        }
        _ => whole_of(&field, &(0..=MAX_QUEUED_REQUESTS_MAX.into()), problems)
            .and_then(|number| u32::try_from(number).ok()),
    }
}

fn args(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Value {
    let Some(field) = table.take("args") else { return Value::Null };
    match field.node.value {
        NodeValue::List(_) | NodeValue::Table(_) => json_of(&field, ARGS_MAX, problems).unwrap_or_default(),
        _ => {
            field.expected(problems, "a table by name ({ msg = \"Hi\" }) or a list by position ([\"Hi\"])");
            Value::Null
        }
    }
}

pub(super) fn json_of(field: &Field<'_>, most: usize, problems: &mut Problems<'_>) -> Option<Value> {
    match field.node.to_json() {
        Ok(value) => {
            let len = value.to_string().len();
            if len > most {
                field.refuse(problems, format!("has {len} bytes as JSON, and at most {most} are allowed"));
            }
            Some(value)
        }
        Err((at, text)) => {
            problems.add(at, &field.path, format!("'{text}' has no JSON form; write it as a string"));
            None
        }
    }
}

fn version(table: &mut Table<'_>, name: &str, problems: &mut Problems<'_>) -> Option<String> {
    let (field, text) = table.text(name, problems)?;
    if text.is_empty() || text.len() > VERSION_MAX || text.chars().any(char::is_control) {
        let rule = format!("1 to {VERSION_MAX} bytes without control characters");
        field.refuse(
            problems,
            format!("a version has {rule}; leave it out to have one made from the content"),
        );
    }
    Some(text.to_owned())
}

fn rollout(field: &Field<'_>, problems: &mut Problems<'_>) -> Option<RolloutSpec> {
    let mut table = Table::open(field.node, &field.path, problems)?;
    let preset = RolloutSpec::default();
    let max_unavailable = table.share("max_unavailable", REPLICAS_MAX, preset.max_unavailable, problems);
    let max_surge = table.share("max_surge", REPLICAS_MAX, preset.max_surge, problems);
    let auto_rollback = table.boolean("auto_rollback", preset.auto_rollback, problems);
    let canary = table.take("canary").and_then(|field| super::canary::canary(&field, problems));
    let together_field = table.text("together", problems);
    let together =
        together_field.as_ref().and_then(|(field, text)| named(field, SetName::new(*text), problems));
    table.finish(problems);
    let none = |share| matches!(share, Share::Count(0) | Share::Percent(0));
    if none(max_unavailable) && none(max_surge) {
        let message = "max_unavailable and max_surge are both 0, so that no replica could ever be replaced; \
                       raise one of them";
        field.refuse(problems, message);
    }
    if let Some((field, _)) = together_field.filter(|_| together.is_some()) {
        if canary.is_some() {
            let message = "a set changes over as one, and a canary takes a share of the requests of one deployment alone; \
                           keep one of the two";
            field.refuse(problems, message);
        }
        if none(max_surge) {
            let message = "the new version of a set is started beside the old one, and max_surge is 0; leave \
                           max_surge out";
            field.refuse(problems, message);
        }
    }
    Some(RolloutSpec { max_unavailable, max_surge, auto_rollback, canary, together })
}

fn named<T>(field: &Field<'_>, name: Result<T, NameError>, problems: &mut Problems<'_>) -> Option<T> {
    name.map_err(|error| field.refuse(problems, error.to_string())).ok()
}
