//! The keys of a provider that has several: requests take them in turns, and one that is refused rests alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::health::{Health, Pass};
use crate::providers::Provider;

/// One of several keys.
#[derive(Debug)]
pub struct Key {
    /// The provider, asked with this key.
    pub(super) provider: Arc<dyn Provider>,
    pub(super) health: Arc<Health>,
}

/// All keys of a provider; none of a provider that has only one, or none at all.
#[derive(Debug, Default)]
pub(super) struct Keys {
    keys: Vec<Arc<Key>>,
    next: AtomicUsize,
}

impl Keys {
    pub(super) fn new(keys: Vec<Arc<Key>>) -> Self {
        Self { keys, next: AtomicUsize::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many of them rest.
    pub(super) fn resting(&self, now: Instant) -> usize {
        self.keys.iter().filter(|key| key.health.rests(now)).count()
    }

    /// When the first of them is back, if all rest.
    pub(super) fn rest_until(&self, now: Instant) -> Option<Instant> {
        let until: Option<Vec<Instant>> = self.keys.iter().map(|key| key.health.rests_until(now)).collect();
        until?.into_iter().min()
    }

    /// The key whose turn it is, of those that do not rest; `None` if there are no several.
    ///
    /// # Errors
    /// All rest, the first to return until then.
    pub(super) fn admit(&self, now: Instant) -> Result<Option<(&Arc<Key>, Pass<'_>)>, Instant> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.keys.len();
        let (before, from) = self.keys.split_at(turn);
        let mut soonest: Option<Instant> = None;
        for key in from.iter().chain(before) {
            match key.health.admit(now) {
                Ok(pass) => return Ok(Some((key, pass))),
                Err(until) => soonest = Some(soonest.map_or(until, |known| known.min(until))),
            }
        }
        Err(soonest.unwrap_or(now))
    }

    /// Comes back when it may be worth looking again at any of them; never, if there are none.
    pub(super) async fn changed(&self) {
        if self.keys.is_empty() {
            return std::future::pending().await;
        }
        let changes = self.keys.iter().map(|key| Box::pin(key.health.changed()));
        futures_util::future::select_all(changes).await;
    }
}
