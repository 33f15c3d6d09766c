//! Libraries, stored by the hash of their bytes: what a replica loads is never the file that was deployed from, and
//! never changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use decurion_api::limits::LIBRARY_MAX;
use decurion_api::spec::{ApplicationSpec, DeploymentSpec, LibraryRef, RuntimeEnvSpec, TlsSpec};
use decurion_api::{ClassName, DeploymentName};
use decurion_library::{Concurrency, LibraryError, LibraryFacts, folders_of};
use sha2::{Digest, Sha256};

use crate::change::{Libraries, StoredLibrary, library_key};
use crate::desired::ClassInfo;
use crate::sys::folder::make_folder;

/// The store of libraries.
#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    folder: PathBuf,
    /// Our own library, which runs graphs.
    graph: PathBuf,
}

/// A library on its way in.
#[derive(Debug)]
pub(crate) struct Incoming {
    store: Artifacts,
    temporary: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
}

/// Why a library is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The file can't be read.
    #[error("the library {} can't be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store can't be written.
    #[error("the library store {} can't be used: {source}", path.display())]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Beyond [`LIBRARY_MAX`].
    #[error("a library has at most {LIBRARY_MAX} bytes")]
    TooLarge,
    /// Not in the store.
    #[error("there is no library sha256:{0} in the store; upload it first")]
    NotStored(String),
    /// Not a library of deployments.
    #[error("{0}")]
    Library(#[from] LibraryError),
    /// This machine can't load it.
    #[error("{}", .0.join("; "))]
    Host(Vec<String>),
    /// A folder that replicas are to use is none.
    #[error("{field} of deployment '{name}', {path}, can't be used: {why}")]
    Folder {
        /// Of `runtime_env`.
        field: &'static str,
        /// Of which deployment.
        name: DeploymentName,
        /// As it was asked for.
        path: String,
        /// Why.
        why: String,
    },
    /// Whose library it is.
    #[error("the library of deployment '{name}' is refused: {error}")]
    Of {
        /// Of which deployment.
        name: DeploymentName,
        /// Why.
        error: Box<ArtifactError>,
    },
}

/// A library that no revision names is kept this long: its deployment may be on its way.
const UNNAMED_MAX: Duration = Duration::from_secs(3600);
const SUFFIX: &str = ".so";
const TEMPORARY: &str = "incoming-";

impl Artifacts {
    /// The store in a folder, without what an earlier life has left half done.
    pub(crate) fn open(folder: PathBuf, graph: PathBuf) -> io::Result<Self> {
        make_folder(&folder, 0o755)?;
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder, graph })
    }

    /// Where a library lies.
    pub(crate) fn path_of(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}{SUFFIX}"))
    }

    /// Begins to take one in.
    pub(crate) fn begin(&self) -> Result<Incoming, ArtifactError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{TEMPORARY}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let temporary = self.folder.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|source| self.failed(source))?;
        Ok(Incoming { store: self.clone(), temporary, file, hasher: Sha256::new(), length: 0 })
    }

    /// Takes in a file.
    pub(crate) fn take_file(&self, path: &Path) -> Result<(String, LibraryFacts), ArtifactError> {
        let unreadable = |source| ArtifactError::Unreadable { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::other("it is not a regular file")));
        }
        let mut incoming = self.begin()?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer).map_err(unreadable)? {
                0 => return incoming.finish(),
                count => incoming.write(&buffer[..count])?,
            }
        }
    }

    /// What a library in the store says of itself.
    pub(crate) fn facts(&self, digest: &str) -> Result<LibraryFacts, ArtifactError> {
        let bytes = fs::read(self.path_of(digest)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ArtifactError::NotStored(digest.to_owned()),
            _ => self.failed(source),
        })?;
        Ok(decurion_library::inspect(&bytes)?)
    }

    /// The library that a reference means, taken in where it is a path.
    pub(crate) fn resolve(&self, library: &LibraryRef) -> Result<(String, LibraryFacts), ArtifactError> {
        match library {
            LibraryRef::Path(path) => self.take_file(Path::new(path)),
            LibraryRef::Digest(digest) => Ok((digest.clone(), self.facts(digest)?)),
            LibraryRef::Graph => self.take_file(&self.graph),
        }
    }

    /// The libraries of some deployments.
    pub(crate) fn resolve_all<'a>(
        &self,
        specs: impl IntoIterator<Item = &'a DeploymentSpec>,
        live: impl Fn(&DeploymentSpec) -> bool,
    ) -> Result<Libraries, ArtifactError> {
        let mut libraries = Libraries::new();
        let mut known = BTreeMap::new();
        for spec in specs {
            check_folders(spec)?;
            let key = library_key(&spec.library);
            // The live version's code stays as it is: what the request says of it is not even looked at.
            if live(spec) {
                continue;
            }
            let of = |error| ArtifactError::Of { name: spec.name.clone(), error: Box::new(error) };
            let (digest, facts) = match known.get(&key) {
                Some(known) => known,
                None => known.entry(key.clone()).or_insert(self.resolve(&spec.library).map_err(of)?),
            };
            self.check_host(facts, &spec.runtime_env).map_err(of)?;
            libraries.insert(key, StoredLibrary { digest: digest.clone(), classes: classes_of(facts) });
        }
        Ok(libraries)
    }

    /// Removes what nothing names and nobody is about to name.
    pub(crate) fn collect(&self, named: &BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(digest) = name.strip_suffix(SUFFIX) else { continue };
            let age =
                entry.metadata().and_then(|metadata| metadata.modified()).map(age_of).unwrap_or_default();
            if !named.contains(digest) && age > UNNAMED_MAX {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Whether this machine can load a library of the store, in an environment.
    pub(crate) fn check_host(&self, facts: &LibraryFacts, env: &RuntimeEnvSpec) -> Result<(), ArtifactError> {
        let library_path = library_path(env).map(|text| folders_of(&text)).unwrap_or_default();
        let problems = decurion_library::check_host(facts, &self.folder, &library_path);
        if problems.is_empty() {
            return Ok(());
        }
        Err(ArtifactError::Host(problems.iter().map(ToString::to_string).collect()))
    }

    fn failed(&self, source: io::Error) -> ArtifactError {
        ArtifactError::Store { path: self.folder.clone(), source }
    }
}

impl Incoming {
    /// Takes some bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.length += bytes.len() as u64;
        if self.length > LIBRARY_MAX {
            return Err(ArtifactError::TooLarge);
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|source| self.store.failed(source))
    }

    /// Checks the whole, and gives it its name.
    pub(crate) fn finish(self) -> Result<(String, LibraryFacts), ArtifactError> {
        let failed = |source| self.store.failed(source);
        let bytes = fs::read(&self.temporary).map_err(failed)?;
        let facts = decurion_library::inspect(&bytes)?;
        let digest: String =
            self.hasher.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.store.path_of(&digest);
        self.file.set_permissions(Permissions::from_mode(0o444)).map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        // In place of the same bytes, if they are there: then their age starts anew.
        fs::rename(&self.temporary, &path).map_err(failed)?;
        File::open(&self.store.folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok((digest, facts))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `finish` there is nothing of this name.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// What `LD_LIBRARY_PATH` is in an environment; `None`: it is not set.
pub(crate) fn library_path(env: &RuntimeEnvSpec) -> Option<String> {
    let given = env.env_vars.get(LIBRARY_PATH).filter(|given| !given.is_empty());
    let folders: Vec<&str> =
        env.library_path.iter().map(String::as_str).chain(given.map(String::as_str)).collect();
    (!folders.is_empty()).then(|| folders.join(":"))
}

/// Whether every folder that replicas are to use is one.
fn check_folders(spec: &DeploymentSpec) -> Result<(), ArtifactError> {
    for (field, path) in spec.runtime_env.folders() {
        let why = match fs::metadata(path) {
            _ if !Path::new(path).is_absolute() => {
                "it does not begin with '/', and there is no file that it could be relative to".to_owned()
            }
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(_) => "it is no folder".to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(ArtifactError::Folder { field, name: spec.name.clone(), path: path.to_owned(), why });
    }
    Ok(())
}

/// Where the loader looks first.
pub(crate) const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// The classes of a library, as the desired state keeps them.
pub(crate) fn classes_of(facts: &LibraryFacts) -> Vec<ClassInfo> {
    let class = |class: &decurion_library::ClassFacts| {
        Some(ClassInfo {
            name: ClassName::new(class.name.clone()).ok()?,
            http: class.call.is_some(),
            exclusive: class.call == Some(Concurrency::Exclusive),
            reconfigures: class.reconfigure.is_some(),
            checks_health: class.check_health.is_some(),
            batch_max: class.batch_max(),
            methods: class.methods.iter().map(|method| method.name.clone()).collect(),
            streams: class
                .methods
                .iter()
                .filter(|method| method.stream)
                .map(|method| method.name.clone())
                .collect(),
            encodings: class.encoding_bits(),
        })
    };
    facts.classes.iter().filter_map(class).collect()
}

/// Reads a configuration file, whose libraries lie relative to it.
pub(crate) fn read_config(path: &Path) -> Result<ApplicationSpec, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let mut spec = if is_json {
        decurion_api::spec::file::read_json(text.as_bytes())?
    } else {
        decurion_api::spec::file::read_toml(&text, &path.display().to_string())?
    };
    let folder = fs::canonicalize(path).map_err(unreadable)?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    for deployment in &mut spec.deployments {
        if let LibraryRef::Path(library) = &mut deployment.library {
            *library = folder.join(&library).display().to_string();
        }
    }
    let tls = spec.http.iter_mut().flat_map(|http| &mut http.tls).flat_map(TlsSpec::paths_mut);
    let folders = spec.deployments.iter_mut().flat_map(|it| it.runtime_env.folders_mut());
    for path in tls.chain(folders) {
        *path = folder.join(&path).display().to_string();
    }
    Ok(spec)
}

/// Why the configuration file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("the configuration file {} can't be read: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not well formed.
    #[error("{0}")]
    File(#[from] decurion_api::spec::file::FileError),
    /// A library in it is not.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

fn age_of(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_is_refused_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Artifacts::open(folder.path().join("libraries"), PathBuf::new()).unwrap();
        let text = folder.path().join("lib.so");
        fs::write(&text, "just words").unwrap();
        assert!(matches!(store.take_file(&text), Err(ArtifactError::Library(_))));
        assert!(matches!(store.take_file(folder.path()), Err(ArtifactError::Unreadable { .. })));
        assert_eq!(fs::read_dir(folder.path().join("libraries")).unwrap().count(), 0);
        assert!(matches!(store.facts(&"0".repeat(64)), Err(ArtifactError::NotStored(_))));
    }

    #[test]
    fn what_nothing_names_is_collected_once_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let store = Artifacts::open(folder.path().to_owned(), PathBuf::new()).unwrap();
        let old = SystemTime::now() - UNNAMED_MAX * 2;
        for (name, age) in [("named", old), ("unnamed", old), ("fresh", SystemTime::now())] {
            let file = File::create(store.path_of(name)).unwrap();
            file.set_modified(age).unwrap();
        }
        store.collect(&BTreeSet::from(["named".to_owned()]));
        let left = |name| store.path_of(name).exists();
        assert_eq!([left("named"), left("unnamed"), left("fresh")], [true, false, true]);
    }
}
