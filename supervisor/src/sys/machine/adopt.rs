//! Taking over what a supervisor before us has left alive: before anything is planned or published, each child that
//! the roster names comes back, is found dead, or is given up.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use decurion_api::ReplicaId;
use decurion_ipc::adoption::{CONTROL_VERSION, ClaimedChild, ProxyClaim, ReplicaClaim, ReplicaStage};
use decurion_ipc::board::BoardReader;
use decurion_ipc::control::ReplicaOrder;
use decurion_ipc::link::Link;
use mio::{Interest, Token};
use serde_json::Value;

use crate::desired::ConfigId;
use crate::metrics::Measured;
use crate::reconcile::together::SetsRecord;
use crate::reconcile::{AdoptedProxy, AdoptedReplica, AdoptedStage, Counts, Exit, Fact, ProxyInstance, Why};
use crate::roster::{Child, Entry, ReplicaEntry};
use crate::sys::children::{Pipe, Post, ProxyChild, ReplicaChild};
use crate::sys::clock;
use crate::sys::hall::Arrival;
use crate::sys::machine::{Machine, Source};
use crate::sys::process::Process;

/// What children have for coming back. Those that are well take half a second.
const ADOPTION_MAX: Duration = Duration::from_secs(5);
/// Between two looks at those that are awaited.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// What the time between two looks counts for, at most.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// Replica numbers of one life, as long as nobody is left who knows a higher one.
const NUMBERS_A_LIFE: u32 = 1 << 12;

/// A child that may come back.
pub(crate) type Awaited = (Entry, Process);

/// The children of the roster: those that live, and those that have ended without a supervisor.
pub(crate) fn sort(left: Vec<Entry>) -> (Vec<Awaited>, Vec<Entry>) {
    let (mut alive, mut dead) = (Vec::new(), Vec::new());
    for entry in left {
        match Process::find(entry.pid, entry.ticks) {
            Some(process) => alive.push((entry, process)),
            None => dead.push(entry),
        }
    }
    (alive, dead)
}

/// Whether one of these may hold the listening socket.
pub(crate) fn has_proxy(alive: &[Awaited]) -> bool {
    alive.iter().any(|(entry, _)| matches!(entry.child, Child::Proxy(_)))
}

/// How long those that are awaited are still waited for. A machine that stands still, and we with it, takes nothing from
/// them: they may have come meanwhile.
#[derive(Debug)]
struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    /// Whether there is to be another look.
    fn lasts(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.looked);
        self.looked = now;
        self.left = self.left.saturating_sub(since.min(LOOK_MAX));
        !self.left.is_zero()
    }
}

impl Machine {
    /// Waits for those who live, and begins to observe them.
    pub(super) fn adopt(&mut self, life: u32, alive: Vec<Awaited>, mut dead: Vec<Entry>) {
        let numbers = alive.iter().map(|(entry, _)| entry).chain(&dead).map(number_of);
        let (replicas, proxies): (Vec<u32>, Vec<u32>) = numbers.unzip();
        let counts = Counts {
            life,
            replica: replicas.into_iter().fold((life - 1).wrapping_mul(NUMBERS_A_LIFE), u32::max),
            proxy: proxies.into_iter().max().unwrap_or(0),
        };
        self.core.resume(counts);
        let came = alive.len();
        let kept = match came {
            // Where nobody lives, nothing is to be told apart from what is started now.
            0 => SetsRecord { known: self.roster.sets().known, ..SetsRecord::default() },
            _ => self.roster.sets(),
        };
        self.core.handle(Fact::SetsKept(Box::new(kept)), clock::now());
        let mut alive: BTreeMap<i32, Awaited> =
            alive.into_iter().map(|(entry, process)| (entry.pid, (entry, process))).collect();
        let mut patience = Patience { left: ADOPTION_MAX, looked: clock::now().at };
        while !alive.is_empty() && patience.lasts(clock::now().at) {
            for arrival in self.hall.arrivals(LOOK_PERIOD, clock::now().at) {
                self.take_arrival(arrival, &mut alive);
            }
            for pid in alive.keys().copied().collect::<Vec<i32>>() {
                let exit = alive.get_mut(&pid).and_then(|(_, process)| process.reap());
                if let Some((exit, (entry, _))) = exit.zip(exit.and_then(|_| alive.remove(&pid))) {
                    self.found_dead(entry, exit);
                }
            }
        }
        for (entry, process) in std::mem::take(&mut alive).into_values() {
            tracing::error!("pid {} did not come back within {ADOPTION_MAX:?}: it is killed", entry.pid);
            process.kill();
            self.found_dead(entry, Exit::Signal(libc::SIGKILL));
        }
        for entry in dead.drain(..) {
            self.found_dead(entry, Exit::Unknown);
        }
        if came > 0 {
            let (replicas, proxies) = (self.replicas.len(), self.proxies.len());
            tracing::info!("adopted {replicas} replicas and {proxies} proxies of the supervisor before");
        }
    }

    /// Somebody has come. After the start nobody is awaited any more.
    pub(super) fn take_arrival(&mut self, arrival: Arrival, awaited: &mut BTreeMap<i32, Awaited>) {
        let protocol = arrival.claim.protocol;
        let Some((entry, process)) = awaited.remove(&arrival.pid) else {
            return arrival.refuse("it is not among the children that are awaited");
        };
        if protocol != CONTROL_VERSION {
            // It serves on as long as its callers are there, and then leaves: not ours any more.
            self.forget_entry(&entry);
            return arrival.refuse(&format!(
                "it speaks version {protocol} of the control protocol, not {CONTROL_VERSION}"
            ));
        }
        let process = process.adopted();
        let adopted = match (entry.child.clone(), arrival.claim.child.clone()) {
            (Child::Replica(held), ClaimedChild::Replica(claim)) if held.replica == claim.replica => {
                self.adopt_replica(&entry, *held, claim, process, arrival)
            }
            (Child::Proxy(number), ClaimedChild::Proxy(claim)) if claim.instance == number => {
                self.adopt_proxy(&entry, *claim, process, arrival)
            }
            _ => Err(io::Error::other("it claims to be somebody else")),
        };
        if let Err(error) = adopted {
            tracing::error!("pid {} can't be adopted, and is killed: {error}", entry.pid);
            self.found_dead(entry, Exit::Signal(libc::SIGKILL));
        }
    }

    fn adopt_replica(
        &mut self,
        entry: &Entry,
        held: ReplicaEntry,
        claim: ReplicaClaim,
        process: Process,
        arrival: Arrival,
    ) -> io::Result<()> {
        let (link, fds) = arrival.welcome().map_err(io::Error::other)?;
        let mut fds = fds.into_iter();
        let board = fds.next().map(BoardReader::open).and_then(Result::ok);
        let outputs = (fds.next(), fds.next());
        let id = held.replica.clone();
        let pipes = (Pipe::new(outputs.0)?, Pipe::new(outputs.1)?);
        let deployment = held.wanted.spec.name.clone();
        self.add_replica(&id, process, Post::new(link), pipes, deployment)?;
        if let Some(child) = self.replicas.get_mut(&id) {
            child.board = board;
        }
        let stage = match claim.stage {
            ReplicaStage::Starting => AdoptedStage::Starting,
            ReplicaStage::Serving => AdoptedStage::Serving,
            ReplicaStage::Draining => AdoptedStage::Draining(held.leaving.unwrap_or(Why::Update)),
        };
        let config = match &claim.user_config {
            _ if claim.stage == ReplicaStage::Starting => held.config,
            Some(text) => ConfigId::of(serde_json::from_str::<Value>(text).ok().as_ref()),
            None => ConfigId::of(None),
        };
        let adopted = AdoptedReplica {
            replica: id,
            wanted: held.wanted,
            template: held.template,
            version: held.version,
            place: held.place,
            restarts: held.restarts,
            pid: entry.pid,
            age: age_of(entry),
            config,
            reservation: held.reservation,
            stage,
        };
        self.core.handle(Fact::Adopted(Box::new(adopted)), clock::now());
        Ok(())
    }

    fn adopt_proxy(
        &mut self,
        entry: &Entry,
        claim: ProxyClaim,
        process: Process,
        arrival: Arrival,
    ) -> io::Result<()> {
        let (link, fds) = arrival.welcome().map_err(io::Error::other)?;
        if let Some(listener) = fds.into_iter().next() {
            self.listeners.insert(claim.settings.listen.clone(), listener.into());
        }
        let instance = ProxyInstance(claim.instance);
        let outdated = !process.runs(self.executables.proxy());
        self.add_proxy(instance, process, link, (Pipe::new(None)?, Pipe::new(None)?))?;
        let adopted = AdoptedProxy {
            instance,
            pid: entry.pid,
            age: age_of(entry),
            settings: claim.settings,
            listening: claim.listening,
            draining: claim.draining,
            routed: claim.routed.into_iter().collect(),
            attached: claim.attached.into_iter().collect(),
            outdated,
        };
        self.core.handle(Fact::ProxyAdopted(Box::new(adopted)), clock::now());
        Ok(())
    }

    /// A child has ended while nobody looked: it failed as if somebody had.
    fn found_dead(&mut self, entry: Entry, exit: Exit) {
        self.forget_entry(&entry);
        let age = age_of(&entry);
        let Child::Replica(held) = entry.child else {
            return tracing::error!("the proxy, pid {}, has not outlived its supervisor: {exit}", entry.pid);
        };
        let stage = held.leaving.map_or(AdoptedStage::Serving, AdoptedStage::Draining);
        let replica = held.replica.clone();
        let adopted = AdoptedReplica {
            replica: held.replica,
            wanted: held.wanted,
            template: held.template,
            version: held.version,
            place: held.place,
            restarts: held.restarts,
            pid: entry.pid,
            age,
            config: held.config,
            reservation: held.reservation,
            stage,
        };
        self.core.handle(Fact::Adopted(Box::new(adopted)), clock::now());
        self.core.handle(Fact::Exited { replica, exit, last_words: Vec::new() }, clock::now());
    }

    fn forget_entry(&mut self, entry: &Entry) {
        match &entry.child {
            Child::Replica(held) => self.roster.forget_replica(&held.replica),
            Child::Proxy(number) => self.roster.forget_proxy(*number),
        }
    }

    /// Begins to watch a replica's process.
    pub(super) fn add_replica(
        &mut self,
        id: &ReplicaId,
        process: Process,
        post: Post<ReplicaOrder>,
        (stdout, stderr): (Pipe, Pipe),
        deployment: decurion_api::DeploymentName,
    ) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let mut tokens: Vec<Token> = vec![
            self.watch(process.pidfd().as_raw_fd(), Interest::READABLE, Source::Pidfd(id.clone()))?,
            self.watch(post.link.as_raw_fd(), both, Source::Link(id.clone()))?,
        ];
        self.watch_pipe(&stdout, Source::Stdout(id.clone()), &mut tokens)?;
        self.watch_pipe(&stderr, Source::Stderr(id.clone()), &mut tokens)?;
        let last_words = VecDeque::new();
        let (board, measured) = (None, Measured::default());
        let child =
            ReplicaChild { process, deployment, post, board, measured, stdout, stderr, last_words, tokens };
        self.replicas.insert(id.clone(), child);
        Ok(())
    }

    /// Begins to watch a proxy's process, and opens its channel.
    pub(super) fn add_proxy(
        &mut self,
        instance: ProxyInstance,
        process: Process,
        link: Link,
        (stdout, stderr): (Pipe, Pipe),
    ) -> io::Result<()> {
        let mailbox = self.mailbox.clone();
        let orders = decurion_ipc::proxy_control::OrderSender::open(link, move |report| {
            // False: the loop has ended, and so will this channel.
            mailbox.post(crate::sys::mailbox::Message::Proxy(instance, report));
        })
        .map_err(io::Error::other)?;
        let pidfd = process.pidfd().as_raw_fd();
        let mut tokens = vec![self.watch(pidfd, Interest::READABLE, Source::ProxyPidfd(instance))?];
        self.watch_pipe(&stdout, Source::ProxyStdout(instance), &mut tokens)?;
        self.watch_pipe(&stderr, Source::ProxyStderr(instance), &mut tokens)?;
        let child = ProxyChild { process, orders, backlog: VecDeque::new(), stdout, stderr, tokens };
        self.proxies.insert(instance, child);
        Ok(())
    }

    /// The reading ends of what a child writes, for itself: while nobody else reads, it does.
    pub(super) fn copies(process: &Process) -> io::Result<Vec<OwnedFd>> {
        [&process.stdout, &process.stderr].into_iter().flatten().map(OwnedFd::try_clone).collect()
    }
}

fn age_of(entry: &Entry) -> Duration {
    Duration::from_millis(clock::unix_ms().saturating_sub(entry.started_ms))
}

/// The number of a replica, and that of a proxy.
fn number_of(entry: &Entry) -> (u32, u32) {
    match &entry.child {
        Child::Replica(held) => {
            let number = held.replica.as_str().rsplit_once('-').map(|(_, number)| number);
            (number.and_then(|number| u32::from_str_radix(number, 16).ok()).unwrap_or(0), 0)
        }
        Child::Proxy(number) => (0, *number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_looked_is_not_counted() {
        let mut now = clock::now().at;
        let mut patience = Patience { left: ADOPTION_MAX, looked: now };
        now += Duration::from_secs(3600);
        assert!(patience.lasts(now), "the machine stood still");
        let mut looks = 0;
        while patience.lasts(now) {
            now += LOOK_PERIOD;
            looks += 1;
        }
        assert_eq!(LOOK_PERIOD * looks, ADOPTION_MAX - LOOK_MAX);
    }
}
