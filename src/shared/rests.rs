//! Who rests and who is well again, and that keys have changed: kept until it is told. What was told last of somebody
//! is what counts, so there is at most one word for each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::PREFIX;
use super::link::{Link, channel};
use super::news::{News, What};
use super::scripts::{REST, RESTING};
use crate::callers::Away;

/// So many names are kept. There are as many as deployments and providers.
const MOST: usize = 10_000;

/// What is still to be told.
#[derive(Debug, Default)]
pub(super) struct Rests {
    // A std mutex: held to put something in or to take all out.
    waiting: Mutex<HashMap<String, Option<(Instant, bool)>>>,
    keys: AtomicBool,
    /// There is something to tell.
    pub(super) ready: Notify,
}

impl Rests {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Option<(Instant, bool)>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cooldown of this length, during which it is left alone or not; with `None` its end.
    pub(super) fn add(&self, name: &str, rest: Option<(Duration, bool)>) {
        let mut waiting = self.waiting();
        if waiting.len() < MOST || waiting.contains_key(name) {
            waiting.insert(name.to_owned(), rest.map(|(lasts, will)| (Instant::now() + lasts, will)));
            drop(waiting);
            self.ready.notify_one();
        }
    }

    /// Keys have changed.
    pub(super) fn keys_changed(&self) {
        self.keys.store(true, Ordering::Release);
        self.ready.notify_one();
    }

    /// Tells all that is to be told. What cannot be told stays, unless something newer is known of the same.
    pub(super) async fn tell(&self, link: &Link) -> Result<(), Away> {
        if self.keys.swap(false, Ordering::AcqRel) {
            let told = publish_keys(link).await;
            told.inspect_err(|_| self.keys.store(true, Ordering::Release))?;
        }
        let told: Vec<_> = self.waiting().drain().collect();
        let mut outcome = Ok(());
        for (name, until) in told {
            outcome = match outcome {
                Ok(()) => tell(link, &name, until).await,
                away @ Err(_) => away,
            };
            if outcome.is_err() {
                self.waiting().entry(name).or_insert(until);
            }
        }
        outcome
    }
}

async fn publish_keys(link: &Link) -> Result<(), Away> {
    link.publish(News::text(link.node(), What::Keys)).await
}

async fn tell(link: &Link, name: &str, until: Option<(Instant, bool)>) -> Result<(), Away> {
    let now = Instant::now();
    let ms = until.map(|(until, _)| millis(until.saturating_duration_since(now)));
    let what = match ms {
        // It is over already.
        Some(0) => return Ok(()),
        Some(ms) => What::Rest { name: name.to_owned(), ms, will: until.is_some_and(|(_, will)| will) },
        None => What::Well { name: name.to_owned() },
    };
    let news = News::text(link.node(), what);
    let mut rest = REST.key(key());
    rest.arg(name).arg(ms.unwrap_or(0)).arg(link.node()).arg(channel()).arg(news);
    link.run::<i64>(&rest).await.map(drop)
}

/// Who rests, by what other nodes have told; nobody if they cannot be asked.
pub(super) async fn read(link: &Link) -> Vec<(String, Duration)> {
    let mut resting = RESTING.key(key());
    resting.arg(link.node());
    let answer = link.run::<Vec<(String, u64)>>(&resting).await.unwrap_or_default();
    answer.into_iter().map(|(name, ms)| (name, Duration::from_millis(ms))).collect()
}

fn key() -> String {
    format!("{PREFIX}rests")
}

/// Milliseconds, up to a year.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(31_536_000_000)
}
