//! All pools of the service, which outlive a change of the configuration.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use super::pool::{Configured, Pool, Stage};
use super::process::Launcher;
use super::view::EngineEvent;
use crate::config::{EngineModel, EngineSettings};
use crate::telemetry::Metrics;

/// All engines of the service.
#[derive(Clone, Debug)]
pub struct Engines {
    // A std mutex: held for a look into two maps.
    pools: Arc<Mutex<Pools>>,
    tasks: TaskTracker,
    launcher: Launcher,
    events: broadcast::Sender<EngineEvent>,
    metrics: Metrics,
}

/// So many steps are kept for a listener that is slow; then it misses some.
const EVENTS_KEPT: usize = 256;

#[derive(Debug, Default)]
struct Pools {
    current: HashMap<String, Arc<Pool>>,
    /// Of providers that are new in a configuration that may still be refused.
    new: HashMap<String, Arc<Pool>>,
    /// What such a configuration says.
    proposed: HashMap<String, Configured>,
}

impl Default for Engines {
    fn default() -> Self {
        Self {
            pools: Arc::default(),
            tasks: TaskTracker::new(),
            launcher: Launcher::default(),
            events: broadcast::Sender::new(EVENTS_KEPT),
            metrics: Metrics::default(),
        }
    }
}

impl Engines {
    /// Engines that are started in this way.
    pub fn started_by(launcher: Launcher) -> Self {
        Self { launcher, ..Self::default() }
    }

    /// The same, with their figures among these.
    #[must_use]
    pub fn metered_by(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Where their figures are.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn locked(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool of a provider, the same as before if there was one. What is said of it holds with [`Engines::settle`].
    pub fn pool(
        &self,
        provider: &str,
        settings: &EngineSettings,
        models: Vec<(Arc<str>, EngineModel)>,
    ) -> Arc<Pool> {
        let configured = Configured { settings: settings.clone(), models };
        let mut pools = self.locked();
        pools.proposed.insert(provider.to_owned(), configured.clone());
        if let Some(pool) = pools.current.get(provider) {
            return pool.clone();
        }
        let stage =
            Stage { provider: provider.into(), events: self.events.clone(), metrics: self.metrics.clone() };
        let (tasks, launcher) = (self.tasks.clone(), self.launcher.clone());
        let pool = Arc::new(Pool::new(configured, tasks, launcher, stage));
        pools.new.insert(provider.to_owned(), pool.clone());
        pool
    }

    /// The configuration that was proposed last holds from now on, with these providers. Engines that it does not know
    /// any more end with their answers.
    pub fn settle(&self, providers: &[&str]) {
        let mut pools = self.locked();
        let Pools { current, new, proposed } = &mut *pools;
        current.extend(std::mem::take(new));
        let proposed = std::mem::take(proposed);
        current.retain(|provider, pool| {
            let configured = proposed.get(provider).filter(|_| providers.contains(&provider.as_str()));
            match configured {
                Some(configured) => pool.configure(configured.clone()),
                None => pool.close(),
            }
            configured.is_some()
        });
    }

    /// All pools with their providers' names, in the order of those.
    pub fn pools(&self) -> Vec<(String, Arc<Pool>)> {
        let pools = self.locked();
        let mut pools: Vec<_> =
            pools.current.iter().map(|(name, pool)| (name.clone(), pool.clone())).collect();
        pools.sort_by(|one, other| one.0.cmp(&other.0));
        pools
    }

    /// The pool of a provider, if the gateway runs its engines.
    pub fn pool_of(&self, provider: &str) -> Option<Arc<Pool>> {
        self.locked().current.get(provider).cloned()
    }

    /// Every step in any engine's life from now on.
    pub fn events(&self) -> broadcast::Receiver<EngineEvent> {
        self.events.subscribe()
    }

    /// Starts the engines that are to run from the beginning. Nobody waits for them.
    pub fn preload(&self) {
        self.pools().iter().for_each(|(_, pool)| pool.preload());
    }

    /// Stops all engines, and comes back when the last of them has ended.
    pub async fn end(&self) {
        for (_, pool) in self.pools() {
            pool.close();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}
