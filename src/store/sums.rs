//! What is added up of records, and the tables that hold it by the hour. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::database::{List, Value};
use super::hours::hour_of;
use crate::callers::{Ending, UsageRecord};
use crate::llm::UsageSource;

/// What is added up: the column of the sums, and how a record counts for it.
pub(super) const MEASURES: [(&str, &str); 12] = [
    ("requests", "1"),
    ("input_tokens", "input_tokens"),
    ("output_tokens", "output_tokens"),
    ("cached_input_tokens", "cached_input_tokens"),
    ("reasoning_tokens", "reasoning_tokens"),
    ("cost_nano", "coalesce(cost_nano, 0)"),
    ("unpriced", "case when cost_nano is null and input_tokens + output_tokens > 0 then 1 else 0 end"),
    ("estimated", "case when source = 'estimated' then 1 else 0 end"),
    ("cancelled", "case when ending = 'cancelled' then 1 else 0 end"),
    ("failed", "case when ending = 'failed' then 1 else 0 end"),
    ("cut", "case when ending = 'cut' then 1 else 0 end"),
    ("total_ms", "total_ms"),
];

/// Values of [`MEASURES`], in their order.
pub(super) type Sums = [i64; MEASURES.len()];

/// A table of sums by the hour, and by these columns.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) table: &'static str,
    pub(super) names: &'static [&'static str],
}

/// What sums are kept by.
const NAMES: [&str; 5] = ["key_id", "owner", "model", "provider", "endpoint"];

/// The narrow ones first.
pub(super) const CUTS: [Cut; 3] = [
    Cut { table: "usage_by_model", names: &["model", "provider"] },
    Cut { table: "usage_by_key", names: &["key_id", "owner"] },
    Cut { table: "usage_by_all", names: &["key_id", "owner", "model", "provider", "endpoint"] },
];

const COLUMNS: &str = "time_ms, id, mark, key_id, owner, endpoint, model, provider, deployment, prompt, input_tokens, \
     output_tokens, cached_input_tokens, reasoning_tokens, source, ending, error, first_token_ms, total_ms, attempts, \
     cost_nano";

/// Longer texts are cut: nobody needs more of them, and no database has to hold whatever a caller thinks of.
const MOST_CHARACTERS: usize = 256;
/// More tokens or milliseconds than any request has: sums of them do not overflow.
const MOST: u64 = 1 << 40;
/// The end of 2199.
const LAST_MS: i64 = 7_258_118_399_999;
/// Money is kept in billionths, so that sums are exact and do not depend on their order.
const NANO: f64 = 1e9;

/// What records come to, by the hour and [`NAMES`].
#[derive(Debug, Default)]
pub(super) struct Totals(BTreeMap<(i64, [Arc<str>; NAMES.len()]), Sums>);

/// What tells records apart.
pub(super) type Identity = (i64, Arc<str>, i64);

pub(super) fn nano(money: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "it is rounded, and bounded by the cast")]
    let nano = (money * NANO).round() as i64;
    nano.clamp(0, i64::MAX >> 16)
}

pub(super) fn money(nano: i64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "what a float cannot hold of billionths is nothing to anybody"
    )]
    let nano = nano as f64;
    nano / NANO
}

/// A clock that is wrong does not make a ledger of millennia.
fn time_of(record: &UsageRecord) -> i64 {
    record.time_ms.clamp(0, LAST_MS)
}

fn bounded(count: u64) -> i64 {
    i64::try_from(count.min(MOST)).unwrap_or_default()
}

/// A text that every database takes: PostgreSQL knows no NUL.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|letter| *letter != '\0').take(MOST_CHARACTERS).collect()
}

fn cleaned(text: &Arc<str>) -> Arc<str> {
    let is_clean = text.len() <= MOST_CHARACTERS && !text.as_bytes().contains(&0);
    if is_clean { text.clone() } else { clean(text).into() }
}

fn cleaned_or_none(text: Option<&Arc<str>>) -> Arc<str> {
    text.map(cleaned).unwrap_or_default()
}

/// What tells a record from others; nothing tells it from itself, so that one that is written again counts once.
pub(super) fn identity_of(record: &UsageRecord) -> Identity {
    (time_of(record), cleaned(&record.id), record.mark.cast_signed())
}

/// In the order of [`COLUMNS`].
pub(super) fn values(record: &UsageRecord) -> [Value; 21] {
    let text = |text: &Option<Arc<str>>| Value::from(cleaned_or_none(text.as_ref()));
    let (time_ms, id, mark) = identity_of(record);
    [
        time_ms.into(),
        id.into(),
        mark.into(),
        text(&record.key),
        text(&record.owner),
        cleaned(&record.endpoint).into(),
        text(&record.model),
        text(&record.provider),
        text(&record.deployment),
        text(&record.prompt),
        bounded(record.input_tokens).into(),
        bounded(record.output_tokens).into(),
        bounded(record.cached_input_tokens).into(),
        bounded(record.reasoning_tokens).into(),
        record.source.as_str().into(),
        record.ending.as_str().into(),
        text(&record.error),
        record.first_token_ms.map(bounded).into(),
        bounded(record.total_ms).into(),
        i64::from(record.attempts).into(),
        record.cost.map(nano).into(),
    ]
}

/// How a record counts, as [`MEASURES`] say it.
fn sums(record: &UsageRecord) -> Sums {
    let is = |holds: bool| i64::from(holds);
    let is_unpriced = record.cost.is_none() && (record.input_tokens > 0 || record.output_tokens > 0);
    [
        1,
        bounded(record.input_tokens),
        bounded(record.output_tokens),
        bounded(record.cached_input_tokens),
        bounded(record.reasoning_tokens),
        record.cost.map_or(0, nano),
        is(is_unpriced),
        is(record.source == UsageSource::Estimated),
        is(record.ending == Ending::Cancelled),
        is(record.ending == Ending::Failed),
        is(record.ending == Ending::Cut),
        bounded(record.total_ms),
    ]
}

pub(super) fn add(to: &mut Sums, more: &Sums) {
    for (sum, more) in to.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// Writes records that are new.
pub(super) fn insert_records() -> String {
    format!("insert into usage_records ({COLUMNS}) values LIST on conflict do nothing")
}

impl Totals {
    pub(super) fn of<'r>(records: impl Iterator<Item = &'r UsageRecord>) -> Self {
        let mut totals = Self::default();
        for record in records {
            let names = [
                cleaned_or_none(record.key.as_ref()),
                cleaned_or_none(record.owner.as_ref()),
                cleaned_or_none(record.model.as_ref()),
                cleaned_or_none(record.provider.as_ref()),
                cleaned(&record.endpoint),
            ];
            add(totals.0.entry((hour_of(time_of(record)), names)).or_default(), &sums(record));
        }
        totals
    }
}

impl Cut {
    /// Adds to sums.
    pub(super) fn add_to(&self) -> String {
        let (table, names) = (self.table, self.names.join(", "));
        let measures: Vec<&str> = MEASURES.iter().map(|(name, _)| *name).collect();
        let added: Vec<String> =
            measures.iter().map(|name| format!("{name} = {table}.{name} + excluded.{name}")).collect();
        format!(
            "insert into {table} (hour_ms, {names}, {}) values LIST on conflict (hour_ms, {names}) do update set {}",
            measures.join(", "),
            added.join(", ")
        )
    }

    /// What is to be added, each sum once and in one order, so that two writers never wait for each other in a circle.
    pub(super) fn rows_of(&self, totals: &Totals) -> List {
        let mut all: BTreeMap<(i64, Vec<&Arc<str>>), Sums> = BTreeMap::new();
        for ((hour_ms, names), sums) in &totals.0 {
            let names = NAMES.iter().zip(names).filter(|(name, _)| self.names.contains(name));
            add(all.entry((*hour_ms, names.map(|(_, value)| value).collect())).or_default(), sums);
        }
        let row = |((hour, names), sums): ((i64, Vec<&Arc<str>>), Sums)| {
            let names = names.into_iter().map(|name| Value::from(name.clone()));
            let names: Vec<Value> = names.collect();
            std::iter::once(Value::Number(hour)).chain(names).chain(sums.map(Value::Number))
        };
        all.into_iter().map(row).collect()
    }
}
