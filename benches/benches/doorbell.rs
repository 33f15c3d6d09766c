//! What it costs to wake the other side: one ring each way, with nothing to say.
//!
//! The bare bells are the floor for a lane that sleeps; `spin` is the floor for one that looks all the time.

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use decurion_benches::lane::sleep;
use decurion_benches::place::Place;
use decurion_ipc::spin::Spin;
use decurion_ipc::sys::spin::spin as look;
use divan::Bencher;
use nix::sys::eventfd::{EfdFlags, EventFd};

fn main() {
    divan::Divan::default().sample_count(100).sample_size(20).config_with_args().main();
}

/// Where both sides run.
#[derive(Clone, Copy)]
struct Case(Place);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Place::Same => "one cpu",
            Place::Split => "two cpus",
        })
    }
}

const CASES: [Case; 2] = [Case(Place::Same), Case(Place::Split)];
/// What stops the second side.
const STOP: u64 = u64::MAX;

#[divan::bench(args = CASES)]
fn eventfd(bencher: Bencher<'_, '_>, Case(place): Case) {
    let make = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
    let (ping, pong) = (make(), make());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            place.pin(true);
            while ping.read().is_ok_and(|value| value == 1) {
                pong.write(1).expect("an eventfd counts");
            }
        });
        place.pin(false);
        bencher.bench_local(|| {
            ping.write(1).expect("an eventfd counts");
            pong.read().expect("an eventfd counts")
        });
        ping.write(2).expect("an eventfd counts");
    });
}

#[divan::bench(args = CASES)]
fn pipe(bencher: Bencher<'_, '_>, Case(place): Case) {
    let (mut far_read, mut near_write) = std::io::pipe().expect("a pipe");
    let (mut near_read, mut far_write) = std::io::pipe().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            place.pin(true);
            let mut byte = [0];
            while far_read.read_exact(&mut byte).is_ok() && far_write.write_all(&byte).is_ok() {}
        });
        place.pin(false);
        bencher.bench_local(|| {
            near_write.write_all(&[1]).expect("the other side reads");
            near_read.read_exact(&mut [0]).expect("the other side answers");
        });
        drop(near_write);
    });
}

#[divan::bench]
fn spin(bencher: Bencher<'_, '_>) {
    let (ping, pong) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            Place::Split.pin(true);
            let mut last = 0;
            loop {
                match ping.load(Ordering::Acquire) {
                    STOP => return,
                    value if value != last => {
                        last = value;
                        pong.store(value, Ordering::Release);
                    }
                    _ => std::hint::spin_loop(),
                }
            }
        });
        Place::Split.pin(false);
        let mut value = 0;
        bencher.bench_local(|| {
            value += 1;
            ping.store(value, Ordering::Release);
            while pong.load(Ordering::Acquire) != value {
                std::hint::spin_loop();
            }
        });
        ping.store(STOP, Ordering::Release);
    });
}

/// One side spins as long as that succeeds before it sleeps on an eventfd, the other one sleeps at once.
#[divan::bench(args = CASES)]
fn adaptive(bencher: Bencher<'_, '_>, Case(place): Case) {
    let make = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).expect("an eventfd");
    let (ping, pong) = (make(), make());
    let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            place.pin(true);
            loop {
                sleep(ping.as_fd());
                let _ = ping.read();
                match asked.load(Ordering::Acquire) {
                    STOP => return,
                    value => answered.store(value, Ordering::Release),
                }
                pong.write(1).expect("an eventfd counts");
            }
        });
        place.pin(false);
        let mut habit = Spin::new(2, 2);
        let mut value = 0;
        bencher.bench_local(|| {
            value += 1;
            asked.store(value, Ordering::Release);
            ping.write(1).expect("an eventfd counts");
            let here = || answered.load(Ordering::Acquire) == value;
            while !look(&mut habit, here) {
                sleep(pong.as_fd());
                let _ = pong.read();
            }
        });
        asked.store(STOP, Ordering::Release);
        ping.write(1).expect("an eventfd counts");
    });
}
