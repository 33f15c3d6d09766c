//! Stands in for `decurion-proxy` in the supervisor's tests: takes every order, acknowledges every view, serves nobody.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use decurion_ipc::control::{ProxyOrder, ProxyReport};
use decurion_ipc::link::Link;
use decurion_ipc::proxy_control::{Received, connect};

fn main() {
    let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().expect("a link as standard input");
    let (orders, reports) = connect(Link::from_fd(socket), Duration::from_secs(10)).expect("a supervisor");
    reports.send(ProxyReport::Started).expect("a supervisor that reads");
    let mut held = Vec::new();
    orders.run(move |received| match received {
        Received::Message((ProxyOrder::View(view), _)) => {
            let applied = ProxyReport::Applied { generation: view.generation, unreachable: Vec::new() };
            reports.send(applied).expect("a supervisor that reads");
        }
        Received::Message((ProxyOrder::Probe { sequence }, _)) => {
            reports.send(ProxyReport::Alive { sequence }).expect("a supervisor that reads");
        }
        Received::Message((ProxyOrder::Drain(_) | ProxyOrder::Retire(_), _)) | Received::Closed => {
            std::process::exit(0)
        }
        Received::Message((_, fds)) => held.extend(fds),
        Received::Malformed(why) => panic!("{why}"),
    });
}
