//! Calls that run together: which of them, and when. Takes `now`; threads and clocks are `sys::batching`'s business.
//!
//! A batch is full when `max` members wait, and due when the first of them has waited for `wait`. Whoever is gone by
//! then is dropped from it, and where that leaves it neither full nor due, it goes on waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// What `#[batch(..)]` says, for a constant.
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// Name of the method, or `call`.
    pub name: &'static str,
    /// Members of one batch, at most.
    pub max: usize,
    /// How long the first of them waits for the others.
    pub wait_us: u64,
    /// Batches that run at once, at most; 0: one on each handler thread.
    pub concurrent: usize,
}

/// What holds for the batches of one method now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Members of one batch, at most. At least 1.
    pub(crate) max: usize,
    /// How long the first member waits for the others.
    pub(crate) wait: Duration,
    /// Batches that run at once, at most. At least 1.
    pub(crate) concurrent: usize,
}

impl Limits {
    /// What was declared, in a replica of so many handler threads.
    pub(crate) fn of(declared: &Declared, threads: usize) -> Self {
        let concurrent = if declared.concurrent == 0 { threads } else { declared.concurrent };
        Self {
            max: declared.max.max(1),
            wait: Duration::from_micros(declared.wait_us),
            concurrent: concurrent.max(1),
        }
    }
}

/// Members of a batch, at most, whatever a configuration says.
pub(crate) const BATCH_MAX: usize = 65_536;
/// How long a member may be made to wait for others.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What makes a batch run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is full.
    Size,
    /// It is due.
    Time,
}

/// Those who run together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch<M> {
    pub(crate) members: Vec<M>,
    pub(crate) cause: Cause,
    /// When the first of them came.
    pub(crate) since: Instant,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Next<M> {
    /// This runs now; [`finished`](Queue::finished) is told when it has.
    Run(Batch<M>),
    /// Look again then.
    At(Instant),
    /// Look again when a member comes or a batch has finished.
    Later,
}

/// Those who wait for a batch of one method, first come first.
#[derive(Debug)]
pub(crate) struct Queue<M> {
    limits: Limits,
    waiting: VecDeque<(Instant, M)>,
    running: usize,
}

impl<M> Queue<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, waiting: VecDeque::new(), running: 0 }
    }

    /// Takes new limits; they hold for those who wait already.
    pub(crate) fn set(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// One more waits.
    pub(crate) fn add(&mut self, member: M, now: Instant) {
        self.waiting.push_back((now, member));
    }

    /// A batch that ran has finished.
    pub(crate) fn finished(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When the first that waits has waited long enough.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(since, _)| *since + self.limits.wait)
    }

    /// A batch that is full, if one may run now. Those who are gone are put into `dropped`.
    pub(crate) fn full(&mut self, gone: impl Fn(&M) -> bool, dropped: &mut Vec<M>) -> Option<Batch<M>> {
        if !self.is_full() || self.running >= self.limits.concurrent {
            return None;
        }
        self.drop_gone(gone, dropped);
        if self.is_full() { self.take() } else { None }
    }

    /// What is to be done at `now`. Those who are gone are put into `dropped`.
    pub(crate) fn next(&mut self, now: Instant, gone: impl Fn(&M) -> bool, dropped: &mut Vec<M>) -> Next<M> {
        let is_due = |queue: &Self| queue.is_full() || queue.due().is_some_and(|due| due <= now);
        if is_due(self) && self.running < self.limits.concurrent {
            self.drop_gone(gone, dropped);
            if is_due(self)
                && let Some(batch) = self.take()
            {
                return Next::Run(batch);
            }
        }
        match self.due() {
            Some(due) if !is_due(self) => Next::At(due),
            _ => Next::Later,
        }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= self.limits.max
    }

    /// Those who are gone are put into `dropped`.
    pub(crate) fn drop_gone(&mut self, gone: impl Fn(&M) -> bool, dropped: &mut Vec<M>) {
        if self.waiting.iter().any(|(_, member)| gone(member)) {
            for (since, member) in std::mem::take(&mut self.waiting) {
                if gone(&member) {
                    dropped.push(member);
                } else {
                    self.waiting.push_back((since, member));
                }
            }
        }
    }

    fn take(&mut self) -> Option<Batch<M>> {
        let since = self.waiting.front()?.0;
        let cause = if self.is_full() { Cause::Size } else { Cause::Time };
        self.running += 1;
        let count = self.waiting.len().min(self.limits.max);
        let members = self.waiting.drain(..count).map(|(_, member)| member).collect();
        Some(Batch { members, cause, since })
    }
}

/// What a `user_config` may say of the batches of one method.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wished {
    max: Option<usize>,
    #[serde(default, deserialize_with = "duration_text")]
    wait: Option<Duration>,
    wait_s: Option<f64>,
    concurrent: Option<usize>,
}

impl Wished {
    fn over(self, declared: Limits) -> Result<Limits, String> {
        let in_seconds = self.wait_s.map(Duration::try_from_secs_f64).transpose();
        let wait = match (self.wait, in_seconds.map_err(|error| format!("wait_s: {error}"))?) {
            (Some(_), Some(_)) => return Err("wait and wait_s say the same: give one of them".to_owned()),
            (text, seconds) => text.or(seconds).unwrap_or(declared.wait),
        };
        let limits = Limits {
            max: self.max.unwrap_or(declared.max),
            wait,
            concurrent: self.concurrent.unwrap_or(declared.concurrent),
        };
        match limits {
            Limits { max, .. } if !(1..=BATCH_MAX).contains(&max) => {
                Err(format!("max is {max}, and is from 1 to {BATCH_MAX}"))
            }
            Limits { concurrent: 0, .. } => Err("concurrent is at least 1".to_owned()),
            Limits { wait, .. } if wait > WAIT_MAX => {
                Err(format!("wait is {wait:?}, and is at most {WAIT_MAX:?}"))
            }
            limits => Ok(limits),
        }
    }
}

fn duration_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        || serde::de::Error::custom(format_args!("{text:?} is no duration like \"2ms\", \"500us\", \"1s\""));
    duration(&text).ok_or_else(wrong).map(Some)
}

/// Reads `500us`, `2ms`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.trim().parse::<f64>().ok()? * seconds).ok()
}

/// The word of a `user_config` under which a class with batches takes their limits.
pub(crate) const CONFIG_WORD: &str = "batch";

/// Takes the limits of batches out of a `user_config`: those by the order of `declared`, and what is left for the
/// author's `reconfigure`. What the configuration does not name is as declared.
pub(crate) fn split_config(
    config: &[u8],
    declared: &[(&'static str, Limits)],
) -> Result<(Vec<Limits>, Value), String> {
    let mut config: Value = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    let wishes = config.as_object_mut().and_then(|fields| fields.remove(CONFIG_WORD));
    let mut wishes = match wishes {
        None => Map::new(),
        Some(Value::Object(wishes)) => wishes,
        Some(other) => {
            return Err(format!("'{CONFIG_WORD}' is an object by the names of batched methods, not {other}"));
        }
    };
    let mut limits = Vec::with_capacity(declared.len());
    for (name, as_declared) in declared {
        let wished = wishes.remove(*name).map_or(Ok(Wished::default()), serde_json::from_value);
        let wished = wished.map_err(|error| error.to_string());
        let over = wished.and_then(|wished| wished.over(*as_declared));
        limits.push(over.map_err(|why| format!("'{CONFIG_WORD}.{name}': {why}"))?);
    }
    if let Some(unknown) = wishes.keys().next() {
        let names: Vec<&str> = declared.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "'{CONFIG_WORD}.{unknown}': there is no such batched method; there are: {}",
            names.join(", ")
        ));
    }
    Ok((limits, config))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max: 3, wait: Duration::from_millis(2), concurrent: 1 };

    /// Any moment will do.
    #[expect(clippy::disallowed_methods, reason = "an `Instant` can be had from the clock only")]
    fn moment() -> Instant {
        Instant::now()
    }

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn nobody(_: &u32) -> bool {
        false
    }

    fn full(members: Vec<u32>, since: Instant) -> Batch<u32> {
        Batch { members, cause: Cause::Size, since }
    }

    fn due(members: Vec<u32>, since: Instant) -> Batch<u32> {
        Batch { members, cause: Cause::Time, since }
    }

    #[test]
    fn a_full_batch_runs_at_once_and_the_rest_waits() {
        let (start, mut dropped) = (moment(), Vec::new());
        let mut queue = Queue::new(LIMITS);
        for member in 0..2 {
            queue.add(member, start);
            assert_eq!(queue.full(nobody, &mut dropped), None);
        }
        queue.add(2, start);
        queue.add(3, at(start, 1));
        assert_eq!(queue.full(nobody, &mut dropped), Some(full(vec![0, 1, 2], start)));
        queue.finished();
        assert_eq!(queue.next(at(start, 1), nobody, &mut dropped), Next::At(at(start, 3)));
        assert_eq!(queue.next(at(start, 3), nobody, &mut dropped), Next::Run(due(vec![3], at(start, 1))));
    }

    #[test]
    fn time_starts_with_the_first_member() {
        let (start, mut dropped) = (moment(), Vec::new());
        let mut queue = Queue::new(LIMITS);
        assert_eq!(queue.next(start, nobody, &mut dropped), Next::Later);
        queue.add(0, start);
        queue.add(1, at(start, 1));
        assert_eq!(queue.next(at(start, 1), nobody, &mut dropped), Next::At(at(start, 2)));
        assert_eq!(queue.next(at(start, 2), nobody, &mut dropped), Next::Run(due(vec![0, 1], start)));
    }

    #[test]
    fn no_more_batches_run_at_once_than_allowed() {
        let (start, mut dropped) = (moment(), Vec::new());
        let mut queue = Queue::new(LIMITS);
        (0..6).for_each(|member| queue.add(member, start));
        assert_eq!(queue.full(nobody, &mut dropped), Some(full(vec![0, 1, 2], start)));
        assert_eq!(queue.full(nobody, &mut dropped), None);
        assert_eq!(queue.next(at(start, 9), nobody, &mut dropped), Next::Later);
        queue.finished();
        assert_eq!(queue.next(at(start, 9), nobody, &mut dropped), Next::Run(full(vec![3, 4, 5], start)));
    }

    #[test]
    fn who_is_gone_is_dropped_and_makes_room() {
        let (start, mut dropped) = (moment(), Vec::new());
        let mut queue = Queue::new(LIMITS);
        (0..3).for_each(|member| queue.add(member, start));
        assert_eq!(queue.full(|member| *member == 1, &mut dropped), None);
        assert_eq!(dropped, [1]);
        queue.add(3, start);
        assert_eq!(queue.full(nobody, &mut dropped), Some(full(vec![0, 2, 3], start)));
    }

    #[test]
    fn a_batch_that_everybody_has_left_never_runs() {
        let (start, mut dropped) = (moment(), Vec::new());
        let mut queue = Queue::new(LIMITS);
        queue.add(0, start);
        assert_eq!(queue.next(at(start, 5), |_| true, &mut dropped), Next::Later);
        assert_eq!(dropped, [0]);
    }

    #[test]
    fn new_limits_hold_for_those_who_wait() {
        let (start, mut dropped) = (moment(), Vec::new());
        let mut queue = Queue::new(LIMITS);
        queue.add(0, start);
        queue.set(Limits { wait: Duration::from_secs(60), ..LIMITS });
        assert_eq!(queue.next(at(start, 5), nobody, &mut dropped), Next::At(start + Duration::from_secs(60)));
        queue.set(Limits { max: 1, ..LIMITS });
        assert_eq!(queue.full(nobody, &mut dropped), Some(full(vec![0], start)));
    }

    #[test]
    fn a_configuration_changes_what_it_names() {
        let declared = [("score", LIMITS), ("call", LIMITS)];
        let config = br#"{"threshold": 1, "batch": {"score": {"max": 8, "wait": "500us"}}}"#;
        let (limits, rest) = split_config(config, &declared).unwrap();
        assert_eq!(limits[0], Limits { max: 8, wait: Duration::from_micros(500), concurrent: 1 });
        assert_eq!(limits[1], LIMITS);
        assert_eq!(rest, serde_json::json!({ "threshold": 1 }));
        let (limits, rest) = split_config(br#"{"batch": {"call": {"wait_s": 0.25}}}"#, &declared).unwrap();
        assert_eq!(limits[1].wait, Duration::from_millis(250));
        assert_eq!(rest, serde_json::json!({}));
        assert_eq!(split_config(b"3", &declared).unwrap(), (vec![LIMITS; 2], serde_json::json!(3)));
    }

    #[test]
    fn a_configuration_that_makes_no_sense_is_refused_by_name() {
        for (config, part) in [
            (r#"{"batch": 3}"#, "an object by the names"),
            (
                r#"{"batch": {"scroe": {}}}"#,
                "'batch.scroe': there is no such batched method; there are: score",
            ),
            (r#"{"batch": {"score": {"max": 0}}}"#, "'batch.score': max is 0"),
            (r#"{"batch": {"score": {"most": 1}}}"#, "unknown field `most`"),
            (r#"{"batch": {"score": {"wait": "soon"}}}"#, "\"soon\" is no duration"),
            (r#"{"batch": {"score": {"wait": "2h"}}}"#, "no duration"),
            (r#"{"batch": {"score": {"wait_s": -1}}}"#, "wait_s"),
            (r#"{"batch": {"score": {"wait_s": 1, "wait": "1s"}}}"#, "one of them"),
            (r#"{"batch": {"score": {"wait": "7200s"}}}"#, "at most"),
            (r#"{"batch": {"score": {"concurrent": 0}}}"#, "at least 1"),
        ] {
            let error = split_config(config.as_bytes(), &[("score", LIMITS)]).unwrap_err();
            assert!(error.contains(part), "{config}: {error}");
        }
    }
}
