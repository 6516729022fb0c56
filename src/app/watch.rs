//! Watches the files and the providers: what changes is taken over, whole or not at all.
//!
//! Files are looked at, not subscribed to: that works on every file system, through every kind of editor, and costs
//! some twenty look-ups each time. Whoever wants it at once asks for it (`crate::reload`), one after the other.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::discovery::{Asking, Told};
use super::faults::Faults;
use super::probing::Probing;
use super::schedule::Schedule;
use super::seen::Files;
use super::sources::{Loaded, Sources};
use crate::accounts::{Accounts, Actor};
use crate::api::{Credentials, Renewed};
use crate::config::{Environment, Settings};
use crate::gateway::Gateway;
use crate::reload::{Change, How, Outcome, Report, Request, What, Wish};
use crate::telemetry::{Health, Metrics};

/// How often files are looked at. A change counts once it has held from one look to the next, so that a file
/// is not read while it is being written.
const LOOK: Duration = Duration::from_millis(500);

/// Owns what was loaded; nobody else changes the gateway's state.
#[derive(Debug)]
pub(super) struct Watcher {
    sources: Arc<Sources>,
    credentials: Arc<Credentials>,
    loaded: Loaded,
    gateway: Arc<Gateway>,
    health: Arc<Health>,
    metrics: Metrics,
    /// Those who ask for a reload: whoever has the admin key.
    requests: mpsc::Receiver<Request>,
    /// Where it is noted that somebody had asked.
    accounts: Option<Arc<Accounts>>,
    probing: Probing,
    /// When which provider is asked again what models it has.
    schedule: Schedule,
    /// Those who are being asked, each at most once.
    asked: FuturesUnordered<BoxFuture<'static, (String, Told)>>,
    /// The files that were loaded.
    taken: Files,
    /// The files at the last look.
    seen: Files,
}

impl Watcher {
    pub(super) fn new(
        (sources, credentials): (Sources, Arc<Credentials>),
        (loaded, asking): (Loaded, Asking),
        gateway: Arc<Gateway>,
        (health, metrics): (Arc<Health>, Metrics),
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let taken = sources.fingerprint();
        let (sources, seen) = (Arc::new(sources), taken.clone());
        let probing = Probing::default();
        let (schedule, asked) = (loaded.schedule(&asking, Instant::now()), asking.answers);
        Self {
            sources,
            credentials,
            loaded,
            gateway,
            health,
            metrics,
            requests,
            accounts: None,
            probing,
            schedule,
            asked,
            taken,
            seen,
        }
    }

    /// The same, with a place where it is noted that somebody has had everything reloaded.
    pub(super) fn noted_by(self, accounts: Option<Arc<Accounts>>) -> Self {
        Self { accounts, ..self }
    }

    /// Watches until the end.
    pub(super) async fn run(mut self, end: CancellationToken) {
        self.probing.follow(self.loaded.routes(), &self.metrics);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hang_up = signal(SignalKind::hangup()).ok();
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                _ = look.tick() => self.look().await,
                () = until(self.schedule.next()) => self.ask_again(),
                // Slow answers hold nothing up, and none are waited for when there are none.
                Some((provider, told)) = self.asked.next() => self.take_over(&provider, told),
                () = received(&mut hang_up) => drop(self.reload().await),
                Some(request) = self.requests.recv() => self.serve(request).await,
            }
        }
        self.probing.end().await;
    }

    async fn look(&mut self) {
        let Some(now) = self.fingerprint().await else { return };
        if now == self.seen && now != self.taken {
            drop(self.reload().await);
        } else {
            self.seen = now;
        }
    }

    // Borrowed for itself alone: those who are being asked cannot be looked at by two threads.
    async fn fingerprint(&mut self) -> Option<Files> {
        let sources = self.sources.clone();
        // Files may lie on a slow disk.
        tokio::task::spawn_blocking(move || sources.fingerprint()).await.ok()
    }

    async fn serve(&mut self, request: Request) {
        let outcome = match request.wish {
            Wish::Reload => {
                let outcome = self.reload().await;
                self.note(&request, &outcome);
                outcome
            }
            // Nobody is there to be told.
            Wish::Rehearse if request.is_given_up() => return,
            Wish::Rehearse => self.rehearsed().await.map_err(|faults| faults.lines().to_vec()),
        };
        request.tell(outcome);
    }

    /// What is done is noted, whether or not whoever asked is still there. What is refused is not done.
    fn note(&self, request: &Request, outcome: &Outcome) {
        if let (Some(accounts), Ok(report)) = (&self.accounts, outcome) {
            let detail = json!({"changes": report.diff.changes.len()});
            let origin = Actor::of_admin(&request.by).at(&request.peer);
            accounts.noted(origin, "configuration.reload", "", detail);
        }
    }

    /// What a reload would change. Nothing is touched: everything is made apart from what serves.
    async fn rehearsed(&mut self) -> Result<Report, Faults> {
        let sources = self.sources.apart();
        let environment = sources.environment()?;
        let renewed = self.renewed(&environment);
        let loaded = sources.load_after(Some(&self.loaded), &environment, None).await;
        let (renewed, (loaded, _)) = both(renewed, loaded)?;
        Ok(with_secrets(loaded.changes_since(&self.loaded), &renewed))
    }

    /// Certificates and keys as they are now. Nothing changes by this.
    fn renewed(&self, environment: &Environment) -> Result<Renewed, Faults> {
        let settings = Settings::from_environment(environment)?;
        self.credentials.renewed(&settings).map_err(Faults::from)
    }

    /// Reads everything anew. What is wrong leaves everything as it is.
    async fn reload(&mut self) -> Outcome {
        // Before anything is read: what is written from now on is another change.
        if let Some(now) = self.fingerprint().await {
            (self.taken, self.seen) = (now.clone(), now);
        }
        let loaded = match self.sources.environment() {
            Ok(environment) => {
                let renewed = self.renewed(&environment);
                let loaded = self.sources.load_after(Some(&self.loaded), &environment, None).await;
                self.note_named_files();
                both(renewed, loaded)
            }
            Err(faults) => Err(faults),
        };
        match loaded {
            Ok((renewed, (loaded, asking))) => {
                let report = with_secrets(loaded.changes_since(&self.loaded), &renewed);
                self.credentials.put(renewed);
                self.gateway.replace(loaded.state());
                self.sources.settle(&loaded);
                for warning in &report.warnings {
                    tracing::warn!("{warning}");
                }
                // Everybody has been asked just now. Who has not answered yet is listened to.
                self.schedule = loaded.schedule(&asking, Instant::now());
                self.asked = asking.answers;
                self.loaded = loaded;
                self.probing.follow(self.loaded.routes(), &self.metrics);
                self.health.reload_accepted();
                self.metrics.reloaded(true);
                tracing::info!(
                    models = report.models,
                    prompts = report.prompts,
                    changes = report.diff.summary(),
                    "The changed configuration is in place"
                );
                Ok(report)
            }
            Err(faults) => {
                // One line, whatever the number of faults.
                let reason = faults.to_string().replace('\n', " | ");
                // First: whoever reads the line finds it so.
                self.health.reload_refused(reason.clone());
                self.metrics.reloaded(false);
                tracing::error!("The changed configuration is refused, the one before it goes on: {reason}");
                Err(faults.lines().to_vec())
            }
        }
    }

    /// A models file may have named another file, which is no change of that.
    fn note_named_files(&mut self) {
        for [_, _, board, _, prices, secrets] in [&mut self.taken, &mut self.seen] {
            (*board, *prices) = (self.sources.leaderboard_as_read(), self.sources.prices_as_read());
            *secrets = self.sources.secrets_as_read();
        }
    }

    fn ask_again(&mut self) {
        let due = self.schedule.take_due(Instant::now());
        self.asked.extend(due.iter().filter_map(|name| self.loaded.ask(name)).map(FutureExt::boxed));
    }

    fn take_over(&mut self, provider: &str, told: Told) {
        let has_models = told.as_ref().is_ok_and(|models| !models.is_empty());
        self.schedule.told(provider, has_models, Instant::now());
        // Who does not answer now had models a minute ago and will have them again.
        let Ok(models) = told else { return };
        let changed = self.loaded.with_models(provider, models, (&self.metrics, &self.sources.health));
        if let Some(loaded) = changed {
            let report = loaded.changes_since(&self.loaded);
            let known = self.loaded.warnings();
            for warning in report.warnings.iter().filter(|warning| !known.contains(warning)) {
                tracing::warn!("{warning}");
            }
            if !report.diff.is_empty() {
                let summary = report.diff.summary();
                tracing::info!(provider, changes = summary, "The provider's models have changed");
            }
            self.gateway.replace(loaded.state());
            self.loaded = loaded;
            self.probing.follow(self.loaded.routes(), &self.metrics);
        }
    }
}

/// Both, or all that is wrong with either.
fn both<A, B>(one: Result<A, Faults>, other: Result<B, Faults>) -> Result<(A, B), Faults> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => {
            Faults::beside(one.err().into_iter().chain(other.err()).collect(), Ok(()))?;
            Err(Faults::default())
        }
    }
}

/// The report, with the settings whose secrets are others.
fn with_secrets(mut report: Report, renewed: &Renewed) -> Report {
    let change = |name: &&'static str| Change {
        what: What::Secret,
        name: (*name).to_owned(),
        how: How::Changed,
        details: Vec::new(),
    };
    report.diff.changes.extend(renewed.changed.iter().map(change));
    report
}

/// Comes back at that time; never, if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Comes back when SIGHUP comes; never, if it cannot be received.
async fn received(hang_up: &mut Option<Signal>) {
    match hang_up {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
