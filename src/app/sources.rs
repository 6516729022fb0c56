//! What the service is made from: models file, prompts, and what was found near by. All or nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use secrecy::SecretString;
use tokio::time::{Instant, timeout};

use super::faults::Faults;
use super::schedule::Schedule;
use super::seen::{Files, Seen};
use super::surroundings::{self, Surroundings};
use crate::config::{
    self, Catalog, ConfigError, Environment, Fault, LeaderboardConfig, ListenAddress, ProviderConfig,
    Settings,
};
use crate::engine::Engines;
use crate::gateway::State;
use crate::leaderboard::{self, Leaderboard};
use crate::prompts::{Fingerprint, Language, PromptLibrary};
use crate::providers::{self, ErrorKind, ModelCard, Provider, Shared};
use crate::reload::{Diff, Report, Set};
use crate::router::{HealthBook, RoutingTable, Served};
use crate::telemetry::Metrics;

/// How long a provider may take at the start to say what models it has: everybody waits for that.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How long it may take later, when nobody waits.
const LATER_ANSWER: Duration = Duration::from_secs(15);

/// Where everything is read from.
#[derive(Debug)]
pub struct Sources {
    settings: Settings,
    /// The folder in which the program was started, where `.env` may be.
    folder: PathBuf,
    metrics: Metrics,
    shared: Shared,
    /// Who rests, whatever is read anew.
    pub(super) health: HealthBook,
    /// The leaderboard's file as it was when it was read the last time.
    board: ArcSwap<Seen>,
    /// The same of the file of prices.
    prices: ArcSwap<Seen>,
}

/// Everything that was read, checked and made.
#[derive(Debug)]
pub struct Loaded {
    catalog: Catalog,
    served: Vec<Served>,
    routes: Arc<RoutingTable>,
    prompts: Arc<PromptLibrary>,
    leaderboard: Arc<Leaderboard>,
    surroundings: Surroundings,
    silent: Silent,
}

type Built = (Arc<dyn Provider>, Vec<Arc<dyn Provider>>);

impl Sources {
    /// Sources as the settings name them.
    pub fn new(settings: Settings, folder: PathBuf, metrics: Metrics) -> Self {
        let shared = Shared { has_proxy: settings.found.has_proxy, ..Shared::default() };
        let board = ArcSwap::from_pointee(Seen::now(Some(leaderboard::DEFAULT_FILE.into())));
        let (health, prices) = (HealthBook::default(), ArcSwap::default());
        Self { settings, folder, metrics, shared, health, board, prices }
    }

    /// The same, with engines that are started in a way of their own.
    #[must_use]
    pub fn with_engines(self, engines: Engines) -> Self {
        Self { shared: Shared { engines, ..self.shared }, ..self }
    }

    /// The same, with rests that others have told of, and are told of.
    #[must_use]
    pub fn with_rests(self, health: HealthBook) -> Self {
        Self { health, ..self }
    }

    /// The same, with another models file.
    #[must_use]
    pub fn with_models_file(mut self, file: PathBuf) -> Self {
        (self.settings.models_config, self.settings.models_config_is_set) = (file, true);
        self
    }

    /// Sources of the same, whose loads change nothing for anybody: engines, rests and figures are their own.
    pub(super) fn apart(&self) -> Self {
        Self::new(self.settings.clone(), self.folder.clone(), Metrics::default())
    }

    /// Where the service is to listen, as far as that can be read.
    pub fn listeners(&self, environment: &Environment) -> Vec<ListenAddress> {
        let stated = self.catalog(environment).and_then(|catalog| Ok(self.settings.listeners(&catalog)?));
        // The service may run on an older file than the one that is broken now.
        stated.unwrap_or_else(|_| self.settings.listen.clone())
    }

    /// Reads everything and asks nobody: models that would be found are left out.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn read(&self, environment: &Environment) -> Result<Loaded, Faults> {
        Ok(self.made(self.files(environment)?, Surroundings::default(), Silent::new()))
    }

    /// Reads everything and asks the providers what they have.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub async fn load(&self, environment: &Environment) -> Result<Loaded, Faults> {
        let mut files = self.files(environment)?;
        let mut surroundings = Surroundings::default();
        if self.settings.minimum {
            surroundings = surroundings::look(&self.settings, &files.catalog, &self.shared).await;
            let found = surroundings.providers();
            files.served.extend(self.served(&found)?);
            files.catalog.providers.extend(found);
        }
        let (served, silent) = with_discovered(files.served, &surroundings).await;
        Ok(self.made(FromFiles { served, ..files }, surroundings, silent))
    }

    fn made(&self, files: FromFiles, surroundings: Surroundings, silent: Silent) -> Loaded {
        let FromFiles { catalog, served, prompts, leaderboard } = files;
        let routes = RoutingTable::new(&served, &catalog, &leaderboard, &self.metrics, &self.health);
        let (routes, prompts, leaderboard) = (Arc::new(routes), Arc::new(prompts), Arc::new(leaderboard));
        Loaded { catalog, served, routes, prompts, leaderboard, surroundings, silent }
    }

    fn files(&self, environment: &Environment) -> Result<FromFiles, Faults> {
        // All are read, so that all faults are told at once.
        let catalog = self.catalog_and_prices(environment).and_then(|catalog| {
            let leaderboard = self.leaderboard(&catalog.leaderboard);
            let served = self.served(&catalog.providers);
            let leaderboard =
                Faults::beside(served.as_ref().err().cloned().into_iter().collect(), leaderboard)?;
            Ok((catalog, served?, leaderboard))
        });
        match (catalog, self.prompts()) {
            (Ok((catalog, served, leaderboard)), Ok(prompts)) => {
                Ok(FromFiles { catalog, served, prompts, leaderboard })
            }
            (Err(Faults(mut faults)), Err(Faults(more))) => {
                faults.extend(more);
                Err(Faults(faults))
            }
            (Err(faults), Ok(_)) | (Ok(_), Err(faults)) => Err(faults),
        }
    }

    /// What was loaded holds from now on: engines of another configuration end, and those begin that are to run always.
    pub(super) fn settle(&self, loaded: &Loaded) {
        let providers: Vec<&str> = loaded.served.iter().map(|served| served.config.name.as_str()).collect();
        self.shared.engines.settle(&providers);
        self.shared.engines.preload();
    }

    /// Reads the environment anew: `.env` may have changed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn environment(&self) -> Result<Environment, Faults> {
        Ok(Environment::load(&self.folder)?)
    }

    /// What the files are now.
    pub(super) fn fingerprint(&self) -> Files {
        let models = &self.settings.models_config;
        let [of_models, of_prompts, of_adjustments] =
            [models, &self.settings.prompts_dir, &config::adjustments_beside(models)]
                .map(|path| Fingerprint::of(path));
        [of_models, of_prompts, self.board.load().again(), of_adjustments, self.prices.load().again()]
    }

    /// What the leaderboard's file was when it was read. A models file may name another one each time.
    pub(super) fn leaderboard_as_read(&self) -> Fingerprint {
        self.board.load().fingerprint.clone()
    }

    /// The same of the file of prices, at the last load.
    pub(super) fn prices_as_read(&self) -> Fingerprint {
        self.prices.load().fingerprint.clone()
    }

    /// What the models file says of leaderboards.
    ///
    /// # Errors
    /// Everything that is wrong with that file.
    pub fn leaderboard_config(&self, environment: &Environment) -> Result<LeaderboardConfig, Faults> {
        Ok(self.catalog(environment)?.leaderboard)
    }

    /// Reads the figures: those of the file, or those that come with the program.
    ///
    /// # Errors
    /// The file is there and something is wrong with it.
    pub fn leaderboard(&self, config: &LeaderboardConfig) -> Result<Leaderboard, Faults> {
        let path = leaderboard::file_of(config);
        self.board.store(Arc::new(Seen::now(Some(path.to_owned()))));
        Ok(Leaderboard::load(path)?)
    }

    fn catalog(&self, environment: &Environment) -> Result<Catalog, Faults> {
        Ok(self.models_file(environment)?)
    }

    /// The same, for a load: from now on the file of prices is watched that the models file names, good or bad.
    fn catalog_and_prices(&self, environment: &Environment) -> Result<Catalog, Faults> {
        let known = self.prices.load().path.clone();
        // Before it is read: what is written from now on is another change.
        self.prices.store(Arc::new(Seen::now(known.clone())));
        let read = self.models_file(environment);
        let named = match &read {
            Ok(catalog) => catalog.prices_file.clone(),
            Err(error) => error.prices_file.clone().or_else(|| known.clone()),
        };
        if named == known {
            return Ok(read?);
        }
        self.prices.store(Arc::new(Seen::now(named)));
        self.catalog(environment)
    }

    fn models_file(&self, environment: &Environment) -> Result<Catalog, ConfigError> {
        let path = &self.settings.models_config;
        if !path.exists() && self.settings.minimum && !self.settings.models_config_is_set {
            return Ok(Catalog::default());
        }
        if !path.exists() && !self.settings.models_config_is_set {
            return Err(ConfigError::from(Fault::new(
                path.display().to_string(),
                "there is no models file",
                "write one, name another in LLM_PROXY_API_MODELS_CONFIG, or set LLM_PROXY_API_MINIMUM=1 to start on what can be found",
            )));
        }
        Catalog::load(path, environment, self.settings.timeouts, self.settings.minimum)
    }

    /// Reads the prompts: those of the folder, and beneath them those that come with the program.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn prompts(&self) -> Result<PromptLibrary, Faults> {
        let default = Language::parse(&self.settings.default_language).ok_or_else(|| {
            let problem = format!("`{}` is no language tag", self.settings.default_language);
            Faults::from(Fault::new(
                "LLM_PROXY_API_DEFAULT_EP_LANGUAGE",
                problem,
                "give a tag such as en or pt-BR",
            ))
        })?;
        let folder = &self.settings.prompts_dir;
        if !folder.exists() && !self.settings.prompts_dir_is_set {
            return Ok(PromptLibrary::shipped(&default)?);
        }
        if !folder.is_dir() {
            let problem = if folder.exists() { "is no folder" } else { "does not exist" };
            return Err(Faults::from(Fault::new(
                "LLM_PROXY_API_PROMPTS_DIR",
                format!("`{}` {problem}", folder.display()),
                "name a folder, or unset it for the prompts that come with the program",
            )));
        }
        Ok(PromptLibrary::load(folder, &default)?)
    }

    /// A provider, and the same with each of its keys if there are several.
    fn built(&self, config: &ProviderConfig) -> Result<Built, Fault> {
        let with_key = |key: &SecretString| {
            providers::build(&ProviderConfig { api_key: Some(key.clone()), ..config.clone() }, &self.shared)
        };
        let by_key: Vec<_> = config.api_keys.iter().map(with_key).collect::<Result<_, _>>()?;
        let provider = match by_key.first() {
            Some(provider) => provider.clone(),
            None => providers::build(config, &self.shared)?,
        };
        Ok((provider, by_key))
    }

    fn served(&self, providers: &[ProviderConfig]) -> Result<Vec<Served>, Faults> {
        let mut faults = Vec::new();
        let mut served = Vec::new();
        for config in providers {
            match self.built(config) {
                Ok((provider, by_key)) => {
                    let discovered = Vec::new();
                    served.push(Served { config: config.clone(), provider, by_key, discovered });
                }
                Err(fault) => faults.push(fault.to_string()),
            }
        }
        if faults.is_empty() { Ok(served) } else { Err(Faults(faults)) }
    }
}

/// What the files say.
#[derive(Debug)]
struct FromFiles {
    catalog: Catalog,
    served: Vec<Served>,
    prompts: PromptLibrary,
    leaderboard: Leaderboard,
}

/// Why providers that were asked for their models named none, by their names.
type Silent = BTreeMap<String, String>;

/// Asks all providers at once whose models are to be discovered, but for those that have just been asked.
async fn with_discovered(mut served: Vec<Served>, surroundings: &Surroundings) -> (Vec<Served>, Silent) {
    let names: Vec<&str> =
        served.iter().filter(|served| served.discovers()).map(|served| served.config.name.as_str()).collect();
    if !names.is_empty() {
        tracing::info!(providers = names.join(", "), "Asking what models there are");
    }
    let asked = served.iter().map(|served| async {
        match surroundings.models_of(&served.config.name) {
            Some(answer) => answer,
            None => discover(served).await.unwrap_or_else(|| Ok(Vec::new())),
        }
    });
    let answers = join_all(asked).await;
    let mut silent = Silent::new();
    for (served, answer) in served.iter_mut().zip(answers) {
        match answer {
            Ok(models) => served.discovered = models,
            Err(why) => drop(silent.insert(served.config.name.clone(), why)),
        }
    }
    (served, silent)
}

/// What a provider says it has, or why it does not say; `None` when its models are listed.
async fn discover(served: &Served) -> Option<Told> {
    if served.discovers() { Some(told(served.provider.as_ref(), FIRST_ANSWER).await) } else { None }
}

/// What a provider says it has, or why it does not say.
pub(super) type Told = Result<Vec<ModelCard>, String>;

async fn told(provider: &dyn Provider, patience: Duration) -> Told {
    match timeout(patience, provider.models()).await {
        Ok(Ok(models)) => Ok(models),
        Ok(Err(error)) => {
            tracing::debug!(provider = provider.name(), %error, "The provider does not say what models it has");
            Err(match error.kind {
                ErrorKind::Unreachable => error.kind.to_string(),
                kind => format!("does not say what models it has: it {kind}"),
            })
        }
        Err(_) => Err(format!("cannot be reached within {} s", patience.as_secs())),
    }
}

impl Loaded {
    /// The state for a gateway.
    pub fn state(&self) -> State {
        State {
            routes: self.routes.clone(),
            prompts: self.prompts.clone(),
            rules: self.catalog.rules.clone(),
        }
    }

    /// What is different from another set.
    pub fn changes_since(&self, before: &Self) -> Report {
        Report {
            models: self.routes.routes().len(),
            prompts: self.prompts.list().len(),
            diff: Diff::between(before.set(), self.set()),
            warnings: self.warnings(),
        }
    }

    fn set(&self) -> Set<'_> {
        Set { served: &self.served, routes: &self.routes, catalog: &self.catalog, prompts: &self.prompts }
    }

    /// Things to tell the operator that are no errors.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.catalog.warnings.clone();
        warnings.extend_from_slice(self.prompts.warnings());
        let default = self.prompts.default_language();
        if !self.prompts.speaks(default) {
            let languages: Vec<String> = self.prompts.languages().iter().map(ToString::to_string).collect();
            warnings.push(format!(
                "LLM_PROXY_API_DEFAULT_EP_LANGUAGE: there is no prompt in `{default}`; those there are, are in {}",
                languages.join(", ")
            ));
        }
        if let (Some(file), None) = (&self.catalog.leaderboard.file, self.leaderboard.file()) {
            warnings.push(format!(
                "the leaderboard's file {} is not there, so the figures that come with the program hold; `llm-proxy-api leaderboard update` writes it",
                file.display()
            ));
        }
        for served in self.served.iter().filter(|served| served.discovers()) {
            if served.discovered.is_empty() {
                let name = &served.config.name;
                let why = self.silent.get(name).map_or("says that it has no models", String::as_str);
                warnings.push(format!("provider `{name}` {why}; it is asked again from time to time"));
            }
        }
        warnings
    }

    /// Where to listen, as settings and models file say it together.
    ///
    /// # Errors
    /// The file names an address that other machines reach.
    pub fn listeners(&self, settings: &Settings) -> Result<Vec<ListenAddress>, Faults> {
        Ok(settings.listeners(&self.catalog)?)
    }

    /// Who serves which model.
    pub fn routes(&self) -> &RoutingTable {
        &self.routes
    }

    /// The prompt library.
    pub fn prompts(&self) -> &PromptLibrary {
        &self.prompts
    }

    /// How well models do.
    pub fn leaderboard(&self) -> &Leaderboard {
        &self.leaderboard
    }

    /// The providers, and how many models each was found to have.
    pub(super) fn served(&self) -> &[Served] {
        &self.served
    }

    /// What was looked for near by.
    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Asks a provider again what models it has; `None` if there is none of that name.
    pub(super) fn ask(&self, name: &str) -> Option<impl Future<Output = (String, Told)> + Send + use<>> {
        let served = self.served.iter().find(|served| served.config.name == name)?;
        let (name, provider) = (name.to_owned(), served.provider.clone());
        Some(async move { (name, told(provider.as_ref(), LATER_ANSWER).await) })
    }

    /// The same with other models of a provider. `None` if nothing changes.
    pub(super) fn with_models(
        &self,
        provider: &str,
        models: Vec<ModelCard>,
        (metrics, health): (&Metrics, &HealthBook),
    ) -> Option<Self> {
        let mut served = self.served.clone();
        let changed = served.iter_mut().find(|served| served.config.name == provider)?;
        if changed.discovered == models {
            return None;
        }
        changed.discovered = models;
        let mut silent = self.silent.clone();
        silent.remove(provider);
        Some(Self {
            routes: Arc::new(RoutingTable::new(&served, &self.catalog, &self.leaderboard, metrics, health)),
            leaderboard: self.leaderboard.clone(),
            catalog: self.catalog.clone(),
            prompts: self.prompts.clone(),
            surroundings: self.surroundings.clone(),
            silent,
            served,
        })
    }

    /// The providers that are to be asked again, each of which has just been asked.
    pub(super) fn schedule(&self, now: Instant) -> Schedule {
        let mut schedule = Schedule::default();
        for served in self.served.iter().filter(|served| served.discovers()) {
            let config = &served.config;
            schedule.add(&config.name, config.discover_every, !served.discovered.is_empty(), now);
        }
        schedule
    }
}
