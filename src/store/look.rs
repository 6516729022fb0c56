//! How a database is, looked at without changing anything in it: for those who want to know before the service starts.

use std::path::Path;
use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection as _, PgConnection, SqliteConnection};
use tokio::time::timeout;

use super::StoreError;
use super::error::Cause;
use super::migrations::{POSTGRES, SQLITE};
use super::open::{PATIENCE, file};

/// What there is at a database's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A file that the service will make.
    NotMade,
    /// No tables, or those of an older program: the service brings them up to date.
    Older,
    /// All tables, as this program makes them.
    Current,
}

/// Looks at a database. Nothing is made or changed.
///
/// # Errors
/// It cannot be used, or a newer program has made its tables.
pub async fn look(url: &str) -> Result<Standing, StoreError> {
    let standing = match file(url) {
        Some(path) if !Path::new(path).exists() => may_be_made(Path::new(path)).map(|()| Standing::NotMade),
        Some(path) => timely(of_file(path)).await,
        None => timely(of_server(url)).await,
    };
    standing.map_err(|cause| StoreError::new("be looked at", cause))
}

async fn timely(looking: impl Future<Output = Result<Standing, Cause>>) -> Result<Standing, Cause> {
    timeout(PATIENCE * 2, looking).await.map_err(|_| Cause::too_slow(PATIENCE * 2))?
}

/// Whether the nearest folder that is there may be written to.
fn may_be_made(path: &Path) -> Result<(), Cause> {
    let here = Path::new(".");
    let folders = path.ancestors().skip(1).map(|path| if path.as_os_str().is_empty() { here } else { path });
    let nearest = folders.into_iter().find(|folder| folder.exists()).unwrap_or(here);
    if nearest.metadata().is_ok_and(|found| found.is_dir() && !found.permissions().readonly()) {
        return Ok(());
    }
    Err(Cause::broken(format!("its file cannot be made in `{}`", nearest.display())))
}

async fn of_file(path: &str) -> Result<Standing, Cause> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(PATIENCE);
    let mut connection: SqliteConnection = options.disable_statement_logging().connect().await?;
    let exists = "select count(*) > 0 from sqlite_master where name = '_sqlx_migrations'";
    let exists: bool = sqlx::query_scalar(exists).fetch_one(&mut connection).await?;
    let version = if exists { sqlx::query_scalar(VERSION).fetch_one(&mut connection).await? } else { None };
    connection.close().await?;
    standing(version, SQLITE.last().map(|(version, ..)| *version))
}

async fn of_server(url: &str) -> Result<Standing, Cause> {
    let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
    let mut connection: PgConnection = options.connect().await?;
    let exists: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(&mut connection)
        .await?;
    let version = if exists { sqlx::query_scalar(VERSION).fetch_one(&mut connection).await? } else { None };
    connection.close().await?;
    standing(version, POSTGRES.last().map(|(version, ..)| *version))
}

const VERSION: &str = "select max(version) from _sqlx_migrations";

fn standing(found: Option<i64>, ours: Option<i64>) -> Result<Standing, Cause> {
    match found.cmp(&ours) {
        std::cmp::Ordering::Less => Ok(Standing::Older),
        std::cmp::Ordering::Equal => Ok(Standing::Current),
        std::cmp::Ordering::Greater => Err(Cause::broken("a newer program has made its tables")),
    }
}
