//! Child processes: how they are started, watched, killed and reaped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use decurion_ipc::link::Link;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::reconcile::Exit;

/// The programs that children run, open since our own start: what is started always fits us, also while the files on
/// disk are being replaced.
#[derive(Debug)]
pub(crate) struct Executables {
    proxy: File,
    runner: File,
    graph: PathBuf,
}

/// The library that runs graphs, beside the programs.
const GRAPH_LIBRARY: &str = "libdecurion_graph.so";

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Proxy,
    Runner,
}

/// A process of ours, started by this supervisor or by one before it, that runs, or has ended and is to be reaped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    pidfd: OwnedFd,
    ended: bool,
    /// It is ours to end with us. One of a supervisor before us is not until it is adopted.
    ours: bool,
    /// Reading ends of what it writes.
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Variables of our own environment that children get. All else, `LD_*` and secrets first, stays here.
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "RUST_BACKTRACE"];

impl Executables {
    /// Finds both beside our own executable, in `../libexec/decurion`, or in the folder given.
    pub(crate) fn open(folder: Option<&Path>) -> io::Result<Self> {
        let folders: Vec<PathBuf> = match folder {
            Some(folder) => vec![folder.to_owned()],
            None => {
                let own = std::env::current_exe()?;
                let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
                let libexec = beside.join("../libexec/decurion");
                vec![beside, libexec]
            }
        };
        let find = |name: &str| {
            folders.iter().find_map(|folder| File::open(folder.join(name)).ok()).ok_or_else(|| {
                let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
                io::Error::new(io::ErrorKind::NotFound, format!("{name} is not in {}", places.join(" or ")))
            })
        };
        // Missed only by whoever deploys a graph: it is looked for again then.
        let graph = folders.iter().map(|folder| folder.join(GRAPH_LIBRARY));
        let graph = graph.clone().find(|path| path.exists()).or_else(|| graph.into_iter().next());
        Ok(Self {
            proxy: find("decurion-proxy")?,
            runner: find("decurion-replica-runner")?,
            graph: graph.unwrap_or_default(),
        })
    }

    /// Where the library is that runs graphs.
    pub(crate) fn graph_library(&self) -> &Path {
        &self.graph
    }

    /// The file of the proxy's program.
    pub(crate) fn proxy(&self) -> &File {
        &self.proxy
    }

    /// Starts one, with the far end of a new link as its standard input, in a folder or in ours.
    pub(crate) fn spawn(
        &self,
        program: Program,
        label: &str,
        environment: &BTreeMap<String, String>,
        folder: Option<&Path>,
    ) -> io::Result<(Process, Link)> {
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let why = format!("its working_dir {} is no folder any more", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let (near, far) = Link::pair()?;
        let (file, name) = match program {
            Program::Proxy => (&self.proxy, "decurion-proxy"),
            Program::Runner => (&self.runner, "decurion-replica-runner"),
        };
        let inherited = PASSED_ON.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command
            .arg0(format!("{name} {label}"))
            .env_clear()
            .envs(inherited)
            .envs(environment)
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal is for us, who pass on what it means.
            .process_group(0);
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        let mut child = command.spawn()?;
        let pidfd = match open_pidfd(child.id()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Not reaped yet, so its id is still its own.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let (stdout, stderr) =
            (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
        let pid = i32::try_from(child.id()).unwrap_or_default();
        Ok((Process { pid, pidfd, ended: false, ours: true, stdout, stderr }, near))
    }
}

impl Process {
    /// A process that an earlier supervisor has started, if it still is the same one. Left alone until it is
    /// [adopted](Self::adopted).
    pub(crate) fn find(pid: i32, ticks: u64) -> Option<Self> {
        let pidfd = open_pidfd(u32::try_from(pid).ok()?).ok()?;
        // Looked at after the descriptor was opened: it is of the process whose age this is.
        let same = stat_of(pid).is_some_and(|stat| stat.ticks == ticks);
        same.then_some(Self { pid, pidfd, ended: false, ours: false, stdout: None, stderr: None })
    }

    /// Its id; its own until it is reaped.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// When it was made, in the kernel's ticks.
    pub(crate) fn ticks(&self) -> Option<u64> {
        stat_of(self.pid).map(|stat| stat.ticks)
    }

    /// Readable once it has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it. Nothing happens to one that has ended.
    pub(crate) fn kill(&self) {
        let (fd, info) = (self.pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: pidfd_send_signal takes a descriptor that we own, a signal number, no siginfo and no flags; it reads
        // no memory of ours.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, info, 0) };
    }

    /// How it ended, if it has; it is reaped then, where it is our child.
    pub(crate) fn reap(&mut self) -> Option<Exit> {
        let exit = match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
            Ok(_) => return None,
            // Started by a supervisor before us: its end is for others to reap.
            Err(_) if self.has_ended() => how_it_ended(self.pidfd.as_fd(), self.pid),
            Err(_) => return None,
        };
        self.ended = true;
        Some(exit)
    }

    fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            .is_ok_and(|n| n > 0)
    }

    /// It is ours from now on.
    pub(crate) fn adopted(mut self) -> Self {
        self.ours = true;
        self
    }

    /// Whether it runs this very file.
    pub(crate) fn runs(&self, program: &File) -> bool {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let theirs = std::fs::metadata(format!("/proc/{}/exe", self.pid)).map(identity);
        theirs.is_ok_and(|theirs| program.metadata().map(identity).is_ok_and(|ours| ours == theirs))
    }

    /// Resident memory in bytes; 0 where it can't be told.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.pid()))
            .ok()
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0);
        pages * PAGE
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whoever drops a child that was not reaped has given up on order: leave no orphan, no zombie.
        if self.ours && !self.ended && self.reap().is_none() {
            self.kill();
            let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED);
        }
    }
}

/// CPU time and resident memory in bytes of a process; nothing where it can't be told.
pub(crate) fn usage(pid: i32) -> (Duration, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the program's name in parentheses, with whatever in it.
    let after_name = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = |number: usize| -> u64 {
        after_name.split_whitespace().nth(number - 3).and_then(|field| field.parse().ok()).unwrap_or(0)
    };
    let ticks = field(14) + field(15);
    (Duration::from_millis(ticks * (1000 / TICKS_A_SECOND)), field(24) * PAGE)
}

/// The unit of CPU times in /proc, the same on every Linux.
const TICKS_A_SECOND: u64 = 100;

/// What the kernel says of a process.
struct Stat {
    ticks: u64,
    /// As `wait` would give it, where it is a zombie and we may know.
    status: Option<i32>,
}

fn stat_of(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it is numbers. The state is field 3.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3);
    let status = field(52).filter(|_| field(3) == Some(&"Z")).and_then(|status| status.parse().ok());
    Some(Stat { ticks: field(22)?.parse().ok()?, status })
}

/// How a process ended that is not our child: as a zombie shows it, or as the kernel keeps it for holders of its
/// descriptor (Linux 6.15 and later).
fn how_it_ended(pidfd: BorrowedFd<'_>, pid: i32) -> Exit {
    let status = stat_of(pid).and_then(|stat| stat.status).or_else(|| exit_status(pidfd));
    match status {
        Some(status) if libc::WIFEXITED(status) => Exit::Code(libc::WEXITSTATUS(status)),
        Some(status) if libc::WIFSIGNALED(status) => Exit::Signal(libc::WTERMSIG(status)),
        _ => Exit::Unknown,
    }
}

/// `struct pidfd_info`, as far as it is looked at.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    /// `PIDFD_INFO_EXIT`.
    const EXIT: u64 = 1 << 3;
    /// `PIDFD_GET_INFO` for a structure of this size.
    const GET_INFO: libc::c_ulong =
        (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xff << 8) | 11;
    let mut info = PidfdInfo { mask: EXIT, ..PidfdInfo::default() };
    // SAFETY: the request's size is that of the structure, which the kernel fills.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    (done == 0 && info.mask & EXIT != 0).then_some(info.exit_code)
}

/// Bytes of a page, on every architecture that we run on.
const PAGE: u64 = 4096;

/// A descriptor of a process by its id.
pub(crate) fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes an id and no flags, and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec, always), and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes reads from a descriptor return at once where there is nothing.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Allows ourselves as many descriptors as the system lets us have.
pub(crate) fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
