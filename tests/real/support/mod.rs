//! What the claims lean on: the programs as child processes, and clients that read what they answer.

pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod gateway;
pub(crate) mod llama;
pub(crate) mod process;
pub(crate) mod script;

use std::future::Future;
use std::net::TcpListener;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

pub(crate) use client::{Client, Event};
pub(crate) use gateway::Gateway;
pub(crate) use llama::LlamaServer;

/// No single step takes so long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a step, and fails if it hangs.
pub(crate) async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    timeout(PATIENCE, step).await.unwrap_or_else(|_| panic!("it hangs: {what}"))
}

/// Waits until something holds, for so long at most. Says how long it took.
pub(crate) async fn eventually(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) -> Duration {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
