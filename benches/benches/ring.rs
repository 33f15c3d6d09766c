//! Request and answer of one size over a lane, beside a Unix stream and a pipe in the same run.
//!
//! `here`: both ends on one thread, so the cost of the work alone. Otherwise two threads, on one processor or on
//! two, that look all the time, sleep at once, or spin as long as that succeeds.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use decurion_benches::lane::{self, Wait};
use decurion_benches::place::Place;
use divan::Bencher;

fn main() {
    divan::Divan::default().sample_count(100).sample_size(20).config_with_args().main();
}

/// Bytes of a request and of its answer.
const SIZES: [usize; 5] = [64, 1 << 10, 16 << 10, 64 << 10, 1 << 20];

/// Where, how large.
#[derive(Clone, Copy)]
struct Case(Place, usize);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.0 {
            Place::Same => "one cpu",
            Place::Split => "two cpus",
        };
        write!(f, "{place} {} B", self.1)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    [Place::Same, Place::Split].into_iter().flat_map(|place| SIZES.map(|size| Case(place, size)))
}

/// Looking all the time needs a processor for each side.
fn split_cases() -> impl Iterator<Item = Case> {
    SIZES.into_iter().map(|size| Case(Place::Split, size))
}

/// A body larger than the window needs a server that reads meanwhile: only those up to one block.
#[divan::bench(args = SIZES.into_iter().filter(|&size| size <= 64 << 10))]
fn lane_here(bencher: Bencher<'_, '_>, size: usize) {
    let (mut client, mut server) = lane::echo(Wait::Poll);
    let (body, mut answer) = (vec![1; size], vec![0; size]);
    bencher.bench_local(|| client.ask_here(&mut server, &body, &mut answer));
}

#[divan::bench(args = split_cases())]
fn lane_polled(bencher: Bencher<'_, '_>, case: Case) {
    lane(bencher, case, Wait::Poll);
}

#[divan::bench(args = cases())]
fn lane_asleep(bencher: Bencher<'_, '_>, case: Case) {
    lane(bencher, case, Wait::Sleep);
}

#[divan::bench(args = cases())]
fn lane_adaptive(bencher: Bencher<'_, '_>, case: Case) {
    lane(bencher, case, Wait::Adaptive);
}

#[divan::bench(args = cases())]
fn unix_stream(bencher: Bencher<'_, '_>, case: Case) {
    let (near, far) = UnixStream::pair().expect("a socket pair");
    let (near_read, far_read) = (near.try_clone().expect("a clone"), far.try_clone().expect("a clone"));
    stream(bencher, case, (near_read, near), (far_read, far));
}

#[divan::bench(args = cases())]
fn pipes(bencher: Bencher<'_, '_>, case: Case) {
    let (far_read, near_write) = std::io::pipe().expect("a pipe");
    let (near_read, far_write) = std::io::pipe().expect("a pipe");
    stream(bencher, case, (near_read, near_write), (far_read, far_write));
}

fn lane(bencher: Bencher<'_, '_>, Case(place, size): Case, wait: Wait) {
    let (mut client, mut server) = lane::echo(wait);
    let (body, mut answer) = (vec![1; size], vec![0; size]);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            place.pin(true);
            server.run();
        });
        place.pin(false);
        bencher.bench_local(|| client.ask(&body, &mut answer));
        client.stop();
    });
}

/// The same echo over byte streams: the whole body is read, then written back.
fn stream<R: Read + Send, W: Write + Send>(
    bencher: Bencher<'_, '_>,
    Case(place, size): Case,
    (mut near_read, mut near_write): (R, W),
    (mut far_read, mut far_write): (R, W),
) {
    let (body, mut answer) = (vec![1; size], vec![0; size]);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            place.pin(true);
            let mut body = vec![0; size];
            while far_read.read_exact(&mut body).is_ok() && far_write.write_all(&body).is_ok() {}
        });
        place.pin(false);
        bencher.bench_local(|| {
            near_write.write_all(&body).expect("the other side reads");
            near_read.read_exact(&mut answer).expect("the other side answers");
        });
        drop(near_write);
        drop(near_read);
    });
}
