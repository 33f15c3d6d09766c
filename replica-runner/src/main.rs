//! One replica: a process that loads one library and serves its channels. Started by the supervisor, with its link
//! as standard input.
//!
//! ```text
//!   engine    which request goes next, what each caller is told (pure)
//!   exchange  one request in progress        gate  shared or exclusive entries
//!   answer    what a library may answer      slab  keys that are never reused
//!   meter     what a library measures
//!   sys/      control thread, handler threads, the library, the host's side of the ABI
//! ```

mod answer;
mod engine;
mod exchange;
mod gate;
mod meter;
mod slab;
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "the machine is touched here; what goes to stderr is captured as the replica's log"
)]
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    sys::control::main()
}
