//! How many replicas a deployment has where its load decides, in Ray Serve's words.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Between which bounds the number of replicas follows the load, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoscalingSpec {
    /// Never fewer. 0: without requests none is left, and the first one brings one back.
    pub min_replicas: u32,
    /// Never more.
    pub max_replicas: u32,
    /// To begin with; `None`: `min_replicas`.
    pub initial_replicas: Option<u32>,
    /// Requests that are running or waiting, for each replica: what the number of replicas aims at.
    pub target_ongoing_requests: f64,
    /// More must be wanted for so long before there are more.
    pub upscale_delay: Duration,
    /// Fewer must be wanted for so long before there are fewer.
    pub downscale_delay: Duration,
    /// The same for the last one; `None`: `downscale_delay`.
    pub downscale_to_zero_delay: Option<Duration>,
    /// The load is the mean over so long a time.
    pub look_back_period: Duration,
    /// From one look at the load to the next.
    pub metrics_interval: Duration,
    /// Part of the way up that one step takes; 1: all of it.
    pub upscaling_factor: f64,
    /// Part of the way down that one step takes; 1: all of it.
    pub downscaling_factor: f64,
}

impl Default for AutoscalingSpec {
    fn default() -> Self {
        Self {
            min_replicas: 1,
            max_replicas: 1,
            initial_replicas: None,
            target_ongoing_requests: 2.0,
            upscale_delay: Duration::from_secs(30),
            downscale_delay: Duration::from_secs(600),
            downscale_to_zero_delay: None,
            look_back_period: Duration::from_secs(30),
            metrics_interval: Duration::from_secs(1),
            upscaling_factor: 1.0,
            downscaling_factor: 1.0,
        }
    }
}

impl AutoscalingSpec {
    /// What `num_replicas = "auto"` stands for.
    #[must_use]
    pub fn auto() -> Self {
        Self { max_replicas: 100, ..Self::default() }
    }

    /// How many there are to begin with.
    #[must_use]
    pub fn initial(&self) -> u32 {
        self.initial_replicas.unwrap_or(self.min_replicas)
    }
}
