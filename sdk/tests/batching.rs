//! Batched methods and calls, driven through the plugin ABI by the host of `decurion::test`. What a test waits for are
//! gates and full batches: a batch that is not full waits for an hour here, unless time is what is tested.

#![allow(missing_docs, unreachable_pub, reason = "`pub` is what makes a function a method here")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use decurion::prelude::*;
use decurion::test::Local;
use decurion::{Handle, json};

#[derive(Debug, Default)]
pub struct Scorer {
    sizes: Mutex<Vec<usize>>,
    threshold: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    threshold: f64,
}

#[deployment]
impl Scorer {
    fn new() -> Self {
        Self::default()
    }

    #[batch(max = 4, wait = "3600s")]
    pub fn score(&self, rows: Vec<f64>) -> Vec<bool> {
        self.sizes.lock().unwrap().push(rows.len());
        rows.into_iter().map(|row| row > self.threshold).collect()
    }

    #[batch(max = 3, wait = "3600s")]
    pub fn fails(&self, rows: Vec<String>) -> Result<Vec<String>> {
        match rows.concat().as_str() {
            text if text.contains("status") => Err(Error::status(422, "not these")),
            text if text.contains("panic") => panic!("as asked"),
            text if text.contains("short") => Ok(vec!["one".to_owned()]),
            _ => Ok(rows),
        }
    }

    #[batch(max = 2, wait = "3600s")]
    pub fn each(&self, rows: Vec<u8>) -> Vec<Result<u8>> {
        rows.into_iter().map(|row| 100u8.checked_div(row).ok_or_else(|| Error::status(422, "zero"))).collect()
    }

    #[batch(max = 1000, wait = "1ms")]
    pub fn soon(&self, rows: Vec<u8>) -> Vec<usize> {
        vec![rows.len(); rows.len()]
    }

    #[batch(max = 2, wait = "3600s")]
    fn call(&self, requests: Vec<Request>) -> Vec<String> {
        let all: Vec<String> = requests.iter().map(|request| request.text().unwrap()).collect();
        requests.iter().map(|request| format!("{}: {}", request.path(), all.join(","))).collect()
    }

    pub fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().unwrap().clone()
    }

    fn reconfigure(&mut self, config: Config) {
        self.threshold = config.threshold;
    }
}

/// Calls a method with each of `rows` at once; the results in their order.
fn together<A: decurion::serde::Serialize + Sync, R: decurion::serde::de::DeserializeOwned + Send>(
    handle: &Handle,
    method: &str,
    rows: &[A],
) -> Vec<Result<R>> {
    let started: Vec<_> = rows.iter().map(|row| handle.start(method, (row,))).collect();
    started.into_iter().map(|call| call?.wait()).collect()
}

fn ok<R>(results: Vec<Result<R>>) -> Vec<R> {
    results.into_iter().map(Result::unwrap).collect()
}

fn scorer() -> Local<Scorer> {
    Local::new(()).unwrap()
}

#[test]
fn a_full_batch_runs_once_and_each_caller_gets_its_own() {
    let scorer = scorer();
    let results = ok(together::<_, bool>(&scorer.handle(), "score", &[1.0, -1.0, 2.0, -2.0]));
    assert_eq!(results, [true, false, true, false]);
    assert_eq!(scorer.call::<Vec<usize>>("sizes", ()).unwrap(), [4]);
}

#[test]
fn members_may_come_in_different_encodings() {
    let scorer = scorer();
    let (bincode, json) = (scorer.handle(), scorer.handle().json());
    let started: Vec<_> = [&bincode, &json, &bincode, &json]
        .iter()
        .zip([1.0, -1.0, -1.0, 1.0])
        .map(|(handle, row)| handle.start("score", (row,)).unwrap())
        .collect();
    let results: Vec<bool> = started.into_iter().map(|call| call.wait().unwrap()).collect();
    assert_eq!(results, [true, false, false, true]);
}

#[test]
fn what_is_not_full_runs_when_its_time_has_come() {
    let scorer = scorer();
    let alone: usize = scorer.call("soon", (1,)).unwrap();
    assert_eq!(alone, 1);
    let results = ok(together::<_, usize>(&scorer.handle(), "soon", &[1u8, 2, 3]));
    assert_eq!(results.len(), 3);
}

#[test]
fn an_error_and_a_panic_reach_every_member() {
    let scorer = scorer();
    for (word, code, text) in [("status", Some(422), "not these"), ("panic", None, "panicked: as asked")] {
        let results = together::<_, String>(&scorer.handle(), "fails", &["a", word, "c"]);
        for error in results.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.code().map(|code| code.as_u16()), code, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
    assert_eq!(ok(together::<_, String>(&scorer.handle(), "fails", &["a", "b", "c"])), ["a", "b", "c"]);
}

#[test]
fn a_result_of_the_wrong_length_is_an_error_for_all() {
    let results = together::<_, String>(&scorer().handle(), "fails", &["a", "short", "c"]);
    for error in results.into_iter().map(Result::unwrap_err) {
        assert!(error.to_string().contains("was given 3 and returned 1"), "{error}");
    }
}

#[test]
fn a_member_may_fail_alone() {
    let results = together::<_, u8>(&scorer().handle(), "each", &[0u8, 5]);
    let [Err(error), Ok(20)] = &results[..] else { panic!("{results:?}") };
    assert_eq!((error.code().unwrap().as_u16(), error.message()), (422, "zero"));
}

#[test]
fn an_argument_that_does_not_fit_is_its_callers_alone() {
    let scorer = scorer();
    let handle = scorer.handle().json();
    let rows = [json!(1.0), json!("high"), json!(2.0), json!(3.0), json!(-4.0)];
    let results = together::<_, bool>(&handle, "score", &rows);
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.code().unwrap().as_u16(), 400, "{error}");
    assert_eq!(results.into_iter().filter_map(Result::ok).collect::<Vec<_>>(), [true, true, true, false]);
}

#[test]
fn http_requests_run_together_too() {
    let scorer = scorer();
    let answers: Vec<String> = std::thread::scope(|scope| {
        let ask = |path: &'static str| {
            let scorer = &scorer;
            scope.spawn(move || scorer.request(Request::post(path, path)).unwrap().text().unwrap().to_owned())
        };
        [ask("/a"), ask("/b")].into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let both = |answer: &str| answer.ends_with("/a,/b") || answer.ends_with("/b,/a");
    assert!(answers.iter().all(|answer| both(answer)), "{answers:?}");
    assert!(answers[0].starts_with("/a: ") && answers[1].starts_with("/b: "), "{answers:?}");
}

#[test]
fn who_leaves_makes_room_in_the_batch() {
    let scorer = scorer();
    let handle = scorer.handle();
    let mut calls: Vec<_> = (0..3).map(|_| handle.start("score", (1.0,)).unwrap()).collect();
    calls.remove(1).cancel();
    // The fourth does not fill it, since one has left; the fifth does.
    calls.extend((0..2).map(|_| handle.start("score", (1.0,)).unwrap()));
    for call in calls {
        assert!(call.wait::<bool>().unwrap());
    }
    assert_eq!(scorer.call::<Vec<usize>>("sizes", ()).unwrap(), [4]);
}

#[test]
fn a_configuration_changes_a_batch_that_waits() {
    let scorer = scorer();
    let handle = scorer.handle();
    // `reconfigure` takes the class exclusively, so it would wait for members; those who come after see it.
    scorer.reconfigure(json!({ "threshold": 0.5, "batch": { "score": { "max": 2 } } })).unwrap();
    assert_eq!(ok(together::<_, bool>(&handle, "score", &[0.4, 0.6])), [false, true]);
    scorer.reconfigure(json!({ "threshold": 0.0, "batch": { "score": { "wait": "1us" } } })).unwrap();
    assert!(scorer.call::<bool>("score", (1.0,)).unwrap());
    // What is not named is as declared again.
    scorer.reconfigure(json!({ "threshold": 0.0 })).unwrap();
    assert_eq!(ok(together::<_, bool>(&handle, "score", &[1.0; 4])), [true; 4]);
    assert_eq!(scorer.call::<Vec<usize>>("sizes", ()).unwrap(), [2, 1, 4]);
    for (wrong, part) in [
        (json!({ "threshold": 1.0, "batch": { "scores": {} } }), "no such batched method"),
        (json!({ "threshold": 1.0, "batch": { "score": { "max": 0 } } }), "max is 0"),
        (json!({ "batch": { "score": { "max": 1 } } }), "missing field `threshold`"),
    ] {
        let error = scorer.reconfigure(wrong).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(ok(together::<_, bool>(&handle, "score", &[1.0; 4])), [true; 4]);
}

#[derive(Debug, Default)]
pub struct Plain;

#[deployment]
impl Plain {
    #[batch(max = 2, wait = "3600s")]
    pub fn pair(&self, rows: Vec<u8>) -> Vec<usize> {
        vec![rows.len(); rows.len()]
    }
}

#[test]
fn a_class_without_reconfigure_takes_the_limits_of_its_batches() {
    let plain = Local::<Plain>::new(()).unwrap();
    plain.reconfigure(json!({ "batch": { "pair": { "max": 1 } } })).unwrap();
    assert_eq!(plain.call::<usize>("pair", (1,)).unwrap(), 1);
    let error = plain.reconfigure(json!({ "threshold": 1 })).unwrap_err();
    assert!(error.to_string().contains("takes no user_config but for 'batch'"), "{error}");
}

/// What a batch calls is called on nobody's behalf.
#[derive(Debug)]
pub struct Front {
    back: Handle,
    runs: AtomicUsize,
}

#[deployment]
impl Front {
    fn new(back: Handle) -> Self {
        Self { back, runs: AtomicUsize::new(0) }
    }

    #[batch(max = 2, wait = "3600s")]
    pub fn ask(&self, rows: Vec<f64>) -> Result<Vec<bool>> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let both = [rows[0], rows[1], 0.0, 0.0];
        together::<_, bool>(&self.back, "score", &both).into_iter().take(2).collect()
    }
}

#[test]
fn a_batch_may_call_others() {
    let app = decurion::test::LocalApp::new();
    let _back = app.deploy::<Scorer>("back", ()).unwrap();
    let front = app.deploy::<Front>("front", json!(["@back"])).unwrap();
    assert_eq!(ok(together::<_, bool>(&front.handle(), "ask", &[1.0, -1.0])), [true, false]);
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use decurion::tokio::sync::Notify;

    use super::*;

    #[derive(Debug, Default)]
    pub struct Slow {
        go: Notify,
        dropped: AtomicUsize,
        sizes: Mutex<Vec<usize>>,
    }

    struct Counted<'a>(&'a AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[deployment]
    impl Slow {
        #[batch(max = 3, wait = "3600s")]
        pub async fn wait(&self, rows: Vec<u8>) -> Result<Vec<u8>> {
            let _counted = Counted(&self.dropped);
            self.sizes.lock().unwrap().push(rows.len());
            self.go.notified().await;
            assert!(!rows.contains(&0), "a zero");
            Ok(rows)
        }

        #[batch(max = 2, wait = "3600s")]
        async fn call(&self, requests: Vec<Request>) -> Vec<Response> {
            let mut answers = Vec::new();
            for request in requests {
                answers.push(Response::new(200, request.bytes_async().await.unwrap()));
            }
            answers
        }

        pub fn go(&self) {
            self.go.notify_one();
        }

        pub fn runs(&self) -> usize {
            self.sizes.lock().unwrap().len()
        }

        pub fn dropped(&self) -> usize {
            self.dropped.load(Ordering::SeqCst)
        }
    }

    fn until(slow: &Local<Slow>, method: &str, count: usize) {
        while slow.call::<usize>(method, ()).unwrap() != count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_async_batch_answers_its_members() {
        let slow = Local::<Slow>::new(()).unwrap();
        slow.call::<()>("go", ()).unwrap();
        assert_eq!(ok(together::<_, u8>(&slow.handle(), "wait", &[1u8, 2, 3])), [1, 2, 3]);
        slow.call::<()>("go", ()).unwrap();
        let results = together::<_, u8>(&slow.handle(), "wait", &[1u8, 0, 3]);
        assert!(results.iter().all(|result| result.as_ref().unwrap_err().to_string().contains("a zero")));
        let answers: Vec<String> = std::thread::scope(|scope| {
            let ask = |text: &'static str| {
                let slow = &slow;
                scope
                    .spawn(move || slow.request(Request::post("/", text)).unwrap().text().unwrap().to_owned())
            };
            [ask("a"), ask("b")].into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(answers, ["a", "b"]);
    }

    #[test]
    fn a_batch_goes_on_while_anybody_waits_and_is_dropped_then() {
        let slow = Local::<Slow>::new(()).unwrap();
        let handle = slow.handle();
        let mut calls: Vec<_> = (1..4u8).map(|row| handle.start("wait", (row,)).unwrap()).collect();
        until(&slow, "runs", 1);
        let last = calls.pop().unwrap();
        calls.into_iter().for_each(decurion::PendingCall::cancel);
        slow.call::<()>("go", ()).unwrap();
        let _: u8 = last.wait().unwrap();
        assert_eq!(slow.call::<usize>("dropped", ()).unwrap(), 1);
        let calls: Vec<_> = (1..4u8).map(|row| handle.start("wait", (row,)).unwrap()).collect();
        until(&slow, "runs", 2);
        calls.into_iter().for_each(decurion::PendingCall::cancel);
        until(&slow, "dropped", 2);
    }
}
