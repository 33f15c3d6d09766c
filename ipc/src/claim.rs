//! Who has a request that was sent and may not have been begun: its callee, by taking it, or its caller again, by
//! withdrawing it.
//!
//! Each side has one word for it, which it alone writes. Whoever wants the request writes its generation there, then
//! looks at the other's word; a full fence stands between the two on both sides, so at least one of them sees the
//! other. A callee that sees the caller's word lets go. A caller that sees the callee's knows only that it may have
//! been begun, and waits for what the callee says: never do both have it, and a callee that does not run for a while
//! cannot keep what it has not begun.

use crate::event_index::{Load, Store};
use crate::sync::{Ordering, Site, fence};

/// The callee's side: true where the request is its own from now on.
#[inline]
pub(crate) fn take(generation: u32, taken: &impl Store, withdrawn: &impl Load) -> bool {
    // SYNC POINT: taken. Pairs with the caller's acquiring load after the callee's death.
    taken.store(generation, Ordering::Release);
    fence(Site::Take);
    withdrawn.load(Ordering::Relaxed) != generation
}

/// The caller's side: true where the callee never begins with it. False: it may have.
#[inline]
pub(crate) fn withdraw(generation: u32, withdrawn: &impl Store, taken: &impl Load) -> bool {
    withdrawn.store(generation, Ordering::Relaxed);
    fence(Site::Withdraw);
    taken.load(Ordering::Relaxed) != generation
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::sync::{AtomicU32, without};

    fn race() {
        loom::model(|| {
            let words = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
            let callee = thread::spawn({
                let words = words.clone();
                move || take(7, &words.0, &words.1)
            });
            let withdrawn = withdraw(7, &words.1, &words.0);
            let taken = callee.join().unwrap();
            assert!(!(withdrawn && taken), "both have it");
        });
    }

    #[test]
    fn loom_never_do_both_sides_have_a_request() {
        race();
    }

    /// See `event_index::loom_models`.
    #[test]
    fn loom_each_fence_of_a_claim_is_needed() {
        for mutant in ["take", "withdraw"] {
            let name = format!("claim::loom_models::without_{mutant}");
            let this = std::env::current_exe().unwrap();
            let output =
                std::process::Command::new(this).args(["--ignored", "--exact", &name]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("running 1 test"), "{name} was not run");
            assert!(!output.status.success(), "the model does not notice what is missing {name}");
        }
    }

    #[test]
    #[ignore = "must fail: run by loom_each_fence_of_a_claim_is_needed"]
    fn without_take() {
        without(Site::Take, race);
    }

    #[test]
    #[ignore = "must fail: run by loom_each_fence_of_a_claim_is_needed"]
    fn without_withdraw() {
        without(Site::Withdraw, race);
    }
}
