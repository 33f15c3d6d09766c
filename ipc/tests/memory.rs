//! What the lanes of sixteen workers cost, in memory that is really there: in a process of its own, since it is counted
//! for the whole process.

use decurion_ipc::attach::{self, UpBell};
use decurion_ipc::channel::{Event, Geometry, Request};

const WORKERS: u16 = 16;
/// Of two hundred: descriptors are few in a test's process, and each replica costs the same.
const REPLICAS: usize = 20;
/// A page of control words, one of the ring and one of the arena, each way; both ends map them here.
const LANE_KIB_MAX: u64 = 2 * 2 * 3 * 4;

fn shared_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).expect("RssShmem");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn an_idle_lane_costs_a_few_pages_and_a_detached_one_nothing() {
    let geometry = Geometry::fitting(usize::from(WORKERS), 200, 5);
    let before = shared_kib();
    let mut attached = Vec::new();
    for _ in 0..REPLICAS {
        let (mut near, mut far) = attach::local(WORKERS, geometry, UpBell::Pipe).expect("a channel");
        for (caller, callee) in near.lanes.iter_mut().zip(&mut far.lanes) {
            caller.open(b"head", b"some body", true).expect("room for one");
            let mut came = None;
            callee
                .poll(8, &mut |request| {
                    if let Request::Open { stream, body, .. } = request {
                        came = Some((stream, body));
                    }
                })
                .expect("no fault");
            let (stream, body) = came.expect("the request");
            body.into_iter().for_each(|block| callee.give_back(block));
            callee.head(stream, b"head", b"some answer", true).expect("room for one");
            let mut blocks = Vec::new();
            caller
                .poll(8, &mut |event| {
                    if let Event::Head { body, .. } = event {
                        blocks.extend(body);
                    }
                })
                .expect("no fault");
            assert_eq!(blocks.len(), 1);
            blocks.into_iter().for_each(|block| caller.give_back(block));
            assert!(caller.arm());
            callee.arm();
        }
        attached.push((near, far));
    }
    let lanes = u64::from(WORKERS) * REPLICAS as u64;
    let used = shared_kib() - before;
    assert!(used > 0 && used <= lanes * LANE_KIB_MAX, "{lanes} lanes take {used} KiB");
    drop(attached);
    assert!(shared_kib() <= before + 64, "what was detached is still there");
}
