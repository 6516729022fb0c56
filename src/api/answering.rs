//! Answers under way: the tasks of HTTP/2's streams, and whose turn it is in each of them.
//!
//! On HTTP/1.1 a caller who takes nothing shows on the socket. On HTTP/2 it does not: the socket goes on with its signs
//! of life while the window of one stream stays closed, and nobody asks the answer for more.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Busy;
use super::serve::Crew;

tokio::task_local! {
    static TURN: Arc<Turn>;
}

/// Whose turn it is: the caller's to take what was handed over, or ours to bring more.
#[derive(Debug)]
pub(super) struct Turn {
    began: Instant,
    /// When it became the caller's, in milliseconds since `began`, and one more; 0 if it is ours.
    callers_since: AtomicU64,
}

impl Turn {
    fn new() -> Self {
        Self { began: Instant::now(), callers_since: AtomicU64::new(0) }
    }

    /// That of the stream whose task runs this; none on HTTP/1.1.
    pub(super) fn of_stream() -> Option<Arc<Self>> {
        TURN.try_with(Arc::clone).ok()
    }

    fn is_ours(&self) {
        self.callers_since.store(0, Ordering::Relaxed);
    }

    fn is_callers(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.callers_since.store(now + 1, Ordering::Relaxed);
    }

    /// Comes back when the caller has not taken its turn for so long.
    async fn missed(&self, patience: Duration) {
        loop {
            let since = match self.callers_since.load(Ordering::Relaxed) {
                0 => Instant::now(),
                since => self.began + Duration::from_millis(since - 1),
            };
            let deadline = since + patience;
            if deadline <= Instant::now() {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// Runs the streams of one HTTP/2 connection, until it ends.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) crew: Crew,
    pub(super) tasks: TaskTracker,
    /// How long a caller may take nothing.
    pub(super) patience: Duration,
    /// The answers are asked to end.
    pub(super) kill: CancellationToken,
    pub(super) end: CancellationToken,
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (turn, Self { patience, kill, end, .. }) = (Arc::new(Turn::new()), self.clone());
        let of_stream = turn.clone();
        let running = async move {
            let mut stream = pin!(stream);
            tokio::select! {
                _ = stream.as_mut() => return,
                () = turn.missed(patience) => return,
                () = end.cancelled() => return,
                // Looked at once more, the answer says that it must end.
                () = kill.cancelled() => {}
            }
            tokio::select! {
                _ = stream => {}
                () = end.cancelled() => {}
            }
        };
        self.crew.spawn(&self.tasks, |place| async move {
            let _place = place;
            TURN.scope(of_stream, running).await;
        });
    }
}

/// An answer's body: the request is under way until it is gone.
pub(super) struct Tracked<B> {
    body: B,
    turn: Option<Arc<Turn>>,
    _busy: Busy,
}

impl<B> Tracked<B> {
    pub(super) fn new(body: B, turn: Option<Arc<Turn>>, busy: Busy) -> Self {
        if let Some(turn) = &turn {
            turn.is_callers();
        }
        Self { body, turn, _busy: busy }
    }
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(turn) = &self.turn {
            if frame.is_ready() { turn.is_callers() } else { turn.is_ours() }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_does_not_take_its_turn_is_given_up() {
        let turn = Turn::new();
        let started = Instant::now();
        turn.is_callers();
        turn.missed(PATIENCE).await;
        assert_eq!(started.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_all_the_time_it_takes() {
        let turn = Turn::new();
        turn.is_callers();
        tokio::time::advance(Duration::from_secs(70)).await;
        turn.is_ours();
        let missed = tokio::time::timeout(Duration::from_secs(1000), turn.missed(PATIENCE)).await;
        assert!(missed.is_err());
    }
}
