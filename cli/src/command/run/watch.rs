//! `run --watch`: what runs is applied again when its file, or a library that it names, changes on disk.

use std::collections::BTreeSet;
use std::io::PipeWriter;
use std::path::PathBuf;

use crate::command::target::Target;
use crate::failure::{Exit, Failure};
use crate::output::{Output, Tone};
use crate::sys::Files;

/// See the module.
pub(super) struct Watch {
    target: Target,
    files: Files,
    /// What was looked at last.
    known: BTreeSet<PathBuf>,
}

impl Watch {
    /// From now on nothing is missed. Where the writer is dropped, [`go_on`](Self::go_on) ends.
    pub(super) fn new(target: &Target, output: &Output) -> Result<(Self, PipeWriter), Failure> {
        let (files, end) =
            Files::new().map_err(|error| Failure::of("files can't be watched", &error).nothing_changed())?;
        let mut watch = Self { target: target.clone(), files, known: BTreeSet::new() };
        watch.look(output);
        Ok((watch, end))
    }

    /// Calls `apply` after each change. What can't be applied is said, and what ran before runs on.
    pub(super) fn go_on(mut self, output: &Output, apply: impl Fn() -> Result<(), Failure>) {
        while let Some(changed) = self.files.changed() {
            self.look(output);
            output.note_in(Tone::Moving, &format!("changed: {}", names(&changed)));
            match apply() {
                Ok(()) => output.note_in(Tone::Good, "applied again"),
                // Ctrl-C meanwhile.
                Err(failure) if failure.exit == Exit::Unreachable => return,
                Err(failure) => failure.print(output),
            }
        }
    }

    fn look(&mut self, output: &Output) {
        // Of a file that can't be read just now, what it named before is watched on.
        if let Ok(files) = self.target.files() {
            self.known = files;
        }
        if let Err((folder, error)) = self.files.watch(self.known.clone()) {
            output.note_in(Tone::Moving, &format!("not watched: {}: {error}", folder.display()));
        }
    }
}

fn names(files: &BTreeSet<PathBuf>) -> String {
    let names = files.iter().filter_map(|file| file.file_name());
    names.map(|name| name.display().to_string()).collect::<Vec<_>>().join(", ")
}
