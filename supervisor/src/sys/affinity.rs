//! CPUs of a child's own. A child begins with those of the thread that forks it, so that thread has them for a moment:
//! no instruction of the child runs elsewhere, and no thread of it is ever missed.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// While this is there, children of this thread have certain CPUs alone.
#[derive(Debug)]
pub(crate) struct OwnCpus {
    before: Option<CpuSet>,
}

/// The thread that asks.
const OURSELVES: Pid = Pid::from_raw(0);

impl OwnCpus {
    /// None of them: all that we have. What the system refuses, it refuses for good: the child then runs on any.
    pub(crate) fn of_next_child(ids: &[u16]) -> Self {
        Self { before: (!ids.is_empty()).then(|| narrow(ids)).flatten() }
    }
}

fn narrow(ids: &[u16]) -> Option<CpuSet> {
    let before = sched_getaffinity(OURSELVES).ok()?;
    let mut own = CpuSet::new();
    ids.iter().try_for_each(|id| own.set(usize::from(*id))).ok()?;
    match sched_setaffinity(OURSELVES, &own) {
        Ok(()) => Some(before),
        Err(error) => {
            tracing::warn!("a replica can't have CPUs {ids:?} for itself, and runs on any: {error}");
            None
        }
    }
}

impl Drop for OwnCpus {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = sched_setaffinity(OURSELVES, before)
        {
            tracing::error!("the supervisor can't have all its CPUs back: {error}");
        }
    }
}
