//! The health of all deployments, providers and keys. It outlives a change of the configuration, and replicas share it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Health;

/// The other replicas of the gateway, which leave alone what cools down here. Both calls come back at once, whatever the
/// way to the others is like.
pub trait Replicas: Debug + Send + Sync {
    /// It cools down from now on, for this time.
    fn cools_down(&self, name: &str, rest: Rest);

    /// It answers again.
    fn is_well(&self, name: &str);
}

/// A cooldown, as replicas tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// How long it lasts.
    pub lasts: Duration,
    /// Whether its server wants to be left alone until then.
    pub is_will: bool,
}

/// The health of everyone, by names. Shared by all states of the configuration.
#[derive(Clone, Debug, Default)]
pub struct HealthBook {
    // A std mutex: held for a look into a map, when routes are made.
    known: Arc<Mutex<HashMap<String, Arc<Health>>>>,
    others: Option<Arc<dyn Replicas>>,
}

impl HealthBook {
    /// One whose cooldowns other replicas hear of. What they say themselves comes by [`HealthBook::told`].
    pub fn shared(others: Arc<dyn Replicas>) -> Self {
        Self { others: Some(others), ..Self::default() }
    }

    /// Another replica says that a deployment, provider or key cools down for this time, or with `None` that it is well again.
    pub fn told(&self, name: &str, rest: Option<Rest>) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(health) = known {
            health.told(rest, Instant::now());
        }
    }

    /// That of a deployment, or of a provider, as before if it was known.
    pub(in crate::router) fn of(&self, id: &str) -> Arc<Health> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let others = || self.others.clone().map(|others| (id.into(), others));
        let new = || Arc::new(Health { others: others(), ..Health::default() });
        known.entry(id.to_owned()).or_insert_with(new).clone()
    }

    /// Forgets those that no route speaks of any more.
    pub(in crate::router) fn forget_the_unused(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, health| Arc::strong_count(health) > 1);
    }
}
