//! Everything that touches the machine: the library, threads, clocks, descriptors.

pub(crate) mod clock;
pub(crate) mod control;
pub(crate) mod host;
pub(crate) mod library;
mod metrics;
pub(crate) mod outbox;
pub(crate) mod runner;
