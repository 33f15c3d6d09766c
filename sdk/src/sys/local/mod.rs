//! A host in this process, for tests: it drives classes through the same tables that a replica does, one thread for
//! each call. Deployments of one [`App`] find each other by name.

mod alive;
mod app;
mod exchange;
mod meter;
mod table;
#[cfg(feature = "websocket")]
mod tunnel;

pub(crate) use app::App;
#[cfg(feature = "websocket")]
pub(crate) use tunnel::Tunnel;
