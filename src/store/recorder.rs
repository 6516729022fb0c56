//! Takes what requests used off their way, and writes it in batches, whatever the database does meanwhile.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};
use crate::callers::{Ledger, UsageRecord};
use crate::telemetry::Metrics;

/// So many records wait at most; some hundred bytes each.
pub const MOST_WAITING: usize = 100_000;
/// So many are written at once.
const BATCH: usize = 500;
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
pub struct Recorder {
    inbox: UnboundedSender<Message>,
    shared: Arc<Shared>,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecorderState {
    /// Records that are not written yet.
    pub waiting: usize,
    /// Why the last try to write failed, if it did.
    pub error: Option<String>,
}

struct Shared {
    /// Records that are not written yet, those under way included. It bounds the inbox.
    waiting: AtomicUsize,
    error: ArcSwapOption<String>,
    /// Somebody does not want to wait.
    hurry: Notify,
    metrics: Metrics,
    losses: Quiet,
    outages: Quiet,
}

enum Message {
    Record(Box<UsageRecord>),
    /// Whoever waits for all that came before.
    Flush(oneshot::Sender<()>),
}

/// The task's own part.
struct Writer {
    store: Arc<dyn Store>,
    inbox: UnboundedReceiver<Message>,
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
        let (sender, inbox) = unbounded_channel();
        let shared = Arc::new(Shared {
            waiting: AtomicUsize::new(0),
            error: ArcSwapOption::empty(),
            hurry: Notify::new(),
            metrics,
            losses: Quiet::new(),
            outages: Quiet::new(),
        });
        let writer = Writer {
            store,
            inbox,
            shared: shared.clone(),
            touched,
            end,
            used: HashMap::new(),
            batch: Vec::with_capacity(BATCH),
            flushes: Vec::new(),
        };
        (Self { inbox: sender, shared }, writer.run())
    }

    /// Takes a record to be written. Never waits: if too many wait already, the record is lost, counted and told of.
    pub fn record(&self, record: UsageRecord) {
        let one_more = |waiting: usize| (waiting < MOST_WAITING).then_some(waiting + 1);
        let has_room =
            self.shared.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        if !has_room {
            self.shared.lost(1);
            return;
        }
        self.shared.metrics.usage_waiting.inc();
        if self.inbox.send(Message::Record(Box::new(record))).is_err() {
            // The task has ended: nobody will write it.
            self.shared.no_longer_waiting(1);
            self.shared.lost(1);
        }
    }

    /// Has everything written that was taken so far, and when keys were last used.
    ///
    /// # Errors
    /// It took longer than `patience`; so many records still wait.
    pub async fn flush(&self, patience: Duration) -> Result<(), usize> {
        let (done, flushed) = oneshot::channel();
        let is_sent = self.inbox.send(Message::Flush(done)).is_ok();
        self.shared.hurry.notify_one();
        if is_sent && matches!(timeout(patience, flushed).await, Ok(Ok(()))) {
            return Ok(());
        }
        match self.state().waiting {
            0 => Ok(()),
            waiting => Err(waiting),
        }
    }

    /// Whether the last try to write succeeded.
    pub fn is_well(&self) -> bool {
        self.shared.error.load().is_none()
    }

    /// How it goes.
    pub fn state(&self) -> RecorderState {
        RecorderState {
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            error: self.shared.error.load().as_ref().map(|error| String::clone(error)),
        }
    }
}

impl Shared {
    /// How a try to write went.
    fn note(&self, error: Option<&StoreError>) {
        let before = self.error.swap(error.map(|error| Arc::new(error.to_string())));
        match error {
            Some(error) if self.outages.lets_through() => {
                let waiting = self.waiting.load(Ordering::Relaxed);
                tracing::error!(%error, waiting, "Usage cannot be written; it is kept, and tried again");
            }
            None if before.is_some() => tracing::info!("Usage is written again"),
            _ => {}
        }
    }

    fn no_longer_waiting(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        self.metrics.usage_waiting.dec_by(i64::try_from(count).unwrap_or_default());
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
            let is_open = tokio::select! {
                () = end.cancelled() => break,
                _ = touching.tick() => {
                    self.touch().await;
                    continue;
                }
                is_open = self.gather() => is_open,
            };
            tokio::select! {
                () = end.cancelled() => break,
                () = self.write_batch() => {}
            }
            if !is_open {
                break;
            }
        }
        // What is said from now on is lost, and told so.
        self.inbox.close();
        if timeout(LAST_FLUSH, self.write_rest()).await.is_err() {
            let left = self.shared.waiting.load(Ordering::Relaxed);
            self.shared.no_longer_waiting(left);
            self.shared.metrics.usage_dropped.inc_by(u64::try_from(left).unwrap_or_default());
            tracing::error!(left, "Usage is lost: the database is away at the end");
        }
    }

    /// Waits for records, and then a little for more. `false` if there will be none any more. What was gathered stays when
    /// this is dropped.
    async fn gather(&mut self) -> bool {
        let mut until = None;
        while self.batch.len() < BATCH && self.flushes.is_empty() {
            let message = match until {
                None if self.batch.is_empty() => self.inbox.recv().await,
                None => {
                    until = Some(Instant::now() + GATHERING);
                    continue;
                }
                Some(until) => match timeout_at(until, self.inbox.recv()).await {
                    Ok(message) => message,
                    Err(_) => return true,
                },
            };
            match message {
                Some(Message::Record(record)) => self.batch.push(*record),
                Some(Message::Flush(done)) => self.flushes.push(done),
                None => return false,
            }
        }
        true
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
            let is_open = self.gather().await;
            self.write_batch().await;
            if !is_open {
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
