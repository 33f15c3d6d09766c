//! The command `decurion`: daemon and client in one. It reads its arguments, does one thing, and ends with one of the
//! codes in [`failure::Exit`]. Data goes to stdout, all else to stderr.
//!
//! What it knows of a supervisor comes through the admin API, also where it has started that supervisor itself.

mod args;
mod command;
mod failure;
mod output;
mod sys;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::Cli;
use failure::Exit;
use output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output::new(&cli.global);
    match command::run(cli, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(&output);
            failure.exit.into()
        }
    }
}

/// Help and version are asked for and go to stdout; everything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    // A reader that went away has read enough.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Done.into(),
        _ => Exit::Usage.into(),
    }
}
