//! What a process finds that was started by the supervisor: its link, as standard input.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::libc::{S_IFMT, S_IFSOCK};
use nix::sys::stat::fstat;
use nix::unistd::dup2_stdin;

use super::link::Link;

/// Takes the link away from standard input, closed on exec, and leaves `/dev/null` there.
///
/// # Errors
/// Standard input is no socket: somebody started the program by hand. Or what the system calls say.
pub fn take_link() -> io::Result<Link> {
    let stdin = io::stdin();
    let is_socket = fstat(&stdin).is_ok_and(|stat| stat.st_mode & S_IFMT == S_IFSOCK);
    if !is_socket {
        return Err(io::Error::other("it is started by the supervisor, over a socket as its standard input"));
    }
    let link = stdin.as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?.as_fd())?;
    Ok(Link::from_fd(link))
}
