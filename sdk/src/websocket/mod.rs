//! Websockets (RFC 6455): what [`Response::websocket`](crate::Response::websocket) hands to its author.
//!
//! The protocol itself is tungstenite's, over buffers ([`core`]); who fills and empties them is another matter: a thread
//! that waits ([`blocking`]), a future ([`asynchronous`]), or a test's client. What travels is the exchange's body both
//! ways, after a 101.

#[cfg(feature = "tokio")]
mod asynchronous;
mod blocking;
mod client;
mod core;
mod handshake;
mod message;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncWebSocket;
#[cfg(feature = "tokio")]
pub(crate) use asynchronous::{AsyncTalk, respond_async};
pub use blocking::WebSocket;
pub(crate) use blocking::{Talk, respond};
pub use client::WebSocketClient;
pub(crate) use client::offer;
pub use message::Message;
