//! What is idle and may be used again, such as connections. Each thread keeps what it used last, which its processor still
//! has at hand, and no thread waits for another; where it has nothing, it takes what others do not seem to need.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::time::Instant;

/// Things that are idle, for a time at most.
#[derive(Debug)]
pub(super) struct Idle<T> {
    // Std mutexes: held for a push or a pop, never across an await. What was used last is on top, so that what lies
    // beneath grows old and goes.
    shelves: Box<[Mutex<Vec<Resting<T>>>]>,
    longest: Duration,
    /// On each shelf.
    most: usize,
    began: Instant,
    /// When somebody last looked through all shelves for what is old, in milliseconds since then.
    swept_ms: AtomicU64,
}

#[derive(Debug)]
struct Resting<T> {
    thing: T,
    since: Instant,
}

/// Between two looks through all shelves.
const SWEEPING_MS: u64 = 1000;

/// Who has not used something for so long has no need of it now. Threads that took from each other what they use all the
/// time would pass it on and on.
const SPARE: Duration = Duration::from_millis(100);

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

impl<T> Idle<T> {
    /// None yet. What is idle for longer is let go, and what is more than so many of a thread.
    pub(super) fn new(longest: Duration, most: usize) -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        // Threads that serve are as many as that; with others, that seldom ask, they are not to share.
        Self::of_threads(2 * threads, longest, most)
    }

    fn of_threads(threads: usize, longest: Duration, most: usize) -> Self {
        let shelves = (0..threads).map(|_| Mutex::default()).collect();
        Self { shelves, longest, most, began: Instant::now(), swept_ms: AtomicU64::new(0) }
    }

    /// Of this thread's own the one that was used last, if one can still be used; else one that another thread has had no
    /// use for in a while.
    pub(super) fn take(&self, mut can_be_used: impl FnMut(&mut T) -> bool) -> Option<T> {
        let mut shelves = self.nearest();
        // What is looked at has left the shelf: looking takes longer than a pop.
        let own = shelves.next().and_then(|own| {
            std::iter::from_fn(|| locked(own).pop())
                .find_map(|resting| self.usable(resting, &mut can_be_used))
        });
        own.or_else(|| {
            let now = Instant::now();
            shelves.find_map(|shelf| {
                std::iter::from_fn(|| spare(shelf, now))
                    .find_map(|resting| self.usable(resting, &mut can_be_used))
            })
        })
    }

    fn usable(&self, resting: Resting<T>, can_be_used: &mut impl FnMut(&mut T) -> bool) -> Option<T> {
        let Resting { mut thing, since } = resting;
        (since.elapsed() < self.longest && can_be_used(&mut thing)).then_some(thing)
    }

    /// Keeps one, and lets go of what has become old.
    pub(super) fn put(&self, thing: T) {
        let now = Instant::now();
        if let Some(nearest) = self.nearest().next() {
            let mut all = locked(nearest);
            if all.len() < self.most {
                all.push(Resting { thing, since: now });
            }
        }
        let now_ms = u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or_default();
        let is_time = |swept_ms: u64| (swept_ms + SWEEPING_MS <= now_ms).then_some(now_ms);
        if self.swept_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_time).is_ok() {
            self.sweep(now);
        }
    }

    fn sweep(&self, now: Instant) {
        let is_old = |resting: &&Resting<T>| now.duration_since(resting.since) >= self.longest;
        for shelf in &self.shelves {
            let old: Vec<Resting<T>> = {
                let mut all = locked(shelf);
                let old = all.iter().take_while(is_old).count();
                all.drain(..old).collect()
            };
            // Closing them is nothing to wait for with the shelf in hand.
            drop(old);
        }
    }

    /// The shelves, this thread's own first.
    fn nearest(&self) -> impl Iterator<Item = &Mutex<Vec<Resting<T>>>> {
        let own = THREAD.with(|thread| *thread).checked_rem(self.shelves.len()).unwrap_or_default();
        let (before, from) = self.shelves.split_at(own);
        from.iter().chain(before)
    }
}

/// The one that has rested longest, if that is long.
fn spare<T>(shelf: &Mutex<Vec<Resting<T>>>, now: Instant) -> Option<Resting<T>> {
    let mut all = locked(shelf);
    let is_spare = all.first().is_some_and(|oldest| now.duration_since(oldest.since) >= SPARE);
    is_spare.then(|| all.remove(0))
}

fn locked<T>(shelf: &Mutex<T>) -> MutexGuard<'_, T> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(4);

    fn any(_: &mut u32) -> bool {
        true
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_is_taken_first_and_old_ones_go() {
        let idle = Idle::of_threads(3, LONGEST, 30);
        idle.put(1);
        tokio::time::advance(LONGEST / 2).await;
        idle.put(2);
        idle.put(3);
        assert_eq!(idle.take(any), Some(3));
        assert_eq!(idle.take(|number| *number != 2), Some(1), "one that cannot be used is let go");
        assert_eq!(idle.take(any), None);
        idle.put(4);
        tokio::time::advance(LONGEST).await;
        assert_eq!(idle.take(any), None);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_never_more_than_so_many_and_no_old_ones_among_them() {
        let idle = Idle::of_threads(1, LONGEST, 2);
        (1..=3).for_each(|number| idle.put(number));
        assert_eq!((idle.take(any), idle.take(any), idle.take(any)), (Some(2), Some(1), None));
        idle.put(1);
        tokio::time::advance(LONGEST).await;
        idle.put(2);
        assert_eq!(idle.shelves[0].lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_other_threads_have_left_there_goes_when_it_is_old() {
        let idle = Idle::of_threads(4, LONGEST, 10);
        std::thread::scope(|scope| {
            let idle = &idle;
            for number in 0..4 {
                let lent = tokio::runtime::Handle::current();
                scope.spawn(move || drop((lent.enter(), idle.put(number)))).join().unwrap();
            }
        });
        tokio::time::advance(LONGEST).await;
        idle.put(9);
        let left: usize = idle.shelves.iter().map(|shelf| shelf.lock().unwrap().len()).sum();
        assert_eq!(left, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_thread_does_not_need_another_finds() {
        // More shelves than threads, so that none of them is this one's.
        let idle = Idle::of_threads(1000, LONGEST, 40);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (idle, lent) = (&idle, tokio::runtime::Handle::current());
                scope.spawn(move || drop((lent.enter(), idle.put(number)))).join().unwrap();
            }
        });
        assert_eq!(idle.take(any), None, "they may need it in a moment");
        tokio::time::advance(SPARE).await;
        let mut found: Vec<u32> = std::iter::from_fn(|| idle.take(any)).collect();
        found.sort_unstable();
        assert_eq!(found, (0..8).collect::<Vec<_>>());
    }
}
