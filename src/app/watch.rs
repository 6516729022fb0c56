//! Watches the files and the providers: what changes is taken over, whole or not at all.
//!
//! Files are looked at, not subscribed to: that works on every file system, through every kind of editor, and costs
//! some twenty look-ups each time. Whoever wants it at once asks for it (`crate::reload`), one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

use super::probing::Probing;
use super::sources::{Faults, Loaded, Sources};
use crate::gateway::Gateway;
use crate::prompts::Fingerprint;
use crate::reload::{Outcome, Report, Request, Wish};
use crate::telemetry::{Health, Metrics};

/// How often files are looked at. A change counts once it has held from one look to the next, so that a file
/// is not read while it is being written.
const LOOK: Duration = Duration::from_millis(500);
/// How often providers are asked again what models they have.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Owns what was loaded; nobody else changes the gateway's state.
#[derive(Debug)]
pub(super) struct Watcher {
    sources: Arc<Sources>,
    loaded: Loaded,
    gateway: Arc<Gateway>,
    health: Arc<Health>,
    metrics: Metrics,
    /// Those who ask for a reload.
    requests: mpsc::Receiver<Request>,
    probing: Probing,
    /// The files that were loaded.
    taken: [Fingerprint; 3],
    /// The files at the last look.
    seen: [Fingerprint; 3],
}

impl Watcher {
    pub(super) fn new(
        sources: Sources,
        loaded: Loaded,
        gateway: Arc<Gateway>,
        (health, metrics): (Arc<Health>, Metrics),
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let taken = sources.fingerprint();
        let (sources, seen) = (Arc::new(sources), taken.clone());
        let probing = Probing::default();
        Self { sources, loaded, gateway, health, metrics, requests, probing, taken, seen }
    }

    /// Watches until the end.
    pub(super) async fn run(mut self, end: CancellationToken) {
        self.probing.follow(self.loaded.routes(), &self.metrics);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ask_again = interval_at(Instant::now() + ASK_AGAIN, ASK_AGAIN);
        let mut hang_up = signal(SignalKind::hangup()).ok();
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                _ = look.tick() => self.look().await,
                _ = ask_again.tick(), if self.loaded.discovers() => self.ask_again().await,
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

    async fn fingerprint(&self) -> Option<[Fingerprint; 3]> {
        let sources = self.sources.clone();
        // Files may lie on a slow disk.
        tokio::task::spawn_blocking(move || sources.fingerprint()).await.ok()
    }

    async fn serve(&mut self, request: Request) {
        let outcome = match request.wish {
            Wish::Reload => self.reload().await,
            // Nobody is there to be told.
            Wish::Rehearse if request.is_given_up() => return,
            Wish::Rehearse => self.rehearsed().await.map_err(|faults| faults.lines().to_vec()),
        };
        request.tell(outcome);
    }

    /// What a reload would change. Nothing is touched: everything is made apart from what serves.
    async fn rehearsed(&self) -> Result<Report, Faults> {
        let sources = self.sources.apart();
        let loaded = sources.load(&sources.environment()?).await?;
        Ok(loaded.changes_since(&self.loaded))
    }

    /// Reads everything anew. What is wrong leaves everything as it is.
    async fn reload(&mut self) -> Outcome {
        // Before anything is read: what is written from now on is another change.
        if let Some(now) = self.fingerprint().await {
            (self.taken, self.seen) = (now.clone(), now);
        }
        let loaded = match self.sources.environment() {
            Ok(environment) => self.sources.load(&environment).await,
            Err(faults) => Err(faults),
        };
        // A models file may have named another file, which is no change of it.
        let ([_, _, taken], [_, _, seen]) = (&mut self.taken, &mut self.seen);
        *taken = self.sources.leaderboard_as_read();
        seen.clone_from(taken);
        match loaded {
            Ok(loaded) => {
                let report = loaded.changes_since(&self.loaded);
                self.gateway.replace(loaded.state());
                self.sources.settle(&loaded);
                for warning in &report.warnings {
                    tracing::warn!("{warning}");
                }
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

    async fn ask_again(&mut self) {
        if let Some(loaded) = self.loaded.rediscovered(&self.metrics, &self.sources.health).await {
            tracing::info!(models = loaded.routes().routes().len(), "The providers' models have changed");
            self.gateway.replace(loaded.state());
            self.loaded = loaded;
            self.probing.follow(self.loaded.routes(), &self.metrics);
        }
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
