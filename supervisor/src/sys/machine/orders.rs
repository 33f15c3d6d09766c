//! The core's orders, carried out.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use decurion_api::spec::{Amount, HttpSpec};
use decurion_api::{DeploymentName, ReplicaId};
use decurion_ipc::adoption::AdoptionSocket;
use decurion_ipc::control::{CallerKind, CallerOrder, FdToken, ProxyOrder, ReplicaOrder, TlsTexts};
use decurion_ipc::link::{Link, LinkError};
use mio::{Interest, Token};

use crate::reconcile::replica::Replica;
use crate::reconcile::{CallerId, Fact, Order, ProxyInstance, Spawn};
use crate::roster::{Child, Entry, ReplicaEntry};
use crate::sys::affinity::OwnCpus;
use crate::sys::artifacts::{LIBRARY_PATH, library_path};
use crate::sys::children::{Pipe, Post};
use crate::sys::clock;
use crate::sys::machine::reports::lost_link;
use crate::sys::machine::{Machine, Source};
use crate::sys::process::{Process, Program};

/// Of the settings that a proxy starts with: their acknowledgement is of no use, for its first view's comes after.
const FIRST_SETTINGS: u64 = 0;

impl Machine {
    pub(super) fn carry_out(&mut self, order: Order) {
        match order {
            Order::Spawn(spawn) => self.spawn(*spawn),
            Order::Reconfigure { replica, sequence, user_config, .. } => {
                self.tell_replica(&replica, ReplicaOrder::Reconfigure { sequence, user_config }, Vec::new());
            }
            Order::Limit { replica, limit } => {
                self.tell_replica(&replica, ReplicaOrder::Limit(limit), Vec::new());
            }
            Order::Probe { replica, sequence } => {
                self.tell_replica(&replica, ReplicaOrder::Probe { sequence }, Vec::new());
            }
            Order::CheckHealth { replica, sequence } => {
                self.tell_replica(&replica, ReplicaOrder::CheckHealth { sequence }, Vec::new());
            }
            Order::Drain { replica, grace } => {
                let why = self.core.observed().replicas.get(&replica).and_then(Replica::leaving_why).cloned();
                if let Some(why) = why {
                    self.roster.note_leaving(&replica, &why);
                }
                self.tell_replica(&replica, ReplicaOrder::Drain { grace }, Vec::new());
            }
            Order::Kill { replica, .. } => {
                if let Some(child) = self.replicas.get(&replica) {
                    child.process.kill();
                }
            }
            Order::Retire { .. } => {}
            Order::Attach { caller, replica, deployment } => self.attach(&caller, &replica, &deployment),
            Order::Detach { caller, replica, deployment } => self.detach(&caller, replica, deployment),
            Order::PublishRoutes { instance, view } => {
                self.tell_proxy(instance, ProxyOrder::View(view), Vec::new());
            }
            Order::PublishView { caller, deployment, generation, view, known } => {
                let order = CallerOrder::View { generation, view, deployment, known };
                self.tell_caller(&caller, order, Vec::new());
            }
            Order::SpawnProxy { instance, settings } => self.spawn_proxy(instance, settings),
            Order::ListenProxy { instance } => self.let_listen(instance),
            Order::ConfigureProxy { instance, settings, sequence } => {
                self.configure_proxy(instance, settings, sequence);
            }
            Order::ProbeProxy { instance, sequence } => {
                self.tell_proxy(instance, ProxyOrder::Probe { sequence }, Vec::new());
            }
            Order::DrainProxy { instance, timeout } => {
                let order = match self.core.observed().stopping {
                    Some(_) => ProxyOrder::Drain(timeout),
                    None => ProxyOrder::Retire(timeout),
                };
                self.tell_proxy(instance, order, Vec::new());
            }
            Order::KillProxy { instance } => {
                if let Some(child) = self.proxies.get(&instance) {
                    child.process.kill();
                }
            }
            Order::PutBack { deployment, revision, what, why } => {
                self.put_back(&deployment, revision, what, why);
            }
            Order::RememberSets(record) => self.roster.note_sets(&record),
            Order::Finished => {}
        }
    }

    fn spawn(&mut self, spawn: Spawn) {
        let replica = spawn.start.replica.clone();
        match self.start_replica(spawn) {
            Ok(pid) => self.facts.push(Fact::Spawned { replica, pid }),
            Err(error) => {
                self.roster.forget_replica(&replica);
                self.facts.push(Fact::SpawnFailed { replica, why: error.to_string() });
            }
        }
    }

    fn start_replica(&mut self, spawn: Spawn) -> io::Result<i32> {
        let mut start = spawn.start;
        start.library = self.artifacts.path_of(&start.library).display().to_string();
        let (id, deployment) = (start.replica.clone(), start.deployment.clone());
        let reservation = spawn.reservation;
        let threads = reservation.resources.cpus.map_or(u32::from(start.threads), Amount::ceil);
        let mut environment: BTreeMap<String, String> =
            [("OMP_NUM_THREADS".to_owned(), threads.to_string())].into();
        if let Some(gpus) = &reservation.gpus {
            environment.insert("CUDA_VISIBLE_DEVICES".to_owned(), gpus.join(","));
        }
        let env = spawn.runtime_env;
        let library_path = library_path(&env);
        environment.extend(env.env_vars);
        environment.extend(library_path.map(|path| (LIBRARY_PATH.to_owned(), path)));
        environment.insert("DECURION_DEPLOYMENT".to_owned(), deployment.to_string());
        environment.insert("DECURION_REPLICA".to_owned(), id.to_string());
        environment.insert("DECURION_VERSION".to_owned(), start.version.clone());
        let (mut process, link) = {
            let _own = OwnCpus::of_next_child(&reservation.cpu_ids);
            let folder = env.working_dir.as_deref().map(Path::new);
            self.executables.spawn(Program::Runner, id.as_str(), &environment, folder)?
        };
        self.note_replica(&id, &process);
        let mut post = Post::new(link);
        post.send(ReplicaOrder::Start(Box::new(start)), Vec::new()).map_err(io::Error::other)?;
        if let Some(socket) = self.adoption_socket() {
            let outputs = Self::copies(&process)?;
            post.send(ReplicaOrder::Await(socket), outputs).map_err(io::Error::other)?;
        }
        let pipes = pipes(&mut process)?;
        let pid = process.pid();
        self.add_replica(&id, process, post, pipes, deployment)?;
        Ok(pid)
    }

    /// Where children find a supervisor after this one; `None`: they are not to wait for any.
    fn adoption_socket(&self) -> Option<AdoptionSocket> {
        let patience = self.options.orphan_timeout;
        let path = self.hall.path().to_string_lossy().into_owned();
        (!patience.is_zero()).then_some(AdoptionSocket { path, patience })
    }

    fn note_replica(&mut self, id: &ReplicaId, process: &Process) {
        let observed = self.core.observed();
        let Some(replica) = observed.replicas.get(id) else { return };
        let Some(deployment) = observed.deployments.get(&replica.deployment) else { return };
        let entry = ReplicaEntry {
            replica: id.clone(),
            wanted: *deployment.wanted.alone(),
            template: replica.template.clone(),
            version: replica.version.clone(),
            place: replica.place,
            restarts: replica.restarts,
            config: replica.config.clone(),
            reservation: replica.reservation.clone(),
            leaving: None,
        };
        self.note_child(process, Child::Replica(Box::new(entry)));
    }

    fn note_child(&mut self, process: &Process, child: Child) {
        let Some(ticks) = process.ticks().filter(|_| self.adoption_socket().is_some()) else { return };
        self.roster.note(Entry { pid: process.pid(), ticks, started_ms: clock::unix_ms(), child });
    }

    fn spawn_proxy(&mut self, instance: ProxyInstance, settings: HttpSpec) {
        match self.start_proxy(instance, settings) {
            Ok(pid) => self.facts.push(Fact::ProxySpawned { instance, pid }),
            Err(error) => {
                self.roster.forget_proxy(instance.0);
                self.facts.push(Fact::ProxySpawnFailed { instance, why: error.to_string() });
            }
        }
    }

    fn start_proxy(&mut self, instance: ProxyInstance, settings: HttpSpec) -> io::Result<i32> {
        self.bind(&settings.listen)?;
        let label = instance.0.to_string();
        let (mut process, link) = self.executables.spawn(Program::Proxy, &label, &BTreeMap::new(), None)?;
        self.note_child(&process, Child::Proxy(instance.0));
        let pipes = pipes(&mut process)?;
        let pid = process.pid();
        self.add_proxy(instance, process, link, pipes)?;
        if let Some(socket) = self.adoption_socket() {
            self.tell_proxy(instance, ProxyOrder::Await { socket, instance: instance.0 }, Vec::new());
        }
        self.configure_proxy(instance, settings, FIRST_SETTINGS);
        Ok(pid)
    }

    fn configure_proxy(&mut self, instance: ProxyInstance, settings: HttpSpec, sequence: u64) {
        let order = ProxyOrder::Configure { sequence, settings: Box::new(settings), tls: self.tls.clone() };
        self.tell_proxy(instance, order, Vec::new());
    }

    /// Serves with these certificates from now on.
    pub(super) fn use_tls(&mut self, tls: Option<TlsTexts>) {
        if self.tls != tls {
            self.tls = tls;
            self.facts.push(Fact::CertificatesChanged);
        }
    }

    fn let_listen(&mut self, instance: ProxyInstance) {
        let Some(proxy) = self.core.observed().proxies.all.get(&instance) else { return };
        let listener = self.listeners.get(&proxy.settings.listen).map(std::net::TcpListener::try_clone);
        match listener {
            Some(Ok(listener)) => {
                let token = self.fd_token();
                self.tell_proxy(instance, ProxyOrder::Listen(token), vec![listener.into()]);
            }
            // Without it the proxy is of no use: the next one may have more luck.
            Some(Err(_)) | None => self.carry_out(Order::KillProxy { instance }),
        }
    }

    /// Has a listener for this address.
    pub(super) fn bind(&mut self, address: &str) -> io::Result<()> {
        if !self.listeners.contains_key(address) {
            self.listeners.insert(address.to_owned(), crate::sys::sockets::bind_http(address)?);
        }
        Ok(())
    }

    pub(super) fn watch_pipe(
        &mut self,
        pipe: &Pipe,
        source: Source,
        tokens: &mut Vec<Token>,
    ) -> io::Result<()> {
        if let Some(fd) = pipe.raw() {
            tokens.push(self.watch(fd, Interest::READABLE, source)?);
        }
        Ok(())
    }

    /// Joins a caller and a replica: each gets one end of a new socket, and news of the other's death.
    fn attach(&mut self, caller: &CallerId, replica: &ReplicaId, deployment: &DeploymentName) {
        if let Err(error) = self.try_attach(caller, replica, deployment) {
            tracing::warn!("{caller} and replica {replica} could not be joined: {error}");
            // The proxy finds that it can't reach the replica, and says so.
            if !matches!(caller, CallerId::Proxy(_)) {
                let (caller, replica, why) = (caller.clone(), replica.clone(), error.to_string());
                self.facts.push(Fact::Unjoined { caller, replica, why });
            }
        }
    }

    fn try_attach(
        &mut self,
        caller: &CallerId,
        replica: &ReplicaId,
        deployment: &DeploymentName,
    ) -> io::Result<()> {
        let (Some(child), Some((kind, caller_pidfd))) = (self.replicas.get(replica), self.identity(caller)?)
        else {
            return Ok(());
        };
        let replica_pidfd = child.process.pidfd().try_clone_to_owned()?;
        let observed = self.core.observed().replicas.get(replica);
        let version = observed.map(|observed| observed.version.clone()).unwrap_or_default();
        let (near, far) = Link::pair()?;
        self.tell_replica(replica, ReplicaOrder::Accept(kind), vec![far.into(), caller_pidfd]);
        let fds = vec![near.into(), replica_pidfd];
        let wanted = self.core.desired().deployments.get(deployment);
        let requests = wanted.map_or(1, |wanted| wanted.max_ongoing_requests());
        if let CallerId::Proxy(instance) = caller {
            let order = ProxyOrder::Attach {
                replica: replica.clone(),
                version,
                descriptors: self.fd_token(),
                requests,
                replicas: self.replicas_expected(),
            };
            self.tell_proxy(*instance, order, fds);
        } else {
            let order =
                CallerOrder::Attach { deployment: deployment.clone(), replica: replica.clone(), requests };
            self.tell_caller(caller, order, fds);
        }
        Ok(())
    }

    /// Replicas that there are, or will be by what is desired.
    fn replicas_expected(&self) -> u32 {
        let desired = self.core.desired().deployments.values();
        let wanted = desired.map(|wanted| wanted.spec.num_replicas).fold(0, u32::saturating_add);
        wanted.max(u32::try_from(self.replicas.len()).unwrap_or(u32::MAX))
    }

    fn identity(&self, caller: &CallerId) -> io::Result<Option<(CallerKind, OwnedFd)>> {
        let (kind, pidfd) = match caller {
            CallerId::Proxy(instance) => {
                (CallerKind::Proxy, self.proxies.get(instance).map(|proxy| proxy.process.pidfd()))
            }
            CallerId::Replica(id) => (
                CallerKind::Replica(id.clone()),
                self.replicas.get(id).map(|replica| replica.process.pidfd()),
            ),
            CallerId::Client(id) => {
                let client = self.clients.get(id);
                let pid = client.map_or(0, |client| client.pid);
                (CallerKind::Client { pid }, client.map(|client| client.pidfd.as_fd()))
            }
        };
        pidfd.map(|pidfd| Ok((kind, pidfd.try_clone_to_owned()?))).transpose()
    }

    fn detach(&mut self, caller: &CallerId, replica: ReplicaId, deployment: DeploymentName) {
        match caller {
            CallerId::Proxy(instance) => {
                self.tell_proxy(*instance, ProxyOrder::Detach(replica), Vec::new());
            }
            _ => self.tell_caller(caller, CallerOrder::Detach { deployment, replica }, Vec::new()),
        }
    }

    fn tell_replica(&mut self, id: &ReplicaId, order: ReplicaOrder, fds: Vec<OwnedFd>) {
        let Some(child) = self.replicas.get_mut(id) else { return };
        match child.post.send(order, fds) {
            // A link that is closed is told by its own event.
            Ok(()) | Err(LinkError::Closed) => {}
            Err(LinkError::WouldBlock) => self.facts.push(Fact::Deaf { replica: id.clone() }),
            Err(error) => {
                self.facts.push(lost_link(id, &error));
            }
        }
    }

    pub(super) fn tell_proxy(&mut self, instance: ProxyInstance, order: ProxyOrder, fds: Vec<OwnedFd>) {
        if let Some(child) = self.proxies.get_mut(&instance) {
            child.send(order, fds);
        }
    }

    fn tell_caller(&mut self, caller: &CallerId, order: CallerOrder, fds: Vec<OwnedFd>) {
        match caller {
            CallerId::Proxy(_) => {}
            CallerId::Replica(id) => self.tell_replica(id, ReplicaOrder::Caller(order), fds),
            CallerId::Client(id) => {
                let Some(client) = self.clients.get_mut(id) else { return };
                if let Err(error) = client.post.send(order, fds) {
                    tracing::info!("client with pid {} is cut off: {error}", client.pid);
                    self.drop_client(*id);
                }
            }
        }
    }

    fn fd_token(&mut self) -> FdToken {
        self.last_fd_token += 1;
        FdToken(self.last_fd_token)
    }
}

fn pipes(process: &mut Process) -> io::Result<(Pipe, Pipe)> {
    let stdout = Pipe::new(process.stdout.take())?;
    let stderr = Pipe::new(process.stderr.take())?;
    Ok((stdout, stderr))
}
