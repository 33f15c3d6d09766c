//! Whether a new version that was tried on a part of the requests has shown itself good: promoted, or taken back.
//!
//! ```text
//!   some replicas of it serve ── duration ──> judged by what it has answered since
//!     failures beyond max_error_rate, or p99 beyond max_p99        taken back; before the time is over as well, once
//!                                                                  REQUESTS_MIN answers say so
//!     within both, with REQUESTS_MIN answers                       promoted
//!     fewer answers                                                one more round, ROUNDS_MAX in all; then promoted
//!                                                                  if nothing failed, else taken back
//!   CRASHES_MAX replicas of it failed                              taken back at once
//! ```

use std::time::{Duration, Instant};

use decurion_api::Histogram;
use decurion_api::spec::CanarySpec;
use decurion_ipc::stats::Counts;

/// What is known of the new version.
#[derive(Clone, Debug, Default)]
pub struct Canary {
    /// Since when it gets its share.
    since: Option<Instant>,
    rounds: u32,
    crashes: u32,
    answers: Answers,
    state: State,
}

/// What it has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// All.
    pub count: u64,
    /// Server errors, and answers that were cut off.
    pub failed: u64,
    /// How long they took.
    pub durations: Histogram,
}

/// Requests that the client gave up are nobody's fault, and count as neither.
impl From<&Counts> for Answers {
    fn from(counts: &Counts) -> Self {
        const LEFT: u16 = 499;
        let of = |fits: &dyn Fn(u16) -> bool| {
            counts.statuses.iter().filter(|(status, _)| fits(*status)).map(|(_, count)| count).sum::<u64>()
        };
        Self {
            count: of(&|status| status != LEFT),
            failed: of(&|status| status >= 500) + counts.cut,
            durations: counts.handler.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Tried,
    Promoted,
    TakenBack,
}

/// What follows.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet; one sentence, and when there may be more to say.
    Wait(String, Option<Instant>),
    /// It may take the old one's place; one sentence.
    Promote(String),
    /// It goes; one sentence that follows "the canary".
    TakeBack(String),
}

/// Answers that a verdict needs.
pub const REQUESTS_MIN: u64 = 20;
/// Times that the duration passes before too few answers are a verdict as well.
pub const ROUNDS_MAX: u32 = 3;
/// Replicas of it that may fail before it goes, and one more.
pub const CRASHES_MAX: u32 = 3;

impl Canary {
    /// Whether it is still being tried.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        self.state == State::Tried
    }

    /// Whether it is to go.
    #[must_use]
    pub fn is_taken_back(&self) -> bool {
        self.state == State::TakenBack
    }

    /// Goes on without a trial.
    pub fn promote(&mut self) {
        self.state = State::Promoted;
    }

    /// Counts answers of it.
    pub fn count(&mut self, answers: &Answers) {
        if self.since.is_some() && self.is_tried() {
            self.answers.count += answers.count;
            self.answers.failed += answers.failed;
            self.answers.durations.merge(&answers.durations);
        }
    }

    /// Counts a replica of it that has failed.
    pub fn crashed(&mut self) {
        self.crashes += 1;
    }

    /// Judges. `serving`: it gets its share now.
    pub fn judge(&mut self, spec: &CanarySpec, serving: bool, now: Instant) -> Verdict {
        let verdict = self.verdict(spec, serving, now);
        match verdict {
            Verdict::Wait(..) => {}
            Verdict::Promote(_) => self.state = State::Promoted,
            Verdict::TakeBack(_) => self.state = State::TakenBack,
        }
        verdict
    }

    fn verdict(&mut self, spec: &CanarySpec, serving: bool, now: Instant) -> Verdict {
        if self.crashes >= CRASHES_MAX {
            return Verdict::TakeBack(format!("lost {} replicas", self.crashes));
        }
        let Some(since) = self.since else {
            self.since = serving.then_some(now);
            return match self.since {
                Some(_) => self.verdict(spec, serving, now),
                None => Verdict::Wait("the canary starts".to_owned(), None),
            };
        };
        let Answers { count, failed, .. } = self.answers;
        if count >= REQUESTS_MIN
            && let Some(why) = self.excess(spec)
        {
            return Verdict::TakeBack(why);
        }
        let end = since + spec.duration * (self.rounds + 1);
        if now < end {
            let words = format!(
                "the canary gets {}% of the requests for {}: {count} answered, {failed} failed",
                spec.weight,
                seconds(spec.duration)
            );
            return Verdict::Wait(words, Some(end));
        }
        self.rounds += 1;
        let seen = format!("{count} requests, {failed} failed{}", self.p99_words());
        if count >= REQUESTS_MIN {
            return Verdict::Promote(format!("the canary is good: {seen}"));
        }
        if self.rounds < ROUNDS_MAX {
            let words =
                format!("the canary goes on for {}: {seen} are too few to tell", seconds(spec.duration));
            return Verdict::Wait(words, Some(end + spec.duration));
        }
        match failed {
            0 => Verdict::Promote(format!("the canary is promoted on little evidence: {seen}")),
            _ => Verdict::TakeBack(format!("was asked too little, and failed: {seen}")),
        }
    }

    /// What is worse than it may be.
    fn excess(&self, spec: &CanarySpec) -> Option<String> {
        let Answers { count, failed, durations } = &self.answers;
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let rate = *failed as f64 / *count as f64;
        if rate > spec.max_error_rate {
            let most = spec.max_error_rate * 100.0;
            return Some(format!("failed {failed} of {count} requests; at most {most}% may fail"));
        }
        let p99 = durations.quantile(0.99)?;
        let most = spec.max_p99.filter(|most| p99 > *most)?;
        Some(format!(
            "is too slow: the p99 of {count} requests is {}; at most {} are allowed",
            millis(p99),
            millis(most)
        ))
    }

    fn p99_words(&self) -> String {
        self.answers.durations.quantile(0.99).map_or_else(String::new, |p99| format!(", p99 {}", millis(p99)))
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod in_world;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::world::moment;

    fn spec() -> CanarySpec {
        let duration = Duration::from_secs(60);
        CanarySpec { weight: 5, duration, max_error_rate: 0.1, max_p99: Some(Duration::from_millis(50)) }
    }

    fn answers(count: u64, failed: u64, each: Duration) -> Answers {
        let mut durations = Histogram::default();
        (0..count).for_each(|_| durations.record(each));
        Answers { count, failed, durations }
    }

    /// A canary that serves since then and has given these answers.
    fn tried(start: Instant, given: &Answers) -> Canary {
        let mut canary = Canary::default();
        assert!(matches!(canary.judge(&spec(), true, start), Verdict::Wait(..)));
        canary.count(given);
        canary
    }

    const FAST: Duration = Duration::from_millis(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_stays_within_its_bounds_is_promoted_when_the_time_is_over() {
        let start = moment();
        let mut canary = tried(start, &answers(100, 10, FAST));
        assert!(
            matches!(canary.judge(&spec(), true, start + MINUTE / 2), Verdict::Wait(_, Some(at)) if at == start + MINUTE)
        );
        let verdict = canary.judge(&spec(), true, start + MINUTE);
        assert!(
            matches!(verdict, Verdict::Promote(ref why) if why.contains("100 requests, 10 failed")),
            "{verdict:?}"
        );
        assert!(!canary.is_tried());
    }

    #[test]
    fn too_many_errors_end_it_as_soon_as_they_are_certain() {
        let start = moment();
        let mut canary = tried(start, &answers(19, 19, FAST));
        assert!(matches!(canary.judge(&spec(), true, start), Verdict::Wait(..)));
        canary.count(&answers(1, 0, FAST));
        let verdict = canary.judge(&spec(), true, start);
        assert_eq!(verdict, Verdict::TakeBack("failed 19 of 20 requests; at most 10% may fail".to_owned()));
        assert!(canary.is_taken_back());
    }

    #[test]
    fn too_slow_is_not_good() {
        let start = moment();
        let mut canary = tried(start, &answers(50, 0, Duration::from_millis(300)));
        assert!(
            matches!(canary.judge(&spec(), true, start), Verdict::TakeBack(why) if why.starts_with("is too slow"))
        );
    }

    #[test]
    fn too_few_requests_have_three_rounds() {
        let start = moment();
        let mut canary = tried(start, &answers(3, 0, FAST));
        for round in 1..ROUNDS_MAX {
            let verdict = canary.judge(&spec(), true, start + MINUTE * round);
            assert!(matches!(verdict, Verdict::Wait(ref why, _) if why.contains("too few")), "{verdict:?}");
        }
        assert!(matches!(canary.judge(&spec(), true, start + MINUTE * 3), Verdict::Promote(_)));
        let mut failing = tried(start, &answers(3, 1, FAST));
        for round in 1..ROUNDS_MAX {
            let _ = failing.judge(&spec(), true, start + MINUTE * round);
        }
        assert!(matches!(failing.judge(&spec(), true, start + MINUTE * 3), Verdict::TakeBack(_)));
    }

    #[test]
    fn it_is_judged_from_the_moment_it_serves() {
        let start = moment();
        let mut canary = Canary::default();
        assert!(matches!(canary.judge(&spec(), false, start), Verdict::Wait(_, None)));
        canary.count(&answers(100, 100, FAST));
        assert!(matches!(canary.judge(&spec(), true, start + MINUTE * 10), Verdict::Wait(_, Some(_))));
    }

    #[test]
    fn one_that_dies_again_and_again_goes() {
        let mut canary = Canary::default();
        (0..CRASHES_MAX).for_each(|_| canary.crashed());
        assert!(
            matches!(canary.judge(&spec(), false, moment()), Verdict::TakeBack(why) if why.contains("3 replicas"))
        );
    }
}
