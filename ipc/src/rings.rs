//! Bells that ring without end: how often one may wake a sleeper in vain.
//!
//! Who rings can do it as often as it likes. One that does so without ever having news is not listened to for a
//! tick; what it does say meanwhile is found when the tick is over. So it costs a bounded share of a processor, and
//! itself a tick at most. `sys::sleeper` does as is decided here.

/// How long a bell is not listened to.
pub(crate) const TICK_NS: u64 = 50_000_000;

/// Vain rings since the last news, at most. Who keeps the rules rings once, at most, for what has been taken in already;
/// how quickly they follow one another says nothing but how fast the machine is.
pub(crate) const VAIN_MAX: u32 = 100;

/// What is known of one bell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rings {
    /// Since the last news.
    vain: u32,
    /// Until then it is not listened to.
    deaf_until_ns: Option<u64>,
}

impl Rings {
    /// It has rung, and there was something.
    pub(crate) fn news(&mut self) {
        self.vain = 0;
    }

    /// It has rung in vain: whether that was once too often, so that it is not to be listened to.
    pub(crate) fn vain(&mut self, now_ns: u64) -> bool {
        self.vain = self.vain.saturating_add(1);
        let too_often = self.vain > VAIN_MAX && self.deaf_until_ns.is_none();
        if too_often {
            self.deaf_until_ns = Some(now_ns.saturating_add(TICK_NS));
        }
        too_often
    }

    /// When it is to be listened to again, where it is not.
    pub(crate) fn deaf_until(&self) -> Option<u64> {
        self.deaf_until_ns
    }

    /// Whether it is to be listened to again from now on.
    pub(crate) fn heard_again(&mut self, now_ns: u64) -> bool {
        let over = self.deaf_until_ns.is_some_and(|until| now_ns >= until);
        if over {
            *self = Rings::default();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_rings_in_vain_is_not_listened_to_for_a_tick() {
        let mut rings = Rings::default();
        assert!((0..VAIN_MAX).all(|_| !rings.vain(7)));
        assert!(rings.vain(7));
        assert!(!rings.vain(7), "once is enough");
        assert_eq!(rings.deaf_until(), Some(7 + TICK_NS));
        assert!(!rings.heard_again(6 + TICK_NS));
        assert!(rings.heard_again(7 + TICK_NS));
        assert_eq!(rings.deaf_until(), None);
        assert!((0..VAIN_MAX).all(|_| !rings.vain(7 + TICK_NS)));
        assert!(rings.vain(7 + TICK_NS));
    }

    #[test]
    fn news_excuse_any_number_of_rings() {
        let mut rings = Rings::default();
        for turn in 0..10 * VAIN_MAX {
            assert!(!rings.vain(7));
            if turn % VAIN_MAX == VAIN_MAX - 1 {
                rings.news();
            }
        }
    }
}
