//! Who may enter an instance: many shared entries at once, or one exclusive entry alone.
//!
//! The class's flags decide which kind an entry is (`&self` or `&mut self`). A waiting `reconfigure` holds back
//! new requests, so that a steady stream of them cannot starve it.

/// How an entry takes the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Beside other shared entries.
    Shared,
    /// Alone.
    Exclusive,
}

impl Entry {
    /// As the ABI's flags say.
    pub(crate) fn from_flags(flags: u32) -> Self {
        if flags & decurion_abi::flags::EXCLUSIVE != 0 { Entry::Exclusive } else { Entry::Shared }
    }
}

/// Counts who is inside. Invariant: `exclusive` implies `shared == 0`.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    shared: u32,
    exclusive: bool,
    /// Entries of the life cycle that wait to go first.
    waiting: u32,
}

impl Gate {
    /// Lets a request in, unless it has to wait. Whoever was let in must [`leave`](Self::leave).
    #[must_use]
    pub(crate) fn enter_request(&mut self, entry: Entry) -> bool {
        self.admits(entry) && self.enter(entry)
    }

    /// Whether a request would be let in.
    pub(crate) fn admits(&self, entry: Entry) -> bool {
        self.waiting == 0 && self.is_free_for(entry)
    }

    /// Lets an entry of the life cycle in (reconfigure, health), unless it has to wait.
    #[must_use]
    pub(crate) fn enter(&mut self, entry: Entry) -> bool {
        let free = self.is_free_for(entry);
        match entry {
            Entry::Shared => self.shared += u32::from(free),
            Entry::Exclusive => self.exclusive |= free,
        }
        free
    }

    fn is_free_for(&self, entry: Entry) -> bool {
        !self.exclusive && (entry == Entry::Shared || self.shared == 0)
    }

    /// What was let in is out again.
    pub(crate) fn leave(&mut self, entry: Entry) {
        match entry {
            Entry::Shared => {
                debug_assert!(self.shared > 0, "left a gate that it was not let in by");
                self.shared = self.shared.saturating_sub(1);
            }
            Entry::Exclusive => {
                debug_assert!(self.exclusive, "left a gate that it was not let in by");
                self.exclusive = false;
            }
        }
    }

    /// From now on no new request gets in, until [`release`](Self::release).
    pub(crate) fn hold(&mut self) {
        self.waiting += 1;
    }

    /// Undoes one [`hold`](Self::hold).
    pub(crate) fn release(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Whether an entry of the life cycle waits to go first.
    pub(crate) fn is_held(&self) -> bool {
        self.waiting > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_entries_run_together() {
        let mut gate = Gate::default();
        assert!(gate.enter_request(Entry::Shared));
        assert!(gate.enter_request(Entry::Shared));
        assert!(!gate.enter_request(Entry::Exclusive));
    }

    #[test]
    fn an_exclusive_entry_runs_alone() {
        let mut gate = Gate::default();
        assert!(gate.enter_request(Entry::Exclusive));
        assert!(!gate.enter_request(Entry::Exclusive));
        assert!(!gate.enter_request(Entry::Shared));
        gate.leave(Entry::Exclusive);
        assert!(gate.enter_request(Entry::Shared));
    }

    #[test]
    fn a_held_gate_drains() {
        let mut gate = Gate::default();
        assert!(gate.enter_request(Entry::Shared));
        gate.hold();
        assert!(!gate.enter_request(Entry::Shared));
        assert!(!gate.enter(Entry::Exclusive));
        gate.leave(Entry::Shared);
        assert!(gate.enter(Entry::Exclusive));
        gate.leave(Entry::Exclusive);
        gate.release();
        assert!(gate.enter_request(Entry::Shared));
    }
}
