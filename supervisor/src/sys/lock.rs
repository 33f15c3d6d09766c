//! One supervisor per state folder: a file lock that the kernel drops with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The lock, held as long as this lives.
#[derive(Debug)]
pub(crate) struct StateLock {
    file: Flock<File>,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("another supervisor (pid {pid}) runs on the state folder {}", path.display())]
    Held {
        /// Who, as it wrote it down itself; `?` where that can't be read.
        pid: String,
        /// The state folder.
        path: PathBuf,
    },
    /// The file can't be made or locked.
    #[error("the lock file {} can't be used", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StateLock {
    /// Takes the lock of a state folder, which must be there.
    ///
    /// # Errors
    /// [`LockError::Held`] names the process that has it.
    pub(super) fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let read = file.read_to_string(&mut pid).is_ok();
                let pid = if read && !pid.trim().is_empty() { pid.trim().to_owned() } else { "?".to_owned() };
                return Err(LockError::Held { pid, path: state_dir.to_owned() });
            }
            Err((_, errno)) => return Err(io(errno.into())),
        };
        Self::hold(file).map_err(io)
    }

    /// Takes the lock over from the program before, which has held it.
    pub(super) fn inherit(fd: OwnedFd, state_dir: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: state_dir.join("lock"), source };
        // Ours already: the lock belongs to the open file.
        let file = Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock);
        file.map_err(|(_, errno)| errno.into()).and_then(Self::hold).map_err(io)
    }

    fn hold(mut file: Flock<File>) -> io::Result<Self> {
        file.rewind().and_then(|()| file.set_len(0))?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { file })
    }
}

impl AsFd for StateLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // Nobody is to be named who does not run.
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_with_the_first_ones_pid_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateLock::take(folder.path()).unwrap();
        let refusal = StateLock::take(folder.path()).unwrap_err().to_string();
        assert!(refusal.contains(&format!("pid {}", std::process::id())), "{refusal}");
        drop(first);
        StateLock::take(folder.path()).unwrap();
    }
}
