//! The keys, in memory: found by what a caller shows.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::key::Key;
use super::scope::{Figures, Scope};
use super::secret::{Digest, Secret};

/// All keys. Looking one up takes no lock.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: ArcSwap<Keys>,
    // A std mutex: held by those who change keys, one after the other.
    changing: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Keys {
    by_id: HashMap<String, Caller>,
    /// By the first characters of a secret, the present one or the one before. Nearly always one key each.
    by_prefix: HashMap<String, Vec<Caller>>,
}

/// Who calls. Cheap to clone: it is handed along with every request.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

/// What is known of a caller: a key, and what its requests have taken.
#[derive(Debug)]
pub struct Known {
    /// The key.
    pub key: Key,
    /// The key's id, for records.
    pub id: Arc<str>,
    /// The key's owner, for records.
    pub owner: Option<Arc<str>>,
    pub(super) scope: Arc<Scope>,
    used_ms: Arc<AtomicI64>,
    /// Whether the key was disabled or deleted since. Shared by all that was ever known of it.
    is_revoked: Arc<AtomicBool>,
}

impl Deref for Caller {
    type Target = Known;

    fn deref(&self) -> &Known {
        &self.0
    }
}

/// Why what a caller shows opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Nobody has such a key.
    NoKey,
    /// It has expired, or was replaced and its time is over.
    Expired,
    /// It is disabled.
    Disabled,
}

impl KeyRing {
    /// Who shows this.
    ///
    /// # Errors
    /// It opens nothing.
    pub fn find(&self, secret: &Secret, now_ms: i64) -> Result<Caller, Unknown> {
        let prefix = secret.prefix().ok_or(Unknown::NoKey)?;
        let keys = self.keys.load();
        let digest = secret.digest();
        let alike = keys.by_prefix.get(prefix).map(Vec::as_slice).unwrap_or_default();
        let opened = alike.iter().find_map(|caller| Some((caller, opened(&caller.key, &digest)?)));
        let (caller, by) = opened.ok_or(Unknown::NoKey)?;
        if caller.key.disabled {
            return Err(Unknown::Disabled);
        }
        let is_over = matches!(by, By::Predecessor { until_ms } if now_ms >= until_ms);
        if !caller.key.is_valid(now_ms) || is_over {
            return Err(Unknown::Expired);
        }
        caller.is_used(now_ms);
        Ok(caller.clone())
    }

    /// The key of that id.
    pub fn get(&self, id: &str) -> Option<Caller> {
        self.keys.load().by_id.get(id).cloned()
    }

    /// All keys, in no order.
    pub fn all(&self) -> Vec<Caller> {
        self.keys.load().by_id.values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.load().by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// These are all keys from now on. What requests have taken of those that were there before is not forgotten.
    pub fn replace(&self, keys: Vec<Key>) {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.keys.load();
        let mut all = Keys::default();
        for key in keys {
            all.add(key, &before);
        }
        for (_, gone) in before.by_id.iter().filter(|(id, _)| !all.by_id.contains_key(*id)) {
            gone.is_revoked.store(true, Ordering::Relaxed);
        }
        self.keys.store(Arc::new(all));
    }

    /// A key that is new, or has changed.
    pub fn put(&self, key: Key) {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.keys.load();
        let mut all = Keys::clone(&before);
        all.take_out(&key.id);
        all.add(key, &before);
        self.keys.store(Arc::new(all));
    }

    /// The key of that id opens nothing any more.
    pub fn remove(&self, id: &str) {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Keys::clone(&self.keys.load());
        if let Some(gone) = all.by_id.get(id) {
            gone.is_revoked.store(true, Ordering::Relaxed);
        }
        all.take_out(id);
        self.keys.store(Arc::new(all));
    }

    /// The keys that were shown after what is written of them, and when.
    pub fn used(&self) -> Vec<(String, i64)> {
        let keys = self.keys.load();
        let used = keys.by_id.values().filter_map(|caller| {
            let used_ms = caller.used_ms.load(Ordering::Relaxed);
            (used_ms > caller.key.last_used_ms.unwrap_or(0)).then(|| (caller.key.id.clone(), used_ms))
        });
        used.collect()
    }
}

/// Which secret of a key opens.
enum By {
    Present,
    /// The one before, until then.
    Predecessor {
        until_ms: i64,
    },
}

fn opened(key: &Key, digest: &Digest) -> Option<By> {
    if key.digest.is(digest) {
        return Some(By::Present);
    }
    let before = key.predecessor.as_ref().filter(|before| before.digest.is(digest))?;
    Some(By::Predecessor { until_ms: before.until_ms })
}

impl Keys {
    fn add(&mut self, key: Key, before: &Self) {
        let (scope, used_ms, is_revoked) = match before.by_id.get(&key.id) {
            Some(caller) => {
                caller.scope.limit(key.limits);
                (caller.scope.clone(), caller.used_ms.clone(), caller.is_revoked.clone())
            }
            None => (
                Arc::new(Scope::new(key.limits, Instant::now()).called("key", &key.id)),
                Arc::new(AtomicI64::new(key.last_used_ms.unwrap_or(0))),
                Arc::default(),
            ),
        };
        is_revoked.store(key.disabled, Ordering::Relaxed);
        let (id, owner) = (key.id.as_str().into(), key.owner.as_deref().map(Arc::from));
        let caller = Caller(Arc::new(Known { key, id, owner, scope, used_ms, is_revoked }));
        for prefix in prefixes(&caller.key) {
            self.by_prefix.entry(prefix.to_owned()).or_default().push(caller.clone());
        }
        self.by_id.insert(caller.key.id.clone(), caller);
    }

    fn take_out(&mut self, id: &str) {
        let Some(caller) = self.by_id.remove(id) else { return };
        for prefix in prefixes(&caller.key) {
            if let Some(alike) = self.by_prefix.get_mut(prefix) {
                alike.retain(|other| other.key.id != id);
                if alike.is_empty() {
                    self.by_prefix.remove(prefix);
                }
            }
        }
    }
}

/// The beginnings of the secrets that may open with a key.
fn prefixes(key: &Key) -> impl Iterator<Item = &str> {
    let before = key.predecessor.as_ref().map(|before| before.prefix.as_str());
    [Some(key.prefix.as_str()), before.filter(|before| *before != key.prefix)].into_iter().flatten()
}

impl Known {
    /// How much is left of what is limited.
    pub fn figures(&self) -> impl Iterator<Item = Figures> {
        self.scope.figures(Instant::now()).into_iter().flatten()
    }

    /// Whether the key has been disabled or deleted since it was shown.
    pub fn is_revoked(&self) -> bool {
        self.is_revoked.load(Ordering::Relaxed)
    }

    /// Notes that it is used: to the second, so that requests on several threads seldom write what the others read.
    fn is_used(&self, now_ms: i64) {
        if self.used_ms.load(Ordering::Relaxed).abs_diff(now_ms) >= 1000 {
            self.used_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// When the key was last shown, in milliseconds since 1970; `None` if never.
    pub fn last_used_ms(&self) -> Option<i64> {
        Some(self.used_ms.load(Ordering::Relaxed)).filter(|used_ms| *used_ms > 0)
    }
}

#[cfg(test)]
mod tests;
