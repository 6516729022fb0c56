//! What was used, how budgets and limits stand, and who changed what.

use poem_openapi::Object;
use serde::Serialize;

use super::AnyObject;
use super::keys::PeriodBody;

/// What was used.
#[derive(Serialize, Object)]
#[oai(rename = "UsageReport")]
pub(in crate::api) struct UsageBody {
    /// From then on.
    pub(in crate::api) from: String,
    /// Until before then.
    pub(in crate::api) to: String,
    /// What the rows are told by.
    pub(in crate::api) group_by: Vec<String>,
    /// One for each group, in the order of the groups; those in which nothing was used are not there.
    pub(in crate::api) rows: Vec<UsageRowBody>,
    /// Whether there are more rows than are told at once.
    pub(in crate::api) truncated: bool,
}

/// What was used in one group. Of the group's names those are there that were asked for; null stands for requests that have
/// none.
#[derive(Serialize, Object)]
#[oai(rename = "UsageRow")]
pub(in crate::api) struct UsageRowBody {
    /// When the hour began.
    pub(in crate::api) hour: Option<String>,
    /// The date of the day, in the time zone of the service.
    pub(in crate::api) day: Option<String>,
    /// The public model.
    pub(in crate::api) model: Option<String>,
    /// The key's id.
    pub(in crate::api) key: Option<String>,
    /// What the key is called now, beside its id; null if it is deleted.
    pub(in crate::api) key_name: Option<String>,
    /// The owner of the key.
    pub(in crate::api) owner: Option<String>,
    /// The provider that answered, or was asked last.
    pub(in crate::api) provider: Option<String>,
    /// The endpoint.
    pub(in crate::api) endpoint: Option<String>,
    /// The prompt of the library, as `name@version/language`.
    pub(in crate::api) prompt: Option<String>,
    /// How the requests ended: `completed`, `cancelled`, `failed` or `cut`.
    pub(in crate::api) outcome: Option<String>,
    /// All requests, however they ended.
    pub(in crate::api) requests: u64,
    /// Tokens of prompts.
    pub(in crate::api) prompt_tokens: u64,
    /// Tokens of answers.
    pub(in crate::api) completion_tokens: u64,
    /// Both.
    pub(in crate::api) total_tokens: u64,
    /// Tokens of prompts that providers had in their caches.
    pub(in crate::api) cached_prompt_tokens: u64,
    /// Tokens of answers that were reasoning.
    pub(in crate::api) reasoning_tokens: u64,
    /// What the requests cost that have a price; null if none of those that used tokens has one.
    pub(in crate::api) cost: Option<f64>,
    /// Requests that used tokens and have no price.
    pub(in crate::api) unpriced_requests: u64,
    /// Requests whose tokens were estimated.
    pub(in crate::api) estimated_requests: u64,
    /// Requests whose caller left.
    pub(in crate::api) cancelled: u64,
    /// Requests whose caller was told of an error.
    pub(in crate::api) failed: u64,
    /// Requests that were ended because a budget was used up.
    pub(in crate::api) cut: u64,
}

/// Who changed what.
#[derive(Serialize, Object)]
#[oai(rename = "Audit")]
pub(in crate::api) struct AuditList {
    /// The last first.
    pub(in crate::api) entries: Vec<AuditBody>,
    /// What to send as `before` for those before these; null if there are none.
    pub(in crate::api) next_before: Option<i64>,
}

/// One change.
#[derive(Serialize, Object)]
#[oai(rename = "AuditEntry")]
pub(in crate::api) struct AuditBody {
    /// Later ones have higher numbers.
    pub(in crate::api) number: i64,
    /// When.
    pub(in crate::api) time: String,
    /// Who: `admin`, `cli`, or `key:` and the id of a caller's key.
    pub(in crate::api) actor: String,
    /// From where: the address of the one who asked, or `unix` for a unix socket; null for commands.
    pub(in crate::api) peer: Option<String>,
    /// What was done: `key.create`, `key.change`, `key.rotate`, `key.delete`, `model.change`, `configuration.reload`.
    pub(in crate::api) action: String,
    /// To what: a key's id, or a model.
    pub(in crate::api) subject: String,
    /// What else is worth knowing: fields that are different, as they were and as they are.
    pub(in crate::api) detail: AnyObject,
}

/// Owners of keys.
#[derive(Serialize, Object)]
#[oai(rename = "Owners")]
pub(in crate::api) struct OwnerList {
    /// By name.
    pub(in crate::api) owners: Vec<OwnerBody>,
}

/// An owner of keys.
#[derive(Serialize, Object)]
#[oai(rename = "Owner")]
pub(in crate::api) struct OwnerBody {
    /// The name.
    pub(in crate::api) owner: String,
    /// The keys.
    pub(in crate::api) keys: Vec<KeySummary>,
    /// What was used in the last 24 hours, if anything was.
    pub(in crate::api) usage: Option<OwnerUsage>,
    /// The budget of all keys together, if the models file gives one.
    pub(in crate::api) budget: Option<BudgetState>,
}

/// A key in a word.
#[derive(Serialize, Object)]
#[oai(rename = "KeySummary")]
pub(in crate::api) struct KeySummary {
    /// Names it for ever.
    pub(in crate::api) id: String,
    /// What it is called.
    pub(in crate::api) name: String,
    /// The first characters of its secret.
    pub(in crate::api) prefix: String,
    /// Whether it opens nothing for now.
    pub(in crate::api) disabled: bool,
}

/// What an owner used.
#[derive(Serialize, Object)]
#[oai(rename = "OwnerUsage")]
pub(in crate::api) struct OwnerUsage {
    /// All requests, however they ended.
    pub(in crate::api) requests: u64,
    /// Tokens of prompts.
    pub(in crate::api) prompt_tokens: u64,
    /// Tokens of answers.
    pub(in crate::api) completion_tokens: u64,
    /// What the requests cost that have a price; null if none of those that used tokens has one.
    pub(in crate::api) cost: Option<f64>,
}

/// A budget, and how it stands.
#[derive(Serialize, Object)]
#[oai(rename = "BudgetState")]
pub(in crate::api) struct BudgetState {
    /// How many tokens there are in a period.
    pub(in crate::api) tokens: Option<u64>,
    /// How much money there is in a period.
    pub(in crate::api) money: Option<f64>,
    /// How long it is for.
    pub(in crate::api) period: PeriodBody,
    /// Whether an answer is ended when it has used the budget up.
    pub(in crate::api) cut_off: bool,
    /// Tokens that were spent in this period.
    pub(in crate::api) spent_tokens: u64,
    /// Money that was spent in this period.
    pub(in crate::api) spent_money: f64,
    /// Tokens that are left.
    pub(in crate::api) remaining_tokens: Option<u64>,
    /// Money that is left.
    pub(in crate::api) remaining_money: Option<f64>,
    /// When this period ends.
    pub(in crate::api) ends_at: String,
}

/// All budgets.
#[derive(Serialize, Object)]
#[oai(rename = "Budgets")]
pub(in crate::api) struct BudgetList {
    /// Those of owners by name, then those of keys by the time at which the keys were made.
    pub(in crate::api) budgets: Vec<BudgetOf>,
}

/// A budget, and whose it is.
#[derive(Serialize, Object)]
#[oai(rename = "BudgetOf")]
pub(in crate::api) struct BudgetOf {
    /// `owner` or `key`.
    pub(in crate::api) of: String,
    /// The key's id, if it is a key's.
    pub(in crate::api) id: Option<String>,
    /// What the key is called, if it is a key's.
    pub(in crate::api) name: Option<String>,
    /// The owner.
    pub(in crate::api) owner: Option<String>,
    /// How it stands.
    pub(in crate::api) budget: BudgetState,
}

/// The key that was shown, for its holder.
#[derive(Serialize, Object)]
#[oai(rename = "OwnKey")]
pub(in crate::api) struct OwnKey {
    /// Names it for ever.
    pub(in crate::api) id: String,
    /// What it is called.
    pub(in crate::api) name: String,
    /// Whose it is.
    pub(in crate::api) owner: Option<String>,
    /// The first characters of its secret.
    pub(in crate::api) prefix: String,
    /// From then on it opens nothing.
    pub(in crate::api) expires_at: Option<String>,
    /// Until then the secret before the last rotation opens, too; null once it does not.
    pub(in crate::api) previous_until: Option<String>,
    /// Patterns of models that it may use; all if there are none.
    pub(in crate::api) allowed_models: Vec<String>,
    /// Patterns of paths that it may ask; all if there are none.
    pub(in crate::api) allowed_endpoints: Vec<String>,
    /// The language of prompts where a request names none.
    pub(in crate::api) language: Option<String>,
    /// What is left of its limits.
    pub(in crate::api) limits: OwnLimits,
    /// What is left of the limits of all keys of its owner together.
    pub(in crate::api) owner_limits: OwnLimits,
    /// Its budget.
    pub(in crate::api) budget: Option<BudgetState>,
    /// The budget of all keys of its owner together.
    pub(in crate::api) owner_budget: Option<BudgetState>,
}

/// What is left of limits. What is null has none.
#[derive(Default, Serialize, Object)]
#[oai(rename = "OwnLimits")]
pub(in crate::api) struct OwnLimits {
    /// Requests in any minute.
    pub(in crate::api) requests_per_minute: Option<LimitState>,
    /// Tokens of prompts and answers together in any minute.
    pub(in crate::api) tokens_per_minute: Option<LimitState>,
    /// Requests at the same time.
    pub(in crate::api) parallel_requests: Option<LimitState>,
}

/// A limit, and how it stands.
#[derive(Serialize, Object)]
#[oai(rename = "LimitState")]
pub(in crate::api) struct LimitState {
    /// How much there is.
    pub(in crate::api) limit: u64,
    /// How much of it is left.
    pub(in crate::api) remaining: u64,
    /// Seconds until all of it is there again.
    pub(in crate::api) reset_seconds: u64,
}
