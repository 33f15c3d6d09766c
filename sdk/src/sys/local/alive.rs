//! The sets that are alive, for calls that come from where nothing tells which is meant.
//!
//! Who looks for a set must not become its last owner: that would destroy its deployments here and now, under whatever
//! locks the caller holds. So what others need to know of a set is in its [`Face`], which owns none of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use decurion_abi::status;

use super::app::{App, lock};
use super::exchange::Exchange;
use super::meter::Meter;

struct Listed {
    face: Arc<Face>,
    app: Weak<App>,
}

static ALIVE: Mutex<Vec<Listed>> = Mutex::new(Vec::new());

thread_local! {
    /// The set whose code this thread runs.
    static RUNNING: RefCell<Option<Arc<App>>> = const { RefCell::new(None) };
}

/// What is known of a set without a share in its life.
pub(super) struct Face {
    number: u64,
    names: Mutex<BTreeSet<String>>,
    meter: Mutex<Meter>,
}

impl Face {
    /// The set has a deployment of this name.
    pub(super) fn has(&self, name: &str) {
        lock(&self.names).insert(name.to_owned());
    }

    /// What was measured.
    pub(super) fn metrics(&self) -> BTreeMap<String, f64> {
        lock(&self.meter).values()
    }

    /// A name by which any thread finds a deployment of this set.
    pub(super) fn global_name(&self, name: &str) -> String {
        format!("local-{}/{name}", self.number)
    }
}

/// Makes a set, and lists it for as long as it lives.
pub(super) fn list(make: impl FnOnce(Arc<Face>) -> App) -> Arc<App> {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let face = Arc::new(Face { number, names: Mutex::default(), meter: Mutex::default() });
    let app = Arc::new(make(Arc::clone(&face)));
    let mut alive = lock(&ALIVE);
    alive.retain(Listed::lives);
    alive.push(Listed { face, app: Arc::downgrade(&app) });
    app
}

impl Listed {
    fn lives(&self) -> bool {
        self.app.strong_count() > 0
    }
}

/// The set and the plain name that a call means: a global name, or one in the set that the caller belongs to.
pub(super) fn resolve(name: &str, parent: Option<&Exchange>) -> Option<(Arc<App>, String)> {
    let of = |is_meant: &dyn Fn(&Face) -> bool| {
        lock(&ALIVE).iter().filter(|listed| is_meant(&listed.face)).find_map(|listed| listed.app.upgrade())
    };
    let has = |face: &Face, name: &str| lock(&face.names).contains(name);
    if let Some((number, name)) = name.strip_prefix("local-").and_then(|rest| rest.split_once('/')) {
        let number: u64 = number.parse().ok()?;
        return Some((of(&|face| face.number == number)?, name.to_owned()));
    }
    let app = own(parent).or_else(|| of(&|face| has(face, name)))?;
    has(app.face(), name).then(|| (app, name.to_owned()))
}

/// Names that a call could mean, for people.
pub(super) fn names(parent: Option<&Exchange>) -> String {
    let mut names = BTreeSet::new();
    match own(parent) {
        Some(app) => names.extend(lock(&app.face().names).iter().cloned()),
        None => lock(&ALIVE)
            .iter()
            .filter(|listed| listed.lives())
            .for_each(|listed| names.extend(lock(&listed.face.names).iter().cloned())),
    }
    if names.is_empty() { "none".to_owned() } else { Vec::from_iter(names).join(", ") }
}

/// Measures for the set whose code this thread runs, or else for the only one there is. An ABI status.
pub(super) fn measure(kind: u32, name: &str, labels: Vec<(&str, &str)>, value: f64) -> i32 {
    let running = RUNNING.with_borrow(|app| app.as_ref().map(|app| Arc::clone(app.face())));
    let only = || {
        let alive = lock(&ALIVE);
        let mut alive = alive.iter().filter(|listed| listed.lives());
        alive.next().filter(|_| alive.next().is_none()).map(|only| Arc::clone(&only.face))
    };
    let face = running.or_else(only);
    face.map_or(status::OK, |face| lock(&face.meter).measure(kind, name, labels, value))
}

fn own(parent: Option<&Exchange>) -> Option<Arc<App>> {
    parent.and_then(|parent| parent.app.upgrade()).or_else(|| RUNNING.with_borrow(Option::clone))
}

/// Marks this thread as running the code of a set.
pub(super) struct Running(Option<Arc<App>>);

impl Running {
    pub(super) fn enter(app: &Arc<App>) -> Self {
        Self(RUNNING.replace(Some(Arc::clone(app))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Taken out first: where it is the last share, destructors run, and they may measure.
        drop(RUNNING.replace(self.0.take()));
    }
}
