//! Figures in Prometheus' text format, or in that of OpenMetrics for those who ask for it.
//!
//! Every label is bounded by construction: endpoints are route patterns, models and providers are those
//! of the catalog, error codes are our own.

mod engines;
mod probes;

use std::collections::HashSet;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use engines::{EngineMetrics, StartOutcome};
pub use probes::ProbeMetrics;

/// All figures of the process. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    durations: Family<EndpointLabels, Histogram>,
    cancelled: Family<EndpointLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    first_token: Family<ModelLabels, Histogram>,
    tokens: Family<TokenLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    engines: engines::Families,
    probes: probes::Families,
    /// Records of usage that were written.
    pub usage_written: Counter,
    /// Records of usage that were lost.
    pub usage_dropped: Counter,
    /// Records of usage that wait to be written.
    pub usage_waiting: Gauge,
    // A family, not a gauge: without Redis nothing is shown.
    redis_up: Family<Vec<(String, String)>, Gauge>,
    /// Answers that are being streamed now.
    pub streams_open: Gauge,
    /// Connections of callers that are open now.
    pub connections_open: Gauge,
}

/// The figures of one public model, found once when the catalog is loaded.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    /// Seconds from the request to the first content.
    pub first_token: Histogram,
    /// Prompt tokens.
    pub input_tokens: Counter,
    /// Answer tokens.
    pub output_tokens: Counter,
}

/// The figures of one endpoint, found once when the paths are laid out.
#[derive(Clone, Debug)]
pub struct EndpointMetrics {
    /// The pattern of its path.
    pub name: Arc<str>,
    /// Whether models are asked there, so that each request is a line of the ledger.
    pub asks_models: bool,
    /// Requests whose caller left before the end.
    pub cancelled: Counter,
    /// By far the most frequent status need not be looked up.
    answered_200: Counter,
    duration: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    endpoint: Arc<str>,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptLabels {
    provider: Arc<str>,
    model: Arc<str>,
    outcome: &'static str,
}

/// How an upstream answered an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Content came.
    Answered,
    /// It did not, and the fault was the upstream's.
    Failed,
    /// The upstream refused the request.
    Rejected,
    /// Another one that was asked beside it was faster.
    Outrun,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    model: Arc<str>,
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReloadLabels {
    accepted: &'static str,
}

const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(histogram),
            cancelled: Family::default(),
            attempts: Family::default(),
            first_token: Family::new_with_constructor(histogram),
            tokens: Family::default(),
            reloads: Family::default(),
            engines: engines::Families::default(),
            probes: probes::Families::default(),
            usage_written: Counter::default(),
            usage_dropped: Counter::default(),
            usage_waiting: Gauge::default(),
            redis_up: Family::default(),
            streams_open: Gauge::default(),
            connections_open: Gauge::default(),
        };
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }
}

impl Metrics {
    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("llm_proxy");
        registry.register("requests", "Requests by endpoint and status", self.requests.clone());
        registry.register("errors", "Errors told to callers, by code", self.errors.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's head to the last byte of its answer",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register("cancelled", "Requests whose caller left before the end", self.cancelled.clone());
        registry.register("upstream_attempts", "Requests to upstreams by outcome", self.attempts.clone());
        registry.register_with_unit(
            "first_token",
            "Time from a request's head to the first content of its answer",
            Unit::Seconds,
            self.first_token.clone(),
        );
        registry.register("tokens", "Tokens by model and direction", self.tokens.clone());
        registry.register("reloads", "Changed configurations, accepted or not", self.reloads.clone());
        self.engines.register(&mut registry);
        self.probes.register(&mut registry);
        registry.register("usage_written", "Records of usage written", self.usage_written.clone());
        registry.register("usage_dropped", "Records of usage lost", self.usage_dropped.clone());
        registry.register(
            "usage_waiting",
            "Records of usage not yet written, as of the last try to write some",
            self.usage_waiting.clone(),
        );
        let redis_up = "Whether Redis answers, through which replicas share limits";
        registry.register("redis_up", redis_up, self.redis_up.clone());
        registry.register("streams_open", "Answers being streamed now", self.streams_open.clone());
        registry.register(
            "connections_open",
            "Connections of callers open now",
            self.connections_open.clone(),
        );
        registry
    }

    /// The figures of a public model.
    pub fn of_model(&self, model: &Arc<str>) -> ModelMetrics {
        let tokens =
            |direction| self.tokens.get_or_create(&TokenLabels { model: model.clone(), direction }).clone();
        ModelMetrics {
            first_token: self.first_token.get_or_create(&ModelLabels { model: model.clone() }).clone(),
            input_tokens: tokens("input"),
            output_tokens: tokens("output"),
        }
    }

    /// The figures of the engines of a model, by the provider's own name of it.
    pub fn of_engines(&self, provider: &Arc<str>, model: &Arc<str>) -> EngineMetrics {
        self.engines.of(provider, model)
    }

    /// The figures of a provider's probes.
    pub fn of_probes(&self, provider: &Arc<str>) -> ProbeMetrics {
        self.probes.of(provider)
    }

    /// Who is probed is another set from now on.
    pub fn forget_probes(&self) {
        self.probes.forget();
    }

    /// The count of attempts at a deployment with this outcome.
    pub fn attempts(&self, provider: &Arc<str>, model: &Arc<str>, outcome: AttemptOutcome) -> Counter {
        let outcome = match outcome {
            AttemptOutcome::Answered => "answered",
            AttemptOutcome::Failed => "failed",
            AttemptOutcome::Rejected => "rejected",
            AttemptOutcome::Outrun => "outrun",
        };
        let labels = AttemptLabels { provider: provider.clone(), model: model.clone(), outcome };
        self.attempts.get_or_create(&labels).clone()
    }

    /// The figures of an endpoint.
    pub fn of_endpoint(&self, name: &str) -> EndpointMetrics {
        let name: Arc<str> = name.into();
        let labels = EndpointLabels { endpoint: name.clone() };
        EndpointMetrics {
            cancelled: self.cancelled.get_or_create(&labels).clone(),
            answered_200: self
                .requests
                .get_or_create(&RequestLabels { endpoint: name.clone(), status: 200 })
                .clone(),
            asks_models: false,
            duration: self.durations.get_or_create(&labels).clone(),
            name,
        }
    }

    /// Counts a request that has ended.
    pub fn request_ended(&self, endpoint: &EndpointMetrics, status: u16, seconds: f64) {
        if status == 200 {
            endpoint.answered_200.inc();
        } else {
            self.requests.get_or_create(&RequestLabels { endpoint: endpoint.name.clone(), status }).inc();
        }
        endpoint.duration.observe(seconds);
    }

    /// Counts an error that a caller was told. `code` is one of ours.
    pub fn error(&self, code: &'static str) {
        self.errors.get_or_create(&ErrorLabels { code }).inc();
    }

    /// Counts a changed configuration.
    pub fn reloaded(&self, accepted: bool) {
        let accepted = if accepted { "true" } else { "false" };
        self.reloads.get_or_create(&ReloadLabels { accepted }).inc();
    }

    /// Redis answers, or does not.
    pub(super) fn set_redis(&self, is_up: bool) {
        self.redis_up.get_or_create(&Vec::new()).set(i64::from(is_up));
    }

    /// All figures, as OpenMetrics 1.0 writes them.
    pub fn render_open_metrics(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    /// All figures, in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        prometheus(&self.render_open_metrics())
    }
}

/// OpenMetrics in the older format: a counter is described by the name that its samples have, and there are neither
/// units nor an end.
fn prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        let (hash, keyword, name) = (words.next(), words.next(), words.next());
        match (hash, keyword, name) {
            (Some("#"), Some("UNIT" | "EOF"), _) => continue,
            (Some("#"), Some(keyword), Some(name)) if counters.contains(name) => {
                out.extend(["# ", keyword, " ", name, "_total ", words.next().unwrap_or_default()]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_their_labels() {
        let metrics = Metrics::default();
        let model: Arc<str> = "m".into();
        metrics.of_model(&model).input_tokens.inc_by(3);
        metrics.attempts(&"p".into(), &model, AttemptOutcome::Answered).inc();
        metrics.request_ended(&metrics.of_endpoint("/v1/models"), 200, 0.002);
        metrics.error("model_not_found");

        let text = metrics.render();

        for line in [
            "llm_proxy_tokens_total{model=\"m\",direction=\"input\"} 3",
            "llm_proxy_upstream_attempts_total{provider=\"p\",model=\"m\",outcome=\"answered\"} 1",
            "llm_proxy_requests_total{endpoint=\"/v1/models\",status=\"200\"} 1",
            "llm_proxy_request_duration_seconds_bucket{le=\"0.0025\",endpoint=\"/v1/models\"} 1",
            "llm_proxy_errors_total{code=\"model_not_found\"} 1",
            "llm_proxy_streams_open 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn counters_are_described_by_the_name_of_their_samples() {
        let metrics = Metrics::default();
        metrics.error("model_not_found");
        metrics.request_ended(&metrics.of_endpoint("/v1/models"), 200, 0.002);

        let text = metrics.render();

        assert!(text.contains("# TYPE llm_proxy_errors_total counter\nllm_proxy_errors_total{"), "{text}");
        assert!(text.contains("# HELP llm_proxy_errors_total Errors told to callers, by code.\n"), "{text}");
        assert!(text.contains("# TYPE llm_proxy_request_duration_seconds histogram\n"), "{text}");
        assert!(text.contains("# TYPE llm_proxy_streams_open gauge\n"), "{text}");
        assert!(!text.contains("# UNIT") && !text.contains("# EOF") && text.ends_with('\n'), "{text}");
        assert!(metrics.render_open_metrics().ends_with("# EOF\n"));
    }
}
