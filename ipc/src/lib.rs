//! How Decurion's processes speak with one another.
//!
//! - **Control plane**: [`control`] holds the messages (one request and one report enum per boundary), [`codec`]
//!   their bytes.
//! - **Data plane**: channels of shared memory; see `docs/data-plane.md`.

pub mod codec;
pub mod control;
