//! One worker thread: an epoll loop around an [`Engine`].

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use decurion_api::ReplicaId;
use decurion_ipc::channel::Requester;
use decurion_ipc::control::{Generation, ProxyReport, ProxySettings};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::proxy_control::ReportSender;
use decurion_ipc::stats::Traffic;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::libc;

use super::clock;
use super::door::Door;
use super::gate::{Gate, Pass};
use super::mailbox::{Mail, Mailboxes};
use super::reserve::Reserve;
use super::share::Shares;
use super::socket::Client;
use super::tls::Tls;
use super::transport::Transport;
use crate::access_log::Sink;
use crate::balance::{LaneIndex, Replica};
use crate::engine::{ConnectionId, Engine, Notice, Ready, TICK};
use crate::time::Nanos;

const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
/// Then two for each lane: its bell and its replica's pidfd.
const FIRST_LANE: usize = 2;
/// A connection's token is its id with the top bit set.
const CONNECTION: u64 = 1 << 63;

/// Events taken at once.
const EVENTS: usize = 1024;
/// Connections accepted before the others have their turn.
const ACCEPT_BATCH: usize = 32;
/// How long nothing is accepted where not even the descriptor is left that is kept to say so with.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// `decurion_abi::level`, which is plain numbers on the wire.
const LEVEL_ERROR: u32 = 1;

/// What a worker tells the control thread.
#[derive(Debug)]
pub(super) enum FromWorker {
    Applied {
        generation: Generation,
    },
    /// No request of this worker has entered before this epoch.
    Oldest {
        worker: usize,
        epoch: Epoch,
    },
    Fault {
        replica: ReplicaId,
        fault: String,
    },
    LaneFreed(LaneIndex),
    /// What was counted since the last time.
    Stats(Vec<Traffic>),
    /// Its loop has turned since this probe.
    Turned {
        probe: u64,
    },
    /// It takes new connections by these settings.
    Configured {
        sequence: u64,
    },
    /// Requests wait where there are no replicas.
    Starved,
    /// It drains, and has no connections any more.
    Drained,
}

/// What a worker is made of.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) index: usize,
    pub(super) poll: Poll,
    pub(super) mailboxes: Arc<Mailboxes>,
    pub(super) gate: Arc<Gate>,
    pub(super) shares: Arc<Shares>,
    pub(super) settings: ProxySettings,
    pub(super) access_log: Option<Arc<dyn Sink>>,
    /// For new connections.
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) reports: ReportSender,
}

struct Worker<T> {
    seat: Seat,
    engine: Engine<Client, Requester>,
    tell: Sender<T>,
    door: Option<Door>,
    accept_ready: bool,
    accept_paused_until: Nanos,
    reserve: Reserve,
    pidfds: HashMap<LaneIndex, Arc<OwnedFd>>,
    dated: Nanos,
    draining: bool,
    drained: bool,
}

/// Runs until told to stop.
pub(super) fn run<T: From<FromWorker> + Send>(seat: Seat, tell: Sender<T>) {
    Mailboxes::enter(seat.index);
    let index = u16::try_from(seat.index).unwrap_or(u16::MAX);
    let post: Arc<Mailboxes> = Arc::clone(&seat.mailboxes);
    let mut engine = Engine::new(index, clock::seed(), seat.settings.clone(), post);
    engine.set_access_log(seat.access_log.clone());
    let mut worker = Worker {
        seat,
        engine,
        tell,
        door: None,
        accept_ready: false,
        accept_paused_until: Nanos(0),
        reserve: Reserve::new(),
        pidfds: HashMap::new(),
        dated: Nanos(0),
        draining: false,
        drained: false,
    };
    worker.run();
}

impl<T: From<FromWorker> + Send> Worker<T> {
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut mail = Vec::new();
        let mut busy = false;
        let mut now = clock::now();
        loop {
            let timeout = self.timeout(busy, now);
            match self.seat.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                // The epoll itself is broken: nothing can be served. The process ends, and is started again.
                Err(error) => panic!("epoll failed: {error}"),
            }
            now = clock::now();
            self.keep_date(now);
            for event in &events {
                self.event(event, now);
            }
            if !self.read_mail(&mut mail, now) {
                return;
            }
            self.engine.expire(now);
            self.accept(now);
            self.engine.serve_clients(now);
            // What came meanwhile is not to look as if it had taken no time.
            now = clock::now();
            busy = self.engine.hear_replicas(now);
            // Slots that have become free are used, and their replicas rung, before answers are written.
            if !self.read_mail(&mut mail, now) {
                return;
            }
            self.engine.even_out(now);
            self.engine.ring();
            self.engine.serve_clients(now);
            self.listen_again();
            busy |= self.engine.has_work() || (self.accept_ready && self.accept_paused_until <= now);
            self.tell_what_happened(now);
            self.come_forward();
        }
    }

    /// How long to sleep: not at all where there is work, and for ever where nothing is to be waited for.
    fn timeout(&mut self, busy: bool, now: Nanos) -> Option<Duration> {
        if busy || self.seat.mailboxes.of(self.seat.index).is_pending() || !self.engine.arm() {
            return Some(Duration::ZERO);
        }
        let mut until = self.engine.next_deadline().unwrap_or(Nanos::NEVER).min(self.engine.stats_due());
        if self.engine.has_work_in_flight() {
            until = until.min(now.after(TICK));
        }
        if self.accept_ready {
            until = until.min(self.accept_paused_until);
        }
        (until != Nanos::NEVER).then(|| until.until(now))
    }

    fn keep_date(&mut self, now: Nanos) {
        if now >= self.dated {
            self.engine.set_date(clock::http_date().as_bytes());
            self.engine.set_day_time(clock::unix_ms(), now);
            self.dated = now.after(Duration::from_secs(1));
        }
    }

    fn event(&mut self, event: &Event, now: Nanos) {
        let token = event.token();
        match token {
            LISTENER => self.accept_ready = true,
            WAKER => {}
            Token(number) if number as u64 & CONNECTION != 0 => {
                let ready = Ready {
                    readable: event.is_readable(),
                    writable: event.is_writable(),
                    half_closed: event.is_read_closed(),
                    broken: event.is_error() || event.is_write_closed(),
                };
                self.engine.ready(ConnectionId::from_bits(number as u64 & !CONNECTION), ready, now);
            }
            Token(number) => {
                let Ok(lane) = u32::try_from((number - FIRST_LANE) / 2).map(LaneIndex) else { return };
                if (number - FIRST_LANE).is_multiple_of(2) {
                    // A bell has done its work by waking us: every lane with work in flight is looked at.
                    if self.engine.rung(lane) {
                        self.stop_listening(lane);
                    }
                } else {
                    self.detach(lane, now);
                }
            }
        }
    }

    /// Does what other threads, and this one, have asked for: whether to go on.
    fn read_mail(&mut self, mail: &mut Vec<Mail>, now: Nanos) -> bool {
        let mailbox = self.seat.mailboxes.of(self.seat.index);
        if !mailbox.is_pending() {
            return true;
        }
        mailbox.take(mail);
        mail.drain(..).all(|mail| self.mail(mail, now))
    }

    /// Does what a message says: whether to go on.
    fn mail(&mut self, mail: Mail, now: Nanos) -> bool {
        match mail {
            Mail::Grant(grant) => self.engine.grant(grant, now),
            Mail::View(view) => {
                let generation = view.generation;
                self.engine.set_view(view, now);
                self.tell(FromWorker::Applied { generation });
            }
            Mail::Attach { replica, lane, pidfd } => self.attach(replica, *lane, pidfd, now),
            Mail::Detach(lane) => self.detach(lane, now),
            Mail::Configure { sequence, settings, access_log, tls } => {
                self.engine.configure(*settings);
                self.engine.set_access_log(access_log);
                self.seat.tls = tls;
                self.tell(FromWorker::Configured { sequence });
            }
            Mail::Listen(listener) => self.listen(listener),
            Mail::Open => self.open_door(),
            Mail::Drain { gently } => {
                if let Some(mut door) = self.door.take() {
                    door.close();
                }
                self.accept_ready = false;
                self.draining = true;
                match gently {
                    true => self.engine.retire(),
                    false => self.engine.drain(now),
                }
            }
            Mail::HandOverLog => self.engine.hand_over_log(),
            Mail::Probe { sequence } => self.tell(FromWorker::Turned { probe: sequence }),
            Mail::Abort => self.engine.abort_all(),
            Mail::Stop => return false,
        }
        true
    }

    fn attach(&mut self, replica: Arc<Replica>, lane: Requester, pidfd: Arc<OwnedFd>, now: Nanos) {
        let index = replica.lane;
        let registry = self.seat.poll.registry();
        let bell = lane.bell().as_raw_fd();
        let watched = registry
            .register(&mut SourceFd(&bell), lane_token(index, 0), Interest::READABLE)
            .and_then(|()| {
                registry.register(&mut SourceFd(&pidfd.as_raw_fd()), lane_token(index, 1), Interest::READABLE)
            });
        self.engine.attach(replica, lane);
        self.pidfds.insert(index, pidfd);
        if let Err(error) = watched {
            self.log(LEVEL_ERROR, format!("failed to watch a replica: {error}"));
            self.detach(index, now);
        }
    }

    fn detach(&mut self, lane: LaneIndex, now: Nanos) {
        self.unwatch(lane);
        self.engine.detach(lane, now);
    }

    /// Until it is sent its next request.
    fn stop_listening(&mut self, lane: LaneIndex) {
        if let Some(lane) = self.engine.lane_at(lane) {
            let _ = self.seat.poll.registry().deregister(&mut SourceFd(&lane.bell().as_raw_fd()));
        }
    }

    fn listen_again(&mut self) {
        for index in self.engine.take_heard_again() {
            let Some(lane) = self.engine.lane_at(index) else { continue };
            let bell = lane.bell().as_raw_fd();
            // Without it the tick goes on to find what there is.
            let _ = self.seat.poll.registry().register(
                &mut SourceFd(&bell),
                lane_token(index, 0),
                Interest::READABLE,
            );
        }
    }

    fn unwatch(&mut self, lane: LaneIndex) {
        if let Some(pidfd) = self.pidfds.remove(&lane) {
            let _ = self.seat.poll.registry().deregister(&mut SourceFd(&pidfd.as_raw_fd()));
        }
    }

    fn listen(&mut self, listener: TcpListener) {
        match Door::new(listener, self.seat.poll.registry(), LISTENER) {
            Ok(door) => {
                self.door = Some(door);
                self.open_door();
            }
            Err(error) => self.log(LEVEL_ERROR, format!("failed to watch the listening socket: {error}")),
        }
    }

    /// From now on connections are ours to accept. (Nothing, where we drain meanwhile: then the others do, too.)
    fn open_door(&mut self) {
        let Some(door) = &mut self.door else { return };
        match door.open() {
            // Some may have come before anybody was to be told.
            Ok(()) => self.accept_ready = true,
            Err(error) => self.log(LEVEL_ERROR, format!("failed to watch the listening socket: {error}")),
        }
    }

    /// Accepts again, where this worker had stepped back and has no more than its share now.
    fn come_forward(&mut self) {
        self.seat.shares.set(self.seat.index, self.engine.connections());
        let closed = self.door.as_ref().is_some_and(|door| !door.is_open());
        if closed && self.seat.shares.successor(self.seat.index).is_none() {
            self.open_door();
        }
    }

    /// Lets another worker accept, where this one has more than its share: whether it did.
    fn step_back(&mut self) -> bool {
        self.seat.shares.set(self.seat.index, self.engine.connections());
        let Some(successor) = self.seat.shares.successor(self.seat.index) else { return false };
        let Some(door) = &mut self.door else { return true };
        // Closed before the other one is told: if it steps back to us, we open again.
        door.close();
        self.accept_ready = false;
        self.seat.mailboxes.post(successor, Mail::Open);
        true
    }

    fn accept(&mut self, now: Nanos) {
        if !self.accept_ready || now < self.accept_paused_until {
            return;
        }
        for _ in 0..ACCEPT_BATCH {
            if self.step_back() {
                return;
            }
            let Some(door) = &self.door else {
                self.accept_ready = false;
                return;
            };
            match door.accept() {
                Ok((stream, address)) => match self.seat.gate.enter(address.ip()) {
                    Some(pass) => self.welcome(stream, address.ip(), pass, now),
                    None => {
                        turn_away(stream, self.seat.tls.is_some());
                        self.engine.note_turned_away(TURNED_AWAY, now);
                    }
                },
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.accept_ready = false;
                        return;
                    }
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ if is_shortage(&error) && self.turn_away_for_want(now) => {
                        if !self.accept_ready {
                            return;
                        }
                    }
                    _ => {
                        // Those who wait stay in the kernel's queue meanwhile.
                        self.accept_paused_until = now.after(ACCEPT_PAUSE);
                        return;
                    }
                },
            }
        }
    }

    /// Tells whoever waits next that there are no descriptors, with the one that is kept for that. Whether it could.
    fn turn_away_for_want(&mut self, now: Nanos) -> bool {
        let Some(door) = self.door.as_ref().filter(|_| self.reserve.spend()) else { return false };
        match door.accept() {
            Ok((stream, _)) => {
                turn_away(stream, self.seat.tls.is_some());
                self.seat.gate.note_refused();
                self.engine.note_turned_away(TURNED_AWAY, now);
                if let Some(count) = self.reserve.note(now) {
                    self.log(
                        LEVEL_ERROR,
                        format!("no file descriptors are left: {count} connections got a 503"),
                    );
                }
            }
            // The kernel finds a descriptor first, and then that nobody waits.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.accept_ready = false,
            Err(_) => {}
        }
        self.reserve.renew();
        true
    }

    fn welcome(&mut self, stream: TcpStream, address: IpAddr, pass: Pass, now: Nanos) {
        // Answers are written whole: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let transport = match &self.seat.tls {
            None => Transport::Plain(stream),
            Some(config) => match Tls::new(stream, Arc::clone(config)) {
                Ok(tls) => Transport::Tls(Box::new(tls)),
                Err(error) => return self.log(LEVEL_ERROR, format!("failed to start TLS: {error}")),
            },
        };
        let client = Client::new(transport, address, pass);
        let id = self.engine.accept(client, now);
        let token = Token(usize::try_from(id.to_bits() | CONNECTION).unwrap_or(usize::MAX));
        let registry = self.seat.poll.registry();
        let registered = self.engine.socket(id).map(|client| {
            registry.register(client.transport.stream(), token, Interest::READABLE | Interest::WRITABLE)
        });
        if !matches!(registered, Some(Ok(()))) {
            self.engine.ready(id, Ready { broken: true, ..Ready::default() }, now);
        }
    }

    fn tell_what_happened(&mut self, now: Nanos) {
        for notice in self.engine.take_notices() {
            match notice {
                Notice::Log { level, message } => self.log(level, message),
                Notice::Fault { replica, fault } => self.tell(FromWorker::Fault { replica, fault }),
                Notice::Starved => self.tell(FromWorker::Starved),
            }
        }
        if let Some(epoch) = self.engine.oldest_news() {
            self.tell(FromWorker::Oldest { worker: self.seat.index, epoch });
        }
        for (index, lane) in self.engine.take_freed() {
            // The replica may hold the bell open, so that closing our end does not end the watch.
            let _ = self.seat.poll.registry().deregister(&mut SourceFd(&lane.bell().as_fd().as_raw_fd()));
            self.unwatch(index);
            self.tell(FromWorker::LaneFreed(index));
        }
        let ends = self.draining && !self.drained && self.engine.connections() == 0;
        if let Some(traffic) = self.engine.take_stats(ends, now) {
            self.tell(FromWorker::Stats(traffic));
        }
        if ends {
            self.drained = true;
            self.tell(FromWorker::Drained);
        }
    }

    /// Leaves a line out rather than wait, or collect, for a supervisor that does not read.
    fn log(&self, level: u32, message: String) {
        self.seat.reports.offer(ProxyReport::Log { level, message });
    }

    fn tell(&self, what: FromWorker) {
        // The control thread outlives the workers, but for the end of a test.
        let _ = self.tell.send(what.into());
    }
}

fn lane_token(lane: LaneIndex, which: usize) -> Token {
    Token(FIRST_LANE + 2 * lane.at() + which)
}

/// Status of the answer below.
const TURNED_AWAY: u16 = 503;

/// What a client may have sent already of a request that is not read.
const UNREAD_MAX: usize = 64 * 1024;

/// Whether the process, or the system, has no more descriptors.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// There are too many connections already.
fn turn_away(mut stream: TcpStream, tls: bool) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\
        connection: close\r\n\r\n";
    // A handshake only to say no would cost more than the connection.
    if !tls {
        let _ = stream.write(ANSWER);
        let _ = stream.shutdown(Shutdown::Write);
        // A socket that is closed with bytes unread is reset, and the answer with it.
        let mut unread = [0; 4096];
        let mut seen = 0;
        while seen < UNREAD_MAX
            && let Ok(read @ 1..) = stream.read(&mut unread)
        {
            seen += read;
        }
    }
}
