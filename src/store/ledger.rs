//! Usage in the database: written in batches, read in sums.

use std::collections::HashSet;
use std::ops::Range;

use super::Spending;
use super::database::{Database, Session, Statement};
use super::error::Cause;
use super::hours::{HOUR_MS, hour_of};
use super::sums::{CUTS, Identity, Line, insert_records};
use super::usage::{By, Groups, UsageQuery, UsageRow};
use crate::callers::{Spent, UsageRecord, Whose};

/// So many rows in one statement: every database takes the number of values that this makes.
const PART: usize = 500;
/// Old records are forgotten in steps of this much time.
const STEP_MS: i64 = 600_000;

pub(super) async fn record(database: &Database, records: &[UsageRecord]) -> Result<(), Cause> {
    if records.is_empty() {
        return Ok(());
    }
    let lines: Vec<Line> = records.iter().map(Line::of).collect();
    let mut session = database.write().await?;
    let mut new: HashSet<Identity> = HashSet::with_capacity(lines.len());
    let insert = insert_records();
    for part in lines.chunks(PART) {
        for row in session.rows_of_list(&insert, part.iter().map(Line::values)).await? {
            new.insert((row.number(0)?, row.text(1)?, row.number(2)?));
        }
    }
    if new.is_empty() {
        return session.undo().await;
    }
    for cut in &CUTS {
        let sql = cut.add_to();
        for part in cut.sums_of(&lines, new.clone()).chunks(PART) {
            session.rows_of_list(&sql, part.iter().cloned()).await?;
        }
    }
    session.commit().await
}

/// The hours of which there are sums.
async fn hours(session: &mut Session) -> Result<Range<i64>, Cause> {
    let sql = "select (select coalesce(min(hour_ms), 0) from usage_by_model), \
               (select coalesce(max(hour_ms), 0) from usage_by_model)";
    let rows = session.rows(Statement::of(sql)).await?;
    let row = rows.first().ok_or_else(|| Cause::broken("its tables are not as this program made them"))?;
    Ok(row.number(0)?..row.number(1)? + HOUR_MS)
}

pub(super) async fn usage(database: &Database, query: &UsageQuery) -> Result<Vec<UsageRow>, Cause> {
    let mut session = database.read().await?;
    let hours = hours(&mut session).await?;
    let kept_from = kept_from(&mut session).await?;
    let mut groups = Groups::new();
    for statement in query.statements(&hours, kept_from) {
        let rows = session.rows(statement).await?;
        query.add(&mut groups, &rows)?;
    }
    session.commit().await?;
    Ok(query.answer(groups))
}

fn spent_of(row: &UsageRow) -> Spent {
    Spent { tokens: row.input_tokens.saturating_add(row.output_tokens), money: row.cost }
}

pub(super) async fn spent(database: &Database, whose: &Whose, since_ms: i64) -> Result<Spent, Cause> {
    let (key, owner) = match whose {
        Whose::Key(key) => (Some(key.clone()), None),
        Whose::Owner(owner) => (None, Some(owner.clone())),
    };
    let query = UsageQuery { from_ms: since_ms, key, owner, ..UsageQuery::default() };
    let rows = usage(database, &query).await?;
    Ok(rows.first().map(spent_of).unwrap_or_default())
}

pub(super) async fn all_spent(database: &Database, since_ms: i64) -> Result<Vec<Spending>, Cause> {
    let of = |by| UsageQuery { from_ms: since_ms, by: vec![by], ..UsageQuery::default() };
    let keys = usage(database, &of(By::Key)).await?;
    let owners = usage(database, &of(By::Owner)).await?;
    let keys = keys.iter().filter_map(|row| Some((Whose::Key(row.key.clone()?), spent_of(row))));
    let owners = owners.iter().filter_map(|row| Some((Whose::Owner(row.owner.clone()?), spent_of(row))));
    Ok(keys.chain(owners).collect())
}

async fn kept_from(session: &mut Session) -> Result<i64, Cause> {
    let rows =
        session.rows(Statement::of("select value from marks where name = 'usage_kept_from_ms'")).await?;
    rows.first().map_or(Ok(0), |row| row.number(0))
}

/// From now on nobody counts on the records from before `keep_ms`. Whole hours: no hour is half there.
pub(super) async fn keep_from(database: &Database, now_ms: i64, keep_ms: i64) -> Result<i64, Cause> {
    let until_ms = hour_of(now_ms.saturating_sub(keep_ms).max(0));
    let mut session = database.write().await?;
    let sql = "update marks set value = $1 where name = 'usage_kept_from_ms' and value < $1";
    session.run(Statement::of(sql).with(until_ms)).await?;
    session.commit().await?;
    Ok(until_ms)
}

/// Forgets the oldest records until then, and tells how many; 0 if there are none left.
pub(super) async fn forget_some(database: &Database, until_ms: i64) -> Result<u64, Cause> {
    let mut session = database.write().await?;
    let sql = "delete from usage_records where time_ms < $1 and time_ms < \
               (select min(time_ms) from usage_records) + $2";
    let forgotten = session.run(Statement::of(sql).with(until_ms).with(STEP_MS)).await?;
    session.commit().await?;
    Ok(forgotten)
}
