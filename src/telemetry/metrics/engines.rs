//! Figures of the engines that the gateway runs itself. Their labels are the models of the models file.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::series;

/// Engines take from a fraction of a second to many minutes to load, and so may a wait for one.
const SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0];

/// An estimate is exact, near, or wild.
const ERRORS: [f64; 8] = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

#[derive(Clone, Debug)]
pub(super) struct Families {
    starts: Family<StartLabels, Counter>,
    loads: Family<Labels, Histogram>,
    running: Family<Labels, Gauge>,
    waits: Family<Labels, Histogram>,
    replans: Family<Labels, Counter>,
    switches: Family<Labels, Counter>,
    errors: Family<Labels, Histogram>,
}

/// The figures of the engines of one model, found once when the models file is loaded. Each series appears when it is first
/// used.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    families: Families,
    labels: Labels,
    ready: OnceLock<Counter>,
    failed: OnceLock<Counter>,
    stopped: OnceLock<Counter>,
    loads: OnceLock<Histogram>,
    running: OnceLock<Gauge>,
    waits: OnceLock<Histogram>,
    replans: OnceLock<Counter>,
    switches: OnceLock<Counter>,
    errors: OnceLock<Histogram>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    provider: Arc<str>,
    model: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StartLabels {
    provider: Arc<str>,
    model: Arc<str>,
    outcome: &'static str,
}

/// How the start of an engine went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOutcome {
    /// It has loaded.
    Ready,
    /// It has not, by itself.
    Failed,
    /// It was stopped before it had.
    Stopped,
}

impl Default for Families {
    fn default() -> Self {
        Self {
            starts: Family::default(),
            loads: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            running: Family::default(),
            waits: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            replans: Family::default(),
            switches: Family::default(),
            errors: Family::new_with_constructor(|| Histogram::new(ERRORS)),
        }
    }
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("engine_starts", "Starts of engines by outcome", self.starts.clone());
        let load = "Time from an engine's start until it has loaded";
        registry.register_with_unit("engine_load", load, Unit::Seconds, self.loads.clone());
        registry.register("engines_running", "Engines that load or serve now", self.running.clone());
        let wait = "Time that requests wait for an engine";
        registry.register_with_unit("engine_queue_wait", wait, Unit::Seconds, self.waits.clone());
        let replans = "Requests that turned out too long for their engine and went to a larger one";
        registry.register("engine_replans", replans, self.replans.clone());
        let switches = "Engines that were stopped for a larger one of their model, or for another model's";
        registry.register("engine_switches", switches, self.switches.clone());
        let errors = "By how much of itself a prompt's length was misjudged before it was sent";
        registry.register_with_unit("engine_estimate_error", errors, Unit::Ratios, self.errors.clone());
    }

    pub(super) fn of(&self, provider: &Arc<str>, model: &Arc<str>) -> EngineMetrics {
        EngineMetrics {
            families: self.clone(),
            labels: Labels { provider: provider.clone(), model: model.clone() },
            ready: OnceLock::new(),
            failed: OnceLock::new(),
            stopped: OnceLock::new(),
            loads: OnceLock::new(),
            running: OnceLock::new(),
            waits: OnceLock::new(),
            replans: OnceLock::new(),
            switches: OnceLock::new(),
            errors: OnceLock::new(),
        }
    }
}

impl EngineMetrics {
    fn series<'c, M: Clone>(&self, cell: &'c OnceLock<M>, family: &Family<Labels, M>) -> &'c M {
        series(cell, family, || self.labels.clone())
    }

    /// An engine is started.
    pub fn started(&self) {
        self.series(&self.running, &self.families.running).inc();
    }

    /// The start of an engine has come to something, after so long.
    pub fn loaded(&self, outcome: StartOutcome, after: Duration) {
        let (cell, outcome) = match outcome {
            StartOutcome::Ready => (&self.ready, "ready"),
            StartOutcome::Failed => (&self.failed, "failed"),
            StartOutcome::Stopped => (&self.stopped, "stopped"),
        };
        let Labels { provider, model } = self.labels.clone();
        series(cell, &self.families.starts, || StartLabels { provider, model, outcome }).inc();
        if outcome == "ready" {
            self.series(&self.loads, &self.families.loads).observe(after.as_secs_f64());
        }
    }

    /// An engine has ended.
    pub fn ended(&self) {
        self.series(&self.running, &self.families.running).dec();
    }

    /// A request has got its engine, or given up, after so long.
    pub fn waited(&self, time: Duration) {
        self.series(&self.waits, &self.families.waits).observe(time.as_secs_f64());
    }

    /// An engine is stopped for another one.
    pub fn switched(&self) {
        self.series(&self.switches, &self.families.switches).inc();
    }

    /// A prompt was thought to have so many tokens, and had so many.
    pub fn estimated(&self, thought: u64, counted: u64) {
        #[expect(clippy::cast_precision_loss, reason = "tokens are far below 2^52")]
        let error = thought.abs_diff(counted) as f64 / counted.max(1) as f64;
        self.series(&self.errors, &self.families.errors).observe(error);
    }

    /// A request goes to a larger engine than was thought to do.
    pub fn replanned(&self) {
        self.series(&self.replans, &self.families.replans).inc();
    }
}
