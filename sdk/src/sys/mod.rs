//! Where the SDK touches the C ABI and the clock. Everything unsafe of it is here.

pub(crate) mod clock;
pub(crate) mod export;
pub(crate) mod host;
pub(crate) mod local;

pub use export::{class_table, method};
