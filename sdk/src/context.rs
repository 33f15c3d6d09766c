//! Who this replica is.

use crate::sys::host;

/// Who this replica is, for the life of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Name of the deployment.
    pub deployment: &'static str,
    /// Id of the replica.
    pub replica: &'static str,
    /// Version of the deployment.
    pub version: &'static str,
    /// Name of the application.
    pub application: &'static str,
    /// 0-based place among the deployment's replicas, stable over restarts.
    pub rank: u32,
    /// How many replicas the deployment is to have.
    pub world_size: u32,
    /// Handler threads of this replica.
    pub threads: u32,
}

/// Who this replica is. Everything is empty outside of one.
#[must_use]
pub fn context() -> Context {
    host::context().map_or_else(Context::default, |context| Context {
        deployment: host::static_text(context.deployment),
        replica: host::static_text(context.replica),
        version: host::static_text(context.version),
        application: host::static_text(context.application),
        rank: context.rank,
        world_size: context.world_size,
        threads: context.threads,
    })
}
