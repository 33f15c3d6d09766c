//! The loop that spins, with the clock, and what a wake-up takes on this machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

use crate::spin::Spin;
use crate::sync::{AtomicU64, Ordering};

/// Looks between two glances at the clock: it costs more than a look.
const LOOKS: u32 = 16;

/// What a wake-up is taken to cost before it was measured.
const WAKE_UP_USUAL: Duration = Duration::from_micros(14);
/// Round trips of a measurement, at most, and how long it takes, where these are slow.
const ROUND_TRIPS: u32 = 32;
const MEASURES_FOR: Duration = Duration::from_millis(2);

/// In nanoseconds; 0: it was not measured.
static WAKE_UP: AtomicU64 = AtomicU64::new(0);

/// Looks for news as long as the habit says: whether some came. Without, it is time to arm and to sleep.
pub fn spin(habit: &mut Spin, mut has_news: impl FnMut() -> bool) -> bool {
    if has_news() {
        return true;
    }
    let Some(longest) = habit.plan(wake_up()) else { return false };
    let began = Instant::now();
    let (came, took) = loop {
        let came = (0..LOOKS).any(|_| {
            std::hint::spin_loop();
            has_news()
        });
        let took = began.elapsed();
        if came || took >= longest {
            break (came, took);
        }
    };
    habit.record(came, took);
    came
}

/// Processors that this process may run on.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What it takes to wake another thread on another processor, as far as it is known.
#[must_use]
pub fn wake_up() -> Duration {
    match WAKE_UP.load(Ordering::Relaxed) {
        0 => WAKE_UP_USUAL,
        nanos => Duration::from_nanos(nanos),
    }
}

/// Measures it, once for this process, in two threads of their own; nobody waits for them. Where it fails, the usual
/// is right enough.
pub fn measure_wake_up() {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let _ = thread("wake-up").spawn(move || {
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map(Arc::new);
        let (Ok(ping), Ok(pong)) = (event(), event()) else { return };
        let [first, second] = two_processors();
        pin(first);
        let echo = thread("woken").spawn({
            let (ping, pong) = (Arc::clone(&ping), Arc::clone(&pong));
            move || {
                pin(second);
                while ping.read().is_ok_and(|count| count == 1) && pong.write(1).is_ok() {}
            }
        });
        if echo.is_err() {
            return;
        }
        // The shortest: what comes on top of it is others' work.
        let shortest = shortest_round_trip(&ping, &pong);
        // That was not one, and ends it.
        let _ = ping.write(2);
        if let Some(shortest) = shortest {
            let nanos = u64::try_from((shortest / 2).as_nanos()).unwrap_or(u64::MAX);
            WAKE_UP.store(nanos.max(1), Ordering::Relaxed);
        }
    });
}

fn shortest_round_trip(ping: &EventFd, pong: &EventFd) -> Option<Duration> {
    let began = Instant::now();
    let mut shortest = None;
    for _ in 0..ROUND_TRIPS {
        let asked = Instant::now();
        ping.write(1).ok()?;
        pong.read().ok()?;
        let took = asked.elapsed();
        shortest = Some(shortest.map_or(took, |shortest| took.min(shortest)));
        if began.elapsed() >= MEASURES_FOR {
            break;
        }
    }
    shortest
}

/// The first and the last that this thread may run on.
fn two_processors() -> [usize; 2] {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let mut all = (0..CpuSet::count()).filter(|&processor| allowed.is_set(processor).unwrap_or(false));
    let first = all.next().unwrap_or(0);
    [first, all.next_back().unwrap_or(first)]
}

/// Puts this thread there, or leaves it where it is.
fn pin(processor: usize) {
    let mut only = CpuSet::new();
    let _ = only.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_that_come_meanwhile_are_found() {
        let mut looks = 0;
        let mut habit = Spin::new(2, 1);
        assert!(spin(&mut habit, || {
            looks += 1;
            looks == 3
        }));
    }

    #[test]
    fn without_news_it_ends() {
        assert!(!spin(&mut Spin::new(2, 1), || false));
        assert!(!spin(&mut Spin::never(), || false));
        assert!(processors() > 0);
    }

    #[test]
    fn a_wake_up_is_measured() {
        assert_eq!(wake_up(), WAKE_UP_USUAL);
        measure_wake_up();
        while WAKE_UP.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert!(wake_up() > Duration::ZERO);
    }
}
