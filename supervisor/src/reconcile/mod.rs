//! The reconciler: from what is wanted and what is observed to the next steps. Pure: facts and `now` in, orders out.
//!
//! ```text
//!   facts ──> Core::handle ──> observed state ──┐
//!   revisions ──> Core::accept ──> desired ─────┼──> plan(desired, observed, now) ──> orders, held, wake
//!                                               └────────── each order is noted as under way ──┘
//! ```
//!
//! It works from levels: each turn compares the whole of both states anew, so that a fact that was lost or came twice
//! does no harm. It knows nothing of descriptors, files and threads.

pub mod adopt;
pub mod autoscale;
pub mod backoff;
pub mod callers;
pub mod canary;
pub mod core;
pub mod deployment;
pub mod fact;
pub mod liveness;
pub mod observed;
pub mod order;
pub mod plan;
pub mod progress;
pub mod proxy;
mod recycle;
pub mod replica;
pub mod severed;
pub mod status;
pub mod takedown;
pub mod together;
pub mod views;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

pub use self::core::{Core, Note, Now};
pub use adopt::{AdoptedProxy, AdoptedReplica, AdoptedStage, Counts};
pub use fact::{Board, CallerId, Exit, Fact, ProxyInstance, Work};
pub use observed::Observed;
pub use order::{Order, PutBack, Spawn, Why};
pub use plan::{Held, Plan, Report, plan};
pub use views::REASON_IN_VIEW_MAX;
