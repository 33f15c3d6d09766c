//! Classes as authors write them, driven through the plugin ABI by the host of `decurion::test`.

#![expect(missing_docs, unreachable_pub, reason = "`pub` is what makes a function a method here")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use decurion::prelude::*;
use decurion::test::{Local, LocalApp};
use decurion::{Bytes, IntoResponse, Method, json};

#[deployment]
fn hello(_req: Request) -> &'static str {
    "Hello world!"
}

#[deployment]
fn nothing() {}

#[deployment(name = "Renamed")]
fn fails(req: Request) -> Result<String> {
    match req.query_param("how").as_deref() {
        Some("status") => Err(Error::status(422, "threshold is too high")),
        Some("error") => Ok(req.query_param("n").unwrap_or_default().parse::<u8>()?.to_string()),
        Some("panic") => panic!("a secret"),
        _ => Ok("fine".to_owned()),
    }
}

/// A class with everything.
#[derive(Debug)]
pub struct Model {
    msg: String,
    threshold: f64,
    seen: usize,
}

#[derive(Debug, Deserialize)]
struct Config {
    threshold: f64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    name: String,
    values: Vec<f64>,
}

#[deployment]
impl Model {
    const LIMIT: f64 = 1.0;

    fn new(msg: String, threshold: Option<f64>) -> Result<Self> {
        if msg.is_empty() {
            return Err(Error::msg("msg may not be empty"));
        }
        Ok(Self { msg, threshold: threshold.unwrap_or(0.5), seen: 0 })
    }

    fn call(&self, req: Request) -> Result<Json<Value>> {
        let data: f64 = if req.method() == Method::POST { req.json()? } else { 0.0 };
        Ok(Json(json!({ "msg": self.msg, "above": data > self.threshold, "sub": req.sub_path() })))
    }

    pub fn predict(&self, data: f64) -> String {
        let word = if data > self.threshold { "yes" } else { "no" };
        format!("{}: {word}", self.msg)
    }

    pub fn longest(&self, rows: Vec<Row>, at_least: usize) -> Option<Row> {
        rows.into_iter().filter(|row| row.values.len() >= at_least).max_by_key(|row| row.values.len())
    }

    pub fn echo(&self, value: Value) -> Value {
        value
    }

    pub fn reversed(&self, data: Bytes) -> Vec<u8> {
        data.iter().rev().copied().collect()
    }

    pub fn checked(&self, data: f64) -> Result<f64> {
        self.within(data)
    }

    pub fn count(&mut self) -> usize {
        self.seen += 1;
        self.seen
    }

    pub fn explode(&self) -> u8 {
        panic!("boom")
    }

    fn within(&self, data: f64) -> Result<f64> {
        if data > Self::LIMIT {
            Err(Error::status(422, format!("{data} is above {}", Self::LIMIT)))
        } else {
            Ok(data)
        }
    }

    fn reconfigure(&mut self, config: Config) -> Result<()> {
        if config.threshold > Self::LIMIT {
            return Err(Error::msg("threshold is above the limit"));
        }
        self.threshold = config.threshold;
        Ok(())
    }

    fn check_health(&self) -> Result<()> {
        if self.seen > 2 { Err(Error::msg(format!("seen {}", self.seen))) } else { Ok(()) }
    }
}

fn model() -> Local<Model> {
    Local::new(json!({ "msg": "Hi" })).unwrap()
}

fn status(response: &Response) -> u16 {
    response.status().as_u16()
}

#[test]
fn a_function_answers() {
    let response = Local::<hello>::new(()).unwrap().get("/").unwrap();
    assert_eq!((status(&response), response.text().unwrap()), (200, "Hello world!"));
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    let response = Local::<nothing>::new(()).unwrap().get("/").unwrap();
    assert_eq!((status(&response), response.body().len()), (200, 0));
}

#[test]
fn a_function_takes_no_arguments() {
    let error = Local::<hello>::new(json!({ "a": 1 })).unwrap_err();
    assert_eq!(error.to_string(), "hello::new has no argument 'a'; it takes no arguments");
}

#[test]
fn errors_and_panics_are_answers_and_the_deployment_lives_on() {
    let local = Local::<fails>::new(()).unwrap();
    let response = local.get("/?how=status").unwrap();
    assert_eq!((status(&response), response.text().unwrap()), (422, "threshold is too high"));
    for how in ["/?how=error&n=x", "/?how=panic"] {
        let response = local.get(how).unwrap();
        assert_eq!((status(&response), response.text().unwrap()), (500, "Internal Server Error"), "{how}");
    }
    assert_eq!(local.get("/").unwrap().text().unwrap(), "fine");
}

#[test]
fn constructor_arguments_come_by_name_and_by_position() {
    for args in [json!({ "msg": "Hi", "threshold": 0.9 }), json!(["Hi", 0.9])] {
        let model = Local::<Model>::new(args).unwrap();
        assert_eq!(model.call::<String>("predict", (0.7,)).unwrap(), "Hi: no");
    }
    assert_eq!(model().call::<String>("predict", (0.7,)).unwrap(), "Hi: yes");
}

#[test]
fn constructor_errors_say_what_is_wrong() {
    for (args, error) in [
        (json!({}), "argument 'msg' of Model::new is missing"),
        (
            json!({ "msg": "Hi", "treshold": 1 }),
            "Model::new has no argument 'treshold'; it takes 2 arguments (msg, threshold)",
        ),
        (json!({ "msg": 3 }), "argument 'msg' of Model::new: invalid type: integer `3`, expected a string"),
        (json!({ "msg": "" }), "msg may not be empty"),
    ] {
        assert_eq!(Local::<Model>::new(args).unwrap_err().to_string(), error);
    }
}

#[test]
fn requests_have_bodies_and_paths() {
    let response = model().request(Request::post("/deep/path?x=1", "0.7")).unwrap();
    let answer: Value = response.json().unwrap();
    assert_eq!(answer, json!({ "msg": "Hi", "above": true, "sub": "/deep/path" }));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let response = model().request(Request::post("/", "{")).unwrap();
    assert_eq!(status(&response), 400);
    assert!(response.text().unwrap().contains("expected f64"), "{response:?}");
}

#[test]
fn methods_take_and_give_types_of_every_kind() {
    let rows =
        vec![Row { name: "a".into(), values: vec![1.0] }, Row { name: "b".into(), values: vec![1.0, 2.0] }];
    let longest: Option<Row> = model().call("longest", (&rows, 2usize)).unwrap();
    assert_eq!(longest, Some(Row { name: "b".into(), values: vec![1.0, 2.0] }));
    let none: Option<Row> = model().call("longest", (&rows, 3usize)).unwrap();
    assert_eq!(none, None);
    // Values describe themselves, which bincode can't carry: JSON does.
    let value = json!({ "a": [1, null, "x"] });
    assert_eq!(model().call::<Value>("echo", (&value,)).unwrap(), value);
    assert_eq!(model().handle().json().call::<String>("predict", (0.1,)).unwrap(), "Hi: no");
}

#[test]
fn bytes_go_as_one_piece_and_are_read_as_a_list_of_them() {
    let model = model();
    for handle in [model.handle(), model.handle().json()] {
        let (piece, list) = (Bytes::from_static(b"abc"), b"abc".to_vec());
        assert_eq!(handle.call::<Bytes>("reversed", (&piece,)).unwrap(), "cba");
        assert_eq!(handle.call::<Vec<u8>>("reversed", (&list,)).unwrap(), b"cba");
        assert_eq!(handle.call::<Bytes>("reversed", (list,)).unwrap(), "cba");
    }
}

#[test]
fn what_the_callee_can_not_read_as_bincode_goes_again_as_json() {
    assert_eq!(model().call::<String>("echo", ("x",)).unwrap(), "x");
}

#[test]
fn numbers_of_other_types_are_converted_and_never_misread() {
    // All of eight bytes: read as they lie, they would be other numbers.
    // The second time that is known.
    for _ in 0..2 {
        assert_eq!(model().call::<f64>("checked", (1i64,)).unwrap(), 1.0);
    }
    assert_eq!(model().call::<f64>("checked", (1,)).unwrap(), 1.0);
    assert_eq!(model().call::<f32>("checked", (0.5f32,)).unwrap(), 0.5);
    let error = model().call::<i64>("checked", (0.5,)).unwrap_err();
    assert!(error.message().contains("is not a i64"), "{error}");
    // A started call goes again in JSON as well; also the second time, and where an earlier one was read as it was.
    let model = model();
    for _ in 0..2 {
        assert_eq!(model.handle().start("checked", (1i64,)).unwrap().wait::<f64>().unwrap(), 1.0);
        assert_eq!(model.handle().start("checked", (0.5,)).unwrap().wait::<f64>().unwrap(), 0.5);
    }
}

#[test]
fn method_errors_reach_the_caller() {
    let error = model().call::<f64>("checked", (2.0,)).unwrap_err();
    assert_eq!((error.code(), error.message()), (Some(StatusCode::UNPROCESSABLE_ENTITY), "2 is above 1"));
    let error = model().call::<u8>("explode", ()).unwrap_err();
    assert_eq!((error.code(), error.message()), (None, "panicked: boom"));
    let error = model().call::<u8>("predict", ("x", 3)).unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::BAD_REQUEST));
    assert_eq!(error.message(), "Model::predict takes one argument (data), and 2 were given");
    let error = model().call::<u8>("predcit", (0.1,)).unwrap_err();
    assert_eq!(error.code(), Some(StatusCode::NOT_FOUND));
    assert!(
        error.message().starts_with("there is no method 'predcit'; available methods: predict"),
        "{error}"
    );
    let error = model().call::<u64>("predict", (0.1,)).unwrap_err();
    assert!(error.message().contains("is not a u64"), "{error}");
}

#[test]
fn a_configuration_is_taken_or_refused_whole() {
    let model = model();
    model.reconfigure(json!({ "threshold": 0.9 })).unwrap();
    assert_eq!(model.call::<String>("predict", (0.7,)).unwrap(), "Hi: no");
    let error = model.reconfigure(json!({ "threshold": "high" })).unwrap_err();
    assert!(error.message().contains("field 'threshold': invalid type"), "{error}");
    assert_eq!(
        model.reconfigure(json!({ "threshold": 2 })).unwrap_err().message(),
        "threshold is above the limit"
    );
    assert_eq!(model.call::<String>("predict", (0.95,)).unwrap(), "Hi: yes");
}

#[test]
fn health_is_what_the_deployment_says() {
    let model = model();
    model.check_health().unwrap();
    for _ in 0..3 {
        model.call::<usize>("count", ()).unwrap();
    }
    assert_eq!(model.check_health().unwrap_err().message(), "seen 3");
}

/// Lends what it has, and is lent the request.
#[derive(Debug, Default)]
struct Lender {
    text: String,
}

#[deployment]
impl Lender {
    fn call(&self, req: &Request) -> &str {
        if req.path() == "/" { &self.text } else { "elsewhere" }
    }
}

#[test]
fn requests_and_answers_may_be_lent() {
    let lender = Local::<Lender>::new(()).unwrap();
    assert_eq!(lender.get("/").unwrap().text().unwrap(), "");
    assert_eq!(lender.get("/x").unwrap().text().unwrap(), "elsewhere");
}

/// Counts how often it is destroyed.
#[derive(Debug)]
struct Counted(Witness);

#[derive(Debug)]
struct Witness;

static DESTROYED: AtomicUsize = AtomicUsize::new(0);

impl Drop for Witness {
    fn drop(&mut self) {
        DESTROYED.fetch_add(1, Ordering::SeqCst);
    }
}

#[deployment]
impl Counted {
    fn new() -> Self {
        Self(Witness)
    }

    fn call(&self) -> impl IntoResponse + use<> {
        (StatusCode::IM_A_TEAPOT, "short and stout")
    }
}

#[test]
fn the_destructor_runs_once() {
    let local = Local::<Counted>::new(()).unwrap();
    assert_eq!(status(&local.get("/").unwrap()), 418);
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 0);
    drop(local);
    // The thread that answered last may hold the instance for a moment longer.
    wait_for(&DESTROYED);
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 1);
}

/// Shared entries meet at a barrier, which they can only pass together.
#[derive(Debug, Default)]
struct Meeting {
    inside: AtomicUsize,
}

static BARRIER: Mutex<Option<Arc<Barrier>>> = Mutex::new(None);

#[deployment]
impl Meeting {
    pub fn together(&self) {
        let barrier = BARRIER.lock().unwrap().clone();
        barrier.unwrap().wait();
    }

    pub fn alone(&mut self) -> usize {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst);
        std::thread::yield_now();
        self.inside.fetch_sub(1, Ordering::SeqCst);
        inside
    }
}

#[test]
fn shared_methods_run_together_and_exclusive_ones_alone() {
    *BARRIER.lock().unwrap() = Some(Arc::new(Barrier::new(3)));
    let handle = Local::<Meeting>::new(()).unwrap();
    let together: Vec<_> = (0..3).map(|_| handle.handle().start("together", ()).unwrap()).collect();
    for call in together {
        call.wait::<()>().unwrap();
    }
    let alone: Vec<_> = (0..20).map(|_| handle.handle().start("alone", ()).unwrap()).collect();
    for call in alone {
        assert_eq!(call.wait::<usize>().unwrap(), 0);
    }
}

decurion::client!(ModelClient {
    /// As the model has it.
    fn predict(&self, data: f64) -> String;
    fn checked(&self, data: f64) -> f64;
});

/// Calls others.
#[derive(Debug)]
struct Caller {
    models: Vec<Handle>,
    typed: ModelClient,
}

#[deployment]
impl Caller {
    fn new(models: Vec<Handle>, typed: ModelClient) -> Result<Self> {
        // Handles work in the constructor.
        typed.predict(0.0)?;
        Ok(Self { models, typed })
    }

    fn call(&self, req: Request) -> Result<String> {
        if req.path() == "/forward" {
            let response = self.models[0].request(req)?;
            return Ok(format!("{} {}", response.status().as_u16(), response.text()?));
        }
        let data: f64 = req.json()?;
        let calls: Vec<_> =
            self.models.iter().map(|model| model.start("predict", (data,))).collect::<Result<_>>()?;
        let mut answers = calls.into_iter().map(|call| call.wait::<String>()).collect::<Result<Vec<_>>>()?;
        answers.push(self.typed.checked(data)?.to_string());
        Ok(answers.join(", "))
    }
}

fn app() -> (LocalApp, Local<Caller>) {
    let app = LocalApp::new();
    app.deploy::<Model>("one", json!({ "msg": "1" })).unwrap();
    app.deploy::<Model>("two", json!({ "msg": "2", "threshold": 0.9 })).unwrap();
    let caller =
        app.deploy::<Caller>("caller", json!({ "models": ["@one", "@two"], "typed": "@one" })).unwrap();
    (app, caller)
}

#[test]
fn handles_call_other_deployments() {
    let (_app, caller) = app();
    let response = caller.request(Request::post("/", "0.7")).unwrap();
    assert_eq!(response.text().unwrap(), "1: yes, 2: no, 0.7");
    let response = caller.request(Request::post("/forward", "0.7")).unwrap();
    assert_eq!(response.text().unwrap(), r#"200 {"above":true,"msg":"1","sub":"/forward"}"#);
}

#[test]
fn a_status_that_the_callee_chose_passes_through_its_callers() {
    let (_app, caller) = app();
    let response = caller.request(Request::post("/", "1.5")).unwrap();
    assert_eq!((status(&response), response.text().unwrap()), (422, "1.5 is above 1"));
}

#[test]
fn a_handle_that_is_written_wrong_is_refused() {
    let error = Local::<Caller>::new(json!({ "models": ["one"], "typed": "@one" })).unwrap_err();
    assert!(
        error
            .message()
            .starts_with("argument 'models' of Caller::new: field '[0]': a handle is written \"@name\""),
        "{error}"
    );
    let error = Local::<Caller>::new(json!({ "models": [], "typed": "@nobody" })).unwrap_err();
    assert_eq!(error.message(), "there is no deployment 'nobody'; there are: none");
}

/// Waits until it is cancelled.
#[derive(Debug, Default)]
struct Patient;

static STARTED: AtomicUsize = AtomicUsize::new(0);
static CANCELLED: AtomicUsize = AtomicUsize::new(0);

#[deployment]
impl Patient {
    fn call(&self, req: Request) {
        STARTED.fetch_add(1, Ordering::SeqCst);
        while !req.is_cancelled() {
            std::thread::yield_now();
        }
        CANCELLED.fetch_add(1, Ordering::SeqCst);
    }

    pub fn pass_on(&self, to: Handle) -> Result<()> {
        to.request(Request::get("/"))?;
        Ok(())
    }
}

fn wait_for(counter: &AtomicUsize) {
    while counter.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
}

#[test]
fn cancellation_travels_to_the_calls_made_on_its_behalf() {
    let app = LocalApp::new();
    let patient = app.deploy::<Patient>("patient", ()).unwrap();
    let call = patient.handle().start("pass_on", (Handle::named("patient"),)).unwrap();
    wait_for(&STARTED);
    call.cancel();
    wait_for(&CANCELLED);
}

#[test]
fn answers_that_http_does_not_allow_are_an_error() {
    #[derive(Debug, Default)]
    struct Bad;

    #[deployment]
    impl Bad {
        fn call(&self, req: Request) -> Response {
            Response::new(200, "secret").with_header("x-echo", req.query_param("v").unwrap_or_default())
        }
    }

    let bad = Local::<Bad>::new(()).unwrap();
    assert_eq!(bad.get("/?v=a").unwrap().header("x-echo"), Some("a"));
    assert_eq!(status(&bad.get("/?v=a%0d%0ab:%20c").unwrap()), 500);
}
