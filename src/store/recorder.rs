//! Takes what requests used off their way, and writes it in batches, whatever the database does meanwhile.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};
use crate::callers::{Ledger, UsageRecord};
use crate::telemetry::Metrics;

/// So many records wait at most; some hundred bytes each.
pub const MOST_WAITING: usize = 100_000;
/// So many are written at once.
const BATCH: usize = 1024;
/// So long a record waits for others to be written with.
const GATHERING: Duration = Duration::from_millis(250);
/// Between two tries while the database is away, at first and at most.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(3);
/// Between two lines of the log that say the same.
const QUIET: Duration = Duration::from_secs(60);
/// How often it is noted when keys were last used.
const TOUCHING: Duration = Duration::from_secs(60);
/// At the end, for what nobody has flushed before.
const LAST_FLUSH: Duration = Duration::from_secs(5);

/// Which keys were used, and when, in milliseconds since 1970.
pub type Touched = Arc<dyn Fn() -> Vec<(String, i64)> + Send + Sync>;

/// Hands records to the one task that writes them. Clones share it.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecorderState {
    /// Records that are not written yet.
    pub waiting: usize,
    /// Why the last try to write failed, if it did.
    pub error: Option<String>,
}

struct Shared {
    // A std mutex: held for a record to be put in, or a batch to be taken out.
    inbox: Mutex<Inbox>,
    /// There is something in the inbox, or enough for a batch: the writer is not woken for each record.
    news: Notify,
    error: ArcSwapOption<String>,
    /// Somebody does not want to wait.
    hurry: Notify,
    metrics: Metrics,
    losses: Quiet,
    outages: Quiet,
}

#[derive(Default)]
struct Inbox {
    records: VecDeque<UsageRecord>,
    /// How many are not written yet, those under way included. It bounds them.
    waiting: usize,
    /// Whoever waits for all that is in it.
    flushes: Vec<oneshot::Sender<()>>,
    /// Nobody will write what comes now.
    is_closed: bool,
}

/// The task's own part.
struct Writer {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    touched: Touched,
    end: CancellationToken,
    /// What was not written of `touched`.
    used: HashMap<String, i64>,
    /// Taken from the inbox, and not written yet.
    batch: Vec<UsageRecord>,
    flushes: Vec<oneshot::Sender<()>>,
}

/// Lets a line of the log through once in a while.
struct Quiet {
    /// Milliseconds since `began` at which the next line may come.
    next: AtomicU64,
    began: Instant,
}

impl Quiet {
    fn new() -> Self {
        Self { next: 0.into(), began: Instant::now() }
    }

    fn lets_through(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let quiet = u64::try_from(QUIET.as_millis()).unwrap_or(u64::MAX);
        let later = |next: u64| (next <= now).then(|| now.saturating_add(quiet));
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Ledger for Recorder {
    fn record(&self, record: UsageRecord) {
        Self::record(self, record);
    }
}

impl Recorder {
    /// A recorder, and the task that writes for it. The task ends after `end`: it then writes what is left, for a few
    /// seconds at most.
    pub fn start(
        store: Arc<dyn Store>,
        metrics: Metrics,
        touched: Touched,
        end: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            news: Notify::new(),
            error: ArcSwapOption::empty(),
            hurry: Notify::new(),
            metrics,
            losses: Quiet::new(),
            outages: Quiet::new(),
        });
        let writer = Writer {
            store,
            shared: shared.clone(),
            touched,
            end,
            used: HashMap::new(),
            batch: Vec::with_capacity(BATCH),
            flushes: Vec::new(),
        };
        (Self(shared), writer.run())
    }

    /// Takes a record to be written. Never waits: if too many wait already, the record is lost, counted and told of.
    pub fn record(&self, record: UsageRecord) {
        let shared = &self.0;
        let mut inbox = shared.inbox();
        if inbox.is_closed || inbox.waiting >= MOST_WAITING {
            drop(inbox);
            shared.lost(1);
            return;
        }
        inbox.waiting += 1;
        inbox.records.push_back(record);
        let is_news = matches!(inbox.records.len(), 1 | BATCH);
        drop(inbox);
        if is_news {
            shared.news.notify_one();
        }
    }

    /// Has everything written that was taken so far, and when keys were last used.
    ///
    /// # Errors
    /// It took longer than `patience`; so many records still wait.
    pub async fn flush(&self, patience: Duration) -> Result<(), usize> {
        let (done, flushed) = oneshot::channel();
        {
            let mut inbox = self.0.inbox();
            if !inbox.is_closed {
                inbox.flushes.push(done);
            }
        }
        self.0.news.notify_one();
        self.0.hurry.notify_one();
        if matches!(timeout(patience, flushed).await, Ok(Ok(()))) {
            return Ok(());
        }
        match self.state().waiting {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    }

    /// Whether the last try to write succeeded.
    pub fn is_well(&self) -> bool {
        self.0.error.load().is_none()
    }

    /// How it goes.
    pub fn state(&self) -> RecorderState {
        RecorderState {
            waiting: self.0.waiting(),
            error: self.0.error.load().as_ref().map(|error| String::clone(error)),
        }
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // A panic in between leaves it as it was.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a try to write went.
    fn note(&self, error: Option<&StoreError>) {
        let before = self.error.swap(error.map(|error| Arc::new(error.to_string())));
        self.show();
        match error {
            Some(error) if self.outages.lets_through() => {
                let waiting = self.waiting();
                tracing::error!(%error, waiting, "Usage cannot be written; it is kept, and tried again");
            }
            None if before.is_some() => tracing::info!("Usage is written again"),
            _ => {}
        }
    }

    fn waiting(&self) -> usize {
        self.inbox().waiting
    }

    fn no_longer_waiting(&self, count: usize) {
        self.inbox().waiting -= count;
        self.show();
    }

    /// Tells the metrics. By the writer, after each try: one figure for all would keep requests waiting for each other.
    fn show(&self) {
        self.metrics.usage_waiting.set(i64::try_from(self.waiting()).unwrap_or_default());
    }

    fn lost(&self, count: usize) {
        self.metrics.usage_dropped.inc_by(u64::try_from(count).unwrap_or_default());
        if self.losses.lets_through() {
            let lost = self.metrics.usage_dropped.get();
            tracing::error!(lost, "Usage is lost: more than can be kept waits for the database");
        }
    }
}

impl Writer {
    async fn run(mut self) {
        let mut touching = interval_at(Instant::now() + TOUCHING, TOUCHING);
        touching.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = self.end.clone();
        loop {
            tokio::select! {
                () = end.cancelled() => break,
                _ = touching.tick() => {
                    self.touch().await;
                    continue;
                }
                () = self.gather() => {}
            }
            tokio::select! {
                () = end.cancelled() => break,
                () = self.write_batch() => {}
            }
        }
        // What is said from now on is lost, and told so.
        self.shared.inbox().is_closed = true;
        if timeout(LAST_FLUSH, self.write_rest()).await.is_err() {
            let left = self.shared.waiting();
            self.shared.no_longer_waiting(left);
            self.shared.metrics.usage_dropped.inc_by(u64::try_from(left).unwrap_or_default());
            tracing::error!(left, "Usage is lost: the database is away at the end");
        }
    }

    /// Waits for records, and then a little for more. What was gathered stays when this is dropped.
    async fn gather(&mut self) {
        let mut until = None;
        loop {
            let (count, is_wanted) = {
                let inbox = self.shared.inbox();
                (inbox.records.len(), !inbox.flushes.is_empty())
            };
            if count >= BATCH || is_wanted || !self.batch.is_empty() {
                break;
            }
            match until {
                None if count == 0 => self.shared.news.notified().await,
                None => until = Some(Instant::now() + GATHERING),
                Some(until) if timeout_at(until, self.shared.news.notified()).await.is_err() => break,
                Some(_) => {}
            }
        }
        self.take();
    }

    /// Takes a batch out of the inbox, and with the last one those who wait for it.
    fn take(&mut self) {
        let mut inbox = self.shared.inbox();
        let room = BATCH.saturating_sub(self.batch.len()).min(inbox.records.len());
        self.batch.extend(inbox.records.drain(..room));
        if inbox.records.is_empty() {
            self.flushes.append(&mut inbox.flushes);
            // After an outage.
            inbox.records.shrink_to(2 * BATCH);
        }
    }

    /// Writes what was gathered, however often it has to be tried, and tells those who wait for it.
    async fn write_batch(&mut self) {
        let mut rest = FIRST_REST;
        while !self.batch.is_empty() {
            let written = self.store.record(&self.batch).await;
            self.shared.note(written.as_ref().err());
            if written.is_ok() {
                self.shared.metrics.usage_written.inc_by(u64::try_from(self.batch.len()).unwrap_or_default());
                self.shared.no_longer_waiting(self.batch.len());
                self.batch.clear();
            } else {
                tokio::select! {
                    () = sleep(rest) => rest = (rest * 2).min(LONGEST_REST),
                    () = self.shared.hurry.notified() => {}
                }
            }
        }
        if !self.flushes.is_empty() {
            self.touch().await;
            for done in self.flushes.drain(..) {
                // Who does not wait any more need not be told.
                let _ = done.send(());
            }
        }
    }

    async fn write_rest(&mut self) {
        loop {
            self.take();
            let is_last = self.shared.inbox().records.is_empty();
            self.write_batch().await;
            if is_last {
                break;
            }
        }
        self.touch().await;
    }

    /// Notes when keys were last used; what cannot be noted now, the next time.
    async fn touch(&mut self) {
        for (id, used_ms) in (self.touched)() {
            let known = self.used.entry(id).or_default();
            *known = (*known).max(used_ms);
        }
        if self.used.is_empty() {
            return;
        }
        let used: Vec<(String, i64)> = self.used.iter().map(|(id, used_ms)| (id.clone(), *used_ms)).collect();
        let noted = self.store.touch_keys(&used).await;
        self.shared.note(noted.as_ref().err());
        if noted.is_ok() {
            self.used.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_says_the_same_once_a_minute() {
        let quiet = Quiet::new();
        assert!(quiet.lets_through() && !quiet.lets_through());
        tokio::time::advance(QUIET / 2).await;
        assert!(!quiet.lets_through());
        tokio::time::advance(QUIET / 2).await;
        assert!(quiet.lets_through() && !quiet.lets_through());
    }
}
