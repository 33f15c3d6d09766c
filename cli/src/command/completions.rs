//! `completions`: made from the same list of flags as the help.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::args::{Cli, CompletionShell};
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(super) fn completions(shell: CompletionShell, output: &Output) -> Result<Exit, Failure> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "decurion", &mut script);
    output.raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
