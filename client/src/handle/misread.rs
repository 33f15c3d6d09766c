//! Types that a callee would misread in bincode: it is asked in JSON at once, until that fails.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decurion_ipc::caller::Reply;

use super::{CallFailed, TYPES_HEADER, UNSUPPORTED};

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

    /// The call was answered.
    pub(super) fn learn(&self, said: Said) {
        let mut keys = self.misread.keys();
        match (self.in_json, said) {
            (true, Said::Good) | (false, Said::Good | Said::Failed) => {}
            (true, _) => _ = keys.remove(&self.key),
            (false, Said::Misread) => {
                if keys.len() >= MAX {
                    keys.clear();
                }
                keys.insert(self.key);
            }
        }
    }
}

/// What an answer says of a call of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// There is a result.
    Good,
    /// It failed.
    Failed,
    /// Nothing has run: the callee would misread it.
    Misread,
}

impl Said {
    pub(super) fn by(reply: &Reply) -> Self {
        // Without the field the status is the method's own.
        let refused = || reply.headers.iter().any(|(name, _)| **name == *TYPES_HEADER.as_bytes());
        match reply.status {
            200 => Said::Good,
            UNSUPPORTED if refused() => Said::Misread,
            _ => Said::Failed,
        }
    }
}

/// How a call went that may have to be made once more.
#[derive(Debug)]
pub(super) enum Answered<T> {
    /// Nothing has run: the callee would misread it.
    Misread(CallFailed),
    /// This came of it.
    Went(Result<T, CallFailed>),
}

impl<T> Answered<T> {
    pub(super) fn into_result(self) -> Result<T, CallFailed> {
        match self {
            Answered::Misread(error) => Err(error),
            Answered::Went(result) => result,
        }
    }

    pub(super) fn and_then<R>(self, next: impl FnOnce(T) -> Result<R, CallFailed>) -> Answered<R> {
        match self {
            Answered::Misread(error) => Answered::Misread(error),
            Answered::Went(result) => Answered::Went(result.and_then(next)),
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
        let story = [
            (Said::Good, false),
            (Said::Failed, false),
            (Said::Misread, true),
            (Said::Good, true),
            (Said::Failed, false),
        ];
        for (said, then_in_json) in story {
            lesson().learn(said);
            assert_eq!(lesson().in_json(), then_in_json, "after {said:?}");
        }
        lesson().learn(Said::Misread);
        assert!(!misread.lesson("walk", "(i64,) => i64").in_json(), "another method");
        assert!(!misread.lesson("run", "(i64,) => _").in_json(), "other types");
    }

    #[test]
    fn a_refusal_of_the_method_s_own_is_not_of_its_types() {
        let mut reply = Reply { status: UNSUPPORTED, ..Reply::default() };
        assert_eq!(Said::by(&reply), Said::Failed);
        reply.headers.push((TYPES_HEADER.into(), Vec::new()));
        assert_eq!(Said::by(&reply), Said::Misread);
        reply.status = 200;
        assert_eq!(Said::by(&reply), Said::Good);
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let misread = Arc::new(Misread::default());
        (0..=MAX).for_each(|n| misread.lesson("run", &n.to_string()).learn(Said::Misread));
        assert_eq!(misread.keys().len(), 1);
    }
}
