//! What a program hands on to the one that takes its place in the same process: sockets and the lock, as descriptors
//! that stay open, named in a variable of the environment. Children are not among it: their links hang up, and they
//! come to the adoption socket as after a death.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::options::Program;

/// Descriptors by what they are.
#[derive(Debug, Default)]
pub(crate) struct Heritage {
    held: BTreeMap<String, OwnedFd>,
}

/// The process that may inherit, then each descriptor with its name, all with a space between.
const VARIABLE: &str = "DECURION_INHERITED";
/// Descriptors below are standard input, output and error.
const FIRST_FD: RawFd = 3;

impl Heritage {
    /// What the program before has handed on; nothing where there was none.
    pub(crate) fn take() -> Self {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let mut words = text.split(' ');
        // Whoever inherits the variable and is another process has none of the descriptors.
        if words.next().and_then(|pid| pid.parse::<u32>().ok()) != Some(std::process::id()) {
            return Self::default();
        }
        let held = words.filter_map(|word| {
            let (fd, name) = word.split_once(':')?;
            let fd = fd.parse::<RawFd>().ok().filter(|fd| *fd >= FIRST_FD)?;
            // SAFETY: only looked at, and for the length of this call.
            let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
            // SAFETY: open, as the call before has shown, and left to us by the program before; each is named once.
            Some((name.to_owned(), unsafe { OwnedFd::from_raw_fd(fd) }))
        });
        Self { held: held.collect() }
    }

    /// One of them.
    pub(crate) fn claim(&mut self, name: &str) -> Option<OwnedFd> {
        self.held.remove(name)
    }

    /// Keeps a copy of one, to be handed on.
    pub(crate) fn add(&mut self, name: impl Into<String>, fd: BorrowedFd<'_>) -> io::Result<()> {
        // Not closed on exec, unlike every other descriptor of ours.
        let copy = nix::unistd::dup(fd)?;
        self.held.insert(name.into(), copy);
        Ok(())
    }

    /// Starts a program in our place. Comes back only where that fails; then all is as it was.
    pub(crate) fn hand_on(self, program: &Program) -> io::Error {
        let named = self.held.iter().map(|(name, fd)| format!("{}:{name}", fd.as_raw_fd()));
        let words: Vec<String> = std::iter::once(std::process::id().to_string()).chain(named).collect();
        let mut command = Command::new(&program.path);
        command.arg0(&program.path).args(&program.arguments).env(VARIABLE, OsString::from(words.join(" ")));
        command.exec()
    }
}
