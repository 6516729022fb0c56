//! Whether what a request asks for is known to be beyond a deployment. Such a one is asked last: what is said of it
//! may be wrong, but others are the better choice. For a prompt that is surely too long it is not asked at all, if
//! somebody else can be.

use std::sync::Arc;

use super::table::Deployment;
use crate::llm::Demands;

impl Deployment {
    /// What is asked for and is known to be beyond it.
    pub fn lacks(&self, demands: &Demands) -> Option<&'static str> {
        let is_too_long = self.context_tokens.is_some_and(|context| demands.input_tokens > context);
        let answer = demands.output_tokens.unwrap_or(0);
        let is_long_answer = self.context_tokens.is_some_and(|context| answer > context);
        self.abilities
            .lacks(demands)
            .or(is_too_long.then_some("so long a prompt"))
            .or(is_long_answer.then_some("so long an answer"))
    }

    /// Whether a prompt of at least so many tokens may fit into it.
    pub fn may_hold(&self, least_tokens: u64) -> bool {
        self.context_tokens.is_none_or(|context| least_tokens <= context)
    }
}

/// The smallest context, where it matters whether a prompt is surely too long for it: where others have a larger one, or
/// none that is known.
pub(super) fn smallest_context(deployments: &[Arc<Deployment>], has_larger_models: bool) -> Option<u64> {
    let smallest = deployments.iter().filter_map(|deployment| deployment.context_tokens).min()?;
    let is_larger = |deployment: &Arc<Deployment>| deployment.context_tokens != Some(smallest);
    (has_larger_models || deployments.iter().any(is_larger)).then_some(smallest)
}

/// Those that may hold a prompt of at least so many tokens.
pub(super) fn holding<'a>(
    order: impl Iterator<Item = &'a Arc<Deployment>>,
    least_tokens: u64,
) -> impl Iterator<Item = &'a Arc<Deployment>> {
    order.filter(move |deployment: &&'a Arc<Deployment>| deployment.may_hold(least_tokens))
}

/// Those that fit first, in their order; without demands all as they come, for which nothing is allocated.
pub(super) fn fitting_first<'a>(
    order: impl Iterator<Item = &'a Arc<Deployment>>,
    demands: Option<&Demands>,
) -> impl Iterator<Item = &'a Arc<Deployment>> {
    let (as_they_come, sorted) = match demands {
        None => (Some(order), Vec::new()),
        Some(demands) => {
            let mut sorted: Vec<&Arc<Deployment>> = order.collect();
            sorted.sort_by_key(|deployment| deployment.lacks(demands).is_some());
            (None, sorted)
        }
    };
    as_they_come.into_iter().flatten().chain(sorted)
}
