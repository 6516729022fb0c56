//! What others see of engines: a picture from a moment ago, and the steps from one to the next.

use std::sync::Arc;

use serde::Serialize;

/// A step in an engine's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineEvent {
    /// The provider's name.
    pub provider: Arc<str>,
    /// `<model>@<context>`.
    pub variant: Arc<str>,
    /// The model's name.
    pub model: Arc<str>,
    /// `loading`, `ready`, `draining`, `stopping`, or `gone`.
    pub phase: &'static str,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// An engine as it was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineState {
    /// No other engine of the provider ever has the same number.
    pub id: u64,
    /// `<model>@<context>`.
    pub variant: Arc<str>,
    /// The model's name.
    pub model: Arc<str>,
    /// `loading`, `ready`, `draining` or `stopping`.
    pub phase: &'static str,
    /// Context in tokens, as the engine says once it is ready.
    pub context_tokens: u64,
    /// Requests that it is answering.
    pub running: usize,
    /// Requests that it can answer at once; 0 while it loads.
    pub slots: usize,
    /// Requests that wait for its model.
    pub waiting: usize,
    /// Its process, once it runs.
    pub pid: Option<u32>,
    /// How long it took to load, in milliseconds, once it has.
    pub load_ms: Option<u64>,
    /// What it may take, in MiB, if the models file says.
    pub memory_mib: Option<u64>,
}
