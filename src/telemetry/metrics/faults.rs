//! Figures of what failures lead to: cooldowns, and attempts elsewhere. They appear with the first failure.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Default)]
pub(super) struct Families {
    cooldowns: Family<Labels, Counter>,
    failovers: Family<Labels, Counter>,
}

/// Those of one model.
#[derive(Clone, Debug)]
pub struct FaultMetrics {
    model: Arc<str>,
    families: Families,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    provider: Arc<str>,
    model: Arc<str>,
    cause: &'static str,
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        let cooldowns = "Cooldowns that have begun, by the failure that was their cause";
        registry.register("cooldowns", cooldowns, self.cooldowns.clone());
        let failovers = "Attempts after another one has failed, by its provider and its failure";
        registry.register("failovers", failovers, self.failovers.clone());
    }

    pub(super) fn of(&self, model: &Arc<str>) -> FaultMetrics {
        FaultMetrics { model: model.clone(), families: self.clone() }
    }
}

impl FaultMetrics {
    /// A cooldown begins.
    pub fn cooldown(&self, provider: &Arc<str>, cause: &'static str) {
        self.count(&self.families.cooldowns, provider, cause);
    }

    /// Another attempt is made after one of this provider's.
    pub fn failover(&self, provider: &Arc<str>, cause: &'static str) {
        self.count(&self.families.failovers, provider, cause);
    }

    fn count(&self, family: &Family<Labels, Counter>, provider: &Arc<str>, cause: &'static str) {
        let labels = Labels { provider: provider.clone(), model: self.model.clone(), cause };
        family.get_or_create(&labels).inc();
    }
}
