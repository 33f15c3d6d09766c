//! Makes the calls of a graph's steps, and waits for them.

use decurion::prelude::*;
use decurion::{Stream, StreamedResponse};
use decurion_api::spec::GraphSpec;
use decurion_api::spec::graph::{Callee, Step};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::value::{RawValue, to_raw_value};

use crate::run::{Call, Plan, Run};

/// Bytes that are read of a failed step's words.
const WORDS_MAX: usize = 64 * 1024;

/// A graph with a way to each of its callees.
#[derive(Debug)]
pub(crate) struct Runner {
    plan: Plan,
    /// One for each step, in their order.
    callees: Vec<Callee>,
    handles: Vec<Handle>,
}

/// The last step of a graph that streams.
#[derive(Debug)]
pub(crate) enum Last {
    /// Of a method.
    Items(Stream<Value>),
    /// Of a `call`.
    Body(StreamedResponse),
    /// Its condition does not hold.
    Skipped,
}

impl Runner {
    pub(crate) fn new(graph: GraphSpec) -> Result<Self> {
        let callee = |step: &Step| {
            let callee = step.callee.clone();
            callee.ok_or_else(|| Error::msg(format_args!("step '{}' has not been resolved", step.name)))
        };
        let callees = graph.steps.iter().map(callee).collect::<Result<Vec<_>>>()?;
        // Values describe themselves: JSON carries them, and nothing else.
        let handles = callees.iter().map(|callee| Handle::named(callee.deployment.as_str()).json()).collect();
        Ok(Self { plan: Plan::new(graph), callees, handles })
    }

    /// Runs every step.
    pub(crate) async fn whole(&self, input: Box<RawValue>) -> Result<Box<RawValue>> {
        let mut run = Run::new(&self.plan, input);
        if let Some(last) = self.run_steps(&mut run).await? {
            return Err(Error::msg(format_args!("step '{}' streams", self.step(last.step).name)));
        }
        run.output().map_err(|missing| Error::msg(format_args!("output: {missing}")))
    }

    /// Runs every step but the last, and begins that one's stream.
    pub(crate) async fn open(&self, input: Box<RawValue>, accept: Option<String>) -> Result<Last> {
        let mut run = Run::new(&self.plan, input);
        let Some(Call { step, args }) = self.run_steps(&mut run).await? else { return Ok(Last::Skipped) };
        let handle = &self.handles[step];
        let opened = match &self.callees[step].method {
            Some(method) => handle.stream_async(method, args).await.map(Last::Items),
            None => request_stream(handle, args, accept).await.map(Last::Body),
        };
        opened.map_err(|error| self.failed(step, error.code(), &error))
    }

    /// Runs what can run, up to the step that streams.
    async fn run_steps(&self, run: &mut Run<'_>) -> Result<Option<Call>> {
        let mut calls = FuturesUnordered::new();
        loop {
            let mut ready =
                run.ready().map_err(|missing| self.failed(missing.step, None, &missing.missing))?;
            // It waits for all the others.
            if let Some(last) = ready.iter().position(|call| self.step(call.step).stream) {
                return Ok(Some(ready.swap_remove(last)));
            }
            let alone = if calls.is_empty() && ready.len() == 1 { ready.pop() } else { None };
            calls.extend(ready.into_iter().map(|call| self.call(call)));
            let answer = match alone {
                // Nothing else can become ready meanwhile: most steps of most graphs.
                Some(call) => Some(self.call(call).await),
                None => calls.next().await,
            };
            let Some(answer) = answer else { return Ok(None) };
            let (step, value) = answer?;
            run.done(step, value);
        }
    }

    async fn call(&self, call: Call) -> Result<(usize, Box<RawValue>)> {
        let Call { step, args } = call;
        let handle = &self.handles[step];
        let result = match &self.callees[step].method {
            Some(method) => handle.call_async(method, args).await,
            None => request(handle, args).await,
        };
        match result {
            Ok(value) => Ok((step, value)),
            Err(error) => Err(self.failed(step, error.code(), &error)),
        }
    }

    fn step(&self, place: usize) -> &Step {
        &self.plan.graph.steps[place]
    }

    /// The stream has ended with an error.
    pub(crate) fn failed_last(&self, error: &Error) -> Error {
        let last = self.plan.graph.steps.iter().position(|step| step.stream);
        self.failed(last.unwrap_or_default(), error.code(), error)
    }

    /// The step's name goes before what went wrong; a status that the callee chose stays.
    fn failed(&self, step: usize, code: Option<StatusCode>, error: &dyn std::fmt::Display) -> Error {
        let Step { name, call, .. } = self.step(step);
        let words = format!("step '{name}' ({call}): {error}");
        match code {
            Some(code) => Error::status(code, words),
            None => Error::msg(words),
        }
    }
}

/// The callee's `call`.
async fn request(handle: &Handle, body: Box<RawValue>) -> Result<Box<RawValue>> {
    let answer = handle.request_async(request_of(body)?).await?;
    let status = answer.status();
    let text = answer.text()?;
    if status.is_client_error() || status.is_server_error() {
        return Err(Error::status(status, text.trim_end()));
    }
    Ok(serde_json::from_str(text).or_else(|_| to_raw_value(text))?)
}

/// The callee's `call`, whose body is read as it comes.
async fn request_stream(
    handle: &Handle,
    body: Box<RawValue>,
    accept: Option<String>,
) -> Result<StreamedResponse> {
    let mut request = request_of(body)?;
    if let Some(accept) = accept {
        request = request.with_header("accept", &accept)?;
    }
    let mut answer = handle.request_stream_async(request).await?;
    let status = answer.status();
    if !status.is_client_error() && !status.is_server_error() {
        return Ok(answer);
    }
    let (mut words, mut filled) = (vec![0; WORDS_MAX], 0);
    while let Some(count) = answer.read_async(&mut words[filled..]).await.ok().filter(|count| *count > 0) {
        filled += count;
    }
    Err(Error::status(status, String::from_utf8_lossy(&words[..filled]).trim_end()))
}

fn request_of(body: Box<RawValue>) -> Result<Request> {
    let body: Box<str> = body.into();
    Request::post("/", String::from(body)).with_header("content-type", "application/json")
}
