//! What replicas of the gateway share through Redis: limits, budgets, rests, and the word that keys or models' switches have changed.
//!
//! # Limits
//!
//! What was taken of a limit in the last minute stands in Redis, in parts of a second by Redis' own clock. A node takes
//! what a request needs by one atomic script, and of large limits a fiftieth more, from which its next requests are
//! answered without asking. What it does not use within a second it gives back. So limits below 100 are exact, and of
//! larger ones a node may use a second late what was counted before:
//!
//! > In any minute there is at most `limit + nodes × limit / 50` of requests, and the same of tokens.
//!
//! Tokens are reserved as one node alone reserves them; what was really used is put right within a tenth of a second.
//! Places of parallel requests are believed for five seconds at a time, so those of a node that dies come free by then.
//!
//! # Budgets
//!
//! What a node spends goes to Redis within a tenth of a second, and from there to everybody. What it may spend before it
//! is told stands there as its claim, and counts as spent for all others. A request that finds no room in the claim asks
//! for its part by one atomic script, together with what others need who wait for the same, and of large budgets a
//! fiftieth more. What is claimed and neither spent nor set aside goes back a second after the last request. So:
//!
//! > All nodes together go no further beyond a budget than one alone: by the last request, and by what answers take
//! > beyond what was set aside for them.
//!
//! Claims are believed for five seconds at a time, as places are, and relied on by their own node for four. A request
//! waits for its turn and for the answer 0.6 seconds at most; then it is as if Redis were away.
//!
//! # Away
//!
//! A node waits for Redis at most half a second, once: then it knows that Redis is away, and asks by itself until it is
//! back. Meanwhile each node's own limits and budgets hold, as if it were alone (`open`: at most `nodes × limit`), or
//! what is limited is refused (`closed`). What was let through meanwhile is told when Redis is back.
//!
//! Nothing here stands in the way of requests for which nothing is limited.

mod limits;
mod link;
mod news;
mod rests;
mod scope;
mod scripts;
mod sender;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::callers::{Gate, Pool};
use crate::config::{Fault, OnRedisAway};
use crate::telemetry::Replication;

use self::limits::Limiter;
use self::link::{Keeper, Link};
use self::news::Listener;
use self::rests::Rests;
use self::sender::Sender;

/// What begins every key and channel. The number changes with the meaning of what is behind it.
const PREFIX: &str = "llm-proxy-api:1:";
/// What is told at the end has so much time to be told.
const FAREWELL: Duration = Duration::from_secs(1);

/// One node's part in what replicas share. Clones are the same.
#[derive(Clone)]
pub struct Shared {
    link: Arc<Link>,
    limiter: Arc<Limiter>,
    rests: Arc<Rests>,
    keys: watch::Sender<u64>,
    tasks: TaskTracker,
    /// For the one who runs it.
    keeper: Arc<std::sync::Mutex<Option<Keeper>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("node", &self.link.node()).finish_non_exhaustive()
    }
}

/// Asks Redis for a sign of life, for a second at most.
///
/// # Errors
/// Why it cannot be used, as the end of a sentence that begins with its name.
pub async fn look(url: &SecretString, away: OnRedisAway, replication: Replication) -> Result<(), String> {
    let link = Link::new(url, away, replication).map_err(|fault| fault.problem)?;
    link.connect().await.map(drop)
}

impl Shared {
    /// Asks Redis once, for a second at most. Whether it answers or not, the rest is the business of [`Shared::run`].
    ///
    /// # Errors
    /// The URL names no Redis.
    pub async fn open(
        url: &SecretString,
        away: OnRedisAway,
        replication: Replication,
    ) -> Result<Self, Fault> {
        let link = Arc::new(Link::new(url, away, replication)?);
        let mut keeper = Keeper::new(link.clone());
        keeper.attempt().await;
        let tasks = TaskTracker::new();
        let limiter = Arc::new(Limiter::new(link.clone(), tasks.clone()));
        Ok(Self {
            rests: Arc::default(),
            keys: watch::Sender::new(0),
            keeper: Arc::new(std::sync::Mutex::new(Some(keeper))),
            limiter,
            link,
            tasks,
        })
    }

    /// For the gate.
    pub fn pool(&self) -> Arc<dyn Pool> {
        Arc::new(self.limiter.clone())
    }

    /// A cooldown begins, of this length, during which all leave it alone or not. Returns at once.
    pub fn cools_down(&self, name: &str, rest: (Duration, bool)) {
        self.rests.add(name, Some(rest));
    }

    /// Somebody answers again. Comes back at once.
    pub fn is_well(&self, name: &str) {
        self.rests.add(name, None);
    }

    /// Keys or switches of models were changed here: the other nodes shall read them anew. Comes back at once.
    pub fn keys_changed(&self) {
        self.rests.keys_changed();
    }

    /// Changes when another node has changed keys or switched models, or may have.
    pub fn keys(&self) -> watch::Receiver<u64> {
        self.keys.subscribe()
    }

    /// Keeps in touch with the others until `stop`, and then gives back what is not used. `told` is told who rests
    /// elsewhere, for how long, and whether it is to be left alone, or with `None` that it is well again. To be run once.
    pub async fn run(
        self,
        gate: Arc<Gate>,
        told: impl Fn(&str, Option<(Duration, bool)>) + Send + Sync,
        stop: CancellationToken,
    ) {
        let keeper = self.keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(keeper) = keeper else { return };
        let listener = Listener { gate: gate.clone(), told, keys: self.keys.clone() };
        let sender = Sender::new(self.link.clone(), self.limiter.clone(), self.rests.clone(), gate);
        let end = CancellationToken::new();
        let keeping = keeper.run(&listener, end.clone());
        let sending = async {
            sender.run(stop).await;
            self.tasks.close();
            // Those who still ask are told before the last word is sent.
            let farewell = async {
                self.tasks.wait().await;
                sender.end().await;
            };
            if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
                tracing::debug!("Other replicas have not been told all at the end");
            }
            end.cancel();
        };
        tokio::join!(keeping, sending);
    }
}
