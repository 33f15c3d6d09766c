//! What only this machine can tell: the version of its C library, and which libraries its loader would find.

use std::ffi::CStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{GlibcVersion, LibraryFacts, cache, elf};

/// Why a library that is one can't be loaded on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// This machine's C library is older than one that the library asks for.
    GlibcTooOld {
        /// By the library.
        needed: GlibcVersion,
        /// This machine's.
        found: GlibcVersion,
    },
    /// The loader would not find a library that it needs.
    LibraryNotFound {
        /// Its name.
        name: String,
        /// Folders looked in, beside the loader's cache.
        searched: Vec<PathBuf>,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::GlibcTooOld { needed, found } => write!(
                f,
                "the library needs glibc {needed}, and this machine has {found}; build it on a system as old as this one"
            ),
            Problem::LibraryNotFound { name, searched } => {
                let folders: Vec<String> =
                    searched.iter().map(|folder| folder.display().to_string()).collect();
                write!(f, "the library needs {name}, which is not found in {}", folders.join(", "))
            }
        }
    }
}

/// What would keep this machine from loading a library. `origin` is the folder that it lies in when it is loaded:
/// what `$ORIGIN` stands for in its own search path. `library_path` is what `LD_LIBRARY_PATH` says then.
#[must_use]
pub fn check_host(facts: &LibraryFacts, origin: &Path, library_path: &[PathBuf]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let (Some(needed), Some(found)) = (facts.glibc, glibc_here())
        && needed > found
    {
        problems.push(Problem::GlibcTooOld { needed, found });
    }
    let folders = search_path(facts, origin, library_path);
    let cache = fs::read("/etc/ld.so.cache").unwrap_or_default();
    for name in &facts.needed {
        if !is_found(name, &folders, &cache) {
            problems.push(Problem::LibraryNotFound { name: name.clone(), searched: folders.clone() });
        }
    }
    problems
}

/// The version of the C library in this process; `None` where it is not glibc.
#[cfg(target_env = "gnu")]
fn glibc_here() -> Option<GlibcVersion> {
    // SAFETY: takes nothing and returns a pointer to a static string.
    let version = unsafe { libc::gnu_get_libc_version() };
    // SAFETY: glibc's own string, ended by NUL, which lives and stays as it is for as long as the process.
    let version = unsafe { CStr::from_ptr(version) };
    GlibcVersion::parse(version.to_str().ok()?)
}

#[cfg(not(target_env = "gnu"))]
fn glibc_here() -> Option<GlibcVersion> {
    None
}

/// The folders of an `LD_LIBRARY_PATH`.
#[must_use]
pub fn folders_of(library_path: &str) -> Vec<PathBuf> {
    library_path.split([':', ';']).filter(|folder| !folder.is_empty()).map(PathBuf::from).collect()
}

/// The folders in the loader's order: the library's own, the environment's, the system's.
fn search_path(facts: &LibraryFacts, origin: &Path, library_path: &[PathBuf]) -> Vec<PathBuf> {
    let origin = origin.to_string_lossy();
    let own = facts
        .run_path
        .iter()
        .map(|folder| PathBuf::from(folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)));
    let multiarch = format!("{}-linux-gnu", elf::HOST.1);
    let system = [
        Path::new("/lib").join(&multiarch),
        Path::new("/usr/lib").join(&multiarch),
        PathBuf::from("/lib64"),
        PathBuf::from("/usr/lib64"),
        PathBuf::from("/lib"),
        PathBuf::from("/usr/lib"),
    ];
    own.chain(library_path.iter().cloned()).chain(system).collect()
}

fn is_found(name: &str, folders: &[PathBuf], cache: &[u8]) -> bool {
    if name.contains('/') {
        return is_loadable(Path::new(name));
    }
    folders.iter().any(|folder| is_loadable(&folder.join(name)))
        || cache::paths_of(cache, name).into_iter().any(|path| is_loadable(Path::new(path)))
}

/// Whether a file is a 64-bit ELF file for this machine; the loader passes over others of the same name.
fn is_loadable(path: &Path) -> bool {
    let mut head = [0u8; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok()
        && head.starts_with(b"\x7fELF")
        && head[4] == 2
        && u16::from_le_bytes([head[18], head[19]]) == elf::HOST.0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(needed: &[&str], run_path: &[&str], glibc: Option<GlibcVersion>) -> LibraryFacts {
        LibraryFacts {
            classes: Vec::new(),
            needed: needed.iter().map(|name| (*name).to_owned()).collect(),
            run_path: run_path.iter().map(|folder| (*folder).to_owned()).collect(),
            glibc,
        }
    }

    #[test]
    fn what_every_machine_has_is_found() {
        assert_eq!(check_host(&facts(&["libc.so.6", "libm.so.6"], &[], None), Path::new("/"), &[]), []);
    }

    #[test]
    fn a_library_that_no_folder_holds_is_named() {
        let problems = check_host(&facts(&["libnone-such.so.7"], &[], None), Path::new("/"), &[]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].to_string().contains("libnone-such.so.7"), "{}", problems[0]);
    }

    #[test]
    fn origin_is_the_folder_of_the_library() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::open("/proc/self/exe").and_then(|mut exe| {
            std::io::copy(
                &mut Read::by_ref(&mut exe).take(64),
                &mut File::create(folder.path().join("libown.so"))?,
            )
        });
        assert_eq!(file.unwrap(), 64);
        let facts = facts(&["libown.so"], &["$ORIGIN"], None);
        assert_eq!(check_host(&facts, folder.path(), &[]), []);
        assert_eq!(check_host(&facts, Path::new("/"), &[]).len(), 1);
        let library_path = folders_of(&format!(":/none;{}", folder.path().display()));
        assert_eq!(check_host(&facts, Path::new("/"), &library_path), []);
    }

    #[test]
    fn a_newer_glibc_than_this_machine_has_is_named() {
        let needed = GlibcVersion { major: 9, minor: 1 };
        let problems = check_host(&facts(&[], &[], Some(needed)), Path::new("/"), &[]);
        assert!(matches!(problems[..], [Problem::GlibcTooOld { .. }]), "{problems:?}");
    }
}
