//! What the reconciler is told.

use std::fmt;
use std::time::Duration;

use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::control::{Generation, StartFailure};
use decurion_ipc::epoch::Epoch;

use crate::reconcile::adopt::{AdoptedProxy, AdoptedReplica};
use crate::reconcile::canary::Answers;
use crate::reconcile::together::SetsRecord;

/// One start of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyInstance(pub u32);

/// Somebody who sends requests to replicas, and is told of them by views.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallerId {
    /// A proxy, trusted to answer.
    Proxy(ProxyInstance),
    /// Handles inside a replica.
    Replica(ReplicaId),
    /// Handles in another process, by its connection.
    Client(u64),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// By the kernel, for want of memory.
    OutOfMemory,
    /// It was the child of another supervisor, and nobody has kept how it ended.
    Unknown,
}

/// What a replica's board says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// Moves while the replica's loop moves.
    pub heartbeat: u64,
    /// Requests in flight.
    pub ongoing: u64,
    /// Requests answered.
    pub processed: u64,
    /// Resident memory in bytes, where it matters; else 0.
    pub resident: u64,
}

/// What a replica says of its requests with a sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// For so long the deadline of the request has passed that is overdue most and still runs; zero: of none.
    pub overdue: Duration,
    /// For so long the request has been running that runs longest; zero: none does.
    pub oldest: Duration,
    /// Requests are there that were not taken.
    pub queued: bool,
}

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A replica's process is there.
    Spawned {
        /// Which.
        replica: ReplicaId,
        /// Its process id.
        pid: i32,
    },
    /// A replica's process could not be made.
    SpawnFailed {
        /// Which.
        replica: ReplicaId,
        /// The system's word.
        why: String,
    },
    /// A replica is constructed and configured.
    Ready {
        /// Which.
        replica: ReplicaId,
    },
    /// A replica did not become ready, and says so.
    StartFailed {
        /// Which.
        replica: ReplicaId,
        /// Why.
        failure: StartFailure,
    },
    /// A replica has taken or refused a `user_config`.
    Reconfigured {
        /// Which.
        replica: ReplicaId,
        /// Of the order.
        sequence: u64,
        /// The library's word.
        result: Result<(), String>,
    },
    /// A replica has answered a health check.
    Health {
        /// Which.
        replica: ReplicaId,
        /// Of the order.
        sequence: u64,
        /// The library's word.
        result: Result<(), String>,
    },
    /// A replica has answered a probe.
    Alive {
        /// Which.
        replica: ReplicaId,
        /// Of the order.
        sequence: u64,
        /// What it says of its requests.
        work: Work,
    },
    /// A replica has finished everything and exits.
    Drained {
        /// Which.
        replica: ReplicaId,
    },
    /// A replica's process has ended.
    Exited {
        /// Which.
        replica: ReplicaId,
        /// How.
        exit: Exit,
        /// The last lines that it wrote to stderr; a few.
        last_words: Vec<String>,
    },
    /// A replica can't be spoken with or reached any more, or speaks what is no word of ours.
    Lost {
        /// Which.
        replica: ReplicaId,
        /// What it did; follows "the replica".
        how: String,
    },
    /// A replica broke the data plane's rules, a trusted caller says.
    Fault {
        /// Which.
        replica: ReplicaId,
        /// What it did.
        fault: String,
    },
    /// A caller with handles has cut off a replica, for it broke the data plane's rules, as the caller says. Who says so is
    /// not trusted.
    CutOff {
        /// Who.
        caller: CallerId,
        /// Which.
        replica: ReplicaId,
        /// What it is said to have done.
        fault: String,
    },
    /// A caller with handles has no channel to a replica: it was cut off, or could not be joined. Who says so is not trusted.
    Unjoined {
        /// Who.
        caller: CallerId,
        /// With which.
        replica: ReplicaId,
        /// What came between.
        why: String,
    },
    /// What a replica's board says now.
    Board {
        /// Which.
        replica: ReplicaId,
        /// Copied from shared memory.
        board: Board,
    },
    /// A proxy's process is there.
    ProxySpawned {
        /// Which.
        instance: ProxyInstance,
        /// Its process id.
        pid: i32,
    },
    /// A proxy's process could not be made.
    ProxySpawnFailed {
        /// Which.
        instance: ProxyInstance,
        /// The system's word.
        why: String,
    },
    /// A proxy can take orders.
    ProxyStarted {
        /// Which.
        instance: ProxyInstance,
    },
    /// Every worker of a proxy goes by new settings.
    ProxyConfigured {
        /// Which.
        instance: ProxyInstance,
        /// Of the order.
        sequence: u64,
    },
    /// Certificates have been read that are others than before.
    CertificatesChanged,
    /// A proxy has answered a probe.
    ProxyAlive {
        /// Which.
        instance: ProxyInstance,
        /// Of the order.
        sequence: u64,
    },
    /// A proxy's process has ended.
    ProxyExited {
        /// Which.
        instance: ProxyInstance,
        /// How.
        exit: Exit,
    },
    /// A client with handles has connected.
    ClientJoined {
        /// Its connection.
        client: u64,
    },
    /// A client is gone.
    ClientLeft {
        /// Its connection.
        client: u64,
    },
    /// A caller wants to know of a deployment from now on.
    Resolve {
        /// Who.
        caller: CallerId,
        /// Which.
        deployment: DeploymentName,
    },
    /// Replicas of a version have answered.
    Answered {
        /// Of which deployment.
        deployment: DeploymentName,
        /// Which version.
        version: String,
        /// What, since the last of these.
        answers: Box<Answers>,
    },
    /// So many requests of a caller wait for a replica.
    Waiting {
        /// Who.
        caller: CallerId,
        /// For which deployment.
        deployment: DeploymentName,
        /// How many, in all of it.
        count: u64,
    },
    /// So many requests of a caller are with replicas.
    InFlight {
        /// Who.
        caller: CallerId,
        /// Of which deployment.
        deployment: DeploymentName,
        /// How many, in all of it.
        count: u64,
    },
    /// A caller that knew a deployment under the supervisor before us wants to know of it from now on.
    Rejoined {
        /// Who.
        caller: CallerId,
        /// Which.
        deployment: DeploymentName,
        /// Replicas that it is joined with, and its calls may go to.
        replicas: Vec<ReplicaId>,
    },
    /// A replica of the supervisor before us lives on.
    Adopted(Box<AdoptedReplica>),
    /// A proxy of the supervisor before us lives on.
    ProxyAdopted(Box<AdoptedProxy>),
    /// A caller sends new requests by this view only.
    ViewApplied {
        /// Who.
        caller: CallerId,
        /// Of which deployment; `None`: all, as the proxy.
        deployment: Option<DeploymentName>,
        /// Of the view.
        generation: Generation,
    },
    /// No request that entered at a caller and is under way is of an older epoch than this.
    Oldest {
        /// Who.
        caller: CallerId,
        /// The epoch.
        epoch: Epoch,
    },
    /// What the supervisor before us has kept of sets. Comes before those that it has left.
    SetsKept(Box<SetsRecord>),
    /// An order for a replica could not be sent: it does not read.
    Deaf {
        /// Which.
        replica: ReplicaId,
    },
    /// Stop everything.
    Stop {
        /// Without letting anything finish.
        at_once: bool,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::OutOfMemory => f.write_str("killed by the kernel's OOM killer"),
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Unknown => {
                f.write_str("ended; how is not known, for it was started by an earlier supervisor")
            }
            Exit::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

impl fmt::Display for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallerId::Proxy(_) => f.write_str("the proxy"),
            CallerId::Replica(replica) => write!(f, "replica {replica}"),
            CallerId::Client(client) => write!(f, "client {client}"),
        }
    }
}

/// The usual names on Linux; the numbers are the same on every architecture that we run on.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}
