//! Starting servers, ours and others, and ending them; what their processes use.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::wrk::wrk;

/// A server that is ours to start and to end.
#[derive(Debug)]
pub struct Server {
    processes: Vec<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // TERM, so that it ends its own children.
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
    }
}

impl Server {
    /// These processes.
    #[must_use]
    pub fn of(processes: Vec<Child>) -> Self {
        Self { processes }
    }

    /// `decurion` with these arguments.
    ///
    /// # Errors
    /// It can't be started.
    pub fn decurion<S: AsRef<std::ffi::OsStr>>(
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self, String> {
        let mut command = Command::new(binaries()?.join("decurion"));
        Ok(Self::of(vec![spawn(command.args(arguments))?]))
    }

    /// `decurion run` with a configuration file of this text.
    ///
    /// # Errors
    /// It can't be started.
    pub fn configured(folder: &Folder, name: &str, text: &str) -> Result<Self, String> {
        let file = folder.write(&format!("{name}.toml"), text)?;
        Self::decurion([Path::new("run"), &file])
    }

    /// Its processes and all their descendants.
    #[must_use]
    pub fn tree(&self) -> Vec<u32> {
        let mut parents: BTreeMap<u32, u32> = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after = stat.rsplit(')').next().unwrap_or_default();
            if let Some(parent) = after.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()) {
                parents.insert(pid, parent);
            }
        }
        let mut found: Vec<u32> = self.processes.iter().map(Child::id).collect();
        let mut next = 0;
        while next < found.len() {
            let parent = found[next];
            found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        found
    }
}

/// A folder of this run alone, which goes with it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    /// Makes it.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("decurion-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it: where that is.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(|error| format!("can't write {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Starts nginx, one worker, with this in its `http` block.
    ///
    /// # Errors
    /// It can't be started.
    pub fn nginx(&self, name: &str, blocks: &str) -> Result<Child, String> {
        let text = format!(
            "worker_processes 1; worker_rlimit_nofile 20000; daemon off; pid {0}/{name}.pid; error_log /dev/null;\n\
             events {{ worker_connections 16384; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_max_body_size 0;\n\
             client_body_temp_path {0}/b; proxy_temp_path {0}/p;\n\
             fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n{blocks}\n}}\n",
            self.0.display()
        );
        let path = self.write(&format!("{name}.conf"), text)?;
        spawn(Command::new("nginx").arg("-c").arg(&path))
    }

    /// Starts nginx in front of another one, which has this in its `server` block, over a Unix socket. `listen` and
    /// `proxy` are what the one in front has beside `proxy_pass`.
    ///
    /// # Errors
    /// One of them can't be started.
    pub fn nginx_proxy(&self, listen: &str, proxy: &str, upstream: &str) -> Result<Server, String> {
        let (upstream, socket) = self.upstream(upstream)?;
        let block = format!(
            "upstream u {{ server unix:{socket}; keepalive 64; keepalive_requests 1000000000; }}\n\
             server {{ listen {listen}; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; {proxy} }} }}"
        );
        Ok(Server::of(vec![upstream, self.nginx("proxy", &block)?]))
    }

    /// Starts nginx on a Unix socket: it, and the socket's path.
    ///
    /// # Errors
    /// It can't be started.
    pub fn upstream(&self, block: &str) -> Result<(Child, String), String> {
        let socket = self.0.join("upstream.sock");
        let _ = fs::remove_file(&socket);
        let socket = socket.display().to_string();
        let server = self.nginx("upstream", &format!("server {{ listen unix:{socket}; {block} }}"))?;
        Ok((server, socket))
    }
}

/// Starts a process that says nothing.
///
/// # Errors
/// It can't be started.
pub fn spawn(command: &mut Command) -> Result<Child, String> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    spawned.map_err(|error| format!("can't start {}: {error}", command.get_program().display()))
}

/// Whether a program is installed.
#[must_use]
pub fn has(program: &str) -> bool {
    Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Folder of this bench's own binary, where the release build put the others.
///
/// # Errors
/// It is not known.
pub fn binaries() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    own.parent().map(Path::to_path_buf).ok_or_else(|| "no folder of binaries".to_owned())
}

/// Retries by the clock of wrk itself: each attempt takes a second at most.
///
/// # Errors
/// It never answers.
pub fn wait_until_up(folder: &Folder, url: &str) -> Result<(), String> {
    let address = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    for _ in 0..10_000 {
        if std::net::TcpStream::connect(address).is_ok()
            && wrk(folder, url, "", 1, 1).is_ok_and(|it| it.errors == 0)
        {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Err(format!("{url} does not answer"))
}

/// User and system time of these processes, in clock ticks (proc(5), fields 14 and 15).
#[must_use]
pub fn cpu_ticks(pids: &[u32]) -> u64 {
    let ticks = |pid: &u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(')').next().unwrap_or_default().to_owned();
        after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
    };
    pids.iter().map(ticks).sum()
}

/// A number of KiB in `/proc/PID/status`, as `VmRSS`.
#[must_use]
pub fn status_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
