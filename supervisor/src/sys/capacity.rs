//! What this machine has for replicas: what we may use of it, not what is built in.

use std::fs;
use std::path::{Path, PathBuf};

use decurion_api::spec::Amount;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::capacity::Capacity;

/// Measures it.
pub(crate) fn measure() -> Capacity {
    let cpu_ids = own_cpus();
    let count = Amount::whole(u32::try_from(cpu_ids.len().max(1)).unwrap_or(u32::MAX));
    let groups = groups();
    let quota = groups.iter().filter_map(|group| cpu_quota(group)).min();
    let limit = groups.iter().filter_map(|group| memory_limit(group));
    Capacity {
        cpus: Some(quota.map_or(count, |quota| quota.min(count))),
        cpu_ids,
        memory: total_memory().into_iter().chain(limit).min(),
        gpus: Some(gpus()),
    }
}

fn own_cpus() -> Vec<u16> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let ids = (0..CpuSet::count()).filter(|id| allowed.is_set(*id).unwrap_or(false));
    ids.filter_map(|id| u16::try_from(id).ok()).collect()
}

/// The folders of our control groups, and of those around them, of either version.
fn groups() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',') {
            let root = Path::new("/sys/fs/cgroup").join(controller);
            let group = root.join(path.trim_start_matches('/'));
            groups.extend(group.ancestors().take_while(|it| it.starts_with(&root)).map(Path::to_owned));
        }
    }
    groups
}

fn cpu_quota(group: &Path) -> Option<Amount> {
    let read = |file: &str| fs::read_to_string(group.join(file)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(text) => {
            let mut numbers = text.split_whitespace().map(|number| number.parse::<f64>().ok());
            (numbers.next()??, numbers.next()??)
        }
        None => {
            let number = |file: &str| read(file)?.trim().parse::<f64>().ok();
            (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
        }
    };
    // Below 0: there is none.
    let thousandths = (quota / period * 1_000.0).floor();
    Amount::from_f64(thousandths / 1_000.0).filter(|_| quota > 0.0 && period > 0.0)
}

fn memory_limit(group: &Path) -> Option<u64> {
    let files = ["memory.max", "memory.limit_in_bytes"];
    let text = files.iter().find_map(|file| fs::read_to_string(group.join(file)).ok())?;
    text.trim().parse().ok()
}

fn total_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(kib.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// Those that we were given, else all that have a device.
fn gpus() -> Vec<String> {
    if let Ok(given) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return given.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect();
    }
    let devices = fs::read_dir("/dev").into_iter().flatten().flatten();
    let number = |name: String| name.strip_prefix("nvidia")?.parse::<u16>().ok();
    let mut numbers: Vec<u16> =
        devices.filter_map(|entry| number(entry.file_name().to_string_lossy().into_owned())).collect();
    numbers.sort_unstable();
    numbers.iter().map(u16::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_something() {
        let capacity = measure();
        assert!(capacity.cpus.unwrap() > Amount::ZERO && !capacity.cpu_ids.is_empty(), "{capacity:?}");
        assert!(capacity.memory.unwrap() > 1 << 20, "{capacity:?}");
    }

    #[test]
    fn limits_of_either_version_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        assert_eq!((cpu_quota(folder.path()), memory_limit(folder.path())), (None, None));
        write("cpu.cfs_quota_us", "-1\n");
        write("cpu.cfs_period_us", "100000\n");
        write("memory.limit_in_bytes", "1048576\n");
        assert_eq!((cpu_quota(folder.path()), memory_limit(folder.path())), (None, Some(1 << 20)));
        write("cpu.max", "150000 100000\n");
        write("memory.max", "max\n");
        assert_eq!(cpu_quota(folder.path()), Some(Amount::thousandths(1_500)));
        assert_eq!(memory_limit(folder.path()), None);
        write("cpu.max", "max 100000\n");
        assert_eq!(cpu_quota(folder.path()), None);
    }
}
