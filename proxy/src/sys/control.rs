//! The control thread: orders from the supervisor become what the workers hold, and what they say becomes reports.
//!
//! It never touches a request. Joining a replica takes two processes, so each join has a thread of its own for as
//! long as it lasts, and a view waits for the joins of the replicas that it names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use decurion_api::spec::AccessLog;
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::adoption::ProxyClaim;
use decurion_ipc::attach::{self, Connected, UpBell};
use decurion_ipc::channel::Geometry;
use decurion_ipc::control::{
    DeploymentView, Generation, ProxyOrder, ProxyReport, ProxySettings, RouteView, TlsTexts,
};
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
use crate::balance::{Backends, Canary, Deployment, LaneIndex, Replica};
use crate::route::RouteTable;
use crate::stats::{Gathered, Level};
use crate::view::{Route, View};

/// How long the supervisor may take for its first word.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a replica may take to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first view waits for all of its replicas.
const FIRST_VIEW_WAIT: Duration = Duration::from_millis(250);
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

/// A replica that we have been told of.
#[derive(Debug)]
struct Known {
    state: Joining,
    version: String,
    /// Tells its join from one before it.
    attempt: u64,
    pidfd: Arc<OwnedFd>,
    /// Its hang-up tells the replica that we are gone.
    _attach: Arc<Link>,
}

#[derive(Debug)]
enum Joining {
    /// A thread is at it.
    UnderWay,
    /// Joined, and not yet in a view.
    Joined(Connected),
    /// In use.
    Serving(Arc<Replica>),
    Failed(String),
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
    /// The workers have been sent a view.
    routed: bool,
    replicas: HashMap<ReplicaId, Known>,
    deployments: HashMap<DeploymentName, Arc<Deployment>>,
    /// The newest view, while replicas that it names are still joining.
    pending: Option<RouteView>,
    /// When the first view is used without those that are still joining.
    partial_at: Option<Instant>,
    /// Acknowledgements that are still to come, by generation, and whom the report will name.
    unacknowledged: BTreeMap<Generation, Applying>,
    /// Replicas of the newest view that every worker goes by.
    acknowledged: BTreeSet<ReplicaId>,
    attempts: u64,
    lanes: Lanes,
    gathered: Gathered,
    pulse: Pulse,
    draining: bool,
    drained: usize,
    finished: bool,
    /// The end of a drain.
    deadline: Option<Instant>,
}

/// A view that not every worker goes by yet.
#[derive(Debug)]
struct Applying {
    workers_left: usize,
    unreachable: Vec<(ReplicaId, String)>,
    replicas: BTreeSet<ReplicaId>,
}

/// Which lane numbers are free: one is used again when no worker refers to it any more.
#[derive(Debug, Default)]
struct Lanes {
    next: u32,
    free: Vec<LaneIndex>,
    /// Workers that have let go of a lane.
    let_go: HashMap<LaneIndex, usize>,
}

impl Lanes {
    fn take(&mut self) -> LaneIndex {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            LaneIndex(self.next - 1)
        })
    }

    fn freed(&mut self, lane: LaneIndex, workers: usize) {
        let count = self.let_go.entry(lane).or_default();
        *count += 1;
        if *count == workers {
            self.let_go.remove(&lane);
            self.free.push(lane);
        }
    }
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
            routed: false,
            replicas: HashMap::new(),
            deployments: HashMap::new(),
            pending: None,
            partial_at: None,
            unacknowledged: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            attempts: 0,
            lanes: Lanes::default(),
            gathered: Gathered::default(),
            pulse: Pulse::default(),
            draining: false,
            drained: 0,
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
                if let Some(known) = self.replicas.get_mut(&replica)
                    && known.attempt == attempt
                {
                    known.state = match result {
                        Ok(connected) => Joining::Joined(connected),
                        Err(why) => Joining::Failed(why),
                    };
                }
                self.apply_pending()?;
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
            ProxyOrder::Configure(settings) => {
                self.configure_access_log(&settings);
                self.settings = settings;
                self.gate.configure(self.settings.max_connections, self.settings.max_connections_per_address);
                let workers = self.workers()?;
                workers.post_all(|| Mail::Configure(Box::new(self.settings.clone()), self.sink()));
                self.listen()
            }
            ProxyOrder::Attach { replica, version, requests, replicas, .. } => {
                let geometry = Geometry::fitting(self.workers()?.count(), replicas, requests);
                self.attach(replica, version, descriptors, geometry)
            }
            ProxyOrder::Tls(texts) => {
                self.configure_tls(texts.as_ref());
                Ok(())
            }
            ProxyOrder::View(view) => {
                self.pending = Some(view);
                if !self.routed {
                    self.partial_at.get_or_insert(Instant::now() + FIRST_VIEW_WAIT);
                }
                self.apply_pending()
            }
            ProxyOrder::Detach(replica) => {
                self.detach(&replica);
                self.apply_pending()
            }
            ProxyOrder::Drain(limit) => self.drain(limit, false),
            ProxyOrder::Retire(limit) => self.drain(limit, true),
            ProxyOrder::ReopenLogs => {
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
        let is_attached = |known: &Known| match &known.state {
            Joining::Joined(_) => true,
            Joining::Serving(replica) => !replica.is_gone(),
            Joining::UnderWay | Joining::Failed(_) => false,
        };
        let attached: Vec<ReplicaId> =
            self.replicas.iter().filter(|(_, known)| is_attached(known)).map(|(id, _)| id.clone()).collect();
        let everywhere = |id: &&ReplicaId| {
            attached.contains(id) && self.unacknowledged.values().all(|view| view.replicas.contains(*id))
        };
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        ProxyClaim {
            instance: self.home.instance(),
            settings: self.settings.clone(),
            listening: self.listener_kept.is_some(),
            draining: self.draining.then(|| self.deadline.map_or(DRAIN_DEFAULT, left)),
            routed: self.acknowledged.iter().filter(everywhere).cloned().collect(),
            attached,
        }
    }

    /// What can't serve is not taken: what served before goes on. The supervisor has checked it, so this is rare.
    fn configure_tls(&mut self, texts: Option<&TlsTexts>) {
        match texts.map(tls::server_config).transpose() {
            Ok(tls) => {
                self.tls = tls;
                if let Some(workers) = &self.workers {
                    workers.post_all(|| Mail::Tls(self.tls.clone()));
                }
            }
            Err(error) => self.log(1, format!("{error}; what served before goes on")),
        }
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
        if !self.routed {
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
        self.attempts += 1;
        let attempt = self.attempts;
        let (state, pidfd) = (Joining::UnderWay, Arc::new(pidfd));
        let known = Known { state, attempt, version, pidfd, _attach: Arc::clone(&attach) };
        self.replicas.insert(replica.clone(), known);
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
        let Some(Known { state: Joining::Serving(shared), .. }) = self.replicas.remove(replica) else {
            return;
        };
        // One that has left by itself has been let go of by each worker, or will be by its death; its lane's number
        // may be another replica's by now.
        if shared.leave()
            && let Some(workers) = &self.workers
        {
            workers.post_all(|| Mail::Detach(shared.lane));
        }
    }

    /// Applies the newest view, if all that it names have joined, or have failed to.
    fn apply_pending(&mut self) -> Result<(), ServeError> {
        let joining = |replica: &ReplicaId| {
            matches!(self.replicas.get(replica), Some(Known { state: Joining::UnderWay, .. }))
        };
        let waits = |view: &RouteView| view.deployments.iter().flat_map(|d| &d.replicas).any(joining);
        if self.pending.as_ref().is_none_or(waits) {
            return Ok(());
        }
        let Some(view) = self.pending.take() else { return Ok(()) };
        let unreachable = self.apply(&view)?;
        let workers = self.workers()?.count();
        let is_reached = |id: &&ReplicaId| !unreachable.iter().any(|(unreached, _)| unreached == *id);
        let replicas =
            view.deployments.iter().flat_map(|it| &it.replicas).filter(is_reached).cloned().collect();
        let applying = Applying { workers_left: workers, unreachable, replicas };
        self.unacknowledged.insert(view.generation, applying);
        Ok(())
    }

    /// Routes by a view, as far as its replicas have joined. Gives those that have not, with why.
    fn apply(&mut self, view: &RouteView) -> Result<Vec<(ReplicaId, String)>, ServeError> {
        self.partial_at = None;
        let workers = self.workers()?;
        let mut unreachable = Vec::new();
        let mut routes = Vec::new();
        for deployment in &view.deployments {
            let backends = self.backends(deployment, &workers, &mut unreachable);
            let shared = self.deployment(&deployment.name);
            shared.set_backends(Arc::clone(&backends), clock::now(), &*workers);
            let Some(prefix) = &deployment.route_prefix else { continue };
            let route = Route {
                place: routes.len(),
                deployment: shared,
                backends,
                availability: deployment.availability.clone(),
                request_timeout: deployment.request_timeout,
                http: deployment.http,
            };
            routes.push((prefix.clone(), route));
        }
        self.forget_deployments(view, &workers);
        let generation = view.generation;
        let view = Arc::new(View { generation, routes: RouteTable::new(routes.into_iter()) });
        workers.post_all(|| Mail::View(Arc::clone(&view)));
        self.routed = true;
        self.listen()?;
        Ok(unreachable)
    }

    /// The replicas of a deployment that can be used; those that are new are handed to the workers.
    fn backends(
        &mut self,
        view: &DeploymentView,
        workers: &Mailboxes,
        unreachable: &mut Vec<(ReplicaId, String)>,
    ) -> Arc<Backends> {
        let mut replicas = Vec::with_capacity(view.replicas.len());
        for id in &view.replicas {
            match self.serving(id, &view.name, workers) {
                Ok(replica) => replicas.push(replica),
                Err(why) => unreachable.push((id.clone(), why)),
            }
        }
        let canary = view.canary.as_ref().map(|canary| {
            // Those that are tried come last, each part in the view's order.
            replicas.sort_by_key(|replica| canary.replicas.contains(&replica.id));
            let from = replicas.iter().take_while(|replica| !canary.replicas.contains(&replica.id)).count();
            Canary::new(from, canary.weight)
        });
        let max_queued = view.max_queued_requests;
        Arc::new(Backends { replicas, canary, max_ongoing: view.max_ongoing_requests.max(1), max_queued })
    }

    fn serving(
        &mut self,
        id: &ReplicaId,
        deployment: &DeploymentName,
        workers: &Mailboxes,
    ) -> Result<Arc<Replica>, String> {
        let deployment = self.deployment(deployment);
        let known = self.replicas.get_mut(id).ok_or("it was not attached")?;
        match std::mem::replace(&mut known.state, Joining::UnderWay) {
            Joining::Joined(Connected { lanes, board }) => {
                let lane = self.lanes.take();
                let replica = Replica::new(id.clone(), lane, deployment, Box::new(board));
                let replica = Arc::new(replica.of_version(known.version.clone()));
                for (worker, lane) in lanes.into_iter().enumerate() {
                    let pidfd = Arc::clone(&known.pidfd);
                    let replica = Arc::clone(&replica);
                    workers.post(worker, Mail::Attach { replica, lane: Box::new(lane), pidfd });
                }
                known.state = Joining::Serving(Arc::clone(&replica));
                Ok(replica)
            }
            state @ Joining::Serving(_) => {
                let Joining::Serving(replica) = &state else { return Err(String::new()) };
                let replica = Arc::clone(replica);
                known.state = state;
                if replica.is_gone() { Err("it is gone".to_owned()) } else { Ok(replica) }
            }
            Joining::Failed(why) => {
                known.state = Joining::Failed(why.clone());
                Err(why)
            }
            Joining::UnderWay => Err("it has not joined yet".to_owned()),
        }
    }

    fn deployment(&mut self, name: &DeploymentName) -> Arc<Deployment> {
        let new = || Arc::new(Deployment::new(name.clone()));
        Arc::clone(self.deployments.entry(name.clone()).or_insert_with(new))
    }

    /// Lets go of deployments that the view does not name; who waits there is told by the workers.
    fn forget_deployments(&mut self, view: &RouteView, workers: &Mailboxes) {
        self.deployments.retain(|name, deployment| {
            let named = view.deployments.iter().any(|d| d.name == *name);
            if !named {
                deployment.set_backends(Arc::default(), clock::now(), workers);
            }
            named
        });
    }

    fn worker_told(&mut self, from: FromWorker) {
        match from {
            FromWorker::Applied { generation } => self.applied(generation),
            FromWorker::Fault { replica, fault } => {
                self.detach(&replica);
                let _ = self.reports.send(ProxyReport::Fault { replica, fault });
            }
            FromWorker::LaneFreed(lane) => {
                let workers = self.workers.as_ref().map_or(0, |workers| workers.count());
                self.lanes.freed(lane, workers);
            }
            FromWorker::Stats(traffic) => self.gathered.add(traffic, Instant::now()),
            FromWorker::Turned { probe } => {
                if self.pulse.turned(probe) {
                    let _ = self.reports.send(ProxyReport::Alive { sequence: probe });
                }
            }
            FromWorker::Starved => self.gathered.hurry(Instant::now()),
            FromWorker::Drained => {
                self.drained += 1;
                self.finished |= self.drained == self.workers.as_ref().map_or(0, |workers| workers.count());
            }
        }
    }

    fn applied(&mut self, generation: Generation) {
        let Some(applying) = self.unacknowledged.get_mut(&generation) else { return };
        applying.workers_left -= 1;
        if applying.workers_left == 0
            && let Some(Applying { unreachable, replicas, .. }) = self.unacknowledged.remove(&generation)
        {
            self.acknowledged = replicas;
            let _ = self.reports.send(ProxyReport::Applied { generation, unreachable });
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
        [self.deadline, self.partial_at, self.gathered.due()].into_iter().flatten().min()
    }

    fn time_is_up(&mut self) -> Result<(), ServeError> {
        let now = Instant::now();
        if self.partial_at.is_some_and(|at| at <= now) {
            // A replica that hangs must not keep all others from being served after a restart. The view stays
            // pending, and is not reported, until it is whole.
            self.partial_at = None;
            if let Some(view) = self.pending.clone() {
                self.apply(&view)?;
            }
        }
        if self.gathered.due().is_some_and(|at| at <= now) {
            self.send_stats(now);
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.drain_is_due()?;
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
        let levels = self.deployments.values().map(|deployment| Level {
            name: deployment.name.clone(),
            waiting: u32::try_from(deployment.told_waiting()).unwrap_or(u32::MAX),
            in_flight: deployment.in_flight(),
        });
        self.gathered.take(levels, self.gate.take_counts(), now)
    }

    /// A drain takes too long.
    fn drain_is_due(&mut self) -> Result<(), ServeError> {
        if let Some(workers) = &self.workers {
            workers.post_all(|| Mail::Abort);
        }
        self.finished = true;
        Ok(())
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
