//! HTTP servers side by side: ours and others, each alone, in turn, under wrk or at a steady rate.

pub mod series;
pub mod servers;
pub mod steady;
pub mod wrk;

pub use series::{Entrant, Series};
pub use servers::{Folder, Server};

/// Prints a line.
#[expect(clippy::print_stdout, reason = "a bench prints its table")]
pub fn say(line: &str) {
    println!("{line}");
}
