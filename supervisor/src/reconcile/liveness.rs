//! Whether a replica, or a proxy, is still alive: the rule by which one that hangs is found, stopped or wedged as it may be.
//!
//! ```text
//!   probe ──> answer                                alive; the next probe after a period
//!   probe ──> SILENT_AFTER ──> out of rotation ──> answer        back in rotation
//!                                    └──────────> HUNG_AFTER     hung: replaced
//! ```
//!
//! The answer tells as well whether a request runs on long after its deadline: a handler that spins, or waits for what never
//! comes, is found so, and only its replica goes ([`STUCK_AFTER`]).
//!
//! A proxy has no rotation to be taken out of, and less time: nothing is served without it. It answers a probe once every
//! worker of it has turned.
//!
//! A replica answers a probe on the thread that speaks with the supervisor, where nothing of the library's ever runs: a
//! handler that blocks does not make a replica silent. The verdict takes two steps, each reckoned from the moment in
//! which the one before was taken, so that a supervisor that was itself stopped for a while hears what has come
//! meanwhile before it condemns anybody.

use std::time::{Duration, Instant};

use decurion_api::ReplicaId;

use crate::reconcile::fact::{Board, ProxyInstance, Work};
use crate::reconcile::observed::{Condemned, Note, Observed};
use crate::reconcile::progress::Pace;
use crate::reconcile::proxy::ProxyPhase;

/// From one probe to the next, where requests are moving.
pub const PROBE_PERIOD: Duration = Duration::from_secs(2);
/// Where none are: so long for each replica that there is, so that many idle ones wake up seldom.
pub const PROBE_PERIOD_IDLE_EACH: Duration = Duration::from_secs(1);
/// So long after the last sign of a request a deployment counts as busy.
pub const BUSY_FOR: Duration = Duration::from_secs(3);
/// A probe without an answer for so long takes the replica out of rotation.
pub const SILENT_AFTER: Duration = Duration::from_secs(2);
/// A replica that is out of rotation for so long, and still silent, is replaced.
pub const HUNG_AFTER: Duration = Duration::from_secs(4);

/// A proxy that has been silent so long after [`SILENT_AFTER`] is replaced.
pub const PROXY_HUNG_AFTER: Duration = Duration::from_secs(3);

/// A request that still runs so long after its deadline holds a thread that will not come back: the replica is replaced,
/// and has its time to finish the others.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// What is known of one process's being alive.
#[derive(Clone, Debug)]
pub struct Liveness {
    /// When it was probed last, or became ready.
    pub probed_at: Instant,
    /// The probe that has no answer yet.
    pub asked: Option<u64>,
    /// Since when it is out of rotation, for it does not answer.
    pub silent_since: Option<Instant>,
    /// When its board showed a request last.
    pub busy_at: Option<Instant>,
    /// What it has between the two steps of the verdict.
    pub hung_after: Duration,
}

impl Liveness {
    /// Of a replica that is ready now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { probed_at: now, asked: None, silent_since: None, busy_at: None, hung_after: HUNG_AFTER }
    }

    /// Of a proxy that is there now.
    #[must_use]
    pub fn of_proxy(now: Instant) -> Self {
        Self { hung_after: PROXY_HUNG_AFTER, ..Self::new(now) }
    }

    /// Notes a probe that is on its way.
    pub fn probed(&mut self, sequence: u64, now: Instant) {
        (self.asked, self.probed_at) = (Some(sequence), now);
    }

    /// Takes an answer. True: it was silent, and is back.
    pub fn answered(&mut self, sequence: u64) -> bool {
        if self.asked != Some(sequence) {
            return false;
        }
        self.asked = None;
        self.silent_since.take().is_some()
    }

    /// Compares two looks at the board.
    pub fn board(&mut self, before: Board, after: Board, now: Instant) {
        if after.ongoing > 0 || after.processed != before.processed {
            self.busy_at = Some(now);
        }
    }

    /// Whether requests have lately been moving in it.
    #[must_use]
    pub fn is_busy(&self, now: Instant) -> bool {
        self.busy_at.is_some_and(|at| now < at + BUSY_FOR)
    }

    /// When the next probe, or the next step of the verdict, is due.
    #[must_use]
    pub fn next_at(&self, period: Duration) -> Instant {
        match (self.asked, self.silent_since) {
            (None, _) => self.probed_at + period,
            (Some(_), None) => self.probed_at + SILENT_AFTER,
            (Some(_), Some(since)) => since + self.hung_after,
        }
    }

    /// Takes the step of the verdict that time brings.
    pub fn elapse(&mut self, now: Instant) -> Step {
        // Without a probe on its way the period does not matter: nothing is due.
        if self.asked.is_none() || now < self.next_at(Duration::ZERO) {
            return Step::Nothing;
        }
        let silent_for = now.duration_since(self.probed_at);
        match self.silent_since {
            None => {
                self.silent_since = Some(now);
                Step::Silent(silent_for)
            }
            Some(_) => Step::Hung(silent_for),
        }
    }
}

/// What time has brought.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// It gets no new requests from now on: it has been silent for so long.
    Silent(Duration),
    /// It is to be replaced: it has been silent for so long.
    Hung(Duration),
}

/// From one probe to the next of a replica, with so many replicas in all.
#[must_use]
pub fn probe_period(busy: bool, replicas: usize) -> Duration {
    let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
    if busy { PROBE_PERIOD } else { PROBE_PERIOD.max(PROBE_PERIOD_IDLE_EACH.saturating_mul(replicas)) }
}

impl Observed {
    /// Finds those that have been silent for too long.
    pub(super) fn miss_signs_of_life(&mut self, now: Instant) {
        let mut silent: Vec<(ReplicaId, Duration)> = Vec::new();
        for replica in self.replicas.values_mut().filter(|replica| replica.is_serving()) {
            match replica.liveness.elapse(now) {
                Step::Nothing => {}
                Step::Silent(time) => silent.push((replica.id.clone(), time)),
                Step::Hung(time) => {
                    let how = format!("hung: no sign of life for {} s", time.as_secs());
                    replica.condemned.get_or_insert(Condemned { how, at_once: true });
                }
            }
        }
        for (id, time) in silent {
            let name = self.replicas[&id].deployment.clone();
            let message = format!("no sign of life for {} s: it gets no new requests", time.as_secs());
            self.tell((&name, Some(&id)), "replica-silent", message);
        }
        self.miss_proxies(now);
    }

    fn miss_proxies(&mut self, now: Instant) {
        let running = self.proxies.all.values_mut().filter(|proxy| proxy.phase == ProxyPhase::Running);
        let mut notes = Vec::new();
        for proxy in running.filter(|proxy| !proxy.hung) {
            let pid = proxy.pid.unwrap_or_default();
            match proxy.liveness.elapse(now) {
                Step::Nothing => {}
                Step::Silent(time) => {
                    let message =
                        format!("the proxy, pid {pid}, has given no sign of life for {} s", time.as_secs());
                    notes.push(("proxy-silent", message));
                }
                Step::Hung(time) => {
                    proxy.hung = true;
                    let seconds = time.as_secs();
                    let message = format!(
                        "the proxy, pid {pid}, hangs: no sign of life for {seconds} s; it is killed and replaced"
                    );
                    notes.push(("proxy-hung", message));
                }
            }
        }
        let notes = notes.into_iter();
        self.notes.extend(notes.map(|(kind, message)| Note {
            deployment: None,
            replica: None,
            kind,
            message,
        }));
    }

    /// A proxy's answer to a probe.
    pub(super) fn proxy_alive(&mut self, instance: ProxyInstance, sequence: u64) {
        let Some(proxy) = self.proxies.all.get_mut(&instance) else { return };
        if proxy.liveness.answered(sequence) && proxy.phase == ProxyPhase::Running {
            let message =
                format!("the proxy, pid {}, gives signs of life again", proxy.pid.unwrap_or_default());
            self.notes.push(Note { deployment: None, replica: None, kind: "proxy-back", message });
        }
    }

    /// An answer to a probe.
    pub(super) fn alive(&mut self, id: &ReplicaId, sequence: u64, work: Work, now: Instant) {
        let Some(replica) = self.replicas.get_mut(id) else { return };
        if work.overdue >= STUCK_AFTER && replica.is_serving() {
            let how = format!("stuck: a request still runs {} s after its deadline", work.overdue.as_secs());
            replica.condemned.get_or_insert(Condemned { how, at_once: false });
        }
        let mut slow = None;
        if replica.is_serving() && replica.taking().is_none() {
            match replica.progress.look(work, replica.board.heartbeat, now) {
                Pace::Fine => {}
                Pace::Slow(why) => slow = Some((replica.deployment.clone(), why)),
                Pace::Stalled(how) => {
                    replica.condemned.get_or_insert(Condemned { how, at_once: false });
                }
            }
        }
        if replica.liveness.answered(sequence) && replica.is_serving() {
            let name = replica.deployment.clone();
            let message = "gives signs of life again: it gets requests".to_owned();
            self.tell((&name, Some(id)), "replica-back", message);
        }
        if let Some((name, why)) = slow {
            self.tell((&name, Some(id)), "replica-slow", why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::world::moment;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_answer_in_time_means_nothing_but_the_next_probe() {
        let start = moment();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.next_at(PROBE_PERIOD), start + PROBE_PERIOD);
        liveness.probed(1, start);
        assert_eq!(liveness.elapse(start + SECOND), Step::Nothing);
        assert!(!liveness.answered(1));
        assert_eq!(liveness.elapse(start + SECOND * 60), Step::Nothing);
    }

    #[test]
    fn silence_takes_it_out_first_and_then_away() {
        let start = moment();
        let mut liveness = Liveness::new(start);
        liveness.probed(1, start);
        let out = start + SILENT_AFTER;
        assert_eq!(liveness.elapse(out), Step::Silent(SILENT_AFTER));
        assert_eq!(liveness.elapse(out), Step::Nothing);
        assert_eq!(liveness.next_at(PROBE_PERIOD), out + HUNG_AFTER);
        assert_eq!(liveness.elapse(out + HUNG_AFTER), Step::Hung(SILENT_AFTER + HUNG_AFTER));
    }

    #[test]
    fn a_proxy_has_five_seconds_for_its_answer() {
        let start = moment();
        let mut liveness = Liveness::of_proxy(start);
        liveness.probed(1, start);
        assert_eq!(liveness.elapse(start + SILENT_AFTER), Step::Silent(SILENT_AFTER));
        assert_eq!(liveness.elapse(start + SECOND * 5 - SECOND / 10), Step::Nothing);
        assert_eq!(liveness.elapse(start + SECOND * 5), Step::Hung(SECOND * 5));
    }

    #[test]
    fn with_the_longest_jitter_the_bounds_hold() {
        let period = PROBE_PERIOD * 11 / 10;
        assert!(period + SILENT_AFTER <= SECOND * 5);
        assert!(period + SILENT_AFTER + HUNG_AFTER <= SECOND * 9);
    }

    #[test]
    fn a_late_answer_brings_it_back_and_another_ones_does_not() {
        let start = moment();
        let mut liveness = Liveness::new(start);
        liveness.probed(2, start);
        assert_eq!(liveness.elapse(start + SILENT_AFTER), Step::Silent(SILENT_AFTER));
        assert!(!liveness.answered(1));
        assert!(liveness.silent_since.is_some());
        assert!(liveness.answered(2));
        assert_eq!((liveness.asked, liveness.silent_since), (None, None));
    }

    #[test]
    fn a_leap_of_time_condemns_nobody_at_once() {
        let start = moment();
        let mut liveness = Liveness::new(start);
        liveness.probed(1, start);
        let late = start + SECOND * 600;
        assert_eq!(liveness.elapse(late), Step::Silent(SECOND * 600));
        assert_eq!(liveness.elapse(late + HUNG_AFTER - SECOND), Step::Nothing);
    }

    #[test]
    fn many_idle_replicas_are_probed_once_a_second_in_all() {
        assert_eq!(probe_period(true, 1_000), PROBE_PERIOD);
        assert_eq!(probe_period(false, 2), PROBE_PERIOD);
        assert_eq!(probe_period(false, 100), SECOND * 100);
    }

    #[test]
    fn a_request_that_runs_or_has_run_makes_busy_for_a_while() {
        let start = moment();
        let mut liveness = Liveness::new(start);
        liveness.board(Board::default(), Board::from((7, 0, 0)), start);
        assert!(!liveness.is_busy(start));
        liveness.board(Board::default(), Board::from((7, 1, 0)), start);
        assert!(liveness.is_busy(start) && !liveness.is_busy(start + BUSY_FOR));
        liveness.board(Board::from((7, 0, 1)), Board::from((7, 0, 2)), start + BUSY_FOR);
        assert!(liveness.is_busy(start + BUSY_FOR));
    }
}
