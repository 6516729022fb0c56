//! Figures of the signs of life that providers are asked for. Their labels are the providers of the models file.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Default)]
pub(super) struct Families {
    probes: Family<ProbeLabels, Counter>,
    up: Family<ProviderLabels, Gauge>,
}

/// The figures of one provider's probes, found once when the models file is loaded.
#[derive(Clone, Debug)]
pub struct ProbeMetrics {
    provider: Arc<str>,
    // Families, not series: what is not known yet is not shown.
    families: Families,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProviderLabels {
    provider: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProbeLabels {
    provider: Arc<str>,
    outcome: &'static str,
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("probes", "Probes of providers by outcome", self.probes.clone());
        let up = "Whether the last probe of a provider found it alive";
        registry.register("provider_up", up, self.up.clone());
    }

    pub(super) fn of(&self, provider: &Arc<str>) -> ProbeMetrics {
        ProbeMetrics { provider: provider.clone(), families: self.clone() }
    }

    /// Another configuration holds: who is alive is to be found out anew.
    pub(super) fn forget(&self) {
        self.up.clear();
    }
}

impl ProbeMetrics {
    /// A probe is over: whether it was answered, and whether the server is taken for alive.
    pub fn probed(&self, ok: bool, is_up: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        let Families { probes, up } = &self.families;
        probes.get_or_create(&ProbeLabels { provider: self.provider.clone(), outcome }).inc();
        let labels = ProviderLabels { provider: self.provider.clone() };
        up.get_or_create(&labels).set(i64::from(is_up));
    }
}
