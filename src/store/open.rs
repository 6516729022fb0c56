//! Opening a database: what it is told of time-outs and files, and its tables.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Executor as _};
use tokio::time::{Instant, sleep, timeout};

use super::database::{Database, Journal};
use super::error::Cause;
use super::migrations::{POSTGRES, SQLITE, migrator};

/// Until a connection is there and has given a sign of life, or another program has let go of the file.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries to open a file that somebody else is just making.
const AGAIN: Duration = Duration::from_millis(20);
/// Making tables may take as long as it takes, but not for ever.
const MIGRATION: Duration = Duration::from_secs(600);
/// Readers of a file, and connections to a server.
const MOST_READERS: u32 = 4;
const MOST_CONNECTIONS: u32 = 8;
/// The file beside SQLite's does not stay larger than this.
const MOST_JOURNAL_BYTES: &str = "67108864";

/// What other users may do with a file.
const OTHERS: u32 = 0o007;

/// What a server is told of each connection. A pooler in between may forget it; then our own time-outs remain.
const POSTGRES_LIMITS: &str = "set statement_timeout = '60s'; set lock_timeout = '5s'; \
     set idle_in_transaction_session_timeout = '60s'; set client_min_messages = warning";

/// The path of the file, where the database is one.
pub(super) fn file(url: &str) -> Option<&str> {
    url.strip_prefix("sqlite://")
}

/// The path of the file that opening a store of this URL would make; `None` if the store is no file, or is there.
pub fn missing_file(url: &str) -> Option<&str> {
    file(url).filter(|path| !Path::new(path).exists())
}

/// Where the file is, for people, if the database is one.
pub fn file_in_words(url: &str) -> String {
    file(url).map_or_else(String::new, |path| {
        format!(" (its file is {path}; LLM_PROXY_API_DATABASE_URL names another)")
    })
}

/// `sqlite://path` or `postgres://…`.
pub(super) async fn database(url: &str) -> Result<Database, Cause> {
    if let Some(path) = file(url) {
        return sqlite(path).await;
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return postgres(url).await;
    }
    Err(Cause::broken("its URL must begin with sqlite:// or postgres://"))
}

async fn sqlite(path: &str) -> Result<Database, Cause> {
    if path.is_empty() || path.starts_with(':') || path.contains('?') {
        return Err(Cause::broken("its URL must be sqlite:// and the path of a file, and nothing else"));
    }
    let is_new = create(Path::new(path)).map_err(|error| of_file(&error))?;
    let opened = opened(path).await;
    if is_new && opened.is_err() {
        take_back(Path::new(path));
    }
    opened
}

/// Removes a file that was made in vain, and its folder if nothing else is in it.
fn take_back(path: &Path) {
    let is_empty = std::fs::metadata(path).is_ok_and(|file| file.len() == 0);
    if is_empty && std::fs::remove_file(path).is_ok() {
        // One that has something in it stays.
        let _ = path.parent().map(std::fs::remove_dir);
    }
}

async fn opened(path: &str) -> Result<Database, Cause> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // With the journal beside it, a file stays whole whatever happens; power that fails can take the last moment.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(PATIENCE)
        .pragma("journal_size_limit", MOST_JOURNAL_BYTES)
        .disable_statement_logging();
    let writer = writer(&options).await?;
    migrate_file(&writer).await?;
    let readers = SqlitePoolOptions::new().max_connections(MOST_READERS);
    let readers = patient(readers).connect_lazy_with(options.pragma("query_only", "1"));
    Ok(Database::Sqlite { writer, readers, journal: Journal::of(path) })
}

fn patient<DB: sqlx::Database>(options: PoolOptions<DB>) -> PoolOptions<DB> {
    // What is slow is told by whoever waits for it.
    options.acquire_timeout(PATIENCE).acquire_slow_threshold(PATIENCE * 2)
}

/// Makes the file and its folder for this user alone, or closes one that is there to other users. SQLite gives the files
/// beside it the same permissions when it makes them. Whether the file was made.
fn create(path: &Path) -> io::Result<bool> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let is_new = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    for beside in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(beside);
        close_to_others(Path::new(&file));
    }
    Ok(is_new)
}

/// One that belongs to another user is that user's to close, one that is not there needs nothing.
fn close_to_others(file: &Path) {
    let mode = std::fs::metadata(file).map_or(0, |found| found.permissions().mode());
    if mode & OTHERS != 0 {
        let _ = std::fs::set_permissions(file, Permissions::from_mode(mode & !OTHERS));
    }
}

fn of_file(error: &io::Error) -> Cause {
    Cause::broken(format!("its file cannot be made ({})", error.kind()))
}

/// Of several who find a new file, one makes a journal of it. SQLite does not let the others wait for that.
async fn writer(options: &SqliteConnectOptions) -> Result<sqlx::SqlitePool, Cause> {
    let until = Instant::now() + PATIENCE;
    loop {
        let pool = patient(SqlitePoolOptions::new().max_connections(1));
        match pool.connect_with(options.clone()).await.map_err(Cause::from) {
            Err(cause) if cause.is_away() && Instant::now() < until => sleep(AGAIN).await,
            done => return done,
        }
    }
}

async fn migrate_file(writer: &sqlx::SqlitePool) -> Result<(), Cause> {
    let migrator = migrator(SQLITE);
    // Mostly there is nothing to do, and nobody to wait for.
    if migrator.run_direct(None, &mut *writer.acquire().await?, false).await.is_ok() {
        return Ok(());
    }
    // Another process may have been at it at the same time: what it made is seen by whoever has the file for itself.
    let mut alone = writer.begin_with("begin immediate").await?;
    migrator.run_direct(None, &mut *alone, false).await?;
    Ok(alone.commit().await?)
}

async fn postgres(url: &str) -> Result<Database, Cause> {
    let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
    let options = if options.get_application_name().is_none() {
        options.application_name(env!("CARGO_PKG_NAME"))
    } else {
        options
    };
    let pool = PgPoolOptions::new().max_connections(MOST_CONNECTIONS).after_connect(|connection, _| {
        Box::pin(async move { connection.execute(POSTGRES_LIMITS).await.map(drop) })
    });
    let pool = patient(pool).connect_with(options).await?;
    // A connection of its own, which is closed whatever happens, and takes the lock of migrations with it.
    let mut connection = pool.acquire().await?.detach();
    connection.execute("set statement_timeout = 0; set lock_timeout = 0").await?;
    let migrator = migrator(POSTGRES);
    let done = timeout(MIGRATION, migrator.run_direct(None, &mut connection, false)).await;
    done.map_err(|_| Cause::too_slow(MIGRATION))??;
    Ok(Database::Postgres(pool))
}
