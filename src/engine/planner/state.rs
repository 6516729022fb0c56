//! What the planner speaks of: engines, what is to be done with them, and why a request is turned away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::need::Need;

/// A request that waits, or is being answered.
pub(in crate::engine) type TicketId = u64;
/// A process, from its start to its end.
pub(in crate::engine) type EngineId = u64;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) enum Effect {
    /// Start an engine.
    Start { engine: EngineId, model: usize, variant: usize },
    /// Stop an engine, which nobody uses.
    Stop { engine: EngineId },
    /// Nothing but to note that an engine of this model goes for another one.
    GivesWay { model: usize },
    /// Let a request ask an engine, for an answer that is no longer than this.
    Grant { ticket: TicketId, engine: EngineId, answer_limit: Option<u64> },
    /// Turn a request away.
    Refuse { ticket: TicketId, why: Refusal },
}

/// Why a request is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Refusal {
    /// Too many wait already.
    QueueFull,
    /// Every variant that would do has failed lately.
    StartFailed { retry_after: Duration, failure: Failure },
    /// No variant is large enough.
    TooLarge { needed_tokens: u64, context_tokens: u64 },
    /// The model is not configured any more.
    Gone,
}

/// Why an engine has ended by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Failure {
    /// In words, with the last ones of its own.
    pub(in crate::engine) told: Arc<str>,
    /// It did not get the memory that it needs.
    pub(in crate::engine) lacks_memory: bool,
    /// The port at which it was to listen, if another program has it.
    pub(in crate::engine) taken_port: Option<u16>,
}

/// What a running engine can take, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Capacity {
    /// Requests at once.
    pub(in crate::engine) slots: usize,
    /// Context of one request, in tokens.
    pub(in crate::engine) context_tokens: u64,
    /// Whether all requests at once share what there is.
    pub(in crate::engine) is_shared: bool,
    /// What there is, for all requests at once, in tokens.
    pub(in crate::engine) pool_tokens: u64,
}

/// What an engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Phase {
    Loading,
    Ready,
    /// It takes no more requests, and ends those that it has.
    Draining,
    Stopping,
}

#[derive(Clone, Debug)]
pub(in crate::engine) struct Engine {
    pub(in crate::engine) id: EngineId,
    pub(in crate::engine) model: usize,
    pub(in crate::engine) variant: usize,
    pub(in crate::engine) phase: Phase,
    pub(in crate::engine) capacity: Capacity,
    /// Who asks it, and how many tokens are kept for it.
    pub(in crate::engine) running: Vec<(TicketId, u64)>,
    pub(super) started: Instant,
    pub(super) ready: Option<Instant>,
    pub(super) draining: Option<Instant>,
    pub(super) idle_since: Instant,
}

impl Engine {
    /// It takes no more requests; one that is being stopped already stays so.
    pub(super) fn drain(&mut self, model: &str, why: &'static str) {
        if !matches!(self.phase, Phase::Draining | Phase::Stopping) {
            tracing::info!(model, reason = why, "The engine is stopped");
            self.phase = Phase::Draining;
        }
    }

    pub(super) fn has_room_for(&self, need: &Need) -> bool {
        let Capacity { slots, pool_tokens, is_shared, .. } = self.capacity;
        if self.running.len() >= slots.max(1) {
            return false;
        }
        let kept: u64 = self.running.iter().map(|(_, tokens)| tokens).sum();
        !is_shared || self.running.is_empty() || kept + need.reserved(self.capacity) <= pool_tokens
    }
}
