//! Collects what is wrong with a file, and knows how to turn a place in its text into line and column.

use super::{FileError, FileProblem, PROBLEMS_MAX, Position};
use crate::limits::CONFIG_FILE_MAX;

/// What has been found wrong so far.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    file: String,
    text: &'t str,
    found: Vec<FileProblem>,
    more: usize,
}

impl<'t> Problems<'t> {
    pub(super) fn of_text(file: &str, text: &'t str) -> Self {
        Self { file: file.to_owned(), text, found: Vec::new(), more: 0 }
    }

    pub(super) fn of_wire() -> Problems<'static> {
        Problems::of_text("", "")
    }

    /// `at` is a byte offset into the text.
    pub(super) fn add(&mut self, at: Option<usize>, field: &str, message: String) {
        if self.found.len() == PROBLEMS_MAX {
            self.more += 1;
            return;
        }
        let position = at.map(|at| self.position(at));
        self.found.push(FileProblem { position, field: field.to_owned(), message });
    }

    /// Words for a place that a message points back to: `line 3`, or the field where there are no lines.
    pub(super) fn words_for(&self, at: Option<usize>, field: &str) -> String {
        match at {
            Some(at) => format!("line {}", self.position(at).line),
            None => field.to_owned(),
        }
    }

    pub(super) fn position(&self, at: usize) -> Position {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.text[..at];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// How many there are so far.
    pub(super) fn count(&self) -> usize {
        self.found.len() + self.more
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn too_large(mut self, len: usize) -> FileError {
        self.add(None, "", format!("has {len} bytes, and a configuration has at most {CONFIG_FILE_MAX}"));
        self.into_error()
    }

    pub(super) fn into_error(mut self) -> FileError {
        self.take_error()
    }

    pub(super) fn take_error(&mut self) -> FileError {
        let mut problems = std::mem::take(&mut self.found);
        problems.sort_by_key(|problem| problem.position);
        FileError { file: std::mem::take(&mut self.file), problems, more: std::mem::take(&mut self.more) }
    }
}
