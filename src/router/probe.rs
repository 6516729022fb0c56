//! Signs of life: a provider's server is asked from time to time, so that a dead one is known before a request meets
//! it, and one that is back is asked again at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::health::{Cause, Failure, Health, Probed, random};
use super::table::Deployment;
use crate::config::ProbeConfig;
use crate::providers::{ErrorKind, Provider, ProviderError};
use crate::telemetry::ProbeMetrics;

/// One provider, and how it is asked.
#[derive(Debug)]
pub struct Probe {
    provider: Arc<dyn Provider>,
    config: ProbeConfig,
    health: Arc<Health>,
    /// Its deployments, which may rest by themselves.
    deployments: Vec<Arc<Health>>,
    most_rest: Duration,
    /// Whether the last word on the server was that it is dead.
    found_dead: AtomicBool,
    metrics: ProbeMetrics,
}

/// What is to be done after a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The server lives.
    Alive,
    /// It does not, or not well enough to be asked.
    Dead,
    /// Nobody knows: it says nothing and has answered a request meanwhile, or cannot be asked.
    Unknown,
}

impl Probe {
    pub(super) fn new(
        (provider, config): (Arc<dyn Provider>, ProbeConfig),
        health: Arc<Health>,
        deployments: &[Arc<Deployment>],
        most_rest: Duration,
        metrics: ProbeMetrics,
    ) -> Self {
        let deployments = deployments.iter().map(|deployment| deployment.health.clone()).collect();
        Self { provider, config, health, deployments, most_rest, found_dead: AtomicBool::new(false), metrics }
    }

    /// Asks until it is dropped.
    pub async fn run(self: Arc<Self>) {
        // A little apart, so that not all providers are asked at once, nor by all replicas.
        let first = Instant::now() + self.config.interval.mul_f64(random());
        let mut turn = interval_at(first, self.config.interval);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            self.ask().await;
        }
    }

    async fn ask(&self) {
        let (sent, answered) = (Instant::now(), self.health.answered());
        let told = self.provider.probe(self.config.path.as_deref(), self.config.timeout).await;
        let at = Instant::now();
        let failure = told.as_ref().err().map(|error| error.kind.word());
        let probed = Probed { at, took: at.duration_since(sent), failure };
        let verdict = verdict(&told, self.health.answered() > answered);
        match verdict {
            Verdict::Alive => self.is_alive(sent, probed),
            Verdict::Dead => self.is_dead(told.as_ref().err(), probed),
            Verdict::Unknown => self.health.note_probe(probed),
        }
        self.metrics.probed(failure.is_none(), verdict != Verdict::Dead);
    }

    fn is_alive(&self, sent: Instant, probed: Probed) {
        if self.found_dead.swap(false, Ordering::Relaxed) {
            tracing::info!(provider = self.provider.name(), "The provider answers its probe again");
        }
        self.health.note_probe(probed);
        let all = self.deployments.iter().chain([&self.health]);
        let ended = all.filter(|health| health.found_alive(sent, probed.at)).count();
        if ended > 0 {
            tracing::debug!(
                provider = self.provider.name(),
                ended,
                "Rests end, for the server is there again"
            );
        }
    }

    fn is_dead(&self, error: Option<&ProviderError>, probed: Probed) {
        if !self.found_dead.swap(true, Ordering::Relaxed) {
            let error = error.map(|error| error.kind.to_string());
            tracing::warn!(provider = self.provider.name(), error, "The provider does not answer its probe");
        }
        // Until the next one has looked.
        let at_least = Some(self.config.interval + self.config.timeout);
        let kind = error.map_or(ErrorKind::Unreachable, |error| error.kind.clone());
        let failure = Failure { kind, cause: Cause::Absent, at_least, most: self.most_rest };
        self.health.found_dead(&failure, probed);
        self.deployments.iter().for_each(|health| health.provider_found_dead());
    }
}

/// What an answer to a probe means. Whoever has answered a request since it was sent is late because of others.
fn verdict(told: &Result<(), ProviderError>, has_answered_others: bool) -> Verdict {
    let Err(error) = told else { return Verdict::Alive };
    match error.kind {
        ErrorKind::Timeout(_) | ErrorKind::Overdue(_) if has_answered_others => Verdict::Unknown,
        ErrorKind::Timeout(_)
        | ErrorKind::Overdue(_)
        | ErrorKind::Unreachable
        | ErrorKind::Unavailable { .. } => Verdict::Dead,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_of_a_server_that_answers_others_is_no_death() {
        let told = |kind| Err(ProviderError::new(&"p".into(), kind));
        let late = || told(ErrorKind::Overdue(Duration::from_secs(2)));
        let broken = || told(ErrorKind::Unavailable { status: 503, retry_after: None });
        for (told, has_answered_others, meant) in [
            (Ok(()), false, Verdict::Alive),
            (late(), false, Verdict::Dead),
            (late(), true, Verdict::Unknown),
            (told(ErrorKind::Timeout(Duration::from_secs(1))), true, Verdict::Unknown),
            (told(ErrorKind::Unreachable), true, Verdict::Dead),
            (broken(), true, Verdict::Dead),
            (told(ErrorKind::Unsupported("probes")), false, Verdict::Unknown),
        ] {
            assert_eq!(verdict(&told, has_answered_others), meant, "{told:?}, {has_answered_others}");
        }
    }
}
