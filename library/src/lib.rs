//! Reads what a deployment's library says of itself, without running its code: `check`, `deploy` and a replica that
//! is about to load it all ask here. The bytes are hostile: whatever they hold, they are read or refused.
//!
//! [`inspect`] is pure and looks at the file alone, through its program headers and dynamic section, which is what
//! the loader goes by. [`check_host`] looks at this machine: is its glibc new enough, are the needed libraries there.

mod cache;
mod elf;
mod error;
mod facts;
mod metadata;
#[expect(unsafe_code, reason = "asks this machine's C library")]
mod sys;

pub use error::LibraryError;
pub use facts::{BatchFacts, ClassFacts, Concurrency, GlibcVersion, LibraryFacts, MethodFacts};
pub use sys::{Problem, check_host, folders_of};

/// Classes in one library.
pub const CLASSES_MAX: usize = 256;
/// Bytes of one class's metadata.
pub const METADATA_MAX: usize = 256 * 1024;
/// Methods of one class.
pub const METHODS_MAX: usize = 1_000;
/// Bytes of a name of a class or a method.
pub const NAME_MAX: usize = 63;

/// Reads a library's facts from its bytes.
///
/// # Errors
/// [`LibraryError`] says in one sentence why it can't be a deployment's library on this kind of machine.
pub fn inspect(bytes: &[u8]) -> Result<LibraryFacts, LibraryError> {
    let image = elf::Image::parse(bytes)?;
    let classes = metadata::classes(&image)?;
    Ok(LibraryFacts {
        classes,
        needed: image.needed()?,
        run_path: image.run_path()?,
        glibc: image.glibc_needed()?,
    })
}

#[cfg(test)]
mod tests;
