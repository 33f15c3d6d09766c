//! May this replica be taken down? Answered here and nowhere else.

/// What may be taken down of one deployment, in one turn. Made from what is observed, it gets smaller with each
/// replica that it lets go.
#[derive(Clone, Debug)]
pub struct TakeDown {
    /// Replicas that may get requests and that every caller knows.
    available: u32,
    /// The fewest that may be left of them.
    floor: u32,
}

/// How a replica stands that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Gets no requests.
    Idle,
    /// Gets some, but not everyone knows it yet, or it is busy: it counts for nothing, and may yet be needed.
    Serving,
    /// Counts.
    Available,
}

/// The answer.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may go.
    Granted,
    /// Too few would be left.
    Held {
        /// Available now.
        available: u32,
        /// The fewest there may be.
        floor: u32,
    },
}

impl TakeDown {
    /// Of a deployment that wants `wanted` replicas, has `available`, and may have `max_unavailable` down.
    #[must_use]
    pub fn new(wanted: u32, available: u32, max_unavailable: u32) -> Self {
        Self { available, floor: wanted.saturating_sub(max_unavailable) }
    }

    /// How many are available, without those that were let go.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.available
    }

    /// Asks for one replica.
    pub fn ask(&mut self, standing: Standing) -> Verdict {
        let left = match standing {
            Standing::Idle => return Verdict::Granted,
            Standing::Serving => Some(self.available),
            Standing::Available => self.available.checked_sub(1),
        };
        match left {
            Some(left) if left >= self.floor => {
                self.available = left;
                Verdict::Granted
            }
            _ => Verdict::Held { available: self.available, floor: self.floor },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Available, Idle, Serving};
    use super::*;

    #[test]
    fn no_more_go_than_may_be_down() {
        let mut takedown = TakeDown::new(10, 10, 2);
        let granted = (0..10).filter(|_| takedown.ask(Available) == Verdict::Granted).count();
        assert_eq!(granted, 2);
        assert_eq!(takedown.ask(Available), Verdict::Held { available: 8, floor: 8 });
    }

    #[test]
    fn what_crashed_counts_as_down() {
        assert_eq!(TakeDown::new(5, 4, 1).ask(Available), Verdict::Held { available: 4, floor: 4 });
    }

    #[test]
    fn a_surge_may_go_again() {
        assert_eq!(TakeDown::new(1, 2, 0).ask(Available), Verdict::Granted);
        assert_eq!(TakeDown::new(1, 1, 0).ask(Available), Verdict::Held { available: 1, floor: 1 });
    }

    #[test]
    fn what_gets_no_requests_may_always_go() {
        assert_eq!(TakeDown::new(5, 0, 0).ask(Idle), Verdict::Granted);
    }

    #[test]
    fn while_the_proxy_is_away_nothing_that_serves_goes() {
        assert_eq!(TakeDown::new(5, 0, 1).ask(Serving), Verdict::Held { available: 0, floor: 4 });
        assert_eq!(TakeDown::new(5, 5, 1).ask(Serving), Verdict::Granted);
    }
}
