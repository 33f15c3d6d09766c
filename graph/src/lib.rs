//! The classes that run deployment graphs: a graph is deployed as one deployment of this library, whose constructor
//! gets the steps. So it is updated, scaled and watched as every other deployment is. Which class it is says whether the
//! graph's answer is whole or streams: [`GraphSpec::class`].
//!
//! What runs when is decided in [`run`]; the calls are made and waited for in [`runner`].

mod given;
mod run;
mod runner;

use std::sync::Arc;

use decurion::prelude::*;
use decurion::{Stream, Streamed, StreamedResponse};
use decurion_api::spec::GraphSpec;
use serde_json::value::{RawValue, to_raw_value};

use runner::{Last, Runner};

/// Bytes of a streamed body read at a time.
const READ_LEN: usize = 64 * 1024;

/// A graph, ready to run.
#[derive(Debug)]
pub struct Graph {
    runner: Runner,
}

#[deployment]
impl Graph {
    fn new(graph: GraphSpec) -> Result<Self> {
        Ok(Self { runner: Runner::new(graph)? })
    }

    /// Its input is the JSON body; without one it is null.
    async fn call(&self, req: Request) -> Result<Json<Box<RawValue>>> {
        self.runner.whole(input_of(&req).await?).await.map(Json)
    }

    /// For handles.
    pub async fn run(&self, input: Value) -> Result<Box<RawValue>> {
        self.runner.whole(to_raw_value(&input)?).await
    }
}

/// A graph whose last step streams.
#[derive(Debug)]
pub struct StreamingGraph {
    runner: Arc<Runner>,
}

#[deployment]
impl StreamingGraph {
    fn new(graph: GraphSpec) -> Result<Self> {
        Ok(Self { runner: Arc::new(Runner::new(graph)?) })
    }

    /// Items are lines of JSON, or events where the client asks for those; the body of a `call` is passed on as it is.
    async fn call(&self, req: Request) -> Result<Response> {
        let accept = req.header("accept").map(str::to_owned);
        let events = accept.as_deref().is_some_and(|accept| accept.contains("text/event-stream"));
        let input = input_of(&req).await?;
        Ok(match self.runner.open(input, accept).await? {
            Last::Body(answer) => answer.into_response_async(),
            Last::Items(items) => written(Arc::clone(&self.runner), Some(items), events),
            Last::Skipped => written(Arc::clone(&self.runner), None, events),
        })
    }

    /// For handles. The body of a `call` comes in pieces of text.
    pub fn run(&self, input: Value) -> Streamed<Value> {
        let runner = Arc::clone(&self.runner);
        Streamed::new_async(move |out| {
            Box::pin(async move {
                match runner.open(to_raw_value(&input)?, None).await? {
                    Last::Skipped => {}
                    Last::Items(mut items) => {
                        while let Some(item) = items.next_async().await {
                            out.send(item.map_err(|error| runner.failed_last(&error))?).await?;
                        }
                    }
                    Last::Body(mut answer) => {
                        let mut text = Text::default();
                        while let Some(piece) =
                            text.next(&mut answer).await.map_err(|e| runner.failed_last(&e))?
                        {
                            out.send(Value::String(piece)).await?;
                        }
                    }
                }
                Ok(())
            })
        })
    }
}

async fn input_of(req: &Request) -> Result<Box<RawValue>> {
    let body = req.bytes_async().await?;
    match body.is_empty() {
        true => Ok(RawValue::NULL.to_owned()),
        false => serde_json::from_slice(&body)
            .map_err(|error| Error::status(400, format_args!("the body is not JSON: {error}"))),
    }
}

fn written(runner: Arc<Runner>, items: Option<Stream<Value>>, events: bool) -> Response {
    let content_type = if events { "text/event-stream" } else { "application/x-ndjson" };
    let response = Response::stream_async(move |w| {
        Box::pin(async move {
            let Some(mut items) = items else { return Ok(()) };
            while let Some(item) = items.next_async().await {
                let item = item.map_err(|error| runner.failed_last(&error))?.to_string();
                if events {
                    w.event(item).await?;
                } else {
                    w.write(item + "\n").await?;
                    w.flush().await?;
                }
            }
            Ok(())
        })
    });
    response.with_header("content-type", content_type).with_header("cache-control", "no-cache")
}

/// A body as text, of which a character may come in two pieces.
#[derive(Default)]
struct Text {
    /// The beginning of a character.
    rest: Vec<u8>,
}

impl Text {
    /// What has come, `None` at the end. What is no UTF-8 is replaced.
    async fn next(&mut self, answer: &mut StreamedResponse) -> Result<Option<String>> {
        loop {
            let begun = self.rest.len();
            self.rest.resize(begun + READ_LEN, 0);
            let count = answer.read_async(&mut self.rest[begun..]).await?;
            self.rest.truncate(begun + count);
            let piece = self.take(count == 0);
            if count == 0 || !piece.is_empty() {
                return Ok(Some(piece).filter(|piece| !piece.is_empty()));
            }
        }
    }

    /// The whole characters at the front; at the end, everything.
    fn take(&mut self, end: bool) -> String {
        let whole = match std::str::from_utf8(&self.rest) {
            Err(cut) if cut.error_len().is_none() && !end => cut.valid_up_to(),
            _ => self.rest.len(),
        };
        let rest = self.rest.split_off(whole);
        String::from_utf8_lossy(&std::mem::replace(&mut self.rest, rest)).into_owned()
    }
}

#[cfg(test)]
mod tests;
