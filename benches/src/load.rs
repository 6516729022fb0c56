//! The load generator: a closed loop over kept connections, which checks every answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Client, KEY};
use crate::process::CpuTime;
use crate::stats::{now_ns, percentile};
use crate::tally::Tally;

/// How long an answer may still take when the measurement is over.
const PATIENCE: Duration = Duration::from_secs(30);
/// Before the next try of a connection that failed, so that a dead target is not hammered.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(10);

/// What to send, how often, and whose CPU time to count.
#[derive(Debug, Clone)]
pub struct Load {
    pub port: u16,
    pub model: String,
    pub key: String,
    pub connections: u32,
    /// Over which the starts of the connections are spread.
    pub spread: Duration,
    pub warm_up: Duration,
    pub measure: Duration,
    pub pid: Option<u32>,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            port: 0,
            model: "whole".to_owned(),
            key: KEY.to_owned(),
            connections: 1,
            spread: Duration::ZERO,
            warm_up: Duration::from_millis(500),
            measure: Duration::from_secs(2),
            pid: None,
        }
    }
}

/// What a run has shown; all samples are sorted.
pub struct Outcome {
    pub tally: Tally,
    pub seconds: f64,
    /// Not a number if no process was named.
    pub cpu_us: f64,
}

impl Outcome {
    /// For a look by hand.
    pub fn summary(&self) -> String {
        let Tally { requests, chunks, errors, first_error, .. } = &self.tally;
        let mut lines = vec![format!(
            "{:.0} requests/s, {:.0} chunks/s, {:.2} CPU µs/request, {:.2} CPU µs/chunk, {errors} errors",
            *requests as f64 / self.seconds,
            *chunks as f64 / self.seconds,
            self.cpu_us / *requests as f64,
            self.cpu_us / *chunks as f64,
        )];
        let samples = [
            ("latency", &self.tally.latency_ns),
            ("first token", &self.tally.first_token_ns),
            ("transit", &self.tally.transit_ns),
            ("gap", &self.tally.gap_ns),
        ];
        for (name, values) in samples.iter().filter(|(_, values)| !values.is_empty()) {
            let [p50, p90, p99, most] = [50, 90, 99, 100].map(|rank| percentile(values, rank) / 1e3);
            lines.push(format!("{name}: p50 {p50:.1}, p90 {p90:.1}, p99 {p99:.1}, most {most:.1} µs"));
        }
        lines.extend(first_error.iter().map(|error| format!("the first error: {error}")));
        lines.join("\n")
    }
}

/// Where a run is, told to all connections.
#[derive(Default)]
struct Phase(AtomicU8);

impl Phase {
    const MEASURING: u8 = 1;
    const ENDING: u8 = 2;

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }
}

/// Warms up, measures, and lets the answers that are under way come in.
pub async fn run(load: &Load) -> Result<Outcome> {
    let phase = Arc::new(Phase::default());
    let mut workers = JoinSet::new();
    for index in 0..load.connections {
        let delay = load.spread * index / load.connections.max(1);
        workers.spawn(work(Client::new(load.port, &load.model)?.with_key(&load.key), delay, phase.clone()));
    }
    sleep(load.warm_up).await;
    let cpu_before = load.pid.map(CpuTime::read).transpose()?;
    let start_ns = now_ns();
    phase.set(Phase::MEASURING);
    sleep(load.measure).await;
    phase.set(Phase::ENDING);
    let end_ns = now_ns();
    let cpu_after = load.pid.map(CpuTime::read).transpose()?;

    let tally = gather(&mut workers, PATIENCE).await;
    let seconds = (end_ns - start_ns) as f64 / 1e9;
    let cpu_us = match (cpu_before, cpu_after) {
        (Some(before), Some(after)) => after.since_ns(&before) as f64 / 1e3,
        _ => f64::NAN,
    };
    Ok(Outcome { tally, seconds, cpu_us })
}

/// Adds up what the connections saw; one that does not end counts as an error.
pub async fn gather(workers: &mut JoinSet<Tally>, patience: Duration) -> Tally {
    let mut total = Tally::default();
    let ended = timeout(patience, async {
        while let Some(tally) = workers.join_next().await {
            match tally {
                Ok(tally) => total.add(tally),
                Err(error) => total.fail(&error.into()),
            }
        }
    });
    if ended.await.is_err() {
        total.fail(&anyhow::anyhow!("an answer that does not come or end"));
    }
    total.sort();
    total
}

async fn work(mut client: Client, delay: Duration, phase: Arc<Phase>) -> Tally {
    let mut tally = Tally::default();
    if !delay.is_zero() {
        sleep(delay).await;
    }
    while !phase.is(Phase::ENDING) {
        let start_ns = now_ns();
        let answered = if client.streamed {
            client.stream(&mut tally, &mut || phase.is(Phase::MEASURING)).await
        } else {
            client.whole().await
        };
        match answered {
            Ok(()) if phase.is(Phase::MEASURING) => {
                tally.requests += 1;
                tally.latency_ns.push(now_ns() - start_ns);
            }
            Ok(()) => {}
            Err(error) => {
                tally.fail(&error);
                client.disconnect();
                sleep(REST_AFTER_FAILURE).await;
            }
        }
    }
    tally
}
