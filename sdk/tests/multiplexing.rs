//! Models by id, as a deployment holds them, driven by the host of `decurion::test`.

#![allow(missing_docs, unreachable_pub, reason = "`pub` is what makes a function a method here")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use decurion::prelude::*;
use decurion::test::{Local, LocalApp};
use decurion::{Models, json, model_id};

/// What was loaded and dropped, in order.
type Log = Arc<Mutex<Vec<String>>>;

#[derive(Debug)]
struct Model {
    id: String,
    log: Log,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.log.lock().unwrap().push(format!("-{}", self.id));
    }
}

fn load(log: &Log, id: &str) -> Result<Model> {
    if id.starts_with('!') {
        return Err(Error::status(404, format!("no model {id}")));
    }
    log.lock().unwrap().push(format!("+{id}"));
    Ok(Model { id: id.to_owned(), log: Arc::clone(log) })
}

fn models(max: usize) -> (Models<Model>, Log) {
    let log = Log::default();
    let seen = Arc::clone(&log);
    (Models::new(max, move |id| load(&seen, id)), log)
}

fn logged(log: &Log) -> Vec<String> {
    log.lock().unwrap().clone()
}

#[test]
fn the_one_used_longest_ago_goes_before_the_next_is_loaded() {
    let (models, log) = models(2);
    for id in ["a", "b", "a", "c"] {
        assert_eq!(models.get(id).unwrap().id, id);
    }
    assert_eq!(logged(&log), ["+a", "+b", "-b", "+c"]);
    assert_eq!(models.held(), ["a", "c"]);
    drop(models);
    assert_eq!(logged(&log)[4..].iter().filter(|line| line.starts_with('-')).count(), 2);
}

#[test]
fn one_in_use_is_dropped_by_its_last_user() {
    let (models, log) = models(1);
    let in_use = models.get("a").unwrap();
    let _ = models.get("b").unwrap();
    assert_eq!(logged(&log), ["+a", "+b"]);
    assert_eq!(in_use.id, "a");
    drop(in_use);
    assert_eq!(logged(&log), ["+a", "+b", "-a"]);
}

#[test]
fn many_who_ask_at_once_have_it_loaded_once() {
    const THREADS: usize = 8;
    let loads = Arc::new(AtomicUsize::new(0));
    let (enter, entered) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let (counted, gone) = (Arc::clone(&loads), Mutex::new(gone));
    let models = Models::new(2, move |id| {
        counted.fetch_add(1, Ordering::SeqCst);
        enter.send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        Ok(id.to_owned())
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| models.get("a").unwrap());
        entered.recv().unwrap();
        // It is being loaded: whoever comes now finds it so, or loaded.
        let others: Vec<_> = (1..THREADS).map(|_| scope.spawn(|| models.get("a").unwrap())).collect();
        go.send(()).unwrap();
        let model = first.join().unwrap();
        assert!(others.into_iter().all(|other| Arc::ptr_eq(&model, &other.join().unwrap())));
    });
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

#[test]
fn an_error_and_a_panic_do_not_poison() {
    let fail = AtomicUsize::new(2);
    let models = Models::new(2, move |id| {
        match fail.fetch_sub(1, Ordering::SeqCst) {
            2 => panic!("as asked"),
            1 => return Err(Error::msg("not yet")),
            _ => {}
        }
        Ok(id.to_owned())
    });
    assert!(models.get("a").unwrap_err().to_string().contains("panicked: as asked"));
    assert_eq!(models.get("a").unwrap_err().to_string(), "not yet");
    assert_eq!(*models.get("a").unwrap(), "a");
}

#[derive(Debug)]
pub struct Zoo {
    models: Models<Model>,
}

#[deployment]
impl Zoo {
    fn new(max_num_models_per_replica: usize) -> Self {
        Self { models: models(max_num_models_per_replica).0 }
    }

    fn call(&self, req: Request) -> Result<String> {
        Ok(self.models.of(&req)?.id.clone())
    }

    pub fn which(&self) -> Result<String> {
        assert_eq!(model_id().as_deref(), Some(self.models.current()?.id.as_str()));
        Ok(self.models.current()?.id.clone())
    }

    pub fn held(&self) -> Vec<String> {
        self.models.held()
    }
}

#[test]
fn requests_and_calls_name_their_model() {
    let zoo = Local::<Zoo>::new(json!({ "max_num_models_per_replica": 2 })).unwrap();
    for name in ["serve_multiplexed_model_id", "Serve-Multiplexed-Model-Id", "serve-multiplexed_model-id"] {
        let request = Request::get("/").with_header(name, "cat").unwrap();
        assert_eq!(request.model_id(), Some("cat"));
        assert_eq!(zoo.request(request).unwrap().text().unwrap(), "cat");
    }
    let none = zoo.get("/").unwrap();
    assert_eq!(none.status().as_u16(), 400);
    assert!(none.text().unwrap().contains("names no model"));
    let dog = zoo.handle().with_model_id("dog");
    assert_eq!(dog.call::<String>("which", ()).unwrap(), "dog");
    assert_eq!(dog.request(Request::get("/")).unwrap().text().unwrap(), "dog");
    assert_eq!(zoo.call::<Vec<String>>("held", ()).unwrap(), ["cat", "dog"]);
    let missing = zoo.handle().with_model_id("!yeti").call::<String>("which", ()).unwrap_err();
    assert_eq!(missing.code().unwrap().as_u16(), 404);
}

#[derive(Debug)]
pub struct Keeper {
    zoo: Handle,
}

#[deployment]
impl Keeper {
    fn new(zoo: Handle) -> Self {
        Self { zoo }
    }

    pub fn ask(&self, id: String) -> Result<String> {
        self.zoo.with_model_id(&id).call("which", ())
    }
}

#[test]
fn a_model_travels_with_a_handle_and_no_further() {
    let app = LocalApp::new();
    let _zoo = app.deploy::<Zoo>("zoo", json!([1])).unwrap();
    let keeper = app.deploy::<Keeper>("keeper", json!(["@zoo"])).unwrap();
    let keeper = keeper.handle().with_model_id("keeper's own");
    assert_eq!(keeper.call::<String>("ask", ("cat",)).unwrap(), "cat");
}

#[test]
fn who_measures_beside_a_deployment_never_ends_it() {
    // Its destructor tells that its models are gone, while the one beside it is telling of its own.
    const ROUNDS: usize = 1000;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let (models, _) = models(1);
            for id in ["a", "b"].iter().cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
                assert_eq!(models.get(id).unwrap().id, *id);
            }
        });
        for _ in 0..ROUNDS {
            let zoo = Local::<Zoo>::new(json!([1])).unwrap();
            assert_eq!(zoo.get("/").unwrap().status().as_u16(), 400);
        }
        over.store(true, Ordering::Relaxed);
        beside.join().unwrap();
    });
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use decurion::tokio::sync::Semaphore;

    use super::*;

    #[derive(Debug)]
    pub struct Slow {
        models: Models<String>,
        loads: Arc<AtomicUsize>,
        go: Arc<Semaphore>,
    }

    #[deployment]
    impl Slow {
        fn new(max_num_models_per_replica: usize) -> Self {
            let (loads, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
            let (counted, gate) = (Arc::clone(&loads), Arc::clone(&go));
            let models = Models::new_async(max_num_models_per_replica, move |id| {
                let (counted, gate) = (Arc::clone(&counted), Arc::clone(&gate));
                async move {
                    counted.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await?.forget();
                    assert!(!id.starts_with('!'), "no such model");
                    Ok(id)
                }
            });
            Self { models, loads, go }
        }

        async fn call(&self, req: Request) -> Result<String> {
            Ok(self.models.of_async(&req).await?.to_string())
        }

        pub async fn which(&self) -> Result<String> {
            let id = model_id().unwrap_or_default();
            Ok(self.models.get_async(&id).await?.to_string())
        }

        pub fn loads(&self) -> usize {
            self.loads.load(Ordering::SeqCst)
        }

        pub fn go(&self, count: usize) {
            self.go.add_permits(count);
        }
    }

    #[test]
    fn an_async_load_is_shared_and_outlives_who_asked_first() {
        let slow = Local::<Slow>::new(json!([2])).unwrap();
        let a = slow.handle().with_model_id("a");
        let first = a.start("which", ()).unwrap();
        while slow.call::<usize>("loads", ()).unwrap() != 1 {
            std::thread::yield_now();
        }
        let others: Vec<_> = (0..4).map(|_| a.start("which", ()).unwrap()).collect();
        first.cancel();
        slow.call::<()>("go", (1,)).unwrap();
        for other in others {
            assert_eq!(other.wait::<String>().unwrap(), "a");
        }
        assert_eq!(slow.call::<usize>("loads", ()).unwrap(), 1);
        slow.call::<()>("go", (3,)).unwrap();
        let none = slow.handle().with_model_id("!").call::<String>("which", ()).unwrap_err();
        assert!(none.to_string().contains("no such model"), "{none}");
        let b = Request::get("/").with_header("serve_multiplexed_model_id", "b").unwrap();
        assert_eq!(slow.request(b).unwrap().text().unwrap(), "b");
    }
}
