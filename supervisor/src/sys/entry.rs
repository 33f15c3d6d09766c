//! The way in: start a supervisor inside this process, wait for its end.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use mio::Poll;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_mio::v1_0::Signals;

use decurion_ipc::adoption::CONTROL_VERSION;

use crate::Options;
use crate::change::{Changer, Standing};
use crate::desired::Desired;
use crate::roster::Roster;
use crate::store::{DesiredStore, Revisions, StoreError};
use crate::sys::api::{Api, Server};
use crate::sys::artifacts::{ArtifactError, Artifacts, ConfigError, read_config};
use crate::sys::capacity;
use crate::sys::folder::{Folder, make_folder};
use crate::sys::hall::{Hall, boot_id};
use crate::sys::heritage::Heritage;
use crate::sys::journal::Journal;
use crate::sys::lock::{LockError, StateLock};
use crate::sys::machine::upgrade::TRIAL_WORD;
use crate::sys::machine::{Left, MAILBOX, Machine, Parts, adopt, is_live};
use crate::sys::mailbox::{Mailbox, Message};
use crate::sys::process::{Executables, raise_descriptor_limit};
use crate::sys::sockets::{Guard, SocketError, bind_control, bind_handles, bind_http, inherited};
use crate::sys::tls::{self, TlsError};

/// Starts supervisors.
#[derive(Debug)]
pub struct Supervisor;

/// A supervisor that runs in this process, on threads of its own.
#[derive(Debug)]
pub struct Running {
    socket: PathBuf,
    metrics: Option<SocketAddr>,
    stopper: Stopper,
    thread: JoinHandle<Result<(), RunError>>,
}

/// Asks a running supervisor to stop, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    mailbox: Mailbox,
}

/// Why a supervisor did not start. Nothing is left running, and the desired state is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another one runs on the same state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A folder can't be made or used.
    #[error("the folder {} can't be used: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The desired state can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration file is not taken.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// What the configuration file asks for is refused.
    #[error("the configuration file {} is refused: {refusal}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        refusal: crate::change::Refusal,
    },
    /// The certificate for HTTP can't serve.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket can't be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The address for HTTP can't be listened on.
    #[error("the address {address} can't be listened on: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The programs that replicas and the proxy run are not there.
    #[error("the programs of replicas and proxy can't be opened: {0}")]
    Executables(#[source] io::Error),
    /// The system refused something else.
    #[error("{what} failed: {source}")]
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
    /// The loop can't wait for anything any more.
    #[error("the loop can't wait for events: {0}")]
    Poll(#[source] io::Error),
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
        let folder = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Folder { path, source }
        };
        make_folder(&options.state_dir, 0o755).map_err(folder(&options.state_dir))?;
        let mut heritage = Heritage::take();
        let lock = match heritage.claim("lock") {
            Some(lock) => StateLock::inherit(lock, &options.state_dir)?,
            None => StateLock::take(&options.state_dir)?,
        };
        raise_descriptor_limit();
        let executables =
            Executables::open(options.executables.as_deref()).map_err(StartError::Executables)?;
        let revisions = options.state_dir.join("revisions");
        let mut store = Revisions::new(Folder::open(revisions.clone()).map_err(folder(&revisions))?);
        let libraries = options.state_dir.join("libraries");
        let artifacts = Artifacts::open(libraries.clone(), executables.graph_library().to_owned())
            .map_err(folder(&libraries))?;
        let loaded = store.load()?;
        for damage in &loaded.damaged {
            tracing::error!("{damage}; the revision before it is used");
        }
        let desired = with_config(loaded.desired, &options, &artifacts)?;
        let tls = tls::read(desired.http.tls.as_ref())?;

        let guard = Guard::new(options.group);
        let (control, control_file) = match heritage.claim("control") {
            Some(listener) => (UnixListener::from(listener), inherited(&options.socket)),
            None => bind_control(&options.socket, guard)?,
        };
        let handles_path = options.socket.with_file_name("handle.sock");
        let handles = match heritage.claim("handles") {
            Some(listener) => (listener, inherited(&handles_path)),
            None => bind_handles(&handles_path, guard)?,
        };
        let address = options.listen.clone().unwrap_or_else(|| desired.http.listen.clone());
        let hall_path = options.socket.with_file_name("adopt.sock");
        let hall = match heritage.claim("adopt") {
            Some(listener) => Hall::inherit(listener, &hall_path),
            None => Hall::open(&hall_path)?,
        };
        let children = options.state_dir.join("children");
        let disk = Folder::open(children.clone()).map_err(folder(&children))?;
        let (mut roster, left) =
            boot_id().and_then(|boot| Roster::open(disk, boot)).map_err(folder(&children))?;
        let (alive, dead) = adopt::sort(left);
        let mut listeners = BTreeMap::new();
        if let Some(listener) = heritage.claim(&format!("listen:{address}")) {
            listeners.insert(address, listener.into());
        } else if !adopt::has_proxy(&alive) {
            let listener = bind_http(&address)
                .map_err(|source| StartError::Listen { address: address.clone(), source })?;
            listeners.insert(address, listener);
        }
        let left = Left { life: roster.begin_life(), alive, dead };
        let metrics = options.metrics.as_ref().map(|address| {
            let failed = |source| StartError::Listen { address: address.clone(), source };
            bind_http(address).map_err(failed)
        });
        let metrics = metrics.transpose()?;
        let metrics_address = metrics.as_ref().and_then(|listener| listener.local_addr().ok());
        if store.load()?.desired != desired {
            store.save(&desired)?;
        }

        let system = |what| move |source| StartError::System { what, source };
        let poll = Poll::new().map_err(system("making a poll"))?;
        let (mailbox, inbox) = Mailbox::new(poll.registry(), MAILBOX).map_err(system("making a waker"))?;
        let signals = options
            .signals
            .then(|| Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2]))
            .transpose()
            .map_err(system("taking over signals"))?;
        let journal = Journal::new(options.output);
        let api = Api::new(mailbox.clone(), artifacts.clone(), journal.clone(), handles_path);
        let socket = options.socket.clone();
        let stopper = Stopper { mailbox: mailbox.clone() };
        let machine = Machine::new(Parts {
            poll,
            mailbox,
            inbox,
            signals,
            desired,
            tls,
            store,
            artifacts,
            executables,
            handles,
            control: control.as_fd().try_clone_to_owned().map_err(system("copying a socket"))?,
            lock,
            listeners,
            guard,
            journal,
            options,
            roster,
            hall,
            left,
        })
        .map_err(system("watching sockets"))?;
        let server = Server::start(control, metrics, guard, api).map_err(system("starting the admin API"))?;
        let run = move || {
            let ended = machine.run();
            server.stop();
            drop(control_file);
            // The sockets' files go first, then the lock: the next one finds a clean place.
            ended.map(drop)
        };
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(run)
            .map_err(system("starting the supervisor's thread"))?;
        Ok(Running { socket, metrics: metrics_address, stopper, thread })
    }
}

impl Supervisor {
    /// Looks whether one could start here, in the place of the one that runs: the programs are there, and the state can
    /// be read. Changes nothing. What to print, so that the one that runs knows.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn self_test(options: &Options) -> Result<String, StartError> {
        Executables::open(options.executables.as_deref()).map_err(StartError::Executables)?;
        let revisions = options.state_dir.join("revisions");
        let folder = |source| StartError::Folder { path: revisions.clone(), source };
        let loaded = Revisions::new(Folder::open(revisions.clone()).map_err(folder)?).load()?;
        if let Some(path) = &options.config {
            let _ = (read_config(path)?, loaded);
        }
        Ok(format!("{TRIAL_WORD} {CONTROL_VERSION}"))
    }
}

impl Running {
    /// Where the admin API answers.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where metrics are to be had beside the admin API, if there is such a place.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
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
        self.mailbox.post(Message::Stop);
    }
}

/// The desired state with what the configuration file asks for.
fn with_config(desired: Desired, options: &Options, artifacts: &Artifacts) -> Result<Desired, StartError> {
    let Some(path) = &options.config else { return Ok(desired) };
    let spec = read_config(path)?;
    let libraries = artifacts
        .resolve_all(&spec.deployments, |spec| is_live(&desired, spec))
        .map_err(|error: ArtifactError| ConfigError::from(error))?;
    let standing = |_: &_| Standing { whole: true, ..Standing::default() };
    let capacity = capacity::measure().overridden(&options.capacity);
    let proposal = Changer::new(&desired, None, &standing)
        .and_then(|changer| changer.on(&capacity).application(spec, &libraries));
    match proposal {
        Ok(proposal) => Ok(proposal.desired),
        Err(refusal) => Err(StartError::Refused { path: path.clone(), refusal }),
    }
}
