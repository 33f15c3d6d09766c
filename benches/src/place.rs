//! On which processors the two sides of a bench run.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Where two threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Both on one processor.
    Same,
    /// Each on its own, where there are two.
    Split,
}

impl Place {
    /// Puts this thread on the first processor, or on the last one for the second side of a split.
    pub fn pin(self, second: bool) {
        let allowed = Allowed::of_process();
        let cpu = match (self, second) {
            (Place::Split, true) => allowed.last,
            _ => allowed.first,
        };
        let mut only = CpuSet::new();
        // Where it is not allowed, the bench runs where it may.
        let _ = only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    }
}

#[derive(Clone, Copy)]
struct Allowed {
    first: usize,
    last: usize,
}

impl Allowed {
    /// As it was before any thread was pinned.
    fn of_process() -> Allowed {
        static ALLOWED: std::sync::OnceLock<Allowed> = std::sync::OnceLock::new();
        *ALLOWED.get_or_init(|| {
            let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
            let cpus = || (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
            Allowed { first: cpus().next().unwrap_or(0), last: cpus().next_back().unwrap_or(0) }
        })
    }
}

/// Lets this thread run on every processor again.
pub fn unpin() {
    let allowed = Allowed::of_process();
    let mut all = CpuSet::new();
    let _ = (allowed.first..=allowed.last).try_for_each(|cpu| all.set(cpu));
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
}
