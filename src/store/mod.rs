//! What outlives the process: keys, models that are off, what requests used, and who changed what. In a file of SQLite, or in PostgreSQL for
//! many nodes.
//!
//! Nothing here is on a request's way: keys are read into memory, and usage is handed to a [`Recorder`].
//!
//! One set of statements serves both databases (`database` is where they differ). Usage is written as one line for each
//! request (what many have in common once for all, `kinds`) and as sums by the hour (`sums`), in one transaction; questions are answered from the sums, and from lines only
//! where a time does not begin or end with an hour (`hours`).

mod audit;
mod backup;
mod database;
mod error;
mod hours;
mod keys;
mod kinds;
mod ledger;
mod look;
mod migrations;
mod models;
mod open;
mod recorder;
mod sums;
mod usage;

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::time::{sleep, timeout};

use crate::callers::{Key, Spent, UsageRecord, Whose};
use database::Database;
use error::Cause;
use kinds::Known;

pub use audit::{Audit, AuditEntry};
pub use backup::backup;
pub use error::{StoreError, StoreErrorKind};
pub use look::{Standing, look};
pub use models::ModelSwitch;
pub use open::{file_in_words, missing_file};
pub use recorder::{MOST_WAITING, Recorder, RecorderState, Touched};
pub use usage::{By, MOST_ROWS, UsageQuery, UsageRow};

/// A change of a key. It may be asked more than once, and must then do the same.
pub type KeyChange<'a> = &'a (dyn Fn(Key) -> Key + Send + Sync);

/// What is noted of a change: made of what was before and what is after. It may be asked more than once, as the change is.
pub type Noted<'a, T> = &'a (dyn Fn(&T, &T) -> AuditEntry + Send + Sync);

/// A change of how a model is switched. `None` if it never was. It may be asked more than once, and must then do the same.
pub type SwitchChange<'a> = &'a (dyn Fn(Option<ModelSwitch>) -> ModelSwitch + Send + Sync);

/// What one key or owner has spent.
pub type Spending = (Whose, Spent);

/// Keeps what outlives the process. Every call ends within seconds, questions about usage within a minute.
///
/// An act of somebody is kept together with the note of it, or neither is: there is none that nobody knows of.
///
/// Dropping a call undoes what it has not finished.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// All keys, by the time at which they were made.
    async fn keys(&self) -> Result<Vec<Key>, StoreError>;

    /// The key of that id, if there is one. The others are not looked at.
    async fn key(&self, id: &str) -> Result<Option<Key>, StoreError>;

    /// A number that is another one after every change of any key. Cheap: made to be asked twice a second.
    async fn keys_version(&self) -> Result<i64, StoreError>;

    /// Keeps a new key, and tells whether it did: it does not if there is one of that id.
    async fn insert_key(&self, key: &Key, note: &AuditEntry) -> Result<bool, StoreError>;

    /// Keeps a key, whether or not there is one of that id.
    async fn put_key(&self, key: &Key) -> Result<(), StoreError>;

    /// Changes a key as it stands, so that nobody else's change is lost, and gives it as it is then; `None` if it is gone.
    /// Neither its id nor when it was last used is changed by this.
    async fn update_key(
        &self,
        id: &str,
        change: KeyChange<'_>,
        note: Noted<'_, Key>,
    ) -> Result<Option<Key>, StoreError>;

    /// Forgets a key, and tells whether there was one.
    async fn delete_key(&self, id: &str, note: &AuditEntry) -> Result<bool, StoreError>;

    /// Notes when keys were last used, in milliseconds since 1970. It never goes back, and the version stays.
    async fn touch_keys(&self, used: &[(String, i64)]) -> Result<(), StoreError>;

    /// All models that were ever switched, by their names.
    async fn models(&self) -> Result<Vec<ModelSwitch>, StoreError>;

    /// A number that is another one after every change of any model's switch. As cheap as that of keys.
    async fn models_version(&self) -> Result<i64, StoreError>;

    /// Switches a model as it stands, so that nobody else's change is lost. As it was, if it ever was switched, and as it
    /// is. Its name is not changed by this. One that never was is noted as one that is on.
    async fn switch_model(
        &self,
        model: &str,
        change: SwitchChange<'_>,
        note: Noted<'_, ModelSwitch>,
    ) -> Result<(Option<ModelSwitch>, ModelSwitch), StoreError>;

    /// Writes what requests used, all or nothing. A record that was written before counts no second time, so that a
    /// caller who does not know whether it was written may write it again.
    async fn record(&self, records: &[UsageRecord]) -> Result<(), StoreError>;

    /// What was used, in the order of what the question asks for.
    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError>;

    /// What a key or an owner has spent since then.
    async fn spent(&self, whose: &Whose, since_ms: i64) -> Result<Spent, StoreError>;

    /// What each key and each owner has spent since then. Who has spent nothing is not named.
    async fn all_spent(&self, since_ms: i64) -> Result<Vec<Spending>, StoreError>;

    /// Notes who did something that is kept elsewhere.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError>;

    /// Who changed what, the last first: those with a lower number than `before`, so many at most.
    async fn audits(&self, before: Option<i64>, limit: usize) -> Result<Vec<Audit>, StoreError>;

    /// Forgets the single records that are older than `keep_ms`, and tells how many these were. The sums of their hours
    /// stay.
    async fn tidy(&self, now_ms: i64, keep_ms: i64) -> Result<u64, StoreError>;

    /// Has everything in the one file that people copy, where the database is a file and nothing is being written.
    async fn gather(&self) -> Result<(), StoreError>;

    /// Ends the use of the database in good order: everything is in its file then. What is asked for afterwards fails.
    async fn close(&self);
}

/// Opens the store of that URL, `sqlite://path` or `postgres://…`, and makes its tables if they are not there.
///
/// # Errors
/// It cannot be reached, or cannot be used.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    let database = open::database(url).await.map_err(|cause| StoreError::new("be opened", cause))?;
    Ok(Arc::new(SqlStore { database: database.into(), ..SqlStore::default() }))
}

/// The store of a URL that could not be opened just now, and what tries again until it is open. Until then it is away, for
/// the reason for which it could not be opened the last time.
pub fn open_later(url: &str, why: String) -> (Arc<dyn Store>, impl Future<Output = ()> + Send + 'static) {
    let store = Arc::new(SqlStore { trouble: ArcSwap::from_pointee(why), ..SqlStore::default() });
    (store.clone(), opened(store, url.to_owned()))
}

async fn opened(store: Arc<SqlStore>, url: String) {
    let mut rest = FIRST_REST;
    loop {
        sleep(rest).await;
        match open::database(&url).await {
            Ok(database) => {
                // Nobody else opens it.
                drop(store.database.set(database));
                return;
            }
            Err(cause) => store.trouble.store(Arc::new(cause.to_string())),
        }
        rest = (rest * 2).min(LONGEST_REST);
    }
}

/// Whatever is looked up or changed ends within this.
const PATIENCE: Duration = Duration::from_millis(2500);
/// A thousand records at once.
const PATIENCE_FOR_RECORDS: Duration = Duration::from_secs(10);
/// Questions about years.
const PATIENCE_FOR_USAGE: Duration = Duration::from_secs(60);

/// Between two tries to open a database that is not there, at first and at most.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct SqlStore {
    database: OnceLock<Database>,
    kinds: Known,
    /// Why it is not open yet.
    trouble: ArcSwap<String>,
}

impl SqlStore {
    fn database(&self) -> Result<&Database, Cause> {
        self.database.get().ok_or_else(|| Cause::away(String::clone(&self.trouble.load())))
    }
}

async fn within<T>(
    patience: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, Cause>> + Send,
) -> Result<T, StoreError> {
    let done = timeout(patience, work).await.unwrap_or_else(|_| Err(Cause::too_slow(patience)));
    done.map_err(|cause| StoreError::new(doing, cause))
}

#[async_trait]
impl Store for SqlStore {
    async fn keys(&self) -> Result<Vec<Key>, StoreError> {
        within(PATIENCE, "read the keys", async { keys::all(self.database()?).await }).await
    }

    async fn key(&self, id: &str) -> Result<Option<Key>, StoreError> {
        within(PATIENCE, "read a key", async { keys::of_id(self.database()?, id).await }).await
    }

    async fn keys_version(&self) -> Result<i64, StoreError> {
        within(PATIENCE, "tell whether keys have changed", async { keys::version(self.database()?).await })
            .await
    }

    async fn insert_key(&self, key: &Key, note: &AuditEntry) -> Result<bool, StoreError> {
        within(PATIENCE, "keep a key", async { keys::insert(self.database()?, key, note).await }).await
    }

    async fn put_key(&self, key: &Key) -> Result<(), StoreError> {
        within(PATIENCE, "keep a key", async { keys::put(self.database()?, key).await }).await
    }

    async fn update_key(
        &self,
        id: &str,
        change: KeyChange<'_>,
        note: Noted<'_, Key>,
    ) -> Result<Option<Key>, StoreError> {
        within(PATIENCE, "change a key", async { keys::update(self.database()?, id, change, note).await })
            .await
    }

    async fn delete_key(&self, id: &str, note: &AuditEntry) -> Result<bool, StoreError> {
        within(PATIENCE, "forget a key", async { keys::delete(self.database()?, id, note).await }).await
    }

    async fn touch_keys(&self, used: &[(String, i64)]) -> Result<(), StoreError> {
        within(PATIENCE_FOR_RECORDS, "note when keys were used", async {
            keys::touch(self.database()?, used).await
        })
        .await
    }

    async fn models(&self) -> Result<Vec<ModelSwitch>, StoreError> {
        within(PATIENCE, "read which models are off", async { models::all(self.database()?).await }).await
    }

    async fn models_version(&self) -> Result<i64, StoreError> {
        within(PATIENCE, "tell whether models were switched", async {
            models::version(self.database()?).await
        })
        .await
    }

    async fn switch_model(
        &self,
        model: &str,
        change: SwitchChange<'_>,
        note: Noted<'_, ModelSwitch>,
    ) -> Result<(Option<ModelSwitch>, ModelSwitch), StoreError> {
        within(PATIENCE, "switch a model", async {
            models::switch(self.database()?, model, change, note).await
        })
        .await
    }

    async fn record(&self, records: &[UsageRecord]) -> Result<(), StoreError> {
        within(PATIENCE_FOR_RECORDS, "write usage", async {
            ledger::record(self.database()?, &self.kinds, records).await
        })
        .await
    }

    async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, StoreError> {
        within(PATIENCE_FOR_USAGE, "read usage", async { ledger::usage(self.database()?, query).await }).await
    }

    async fn spent(&self, whose: &Whose, since_ms: i64) -> Result<Spent, StoreError> {
        within(PATIENCE_FOR_USAGE, "read what was spent", async {
            ledger::spent(self.database()?, whose, since_ms).await
        })
        .await
    }

    async fn all_spent(&self, since_ms: i64) -> Result<Vec<Spending>, StoreError> {
        within(PATIENCE_FOR_USAGE, "read what was spent", async {
            ledger::all_spent(self.database()?, since_ms).await
        })
        .await
    }

    async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        within(PATIENCE, "note a change", async { audit::insert(self.database()?, entry).await }).await
    }

    async fn audits(&self, before: Option<i64>, limit: usize) -> Result<Vec<Audit>, StoreError> {
        within(PATIENCE, "read who changed what", async {
            audit::before(self.database()?, before, limit).await
        })
        .await
    }

    async fn tidy(&self, now_ms: i64, keep_ms: i64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        let doing = "forget old usage";
        let until_ms =
            within(PATIENCE, doing, async { ledger::keep_from(self.database()?, now_ms, keep_ms).await })
                .await?;
        // In small steps, so that whoever has to write waits for none of them.
        loop {
            match within(PATIENCE_FOR_RECORDS, doing, async {
                ledger::forget_some(self.database()?, until_ms).await
            })
            .await?
            {
                0 => return Ok(forgotten),
                some => forgotten += some,
            }
        }
    }

    async fn gather(&self) -> Result<(), StoreError> {
        let gathered = async {
            match self.database.get() {
                Some(database) => database.gather().await,
                None => Ok(()),
            }
        };
        within(PATIENCE_FOR_RECORDS, "gather what was written in its file", gathered).await
    }

    async fn close(&self) {
        if let Some(database) = self.database.get() {
            // Who is still at work has the file open, and gathers it in its turn.
            drop(timeout(PATIENCE_FOR_RECORDS, database.close()).await);
        }
    }
}
