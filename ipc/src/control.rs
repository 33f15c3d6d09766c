//! Control messages, one enum for each direction of each boundary. Rare, typed, small.
//!
//! ```text
//!   supervisor --ProxyOrder-->   proxy      over ipc-channel; descriptors over a SEQPACKET beside it
//!   supervisor <--ProxyReport--  proxy
//!   supervisor --ReplicaOrder--> replica    over its SEQPACKET link, descriptors in the same packet
//!   supervisor <--ReplicaReport- replica
//!   supervisor --CallerOrder-->  caller     a process with handles: inside the replica's link, or a client's
//!   supervisor <--CallerReport-- caller     own SEQPACKET on the handle socket
//! ```
//!
//! Views are levels, not edges: each is the whole truth of its generation, and the newest one wins. A caller
//! acknowledges a generation once it sends new requests by that view only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adoption::{AdoptionSocket, Standing};
use decurion_api::status::USER_CONFIG_REFUSED;
use decurion_api::{ApplicationName, ClassName, DeploymentName, ReplicaId, RoutePrefix};

use crate::epoch::{Epoch, SetView, Span};
use crate::metrics::Series;
use crate::stats::ProxyStats;

/// Counts up with each view of one supervisor's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// Names descriptors that travel beside an `ipc-channel` message: they are sent first, in one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FdToken(pub u64);

/// What callers know of one deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploymentView {
    /// Its name.
    pub name: DeploymentName,
    /// Where it is mounted; `None`: by handle only.
    pub route_prefix: Option<RoutePrefix>,
    /// Whether it can serve.
    pub availability: Availability,
    /// Replicas that may get new requests.
    pub replicas: Vec<ReplicaId>,
    /// Those of them that give no sign of life: they keep their channels, and get nothing new.
    pub silent: Vec<ReplicaId>,
    /// Those of them that run a version that is being tried, and get a share of the requests of their own.
    pub canary: Option<CanaryView>,
    /// Requests in flight per replica, at most.
    pub max_ongoing_requests: u32,
    /// Requests waiting in one caller, at most; `None`: unbounded.
    pub max_queued_requests: Option<u32>,
    /// The whole request, queueing included; zero: no limit; `None`: the caller's default.
    pub request_timeout: Option<Duration>,
    /// Whether its class answers HTTP.
    pub http: bool,
    /// Methods, with what is known of them.
    pub methods: Vec<MethodView>,
    /// Encodings that its methods take: bit `1 << n` for `decurion_abi::encoding` n.
    pub encodings: u32,
    /// What requests carry that enter by this view.
    pub entry: Epoch,
    /// Where it is one of a set that changes over as one.
    pub set: Option<SetView>,
}

impl DeploymentView {
    /// Replicas that get new requests.
    pub fn in_rotation(&self) -> impl Iterator<Item = &ReplicaId> {
        self.replicas.iter().filter(|id| !self.silent.contains(id))
    }

    /// Replicas that get new requests of this epoch.
    pub fn in_rotation_at(&self, epoch: Epoch) -> impl Iterator<Item = &ReplicaId> {
        let serves = move |place: usize| self.set.as_ref().is_none_or(|set| set.serves(place, epoch));
        let places = self.replicas.iter().enumerate();
        places.filter(move |(place, id)| serves(*place) && !self.silent.contains(id)).map(|(_, id)| id)
    }

    /// Whether every replica serves requests that enter now: nobody has to be told apart.
    #[must_use]
    pub fn is_of_one_version(&self) -> bool {
        self.set.as_ref().is_none_or(|set| set.spans.iter().all(|span| span.holds(self.entry)))
    }

    /// The requests that a replica serves.
    #[must_use]
    pub fn span(&self, replica: &ReplicaId) -> Span {
        let Some(set) = &self.set else { return Span::ALL };
        let place = self.replicas.iter().position(|id| id == replica);
        place.and_then(|place| set.spans.get(place)).copied().unwrap_or(Span::AWAITED)
    }

    /// Whether this view says which replicas serve a request of this epoch.
    #[must_use]
    pub fn knows(&self, epoch: Epoch) -> bool {
        self.set.as_ref().is_none_or(|set| epoch <= set.known)
    }

    /// Whether a request of this epoch waits in vain: its set has changed over, and who served it is gone.
    #[must_use]
    pub fn is_past(&self, epoch: Epoch) -> bool {
        self.set
            .as_ref()
            .is_some_and(|set| epoch < self.entry && !set.spans.iter().any(|span| span.holds(epoch)))
    }
}

/// Replicas of a version that is being tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryView {
    /// At least one; they stand among the deployment's.
    pub replicas: Vec<ReplicaId>,
    /// The share of requests that goes to them, in percent: 1 to 99.
    pub weight: u8,
}

impl CanaryView {
    /// Whether the request of this number, counted from 0, is theirs: of any hundred in a row, as many are as `weight`
    /// says, and evenly spread.
    #[must_use]
    pub fn draws(weight: u8, number: u64) -> bool {
        let (number, weight) = (number % 100, u64::from(weight.min(100)));
        (number + 1) * weight / 100 != number * weight / 100
    }
}

/// What callers know of one method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodView {
    /// Its name. Its place in the list is the ABI's `method_index`.
    pub name: String,
}

/// Whether a deployment can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    /// It has replicas, or some are on their way: requests wait where none is ready.
    Expected,
    /// It failed to deploy and nothing serves: requests are refused with this sentence.
    Failed(String),
}

/// Everything the proxy routes by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteView {
    /// Of this supervisor's life.
    pub generation: Generation,
    /// All deployments, also those without a route prefix.
    pub deployments: Vec<DeploymentView>,
}

/// The proxy's settings, as numbers it can use.
pub type ProxySettings = decurion_api::spec::HttpSpec;

/// What TLS on the HTTP port is made of, as PEM texts. They are read by the supervisor, travel to the proxy, and stand
/// nowhere else: not in the desired state, not in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsTexts {
    /// The certificate, and those up to an authority that clients know.
    pub cert: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// Who signs the certificates that clients must show; `None`: they are not asked.
    pub client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for TlsTexts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsTexts").field("client_ca", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// Supervisor to proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ProxyOrder {
    /// Serve this listening socket (1 descriptor). Sent once, after the first view was applied: a proxy that
    /// knows no routes yet lets the socket's backlog hold the connections.
    Listen(FdToken),
    /// Go by these, from the next connection on; acknowledged with [`ProxyReport::Configured`].
    Configure {
        /// Comes back in the answer.
        sequence: u64,
        /// All of them.
        settings: Box<ProxySettings>,
        /// What TLS is spoken with; `None`: plain HTTP. What can't serve leaves what served before.
        tls: Option<TlsTexts>,
    },
    /// Get to know a replica (2 descriptors: the attach socket, a pidfd). Comes before the view that names it.
    Attach {
        /// Which.
        replica: ReplicaId,
        /// What it runs, for the counts.
        version: String,
        /// Its descriptors.
        descriptors: FdToken,
        /// Requests in flight there, at most, as things are: its lanes are made for so many.
        requests: u32,
        /// Replicas that the proxy has, or is about to have: its lanes share a budget.
        replicas: u32,
    },
    /// Route by this view; acknowledged with [`ProxyReport::Applied`].
    View(RouteView),
    /// A replica is gone or about to be killed: let go of its channel. What it had is settled as after a death.
    Detach(ReplicaId),
    /// Take no new connections, finish what there is within this time, then exit.
    Drain(Duration),
    /// Open the files of logs anew: they were moved away.
    ReopenLogs,
    /// Tell at once what was counted, and how much there is to do; answered with [`ProxyReport::Stats`].
    Count,
    /// Another proxy takes new connections: answer what comes over those there are, with the word that it is the last
    /// answer; exit when they are gone, or after this time.
    Retire(Duration),
    /// If the supervisor dies, serve on, and find the next one there. Without this word: drain and exit at once.
    Await {
        /// Where.
        socket: AdoptionSocket,
        /// Which start of a proxy it is.
        instance: u32,
    },
    /// Give a sign of life, once every worker has turned after this came; answered with [`ProxyReport::Alive`].
    Probe {
        /// Comes back in the answer.
        sequence: u64,
    },
}

/// Proxy to supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ProxyReport {
    /// First word, before anything was received.
    Started,
    /// New requests go by this view only. Replicas that the view names and that can't be reached are listed.
    Applied {
        /// Of the view.
        generation: Generation,
        /// Replicas that could not be attached, with why.
        unreachable: Vec<(ReplicaId, String)>,
    },
    /// Every worker takes new connections by these settings only. Where others came after them, they alone are
    /// acknowledged.
    Configured {
        /// Of the order.
        sequence: u64,
    },
    /// No request that entered here and is under way is of an older epoch. Told with each view where there are sets, and
    /// when it has become true of a newer one.
    Oldest(Epoch),
    /// A replica broke the data plane's rules; it is treated as dead.
    Fault {
        /// Which.
        replica: ReplicaId,
        /// What it did.
        fault: String,
    },
    /// One log line of the proxy.
    Log {
        /// `decurion_abi::level`.
        level: u32,
        /// Text.
        message: String,
    },
    /// What was counted since the last of these. Once a second while there is something new, and at once where a
    /// request begins to wait for a deployment without replicas.
    Stats(ProxyStats),
    /// Drained; exits now.
    Drained,
    /// Every worker has turned since the probe came.
    Alive {
        /// Of the probe.
        sequence: u64,
    },
}

/// Why a replica did not become ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFailure {
    /// The library can't be loaded, or is not one for us.
    Library(String),
    /// The class is not in it.
    Class(String),
    /// `create` refused.
    Constructor(String),
    /// `reconfigure` refused the first `user_config`.
    UserConfig(String),
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartFailure::Library(why) | StartFailure::Class(why) | StartFailure::Constructor(why) => {
                f.write_str(why)
            }
            StartFailure::UserConfig(why) => write!(f, "{USER_CONFIG_REFUSED}: {why}"),
        }
    }
}

/// Everything a replica starts with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStart {
    /// Who it is.
    pub replica: ReplicaId,
    /// Of which deployment.
    pub deployment: DeploymentName,
    /// Of which application.
    pub application: ApplicationName,
    /// Of which version.
    pub version: String,
    /// Path of the library in the store.
    pub library: String,
    /// Class to make.
    pub class: ClassName,
    /// Constructor arguments as JSON; `"@name"` strings stand as they are.
    pub args: String,
    /// First `user_config` as JSON.
    pub user_config: Option<String>,
    /// Handler threads.
    pub threads: u16,
    /// Requests in flight, at most.
    pub max_ongoing_requests: u32,
    /// 0-based place.
    pub rank: u32,
    /// Replicas wanted.
    pub world_size: u32,
}

/// Who is at the other end of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallerKind {
    /// The proxy: trusted with an eventfd.
    Proxy,
    /// A handle in another replica.
    Replica(ReplicaId),
    /// A handle in a process of a user with access to the handle socket.
    Client {
        /// Its process id.
        pid: i32,
    },
}

impl std::fmt::Display for CallerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallerKind::Proxy => write!(f, "the proxy"),
            CallerKind::Replica(id) => write!(f, "replica {id}"),
            CallerKind::Client { pid } => write!(f, "the client with pid {pid}"),
        }
    }
}

/// Supervisor to replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReplicaOrder {
    /// Load and construct. First, once; answered with `Ready` or `StartFailed`.
    Start(Box<ReplicaStart>),
    /// A caller wants a channel (2 descriptors: the attach socket, the caller's pidfd).
    Accept(CallerKind),
    /// Take this configuration; answered with `Reconfigured`.
    Reconfigure {
        /// Of the configuration; comes back in the answer.
        sequence: u64,
        /// JSON.
        user_config: String,
    },
    /// Requests in flight, at most, from now on.
    Limit(u32),
    /// Run `check_health`; answered with `Health`.
    CheckHealth {
        /// Comes back in the answer.
        sequence: u64,
    },
    /// No caller sends new requests any more: finish those there are, destroy the instance, exit 0.
    Drain {
        /// What is not finished by then is killed.
        grace: Duration,
    },
    /// For the handles inside.
    Caller(CallerOrder),
    /// Give a sign of life, by the thread that reads this; answered with `Alive`.
    Probe {
        /// Comes back in the answer.
        sequence: u64,
    },
    /// If the supervisor dies, serve on, and find the next one there (2 descriptors: the reading ends of standard
    /// output and standard error, so that what is written meanwhile finds a reader). Without this word: drain and
    /// exit at once.
    Await(AdoptionSocket),
}

/// Replica to supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReplicaReport {
    /// Constructed and configured; may get requests. 1 descriptor: its board.
    Ready,
    /// Did not become ready; exits now.
    StartFailed(StartFailure),
    /// Answer to `Reconfigure`: on an error nothing has changed.
    Reconfigured {
        /// Of the order.
        sequence: u64,
        /// The library's message.
        result: Result<(), String>,
    },
    /// Answer to `CheckHealth`.
    Health {
        /// Of the order.
        sequence: u64,
        /// The library's message.
        result: Result<(), String>,
    },
    /// A caller broke the data plane's rules and was cut off.
    CallerFault {
        /// Who.
        caller: CallerKind,
        /// What it did.
        fault: String,
    },
    /// A log line through the ABI.
    Log {
        /// `decurion_abi::level`.
        level: u32,
        /// Where in the library.
        target: String,
        /// Request id, if one was running.
        request_id: Option<String>,
        /// Text.
        message: String,
    },
    /// Everything is finished, the instance is destroyed.
    Drained,
    /// From the handles inside.
    Caller(CallerReport),
    /// Answer to `Probe`.
    Alive {
        /// Of the order.
        sequence: u64,
        /// For so long the deadline of the request has passed that is overdue most and still runs; 0: of none.
        overdue_ms: u64,
        /// For so long the request has been running that runs longest; 0: none does.
        oldest_ms: u64,
        /// Requests are there that were not taken.
        queued: bool,
    },
    /// What the library has measured, as it stands: some of the series, or all.
    Metrics(Vec<Series>),
}

/// Supervisor to a process with handles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CallerOrder {
    /// Get to know a replica (2 descriptors: the attach socket, a pidfd). Comes before the view that names it.
    Attach {
        /// Of which deployment.
        deployment: DeploymentName,
        /// Which.
        replica: ReplicaId,
        /// Requests in flight there, at most, as things are: the lane is made for so many.
        requests: u32,
    },
    /// The newest truth of a deployment it has asked for; acknowledged with `Applied`.
    View {
        /// Of this supervisor's life.
        generation: Generation,
        /// `None`: there is no such deployment (any more).
        view: Option<Box<DeploymentView>>,
        /// Which.
        deployment: DeploymentName,
        /// Where there is none: the names that exist.
        known: Vec<DeploymentName>,
    },
    /// A replica is gone or about to be killed.
    Detach {
        /// Of which deployment.
        deployment: DeploymentName,
        /// Which.
        replica: ReplicaId,
    },
}

/// A process with handles to the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CallerReport {
    /// Wants to know, now and from now on, about a deployment. Answered with its view.
    Resolve(DeploymentName),
    /// Requests wait for a deployment that has no replica, or none do any more. Told when the one or the other begins.
    Waiting {
        /// Which.
        deployment: DeploymentName,
        /// How many.
        count: u32,
    },
    /// New requests go by this view only.
    Applied {
        /// Which.
        deployment: DeploymentName,
        /// Of the view.
        generation: Generation,
    },
    /// No request that entered here and is under way is of an older epoch. Told with each view where there are sets, and
    /// when it has become true of a newer one.
    Oldest(Epoch),
    /// A replica broke the data plane's rules; it is treated as dead.
    Fault {
        /// Which.
        replica: ReplicaId,
        /// What it did.
        fault: String,
    },
    /// There is no channel to a replica that was joined, or was to be: it is not known to be dead, and no fault of its is
    /// known either.
    Lost {
        /// Which.
        replica: ReplicaId,
        /// What came between.
        why: String,
    },
    /// Wants to know about a deployment as with `Resolve`, and has known it under another supervisor.
    Rejoin(Standing),
}
