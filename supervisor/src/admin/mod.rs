//! The admin API: what may be asked of the supervisor, over which paths, and what is answered.
//!
//! [`ask`] is the boundary to the loop: one enum of questions, one of answers, one of errors. [`routes`] maps HTTP to
//! it and back; [`problems`] gives errors their form. Nothing here touches the machine.

pub mod ask;
pub mod problems;
pub mod routes;

pub use ask::{Answer, Ask, AskError, Change};
