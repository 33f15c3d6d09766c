//! The main job, end to end: the real command, supervisor, proxy, replicas and libraries.

mod asynchronous;
mod batching;
mod bodies;
mod browser;
mod conformance;
mod examples;
mod faults;
mod files;
mod graphs;
mod handles;
mod hostile;
mod http;
mod judged;
mod kills;
mod lifecycle;
mod load;
mod metrics;
mod multiplexing;
mod ownership;
mod rollouts;
mod scaling;
mod streaming;
mod succession;
mod tls;
mod updates;
mod websockets;
