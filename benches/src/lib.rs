//! What the benches share: two sides, where they run, and how they wait for each other.

pub mod lane;
pub mod place;
pub mod replica;
