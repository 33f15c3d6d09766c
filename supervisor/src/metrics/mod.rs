//! What is counted, and how it is shown. Pure: what has happened comes in, numbers and text go out.

mod traffic;

pub use traffic::{Totals, TrafficLog};
