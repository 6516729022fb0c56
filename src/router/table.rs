//! Which deployments serve which public model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::affinity::Target;
use super::faults::{Sampled, host_of};
use super::health::{Health, HealthBook};
use super::hedge::Hedges;
use super::identity::Identity;
use super::keys::{Keys, LastLimited};
use super::probe::Probe;
use super::route::Route;
use super::score::{Merits, Score};
use crate::callers::{PriceHistory, Prices};
use crate::config::{
    AUTO, Adjustment, Catalog, ModelConfig, ModelPolicy, ModelSource, ProviderConfig, Strategy, Timeouts,
    nearest, unfit_name,
};
use crate::leaderboard::Leaderboard;
use crate::llm::Abilities;
use crate::providers::{ModelCard, Provider};
use crate::telemetry::{AttemptOutcome, DeploymentMetrics, FaultMetrics, Metrics};

/// All routes, by every name that leads to them. Immutable: a reload makes a new table, and so does switching a model off
/// or on. No name leads to a model that is off, so that nobody has to ask whether it is.
#[derive(Debug, Default)]
pub struct RoutingTable {
    by_name: HashMap<String, Arc<Route>>,
    /// Of models that are off, by every name that would lead to them.
    off: HashMap<String, Arc<Route>>,
    /// Those of models that are on, in the order of the catalog.
    routes: Vec<Arc<Route>>,
    /// All, in the order of the catalog.
    all: Vec<Arc<Route>>,
    /// The one of all deployments.
    auto: Option<Arc<Route>>,
    /// In the order of the catalog.
    providers: Vec<Arc<dyn Provider>>,
    probes: Vec<Arc<Probe>>,
    /// Those of all models, for requests to models that are not served.
    prices: Prices,
}

/// One model at one provider.
#[derive(Debug)]
pub struct Deployment {
    /// `provider/upstream model`.
    pub id: Arc<str>,
    /// The public model that it serves.
    pub model: Arc<str>,
    /// Who answers.
    pub provider: Arc<dyn Provider>,
    /// The provider's name.
    pub provider_name: Arc<str>,
    /// What the provider calls the model.
    pub upstream_model: Arc<str>,
    /// Lower is asked first.
    pub priority: i32,
    /// Context size in tokens, if known.
    pub context_tokens: Option<u64>,
    /// What it can do, as far as that is known.
    pub abilities: Abilities,
    /// The contexts in which the gateway runs it, smallest first; none if it does not run it itself.
    pub variants: Vec<u64>,
    /// Languages it is good at, if stated.
    pub languages: Vec<String>,
    /// What the provider itself says of the model.
    pub details: Map<String, Value>,
    pub(super) defaults: Map<String, Value>,
    pub(super) overrides: Map<String, Value>,
    pub(super) timeouts: Timeouts,
    /// How often it is asked, against others, where that is by weight.
    pub weight: f64,
    /// What it is worth.
    pub score: Score,
    /// What it costs, in the course of time.
    pub prices: PriceHistory,
    /// How it fares.
    pub health: Arc<Health>,
    /// How its provider fares.
    pub provider_health: Arc<Health>,
    /// Those of its provider, if there are several.
    pub(super) keys: Keys,
    /// Of its provider, if that has one key: the last one whose limit was met.
    pub(super) limited: Arc<LastLimited>,
    pub(super) most_rest: Duration,
    /// Whether its provider's server is asked for signs of life.
    pub is_probed: bool,
    /// Host and port of its server, for the log.
    pub(super) host: Option<Box<str>>,
    pub(super) sampled: Sampled,
    pub(super) faults: FaultMetrics,
    /// As conversations find it.
    pub(super) target: Target,
    /// Its failures are a caller's wish.
    pub(super) plays: bool,
    /// Its figures.
    pub metrics: Arc<DeploymentMetrics>,
}

impl Deployment {
    /// Whether the gateway runs it itself.
    pub fn is_managed(&self) -> bool {
        !self.variants.is_empty()
    }

    /// How many keys its provider has, and how many of them rest; none if there are not several.
    pub fn keys(&self, now: Instant) -> Option<(usize, usize)> {
        let all = self.keys.len();
        (all > 0).then(|| (all, self.keys.resting(now)))
    }

    /// How long it rests, by itself, with its provider, or because all keys of that do.
    pub fn rests_for(&self, now: Instant) -> Option<Duration> {
        self.back_at(now).map(|until| until.saturating_duration_since(now))
    }

    pub(super) fn count(&self, outcome: AttemptOutcome) {
        self.metrics.attempted(outcome);
    }
}

/// So many models are served of a provider that is asked what it has.
pub const MOST_DISCOVERED: usize = 10_000;

/// A provider of the catalog, made, with the models that it was found to have if it was asked.
#[derive(Clone, Debug)]
pub struct Served {
    /// What the catalog says.
    pub config: ProviderConfig,
    /// Who answers.
    pub provider: Arc<dyn Provider>,
    /// The same with each of its keys, if there are several.
    pub by_key: Vec<Arc<dyn Provider>>,
    /// What it said it has, for one whose models are discovered.
    pub discovered: Vec<ModelCard>,
}

impl Served {
    /// Whether it is asked what models it has.
    pub fn discovers(&self) -> bool {
        matches!(self.config.models, ModelSource::Discovered)
    }

    /// Models that it said it has and that are not served for their names; with the reason.
    pub fn unfit(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.discovered.iter().filter_map(|card| Some((card.id.as_str(), unfit_name(&card.id)?)))
    }

    /// How many models it said it has beyond those that are served of one provider.
    pub fn beyond_the_most(&self) -> usize {
        let fit = self.discovered.iter().filter(|card| unfit_name(&card.id).is_none());
        fit.count().saturating_sub(MOST_DISCOVERED)
    }
}

impl RoutingTable {
    /// Makes the routes of a catalog. `catalog.providers` is not looked at: `served` stands for it.
    pub fn new(
        served: &[Served],
        catalog: &Catalog,
        leaderboard: &Leaderboard,
        metrics: &Metrics,
        health: &HealthBook,
    ) -> Self {
        let mut table = Self {
            providers: served.iter().map(|served| served.provider.clone()).collect(),
            prices: catalog.prices.clone(),
            ..Self::default()
        };
        let mut deployments: Vec<(Arc<str>, Vec<Arc<Deployment>>)> = Vec::new();
        // Where each model stands among them.
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        for served in served {
            let identity = Identity::of(&served.config);
            let (ring, limited) = (identity.keys(served), Arc::<LastLimited>::default());
            for (model, card) in models_of(served) {
                let public: Arc<str> = model.public.as_str().into();
                let worth = (catalog, leaderboard.standing(&model.upstream).map(|it| it.share));
                let known = (&identity, health);
                let deployment = deployment((served, known), (model, card), &public, worth, metrics);
                let prices =
                    catalog.prices.history(&deployment.provider_name, [&deployment.upstream_model, &public]);
                let keys = ring.of(&deployment.upstream_model, health);
                let limited = limited.clone();
                let deployment = Arc::new(Deployment { prices, keys, limited, ..deployment });
                match places.get(&public).and_then(|place| deployments.get_mut(*place)) {
                    Some((_, of_model)) => of_model.push(deployment),
                    None => {
                        places.insert(public.clone(), deployments.len());
                        deployments.push((public, vec![deployment]));
                    }
                }
            }
        }
        let hedges = Arc::new(Hedges::new(catalog.routing.hedge_budget));
        let all: Vec<Arc<Deployment>> =
            deployments.iter().flat_map(|(_, of_model)| of_model).cloned().collect();
        table.probes =
            served.iter().filter_map(|served| probe(served, &all, catalog, (metrics, health))).collect();
        let auto = auto(all, catalog, metrics, &hedges);
        for (model, mut deployments) in deployments {
            // Stable: equals stay in the order of the file.
            deployments.sort_by_key(|deployment| deployment.priority);
            let policy = catalog.policies.iter().find(|policy| *policy.model == *model);
            let policy = policy.cloned().unwrap_or_default();
            let strategy = policy.strategy.unwrap_or(catalog.routing.strategy);
            let faults = metrics.of_faults(&model);
            let policy = ModelPolicy { model: model.to_string(), ..policy };
            let shared = (faults, catalog.routing.clone(), hedges.clone());
            table.all.push(Arc::new(Route::new(policy, strategy, deployments, shared)));
        }
        table.auto = auto.map(Arc::new);
        health.forget_the_unused();
        table.without(&HashSet::new())
    }

    /// The same with these models off, and no others. Routes and what is known of them stay the same.
    #[must_use]
    pub fn without(&self, off: &HashSet<String>) -> Self {
        let mut table = Self {
            all: self.all.clone(),
            auto: self.auto.clone(),
            providers: self.providers.clone(),
            probes: self.probes.clone(),
            prices: self.prices.clone(),
            ..Self::default()
        };
        for route in &self.all {
            let is_off = off.contains(&*route.model);
            let names = if is_off { &mut table.off } else { &mut table.by_name };
            names.extend(route.names().map(|name| (name.to_owned(), route.clone())));
            if !is_off {
                table.routes.push(route.clone());
            }
        }
        let is_free = |name: &str| !table.by_name.contains_key(name) && !table.off.contains_key(name);
        if let Some(auto) = self.auto.as_ref().filter(|auto| is_free(&auto.model)) {
            match auto.only_with(&table.routes) {
                Some(auto) => table.by_name.insert(AUTO.to_owned(), auto),
                None => table.off.insert(AUTO.to_owned(), auto.clone()),
            };
        }
        table
    }

    /// The route that a name leads to; `None` if its model is off.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        found(name, &self.by_name, &self.off)
    }

    /// The route that a name would lead to if its model were not off.
    pub fn off(&self, name: &str) -> Option<&Arc<Route>> {
        found(name, &self.off, &self.by_name)
    }

    /// The name that comes nearest to one that leads nowhere.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let served = self.routes.iter().filter(|route| self.is_served(route, &|_| true));
        nearest(name, served.flat_map(|route| route.names()))
    }

    /// Whether anybody can be asked for a model: one of its own deployments, or one of a model that takes over from it,
    /// of those that may be used.
    pub fn is_served(&self, route: &Arc<Route>, may_use: &dyn Fn(&Route) -> bool) -> bool {
        let (mut open, mut seen) = (vec![route], Vec::new());
        while let Some(route) = open.pop() {
            if !route.deployments.is_empty() {
                return true;
            }
            if !seen.contains(&&route.model) {
                seen.push(&route.model);
                let taking_over = route.fallbacks.iter().filter_map(|name| self.route(name));
                open.extend(taking_over.filter(|route| may_use(route)));
            }
        }
        false
    }

    /// The routes of all models that are on, in the order of the catalog.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Those of models that are off, too.
    pub fn on_and_off(&self) -> &[Arc<Route>] {
        &self.all
    }

    /// Whether a model is off.
    pub fn is_off(&self, model: &str) -> bool {
        self.off.get(model).is_some_and(|route| *route.model == *model)
    }

    /// Whether any model is off.
    pub fn has_any_off(&self) -> bool {
        !self.off.is_empty()
    }

    /// How providers are asked for signs of life, of those who are.
    pub fn probes(&self) -> &[Arc<Probe>] {
        &self.probes
    }

    /// What models cost, whether they are served or not.
    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    /// A provider by its name.
    pub fn provider(&self, name: &str) -> Option<&Arc<dyn Provider>> {
        self.providers.iter().find(|provider| provider.name() == name)
    }
}

/// The route of a name. Ollama's clients leave out `:latest` or add it, and so may anybody, unless the others have a model
/// of just that name: it is the one that is meant.
fn found<'a>(
    name: &str,
    names: &'a HashMap<String, Arc<Route>>,
    others: &HashMap<String, Arc<Route>>,
) -> Option<&'a Arc<Route>> {
    names.get(name).or_else(|| match name.strip_suffix(":latest") {
        _ if others.contains_key(name) => None,
        Some(name) => names.get(name),
        None => names.get(&format!("{name}:latest")),
    })
}

/// How a provider is asked for signs of life, if it is.
fn probe(
    served: &Served,
    all: &[Arc<Deployment>],
    catalog: &Catalog,
    (metrics, health): (&Metrics, &HealthBook),
) -> Option<Arc<Probe>> {
    let config = served.config.probe.clone()?;
    let name = served.config.name.as_str();
    let own = all.iter().filter(|deployment| *deployment.provider_name == *name).cloned();
    let own: Vec<Arc<Deployment>> = own.collect();
    let (most_rest, metrics) = (catalog.routing.max_cooldown, metrics.of_probes(&name.into()));
    let asked = (served.provider.clone(), config);
    let health = health.of(&Identity::of(&served.config).name);
    Some(Arc::new(Probe::new(asked, health, &own, most_rest, metrics)))
}

fn auto(
    all: Vec<Arc<Deployment>>,
    catalog: &Catalog,
    metrics: &Metrics,
    hedges: &Arc<Hedges>,
) -> Option<Route> {
    let policy = ModelPolicy { model: AUTO.to_owned(), ..ModelPolicy::default() };
    let auto: Arc<str> = AUTO.into();
    let shared = (metrics.of_faults(&auto), catalog.routing.clone(), hedges.clone());
    (!all.is_empty()).then(|| Route::new(policy, Strategy::Score, all, shared))
}

/// The echo provider makes any trouble that a request asks for. It is trouble only if the settings ask for it.
fn plays(provider: &ProviderConfig, model: &ModelConfig) -> bool {
    let asks = |settings: &Map<String, Value>| settings.contains_key("echo");
    provider.kind == "echo" && !asks(&model.defaults) && !asks(&model.overrides)
}

/// The models of a provider: those that the catalog lists, or those that it said it has.
fn models_of(served: &Served) -> Vec<(ModelConfig, ModelCard)> {
    match &served.config.models {
        ModelSource::Listed(models) => {
            models.iter().map(|model| (model.clone(), ModelCard::default())).collect()
        }
        ModelSource::Discovered => {
            let config = |card: &ModelCard| ModelConfig {
                public: card.id.clone(),
                upstream: card.id.clone(),
                context_tokens: card.context_tokens,
                ..ModelConfig::default()
            };
            let mut seen = HashSet::new();
            let fit = served.discovered.iter().filter(|card| unfit_name(&card.id).is_none());
            let fit = fit.take(MOST_DISCOVERED).filter(|card| seen.insert(card.id.as_str()));
            fit.map(|card| (config(card), card.clone())).collect()
        }
    }
}

/// The time limits of a deployment.
fn timeouts_of(served: &Served, is_engine: bool) -> Timeouts {
    if is_engine {
        // Its provider limits what follows the wait for an engine, which has bounds of its own.
        return Timeouts { first_token: Duration::MAX, request: Duration::MAX, ..served.config.timeouts };
    }
    served.config.timeouts
}

fn deployment(
    (served, (identity, health)): (&Served, (&Identity, &HealthBook)),
    (model, card): (ModelConfig, ModelCard),
    public: &Arc<str>,
    (catalog, leaderboard): (&Catalog, Option<f64>),
    metrics: &Metrics,
) -> Deployment {
    let provider_name: Arc<str> = served.config.name.as_str().into();
    let is_engine = model.engine.is_some();
    let id: Arc<str> = format!("{provider_name}/{}", model.upstream).into();
    let routing = &catalog.routing;
    let adjustment = Adjustment::sum(&catalog.adjustments, [public, &model.upstream]);
    let merits = Merits {
        model: &model.upstream,
        context_tokens: model.context_tokens,
        leaderboard,
        adjustment: model.score_adjustment + adjustment,
        base_priority: served.config.base_priority,
    };
    Deployment {
        score: Score::of(&merits, &routing.scalars),
        weight: model.weight.unwrap_or(1.0),
        health: health.of(&identity.of_model(&model.upstream)),
        provider_health: health.of(&identity.name),
        keys: Keys::default(),
        limited: Arc::default(),
        prices: PriceHistory::default(),
        most_rest: routing.max_cooldown,
        is_probed: served.config.probe.is_some(),
        plays: plays(&served.config, &model),
        target: Target::of(&id),
        host: served.config.base_url.as_deref().and_then(host_of),
        sampled: Sampled::default(),
        faults: metrics.of_faults(public),
        id,
        model: public.clone(),
        provider: served.provider.clone(),
        upstream_model: model.upstream.into(),
        priority: model.priority,
        context_tokens: model.context_tokens,
        abilities: model.abilities.or(card.abilities),
        variants: model
            .engine
            .iter()
            .flat_map(|engine| &engine.variants)
            .map(|it| it.context_tokens)
            .collect(),
        languages: model.languages,
        details: card.details,
        defaults: model.defaults,
        overrides: model.overrides,
        timeouts: timeouts_of(served, is_engine),
        metrics: Arc::new(metrics.of_deployment(&provider_name, public)),
        provider_name,
    }
}
