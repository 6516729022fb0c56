//! Whether replicas share what they count: told to probes and in the figures.

use std::sync::Arc;

use super::{Health, Metrics};

/// Where it is noted.
#[derive(Clone, Debug)]
pub struct Replication {
    health: Arc<Health>,
    metrics: Metrics,
}

impl Replication {
    /// Noted for these.
    pub fn new(health: Arc<Health>, metrics: Metrics) -> Self {
        Self { health, metrics }
    }

    /// Redis answers, or does not.
    pub fn set(&self, is_up: bool) {
        self.health.set_redis(is_up);
        self.metrics.set_redis(is_up);
    }
}
