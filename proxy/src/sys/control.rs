//! The control thread: orders from the supervisor become what the workers hold, and what they say becomes reports.
//!
//! It never touches a request. What is routed by is [`Routing`]'s to decide. Joining a replica takes two processes, so
//! each join has a thread of its own for as long as it lasts.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use decurion_api::ReplicaId;
use decurion_api::spec::AccessLog;
use decurion_ipc::adoption::ProxyClaim;
use decurion_ipc::attach::{self, Connected, UpBell};
use decurion_ipc::channel::{Geometry, Requester};
use decurion_ipc::control::{ProxyOrder, ProxyReport, ProxySettings, TlsTexts};
use decurion_ipc::link::Link;
use decurion_ipc::proxy_control::{self, ControlError, OrderReceiver, Received, ReportSender};
use decurion_ipc::stats::ProxyStats;
use decurion_ipc::tls;
use mio::net::TcpListener;
use mio::{Poll, Waker};

use super::access_log::Writer;
use super::clock;
use super::gate::Gate;
use super::home::{FromHome, Home};
use super::mailbox::{Mail, Mailbox, Mailboxes};
use super::pulse::Pulse;
use super::share::Shares;
use super::worker::{self, FromWorker, Seat, WAKER};
use crate::access_log::Sink;
use crate::balance::{LaneIndex, Replica};
use crate::routing::{Applied, Crew, Ends, Routing};
use crate::stats::{Gathered, Level};
use crate::view::View;

/// How long the supervisor may take for its first word.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a replica may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a drain may take where nobody wants us after the supervisor's death.
const ORPHAN_DRAIN: Duration = Duration::from_secs(1);
/// How long a drain may take that the supervisor has not timed.
const DRAIN_DEFAULT: Duration = Duration::from_secs(20);
/// How long counts are kept back that found no room on their way to the supervisor.
const STATS_AGAIN: Duration = Duration::from_secs(1);
/// How long the last reports may take to go out.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the proxy could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no supervisor.
    #[error("failed to reach the supervisor: {0}")]
    Control(#[from] ControlError),
    /// The system refused something that nothing works without.
    #[error("failed to start the workers: {0}")]
    Start(#[from] io::Error),
}

/// Says from outside that the proxy is to drain and end.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<Told>);

impl Stopper {
    /// As if the supervisor had ordered it.
    pub fn drain(&self) {
        let _ = self.0.send(Told::Drain);
    }
}

/// A proxy before it serves.
#[derive(Debug)]
pub struct Server {
    told: Receiver<Told>,
    sender: Sender<Told>,
    reports: ReportSender,
}

/// Everything that the control thread is told.
#[derive(Debug)]
enum Told {
    Order(Box<Received<(ProxyOrder, Vec<OwnedFd>)>>),
    Joined { replica: ReplicaId, attempt: u64, result: Result<Connected, String> },
    Home(FromHome),
    Worker(FromWorker),
    Drain,
}

impl From<FromHome> for Told {
    fn from(from: FromHome) -> Self {
        Told::Home(from)
    }
}

impl From<FromWorker> for Told {
    fn from(from: FromWorker) -> Self {
        Told::Worker(from)
    }
}

impl Server {
    /// Joins the supervisor over the link that was our descriptor 0.
    ///
    /// # Errors
    /// [`ServeError::Control`] where it does not answer.
    pub fn connect(link: Link) -> Result<Self, ServeError> {
        let (orders, reports) = proxy_control::connect(link, HELLO_TIMEOUT)?;
        let (sender, told) = channel();
        take_orders(orders, sender.clone())?;
        reports.send(ProxyReport::Started)?;
        Ok(Self { told, sender, reports })
    }

    /// For whoever handles signals.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }

    /// Serves until it has drained.
    ///
    /// # Errors
    /// [`ServeError`] where the workers can't be started.
    pub fn run(self) -> Result<(), ServeError> {
        let mut control = Control::new(self.sender, self.reports);
        while !control.finished {
            let told = match control.next_deadline() {
                None => self.told.recv().ok(),
                Some(at) => self.told.recv_timeout(at.saturating_duration_since(Instant::now())).ok(),
            };
            match told {
                Some(told) => control.handle(told)?,
                None => control.time_is_up()?,
            }
        }
        control.end();
        Ok(())
    }
}

/// Hands on each order, on a thread of its own.
fn take_orders(orders: OrderReceiver, forward: Sender<Told>) -> io::Result<()> {
    let receive = move || {
        orders.run(|order| {
            let _ = forward.send(Told::Order(Box::new(order)));
        });
    };
    thread::Builder::new().name("orders".to_owned()).spawn(receive).map(drop)
}

/// What belongs to a replica for as long as we know it.
#[derive(Debug)]
struct Tie {
    pidfd: Arc<OwnedFd>,
    /// Its hang-up tells the replica that we are gone.
    _attach: Arc<Link>,
}

impl Crew<Requester, Tie> for Mailboxes {
    fn count(&self) -> usize {
        Mailboxes::count(self)
    }

    fn attach(&self, worker: usize, replica: &Arc<Replica>, lane: Requester, tie: &Tie) {
        let (replica, pidfd) = (Arc::clone(replica), Arc::clone(&tie.pidfd));
        self.post(worker, Mail::Attach { replica, lane: Box::new(lane), pidfd });
    }

    fn detach(&self, lane: LaneIndex) {
        self.post_all(|| Mail::Detach(lane));
    }

    fn route(&self, view: &Arc<View>) {
        self.post_all(|| Mail::View(Arc::clone(view)));
    }
}

struct Control {
    sender: Sender<Told>,
    reports: ReportSender,
    workers: Option<Arc<Mailboxes>>,
    gate: Arc<Gate>,
    settings: ProxySettings,
    access_log: Option<Arc<Writer>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    listener: Option<OwnedFd>,
    /// A copy of what the workers have, for the next supervisor.
    listener_kept: Option<OwnedFd>,
    home: Home,
    routing: Routing<Requester, Tie>,
    gathered: Gathered,
    pulse: Pulse,
    /// Which workers have yet to take the newest settings.
    configured: Pulse,
    draining: bool,
    drained: usize,
    /// It had to be cut short, and workers say yet when they are through.
    aborted: bool,
    finished: bool,
    /// The end of a drain.
    deadline: Option<Instant>,
}

impl Control {
    fn new(sender: Sender<Told>, reports: ReportSender) -> Self {
        Self {
            sender,
            reports,
            workers: None,
            gate: Arc::default(),
            settings: ProxySettings::default(),
            access_log: None,
            tls: None,
            listener: None,
            listener_kept: None,
            home: Home::default(),
            routing: Routing::default(),
            gathered: Gathered::default(),
            pulse: Pulse::default(),
            configured: Pulse::default(),
            draining: false,
            drained: 0,
            aborted: false,
            finished: false,
            deadline: None,
        }
    }

    fn handle(&mut self, told: Told) -> Result<(), ServeError> {
        match told {
            Told::Order(received) => match *received {
                Received::Message((order, descriptors)) => self.order(order, descriptors)?,
                Received::Malformed(why) => self.log(1, format!("an order can't be read: {why}")),
                Received::Closed => {
                    if !self.home.seek(self.sender.clone()) {
                        self.drain_within(ORPHAN_DRAIN)?;
                    }
                }
            },
            Told::Home(from) => self.home_told(from)?,
            Told::Joined { replica, attempt, result } => {
                let ends = |Connected { lanes, board }| Ends { lanes, load: Box::new(board) };
                self.routing.joined(&replica, attempt, result.map(ends));
                self.route()?;
            }
            Told::Worker(from) => self.worker_told(from),
            Told::Drain => self.drain(DRAIN_DEFAULT, false)?,
        }
        Ok(())
    }

    fn order(&mut self, order: ProxyOrder, descriptors: Vec<OwnedFd>) -> Result<(), ServeError> {
        match order {
            ProxyOrder::Listen(_) => {
                self.listener = descriptors.into_iter().next();
                self.listener_kept = self.listener.as_ref().map(OwnedFd::try_clone).transpose()?;
                self.listen()
            }
            ProxyOrder::Configure { sequence, settings, tls } => {
                self.configure(sequence, *settings, tls.as_ref())
            }
            ProxyOrder::Attach { replica, version, requests, replicas, .. } => {
                let geometry = Geometry::fitting(self.workers()?.count(), replicas, requests);
                self.attach(replica, version, descriptors, geometry)
            }
            ProxyOrder::View(view) => {
                self.routing.view(view, clock::now());
                self.route()
            }
            ProxyOrder::Detach(replica) => {
                self.detach(&replica);
                self.route()
            }
            ProxyOrder::Drain(limit) => self.drain(limit, false),
            ProxyOrder::Retire(limit) => self.drain(limit, true),
            ProxyOrder::ReopenLogs => {
                if let Some(workers) = &self.workers {
                    workers.post_all(|| Mail::HandOverLog);
                }
                if let Some(access_log) = &self.access_log {
                    access_log.reopen();
                }
                Ok(())
            }
            ProxyOrder::Count => {
                self.gathered.ask();
                self.send_stats(Instant::now());
                Ok(())
            }
            ProxyOrder::Await { socket, instance } => {
                self.home.expect(socket, instance);
                Ok(())
            }
            ProxyOrder::Probe { sequence } => {
                let workers = self.workers()?;
                self.pulse.ask(sequence, workers.count());
                workers.post_all(|| Mail::Probe { sequence });
                Ok(())
            }
        }
    }

    fn home_told(&mut self, from: FromHome) -> Result<(), ServeError> {
        match from {
            FromHome::Reached(link) => {
                let claim = self.claim();
                let listener = self.listener_kept.as_ref().map(OwnedFd::try_clone).transpose()?;
                self.home.claim(link, claim, listener, self.reports.clone(), self.sender.clone());
                Ok(())
            }
            FromHome::Returned(orders) => {
                self.home.returned();
                self.gathered.begin_anew(Instant::now());
                take_orders(orders, self.sender.clone())?;
                let _ = self.reports.send(ProxyReport::Started);
                Ok(())
            }
            FromHome::Lost => {
                if self.home.seek(self.sender.clone()) {
                    Ok(())
                } else {
                    self.drain_within(DRAIN_DEFAULT)
                }
            }
            FromHome::Nobody => self.drain_within(DRAIN_DEFAULT),
        }
    }

    /// How things stand here, for a supervisor that does not know.
    fn claim(&self) -> ProxyClaim {
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        ProxyClaim {
            instance: self.home.instance(),
            settings: self.settings.clone(),
            listening: self.listener_kept.is_some(),
            draining: self.draining.then(|| self.deadline.map_or(DRAIN_DEFAULT, left)),
            routed: self.routing.routed().cloned().collect(),
            attached: self.routing.attached().cloned().collect(),
        }
    }

    fn configure(
        &mut self,
        sequence: u64,
        settings: ProxySettings,
        tls: Option<&TlsTexts>,
    ) -> Result<(), ServeError> {
        match tls.map(tls::server_config).transpose() {
            Ok(tls) => self.tls = tls,
            // The supervisor has checked it, so this is rare.
            Err(error) => self.log(1, format!("{error}; what served before goes on")),
        }
        self.configure_access_log(&settings);
        self.settings = settings;
        self.gate.configure(self.settings.max_connections, self.settings.max_connections_per_address);
        let workers = self.workers()?;
        self.configured.ask(sequence, workers.count());
        workers.post_all(|| Mail::Configure {
            sequence,
            settings: Box::new(self.settings.clone()),
            access_log: self.sink(),
            tls: self.tls.clone(),
        });
        self.listen()
    }

    /// Starts another access log where its settings are others. The old one ends once no worker has it any more.
    fn configure_access_log(&mut self, settings: &ProxySettings) {
        let of = |settings: &ProxySettings| (settings.access_log, settings.access_log_file.clone());
        if of(settings) == of(&self.settings) {
            return;
        }
        let (format, path) = of(settings);
        self.access_log = None;
        if format == AccessLog::Off {
            return;
        }
        match Writer::start(format, path.as_deref(), self.reports.clone()) {
            Ok(writer) => self.access_log = Some(Arc::new(writer)),
            Err(error) => self.log(1, format!("failed to start the access log: {error}")),
        }
    }

    fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.access_log.clone().map(|writer| writer as Arc<dyn Sink>)
    }

    /// Starts the workers, the first time: how many is known from the settings.
    fn workers(&mut self) -> Result<Arc<Mailboxes>, ServeError> {
        if let Some(workers) = &self.workers {
            return Ok(Arc::clone(workers));
        }
        self.gate.configure(self.settings.max_connections, self.settings.max_connections_per_address);
        let polls = (0..worker_count(self.settings.workers)).map(|_| Poll::new());
        let polls = polls.collect::<io::Result<Vec<Poll>>>()?;
        let boxes = polls.iter().map(|poll| Waker::new(poll.registry(), WAKER).map(Mailbox::new));
        let mailboxes = Arc::new(Mailboxes::new(boxes.collect::<io::Result<Vec<Mailbox>>>()?));
        let shares = Arc::new(Shares::new(mailboxes.count()));
        for (index, poll) in polls.into_iter().enumerate() {
            let seat = Seat {
                index,
                poll,
                mailboxes: Arc::clone(&mailboxes),
                gate: Arc::clone(&self.gate),
                shares: Arc::clone(&shares),
                settings: self.settings.clone(),
                access_log: self.sink(),
                tls: self.tls.clone(),
                reports: self.reports.clone(),
            };
            let tell = self.sender.clone();
            let run = move || {
                if catch_unwind(AssertUnwindSafe(|| worker::run(seat, tell))).is_err() {
                    // A worker that is gone would leave its clients hanging: let the supervisor start us again.
                    std::process::exit(101);
                }
            };
            thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        }
        self.workers = Some(Arc::clone(&mailboxes));
        Ok(mailboxes)
    }

    /// Hands the listening socket to the workers, once both are there, and routes: until then connections wait in the
    /// socket's backlog, so that no client of a proxy that was started again is told that its route is not there.
    fn listen(&mut self) -> Result<(), ServeError> {
        if !self.routing.is_routed() {
            return Ok(());
        }
        let (Some(workers), Some(listener)) = (&self.workers, &self.listener) else { return Ok(()) };
        let listener = std::net::TcpListener::from(listener.try_clone()?);
        listener.set_nonblocking(true)?;
        for worker in 0..workers.count() {
            workers.post(worker, Mail::Listen(TcpListener::from_std(listener.try_clone()?)));
        }
        self.listener = None;
        Ok(())
    }

    fn attach(
        &mut self,
        replica: ReplicaId,
        version: String,
        descriptors: Vec<OwnedFd>,
        geometry: Geometry,
    ) -> Result<(), ServeError> {
        let lanes = u16::try_from(self.workers()?.count()).unwrap_or(u16::MAX);
        let mut descriptors = descriptors.into_iter();
        let (Some(attach), Some(pidfd)) = (descriptors.next(), descriptors.next()) else {
            self.log(1, format!("no descriptors came for replica {replica}"));
            return Ok(());
        };
        let attach = Arc::new(Link::from_fd(attach));
        let tie = Tie { pidfd: Arc::new(pidfd), _attach: Arc::clone(&attach) };
        let attempt = self.routing.attach(replica.clone(), version, tie);
        let tell = self.sender.clone();
        let join = move || {
            let joined = attach::connect(&attach, lanes, geometry, UpBell::EventFd, JOIN_TIMEOUT);
            let result = joined.map_err(|error| error.to_string());
            let _ = tell.send(Told::Joined { replica, attempt, result });
        };
        thread::Builder::new().name("join".to_owned()).spawn(join)?;
        Ok(())
    }

    fn detach(&mut self, replica: &ReplicaId) {
        if let Some(workers) = &self.workers {
            self.routing.detach(replica, &**workers);
        }
    }

    /// Has the workers go by the newest view as soon as that can be, and takes connections from the first one on.
    fn route(&mut self) -> Result<(), ServeError> {
        let workers = self.workers()?;
        self.routing.settle(&*workers, clock::now());
        self.listen()
    }

    fn worker_told(&mut self, from: FromWorker) {
        match from {
            FromWorker::Applied { generation } => {
                if let Some(Applied { generation, unreachable }) = self.routing.applied(generation) {
                    let _ = self.reports.send(ProxyReport::Applied { generation, unreachable });
                }
            }
            FromWorker::Oldest { worker, epoch } => {
                let workers = self.workers.as_ref().map_or(0, |workers| workers.count());
                if let Some(oldest) = self.routing.oldest(worker, epoch, workers) {
                    let _ = self.reports.send(ProxyReport::Oldest(oldest));
                }
            }
            FromWorker::Fault { replica, fault } => {
                self.detach(&replica);
                let _ = self.reports.send(ProxyReport::Fault { replica, fault });
            }
            FromWorker::LaneFreed(lane) => {
                let workers = self.workers.as_ref().map_or(0, |workers| workers.count());
                self.routing.freed(lane, workers);
            }
            FromWorker::Stats(traffic) => self.gathered.add(traffic, Instant::now()),
            FromWorker::Turned { probe } => {
                if self.pulse.turned(probe) {
                    let _ = self.reports.send(ProxyReport::Alive { sequence: probe });
                }
            }
            FromWorker::Configured { sequence } => {
                if self.configured.turned(sequence) {
                    let _ = self.reports.send(ProxyReport::Configured { sequence });
                }
            }
            FromWorker::Starved => self.gathered.hurry(Instant::now()),
            FromWorker::Drained => {
                self.drained += 1;
                self.finished |= self.drained == self.workers.as_ref().map_or(0, |workers| workers.count());
            }
        }
    }

    fn drain(&mut self, limit: Duration, gently: bool) -> Result<(), ServeError> {
        // One that was retired may be told to make an end of it.
        if !std::mem::replace(&mut self.draining, true) || !gently {
            self.workers()?.post_all(|| Mail::Drain { gently });
            (self.listener, self.listener_kept) = (None, None);
        }
        self.deadline = Some(Instant::now() + limit);
        Ok(())
    }

    /// A drain that nobody has timed; one that was timed keeps its time.
    fn drain_within(&mut self, limit: Duration) -> Result<(), ServeError> {
        if self.draining { Ok(()) } else { self.drain(limit, false) }
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.deadline, self.partial_at(), self.gathered.due()].into_iter().flatten().min()
    }

    fn partial_at(&self) -> Option<Instant> {
        self.routing.partial_at().map(|at| Instant::now() + at.until(clock::now()))
    }

    fn time_is_up(&mut self) -> Result<(), ServeError> {
        let now = Instant::now();
        if self.routing.partial_at().is_some_and(|at| at <= clock::now()) {
            let workers = self.workers()?;
            self.routing.expire(&*workers, clock::now());
            self.listen()?;
        }
        if self.gathered.due().is_some_and(|at| at <= now) {
            self.send_stats(now);
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.drain_is_due();
        }
        Ok(())
    }

    /// Sends what the workers have counted; keeps what can't be sent now.
    fn send_stats(&mut self, now: Instant) {
        if self.home.is_lost() {
            return self.gathered.postpone(now + STATS_AGAIN);
        }
        for report in self.stats(now) {
            if let Err(ProxyReport::Stats(report)) = self.reports.try_send(ProxyReport::Stats(report)) {
                self.gate.put_back(self.gathered.put_back(report, now + STATS_AGAIN));
            }
        }
    }

    fn stats(&mut self, now: Instant) -> Vec<ProxyStats> {
        let levels = self.routing.deployments().map(|deployment| Level {
            name: deployment.name.clone(),
            waiting: u32::try_from(deployment.told_waiting()).unwrap_or(u32::MAX),
            in_flight: deployment.in_flight(),
        });
        self.gathered.take(levels, self.gate.take_counts(), now)
    }

    /// A drain takes too long: what is left is cut, and has its line in the access log.
    fn drain_is_due(&mut self) {
        if let Some(workers) = self.workers.as_ref().filter(|_| !self.aborted) {
            workers.post_all(|| Mail::Abort);
            self.aborted = true;
            self.deadline = Some(Instant::now() + FLUSH_TIMEOUT);
        } else {
            self.finished = true;
        }
    }

    fn end(&mut self) {
        if let Some(access_log) = &self.access_log {
            access_log.flush(FLUSH_TIMEOUT);
        }
        for report in self.stats(Instant::now()) {
            let _ = self.reports.send(ProxyReport::Stats(report));
        }
        let _ = self.reports.send(ProxyReport::Drained);
        let _ = self.reports.flush(FLUSH_TIMEOUT);
        if let Some(workers) = &self.workers {
            workers.post_all(|| Mail::Stop);
        }
    }

    fn log(&self, level: u32, message: String) {
        self.reports.offer(ProxyReport::Log { level, message });
    }
}

/// As many as asked for; else half of the CPUs, since replicas need the other half.
fn worker_count(asked: u32) -> usize {
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = if asked == 0 { cpus / 2 } else { usize::try_from(asked).unwrap_or(usize::MAX) };
    count.clamp(1, WORKERS_MAX)
}

/// Lanes of one attachment are bounded, and each worker has one.
const WORKERS_MAX: usize = 64;
