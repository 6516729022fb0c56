//! The composition root: puts the rooms together, runs what runs beside the requests, and ends in order.

mod alone;
mod banner;
mod discovery;
mod faults;
mod keeping;
mod looking;
mod probing;
mod replicas;
mod schedule;
mod seen;
mod sources;
mod surroundings;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Credentials, Listeners, Workers};
use crate::callers::Budgets;
use crate::config::{Environment, Fault, ListenAddress, LogFormat, Settings};
use crate::engine::{Engines, Launcher, RunPlace};
use crate::gateway::Gateway;
use crate::reload::Reloads;
use crate::telemetry::{Health, Metrics, Progress};

use keeping::Keeping;

pub use alone::Alone;
pub use faults::Faults;
pub use sources::{Loaded, Sources};

/// The service, ready to run.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    gateway: Arc<Gateway>,
    metrics: Metrics,
    health: Arc<Health>,
    listeners: Listeners,
    /// Those that have only the figures.
    figures: Listeners,
    credentials: Arc<Credentials>,
    watcher: watch::Watcher,
    reloads: Reloads,
    callers: api::Callers,
    engines: Engines,
    keeping: Keeping,
    others: replicas::Others,
    banner: String,
}

/// How long engines may take to end when nobody asks them any more.
const ENGINES_END: Duration = Duration::from_secs(15);

impl App {
    /// Reads everything, asks the providers what they have, and binds the listeners.
    ///
    /// # Errors
    /// All faults of the configuration.
    pub async fn build(
        settings: Settings,
        folder: PathBuf,
        environment: Environment,
    ) -> Result<Self, Faults> {
        raise_file_limit();
        let run_place = Arc::new(RunPlace::in_folder(&settings.folders.run).await);
        let built = Box::pin(Self::build_with(run_place.clone(), settings, folder, environment)).await;
        if built.is_err() {
            run_place.take_back();
        }
        built
    }

    async fn build_with(
        run_place: Arc<RunPlace>,
        settings: Settings,
        folder: PathBuf,
        environment: Environment,
    ) -> Result<Self, Faults> {
        let metrics = Metrics::default();
        let health = Arc::new(Health::default());
        let launcher = Launcher::default().recording_at(run_place);
        let engines = Engines::started_by(launcher).metered_by(metrics.clone());
        let others = replicas::Others::find(&settings, &health, &metrics).await?;
        let sources = Sources::new(settings.clone(), folder, metrics.clone())
            .with_engines(engines.clone())
            .with_rests(others.book.clone());
        let is_for_people = settings.log.format == LogFormat::Text;
        let progress = Progress::if_watched().filter(|_| is_for_people);
        let (loaded, asking) = sources.load_after(None, &environment, progress.as_ref()).await?;
        drop(progress);
        sources.settle(&loaded);
        for warning in loaded.warnings() {
            tracing::warn!("{warning}");
        }
        let credentials = Arc::new(Credentials::read(&settings).map_err(Faults::from)?);
        let listen = loaded.listeners(&settings)?;
        let listeners = Listeners::bind(&listen).map_err(Faults::from)?;
        let figures = Listeners::bind_for("LLM_PROXY_API_METRICS_LISTEN", &settings.metrics_listen);
        let figures = figures.map_err(Faults::from)?;
        let gateway = Arc::new(Gateway::new(loaded.state(), Budgets::new(settings.storage.zone.clone())));
        let keeping = Keeping::open(&settings, (&metrics, &health), &others, &gateway).await?;
        let callers = api::Callers {
            ring: keeping.ring.clone(),
            ledger: keeping.ledger(),
            is_loopback: listen.iter().all(ListenAddress::is_local),
        };
        keeping.fill(gateway.gate()).await?;
        others.join(gateway.gate());
        let reach = banner::Reach {
            addresses: listeners.addresses(settings.serving.tls.is_some()),
            figures: figures.addresses(false),
            is_loopback: callers.is_loopback,
            has_keys: !callers.ring.is_empty(),
        };
        let banner = banner::text(&settings, &reach, &loaded);
        let (reloads, requests) = Reloads::new();
        let sources = (sources, credentials.clone());
        let told = (health.clone(), metrics.clone());
        let watcher = watch::Watcher::new(sources, (loaded, asking), gateway.clone(), told, requests)
            .noted_by(Some(keeping.accounts()));
        Ok(Self {
            settings,
            gateway,
            metrics,
            health,
            listeners,
            figures,
            credentials,
            watcher,
            reloads,
            callers,
            engines,
            keeping,
            others,
            banner,
        })
    }

    /// What was found, and where to begin: for a person at a terminal.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<String> {
        self.listeners.addresses(self.settings.serving.tls.is_some())
    }

    /// Serves until a signal, then lets answers end.
    ///
    /// # Errors
    /// The certificate cannot be used, or signals cannot be received.
    pub async fn run(self) -> Result<(), Fault> {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let signals =
            on_signals(self.health.clone(), stop.clone(), kill.clone(), self.settings.serving.drain_timeout);
        let signals = signals.map_err(|error| {
            Fault::new(
                "signals",
                format!("cannot be received: {error}"),
                "look at the limits of this process",
            )
        })?;
        self.run_until(stop, kill, signals).await
    }

    /// Serves until `stop`, lets answers end until `kill`, and runs `beside` meanwhile.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub async fn run_until(
        self,
        stop: CancellationToken,
        kill: CancellationToken,
        beside: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Fault> {
        // Dropped last: what requests have begun ends before the threads that run it.
        let workers = Workers::start(file_limit()).map_err(|error| {
            Fault::new("threads", format!("cannot be started: {error}"), "look at the limits of this process")
        })?;
        let tasks = TaskTracker::new();
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        let beside_end = end.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = beside => {}
                () = beside_end.cancelled() => {}
            }
        });
        tasks.spawn(self.watcher.run(end.clone()));
        tasks.spawn(self.others.run(self.gateway.gate().clone(), end.clone()));
        let (engines, metrics) = (self.engines.clone(), self.metrics.clone());
        let context = api::Context::new(
            &self.settings,
            self.gateway,
            engines,
            (metrics, self.health),
            (self.reloads, self.callers),
        );
        let context = context.with_accounts(Some(self.keeping.accounts()));
        let context = Arc::new(context.with_credentials(self.credentials.clone()));
        tasks.spawn(self.keeping.run(context.gateway.gate().clone(), context.health.clone(), end.clone()));
        let endpoint = api::endpoint(&context);
        let addresses = self.listeners.addresses(self.settings.serving.tls.is_some()).join(", ");
        let state = context.gateway.state();
        let (models, prompts) = (state.routes.routes().len(), state.prompts.list().len());
        drop(state);
        tracing::info!(addresses, models, prompts, version = env!("CARGO_PKG_VERSION"), "Serving");
        let serving = &self.settings.serving;
        let run = || ((&workers, self.metrics.clone()), (stop.clone(), kill.clone()));
        let (at, signals) = run();
        let callers = api::serve(self.listeners, endpoint, (serving, Some(self.credentials)), at, signals);
        let is_loopback = self.settings.metrics_listen.iter().all(ListenAddress::is_local);
        let (at, signals) = run();
        let endpoint = api::figures_endpoint(&context, is_loopback);
        let figures = api::serve(self.figures, endpoint, (serving, None), at, signals);
        tokio::join!(callers, figures);
        // The order of the end: connections are gone, so nobody needs engines, nor what runs beside them.
        let ended = async { timeout(ENGINES_END, self.engines.end()).await.is_ok() };
        let ended = tokio::select! {
            ended = ended => ended,
            () = kill.cancelled() => false,
        };
        if !ended {
            tracing::warn!("Engines are left to the end of the process");
        }
        end.cancel();
        tasks.close();
        tasks.wait().await;
        tracing::info!("Ended");
        Ok(())
    }
}

/// The first signal asks for an orderly end, within `patience`; the second one ends at once.
fn on_signals(
    health: Arc<Health>,
    stop: CancellationToken,
    kill: CancellationToken,
    patience: std::time::Duration,
) -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "Draining: no more connections, answers may end");
        health.drain();
        stop.cancel();
        tokio::select! {
            name = next() => tracing::warn!(signal = name, "Ending at once"),
            () = tokio::time::sleep(patience) => tracing::warn!("The time to drain is over; what is left is cut off"),
        }
        health.cut_off();
        kill.cancel();
    })
}

/// How many files this process may have open.
fn file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Every caller and every upstream takes a file; the soft limit of most systems is far below what they allow.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "The limit of open files stays as it is");
        }
    }
}
