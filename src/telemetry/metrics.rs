//! Figures in Prometheus' text format, or in that of OpenMetrics for those who ask for it.
//!
//! Every label is bounded by construction: endpoints are route patterns, models and providers are those
//! of the catalog, error codes are our own.

mod deployments;
mod durations;
mod engines;
mod faults;
mod probes;
mod process;

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use self::durations::Durations;

pub use deployments::{AttemptOutcome, DeploymentMetrics};
pub use engines::{EngineMetrics, StartOutcome};
pub use faults::FaultMetrics;
pub use probes::ProbeMetrics;

/// All figures of the process. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    errors: Family<ErrorLabels, Counter>,
    cancelled: Family<EndpointLabels, Counter>,
    deployments: deployments::Families,
    overheads: Family<Unlabelled, Durations>,
    overhead: Arc<OnceLock<Durations>>,
    refusals: Family<RefusalLabels, Counter>,
    budgets: Budgets,
    reloads: Family<ReloadLabels, Counter>,
    engines: engines::Families,
    faults: faults::Families,
    probes: probes::Families,
    /// Records of usage that were written.
    pub usage_written: Counter,
    /// Records of usage that were lost.
    pub usage_dropped: Counter,
    /// Records of usage that wait to be written.
    pub usage_waiting: Gauge,
    // A family, not a gauge: without Redis nothing is shown.
    redis_up: Family<Unlabelled, Gauge>,
    /// Answers that are being streamed now.
    pub streams_open: Gauge,
    /// Connections of callers that are open now.
    pub connections_open: Gauge,
}

/// A series by itself, in a family so that it appears only when it is used.
type Unlabelled = Vec<(String, String)>;

/// What is left of budgets, written anew each time that it is asked for.
#[derive(Clone, Debug, Default)]
struct Budgets {
    tokens: Family<BudgetLabels, Gauge>,
    money: Family<BudgetLabels, Gauge<f64, AtomicU64>>,
    /// Held by the one who writes them and shows them.
    shown: Arc<Mutex<()>>,
}

/// What is left of one budget.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetLeft {
    /// Of what: `key` or `owner`.
    pub of: &'static str,
    /// The id of the key, or the name of the owner.
    pub name: Arc<str>,
    /// Tokens, if they are limited.
    pub tokens: Option<u64>,
    /// Money, if it is limited.
    pub money: Option<f64>,
}

/// The figures of one endpoint, found once when the paths are laid out.
#[derive(Clone, Debug)]
pub struct EndpointMetrics {
    /// The pattern of its path.
    pub name: Arc<str>,
    /// Whether models are asked there, so that each request is a line of the ledger.
    pub asks_models: bool,
    /// By far the most frequent status need not be looked up.
    answered_200: OnceLock<Counter>,
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
struct RefusalLabels {
    of: &'static str,
    limit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BudgetLabels {
    of: &'static str,
    name: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReloadLabels {
    accepted: &'static str,
}

/// A series that appears, and is looked up, when it is first used.
fn series<'c, S, M>(cell: &'c OnceLock<M>, family: &Family<S, M>, labels: impl FnOnce() -> S) -> &'c M
where
    S: Clone + std::hash::Hash + Eq,
    M: Clone,
{
    cell.get_or_init(|| family.get_or_create_owned(&labels()))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            errors: Family::default(),
            cancelled: Family::default(),
            deployments: deployments::Families::default(),
            overheads: Family::new_with_constructor(Durations::of_overhead),
            overhead: Arc::default(),
            refusals: Family::default(),
            budgets: Budgets::default(),
            reloads: Family::default(),
            engines: engines::Families::default(),
            faults: faults::Families::default(),
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
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process::started_now()));
        self.register(registry.sub_registry_with_prefix("llm_proxy"));
        registry
    }

    fn register(&self, registry: &mut Registry) {
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "The version of the program", build);
        registry.register("requests", "Requests by endpoint and status", self.requests.clone());
        registry.register("errors", "Errors told to callers, by code", self.errors.clone());
        registry.register("cancelled", "Requests whose caller left before the end", self.cancelled.clone());
        self.deployments.register(registry);
        registry.register_with_unit(
            "overhead",
            "Time until the head of an answer, without that of the upstream, of requests that a model was asked",
            Unit::Seconds,
            self.overheads.clone(),
        );
        let refusals = "Requests refused for a limit or a budget, by whose and which";
        registry.register("refusals", refusals, self.refusals.clone());
        let left = "What is left of a budget in its running period";
        registry.register("budget_remaining_tokens", left, self.budgets.tokens.clone());
        registry.register("budget_remaining_money", left, self.budgets.money.clone());
        registry.register("reloads", "Changed configurations, accepted or not", self.reloads.clone());
        self.engines.register(registry);
        self.faults.register(registry);
        self.probes.register(registry);
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
    }

    /// The figures of a public model at a provider.
    pub fn of_deployment(&self, provider: &Arc<str>, model: &Arc<str>) -> DeploymentMetrics {
        self.deployments.of(provider, model)
    }

    /// The figures of the engines of a model, by the provider's own name of it.
    pub fn of_engines(&self, provider: &Arc<str>, model: &Arc<str>) -> EngineMetrics {
        self.engines.of(provider, model)
    }

    /// The figures of what failures of a model's deployments lead to.
    pub fn of_faults(&self, model: &Arc<str>) -> FaultMetrics {
        self.faults.of(model)
    }

    /// The figures of a provider's probes.
    pub fn of_probes(&self, provider: &Arc<str>) -> ProbeMetrics {
        self.probes.of(provider)
    }

    /// Who is probed is another set from now on.
    pub fn forget_probes(&self) {
        self.probes.forget();
    }

    /// The figures of an endpoint.
    pub fn of_endpoint(&self, name: &str) -> EndpointMetrics {
        EndpointMetrics { name: name.into(), asks_models: false, answered_200: OnceLock::new() }
    }

    /// Counts a request that has ended.
    pub fn request_ended(&self, endpoint: &EndpointMetrics, status: u16) {
        let labels = || RequestLabels { endpoint: endpoint.name.clone(), status };
        if status == 200 {
            series(&endpoint.answered_200, &self.requests, labels).inc();
        } else {
            self.requests.get_or_create(&labels()).inc();
        }
    }

    /// Counts a request whose caller left before the end.
    pub fn cancelled(&self, endpoint: &EndpointMetrics) {
        self.cancelled.get_or_create(&EndpointLabels { endpoint: endpoint.name.clone() }).inc();
    }

    /// Notes how long the gateway itself took for a request that a model was asked.
    pub fn took(&self, own: Duration) {
        series(&self.overhead, &self.overheads, Vec::new).observe(own);
    }

    /// Counts an error that a caller was told. `code` is one of ours.
    pub fn error(&self, code: &'static str) {
        self.errors.get_or_create(&ErrorLabels { code }).inc();
    }

    /// Counts a refusal for a limit: of what, and which.
    pub fn refused(&self, of: &'static str, limit: &'static str) {
        self.refusals.get_or_create(&RefusalLabels { of, limit }).inc();
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

    /// Shows what is left of these budgets, and of no others, until what is returned is dropped.
    pub fn show_budgets<'m>(&'m self, budgets: &[BudgetLeft]) -> impl Drop + use<'m> {
        self.budgets.write(budgets)
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

impl Budgets {
    fn write<'b>(&'b self, budgets: &[BudgetLeft]) -> impl Drop + use<'b> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.tokens.clear();
        self.money.clear();
        for BudgetLeft { of, name, tokens, money } in budgets {
            let labels = BudgetLabels { of, name: name.clone() };
            if let Some(tokens) = tokens {
                self.tokens.get_or_create(&labels).set(i64::try_from(*tokens).unwrap_or(i64::MAX));
            }
            if let Some(money) = money {
                self.money.get_or_create(&labels).set(*money);
            }
        }
        shown
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
    use crate::llm::Usage;

    #[test]
    fn figures_are_shown_with_their_labels() {
        let metrics = Metrics::default();
        let model: Arc<str> = "m".into();
        let deployment = metrics.of_deployment(&"p".into(), &model);
        deployment.used(&Usage { input_tokens: 3, ..Usage::default() });
        deployment.attempted(AttemptOutcome::Answered);
        deployment.content_came(Duration::from_millis(30));
        deployment.ended(Duration::from_millis(230));
        deployment.streamed(11, Duration::from_millis(200));
        deployment.streamed(1, Duration::from_millis(200));
        metrics.request_ended(&metrics.of_endpoint("/v1/models"), 200);
        metrics.took(Duration::from_micros(30));
        metrics.error("model_not_found");
        metrics.refused("key", "requests");
        let left = BudgetLeft { of: "key", name: "k1".into(), tokens: Some(7), money: Some(0.5) };

        let shown = metrics.show_budgets(&[left]);
        let text = metrics.render();
        drop(shown);

        for line in [
            "llm_proxy_tokens_total{model=\"m\",provider=\"p\",direction=\"input\"} 3",
            "llm_proxy_upstream_attempts_total{provider=\"p\",model=\"m\",outcome=\"answered\"} 1",
            "llm_proxy_requests_total{endpoint=\"/v1/models\",status=\"200\"} 1",
            "llm_proxy_request_duration_seconds_bucket{le=\"0.32\",model=\"m\",provider=\"p\"} 1",
            "llm_proxy_first_token_seconds_bucket{le=\"0.04\",model=\"m\",provider=\"p\"} 1",
            "llm_proxy_time_per_output_token_seconds_bucket{le=\"0.025\",model=\"m\",provider=\"p\"} 1",
            "llm_proxy_time_per_output_token_seconds_count{model=\"m\",provider=\"p\"} 1",
            "llm_proxy_overhead_seconds_bucket{le=\"0.00005\"} 1",
            "llm_proxy_refusals_total{of=\"key\",limit=\"requests\"} 1",
            "llm_proxy_budget_remaining_tokens{of=\"key\",name=\"k1\"} 7",
            "llm_proxy_budget_remaining_money{of=\"key\",name=\"k1\"} 0.5",
            concat!("llm_proxy_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "llm_proxy_errors_total{code=\"model_not_found\"} 1",
            "llm_proxy_streams_open 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        let _shown = metrics.show_budgets(&[]);
        assert!(!metrics.render().contains("name=\"k1\""), "a budget that is no more is not shown");
    }

    #[test]
    fn a_series_appears_when_it_is_first_used() {
        let metrics = Metrics::default();
        let engine = metrics.of_engines(&"p".into(), &"m".into());
        let endpoint = metrics.of_endpoint("/v1/models");
        let (_deployment, _probes) =
            (metrics.of_deployment(&"p".into(), &"m".into()), metrics.of_probes(&"p".into()));
        let text = metrics.render();
        assert!(
            !text.contains("model=") && !text.contains("endpoint=") && !text.contains("_bucket"),
            "{text}"
        );
        assert!(!text.contains("provider="), "{text}");

        engine.switched();
        metrics.request_ended(&endpoint, 200);

        let text = metrics.render();
        let labelled: Vec<&str> =
            text.lines().filter(|line| line.contains("=\"") && !line.contains("build_info")).collect();
        assert_eq!(
            labelled,
            [
                "llm_proxy_requests_total{endpoint=\"/v1/models\",status=\"200\"} 1",
                "llm_proxy_engine_switches_total{provider=\"p\",model=\"m\"} 1"
            ]
        );
    }

    #[test]
    fn the_process_is_described_under_its_usual_names() {
        let text = Metrics::default().render();
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_start_time_seconds",
            "process_threads",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            let is_fresh = name == "process_cpu_seconds_total";
            assert!(value.is_some_and(|value| value > 0.0 || is_fresh), "{name} in {text}");
        }
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    }

    #[test]
    fn counters_are_described_by_the_name_of_their_samples() {
        let metrics = Metrics::default();
        metrics.error("model_not_found");
        metrics.of_deployment(&"p".into(), &"m".into()).ended(Duration::from_millis(2));

        let text = metrics.render();

        assert!(text.contains("# TYPE llm_proxy_errors_total counter\nllm_proxy_errors_total{"), "{text}");
        assert!(text.contains("# HELP llm_proxy_errors_total Errors told to callers, by code.\n"), "{text}");
        assert!(text.contains("# TYPE llm_proxy_request_duration_seconds histogram\n"), "{text}");
        assert!(text.contains("# TYPE llm_proxy_streams_open gauge\n"), "{text}");
        assert!(!text.contains("# UNIT") && !text.contains("# EOF") && text.ends_with('\n'), "{text}");
        assert!(metrics.render_open_metrics().ends_with("# EOF\n"));
    }
}
