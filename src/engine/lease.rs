//! The right to ask an engine, and why there is none.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::planner::{Refusal, TicketId};
use super::pool::Command;
use super::probe::Door;
use super::prompt_cache::PromptCache;

/// Why a request gets no engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Too many wait already.
    #[error("too many requests wait for this model")]
    QueueFull,
    /// No engine starts.
    #[error("the engine cannot be started")]
    StartFailed {
        /// When it is worth trying again.
        retry_after: Duration,
        /// Why, with the engine's last words. For operators.
        told: Arc<str>,
    },
    /// No variant is large enough.
    #[error("the prompt needs {needed_tokens} tokens, and the largest context has {context_tokens}")]
    TooLarge {
        /// What the prompt needs.
        needed_tokens: u64,
        /// What there is.
        context_tokens: u64,
    },
    /// The service is about to end, or the model is not configured any more.
    #[error("the engine is not served any more")]
    Gone,
}

/// The right to ask an engine. Dropping it ends the right, and frees the place.
#[derive(Debug)]
pub struct Lease {
    pub(super) place: Place,
    pub(super) answer_limit: Option<u64>,
    pub(super) turn: Turn,
}

/// Where a leased engine is asked.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which process; no other ever has the same number in this pool.
    pub engine: u64,
    /// `<model>@<context>`.
    pub variant: Arc<str>,
    pub(super) door: Arc<Door>,
    /// Where what it has read is kept.
    pub(super) cache: Option<Arc<PromptCache>>,
}

impl Place {
    /// The address of its API.
    pub fn base_url(&self) -> String {
        let address = &self.door.address;
        if address.host.contains(':') {
            format!("http://[{}]:{}/v1", address.host, address.port)
        } else {
            format!("http://{}:{}/v1", address.host, address.port)
        }
    }

    /// Whether the gateway saves and restores its slots.
    pub fn keeps_slots(&self) -> bool {
        self.cache.is_some()
    }

    /// The key that opens it.
    pub fn api_key(&self) -> &secrecy::SecretString {
        &self.door.api_key
    }
}

impl Lease {
    /// Where the engine is asked.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How long the answer may become, in tokens, where the caller does not say and others share the context.
    pub fn answer_limit(&self) -> Option<u64> {
        self.answer_limit
    }

    /// The engine has not answered for long. If it hangs, it is replaced.
    pub fn doubt(&self) {
        let _ = self.turn.commands.send(Command::Doubt(self.place.engine));
    }
}

/// A place in the queue, and later at an engine.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) ticket: TicketId,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // When the pool has ended there is nothing to leave.
        let _ = self.commands.send(Command::Leave(self.ticket));
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::QueueFull => Self::QueueFull,
            Refusal::StartFailed { retry_after, told } => Self::StartFailed { retry_after, told },
            Refusal::TooLarge { needed_tokens, context_tokens } => {
                Self::TooLarge { needed_tokens, context_tokens }
            }
            Refusal::Gone => Self::Gone,
        }
    }
}
