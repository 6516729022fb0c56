//! A key: who holds it, and what they may do.

use serde::{Deserialize, Serialize};

use super::Period;
use super::pattern::matches;
use super::secret::Digest;

/// A key, as it is kept. Its secret is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Names it for ever, and tells nothing of its secret.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Whose it is.
    #[serde(default)]
    pub owner: Option<String>,
    /// The first characters of its secret.
    pub prefix: String,
    /// What is kept of its secret.
    pub digest: Digest,
    /// The secret before the last rotation, as long as it still opens.
    #[serde(default)]
    pub predecessor: Option<Predecessor>,
    /// In milliseconds since 1970, like all times here.
    pub created_ms: i64,
    /// From then on it opens nothing.
    #[serde(default)]
    pub expires_ms: Option<i64>,
    /// When it was last shown, give or take a minute.
    #[serde(default)]
    pub last_used_ms: Option<i64>,
    /// Whether it opens nothing for now.
    #[serde(default)]
    pub disabled: bool,
    /// Patterns of models that it may use; all if there are none.
    #[serde(default)]
    pub allowed_models: Vec<String>,
    /// Patterns of paths that it may ask; all if there are none.
    #[serde(default)]
    pub allowed_endpoints: Vec<String>,
    /// The language of prompts where a request names none.
    #[serde(default)]
    pub language: Option<String>,
    /// How much at a time.
    #[serde(default)]
    pub limits: Limits,
    /// How much in all.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// Whatever its keeper wants to remember.
    #[serde(default)]
    pub note: Option<String>,
}

/// A secret that was replaced, and opens for a while yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predecessor {
    /// The first characters of it.
    pub prefix: String,
    /// What is kept of it.
    pub digest: Digest,
    /// Until then it opens.
    pub until_ms: i64,
}

/// How much at a time. What is not said has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests in any minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens, of prompts and answers together, in any minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests at the same time.
    pub parallel_requests: Option<u64>,
}

/// How much in a period of the calendar: tokens, or money in the currency of the prices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Tokens of prompts and answers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// What they cost. What has no price costs nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Of the calendar, in the time zone of the service.
    pub period: Period,
    /// Whether an answer is ended when it has used the budget up.
    #[serde(default)]
    pub cut_off: bool,
}

/// What is said of a key when it is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewKey {
    /// What it is to be called.
    pub name: String,
    /// Everything else.
    pub change: Change,
}

/// What is to be different of a key. `None` leaves it as it is; where something can be taken away, that is `Some(None)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// A name for it.
    pub name: Option<String>,
    /// Whose it is.
    pub owner: Option<Option<String>>,
    /// When it ends.
    pub expires_ms: Option<Option<i64>>,
    /// Whether it opens nothing.
    pub disabled: Option<bool>,
    /// What it may use.
    pub allowed_models: Option<Vec<String>>,
    /// What it may ask.
    pub allowed_endpoints: Option<Vec<String>>,
    /// Its language.
    pub language: Option<Option<String>>,
    /// How much at a time.
    pub limits: Option<Limits>,
    /// How much in all.
    pub budget: Option<Option<Budget>>,
    /// A note.
    pub note: Option<Option<String>>,
}

impl Key {
    /// The key with a change made.
    #[must_use]
    pub fn changed(mut self, change: Change) -> Self {
        fn put<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        put(&mut self.name, change.name);
        put(&mut self.owner, change.owner);
        put(&mut self.expires_ms, change.expires_ms);
        put(&mut self.disabled, change.disabled);
        put(&mut self.allowed_models, change.allowed_models);
        put(&mut self.allowed_endpoints, change.allowed_endpoints);
        put(&mut self.language, change.language);
        put(&mut self.limits, change.limits);
        put(&mut self.budget, change.budget);
        put(&mut self.note, change.note);
        self
    }

    /// Whether it opens anything at that time.
    pub fn is_valid(&self, now_ms: i64) -> bool {
        !self.disabled && self.expires_ms.is_none_or(|expires| now_ms < expires)
    }

    /// Until when the secret before the last rotation opens, as long as it does.
    pub fn previous_until_ms(&self, now_ms: i64) -> Option<i64> {
        self.predecessor.as_ref().map(|before| before.until_ms).filter(|until_ms| now_ms < *until_ms)
    }

    /// Whether it may use a model of that public name.
    pub fn may_use(&self, model: &str) -> bool {
        self.allowed_models.is_empty() || self.allowed_models.iter().any(|pattern| matches(pattern, model))
    }

    /// Whether it may ask a path.
    pub fn may_ask(&self, path: &str) -> bool {
        self.allowed_endpoints.is_empty()
            || self.allowed_endpoints.iter().any(|pattern| matches(pattern, path))
    }
}

impl Budget {
    /// # Errors
    /// It says nothing, or something that makes no sense.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.tokens, self.money) {
            (None, None) => Err("a budget of nothing"),
            (_, Some(money)) if !money.is_finite() || money < 0.0 => Err("the sum of money makes no sense"),
            _ => Ok(()),
        }
    }
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
