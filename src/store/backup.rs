//! A copy of the database while it is in use.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

use super::StoreError;
use super::error::Cause;
use super::open::file;

/// Another program may be writing for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes a whole copy of the database of that URL to a new file, for this user alone, and tells how many bytes it has. The
/// database may be in use, by a program of any version: the copy is the state of one moment, and needs no other file.
///
/// # Errors
/// It is no file, it cannot be read, or the copy cannot be written. Then there is no copy.
pub async fn backup(url: &str, copy: &Path) -> Result<u64, StoreError> {
    copied(url, copy).await.map_err(|cause| StoreError::new("be copied", cause))
}

async fn copied(url: &str, copy: &Path) -> Result<u64, Cause> {
    let Some(database) = file(url) else {
        return Err(Cause::broken("it is no file of SQLite: use the tools of its server, such as pg_dump"));
    };
    let cannot = |error: std::io::Error| Cause::broken(format!("`{}`: {error}", copy.display()));
    if copy.symlink_metadata().is_ok() {
        return Err(Cause::broken(format!("`{}` is there already: name a new file", copy.display())));
    }
    // Under another name until it is whole, so that half of it is not taken for a copy.
    let unfinished = Unfinished::beside(copy).map_err(cannot)?;
    vacuum_into(database, &unfinished.0).await?;
    let file = File::open(&unfinished.0).map_err(cannot)?;
    file.sync_all().map_err(cannot)?;
    let bytes = file.metadata().map_err(cannot)?.len();
    std::fs::rename(&unfinished.0, copy).map_err(cannot)?;
    Ok(bytes)
}

async fn vacuum_into(database: &str, copy: &Path) -> Result<(), Cause> {
    let text = copy.to_str().ok_or_else(|| Cause::broken("the name of the copy is not UTF-8"))?;
    let options = SqliteConnectOptions::new().filename(database).busy_timeout(PATIENCE);
    let mut connection = options.disable_statement_logging().connect().await?;
    sqlx::query("vacuum into ?").bind(text).execute(&mut connection).await?;
    // The file of the service is left as it was found.
    Ok(sqlx::Connection::close(connection).await?)
}

/// A file that is removed when this is dropped, if it is still there.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(copy: &Path) -> std::io::Result<Self> {
        let mut name = copy.as_os_str().to_owned();
        name.push(format!(".unfinished-{}", std::process::id()));
        let unfinished = Self(name.into());
        // SQLite writes to an empty file as to none.
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished.0)?;
        Ok(unfinished)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
