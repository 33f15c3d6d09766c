//! What a process holds: descriptors, shared mappings, memory. For finding leaks, so only what can be compared.

use std::collections::BTreeMap;
use std::fs;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Descriptors by what they are, numbers left out.
    pub descriptors: BTreeMap<String, usize>,
    /// Shared mappings by their name.
    pub mappings: BTreeMap<String, usize>,
}

impl Held {
    /// Of a process that runs; of one that does not, nothing.
    #[must_use]
    pub fn by(pid: i32) -> Self {
        let mut held = Self::default();
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let link = link.to_string_lossy().into_owned();
            let kind = link.split(":[").next().unwrap_or_default().to_owned();
            *held.descriptors.entry(kind).or_default() += 1;
        }
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in maps.lines().filter(|line| line.contains("memfd:")) {
            let name = line.split("memfd:").nth(1).unwrap_or_default().to_owned();
            *held.mappings.entry(name).or_default() += 1;
        }
        held
    }
}

/// A number from `/proc/PID/status`, in KiB: `VmHWM`, `RssShmem`; 0 for a process that is gone.
#[must_use]
pub fn status_kib(pid: i32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Makes `VmHWM` of a process its present size: the peak from now on.
///
/// # Errors
/// Where that may not be written.
pub fn forget_peak(pid: i32) -> std::io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}
