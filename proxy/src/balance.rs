//! Which replica gets a request, and who waits for one: shared by all workers.
//!
//! Counts are exact, since they are ours: a replica's requests in flight are reserved by compare-and-swap before a
//! worker sends anything, from the very count it was chosen by, so that two workers that choose at the same instant do
//! not both choose the same one. Whoever finds no slot waits in its deployment's queue, first come first served across
//! workers, and is handed a slot the moment one frees; nobody polls. Knows no sockets and no channels.
//!
//! Some of those who wait do so at a replica: a replica that answers quickly is sent more than it may run at once, so
//! that its next request is there when it is done with one, and one doorbell serves many. How many follows from how
//! fast it answers (`replica::Pace`): one that lies there is not held up by much more than [`AHEAD_SPAN`]. It runs no more than
//! it may, which the replica itself sees to, and those beyond count as waiting. Where they would wait longer than
//! elsewhere, workers take them back (`Engine::even_out`).

mod backends;
mod queue;
mod replica;
#[cfg(test)]
mod tests;

pub use self::backends::{Backends, Canary};
pub use self::queue::{Admission, Deployment, Grant, Place, Post, Prospects, Waiter};
pub use self::replica::{AHEAD_FRESH, AHEAD_SPAN, LaneIndex, Load, Replica};
