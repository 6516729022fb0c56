//! What outlives the process, and how it is kept up to date in memory: keys, models that are off, what
//! was spent of budgets, the ledger.
//!
//! Where nobody needs a key the service serves without a store, too, until it is there: then all are on, and what is used
//! waits to be written down.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::looking::Looking;
use super::replicas::Others;
use crate::accounts::{AccountError, Accounts};
use crate::callers::{Budget, Gate, KeyRing, Ledger, Period, Spent, Whose, now_ms};
use crate::config::{Auth, Fault, Settings};
use crate::gateway::Gateway;
use crate::store::{self, Recorder, Store, StoreError, StoreErrorKind};
use crate::telemetry::{Health, Metrics};

/// How long the last records may take to be written when the service ends.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// Keys and the ledger.
pub(super) struct Keeping {
    /// The keys in memory.
    pub(super) ring: Arc<KeyRing>,
    kept: Kept,
    writing: BoxFuture<'static, ()>,
    /// Opens the store, if that could not be done at once.
    opening: Option<BoxFuture<'static, ()>>,
    /// Changes when another replica has changed something, if there is a way to be told.
    word: Option<watch::Receiver<u64>>,
    /// Ends the writing, after all else has ended.
    end: CancellationToken,
}

/// What is kept, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) store: Arc<dyn Store>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) recorder: Recorder,
    pub(super) keep: Duration,
}

/// A budget whose account has been filled from the ledger.
pub(super) type Filled = (Whose, Period);

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeping").field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Keeping {
    /// Opens the store, reads the keys, and switches models off. Others are told of what is changed here. A store that is
    /// not there where nobody needs a key is opened as soon as it is.
    ///
    /// # Errors
    /// The store cannot be used, and callers need keys.
    pub(super) async fn open(
        settings: &Settings,
        (metrics, health): (&Metrics, &Health),
        others: &Others,
        gateway: &Arc<Gateway>,
    ) -> Result<Self, Faults> {
        let (ring, end) = (Arc::<KeyRing>::default(), CancellationToken::new());
        let url = settings.storage.database_url.expose_secret();
        let accounts_of = |store: &Arc<dyn Store>| {
            Arc::new(Accounts::new(store.clone(), ring.clone()).heard_by(others.crier(gateway)))
        };
        let (store, accounts, opening) = match connected(url, accounts_of).await {
            Ok((store, accounts)) => (store, accounts, None),
            Err(error) if settings.auth == Auth::Keys || is_of_newer(&error) => {
                let cure = if is_of_newer(&error) {
                    "an older version would lose what the newer one keeps"
                } else {
                    "make it reachable, or name another one; without it no key is known"
                };
                return Err(Fault::new(
                    "LLM_PROXY_API_DATABASE_URL",
                    format!("{error}{}", store::file_in_words(url)),
                    cure,
                )
                .into());
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error}{}", store::file_in_words(url)),
                    "All models are on, and usage waits to be written down, until the database is there: see LLM_PROXY_API_DATABASE_URL"
                );
                health.store_is(Some(error.to_string()));
                let why = match &error {
                    AccountError::Store(error) => error.why(),
                    error => error.to_string(),
                };
                let (store, opening) = store::open_later(url, why);
                let accounts = accounts_of(&store);
                (store, accounts, Some(opening.boxed()))
            }
        };
        if settings.auth == Auth::Keys && ring.is_empty() {
            tracing::warn!(
                "There is no key yet, so nobody can call; make one by `llm-proxy-api keys create`"
            );
        }
        let used = ring.clone();
        let used = Arc::new(move || used.used());
        let (recorder, writing) = Recorder::start(store.clone(), metrics.clone(), used, end.clone());
        let kept = Kept { store, accounts, recorder, keep: settings.storage.usage_keep };
        Ok(Self { ring, kept, writing: writing.boxed(), opening, word: others.word(), end })
    }

    /// Where requests are written down.
    pub(super) fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::new(self.kept.recorder.clone())
    }

    /// For those who make and change keys.
    pub(super) fn accounts(&self) -> Arc<Accounts> {
        self.kept.accounts.clone()
    }

    /// Fills all budgets with what the ledger says was spent of them. A ledger that comes later does that when it comes.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub(super) async fn fill(&self, gate: &Gate) -> Result<(), Faults> {
        if self.opening.is_some() {
            return Ok(());
        }
        let filled = fill(&*self.kept.store, gate, &self.ring, &mut HashSet::new()).await;
        filled.map_err(|error| {
            Fault::new(
                "LLM_PROXY_API_DATABASE_URL",
                error.to_string(),
                "make it readable, or name another one",
            )
            .into()
        })
    }

    /// Keeps all of it up to date until `end`, and writes records down until nobody makes any more.
    pub(super) async fn run(self, gate: Arc<Gate>, health: Arc<Health>, end: CancellationToken) {
        let Self { ring, kept, writing, opening, word, end: end_of_writing } = self;
        let filled = opening.is_none().then(|| all_budgeted(&gate, &ring));
        let is_there = AtomicBool::new(opening.is_none());
        let opening = async {
            let Some(opening) = opening else { return };
            tokio::select! {
                () = end.cancelled() => {}
                () = opening => {
                    is_there.store(true, Ordering::Relaxed);
                    tracing::info!("The database is there: its keys and switches hold, and usage is written down");
                }
            }
        };
        let looking = async {
            let looking = Looking { kept: &kept, gate: &gate, ring: &ring, health: &health, word };
            tokio::select! {
                () = looking.run(filled) => {}
                () = end.cancelled() => {}
            }
            // One that was never there will not come in the last seconds.
            let patience = if is_there.load(Ordering::Relaxed) { LAST_RECORDS } else { Duration::ZERO };
            if let Err(left) = kept.recorder.flush(patience).await {
                tracing::error!(records = left, "Some requests could not be written down");
            }
            kept.accounts.settled().await;
            end_of_writing.cancel();
        };
        tokio::join!(opening, looking, writing);
        kept.store.close().await;
    }
}

/// Waiting does not help against a database that a newer version has made.
fn is_of_newer(error: &AccountError) -> bool {
    matches!(error, AccountError::Store(error) if error.kind() == StoreErrorKind::Newer)
}

/// The store, and the accounts in it as they are.
async fn connected(
    url: &str,
    accounts_of: impl FnOnce(&Arc<dyn Store>) -> Arc<Accounts>,
) -> Result<(Arc<dyn Store>, Arc<Accounts>), AccountError> {
    let store = store::open(url).await?;
    let accounts = accounts_of(&store);
    accounts.sync().await?;
    Ok((store, accounts))
}

/// All budgets, by owner and kind.
pub(super) fn all_budgeted(gate: &Gate, ring: &KeyRing) -> HashSet<Filled> {
    gate.all_budgets(ring).into_iter().map(|(whose, budget)| (whose, budget.period)).collect()
}

/// Fills those that have not been filled yet: one question for each kind of period.
pub(super) async fn fill(
    store: &dyn Store,
    gate: &Gate,
    ring: &KeyRing,
    filled: &mut HashSet<Filled>,
) -> Result<(), StoreError> {
    let new = |(whose, budget): &(Whose, Budget)| !filled.contains(&(whose.clone(), budget.period));
    let new: Vec<(Whose, Budget)> = gate.all_budgets(ring).into_iter().filter(new).collect();
    let mut spent: HashMap<Period, HashMap<Whose, Spent>> = HashMap::new();
    for (whose, budget) in new {
        let now_ms = now_ms();
        let of_period = match spent.get(&budget.period) {
            Some(of_period) => of_period,
            None => {
                let (since_ms, _) = gate.budgets().zone().around(budget.period, now_ms);
                let all = store.all_spent(since_ms).await?.into_iter().collect();
                spent.entry(budget.period).or_insert(all)
            }
        };
        let of_ledger = of_period.get(&whose).copied().unwrap_or_default();
        gate.budgets().at_least(&whose, &budget, of_ledger, now_ms);
        filled.insert((whose, budget.period));
    }
    Ok(())
}
