//! What it costs the proxy to count a request, of which goal H13 wants 1 % at most: beside what a request costs in all
//! (`cargo xtask bench end_to_end`, the column of CPU).
//!
//! `cargo bench -p decurion-benches --bench metrics`

use std::time::Duration;

use decurion_ipc::stats::Counts;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// A request that came to its end, as the engine counts it: its status, its bytes, and three times in histograms.
fn count(counts: &mut Counts, took: Duration) {
    counts.count_status(black_box(200));
    counts.bytes_out = counts.bytes_out.saturating_add(black_box(13));
    counts.bytes_in = counts.bytes_in.saturating_add(black_box(0));
    counts.duration.record(took);
    counts.queue.record(black_box(Duration::ZERO));
    counts.handler.record(took);
}

/// Times of all sizes in turn, so that each meets another bucket.
#[divan::bench]
fn one_request(bencher: Bencher<'_, '_>) {
    let (mut counts, mut took) = (Counts::default(), 10u64);
    bencher.bench_local(|| {
        took = if took > 1_000_000_000 { 10 } else { took * 2 };
        count(&mut counts, black_box(Duration::from_nanos(took)));
    });
    assert!(counts.requests() > 0, "nothing was counted");
}

/// A worker's counts of one deployment, added to those of the other workers: once a second, however many requests there
/// were.
#[divan::bench]
fn one_report(bencher: Bencher<'_, '_>) {
    let mut counts = Counts::default();
    (0..1_000).for_each(|n| count(&mut counts, Duration::from_micros(n)));
    bencher.bench(|| {
        let mut sum = Counts::default();
        sum.merge(black_box(&counts));
        sum
    });
}
