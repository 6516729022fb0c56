//! What callers used, how their budgets stand, and who changed what, for whoever has the admin key.

use std::collections::BTreeMap;
use std::sync::Arc;

use poem::Request;
use poem_openapi::OpenApi;

use crate::api::Tag;
use crate::api::context::Context;
use crate::api::error::ApiError;
use crate::api::payload::{Json, TableAnswer};
use crate::api::query::{Query, only_known};
use crate::api::schema::{
    AnyObject, AuditBody, AuditList, BudgetList, BudgetOf, KeySummary, OwnerBody, OwnerList, OwnerUsage,
    UsageBody,
};
use crate::api::standing::budget_state;
use crate::api::usage::{Asked, DEFAULT_SPAN_MS, cost_of};
use crate::callers::{Key, Whose, moment_as_text, now_ms};
use crate::store::{Audit, By, UsageQuery, UsageRow};

/// Entries of the audit in one answer, if nobody says.
const ENTRIES: usize = 100;
/// And at most.
const MOST_ENTRIES: usize = 1000;

/// What callers used.
pub(in crate::api) struct UsageApi {
    pub(in crate::api) context: Arc<Context>,
}

#[OpenApi(tag = "Tag::Admin")]
impl UsageApi {
    /// Usage
    ///
    /// What was used, in the groups that are asked for. Days are those of the service's time zone.
    #[oai(path = "/admin/usage", method = "get", operation_id = "usage")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the document")]
    async fn usage(
        &self,
        request: &Request,
        /// From then on: `2026-11-21T10:00:00Z`, or a date; 24 hours before the end if nothing is said.
        from: Query<Option<String>>,
        /// Until before then, or to the end of that date; now if nothing is said.
        to: Query<Option<String>>,
        /// A comma list of `hour`, `day`, `model`, `key`, `owner`, `provider`, `endpoint`, `prompt`, `outcome`; all in one row if nothing is said.
        group_by: Query<Option<String>>,
        /// `json`, or `csv` for spreadsheets.
        format: Query<Option<String>>,
        /// Only what this key used, by its id.
        key: Query<Option<String>>,
        /// Only what keys of this owner used.
        owner: Query<Option<String>>,
        /// Only what was asked of this model.
        model: Query<Option<String>>,
    ) -> Result<TableAnswer<UsageBody>, ApiError> {
        only_known(request, &["from", "to", "group_by", "format", "key", "owner", "model"])?;
        let asked = Asked { from: from.0, to: to.0, group_by: group_by.0, format: format.0 };
        let mut question = asked.read(self.context.gateway.gate().budgets().zone(), now_ms())?;
        (question.query.key, question.query.owner, question.query.model) = (key.0, owner.0, model.0);
        Ok(question.answer(self.context.accounts()?).await?.into())
    }

    /// Audit
    ///
    /// Who changed which key or model how, and who had the configuration read anew, the last first. Secrets are in none of it.
    #[oai(path = "/admin/audit", method = "get", operation_id = "audit")]
    async fn audit(
        &self,
        request: &Request,
        /// Only what was before the entry of this number: `next_before` of the answer before.
        before: Query<Option<i64>>,
        /// So many entries at most, 1 to 1000; 100 if nothing is said.
        limit: Query<Option<usize>>,
    ) -> Result<Json<AuditList>, ApiError> {
        only_known(request, &["before", "limit"])?;
        let limit = limit.0.unwrap_or(ENTRIES);
        if !(1..=MOST_ENTRIES).contains(&limit) {
            let must = format!("`limit` must be between 1 and {MOST_ENTRIES}");
            return Err(ApiError::invalid("limit", must));
        }
        let entries = self.context.accounts()?.audits(before.0, limit).await?;
        let next_before = entries.last().filter(|_| entries.len() == limit).map(|last| last.number);
        Ok(Json(AuditList { entries: entries.into_iter().map(audit_body).collect(), next_before }))
    }

    /// Owners
    ///
    /// Everybody who has keys or a budget, with what they used in the last 24 hours.
    #[oai(path = "/admin/owners", method = "get", operation_id = "list_owners")]
    async fn owners(&self) -> Result<Json<OwnerList>, ApiError> {
        let accounts = self.context.accounts()?;
        let now_ms = now_ms();
        let query = UsageQuery {
            from_ms: now_ms - DEFAULT_SPAN_MS,
            to_ms: now_ms,
            by: vec![By::Owner],
            ..UsageQuery::default()
        };
        let (keys, used) = (accounts.list(None).await?, accounts.usage(&query).await?);
        Ok(Json(OwnerList { owners: self.owner_bodies(keys, used, now_ms) }))
    }

    /// Budgets
    ///
    /// All budgets there are, and what is left of them now.
    #[oai(path = "/admin/budgets", method = "get", operation_id = "list_budgets")]
    async fn budgets(&self) -> Result<Json<BudgetList>, ApiError> {
        let gate = self.context.gateway.gate();
        let (keys, rules, now_ms) = (self.context.accounts()?.list(None).await?, gate.rules(), now_ms());
        let of_owners: BTreeMap<_, _> = rules.owner_budgets.iter().collect();
        let of_owners = of_owners.into_iter().map(|(owner, budget)| BudgetOf {
            of: "owner".to_owned(),
            id: None,
            name: None,
            owner: Some(owner.clone()),
            budget: budget_state(gate, &Whose::Owner(owner.as_str().into()), budget, now_ms),
        });
        let of_keys = keys.into_iter().filter_map(|key| {
            let budget = budget_state(gate, &Whose::Key(key.id.as_str().into()), &key.budget?, now_ms);
            let Key { id, name, owner, .. } = key;
            Some(BudgetOf { of: "key".to_owned(), id: Some(id), name: Some(name), owner, budget })
        });
        Ok(Json(BudgetList { budgets: of_owners.chain(of_keys).collect() }))
    }
}

impl UsageApi {
    fn owner_bodies(&self, keys: Vec<Key>, used: Vec<UsageRow>, now_ms: i64) -> Vec<OwnerBody> {
        let gate = self.context.gateway.gate();
        let rules = gate.rules();
        let mut owners: BTreeMap<String, OwnerBody> = BTreeMap::new();
        let budgets = rules.owner_budgets.iter().map(|(owner, budget)| (owner.clone(), Some(budget)));
        let named = keys.iter().filter_map(|key| Some((key.owner.clone()?, None)));
        for (owner, budget) in budgets.chain(named) {
            owners.entry(owner.clone()).or_insert_with(|| OwnerBody {
                budget: budget
                    .map(|budget| budget_state(gate, &Whose::Owner(owner.as_str().into()), budget, now_ms)),
                owner,
                keys: Vec::new(),
                usage: None,
            });
        }
        for Key { owner, id, name, prefix, disabled, .. } in keys {
            if let Some(known) = owner.and_then(|owner| owners.get_mut(&owner)) {
                known.keys.push(KeySummary { id, name, prefix, disabled });
            }
        }
        for row in used {
            // Whose keys are all deleted is no owner any more, and stays in the usage.
            if let Some(known) = row.owner.as_ref().and_then(|owner| owners.get_mut(owner)) {
                known.usage = Some(OwnerUsage {
                    requests: row.requests,
                    prompt_tokens: row.input_tokens,
                    completion_tokens: row.output_tokens,
                    cost: cost_of(&row),
                });
            }
        }
        owners.into_values().collect()
    }
}

fn audit_body(audit: Audit) -> AuditBody {
    let Audit { number, entry } = audit;
    AuditBody {
        number,
        time: moment_as_text(entry.time_ms),
        actor: entry.actor,
        peer: entry.peer,
        action: entry.action,
        subject: entry.subject,
        detail: AnyObject::of(entry.detail),
    }
}
