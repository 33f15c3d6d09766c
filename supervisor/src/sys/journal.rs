//! The logbook as the loop and the admin API's thread share it.

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::Output;
use crate::logbook::{Logbook, NewLine};
use crate::reconcile::Note;
use crate::sys::clock;

/// The shared logbook.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    book: Arc<Mutex<Logbook>>,
    written: watch::Sender<()>,
    output: Output,
}

impl Journal {
    pub(crate) fn new(output: Output) -> Self {
        Self { book: Arc::default(), written: watch::Sender::new(()), output }
    }

    /// Writes an event, here and to our own log.
    pub(crate) fn event(&self, note: Note) {
        let about = note.replica.as_ref().map(ToString::to_string);
        let about = about.or_else(|| note.deployment.as_ref().map(ToString::to_string));
        tracing::info!(kind = note.kind, about, "{}", note.message);
        self.lock().event(note, clock::unix_ms());
        self.written.send_replace(());
    }

    /// Writes a line of a replica.
    pub(crate) fn line(&self, line: NewLine) {
        if self.output == Output::Stderr {
            // Nobody there to read is no reason to stop.
            let _ = writeln!(std::io::stderr().lock(), "[{}] {}", line.replica, line.text);
        }
        self.lock().line(line, clock::unix_ms());
        self.written.send_replace(());
    }

    /// Looks into it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Logbook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with each thing that is written.
    pub(crate) fn follow(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }
}
