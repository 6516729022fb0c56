//! How models are switched, in the database.

use super::database::{Database, Row, Session, Statement};
use super::error::Cause;
use super::{Noted, SwitchChange, audit};

/// How a model is switched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSwitch {
    /// The public name.
    pub model: String,
    /// Whether it is off.
    pub disabled: bool,
    /// When it was last switched off or on, in milliseconds since 1970; `None` if it never was.
    pub since_ms: Option<i64>,
    /// Whatever its keeper wants to remember of that.
    pub note: Option<String>,
}

/// Every switch goes through here first. The row is locked until the end, so that those by several nodes come one after
/// the other.
const NEW_VERSION: &str = "update marks set value = value + 1 where name = 'models_version'";

/// What every database takes: PostgreSQL knows no NUL.
fn kept(text: &str) -> String {
    text.replace('\0', "")
}

fn switch_of(row: &Row) -> Result<ModelSwitch, Cause> {
    Ok(ModelSwitch {
        model: row.text(0)?,
        disabled: row.number(1)? != 0,
        since_ms: row.maybe_number(2)?,
        note: Some(row.text(3)?).filter(|note| !note.is_empty()),
    })
}

pub(super) async fn all(database: &Database) -> Result<Vec<ModelSwitch>, Cause> {
    let sql = "select name, disabled, since_ms, note from models order by name";
    database.look().await?.rows(Statement::of(sql)).await?.iter().map(switch_of).collect()
}

pub(super) async fn version(database: &Database) -> Result<i64, Cause> {
    let sql = "select value from marks where name = 'models_version'";
    let rows = database.look().await?.rows(Statement::of(sql)).await?;
    rows.first().map_or(Ok(0), |row| row.number(0))
}

async fn one(session: &mut Session, model: &str) -> Result<Option<ModelSwitch>, Cause> {
    let sql = "select name, disabled, since_ms, note from models where name = $1";
    session.rows(Statement::of(sql).with(model)).await?.first().map(switch_of).transpose()
}

pub(super) async fn switch(
    database: &Database,
    model: &str,
    change: SwitchChange<'_>,
    noted: Noted<'_, ModelSwitch>,
) -> Result<(Option<ModelSwitch>, ModelSwitch), Cause> {
    let model = kept(model);
    let mut session = database.write().await?;
    session.run(Statement::of(NEW_VERSION)).await?;
    let before = one(&mut session, &model).await?;
    let change = change(before.clone());
    let note = change.note.as_deref().map(kept).filter(|note| !note.is_empty());
    let after = ModelSwitch { model, note, ..change };
    let sql = "insert into models (name, disabled, since_ms, note) values ($1, $2, $3, $4) on conflict (name) \
               do update set disabled = excluded.disabled, since_ms = excluded.since_ms, note = excluded.note";
    let put = Statement::of(sql)
        .with(after.model.as_str())
        .with(i64::from(after.disabled))
        .with(after.since_ms)
        .with(after.note.as_deref().unwrap_or_default());
    session.run(put).await?;
    let never = ModelSwitch { model: after.model.clone(), ..ModelSwitch::default() };
    audit::note(&mut session, &noted(before.as_ref().unwrap_or(&never), &after)).await?;
    session.commit().await?;
    Ok((before, after))
}
