//! What was used: the question, the statement for it, and the answer. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use super::database::{Row, Statement};
use super::error::Cause;
use super::hours::{Clock, Cover, HOUR_MS};
use super::sums::{CUTS, Cut, MEASURES, Sums, add, money};
use crate::callers::{Zone, date_of_day};

/// What usage is told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Hours of UTC.
    Hour,
    /// Days of the zone.
    Day,
    /// The public model.
    Model,
    /// The key.
    Key,
    /// The owner of the key.
    Owner,
    /// The provider.
    Provider,
    /// The endpoint.
    Endpoint,
    /// The prompt, as `name@version/language`.
    Prompt,
    /// How requests ended.
    Outcome,
}

/// A question about usage.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// From then on, in milliseconds since 1970.
    pub from_ms: i64,
    /// Until before then.
    pub to_ms: i64,
    /// One row for each of these together; one for all if there are none.
    pub by: Vec<By>,
    /// In which days begin.
    pub zone: Zone,
    /// Of this key alone.
    pub key: Option<String>,
    /// Of this owner alone.
    pub owner: Option<String>,
    /// Of this model alone.
    pub model: Option<String>,
    /// So many rows at most, and never more than [`MOST_ROWS`].
    pub limit: usize,
}

/// No answer has more rows.
pub const MOST_ROWS: usize = 100_000;

impl Default for UsageQuery {
    /// Everything, in one row.
    fn default() -> Self {
        Self {
            from_ms: 0,
            to_ms: i64::MAX,
            by: Vec::new(),
            zone: Zone::default(),
            key: None,
            owner: None,
            model: None,
            limit: MOST_ROWS,
        }
    }
}

/// What was used in one group. Of the names those are there that the question asked for, unless requests have none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsageRow {
    /// When the hour began, in milliseconds since 1970.
    pub hour_ms: Option<i64>,
    /// The date of the day.
    pub day: Option<String>,
    /// The public model.
    pub model: Option<String>,
    /// The key's id.
    pub key: Option<String>,
    /// The owner.
    pub owner: Option<String>,
    /// The provider.
    pub provider: Option<String>,
    /// The endpoint.
    pub endpoint: Option<String>,
    /// The prompt, as `name@version/language`.
    pub prompt: Option<String>,
    /// How the requests ended; none for those of hours whose single records were gone before this was kept.
    pub outcome: Option<String>,
    /// All requests, however they ended.
    pub requests: u64,
    /// Tokens of prompts.
    pub input_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Tokens of prompts that providers had in their caches.
    pub cached_input_tokens: u64,
    /// Tokens of answers that were reasoning.
    pub reasoning_tokens: u64,
    /// What the requests cost that have a price.
    pub cost: f64,
    /// Requests that used tokens and have no price.
    pub unpriced: u64,
    /// Requests whose tokens were estimated.
    pub estimated: u64,
    /// Requests whose caller left.
    pub cancelled: u64,
    /// Requests whose caller was told of an error.
    pub failed: u64,
    /// Requests that the gateway ended, for a budget was used up.
    pub cut: u64,
    /// How long all requests together took.
    pub total_ms: u64,
}

/// Where single records are: those of today's kind, and what an older program has written.
const RECORDS: [&str; 2] = [
    "usage_lines cross join usage_kinds where usage_kinds.number = usage_lines.kind",
    "usage_records where true",
];

/// A part of what names a group, in the order in which rows come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Number(i64),
    Text(String),
}

pub(super) type Groups = BTreeMap<Vec<Part>, Sums>;

impl By {
    fn column(self) -> Option<&'static str> {
        match self {
            Self::Hour | Self::Day => None,
            Self::Model => Some("model"),
            Self::Key => Some("key_id"),
            Self::Owner => Some("owner"),
            Self::Provider => Some("provider"),
            Self::Endpoint => Some("endpoint"),
            Self::Prompt => Some("prompt"),
            Self::Outcome => Some("ending"),
        }
    }
}

impl UsageQuery {
    /// What is asked, each of it once.
    fn distinct(&self) -> Vec<By> {
        let mut distinct = Vec::new();
        for by in &self.by {
            if !distinct.contains(by) {
                distinct.push(*by);
            }
        }
        distinct
    }

    fn filters(&self) -> Vec<(&'static str, &str)> {
        let all = [("key_id", &self.key), ("owner", &self.owner), ("model", &self.model)];
        all.into_iter().filter_map(|(column, value)| Some((column, value.as_deref()?))).collect()
    }

    /// The narrowest table of sums that knows all that is asked.
    fn cut(&self) -> &'static Cut {
        let asked: Vec<&str> = self
            .by
            .iter()
            .filter_map(|by| by.column())
            .chain(self.filters().iter().map(|(column, _)| *column))
            .collect();
        let [.., widest] = &CUTS;
        CUTS.iter().find(|cut| asked.iter().all(|column| cut.names.contains(column))).unwrap_or(widest)
    }

    /// The statements that answer it, if there are sums of these hours and records since `kept_from`.
    pub(super) fn statements(&self, hours: &Range<i64>, kept_from: i64) -> Vec<Statement> {
        let time = self.from_ms.max(hours.start)..self.to_ms.min(hours.end);
        let clock = self.by.contains(&By::Day).then(|| Clock::new(&self.zone, &time));
        let cover = Cover::of(&time, kept_from, clock.as_ref());
        let mut statements = Vec::new();
        if !cover.whole.is_empty() {
            statements.push(self.of_sums(&cover, clock.as_ref()));
        }
        if !cover.edges.is_empty() {
            let records = RECORDS.map(|records| self.of_records(records, &cover.edges, clock.as_ref()));
            statements.extend(records);
        }
        statements
    }

    fn of_sums(&self, cover: &Cover, clock: Option<&Clock>) -> Statement {
        let Range { start, end } = cover.whole;
        let split: Vec<String> = cover.split.iter().map(ToString::to_string).collect();
        let but = if split.is_empty() {
            String::new()
        } else {
            format!(" and hour_ms not in ({})", split.join(", "))
        };
        let from = format!("from {} where hour_ms >= {start} and hour_ms < {end}{but}", self.cut().table);
        self.statement("", &from, "hour_ms", clock)
    }

    fn of_records(&self, records: &str, edges: &[Range<i64>], clock: Option<&Clock>) -> Statement {
        let edges: Vec<String> = edges.iter().map(|edge| format!("({}, {})", edge.start, edge.end)).collect();
        // The join says in which order: each edge finds its records by their time.
        let with = format!("with edges (since, until) as (values {}) ", edges.join(", "));
        let from =
            format!("from edges cross join {records} and time_ms >= edges.since and time_ms < edges.until");
        self.statement(&with, &from, "time_ms", clock)
    }

    fn statement(&self, with: &str, from: &str, time: &str, clock: Option<&Clock>) -> Statement {
        let groups: Vec<String> = self
            .distinct()
            .into_iter()
            .map(|by| match (by, clock) {
                (By::Day, Some(clock)) => clock.day_in_sql(time),
                _ => by.column().map_or_else(|| format!("{time} - {time} % {HOUR_MS}"), str::to_owned),
            })
            .collect();
        let is_of_records = time == "time_ms";
        let sums = MEASURES.iter().map(|(name, of_record)| {
            format!("cast(coalesce(sum({}), 0) as bigint)", if is_of_records { of_record } else { name })
        });
        let columns: Vec<String> = groups.iter().cloned().chain(sums).collect();
        let mut sql = format!("{with}select {} {from}", columns.join(", "));
        let filters = self.filters();
        for (index, (column, _)) in filters.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(sql, " and {column} = ${}", index + 1);
        }
        if !groups.is_empty() {
            let numbers: Vec<String> = (1..=groups.len()).map(|number| number.to_string()).collect();
            let numbers = numbers.join(", ");
            let _ = write!(sql, " group by {numbers} order by {numbers} limit {}", self.limit.min(MOST_ROWS));
        }
        filters.into_iter().fold(Statement::of(sql), |statement, (_, value)| statement.with(value))
    }

    /// Adds rows of a statement to what others gave. As all come in the same order, the first ones of all together are among
    /// the first ones of each.
    pub(super) fn add(&self, groups: &mut Groups, rows: &[Row]) -> Result<(), Cause> {
        let asked = self.distinct();
        for row in rows {
            let mut name = Vec::with_capacity(asked.len());
            for (column, by) in asked.iter().enumerate() {
                name.push(match by.column() {
                    Some(_) => Part::Text(row.text(column)?),
                    None => Part::Number(row.number(column)?),
                });
            }
            let mut sums = Sums::default();
            for (index, sum) in sums.iter_mut().enumerate() {
                *sum = row.number(asked.len() + index)?;
            }
            add(groups.entry(name).or_default(), &sums);
        }
        Ok(())
    }

    /// The answer.
    pub(super) fn answer(&self, mut groups: Groups) -> Vec<UsageRow> {
        let asked = self.distinct();
        if asked.is_empty() {
            groups.entry(Vec::new()).or_default();
        }
        let rows = groups.into_iter().map(|(name, sums)| {
            let mut row = UsageRow::of(sums);
            for (by, part) in asked.iter().zip(name) {
                row.put(*by, part);
            }
            row
        });
        rows.take(self.limit.min(MOST_ROWS)).collect()
    }
}

impl UsageRow {
    fn of(sums: Sums) -> Self {
        let sums_of_counts = sums.map(|sum| u64::try_from(sum).unwrap_or_default());
        let [
            requests,
            input_tokens,
            output_tokens,
            cached_input_tokens,
            reasoning_tokens,
            cost_nano,
            unpriced,
            estimated,
            cancelled,
            failed,
            cut,
            total_ms,
        ] = sums_of_counts;
        Self {
            requests,
            input_tokens,
            output_tokens,
            cached_input_tokens,
            reasoning_tokens,
            cost: money(i64::try_from(cost_nano).unwrap_or(i64::MAX)),
            unpriced,
            estimated,
            cancelled,
            failed,
            cut,
            total_ms,
            ..Self::default()
        }
    }

    fn put(&mut self, by: By, part: Part) {
        let place = match (by, &part) {
            (By::Hour, Part::Number(hour)) => return self.hour_ms = Some(*hour),
            (By::Day, Part::Number(day)) => return self.day = Some(date_of_day(*day)),
            (By::Model, _) => &mut self.model,
            (By::Key, _) => &mut self.key,
            (By::Owner, _) => &mut self.owner,
            (By::Provider, _) => &mut self.provider,
            (By::Prompt, _) => &mut self.prompt,
            (By::Outcome, _) => &mut self.outcome,
            _ => &mut self.endpoint,
        };
        if let Part::Text(text) = part {
            *place = Some(text).filter(|text| !text.is_empty());
        }
    }
}
