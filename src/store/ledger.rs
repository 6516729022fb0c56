//! Usage in the database: written in batches, read in sums.

use std::collections::HashSet;
use std::ops::Range;

use super::Spending;
use super::database::{Database, List, Session, Statement};
use super::error::Cause;
use super::hours::{HOUR_MS, hour_of};
use super::kinds::{self, Kinds, Known};
use super::sums::{CUTS, Identity, Totals, identity_of, insert_lines, values};
use super::usage::{By, Groups, UsageQuery, UsageRow};
use crate::callers::{Spent, UsageRecord, Whose};

/// Old records are forgotten in steps of this much time.
const STEP_MS: i64 = 600_000;

pub(super) async fn record(database: &Database, known: &Known, records: &[UsageRecord]) -> Result<(), Cause> {
    if records.is_empty() {
        return Ok(());
    }
    let mut kinds = Kinds::default();
    let numbers: Vec<i64> = records.iter().map(|record| kinds.number_of(record)).collect();
    let done = write(database, (&kinds, known), (records, &numbers)).await;
    match done {
        Ok(()) => known.add(&kinds),
        // Nobody knows what is there now.
        Err(_) => known.forget(),
    }
    done
}

/// Writes records, whose kinds have these numbers.
async fn write(
    database: &Database,
    (kinds, known): (&Kinds<'_>, &Known),
    (records, numbers): (&[UsageRecord], &[i64]),
) -> Result<(), Cause> {
    let all = || records.iter().zip(numbers.iter().copied());
    let lines = || all().map(|(record, kind)| values(record, kind)).collect::<List>();
    let insert = insert_lines();
    let mut session = database.write().await?;
    session.run_list(&kinds::insert(), kinds.unknown(known)).await?;
    let written = session.run_list(&insert, lines()).await?;
    if usize::try_from(written).is_ok_and(|written| written == records.len()) {
        return add_up(session, &Totals::of(all())).await;
    }
    // Some were there already. To know which, it is done once more, and asked: that costs more, and is rare.
    session.undo().await?;
    let mut session = database.write().await?;
    session.run_list(&kinds::insert(), kinds.unknown(known)).await?;
    let mut new: HashSet<Identity> = HashSet::new();
    for row in session.rows_of_list(&format!("{insert} returning time_ms, id, mark"), lines()).await? {
        new.insert((row.number(0)?, row.text(1)?.into(), row.number(2)?));
    }
    let totals = Totals::of(all().filter(|(record, _)| new.remove(&identity_of(record))));
    add_up(session, &totals).await
}

/// Adds to the sums what was written, and makes both hold.
async fn add_up(mut session: Session, totals: &Totals<'_>) -> Result<(), Cause> {
    for cut in &CUTS {
        session.run_list(&cut.add_to(), cut.rows_of(totals)).await?;
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
        Whose::Key(key) => (Some(key.to_string()), None),
        Whose::Owner(owner) => (None, Some(owner.to_string())),
    };
    let query = UsageQuery { from_ms: since_ms, key, owner, ..UsageQuery::default() };
    let rows = usage(database, &query).await?;
    Ok(rows.first().map(spent_of).unwrap_or_default())
}

pub(super) async fn all_spent(database: &Database, since_ms: i64) -> Result<Vec<Spending>, Cause> {
    let of = |by| UsageQuery { from_ms: since_ms, by: vec![by], ..UsageQuery::default() };
    let keys = usage(database, &of(By::Key)).await?;
    let owners = usage(database, &of(By::Owner)).await?;
    let keys = keys.iter().filter_map(|row| Some((Whose::Key(row.key.as_deref()?.into()), spent_of(row))));
    let owners =
        owners.iter().filter_map(|row| Some((Whose::Owner(row.owner.as_deref()?.into()), spent_of(row))));
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
    let mut forgotten = 0;
    for sql in [
        "delete from usage_lines where time_ms < $1 and time_ms < (select min(time_ms) from usage_lines) + $2",
        // What an older program has written.
        "delete from usage_records where time_ms < $1 and time_ms < (select min(time_ms) from usage_records) + $2",
    ] {
        forgotten += session.run(Statement::of(sql).with(until_ms).with(STEP_MS)).await?;
    }
    session.commit().await?;
    Ok(forgotten)
}
