//! Revisions as files.
//!
//! ```text
//! revision-0000000007.json:   {"format":1,"revision":7,"sha256":"…","desired":
//!                             { … }
//!                             }
//! ```
//!
//! Plain JSON, whose first line names the hash of the bytes between it and the last: a file that was torn, or edited
//! by hand, is told apart from a whole one.

use std::io;

use decurion_api::limits::REVISIONS_MAX;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::desired::Desired;
use crate::store::{DesiredStore, Disk};

/// Files of one folder, each a revision.
#[derive(Debug)]
pub struct Revisions<D> {
    disk: D,
}

/// What was found at the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The newest whole revision; the first of all where there is none.
    pub desired: Desired,
    /// Newer files that are not whole, each with what is wrong; to be told to the operator.
    pub damaged: Vec<String>,
}

/// Why the store can't do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refuses.
    #[error("the state file {path} can't be {what}")]
    Disk {
        /// Which.
        path: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Written by a later version of this program.
    #[error(
        "the state file {path} has format {found}, and this version reads up to {FORMAT}; it was left untouched"
    )]
    NewerFormat {
        /// Which.
        path: String,
        /// Its format.
        found: u64,
    },
    /// Files there are, and none of them is whole.
    #[error("no revision of the desired state is whole: {}", .0.join("; "))]
    NothingWhole(Vec<String>),
    /// Not among those that are kept.
    #[error("revision {revision} is not kept; there are: {}", kept.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))]
    NoSuchRevision {
        /// As it was asked for.
        revision: u64,
        /// What there is.
        kept: Vec<u64>,
    },
    /// Not whole.
    #[error("{0}")]
    Damaged(String),
}

/// The format that is written, and the newest that is read.
const FORMAT: u64 = 1;
const PREFIX: &str = "revision-";
const SUFFIX: &str = ".json";
const TEMPORARY: &str = "incoming.tmp";

#[derive(Deserialize)]
struct Head {
    format: u64,
}

#[derive(Deserialize)]
struct Whole {
    revision: u64,
    sha256: String,
    desired: Desired,
}

impl<D: Disk> Revisions<D> {
    /// Those of a folder.
    #[must_use]
    pub fn new(disk: D) -> Self {
        Self { disk }
    }

    #[cfg(test)]
    pub(crate) fn disk_for_test(&self) -> &D {
        &self.disk
    }

    fn read_file(&mut self, revision: u64) -> Result<Desired, StoreError> {
        let name = file_name(revision);
        let path = self.disk.path_of(&name);
        let bytes = self.disk.read(&name).map_err(|source| StoreError::Disk {
            path: path.clone(),
            what: "read",
            source,
        })?;
        parse(&bytes, revision, &path)
    }

    fn numbers(&mut self) -> Result<Vec<u64>, StoreError> {
        let names = self.disk.list().map_err(|source| StoreError::Disk {
            path: self.disk.path_of(""),
            what: "listed",
            source,
        })?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Drops what is beyond the number kept. A failure costs room and nothing else: the next revision tries again.
    fn prune(&mut self) {
        let Ok(numbers) = self.numbers() else { return };
        let beyond = numbers.len().saturating_sub(REVISIONS_MAX);
        for number in &numbers[..beyond] {
            if self.disk.remove(&file_name(*number)).is_err() {
                return;
            }
        }
    }
}

impl<D: Disk> DesiredStore for Revisions<D> {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let numbers = self.numbers()?;
        let newest = numbers.last().copied();
        let mut damaged = Vec::new();
        for number in numbers.into_iter().rev() {
            match self.read_file(number) {
                Ok(mut desired) => {
                    // A number that was given away once, whole or not, is not given away again.
                    desired.revision = newest.unwrap_or(number);
                    return Ok(Loaded { desired, damaged });
                }
                Err(StoreError::Damaged(why)) => damaged.push(why),
                Err(error) => return Err(error),
            }
        }
        if damaged.is_empty() {
            return Ok(Loaded { desired: Desired::default(), damaged });
        }
        Err(StoreError::NothingWhole(damaged))
    }

    fn save(&mut self, desired: &Desired) -> Result<(), StoreError> {
        let name = file_name(desired.revision);
        let path = self.disk.path_of(&name);
        let failed = |what| {
            let path = path.clone();
            move |source| StoreError::Disk { path, what, source }
        };
        self.disk.write(TEMPORARY, &format(desired)).map_err(failed("written"))?;
        self.disk.sync(TEMPORARY).map_err(failed("made durable"))?;
        self.disk.rename(TEMPORARY, &name).map_err(failed("renamed"))?;
        if let Err(error) = self.disk.sync_folder() {
            // It may or may not outlive a power cut: take it back, so that what is refused is not done later.
            let _ = self.disk.remove(&name);
            return Err(failed("made durable")(error));
        }
        self.prune();
        Ok(())
    }

    fn read(&mut self, revision: u64) -> Result<Desired, StoreError> {
        let kept = self.numbers()?;
        if !kept.contains(&revision) {
            return Err(StoreError::NoSuchRevision { revision, kept });
        }
        self.read_file(revision)
    }

    fn revisions(&mut self) -> Result<Vec<u64>, StoreError> {
        self.numbers()
    }
}

fn file_name(revision: u64) -> String {
    format!("{PREFIX}{revision:010}{SUFFIX}")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

fn format(desired: &Desired) -> Vec<u8> {
    let body = serde_json::to_string_pretty(desired).expect("plain data with text keys always has JSON");
    let (revision, hash) = (desired.revision, hash(body.as_bytes()));
    format!("{{\"format\":{FORMAT},\"revision\":{revision},\"sha256\":\"{hash}\",\"desired\":\n{body}\n}}\n")
        .into_bytes()
}

fn parse(bytes: &[u8], revision: u64, path: &str) -> Result<Desired, StoreError> {
    let damaged = |why: &str| StoreError::Damaged(format!("{path} is damaged: {why}"));
    // Whatever else a later version has changed, its format can be told, and the file is not for us.
    if let Ok(head) = serde_json::from_slice::<Head>(bytes)
        && head.format > FORMAT
    {
        return Err(StoreError::NewerFormat { path: path.to_owned(), found: head.format });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let body = text
        .split_once('\n')
        .and_then(|(_, rest)| rest.strip_suffix("\n}\n"))
        .ok_or_else(|| damaged("it is cut off, or was edited"))?;
    let whole: Whole = serde_json::from_str(text).map_err(|error| damaged(&error.to_string()))?;
    if whole.sha256 != hash(body.as_bytes()) || whole.revision != revision {
        return Err(damaged("its bytes are not those that were written"));
    }
    Ok(whole.desired)
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
