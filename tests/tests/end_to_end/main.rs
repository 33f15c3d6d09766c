//! The main job, end to end: the real command, supervisor, proxy, replicas and libraries.

mod asynchronous;
mod batching;
mod examples;
mod faults;
mod files;
mod graphs;
mod handles;
mod hostile;
mod http;
mod lifecycle;
mod streaming;
mod tls;
mod updates;
mod websockets;
