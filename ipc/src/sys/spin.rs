//! The loop that spins, with the clock.

use std::time::Instant;

use crate::spin::Spin;

/// Looks between two glances at the clock: it costs more than a look.
const LOOKS: u32 = 16;

/// Looks for news as long as the habit says: whether some came. Without, it is time to arm and to sleep.
pub fn spin(habit: &mut Spin, mut has_news: impl FnMut() -> bool) -> bool {
    if has_news() {
        return true;
    }
    let Some(longest) = habit.plan() else { return false };
    let until = Instant::now() + longest;
    let came = loop {
        if (0..LOOKS).any(|_| {
            std::hint::spin_loop();
            has_news()
        }) {
            break true;
        }
        if Instant::now() >= until {
            break false;
        }
    };
    habit.record(came);
    came
}

/// Processors that this process may run on.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spin::SPIN_MAX;

    #[test]
    fn news_that_come_meanwhile_are_found() {
        let mut looks = 0;
        let mut habit = Spin::new(SPIN_MAX, 2, 1);
        assert!(spin(&mut habit, || {
            looks += 1;
            looks == 3
        }));
    }

    #[test]
    fn without_news_it_ends() {
        assert!(!spin(&mut Spin::new(SPIN_MAX, 2, 1), || false));
        assert!(!spin(&mut Spin::never(), || false));
        assert!(processors() > 0);
    }
}
