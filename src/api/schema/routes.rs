//! Routes and the way of a request.

use poem_openapi::Object;
use serde::Serialize;

/// All routes.
#[derive(Serialize, Object)]
#[oai(rename = "Routes")]
pub(in crate::api) struct RouteList {
    /// In the order of the models file.
    pub(in crate::api) routes: Vec<RouteBody>,
}

/// A public model and who serves it.
#[derive(Serialize, Object)]
#[oai(rename = "Route")]
pub(in crate::api) struct RouteBody {
    /// Its public name.
    pub(in crate::api) model: String,
    /// Further names.
    pub(in crate::api) aliases: Vec<String>,
    /// `priority`, `score`, `weighted`, `round_robin` or `least_latency`.
    pub(in crate::api) strategy: String,
    /// Models that answer when nobody here does.
    pub(in crate::api) fallbacks: Vec<String>,
    /// Models that answer when a prompt is too long.
    pub(in crate::api) context_fallbacks: Vec<String>,
    /// Who serves it, in the order in which they are asked. Last those that never are, for their scores.
    pub(in crate::api) candidates: Vec<CandidateBody>,
}

/// One who serves a model.
#[derive(Serialize, Object)]
#[oai(rename = "Candidate")]
pub(in crate::api) struct CandidateBody {
    /// The public model that it serves.
    pub(in crate::api) model: String,
    /// Its provider.
    pub(in crate::api) provider: String,
    /// What the provider calls the model.
    pub(in crate::api) upstream: String,
    /// Lower is asked first.
    pub(in crate::api) priority: i32,
    /// How often it is asked, where that goes by weight.
    pub(in crate::api) weight: f64,
    /// Its context in tokens, if known.
    pub(in crate::api) context: Option<u64>,
    /// What it is worth.
    pub(in crate::api) score: ScoreBody,
    /// Whether it can be asked, and if not, why.
    pub(in crate::api) reason: String,
    /// How many keys its provider has, if several.
    pub(in crate::api) keys: Option<usize>,
    /// How many of these rest.
    pub(in crate::api) resting_keys: Option<usize>,
    /// How much longer it, or its provider, rests.
    pub(in crate::api) rests_for_seconds: Option<f64>,
    /// Of the requests that it was asked, callers' mistakes left out; from 0 to 1.
    pub(in crate::api) success_rate: Option<f64>,
    /// Requests that it has answered.
    pub(in crate::api) answered: u64,
    /// Requests that have failed.
    pub(in crate::api) failed: u64,
    /// What the last failure was, such as `unreachable`, `timeout`, `rate_limited`, `unavailable` or `protocol`.
    pub(in crate::api) last_failure: Option<String>,
    /// How the last probe of its provider went, if that is probed.
    pub(in crate::api) last_probe: Option<ProbeBody>,
    /// Half of its streams began within so many milliseconds.
    pub(in crate::api) first_token_p50_ms: Option<f64>,
    /// Nearly all of its streams began within so many milliseconds.
    pub(in crate::api) first_token_p95_ms: Option<f64>,
}

/// How a provider's server answered when it was last asked for a sign of life.
#[derive(Serialize, Object)]
#[oai(rename = "Probe")]
pub(in crate::api) struct ProbeBody {
    /// Whether it did.
    pub(in crate::api) ok: bool,
    /// What was wrong: `unreachable`, `timeout` or `unavailable`.
    pub(in crate::api) failure: Option<String>,
    /// So many seconds ago.
    pub(in crate::api) seconds_ago: f64,
    /// It took so many milliseconds.
    pub(in crate::api) took_ms: f64,
}

/// The parts of a score, in points.
#[derive(Serialize, Object)]
#[oai(rename = "Score")]
pub(in crate::api) struct ScoreBody {
    /// For its place on leaderboards.
    pub(in crate::api) leaderboard: f64,
    /// For its size.
    pub(in crate::api) param: f64,
    /// For its context.
    pub(in crate::api) context: f64,
    /// As the operator says.
    pub(in crate::api) adjustment: f64,
    /// All of them, times the provider's priority.
    pub(in crate::api) overall: f64,
}

/// The way that a request would take.
#[derive(Serialize, Object)]
pub(in crate::api) struct Explanation {
    /// Who would be asked, in this order. Of each model last those that never are, for their scores.
    pub(in crate::api) candidates: Vec<CandidateBody>,
    /// By what the order is made.
    pub(in crate::api) strategy: String,
    /// What names the conversation, whose turns stay with one of several that are equal otherwise: a header, a member of the
    /// body, or `first messages`. Missing where there is no such choice.
    pub(in crate::api) affinity: Option<String>,
    /// Models that would take over then.
    pub(in crate::api) fallbacks: Vec<String>,
    /// The models that answer when a provider says that the prompt is too long for it.
    pub(in crate::api) context_fallbacks: Vec<String>,
    /// About so many tokens, the prompt's included.
    pub(in crate::api) estimated_tokens: u64,
    /// The prompt that would be put before the conversation.
    pub(in crate::api) prompt: Option<ExplainedPrompt>,
}

/// A prompt with its variables put in.
#[derive(Serialize, Object)]
pub(in crate::api) struct ExplainedPrompt {
    /// Its name.
    pub(in crate::api) name: String,
    /// Its language.
    pub(in crate::api) language: String,
    /// Its text.
    pub(in crate::api) text: String,
}
