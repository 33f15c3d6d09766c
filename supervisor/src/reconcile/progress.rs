//! Whether a replica's requests get on: liveness says that it breathes, this that it works.
//!
//! ```text
//!   requests wait, and its heartbeat stands still over LOOKS_MIN looks and STALLED_AFTER:
//!     it runs none         it takes none although it could: stalled, replaced
//!     it runs some         they may have good reason to take long (who has none is found by its deadline): told, once
//! ```

use std::time::{Duration, Instant};

use crate::reconcile::fact::Work;

/// Requests that wait while nothing moves for so long are worth a word.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);
/// So many looks at least: one that was late because the supervisor itself was stopped proves nothing.
pub const LOOKS_MIN: u32 = 4;

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Since when the request runs that runs longest.
    oldest_since: Option<Instant>,
    stand: Option<Stand>,
}

/// Requests wait, and nothing has moved since.
#[derive(Clone, Copy, Debug)]
struct Stand {
    since: Instant,
    heartbeat: u64,
    looks: u32,
    told: bool,
}

/// What a look has shown.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing is wrong.
    Fine,
    /// Requests wait for others that take long.
    Slow(String),
    /// Requests wait for nothing.
    Stalled(String),
}

impl Progress {
    /// Takes what a replica says of its requests; `heartbeat` moves while they do.
    pub fn look(&mut self, work: Work, heartbeat: u64, now: Instant) -> Pace {
        let runs = !work.oldest.is_zero();
        self.oldest_since = if runs { now.checked_sub(work.oldest) } else { None };
        if !work.queued {
            self.stand = None;
            return Pace::Fine;
        }
        let new = Stand { since: now, heartbeat, looks: 0, told: false };
        let stand = self.stand.get_or_insert(new);
        if stand.heartbeat != heartbeat {
            *stand = new;
        }
        stand.looks += 1;
        let waited = now.duration_since(stand.since);
        if stand.looks < LOOKS_MIN || waited < STALLED_AFTER {
            return Pace::Fine;
        }
        let seconds = waited.as_secs();
        if !runs {
            return Pace::Stalled(format!(
                "stalled: requests wait, and none was taken for {seconds} s though none runs"
            ));
        }
        if std::mem::replace(&mut stand.told, true) {
            return Pace::Fine;
        }
        let oldest = work.oldest.as_secs();
        Pace::Slow(format!(
            "requests wait, and none was taken or answered for {seconds} s: the oldest that runs has run for {oldest} s"
        ))
    }

    /// For how long the request has been running that runs longest.
    #[must_use]
    pub fn oldest(&self, now: Instant) -> Option<Duration> {
        self.oldest_since.map(|since| now.duration_since(since))
    }

    /// Whether requests wait, so that it is to be looked at more often.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.stand.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::world::moment;

    const SECOND: Duration = Duration::from_secs(1);

    fn work(oldest: u32, queued: bool) -> Work {
        Work { oldest: SECOND * oldest, queued, ..Work::default() }
    }

    #[test]
    fn a_queue_that_stands_still_while_nothing_runs_is_stalled() {
        let (start, mut progress) = (moment(), Progress::default());
        for second in [0, 2, 4, 6, 8] {
            assert_eq!(progress.look(work(0, true), 7, start + SECOND * second), Pace::Fine);
        }
        assert!(progress.is_watched());
        let Pace::Stalled(why) = progress.look(work(0, true), 7, start + SECOND * 10) else { panic!() };
        assert_eq!(why, "stalled: requests wait, and none was taken for 10 s though none runs");
    }

    #[test]
    fn one_that_moves_or_is_empty_starts_anew() {
        let (start, mut progress) = (moment(), Progress::default());
        for second in 0..60_u32 {
            assert_eq!(
                progress.look(work(0, true), u64::from(second / 8), start + SECOND * second),
                Pace::Fine
            );
        }
        assert_eq!(progress.look(work(0, false), 7, start + SECOND * 60), Pace::Fine);
        assert!(!progress.is_watched());
        assert_eq!(progress.look(work(0, true), 7, start + SECOND * 61), Pace::Fine);
    }

    #[test]
    fn one_that_waits_for_what_runs_is_told_of_once_and_left_alone() {
        let (start, mut progress) = (moment(), Progress::default());
        let paces: Vec<Pace> =
            (0..60_u32).map(|second| progress.look(work(second, true), 7, start + SECOND * second)).collect();
        let slow =
            "requests wait, and none was taken or answered for 10 s: the oldest that runs has run for 10 s";
        assert_eq!(paces[10], Pace::Slow(slow.to_owned()));
        assert_eq!(paces.iter().filter(|pace| **pace != Pace::Fine).count(), 1);
        assert_eq!(progress.oldest(start + SECOND * 60), Some(SECOND * 60));
    }

    #[test]
    fn a_supervisor_that_was_stopped_for_a_while_condemns_nobody() {
        let (start, mut progress) = (moment(), Progress::default());
        assert_eq!(progress.look(work(0, true), 7, start), Pace::Fine);
        assert_eq!(progress.look(work(0, true), 7, start + SECOND * 600), Pace::Fine);
    }
}
