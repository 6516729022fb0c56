//! Keys of callers.

use poem_openapi::types::Example;
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use validator::Validate;

use crate::callers::{Budget, Key, Limits, Period, moment_as_text, now_ms};
use crate::lint::count_from_one;

/// What a new key is to be. What is left out, or null, holds nobody back.
#[derive(Deserialize, Validate, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "NewKey", example)]
pub(in crate::api) struct NewKeyBody {
    /// What it is called, 1 to 128 characters.
    pub(in crate::api) name: String,
    /// Whose it is.
    pub(in crate::api) owner: Option<String>,
    /// Patterns of models that it may use, such as `gpt-*`.
    pub(in crate::api) allowed_models: Option<Vec<String>>,
    /// Patterns of paths that it may ask, such as `/v1/*`.
    pub(in crate::api) allowed_endpoints: Option<Vec<String>>,
    /// The language of prompts where a request names none.
    pub(in crate::api) language: Option<String>,
    /// From then on it opens nothing: `2026-12-31T18:00:00Z`, or `2026-12-31` for its midnight in UTC.
    pub(in crate::api) expires_at: Option<String>,
    /// Whether it opens nothing for now.
    pub(in crate::api) disabled: Option<bool>,
    /// How much at a time.
    pub(in crate::api) limits: Option<LimitsBody>,
    /// How much in a period.
    pub(in crate::api) budget: Option<BudgetBody>,
    /// Whatever its keeper wants to remember.
    pub(in crate::api) note: Option<String>,
}

/// What is to be different of a key. What is left out stays as it is; null takes it away. `budget` is replaced as a whole,
/// `limits` one by one.
#[derive(Deserialize, Validate, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "KeyChange", example)]
pub(in crate::api) struct KeyChangeBody {
    /// What it is called, 1 to 128 characters. It cannot be taken away.
    pub(in crate::api) name: Option<String>,
    /// Whose it is.
    pub(in crate::api) owner: Option<String>,
    /// Patterns of models that it may use, such as `gpt-*`.
    pub(in crate::api) allowed_models: Option<Vec<String>>,
    /// Patterns of paths that it may ask, such as `/v1/*`.
    pub(in crate::api) allowed_endpoints: Option<Vec<String>>,
    /// The language of prompts where a request names none.
    pub(in crate::api) language: Option<String>,
    /// From then on it opens nothing: `2026-12-31T18:00:00Z`, or `2026-12-31` for its midnight in UTC.
    pub(in crate::api) expires_at: Option<String>,
    /// Whether it opens nothing for now.
    pub(in crate::api) disabled: Option<bool>,
    /// How much at a time.
    pub(in crate::api) limits: Option<LimitsBody>,
    /// How much in a period.
    pub(in crate::api) budget: Option<BudgetBody>,
    /// Whatever its keeper wants to remember.
    pub(in crate::api) note: Option<String>,
}

/// How much at a time. What is not said has no limit.
#[derive(Clone, Deserialize, Serialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "KeyLimits")]
pub(in crate::api) struct LimitsBody {
    /// Requests in any minute.
    #[serde(default, deserialize_with = "count_from_one")]
    #[oai(validator(minimum(value = "1")))]
    pub(in crate::api) requests_per_minute: Option<u64>,
    /// Tokens of prompts and answers together in any minute.
    #[serde(default, deserialize_with = "count_from_one")]
    #[oai(validator(minimum(value = "1")))]
    pub(in crate::api) tokens_per_minute: Option<u64>,
    /// Requests at the same time.
    #[serde(default, deserialize_with = "count_from_one")]
    #[oai(validator(minimum(value = "1")))]
    pub(in crate::api) parallel_requests: Option<u64>,
}

/// How much in a period of the calendar: tokens, money, or both.
#[derive(Clone, Deserialize, Serialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "KeyBudget")]
pub(in crate::api) struct BudgetBody {
    /// Tokens of prompts and answers together.
    #[serde(default, deserialize_with = "count_from_one")]
    #[oai(validator(minimum(value = "1")))]
    pub(in crate::api) tokens: Option<u64>,
    /// What they cost, in the currency of the prices.
    pub(in crate::api) money: Option<f64>,
    /// How long it is for.
    pub(in crate::api) period: PeriodBody,
    /// Whether an answer is ended when it has used the budget up.
    #[serde(default)]
    #[oai(default)]
    pub(in crate::api) cut_off: bool,
}

/// A period of the calendar, in the time zone of the service: from midnight, Monday or the first.
#[derive(Clone, Copy, Deserialize, Serialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename = "BudgetPeriod", rename_all = "lowercase")]
pub(in crate::api) enum PeriodBody {
    Day,
    Week,
    Month,
}

/// How a key's secret is replaced.
#[derive(Deserialize, Validate, Object)]
#[serde(deny_unknown_fields)]
#[oai(rename = "Rotation", example)]
pub(in crate::api) struct RotationBody {
    /// How long the secret before still opens, in seconds: 0 to 2592000, an hour if nothing is said.
    pub(in crate::api) grace_seconds: Option<u64>,
}

/// A key. Its secret is told by nobody.
#[derive(Serialize, Object)]
#[oai(rename = "Key")]
pub(in crate::api) struct KeyBody {
    /// Names it for ever.
    pub(in crate::api) id: String,
    /// What it is called.
    pub(in crate::api) name: String,
    /// Whose it is.
    pub(in crate::api) owner: Option<String>,
    /// The first characters of its secret.
    pub(in crate::api) prefix: String,
    /// When it was made.
    pub(in crate::api) created_at: String,
    /// From then on it opens nothing.
    pub(in crate::api) expires_at: Option<String>,
    /// When it was last shown, give or take a minute.
    pub(in crate::api) last_used_at: Option<String>,
    /// Until then the secret before the last rotation opens, too; null once it does not.
    pub(in crate::api) previous_until: Option<String>,
    /// Whether it opens nothing for now.
    pub(in crate::api) disabled: bool,
    /// Patterns of models that it may use; all if there are none.
    pub(in crate::api) allowed_models: Vec<String>,
    /// Patterns of paths that it may ask; all if there are none.
    pub(in crate::api) allowed_endpoints: Vec<String>,
    /// The language of prompts where a request names none.
    pub(in crate::api) language: Option<String>,
    /// How much at a time.
    pub(in crate::api) limits: LimitsBody,
    /// How much in a period.
    pub(in crate::api) budget: Option<BudgetBody>,
    /// Whatever its keeper wants to remember.
    pub(in crate::api) note: Option<String>,
}

/// A key with its secret, which is told this once.
#[derive(Serialize, Object)]
#[oai(rename = "KeyWithSecret")]
pub(in crate::api) struct SecretBody {
    /// The secret, to be sent as `Authorization: Bearer …` or `x-api-key: …`.
    pub(in crate::api) key: String,
    #[serde(flatten)]
    #[oai(flatten)]
    pub(in crate::api) about: KeyBody,
}

/// Keys.
#[derive(Serialize, Object)]
#[oai(rename = "Keys")]
pub(in crate::api) struct KeyList {
    /// By the time at which they were made.
    pub(in crate::api) keys: Vec<KeyBody>,
}

/// A key that is gone.
#[derive(Serialize, Object)]
#[oai(rename = "DeletedKey")]
pub(in crate::api) struct DeletedKey {
    /// What named it.
    pub(in crate::api) id: String,
    /// Always true.
    pub(in crate::api) deleted: bool,
}

impl Example for NewKeyBody {
    fn example() -> Self {
        Self {
            name: "Chat of the web shop".to_owned(),
            owner: Some("shop".to_owned()),
            allowed_models: Some(vec!["echo".to_owned(), "gpt-*".to_owned()]),
            allowed_endpoints: None,
            language: Some("pl".to_owned()),
            expires_at: None,
            disabled: None,
            limits: Some(LimitsBody {
                requests_per_minute: Some(60),
                tokens_per_minute: Some(100_000),
                parallel_requests: Some(4),
            }),
            budget: Some(BudgetBody {
                tokens: Some(5_000_000),
                money: None,
                period: PeriodBody::Month,
                cut_off: false,
            }),
            note: None,
        }
    }
}

impl Example for KeyChangeBody {
    fn example() -> Self {
        Self {
            name: None,
            owner: None,
            allowed_models: None,
            allowed_endpoints: None,
            language: None,
            expires_at: Some("2099-12-31T18:00:00Z".to_owned()),
            disabled: Some(false),
            limits: Some(LimitsBody {
                requests_per_minute: Some(120),
                tokens_per_minute: None,
                parallel_requests: None,
            }),
            budget: None,
            note: Some("more for the sale".to_owned()),
        }
    }
}

impl Example for RotationBody {
    fn example() -> Self {
        Self { grace_seconds: Some(86_400) }
    }
}

impl From<NewKeyBody> for KeyChangeBody {
    fn from(new: NewKeyBody) -> Self {
        let NewKeyBody { name, owner, allowed_models, allowed_endpoints, language, expires_at, .. } = new;
        let NewKeyBody { disabled, limits, budget, note, .. } = new;
        Self {
            name: Some(name),
            owner,
            allowed_models,
            allowed_endpoints,
            language,
            expires_at,
            disabled,
            limits,
            budget,
            note,
        }
    }
}

impl From<&Key> for KeyBody {
    fn from(key: &Key) -> Self {
        Self {
            id: key.id.clone(),
            name: key.name.clone(),
            owner: key.owner.clone(),
            prefix: key.prefix.clone(),
            created_at: moment_as_text(key.created_ms),
            expires_at: key.expires_ms.map(moment_as_text),
            last_used_at: key.last_used_ms.map(moment_as_text),
            previous_until: key.previous_until_ms(now_ms()).map(moment_as_text),
            disabled: key.disabled,
            allowed_models: key.allowed_models.clone(),
            allowed_endpoints: key.allowed_endpoints.clone(),
            language: key.language.clone(),
            limits: LimitsBody::from(&key.limits),
            budget: key.budget.as_ref().map(BudgetBody::from),
            note: key.note.clone(),
        }
    }
}

/// A key, as the admin API tells it.
pub fn key_as_json(key: &Key) -> serde_json::Value {
    // Texts, numbers and lists of them: that always serialises.
    serde_json::to_value(KeyBody::from(key)).unwrap_or_default()
}

impl From<&Limits> for LimitsBody {
    fn from(limits: &Limits) -> Self {
        Self {
            requests_per_minute: limits.requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            parallel_requests: limits.parallel_requests,
        }
    }
}

impl From<LimitsBody> for Limits {
    fn from(body: LimitsBody) -> Self {
        Self {
            requests_per_minute: body.requests_per_minute,
            tokens_per_minute: body.tokens_per_minute,
            parallel_requests: body.parallel_requests,
        }
    }
}

impl From<&Budget> for BudgetBody {
    fn from(budget: &Budget) -> Self {
        let period = budget.period.into();
        Self { tokens: budget.tokens, money: budget.money, period, cut_off: budget.cut_off }
    }
}

impl From<BudgetBody> for Budget {
    fn from(body: BudgetBody) -> Self {
        Self { tokens: body.tokens, money: body.money, period: body.period.into(), cut_off: body.cut_off }
    }
}

impl From<Period> for PeriodBody {
    fn from(period: Period) -> Self {
        match period {
            Period::Day => Self::Day,
            Period::Week => Self::Week,
            Period::Month => Self::Month,
        }
    }
}

impl From<PeriodBody> for Period {
    fn from(body: PeriodBody) -> Self {
        match body {
            PeriodBody::Day => Self::Day,
            PeriodBody::Week => Self::Week,
            PeriodBody::Month => Self::Month,
        }
    }
}
