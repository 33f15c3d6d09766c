//! How other threads speak to the loop: a bounded queue and a waker.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use decurion_ipc::control::ProxyReport;
use decurion_ipc::proxy_control::Received;
use mio::{Registry, Token, Waker};
use tokio::sync::oneshot;

use crate::admin::{Answer, Ask, AskError};
use crate::reconcile::ProxyInstance;

/// A word to the loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// From the admin API, with the place for the answer.
    Ask(Ask, oneshot::Sender<Result<Answer, AskError>>),
    /// From a proxy's receiving thread.
    Proxy(ProxyInstance, Received<ProxyReport>),
    /// What came of trying the program that is to take our place.
    Upgrade(Result<(), String>),
    /// From whoever embeds us: as SIGTERM.
    Stop,
}

/// The way in, for any thread.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    queue: SyncSender<Message>,
    waker: Arc<Waker>,
}

/// Messages that wait, at most.
const MESSAGES_MAX: usize = 256;

impl Mailbox {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<(Self, Receiver<Message>)> {
        let (queue, inbox) = sync_channel(MESSAGES_MAX);
        Ok((Self { queue, waker: Arc::new(Waker::new(registry, token)?) }, inbox))
    }

    /// Waits for room. False: the loop has ended.
    pub(crate) fn post(&self, message: Message) -> bool {
        self.queue.send(message).is_ok() && self.waker.wake().is_ok()
    }

    /// Asks, and waits for the answer; never for room.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Message::Ask(ask, answer)).map_err(|error| match error {
            TrySendError::Full(_) => AskError::Busy,
            TrySendError::Disconnected(_) => AskError::Stopping,
        })?;
        self.waker.wake().map_err(|_| AskError::Stopping)?;
        answered.await.unwrap_or(Err(AskError::Stopping))
    }

    /// The same from a thread that may wait.
    pub(crate) fn ask_blocking(&self, ask: Ask) -> Result<Answer, AskError> {
        let (answer, answered) = oneshot::channel();
        if !self.post(Message::Ask(ask, answer)) {
            return Err(AskError::Stopping);
        }
        answered.blocking_recv().unwrap_or(Err(AskError::Stopping))
    }
}
