//! The threads that serve connections: one for each processor, with a runtime of its own.
//!
//! A connection stays with its thread, and so does what is done for it and its connection to a server near by: an answer
//! wakes the thread that is to pass it on, and no other. A runtime that moves work between threads wakes one of them to look
//! for work each time there is some, which was a fifth of what a small answer costs. What a thread cannot do is to help
//! another that has more to do: so each new connection goes where the fewest requests are under way, and what takes long, or
//! what all threads share, is for the runtime that the service was started on, which moves work.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, available_parallelism};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// After so many polls of tasks a thread looks at its sockets and timers. Tasks that always have more to do take a turn each
/// time, so tokio's 61 would keep new requests waiting for as many turns.
const EVENT_INTERVAL: u32 = 16;

/// The threads. They end with this, and so does what still runs on them.
#[derive(Debug)]
pub struct Workers {
    all: Arc<[Worker]>,
    // Before the threads are waited for.
    end: Option<DropGuard>,
    threads: Vec<JoinHandle<()>>,
}

/// Where work can be given to.
#[derive(Clone, Debug)]
pub(in crate::api) struct Crew {
    all: Arc<[Worker]>,
    /// The runtime that the service was started on.
    main: Handle,
}

/// What a thread has to do. No two of them share a line of a processor's cache.
#[derive(Debug)]
#[repr(align(128))]
struct Worker {
    runtime: Handle,
    /// Connections, and streams of some, that were given to it and have not ended.
    tasks: AtomicUsize,
    /// Requests under way on its connections.
    requests: AtomicUsize,
}

/// A task's place at a worker, until it is dropped.
#[derive(Debug)]
pub(in crate::api) struct Place {
    all: Arc<[Worker]>,
    index: usize,
}

/// A worker takes some files to begin with. This many it is to have for callers, too.
const FILES_EACH: u64 = 64;

impl Workers {
    /// As many as there are processors for this process, and fewer where that would leave no files for callers, of which the
    /// process may have so many open.
    ///
    /// # Errors
    /// The system gives no threads, or no means to wait for sockets.
    pub fn start(files: u64) -> io::Result<Self> {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::start_some(count(processors, files))
    }

    fn start_some(count: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let (mut all, mut threads) = (Vec::new(), Vec::new());
        // From here on a failure ends those that have started.
        let guard = end.clone().drop_guard();
        for number in 0..count {
            let runtime =
                Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_all().build()?;
            all.push(Worker {
                runtime: runtime.handle().clone(),
                tasks: AtomicUsize::new(0),
                requests: AtomicUsize::new(0),
            });
            let end = end.clone();
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            threads.push(thread.spawn(move || {
                runtime.block_on(end.cancelled());
                // Nobody waits for a name that is still looked up.
                runtime.shutdown_background();
            })?);
        }
        Ok(Self { all: all.into(), end: Some(guard), threads })
    }

    /// To be asked for on the runtime that the service was started on.
    pub(super) fn crew(&self) -> Crew {
        Crew { all: self.all.clone(), main: Handle::current() }
    }
}

fn count(processors: usize, files: u64) -> usize {
    let most = usize::try_from(files / FILES_EACH).unwrap_or(usize::MAX);
    processors.min(most).max(1)
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end = None;
        for thread in self.threads.drain(..) {
            // One that has panicked has ended, too.
            let _ = thread.join();
        }
    }
}

impl Crew {
    /// The runtime for what takes long.
    pub(super) fn main(&self) -> &Handle {
        &self.main
    }

    /// Runs a task where the fewest requests are under way, and of as many, where the fewest tasks are.
    pub(in crate::api) fn spawn<F>(&self, tracker: &TaskTracker, task: impl FnOnce(Place) -> F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let workload =
            |worker: &Worker| (worker.requests.load(Ordering::Relaxed), worker.tasks.load(Ordering::Relaxed));
        let least = self.all.iter().enumerate().min_by_key(|(_, worker)| workload(worker));
        let Some((index, worker)) = least else { return };
        worker.tasks.fetch_add(1, Ordering::Relaxed);
        let place = Place { all: self.all.clone(), index };
        tracker.spawn_on(task(place), &worker.runtime);
    }
}

impl Place {
    /// A request is under way here.
    pub(in crate::api) fn begin(&self) {
        if let Some(worker) = self.all.get(self.index) {
            worker.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One that was [`Place::begin`]'s has ended.
    pub(in crate::api) fn end(&self) {
        if let Some(worker) = self.all.get(self.index) {
            worker.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(worker) = self.all.get(self.index) {
            worker.tasks.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A task that tells on which thread it runs, and ends when what is returned with that is dropped.
    async fn hold(crew: &Crew, tracker: &TaskTracker) -> (String, oneshot::Sender<()>) {
        let (tell, told) = oneshot::channel();
        let (hold, ended) = oneshot::channel::<()>();
        crew.spawn(tracker, |place| async move {
            let _place = place;
            let _ = tell.send(thread::current().name().unwrap_or_default().to_owned());
            let _ = ended.await;
        });
        (timeout(LONG, told).await.unwrap().unwrap(), hold)
    }

    #[tokio::test]
    async fn each_new_task_goes_where_the_fewest_are() {
        let workers = Workers::start_some(3).unwrap();
        let (crew, tracker) = (workers.crew(), TaskTracker::new());
        let (mut names, mut holds) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let (name, hold) = hold(&crew, &tracker).await;
            names.push(name);
            holds.push(hold);
        }
        assert_eq!(names, ["worker-0", "worker-1", "worker-2", "worker-0", "worker-1", "worker-2"]);
        // Both of the second one's end.
        drop((holds.remove(4), holds.remove(1)));
        timeout(LONG, async {
            while tracker.len() > 4 || crew.all[1].tasks.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        let (next, _one) = hold(&crew, &tracker).await;
        let (after, _two) = hold(&crew, &tracker).await;
        assert_eq!([next, after], ["worker-1", "worker-1"]);
    }

    #[tokio::test]
    async fn requests_under_way_count_before_all_others() {
        let workers = Workers::start_some(2).unwrap();
        let (crew, tracker) = (workers.crew(), TaskTracker::new());
        let (sent, mut places) = tokio::sync::mpsc::unbounded_channel();
        let mut next = async || {
            let sent = sent.clone();
            crew.spawn(&tracker, |place| async move { sent.send(place).unwrap() });
            places.recv().await.unwrap()
        };
        let busy = next().await;
        busy.begin();
        let idle = [next().await, next().await, next().await];
        assert_eq!((busy.index, [1; 3]), (0, idle.each_ref().map(|place| place.index)));
        busy.end();
        assert_eq!(next().await.index, 0);
    }

    #[test]
    fn there_are_as_many_as_processors_unless_files_are_few() {
        for (processors, files, expected) in
            [(2, 1024, 2), (64, 1 << 20, 64), (256, 1024, 16), (8, 3, 1), (0, u64::MAX, 1)]
        {
            assert_eq!(count(processors, files), expected, "{processors} {files}");
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_takes_nobody_with_it() {
        let workers = Workers::start_some(1).unwrap();
        let (crew, tracker) = (workers.crew(), TaskTracker::new());
        let (_, held) = hold(&crew, &tracker).await;
        crew.spawn(&tracker, |place| async move {
            let _place = place;
            panic!("on purpose")
        });
        let (name, _hold) = hold(&crew, &tracker).await;
        assert_eq!(name, "worker-0");
        assert!(!held.is_closed(), "what ran beside it goes on");
        assert_eq!(crew.all[0].tasks.load(Ordering::Relaxed), 2, "it is counted no longer");
    }

    #[tokio::test]
    async fn what_still_runs_ends_with_the_threads() {
        struct Told(Arc<AtomicBool>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let workers = Workers::start_some(2).unwrap();
        let (crew, tracker) = (workers.crew(), TaskTracker::new());
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Told(is_over.clone());
        crew.spawn(&tracker, |place| async move {
            let (_place, _told) = (place, told);
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert!(is_over.load(Ordering::Acquire));
        tracker.close();
        timeout(LONG, tracker.wait()).await.unwrap();
    }
}
