//! What others see of engines: a picture from a moment ago, and the steps from one to the next.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::lease::Place;
use super::planner::Capacity;

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

/// An engine as it was a moment ago, and where it is asked.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) state: EngineState,
    /// Once it serves.
    pub(super) place: Option<Place>,
    pub(super) capacity: Capacity,
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
pub(super) fn steps(provider: &Arc<str>, before: &[Picture], now: &[Picture]) -> Vec<EngineEvent> {
    let find = |among: &[Picture], sought: &EngineState| {
        let found = among.iter().map(|picture| &picture.state).find(|state| state.id == sought.id);
        found.map(|state| (state.phase, state.progress))
    };
    let (before_states, states) = (before.iter().map(|at| &at.state), now.iter().map(|at| &at.state));
    let gone = before_states.filter(|state| find(now, state).is_none());
    let gone = gone.map(|state| EngineEvent { phase: "gone", progress: None, ..state.step(provider) });
    let moved = states.filter(|state| find(before, state) != Some((state.phase, state.progress)));
    gone.chain(moved.map(|state| state.step(provider))).collect()
}
