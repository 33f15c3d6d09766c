//! How Decurion's processes speak with one another.
//!
//! - **Control plane**: [`control`] holds the messages (one request and one report enum per boundary), [`codec`]
//!   their bytes.
//! - **Data plane**: channels of shared memory; see `docs/data-plane.md`.

pub mod codec;
pub mod control;
pub mod record;
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "memory, sockets and clocks are touched here alone"
)]
pub mod sys;

pub use sys::link;
#[cfg(feature = "proxy-control")]
pub use sys::proxy_control;
