//! `call`: one method of a deployment, over the same shared memory as every handle's.

use std::path::Path;

use decurion_api::DeploymentName;
use decurion_client::{CallError, CallFailed, Client, Deployment};
use serde_json::Value;

use crate::args::CallArgs;
use crate::failure::{Exit, Failure, chain};
use crate::output::{Format, Output, printable};
use crate::sys;

const METHOD_NOT_FOUND: u16 = 404;

/// `control_socket`: the handle socket lies beside it.
pub(super) fn call(args: &CallArgs, control_socket: &Path, output: &Output) -> Result<Exit, Failure> {
    check_target(&args.target)?;
    let client = Client::connect_to(&control_socket.with_file_name("handle.sock")).map_err(failure)?;
    let (deployment, method) = find(&client, &args.target)?;
    let start = sys::now();
    let result = match method {
        Some(method) => by_method(&deployment, &method, args.args.clone()),
        None => by_request(&deployment, args.args.as_ref()),
    };
    let took = start.elapsed();
    show(result?, output)?;
    if args.time {
        output.always(&format!("took {:.3} ms", took.as_secs_f64() * 1e3));
    }
    Ok(Exit::Done)
}

/// What came back: a method's result, or the body of an HTTP answer that is no JSON.
enum Outcome {
    Json(Value),
    Text(String),
}

fn check_target(target: &str) -> Result<(), Failure> {
    match DeploymentName::new(target) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(format!("'{target}' is no NAME[.METHOD]: {error}"))),
    }
}

/// `NAME` or `NAME.METHOD`; as names may hold dots, what is deployed decides.
fn find(client: &Client, target: &str) -> Result<(Deployment, Option<String>), Failure> {
    match (client.deployment(target), target.rsplit_once('.')) {
        (Ok(deployment), _) => {
            let method = default_method(&deployment)?;
            Ok((deployment, method))
        }
        (Err(CallFailed::Call(CallError::NotFound { .. })), Some((name, method))) => {
            Ok((client.deployment(name).map_err(failure)?, Some(method.to_owned())))
        }
        (Err(error), _) => Err(failure(error)),
    }
}

/// The only method there is, or none for a class that answers HTTP.
fn default_method(deployment: &Deployment) -> Result<Option<String>, Failure> {
    match deployment.methods() {
        _ if deployment.answers_http() => Ok(None),
        [only] => Ok(Some(only.clone())),
        methods => {
            let name = deployment.name();
            let words = format!("'{name}' has several methods; name one, as {name}.METHOD");
            Err(Failure::usage(words).details([format!("there are: {}", methods.join(", "))]))
        }
    }
}

/// Arguments go by position or by name; a value that is neither is the only one.
fn by_method(deployment: &Deployment, method: &str, args: Option<Value>) -> Result<Outcome, Failure> {
    let args = match args {
        None => Value::Array(Vec::new()),
        Some(args @ (Value::Array(_) | Value::Object(_))) => args,
        Some(only) => Value::Array(vec![only]),
    };
    deployment.handle().call_json(method, &args).map(Outcome::Json).map_err(failure)
}

/// The class's `call`, with the arguments as a JSON body.
fn by_request(deployment: &Deployment, args: Option<&Value>) -> Result<Outcome, Failure> {
    let (method, body) = match args {
        None => ("GET", Vec::new()),
        Some(args) => ("POST", args.to_string().into_bytes()),
    };
    let headers = match args {
        None => Vec::new(),
        Some(_) => vec![(b"content-type".to_vec(), b"application/json".to_vec())],
    };
    let answer = deployment.handle().request(method, "/", headers, body).map_err(failure)?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    if answer.status >= 400 {
        let what = format!("'{}' answered with status {}", deployment.name(), answer.status);
        return Err(Failure::new(Exit::Failed, what).details(text.lines().map(printable)));
    }
    Ok(match serde_json::from_str(&text) {
        Ok(value) => Outcome::Json(value),
        Err(_) => Outcome::Text(text),
    })
}

fn show(result: Outcome, output: &Output) -> Result<(), Failure> {
    match (output.format, result) {
        // One line on a terminal as well as in a pipe.
        (Format::Table | Format::Wide, Outcome::Json(value)) => output.line(&value.to_string()),
        (Format::Table | Format::Wide, Outcome::Text(text)) => output.line(text.trim_end_matches('\n')),
        (_, Outcome::Json(value)) => output.json(&value),
        (_, Outcome::Text(text)) => output.json(&text),
    }
}

fn failure(error: CallFailed) -> Failure {
    match error {
        CallFailed::Unreachable { socket, error } => Failure::unreachable(&socket, &error),
        CallFailed::Call(CallError::NotFound { .. }) => Failure::new(Exit::NotFound, error.to_string()),
        CallFailed::Callee { status, message } => {
            let exit = if status == METHOD_NOT_FOUND { Exit::NotFound } else { Exit::Failed };
            let mut lines = message.lines().map(printable);
            let what = lines.next().unwrap_or_else(|| format!("the call failed with status {status}"));
            Failure::new(exit, what).details(lines)
        }
        error => Failure::new(Exit::Failed, chain(&error)),
    }
}
