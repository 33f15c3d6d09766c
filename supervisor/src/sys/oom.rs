//! Whether the kernel has lately killed somebody for want of memory.

use std::path::PathBuf;

/// Watches a counter of such kills: our cgroup's where it has one, else the machine's.
#[derive(Debug)]
pub(crate) struct OomWatch {
    file: PathBuf,
    seen: u64,
}

impl OomWatch {
    pub(crate) fn new() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of_cgroup = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .map(|path| PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events"))
            .filter(|file| count(file).is_some());
        let file = of_cgroup.unwrap_or_else(|| PathBuf::from("/proc/vmstat"));
        let seen = count(&file).unwrap_or(0);
        Self { file, seen }
    }

    /// Whether there was one since this was asked last.
    pub(crate) fn has_killed(&mut self) -> bool {
        let now = count(&self.file).unwrap_or(self.seen);
        now > std::mem::replace(&mut self.seen, now)
    }
}

/// Both files have lines of a name and a number.
fn count(file: &std::path::Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}
