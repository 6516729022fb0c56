//! The keys of a provider that has several: requests take them in turns, and one that is refused cools down alone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::affinity::{Target, distance};
use super::health::{Health, HealthBook, Last, Need, Pass, Wait};
use crate::llm::Session;
use crate::providers::Provider;

/// One of several keys, as one deployment uses it.
#[derive(Debug)]
pub struct Key {
    /// The provider, asked with this key.
    pub(super) provider: Arc<dyn Provider>,
    /// How the key fares with all models.
    pub(super) health: Arc<Health>,
    /// How it fares with the model of this deployment.
    pub(super) own: Arc<Health>,
    pub(super) limited: Arc<LastLimited>,
    target: Target,
}

/// Of all deployments with one key the one whose limit was met last, as long as it cools down.
#[derive(Debug, Default)]
pub(super) struct LastLimited(Mutex<Option<Arc<Health>>>);

impl LastLimited {
    /// Notes that the limit of one was met, which cools down by now. Whether another one did already.
    pub(super) fn is_second(&self, health: &Arc<Health>, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = last.as_ref().and_then(|last| last.rests_until(now));
        let is_other = last.as_ref().is_some_and(|last| !Arc::ptr_eq(last, health));
        if until <= health.rests_until(now) {
            *last = Some(health.clone());
        }
        is_other && until.is_some()
    }
}

/// The keys of a provider, of which each deployment has its own view.
#[derive(Debug)]
pub(super) struct KeyRing {
    /// Each with the name under which its health is known.
    keys: Vec<(Arc<dyn Provider>, String, Arc<LastLimited>)>,
}

impl KeyRing {
    pub(super) fn new(keys: impl Iterator<Item = (Arc<dyn Provider>, String)>) -> Self {
        Self { keys: keys.map(|(provider, id)| (provider, id, Arc::default())).collect() }
    }

    /// As a deployment of this model uses them.
    pub(super) fn of(&self, model: &str, health: &HealthBook) -> Keys {
        let key = |(provider, id, limited): &(Arc<dyn Provider>, String, Arc<LastLimited>)| {
            let own = health.of(&format!("{id} {model}"));
            Arc::new(Key {
                provider: provider.clone(),
                health: health.of(id),
                own,
                target: Target::of(id),
                limited: limited.clone(),
            })
        };
        Keys { keys: self.keys.iter().map(key).collect(), next: AtomicUsize::new(0) }
    }
}

/// All keys of a deployment; none of one whose provider has only one, or none at all.
#[derive(Debug, Default)]
pub(super) struct Keys {
    keys: Vec<Arc<Key>>,
    next: AtomicUsize,
}

/// A key that may be used, for all models and for this one.
pub(super) type Admitted<'a> = (&'a Arc<Key>, [Pass<'a>; 2]);

impl Key {
    fn both(&self) -> [&Arc<Health>; 2] {
        [&self.health, &self.own]
    }

    fn admit(&self, need: Need, now: Instant) -> Result<[Pass<'_>; 2], Wait> {
        Ok([self.health.admit(need, now)?, self.own.admit(need, now)?])
    }

    fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.both().into_iter().filter_map(|health| health.rests_until(now)).max()
    }
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many of them rest.
    pub(super) fn resting(&self, now: Instant) -> usize {
        self.keys.iter().filter(|key| key.rests_until(now).is_some()).count()
    }

    /// When the first of them is back, if all rest.
    pub(super) fn rest_until(&self, now: Instant) -> Option<Instant> {
        let until: Option<Vec<Instant>> = self.keys.iter().map(|key| key.rests_until(now)).collect();
        until?.into_iter().min()
    }

    /// When the first of them is worth asking again, if all rest.
    pub(super) fn useful_at(&self, now: Instant) -> Option<Instant> {
        let of = |key: &Arc<Key>| key.both().into_iter().filter_map(|health| health.useful_at(now)).max();
        let until: Option<Vec<Instant>> = self.keys.iter().map(of).collect();
        until?.into_iter().min()
    }

    /// The last failures of those that rest.
    pub(super) fn last(&self) -> impl Iterator<Item = Last> {
        self.keys.iter().flat_map(|key| key.both()).filter_map(|health| health.last())
    }

    /// The key of the conversation, or the one whose turn it is, of those that do not rest; `None` if there are no
    /// several.
    ///
    /// # Errors
    /// All have to wait.
    pub(super) fn admit(
        &self,
        (need, session): (Need, Option<Session>),
        now: Instant,
    ) -> Result<Option<Admitted<'_>>, Wait> {
        if self.keys.is_empty() {
            return Ok(None);
        }
        let mut soonest: Option<Wait> = None;
        for key in self.order(session) {
            match key.admit(need, now) {
                Ok(passes) => return Ok(Some((key, passes))),
                Err(wait) => soonest = Some(soonest.map_or(wait, |known| known.or(wait))),
            }
        }
        Err(soonest.unwrap_or(Wait { until: now, is_tried: false }))
    }

    fn order(&self, session: Option<Session>) -> Vec<&Arc<Key>> {
        let mut keys: Vec<&Arc<Key>> = self.keys.iter().collect();
        match session {
            Some(session) => keys.sort_by_cached_key(|key| distance(session, key.target, 1.0)),
            None => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed) % keys.len().max(1);
                keys.rotate_left(turn);
            }
        }
        keys
    }

    /// Comes back when it may be worth looking again at any of them; never, if there are none.
    pub(super) async fn changed(&self) {
        if self.keys.is_empty() {
            return std::future::pending().await;
        }
        let changes = self.keys.iter().flat_map(|key| key.both()).map(|health| Box::pin(health.changed()));
        futures_util::future::select_all(changes).await;
    }
}
