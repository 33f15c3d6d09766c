//! What workers route by: one immutable value for each generation.

use std::sync::Arc;
use std::time::Duration;

use decurion_ipc::control::{Availability, Generation};
use decurion_ipc::epoch::Epoch;

use crate::balance::{Backends, Deployment};
use crate::route::RouteTable;

/// One generation.
#[derive(Debug, Default)]
pub struct View {
    /// Which; zero before the first.
    pub generation: Generation,
    /// With what requests enter.
    pub entry: Epoch,
    /// By route prefix.
    pub routes: RouteTable<Route>,
}

/// Where a prefix leads.
#[derive(Debug)]
pub struct Route {
    /// Its place among the routes of its view.
    pub place: usize,
    /// The queue.
    pub deployment: Arc<Deployment>,
    /// The replicas, as of this generation.
    pub backends: Arc<Backends>,
    /// Whether it can serve.
    pub availability: Availability,
    /// The whole request; `None`: the proxy's default; zero: no limit.
    pub request_timeout: Option<Duration>,
    /// Whether its class answers HTTP.
    pub http: bool,
}

impl View {
    /// Whether a view has come at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.generation > Generation(0)
    }

    /// `{"/prefix": "deployment"}`, for `/-/routes`.
    #[must_use]
    pub fn routes_json(&self) -> Vec<u8> {
        let routes: std::collections::BTreeMap<&str, &str> = self
            .routes
            .iter()
            .map(|(prefix, route)| (prefix.as_str(), route.deployment.name.as_str()))
            .collect();
        serde_json::to_vec(&routes).unwrap_or_default()
    }
}
