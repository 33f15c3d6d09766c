//! How many connections there may be, in all and from one address: counted over all workers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use decurion_ipc::stats::Connections;

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Gate {
    max: AtomicU32,
    max_per_address: AtomicU32,
    total: AtomicU32,
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Only kept while there is a limit per address.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

/// One connection's place; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Gate {
    pub(super) fn configure(&self, max: u32, max_per_address: u32) {
        self.max.store(max, Ordering::Relaxed);
        self.max_per_address.store(max_per_address, Ordering::Relaxed);
    }

    /// A place for a connection from there, if there is one.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let pass = self.find_place(address);
        let count = if pass.is_some() { &self.accepted } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        pass
    }

    /// One was turned away for another reason than the limits here.
    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many are open, and what became of others since the last time.
    pub(super) fn take_counts(&self) -> Connections {
        Connections {
            open: u64::from(self.total.load(Ordering::Relaxed)),
            accepted: self.accepted.swap(0, Ordering::Relaxed),
            refused: self.refused.swap(0, Ordering::Relaxed),
        }
    }

    /// Takes counts back that could not be passed on.
    pub(super) fn put_back(&self, counts: Connections) {
        self.accepted.fetch_add(counts.accepted, Ordering::Relaxed);
        self.refused.fetch_add(counts.refused, Ordering::Relaxed);
    }

    fn find_place(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let max = self.max.load(Ordering::Relaxed);
        let fits = |now: u32| (now < max).then_some(now + 1);
        self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        let mut pass = Pass { gate: Arc::clone(self), address: None };
        let per_address = self.max_per_address.load(Ordering::Relaxed);
        if per_address > 0 {
            let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(address).or_default();
            if *count >= per_address {
                // The lock is let go before the pass gives its place back.
                drop(counts);
                return None;
            }
            *count += 1;
            pass.address = Some(address);
        }
        Some(pass)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.total.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut counts = self.gate.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_by_address() {
        let gate = Arc::new(Gate::default());
        gate.configure(3, 2);
        let [a, b] = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let first = gate.enter(a).unwrap();
        let _second = gate.enter(a).unwrap();
        assert!(gate.enter(a).is_none(), "two from there already");
        let _third = gate.enter(b).unwrap();
        assert!(gate.enter(b).is_none(), "three in all");
        drop(first);
        assert!(gate.enter(a).is_some());
    }
}
