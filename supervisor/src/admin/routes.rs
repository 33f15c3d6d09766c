//! The admin API's paths: HTTP to questions, answers to HTTP.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use decurion_api::admin::{
    Artifact, CallRequest, DEFAULT_APPLICATION, Problem, RollbackRequest, ScaleRequest, ShutdownRequest,
    VersionInfo, problem,
};
use decurion_api::limits::CONFIG_FILE_MAX;
use decurion_api::spec::file::{deployment_to_json, read_deployment_json, read_json, to_json};
use decurion_api::spec::{ApplicationSpec, DeploymentSpec};
use decurion_api::{ApplicationName, ClassName, DeploymentName, ReplicaId};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::admin::problems::problem as make_problem;
use crate::admin::{Answer, Ask, AskError, Change};
use crate::desired::Desired;
use crate::logbook::LineFilter;
use crate::metrics::CONTENT_TYPE;
use crate::sys::api::{Api, Uploaded};

/// Between two words to a follower who hears nothing else, so that one that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Pieces of an answer that a slow follower leaves unread.
const PIECES_MAX: usize = 16;

/// Events in a description.
const DESCRIBED_EVENTS: usize = 30;
/// Lines of a failed replica in a description.
const DESCRIBED_LINES: usize = 15;

/// All paths.
pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/applications", get(applications))
        .route("/v1/applications/{name}", get(application).put(put_application).delete(delete_application))
        .route("/v1/artifacts", post(upload).layer(DefaultBodyLimit::disable()))
        .route("/v1/deployments", get(deployments))
        .route(
            "/v1/deployments/{name}",
            get(deployment)
                .put(put_deployment)
                .patch(patch_deployment)
                .delete(delete_deployment)
                .post(act_on_deployment),
        )
        .route("/v1/deployments/{name}/history", get(history))
        .route("/v1/deployments/{name}/description", get(description))
        .route("/v1/events", get(events))
        .route("/v1/logs", get(logs))
        .route("/v1/check", post(check))
        .route("/v1/shutdown", post(shutdown))
        .route("/metrics", get(metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(CONFIG_FILE_MAX))
        .with_state(api)
}

/// An error on its way out.
struct Refused(Problem);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl From<AskError> for Refused {
    fn from(error: AskError) -> Self {
        Refused(Problem::from(&error))
    }
}

fn refuse(kind: &str, detail: impl Into<String>) -> Refused {
    Refused(make_problem(kind, detail))
}

type Answered = Result<Response, Refused>;

async fn no_such_path() -> Refused {
    refuse(problem::NOT_FOUND, "there is no such path; the admin API is under /v1/")
}

async fn no_such_method() -> Refused {
    Refused(Problem {
        status: 405,
        ..make_problem(problem::BAD_REQUEST, "this path does not take that method")
    })
}

async fn version() -> Json<VersionInfo> {
    Json(VersionInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        abi: format!("{}.{}", decurion_abi::ABI_MAJOR, decurion_abi::ABI_MINOR),
    })
}

async fn status(State(api): State<Api>) -> Answered {
    let Answer::Status(status) = api.ask(Ask::Status).await? else { return Err(unexpected()) };
    let revision = status.revision;
    Ok(with_revision(revision, Json(*status)))
}

async fn metrics(State(api): State<Api>) -> Answered {
    let Answer::Metrics(snapshot) = api.ask(Ask::Metrics).await? else { return Err(unexpected()) };
    let text = api.render(*snapshot).await;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")], text).into_response())
}

/// What is answered on the address for metrics alone.
pub(crate) fn metrics_router(api: Api) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(api)
}

async fn deployments(State(api): State<Api>) -> Answered {
    let Answer::Status(status) = api.ask(Ask::Status).await? else { return Err(unexpected()) };
    Ok(with_revision(status.revision, Json(status.deployments)))
}

async fn applications(State(api): State<Api>) -> Answered {
    let desired = desired(&api).await?;
    let mut names: Vec<&ApplicationName> = desired.deployments.values().map(|w| &w.application).collect();
    names.sort();
    names.dedup();
    let files: Vec<Value> = names.into_iter().map(|name| to_json(&application_of(&desired, name))).collect();
    Ok(with_revision(desired.revision, Json(files)))
}

async fn application(State(api): State<Api>, Path(name): Path<String>) -> Answered {
    let name: ApplicationName = parse(&name)?;
    let desired = desired(&api).await?;
    let file = application_of(&desired, &name);
    if file.deployments.is_empty() {
        return Err(refuse(problem::NOT_FOUND, format!("there is no application '{name}'")));
    }
    Ok(with_revision(desired.revision, Json(to_json(&file))))
}

async fn put_application(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let name: ApplicationName = parse(&name)?;
    let spec = read_json(&body).map_err(AskError::from)?;
    if spec.application != name {
        let detail = format!("the path names application '{name}', and the body '{}'", spec.application);
        return Err(refuse(problem::BAD_REQUEST, detail));
    }
    let libraries = api.libraries(&desired(&api).await?, &spec.deployments).await.map_err(refused)?;
    change(&api, &query, &headers, Change::Application(Box::new(spec), libraries)).await
}

async fn delete_application(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
) -> Answered {
    change(&api, &query, &headers, Change::DeleteApplication(parse(&name)?)).await
}

async fn deployment(State(api): State<Api>, Path(name): Path<String>) -> Answered {
    let name: DeploymentName = parse(&name)?;
    let desired = desired(&api).await?;
    match desired.deployments.get(&name) {
        Some(wanted) => Ok(with_revision(desired.revision, Json(deployment_to_json(&wanted.spec)))),
        None => Err(refuse(problem::NOT_FOUND, format!("there is no deployment '{name}'"))),
    }
}

async fn history(State(api): State<Api>, Path(name): Path<String>) -> Answered {
    let Answer::History(entries) = api.ask(Ask::History(parse(&name)?)).await? else {
        return Err(unexpected());
    };
    Ok(Json(entries).into_response())
}

async fn description(State(api): State<Api>, Path(name): Path<String>) -> Answered {
    let name: DeploymentName = parse(&name)?;
    let Answer::Description(mut found) = api.ask(Ask::Describe(name.clone())).await? else {
        return Err(unexpected());
    };
    let journal = api.journal().lock();
    let mut events = journal.events_after(0);
    events.retain(|event| event.deployment.as_ref() == Some(&name));
    found.events = events.split_off(events.len().saturating_sub(DESCRIBED_EVENTS));
    if let Some(failed) = found.status.ended.iter().find(|ended| ended.failed) {
        let replica = Some(failed.id.clone());
        let filter = LineFilter { deployment: Some(name), replica, since_ms: None };
        let mut lines = journal.lines_after(0, &filter);
        found.last_words = lines.split_off(lines.len().saturating_sub(DESCRIBED_LINES));
    }
    drop(journal);
    Ok(Json(*found).into_response())
}

async fn put_deployment(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let name: DeploymentName = parse(&name)?;
    let spec = read_deployment_json(&body).map_err(AskError::from)?;
    if spec.name != name {
        let detail = format!("the path names deployment '{name}', and the body '{}'", spec.name);
        return Err(refuse(problem::BAD_REQUEST, detail));
    }
    let application = match &query.application {
        Some(application) => parse(application)?,
        None => parse(DEFAULT_APPLICATION)?,
    };
    let libraries =
        api.libraries(&desired(&api).await?, std::slice::from_ref(&spec)).await.map_err(refused)?;
    change(&api, &query, &headers, Change::Deployment(application, Box::new(spec), libraries)).await
}

async fn patch_deployment(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    change(&api, &query, &headers, Change::Patch(parse(&name)?, from_json(&body)?)).await
}

async fn delete_deployment(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
) -> Answered {
    change(&api, &query, &headers, Change::Delete(parse(&name)?)).await
}

async fn act_on_deployment(
    State(api): State<Api>,
    Path(target): Path<String>,
    Query(query): Query<ChangeQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Answered {
    let Some((name, verb)) = target.split_once(':') else { return Err(no_such_method().await) };
    let name: DeploymentName = parse(name)?;
    let wanted = match verb {
        "scale" => Change::Scale(name, from_json::<ScaleRequest>(&body)?.num_replicas),
        "restart" => Change::Restart(name),
        "pause" => Change::Pause(name, true),
        "resume" => Change::Pause(name, false),
        "rollback" => Change::Rollback(name, optional::<RollbackRequest>(&body)?.revision),
        "call" => return call(&api, &name, from_json(&body)?).await,
        _ => return Err(no_such_path().await),
    };
    change(&api, &query, &headers, wanted).await
}

async fn call(api: &Api, name: &DeploymentName, request: CallRequest) -> Answered {
    let desired = desired(api).await?;
    let Some(wanted) = desired.deployments.get(name) else {
        return Err(refuse(problem::NOT_FOUND, format!("there is no deployment '{name}'")));
    };
    let method = match (request.method, wanted.class.methods.as_slice()) {
        (Some(method), _) => method,
        (None, [only]) => only.clone(),
        (None, []) => {
            let detail = format!("deployment '{name}' has no method for handles; call it over HTTP");
            return Err(refuse(problem::REFUSED, detail));
        }
        (None, several) => {
            let detail =
                format!("deployment '{name}' has several methods; name one of: {}", several.join(", "));
            return Err(refuse(problem::REFUSED, detail));
        }
    };
    let arguments = match request.args {
        Value::Null => json!([]),
        value @ (Value::Array(_) | Value::Object(_)) => value,
        value => json!([value]),
    };
    let timeout = wanted.spec.request_timeout.unwrap_or(desired.http.request_timeout);
    let timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
    match api.call(name.clone(), method, arguments, timeout).await {
        Ok(result) => Ok(Json(result).into_response()),
        Err((kind, detail)) => Err(refuse(kind, detail)),
    }
}

async fn upload(State(api): State<Api>, body: Body) -> Answered {
    let mut upload = api.upload();
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| refuse(problem::BAD_REQUEST, format!("the body broke off: {error}")))?;
        if let Ok(bytes) = frame.into_data()
            && !upload.send(bytes).await
        {
            break;
        }
    }
    let Uploaded { digest, facts } = upload.finish().await.map_err(refused)?;
    let classes = facts.classes.iter().filter_map(|class| ClassName::new(class.name.clone()).ok()).collect();
    Ok(Json(Artifact { digest, classes }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    library: String,
}

async fn check(State(api): State<Api>, body: Bytes) -> Answered {
    let request: CheckRequest = from_json(&body)?;
    let Uploaded { digest, facts } = api.check(request.library).await.map_err(refused)?;
    Ok(Json(json!({ "digest": digest, "library": facts })).into_response())
}

async fn shutdown(State(api): State<Api>, body: Bytes) -> Answered {
    let at_once = optional::<ShutdownRequest>(&body)?.now;
    api.ask(Ask::Shutdown { at_once }).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[derive(Default, Deserialize)]
struct FollowQuery {
    #[serde(default)]
    follow: String,
    deployment: Option<String>,
    replica: Option<String>,
    since_ms: Option<u64>,
    since: Option<u64>,
}

async fn events(State(api): State<Api>, Query(query): Query<FollowQuery>) -> Answered {
    let name: Option<DeploymentName> = query.deployment.as_deref().map(parse).transpose()?;
    let of_name = move |event: &decurion_api::admin::Event| name.is_none() || event.deployment == name;
    let read = move |api: &Api, after: u64| {
        let found: Vec<_> =
            api.journal().lock().events_after(after).into_iter().filter(|event| of_name(event)).collect();
        let last = found.last().map(|event| event.sequence);
        (found, last)
    };
    Ok(list_or_follow(api, is_true(&query.follow), read))
}

async fn logs(State(api): State<Api>, Query(query): Query<FollowQuery>) -> Answered {
    let filter = LineFilter {
        deployment: query.deployment.as_deref().map(parse).transpose()?,
        replica: query.replica.as_deref().map(parse::<ReplicaId>).transpose()?,
        since_ms: query.since_ms.or(query.since),
    };
    let read = move |api: &Api, after: u64| {
        let found = api.journal().lock().lines_after(after, &filter);
        let last = found.last().map(|line| line.sequence);
        (found, last)
    };
    Ok(list_or_follow(api, is_true(&query.follow), read))
}

/// What there is as JSON, or that and what is to come as server-sent events.
fn list_or_follow<T, R>(api: Api, follow: bool, read: R) -> Response
where
    T: Serialize + Send + 'static,
    R: Fn(&Api, u64) -> (Vec<T>, Option<u64>) + Send + 'static,
{
    if !follow {
        return Json(read(&api, 0).0).into_response();
    }
    let (sender, body) = Channel::<Bytes, Infallible>::new(PIECES_MAX);
    tokio::spawn(send_events(api, sender, read));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")], Body::new(body))
        .into_response()
}

async fn send_events<T: Serialize>(
    api: Api,
    mut sender: Sender<Bytes, Infallible>,
    read: impl Fn(&Api, u64) -> (Vec<T>, Option<u64>),
) {
    let mut written = api.journal().follow();
    let mut after = 0;
    loop {
        written.mark_unchanged();
        let (found, last) = read(&api, after);
        after = last.unwrap_or(after);
        for thing in found {
            let Ok(text) = serde_json::to_string(&thing) else { continue };
            // A follower that is gone ends this; one that is slow misses what the logbook has dropped meanwhile.
            if sender.send_data(Bytes::from(format!("data: {text}\n\n"))).await.is_err() {
                return;
            }
        }
        let quiet = tokio::time::timeout(KEEP_ALIVE, written.changed()).await;
        let goes_on = match quiet {
            Ok(changed) => changed.is_ok(),
            Err(_) => sender.send_data(Bytes::from_static(b":\n\n")).await.is_ok(),
        };
        if !goes_on {
            return;
        }
    }
}

#[derive(Default, Deserialize)]
struct ChangeQuery {
    #[serde(default)]
    dry_run: String,
    application: Option<String>,
}

async fn change(api: &Api, query: &ChangeQuery, headers: &HeaderMap, change: Change) -> Answered {
    let ask = Ask::Change {
        if_revision: if_match(headers)?,
        dry_run: is_true(&query.dry_run),
        change: Box::new(change),
    };
    let Answer::Applied(applied) = api.ask(ask).await? else { return Err(unexpected()) };
    Ok(with_revision(applied.revision, Json(applied)))
}

async fn desired(api: &Api) -> Result<Desired, Refused> {
    match api.ask(Ask::Desired).await? {
        Answer::Desired(desired) => Ok(*desired),
        _ => Err(unexpected()),
    }
}

fn application_of(desired: &Desired, name: &ApplicationName) -> ApplicationSpec {
    let deployments: Vec<DeploymentSpec> = desired
        .deployments
        .values()
        .filter(|wanted| wanted.application == *name)
        .map(|wanted| wanted.spec.clone())
        .collect();
    ApplicationSpec { application: name.clone(), http: Some(desired.http.clone()), deployments }
}

fn with_revision(revision: u64, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse();
    number.map(Some).map_err(|_| refuse(problem::BAD_REQUEST, "If-Match is a revision in quotes, as \"12\""))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Refused>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| refuse(problem::BAD_REQUEST, error.to_string()))
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|error| refuse(problem::BAD_REQUEST, format!("in the body: {error}")))
}

/// A body that may be left out.
fn optional<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refused> {
    if body.is_empty() || body == b"null" { Ok(T::default()) } else { from_json(body) }
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true" | "yes")
}

fn refused(error: crate::sys::ArtifactError) -> Refused {
    let kind = match &error {
        crate::sys::ArtifactError::TooLarge => problem::TOO_LARGE,
        crate::sys::ArtifactError::Store { .. } => problem::INTERNAL,
        _ => problem::REFUSED,
    };
    refuse(kind, format!("{error}; nothing was changed"))
}

fn unexpected() -> Refused {
    refuse(problem::INTERNAL, "the loop gave another answer than was asked for")
}
