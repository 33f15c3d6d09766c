//! Which versions belong together: deployments of one set change over as one, and a request meets one side of each
//! change only.
//!
//! One number counts the changes of all sets. A request is given the present one where it enters, and carries it through
//! every hop; each replica of a set serves the requests of a span of these numbers. Whoever has not heard yet of the
//! number that a request carries waits for the word, so that nobody guesses.

use serde::{Deserialize, Serialize};

/// Counts the changes of sets, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// After every change.
    pub const NEVER: Epoch = Epoch(u64::MAX);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }

    /// The one before this.
    #[must_use]
    pub fn before(self) -> Epoch {
        Epoch(self.0.saturating_sub(1))
    }
}

/// The requests that a replica serves: from one epoch to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first.
    pub since: Epoch,
    /// The last.
    pub until: Epoch,
}

impl Span {
    /// Every request.
    pub const ALL: Span = Span { since: Epoch(0), until: Epoch::NEVER };
    /// None yet: its set has not changed over.
    pub const AWAITED: Span = Span { since: Epoch::NEVER, until: Epoch::NEVER };

    /// Whether requests of this epoch are served.
    #[must_use]
    pub fn holds(self, epoch: Epoch) -> bool {
        self.since <= epoch && epoch <= self.until && self.since != Epoch::NEVER
    }

    /// Whether it waits for its set to change over.
    #[must_use]
    pub fn is_awaited(self) -> bool {
        self.since == Epoch::NEVER
    }

    /// Whether its set has changed over to another version.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.until != Epoch::NEVER
    }

    /// With which epoch a request enters here, where `entry` is the present one: a newer one where this replica is of
    /// the next already; `None`: it is for requests that are under way.
    #[must_use]
    pub fn entering(self, entry: Epoch) -> Option<Epoch> {
        let epoch = entry.max(self.since);
        self.holds(epoch).then_some(epoch)
    }
}

/// How a deployment stands that is one of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetView {
    /// The newest epoch that the spans take into account.
    pub known: Epoch,
    /// What the deployment's replicas serve, in their order.
    pub spans: Vec<Span>,
}

impl SetView {
    /// Whether the replica in this place serves requests of this epoch.
    #[must_use]
    pub fn serves(&self, place: usize, epoch: Epoch) -> bool {
        self.spans.get(place).is_some_and(|span| span.holds(epoch))
    }
}

/// Which requests have entered before the present epoch and are still under way: who serves them is kept until there is
/// none. Each process where requests enter knows its own.
#[derive(Debug)]
pub struct Entered<K> {
    /// Of requests that enter now.
    entry: Epoch,
    /// Requests that may be older.
    before: Vec<K>,
    /// The supervisor has been told, or need not be.
    told: bool,
}

impl<K> Default for Entered<K> {
    fn default() -> Self {
        Self { entry: Epoch::default(), before: Vec::new(), told: true }
    }
}

impl<K> Entered<K> {
    /// Requests enter with this epoch from now on, `before` gives those that are older. It is told again in any case:
    /// whoever sent the view may not have heard it.
    pub fn enter(&mut self, entry: Epoch, before: impl FnOnce() -> Vec<K>) {
        if entry != self.entry {
            self.before = before();
            self.entry = entry;
        }
        self.told = entry == Epoch::default();
    }

    /// What has become true: no request here is of an older epoch. `is_left`: a request still is.
    pub fn news(&mut self, mut is_left: impl FnMut(&K, Epoch) -> bool) -> Option<Epoch> {
        if self.told {
            return None;
        }
        let entry = self.entry;
        while self.before.pop_if(|key| !is_left(key, entry)).is_some() {}
        self.told = self.before.is_empty();
        self.told.then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_only_when_the_last_older_request_has_ended() {
        let mut entered = Entered::default();
        entered.enter(Epoch(1), || vec![1, 2]);
        assert_eq!(entered.news(|key, _| *key == 1), None);
        assert_eq!(entered.news(|_, _| false), Some(Epoch(1)));
        assert_eq!(entered.news(|_, _| false), None);
    }

    #[test]
    fn it_is_told_again_with_each_view_and_not_at_all_without_sets() {
        let mut entered: Entered<u8> = Entered::default();
        entered.enter(Epoch(0), Vec::new);
        assert_eq!(entered.news(|_, _| false), None);
        for _ in 0..2 {
            entered.enter(Epoch(4), Vec::new);
            assert_eq!(entered.news(|_, _| false), Some(Epoch(4)));
        }
    }

    const OLD: Span = Span { since: Epoch(2), until: Epoch(4) };
    const NEW: Span = Span { since: Epoch(5), until: Epoch::NEVER };

    #[test]
    fn of_two_versions_one_serves_each_epoch() {
        for epoch in 2..9 {
            assert_eq!(OLD.holds(Epoch(epoch)), epoch < 5);
            assert_eq!(NEW.holds(Epoch(epoch)), epoch >= 5);
        }
        assert!(!Span::AWAITED.holds(Epoch::NEVER) && !Span::AWAITED.holds(Epoch(0)));
        assert!(Span::ALL.holds(Epoch(0)) && Span::ALL.holds(Epoch(u64::MAX - 1)));
    }

    #[test]
    fn nobody_enters_by_a_version_that_is_over_and_the_next_one_counts_as_entered() {
        assert_eq!(OLD.entering(Epoch(4)), Some(Epoch(4)));
        assert_eq!(OLD.entering(Epoch(5)), None);
        assert_eq!(NEW.entering(Epoch(4)), Some(Epoch(5)));
        assert_eq!(NEW.entering(Epoch(7)), Some(Epoch(7)));
        assert_eq!(Span::AWAITED.entering(Epoch(4)), None);
        assert_eq!(Span::ALL.entering(Epoch(4)), Some(Epoch(4)));
    }
}
