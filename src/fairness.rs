//! Fairness among tasks: no stream that always has more, and no large piece of work, keeps others of its thread waiting.
//!
//! A task runs until it has to wait. tokio gives each turn of a task a budget of 128 steps, which its sockets and timers
//! take from; when it is used up, they say that there is nothing, and the task continues after the others. What is already
//! in memory takes no step by itself, so each source of pieces counts its steps here: all loops above it then end with the
//! turn. Work that cannot be divided, such as reading a large document, leaves the serving threads instead.

use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;
use tokio::task::{coop, spawn_blocking};

/// This many bytes are one step, so that a turn is 128 KiB at most: one or two milliseconds of work.
const BYTES_PER_STEP: usize = 1024;
/// Work on fewer bytes than this takes less time than a change of threads is worth.
const SMALL_BYTES: usize = 64 * 1024;

/// Pending when the turn of this task is over. The task is woken at once, and continues after the others.
pub fn poll_turn(cx: &mut Context<'_>) -> Poll<()> {
    // Dropped, it gives the step back.
    coop::poll_proceed(cx).map(drop)
}

/// Counts a step of this task's turn, and one more for each KiB of a piece.
pub fn spend(bytes: usize) {
    // The task goes on with what it has: nothing is to be woken here.
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..=bytes / BYTES_PER_STEP {
        match coop::poll_proceed(&mut cx) {
            Poll::Ready(step) => step.made_progress(),
            Poll::Pending => return,
        }
    }
}

/// As many pieces of large work at once as there are processors: more would only take time from the serving threads.
static PLACES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, usize::from)));

/// Does work whose time grows with so many bytes: at once if that is short, on a thread of its own otherwise. `None` if the
/// work has panicked or the process ends. A caller who leaves takes back work that has not begun; what has begun ends by
/// itself, so the bytes must be bounded.
pub async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if bytes <= SMALL_BYTES {
        return Some(work());
    }
    let place = PLACES.acquire().await.ok()?;
    let working = spawn_blocking(move || {
        // Until the work has ended, whether or not the caller is still there.
        let _place = place;
        work()
    });
    working.await.ok()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "it ends with its test")]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::ready;
    use std::thread;

    use super::*;

    /// How many pieces of this size are taken in one turn.
    async fn in_one_turn(bytes: usize) -> usize {
        let taken = Arc::new(AtomicUsize::new(0));
        let of_task = taken.clone();
        let endless = tokio::spawn(poll_fn(move |cx| -> Poll<()> {
            loop {
                ready!(poll_turn(cx));
                of_task.fetch_add(1, Ordering::Relaxed);
                spend(bytes);
            }
        }));
        tokio::task::yield_now().await;
        endless.abort();
        taken.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_turn_is_so_many_pieces_or_so_many_bytes() {
        assert_eq!(in_one_turn(10).await, 128);
        assert_eq!(in_one_turn(BYTES_PER_STEP).await, 64);
        assert_eq!(in_one_turn(16 * 1024).await, 8);
        assert_eq!(in_one_turn(64 * 1024 * 1024).await, 1);
    }

    #[tokio::test]
    async fn others_run_between_the_turns() {
        let endless = poll_fn(|cx| -> Poll<()> {
            loop {
                ready!(poll_turn(cx));
                spend(1);
            }
        });
        let others = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = endless => unreachable!("it has no end"),
            () = others => {}
        }
    }

    #[tokio::test]
    async fn large_work_leaves_the_thread_and_small_work_stays() {
        let here = thread::current().id();
        let at = |bytes| aside(bytes, || thread::current().id());
        assert_eq!(at(SMALL_BYTES).await, Some(here));
        let there = at(SMALL_BYTES + 1).await;
        assert!(there.is_some() && there != Some(here));
    }

    #[tokio::test]
    async fn work_that_panics_leaves_its_place() {
        for _ in 0..100 {
            assert_eq!(aside(SMALL_BYTES + 1, || panic!("on purpose")).await, None::<()>);
        }
        assert_eq!(aside(SMALL_BYTES + 1, || 1).await, Some(1));
    }
}
