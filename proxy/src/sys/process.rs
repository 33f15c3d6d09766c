//! The proxy as a process: its link, its signals, its end.

use std::thread;

use decurion_ipc::sys::child;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::control::{Server, Stopper};

/// Serves until it is told to stop.
///
/// # Errors
/// It was not started by a supervisor, or can't speak with it.
pub fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let link = child::take_link()?;
    let signals = Signals::new([SIGTERM, SIGINT])?;
    let server = Server::connect(link)?;
    let stopper = server.stopper();
    thread::Builder::new().name("signals".to_owned()).spawn(move || obey(signals, &stopper))?;
    server.run()?;
    Ok(())
}

/// TERM drains. INT is for the supervisor: a terminal sends it to both.
fn obey(mut signals: Signals, stopper: &Stopper) {
    for signal in signals.forever() {
        if signal == SIGTERM {
            stopper.drain();
        }
    }
}
