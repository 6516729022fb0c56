//! Figures of models at their providers. Their labels are the public models and the providers of the models file.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use super::durations::Durations;
use super::series;
use crate::llm::Usage;

#[derive(Clone, Debug)]
pub(super) struct Families {
    attempts: Family<AttemptLabels, Counter>,
    durations: Family<Labels, Durations>,
    first_token: Family<Labels, Durations>,
    per_token: Family<Labels, Durations>,
    tokens: Family<TokenLabels, Counter>,
}

/// The figures of one public model at one provider, found once when the models file is loaded. Each series appears when it
/// is first used.
#[derive(Debug)]
pub struct DeploymentMetrics {
    families: Families,
    provider: Arc<str>,
    model: Arc<str>,
    answered: OnceLock<Counter>,
    failed: OnceLock<Counter>,
    rejected: OnceLock<Counter>,
    outrun: OnceLock<Counter>,
    duration: OnceLock<Durations>,
    first_token: OnceLock<Durations>,
    per_token: OnceLock<Durations>,
    input_tokens: OnceLock<Counter>,
    output_tokens: OnceLock<Counter>,
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
struct AttemptLabels {
    provider: Arc<str>,
    model: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    model: Arc<str>,
    provider: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    model: Arc<str>,
    provider: Arc<str>,
    direction: &'static str,
}

impl Default for Families {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(Durations::of_answers),
            first_token: Family::new_with_constructor(Durations::of_answers),
            per_token: Family::new_with_constructor(Durations::of_tokens),
            tokens: Family::default(),
        }
    }
}

impl Families {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("upstream_attempts", "Requests to upstreams by outcome", self.attempts.clone());
        let mut seconds = |name, help, family: &Family<Labels, Durations>| {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        };
        seconds(
            "request_duration",
            "Time from a request's head to the last byte of its answer, of requests that a model was asked",
            &self.durations,
        );
        seconds(
            "first_token",
            "Time from a request's head to the first content of its answer",
            &self.first_token,
        );
        seconds(
            "time_per_output_token",
            "Time between two tokens of a streamed answer, on the average of the answer",
            &self.per_token,
        );
        registry.register("tokens", "Tokens by model, provider and direction", self.tokens.clone());
    }

    pub(super) fn of(&self, provider: &Arc<str>, model: &Arc<str>) -> DeploymentMetrics {
        DeploymentMetrics {
            families: self.clone(),
            provider: provider.clone(),
            model: model.clone(),
            answered: OnceLock::new(),
            failed: OnceLock::new(),
            rejected: OnceLock::new(),
            outrun: OnceLock::new(),
            duration: OnceLock::new(),
            first_token: OnceLock::new(),
            per_token: OnceLock::new(),
            input_tokens: OnceLock::new(),
            output_tokens: OnceLock::new(),
        }
    }
}

impl DeploymentMetrics {
    /// The deployment was asked, and this came of it.
    pub fn attempted(&self, outcome: AttemptOutcome) {
        let (cell, outcome) = match outcome {
            AttemptOutcome::Answered => (&self.answered, "answered"),
            AttemptOutcome::Failed => (&self.failed, "failed"),
            AttemptOutcome::Rejected => (&self.rejected, "rejected"),
            AttemptOutcome::Outrun => (&self.outrun, "outrun"),
        };
        let labels = || {
            let (provider, model) = (self.provider.clone(), self.model.clone());
            AttemptLabels { provider, model, outcome }
        };
        series(cell, &self.families.attempts, labels).inc();
    }

    /// The first content of an answer has come.
    pub fn content_came(&self, after: Duration) {
        series(&self.first_token, &self.families.first_token, || self.labels()).observe(after);
    }

    /// A request has used this.
    pub fn used(&self, usage: &Usage) {
        for (cell, tokens, direction) in [
            (&self.input_tokens, usage.input_tokens, "input"),
            (&self.output_tokens, usage.output_tokens, "output"),
        ] {
            let labels = || {
                let Labels { model, provider } = self.labels();
                TokenLabels { model, provider, direction }
            };
            series(cell, &self.families.tokens, labels).inc_by(tokens);
        }
    }

    /// A request has ended.
    pub fn ended(&self, after: Duration) {
        series(&self.duration, &self.families.durations, || self.labels()).observe(after);
    }

    /// A streamed answer had so many tokens, whose first came so long before the last.
    pub fn streamed(&self, output_tokens: u64, between: Duration) {
        let intervals = u32::try_from(output_tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        if let Some(each) = between.checked_div(intervals) {
            series(&self.per_token, &self.families.per_token, || self.labels()).observe(each);
        }
    }

    fn labels(&self) -> Labels {
        Labels { model: self.model.clone(), provider: self.provider.clone() }
    }
}
