//! Callers' keys, what they used, and models that are off, as operators and callers see and change them: by the admin
//! API, by callers themselves, and by the commands.
//!
//! An act is written to the store first, together with who did it, and is then known to the ring of this node at once.
//! It goes on to its end if whoever asked for it leaves meanwhile. What values may be is said in `rules`, for all ways
//! in alike.

mod edit;
mod error;
mod journal;
mod models;
mod rules;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::callers::{Change, Key, KeyRing, Limits, NewKey, Predecessor, Secret, now_ms};
use crate::llm::unique_id;
use crate::store::{Audit, KeyChange, Noted, Store, UsageQuery, UsageRow};

pub use edit::{Edit, LimitsEdit};
pub use error::AccountError;
pub use journal::{Actor, Origin};
pub use models::{Heard, SwitchEdit};

/// How long the secret before a rotation still opens, where nobody says.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(3600);

/// How long an act waits for those before it.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// No version of the keys that a store would tell.
const NEVER_READ: i64 = i64::MIN;

/// Callers' keys and what they used.
#[derive(Debug)]
pub struct Accounts {
    store: Arc<dyn Store>,
    ring: Arc<KeyRing>,
    /// The version of the keys that the ring was made of.
    version: AtomicI64,
    /// Held while store and ring differ, so that none of them is overtaken by an older state. A tokio mutex, for the
    /// store is waited for meanwhile.
    changing: Mutex<()>,
    /// The version of the switches that the models that are off were read from.
    models_version: AtomicI64,
    /// The models that are off. Held as `changing` is.
    models_off: Mutex<HashSet<String>>,
    heard: Option<Arc<dyn Heard>>,
    acts: TaskTracker,
    /// The one they run on: others may wait for an act, and are not to wait for what else the thread does that serves whoever
    /// asked for it.
    runtime: Handle,
}

impl Accounts {
    /// The keys of a store, and those of this node. To be made on the runtime that acts are to run on.
    pub fn new(store: Arc<dyn Store>, ring: Arc<KeyRing>) -> Self {
        Self {
            store,
            ring,
            version: AtomicI64::new(NEVER_READ),
            changing: Mutex::default(),
            models_version: AtomicI64::new(NEVER_READ),
            models_off: Mutex::default(),
            heard: None,
            acts: TaskTracker::new(),
            runtime: Handle::current(),
        }
    }

    /// The same, with somebody who is told of everything at once.
    #[must_use]
    pub fn heard_by(self, heard: Arc<dyn Heard>) -> Self {
        Self { heard: Some(heard), ..self }
    }

    /// Takes over what other nodes and commands have changed, and tells whether they had. Cheap if not.
    ///
    /// # Errors
    /// The store does not tell.
    pub async fn sync(&self) -> Result<bool, AccountError> {
        // Each of them whatever becomes of the other.
        let keys = self.sync_keys().await;
        let models = self.sync_models().await;
        Ok(keys? | models?)
    }

    /// The same of keys alone: revocation has a second, and waits for nothing else.
    ///
    /// # Errors
    /// The store does not tell.
    pub async fn sync_keys(&self) -> Result<bool, AccountError> {
        let version = self.store.keys_version().await?;
        if self.version.load(Ordering::Relaxed) == version {
            return Ok(false);
        }
        // What changes between the version and the keys is read once more with the next version, and that is all.
        let _turn = self.turn().await?;
        self.ring.replace(self.store.keys().await?);
        self.version.store(version, Ordering::Relaxed);
        Ok(true)
    }

    /// A new key, and its secret, which is told this once.
    ///
    /// # Errors
    /// A value is not what it must be, or the store does not keep it.
    pub async fn create(
        self: &Arc<Self>,
        origin: impl Into<Origin>,
        new: NewKey,
    ) -> Result<(Key, Secret), AccountError> {
        let origin = origin.into();
        let change = Change { name: Some(new.name), ..new.change };
        rules::check(&change)?;
        rules::check_beginning(&change, now_ms())?;
        let secret = Secret::generate().map_err(|_| AccountError::NoChance)?;
        let key = bare_key(&secret)?.changed(change);
        let accounts = self.clone();
        let act = async move {
            {
                let _turn = accounts.turn().await?;
                let note = journal::entry(&origin, "key.create", &key.id, journal::made(&key));
                if !accounts.store.insert_key(&key, &note).await? {
                    return Err(AccountError::NoChance);
                }
                accounts.ring.put(key.clone());
            }
            accounts.tell_others();
            Ok(key)
        };
        Ok((self.to_the_end(act).await?, secret))
    }

    /// All keys, or those of one owner, by the time at which they were made.
    ///
    /// # Errors
    /// The store does not tell.
    pub async fn list(&self, owner: Option<&str>) -> Result<Vec<Key>, AccountError> {
        let keys = self.store.keys().await?.into_iter();
        let keys = keys.filter(|key| owner.is_none() || key.owner.as_deref() == owner);
        Ok(keys.map(|key| self.with_last_use(key)).collect())
    }

    /// A key.
    ///
    /// # Errors
    /// There is none of that id, or the store does not tell.
    pub async fn get(&self, id: &str) -> Result<Key, AccountError> {
        let key = self.store.key(id).await?;
        key.map(|key| self.with_last_use(key)).ok_or(AccountError::NoSuchKey)
    }

    /// Changes a key, and gives it as it is then.
    ///
    /// # Errors
    /// There is none of that id, a value is not what it must be, or the store does not keep it.
    pub async fn change(
        self: &Arc<Self>,
        origin: impl Into<Origin>,
        id: &str,
        edit: Edit,
    ) -> Result<Key, AccountError> {
        let origin = origin.into();
        edit.check()?;
        let (accounts, id) = (self.clone(), id.to_owned());
        self.to_the_end(async move {
            let note = |before: &Key, after: &Key| {
                journal::entry(&origin, "key.change", &after.id, journal::differences(before, after))
            };
            let key = accounts.update(&id, &|key| edit.applied_to(key), &note).await?;
            accounts.tell_others();
            Ok(accounts.with_last_use(key))
        })
        .await
    }

    /// Gives a key another secret, which is told this once. The one before opens for so long yet; one before that, no
    /// longer.
    ///
    /// # Errors
    /// There is no key of that id, the time is too long, or the store does not keep it.
    pub async fn rotate(
        self: &Arc<Self>,
        origin: impl Into<Origin>,
        id: &str,
        grace: Duration,
    ) -> Result<(Key, Secret), AccountError> {
        let origin = origin.into();
        let grace_ms = rules::grace_ms(grace)?;
        let secret = Secret::generate().map_err(|_| AccountError::NoChance)?;
        let next = bare_key(&secret)?;
        let (accounts, id, now_ms) = (self.clone(), id.to_owned(), now_ms());
        let act = async move {
            let rotated = |key: Key| {
                let before =
                    Predecessor { prefix: key.prefix, digest: key.digest, until_ms: now_ms + grace_ms };
                Key {
                    prefix: next.prefix.clone(),
                    digest: next.digest.clone(),
                    predecessor: Some(before).filter(|_| grace_ms > 0),
                    ..key
                }
            };
            let note = |before: &Key, after: &Key| {
                let detail =
                    json!({"from": before.prefix, "to": after.prefix, "grace_seconds": grace_ms / 1000});
                journal::entry(&origin, "key.rotate", &after.id, detail)
            };
            let key = accounts.update(&id, &rotated, &note).await?;
            accounts.tell_others();
            Ok(accounts.with_last_use(key))
        };
        Ok((self.to_the_end(act).await?, secret))
    }

    /// Forgets a key. What it used is remembered.
    ///
    /// # Errors
    /// There is none of that id, or the store does not forget it.
    pub async fn delete(self: &Arc<Self>, origin: impl Into<Origin>, id: &str) -> Result<(), AccountError> {
        let origin = origin.into();
        let (accounts, id) = (self.clone(), id.to_owned());
        self.to_the_end(async move {
            {
                let _turn = accounts.turn().await?;
                // Usage tells of it by its id; whose that was is to be found here.
                let known = accounts.store.key(&id).await?;
                let whose =
                    known.map_or_else(|| json!({}), |key| json!({"name": key.name, "owner": key.owner}));
                let note = journal::entry(&origin, "key.delete", &id, whose);
                let was_there = accounts.store.delete_key(&id, &note).await?;
                // Also if it was not: another node may have been faster.
                accounts.ring.remove(&id);
                if !was_there {
                    return Err(AccountError::NoSuchKey);
                }
            }
            accounts.tell_others();
            Ok(())
        })
        .await
    }

    /// What was used.
    ///
    /// # Errors
    /// The store does not tell.
    pub async fn usage(&self, query: &UsageQuery) -> Result<Vec<UsageRow>, AccountError> {
        Ok(self.store.usage(query).await?)
    }

    /// Who changed what, the last first: those with a lower number than `before`, so many at most.
    ///
    /// # Errors
    /// The store does not tell.
    pub async fn audits(&self, before: Option<i64>, limit: usize) -> Result<Vec<Audit>, AccountError> {
        Ok(self.store.audits(before, limit).await?)
    }

    /// Notes an act that is kept nowhere here, without anybody waiting for it.
    pub fn noted(
        self: &Arc<Self>,
        origin: impl Into<Origin>,
        action: &'static str,
        subject: &str,
        detail: Value,
    ) {
        let (accounts, origin, subject) = (self.clone(), origin.into(), subject.to_owned());
        let note = async move { accounts.note(&origin, action, &subject, detail).await };
        self.acts.spawn_on(note, &self.runtime);
    }

    /// Comes back when all acts are done. To be waited for before the process ends.
    pub async fn settled(&self) {
        self.acts.close();
        self.acts.wait().await;
    }

    /// Lets an act come to its end, whoever asked for it stays or leaves: a key that is kept is known and noted, too.
    async fn to_the_end<T: Send + 'static>(
        &self,
        act: impl Future<Output = Result<T, AccountError>> + Send + 'static,
    ) -> Result<T, AccountError> {
        self.acts.spawn_on(act, &self.runtime).await.unwrap_or(Err(AccountError::Unfinished))
    }

    async fn turn(&self) -> Result<MutexGuard<'_, ()>, AccountError> {
        timeout(TURN_PATIENCE, self.changing.lock()).await.map_err(|_| AccountError::Busy)
    }

    /// Changes a key in store and ring, and gives it as it is then.
    async fn update(
        &self,
        id: &str,
        change: KeyChange<'_>,
        note: Noted<'_, Key>,
    ) -> Result<Key, AccountError> {
        let _turn = self.turn().await?;
        let Some(after) = self.store.update_key(id, change, note).await? else {
            self.ring.remove(id);
            return Err(AccountError::NoSuchKey);
        };
        self.ring.put(after.clone());
        Ok(after)
    }

    async fn note(&self, origin: &Origin, action: &'static str, subject: &str, detail: Value) {
        let entry = journal::entry(origin, action, subject, detail);
        // The act is done, and cannot be taken back because the note of it fails: then the log has it.
        if let Err(error) = self.store.audit(&entry).await {
            tracing::error!(%error, actor = entry.actor, peer = entry.peer, action, subject, detail = %entry.detail,
                "A change of accounts is noted here alone");
        }
    }

    /// The ring knows of uses that are not written yet.
    fn with_last_use(&self, key: Key) -> Key {
        let known_here = self.ring.get(&key.id).and_then(|caller| caller.last_used_ms());
        Key { last_used_ms: key.last_used_ms.max(known_here), ..key }
    }
}

/// A key of that secret, that may do everything.
fn bare_key(secret: &Secret) -> Result<Key, AccountError> {
    Ok(Key {
        id: unique_id("key_"),
        name: String::new(),
        owner: None,
        prefix: secret.prefix().ok_or(AccountError::NoChance)?.to_owned(),
        digest: secret.digest(),
        predecessor: None,
        created_ms: now_ms(),
        expires_ms: None,
        last_used_ms: None,
        disabled: false,
        allowed_models: Vec::new(),
        allowed_endpoints: Vec::new(),
        language: None,
        limits: Limits::default(),
        budget: None,
        note: None,
    })
}

#[cfg(test)]
mod tests;
