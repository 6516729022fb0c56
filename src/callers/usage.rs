//! What one request used: a line of the ledger.

use std::fmt::Debug;
use std::sync::Arc;

use crate::llm::{Usage, UsageSource};

/// One request, however it ended. Nothing in it tells what was said.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRecord {
    /// The request's id, which is what its caller says it is.
    pub id: Arc<str>,
    /// Tells this record from all others, also from one of the same moment and id.
    pub mark: u64,
    /// When it began, in milliseconds since 1970.
    pub time_ms: i64,
    /// The key's id, if there was a key.
    pub key: Option<Arc<str>>,
    /// Whose key it is.
    pub owner: Option<Arc<str>>,
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// The public model, if it exists.
    pub model: Option<Arc<str>>,
    /// The provider that answered, or was asked last.
    pub provider: Option<Arc<str>>,
    /// The same as `provider/upstream model`.
    pub deployment: Option<Arc<str>>,
    /// `name@version/language` of the prompt.
    pub prompt: Option<Arc<str>>,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Tokens of the prompt that the provider had in its cache.
    pub cached_input_tokens: u64,
    /// Tokens of the answer that were reasoning.
    pub reasoning_tokens: u64,
    /// Who counted.
    pub source: UsageSource,
    /// How it ended.
    pub ending: Ending,
    /// The `code` of the error that the caller was told.
    pub error: Option<Arc<str>>,
    /// From the beginning to the first content.
    pub first_token_ms: Option<u64>,
    /// From the beginning to the end.
    pub total_ms: u64,
    /// How many deployments were asked.
    pub attempts: u32,
    /// What it cost; `None` if there is no price.
    pub cost: Option<f64>,
}

/// Where records go.
pub trait Ledger: Debug + Send + Sync {
    /// Writes it down, now or a moment later. Comes back at once, whatever it is like there.
    fn record(&self, record: UsageRecord);

    /// Whether anything is kept; if not, nothing need be put together for it.
    fn is_kept(&self) -> bool {
        true
    }
}

/// A ledger that keeps nothing.
#[derive(Debug)]
pub struct Nowhere;

impl Ledger for Nowhere {
    fn record(&self, _: UsageRecord) {}

    fn is_kept(&self) -> bool {
        false
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The whole answer was handed over.
    Completed,
    /// The caller left before that.
    Cancelled,
    /// The caller was told of an error.
    Failed,
    /// The gateway ended the answer, for the budget was used up.
    Cut,
}

impl Ending {
    /// All of them, by their words.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("completed", Self::Completed),
        ("cancelled", Self::Cancelled),
        ("failed", Self::Failed),
        ("cut", Self::Cut),
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, ending)| *ending == self).map_or("failed", |(word, _)| word)
    }

    /// The one of that word.
    pub fn of(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, ending)| *ending)
    }
}

impl UsageRecord {
    /// What was used, as one value.
    pub fn usage(&self) -> Usage {
        Usage {
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cached_input_tokens: self.cached_input_tokens,
            reasoning_tokens: self.reasoning_tokens,
            source: self.source,
            missing: None,
        }
    }
}
