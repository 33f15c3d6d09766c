//! The clock, the environment and folders of this machine's user. Everything else of the command is given these as
//! values.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place of the command where clock and environment are read"
)]

mod files;

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use decurion_supervisor::Program;

pub(crate) use files::Files;

/// A variable of the environment; an empty one counts as absent.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Between two looks at a supervisor, which has no way to say "look now" that outlives its own restart.
pub(crate) fn pause(pause: Duration) {
    std::thread::sleep(pause);
}

/// The program that runs here, by the name that it was started by: what lies there later may take its place.
pub(crate) fn this_program() -> Option<Program> {
    let mut words = std::env::args_os();
    let name = PathBuf::from(words.next()?);
    let path = if name.components().count() > 1 {
        std::path::absolute(name).ok()?
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&folders).map(|folder| folder.join(&name));
        places.filter(|place| place.is_file()).find_map(|place| std::path::absolute(place).ok())?
    };
    Some(Program { path, arguments: words.collect() })
}

/// Folder of the desired state: root's is the system's, others' is their own.
pub(crate) fn default_state_dir() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some("/var/lib/decurion".into());
    }
    Some(home_folder("XDG_STATE_HOME", ".local/state")?.join("decurion"))
}

/// The configuration that a supervisor reads where none is named; it may not exist.
pub(crate) fn default_config() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some("/etc/decurion/decurion.toml".into());
    }
    Some(home_folder("XDG_CONFIG_HOME", ".config")?.join("decurion/decurion.toml"))
}

fn home_folder(variable_name: &str, below_home: &str) -> Option<PathBuf> {
    variable(variable_name)
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(below_home)))
}

/// A folder that is this process's alone, and goes with this value.
#[derive(Debug)]
pub(crate) struct TemporaryDir {
    path: PathBuf,
}

impl TemporaryDir {
    pub(crate) fn new() -> io::Result<Self> {
        // Socket paths have at most 107 bytes, which a long TMPDIR would use up.
        let base = Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() <= 60);
        let base = base.unwrap_or_else(|| "/tmp".into());
        let path = base.join(format!("decurion-run-{}-{:x}", std::process::id(), unix_ms()));
        // Fails where something of this name is there already, a link included.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // What can't be removed is in the temporary folder and goes with it.
        let _ = fs::remove_dir_all(&self.path);
    }
}
