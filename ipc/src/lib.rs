//! How Decurion's processes speak with one another.
//!
//! - **Control plane**: [`control`] holds the messages (one request and one report enum per boundary), [`codec`]
//!   their bytes.
//! - **Data plane**: channels of shared memory; see `docs/data-plane.md`.

pub mod adoption;
#[cfg(not(loom))]
pub mod caller;
#[cfg(not(loom))]
pub mod channel;
mod claim;
pub mod codec;
pub mod control;
pub mod epoch;
mod event_index;
pub mod metrics;
pub mod record;
#[cfg(not(loom))]
mod rings;
pub mod spin;
pub mod stats;
mod sync;
#[cfg(not(loom))]
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "memory, sockets and clocks are touched here alone"
)]
pub mod sys;
#[cfg(all(feature = "tls", not(loom)))]
pub mod tls;

#[cfg(all(feature = "proxy-control", not(loom)))]
pub use sys::proxy_control;
#[cfg(not(loom))]
pub use sys::{attach, board, link};
