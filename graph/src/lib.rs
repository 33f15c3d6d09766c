//! The class that runs deployment graphs: a graph is deployed as one deployment of this library, whose constructor
//! gets the steps. So it is updated, scaled and watched as every other deployment is.
//!
//! What runs when is decided in [`run`]; here the calls are made and waited for.

mod run;

use decurion::prelude::*;
use decurion_api::spec::GraphSpec;
use decurion_api::spec::graph::{Callee, Step};
use futures_util::stream::{FuturesUnordered, StreamExt};

use run::{Call, Plan, Run};

/// A graph, ready to run.
#[derive(Debug)]
pub struct Graph {
    plan: Plan,
    /// One for each step, in their order.
    callees: Vec<Callee>,
    handles: Vec<Handle>,
}

#[deployment]
impl Graph {
    fn new(graph: GraphSpec) -> Result<Self> {
        let callee = |step: &Step| {
            let callee = step.callee.clone();
            callee.ok_or_else(|| Error::msg(format_args!("step '{}' has not been resolved", step.name)))
        };
        let callees = graph.steps.iter().map(callee).collect::<Result<Vec<_>>>()?;
        let handles = callees.iter().map(|callee| Handle::named(callee.deployment.as_str())).collect();
        Ok(Self { plan: Plan::new(graph), callees, handles })
    }

    /// Its input is the JSON body; without one it is null.
    async fn call(&self, req: Request) -> Result<Json<Value>> {
        let body = req.bytes_async().await?;
        let input = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body)
                .map_err(|error| Error::status(400, format_args!("the body is not JSON: {error}")))?,
        };
        self.run(input).await.map(Json)
    }

    /// For handles.
    pub async fn run(&self, input: Value) -> Result<Value> {
        let mut run = Run::new(&self.plan, input);
        let mut calls = FuturesUnordered::new();
        loop {
            for call in run.ready().map_err(|missing| self.failed(missing.step, None, &missing.missing))? {
                calls.push(self.step(call));
            }
            match calls.next().await {
                Some(result) => {
                    let (step, value) = result?;
                    run.done(step, value);
                }
                None => return run.output().map_err(|missing| Error::msg(format_args!("output: {missing}"))),
            }
        }
    }
}

impl Graph {
    async fn step(&self, call: Call) -> Result<(usize, Value)> {
        let Call { step, args } = call;
        let handle = &self.handles[step];
        let result = match &self.callees[step].method {
            Some(method) => handle.json().call_async(method, args).await,
            None => request(handle, &args).await,
        };
        match result {
            Ok(value) => Ok((step, value)),
            Err(error) => Err(self.failed(step, error.code(), &error)),
        }
    }

    /// The step's name goes before what went wrong; a status that the callee chose stays.
    fn failed(&self, step: usize, code: Option<StatusCode>, error: &dyn std::fmt::Display) -> Error {
        let (name, call) = (&self.plan.graph.steps[step].name, &self.plan.graph.steps[step].call);
        let words = format!("step '{name}' ({call}): {error}");
        match code {
            Some(code) => Error::status(code, words),
            None => Error::msg(words),
        }
    }
}

/// The callee's `call`: the arguments are its JSON body, one alone without its list.
async fn request(handle: &Handle, args: &Value) -> Result<Value> {
    let body = match args {
        Value::Array(items) if items.len() == 1 => items[0].to_string(),
        all => all.to_string(),
    };
    let request = Request::post("/", body).with_header("content-type", "application/json")?;
    let answer = handle.request_async(request).await?;
    let status = answer.status();
    let text = answer.text()?;
    if status.is_client_error() || status.is_server_error() {
        return Err(Error::status(status, text.trim_end()));
    }
    Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into()))
}

#[cfg(test)]
mod tests;
