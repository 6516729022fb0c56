//! What the models file says of the way from a public model to its deployments.

use std::time::Duration;

use crate::llm::is_invisible;

/// The model that every deployment serves, the best score first.
pub const AUTO: &str = "priority-auto";

/// The longest name of a model, in bytes.
const LONGEST_NAME: usize = 256;

/// Why nothing can have this name: it would be no line of a list, or none that can be read. For the names of the models file
/// and for those that providers tell.
pub(super) fn unusable_name(name: &str) -> Option<&'static str> {
    match name {
        name if name.trim().is_empty() => Some("is empty"),
        name if name.len() > LONGEST_NAME => Some("is too long"),
        name if name.chars().any(is_invisible) => Some("holds characters that cannot be seen"),
        _ => None,
    }
}

/// Why a model that a provider tells of cannot be served under its name.
pub fn unfit_name(name: &str) -> Option<&'static str> {
    unusable_name(name).or_else(|| never_meant(name))
}

/// Why no request could ask for a model of this name.
pub fn never_meant(name: &str) -> Option<&'static str> {
    match name {
        AUTO => Some("it stands for all deployments there are"),
        name if name.contains(',') => Some("a comma parts the names of several models"),
        _ => None,
    }
}

/// What holds for all routes.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// How long a request waits while all deployments of its model rest.
    pub max_wait: Duration,
    /// The longest rest.
    pub max_cooldown: Duration,
    /// How long the first content may take before a second deployment is asked beside; `None` for ever.
    pub hedge_after: Option<Duration>,
    /// So many such calls for each request, from 0 to 1.
    pub hedge_budget: f64,
    /// How long a request waits in an engine's queue while somebody else could answer; `None` for ever.
    pub overflow_after: Option<Duration>,
    /// What each part of a score is worth.
    pub scalars: ScoreScalars,
    /// In which order the deployments of a model are asked that does not say.
    pub strategy: Strategy,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_secs(10),
            max_cooldown: Duration::from_secs(300),
            hedge_after: None,
            hedge_budget: 0.1,
            overflow_after: None,
            scalars: ScoreScalars::default(),
            strategy: Strategy::default(),
        }
    }
}

/// What each part of a score is worth. A score's parts are about as large as 100 for the best there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreScalars {
    /// For a place on the leaderboards, from 0 to 1.
    pub leaderboard: f64,
    /// For each thousand million parameters.
    pub param: f64,
    /// For each token of context.
    pub context: f64,
    /// For each point that the operator gives.
    pub adjustment: f64,
}

impl Default for ScoreScalars {
    fn default() -> Self {
        Self { leaderboard: 100.0, param: 100.0 / 405.0, context: 100.0 / 2_000_000.0, adjustment: 2.0 }
    }
}

/// In which order the deployments of a model are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Those of the least priority first, always.
    #[default]
    Priority,
    /// The best score first.
    Score,
    /// In turns, each as often as its weight says.
    Weighted,
    /// In turns.
    RoundRobin,
    /// The faster one of two.
    LeastLatency,
}

impl Strategy {
    /// All of them, by their names in the file.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("priority", Self::Priority),
        ("score", Self::Score),
        ("weighted", Self::Weighted),
        ("round_robin", Self::RoundRobin),
        ("least_latency", Self::LeastLatency),
    ];

    /// The one of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, strategy)| *strategy)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("priority", |(name, _)| name)
    }
}
