//! Round trips over what else there is: byte streams, ipc-channel, and the bare wake-ups that none can beat.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipc_channel::ipc;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::contest::{between, median, now, p50};
use crate::lane::{self, Wait};
use crate::place::Place;

/// Ends the other side of a bare wake-up.
const STOP: u64 = u64::MAX;

/// Our own lane, with a head of the usual size on either way.
#[must_use]
pub fn lane(place: Place, size: usize, wait: Wait, lasts: Duration) -> f64 {
    lane_with_gaps(place, size, wait, Duration::ZERO, lasts)
}

/// The same, with a pause after each answer that is not counted.
#[must_use]
pub fn lane_with_gaps(place: Place, size: usize, wait: Wait, gap: Duration, lasts: Duration) -> f64 {
    let (mut client, mut server) = lane::echo(wait);
    let (body, mut answer) = (vec![1; size], vec![0; size]);
    let mut took = Vec::new();
    between(
        place,
        move || server.run(),
        || {
            let all = p50(lasts, || {
                if gap.is_zero() {
                    return client.ask(&body, &mut answer);
                }
                let paused = now();
                while paused.elapsed() < gap {
                    std::hint::spin_loop();
                }
                let asked = now();
                client.ask(&body, &mut answer);
                took.push(asked.elapsed().as_nanos() as f64);
            });
            client.stop();
            if gap.is_zero() { all } else { median(&mut took) }
        },
    )
}

/// A Unix stream; the whole body is read, then written back.
#[must_use]
pub fn unix_stream(place: Place, size: usize, lasts: Duration) -> f64 {
    let (near, far) = UnixStream::pair().expect("a socket pair");
    let (near_read, far_read) = (near.try_clone().expect("a clone"), far.try_clone().expect("a clone"));
    stream(place, size, lasts, (near_read, near), (far_read, far))
}

/// Two pipes.
#[must_use]
pub fn pipes(place: Place, size: usize, lasts: Duration) -> f64 {
    let (far_read, near_write) = std::io::pipe().expect("a pipe");
    let (near_read, far_write) = std::io::pipe().expect("a pipe");
    stream(place, size, lasts, (near_read, near_write), (far_read, far_write))
}

fn stream<R: Read + Send, W: Write + Send>(
    place: Place,
    size: usize,
    lasts: Duration,
    (mut near_read, mut near_write): (R, W),
    (mut far_read, mut far_write): (R, W),
) -> f64 {
    let server = move || {
        let mut body = vec![0; size];
        while far_read.read_exact(&mut body).is_ok() && far_write.write_all(&body).is_ok() {}
    };
    between(place, server, || {
        let (body, mut answer) = (vec![1; size], vec![0; size]);
        let figure = p50(lasts, || {
            near_write.write_all(&body).expect("the other side reads");
            near_read.read_exact(&mut answer).expect("the other side answers");
        });
        drop((near_write, near_read));
        figure
    })
}

/// ipc-channel's byte channels.
#[must_use]
pub fn ipc_channel(place: Place, size: usize, lasts: Duration) -> f64 {
    let (near_send, far_receive) = ipc::bytes_channel().expect("a channel");
    let (far_send, near_receive) = ipc::bytes_channel().expect("a channel");
    let server = move || {
        while let Ok(body) = far_receive.recv()
            && far_send.send(&body).is_ok()
        {}
    };
    between(place, server, || {
        let body = vec![1; size];
        let figure = p50(lasts, || {
            near_send.send(&body).expect("the other side reads");
            assert_eq!(near_receive.recv().expect("the other side answers").len(), size);
        });
        drop((near_send, near_receive));
        figure
    })
}

/// Nothing but one word there and one back, both sides looking all the time.
#[must_use]
pub fn bare_spin(place: Place, lasts: Duration) -> f64 {
    let (ping, pong) = (AtomicU64::new(0), AtomicU64::new(0));
    let server = || {
        let mut seen = 0;
        while seen != STOP {
            let value = ping.load(Ordering::Acquire);
            if value != seen {
                pong.store(value, Ordering::Release);
                seen = value;
            }
            std::hint::spin_loop();
        }
    };
    between(place, server, || {
        let mut value = 0;
        let figure = p50(lasts, || {
            value += 1;
            ping.store(value, Ordering::Release);
            while pong.load(Ordering::Acquire) != value {
                std::hint::spin_loop();
            }
        });
        ping.store(STOP, Ordering::Release);
        figure
    })
}

/// Nothing but a wake-up there and one back.
#[must_use]
pub fn bare_eventfd(place: Place, lasts: Duration) -> f64 {
    let make = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("an eventfd");
    let (ping, pong) = (make(), make());
    let server = || {
        while ping.read().is_ok_and(|count| count == 1) {
            pong.write(1).expect("an eventfd counts");
        }
    };
    between(place, server, || {
        let figure = p50(lasts, || {
            ping.write(1).expect("an eventfd counts");
            pong.read().expect("an eventfd counts");
        });
        ping.write(2).expect("an eventfd counts");
        figure
    })
}
