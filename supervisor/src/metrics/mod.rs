//! What is counted, and how it is shown. Pure: what has happened comes in, numbers and text go out.
//!
//! The text is written by hand: the usual crates want to own the counters and collect them themselves, and ours come
//! from other processes, added up already.

mod lives;
mod measured;
mod snapshot;
mod text;
mod traffic;

pub use lives::Lives;
pub use measured::Measured;
pub use snapshot::{ProcessUse, Snapshot};
pub use text::{CONTENT_TYPE, Family, Labels, Number, Text};
pub use traffic::{Totals, TrafficLog};
