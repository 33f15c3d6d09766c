//! What touches the machine for handles: the handle socket, sleeping, the clock.

pub(crate) mod engine;
pub(crate) mod machine;
pub(crate) mod socket;
