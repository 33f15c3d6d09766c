//! The admin API's thread: one runtime on the control socket, and what its handlers may touch.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Bytes;
use axum::serve::Listener;
use decurion_api::DeploymentName;
use decurion_api::admin::problem;
use decurion_api::spec::{DeploymentSpec, LibraryRef, RuntimeEnvSpec};
use decurion_client::{CallFailed, Client};
use decurion_library::LibraryFacts;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle as Task;

use crate::admin::{Answer, Ask, AskError, routes};
use crate::change::Libraries;
use crate::desired::Desired;
use crate::metrics::Snapshot;
use crate::sys::artifacts::{ArtifactError, Artifacts};
use crate::sys::journal::Journal;
use crate::sys::machine::is_live;
use crate::sys::mailbox::Mailbox;
use crate::sys::sockets::Guard;

/// What the handlers may touch.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    mailbox: Mailbox,
    artifacts: Artifacts,
    journal: Journal,
    handles: PathBuf,
}

/// A library on its way in, written by a thread that may wait for the disk.
pub(crate) struct Upload {
    pieces: mpsc::Sender<Bytes>,
    task: Task<Result<Uploaded, ArtifactError>>,
}

/// A library that is in the store.
pub(crate) struct Uploaded {
    pub(crate) digest: String,
    pub(crate) facts: LibraryFacts,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Connections open at a time.
const CONNECTIONS_MAX: usize = 256;
/// Connections of those who collect metrics over TCP, open at a time.
const COLLECTORS_MAX: usize = 16;
/// Threads for what waits: the disk, calls through handles.
const BLOCKING_MAX: usize = 32;
/// Pieces of an upload that wait for the disk.
const PIECES_MAX: usize = 8;
/// Rounds in which every answer that there is by the end is written: a connection needs one.
const LAST_ROUNDS: usize = 16;
/// After a failure to take a connection, such as no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Answers on the socket from now on.
    pub(crate) fn start(
        listener: StdListener,
        metrics: Option<std::net::TcpListener>,
        guard: Guard,
        api: Api,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_MAX)
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            runtime.block_on(async move {
                let listener = match UnixListener::from_std(listener) {
                    Ok(listener) => {
                        Guarded { listener, guard, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
                    }
                    Err(error) => return tracing::error!("the control socket can't be served: {error}"),
                };
                if let Some(metrics) = metrics {
                    serve_metrics(metrics, api.clone());
                }
                let served = axum::serve(listener, routes::router(api)).into_future();
                tokio::select! {
                    _ = served => {}
                    _ = stopped => {}
                }
                // Who asked for the end, and was told so by a loop that has ended since, is to hear it.
                for _ in 0..LAST_ROUNDS {
                    tokio::task::yield_now().await;
                }
            });
            // Followers and calls under way do not hold up the end.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    /// Ends it, and waits for that.
    pub(crate) fn stop(self) {
        // An error means that it has ended.
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

impl Api {
    pub(crate) fn new(mailbox: Mailbox, artifacts: Artifacts, journal: Journal, handles: PathBuf) -> Self {
        Self { mailbox, artifacts, journal, handles }
    }

    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        self.mailbox.ask(ask).await
    }

    /// Writes metrics, beside the thread that answers others.
    pub(crate) async fn render(&self, snapshot: Snapshot) -> String {
        waiting(move || snapshot.render()).await
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The libraries that some deployments refer to, taken into the store where they are paths.
    pub(crate) async fn libraries(
        &self,
        desired: &Desired,
        specs: &[DeploymentSpec],
    ) -> Result<Libraries, ArtifactError> {
        let (artifacts, specs) = (self.artifacts.clone(), specs.to_vec());
        let live: Vec<DeploymentName> =
            specs.iter().filter(|spec| is_live(desired, spec)).map(|spec| spec.name.clone()).collect();
        waiting(move || artifacts.resolve_all(&specs, |spec| live.contains(&spec.name))).await
    }

    /// Looks at a library: a path, or `sha256:` and the digest of one in the store.
    pub(crate) async fn check(&self, library: String) -> Result<Uploaded, ArtifactError> {
        let artifacts = self.artifacts.clone();
        let library = match library.strip_prefix("sha256:") {
            Some(digest) => LibraryRef::Digest(digest.to_owned()),
            None => LibraryRef::Path(library),
        };
        let check = move || {
            let (digest, facts) = artifacts.resolve(&library)?;
            artifacts.check_host(&facts, &RuntimeEnvSpec::default())?;
            Ok(Uploaded { digest, facts })
        };
        waiting(check).await
    }

    /// Begins to take a library in.
    pub(crate) fn upload(&self) -> Upload {
        let (pieces, mut arriving) = mpsc::channel::<Bytes>(PIECES_MAX);
        let artifacts = self.artifacts.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut incoming = artifacts.begin()?;
            while let Some(bytes) = arriving.blocking_recv() {
                incoming.write(&bytes)?;
            }
            incoming.finish().map(|(digest, facts)| Uploaded { digest, facts })
        });
        Upload { pieces, task }
    }

    /// Calls a method through a handle of our own. An error: the problem's type and detail.
    pub(crate) async fn call(
        &self,
        name: DeploymentName,
        method: String,
        arguments: Value,
        timeout: Option<Duration>,
    ) -> Result<Value, (&'static str, String)> {
        let socket = self.handles.clone();
        let call = move || {
            let client = Client::connect_to(&socket)?;
            let mut handle = client.deployment(name.as_str())?.handle();
            if let Some(timeout) = timeout {
                handle = handle.with_timeout(timeout);
            }
            handle.call_json(&method, &arguments)
        };
        let called = waiting(call).await;
        called.map_err(|error| (kind_of(&error), error.to_string()))
    }
}

impl Upload {
    /// Hands on some bytes. False: they are not wanted any more, and [`finish`](Self::finish) tells why.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> bool {
        self.pieces.send(bytes).await.is_ok()
    }

    /// Checks the whole, and keeps it.
    pub(crate) async fn finish(self) -> Result<Uploaded, ArtifactError> {
        drop(self.pieces);
        self.task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// Answers whoever collects metrics over TCP; nothing else is to be had there.
fn serve_metrics(listener: std::net::TcpListener, api: Api) {
    let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    match listener {
        Ok(listener) => {
            let listener = Open { listener, room: Arc::new(Semaphore::new(COLLECTORS_MAX)) };
            tokio::spawn(axum::serve(listener, routes::metrics_router(api)).into_future());
        }
        Err(error) => tracing::error!("metrics can't be served over TCP: {error}"),
    }
}

/// Runs what waits on a thread of its own.
async fn waiting<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(run).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn kind_of(error: &CallFailed) -> &'static str {
    use decurion_ipc::caller::CallError;
    match error {
        CallFailed::Callee { status: 404, .. } => problem::NOT_FOUND,
        CallFailed::Callee { status: 422, .. } => problem::REFUSED,
        CallFailed::Callee { .. } | CallFailed::Result(_) => problem::CALL_FAILED,
        CallFailed::NoAnswer { .. } | CallFailed::Call(CallError::Deadline) => problem::DEADLINE,
        CallFailed::Arguments(_) | CallFailed::Value(_) => problem::REFUSED,
        _ => problem::UNAVAILABLE,
    }
}

/// The control socket, which lets in whom it may, and no more than there is room for.
struct Guarded {
    listener: UnixListener,
    guard: Guard,
    room: Arc<Semaphore>,
}

/// One connection, with its place.
struct Connection<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
}

impl Listener for Guarded {
    type Io = Connection<UnixStream>;
    type Addr = ();

    async fn accept(&mut self) -> (Connection<UnixStream>, ()) {
        loop {
            let Ok(place) = Arc::clone(&self.room).acquire_owned().await else {
                // Nobody closes the semaphore.
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let admitted =
                        stream.peer_cred().is_ok_and(|peer| self.guard.admits(peer.uid(), peer.gid()));
                    if admitted {
                        return (Connection { stream, _place: place }, ());
                    }
                    tracing::warn!("a user who may not use the control socket was turned away");
                }
                Err(error) => {
                    tracing::warn!("no connection could be taken on the control socket: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An address that everybody may connect to, as long as there is room.
struct Open {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Open {
    type Io = Connection<TcpStream>;
    type Addr = ();

    async fn accept(&mut self) -> (Connection<TcpStream>, ()) {
        loop {
            let Ok(place) = Arc::clone(&self.room).acquire_owned().await else {
                // Nobody closes the semaphore.
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => return (Connection { stream, _place: place }, ()),
                Err(error) => {
                    tracing::warn!("no connection could be taken for metrics: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
