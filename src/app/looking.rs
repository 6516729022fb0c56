//! Looks at what somebody else has changed in the store, until the end: keys, models that are off, budgets; and forgets what
//! nobody needs any more.
//!
//! None of it waits for another: a key that is revoked has a second, whatever becomes of all else.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, interval_at};

use super::keeping::{Filled, Kept, all_budgeted, fill};
use crate::callers::{Gate, KeyRing, now_ms};
use crate::telemetry::Health;

/// How often it is looked whether somebody else has changed keys or switched models: revocation has a second. Replicas that
/// share a Redis are told of it besides.
const LOOK: Duration = Duration::from_millis(400);
/// How often records that are too old are forgotten.
const TIDY: Duration = Duration::from_secs(3600);
/// How often what was written is gathered in the database's file, if nothing has been written since the last time.
const GATHER: Duration = Duration::from_secs(2);
/// How often it is forgotten what was taken of limits and budgets that nobody needs any more.
const SWEEP: Duration = Duration::from_secs(60);

/// What is looked at, and who is to know of it.
pub(super) struct Looking<'a> {
    pub(super) kept: &'a Kept,
    pub(super) gate: &'a Gate,
    pub(super) ring: &'a KeyRing,
    pub(super) health: &'a Health,
    /// Changes when another replica has changed something, if there is a way to be told.
    pub(super) word: Option<watch::Receiver<u64>>,
}

/// Who looks.
#[derive(Clone, Copy)]
enum Look {
    Keys,
    Models,
    Budgets,
}

/// What is wrong with the store, as each look has found it the last time. A std mutex: held for an assignment.
#[derive(Default)]
struct Troubles(Mutex<[Option<String>; 3]>);

impl Looking<'_> {
    /// Looks for ever. Budgets that are filled already are named; none are, of a store that is yet to come.
    pub(super) async fn run(&self, filled: Option<HashSet<Filled>>) {
        let (troubles, changed) = (Troubles::default(), Notify::new());
        // A database that is not there yet has a moment to come.
        let first_tidy = if filled.is_some() { Duration::ZERO } else { SWEEP };
        tokio::join!(
            self.keys(&troubles, &changed),
            self.models(&troubles),
            self.budgets(&troubles, &changed, filled.unwrap_or_default()),
            self.old_records(Instant::now() + first_tidy),
            self.gathered(),
        );
    }

    async fn keys(&self, troubles: &Troubles, changed: &Notify) {
        let (mut look, mut word) = (looks(), self.word.clone());
        loop {
            next(&mut look, &mut word).await;
            let synced = self.kept.accounts.sync_keys().await;
            if matches!(synced, Ok(true)) {
                changed.notify_one();
            }
            self.tell(troubles, Look::Keys, synced.err().map(|error| error.to_string()));
        }
    }

    async fn models(&self, troubles: &Troubles) {
        let (mut look, mut word) = (looks(), self.word.clone());
        loop {
            next(&mut look, &mut word).await;
            let synced = self.kept.accounts.sync_models().await;
            self.tell(troubles, Look::Models, synced.err().map(|error| error.to_string()));
        }
    }

    /// A budget that is new may be another one for a key that has spent something.
    async fn budgets(&self, troubles: &Troubles, changed: &Notify, mut filled: HashSet<Filled>) {
        let (mut look, mut sweep) = (looks(), interval(SWEEP));
        loop {
            tokio::select! {
                // What the ledger does not have yet could not come back from it.
                _ = sweep.tick(), if self.kept.recorder.state().error.is_none() => {
                    self.gate.tidy(self.ring, now_ms());
                    let budgeted = all_budgeted(self.gate, self.ring);
                    filled.retain(|one| budgeted.contains(one));
                    continue;
                }
                _ = look.tick() => {}
                () = changed.notified() => {}
            }
            let is_filled = fill(&*self.kept.store, self.gate, self.ring, &mut filled).await;
            self.tell(troubles, Look::Budgets, is_filled.err().map(|error| error.to_string()));
        }
    }

    async fn old_records(&self, first: Instant) {
        let mut tidy = interval_at(first, TIDY);
        loop {
            tidy.tick().await;
            let keep_ms = i64::try_from(self.kept.keep.as_millis()).unwrap_or(i64::MAX);
            match self.kept.store.tidy(now_ms(), keep_ms).await {
                Ok(0) => {}
                Ok(forgotten) => {
                    tracing::info!(records = forgotten, "Records of usage that are too old are forgotten");
                }
                Err(error) => tracing::warn!(%error, "Records of usage that are too old stay"),
            }
        }
    }

    /// A copy of the database's file is complete where nothing has been written for a moment.
    async fn gathered(&self) {
        let mut gather = interval(GATHER);
        gather.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            gather.tick().await;
            if let Err(error) = self.kept.store.gather().await {
                tracing::debug!(%error, "What was written last stays beside the database's file");
            }
        }
    }

    fn tell(&self, troubles: &Troubles, look: Look, trouble: Option<String>) {
        let mut all = troubles.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [of_keys, of_models, of_budgets] = &mut *all;
        let place = match look {
            Look::Keys => of_keys,
            Look::Models => of_models,
            Look::Budgets => of_budgets,
        };
        *place = trouble;
        let first = all.iter().flatten().next().cloned();
        self.health.store_is(first.or_else(|| self.kept.recorder.state().error));
    }
}

fn looks() -> Interval {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

/// Comes back when it is time to look again, or another replica has changed something.
async fn next(look: &mut Interval, word: &mut Option<watch::Receiver<u64>>) {
    let told = async {
        let is_told = match word {
            Some(word) => word.changed().await.is_ok(),
            None => false,
        };
        if !is_told {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = look.tick() => {}
        () = told => {}
    }
}
