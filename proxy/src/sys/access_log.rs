//! Writes the access log, on a thread of its own: workers never wait for a file, or for whoever reads our stderr.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use decurion_api::spec::AccessLog;
use decurion_ipc::control::ProxyReport;
use decurion_ipc::proxy_control::ReportSender;

use crate::access_log::{Lines, Sink};

/// Bundles of lines that may wait to be written; more are dropped.
const QUEUE_MAX: usize = 128;
/// How often is looked whether the file was moved away, as log rotation does, and whether entries were dropped.
const LOOK: Duration = Duration::from_secs(1);
/// `decurion_abi::level` of warnings.
const LEVEL_WARN: u32 = 2;

/// The workers' end. The thread writes what waits, and ends, once all of these are gone.
#[derive(Debug)]
pub(super) struct Writer {
    sender: SyncSender<Told>,
    dropped: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    format: AccessLog,
}

#[derive(Debug)]
enum Told {
    Lines(Lines),
    Flush(Sender<()>),
}

impl Sink for Writer {
    fn format(&self) -> AccessLog {
        self.format
    }

    fn take(&self, lines: Lines) {
        let count = lines.count;
        if self.sender.try_send(Told::Lines(lines)).is_err() {
            self.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Starts the thread. Without a path, or where it can't be opened, lines go to stderr.
    pub(super) fn start(format: AccessLog, path: Option<&str>, reports: ReportSender) -> io::Result<Writer> {
        let (sender, told) = sync_channel(QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let reopen = Arc::new(AtomicBool::new(false));
        let mut thread = Thread {
            path: path.map(PathBuf::from),
            file: None,
            looked: Instant::now(),
            dropped: Arc::clone(&dropped),
            reopen: Arc::clone(&reopen),
            reports,
        };
        thread.open();
        thread::Builder::new().name("access-log".to_owned()).spawn(move || thread.run(&told))?;
        Ok(Writer { sender, dropped, reopen, format })
    }

    /// Opens the file anew with the next entry; never blocks.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Waits until everything is written that was offered before, unless that takes too long.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, wait) = channel();
        if self.sender.try_send(Told::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

struct Thread {
    path: Option<PathBuf>,
    file: Option<File>,
    looked: Instant,
    dropped: Arc<AtomicU64>,
    reopen: Arc<AtomicBool>,
    reports: ReportSender,
}

impl Thread {
    fn run(&mut self, told: &Receiver<Told>) {
        while let Ok(told) = told.recv() {
            match told {
                Told::Lines(lines) => self.write(&lines.text),
                Told::Flush(done) => _ = done.send(()),
            }
        }
    }

    fn write(&mut self, text: &[u8]) {
        self.look();
        let wrote = match &mut self.file {
            Some(file) => file.write_all(text),
            None => io::stderr().lock().write_all(text),
        };
        if let Err(error) = wrote {
            self.warn(format!("failed to write the access log: {error}"));
        }
    }

    /// Now and then: follows a file that was moved away, and tells of what was dropped.
    fn look(&mut self) {
        if self.reopen.swap(false, Ordering::Relaxed) {
            self.open();
        }
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        if let (Some(path), Some(file)) = (&self.path, &self.file)
            && !is_same(path, file)
        {
            self.open();
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.warn(format!(
                "{dropped} lines of the access log were dropped: they came faster than they can be written"
            ));
        }
    }

    fn open(&mut self) {
        let Some(path) = &self.path else { return };
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.warn(format!("failed to open the access log {}: {error}", path.display())),
        }
    }

    fn warn(&self, message: String) {
        self.reports.offer(ProxyReport::Log { level: LEVEL_WARN, message });
    }
}

fn is_same(path: &Path, file: &File) -> bool {
    let (Ok(named), Ok(open)) = (std::fs::metadata(path), file.metadata()) else { return false };
    (named.dev(), named.ino()) == (open.dev(), open.ino())
}
