//! How many replicas the load asks for: Ray Serve's algorithm, as a pure function of what was recorded.
//!
//! ```text
//!   load    = mean over look_back_period of (running + waiting requests), weighted by time
//!   needed  = load / target_ongoing_requests
//!   aim     = ceil(current + factor * (needed - current)), one less where the factor alone holds it up,
//!             0 only from 1, within min_replicas and max_replicas
//!   move    = once the aim has lain on the same side of current for the whole of that side's delay;
//!             at once where there is no replica and a request waits
//! ```
//!
//! Counts are read where requests are accounted for; nothing is estimated from a part of them. Knows no replica by name.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use decurion_api::spec::AutoscalingSpec;

/// The number of replicas of one deployment, and what it follows from.
#[derive(Clone, Debug)]
pub struct Autoscaler {
    number: u32,
    record: Record,
    leaning: Option<Leaning>,
    decision: Option<String>,
}

/// What is counted at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Replicas that serve.
    pub serving: u32,
    /// Requests that they are working on.
    pub running: u64,
    /// Requests that wait for one of them.
    pub waiting: u64,
}

/// What follows.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Stay,
    /// Another number, once this has held until then.
    Lean {
        /// When.
        until: Instant,
        /// One sentence.
        why: String,
    },
    /// Another number from now on.
    Move {
        /// One sentence, with both numbers.
        why: String,
    },
}

#[derive(Clone, Copy, Debug)]
struct Leaning {
    up: bool,
    since: Instant,
}

impl Autoscaler {
    /// Starts from this number, brought within the bounds.
    #[must_use]
    pub fn new(spec: &AutoscalingSpec, number: u32) -> Self {
        let number = number.clamp(spec.min_replicas, spec.max_replicas);
        Self { number, record: Record::default(), leaning: None, decision: None }
    }

    /// Takes other bounds.
    pub fn accept(&mut self, spec: &AutoscalingSpec) {
        let number = self.number.clamp(spec.min_replicas, spec.max_replicas);
        if number != self.number {
            self.decision = Some(format!("{} -> {number}: other bounds", self.number));
            (self.number, self.leaning) = (number, None);
        }
    }

    /// How many replicas there are to be.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Why the number is what it is; `None`: it is still the first.
    #[must_use]
    pub fn last_decision(&self) -> Option<&str> {
        self.decision.as_deref()
    }

    /// The mean load over the look-back period.
    #[must_use]
    pub fn load(&self, spec: &AutoscalingSpec, now: Instant) -> f64 {
        self.record.mean(spec.look_back_period, now)
    }

    /// When the load is to be looked at again.
    #[must_use]
    pub fn next_at(&self, spec: &AutoscalingSpec, now: Instant) -> Instant {
        self.record.last_at().map_or(now, |at| at + spec.metrics_interval)
    }

    /// Takes what is counted now, and decides.
    pub fn decide(&mut self, spec: &AutoscalingSpec, load: Load, now: Instant) -> Decision {
        let total = load.running + load.waiting;
        if self.next_at(spec, now) <= now {
            self.record.take(total, now, spec.look_back_period);
        }
        if load.serving == 0 {
            self.leaning = None;
            return self.without_replicas(spec, total);
        }
        let mean = self.load(spec, now);
        // The last one does not go while there is something to do, however long ago the mean was made up.
        let aim = aim(spec, self.number, mean).max(u32::from(total > 0));
        if aim == self.number {
            self.leaning = None;
            return Decision::Stay;
        }
        let up = aim > self.number;
        let since = match self.leaning {
            Some(leaning) if leaning.up == up => leaning.since,
            _ => now,
        };
        self.leaning = Some(Leaning { up, since });
        let delay = match (up, self.number) {
            (true, _) => spec.upscale_delay,
            (false, 1) => spec.downscale_to_zero_delay.unwrap_or(spec.downscale_delay),
            (false, _) => spec.downscale_delay,
        };
        let step = format!(
            "{} -> {aim}: {mean:.1} ongoing against a target of {}",
            self.number, spec.target_ongoing_requests
        );
        if now < since + delay {
            let why = format!("{step}, once that has held for {} s", delay.as_secs_f64());
            return Decision::Lean { until: since + delay, why };
        }
        self.go_to(aim, format!("{step} for {} s", delay.as_secs_f64()))
    }

    /// Without a replica there is no load to be shared: the first request brings one.
    fn without_replicas(&mut self, spec: &AutoscalingSpec, total: u64) -> Decision {
        let first = whole(spec.upscaling_factor.ceil()).clamp(spec.min_replicas, spec.max_replicas);
        if total == 0 || self.number >= first {
            return Decision::Stay;
        }
        let why = format!("{} -> {first}: {total} waiting, and there is no replica", self.number);
        self.go_to(first, why)
    }

    fn go_to(&mut self, number: u32, why: String) -> Decision {
        (self.number, self.leaning) = (number, None);
        self.decision = Some(why.clone());
        Decision::Move { why }
    }
}

/// How many replicas a mean load asks for, where there are `current`.
#[must_use]
pub fn aim(spec: &AutoscalingSpec, current: u32, load: f64) -> u32 {
    let needed = load / spec.target_ongoing_requests;
    let now = f64::from(current);
    let factor = if needed >= now { spec.upscaling_factor } else { spec.downscaling_factor };
    let mut aim = upwards(now + factor * (needed - now));
    if upwards(needed) < current && aim >= current {
        aim = current.saturating_sub(1);
    }
    if aim == 0 && current > 1 {
        aim = 1;
    }
    aim.clamp(spec.min_replicas, spec.max_replicas)
}

/// The next whole number, but for what rounding has added.
fn upwards(number: f64) -> u32 {
    const ROUNDING: f64 = 1e-9;
    whole((number - ROUNDING).ceil())
}

fn whole(number: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, which is meant"
    )]
    let whole = number as u32;
    whole
}

/// The load over time, as the area under its line: dropping a point between two others changes no mean between those.
#[derive(Clone, Debug, Default)]
struct Record {
    points: VecDeque<Point>,
    /// Since the last point.
    value: f64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Instant,
    /// Request-seconds up to here.
    area: f64,
}

/// Points in a look-back period, about.
const POINTS: u32 = 256;

impl Record {
    fn last_at(&self) -> Option<Instant> {
        self.points.back().map(|point| point.at)
    }

    fn take(&mut self, value: u64, now: Instant, look_back: Duration) {
        let area = self.area_at(now);
        let value = f64::from(u32::try_from(value).unwrap_or(u32::MAX));
        let close = look_back / POINTS;
        let len = self.points.len();
        if len >= 2 && self.points[len - 1].at.duration_since(self.points[len - 2].at) < close {
            self.points.pop_back();
        }
        self.points.push_back(Point { at: now, area });
        self.value = value;
        // The last one at or before the start of the period is still of use.
        while self.points.len() > 2 && self.points[1].at + look_back <= now {
            self.points.pop_front();
        }
    }

    fn mean(&self, look_back: Duration, now: Instant) -> f64 {
        let Some(first) = self.points.front() else { return 0.0 };
        let start = now.checked_sub(look_back).map_or(first.at, |start| start.max(first.at));
        let time = now.saturating_duration_since(start).as_secs_f64();
        if time == 0.0 { self.value } else { (self.area_at(now) - self.area_at(start)) / time }
    }

    fn area_at(&self, at: Instant) -> f64 {
        let after = self.points.partition_point(|point| point.at <= at);
        let Some(before) = after.checked_sub(1).and_then(|index| self.points.get(index)) else { return 0.0 };
        let passed = at.duration_since(before.at).as_secs_f64();
        match self.points.get(after) {
            Some(next) => {
                let part = passed / next.at.duration_since(before.at).as_secs_f64();
                before.area + part * (next.area - before.area)
            }
            None => before.area + passed * self.value,
        }
    }
}

#[cfg(test)]
mod in_world;
#[cfg(test)]
mod tests;
