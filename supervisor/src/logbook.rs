//! The newest events and lines, in memory, for whoever asks. Bounded; readers keep their own place by sequence.

use std::collections::{BTreeMap, VecDeque};

use decurion_api::admin::{Event, LogLine};
use decurion_api::limits::{EVENTS_MAX, LOG_LINES_MAX};
use decurion_api::{DeploymentName, ReplicaId};

use crate::reconcile::Note;

/// Events and lines.
#[derive(Debug, Default)]
pub(crate) struct Logbook {
    events: VecDeque<Event>,
    lines: BTreeMap<DeploymentName, VecDeque<LogLine>>,
    events_written: u64,
    lines_written: u64,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineFilter {
    /// Of one deployment.
    pub(crate) deployment: Option<DeploymentName>,
    /// Of one replica.
    pub(crate) replica: Option<ReplicaId>,
    /// Not older, in Unix milliseconds.
    pub(crate) since_ms: Option<u64>,
}

/// One line before it has its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewLine {
    /// Which deployment.
    pub(crate) deployment: DeploymentName,
    /// Which replica.
    pub(crate) replica: ReplicaId,
    /// `stdout`, `stderr` or `log`.
    pub(crate) stream: &'static str,
    /// The text.
    pub(crate) text: String,
}

/// Deployments whose lines are kept, at most: those that were deleted longest ago go first.
const DEPLOYMENTS_KEPT_MAX: usize = 1_100;

impl Logbook {
    /// Writes an event.
    pub(crate) fn event(&mut self, note: Note, at_ms: u64) {
        self.events_written += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            sequence: self.events_written,
            at_ms,
            deployment: note.deployment,
            replica: note.replica,
            kind: note.kind.to_owned(),
            message: note.message,
        });
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: NewLine, at_ms: u64) {
        self.lines_written += 1;
        if !self.lines.contains_key(&line.deployment) && self.lines.len() == DEPLOYMENTS_KEPT_MAX {
            let newest = |lines: &VecDeque<LogLine>| lines.back().map_or(0, |line| line.sequence);
            let oldest =
                self.lines.iter().min_by_key(|(_, lines)| newest(lines)).map(|(name, _)| name.clone());
            oldest.map(|name| self.lines.remove(&name));
        }
        let lines = self.lines.entry(line.deployment.clone()).or_default();
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(LogLine {
            sequence: self.lines_written,
            at_ms,
            deployment: line.deployment,
            replica: line.replica,
            stream: line.stream.to_owned(),
            text: line.text,
        });
    }

    /// Events after this sequence, oldest first.
    #[must_use]
    pub(crate) fn events_after(&self, sequence: u64) -> Vec<Event> {
        self.events.iter().filter(|event| event.sequence > sequence).cloned().collect()
    }

    /// Lines after this sequence that fit, oldest first.
    #[must_use]
    pub(crate) fn lines_after(&self, sequence: u64, filter: &LineFilter) -> Vec<LogLine> {
        let of_deployment =
            |name: &DeploymentName| filter.deployment.as_ref().is_none_or(|wanted| wanted == name);
        let fits = |line: &&LogLine| {
            line.sequence > sequence
                && filter.replica.as_ref().is_none_or(|replica| *replica == line.replica)
                && filter.since_ms.is_none_or(|since| line.at_ms >= since)
        };
        let mut found: Vec<LogLine> = self
            .lines
            .iter()
            .filter(|(name, _)| of_deployment(name))
            .flat_map(|(_, lines)| lines.iter().filter(fits).cloned())
            .collect();
        found.sort_by_key(|line| line.sequence);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(deployment: &str, text: &str) -> NewLine {
        NewLine {
            deployment: DeploymentName::new(deployment).unwrap(),
            replica: ReplicaId::new(format!("{deployment}-1")).unwrap(),
            stream: "stdout",
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_chatty_deployment_pushes_out_its_own_lines_only() {
        let mut book = Logbook::default();
        book.line(line("quiet", "word"), 1);
        for n in 0..LOG_LINES_MAX + 10 {
            book.line(line("chatty", &n.to_string()), 2);
        }
        let all = book.lines_after(0, &LineFilter::default());
        assert_eq!(all.len(), LOG_LINES_MAX + 1);
        assert_eq!(all[0].text, "word");
        assert_eq!(all[1].text, "10");
    }

    #[test]
    fn a_reader_gets_what_fits_after_its_place() {
        let mut book = Logbook::default();
        for (at, name) in [(1, "a"), (2, "b"), (3, "a")] {
            book.line(line(name, name), at);
        }
        let filter = LineFilter { deployment: DeploymentName::new("a").ok(), ..LineFilter::default() };
        assert_eq!(book.lines_after(1, &filter).len(), 1);
        assert_eq!(book.lines_after(0, &LineFilter { since_ms: Some(2), ..LineFilter::default() }).len(), 2);
    }
}
