//! `decurion-proxy`: started by the supervisor, never by hand. Its control socket is descriptor 0.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::thread;

use decurion_ipc::link::Link;
use decurion_proxy::sys::control::{Server, Stopper};
use nix::unistd::dup2_stdin;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the supervisor reads it into its log")]
            {
                eprintln!("decurion-proxy: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let link = take_stdin()?;
    let signals = Signals::new([SIGTERM, SIGINT])?;
    let server = Server::connect(link)?;
    let stopper = server.stopper();
    thread::Builder::new().name("signals".to_owned()).spawn(move || obey(signals, &stopper))?;
    server.run()?;
    Ok(())
}

/// Moves descriptor 0 out of the way: closed on exec, and nothing reads it by mistake.
fn take_stdin() -> Result<Link, Box<dyn std::error::Error>> {
    let stdin = std::io::stdin();
    let is_socket = nix::sys::stat::fstat(&stdin)
        .is_ok_and(|stat| stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFSOCK);
    if !is_socket {
        return Err("is started by the supervisor, over a socket as its descriptor 0".into());
    }
    let link = stdin.as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    debug_assert!(link.as_raw_fd() > 2);
    Ok(Link::from_fd(link))
}

/// TERM drains. INT is for the supervisor: a terminal sends it to both.
fn obey(mut signals: Signals, stopper: &Stopper) {
    for signal in signals.forever() {
        if signal == SIGTERM {
            stopper.drain();
        }
    }
}
