//! The event index under every schedule and every weak ordering that loom knows, and proof that each of its steps
//! is needed: without it a model fails.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;
use crate::sync::{AtomicU32, without};

impl Load for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }
}

impl Store for AtomicU32 {
    fn store(&self, value: u32, order: Ordering) {
        AtomicU32::store(self, value, order);
    }
}

/// What both sides share, with the bell as a flag under a lock: a sleeper that nobody rings is a deadlock,
/// which loom reports.
struct Shared {
    tail: AtomicU32,
    wake_at: AtomicU32,
    want_room: AtomicU32,
    bell: Mutex<bool>,
    rung: Condvar,
}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared {
            tail: AtomicU32::new(0),
            wake_at: AtomicU32::new(0),
            want_room: AtomicU32::new(0),
            bell: Mutex::new(false),
            rung: Condvar::new(),
        })
    }

    fn ring(&self) {
        *self.bell.lock().unwrap() = true;
        self.rung.notify_one();
    }

    fn sleep(&self) {
        let mut bell = self.bell.lock().unwrap();
        while !*bell {
            bell = self.rung.wait(bell).unwrap();
        }
        *bell = false;
    }

    fn flush(&self, publisher: &mut Publisher) {
        if publisher.must_ring(&self.wake_at, &self.want_room) {
            self.ring();
        }
    }

    /// Reads until `until` slots have come, sleeping whenever there is nothing.
    fn read(&self, until: u32, wants_room: bool) {
        loop {
            let head = Load::load(&self.tail, Ordering::Acquire);
            if head >= until {
                return;
            }
            if arm(head, wants_room, &self.wake_at, &self.want_room, &self.tail) {
                self.sleep();
            }
        }
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A publisher of `slots` (loud or quiet), flushed one by one, against a reader of all of them.
fn stream(slots: &'static [bool], wants_room: bool) {
    check(move || {
        let shared = Shared::new();
        let publisher = thread::spawn({
            let shared = shared.clone();
            move || {
                let mut publisher = Publisher::default();
                for &loud in slots {
                    publisher.publish(&shared.tail, loud);
                    shared.flush(&mut publisher);
                }
            }
        });
        let until = u32::try_from(slots.len()).unwrap();
        shared.read(until, wants_room);
        publisher.join().unwrap();
    });
}

/// Both sides publish and both sleep: a request and its answer.
fn round_trip() {
    check(|| {
        let (down, up) = (Shared::new(), Shared::new());
        let callee = thread::spawn({
            let (down, up) = (down.clone(), up.clone());
            move || {
                down.read(1, false);
                let mut publisher = Publisher::default();
                publisher.publish(&up.tail, true);
                up.flush(&mut publisher);
            }
        });
        let mut publisher = Publisher::default();
        publisher.publish(&down.tail, true);
        down.flush(&mut publisher);
        up.read(1, false);
        callee.join().unwrap();
    });
}

#[test]
fn loom_loud_slots_are_never_slept_over() {
    stream(&[true, true], false);
}

#[test]
fn loom_a_loud_slot_after_a_quiet_one_is_never_slept_over() {
    stream(&[false, true], false);
}

#[test]
fn loom_returns_reach_who_waits_for_room() {
    stream(&[false, false], true);
}

#[test]
fn loom_a_request_is_answered() {
    round_trip();
}

/// Each mutant must fail. A model that fails may take the process along, so each runs in one of its own.
#[test]
fn loom_each_site_is_needed() {
    for mutant in ["publish", "sleep", "second_look", "open_span", "wish"] {
        let name = format!("event_index::loom_models::mutants::without_{mutant}");
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new(this).args(["--ignored", "--exact", &name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("running 1 test"), "{name} was not run");
        assert!(!output.status.success(), "the models do not notice what is missing {name}");
    }
}

mod mutants {
    use super::*;

    #[test]
    #[ignore = "must fail: run by loom_each_site_is_needed"]
    fn without_publish() {
        // `wake_at` begins as 0, so a stale look at it matters from the second slot on.
        without(Site::Publish, || stream(&[true, true], false));
    }

    #[test]
    #[ignore = "must fail: run by loom_each_site_is_needed"]
    fn without_sleep() {
        without(Site::Sleep, || stream(&[true, true], false));
    }

    #[test]
    #[ignore = "must fail: run by loom_each_site_is_needed"]
    fn without_second_look() {
        without(Site::SecondLook, || stream(&[true, true], false));
    }

    #[test]
    #[ignore = "must fail: run by loom_each_site_is_needed"]
    fn without_open_span() {
        without(Site::OpenSpan, || stream(&[false, true], false));
    }

    #[test]
    #[ignore = "must fail: run by loom_each_site_is_needed"]
    fn without_wish() {
        without(Site::Wish, || stream(&[false, false], true));
    }
}
