//! One supervisor with everything around it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use decurion_api::status::{DeploymentStatus, SystemStatus};
use decurion_client::admin::Admin;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::command::{self, Output};
use crate::http::{Connection, Response};

/// Nothing that a test waits for takes so long.
const WATCHDOG: Duration = Duration::from_secs(180);
/// Lines of the log that a failed test shows.
const SHOWN_LINES: usize = 200;

/// See the module.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
    address: SocketAddr,
    /// Lines of the `[http]` table.
    http: String,
    supervisor: Option<Child>,
    arguments: Vec<String>,
    /// Folder of the command and the programs beside it.
    programs: PathBuf,
}

impl World {
    /// Starts a supervisor with nothing deployed, and waits until it answers.
    ///
    /// # Panics
    /// Where it does not start; shows what it said.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as("", &[])
    }

    /// The same, with these lines in the `[http]` table.
    ///
    /// # Panics
    /// Where it does not start; shows what it said.
    #[must_use]
    pub fn start_with(http: &str) -> Self {
        Self::start_as(http, &[])
    }

    /// The same, with further arguments for `decurion supervise` as well.
    ///
    /// # Panics
    /// Where it does not start; shows what it said.
    #[must_use]
    pub fn start_as(http: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("decurion-").tempdir().expect("a temporary folder");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut world = Self {
            folder,
            address: own_address(),
            http: http.to_owned(),
            supervisor: None,
            arguments,
            programs: command::target_dir(),
        };
        world.start_supervisor();
        world
    }

    /// The same with copies of the programs, which may be replaced while they run.
    ///
    /// # Panics
    /// Where they can't be copied, or it does not start.
    #[must_use]
    pub fn start_copied() -> Self {
        let folder = tempfile::Builder::new().prefix("decurion-").tempdir().expect("a temporary folder");
        let programs = folder.path().join("bin");
        fs::create_dir(&programs).expect("a folder");
        let (http, arguments) = (String::new(), Vec::new());
        let mut world = Self { folder, address: own_address(), http, supervisor: None, arguments, programs };
        world.install();
        world.start_supervisor();
        world
    }

    /// Puts new copies of the programs in the place of the old ones.
    ///
    /// # Panics
    /// Where they can't be copied.
    pub fn install(&self) {
        let names = ["decurion", "decurion-proxy", "decurion-replica-runner", "libdecurion_graph.so"];
        for name in names {
            self.place(&command::target_dir().join(name), name);
        }
    }

    /// Puts a copy of a file in the place of a program. Another process writes it: what this one writes is open for
    /// writing in whatever it starts at that moment in another thread, and can't be run as long as that has not begun.
    fn place(&self, file: &Path, name: &str) {
        let new = self.programs.join("new");
        let copied = Command::new("cp").args(["--preserve=mode"]).args([file, &new]).status();
        assert!(copied.expect("cp runs").success(), "{} can't be copied", file.display());
        fs::rename(&new, self.programs.join(name)).expect("a place");
    }

    /// Puts this in the place of the `decurion` command.
    ///
    /// # Panics
    /// Where it can't be written.
    pub fn install_command(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let text_file = self.programs.join("text");
        fs::write(&text_file, text).expect("write");
        fs::set_permissions(&text_file, fs::Permissions::from_mode(0o755)).expect("permissions");
        self.place(&text_file, "decurion");
    }

    /// Starts the supervisor (again), in the same folder.
    ///
    /// # Panics
    /// Where it does not start; shows what it said.
    pub fn start_supervisor(&mut self) {
        self.launch_supervisor();
        let watchdog = Instant::now() + WATCHDOG;
        while !self.admin().status().is_ok_and(|status| status.proxy.ready) {
            let ended = self.supervisor.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "the supervisor ended with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < watchdog, "the supervisor is not ready:\n{}", self.log());
            pause();
        }
    }

    /// Starts the supervisor (again), and does not wait for anything.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn launch_supervisor(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        let config = self.path().join("http.toml");
        fs::write(
            &config,
            format!("application = \"rig\"\n[http]\nlisten = \"{}\"\n{}\n", self.address, self.http),
        )
        .expect("write");
        let child = Command::new(self.programs.join("decurion"))
            .arg("--socket")
            .arg(self.socket())
            .arg("supervise")
            .arg("--state-dir")
            .arg(self.path().join("state"))
            .arg("--config")
            .arg(&config)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log)
            .spawn()
            .expect("the supervisor starts");
        self.supervisor = Some(child);
    }

    /// The folder of this world.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path().join("run/control.sock")
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the supervisor wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last of it, beside what a failed test says.
    #[expect(clippy::print_stderr, reason = "what a failed test shows")]
    fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.len().saturating_sub(SHOWN_LINES);
        eprintln!("the supervisor's log:\n{}", lines[last..].join("\n"));
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("supervisor.log")
    }

    /// The admin API.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.socket())
    }

    /// Process id of the supervisor.
    ///
    /// # Panics
    /// Where none runs.
    #[must_use]
    pub fn supervisor_pid(&self) -> Pid {
        let child = self.supervisor.as_ref().expect("a supervisor that runs");
        Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
    }

    /// Runs the `decurion` command against this supervisor.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        command::run_in(self.path(), &self.socket(), arguments)
    }

    /// Writes a configuration file and deploys it.
    ///
    /// # Panics
    /// Where the file can't be written.
    #[must_use]
    pub fn deploy(&self, config: &str) -> Output {
        fs::write(self.path().join("decurion.toml"), config).expect("write");
        self.run(&["deploy", "decurion.toml"])
    }

    /// The status, by the admin API.
    ///
    /// # Panics
    /// Where it does not answer.
    #[must_use]
    pub fn status(&self) -> SystemStatus {
        self.admin().status().unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// One deployment's status.
    ///
    /// # Panics
    /// Where there is none of this name.
    #[must_use]
    pub fn deployment(&self, name: &str) -> DeploymentStatus {
        let found = self.status().deployments.into_iter().find(|deployment| deployment.name.as_str() == name);
        found.unwrap_or_else(|| panic!("no deployment {name}"))
    }

    /// Process ids of a deployment's replicas, sorted.
    #[must_use]
    pub fn pids(&self, name: &str) -> Vec<i32> {
        let mut pids: Vec<i32> = self.deployment(name).replicas.iter().map(|replica| replica.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// Waits until the status is as `check` wants it: looks again at every event.
    ///
    /// # Panics
    /// Where it never comes to be; shows the last status and the log.
    pub fn until(&self, what: &str, check: impl Fn(&SystemStatus) -> bool) -> SystemStatus {
        let watchdog = Instant::now() + WATCHDOG;
        let events = self.events();
        loop {
            let status = self.status();
            if check(&status) {
                return status;
            }
            assert!(Instant::now() < watchdog, "never: {what}\n{status:#?}\n{}", self.log());
            // Counts and ages change without an event.
            match events.recv_timeout(Duration::from_millis(50)) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => pause(),
            }
        }
    }

    /// The same without following events, which takes the supervisor descriptors: for counting those.
    ///
    /// # Panics
    /// Where it never comes to be; shows the last status and the log.
    pub fn until_alone(&self, what: &str, check: impl Fn(&SystemStatus) -> Result<(), String>) {
        let watchdog = Instant::now() + WATCHDOG;
        loop {
            let Err(why) = check(&self.status()) else { return };
            assert!(Instant::now() < watchdog, "never: {what}: {why}\n{}", self.log());
            pause();
        }
    }

    fn events(&self) -> Receiver<()> {
        let (sender, events) = channel();
        let follow = self.admin().follow_events();
        std::thread::spawn(move || {
            for event in follow.into_iter().flatten() {
                if event.is_err() || sender.send(()).is_err() {
                    return;
                }
            }
        });
        events
    }

    /// A fresh connection.
    ///
    /// # Panics
    /// Where it is refused.
    #[must_use]
    pub fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap_or_else(|error| panic!("connect: {error}\n{}", self.log()))
    }

    /// GET on a fresh connection.
    ///
    /// # Panics
    /// Where there is no whole answer.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        self.connect().get(path).unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log()))
    }

    /// POST on a fresh connection.
    ///
    /// # Panics
    /// Where there is no whole answer.
    #[must_use]
    pub fn post(&self, path: &str, body: &[u8]) -> Response {
        self.connect().post(path, body).unwrap_or_else(|error| panic!("POST {path}: {error}\n{}", self.log()))
    }

    /// Every process of this world that still runs: the supervisor's children, by their parent or their folder.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let marker = self.path().to_string_lossy().into_owned();
        let entries = fs::read_dir("/proc").expect("/proc");
        let pids =
            entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
        let mine = |pid: &i32| {
            // A replica maps its library from this world's store; the proxy is a child of the supervisor.
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            maps.contains(&marker) || self.is_child(*pid)
        };
        pids.filter(mine).collect()
    }

    /// Processes that the supervisor, dead or alive, has noted as its children.
    #[must_use]
    pub fn roster(&self) -> Vec<i32> {
        let entries = fs::read_dir(self.path().join("state/children")).into_iter().flatten().flatten();
        let pages = entries.filter_map(|entry| fs::read(entry.path()).ok());
        let pages = pages.filter_map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        pages.filter_map(|page| i32::try_from(page["entry"]["pid"].as_i64()?).ok()).collect()
    }

    fn is_child(&self, pid: i32) -> bool {
        let Some(supervisor) = &self.supervisor else { return false };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.strip_prefix("PPid:").map(str::trim) == Some(&supervisor.id().to_string()))
    }

    /// Sends a signal to the supervisor and waits for its end; its exit code, -1 for a signal.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn end_supervisor(&mut self, signal: Signal) -> i32 {
        if self.supervisor.is_none() {
            return 0;
        }
        kill(self.supervisor_pid(), signal).expect("a child that was not waited for can be signalled");
        self.wait_for_end()
    }

    /// Waits for the end of a supervisor that was told to stop; its exit code, -1 for a signal.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn wait_for_end(&mut self) -> i32 {
        let Some(mut child) = self.supervisor.take() else { return 0 };
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let (sender, ended) = channel();
        let waiter = std::thread::spawn(move || sender.send(child.wait()));
        let status = ended.recv_timeout(WATCHDOG);
        if status.is_err() {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waiter.join();
            panic!("the supervisor does not end:\n{}", self.log());
        }
        status.ok().and_then(Result::ok).and_then(|status| status.code()).unwrap_or(-1)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.supervisor.is_some() && !std::thread::panicking() {
            self.end_supervisor(Signal::SIGTERM);
            return;
        }
        if std::thread::panicking() {
            self.show_log();
        }
        // A failed test, or a killed supervisor: whatever is left goes, by its own pid.
        let mut left = self.processes();
        left.extend(self.roster());
        if let Some(mut child) = self.supervisor.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Between two looks at what no event tells of: what is waited for needs the processor more than the look does.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(2));
}

/// Waits until something holds that no event tells of.
///
/// # Panics
/// Where it never comes to hold.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let watchdog = Instant::now() + WATCHDOG;
    while !holds() {
        assert!(Instant::now() < watchdog, "never: {what}");
        pause();
    }
}

/// Whether a process runs. One that has ended and waits for whoever inherited it to look does not; one of which a single
/// thread has yet to end does.
#[must_use]
pub fn is_running(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let runs = |stat: String| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    };
    tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok()).any(runs)
}

/// A loopback address that no other test has: 127.0.0.0/8 is all ours, so no port has to be guessed.
///
/// # Panics
/// Never: it is one of 250.
#[must_use]
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    let last = u8::try_from(number).expect("at most 250");
    SocketAddr::from(([127, high.max(1), low, last], 8000))
}
