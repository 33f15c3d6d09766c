//! Waits until files on disk change: by their folders, since editors and linkers put a new file in the place of the old
//! one. It does not know what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::now;

/// A file is whole when nothing has happened to any for so long.
const QUIET: Duration = Duration::from_millis(200);
/// What never comes to rest is looked at all the same.
const UNREST_MAX: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Files {
    inotify: Inotify,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    watched: BTreeSet<PathBuf>,
    end: PipeReader,
}

impl Files {
    /// Of none so far. Where the writer is dropped, nothing is waited for any more.
    pub(crate) fn new() -> io::Result<(Self, PipeWriter)> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let (end, writer) = io::pipe()?;
        Ok((Self { inotify, folders: BTreeMap::new(), watched: BTreeSet::new(), end }, writer))
    }

    /// From now on these, by whole paths. The error names a folder that can't be watched; the others are.
    pub(crate) fn watch(&mut self, files: BTreeSet<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
        let wanted: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        for (_, gone) in self.folders.extract_if(.., |folder, _| !wanted.contains(folder.as_path())) {
            // One that was deleted is not watched any more by itself.
            let _ = self.inotify.rm_watch(gone);
        }
        let mut failed = None;
        for folder in wanted {
            // Also where it is watched already: there may be another folder of that name by now.
            match self.inotify.add_watch(folder, flags()) {
                Ok(watch) => _ = self.folders.insert(folder.to_owned(), watch),
                Err(error) => failed = Some((folder.to_owned(), error.into())),
            }
        }
        self.watched = files;
        failed.map_or(Ok(()), Err)
    }

    /// Waits until some have changed, and then nothing has for a while: which. `None`: it is over.
    pub(crate) fn changed(&mut self) -> Option<BTreeSet<PathBuf>> {
        let mut changed = BTreeSet::new();
        while changed.is_empty() {
            self.wait(PollTimeout::NONE)?;
            self.take(&mut changed);
        }
        let began = now();
        let quiet = PollTimeout::try_from(QUIET).unwrap_or(PollTimeout::MAX);
        while self.wait(quiet)? && began.elapsed() < UNREST_MAX {
            self.take(&mut changed);
        }
        Some(changed)
    }

    /// Whether anything has happened in time. `None`: it is over.
    fn wait(&self, patience: PollTimeout) -> Option<bool> {
        let mut fds =
            [&self.inotify.as_fd(), &self.end.as_fd()].map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
        let [happened, over] = fds.map(|fd| fd.any().unwrap_or(false));
        (!over).then_some(happened)
    }

    fn take(&self, changed: &mut BTreeSet<PathBuf>) {
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                changed.extend(self.files_of(&event));
            }
        }
    }

    fn files_of(&self, event: &InotifyEvent) -> Vec<PathBuf> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            // Any of them, perhaps.
            return self.watched.iter().cloned().collect();
        }
        let named = |name: &OsString| {
            let folders = self.folders.iter().filter(|(_, watch)| **watch == event.wd);
            folders.map(|(folder, _)| folder.join(name)).collect()
        };
        let mut files: Vec<PathBuf> = event.name.as_ref().map(named).unwrap_or_default();
        files.retain(|file| self.watched.contains(file));
        files
    }
}

/// A file that is written, replaced, or linked to its place, as cargo does it.
fn flags() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_ONLYDIR
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn watching(folder: &Path, names: &[&str]) -> (Files, PipeWriter) {
        let (mut files, end) = Files::new().expect("inotify");
        files.watch(names.iter().map(|name| folder.join(name)).collect()).expect("a folder");
        (files, end)
    }

    #[test]
    fn a_file_that_is_written_replaced_or_linked_anew_has_changed_and_others_have_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut files, _end) = watching(folder.path(), &["a", "b", "c"]);
        for name in ["other", "a"] {
            fs::write(folder.path().join(name), "1").expect("written");
        }
        assert_eq!(files.changed(), Some([folder.path().join("a")].into()));
        fs::rename(folder.path().join("other"), folder.path().join("b")).expect("renamed");
        fs::hard_link(folder.path().join("a"), folder.path().join("c")).expect("linked");
        assert_eq!(files.changed(), Some([folder.path().join("b"), folder.path().join("c")].into()));
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_and_the_others_are_watched() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut files, _end) = Files::new().expect("inotify");
        let (here, nowhere) = (folder.path().join("a"), folder.path().join("none/b"));
        let (missing, _) = files.watch([here.clone(), nowhere].into()).expect_err("there is none");
        assert_eq!(missing, folder.path().join("none"));
        fs::write(&here, "1").expect("written");
        assert_eq!(files.changed(), Some([here].into()));
    }

    #[test]
    fn who_waits_is_told_when_it_is_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut files, end) = watching(folder.path(), &["a"]);
        let waiting = std::thread::spawn(move || files.changed());
        drop(end);
        assert_eq!(waiting.join().expect("it ends"), None);
    }
}
