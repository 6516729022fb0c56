//! Watches the files and the providers: what changes is taken over, whole or not at all.
//!
//! Files are looked at, not subscribed to: that works on every file system, through every kind of editor, and costs
//! some twenty look-ups each time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::schedule::Schedule;
use super::sources::{Loaded, Sources, Told};
use crate::gateway::Gateway;
use crate::prompts::Fingerprint;
use crate::telemetry::{Health, Metrics};

/// How often files are looked at. A change counts once it has held from one look to the next, so that a file
/// is not read while it is being written.
const LOOK: Duration = Duration::from_millis(500);

/// Owns what was loaded; nobody else changes the gateway's state.
#[derive(Debug)]
pub(super) struct Watcher {
    sources: Arc<Sources>,
    loaded: Loaded,
    gateway: Arc<Gateway>,
    health: Arc<Health>,
    metrics: Metrics,
    /// When which provider is asked again what models it has.
    schedule: Schedule,
    /// Those who are being asked, each at most once.
    asked: FuturesUnordered<BoxFuture<'static, (String, Told)>>,
    /// The files that were loaded.
    taken: [Fingerprint; 4],
    /// The files at the last look.
    seen: [Fingerprint; 4],
}

impl Watcher {
    pub(super) fn new(
        sources: Sources,
        loaded: Loaded,
        gateway: Arc<Gateway>,
        health: Arc<Health>,
        metrics: Metrics,
    ) -> Self {
        let taken = sources.fingerprint();
        Self {
            sources: Arc::new(sources),
            schedule: loaded.schedule(Instant::now()),
            asked: FuturesUnordered::new(),
            loaded,
            gateway,
            health,
            metrics,
            seen: taken.clone(),
            taken,
        }
    }

    /// Watches until the end.
    pub(super) async fn run(mut self, end: CancellationToken) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hang_up = signal(SignalKind::hangup()).ok();
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = look.tick() => self.look().await,
                () = until(self.schedule.next()) => self.ask_again(),
                // Slow answers hold nothing up, and none are waited for when there are none.
                Some((provider, told)) = self.asked.next() => self.take_over(&provider, told),
                () = received(&mut hang_up) => self.reload().await,
            }
        }
    }

    async fn look(&mut self) {
        let sources = self.sources.clone();
        // Files may lie on a slow disk.
        let Ok(now) = tokio::task::spawn_blocking(move || sources.fingerprint()).await else { return };
        if now == self.seen && now != self.taken {
            self.taken = now;
            self.reload().await;
        } else {
            self.seen = now;
        }
    }

    /// Reads everything anew. What is wrong leaves everything as it is.
    async fn reload(&mut self) {
        let loaded = match self.sources.environment() {
            Ok(environment) => self.sources.load(&environment).await,
            Err(faults) => Err(faults),
        };
        // A models file may have named another file, which is no change of it.
        let ([_, _, taken, _], [_, _, seen, _]) = (&mut self.taken, &mut self.seen);
        *taken = self.sources.leaderboard_as_read();
        seen.clone_from(taken);
        match loaded {
            Ok(loaded) => {
                self.gateway.replace(loaded.state());
                self.sources.settle(&loaded);
                for warning in loaded.warnings() {
                    tracing::warn!("{warning}");
                }
                // Everybody has been asked just now.
                self.asked.clear();
                self.schedule = loaded.schedule(Instant::now());
                self.loaded = loaded;
                self.health.reload_accepted();
                self.metrics.reloaded(true);
                tracing::info!(
                    models = self.loaded.routes().routes().len(),
                    prompts = self.loaded.prompts().list().len(),
                    "The changed configuration is in place"
                );
            }
            Err(faults) => {
                // One line, whatever the number of faults.
                let reason = faults.to_string().replace('\n', " | ");
                tracing::error!("The changed configuration is refused, the one before it goes on: {reason}");
                self.health.reload_refused(reason);
                self.metrics.reloaded(false);
            }
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
            let models = loaded.routes().routes().len();
            tracing::info!(provider, models, "The provider's models have changed");
            self.gateway.replace(loaded.state());
            self.loaded = loaded;
        }
    }
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
