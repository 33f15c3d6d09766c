//! The way back to a supervisor: looking for the next one, and claiming to be its proxy. Waits on threads of its own,
//! so that the control thread goes on meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use decurion_ipc::adoption::{
    AdoptionSocket, CONTROL_VERSION, Claim, ClaimedChild, ProxyClaim, Retries, Verdict,
};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::proxy_control::{OrderReceiver, ReportSender};
use decurion_ipc::sys::adoption::reach;

/// How long a supervisor that was reached may take to answer a claim, and then to join.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the threads tell the control thread.
#[derive(Debug)]
pub(super) enum FromHome {
    /// A supervisor is there; it is owed a claim.
    Reached(Link),
    /// It has taken us: these are its orders.
    Returned(OrderReceiver),
    /// The one that was reached is gone as well.
    Lost,
    /// None comes, or none wants us.
    Nobody,
}

/// What is known of the way back.
#[derive(Debug, Default)]
pub(super) struct Home {
    socket: Option<(AdoptionSocket, u32)>,
    lost_since: Option<Instant>,
}

impl Home {
    /// The supervisor says where the next one will be found.
    pub(super) fn expect(&mut self, socket: AdoptionSocket, instance: u32) {
        self.socket = Some((socket, instance));
    }

    /// Which start of a proxy we are.
    pub(super) fn instance(&self) -> u32 {
        self.socket.as_ref().map_or(0, |(_, instance)| *instance)
    }

    /// Whether there is no supervisor.
    pub(super) fn is_lost(&self) -> bool {
        self.lost_since.is_some()
    }

    /// A supervisor has taken us.
    pub(super) fn returned(&mut self) {
        self.lost_since = None;
    }

    /// The supervisor is gone: looks for the next one, until that is told. False: there is no use in it.
    pub(super) fn seek<T: From<FromHome> + Send + 'static>(&mut self, tell: Sender<T>) -> bool {
        let Some((socket, _)) = self.socket.clone() else { return false };
        let until = *self.lost_since.get_or_insert_with(Instant::now) + socket.patience;
        let seek = move || {
            let mut retries = Retries::default();
            let found = loop {
                thread::sleep(retries.next_delay());
                match reach(&socket.path) {
                    Ok(link) => break FromHome::Reached(link),
                    Err(_) if Instant::now() >= until => break FromHome::Nobody,
                    Err(_) => {}
                }
            };
            let _ = tell.send(found.into());
        };
        thread::Builder::new().name("home".to_owned()).spawn(seek).is_ok()
    }

    /// Claims to be the proxy of a supervisor that was reached. What comes of it is told.
    pub(super) fn claim<T: From<FromHome> + Send + 'static>(
        &mut self,
        link: Link,
        claim: ProxyClaim,
        listener: Option<OwnedFd>,
        reports: ReportSender,
        tell: Sender<T>,
    ) {
        let claim = Claim { protocol: CONTROL_VERSION, child: ClaimedChild::Proxy(Box::new(claim)) };
        let again = tell.clone();
        let work = move || {
            let told = match speak(link, &claim, listener, &reports) {
                Ok(Some(orders)) => FromHome::Returned(orders),
                Ok(None) => FromHome::Nobody,
                Err(_) => FromHome::Lost,
            };
            let _ = tell.send(told.into());
        };
        if thread::Builder::new().name("claim".to_owned()).spawn(work).is_err() {
            let _ = again.send(FromHome::Lost.into());
        }
    }
}

/// `None`: it does not want us. An error: it is gone as well.
fn speak(
    link: Link,
    claim: &Claim,
    listener: Option<OwnedFd>,
    reports: &ReportSender,
) -> io::Result<Option<OrderReceiver>> {
    let fds: Vec<_> = listener.iter().map(AsFd::as_fd).collect();
    link.send(claim, &fds).map_err(io::Error::other)?;
    match link.recv_timeout::<Verdict>(Some(ANSWER_TIMEOUT)) {
        Ok(Some((Verdict::Welcome, _))) => {
            reports.reconnect(link, ANSWER_TIMEOUT).map(Some).map_err(io::Error::other)
        }
        Ok(Some((Verdict::Refused(_), _))) => Ok(None),
        Ok(None) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        Err(error @ (LinkError::Closed | LinkError::Io(_) | LinkError::NoDescriptors)) => {
            Err(io::Error::other(error))
        }
        // It speaks another language.
        Err(_) => Ok(None),
    }
}
