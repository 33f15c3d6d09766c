//! What children and clients say, write, and how they end.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use decurion_api::ReplicaId;
use decurion_ipc::adoption::Standing;
use decurion_ipc::board::BoardReader;
use decurion_ipc::control::{CallerReport, ProxyReport, ReplicaReport, StartFailure};
use decurion_ipc::link::{Link, LinkError};
use decurion_ipc::proxy_control::Received;
use decurion_ipc::stats::Traffic;
use mio::{Interest, Token};

use crate::logbook::NewLine;
use crate::reconcile::canary::Answers;
use crate::reconcile::{CallerId, Exit, Fact, ProxyInstance, Work};
use crate::sys::children::{ClientEnd, Post};
use crate::sys::clock;
use crate::sys::machine::{Machine, Source};
use crate::sys::sockets;

/// Messages taken from one link before others have their turn.
const MESSAGES_MAX: usize = 64;
/// Clients of the handle socket, at most.
const CLIENTS_MAX: usize = 1024;
/// Characters of a sentence that a replica gives as its reason.
const REASON_MAX: usize = 2_000;

impl Machine {
    pub(super) fn link_ready(&mut self, token: Token, id: &ReplicaId) {
        if let Some(child) = self.replicas.get_mut(id)
            && let Err(error) = child.post.flush()
            && !matches!(error, LinkError::Closed)
        {
            self.facts.push(lost_link(id, &error));
        }
        if self.take_reports(id) {
            self.again.push(token);
        }
    }

    /// Takes what a replica says. True: there may be more.
    fn take_reports(&mut self, id: &ReplicaId) -> bool {
        for _ in 0..MESSAGES_MAX {
            let Some(child) = self.replicas.get(id) else { return false };
            match child.post.link.try_recv::<ReplicaReport>() {
                Ok(Some((report, fds))) => self.replica_reported(id, report, fds),
                Ok(None) | Err(LinkError::WouldBlock) => return false,
                Err(error) => {
                    self.facts.push(lost_link(id, &error));
                    return false;
                }
            }
        }
        true
    }

    fn replica_reported(&mut self, id: &ReplicaId, report: ReplicaReport, fds: Vec<OwnedFd>) {
        let replica = id.clone();
        match report {
            ReplicaReport::Ready => {
                let board = fds.into_iter().next().map(BoardReader::open);
                if let Some(child) = self.replicas.get_mut(id) {
                    child.board = board.and_then(Result::ok);
                }
                self.facts.push(Fact::Ready { replica });
            }
            ReplicaReport::StartFailed(failure) => {
                let failure = match failure {
                    StartFailure::Library(why) => StartFailure::Library(shorten(why)),
                    StartFailure::Class(why) => StartFailure::Class(shorten(why)),
                    StartFailure::Constructor(why) => StartFailure::Constructor(shorten(why)),
                    StartFailure::UserConfig(why) => StartFailure::UserConfig(shorten(why)),
                };
                self.facts.push(Fact::StartFailed { replica, failure });
            }
            ReplicaReport::Reconfigured { sequence, result } => {
                let result = result.map_err(shorten);
                self.facts.push(Fact::Reconfigured { replica, sequence, result });
            }
            ReplicaReport::Health { sequence, result } => {
                self.facts.push(Fact::Health { replica, sequence, result: result.map_err(shorten) });
            }
            ReplicaReport::Alive { sequence, overdue_ms, oldest_ms, queued } => {
                let (overdue, oldest) = (Duration::from_millis(overdue_ms), Duration::from_millis(oldest_ms));
                let work = Work { overdue, oldest, queued };
                self.facts.push(Fact::Alive { replica, sequence, work });
            }
            ReplicaReport::Drained => self.facts.push(Fact::Drained { replica }),
            // The word of a replica does no harm to others: what callers are guilty of is shown to the operator.
            ReplicaReport::CallerFault { caller, fault } => {
                tracing::warn!("replica {id} has cut off {caller:?}: {fault}");
            }
            ReplicaReport::Log { level, target, request_id, message } => {
                let request = request_id.map(|id| format!(" request={id}")).unwrap_or_default();
                let text = format!("{} {target}: {message}{request}", level_name(level));
                self.write_line(id, "log", text);
            }
            ReplicaReport::Metrics(series) => {
                if let Some(child) = self.replicas.get_mut(id) {
                    child.measured.take(series);
                }
            }
            ReplicaReport::Caller(report) => self.caller_reported(CallerId::Replica(replica), report),
        }
    }

    fn caller_reported(&mut self, caller: CallerId, report: CallerReport) {
        match report {
            CallerReport::Resolve(deployment) => self.facts.push(Fact::Resolve { caller, deployment }),
            CallerReport::Rejoin(Standing { deployment, replicas }) => {
                self.facts.push(Fact::Rejoined { caller, deployment, replicas });
            }
            CallerReport::Applied { deployment, generation } => {
                self.facts.push(Fact::ViewApplied { caller, deployment: Some(deployment), generation });
            }
            CallerReport::Oldest(epoch) => self.facts.push(Fact::Oldest { caller, epoch }),
            CallerReport::Waiting { deployment, count } => {
                self.facts.push(Fact::Waiting { caller, deployment, count: u64::from(count) });
            }
            CallerReport::Fault { replica, fault } => {
                self.facts.push(Fact::CutOff { caller, replica, fault: shorten(fault) });
            }
            CallerReport::Lost { replica, why } => {
                self.facts.push(Fact::Unjoined { caller, replica, why: shorten(why) });
            }
        }
    }

    pub(super) fn replica_wrote(&mut self, token: Token, id: &ReplicaId, is_stderr: bool) {
        let Some(child) = self.replicas.get_mut(id) else { return };
        let mut lines = Vec::new();
        let pipe = if is_stderr { &mut child.stderr } else { &mut child.stdout };
        if pipe.read(|line| lines.push(line)) {
            self.again.push(token);
        }
        self.write_lines(id, is_stderr, lines);
    }

    pub(super) fn next_period_of_lines(&mut self) {
        let mut news = Vec::new();
        for (id, child) in &mut self.replicas {
            child.stdout.next_period(|line| news.push((id.clone(), false, line)));
            child.stderr.next_period(|line| news.push((id.clone(), true, line)));
        }
        for (id, is_stderr, line) in news {
            self.write_lines(&id, is_stderr, vec![line]);
        }
        for child in self.proxies.values_mut() {
            for pipe in [&mut child.stdout, &mut child.stderr] {
                pipe.next_period(|line| tracing::info!(target: "decurion::proxy", "{line}"));
            }
        }
    }

    fn write_lines(&mut self, id: &ReplicaId, is_stderr: bool, lines: Vec<String>) {
        for line in lines {
            if is_stderr && let Some(child) = self.replicas.get_mut(id) {
                child.remember(&line);
            }
            self.write_line(id, if is_stderr { "stderr" } else { "stdout" }, line);
        }
    }

    fn write_line(&self, id: &ReplicaId, stream: &'static str, text: String) {
        if let Some(child) = self.replicas.get(id) {
            let deployment = child.deployment.clone();
            self.journal.line(NewLine { deployment, replica: id.clone(), stream, text });
        }
    }

    /// A replica's process has ended: first what it said and wrote, then how.
    pub(super) fn replica_ended(&mut self, id: &ReplicaId) {
        let Some(mut exit) = self.replicas.get_mut(id).and_then(|child| child.process.reap()) else { return };
        const SIGKILL: i32 = 9;
        let by_us = self.core.observed().replicas.get(id).is_some_and(|replica| !replica.is_active());
        if exit == Exit::Signal(SIGKILL) && !by_us && self.oom.has_killed() {
            exit = Exit::OutOfMemory;
        }
        self.take_reports(id);
        for is_stderr in [false, true] {
            let Some(child) = self.replicas.get_mut(id) else { return };
            let pipe = if is_stderr { &mut child.stderr } else { &mut child.stdout };
            let mut lines = Vec::new();
            pipe.read_rest(|line| lines.push(line));
            self.write_lines(id, is_stderr, lines);
        }
        let Some(child) = self.replicas.remove(id) else { return };
        self.roster.forget_replica(id);
        self.forget(&child.tokens);
        // A link that was lost because the process ended is no news beside that.
        self.facts.retain(|fact| !matches!(fact, Fact::Lost { replica, .. } if replica == id));
        let last_words = child.last_words.into_iter().collect();
        self.facts.push(Fact::Exited { replica: id.clone(), exit, last_words });
    }

    pub(super) fn proxy_wrote(&mut self, token: Token, instance: ProxyInstance, is_stderr: bool) {
        let Some(child) = self.proxies.get_mut(&instance) else { return };
        let pipe = if is_stderr { &mut child.stderr } else { &mut child.stdout };
        if pipe.read(|line| tracing::info!(target: "decurion::proxy", "{line}")) {
            self.again.push(token);
        }
    }

    pub(super) fn proxy_ended(&mut self, instance: ProxyInstance) {
        let Some(child) = self.proxies.get_mut(&instance) else { return };
        let Some(exit) = child.process.reap() else { return };
        for pipe in [&mut child.stdout, &mut child.stderr] {
            pipe.read_rest(|line| tracing::info!(target: "decurion::proxy", "{line}"));
        }
        let tokens = std::mem::take(&mut child.tokens);
        self.forget(&tokens);
        self.proxies.remove(&instance);
        self.traffic.proxy_ended(instance);
        self.roster.forget_proxy(instance.0);
        self.facts.push(Fact::ProxyExited { instance, exit });
        // The core has yet to hear of this end.
        let others = self.core.observed().proxies.all.iter().filter(|(other, _)| **other != instance);
        let live: Vec<String> = others.map(|(_, proxy)| proxy.settings.listen.clone()).collect();
        let wanted = self.core.desired().http.listen.clone();
        self.listeners.retain(|address, _| *address == wanted || live.contains(address));
    }

    pub(super) fn proxy_reported(&mut self, instance: ProxyInstance, received: Received<ProxyReport>) {
        let report = match received {
            Received::Message(report) => report,
            Received::Malformed(why) => return tracing::warn!("the proxy sent no message: {why}"),
            // One that drains ends by itself. Any other is of no use without orders.
            Received::Closed => {
                let known = self.core.observed().proxies.all.get(&instance);
                if let Some(child) = self.proxies.get(&instance)
                    && known.is_some_and(|proxy| proxy.is_active())
                {
                    child.process.kill();
                }
                return;
            }
        };
        match report {
            ProxyReport::Started => self.facts.push(Fact::ProxyStarted { instance }),
            ProxyReport::Applied { generation, unreachable } => {
                let caller = CallerId::Proxy(instance);
                self.facts.push(Fact::ViewApplied { caller, deployment: None, generation });
                for (replica, why) in unreachable {
                    let how = format!("could not be reached by the proxy: {why}");
                    self.facts.push(Fact::Lost { replica, how });
                }
            }
            ProxyReport::Oldest(epoch) => {
                self.facts.push(Fact::Oldest { caller: CallerId::Proxy(instance), epoch });
            }
            ProxyReport::Fault { replica, fault } => self.facts.push(Fact::Fault { replica, fault }),
            ProxyReport::Log { level, message } => {
                tracing::info!(target: "decurion::proxy", "{} {message}", level_name(level));
            }
            ProxyReport::Stats(stats) => {
                for (deployment, count) in &stats.waiting {
                    let (caller, deployment) = (CallerId::Proxy(instance), deployment.clone());
                    self.facts.push(Fact::Waiting { caller, deployment, count: u64::from(*count) });
                }
                for (deployment, count) in &stats.in_flight {
                    let (caller, deployment) = (CallerId::Proxy(instance), deployment.clone());
                    self.facts.push(Fact::InFlight { caller, deployment, count: u64::from(*count) });
                }
                for Traffic { key, counts } in &stats.traffic {
                    let Some(deployment) = key.deployment.clone().filter(|_| !key.version.is_empty()) else {
                        continue;
                    };
                    let (version, answers) = (key.version.clone(), Box::new(Answers::from(counts)));
                    self.facts.push(Fact::Answered { deployment, version, answers });
                }
                self.traffic.take(instance, stats, clock::now().at);
            }
            ProxyReport::Configured { sequence } => {
                self.facts.push(Fact::ProxyConfigured { instance, sequence });
            }
            ProxyReport::Alive { sequence } => self.facts.push(Fact::ProxyAlive { instance, sequence }),
            ProxyReport::Drained => {}
        }
    }

    pub(super) fn take_clients(&mut self, token: Token) {
        for _ in 0..MESSAGES_MAX {
            match sockets::accept_handle(&self.handles) {
                Ok(Some(socket)) => self.take_client(socket),
                Ok(None) => return,
                Err(error) => return tracing::warn!("no client could be taken: {error}"),
            }
        }
        self.again.push(token);
    }

    fn take_client(&mut self, socket: OwnedFd) {
        let admitted =
            sockets::peer_of(socket.as_fd()).ok().filter(|(uid, gid, _)| self.guard.admits(*uid, *gid));
        let Some((_, _, pid)) = admitted.filter(|_| self.clients.len() < CLIENTS_MAX) else { return };
        let Ok(pidfd) = sockets::peer_pidfd(socket.as_fd()) else { return };
        self.last_client += 1;
        let client = self.last_client;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let Ok(token) = self.watch(socket.as_raw_fd(), interest, Source::Client(client)) else { return };
        let post = Post::new(Link::from_fd(socket));
        self.clients.insert(client, ClientEnd { pid, pidfd, post, token });
        self.facts.push(Fact::ClientJoined { client });
    }

    pub(super) fn client_ready(&mut self, token: Token, id: u64) {
        for _ in 0..MESSAGES_MAX {
            let Some(client) = self.clients.get_mut(&id) else { return };
            let received = client.post.flush().and_then(|()| client.post.link.try_recv::<CallerReport>());
            match received {
                Ok(Some((report, _))) => self.caller_reported(CallerId::Client(id), report),
                Ok(None) | Err(LinkError::WouldBlock) => return,
                Err(_) => return self.drop_client(id),
            }
        }
        self.again.push(token);
    }

    pub(super) fn drop_client(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            self.forget(&[client.token]);
            self.facts.push(Fact::ClientLeft { client: id });
        }
    }
}

pub(super) fn lost_link(id: &ReplicaId, error: &LinkError) -> Fact {
    Fact::Lost { replica: id.clone(), how: format!("lost its control link: {error}") }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(REASON_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn level_name(level: u32) -> &'static str {
    use decurion_abi::level::{DEBUG, ERROR, INFO, WARN};
    match level {
        ERROR => "ERROR",
        WARN => "WARN",
        INFO => "INFO",
        DEBUG => "DEBUG",
        _ => "TRACE",
    }
}
