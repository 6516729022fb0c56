//! A public model: who serves it, in which order they are asked, and who is left out.

use std::collections::HashSet;
use std::sync::Arc;

use super::fit::{fitting_first, smallest_context};
use super::hedge::Hedges;
use super::order::{Order, ranked};
use super::table::Deployment;
use super::{Ask, Fallback};
use crate::config::{AUTO, ModelPolicy, Routing, Strategy};
use crate::llm::{Demands, Session};
use crate::telemetry::FaultMetrics;

/// A public model and who serves it.
#[derive(Debug)]
pub struct Route {
    /// The public name.
    pub model: Arc<str>,
    /// Further names for it.
    pub aliases: Vec<String>,
    /// By priority, or by score where that decides. Empty if all are left out.
    pub deployments: Vec<Arc<Deployment>>,
    /// Those that are never asked, for scores decide and theirs do not suffice.
    pub left_out: Vec<Arc<Deployment>>,
    /// Its failures.
    pub(super) faults: FaultMetrics,
    /// Models that answer when none of its deployments does.
    pub fallbacks: Vec<String>,
    /// Models that answer when a prompt is too long for it.
    pub context_fallbacks: Vec<String>,
    pub(super) order: Order,
    /// Whether it depends on the conversation who is asked first, or with which key.
    keeps_sessions: bool,
    /// What was said of that.
    affinity: bool,
    /// Whether it depends on the request who fits.
    pub(super) is_choosy: bool,
    /// The smallest context, if there is somebody else for prompts that are surely too long for it.
    smallest_context: Option<u64>,
    pub(super) routing: Routing,
    /// All routes have one budget.
    pub(super) hedges: Arc<Hedges>,
    /// Those who wait while all rest stand in it. It lets them go in the order in which they came.
    pub(super) line: tokio::sync::Mutex<()>,
}

impl Route {
    /// With its deployments by priority, and what it shares with others.
    pub(super) fn new(
        policy: ModelPolicy,
        strategy: Strategy,
        deployments: Vec<Arc<Deployment>>,
        (faults, routing, hedges): (FaultMetrics, Routing, Arc<Hedges>),
    ) -> Self {
        let (deployments, left_out) = ranked(strategy, deployments);
        let affinity = policy.affinity.unwrap_or(true);
        let smallest_context = smallest_context(&deployments, !policy.context_fallbacks.is_empty());
        Self {
            model: policy.model.into(),
            aliases: policy.aliases,
            fallbacks: policy.fallbacks,
            context_fallbacks: policy.context_fallbacks,
            order: Order::new(strategy, deployments.len()),
            is_choosy: is_choosy(&deployments),
            keeps_sessions: affinity && keeps_sessions(strategy, &deployments),
            affinity,
            smallest_context,
            line: tokio::sync::Mutex::default(),
            deployments,
            left_out,
            faults,
            routing,
            hedges,
        }
    }

    /// In which order its deployments are asked.
    pub fn strategy(&self) -> Strategy {
        self.order.strategy
    }

    /// Its deployments in the order in which they are asked, as far as that does not change with each request, or as a
    /// conversation finds them.
    pub fn candidates(&self, demands: Option<&Demands>, session: Option<Session>) -> Vec<&Arc<Deployment>> {
        fitting_first(self.order.usual(&self.deployments, session).into_iter(), demands).collect()
    }

    /// Whether the turns of a conversation stay together, as far as there is a choice.
    pub fn has_affinity(&self) -> bool {
        self.affinity
    }

    /// The conversation of a request, where it matters: by its headers, if they name one, or by its body.
    pub fn session<R: Ask>(&self, named: Option<Session>, request: &R) -> Option<Session> {
        if self.keeps_sessions { named.or_else(|| request.session()) } else { None }
    }

    /// All deployments, those that are never asked last.
    pub fn all_deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> + Clone {
        self.deployments.iter().chain(&self.left_out)
    }

    /// The largest context of its deployments, as far as that is known.
    pub fn context_tokens(&self) -> Option<u64> {
        self.deployments.iter().filter_map(|deployment| deployment.context_tokens).max()
    }

    /// The most tokens that an answer of its deployments may have, as far as that is known.
    pub fn max_output_tokens(&self) -> Option<u64> {
        self.deployments.iter().filter_map(|deployment| deployment.abilities.output_tokens).max()
    }

    /// Whether it is that of all deployments.
    pub fn is_auto(&self) -> bool {
        *self.model == *AUTO
    }

    /// The same with those deployments alone that serve these routes; `None` if there are none.
    pub fn only_with(self: &Arc<Self>, routes: &[Arc<Self>]) -> Option<Arc<Self>> {
        let serving: HashSet<*const Deployment> =
            routes.iter().flat_map(|route| route.all_deployments()).map(Arc::as_ptr).collect();
        let serves = |deployment: &&Arc<Deployment>| serving.contains(&Arc::as_ptr(deployment));
        let usable: Vec<Arc<Deployment>> = self.all_deployments().filter(serves).cloned().collect();
        match usable.len() {
            0 => None,
            count if count == self.all_deployments().count() => Some(self.clone()),
            _ => {
                let policy = ModelPolicy {
                    model: self.model.to_string(),
                    aliases: self.aliases.clone(),
                    fallbacks: self.fallbacks.clone(),
                    context_fallbacks: self.context_fallbacks.clone(),
                    affinity: Some(self.affinity),
                    ..ModelPolicy::default()
                };
                let shared = (self.faults.clone(), self.routing.clone(), self.hedges.clone());
                Some(Arc::new(Self::new(policy, self.order.strategy, usable, shared)))
            }
        }
    }

    /// At least so many tokens are in the prompt of a request, where that decides who is asked; else 0.
    pub fn least_tokens<R: Ask>(&self, request: &R) -> u64 {
        self.smallest_context.map_or(0, |context| request.least_input_tokens(context))
    }

    /// Whether other models are to answer in its place, though nobody has failed: all its deployments are left out, or a
    /// prompt of at least so many tokens fits into none of them.
    pub fn passes_on(&self, least_tokens: u64) -> Option<Fallback> {
        let may_any_hold = || self.deployments.iter().any(|deployment| deployment.may_hold(least_tokens));
        match () {
            () if self.deployments.is_empty() => Some(Fallback::Any),
            () if least_tokens > 0 && !may_any_hold() => Some(Fallback::Larger),
            () => None,
        }
    }

    /// All names that lead here.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(String::as_str).chain([&*self.model])
    }
}

/// Whether conversations can be kept together: where deployments are equal, or where there are several keys.
fn keeps_sessions(strategy: Strategy, deployments: &[Arc<Deployment>]) -> bool {
    let are_equal = |pair: &[Arc<Deployment>]| matches!(pair, [one, other] if one.priority == other.priority);
    let has_equals = strategy != Strategy::Score && deployments.windows(2).any(are_equal);
    has_equals || deployments.iter().any(|deployment| deployment.keys.len() > 1)
}

/// Whether deployments differ in what they can do.
fn is_choosy(deployments: &[Arc<Deployment>]) -> bool {
    let same = |one: &Arc<Deployment>, other: &Arc<Deployment>| {
        one.abilities == other.abilities && one.context_tokens == other.context_tokens
    };
    deployments.windows(2).any(|pair| matches!(pair, [one, other] if !same(one, other)))
}
