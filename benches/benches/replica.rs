//! Requests to a real replica that answers "Hello world!": the whole of what stands between a lane and the author's
//! code, twice.
//!
//! Beside the round trips: how long the replica's threads run for one request, which other load on the machine does
//! not change much.

use std::fmt;
use std::io::{self, Write};

use decurion_benches::place::{self, Place};
use decurion_benches::replica::Replica;
use divan::Bencher;
use divan::counter::ItemsCount;

fn main() {
    divan::Divan::default().sample_count(100).sample_size(20).config_with_args().main();
    let _ = tell_of_work();
}

/// Handler threads, requests at once, and whether both processes run on one processor.
#[derive(Clone, Copy)]
struct Case(u16, usize, bool);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case(threads, depth, together) = self;
        // A side that is allowed one processor does not spin; where they are free, both may.
        let place = if *together { "one cpu" } else { "free" };
        write!(f, "{threads} threads, {depth} at once, {place}")
    }
}

fn cases() -> impl Iterator<Item = Case> {
    [true, false]
        .into_iter()
        .flat_map(|together| [Case(1, 1, together), Case(1, 16, together), Case(4, 16, together)])
}

fn start(case: Case) -> Replica {
    let Case(threads, _, together) = case;
    place::unpin();
    if together {
        Place::Same.pin(false);
    }
    // It inherits where this thread may run.
    Replica::start(threads)
}

#[divan::bench(args = cases())]
fn hello(bencher: Bencher<'_, '_>, case: Case) {
    let mut replica = start(case);
    bencher.counter(ItemsCount::new(case.1)).bench_local(|| replica.ask(case.1));
}

fn tell_of_work() -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\nhow long the replica runs for one request, sleeping and waking included")?;
    for case in cases() {
        let mut replica = start(case);
        let rounds = 20_000 / case.1;
        (0..rounds / 10).for_each(|_| replica.ask(case.1));
        let before = replica.ran_ns();
        (0..rounds).for_each(|_| replica.ask(case.1));
        let each = (replica.ran_ns() - before) / (rounds * case.1) as u64;
        writeln!(out, "  {case}: {each} ns")?;
    }
    Ok(())
}
