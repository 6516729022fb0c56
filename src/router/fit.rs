//! Whether what a request asks for is known to be beyond a deployment. Such a one is asked last: what is said of it
//! may be wrong, but others are the better choice.

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
