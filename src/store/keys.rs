//! Keys in the database: as JSON, so that a field more needs no other table.

use std::collections::BTreeMap;

use super::database::{Database, List, Row, Session, Statement, Value};
use super::error::Cause;
use super::{AuditEntry, KeyChange, Noted, audit};
use crate::callers::Key;

/// Every change of a key goes through here first. The row is locked until the end, so that changes by several nodes
/// come one after the other, whichever keys they are of.
const NEW_VERSION: &str = "update marks set value = value + 1 where name = 'keys_version'";

fn key_of(row: &Row) -> Result<Key, Cause> {
    let key: Result<Key, _> = serde_json::from_str(&row.text(0)?);
    // What was read is not told: it has the digest of a secret.
    let mut key = key.map_err(|_| Cause::broken("one of its keys cannot be read by this version"))?;
    key.last_used_ms = row.maybe_number(1)?;
    Ok(key)
}

fn body_of(key: &Key) -> Result<String, Cause> {
    // It has a column of its own.
    let key = Key { last_used_ms: None, ..key.clone() };
    serde_json::to_string(&key).map_err(|_| Cause::broken("the key cannot be written"))
}

pub(super) async fn all(database: &Database) -> Result<Vec<Key>, Cause> {
    let sql = "select body, last_used_ms from keys order by created_ms, id";
    database.look().await?.rows(Statement::of(sql)).await?.iter().map(key_of).collect()
}

fn by_id(id: &str) -> Statement {
    Statement::of("select body, last_used_ms from keys where id = $1").with(id)
}

pub(super) async fn of_id(database: &Database, id: &str) -> Result<Option<Key>, Cause> {
    database.look().await?.rows(by_id(id)).await?.first().map(key_of).transpose()
}

pub(super) async fn version(database: &Database) -> Result<i64, Cause> {
    let sql = "select value from marks where name = 'keys_version'";
    let rows = database.look().await?.rows(Statement::of(sql)).await?;
    rows.first().map_or(Ok(0), |row| row.number(0))
}

async fn insert_with(
    database: &Database,
    key: &Key,
    or_else: &str,
    note: Option<&AuditEntry>,
) -> Result<bool, Cause> {
    let body = body_of(key)?;
    let mut session = database.write().await?;
    session.run(Statement::of(NEW_VERSION)).await?;
    let sql = format!(
        "insert into keys (id, created_ms, last_used_ms, body) values ($1, $2, $3, $4) on conflict {or_else}"
    );
    let insert =
        Statement::of(sql).with(key.id.as_str()).with(key.created_ms).with(key.last_used_ms).with(body);
    let is_new = session.run(insert).await? > 0;
    if let Some(note) = note.filter(|_| is_new) {
        audit::note(&mut session, note).await?;
    }
    let ended = if is_new { session.commit().await } else { session.undo().await };
    ended.map(|()| is_new)
}

pub(super) async fn insert(database: &Database, key: &Key, note: &AuditEntry) -> Result<bool, Cause> {
    insert_with(database, key, "do nothing", Some(note)).await
}

pub(super) async fn put(database: &Database, key: &Key) -> Result<(), Cause> {
    let replace = "(id) do update set created_ms = excluded.created_ms, last_used_ms = excluded.last_used_ms, \
                   body = excluded.body";
    insert_with(database, key, replace, None).await.map(drop)
}

async fn one(session: &mut Session, id: &str) -> Result<Option<Key>, Cause> {
    session.rows(by_id(id)).await?.first().map(key_of).transpose()
}

pub(super) async fn update(
    database: &Database,
    id: &str,
    change: KeyChange<'_>,
    noted: Noted<'_, Key>,
) -> Result<Option<Key>, Cause> {
    let mut session = database.write().await?;
    session.run(Statement::of(NEW_VERSION)).await?;
    let Some(before) = one(&mut session, id).await? else {
        session.undo().await?;
        return Ok(None);
    };
    let last_used_ms = before.last_used_ms;
    let after = Key { id: id.to_owned(), last_used_ms, ..change(before.clone()) };
    let sql = "update keys set created_ms = $2, body = $3 where id = $1";
    session.run(Statement::of(sql).with(id).with(after.created_ms).with(body_of(&after)?)).await?;
    audit::note(&mut session, &noted(&before, &after)).await?;
    session.commit().await?;
    Ok(Some(after))
}

pub(super) async fn delete(database: &Database, id: &str, note: &AuditEntry) -> Result<bool, Cause> {
    let mut session = database.write().await?;
    session.run(Statement::of(NEW_VERSION)).await?;
    let was_there = session.run(Statement::of("delete from keys where id = $1").with(id)).await? > 0;
    if was_there {
        audit::note(&mut session, note).await?;
    }
    let ended = if was_there { session.commit().await } else { session.undo().await };
    ended.map(|()| was_there)
}

pub(super) async fn touch(database: &Database, used: &[(String, i64)]) -> Result<(), Cause> {
    if used.is_empty() {
        return Ok(());
    }
    let mut session = database.write().await?;
    // As for changes, one node after the other; but this is no change.
    session.run(Statement::of("update marks set value = value where name = 'keys_version'")).await?;
    let used: BTreeMap<&str, i64> = used.iter().fold(BTreeMap::new(), |mut latest, (id, used_ms)| {
        let known: &mut i64 = latest.entry(id.as_str()).or_default();
        *known = (*known).max(*used_ms);
        latest
    });
    let list: List = used.into_iter().map(|(id, used_ms)| [Value::from(id), used_ms.into()]).collect();
    let sql = "update keys set last_used_ms = used.column2 from (values LIST) as used \
               where keys.id = used.column1 and used.column2 > coalesce(keys.last_used_ms, 0)";
    session.run_list(sql, list).await?;
    session.commit().await
}
