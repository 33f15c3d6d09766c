//! The way in: start a supervisor inside this process, wait for its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::Options;
use crate::sys::lock::{LockError, StateLock};

/// Starts supervisors.
#[derive(Debug)]
pub struct Supervisor;

/// A supervisor that runs in this process, on threads of its own.
#[derive(Debug)]
pub struct Running {
    socket: PathBuf,
    stopper: Stopper,
    thread: JoinHandle<Result<(), RunError>>,
}

/// Asks a running supervisor to stop, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    orders: mpsc::Sender<()>,
}

/// Why a supervisor did not start. Nothing is left running, and the desired state is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another one runs on the same state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A folder can't be made or used.
    #[error("the folder {} can't be used", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("{what} failed")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why a supervisor that ran ended other than asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The loop's thread ended without a word.
    #[error("the supervisor's thread panicked")]
    Panicked,
}

impl Supervisor {
    /// Starts one. When this returns, the admin API answers on [`Options::socket`].
    ///
    /// # Errors
    /// [`StartError`]; then nothing runs and nothing was changed.
    pub fn start(options: Options) -> Result<Running, StartError> {
        let folder = |source| StartError::Folder { path: options.state_dir.clone(), source };
        std::fs::create_dir_all(&options.state_dir).map_err(folder)?;
        let lock = StateLock::take(&options.state_dir)?;
        let (orders, stop) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                let _held = lock;
                // An error means that every stopper is gone, which is an end as well.
                let _ = stop.recv();
                Ok(())
            })
            .map_err(|source| StartError::System { what: "starting the supervisor's thread", source })?;
        Ok(Running { socket: options.socket, stopper: Stopper { orders }, thread })
    }
}

impl Running {
    /// Where the admin API answers.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until it has stopped: every child is gone, and so are the sockets.
    ///
    /// # Errors
    /// [`RunError`] where it ended other than asked.
    pub fn wait(self) -> Result<(), RunError> {
        self.thread.join().unwrap_or(Err(RunError::Panicked))
    }
}

impl Stopper {
    /// The first time: drain and stop, as on SIGTERM. The second time: now. Does nothing once it has stopped.
    pub fn stop(&self) {
        // Whoever would listen has stopped.
        let _ = self.orders.send(());
    }
}
