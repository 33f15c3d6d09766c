//! The threads of a replica, and whose turn it is to wait for its callers.
//!
//! **Run to completion**: the thread that finds a request runs its handler. One waiting thread at a time *leads*:
//! it looks at the lanes, and sleeps for all; the others follow on a condition variable. A leader that has found
//! what it waited for leaves, and one follower takes over. So a handler that waits (for a body, for room, for a
//! call it made) takes part in the waiting, and with one thread nothing is ever handed from thread to thread.
//!
//! Who leads, where several wait: a thread without a request before one that waits in the middle of something, so that
//! the next request is run by the thread that finds it; and the [deputy](Role::Deputy) where all threads run handlers,
//! and only if callers have to be looked after meanwhile.
//!
//! Nobody sleeps over what it waits for: whoever changes the engine says on leaving it ([`Runner::leave`]) what
//! others may go on with, to followers by their condition variable and to a leader by a poke.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use decurion_abi::level;
use decurion_ipc::control::ReplicaReport;
use decurion_ipc::spin::Spin;
use decurion_ipc::sys::sleeper::Sleeper;
use decurion_ipc::sys::spin::{measure_wake_up, processors, spin};

use crate::engine::{Engine, Job, Messages};
use crate::exchange::SendWaker;
use crate::meter::Meter;
use crate::sys::clock::now_ns;
use crate::sys::outbox::Outbox;

/// Who waits in the middle of something looks so often: a bell that a caller or callee withholds costs that long, and no
/// hang.
const TICK: Duration = Duration::from_nanos(TICK_NS);
const TICK_NS: u64 = 50_000_000;
/// A follower without a deadline looks up so often; only a bound for the system call, nothing hangs on it.
const FOLLOW_MAX: Duration = Duration::from_secs(3600);

/// A handler that returns sooner leads by itself, at no cost; the deputy is for those that take their time.
const STAND_IN_AFTER: Duration = Duration::from_millis(1);

thread_local! {
    /// This thread runs no handler, and is about to look for something to do.
    static FREE: Cell<bool> = const { Cell::new(false) };
}

/// One replica. Lives as long as the process.
#[derive(Debug)]
pub(crate) struct Runner {
    turn: Mutex<Turn>,
    idle: Condvar,
    waiters: Condvar,
    deputy: Condvar,
    /// Where the leader sleeps.
    pub(crate) sleeper: Sleeper,
    /// Words for the supervisor, and for the control thread.
    pub(crate) outbox: Outbox,
    /// What the library measures.
    pub(crate) meter: Mutex<Meter>,
}

/// What a waiting thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A handler thread without a request.
    Idle,
    /// In the middle of something: a handler, the constructor, the life cycle.
    Waiter,
    /// Leads while nobody else does for long, but answers are being sent or wakers wait.
    Deputy,
}

/// The engine and who waits for it. Invariant: where somebody waits who [may lead](Turn::may_lead), one leads, or one
/// was notified and will, or whoever holds the lock sees to it on leaving.
#[derive(Debug)]
struct Turn {
    engine: Engine,
    leader: Option<Role>,
    /// The leader has gone to sleep, or is about to.
    asleep: bool,
    /// When a sleeping leader wakes by itself.
    due_ns: u64,
    /// The leader is to look again.
    poked: bool,
    idle: u32,
    /// One of the idle is on its way, and will see what there is; until then no other need be woken.
    idle_woken: bool,
    waiters: u32,
    deputies: u32,
    /// There is a deputy, or will be.
    has_deputy: bool,
    spin: Spin,
}

impl Turn {
    fn may_lead(&self, role: Role) -> bool {
        match role {
            Role::Idle => true,
            Role::Waiter => self.idle == 0,
            Role::Deputy => self.idle == 0 && self.waiters == 0 && self.engine.needs_care(),
        }
    }

    fn count(&mut self, role: Role) -> &mut u32 {
        match role {
            Role::Idle => &mut self.idle,
            Role::Waiter => &mut self.waiters,
            Role::Deputy => &mut self.deputies,
        }
    }
}

/// What runs requests: the instance, or a test.
pub(crate) trait Handler {
    /// Runs the entry of a request; how it returned.
    fn run(&self, job: Job) -> Returned;
}

/// What a handler thread does next.
#[derive(Debug)]
enum Next {
    Run(Job),
    /// What a waker has asked for.
    Resume(SendWaker),
    End,
}

/// How an entry returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    /// The entry's status.
    pub(crate) status: i32,
    /// It may end its exchange later.
    pub(crate) later: bool,
}

impl Runner {
    /// For so many handler threads.
    pub(crate) fn new(engine: Engine, threads: usize, sleeper: Sleeper, outbox: Outbox) -> Self {
        // All handler threads and a caller may want a processor at the same time.
        let spin = Spin::new(processors(), threads + 1);
        if spin.is_allowed() {
            measure_wake_up();
        }
        let turn = Turn {
            engine,
            leader: None,
            asleep: false,
            due_ns: u64::MAX,
            poked: false,
            idle: 0,
            idle_woken: false,
            waiters: 0,
            deputies: 0,
            has_deputy: false,
            spin,
        };
        let turn = Mutex::new(turn);
        let (idle, waiters, deputy) = (Condvar::new(), Condvar::new(), Condvar::new());
        Self { turn, idle, waiters, deputy, sleeper, outbox, meter: Mutex::default() }
    }

    /// Works on the engine, then sends what came of it on its way.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut turn = self.lock();
        let result = work(&mut turn.engine);
        self.leave(turn);
        result
    }

    /// Looks at the engine, and changes nothing.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        look(&self.lock().engine)
    }

    /// As [`with`](Self::with), for rare changes after which all who wait have to look again, and who sleeps has to
    /// listen anew: a lane has come or gone, the supervisor has told something.
    pub(crate) fn nudge<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut turn = self.lock();
        let result = work(&mut turn.engine);
        turn.engine.note_news();
        turn.poked = turn.leader.is_some();
        self.leave(turn);
        result
    }

    /// As [`with`](Self::with), after a look at what has come, unless a leader sees to that.
    pub(crate) fn refreshed<T>(&self, work: impl FnOnce(&mut Engine, u64) -> T) -> T {
        let now = now_ns();
        let mut turn = self.lock();
        if turn.leader.is_none() || !turn.asleep {
            turn.engine.poll(now);
        }
        let result = work(&mut turn.engine, now);
        self.leave(turn);
        result
    }

    /// Waits in the middle of something, until `check` finds something or the deadline (0: none) has passed: `None`.
    pub(crate) fn wait<T>(
        &self,
        deadline_ns: u64,
        check: impl FnMut(&mut Engine, u64) -> Option<T>,
    ) -> Option<T> {
        self.wait_as(Role::Waiter, self.lock(), deadline_ns, check)
    }

    /// The deputy's life.
    pub(crate) fn stand_in(&self) {
        let mut turn = self.lock();
        while !turn.engine.is_stopped() {
            turn = if turn.leader.is_none() && turn.may_lead(Role::Deputy) {
                self.lead(turn, Role::Deputy, 0, &mut now_ns())
            } else {
                drop(self.follow(turn, Role::Deputy, 0));
                std::thread::sleep(STAND_IN_AFTER);
                self.lock()
            };
        }
    }

    /// One handler thread's life: runs requests until the replica stops.
    pub(crate) fn serve(&self, handler: &impl Handler) {
        let mut turn = self.lock();
        loop {
            let next = self.wait_as(Role::Idle, turn, 0, |engine, now| {
                if let Some(resumed) = engine.next_resumed() {
                    return Some(Next::Resume(resumed));
                }
                let job = engine.next(now).map(Next::Run);
                job.or_else(|| engine.is_stopped().then_some(Next::End))
            });
            let job = match next {
                Some(Next::Run(job)) => job,
                Some(Next::Resume(resumed)) => {
                    super::host::call_waker(resumed);
                    turn = self.lock();
                    continue;
                }
                Some(Next::End) | None => return,
            };
            let Returned { status, later } = handler.run(job);
            turn = self.lock();
            let later = later && status == decurion_abi::status::OK;
            if !turn.engine.entry_returned(job.key, later) {
                let message = format!("the handler returned {status} and left its request unanswered");
                self.outbox.log(level::ERROR, "decurion", None, message);
            }
            // The next one is taken in the same turn, before anybody is told that there is a place.
        }
    }

    /// Has this thread call it as soon as it has told others what there is to tell; `false` where it is not free to.
    pub(crate) fn run_next(&self, what: SendWaker) -> bool {
        let free = FREE.get();
        if free {
            // Nobody else need know: this thread looks again before it waits.
            self.lock().engine.resume(what);
        }
        free
    }

    fn wait_as<'a, T>(
        &'a self,
        role: Role,
        mut turn: MutexGuard<'a, Turn>,
        deadline_ns: u64,
        mut check: impl FnMut(&mut Engine, u64) -> Option<T>,
    ) -> Option<T> {
        FREE.set(role == Role::Idle);
        let mut now = now_ns();
        loop {
            // Wakers first: what they have this thread run goes before further requests.
            if role == Role::Idle && turn.engine.has_wakers() {
                turn.engine.flush();
                turn = self.tell_others(turn);
                now = now_ns();
            }
            let found = check(&mut turn.engine, now);
            if found.is_some() || (deadline_ns != 0 && now >= deadline_ns) {
                FREE.set(false);
                self.leave(turn);
                return found;
            }
            if turn.leader.is_none() && turn.may_lead(role) {
                turn = self.lead(turn, role, deadline_ns, &mut now);
            } else {
                turn = self.follow(turn, role, deadline_ns);
                now = now_ns();
            }
        }
    }

    fn follow<'a>(
        &'a self,
        mut turn: MutexGuard<'a, Turn>,
        role: Role,
        deadline_ns: u64,
    ) -> MutexGuard<'a, Turn> {
        turn.engine.flush();
        if self.tell(&mut turn) {
            self.sleeper.wake();
        }
        if turn.engine.has_messages() {
            return self.tell_others(turn);
        }
        *turn.count(role) += 1;
        let longest = if role == Role::Waiter { TICK } else { FOLLOW_MAX };
        let timeout = until(deadline_ns).unwrap_or(longest).min(longest);
        let changed = match role {
            Role::Idle => &self.idle,
            Role::Waiter => &self.waiters,
            Role::Deputy => &self.deputy,
        };
        let (mut turn, waited) = changed.wait_timeout(turn, timeout).unwrap_or_else(PoisonError::into_inner);
        *turn.count(role) -= 1;
        if role == Role::Waiter && waited.timed_out() && std::mem::take(&mut turn.asleep) {
            // Whoever leads is to look for itself.
            turn.poked = true;
            self.sleeper.wake();
        }
        if role == Role::Idle {
            turn.idle_woken = false;
        }
        turn
    }

    /// Takes in what is there, or waits for something. Whoever leads looks at the engine again afterwards, at the time that
    /// `now` is then.
    fn lead<'a>(
        &'a self,
        mut turn: MutexGuard<'a, Turn>,
        role: Role,
        deadline_ns: u64,
        now: &mut u64,
    ) -> MutexGuard<'a, Turn> {
        let progress = turn.engine.poll(*now);
        turn.engine.expire(*now);
        // Also what was done before: nobody sleeps before everybody is told.
        if turn.engine.take_news() && turn.waiters > 0 {
            self.waiters.notify_all();
        }
        turn.engine.flush();
        if turn.engine.has_messages() {
            turn = self.tell_others(turn);
            *now = now_ns();
            return turn;
        }
        if !progress {
            turn.leader = Some(role);
            turn.poked = false;
            turn = self.rest(turn, role, deadline_ns);
            *now = now_ns();
            turn.engine.poll(*now);
            turn.leader = None;
        }
        turn
    }

    /// Looks a little longer where that pays, then sleeps.
    fn rest<'a>(&'a self, turn: MutexGuard<'a, Turn>, role: Role, deadline_ns: u64) -> MutexGuard<'a, Turn> {
        let (mut turn, came) = self.spin(turn);
        if came {
            return turn;
        }
        self.sleeper.arming();
        if turn.engine.arm() {
            let deadline = (deadline_ns != 0).then_some(deadline_ns);
            let due = due(role, turn.engine.next_timer().into_iter().chain(deadline).min());
            turn.asleep = true;
            turn.due_ns = due.map_or(u64::MAX, |(at, _)| at);
            drop(turn);
            self.sleeper.sleep(due.map(|(_, left)| left));
            for who in self.sleeper.take_named() {
                let message = format!("{who} rings without end and has nothing to say");
                self.outbox.log(level::WARN, "decurion", None, message);
            }
            turn = self.lock();
            turn.asleep = false;
        }
        turn
    }

    fn spin<'a>(&'a self, mut turn: MutexGuard<'a, Turn>) -> (MutexGuard<'a, Turn>, bool) {
        let mut habit = std::mem::replace(&mut turn.spin, Spin::never());
        let mut held = Some(turn);
        let came = spin(&mut habit, || {
            // Others get their turn between two looks.
            drop(held.take());
            let turn = held.insert(self.lock());
            turn.poked || turn.engine.has_news()
        });
        let mut turn = held.unwrap_or_else(|| self.lock());
        turn.spin = habit;
        (turn, came)
    }

    /// Gives the engine up: what happened meanwhile is told to whom it concerns.
    fn leave(&self, mut turn: MutexGuard<'_, Turn>) {
        turn.engine.flush();
        let wakes = self.tell(&mut turn);
        let messages = turn.engine.take_messages();
        drop(turn);
        if wakes {
            self.sleeper.wake();
        }
        if !messages.is_empty() {
            self.deliver(messages);
        }
    }

    /// Tells the other threads of this process; whether the leader is to be woken.
    fn tell(&self, turn: &mut Turn) -> bool {
        let (news, work) = (turn.engine.take_news(), turn.engine.has_work());
        if news && turn.waiters > 0 {
            self.waiters.notify_all();
        }
        if work && turn.idle > 0 {
            self.wake_idle(turn);
        }
        match turn.leader {
            Some(Role::Idle) => turn.poked |= work && turn.idle == 0,
            Some(Role::Waiter) => turn.poked |= news,
            Some(Role::Deputy) => turn.poked |= turn.engine.is_stopped(),
            None => self.hand_over(turn),
        }
        turn.poked |= turn.asleep && turn.engine.next_timer().is_some_and(|at| at < turn.due_ns);
        // It may have armed before room was wanted: then it is not rung when that comes.
        turn.poked |= turn.asleep && turn.engine.is_unheard();
        // Woken once: from then on it is not asleep.
        if turn.poked { std::mem::take(&mut turn.asleep) } else { false }
    }

    /// One at a time: it takes a while, in which the others get on; and each that leaves wakes the next.
    fn wake_idle(&self, turn: &mut Turn) {
        if !std::mem::replace(&mut turn.idle_woken, true) {
            self.idle.notify_one();
        }
    }

    /// Nobody leads: whoever may is to.
    fn hand_over(&self, turn: &mut Turn) {
        if turn.idle > 0 {
            self.wake_idle(turn);
        } else if turn.waiters > 0 {
            self.waiters.notify_one();
        } else if turn.deputies > 0 && (turn.engine.needs_care() || turn.engine.is_stopped()) {
            self.deputy.notify_one();
        } else if !turn.has_deputy && turn.engine.needs_care() {
            turn.has_deputy = true;
            self.outbox.ask_for_deputy();
        }
    }

    /// Delivers without the lock; what happens meanwhile is not missed, since the engine is looked at again.
    fn tell_others<'a>(&'a self, mut turn: MutexGuard<'a, Turn>) -> MutexGuard<'a, Turn> {
        let messages = turn.engine.take_messages();
        drop(turn);
        self.deliver(messages);
        self.lock()
    }

    /// Tells others than the threads that wait here. No lock is held: wakers are the library's.
    fn deliver(&self, messages: Messages) {
        messages.wakers.into_iter().for_each(super::host::call_waker);
        for report in messages.reports {
            self.outbox.send(ReplicaReport::Caller(report));
        }
        for cut in messages.cut_off {
            self.outbox.send(ReplicaReport::CallerFault { caller: cut.caller, fault: cut.fault });
            self.outbox.ring();
        }
        if messages.drained {
            self.outbox.ring();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When somebody who leads as this is to look again, and how long that is from now: looking at the clock is not free.
fn due(role: Role, timer: Option<u64>) -> Option<(u64, Duration)> {
    if role != Role::Waiter && timer.is_none() {
        return None;
    }
    let now = now_ns();
    let tick = if role == Role::Waiter { now + TICK_NS } else { u64::MAX };
    let at = timer.map_or(tick, |at| at.min(tick));
    Some((at, Duration::from_nanos(at.saturating_sub(now))))
}

/// From now to a deadline on the monotonic clock; `None` for none.
fn until(deadline_ns: u64) -> Option<Duration> {
    (deadline_ns != 0).then(|| Duration::from_nanos(deadline_ns.saturating_sub(now_ns())))
}

#[cfg(test)]
mod tests;
