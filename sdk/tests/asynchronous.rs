//! Async classes, driven through the plugin ABI by the host of `decurion::test`.
#![cfg(feature = "tokio")]
#![expect(missing_docs, reason = "`pub` is what makes a function a method here")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use decurion::prelude::*;
use decurion::test::{Local, LocalApp};
use decurion::tokio::sync::Barrier;
use decurion::tokio::task::yield_now;

const AT_ONCE: usize = 200;

/// Waits until as many as it was told are inside.
#[derive(Debug)]
pub struct Meeting {
    barrier: Barrier,
    word: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    word: String,
}

#[deployment]
impl Meeting {
    async fn new(size: usize) -> Result<Self> {
        yield_now().await;
        if size == 0 {
            return Err(Error::msg("nobody to meet"));
        }
        Ok(Self { barrier: Barrier::new(size), word: "hello".to_owned() })
    }

    async fn call(&self, req: Request) -> Result<String> {
        let body = req.text_async().await?;
        self.barrier.wait().await;
        Ok(format!("{} {body}", self.word))
    }

    pub async fn meet(&self, number: u64) -> u64 {
        self.barrier.wait().await;
        number
    }

    pub async fn fail(&self, how: String) -> Result<u8> {
        yield_now().await;
        match how.as_str() {
            "status" => Err(Error::status(422, "not that")),
            _ => panic!("boom"),
        }
    }

    pub fn plain(&self) -> &'static str {
        "plain"
    }

    pub fn steps(&self, to: u8) -> decurion::Streamed<u8> {
        decurion::Streamed::iter(0..to)
    }

    async fn reconfigure(&mut self, config: Config) -> Result<()> {
        yield_now().await;
        self.word = config.word;
        Ok(())
    }

    async fn check_health(&self) -> Result<()> {
        yield_now().await;
        if self.word == "ill" { Err(Error::msg("ill")) } else { Ok(()) }
    }
}

#[test]
fn many_are_inside_at_once() {
    let local = Local::<Meeting>::new((AT_ONCE,)).unwrap();
    let calls: Vec<_> =
        (0..AT_ONCE as u64).map(|number| local.handle().start("meet", (number,)).unwrap()).collect();
    let met: Vec<u64> = calls.into_iter().map(|call| call.wait().unwrap()).collect();
    assert_eq!(met, (0..AT_ONCE as u64).collect::<Vec<_>>());
}

#[test]
fn every_part_may_be_async() {
    assert_eq!(Local::<Meeting>::new((0,)).unwrap_err().to_string(), "nobody to meet");
    let local = Local::<Meeting>::new((1,)).unwrap();
    assert_eq!(local.request(Request::post("/", "you")).unwrap().text().unwrap(), "hello you");
    local.reconfigure(json!({ "word": "ill" })).unwrap();
    assert_eq!(local.request(Request::post("/", "you")).unwrap().text().unwrap(), "ill you");
    assert_eq!(local.check_health().unwrap_err().to_string(), "ill");
    assert_eq!(local.call::<String>("plain", ()).unwrap(), "plain");
}

#[test]
fn errors_and_panics_are_answers() {
    let local = Local::<Meeting>::new((1,)).unwrap();
    assert_eq!(local.call::<u8>("fail", ("status",)).unwrap_err().code().unwrap(), 422);
    assert_eq!(local.call::<u8>("fail", ("panic",)).unwrap_err().message(), "panicked: boom");
    assert_eq!(local.call::<u64>("meet", (3u64,)).unwrap(), 3);
}

/// Alone, although it waits.
#[derive(Debug, Default)]
pub struct Alone {
    inside: Arc<AtomicUsize>,
    count: u64,
}

#[deployment]
impl Alone {
    pub async fn enter(&mut self) -> Result<u64> {
        if self.inside.fetch_add(1, Ordering::SeqCst) != 0 {
            return Err(Error::msg("two at once"));
        }
        for _ in 0..10 {
            yield_now().await;
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.count += 1;
        Ok(self.count)
    }
}

#[test]
fn an_exclusive_future_runs_alone() {
    let local = Local::<Alone>::new(()).unwrap();
    let calls: Vec<_> = (0..20).map(|_| local.handle().start("enter", ()).unwrap()).collect();
    let mut counts: Vec<u64> = calls.into_iter().map(|call| call.wait().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>());
}

/// Tells when its future is dropped.
#[derive(Debug, Default)]
pub struct Endless {
    entered: Arc<tokio::sync::Notify>,
    left: Arc<tokio::sync::Notify>,
}

use decurion::tokio;

struct Leaving(Arc<tokio::sync::Notify>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[deployment]
impl Endless {
    pub async fn stay(&self) {
        let _leaving = Leaving(Arc::clone(&self.left));
        self.entered.notify_one();
        std::future::pending::<()>().await;
    }

    pub async fn entered(&self) {
        self.entered.notified().await;
    }

    pub async fn left(&self) {
        self.left.notified().await;
    }
}

#[test]
fn cancellation_drops_the_future() {
    let local = Local::<Endless>::new(()).unwrap();
    let stay = local.handle().start("stay", ()).unwrap();
    local.call::<()>("entered", ()).unwrap();
    stay.cancel();
    local.call::<()>("left", ()).unwrap();
}

/// Calls others.
#[derive(Debug)]
pub struct Driver {
    meeting: Handle,
}

#[deployment]
impl Driver {
    fn new(meeting: Handle) -> Self {
        Self { meeting }
    }

    async fn call(&self, req: Request) -> Result<Response> {
        let body = req.bytes_async().await?;
        self.meeting.request_async(Request::post("/", body)).await
    }

    pub async fn both(&self) -> Result<(u64, u64)> {
        let one = self.meeting.start_async("meet", (1u64,)).await?;
        let two = self.meeting.call_async::<u64>("meet", (2u64,)).await?;
        Ok((one.wait_async().await?, two))
    }

    pub async fn refused(&self) -> Result<u8> {
        self.meeting.call_async("fail", ("status",)).await
    }

    pub async fn by_client(&self) -> Result<(u64, String, Vec<u8>)> {
        let client = MeetingClient::from(self.meeting.clone());
        let first = client.meet(1).await?;
        let mut steps = client.steps(3).await?;
        let mut seen = Vec::new();
        while let Some(step) = steps.next_async().await {
            seen.push(step?);
        }
        Ok((first, client.plain()?, seen))
    }
}

decurion::client!(MeetingClient {
    /// With its own words.
    async fn meet(&self, number: u64) -> u64;
    fn plain(&self) -> String;
    async fn steps(&self, to: u8) -> decurion::Streamed<u8>;
});

#[test]
fn handles_have_async_twins() {
    let app = LocalApp::new();
    let _meeting = app.deploy::<Meeting>("meeting", (2,)).unwrap();
    let driver = app.deploy::<Driver>("driver", ("@meeting",)).unwrap();
    assert_eq!(driver.call::<(u64, u64)>("both", ()).unwrap(), (1, 2));
    assert_eq!(driver.call::<u8>("refused", ()).unwrap_err().code().unwrap(), 422);
    let _one = app.deploy::<Meeting>("meeting", (1,)).unwrap();
    assert_eq!(driver.request(Request::post("/", "x")).unwrap().text().unwrap(), "hello x");
    let by_client: (u64, String, Vec<u8>) = driver.call("by_client", ()).unwrap();
    assert_eq!(by_client, (1, "plain".to_owned(), vec![0, 1, 2]));
}

/// Refuses what it has begun with.
#[derive(Debug, Default)]
pub struct Refusing {
    runs: AtomicUsize,
}

#[deployment]
impl Refusing {
    fn new() -> Self {
        Self::default()
    }

    pub async fn refuse(&self, status: u16) -> Result<u8> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        Err(Error::status(status, "not this"))
    }

    pub async fn refuse_items(&self, status: u16) -> Result<decurion::Streamed<u8>> {
        self.refuse(status).await.map(|item| decurion::Streamed::iter([item]))
    }

    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

/// Asks it.
#[derive(Debug)]
pub struct Asking {
    refusing: Handle,
}

#[deployment]
impl Asking {
    fn new(refusing: Handle) -> Self {
        Self { refusing }
    }

    pub async fn ask(&self) -> Result<Vec<String>> {
        let called = self.refusing.call_async::<u8>("refuse", (415u16,)).await.map(|_| ());
        let started = self.refusing.start_async("refuse", (415u16,)).await?.wait_async::<u8>().await;
        let streamed = self.refusing.stream_async::<u8>("refuse_items", (415u16,)).await.map(|_| ());
        Ok([called, started.map(|_| ()), streamed]
            .into_iter()
            .map(|asked| asked.map_or_else(|error| format!("{error:?}"), |()| "it worked".to_owned()))
            .collect())
    }
}

#[test]
fn what_a_method_refuses_with_415_is_not_asked_again() {
    let app = LocalApp::new();
    let refusing = app.deploy::<Refusing>("refusing", ()).unwrap();
    let asking = app.deploy::<Asking>("asking", ("@refusing",)).unwrap();
    assert_eq!(asking.call::<Vec<String>>("ask", ()).unwrap(), ["415 not this"; 3]);
    assert_eq!(refusing.call::<usize>("runs", ()).unwrap(), 3);
    // The error of a class between is its own, whoever has refused.
    assert_eq!(refusing.call::<u8>("refuse", ("x",)).unwrap_err().code().unwrap(), 400);
}

#[deployment]
async fn streams(req: Request) -> Response {
    if req.sub_path() == "/sync" {
        return Response::stream(|w| w.write("from a thread"));
    }
    let late = req.sub_path() == "/late";
    Response::stream_async(move |w| {
        Box::pin(async move {
            while let Some(chunk) = req.chunk().await? {
                w.write(chunk).await?;
                w.flush().await?;
            }
            if late { Err(Error::msg("a secret")) } else { Ok(()) }
        })
    })
}

#[deployment]
fn plain_but_async(_req: Request) -> Response {
    Response::stream_async(|w| Box::pin(async move { w.event("x").await }))
}

#[test]
fn async_answers_stream() {
    let local = Local::<streams>::new(()).unwrap();
    let body = "0123456789".repeat(30_000);
    assert_eq!(local.request(Request::post("/", body.clone())).unwrap().text().unwrap(), body);
    assert!(local.request(Request::post("/late", "x")).is_err());
    assert_eq!(local.get("/sync").unwrap().text().unwrap(), "from a thread");
    let events = Local::<plain_but_async>::new(()).unwrap().get("/").unwrap();
    assert_eq!(
        (events.header("content-type"), events.text().unwrap()),
        (Some("text/event-stream"), "data: x\n\n")
    );
}
