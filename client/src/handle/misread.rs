//! Types that a callee would misread in bincode: it is asked in JSON at once, until that fails.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::UNSUPPORTED;

/// As many are remembered of a deployment; then all are forgotten.
const MAX: usize = 1024;

/// What is known of one deployment.
#[derive(Debug, Default)]
pub(super) struct Misread(Mutex<BTreeSet<u64>>);

/// What a call's status tells.
#[derive(Clone, Debug)]
pub(super) struct Lesson {
    misread: Arc<Misread>,
    key: u64,
    in_json: bool,
}

impl Misread {
    /// How these types are to be asked for, and what is learned from how that goes.
    pub(super) fn lesson(self: &Arc<Self>, method: &str, types: &str) -> Lesson {
        let mut hasher = DefaultHasher::new();
        (method, types).hash(&mut hasher);
        let key = hasher.finish();
        Lesson { misread: Arc::clone(self), key, in_json: self.keys().contains(&key) }
    }

    fn keys(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lesson {
    /// Whether bincode is known to be misread.
    pub(super) fn in_json(&self) -> bool {
        self.in_json
    }

    /// The call was answered with this status.
    pub(super) fn learn(&self, status: u16) {
        let mut keys = self.misread.keys();
        match (self.in_json, status) {
            (true, 200) => {}
            (true, _) => _ = keys.remove(&self.key),
            (false, UNSUPPORTED) => {
                if keys.len() >= MAX {
                    keys.clear();
                }
                keys.insert(self.key);
            }
            (false, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_misread_goes_in_json_until_that_fails() {
        let misread = Arc::new(Misread::default());
        let lesson = || misread.lesson("run", "(i64,) => i64");
        for (status, then_in_json) in
            [(200, false), (500, false), (UNSUPPORTED, true), (200, true), (400, false)]
        {
            lesson().learn(status);
            assert_eq!(lesson().in_json(), then_in_json, "after {status}");
        }
        lesson().learn(UNSUPPORTED);
        assert!(!misread.lesson("walk", "(i64,) => i64").in_json(), "another method");
        assert!(!misread.lesson("run", "(i64,) => _").in_json(), "other types");
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let misread = Arc::new(Misread::default());
        (0..=MAX).for_each(|n| misread.lesson("run", &n.to_string()).learn(UNSUPPORTED));
        assert_eq!(misread.keys().len(), 1);
    }
}
