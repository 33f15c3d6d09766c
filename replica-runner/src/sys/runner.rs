//! The threads of a replica, and whose turn it is to wait for its callers.
//!
//! **Run to completion**: the thread that finds a request runs its handler. One waiting thread at a time *leads*:
//! it looks at the lanes, and sleeps for all; the others follow on a condition variable. A leader that has found
//! what it waited for leaves, and one follower takes over. So a handler that waits (for a body, for room, for a
//! call it made) takes part in the waiting, and with one thread nothing is ever handed from thread to thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decurion_abi::{flags, level, status};
use decurion_ipc::control::ReplicaReport;

use crate::engine::Engine;
use crate::exchange::Phase;
use crate::slab::Key;
use crate::sys::clock::now_ns;
use crate::sys::library::Instance;
use crate::sys::outbox::Outbox;
use crate::sys::sleeper::Sleeper;

/// Body of an answer to a request whose handler failed without a word for the client.
pub(crate) const INTERNAL_ERROR: &str = "Internal Server Error";

/// A follower without a deadline looks up so often; only a bound for the system call, nothing hangs on it.
const FOLLOW_MAX: Duration = Duration::from_secs(3600);

/// One replica. Lives as long as the process.
#[derive(Debug)]
pub(crate) struct Runner {
    turn: Mutex<Turn>,
    changed: Condvar,
    /// Where the leader sleeps.
    pub(crate) sleeper: Sleeper,
    /// Words for the supervisor.
    pub(crate) outbox: Outbox,
}

#[derive(Debug)]
struct Turn {
    engine: Engine,
    leading: bool,
    followers: u32,
}

enum Job {
    Run(Key),
    Stop,
}

impl Runner {
    pub(crate) fn new(engine: Engine, sleeper: Sleeper, outbox: Outbox) -> Self {
        let turn = Turn { engine, leading: false, followers: 0 };
        Self { turn: Mutex::new(turn), changed: Condvar::new(), sleeper, outbox }
    }

    /// Works on the engine, then sends what came of it on its way.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut turn = self.lock();
        let result = work(&mut turn.engine);
        turn.engine.flush();
        self.leave(turn);
        result
    }

    /// Looks at the engine, and changes nothing that anybody waits for.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Engine) -> T) -> T {
        look(&mut self.lock().engine)
    }

    /// The same, where a sleeping leader has to look again: a bound has grown, a lane has come.
    pub(crate) fn nudge<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut turn = self.lock();
        let result = work(&mut turn.engine);
        turn.engine.flush();
        let led = turn.leading;
        self.leave(turn);
        if led {
            self.sleeper.wake();
        }
        result
    }

    /// Waits until `check` finds something, or the deadline (0: none) has passed: `None`.
    pub(crate) fn wait<T>(
        &self,
        deadline_ns: u64,
        mut check: impl FnMut(&mut Engine, u64) -> Option<T>,
    ) -> Option<T> {
        let mut turn = self.lock();
        loop {
            let now = now_ns();
            let found = check(&mut turn.engine, now);
            if found.is_some() || (deadline_ns != 0 && now >= deadline_ns) {
                turn.engine.flush();
                self.leave(turn);
                return found;
            }
            turn = if turn.leading { self.follow(turn, deadline_ns) } else { self.lead(turn, deadline_ns) };
        }
    }

    fn follow<'a>(&'a self, mut turn: MutexGuard<'a, Turn>, deadline_ns: u64) -> MutexGuard<'a, Turn> {
        turn.followers += 1;
        let timeout = until(deadline_ns).unwrap_or(FOLLOW_MAX);
        let (mut turn, _) = self.changed.wait_timeout(turn, timeout).unwrap_or_else(PoisonError::into_inner);
        turn.followers -= 1;
        turn
    }

    fn lead<'a>(&'a self, mut turn: MutexGuard<'a, Turn>, deadline_ns: u64) -> MutexGuard<'a, Turn> {
        let mut progress = turn.engine.poll(now_ns());
        if !progress {
            turn.leading = true;
            turn.engine.flush();
            if turn.engine.arm() {
                let timer = turn.engine.next_timer();
                let due = [timer, (deadline_ns != 0).then_some(deadline_ns)].into_iter().flatten().min();
                drop(turn);
                self.sleeper.sleep(due.and_then(until));
                turn = self.lock();
            }
            turn.engine.disarm();
            let now = now_ns();
            progress = turn.engine.poll(now);
            turn.engine.expire(now);
            turn.leading = false;
        }
        let wakers = turn.engine.take_wakers();
        if progress && turn.followers > 0 {
            self.changed.notify_all();
        }
        if wakers.is_empty() {
            return turn;
        }
        drop(turn);
        wakers.into_iter().for_each(super::host::call_waker);
        self.lock()
    }

    /// Gives the engine up: what happened meanwhile is told to whom it concerns.
    fn leave(&self, mut turn: MutexGuard<'_, Turn>) {
        let wakers = turn.engine.take_wakers();
        let reports = turn.engine.calls.take_reports();
        let cut_off = turn.engine.take_cut_off();
        let freed = turn.engine.take_freed();
        match turn.followers {
            0 => {}
            // A place or the gate is free, and somebody waits for it.
            _ if freed => self.changed.notify_all(),
            // Somebody has to lead.
            _ if !turn.leading => self.changed.notify_one(),
            _ => {}
        }
        drop(turn);
        wakers.into_iter().for_each(super::host::call_waker);
        for report in reports {
            self.outbox.send(ReplicaReport::Caller(report));
        }
        for cut in cut_off {
            self.outbox.send(ReplicaReport::CallerFault { caller: cut.caller, fault: cut.fault });
        }
    }

    /// One handler thread's life: runs requests until the replica stops.
    pub(crate) fn serve(&self, instance: &Instance) {
        loop {
            let job = self.wait(0, |engine, now| match engine.next(now) {
                Some(key) => Some(Job::Run(key)),
                None if engine.is_stopped() => Some(Job::Stop),
                None => None,
            });
            match job {
                Some(Job::Run(key)) => self.run(instance, key),
                Some(Job::Stop) | None => return,
            }
        }
    }

    fn run(&self, instance: &Instance, key: Key) {
        let table = instance.class().table();
        let facts = self.look(|engine| {
            let request = engine.exchange(key)?.view.request();
            Some((request.kind == decurion_abi::kind::HTTP, request.method_index))
        });
        let Some((http, method)) = facts else { return };
        let entry_flags = if http { table.call_flags } else { instance.class().method_flags(method) };
        let outcome = instance.answer(http, key.to_opaque());
        let left_open = self.with(|engine| {
            let open = engine.exchange(key).is_some_and(|exchange| exchange.phase != Phase::Ended);
            let left_open = open && (outcome != status::OK || entry_flags & flags::ASYNC == 0);
            if left_open {
                let _ = engine.fail(key, 500, INTERNAL_ERROR);
            }
            engine.returned(key);
            left_open
        });
        if left_open {
            let message = format!("the handler returned {outcome} and left its request unanswered");
            self.outbox.log(level::ERROR, "decurion", None, message);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From now to a deadline on the monotonic clock; `None` for none.
fn until(deadline_ns: u64) -> Option<Duration> {
    (deadline_ns != 0).then(|| Duration::from_nanos(deadline_ns.saturating_sub(now_ns())))
}
