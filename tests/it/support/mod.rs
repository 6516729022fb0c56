//! What the tests lean on: the built program as a child process, and upstreams that follow a script.

pub(crate) mod client;
pub(crate) mod counted;
pub(crate) mod engine;
pub(crate) mod flood;
pub(crate) mod gateway;
pub(crate) mod gguf;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod stores;
pub(crate) mod upstream;

use std::time::Duration;

pub(crate) use client::{Connection, Events, events_of, json_of};
pub(crate) use gateway::{Ended, Gateway, Setup, answer};
pub(crate) use upstream::{Step, Upstream, fixture, json, sse};

/// Nothing here takes so long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something holds, and fails if it never does.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
