//! Plain data that every part of Decurion speaks: names, route prefixes, specs, statuses, the admin API's
//! messages, limits. No I/O, no clocks, no threads; every type is checked where it is made.

pub mod admin;
pub mod histogram;
pub mod limits;
pub mod name;
pub mod route;
pub mod spec;
pub mod status;

pub use histogram::Histogram;
pub use name::{ApplicationName, ClassName, DeploymentName, NameError, ReplicaId, SetName};
pub use route::{RouteError, RoutePrefix};
