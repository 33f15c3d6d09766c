//! The control channel between supervisor and proxy: orders one way, reports the other, over `ipc-channel`, with
//! descriptors on the packet link beside it.
//!
//! ```text
//!   supervisor                               proxy
//!      | -- Hello { server, nonce } over the link -> |
//!      | <- Bootstrap { nonce, orders, reports } --- |   over ipc-channel's one-shot server
//!      | == FdToken + descriptors over the link ===> |   each before the order that names it
//!      | == ProxyOrder over `orders` ==============> |
//!      | <================= ProxyReport over `reports` |
//! ```
//!
//! What ipc-channel 0.23 does badly is fenced in. Its `send` blocks where the other side does not read, so both
//! sides send from a thread of their own behind a bounded queue. Its `recv` can't be waited for together with
//! anything else, so both receive on a thread. It reassembles messages larger than a packet by blocking, so none
//! is larger ([`MESSAGE_MAX`](crate::codec::MESSAGE_MAX)): an order goes in parts, each of which says whether more follow. Its one-shot server waits for ever, so whoever gives up
//! connects to it himself. Only byte channels are used: a message names no channel that it does not carry.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::codec;
use crate::control::{FdToken, ProxyOrder, ProxyReport};
use crate::link::{Link, LinkError};

/// Orders or reports that wait to be sent, at most.
pub const OUTBOX_MAX: usize = 32;
/// Bytes of an order in one packet, beside the one that says whether more follow.
const PART_MAX: usize = codec::MESSAGE_MAX - 1;
/// Descriptor packets that came before the order that names them, at most.
const PACKETS_MAX: usize = 64;
/// How long the descriptors of an order may take: they were sent before it.
const DESCRIPTORS_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the control channel could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The link beside it failed.
    #[error("the link failed: {0}")]
    Link(#[from] LinkError),
    /// ipc-channel failed.
    #[error("ipc-channel failed: {0}")]
    Channel(String),
    /// The other side did not come in time.
    #[error("the other side did not answer in time")]
    Timeout,
    /// Too many messages wait already.
    #[error("{OUTBOX_MAX} messages wait to be sent already")]
    Full,
    /// The other side is gone.
    #[error("the other side is gone")]
    Closed,
    /// Too large to be a control message.
    #[error(transparent)]
    Codec(#[from] codec::CodecError),
    /// A thread could not be started.
    #[error("failed to start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// What a receiving thread hands on.
#[derive(Debug)]
pub enum Received<T> {
    /// A message.
    Message(T),
    /// Something else than a message.
    Malformed(String),
    /// The other side is gone; nothing follows.
    Closed,
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    server: String,
    nonce: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Bootstrap {
    nonce: u64,
    /// `None`: the supervisor itself, giving up.
    ends: Option<Ends>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ends {
    orders: IpcBytesSender,
    reports: IpcBytesReceiver,
}

/// The supervisor's end. Dropping it ends the channel once what waits has been sent.
#[derive(Debug)]
pub struct OrderSender {
    outbox: SyncSender<(ProxyOrder, Vec<OwnedFd>)>,
    give_up: GiveUp,
}

/// Unblocks a one-shot server that nobody has connected to.
#[derive(Debug)]
struct GiveUp {
    server: String,
    /// Whether somebody has connected, which is the usual end. Told here because a vain attempt to connect leaks a
    /// descriptor inside ipc-channel.
    met: Arc<AtomicBool>,
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        if self.met.load(Ordering::Acquire) {
            return;
        }
        if let Ok(sender) = IpcSender::<Bootstrap>::connect(self.server.clone()) {
            let _ = sender.send(Bootstrap { nonce: 0, ends: None });
        }
    }
}

impl OrderSender {
    /// Opens the channel to a proxy that has the other end of `link` as its descriptor 0, and returns at once. Each
    /// report goes to `on_report`, on a thread of its own, the end of the channel included.
    ///
    /// # Errors
    /// Where the system refuses a socket, a folder for it, or a thread.
    pub fn open(
        link: Link,
        on_report: impl FnMut(Received<ProxyReport>) + Send + 'static,
    ) -> Result<Self, ControlError> {
        let (server, name) =
            IpcOneShotServer::<Bootstrap>::new().map_err(|error| ControlError::Channel(error.to_string()))?;
        let nonce = random();
        link.send(&Hello { server: name.clone(), nonce }, &[])?;
        let (outbox, orders) = sync_channel(OUTBOX_MAX);
        let met = Arc::new(AtomicBool::new(false));
        let run = {
            let met = Arc::clone(&met);
            move || supervise(server, nonce, &met, link, orders, on_report)
        };
        spawn("proxy-reports", run)?;
        Ok(Self { outbox, give_up: GiveUp { server: name, met } })
    }

    /// Queues an order, with the descriptors of the token that it names; never blocks.
    ///
    /// # Errors
    /// [`ControlError::Full`] where the proxy does not read, [`ControlError::Closed`] where it is gone.
    pub fn send(&self, order: ProxyOrder, descriptors: Vec<OwnedFd>) -> Result<(), ControlError> {
        self.outbox.try_send((order, descriptors)).map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Full,
            TrySendError::Disconnected(_) => ControlError::Closed,
        })
    }

    /// Name of the server that the proxy is to connect to.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.give_up.server
    }
}

/// The token that an order names.
fn token(order: &ProxyOrder) -> Option<FdToken> {
    match order {
        ProxyOrder::Listen(token) | ProxyOrder::Attach { descriptors: token, .. } => Some(*token),
        ProxyOrder::Configure { .. }
        | ProxyOrder::View(_)
        | ProxyOrder::Detach(_)
        | ProxyOrder::Drain(_)
        | ProxyOrder::ReopenLogs
        | ProxyOrder::Count
        | ProxyOrder::Retire(_)
        | ProxyOrder::Await { .. }
        | ProxyOrder::Probe { .. } => None,
    }
}

fn supervise(
    server: IpcOneShotServer<Bootstrap>,
    nonce: u64,
    met: &AtomicBool,
    link: Link,
    orders: Receiver<(ProxyOrder, Vec<OwnedFd>)>,
    mut on_report: impl FnMut(Received<ProxyReport>) + Send + 'static,
) {
    let bootstrap = catch_unwind(AssertUnwindSafe(|| server.accept()));
    met.store(true, Ordering::Release);
    let ends = match bootstrap {
        Ok(Ok((server, Bootstrap { nonce: theirs, ends: Some(ends) }))) if theirs == nonce => {
            // It has heard all that it is for, and ipc-channel leaves it to whatever is started from here on.
            drop(server);
            ends
        }
        _ => return on_report(Received::Closed),
    };
    let send = move || {
        // Ends where the proxy is gone, or nobody has orders any more.
        for (order, descriptors) in orders {
            if send_order(&link, &ends.orders, &order, &descriptors).is_err() {
                break;
            }
        }
    };
    if spawn("proxy-orders", send).is_err() {
        return on_report(Received::Closed);
    }
    receive(&ends.reports, on_report);
}

fn send_order(
    link: &Link,
    orders: &IpcBytesSender,
    order: &ProxyOrder,
    descriptors: &[OwnedFd],
) -> Result<(), ControlError> {
    if let Some(token) = token(order) {
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        while let Err(error) = link.send(&token, &descriptors) {
            match error {
                LinkError::WouldBlock => wait_writable(link)?,
                error => return Err(error.into()),
            }
        }
    }
    let bytes = codec::encode_order(order)?;
    let mut parts = bytes.chunks(PART_MAX).peekable();
    while let Some(part) = parts.next() {
        let marked = [&[u8::from(parts.peek().is_some())], part].concat();
        orders.send(&marked).map_err(|error| ControlError::Channel(error.to_string()))?;
    }
    Ok(())
}

fn wait_writable(link: &Link) -> Result<(), ControlError> {
    match poll(&mut [PollFd::new(link.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(ControlError::Link(LinkError::Io(error.into()))),
    }
}

/// Hands on what comes until the other side is gone.
fn receive<T: DeserializeOwned>(channel: &IpcBytesReceiver, mut on_message: impl FnMut(Received<T>)) {
    while let Some(bytes) = packet(channel) {
        on_message(received(codec::decode(&bytes)));
    }
    on_message(Received::Closed);
}

/// The next packet; `None`: the other side is gone.
fn packet(channel: &IpcBytesReceiver) -> Option<Vec<u8>> {
    // A panic inside ipc-channel ends this channel and nothing else.
    catch_unwind(AssertUnwindSafe(|| channel.recv())).ok()?.ok()
}

fn received<T>(decoded: Result<T, codec::CodecError>) -> Received<T> {
    match decoded {
        Ok(message) => Received::Message(message),
        Err(error) => Received::Malformed(error.to_string()),
    }
}

/// An order of which not all parts have come.
#[derive(Debug, Default)]
struct Parts {
    bytes: Vec<u8>,
}

impl Parts {
    /// Takes a part; the order, or what is wrong with it, once it is whole.
    fn take(&mut self, packet: &[u8]) -> Option<Received<ProxyOrder>> {
        let Some((more, part)) = packet.split_first() else {
            return Some(Received::Malformed("an empty packet".to_owned()));
        };
        // One byte too many is kept, so that it is refused for its length and nothing grows without end.
        let room = (codec::ORDER_MAX + 1).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
        (*more == 0).then(|| received(codec::decode_order(&std::mem::take(&mut self.bytes))))
    }
}

/// The proxy's end for orders. Blocks, so it is for a thread of its own.
#[derive(Debug)]
pub struct OrderReceiver {
    channel: IpcBytesReceiver,
    link: Link,
    /// Packets that came before the order that names them, oldest first.
    packets: VecDeque<(FdToken, Vec<OwnedFd>)>,
}

/// The proxy's end for reports.
#[derive(Clone, Debug)]
pub struct ReportSender {
    outbox: SyncSender<Outgoing>,
}

/// What the sending thread is given.
#[derive(Debug)]
enum Outgoing {
    Report(ProxyReport),
    /// Everything before is sent.
    Flush(SyncSender<()>),
    /// Another supervisor is to have what follows.
    Connect(IpcBytesSender),
}

/// The proxy's two ends: takes the link that was its descriptor 0, and waits for the supervisor's first word.
///
/// # Errors
/// Where the supervisor says nothing in time, or is gone.
pub fn connect(link: Link, timeout: Duration) -> Result<(OrderReceiver, ReportSender), ControlError> {
    let (orders, channel) = bootstrap(link, timeout)?;
    let (outbox, queue) = sync_channel::<Outgoing>(OUTBOX_MAX);
    spawn("reports", move || send_reports(queue, channel))?;
    Ok((orders, ReportSender { outbox }))
}

fn bootstrap(link: Link, timeout: Duration) -> Result<(OrderReceiver, IpcBytesSender), ControlError> {
    let (hello, _) = link.recv_timeout::<Hello>(Some(timeout))?.ok_or(ControlError::Timeout)?;
    let failed = |error: &dyn std::fmt::Display| ControlError::Channel(error.to_string());
    let (orders, channel) = ipc::bytes_channel().map_err(|error| failed(&error))?;
    let (reports_out, reports) = ipc::bytes_channel().map_err(|error| failed(&error))?;
    let server = IpcSender::<Bootstrap>::connect(hello.server).map_err(|error| failed(&error))?;
    server
        .send(Bootstrap { nonce: hello.nonce, ends: Some(Ends { orders, reports }) })
        .map_err(|error| failed(&error))?;
    Ok((OrderReceiver { channel, link, packets: VecDeque::new() }, reports_out))
}

/// Sends what is queued. While there is no supervisor, nobody is held up: what is said then is lost, and a new one is
/// told by a claim how things stand.
fn send_reports(queue: Receiver<Outgoing>, channel: IpcBytesSender) {
    let mut channel = Some(channel);
    for outgoing in queue {
        match outgoing {
            Outgoing::Report(report) => {
                let bytes = codec::encode(&report).ok();
                let sent = channel.as_ref().zip(bytes).map(|(channel, bytes)| channel.send(&bytes));
                if matches!(sent, Some(Err(_))) {
                    channel = None;
                }
            }
            Outgoing::Flush(done) => {
                let _ = done.try_send(());
            }
            Outgoing::Connect(next) => channel = Some(next),
        }
    }
}

impl OrderReceiver {
    /// Hands on each order with its descriptors, until the supervisor is gone; that too.
    pub fn run(mut self, mut on_order: impl FnMut(Received<(ProxyOrder, Vec<OwnedFd>)>)) {
        let Self { channel, link, packets } = &mut self;
        let mut parts = Parts::default();
        while let Some(packet) = packet(channel) {
            let Some(received) = parts.take(&packet) else { continue };
            on_order(match received {
                Received::Message(order) => match descriptors_of(&order, link, packets) {
                    Ok(descriptors) => Received::Message((order, descriptors)),
                    Err(error) => Received::Malformed(format!("an order without its descriptors: {error}")),
                },
                Received::Malformed(why) => Received::Malformed(why),
                Received::Closed => Received::Closed,
            });
        }
        on_order(Received::Closed);
    }
}

fn descriptors_of(
    order: &ProxyOrder,
    link: &Link,
    packets: &mut VecDeque<(FdToken, Vec<OwnedFd>)>,
) -> Result<Vec<OwnedFd>, ControlError> {
    let Some(token) = token(order) else { return Ok(Vec::new()) };
    loop {
        if let Some(at) = packets.iter().position(|(held, _)| *held == token) {
            return Ok(packets.remove(at).map(|(_, fds)| fds).unwrap_or_default());
        }
        let packet = link.recv_timeout::<FdToken>(Some(DESCRIPTORS_TIMEOUT))?.ok_or(ControlError::Timeout)?;
        if packets.len() == PACKETS_MAX {
            packets.pop_front();
        }
        packets.push_back(packet);
    }
}

impl ReportSender {
    /// Joins another supervisor, over the link on which it has welcomed us: it gets what is reported from now on.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn reconnect(&self, link: Link, timeout: Duration) -> Result<OrderReceiver, ControlError> {
        let (orders, channel) = bootstrap(link, timeout)?;
        self.outbox.send(Outgoing::Connect(channel)).map_err(|_| ControlError::Closed)?;
        Ok(orders)
    }

    /// Queues a report that the supervisor waits for; blocks while [`OUTBOX_MAX`] wait already.
    ///
    /// # Errors
    /// [`ControlError::Closed`] where the supervisor is gone.
    pub fn send(&self, report: ProxyReport) -> Result<(), ControlError> {
        self.outbox.send(Outgoing::Report(report)).map_err(|_| ControlError::Closed)
    }

    /// Waits until everything queued so far has been sent: before exiting, say.
    ///
    /// # Errors
    /// [`ControlError::Closed`] where the supervisor is gone or does not read in time.
    pub fn flush(&self, timeout: Duration) -> Result<(), ControlError> {
        let (done, is_done) = sync_channel(1);
        self.outbox.send(Outgoing::Flush(done)).map_err(|_| ControlError::Closed)?;
        is_done.recv_timeout(timeout).map_err(|_| ControlError::Closed)
    }

    /// Queues a report that can be sent later as well.
    ///
    /// # Errors
    /// The report, where too many wait or the supervisor is gone.
    pub fn try_send(&self, report: ProxyReport) -> Result<(), ProxyReport> {
        self.outbox.try_send(Outgoing::Report(report)).map_err(|error| match error {
            TrySendError::Full(Outgoing::Report(report))
            | TrySendError::Disconnected(Outgoing::Report(report)) => report,
            // Not what was given.
            TrySendError::Full(Outgoing::Flush(_) | Outgoing::Connect(_))
            | TrySendError::Disconnected(Outgoing::Flush(_) | Outgoing::Connect(_)) => ProxyReport::Drained,
        })
    }

    /// Queues a report that may be left out where too many wait: a log line, say.
    pub fn offer(&self, report: ProxyReport) {
        let _ = self.outbox.try_send(Outgoing::Report(report));
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), ControlError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(ControlError::Thread)
}

/// Not a secret between users (the socket's folder is 0700): it tells our proxy from a mistake.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() | 1
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use decurion_api::ReplicaId;

    use super::*;
    use crate::control::{Generation, RouteView};

    const WATCHDOG: Duration = Duration::from_secs(20);

    #[test]
    fn orders_arrive_with_their_descriptors_and_reports_come_back() {
        let (near, far) = Link::pair().unwrap();
        let (to_test, reports) = channel();
        let orders = OrderSender::open(near, move |report| to_test.send(report).unwrap()).unwrap();
        let (receiver, reporter) = connect(far, WATCHDOG).unwrap();
        let (to_orders, received) = channel();
        thread::spawn(move || receiver.run(|order| to_orders.send(order).unwrap()));

        reporter.send(ProxyReport::Started).unwrap();
        reporter.flush(WATCHDOG).unwrap();
        assert!(matches!(reports.recv_timeout(WATCHDOG), Ok(Received::Message(ProxyReport::Started))));

        let (gift, other) = Link::pair().unwrap();
        let replica = ReplicaId::new("a-1").unwrap();
        let (version, descriptors) = ("1".to_owned(), FdToken(7));
        let attach = ProxyOrder::Attach { replica, version, descriptors, requests: 5, replicas: 1 };
        orders.send(attach.clone(), vec![gift.into()]).unwrap();
        let view = ProxyOrder::View(RouteView { generation: Generation(1), deployments: vec![] });
        orders.send(view.clone(), vec![]).unwrap();
        let Ok(Received::Message((first, mut fds))) = received.recv_timeout(WATCHDOG) else {
            panic!("no order came")
        };
        assert_eq!((first, fds.len()), (attach, 1));
        Link::from_fd(fds.remove(0)).send(&5u32, &[]).unwrap();
        assert_eq!(other.try_recv::<u32>().unwrap().unwrap().0, 5);
        assert!(
            matches!(received.recv_timeout(WATCHDOG), Ok(Received::Message((second, _))) if second == view)
        );

        drop(orders);
        assert!(matches!(received.recv_timeout(WATCHDOG), Ok(Received::Closed)));
        drop(reporter);
        assert!(matches!(reports.recv_timeout(WATCHDOG), Ok(Received::Closed)));
    }

    #[test]
    fn an_order_of_many_parts_is_put_together_and_one_that_never_ends_is_refused() {
        let order = ProxyOrder::Detach(ReplicaId::new("a-1").unwrap());
        let bytes = codec::encode_order(&order).unwrap();
        let mut parts = Parts::default();
        for (at, byte) in bytes.iter().enumerate() {
            let more = at + 1 < bytes.len();
            match parts.take(&[u8::from(more), *byte]) {
                None => assert!(more),
                Some(Received::Message(whole)) => assert!(!more && whole == order),
                Some(other) => panic!("{other:?}"),
            }
        }
        assert!(matches!(parts.take(&[]), Some(Received::Malformed(_))));
        let part = vec![1; PART_MAX + 1];
        for _ in 0..=codec::ORDER_MAX / PART_MAX + 10 {
            assert!(parts.take(&part).is_none());
        }
        assert!(parts.bytes.len() <= codec::ORDER_MAX + 1);
        assert!(matches!(parts.take(&[0, 1]), Some(Received::Malformed(_))));
        // The next one is not spoilt by it.
        let whole = [&[0], bytes.as_slice()].concat();
        assert!(matches!(parts.take(&whole), Some(Received::Message(_))));
    }

    #[test]
    fn a_proxy_reports_to_the_next_supervisor() {
        let supervisor = || {
            let (near, far) = Link::pair().unwrap();
            let (to_test, reports) = channel();
            (OrderSender::open(near, move |report| to_test.send(report).unwrap()).unwrap(), reports, far)
        };
        let (first, reports, far) = supervisor();
        let (orders, reporter) = connect(far, WATCHDOG).unwrap();
        drop(first);
        orders.run(|order| assert!(matches!(order, Received::Closed)));
        // Nobody hears it, and nobody waits for that.
        for _ in 0..4 * OUTBOX_MAX {
            reporter.send(ProxyReport::Drained).unwrap();
        }
        drop(reports);
        let (second, reports, far) = supervisor();
        let orders = reporter.reconnect(far, WATCHDOG).unwrap();
        reporter.send(ProxyReport::Started).unwrap();
        let said = std::iter::from_fn(|| reports.recv_timeout(WATCHDOG).ok());
        assert!(
            said.map_while(|said| match said {
                Received::Message(said) => Some(said),
                _ => None,
            })
            .any(|said| said == ProxyReport::Started)
        );
        drop((second, orders));
    }

    #[test]
    fn a_proxy_that_never_connects_can_be_given_up() {
        let (near, _far) = Link::pair().unwrap();
        let (to_test, reports) = channel();
        let orders = OrderSender::open(near, move |report| to_test.send(report).unwrap()).unwrap();
        assert!(matches!(reports.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)));
        drop(orders);
        assert!(matches!(reports.recv_timeout(WATCHDOG), Ok(Received::Closed)));
    }

    #[test]
    fn a_supervisor_that_says_nothing_is_not_waited_for() {
        let (_near, far) = Link::pair().unwrap();
        assert!(matches!(connect(far, Duration::from_millis(1)), Err(ControlError::Timeout)));
    }

    #[test]
    fn a_proxy_that_does_not_read_never_blocks_the_supervisor() {
        let (near, far) = Link::pair().unwrap();
        let orders = OrderSender::open(near, |_| {}).unwrap();
        let (receiver, reporter) = connect(far, WATCHDOG).unwrap();
        let drain = ProxyOrder::Drain(Duration::from_secs(1));
        let full = (0..1_000_000).find_map(|_| orders.send(drain.clone(), vec![]).err());
        assert!(matches!(full, Some(ControlError::Full)));
        drop((receiver, reporter));
    }
}
