//! Contenders in turn, round after round, and their medians: what else runs on the machine meets all of them alike.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::place::{self, Place};

/// What one run of a contender came to.
pub type Run<'a> = Box<dyn Fn() -> f64 + 'a>;

/// Contenders of one table line, the first of which the others are compared with.
#[derive(Default)]
pub struct Contest<'a> {
    contenders: Vec<(&'static str, Run<'a>)>,
}

impl std::fmt::Debug for Contest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.contenders.iter().map(|(name, _)| name)).finish()
    }
}

impl<'a> Contest<'a> {
    /// Enters one.
    #[must_use]
    pub fn with(mut self, name: &'static str, run: impl Fn() -> f64 + 'a) -> Self {
        self.contenders.push((name, Box::new(run)));
        self
    }

    /// Runs all of them, so many rounds, and tells the median of each.
    #[must_use]
    pub fn medians(&self, rounds: usize) -> Vec<(&'static str, f64)> {
        let mut figures = vec![Vec::new(); self.contenders.len()];
        for _ in 0..rounds {
            for ((_, run), figures) in self.contenders.iter().zip(&mut figures) {
                figures.push(run());
            }
        }
        let names = self.contenders.iter().map(|(name, _)| *name);
        names.zip(figures.iter_mut().map(|figures| median(figures))).collect()
    }
}

/// The middle one.
#[must_use]
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Half of the calls are faster than this many nanoseconds. A quarter of the time is for warming up.
#[must_use]
pub fn p50(lasts: Duration, mut ask: impl FnMut()) -> f64 {
    let began = now();
    let mut before = began;
    let mut samples = Vec::new();
    // Few calls are enough where one takes long.
    while before - began < lasts || samples.len() < 10 {
        ask();
        let now = now();
        if now - began > lasts / 4 {
            samples.push((now - before).as_nanos() as f64);
        }
        before = now;
    }
    median(&mut samples)
}

/// How many a second, where each call does some.
#[must_use]
pub fn rate(lasts: Duration, mut work: impl FnMut() -> usize) -> f64 {
    let began = now();
    let (mut done, mut since) = (0, began);
    loop {
        done += work();
        let now = now();
        if since == began && now - began > lasts / 4 {
            (done, since) = (0, now);
        }
        if now - began > lasts && done > 0 {
            return done as f64 / (now - since).as_secs_f64();
        }
    }
}

/// Runs one side in a thread of its own, and the other here, where `place` says.
pub fn between<T>(place: Place, server: impl FnOnce() + Send, client: impl FnOnce() -> T) -> T {
    let figure = thread::scope(|scope| {
        scope.spawn(move || {
            place.pin(true);
            server();
        });
        place.pin(false);
        client()
    });
    place::unpin();
    figure
}

/// The clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a bench is about time")]
pub fn now() -> Instant {
    Instant::now()
}

/// A line for whoever runs the bench.
pub fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
