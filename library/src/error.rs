//! Every reason to refuse a library, each one sentence with its operands.

use decurion_abi::{ABI_MAJOR, ABI_MINOR};

/// Why bytes are not a library of deployments for this kind of machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// Less than an ELF header.
    #[error("the file has only {len} bytes, and a shared library has at least {least}")]
    TooShort {
        /// Bytes there are.
        len: usize,
        /// Bytes of the header.
        least: usize,
    },
    /// Readable text.
    #[error("the file is text, not a shared library; it begins with '{beginning}'")]
    Text {
        /// Its first words.
        beginning: String,
    },
    /// An `ar` archive: `.a` or `.rlib`.
    #[error(
        "the file is a static library (.a or .rlib), not a shared one; in Cargo.toml, set crate-type = [\"cdylib\"]"
    )]
    Archive,
    /// Other bytes.
    #[error("the file is not ELF; it begins with the bytes {beginning}")]
    NotElf {
        /// Hexadecimal.
        beginning: String,
    },
    /// 32-bit, or an unknown class.
    #[error("the library is {found}, and only 64-bit ones can be loaded here")]
    NotSixtyFour {
        /// Words for the class.
        found: String,
    },
    /// Big-endian, or an unknown order.
    #[error("the library is not little-endian, as this machine is")]
    NotLittleEndian,
    /// Another architecture.
    #[error("the library is built for {found}, and this machine is {host}")]
    OtherArchitecture {
        /// The library's.
        found: String,
        /// This machine's.
        host: &'static str,
    },
    /// An executable, an object file, a core dump.
    #[error("the file is {found}, not a shared library; in Cargo.toml, set crate-type = [\"cdylib\"]")]
    NotShared {
        /// Words for what it is.
        found: String,
    },
    /// A part that the headers announce lies behind the end.
    #[error("the file is truncated: {what} ends at byte {end}, and the file has {len}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where it ought to end.
        end: u64,
        /// Bytes there are.
        len: u64,
    },
    /// Headers that contradict themselves.
    #[error("the library is damaged: {what}")]
    Damaged {
        /// What does not fit.
        what: &'static str,
    },
    /// No class symbol among the exported ones.
    #[error(
        "the library holds no deployment: no symbol decurion_class_v1_* is exported; mark a function or an impl with #[deployment]"
    )]
    NoClass,
    /// More than [`CLASSES_MAX`](crate::CLASSES_MAX), [`METHODS_MAX`](crate::METHODS_MAX).
    #[error("the library holds more than {max} {what}")]
    TooMany {
        /// What.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// A table without our magic word, or too small.
    #[error("class '{class}' is not a table of the plugin ABI: {why}")]
    BadTable {
        /// Which.
        class: String,
        /// What does not fit.
        why: String,
    },
    /// Built for another major version.
    #[error(
        "class '{class}' is built for plugin ABI {major}.{minor}, and this version of decurion loads {ABI_MAJOR}.x; rebuild it with a matching SDK"
    )]
    OtherMajor {
        /// Which.
        class: String,
        /// Of the library.
        major: u16,
        /// Of the library.
        minor: u16,
    },
    /// Built for a newer minor version.
    #[error(
        "class '{class}' is built for plugin ABI {major}.{minor}, and this version of decurion knows {ABI_MAJOR}.{ABI_MINOR}; upgrade decurion, or rebuild the library with an older SDK"
    )]
    NewerMinor {
        /// Which.
        class: String,
        /// Of the library.
        major: u16,
        /// Of the library.
        minor: u16,
    },
    /// Metadata missing or not as the ABI says.
    #[error("the metadata of class '{class}' can't be read: {why}")]
    BadMetadata {
        /// Which.
        class: String,
        /// What does not fit.
        why: String,
    },
}
