//! Round trips over iceoryx2, which is built only for this (feature `iceoryx2`).

use std::time::Duration;

use iceoryx2::prelude::*;

use crate::contest::{between, p50};
use crate::place::Place;

/// Request and response of one size; with `events` both sides sleep until they are notified, else they look all the
/// time.
#[must_use]
pub fn round_trip(place: Place, size: usize, events: bool, lasts: Duration) -> f64 {
    set_log_level(LogLevel::Fatal);
    let name = format!("decurion-bench-{}-{size}", std::process::id());
    let ready = std::sync::Barrier::new(2);
    let server = || serve(&name, size, events, &ready);
    between(place, server, || {
        let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
        let service = node
            .service_builder(&name.as_str().try_into().expect("a name"))
            .request_response::<[u8], [u8]>()
            .open_or_create()
            .expect("a service");
        let client = service.client_builder().initial_max_slice_len(size.max(1)).create().expect("a client");
        let (asked, answered) = bells(&node, &name);
        let (notifier, listener) = (
            asked.notifier_builder().create().expect("a notifier"),
            answered.listener_builder().create().expect("a listener"),
        );
        ready.wait();
        ready.wait();
        let body = vec![1; size];
        let mut answer = vec![0; size];
        let mut ask = |body: &[u8]| {
            let request = client.loan_slice_uninit(body.len()).expect("room").write_from_slice(body);
            let pending = request.send().expect("a server");
            if events {
                let _ = notifier.notify();
            }
            loop {
                if let Some(response) = pending.receive().expect("a server") {
                    answer[..response.payload().len()].copy_from_slice(response.payload());
                    return;
                }
                if events {
                    let _ = listener.blocking_wait(|_| {});
                } else {
                    std::hint::spin_loop();
                }
            }
        };
        let figure = p50(lasts, || ask(&body));
        ask(&[]);
        figure
    })
}

fn serve(name: &str, size: usize, events: bool, ready: &std::sync::Barrier) {
    let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
    ready.wait();
    let service = node
        .service_builder(&name.try_into().expect("a name"))
        .request_response::<[u8], [u8]>()
        .open_or_create()
        .expect("a service");
    let server = service.server_builder().initial_max_slice_len(size.max(1)).create().expect("a server");
    let (asked, answered) = bells(&node, name);
    let (listener, notifier) = (
        asked.listener_builder().create().expect("a listener"),
        answered.notifier_builder().create().expect("a notifier"),
    );
    ready.wait();
    let mut scratch = vec![0; size];
    loop {
        let Some(request) = server.receive().expect("a client") else {
            if events {
                let _ = listener.blocking_wait(|_| {});
            } else {
                std::hint::spin_loop();
            }
            continue;
        };
        let length = request.payload().len();
        scratch[..length].copy_from_slice(request.payload());
        let response = request.loan_slice_uninit(length).expect("room").write_from_slice(&scratch[..length]);
        response.send().expect("a client");
        if events {
            let _ = notifier.notify();
        }
        // Nothing at all is the end.
        if length == 0 {
            return;
        }
    }
}

type Bell = iceoryx2::service::port_factory::event::PortFactory<ipc::Service>;

fn bells(node: &Node<ipc::Service>, name: &str) -> (Bell, Bell) {
    let make = |what: &str| {
        node.service_builder(&format!("{name}-{what}").as_str().try_into().expect("a name"))
            .event()
            .open_or_create()
            .expect("an event")
    };
    (make("asked"), make("answered"))
}
