//! What the benches share: two sides, where they run, how they wait for each other, and what they are compared with.

pub mod contest;
pub mod goal;
pub mod http;
#[cfg(feature = "iceoryx2")]
pub mod iceoryx;
pub mod lane;
pub mod pipeline;
pub mod place;
pub mod replica;
pub mod rivals;
