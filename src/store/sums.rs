//! What is added up of records, and the tables that hold it by the hour. Pure.

use std::borrow::Cow;
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
const NAMES: [&str; 7] = ["key_id", "owner", "model", "provider", "endpoint", "prompt", "ending"];

/// The narrow ones first.
pub(super) const CUTS: [Cut; 4] = [
    Cut { table: "usage_by_model", names: &["model", "provider"] },
    Cut { table: "usage_by_key", names: &["key_id", "owner"] },
    Cut { table: "usage_by_all", names: &["key_id", "owner", "model", "provider", "endpoint"] },
    Cut { table: "usage_by_outcome", names: &NAMES },
];

const COLUMNS: &str = "time_ms, id, mark, kind, input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, \
     first_token_ms, total_ms, attempts, cost_nano";

/// Longer texts are cut: nobody needs more of them, and no database has to hold whatever a caller thinks of.
const MOST_CHARACTERS: usize = 256;
/// More tokens or milliseconds than any request has: sums of them do not overflow.
const MOST: u64 = 1 << 40;
/// The end of 2199.
const LAST_MS: i64 = 7_258_118_399_999;
/// Money is kept in billionths, so that sums are exact and do not depend on their order.
const NANO: f64 = 1e9;

/// What records come to, by the hour and the number of their kind, of which the [`NAMES`] are there.
#[derive(Debug, Default)]
pub(super) struct Totals<'r>(BTreeMap<(i64, i64), (Names<'r>, Sums)>);

type Names<'r> = [Cow<'r, str>; NAMES.len()];

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

/// The same, of a text that mostly is as it should be.
pub(super) fn cleaned(text: &str) -> Cow<'_, str> {
    let is_clean = text.len() <= MOST_CHARACTERS && !text.as_bytes().contains(&0);
    if is_clean { Cow::Borrowed(text) } else { Cow::Owned(clean(text)) }
}

pub(super) fn cleaned_or_none(text: Option<&Arc<str>>) -> Cow<'_, str> {
    text.map_or(Cow::Borrowed(""), |text| cleaned(text))
}

/// What tells a record from others; nothing tells it from itself, so that one that is written again counts once.
pub(super) fn identity_of(record: &UsageRecord) -> Identity {
    let id = match cleaned(&record.id) {
        Cow::Borrowed(_) => record.id.clone(),
        Cow::Owned(id) => id.into(),
    };
    (time_of(record), id, record.mark.cast_signed())
}

/// In the order of [`COLUMNS`].
pub(super) fn values(record: &UsageRecord, kind: i64) -> [Value; 12] {
    let (time_ms, id, mark) = identity_of(record);
    [
        time_ms.into(),
        id.into(),
        mark.into(),
        kind.into(),
        bounded(record.input_tokens).into(),
        bounded(record.output_tokens).into(),
        bounded(record.cached_input_tokens).into(),
        bounded(record.reasoning_tokens).into(),
        record.first_token_ms.map(bounded).into(),
        bounded(record.total_ms).into(),
        i64::from(record.attempts).into(),
        record.cost.map(nano).into(),
    ]
}

/// In the order of [`NAMES`].
fn names_of(record: &UsageRecord) -> Names<'_> {
    [
        cleaned_or_none(record.key.as_ref()),
        cleaned_or_none(record.owner.as_ref()),
        cleaned_or_none(record.model.as_ref()),
        cleaned_or_none(record.provider.as_ref()),
        cleaned(&record.endpoint),
        cleaned_or_none(record.prompt.as_ref()),
        record.ending.as_str().into(),
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
pub(super) fn insert_lines() -> String {
    format!("insert into usage_lines ({COLUMNS}) values LIST on conflict do nothing")
}

impl<'r> Totals<'r> {
    /// Of records and the numbers of their kinds.
    pub(super) fn of(records: impl Iterator<Item = (&'r UsageRecord, i64)>) -> Self {
        let mut totals = Self::default();
        for (record, kind) in records {
            let (_, total) = totals
                .0
                .entry((hour_of(time_of(record)), kind))
                .or_insert_with(|| (names_of(record), Sums::default()));
            add(total, &sums(record));
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
    pub(super) fn rows_of(&self, totals: &Totals<'_>) -> List {
        let mut all: BTreeMap<(i64, Vec<&str>), Sums> = BTreeMap::new();
        for ((hour_ms, _), (names, sums)) in &totals.0 {
            let names = NAMES.iter().zip(names).filter(|(name, _)| self.names.contains(name));
            add(all.entry((*hour_ms, names.map(|(_, value)| &**value).collect())).or_default(), sums);
        }
        let row = |((hour, names), sums): ((i64, Vec<&str>), Sums)| {
            let names: Vec<Value> = names.into_iter().map(Value::from).collect();
            std::iter::once(Value::Number(hour)).chain(names).chain(sums.map(Value::Number))
        };
        all.into_iter().map(row).collect()
    }
}
