//! Write deployments for Decurion: a Rust class in a shared library, served over HTTP and called through handles.
//!
//! ```no_run
//! use decurion::prelude::*;
//!
//! #[deployment]
//! fn hello(_req: Request) -> &'static str {
//!     "Hello world!"
//! }
//! ```
//!
//! A class with state is an `impl`: `new` is its constructor, `call` takes HTTP requests, any other `pub fn` is a
//! method for handles; `reconfigure` takes a new `user_config` while it runs, `check_health` says whether it is well,
//! and `Drop` is the destructor.

/// The author guide's snippets, run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/authors.md")]
mod guide {}

/// The same of the page on async.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../../docs/async.md")]
mod guide_to_async {}

/// The same of the page on axum.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../../docs/axum.md")]
mod guide_to_axum {}

/// The same of the page for who knows Ray Serve.
#[cfg(doctest)]
#[doc = include_str!("../../docs/from-ray-serve.md")]
mod guide_from_ray_serve {}

mod arguments;
mod batch;
mod batched;
mod class;
mod client;
mod codec;
mod context;
mod error;
#[cfg(feature = "tracing")]
mod events;
mod handle;
mod head;
#[cfg(feature = "axum")]
mod ingress;
pub mod log;
pub mod metrics;
mod models;
mod request;
mod response;
#[cfg(feature = "tokio")]
mod runtime;
mod stream;
#[cfg(feature = "tokio")]
mod stream_async;
mod streamed;
mod streamed_response;
#[expect(
    unsafe_code,
    clippy::disallowed_methods,
    reason = "the C ABI's other side, and the clock of deadlines"
)]
mod sys;
pub mod test;
mod types;
#[cfg(feature = "websocket")]
mod websocket;

pub use arguments::Arguments;
#[cfg(feature = "axum")]
pub use axum;
pub use bytes::Bytes;
pub use class::Pending;
pub use context::{Context, context};
pub use decurion_macros::deployment;
pub use error::{Error, Result};
pub use handle::{Handle, PendingCall};
pub use http;
pub use http::{HeaderMap, Method, StatusCode};
pub use models::{Models, model_id};
pub use request::{BodyReader, Request};
pub use response::{IntoResponse, Json, Response};
pub use serde;
pub use serde_json;
pub use serde_json::{Value, json};
pub use stream::{BodyWriter, Event};
#[cfg(feature = "tokio")]
pub use stream_async::AsyncBodyWriter;
#[cfg(feature = "tokio")]
pub use streamed::AsyncItems;
pub use streamed::{Items, Stream, Streamed};
pub use streamed_response::StreamedResponse;
#[cfg(feature = "tokio")]
pub use tokio;
#[cfg(all(feature = "tokio", feature = "websocket"))]
pub use websocket::AsyncWebSocket;
#[cfg(feature = "websocket")]
pub use websocket::{Message, WebSocket};

/// Everything that most deployments need.
pub mod prelude {
    pub use crate::{Error, Handle, Json, Request, Response, Result, StatusCode, Value, deployment, json};
    pub use decurion_macros::{Deserialize, Serialize};
    // The traits alone: the derives of the same names are ours, which need no serde beside us.
    pub use serde::{de::Deserialize, ser::Serialize};
}

/// For the code that `#[deployment]` writes.
#[doc(hidden)]
pub mod __private {
    pub use crate::arguments::Signature;
    pub use crate::batch::Declared;
    #[cfg(feature = "tokio")]
    pub use crate::batched::batched_async;
    pub use crate::batched::{BatchEntry, Outcome, answers, batched};
    pub use crate::class::{
        CallEntry, Class, Constructed, Done, HealthEntry, Hidden, Invocation, MethodCall, MethodEntry,
        MethodResult, ReconfigureEntry, argument, configuration, constructor_arguments, shared,
    };
    pub use crate::client::Asked;
    #[cfg(feature = "axum")]
    pub use crate::ingress::IngressEntry;
    pub use crate::response::IntoResponse;
    #[cfg(feature = "tokio")]
    pub use crate::runtime::block_on;
    pub use crate::sys::{ForeignClass, class_table, method, streaming};
    pub use decurion_abi as abi;
}
