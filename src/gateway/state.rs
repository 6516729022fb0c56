//! What a reload replaces: routes and prompts, and which route a name leads to.

use std::collections::HashSet;
use std::sync::Arc;

use super::GatewayError;
use super::admission::may_use;
use super::chain::Chain;
use crate::callers::{Caller, Rules};
use crate::config::AUTO;
use crate::prompts::PromptLibrary;
use crate::router::{Deployment, Fallback, Route, RoutingTable};

/// Routes and prompts, which belong together: a reload changes both or neither.
#[derive(Debug)]
pub struct State {
    /// Who serves which model.
    pub routes: Arc<RoutingTable>,
    /// The prompt library.
    pub prompts: Arc<PromptLibrary>,
    /// Limits that are not those of one key.
    pub rules: Rules,
}

impl State {
    /// The same with these models off, and all others on.
    pub(super) fn without(&self, off: &HashSet<String>) -> Self {
        let routes = Arc::new(self.routes.without(off));
        Self { routes, prompts: self.prompts.clone(), rules: self.rules.clone() }
    }

    /// The route that a name leads to.
    ///
    /// # Errors
    /// Nobody serves a model of that name, or it is off, which only those are told who may use it.
    pub fn route(&self, model: &str, caller: Option<&Caller>) -> Result<Arc<Route>, GatewayError> {
        self.routes.route(model).cloned().ok_or_else(|| self.absent(model, caller))
    }

    /// The models that a caller may see and use, in the order of the catalog: each of which somebody can be asked for.
    pub fn shown<'s>(&'s self, caller: Option<&'s Caller>) -> impl Iterator<Item = &'s Arc<Route>> {
        self.routes
            .routes()
            .iter()
            .filter(move |route| may_use(caller, route) && self.is_served(route, caller))
    }

    /// The same, for lists: behind them stands the model of all deployments, if the caller may use any of these.
    pub fn listed(&self, caller: Option<&Caller>) -> Vec<Arc<Route>> {
        let of_all = self.routes.route(AUTO).and_then(|route| self.as_allowed(route.clone(), caller));
        let of_all = of_all.filter(|route| !route.deployments.is_empty());
        self.shown(caller).cloned().chain(of_all).collect()
    }

    /// Whether a caller can have an answer from anybody for this model.
    pub fn is_served(&self, route: &Arc<Route>, caller: Option<&Caller>) -> bool {
        self.routes.is_served(route, &|route| may_use(caller, route))
    }

    /// The route that a name leads to, whether its model is off or on: for those who look after it.
    ///
    /// # Errors
    /// Nobody serves a model of that name.
    pub fn on_or_off(&self, model: &str) -> Result<Arc<Route>, GatewayError> {
        let route = self.routes.route(model).or_else(|| self.routes.off(model));
        route.cloned().ok_or_else(|| self.unknown(model))
    }

    /// The routes that a request may take: the one of that name, or those of a list of names such as `a,b`, the first
    /// one first. Names of the list that nobody serves are passed over, and those of models that are off. At least one.
    ///
    /// # Errors
    /// As [`State::route`].
    pub(super) fn wanted(&self, model: &str, caller: Option<&Caller>) -> Result<Chain, GatewayError> {
        if let Some(route) = self.routes.route(model) {
            return Ok(Chain::One(Some(route.clone())));
        }
        let names = model.split(',').map(str::trim);
        let routes: Vec<Arc<Route>> = names.filter_map(|name| self.routes.route(name).cloned()).collect();
        if routes.is_empty() {
            Err(self.absent(model, caller))
        } else {
            Ok(Chain::Several(routes.into_iter()))
        }
    }

    /// Why no route is there for a name or a list of names.
    fn absent(&self, model: &str, caller: Option<&Caller>) -> GatewayError {
        let mut names = std::iter::once(model).chain(model.split(',').map(str::trim));
        match names.find_map(|name| self.routes.off(name)) {
            None => self.unknown(model),
            Some(off) if may_use(caller, off) => GatewayError::Off(off.model.to_string()),
            Some(off) => GatewayError::NotAllowed(off.model.to_string()),
        }
    }

    /// Whether it may matter which model a request is for, wherever it goes.
    pub(super) fn guards_any_model(&self, caller: Option<&Caller>) -> bool {
        caller.is_some_and(|caller| !caller.key.allowed_models.is_empty()) || self.routes.has_any_off()
    }

    /// Whether it matters which model a request is for that goes to these deployments' providers: its caller may use some
    /// models only, or one of theirs is off.
    pub(super) fn guards_models(
        &self,
        caller: Option<&Caller>,
        is_there: impl Fn(&Deployment) -> bool,
    ) -> bool {
        let is_bound = caller.is_some_and(|caller| !caller.key.allowed_models.is_empty());
        let mut off = self.routes.on_and_off().iter().filter(|route| self.routes.is_off(&route.model));
        is_bound || off.any(|route| route.all_deployments().any(|deployment| is_there(deployment)))
    }

    /// The models that may answer a request for these: they, and all that may take over.
    pub(super) fn reachable(&self, first: impl Iterator<Item = Arc<Route>>) -> Vec<Arc<Route>> {
        let mut reachable: Vec<Arc<Route>> = Vec::new();
        let mut open: Vec<Arc<Route>> = first.collect();
        while let Some(route) = open.pop() {
            if reachable.iter().all(|known| known.model != route.model) {
                let names = route.fallbacks.iter().chain(&route.context_fallbacks);
                open.extend(names.filter_map(|name| self.routes.route(name).cloned()));
                reachable.push(route);
            }
        }
        reachable
    }

    /// The models that take over from one after such a failure, as far as the caller may use them.
    pub(super) fn taking_over(
        &self,
        route: &Route,
        fallback: Option<Fallback>,
        caller: Option<&Caller>,
    ) -> Vec<Arc<Route>> {
        let names: &[String] = match fallback {
            Some(Fallback::Any) => &route.fallbacks,
            Some(Fallback::Larger) => &route.context_fallbacks,
            None => &[],
        };
        let routes = names.iter().filter_map(|name| self.routes.route(name).cloned());
        let usable = routes.filter_map(|route| self.as_allowed(route, caller));
        usable.filter(|route| self.is_served(route, caller)).collect()
    }

    /// Whether others are to answer in the place of a model, though nobody has failed. A prompt that is surely too long for
    /// it, with at least so many tokens, goes there all the same if nobody else has not been `seen` with it.
    pub(super) fn passes_on(
        &self,
        (route, least_tokens): (&Route, u64),
        seen: &[Arc<str>],
        caller: Option<&Caller>,
    ) -> Option<Fallback> {
        let fallback = route.passes_on(least_tokens)?;
        let has_others = || {
            let others = self.taking_over(route, Some(fallback), caller);
            others.iter().any(|other| other.model != route.model && !seen.contains(&other.model))
        };
        (fallback == Fallback::Any || has_others()).then_some(fallback)
    }

    /// A route as far as its caller may use it. Of that of all deployments only those are left whose models the caller may
    /// use, and which have no limits of their own: these hold for requests by their models' names.
    pub fn as_allowed(&self, route: Arc<Route>, caller: Option<&Caller>) -> Option<Arc<Route>> {
        if !route.is_auto() {
            return may_use(caller, &route).then_some(route);
        }
        let is_limited = |route: &Route| self.rules.models.contains_key(&*route.model);
        let usable = self.routes.routes().iter().filter(|route| may_use(caller, route) && !is_limited(route));
        route.only_with(&usable.cloned().collect::<Vec<_>>())
    }

    pub(super) fn unknown(&self, model: &str) -> GatewayError {
        let nearest = self.routes.nearest(model).map(str::to_owned);
        GatewayError::UnknownModel { name: model.to_owned(), nearest }
    }
}
