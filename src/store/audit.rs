//! Who changed what, in the database.

use serde_json::Value as Json;

use super::database::{Database, Row, Session, Statement};
use super::error::Cause;
use super::sums::clean;

/// No answer has more entries.
const MOST_ENTRIES: usize = 1000;

/// A change, as it is noted.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// Who.
    pub actor: String,
    /// From where it was asked for: an address, or `unix`; nothing where no request asked for it.
    pub peer: Option<String>,
    /// What was done, such as `key.create`.
    pub action: String,
    /// To what, such as a key's id; may be empty.
    pub subject: String,
    /// What else is worth knowing. Never a secret.
    pub detail: Json,
}

/// A change that was noted.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// Later ones have higher numbers.
    pub number: i64,
    /// The change.
    pub entry: AuditEntry,
}

pub(super) async fn insert(database: &Database, entry: &AuditEntry) -> Result<(), Cause> {
    let mut session = database.write().await?;
    note(&mut session, entry).await?;
    session.commit().await
}

/// Notes an act in the session in which it is kept, so that both hold or neither does.
pub(super) async fn note(session: &mut Session, entry: &AuditEntry) -> Result<(), Cause> {
    let sql =
        "insert into audit (time_ms, actor, peer, action, subject, detail) values ($1, $2, $3, $4, $5, $6)";
    let insert = Statement::of(sql)
        .with(entry.time_ms)
        .with(clean(&entry.actor))
        .with(clean(entry.peer.as_deref().unwrap_or_default()))
        .with(clean(&entry.action))
        .with(clean(&entry.subject))
        .with(entry.detail.to_string());
    session.run(insert).await.map(drop)
}

pub(super) async fn before(
    database: &Database,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<Audit>, Cause> {
    let limit = i64::try_from(limit.min(MOST_ENTRIES)).unwrap_or_default();
    let sql = "select number, time_ms, actor, peer, action, subject, detail from audit where number < $1 \
               order by number desc limit $2";
    let select = Statement::of(sql).with(before.unwrap_or(i64::MAX)).with(limit);
    database.look().await?.rows(select).await?.iter().map(audit_of).collect()
}

fn audit_of(row: &Row) -> Result<Audit, Cause> {
    let detail = row.text(6)?;
    Ok(Audit {
        number: row.number(0)?,
        entry: AuditEntry {
            time_ms: row.number(1)?,
            actor: row.text(2)?,
            peer: Some(row.text(3)?).filter(|peer| !peer.is_empty()),
            action: row.text(4)?,
            subject: row.text(5)?,
            detail: serde_json::from_str(&detail).unwrap_or(Json::String(detail)),
        },
    })
}
