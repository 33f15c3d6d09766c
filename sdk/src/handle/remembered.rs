//! What has come of calls with these types.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// As many are remembered; then all are forgotten.
const MAX: usize = 4096;

/// Types that their callees were seen to read in bincode. A callee that comes to have others says so, once.
pub(super) static UNDERSTOOD: Keys = Keys::new();
/// Types that their callees would misread in bincode, so that they are asked in JSON at once.
pub(super) static MISREAD: Keys = Keys::new();

pub(super) struct Keys {
    keys: Mutex<BTreeSet<u64>>,
    /// To be looked at without the lock: most processes never have a key of one kind.
    filled: AtomicBool,
}

/// Names deployment, method and types; never 0.
pub(super) fn key(deployment: &str, method: &str, types: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (deployment, method, types).hash(&mut hasher);
    hasher.finish().max(1)
}

impl Keys {
    const fn new() -> Self {
        Self { keys: Mutex::new(BTreeSet::new()), filled: AtomicBool::new(false) }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.filled.load(Ordering::Relaxed)
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.keys().contains(&key)
    }

    pub(super) fn insert(&self, key: u64) {
        let mut keys = self.keys();
        if keys.len() >= MAX {
            keys.clear();
        }
        keys.insert(key);
        self.filled.store(true, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, key: u64) {
        self.keys().remove(&key);
    }

    fn keys(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
