//! Many slow streams held at once: what one of them costs in memory, and whether its chunks still come in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::Client;
use crate::load::gather;
use crate::process::memory_kib;
use crate::tally::Tally;

/// Lasts longer than opening all streams and looking at the memory takes.
pub const MODEL: &str = "chunks-8-gap-1000";
const RAMP: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);
const WARM_UP_REQUESTS: u32 = 20;

/// What holding the streams has shown.
pub struct Outcome {
    pub tally: Tally,
    pub kib_per_stream: f64,
}

/// The process must not have served before, or its spare memory would hide what the streams cost.
pub async fn run(port: u16, pid: u32, streams: u32) -> Result<Outcome> {
    warm_up(port).await?;
    let before_kib = memory_kib(pid)?;
    let opened = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for index in 0..streams {
        let client = Client::new(port, MODEL)?;
        workers.spawn(hold(client, RAMP * index / streams.max(1), opened.clone()));
    }
    sleep(RAMP + SETTLE).await;
    let held_kib = memory_kib(pid)?;
    let opened = opened.load(Ordering::Relaxed);
    let tally = gather(&mut workers, PATIENCE).await;
    ensure!(
        opened == streams,
        "{opened} of {streams} streams opened: {}",
        tally.first_error.unwrap_or_default()
    );
    Ok(Outcome { tally, kib_per_stream: (held_kib - before_kib) / f64::from(streams) })
}

/// What is built on first use is not to be counted as a stream's.
async fn warm_up(port: u16) -> Result<()> {
    let mut whole = Client::new(port, "whole")?;
    let mut streamed = Client::new(port, "chunks-50-gap-0")?;
    for _ in 0..WARM_UP_REQUESTS {
        whole.whole().await.context("while warming up")?;
        streamed.stream(&mut Tally::default(), &mut || false).await.context("while warming up")?;
    }
    sleep(Duration::from_millis(500)).await;
    Ok(())
}

async fn hold(mut client: Client, delay: Duration, opened: Arc<AtomicU32>) -> Tally {
    sleep(delay).await;
    let mut tally = Tally::default();
    let mut new = true;
    let mut counted = || {
        if std::mem::take(&mut new) {
            opened.fetch_add(1, Ordering::Relaxed);
        }
        true
    };
    match client.stream(&mut tally, &mut counted).await {
        Ok(()) => tally.requests += 1,
        Err(error) => tally.fail(&error),
    }
    tally
}
