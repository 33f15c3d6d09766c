//! What it costs to find a route, with few of them and with many: goal H15 wants the same.
//!
//! `cargo bench -p decurion-benches --bench route_match`

use divan::{Bencher, black_box};

use decurion_api::RoutePrefix;
use decurion_proxy::route::RouteTable;

fn main() {
    divan::main();
}

fn table(routes: usize) -> RouteTable<usize> {
    RouteTable::new((0..routes).map(|at| {
        let prefix = if at % 3 == 0 { format!("/team-{at}/service") } else { format!("/api/v1/model-{at}") };
        (RoutePrefix::new(prefix).unwrap(), at)
    }))
}

const ROUTES: [usize; 4] = [1, 10, 1_000, 10_000];

/// The same path each time, as under load on one deployment.
#[divan::bench(args = ROUTES)]
fn one_path(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes);
    bencher.bench(|| table.find(black_box(b"/team-0/service/items/17")).map(|(_, at)| *at));
}

/// Another path each time, so that the table is not always in the cache.
#[divan::bench(args = ROUTES)]
fn paths_in_turn(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes);
    let paths: Vec<String> =
        table.iter().map(|(prefix, _)| format!("{}/items/17", prefix.as_str())).collect();
    let mut turn = 0;
    bencher.bench_local(|| {
        turn = (turn + 7) % paths.len();
        table.find(black_box(paths[turn].as_bytes())).map(|(_, at)| *at)
    });
}

/// No route at all.
#[divan::bench(args = ROUTES)]
fn a_miss(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes);
    bencher.bench(|| table.find(black_box(b"/favicon.ico")).is_none());
}
