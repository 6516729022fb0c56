//! What the service is made from: models file, prompts, and what was found near by. All or nothing.

mod warnings;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use tokio::time::Instant;

use super::discovery::{self, Asking, Discovery, Silent, Told};
use super::faults::Faults;
use super::schedule::Schedule;
use super::seen::{Files, Secrets, Seen};
use super::surroundings::{self, Surroundings};
use crate::config::{
    self, Catalog, ConfigError, Environment, Fault, Judged, LeaderboardConfig, ListenAddress, ProviderConfig,
    Settings,
};
use crate::engine::Engines;
use crate::gateway::State;
use crate::leaderboard::{self, Leaderboard};
use crate::prompts::{Fingerprint, Language, PromptLibrary};
use crate::providers::{self, ModelCard, Provider, Shared};
use crate::reload::{Diff, Report, Set};
use crate::router::{HealthBook, RoutingTable, Served};
use crate::telemetry::{Metrics, Progress};

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
    /// The same of files with secrets.
    secrets: ArcSwap<Secrets>,
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
        let secrets = ArcSwap::default();
        Self { settings, folder, metrics, shared, health, board, prices, secrets }
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
        let catalog = self.judged(environment).finish();
        let stated = catalog.and_then(|catalog| self.settings.listeners(&catalog));
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

    /// Reads everything and asks the providers what they have, which is shown there if anywhere. Who has not answered in
    /// a moment has no models.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub async fn load(
        &self,
        environment: &Environment,
        progress: Option<&Progress>,
    ) -> Result<Loaded, Faults> {
        Ok(self.load_after(None, environment, progress).await?.0)
    }

    /// The same after something was loaded before: who does not answer keeps the models that it had. With those who have
    /// not answered yet.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) async fn load_after(
        &self,
        former: Option<&Loaded>,
        environment: &Environment,
        progress: Option<&Progress>,
    ) -> Result<(Loaded, Asking), Faults> {
        let mut files = self.files(environment)?;
        let mut surroundings = Surroundings::default();
        if self.settings.minimum {
            let before = former.map(|former| &former.surroundings);
            surroundings = surroundings::look(&self.settings, &files.catalog, &self.shared, before).await;
            let found = surroundings.providers();
            let (served, faults) = made_providers(&found, &self.shared);
            Faults::from(ConfigError::from(faults)).none()?;
            files.served.extend(served);
            files.catalog.providers.extend(found);
        }
        let former = former.map_or(&[][..], |former| &former.served);
        let Discovery { served, silent, asking } =
            discovery::discover(files.served, &surroundings, former, progress).await;
        Ok((self.made(FromFiles { served, ..files }, surroundings, silent), asking))
    }

    fn made(&self, files: FromFiles, surroundings: Surroundings, silent: Silent) -> Loaded {
        let FromFiles { catalog, served, prompts, leaderboard } = files;
        let routes = RoutingTable::new(&served, &catalog, &leaderboard, &self.metrics, &self.health);
        let (routes, prompts, leaderboard) = (Arc::new(routes), Arc::new(prompts), Arc::new(leaderboard));
        Loaded { catalog, served, routes, prompts, leaderboard, surroundings, silent }
    }

    /// What the files say. All of them are read, so that all faults are told at once.
    fn files(&self, environment: &Environment) -> Result<FromFiles, Faults> {
        // Before anything is read: what is written from now on is another change.
        self.board.store(Arc::new(Seen::now(self.board.load().path.clone())));
        self.secrets.store(Arc::new(Secrets::now(self.secrets.load().paths.clone())));
        let judged = self.judged_and_prices(environment);
        self.note_secrets(environment, judged.catalog.as_ref());
        let mut faults = Faults::default();
        let (mut served, mut leaderboard) = (Vec::new(), None);
        if let Some(catalog) = &judged.catalog {
            leaderboard = faults.note(self.leaderboard(&catalog.leaderboard));
            // What is not in order is only looked at, and must not come near engines that run.
            let apart = Shared { has_proxy: self.shared.has_proxy, ..Shared::default() };
            let shared = if judged.faults.is_empty() { &self.shared } else { &apart };
            let (made, more) = made_providers(&catalog.providers, shared);
            served = made;
            faults.0.extend(more.iter().filter(|fault| !judged.explains(fault)).map(ToString::to_string));
        }
        let catalog = faults.note_first(judged.finish().map_err(Faults::from));
        let prompts = faults.note(self.prompts());
        match (catalog, leaderboard, prompts) {
            (Some(catalog), Some(leaderboard), Some(prompts)) if faults.0.is_empty() => {
                Ok(FromFiles { catalog, served, prompts, leaderboard })
            }
            _ => Err(faults),
        }
    }

    /// What is wrong with the addresses that the models file says, whatever else is wrong with it.
    ///
    /// # Errors
    /// It names an address that other machines reach.
    pub fn check_listeners(&self, environment: &Environment) -> Result<(), Faults> {
        match self.judged(environment).catalog {
            Some(catalog) => Ok(self.settings.listeners(&catalog).map(drop)?),
            None => Ok(()),
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
        let of_secrets = Secrets::now(self.secrets.load().paths.clone()).fingerprint;
        let (board, prices) = (self.board.load().again(), self.prices.load().again());
        [of_models, of_prompts, board, of_adjustments, prices, of_secrets]
    }

    /// From now on those files are watched that settings and models file name now.
    fn note_secrets(&self, environment: &Environment, catalog: Option<&Catalog>) {
        let known = self.secrets.load();
        let tls = self.settings.serving.tls.iter().flat_map(|tls| [&tls.certificates, &tls.key]);
        let of_settings = tls.chain(environment.secret_files()).cloned();
        let paths: Vec<PathBuf> = match catalog {
            Some(catalog) => of_settings.chain(catalog.secret_files.iter().cloned()).collect(),
            // What cannot be read may name the same all the same.
            None => known.paths.clone(),
        };
        if paths != known.paths {
            self.secrets.store(Arc::new(Secrets::now(paths)));
        }
    }

    /// What the leaderboard's file was at the last load. A models file may name another one each time.
    pub(super) fn leaderboard_as_read(&self) -> Fingerprint {
        self.board.load().fingerprint.clone()
    }

    /// The same of the file of prices.
    pub(super) fn prices_as_read(&self) -> Fingerprint {
        self.prices.load().fingerprint.clone()
    }

    /// The same of files with secrets.
    pub(super) fn secrets_as_read(&self) -> Fingerprint {
        self.secrets.load().fingerprint.clone()
    }

    /// What the models file says of leaderboards.
    ///
    /// # Errors
    /// Everything that is wrong with that file.
    pub fn leaderboard_config(&self, environment: &Environment) -> Result<LeaderboardConfig, Faults> {
        Ok(self.judged(environment).finish()?.leaderboard)
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

    /// The same, for a load: from now on the file of prices is watched that the models file names, good or bad.
    fn judged_and_prices(&self, environment: &Environment) -> Judged {
        let known = self.prices.load().path.clone();
        // Before it is read: what is written from now on is another change.
        self.prices.store(Arc::new(Seen::now(known.clone())));
        let judged = self.judged(environment);
        let named = judged.catalog.as_ref().and_then(|catalog| catalog.prices_file.clone());
        // What cannot be read may name it all the same.
        let named = if judged.faults.is_empty() { named } else { named.or_else(|| known.clone()) };
        if named == known {
            return judged;
        }
        self.prices.store(Arc::new(Seen::now(named)));
        self.judged(environment)
    }

    fn judged(&self, environment: &Environment) -> Judged {
        let path = &self.settings.models_config;
        if !path.exists() && self.settings.minimum && !self.settings.models_config_is_set {
            return Judged::from(Catalog::default());
        }
        if !path.exists() && !self.settings.models_config_is_set {
            return Judged::from(Fault::new(
                path.display().to_string(),
                "there is no models file",
                "write one, name another in LLM_PROXY_API_MODELS_CONFIG, or set LLM_PROXY_API_MINIMUM=1 to start on what can be found",
            ));
        }
        Catalog::judge(path, environment, self.settings.timeouts, self.settings.minimum)
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
}

/// A provider, and the same with each of its keys if there are several.
fn built(config: &ProviderConfig, shared: &Shared) -> Result<Built, Fault> {
    let with_key = |key: &SecretString| {
        providers::build(&ProviderConfig { api_key: Some(key.clone()), ..config.clone() }, shared)
    };
    let by_key: Vec<_> = config.api_keys.iter().map(with_key).collect::<Result<_, _>>()?;
    let provider = match by_key.first() {
        Some(provider) => provider.clone(),
        None => providers::build(config, shared)?,
    };
    Ok((provider, by_key))
}

/// Those that can be made, and why the others cannot.
fn made_providers(providers: &[ProviderConfig], shared: &Shared) -> (Vec<Served>, Vec<Fault>) {
    let mut faults = Vec::new();
    let mut served = Vec::new();
    for config in providers {
        match built(config, shared) {
            Ok((provider, by_key)) => {
                let discovered = Vec::new();
                served.push(Served { config: config.clone(), provider, by_key, discovered });
            }
            Err(fault) => faults.push(fault),
        }
    }
    (served, faults)
}

/// What the files say.
#[derive(Debug)]
struct FromFiles {
    catalog: Catalog,
    served: Vec<Served>,
    prompts: PromptLibrary,
    leaderboard: Leaderboard,
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

    /// Whether a provider is asked what models it has, and so may have others than those that are known.
    pub fn discovers(&self) -> bool {
        self.served.iter().any(Served::discovers)
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
    pub fn served(&self) -> &[Served] {
        &self.served
    }

    /// What was looked for near by.
    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Asks a provider again what models it has; `None` if there is none of that name.
    pub(super) fn ask(&self, name: &str) -> Option<impl Future<Output = (String, Told)> + Send + use<>> {
        self.served.iter().find(|served| served.config.name == name).map(discovery::ask)
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

    /// The providers that are to be asked again, each of which has just been asked, or is being asked yet.
    pub(super) fn schedule(&self, asking: &Asking, now: Instant) -> Schedule {
        let mut schedule = Schedule::default();
        for served in self.served.iter().filter(|served| served.discovers()) {
            let config = &served.config;
            let has_told = !served.discovered.is_empty() && !self.silent.contains_key(&config.name);
            schedule.add(&config.name, config.discover_every, has_told, now);
        }
        asking.names.iter().for_each(|name| schedule.is_asked(name));
        schedule
    }
}
