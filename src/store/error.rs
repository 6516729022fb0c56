//! What can go wrong with a store, in words that hold no statement, no address and no password.

use std::borrow::Cow;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

const NEWER: &str = concat!(
    "its tables were made by a newer version of this program than this one, which is ",
    env!("CARGO_PKG_VERSION"),
    "; run that version, or restore a backup of before the upgrade"
);
const NOT_TRUSTED: &str = "its encryption cannot be agreed on, or its certificate is not trusted";

/// Something that a store was to do, and could not.
#[derive(Debug, thiserror::Error)]
#[error("the database could not {doing}: {cause}")]
pub struct StoreError {
    doing: &'static str,
    cause: Cause,
}

/// Whether it is worth trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The database cannot be reached, does not answer, or has no room for us just now.
    Away,
    /// Somebody has to mend something first.
    Broken,
    /// A newer version of this program has made its tables.
    Newer,
}

/// Why, without yet saying what was to be done.
#[derive(Debug)]
pub(super) struct Cause {
    kind: StoreErrorKind,
    words: Cow<'static, str>,
}

impl StoreError {
    pub(super) fn new(doing: &'static str, cause: Cause) -> Self {
        Self { doing, cause }
    }

    /// Why, without what was to be done.
    pub fn why(&self) -> String {
        self.cause.to_string()
    }

    /// Whether it is worth trying again.
    pub fn kind(&self) -> StoreErrorKind {
        self.cause.kind
    }

    /// Whether the same may well succeed a little later.
    pub fn is_away(&self) -> bool {
        self.cause.is_away()
    }
}

impl Cause {
    pub(super) fn away(words: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: StoreErrorKind::Away, words: words.into() }
    }

    pub(super) fn broken(words: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: StoreErrorKind::Broken, words: words.into() }
    }

    pub(super) fn is_away(&self) -> bool {
        self.kind == StoreErrorKind::Away
    }

    pub(super) fn too_slow(patience: Duration) -> Self {
        Self::away(format!("it did not answer within {} s", patience.as_secs_f32()))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// What the system says of names has no kind of its own.
fn is_of_name(error: &std::io::Error) -> bool {
    error.raw_os_error().is_none() && error.to_string().starts_with("failed to lookup address")
}

impl From<sqlx::Error> for Cause {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        match error {
            Error::Database(error) => of_database(&*error),
            // What TLS has against a connection comes as this.
            Error::Io(error) if error.kind() == ErrorKind::InvalidData => Self::broken(NOT_TRUSTED),
            Error::Io(error) if is_of_name(&error) => Self::away("the name of its host cannot be found"),
            Error::Io(error) => Self::away(format!("the connection failed ({})", error.kind())),
            Error::PoolTimedOut => {
                Self::away("no connection could be had in time: is it running, at that address?")
            }
            Error::PoolClosed | Error::WorkerCrashed => Self::broken("it is closed already"),
            Error::Tls(_) => Self::broken(NOT_TRUSTED),
            Error::Configuration(_) => Self::broken("its URL cannot be read"),
            // What goes on after a connection broke down in the middle of an answer.
            Error::Protocol(_) | Error::BeginFailed => Self::away("the connection broke down"),
            Error::Migrate(error) => Self::from(*error),
            Error::RowNotFound
            | Error::ColumnNotFound(_)
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::ColumnDecode { .. }
            | Error::Decode(_)
            | Error::TypeNotFound { .. } => Self::broken("its tables are not as this program made them"),
            _ => Self::broken("it was asked what cannot be asked"),
        }
    }
}

impl From<MigrateError> for Cause {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Self::from(error),
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                Self { kind: StoreErrorKind::Newer, words: NEWER.into() }
            }
            _ => Self::broken("its tables were made by another version of this program"),
        }
    }
}

fn of_database(error: &(dyn DatabaseError + 'static)) -> Cause {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        of_sqlite(&code)
    } else {
        of_postgres(&code)
    }
}

/// By SQLite's result codes, the extended ones by what they extend.
fn of_sqlite(code: &str) -> Cause {
    match code.parse::<u32>().unwrap_or_default() & 0xff {
        5 | 6 => Cause::away("another program holds its file"),
        13 => Cause::away("there is no room left for its file"),
        3 | 8 | 23 => Cause::broken("its file may not be written"),
        10 => Cause::broken(format!("its file cannot be read or written (SQLite code {code})")),
        11 => Cause::broken("its file is damaged"),
        14 => Cause::broken("its file cannot be opened"),
        26 => Cause::broken("its file is not a database of SQLite"),
        _ => Cause::broken(format!("it refused (SQLite code {code})")),
    }
}

/// By the codes of the SQL standard and of PostgreSQL.
fn of_postgres(code: &str) -> Cause {
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "53300") => Cause::away("it has no connection to spare"),
        (_, "53100") => Cause::away("it has no room left"),
        (_, "57014") => Cause::away("it took too long"),
        (_, "25006") => Cause::away("it may only be read at the moment"),
        ("08" | "53" | "57", _) => Cause::away(format!("it is starting, ending or overloaded (code {code})")),
        ("40" | "55", _) => Cause::away(format!("others are in the way (code {code})")),
        ("28", _) => Cause::broken(format!("it refused the user or the password (code {code})")),
        ("3D", _) => Cause::broken(format!("it has no database of that name (code {code})")),
        (_, "42501") => Cause::broken(format!("the user may not do that (code {code})")),
        _ => Cause::broken(format!("it refused (code {code})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_away_and_everything_else_is_broken() {
        for (code, is_away) in [
            ("5", true),
            ("261", true),
            ("13", true),
            ("8", false),
            ("1032", false),
            ("26", false),
            ("x", false),
        ] {
            assert_eq!(of_sqlite(code).kind == StoreErrorKind::Away, is_away, "{code}");
        }
        for (code, is_away) in [
            ("57P01", true),
            ("08006", true),
            ("40P01", true),
            ("53300", true),
            ("28P01", false),
            ("3D000", false),
            ("42P01", false),
            ("", false),
        ] {
            assert_eq!(of_postgres(code).kind == StoreErrorKind::Away, is_away, "{code}");
        }
    }

    #[test]
    fn an_error_says_what_was_to_be_done_and_nothing_of_where() {
        let io = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "db.internal:5432 refused");
        let error = StoreError::new("read the keys", sqlx::Error::Io(io).into());
        assert_eq!(
            error.to_string(),
            "the database could not read the keys: the connection failed (connection refused)"
        );
        assert!(error.is_away());
        let error = sqlx::Error::Configuration("postgres://u:secret@h".into());
        assert!(!Cause::from(error).to_string().contains("secret"));
    }
}
