//! A process that has no descriptor left. Alone in its program, since the limit is the whole process's.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use decurion_ipc::link::{Link, LinkError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn a_message_whose_descriptors_find_no_room_says_so() {
    let (near, far) = Link::pair().expect("two descriptors");
    let carried = File::open("/dev/null").expect("it is everywhere");
    near.send(&1u32, &[carried.as_fd()]).expect("there is room");
    near.send(&2u32, &[]).expect("there is room");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be read");
    // The lowest number that is free is the next one to be given out.
    let next = carried.try_clone().expect("one more").as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(next).expect("not negative"), hard)
        .expect("lower is allowed");
    let received = far.try_recv::<u32>();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as it was");
    assert!(matches!(received, Err(LinkError::NoDescriptors)), "{received:?}");
    assert!(matches!(far.try_recv::<u32>(), Ok(Some((2, fds))) if fds.is_empty()), "the next one is heard");
}
