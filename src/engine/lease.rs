//! The right to ask an engine, and why there is none.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::arrivals::Arrival;
use super::planner::{Failure, Refusal, TicketId};
use super::pool::Command;
use super::probe::Door;
use super::process::Exit;
use super::prompt_cache::PromptCache;
use crate::local::Socket;

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
        /// The port that another program has, if that is why.
        taken_port: Option<u16>,
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
    /// The engine crashed over this request, which would end the next one as well.
    #[error("the engine crashed over this request")]
    Crashed,
}

/// How an engine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// By a fault of its own.
    Crash,
    /// It was asked to end, or was ended from outside.
    End,
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
    /// The address of its API, as requests call it. It is reached by [`Place::connect`] only.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.authority())
    }

    /// What requests to it call it.
    pub fn authority(&self) -> String {
        self.door.endpoint.authority()
    }

    /// A connection to the engine, and to no other program. Nothing has been sent on it.
    ///
    /// # Errors
    /// The engine does not listen any more, or another program does at its address.
    pub async fn connect(&self) -> std::io::Result<Socket> {
        self.door.endpoint.connect().await
    }

    /// A request arrives there, until the engine has answered the first of it.
    pub fn arrive(&self) -> Arrival {
        self.door.arrivals.arrive()
    }

    /// How the engine has ended, if it has or does within that time.
    pub async fn death(&self, within: Duration) -> Option<Death> {
        let mut exit = self.door.exit.clone();
        // The sender does not go before it has told.
        let exit = timeout(within, exit.wait_for(Option::is_some)).await.ok()?.ok().and_then(|exit| *exit);
        let is_own_fault = exit.is_some_and(Exit::is_crash) && !self.door.stop.is_cancelled();
        Some(if is_own_fault { Death::Crash } else { Death::End })
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
            Refusal::StartFailed { retry_after, failure } => {
                let Failure { told, taken_port, .. } = failure;
                Self::StartFailed { retry_after, told, taken_port }
            }
            Refusal::TooLarge { needed_tokens, context_tokens } => {
                Self::TooLarge { needed_tokens, context_tokens }
            }
            Refusal::Gone => Self::Gone,
        }
    }
}
