//! Where the SDK touches the C ABI and the clock. Everything unsafe of it is here.

pub(crate) mod batching;
pub(crate) mod clock;
#[cfg(feature = "tracing")]
pub(crate) mod environment;
pub(crate) mod export;
pub(crate) mod host;
pub(crate) mod local;
#[cfg(feature = "tokio")]
pub(crate) mod task;
pub(crate) mod waking;

pub use export::{class_table, method, streaming};

/// A class's table from a library that was not built with this SDK, for tests of the ABI itself.
#[derive(Clone, Copy, Debug)]
pub struct ForeignClass(decurion_abi::Class);

impl ForeignClass {
    /// # Safety
    /// The table keeps the plugin ABI's word, and its library stays loaded.
    #[must_use]
    pub unsafe fn new(table: decurion_abi::Class) -> Self {
        Self(table)
    }

    pub(crate) fn table(self) -> decurion_abi::Class {
        self.0
    }
}
