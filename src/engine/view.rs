//! What others see of engines: a picture from a moment ago, and the steps from one to the next.

use std::sync::Arc;
use std::time::SystemTime;

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
    /// How much of it has loaded, in per cent, as far as is known.
    pub progress: Option<u8>,
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
    /// While it loads: how much it has, in per cent, as far as is known.
    pub progress: Option<u8>,
    /// What it may take, in MiB, if the models file says.
    pub memory_mib: Option<u64>,
}

impl EngineState {
    /// The step to this state, as if it were taken now.
    pub fn step(&self, provider: &Arc<str>) -> EngineEvent {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        EngineEvent {
            provider: provider.clone(),
            variant: self.variant.clone(),
            model: self.model.clone(),
            phase: self.phase,
            progress: self.progress,
            at_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// What lies between two pictures of a provider's engines: which are gone, and which have come to another phase or have
/// loaded more.
pub(super) fn steps(provider: &Arc<str>, before: &[EngineState], now: &[EngineState]) -> Vec<EngineEvent> {
    let find = |among: &[EngineState], id: u64| {
        among.iter().find(|engine| engine.id == id).map(|engine| (engine.phase, engine.progress))
    };
    let gone = before.iter().filter(|engine| find(now, engine.id).is_none());
    let gone = gone.map(|engine| EngineEvent { phase: "gone", progress: None, ..engine.step(provider) });
    let moved = now.iter().filter(|engine| find(before, engine.id) != Some((engine.phase, engine.progress)));
    gone.chain(moved.map(|engine| engine.step(provider))).collect()
}
