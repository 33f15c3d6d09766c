//! What a replica finds at its start: its link to the supervisor as standard input.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use decurion_ipc::link::Link;

/// Takes the link away from standard input, and leaves `/dev/null` there for the library.
///
/// # Errors
/// Whatever the system calls say; nothing can go on then.
pub(crate) fn take_link() -> io::Result<Link> {
    let link: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    Ok(Link::from_fd(link))
}

/// The process's exit code; what went wrong goes to standard error, where the supervisor reads it.
pub(crate) fn exit_code(outcome: io::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("decurion-replica-runner is started by `decurion supervise`, with its link as standard input: {error}");
        ExitCode::FAILURE
    })
}
