//! A whole proxy in this process: the real control channel, the real workers, real sockets, and replicas that are
//! threads with a real channel.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "shared by test files, each of which uses its own part"
)]

pub mod client;
pub mod replica;
pub mod tls;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId, RoutePrefix};
use decurion_ipc::control::{
    Availability, DeploymentView, FdToken, Generation, ProxyOrder, ProxyReport, ProxySettings, RouteView,
    TlsTexts,
};
use decurion_ipc::epoch::Epoch;
use decurion_ipc::link::Link;
use decurion_ipc::proxy_control::{OrderSender, Received};
use decurion_ipc::stats::ProxyStats;
use decurion_proxy::sys::control::Server;

use replica::{Behaviour, FakeReplica};

/// Nothing takes so long; whatever does has hung.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// The proxy and what the supervisor holds of it.
pub struct Rig {
    pub address: SocketAddr,
    pub orders: Option<OrderSender>,
    pub reports: Receiver<ProxyReport>,
    /// Says how the server ended.
    pub ended: Receiver<Result<(), String>>,
    generation: u64,
    token: u64,
    configured: u64,
    pub view: Vec<DeploymentView>,
    /// What replicas that are attached take at once.
    pub requests: u32,
}

/// Settings for tests: two workers.
pub fn settings() -> ProxySettings {
    ProxySettings { workers: 2, ..ProxySettings::default() }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: ProxySettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = Link::pair().unwrap();
        let (to_reports, reports) = channel();
        let orders = OrderSender::open(near, move |received| match received {
            Received::Message(report) => drop(to_reports.send(report)),
            Received::Malformed(why) => panic!("{why}"),
            Received::Closed => {}
        })
        .unwrap();
        let (to_ended, ended) = channel();
        thread::spawn(move || {
            let served = Server::connect(far).and_then(Server::run);
            let _ = to_ended.send(served.map_err(|error| error.to_string()));
        });
        let mut rig = Self {
            address,
            orders: Some(orders),
            reports,
            ended,
            generation: 0,
            token: 0,
            configured: 0,
            view: vec![],
            requests: 100,
        };
        assert_eq!(rig.report(), ProxyReport::Started);
        let token = rig.token();
        rig.order(ProxyOrder::Listen(token), vec![listener.into()]);
        rig.configure(&settings, None);
        rig
    }

    /// Has the proxy go by these, and waits until all of it does.
    pub fn configure(&mut self, settings: &ProxySettings, tls: Option<TlsTexts>) {
        self.configured += 1;
        let sequence = self.configured;
        self.order(ProxyOrder::Configure { sequence, settings: Box::new(settings.clone()), tls }, vec![]);
        assert_eq!(self.report(), ProxyReport::Configured { sequence });
    }

    pub fn order(&self, order: ProxyOrder, descriptors: Vec<OwnedFd>) {
        self.orders.as_ref().unwrap().send(order, descriptors).unwrap();
    }

    /// The next report that is no log line.
    pub fn report(&self) -> ProxyReport {
        loop {
            match self.reports.recv_timeout(WATCHDOG).expect("a report in time") {
                ProxyReport::Log { .. } | ProxyReport::Stats(_) => {}
                report => return report,
            }
        }
    }

    /// The next report of what was counted.
    pub fn stats(&self) -> ProxyStats {
        loop {
            if let ProxyReport::Stats(stats) = self.reports.recv_timeout(WATCHDOG).expect("counts in time") {
                return stats;
            }
        }
    }

    /// Ends the proxy: everything that it has counted since the last report that was read.
    pub fn end_with_stats(&mut self) -> Vec<ProxyStats> {
        self.order(ProxyOrder::Drain(WATCHDOG), vec![]);
        let mut all = Vec::new();
        loop {
            match self.reports.recv_timeout(WATCHDOG).expect("a report in time") {
                ProxyReport::Stats(stats) => all.push(stats),
                ProxyReport::Drained => return all,
                _ => {}
            }
        }
    }

    fn token(&mut self) -> FdToken {
        self.token += 1;
        FdToken(self.token)
    }

    /// Starts a replica and has it attached, not yet in a view.
    pub fn replica(&mut self, deployment: &str, number: u32, behaviour: Behaviour) -> FakeReplica {
        let name = DeploymentName::new(deployment).unwrap();
        let id = ReplicaId::numbered(&name, number);
        let (ours, theirs) = Link::pair().unwrap();
        let (replica, pidfd) = FakeReplica::start(id.clone(), theirs, behaviour);
        let descriptors = self.token();
        let version = "1".to_owned();
        let attach =
            ProxyOrder::Attach { replica: id, version, descriptors, requests: self.requests, replicas: 1 };
        self.order(attach, vec![ours.into(), pidfd]);
        replica
    }

    /// Adds a deployment at `/NAME` to the next view.
    pub fn deployment(
        &mut self,
        name: &str,
        replicas: &[&FakeReplica],
        change: impl FnOnce(&mut DeploymentView),
    ) {
        let mut view = DeploymentView {
            name: DeploymentName::new(name).unwrap(),
            route_prefix: Some(RoutePrefix::new(format!("/{name}")).unwrap()),
            availability: Availability::Expected,
            replicas: replicas.iter().map(|replica| replica.id.clone()).collect(),
            silent: vec![],
            canary: None,
            max_ongoing_requests: 100,
            max_queued_requests: Some(1000),
            request_timeout: None,
            http: true,
            methods: vec![],
            encodings: 0,
            entry: Epoch::default(),
            set: None,
        };
        change(&mut view);
        self.view.retain(|other| other.name != view.name);
        self.view.push(view);
    }

    /// Sends the view and waits until all workers route by it. Gives the replicas that could not be reached.
    pub fn apply(&mut self) -> Vec<(ReplicaId, String)> {
        self.generation += 1;
        let generation = Generation(self.generation);
        self.order(ProxyOrder::View(RouteView { generation, deployments: self.view.clone() }), vec![]);
        loop {
            match self.report() {
                ProxyReport::Applied { generation: applied, unreachable } if applied == generation => {
                    return unreachable;
                }
                ProxyReport::Applied { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// One deployment with one replica that behaves so.
    pub fn serving(name: &str, behaviour: Behaviour) -> (Self, FakeReplica) {
        let mut rig = Self::new();
        let replica = rig.replica(name, 1, behaviour);
        rig.deployment(name, &[&replica], |_| {});
        assert_eq!(rig.apply(), []);
        (rig, replica)
    }

    pub fn client(&self) -> client::Client {
        client::Client::connect(self.address)
    }
}

/// A descriptor that becomes readable when its other end is dropped: stands in for a pidfd.
pub fn mortal() -> (OwnedFd, OwnedFd) {
    let (alive, pidfd) = Link::pair().unwrap();
    let _ = pidfd.as_fd();
    (alive.into(), pidfd.into())
}
