//! Servers in turn, round after round, and a table of their medians.

use std::collections::BTreeMap;

use super::say;
use super::servers::{Folder, Server, cpu_ticks, wait_until_up};
use super::wrk::{Sample, wrk};
use crate::contest::median;

/// One server of a table. The first one is what the others are compared with.
pub struct Entrant<'a> {
    /// As the table has it.
    pub name: &'static str,
    /// What is asked for.
    pub url: String,
    /// How, in Lua, as wrk has it.
    pub script: &'static str,
    /// Starts it.
    pub start: Box<dyn Fn() -> Result<Server, String> + 'a>,
}

impl std::fmt::Debug for Entrant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entrant").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

/// All measurements of one table.
#[derive(Debug, Default)]
pub struct Series(BTreeMap<(u32, &'static str), Vec<Sample>>);

impl Series {
    /// Measures, so many rounds, each server alone and with each number of connections.
    ///
    /// # Errors
    /// A server that does not start or does not answer.
    pub fn measure(
        folder: &Folder,
        entrants: &[Entrant<'_>],
        rows: &[u32],
        (seconds, rounds): (u32, u32),
    ) -> Result<Self, String> {
        let mut samples: BTreeMap<(u32, &'static str), Vec<Sample>> = BTreeMap::new();
        for round in 1..=rounds {
            for entrant in entrants {
                let running = (entrant.start)()?;
                wait_until_up(folder, &entrant.url)?;
                let _ = wrk(folder, &entrant.url, entrant.script, 16, 1)?;
                for &connections in rows {
                    let sample = sample(folder, &running, entrant, connections, seconds)?;
                    samples.entry((connections, entrant.name)).or_default().push(sample);
                }
            }
            say(&format!("round {round} of {rounds} done"));
        }
        Ok(Self(samples))
    }

    /// The median of a figure.
    #[must_use]
    pub fn middle(&self, connections: u32, name: &'static str, figure: fn(&Sample) -> f64) -> f64 {
        let samples = self.0.get(&(connections, name)).into_iter().flatten();
        median(&mut samples.map(figure).collect::<Vec<f64>>())
    }

    /// Prints all of it.
    pub fn print(&self, entrants: &[Entrant<'_>], rows: &[u32]) {
        say("");
        say(
            "| connections | server | requests/s | first / its | p50 us | p99 us | p99.9 us | CPU us/request | errors |",
        );
        say("|---|---|---|---|---|---|---|---|---|");
        for &connections in rows {
            for Entrant { name, .. } in entrants {
                let middle = |figure: fn(&Sample) -> f64| self.middle(connections, name, figure);
                let rate = middle(|it| it.per_second);
                let first = self.middle(connections, entrants[0].name, |it| it.per_second);
                let errors: u64 =
                    self.0.get(&(connections, *name)).into_iter().flatten().map(|it| it.errors).sum();
                say(&format!(
                    "| {connections} | {name} | {rate:.0} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} | {errors} |",
                    first / rate,
                    middle(|it| it.p50_us),
                    middle(|it| it.p99_us),
                    middle(|it| it.p999_us),
                    middle(|it| it.cpu_us),
                ));
            }
        }
    }
}

fn sample(
    folder: &Folder,
    running: &Server,
    entrant: &Entrant<'_>,
    connections: u32,
    seconds: u32,
) -> Result<Sample, String> {
    let pids = running.tree();
    let before = cpu_ticks(&pids);
    let mut sample = wrk(folder, &entrant.url, entrant.script, connections, seconds)?;
    if sample.per_second == 0.0 {
        let answers = "has answered nothing; are its programs of one build?";
        return Err(format!("{} at {connections} connections {answers}", entrant.name));
    }
    let used = cpu_ticks(&pids).saturating_sub(before);
    // A tick is 10 ms; requests are the rate times the time.
    sample.cpu_us = used as f64 * 10_000.0 / (sample.per_second * f64::from(seconds)).max(1.0);
    Ok(sample)
}
