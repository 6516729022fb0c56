//! The one place that speaks to sqlx: two kinds of databases, and statements that both understand.
//!
//! Statements are written for both: numbers are 64 bits wide, texts are texts, and placeholders are `$1`, `$2` ….

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _, Sqlite, SqlitePool};

use super::error::Cause;
use super::open::PATIENCE;

/// A database that is open.
#[derive(Debug)]
pub(super) enum Database {
    /// A file. SQLite has one writer at a time, and any number of readers beside it.
    Sqlite { writer: SqlitePool, readers: SqlitePool, journal: Journal },
    /// A server.
    Postgres(PgPool),
}

/// A connection in use. Dropped in the middle of something it is closed, which undoes what was not committed: nobody
/// waits for the answer of a server that gives none.
#[derive(Debug)]
pub(super) enum Session {
    Sqlite(Held<Sqlite>),
    Postgres(Held<Postgres>),
}

#[derive(Debug)]
pub(super) struct Held<DB: sqlx::Database> {
    connection: Option<PoolConnection<DB>>,
    is_in_transaction: bool,
    /// Whether an answer is still to come.
    is_asking: bool,
}

/// A statement and the values for its placeholders.
#[derive(Debug)]
pub(super) struct Statement {
    sql: Cow<'static, str>,
    values: Vec<Value>,
    /// Whether the database is to remember how it is done.
    is_frequent: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Number(i64),
    MaybeNumber(Option<i64>),
    Text(Arc<str>),
}

#[derive(Debug)]
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// Rows of values, each as wide as the others.
#[derive(Debug, Default)]
pub(super) struct List {
    width: usize,
    values: std::vec::IntoIter<Value>,
}

impl<R: IntoIterator<Item = Value>> FromIterator<R> for List {
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        let (mut values, mut width) = (Vec::new(), 0);
        for row in rows {
            let before = values.len();
            values.extend(row);
            width = values.len() - before;
        }
        Self { width, values: values.into_iter() }
    }
}

impl List {
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or_default()
    }
}

/// Where the values of a list stand, in `insert … LIST …`.
const LIST: &str = "LIST";
/// So many rows in one statement: every database takes the number of values that this makes, and reading the statement
/// anew would cost more than writing the rows.
const PART: usize = 128;

/// The file beside SQLite's that has what was written last.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// How long it was at the last look. It has grown since: it is being written.
    looked: AtomicU64,
}

impl Journal {
    pub(super) fn of(database: &str) -> Self {
        Self { path: format!("{database}-wal").into(), looked: AtomicU64::new(0) }
    }

    /// Whether there is something in it, and nothing has come since the last look.
    fn is_at_rest(&self) -> bool {
        let bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        self.looked.swap(bytes, Ordering::Relaxed) == bytes && bytes > 0
    }
}

/// What was written is moved from the journal to the file, and the journal is emptied.
const GATHER: &str = "pragma wal_checkpoint(truncate)";

impl Database {
    /// Empties the journal of a file in which nothing has been written since the last call.
    pub(super) async fn gather(&self) -> Result<(), Cause> {
        match self {
            Self::Sqlite { writer, journal, .. } if journal.is_at_rest() => {
                let mut session = Session::Sqlite(Held::new(writer.acquire().await?));
                // While it is read or written it stays until the next time: no writer is to wait for this.
                session.rows(Statement::of("pragma busy_timeout = 0")).await?;
                let gathered = session.rows(Statement::of(GATHER)).await;
                let patience = format!("pragma busy_timeout = {}", PATIENCE.as_millis());
                session.rows(Statement::of(patience)).await?;
                gathered.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Closes all connections. The last one that SQLite closes leaves the file complete, and nothing beside it.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    /// For one statement that only reads.
    pub(super) async fn look(&self) -> Result<Session, Cause> {
        Ok(match self {
            Self::Sqlite { readers, .. } => Session::Sqlite(Held::new(readers.acquire().await?)),
            Self::Postgres(pool) => Session::Postgres(Held::new(pool.acquire().await?)),
        })
    }

    /// For several statements that read the same state.
    pub(super) async fn read(&self) -> Result<Session, Cause> {
        let mut session = self.look().await?;
        session.begin("begin", "begin isolation level repeatable read read only").await?;
        Ok(session)
    }

    /// For statements that hold all together, once committed, or not at all.
    pub(super) async fn write(&self) -> Result<Session, Cause> {
        let mut session = match self {
            Self::Sqlite { writer, .. } => Session::Sqlite(Held::new(writer.acquire().await?)),
            Self::Postgres(pool) => Session::Postgres(Held::new(pool.acquire().await?)),
        };
        // SQLite takes the lock at once: one that reads first and writes then can be refused in between.
        session.begin("begin immediate", "begin").await?;
        Ok(session)
    }
}

/// The query with its values bound, for either database.
macro_rules! bound {
    ($statement:expr) => {{
        let Statement { sql, values, is_frequent } = $statement;
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(is_frequent);
        for value in values {
            query = match value {
                Value::Number(number) => query.bind(number),
                Value::MaybeNumber(number) => query.bind(number),
                Value::Text(text) => query.bind(text),
            };
        }
        query
    }};
}

impl Session {
    async fn begin(&mut self, of_sqlite: &'static str, of_postgres: &'static str) -> Result<(), Cause> {
        match self {
            Self::Sqlite(held) => held.is_in_transaction = true,
            Self::Postgres(held) => held.is_in_transaction = true,
        }
        let begin = if matches!(self, Self::Sqlite(_)) { of_sqlite } else { of_postgres };
        self.run(Statement::of(begin)).await.map(drop)
    }

    /// Makes what was written hold, and ends the session.
    pub(super) async fn commit(self) -> Result<(), Cause> {
        self.end("commit").await
    }

    /// Ends the session, and leaves everything as it was.
    pub(super) async fn undo(self) -> Result<(), Cause> {
        self.end("rollback").await
    }

    async fn end(mut self, end: &'static str) -> Result<(), Cause> {
        self.run(Statement::of(end)).await?;
        match &mut self {
            Self::Sqlite(held) => held.is_in_transaction = false,
            Self::Postgres(held) => held.is_in_transaction = false,
        }
        Ok(())
    }

    /// Runs a statement, and tells how many rows it has changed.
    pub(super) async fn run(&mut self, statement: Statement) -> Result<u64, Cause> {
        match self {
            Self::Sqlite(held) => {
                let done = bound!(statement).execute(held.asking()?).await;
                held.is_asking = false;
                Ok(done?.rows_affected())
            }
            Self::Postgres(held) => {
                let done = bound!(statement).execute(held.asking()?).await;
                held.is_asking = false;
                Ok(done?.rows_affected())
            }
        }
    }

    /// Runs a statement, and gives its rows.
    pub(super) async fn rows(&mut self, statement: Statement) -> Result<Vec<Row>, Cause> {
        match self {
            Self::Sqlite(held) => {
                let rows = bound!(statement).fetch_all(held.asking()?).await;
                held.is_asking = false;
                Ok(rows?.into_iter().map(Row::Sqlite).collect())
            }
            Self::Postgres(held) => {
                let rows = bound!(statement).fetch_all(held.asking()?).await;
                held.is_asking = false;
                Ok(rows?.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Runs a statement that has rows of values where it says `LIST`, and tells how many rows it has changed.
    pub(super) async fn run_list(&mut self, sql: &str, mut list: List) -> Result<u64, Cause> {
        let mut changed = 0;
        while let Some(statement) = self.next_part(sql, &mut list) {
            changed += self.run(statement).await?;
        }
        Ok(changed)
    }

    /// Runs a statement that has rows of values where it says `LIST`, and gives its rows.
    pub(super) async fn rows_of_list(&mut self, sql: &str, mut list: List) -> Result<Vec<Row>, Cause> {
        let mut rows = Vec::new();
        while let Some(statement) = self.next_part(sql, &mut list) {
            rows.extend(self.rows(statement).await?);
        }
        Ok(rows)
    }

    /// The statement for as many rows as go into one; `None` if there are no more.
    fn next_part(&self, sql: &str, list: &mut List) -> Option<Statement> {
        let List { width, values } = list;
        let values: Vec<Value> = values.by_ref().take(*width * PART).collect();
        let rows = values.len().checked_div(*width).filter(|rows| *rows > 0)?;
        // SQLite looks named placeholders up one after the other, which takes long with thousands of them.
        let is_numbered = matches!(self, Self::Postgres(_));
        let placeholders = if is_numbered { numbered(rows, *width) } else { unnumbered(rows, *width) };
        let sql = Cow::Owned(sql.replacen(LIST, &placeholders, 1));
        // Full lists, and lists of one, come again and again.
        Some(Statement { sql, values, is_frequent: matches!(rows, 1 | PART) })
    }
}

/// `($1, $2), ($3, $4)`.
fn numbered(rows: usize, width: usize) -> String {
    let (mut text, mut number) = (String::new(), 0);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for index in 0..width {
            number += 1;
            // Writing to a string cannot fail.
            let _ = write!(text, "{}${number}", if index == 0 { "" } else { ", " });
        }
        text.push(')');
    }
    text
}

/// `(?, ?), (?, ?)`.
fn unnumbered(rows: usize, width: usize) -> String {
    let row = format!("({}), ", "?, ".repeat(width).trim_end_matches(", "));
    let mut text = row.repeat(rows);
    text.truncate(text.trim_end_matches(", ").len());
    text
}

impl<DB: sqlx::Database> Held<DB> {
    fn new(connection: PoolConnection<DB>) -> Self {
        Self { connection: Some(connection), is_in_transaction: false, is_asking: false }
    }

    /// The connection, for a question whose answer may never be waited for.
    fn asking(&mut self) -> Result<&mut DB::Connection, Cause> {
        self.is_asking = true;
        self.connection.as_deref_mut().ok_or_else(|| Cause::broken("it is closed already"))
    }
}

impl<DB: sqlx::Database> Drop for Held<DB> {
    fn drop(&mut self) {
        let is_busy = self.is_in_transaction || self.is_asking;
        if let Some(connection) = self.connection.take().filter(|_| is_busy) {
            drop(connection.detach());
        }
    }
}

impl Statement {
    pub(super) fn of(sql: impl Into<Cow<'static, str>>) -> Self {
        let sql = sql.into();
        // Only what is the same every time is worth remembering.
        let is_frequent = matches!(sql, Cow::Borrowed(_));
        Self { sql, values: Vec::new(), is_frequent }
    }

    /// With a value for the next placeholder.
    pub(super) fn with(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }
}

impl Row {
    pub(super) fn number(&self, column: usize) -> Result<i64, Cause> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(super) fn maybe_number(&self, column: usize) -> Result<Option<i64>, Cause> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(super) fn text(&self, column: usize) -> Result<String, Cause> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::MaybeNumber(number)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for Value {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_a_placeholder_for_each_value() {
        assert_eq!(numbered(2, 2), "($1, $2), ($3, $4)");
        assert_eq!(unnumbered(2, 2), "(?, ?), (?, ?)");
        assert_eq!(unnumbered(1, 1), "(?)");
    }
}
