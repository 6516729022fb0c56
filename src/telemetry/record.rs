//! What is known of one request: filled in by those who know, written out once when it has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{EndpointMetrics, ModelMetrics};
use crate::llm::Usage;

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub struct RequestRecord {
    /// The caller's own id, if it was sane, or one that was made here.
    pub id: String,
    /// When its head had been read.
    pub started: Instant,
    // A std mutex: held for an assignment or two, never across an await, a few times a request.
    facts: Mutex<Facts>,
}

/// What becomes known on the way.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Which endpoint it came to, with its figures.
    pub endpoint: Option<Arc<EndpointMetrics>>,
    /// The public model that was asked for, if it exists. (Other names must not become labels.)
    pub model: Option<Arc<str>>,
    /// The figures of that model.
    pub model_metrics: Option<Arc<ModelMetrics>>,
    /// The provider that answered.
    pub provider: Option<Arc<str>>,
    /// The deployment that answered.
    pub deployment: Option<Arc<str>>,
    /// How many deployments were asked.
    pub attempts: u32,
    /// `name@language` of the prompt that was used.
    pub prompt: Option<String>,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// What was used.
    pub usage: Option<Usage>,
    /// From the start to the first content.
    pub first_token: Option<Duration>,
    /// How much of the time until the answer's head was spent on waiting for the upstream.
    pub upstream: Duration,
    /// The `code` of the error that the caller was told.
    pub error: Option<&'static str>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was handed over.
    Completed,
    /// The caller left before that.
    Cancelled,
    /// The caller was told of an error.
    Failed,
}

impl Outcome {
    /// The word for logs and figures.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl RequestRecord {
    /// A record that begins now.
    pub fn new(id: String) -> Self {
        Self { id, started: Instant::now(), facts: Mutex::default() }
    }

    /// The facts, to read or to add to. Never hold them across an await.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        // A panic while they were held leaves facts that are as good as any.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
